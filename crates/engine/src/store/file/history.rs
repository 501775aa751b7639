//! The file of a workspace's transitions.

use super::lines::{self, FileEnd, NewLines, Reader};
use crate::store::{HistoryPart, HistoryPlace, MAX_HISTORY_TRANSITIONS, PartTransition};
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use workspace_status::{Epoch, State, WorkspaceId};

/// Name of the file.
pub(super) const FILE: &str = "history.jsonl";

/// The file is rewritten when it holds this many lines more than are kept.
const EXCESS_LINES: u64 = 2_500;

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Line<'a> {
    epoch: u64,
    /// Lines of earlier versions have none.
    #[serde(default)]
    begun_ms: u64,
    sequence: u64,
    owner: Cow<'a, str>,
    from_state: State,
    to_state: State,
    at_ms: u64,
    time_in_from_us: u64,
    message: Cow<'a, str>,
}

/// The end of the file, and the place of the last transition in it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Tail {
    end: FileEnd,
    last: Option<HistoryPlace>,
}

impl Tail {
    pub(super) fn newest_epoch(&self) -> Option<Epoch> {
        self.last.map(|last| last.epoch)
    }
}

/// Each transition as a part of its own.
pub(super) type History = BTreeMap<HistoryPlace, HistoryPart>;

/// Reads the newest [`MAX_HISTORY_TRANSITIONS`] transitions, oldest first.
pub(super) fn read(path: &Path, id: &WorkspaceId) -> io::Result<(Tail, History)> {
    let bytes = lines::read(path)?;
    let mut reader = Reader::new(&bytes);
    let mut history = History::new();
    while let Some(line) = reader.parse::<Line<'_>>()? {
        let part = line.part(id);
        history.entry(part.place()).or_insert(part);
        if history.len() > MAX_HISTORY_TRANSITIONS {
            history.pop_first();
        }
    }
    Ok((tail(reader.end, &history), history))
}

/// Adds transitions behind `tail`. If they are out of order or the file has too many lines, it is rewritten with the
/// newest.
pub(super) fn append(
    path: &Path,
    id: &WorkspaceId,
    tail_before: Tail,
    parts: &[&HistoryPart],
) -> io::Result<Tail> {
    let mut tail = tail_before;
    let mut draft = NewLines::after(tail.end);
    for (part, transition) in transitions(parts) {
        let place = Some(place(part, transition));
        if tail.last >= place {
            return rewrite(path, id, parts);
        }
        draft.push(&Line::of(part, transition))?;
        tail.last = place;
    }
    if draft.end.lines > crate::store::count(MAX_HISTORY_TRANSITIONS) + EXCESS_LINES {
        return rewrite(path, id, parts);
    }
    tail.end = draft.append(path)?;
    Ok(tail)
}

fn rewrite(path: &Path, id: &WorkspaceId, parts: &[&HistoryPart]) -> io::Result<Tail> {
    let (_, mut history) = read(path, id)?;
    for (part, transition) in transitions(parts) {
        history.insert(place(part, transition), single(part, transition.clone()));
    }
    while history.len() > MAX_HISTORY_TRANSITIONS {
        history.pop_first();
    }
    let mut draft = NewLines::after(FileEnd::START);
    let kept: Vec<_> = history.values().collect();
    for (part, transition) in transitions(&kept) {
        draft.push(&Line::of(part, transition))?;
    }
    Ok(tail(draft.replace(path)?, &history))
}

fn transitions<'a>(
    parts: &[&'a HistoryPart],
) -> impl Iterator<Item = (&'a HistoryPart, &'a PartTransition)> {
    let each = |part: &&'a HistoryPart| {
        let part = *part;
        part.transitions
            .iter()
            .map(move |transition| (part, transition))
    };
    parts.iter().flat_map(each)
}

fn place(part: &HistoryPart, transition: &PartTransition) -> HistoryPlace {
    HistoryPlace {
        sequence: transition.sequence,
        ..part.place()
    }
}

fn single(part: &HistoryPart, transition: PartTransition) -> HistoryPart {
    HistoryPart {
        id: part.id.clone(),
        epoch: part.epoch,
        begun_ms: part.begun_ms,
        owner: part.owner.clone(),
        transitions: vec![transition],
    }
}

fn tail(end: FileEnd, history: &History) -> Tail {
    let last = history.last_key_value().map(|(place, _)| *place);
    Tail { end, last }
}

impl<'a> Line<'a> {
    fn of(part: &'a HistoryPart, transition: &'a PartTransition) -> Self {
        Self {
            epoch: part.epoch.get(),
            begun_ms: part.begun_ms,
            sequence: transition.sequence,
            owner: Cow::Borrowed(&part.owner),
            from_state: transition.from,
            to_state: transition.to,
            at_ms: transition.at_ms,
            time_in_from_us: transition.time_in_from_us,
            message: Cow::Borrowed(&transition.message),
        }
    }

    fn part(self, id: &WorkspaceId) -> HistoryPart {
        HistoryPart {
            id: id.clone(),
            epoch: Epoch::new(self.epoch),
            begun_ms: self.begun_ms,
            owner: self.owner.into_owned(),
            transitions: vec![PartTransition {
                sequence: self.sequence,
                from: self.from_state,
                to: self.to_state,
                at_ms: self.at_ms,
                time_in_from_us: self.time_in_from_us,
                message: self.message.into_owned(),
            }],
        }
    }
}
