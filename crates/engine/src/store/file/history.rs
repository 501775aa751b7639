//! The file of a workspace's transitions.

use super::lines::{self, End, NewLines, Reader};
use crate::store::{HistoryCursor, HistoryRecord, MAX_HISTORY_TRANSITIONS};
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
    sequence: u64,
    owner: Cow<'a, str>,
    from_state: State,
    to_state: State,
    at_ms: u64,
    time_in_from_us: u64,
    message: Cow<'a, str>,
}

/// The end of the file, and the last transition in it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Tail {
    end: End,
    pub(super) last: Option<HistoryCursor>,
}

pub(super) type History = BTreeMap<HistoryCursor, HistoryRecord>;

/// Reads the newest [`MAX_HISTORY_TRANSITIONS`] transitions, oldest first.
pub(super) fn read(path: &Path, id: &WorkspaceId) -> io::Result<(Tail, History)> {
    let bytes = lines::read(path)?;
    let mut reader = Reader::new(&bytes);
    let mut history = History::new();
    while let Some(line) = reader.parse::<Line<'_>>()? {
        let record = line.record(id);
        history
            .entry((record.epoch, record.sequence))
            .or_insert(record);
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
    records: &[&HistoryRecord],
) -> io::Result<Tail> {
    let mut tail = tail_before;
    let mut draft = NewLines::after(tail.end);
    for record in records {
        let cursor = Some((record.epoch, record.sequence));
        if tail.last >= cursor {
            return rewrite(path, id, records);
        }
        draft.push(&Line::of(record))?;
        tail.last = cursor;
    }
    if draft.end.lines > crate::store::count(MAX_HISTORY_TRANSITIONS) + EXCESS_LINES {
        return rewrite(path, id, records);
    }
    tail.end = draft.append(path)?;
    Ok(tail)
}

fn rewrite(path: &Path, id: &WorkspaceId, records: &[&HistoryRecord]) -> io::Result<Tail> {
    let (_, mut history) = read(path, id)?;
    for record in records {
        history.insert((record.epoch, record.sequence), (*record).clone());
    }
    while history.len() > MAX_HISTORY_TRANSITIONS {
        history.pop_first();
    }
    let mut draft = NewLines::after(End::START);
    for record in history.values() {
        draft.push(&Line::of(record))?;
    }
    Ok(tail(draft.replace(path)?, &history))
}

fn tail(end: End, history: &History) -> Tail {
    let last = history.last_key_value().map(|(cursor, _)| *cursor);
    Tail { end, last }
}

impl<'a> Line<'a> {
    fn of(record: &'a HistoryRecord) -> Self {
        Self {
            epoch: record.epoch.get(),
            sequence: record.sequence,
            owner: Cow::Borrowed(&record.owner),
            from_state: record.from,
            to_state: record.to,
            at_ms: record.at_ms,
            time_in_from_us: record.time_in_from_us,
            message: Cow::Borrowed(&record.message),
        }
    }

    fn record(self, id: &WorkspaceId) -> HistoryRecord {
        HistoryRecord {
            id: id.clone(),
            sequence: self.sequence,
            epoch: Epoch::new(self.epoch),
            owner: self.owner.into_owned(),
            from: self.from_state,
            to: self.to_state,
            at_ms: self.at_ms,
            time_in_from_us: self.time_in_from_us,
            message: self.message.into_owned(),
        }
    }
}
