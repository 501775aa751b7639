//! Progress of a phase: reported with one atomic add, measured by sampling.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwapOption;
use parking_lot::Mutex;

use crate::clock::{Moment, WallNanos, nanos};
use crate::estimate::{Estimator, Eta, Measured, SPACING, Sample};
use crate::state::State;

/// Unit of progress.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "snake_case"))]
pub enum Unit {
    /// Events of a log.
    Events,
    /// Entities of a workspace.
    Entities,
    /// Offsets of a log; a compacted log has fewer events than positions.
    Positions,
    /// Bytes.
    Bytes,
    /// Steps of any kind.
    Steps,
}

impl Unit {
    /// The name on the wire, `snake_case`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Unit::Events => "events",
            Unit::Entities => "entities",
            Unit::Positions => "positions",
            Unit::Bytes => "bytes",
            Unit::Steps => "steps",
        }
    }
}

impl std::fmt::Display for Unit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.as_str())
    }
}

/// The writer of a phase's progress. Clones write to the same progress. The writes of one
/// that was replaced by a later phase, or belongs to an earlier load, have no effect.
///
/// ```
/// use workspace_status::{State, Tracker, Unit};
///
/// let status = Tracker::new().get_or_create("a");
/// let progress = status.start_progress(State::ReplayingEvents, Unit::Positions, Some(200));
/// progress.add(50);
/// let report = status.progress().unwrap();
/// assert_eq!((report.done(), report.percent()), (50, Some(25.0)));
/// ```
#[derive(Clone, Debug)]
pub struct Progress {
    cell: Arc<ProgressCell>,
}

impl Progress {
    pub(crate) fn new(cell: Arc<ProgressCell>) -> Self {
        Self { cell }
    }

    /// Adds to the amount done.
    pub fn add(&self, done: u64) {
        self.cell.done.fetch_add(done, Ordering::Relaxed);
    }

    /// Sets the amount done. Setting it back restarts the measurement.
    pub fn set(&self, done: u64) {
        self.cell.done.store(done, Ordering::Relaxed);
    }

    /// Sets the total amount, at most `u64::MAX - 1`.
    pub fn set_total(&self, total: u64) {
        self.cell
            .total
            .store(total.min(NO_TOTAL - 1), Ordering::Relaxed);
    }

    /// The amount done so far.
    pub fn done(&self) -> u64 {
        self.cell.done.load(Ordering::Relaxed)
    }
}

/// Progress of a phase at one moment.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ProgressReport {
    phase: State,
    unit: Unit,
    done: u64,
    total: Option<u64>,
    rate_per_second: Option<f64>,
    eta: Option<Eta>,
    last_progress_at: Option<SystemTime>,
}

impl ProgressReport {
    /// The state that this progress belongs to; not always the current state.
    pub fn phase(&self) -> State {
        self.phase
    }

    /// Its unit.
    pub fn unit(&self) -> Unit {
        self.unit
    }

    /// The amount done.
    pub fn done(&self) -> u64 {
        self.done
    }

    /// The total amount, if known. It may grow.
    pub fn total(&self) -> Option<u64> {
        self.total
    }

    /// Percentage of the total that is done, from 0 to 100.
    #[expect(
        clippy::cast_precision_loss,
        reason = "a percentage of 2^53 units may be off by its last digits"
    )]
    pub fn percent(&self) -> Option<f64> {
        let total = self.total?;
        if self.done >= total {
            return Some(100.0);
        }
        Some(self.done as f64 / total as f64 * 100.0)
    }

    /// The mean rate of the phase, from its second sample on.
    pub fn rate_per_second(&self) -> Option<f64> {
        self.rate_per_second
    }

    /// The remaining time of the phase; `None` until it is known with confidence, if the
    /// progress stalls, and if the status is in another state.
    pub fn eta(&self) -> Option<Eta> {
        self.eta
    }

    /// When progress was last observed, on the wall clock; as exact as the sampling interval.
    pub fn last_progress_at(&self) -> Option<SystemTime> {
        self.last_progress_at
    }
}

const NO_TOTAL: u64 = u64::MAX;

/// State shared by a phase's writers and readers.
#[derive(Debug)]
pub(crate) struct ProgressCell {
    done: AtomicU64,
    total: AtomicU64,
    phase: State,
    unit: Unit,
    /// No more samples are taken.
    retired: AtomicBool,
    sampled: ArcSwapOption<Sampled>,
    /// Locked by one sampler; other samplers skip this phase meanwhile.
    estimator: Mutex<Option<Box<Estimator>>>,
}

/// Result of the last sample; replaced as a whole, so that readers take no lock. It outlives the phase.
#[derive(Debug)]
struct Sampled {
    monotonic_nanos: u64,
    done: u64,
    moved: Option<WallNanos>,
    /// The measurement, and the time of the point it was made at. Boxed, because most phases end before their first.
    measured: Option<Box<(Measured, u64)>>,
}

impl ProgressCell {
    pub(crate) fn new(phase: State, unit: Unit, total: Option<u64>, now: Moment) -> Self {
        let started = Duration::from_nanos(now.monotonic_nanos);
        Self {
            done: AtomicU64::new(0),
            total: AtomicU64::new(total.map_or(NO_TOTAL, |total| total.min(NO_TOTAL - 1))),
            phase,
            unit,
            retired: AtomicBool::new(false),
            sampled: ArcSwapOption::from_pointee(Sampled {
                monotonic_nanos: now.monotonic_nanos,
                done: 0,
                moved: None,
                measured: None,
            }),
            estimator: Mutex::new(Some(Box::new(Estimator::new(started)))),
        }
    }

    /// Ends the measurement after a last sample, and frees its memory.
    pub(crate) fn retire(&self, now: Moment) {
        self.retired.store(true, Ordering::Relaxed);
        // A sampler holds the lock for one measurement at most.
        let Some(mut estimator) = self.estimator.lock().take() else {
            return;
        };
        if let Some(last) = self.sampled.load_full()
            && last.done != self.done.load(Ordering::Relaxed)
        {
            self.measure(&mut estimator, &last, now);
        }
    }

    fn is_retired(&self) -> bool {
        self.retired.load(Ordering::Relaxed)
    }

    /// Takes a sample, unless one was just taken or is being taken.
    fn sample(&self, now: Moment) {
        let Some(mut estimator) = self.estimator.try_lock() else {
            return;
        };
        let Some(estimator) = estimator.as_mut() else {
            return;
        };
        let Some(last) = self.sampled.load_full() else {
            return;
        };
        let since = now.monotonic_nanos.saturating_sub(last.monotonic_nanos);
        if since >= nanos(SPACING) {
            self.measure(estimator, &last, now);
        }
    }

    /// Call it with the estimator's lock held, or after the estimator was taken out.
    fn measure(&self, estimator: &mut Estimator, last: &Sampled, now: Moment) {
        let done = self.done.load(Ordering::Relaxed);
        let at = now.monotonic_nanos;
        let measured = match estimator.sample(Duration::from_nanos(at), done) {
            Sample::Taken(measured) => measured.map(|measured| Box::new((measured, at))),
            Sample::TooEarly => last.measured.clone(),
        };
        self.sampled.store(Some(Arc::new(Sampled {
            monotonic_nanos: now.monotonic_nanos,
            done,
            moved: if done == last.done {
                last.moved
            } else {
                Some(now.wall)
            },
            measured,
        })));
    }

    /// The current report, for a status in `state`.
    pub(crate) fn report(&self, state: State, now: Moment) -> ProgressReport {
        let retired = self.is_retired();
        if !retired {
            self.sample(now);
        }
        let sampled = self.sampled.load();
        let sampled = sampled.as_deref();
        let done = self.done.load(Ordering::Relaxed);
        let total = Some(self.total.load(Ordering::Relaxed)).filter(|total| *total != NO_TOTAL);
        let measured = sampled.and_then(|sampled| sampled.measured.as_deref().copied());
        let eta = measured.zip(total).and_then(|((measured, at), total)| {
            if retired || state != self.phase {
                return None;
            }
            let since = Duration::from_nanos(now.monotonic_nanos.saturating_sub(at));
            measured.eta(total.saturating_sub(done), since)
        });
        let moved = match sampled {
            Some(sampled) if sampled.done == done || retired => sampled.moved,
            Some(_) | None => Some(now.wall),
        };
        ProgressReport {
            phase: self.phase,
            unit: self.unit,
            done,
            total,
            rate_per_second: measured.map(|(measured, _)| measured.rate),
            eta,
            last_progress_at: moved.map(WallNanos::to_system),
        }
    }
}

/// Number of phases sampled in one round.
const SAMPLED_A_ROUND: usize = 4096;

/// The phases under way of a tracker, for sampling. A phase that has ended leaves the list
/// when a round reaches it or when the list has doubled, so that the list stays bounded by
/// twice the phases under way even if no caller samples.
pub(crate) struct Active {
    list: Mutex<ActiveList>,
}

struct ActiveList {
    cells: Vec<Weak<ProgressCell>>,
    next: usize,
    prune_at: usize,
}

const MIN_PRUNE_AT: usize = 64;

impl Active {
    pub(crate) fn new() -> Self {
        Self {
            list: Mutex::new(ActiveList {
                cells: Vec::new(),
                next: 0,
                prune_at: MIN_PRUNE_AT,
            }),
        }
    }

    pub(crate) fn push(&self, cell: &Arc<ProgressCell>) {
        let mut list = self.list.lock();
        if list.cells.len() >= list.prune_at {
            list.cells
                .retain(|cell| cell.upgrade().is_some_and(|cell| !cell.is_retired()));
            list.prune_at = (list.cells.len() * 2).max(MIN_PRUNE_AT);
        }
        list.cells.push(Arc::downgrade(cell));
    }

    /// Samples up to [`SAMPLED_A_ROUND`] phases and continues with the others in the next
    /// round. Does nothing while another thread samples.
    pub(crate) fn sample(&self, now: Moment) {
        let Some(mut list) = self.list.try_lock() else {
            return;
        };
        for _ in 0..list.cells.len().min(SAMPLED_A_ROUND) {
            if list.next >= list.cells.len() {
                list.next = 0;
            }
            let place = list.next;
            match list.cells.get(place).and_then(Weak::upgrade) {
                Some(cell) if !cell.is_retired() => {
                    cell.sample(now);
                    list.next += 1;
                }
                Some(_) | None => {
                    if place < list.cells.len() {
                        list.cells.swap_remove(place);
                    }
                }
            }
        }
    }
}
