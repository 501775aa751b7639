//! The memory of a status and its last transitions, packed into 16 bytes each.
//!
//! A million workspaces hold twenty million transitions, so facts that follow from a
//! neighbour are not stored: a transition leaves the state that the previous one entered,
//! and its wall time is computed backwards from the newest. Transitions that do not fit into
//! 16 bytes (a stay of more than 19 hours, a wall clock that was set, an epoch that jumped)
//! have their full numbers in a separate list.

use std::sync::Arc;
use std::time::Duration;

use crate::clock::{Moment, WallNanos};
use crate::error::ErrorInfo;
use crate::id::{Epoch, Revision, WorkspaceId};
use crate::message::Message;
use crate::metadata::Metadata;
use crate::state::State;
use crate::transition::Transition;

/// Number of transitions that a status keeps.
pub const HISTORY_CAPACITY: usize = 20;

/// All of a status except its progress. Clones share it; the next change of a shared one
/// works on a copy. Head and records are in one allocation, which grows with the history.
#[derive(Clone)]
pub(crate) struct Core(Arc<Memory>);

struct Memory<R: ?Sized = [Record]> {
    head: Head,
    records: R,
}

#[derive(Clone)]
pub(crate) struct Head {
    /// A second copy of the id, for snapshots.
    pub(crate) id: WorkspaceId,
    pub(crate) epoch: Epoch,
    pub(crate) revision: Revision,
    /// Number of all transitions ever, which is the sequence of the newest.
    pub(crate) sequence: u64,
    pub(crate) updated: WallNanos,
    pub(crate) entered: Moment,
    pub(crate) message: Message,
    pub(crate) metadata: Metadata,
    rare: Option<Box<Rare>>,
    /// The state that the oldest kept transition left.
    oldest_from: State,
    pub(crate) state: State,
}

/// Parts that few statuses have.
#[derive(Clone, Default)]
struct Rare {
    error: Option<ErrorInfo>,
    /// The epoch of the newest transition, if the epoch has changed since without a transition.
    newest_epoch: Option<Epoch>,
    /// Oldest first, at most one per record.
    wide: Vec<Wide>,
}

#[derive(Clone)]
struct Wide {
    sequence: u64,
    stay_micros: u64,
    /// When the state that was left was entered.
    wall_before: WallNanos,
    /// The epoch of the transition before.
    epoch_before: Epoch,
}

/// A transition: its message, and in `bits` from the lowest: 4 bits the state entered, 36
/// bits the stay in µs, 24 bits the drift: by how many ns the wall clock moved more than the stay.
#[derive(Clone, Default)]
pub(crate) struct Record {
    message: Message,
    bits: u64,
}

const STATE_BITS: u32 = 4;
const STAY_BITS: u32 = 36;
const DRIFT_BITS: u32 = 24;
/// Value of the drift that marks a record whose numbers are in its [`Wide`].
const SEE_WIDE: i64 = -(1 << (DRIFT_BITS - 1));

impl Record {
    fn new(to: State, stay_micros: u64, drift_nanos: Option<i64>, message: Message) -> Self {
        let drift = drift_nanos.unwrap_or(SEE_WIDE);
        let stay = if drift_nanos.is_some() {
            stay_micros
        } else {
            0
        };
        Self {
            message,
            bits: to as u64
                | stay << STATE_BITS
                | drift.cast_unsigned() << (STATE_BITS + STAY_BITS),
        }
    }

    fn to(&self) -> State {
        State::from_index((self.bits & ((1 << STATE_BITS) - 1)) as u8)
    }

    fn stay_micros(&self) -> u64 {
        self.bits >> STATE_BITS & ((1 << STAY_BITS) - 1)
    }

    #[inline]
    fn drift_nanos(&self) -> i64 {
        self.bits.cast_signed() >> (STATE_BITS + STAY_BITS)
    }

    /// When the state that was left was entered, if it was left at `wall`.
    fn wall_before(&self, wall: WallNanos) -> WallNanos {
        let moved = (self.stay_micros() * 1000).cast_signed() + self.drift_nanos();
        WallNanos(wall.0.wrapping_sub(moved.cast_unsigned()))
    }
}

/// The epoch before a transition that changed the epoch as usual.
#[inline]
fn usual_epoch_before(epoch: Epoch, to: State) -> Epoch {
    if to == State::Initializing {
        Epoch::new(epoch.get().saturating_sub(1))
    } else {
        epoch
    }
}

/// By how much the wall clock moved more than `stay_micros`; `None` if that does not fit a record.
#[inline]
fn drift_nanos(before: WallNanos, after: WallNanos, stay_micros: u64) -> Option<i64> {
    if stay_micros >> STAY_BITS != 0 {
        return None;
    }
    let moved = i128::from(after.0) - i128::from(before.0);
    let drift = i64::try_from(moved - i128::from(stay_micros) * 1000).ok()?;
    (SEE_WIDE < drift && drift < -SEE_WIDE).then_some(drift)
}

impl Core {
    pub(crate) fn new(id: WorkspaceId, message: Message, now: Moment) -> Core {
        let head = Head {
            id,
            epoch: Epoch::FIRST,
            revision: Revision::default(),
            sequence: 0,
            updated: now.wall,
            entered: now,
            message,
            metadata: Metadata::default(),
            rare: None,
            oldest_from: State::Initializing,
            state: State::Initializing,
        };
        Core(Arc::new(Memory { head, records: [] }))
    }

    #[inline]
    pub(crate) fn head(&self) -> &Head {
        &self.0.head
    }

    /// The head for a change, in a copy if a snapshot shares it.
    #[inline]
    pub(crate) fn edit(&mut self) -> &mut Head {
        &mut self.memory(0).head
    }

    /// Enters another state, in a copy if a snapshot shares it.
    #[inline]
    pub(crate) fn push(
        &mut self,
        to: State,
        epoch: Epoch,
        message: Message,
        now: Moment,
    ) -> &mut Head {
        let room = (self.head().len() + 1).min(HISTORY_CAPACITY);
        let Memory { head, records } = self.memory(room);
        if head.len() == HISTORY_CAPACITY {
            head.forget_oldest(records);
        }
        head.sequence += 1;
        let stay_nanos = now
            .monotonic_nanos
            .saturating_sub(head.entered.monotonic_nanos);
        let stay_micros = stay_nanos / 1000;
        let epoch_before = head.newest_epoch();
        let usual = epoch_before == usual_epoch_before(epoch, to);
        let drift = drift_nanos(head.entered.wall, now.wall, stay_micros).filter(|_| usual);
        if drift.is_none() {
            head.rare.get_or_insert_default().wide.push(Wide {
                sequence: head.sequence,
                stay_micros,
                wall_before: head.entered.wall,
                epoch_before,
            });
        }
        head.set_newest_epoch(None);
        head.epoch = epoch;
        head.state = to;
        head.entered = now;
        head.updated = now.wall;
        head.message = message.clone();
        if let Some(record) = records.get_mut(place(head.sequence)) {
            *record = Record::new(to, stay_micros, drift, message);
        }
        head
    }

    /// At most `most` of the newest kept transitions, oldest first.
    pub(crate) fn transitions(&self, most: usize) -> Vec<Transition> {
        let head = self.head();
        let records = &self.0.records;
        let oldest = head.oldest_sequence();
        let mut wall = head.entered.wall;
        let mut epoch = head.newest_epoch();
        let mut made = Vec::with_capacity(head.len().min(most));
        for sequence in (oldest..=head.sequence).rev().take(most) {
            let Some(record) = records.get(place(sequence)) else {
                continue;
            };
            let to = record.to();
            let from = if sequence == oldest {
                head.oldest_from
            } else {
                state_entered_by(records, sequence - 1)
            };
            let wide = head.wide(record, sequence);
            let stay_micros = wide.map_or(record.stay_micros(), |wide| wide.stay_micros);
            made.push(Transition {
                from,
                to,
                timestamp: wall.to_system(),
                message: record.message.clone(),
                epoch,
                sequence,
                time_in_from: Duration::from_micros(stay_micros),
            });
            (wall, epoch) = wide.map_or_else(
                || (record.wall_before(wall), usual_epoch_before(epoch, to)),
                |wide| (wide.wall_before, wide.epoch_before),
            );
        }
        made.reverse();
        made
    }

    /// The memory, unshared, with room for this many records. Copies it if it is shared or too small.
    #[expect(clippy::expect_used, reason = "see the text")]
    #[inline]
    fn memory(&mut self, records: usize) -> &mut Memory {
        if self.0.records.len() < records || Arc::strong_count(&self.0) > 1 {
            *self = self.copy_for(records);
        }
        Arc::get_mut(&mut self.0)
            .expect("made from the lock's own core alone, which is held mutably")
    }

    /// Not inlined: the change of an unshared core needs none of this stack space.
    #[inline(never)]
    fn copy_for(&self, records: usize) -> Core {
        match records.max(self.0.records.len()) {
            0 => self.copied::<0>(),
            1..=6 => self.copied::<6>(),
            7..=12 => self.copied::<12>(),
            _ => self.copied::<HISTORY_CAPACITY>(),
        }
    }

    fn copied<const N: usize>(&self) -> Core {
        let mut records = self.0.records.iter();
        // Positions do not change, because only a full history wraps around.
        let records = [(); N].map(|()| records.next().cloned().unwrap_or_default());
        let head = self.head().clone();
        Core(Arc::new(Memory { head, records }))
    }
}

fn state_entered_by(records: &[Record], sequence: u64) -> State {
    let record = records.get(place(sequence));
    record.map_or(State::Unknown, Record::to)
}

/// Index of the transition with this sequence. In a history that was never full that is
/// the sequence minus one.
fn place(sequence: u64) -> usize {
    usize::try_from(sequence.wrapping_sub(1) % HISTORY_CAPACITY as u64).unwrap_or(0)
}

impl Head {
    fn len(&self) -> usize {
        usize::try_from(self.sequence).map_or(HISTORY_CAPACITY, |n| n.min(HISTORY_CAPACITY))
    }

    fn oldest_sequence(&self) -> u64 {
        self.sequence
            .saturating_sub(HISTORY_CAPACITY as u64 - 1)
            .max(1)
    }

    fn forget_oldest(&mut self, records: &[Record]) {
        let oldest = self.oldest_sequence();
        self.oldest_from = state_entered_by(records, oldest);
        if let Some(rare) = &mut self.rare
            && rare
                .wide
                .first()
                .is_some_and(|wide| wide.sequence == oldest)
        {
            rare.wide.remove(0);
            self.drop_empty_rare();
        }
    }

    pub(crate) fn error(&self) -> Option<&ErrorInfo> {
        self.rare.as_ref()?.error.as_ref()
    }

    #[inline]
    pub(crate) fn set_error(&mut self, error: Option<ErrorInfo>) {
        if error.is_some() || self.rare.is_some() {
            self.rare.get_or_insert_default().error = error;
            self.drop_empty_rare();
        }
    }

    fn drop_empty_rare(&mut self) {
        if let Some(rare) = &self.rare
            && rare.error.is_none()
            && rare.newest_epoch.is_none()
            && rare.wide.is_empty()
        {
            self.rare = None;
        }
    }

    /// Begins another load without a transition.
    pub(crate) fn move_epoch(&mut self, epoch: Epoch) {
        if epoch != self.epoch && self.sequence > 0 {
            self.set_newest_epoch(Some(self.newest_epoch()));
        }
        self.epoch = epoch;
    }

    /// Epoch and number of the newest transition.
    pub(crate) fn last_transition(&self) -> Option<(Epoch, u64)> {
        (self.sequence > 0).then(|| (self.newest_epoch(), self.sequence))
    }

    /// The epoch of the newest transition, or the first one if there is none.
    #[inline]
    fn newest_epoch(&self) -> Epoch {
        let kept = self.rare.as_ref().and_then(|rare| rare.newest_epoch);
        kept.unwrap_or(self.epoch)
    }

    #[inline]
    fn set_newest_epoch(&mut self, epoch: Option<Epoch>) {
        if epoch.is_some() || self.rare.is_some() {
            self.rare.get_or_insert_default().newest_epoch = epoch;
            self.drop_empty_rare();
        }
    }

    /// The numbers that did not fit the record of this transition.
    fn wide(&self, record: &Record, sequence: u64) -> Option<&Wide> {
        if record.drift_nanos() != SEE_WIDE {
            return None;
        }
        let wide = &self.rare.as_ref()?.wide;
        wide.iter().find(|wide| wide.sequence == sequence)
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_status_with_a_full_history_is_small() {
        assert_eq!(size_of::<Record>(), 16);
        assert_eq!(size_of::<Memory<[Record; HISTORY_CAPACITY]>>(), 96 + 320);
        assert_eq!(size_of::<crate::WorkspaceStatus>(), 56);
    }
}
