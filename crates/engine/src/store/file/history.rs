//! The file of a workspace's transitions.

use super::lines::{self, FileEnd, NewLines, Reader};
use crate::store::{
    HistoryPart, HistoryPlace, HistoryRecord, MAX_HISTORY_TRANSITIONS, StoredTransition,
};
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

/// Each transition with the place of a part that begins with it.
pub(super) type History = BTreeMap<HistoryPlace, HistoryRecord>;

/// Reads the newest [`MAX_HISTORY_TRANSITIONS`] transitions, oldest first.
pub(super) fn read(path: &Path, id: &WorkspaceId) -> io::Result<(Tail, History)> {
    let bytes = lines::read(path)?;
    let mut reader = Reader::new(&bytes);
    let mut history = History::new();
    while let Some(line) = reader.parse::<Line<'_>>()? {
        let record = line.record(id);
        history.entry(record.place()).or_insert(record);
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
    for record in records(parts) {
        let place = Some(record.place());
        if tail.last >= place {
            return rewrite(path, id, parts);
        }
        draft.push(&Line::of(&record))?;
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
    history.extend(records(parts).map(|record| (record.place(), record)));
    while history.len() > MAX_HISTORY_TRANSITIONS {
        history.pop_first();
    }
    let mut draft = NewLines::after(FileEnd::START);
    for record in history.values() {
        draft.push(&Line::of(record))?;
    }
    Ok(tail(draft.replace(path)?, &history))
}

fn records(parts: &[&HistoryPart]) -> impl Iterator<Item = HistoryRecord> {
    parts.iter().flat_map(|part| (*part).clone().records())
}

fn tail(end: FileEnd, history: &History) -> Tail {
    let last = history.last_key_value().map(|(place, _)| *place);
    Tail { end, last }
}

impl<'a> Line<'a> {
    fn of(record: &'a HistoryRecord) -> Self {
        let transition = &record.transition;
        Self {
            epoch: record.epoch.get(),
            begun_ms: record.begun_ms,
            sequence: transition.sequence,
            owner: Cow::Borrowed(&record.owner),
            from_state: transition.from,
            to_state: transition.to,
            at_ms: transition.at_ms,
            time_in_from_us: transition.time_in_from_us,
            message: Cow::Borrowed(&transition.message),
        }
    }

    fn record(self, id: &WorkspaceId) -> HistoryRecord {
        HistoryRecord {
            id: id.clone(),
            epoch: Epoch::new(self.epoch),
            begun_ms: self.begun_ms,
            owner: self.owner.into_owned(),
            transition: StoredTransition {
                sequence: self.sequence,
                from: self.from_state,
                to: self.to_state,
                at_ms: self.at_ms,
                time_in_from_us: self.time_in_from_us,
                message: self.message.into_owned(),
            },
        }
    }
}
