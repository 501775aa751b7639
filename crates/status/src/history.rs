//! The last transitions of a status, in 16 bytes each.
//!
//! A million workspaces hold twenty million transitions, so that what can be told from
//! the neighbour is not kept: a transition leaves the state that the one before entered,
//! and its wall time is found backwards from the newest. What does not fit into 16 bytes
//! (a stay of more than 19 hours, a wall clock that was set, an epoch that jumped) is
//! kept whole beside the others.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::clock::{Moment, WallNanos};
use crate::error::ErrorInfo;
use crate::id::{Epoch, Revision};
use crate::message::Message;
use crate::metadata::Metadata;
use crate::state::State;

/// How many transitions a status remembers.
pub const HISTORY_CAPACITY: usize = 20;

/// One change from a state to another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transition {
    from: State,
    to: State,
    timestamp: SystemTime,
    message: Message,
    epoch: Epoch,
    sequence: u64,
    time_in_from: Duration,
}

impl Transition {
    /// The state that was left.
    pub fn from_state(&self) -> State {
        self.from
    }

    /// The state that was entered.
    pub fn to_state(&self) -> State {
        self.to
    }

    /// When, on the wall clock.
    pub fn timestamp(&self) -> SystemTime {
        self.timestamp
    }

    /// What was said when it was entered.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// The load it belongs to.
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// Its number among all transitions of the status, from 1.
    pub fn sequence(&self) -> u64 {
        self.sequence
    }

    /// How long the status was in the state that was left, on the monotonic clock, in
    /// whole microseconds.
    pub fn time_in_from(&self) -> Duration {
        self.time_in_from
    }
}

/// All of a status but its id and progress. Snapshots share it, and the next change of a
/// shared one works on a copy. The records lie behind the head in one allocation, which
/// grows with the history.
pub(crate) struct Core<R: ?Sized = [Record]> {
    pub(crate) head: Head,
    records: R,
}

#[derive(Clone)]
pub(crate) struct Head {
    pub(crate) epoch: Epoch,
    pub(crate) revision: Revision,
    /// Number of transitions ever, which is the sequence of the newest.
    pub(crate) sequence: u64,
    pub(crate) updated: WallNanos,
    pub(crate) entered: Moment,
    pub(crate) message: Message,
    pub(crate) metadata: Option<Arc<Metadata>>,
    rare: Option<Box<Rare>>,
    /// The epoch that the oldest kept transition found.
    oldest_epoch: Epoch,
    oldest_from: State,
    pub(crate) state: State,
    /// Whether the epoch moved without a transition since the last one.
    epoch_moved: bool,
}

/// What few statuses have.
#[derive(Clone, Default)]
struct Rare {
    error: Option<ErrorInfo>,
    /// Oldest first, at most one for each record.
    wide: Vec<Wide>,
}

#[derive(Clone)]
struct Wide {
    sequence: u64,
    epoch: Epoch,
    stay_micros: u64,
    /// When the state that was left had been entered.
    before: WallNanos,
}

/// A transition: its message, and in `bits` from the lowest: 4 bits the state entered, 36
/// bits the stay in µs, 24 bits by how many ns the wall clock moved more than that.
#[derive(Clone, Default)]
pub(crate) struct Record {
    message: Message,
    bits: u64,
}

const STATE_BITS: u32 = 4;
const STAY_BITS: u32 = 36;
const DRIFT_BITS: u32 = 24;
/// The drift of a record whose numbers are in its [`Wide`].
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

    #[expect(
        clippy::cast_possible_truncation,
        reason = "masked to the bits of a state"
    )]
    fn to(&self) -> State {
        State::from_index((self.bits & ((1 << STATE_BITS) - 1)) as u8)
    }

    fn stay_micros(&self) -> u64 {
        self.bits >> STATE_BITS & ((1 << STAY_BITS) - 1)
    }

    fn drift_nanos(&self) -> i64 {
        self.bits.cast_signed() >> (STATE_BITS + STAY_BITS)
    }
}

/// By how much the wall clock moved more than `stay_micros`, where that fits a record.
fn drift_nanos(before: WallNanos, after: WallNanos, stay_micros: u64) -> Option<i64> {
    if stay_micros >> STAY_BITS != 0 {
        return None;
    }
    let moved = i128::from(after.0) - i128::from(before.0);
    let drift = i64::try_from(moved - i128::from(stay_micros) * 1000).ok()?;
    (SEE_WIDE < drift && drift < -SEE_WIDE).then_some(drift)
}

/// The epoch after a transition that did nothing unusual to it.
fn usual_epoch(before: Epoch, to: State) -> Epoch {
    if to == State::Initializing {
        before.next()
    } else {
        before
    }
}

impl Core {
    pub(crate) fn new(now: Moment) -> Arc<Core> {
        let head = Head {
            epoch: Epoch::FIRST,
            revision: Revision::default(),
            sequence: 0,
            updated: now.wall,
            entered: now,
            message: Message::default(),
            metadata: None,
            rare: None,
            oldest_epoch: Epoch::FIRST,
            oldest_from: State::Initializing,
            state: State::Initializing,
            epoch_moved: false,
        };
        Arc::new(Core { head, records: [] })
    }

    /// The core to be changed, a copy if a snapshot shares it.
    pub(crate) fn edit(core: &mut Arc<Core>) -> &mut Core {
        Core::with_capacity(core, 0)
    }

    /// Enters another state.
    pub(crate) fn push(
        core: &mut Arc<Core>,
        to: State,
        epoch: Epoch,
        message: Message,
        now: Moment,
    ) {
        let room = (core.head.len() + 1).min(HISTORY_CAPACITY);
        let core = Core::with_capacity(core, room);
        if core.head.len() == HISTORY_CAPACITY {
            core.forget_oldest();
        }
        let head = &mut core.head;
        head.sequence += 1;
        let stay_nanos = now
            .monotonic_nanos
            .saturating_sub(head.entered.monotonic_nanos);
        let stay_micros = stay_nanos / 1000;
        let usual = epoch == usual_epoch(head.epoch, to) && !head.epoch_moved;
        let drift = drift_nanos(head.entered.wall, now.wall, stay_micros).filter(|_| usual);
        if drift.is_none() {
            head.rare.get_or_insert_default().wide.push(Wide {
                sequence: head.sequence,
                epoch,
                stay_micros,
                before: head.entered.wall,
            });
        }
        head.epoch = epoch;
        head.epoch_moved = false;
        head.state = to;
        head.entered = now;
        head.updated = now.wall;
        head.message = message.clone();
        let place = place(head.sequence);
        if let Some(record) = core.records.get_mut(place) {
            *record = Record::new(to, stay_micros, drift, message);
        }
    }

    /// The transitions kept, oldest first.
    pub(crate) fn transitions(&self) -> Box<[Transition]> {
        let head = &self.head;
        let wide = head.rare.as_ref().map_or(&[][..], |rare| &rare.wide);
        let oldest = head.oldest_sequence();
        let mut from = head.oldest_from;
        let mut epoch = head.oldest_epoch;
        let mut made = Vec::with_capacity(head.len());
        for sequence in oldest..=head.sequence {
            let Some(record) = self.records.get(place(sequence)) else {
                continue;
            };
            let to = record.to();
            epoch = usual_epoch(epoch, to);
            let mut stay_micros = record.stay_micros();
            if record.drift_nanos() == SEE_WIDE
                && let Some(wide) = wide.iter().find(|wide| wide.sequence == sequence)
            {
                epoch = wide.epoch;
                stay_micros = wide.stay_micros;
            }
            made.push(Transition {
                from,
                to,
                timestamp: SystemTime::UNIX_EPOCH,
                message: record.message.clone(),
                epoch,
                sequence,
                time_in_from: Duration::from_micros(stay_micros),
            });
            from = to;
        }
        let mut at = head.entered.wall;
        for transition in made.iter_mut().rev() {
            transition.timestamp = at.to_system();
            at = self.wall_before(transition.sequence, at);
        }
        made.into_boxed_slice()
    }

    /// When the state before a transition had been entered, if that was at `at`.
    fn wall_before(&self, sequence: u64, at: WallNanos) -> WallNanos {
        let Some(record) = self.records.get(place(sequence)) else {
            return at;
        };
        let drift = record.drift_nanos();
        if drift != SEE_WIDE {
            let moved = (record.stay_micros() * 1000).cast_signed() + drift;
            return WallNanos(at.0.wrapping_sub(moved.cast_unsigned()));
        }
        let wide = self.head.rare.as_ref().map_or(&[][..], |rare| &rare.wide);
        wide.iter()
            .find(|wide| wide.sequence == sequence)
            .map_or(at, |wide| wide.before)
    }

    fn forget_oldest(&mut self) {
        let oldest = self.head.oldest_sequence();
        let Some(record) = self.records.get(place(oldest)) else {
            return;
        };
        let to = record.to();
        let head = &mut self.head;
        head.oldest_from = to;
        head.oldest_epoch = usual_epoch(head.oldest_epoch, to);
        if let Some(rare) = &mut head.rare
            && rare
                .wide
                .first()
                .is_some_and(|wide| wide.sequence == oldest)
        {
            head.oldest_epoch = rare.wide.remove(0).epoch;
        }
        head.drop_empty_rare();
    }

    /// Room for `records` of them, in a core that nobody shares.
    #[expect(clippy::expect_used, reason = "see the text")]
    fn with_capacity(core: &mut Arc<Core>, records: usize) -> &mut Core {
        if core.records.len() < records || Arc::strong_count(core) > 1 {
            let capacity = match records.max(core.records.len()) {
                0 => core.copied::<0>(),
                1..=6 => core.copied::<6>(),
                7..=12 => core.copied::<12>(),
                _ => core.copied::<HISTORY_CAPACITY>(),
            };
            *core = capacity;
        }
        Arc::get_mut(core).expect("made from the lock's own Arc alone, which is held mutably")
    }

    fn copied<const N: usize>(&self) -> Arc<Core> {
        let mut records = self.records.iter();
        Arc::new(Core {
            head: self.head.clone(),
            // Places stay where they are, because only a full history goes round.
            records: [(); N].map(|()| records.next().cloned().unwrap_or_default()),
        })
    }
}

/// Where the transition of this number lies. In a history that never was full that is
/// its number less one.
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

    pub(crate) fn error(&self) -> Option<&ErrorInfo> {
        self.rare.as_ref()?.error.as_ref()
    }

    pub(crate) fn set_error(&mut self, error: Option<ErrorInfo>) {
        if error.is_some() || self.rare.is_some() {
            self.rare.get_or_insert_default().error = error;
            self.drop_empty_rare();
        }
    }

    fn drop_empty_rare(&mut self) {
        let empty = |rare: &Box<Rare>| rare.error.is_none() && rare.wide.is_empty();
        if self.rare.as_ref().is_some_and(empty) {
            self.rare = None;
        }
    }

    /// Begins another load without a transition.
    pub(crate) fn move_epoch(&mut self, epoch: Epoch) {
        if self.sequence == 0 {
            self.oldest_epoch = epoch;
        } else if epoch != self.epoch {
            self.epoch_moved = true;
        }
        self.epoch = epoch;
    }
}
