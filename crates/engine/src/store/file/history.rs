//! The file of a workspace's transitions.

use super::entries::ReadFailure;
use super::lines::{self, BrokenLine, Chain, Draft, Reader};
use crate::store::epoch_numbering::EpochNumbering;
use crate::store::{HistoryCursor, HistoryRecord, MAX_HISTORY_TRANSITIONS};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::Path;
use workspace_status::{Epoch, State, WorkspaceId};

/// Name of the file.
pub(super) const FILE: &str = "history.jsonl";

/// The file is rewritten when it holds this many lines more than are kept.
const EXCESS_LINES: u64 = 2_500;

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Line {
    epoch: u64,
    sequence: u64,
    owner: String,
    from_state: State,
    to_state: State,
    at_ms: u64,
    time_in_from_us: u64,
    message: String,
}

/// The end of the file.
#[derive(Debug, Clone, Copy)]
pub(super) struct End {
    bytes: u64,
    lines: u64,
    chain: Chain,
    newest: Option<HistoryCursor>,
}

pub(super) type History = BTreeMap<HistoryCursor, HistoryRecord>;

/// Reads the newest [`MAX_HISTORY_TRANSITIONS`] transitions, oldest first.
pub(super) fn read(path: &Path, id: &WorkspaceId) -> Result<(End, History), ReadFailure> {
    let bytes = lines::read(path)?;
    let mut reader = Reader::new(&bytes);
    let mut history = History::new();
    while let Some(line) = reader.line().map_err(ReadFailure::Broken)? {
        let broken = |error: serde_json::Error| {
            ReadFailure::Broken(BrokenLine {
                line: reader.lines,
                reason: error.to_string(),
            })
        };
        let line: Line = serde_json::from_str(line).map_err(broken)?;
        let record = line.record(id);
        history
            .entry((record.epoch, record.sequence))
            .or_insert(record);
        if history.len() > MAX_HISTORY_TRANSITIONS {
            history.pop_first();
        }
    }
    let newest = history.last_key_value().map(|(cursor, _)| *cursor);
    let end = End {
        bytes: reader.read_bytes,
        lines: reader.lines,
        chain: reader.chain,
        newest,
    };
    Ok((end, history))
}

/// The epoch of the last transition.
pub(super) fn newest_epoch(path: &Path, id: &WorkspaceId) -> Result<Option<Epoch>, ReadFailure> {
    let (end, _) = read(path, id)?;
    Ok(end.newest.map(|(epoch, _)| epoch))
}

/// Adds transitions that are not stored yet, and returns the new end of the file.
pub(super) fn append(
    path: &Path,
    id: &WorkspaceId,
    end: Option<End>,
    epoch_numbering: &mut EpochNumbering,
    mut records: Vec<HistoryRecord>,
) -> Result<End, ReadFailure> {
    let end = match end {
        Some(end) => end,
        None => read(path, id)?.0,
    };
    for record in &mut records {
        let last_of = |epoch| last_of(path, id, &end, epoch);
        record.sequence = epoch_numbering.number(record, last_of)?;
    }
    let in_order = records
        .iter()
        .try_fold(end.newest, |newest, record| {
            let cursor = (record.epoch, record.sequence);
            newest
                .is_none_or(|newest| newest < cursor)
                .then_some(Some(cursor))
        })
        .is_some();
    if !in_order || end.lines + count(records.len()) > count(MAX_HISTORY_TRANSITIONS) + EXCESS_LINES
    {
        return rewrite(path, id, records);
    }
    let mut draft = Draft::after(end.chain);
    let mut newest = end.newest;
    for record in &records {
        draft.push(&Line::of(record))?;
        newest = Some((record.epoch, record.sequence));
    }
    lines::append(path, end.bytes, &draft.bytes)?;
    Ok(End {
        bytes: end.bytes + count(draft.bytes.len()),
        lines: end.lines + draft.lines,
        chain: draft.chain,
        newest,
    })
}

/// Number of the last stored transition of an epoch.
fn last_of(path: &Path, id: &WorkspaceId, end: &End, epoch: Epoch) -> Result<u64, ReadFailure> {
    match end.newest {
        Some((newest, sequence)) if newest == epoch => Ok(sequence),
        Some((newest, _)) if newest > epoch => {
            let (_, history) = read(path, id)?;
            let last = history.range((epoch, 0)..=(epoch, u64::MAX)).next_back();
            Ok(last.map_or(0, |((_, sequence), _)| *sequence))
        }
        Some(_) | None => Ok(0),
    }
}

/// Merges transitions into a new file, if they are out of order or the file has too many lines.
fn rewrite(path: &Path, id: &WorkspaceId, records: Vec<HistoryRecord>) -> Result<End, ReadFailure> {
    let (_, mut history) = read(path, id)?;
    for record in records {
        history
            .entry((record.epoch, record.sequence))
            .or_insert(record);
    }
    while history.len() > MAX_HISTORY_TRANSITIONS {
        history.pop_first();
    }
    let mut draft = Draft::after(Chain::START);
    for record in history.values() {
        draft.push(&Line::of(record))?;
    }
    lines::replace(path, &draft.bytes)?;
    let newest = history.last_key_value().map(|(cursor, _)| *cursor);
    Ok(End {
        bytes: count(draft.bytes.len()),
        lines: draft.lines,
        chain: draft.chain,
        newest,
    })
}

fn count(length: usize) -> u64 {
    crate::store::count(length)
}

impl Line {
    fn of(record: &HistoryRecord) -> Self {
        Self {
            epoch: record.epoch.get(),
            sequence: record.sequence,
            owner: record.owner.clone(),
            from_state: record.from,
            to_state: record.to,
            at_ms: record.at_ms,
            time_in_from_us: record.time_in_from_us,
            message: record.message.clone(),
        }
    }

    fn record(self, id: &WorkspaceId) -> HistoryRecord {
        HistoryRecord {
            id: id.clone(),
            sequence: self.sequence,
            epoch: Epoch::new(self.epoch),
            owner: self.owner,
            from: self.from_state,
            to: self.to_state,
            at_ms: self.at_ms,
            time_in_from_us: self.time_in_from_us,
            message: self.message,
        }
    }
}
