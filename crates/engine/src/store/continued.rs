//! Numbers of transitions in an epoch that is used again.
//!
//! A claim is not synced, and the first transitions of a load are written before it. So after a crash
//! the history may hold transitions of an epoch that the store does not know of, and the next load
//! begins that epoch anew. Its transitions are numbered behind those of before: none is taken for another.

use super::HistoryRecord;
use workspace_status::Epoch;

/// The newest epoch of a workspace whose transitions were written since the store was opened,
/// and the number of its last transition before that.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Continued {
    epoch: Epoch,
    last_before: u64,
}

/// The number under which a transition is kept. `last_of` tells the number of the last transition of an
/// epoch that is stored, 0 where there is none; it is asked once an epoch.
///
/// What comes of an older epoch than the newest is late and was written before, so its number is its own.
pub(super) fn number<E>(
    continued: &mut Option<Continued>,
    record: &HistoryRecord,
    last_of: impl FnOnce(Epoch) -> Result<u64, E>,
) -> Result<u64, E> {
    let last_before = match continued {
        Some(known) if known.epoch == record.epoch => known.last_before,
        Some(known) if known.epoch > record.epoch => 0,
        Some(_) | None => {
            let last_before = last_of(record.epoch)?;
            *continued = Some(Continued {
                epoch: record.epoch,
                last_before,
            });
            last_before
        }
    };
    Ok(record.sequence.saturating_add(last_before))
}
