//! On simulated progress the real end lies within the bounds of the ETA, and there is no
//! ETA before it is known with confidence.

use std::time::Duration;

use workspace_status::{Basis, ManualClock, Progress, State, Tracker, Unit, WorkspaceStatus};

const TICK: Duration = Duration::from_millis(50);

/// A reproducible random number in 0..1 (`SplitMix64`).
struct Random(u64);

impl Random {
    #[expect(clippy::cast_precision_loss, reason = "53 bits fit")]
    fn next(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ z >> 31) >> 11) as f64 / (1_u64 << 53) as f64
    }
}

struct Phase {
    clock: ManualClock,
    tracker: Tracker,
    status: std::sync::Arc<WorkspaceStatus>,
    progress: Progress,
}

fn phase(total: Option<u64>) -> Phase {
    let clock = ManualClock::new();
    let tracker = Tracker::builder().clock(clock.clone()).build();
    let status = tracker.get_or_create("a");
    status.set_state(State::ReplayingEvents, "replaying");
    let progress = status.start_progress(State::ReplayingEvents, Unit::Positions, total);
    Phase {
        clock,
        tracker,
        status,
        progress,
    }
}

/// The ETAs given during a phase.
#[derive(Debug, Default)]
struct Estimates {
    given: u32,
    true_within: u32,
    first_after: Option<f64>,
    /// The mean of (high - low) / truth while more than 10 s remain.
    width: f64,
    took: f64,
}

/// Runs a phase and keeps all its ETAs.
fn run(total: u64, seed: u64, rate: impl FnMut(f64, &mut Random) -> f64) -> Estimates {
    run_from(0.0, total, seed, rate)
}

/// Runs a phase of `total` at `rate(seconds, random)` per second, and keeps its ETAs from that many seconds on.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "small positive numbers"
)]
fn run_from(
    kept_from: f64,
    total: u64,
    seed: u64,
    mut rate: impl FnMut(f64, &mut Random) -> f64,
) -> Estimates {
    let phase = phase(Some(total));
    let mut random = Random(seed);
    let (mut seconds, mut done, mut carried) = (0.0, 0, 0.0);
    let mut given = Vec::new();
    while done < total {
        phase.clock.advance(TICK);
        seconds += TICK.as_secs_f64();
        assert!(seconds < 100_000.0, "seed {seed} never ends");
        carried += rate(seconds, &mut random) * TICK.as_secs_f64();
        let step = (carried as u64).min(total - done);
        carried -= step as f64;
        done += step;
        phase.progress.add(step);
        phase.tracker.sample_progress();
        let eta = phase.status.progress().unwrap().eta();
        if let Some(eta) = eta.filter(|_| seconds >= kept_from) {
            assert_eq!(eta.basis, Basis::Rate);
            given.push((seconds, eta.low.as_secs_f64(), eta.high.as_secs_f64()));
        }
    }
    let mut estimates = Estimates {
        first_after: given.first().map(|(at, ..)| *at),
        took: seconds,
        ..Estimates::default()
    };
    let mut early: Vec<f64> = Vec::new();
    for (at, low, high) in given {
        estimates.given += 1;
        estimates.true_within += u32::from(at + low <= seconds && seconds <= at + high);
        if seconds - at > 10.0 {
            early.push((high - low) / (seconds - at));
        }
    }
    estimates.width = early.iter().sum::<f64>() / (early.len() as f64).max(1.0);
    estimates
}

#[test]
fn a_steady_rate_has_an_early_narrow_and_true_eta() {
    for (total, rate) in [(100_000, 1000.0), (60, 1.0), (5_000_000, 900_000.0)] {
        let estimates = run(total, 0, |_, _| rate);
        assert_eq!(estimates.true_within, estimates.given, "{estimates:?}");
        assert!(estimates.given > 0, "{estimates:?}");
    }
    let estimates = run(100_000, 0, |_, _| 1000.0);
    assert!(estimates.first_after.unwrap() <= 2.1, "{estimates:?}");
    assert!(estimates.width < 0.35, "{estimates:?}");
    assert!(estimates.given > 1900, "nearly always: {estimates:?}");
}

/// Over many phases, this share of the ETAs must contain the real end.
fn mostly_true(name: &str, share: f64, mut one: impl FnMut(u64) -> Estimates) {
    let (mut given, mut true_within, mut possible, mut width) = (0, 0, 0.0, 0.0);
    for seed in 0..40 {
        let estimates = one(seed);
        given += estimates.given;
        true_within += estimates.true_within;
        possible += estimates.took / TICK.as_secs_f64();
        width += estimates.width / 40.0;
    }
    let came_true = f64::from(true_within) / f64::from(given.max(1));
    let given = f64::from(given) / possible;
    println!("{name}: shown {given:.3} of the time, true {came_true:.4}, width {width:.2}");
    assert!(came_true >= share, "{name}: {came_true} true");
    assert!(given > 0.5, "{name}: shown only {given} of the time");
    assert!(width < 2.0, "{name}: {width} wide");
}

#[test]
fn the_eta_of_a_noisy_rate_is_within_its_bounds() {
    mostly_true("±50 % a tick", 0.999, |seed| {
        run(60_000, seed, |_, random| 1000.0 * (0.5 + random.next()))
    });
    mostly_true("exponential a tick", 0.99, |seed| {
        run(60_000, seed, |_, random| {
            -1000.0 * (1.0 - random.next()).ln()
        })
    });
    mostly_true("batches: nothing, then much", 0.99, |seed| {
        run(60_000, seed, |_, random| {
            if random.next() < 0.1 { 10_000.0 } else { 0.0 }
        })
    });
}

#[test]
fn the_eta_of_a_wandering_rate_is_mostly_right() {
    // About every two seconds the rate changes, to between half and one and a half.
    mostly_true("another rate every 2 s", 0.95, |seed| {
        let mut level = 1.0;
        run(60_000, seed, move |_, random| {
            if random.next() < 0.025 {
                level = 0.5 + random.next();
            }
            1000.0 * level
        })
    });
    // A rate that falls by a third over the phase.
    mostly_true("a falling rate", 0.9, |seed| {
        run(60_000, seed, |seconds, random| {
            1000.0 * (1.0 - (seconds / 240.0).min(0.4)) * (0.9 + 0.2 * random.next())
        })
    });
}

#[test]
fn a_short_phase_has_an_eta_within_its_first_second() {
    for seconds in [2, 3, 4] {
        let estimates = run(seconds * 1000, 0, |_, _| 1000.0);
        assert!(estimates.first_after.unwrap() <= 0.75, "{estimates:?}");
        assert_eq!(estimates.true_within, estimates.given, "{estimates:?}");
    }
}

#[test]
fn the_eta_of_a_short_phase_is_mostly_right() {
    for seconds in [2_u64, 3, 4] {
        mostly_true(&format!("{seconds} s, ±50 % a tick"), 0.99, |seed| {
            let rate = |_, random: &mut Random| 1000.0 * (0.5 + random.next());
            run(seconds * 1000, seed, rate)
        });
        mostly_true(&format!("{seconds} s, a rate that wanders"), 0.95, |seed| {
            let mut level = 1.0;
            run(seconds * 1000, seed, move |_, random| {
                if random.next() < 0.05 {
                    level = 0.5 + random.next();
                }
                1000.0 * level
            })
        });
        // If intervals differ this much, there are few early ETAs.
        for (name, chance) in [("half of the ticks", 0.5), ("a tenth of the ticks", 0.1)] {
            let (mut wrong, mut possible) = (0, 0.0);
            for seed in 0..200 {
                let estimates = run(seconds * 1000, seed, |_, random| {
                    if random.next() < chance {
                        1000.0 / chance
                    } else {
                        0.0
                    }
                });
                wrong += estimates.given - estimates.true_within;
                possible += estimates.took / TICK.as_secs_f64();
            }
            println!("{seconds} s, {name}: {wrong} of {possible:.0} reads were wrong");
            assert!(f64::from(wrong) < possible * 0.01, "{wrong} of {possible}");
        }
    }
}

#[test]
fn after_a_rate_halves_the_eta_is_right_again_at_once_or_absent() {
    for halves_at in [0.4, 0.7, 1.0, 1.5, 2.0] {
        for total in [2000, 3000, 4000] {
            let estimates = run_from(halves_at + 0.5, total, 0, |seconds, _| {
                if seconds > halves_at { 500.0 } else { 1000.0 }
            });
            assert_eq!(
                estimates.true_within, estimates.given,
                "at {halves_at}: {estimates:?}"
            );
        }
    }
}

#[test]
fn no_estimate_is_shown_before_it_is_known() {
    let phase = phase(Some(1_000_000));
    for n in 0..200 {
        let report = phase.status.progress().unwrap();
        let elapsed = TICK * n;
        if elapsed < Duration::from_millis(1900) {
            assert_eq!(report.eta(), None, "after {elapsed:?}");
        }
        if elapsed < Duration::from_millis(200) {
            assert_eq!(report.rate_per_second(), None);
        }
        phase.clock.advance(TICK);
        phase.progress.add(50);
        phase.tracker.sample_progress();
    }
    assert!(phase.status.progress().unwrap().eta().is_some());
    let rate = phase.status.progress().unwrap().rate_per_second().unwrap();
    assert!((rate - 1000.0).abs() < 10.0, "{rate}");
}

#[test]
fn what_stands_still_has_no_eta_and_says_since_when() {
    let phase = phase(Some(1_000_000));
    let tick = |add| {
        phase.clock.advance(TICK);
        phase.progress.add(add);
        phase.tracker.sample_progress();
    };
    (0..100).for_each(|_| tick(50));
    assert!(phase.status.progress().unwrap().eta().is_some());
    let moved = phase.status.snapshot().last_progress_at().unwrap();
    (0..200).for_each(|_| tick(0));
    let report = phase.status.progress().unwrap();
    assert_eq!(report.eta(), None);
    let still = phase.status.snapshot().last_progress_at().unwrap();
    let off = still.duration_since(moved).unwrap();
    assert!(off <= Duration::from_millis(250), "{off:?}");
}

#[test]
fn without_a_total_or_in_another_state_there_is_no_eta() {
    for total in [None, Some(1_000_000)] {
        let phase = phase(total);
        for _ in 0..100 {
            phase.clock.advance(TICK);
            phase.progress.add(50);
            phase.tracker.sample_progress();
        }
        assert_eq!(
            phase.status.progress().unwrap().eta().is_some(),
            total.is_some()
        );
        phase.progress.set_total(2_000_000);
        assert!(phase.status.progress().unwrap().eta().is_some());
        phase.status.set_state(State::Ready, "ok");
        let report = phase.status.progress().unwrap();
        assert_eq!((report.eta(), report.done()), (None, 5000));
    }
}

#[test]
fn a_finished_phase_says_when_it_moved_last() {
    for (unsampled, end) in [(1, State::Ready), (30, State::Ready), (30, State::Error)] {
        let phase = phase(Some(1_000));
        for n in 0..40 {
            phase.clock.advance(TICK);
            phase.progress.add(25);
            if n < 40 - unsampled {
                phase.tracker.sample_progress();
            }
        }
        let moved = phase.tracker.clock().wall();
        phase.status.set_state(end, "over");
        phase.clock.advance(Duration::from_mins(10));
        let report = phase.status.progress().unwrap();
        assert_eq!(report.last_progress_at(), Some(moved));
        let rate = report.rate_per_second().unwrap();
        assert!((rate - 500.0).abs() < 5.0, "{rate}");
        assert_eq!((report.done(), report.eta()), (1_000, None));
    }
    // It ended before the first read.
    let phase = phase(Some(10));
    phase.clock.advance(TICK);
    phase.progress.add(10);
    phase.status.set_state(State::Ready, "ok");
    let moved = phase.tracker.clock().wall();
    phase.clock.advance(TICK);
    let snapshot = phase.status.snapshot();
    assert_eq!(snapshot.last_progress_at(), Some(moved));
}

#[test]
fn a_reader_alone_is_sampler_enough() {
    let phase = phase(Some(100_000));
    let mut given = 0;
    for _ in 0..200 {
        phase.clock.advance(TICK);
        phase.progress.add(50);
        given += u32::from(phase.status.snapshot().progress().unwrap().eta().is_some());
    }
    assert!(given > 150, "{given}");
}

#[test]
fn progress_that_is_set_back_is_measured_again() {
    let phase = phase(Some(100_000));
    let tick = |add| {
        phase.clock.advance(TICK);
        phase.progress.add(add);
        phase.tracker.sample_progress();
    };
    (0..100).for_each(|_| tick(50));
    phase.progress.set(0);
    tick(10);
    (0..5).for_each(|_| tick(10));
    assert_eq!(phase.status.progress().unwrap().eta(), None);
    (0..100).for_each(|_| tick(10));
    let rate = phase.status.progress().unwrap().rate_per_second().unwrap();
    assert!((rate - 200.0).abs() < 5.0, "{rate}");
}

#[test]
fn a_phase_of_hours_has_a_good_eta_in_bounded_memory() {
    // 3 hours, sampled once a second.
    let phase = phase(Some(10_800));
    for second in 0..10_000_u64 {
        phase.clock.advance(Duration::from_secs(1));
        phase.progress.add(1);
        let report = phase.status.progress().unwrap();
        if second > 100 {
            let eta = report.eta().expect("known by now");
            let left = Duration::from_secs(10_799 - second);
            assert!(eta.low <= left && left <= eta.high, "{left:?} in {eta:?}");
        }
    }
}
