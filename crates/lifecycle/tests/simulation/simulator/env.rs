//! State shared by all processes of a life: randomness, time, logs, the store, and the trace.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use workspace_lifecycle::{AdmissionLimits, Limits, RetryPolicy, Time};

use super::log::{Damage, Log};
use super::random::{Random, mix};
use super::rules::Violation;
use super::sabotage::Sabotage;
use super::store::Store;
use super::{FaultSet, Traced};

/// Maximum of trace lines that are kept.
const TRACE_LINES: usize = 200;

/// Why a step ended early.
#[derive(Debug)]
pub(crate) enum Stop {
    /// The process is killed here.
    Crash,
    Broken(Violation),
}

impl From<Violation> for Stop {
    fn from(violation: Violation) -> Self {
        Self::Broken(violation)
    }
}

pub(crate) type Step<T = ()> = Result<T, Stop>;

/// Probability of each fault, per thousand.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Faults {
    pub(crate) claim: u64,
    pub(crate) load: u64,
    pub(crate) save: u64,
    pub(crate) list: u64,
    pub(crate) fetch: u64,
    pub(crate) dead_letter: u64,
    pub(crate) sync: u64,
    pub(crate) attempt: u64,
    pub(crate) erase: u64,
    pub(crate) crash_in_action: u64,
    /// An operation under way takes longer.
    pub(crate) slow: u64,
}

/// The shape of one life, drawn from its seed.
#[derive(Debug, Clone)]
pub(crate) struct Config {
    pub(crate) partitions: usize,
    pub(crate) processes: usize,
    pub(crate) workspaces: usize,
    pub(crate) events: u64,
    pub(crate) steps: u64,
    pub(crate) batch: u64,
    pub(crate) poison: u64,
    pub(crate) damaged: u64,
    pub(crate) asks_for_save: u64,
    pub(crate) nothing: u64,
    pub(crate) appends: u64,
    pub(crate) clock: u64,
    pub(crate) operators: u64,
    pub(crate) upkeep: u64,
    pub(crate) disturbances: u64,
    /// Partitions move between processes, as in a group. Otherwise one process owns them
    /// all and trims the log; a shared log is trimmed by its own retention.
    pub(crate) moves: bool,
    pub(crate) zombies: bool,
    pub(crate) damage: Damage,
    pub(crate) faults: Faults,
    pub(crate) admission: AdmissionLimits,
    pub(crate) limits: Limits,
    /// Share of operators' commands that are resets or deletions, per thousand.
    pub(crate) erasures: u64,
    /// Share of disturbances that lose the end of a log, a changelog, or access to the store, per thousand.
    pub(crate) losses: u64,
    /// Probability that workspaces are evicted in a step, per thousand.
    pub(crate) evictions: u64,
}

impl Config {
    /// Later faults are drawn from a separate generator, so the first faults are the same with and without them.
    fn add_later_faults(&mut self, seed: u64, random: &mut Random) {
        // In every other life, so that half of those that found bugs stay as they were.
        self.evictions = if seed.is_multiple_of(2) {
            0
        } else {
            [20, 100, 400][usize::try_from(seed / 2 % 3).unwrap()]
        };
        self.erasures = random.pick(&[0, 100, 400]);
        let calm = self.faults.save == 0 && self.faults.load == 0;
        self.losses = random.pick(&[0, 100, 400]);
        self.faults.erase = if calm { 0 } else { random.pick(&[0, 50, 300]) };
    }

    pub(crate) fn draw(seed: u64, random: &mut Random) -> Self {
        let r = random;
        let moves = r.chance(600);
        let processes = if moves { r.pick(&[1, 1, 2, 3]) } else { 1 };
        let calm = r.chance(150);
        let fault = |r: &mut Random| {
            if calm {
                0
            } else {
                r.pick(&[0, 0, 10, 50, 200, 500])
            }
        };
        let millis = Duration::from_millis;
        let save_every_in_round = match seed % 3 {
            0 => Duration::ZERO,
            1 => Duration::from_secs(1),
            _ => Duration::from_secs(10),
        };
        Self {
            partitions: r.pick(&[1, 1, 2, 3]),
            processes,
            workspaces: usize::try_from(r.between(1, 9)).unwrap(),
            events: r.between(5, 250),
            steps: r.between(50, 900),
            batch: r.pick(&[1, 2, 3, 5, 10, 100]),
            poison: r.pick(&[0, 0, 5, 30, 100]),
            damaged: r.pick(&[0, 0, 0, 5, 20]),
            asks_for_save: r.pick(&[0, 20, 100]),
            nothing: r.pick(&[0, 50]),
            appends: r.between(20, 200),
            clock: r.between(20, 200),
            operators: r.pick(&[0, 10, 60]),
            upkeep: if moves { 0 } else { r.pick(&[0, 20, 80]) },
            disturbances: r.pick(&[0, 3, 10, 30]),
            moves,
            zombies: processes > 1 && r.chance(700),
            damage: r.pick(&[Damage::EndsTheBatch, Damage::FailsTheRead]),
            faults: Faults {
                claim: fault(r),
                load: fault(r),
                save: fault(r),
                list: fault(r),
                fetch: fault(r),
                dead_letter: fault(r),
                sync: fault(r),
                attempt: if calm { 0 } else { r.pick(&[0, 0, 20]) },
                erase: 0,
                crash_in_action: if calm { 0 } else { r.pick(&[0, 0, 1, 5]) },
                slow: if calm { 0 } else { r.pick(&[0, 0, 500, 900]) },
            },
            admission: AdmissionLimits {
                permits: usize::try_from(r.between(1, 4)).unwrap(),
                urgent_queue: usize::try_from(r.between(0, 3)).unwrap(),
            },
            limits: Limits {
                max_unsaved_bytes: 1 << 20,
                save_every_events: r.pick(&[1, 5, 20, 1000]),
                save_every: millis(r.pick(&[0, 100, 1000])),
                save_every_in_round,
                max_unsaved_events: r.pick(&[1, 10, 50, 100_000]),
                stale_positions: r.pick(&[1, 10, 50, 100_000]),
                stale_after: millis(r.pick(&[1_000, 10_000, 60_000])),
                hold_catch_up: millis(r.pick(&[0, 100, 2000])),
                hold_live: millis(r.pick(&[0, 100])),
                gather: millis(r.pick(&[0, 500])),
                max_evicted_lag: [1, 10, 100_000][usize::try_from(seed / 3 % 3).unwrap()],
                max_evicted_age: millis([0, 500, 30_000][usize::try_from(seed / 9 % 3).unwrap()]),
                retry: RetryPolicy::default(),
            },
            erasures: 0,
            losses: 0,
            evictions: 0,
        }
    }
}

/// How often each event happened: a simulation without faults proves nothing.
pub(crate) type Tally = BTreeMap<&'static str, u64>;

pub(crate) struct Env {
    pub(crate) random: Random,
    /// For faults that were added after the first seeds were kept by name.
    pub(crate) later: Random,
    /// For evictions.
    pub(crate) evicting: Random,
    pub(crate) config: Config,
    pub(crate) now: Time,
    pub(crate) logs: Vec<Log>,
    pub(crate) store: Store,
    /// Events that were skipped: partition, workspace, offset.
    pub(crate) dead_letters: BTreeSet<(usize, usize, u64)>,
    pub(crate) faults: Faults,
    pub(crate) store_is_down: bool,
    pub(crate) sabotage: Sabotage,
    pub(crate) tally: Tally,
    pub(crate) next_ticket: u64,
    traced: Traced,
    trace: VecDeque<String>,
}

impl Env {
    pub(crate) fn new(seed: u64, sabotage: Sabotage, faults: FaultSet, traced: Traced) -> Self {
        let mut random = Random::new(seed);
        let mut config = Config::draw(seed, &mut random);
        let mut later = Random::new(mix(seed));
        if faults == FaultSet::All {
            config.add_later_faults(seed, &mut later);
        }
        let logs = (0..config.partitions)
            .map(|_| Log::new(config.workspaces, config.damage))
            .collect();
        let mut env = Self {
            faults: config.faults,
            random,
            later,
            evicting: Random::new(mix(mix(seed))),
            now: Time(Duration::from_secs(1)),
            logs,
            store: Store::new(sabotage),
            dead_letters: BTreeSet::new(),
            store_is_down: false,
            sabotage,
            tally: Tally::new(),
            next_ticket: 0,
            traced,
            trace: VecDeque::new(),
            config,
        };
        let shape = format!("{:?}", env.config);
        env.note(|| shape);
        env
    }

    pub(crate) fn note(&mut self, line: impl FnOnce() -> String) {
        if self.traced == Traced::Nothing {
            return;
        }
        if self.traced == Traced::End && self.trace.len() == TRACE_LINES {
            self.trace.pop_front();
        }
        self.trace
            .push_back(format!("{:>8}ms {}", self.now.0.as_millis(), line()));
    }

    pub(crate) fn take_trace(&mut self) -> Vec<String> {
        std::mem::take(&mut self.trace).into()
    }

    pub(crate) fn count(&mut self, what: &'static str) {
        self.count_many(what, 1);
    }

    pub(crate) fn count_many(&mut self, what: &'static str, times: u64) {
        *self.tally.entry(what).or_default() += times;
    }

    /// Whether an operation of the store fails now.
    pub(crate) fn store_fails(&mut self, permille: u64) -> bool {
        self.store_is_down || self.random.chance(permille)
    }
}
