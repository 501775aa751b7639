//! A status under random sequences of operations, compared with a simple model of it.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use proptest::prelude::*;
use proptest::test_runner::RngSeed;
use workspace_status::{
    Attempt, Epoch, ErrorKind, HISTORY_CAPACITY, ManualClock, Snapshot, State, Tracker, Value,
};

#[derive(Debug, Clone)]
enum Operation {
    SetState(State, u8),
    Park(u8),
    Retry(u8, u32),
    Metadata(u8, i64),
    RemoveMetadata(u8),
    /// Milliseconds.
    Advance(u64),
    /// Only the wall clock moves, by this many seconds.
    SetWall(i32),
    /// At the current epoch plus this many.
    Begin(i8),
    /// The attempt begun this many attempts ago sets a state.
    AttemptState(usize, State),
    AttemptMetadata(usize, u8),
    /// A snapshot is held, so that the next change works on a copy.
    Hold,
}

fn states() -> impl Strategy<Value = State> {
    proptest::sample::select(State::ALL.to_vec())
}

fn operations() -> impl Strategy<Value = Operation> {
    prop_oneof![
        6 => (states(), any::<u8>()).prop_map(|(s, m)| Operation::SetState(s, m)),
        1 => any::<u8>().prop_map(Operation::Park),
        1 => (any::<u8>(), 1..9_u32).prop_map(|(m, n)| Operation::Retry(m, n)),
        2 => (0..6_u8, prop_oneof![any::<i64>(), 1..3_i64]).prop_map(|(k, v)| Operation::Metadata(k, v)),
        1 => (0..6_u8).prop_map(Operation::RemoveMetadata),
        4 => prop_oneof![0..5_000_u64, 0..400_000_000_u64].prop_map(Operation::Advance),
        1 => (-100_000..100_000_i32).prop_map(Operation::SetWall),
        2 => (-2..4_i8).prop_map(Operation::Begin),
        2 => (0..3_usize, states()).prop_map(|(a, s)| Operation::AttemptState(a, s)),
        1 => (0..3_usize, 0..6_u8).prop_map(|(a, k)| Operation::AttemptMetadata(a, k)),
        1 => Just(Operation::Hold),
    ]
}

#[derive(Debug, Clone, PartialEq)]
struct ModelTransition {
    from: State,
    to: State,
    at: SystemTime,
    message: String,
    epoch: u64,
    sequence: u64,
    stay: Duration,
}

/// A simple implementation of the rules.
#[derive(Debug, Clone)]
struct Model {
    state: State,
    epoch: u64,
    message: String,
    error: Option<(String, ErrorKind, SystemTime)>,
    metadata: BTreeMap<String, i64>,
    history: Vec<ModelTransition>,
    entered: SystemTime,
    entered_monotonic: Duration,
    updated: SystemTime,
    unexpected: u64,
}

#[derive(Clone, Copy)]
struct Now {
    wall: SystemTime,
    monotonic: Duration,
}

impl Model {
    fn enter(
        &mut self,
        to: State,
        message: &str,
        epoch: Option<u64>,
        retry: Option<u32>,
        now: Now,
    ) {
        let from = self.state;
        let epoch = epoch.or((to == State::Initializing && from != to).then_some(self.epoch + 1));
        if let Some(epoch) = epoch {
            self.epoch = epoch;
            self.metadata.clear();
        }
        self.message = message.into();
        self.updated = now.wall;
        self.error = (to == State::Error).then(|| {
            let kind = retry.map_or(ErrorKind::Parked, |attempt| ErrorKind::Retrying {
                attempt,
                next_retry_at: now.wall + Duration::from_secs(5),
            });
            (message.into(), kind, now.wall)
        });
        if from == to {
            return;
        }
        self.unexpected += u64::from(!State::may_follow(from, to));
        self.history.push(ModelTransition {
            from,
            to,
            at: now.wall,
            message: message.into(),
            epoch: self.epoch,
            sequence: self.history.len() as u64 + 1,
            stay: now.monotonic - self.entered_monotonic,
        });
        self.state = to;
        self.entered = now.wall;
        self.entered_monotonic = now.monotonic;
    }

    fn check(&self, snapshot: &Snapshot) -> Result<(), TestCaseError> {
        prop_assert_eq!(snapshot.state(), self.state);
        prop_assert_eq!(snapshot.epoch().get(), self.epoch);
        prop_assert_eq!(snapshot.message(), &self.message);
        prop_assert_eq!(snapshot.state_entered(), self.entered);
        prop_assert_eq!(snapshot.last_updated(), self.updated);
        let error = snapshot.error();
        let error = error.map(|e| (e.message().to_owned(), e.kind(), e.at()));
        prop_assert_eq!(&error, &self.error);
        let metadata: BTreeMap<String, i64> = snapshot
            .metadata()
            .iter()
            .map(|(key, value)| (key.to_owned(), value.as_i64().unwrap()))
            .collect();
        prop_assert_eq!(&metadata, &self.metadata);
        prop_assert_eq!(snapshot.transitions_total(), self.history.len() as u64);
        let history: Vec<ModelTransition> = snapshot
            .state_history()
            .map(|t| ModelTransition {
                from: t.from_state(),
                to: t.to_state(),
                at: t.timestamp(),
                message: t.message().to_owned(),
                epoch: t.epoch().get(),
                sequence: t.sequence(),
                stay: t.time_in_from(),
            })
            .collect();
        let kept = self.history.len().min(HISTORY_CAPACITY);
        prop_assert_eq!(&history[..], &self.history[self.history.len() - kept..]);
        Ok(())
    }
}

fn key(n: u8) -> String {
    format!("key{n}")
}

/// The seed of the operations. It is printed; `SEED` in the environment replays one.
fn seed() -> u64 {
    let seed = std::env::var("SEED").map_or_else(
        |_| std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), 0),
        |text| text.parse().expect("SEED is a number"),
    );
    println!("SEED={seed}");
    seed
}

proptest! {
    #![proptest_config(ProptestConfig { rng_seed: RngSeed::Fixed(seed()), ..ProptestConfig::with_cases(400) })]

    #[test]
    fn a_status_does_what_its_rules_say(operations in proptest::collection::vec(operations(), 1..120)) {
        let clock = ManualClock::new();
        let tracker = Tracker::builder().clock(clock.clone()).feed_capacity(64).build();
        let status = tracker.get_or_create("a");
        let mut now = Now { wall: status.snapshot().state_entered(), monotonic: Duration::ZERO };
        let mut model = Model {
            state: State::Initializing,
            epoch: 1,
            message: String::new(),
            error: None,
            metadata: BTreeMap::new(),
            history: Vec::new(),
            entered: now.wall,
            entered_monotonic: now.monotonic,
            updated: now.wall,
            unexpected: 0,
        };
        let mut attempts: Vec<Attempt> = Vec::new();
        let mut held: Vec<(Snapshot, Model)> = Vec::new();
        let mut last_revision = status.revision();
        for operation in operations {
            let mut changes = true;
            match operation {
                Operation::SetState(state, m) => {
                    let message = format!("message {m}");
                    status.set_state(state, &message);
                    model.enter(state, &message, None, None, now);
                }
                Operation::Park(m) => {
                    status.set_error(format_args!("parked {m}"));
                    model.enter(State::Error, &format!("parked {m}"), None, None, now);
                }
                Operation::Retry(m, n) => {
                    let message = format!("retrying {m}");
                    status.set_retrying(&message, n, Duration::from_secs(5));
                    model.enter(State::Error, &message, None, Some(n), now);
                }
                Operation::Metadata(k, value) => {
                    status.update_metadata(&key(k), value).unwrap();
                    changes = model.metadata.insert(key(k), value) != Some(value);
                    if changes {
                        model.updated = now.wall;
                    }
                }
                Operation::RemoveMetadata(k) => {
                    changes = model.metadata.remove(&key(k)).is_some();
                    prop_assert_eq!(status.remove_metadata(&key(k)), changes);
                    if changes {
                        model.updated = now.wall;
                    }
                }
                Operation::Advance(millis) => {
                    let by = Duration::from_millis(millis);
                    clock.advance(by);
                    now = Now { wall: now.wall + by, monotonic: now.monotonic + by };
                    changes = false;
                }
                Operation::SetWall(seconds) => {
                    let by = Duration::from_secs(u64::from(seconds.unsigned_abs()));
                    now.wall = if seconds < 0 { now.wall - by } else { now.wall + by };
                    clock.set_wall(now.wall);
                    changes = false;
                }
                Operation::Begin(more) => {
                    let epoch = model.epoch.saturating_add_signed(i64::from(more));
                    let allowed = epoch > model.epoch
                        || (epoch == model.epoch
                            && model.history.is_empty()
                            && attempts.is_empty());
                    let begun = status.begin_attempt(Epoch::new(epoch), "begun");
                    prop_assert_eq!(begun.is_ok(), allowed);
                    changes = allowed;
                    if let Ok(attempt) = begun {
                        model.enter(State::Initializing, "begun", Some(epoch), None, now);
                        attempts.insert(0, attempt);
                    }
                }
                Operation::AttemptState(which, state) => {
                    let Some(attempt) = attempts.get(which) else { continue };
                    let current = attempt.epoch().get() == model.epoch;
                    prop_assert_eq!(attempt.set_state(state, "by an attempt").is_ok(), current);
                    changes = current;
                    if current {
                        model.enter(state, "by an attempt", None, None, now);
                    }
                }
                Operation::AttemptMetadata(which, k) => {
                    let Some(attempt) = attempts.get(which) else { continue };
                    let current = attempt.epoch().get() == model.epoch;
                    let entries = [(&*key(k), Value::from(1)), ("key0", Value::from(2))];
                    prop_assert_eq!(attempt.update_metadata_many(entries).is_ok(), current);
                    let there = [(key(k), 1), (key(0), 2)];
                    let mut there = there.iter();
                    changes = current && !there.all(|(k, v)| model.metadata.get(k) == Some(v));
                    if changes {
                        model.metadata.insert(key(k), 1);
                        model.metadata.insert(key(0), 2);
                        model.updated = now.wall;
                    }
                }
                Operation::Hold => {
                    held.push((status.snapshot(), model.clone()));
                    changes = false;
                }
            }
            let snapshot = status.snapshot();
            model.check(&snapshot)?;
            prop_assert_eq!(snapshot.time_in_current_state(), now.monotonic - model.entered_monotonic);
            prop_assert_eq!(status.state(), model.state);
            prop_assert_eq!(tracker.count_by_state()[model.state], 1);
            prop_assert_eq!(tracker.count(), 1);
            prop_assert_eq!(snapshot.revision() > last_revision, changes);
            last_revision = snapshot.revision();
            prop_assert_eq!(tracker.unexpected_transitions(), model.unexpected);
        }
        for (snapshot, model) in held {
            model.check(&snapshot)?;
        }
    }
}
