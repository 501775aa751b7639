//! The simulator as a test: many lives, lives that found bugs, and rules broken on purpose.
//!
//! A failing seed is printed with its step and the last lines of its trace. To repeat it:
//! `cargo run -p workspace-lifecycle --example simulate -- --seed N --trace`.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "helpers of tests, outside of a test function"
)]

mod simulator;

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use simulator::{Failure, FaultSet, Rule, Sabotage, Tally, run};

/// Simulates the lives of these seeds on all cores and returns the sum of their tallies.
fn live_all(first: u64, seeds: u64) -> Tally {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let next = AtomicU64::new(first);
    let result: Mutex<(Tally, Option<Box<Failure>>)> = Mutex::default();
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= first + seeds {
                        break;
                    }
                    let lived = run(seed, Sabotage::None, FaultSet::All);
                    let mut result = result.lock().unwrap();
                    match lived {
                        Ok(tally) => tally.into_iter().for_each(|(what, times)| {
                            *result.0.entry(what).or_default() += times;
                        }),
                        Err(failure) => result.1 = Some(failure),
                    }
                }
            });
        }
    });
    let (tally, failure) = result.into_inner().unwrap();
    if let Some(failure) = failure {
        panic!("{failure}");
    }
    tally
}

#[track_caller]
fn lives_well(seed: u64) {
    if let Err(failure) = run(seed, Sabotage::None, FaultSet::First) {
        panic!("{failure}");
    }
}

#[test]
fn three_thousand_lives_keep_every_promise_and_meet_every_fault() {
    let tally = live_all(0, 3000);
    println!("{tally:#?}");
    // A simulation without faults proves nothing.
    for faults in [
        "advances",
        "commands done",
        "commands refused",
        "changelogs lost",
        "crashes",
        "cut off",
        "deletions",
        "entries damaged",
        "erasures failed",
        "events applied",
        "events skipped",
        "evictions",
        "fetches failed",
        "ends lost",
        "lists failed",
        "loads",
        "loads failed",
        "lost",
        "parked",
        "permits returned",
        "power losses",
        "ready",
        "released",
        "resets",
        "retries",
        "revoked",
        "saves",
        "saves failed",
        "saves refused",
        "syncs",
        "trims",
        "zombies",
    ] {
        assert!(
            tally.get(faults).is_some_and(|times| *times >= 10),
            "too few: {faults}"
        );
    }
}

/// Lives that found bugs, with the defect each of them found.
#[test]
fn what_lies_before_a_damaged_record_is_not_passed_over() {
    // A read that failed at a record in the middle of a batch moved all workspaces to that record.
    [34, 42, 134].into_iter().for_each(lives_well);
}

#[test]
fn a_round_that_ends_while_the_live_lane_applies_loses_no_event() {
    // Its workspaces then followed the live lane, but that lane's batch had been planned without them.
    [922, 1971, 2688, 3021].into_iter().for_each(lives_well);
}

#[test]
fn a_lane_that_failed_does_not_spin_while_a_save_must_come_first() {
    // It stayed failed, so `wake_at` was in the past until the save was done.
    [31, 73, 143].into_iter().for_each(lives_well);
}

#[test]
fn a_round_that_ends_makes_room_for_the_next_at_once() {
    // The machine checked for the next round before the last one ended, and again only at the next input.
    [1, 9, 12].into_iter().for_each(lives_well);
}

#[test]
fn a_workspace_that_is_removed_is_shown_unloading_first() {
    // A workspace that was not in memory, or on a lost partition, was removed without `unloading`.
    [1, 17, 18].into_iter().for_each(lives_well);
}

#[test]
fn a_workspace_whose_save_was_refused_is_loaded_again() {
    // A late claim of a previous owner had taken it over, and the current owner left it cold for ever.
    [298, 322, 383].into_iter().for_each(lives_well);
}

#[test]
fn events_of_a_workspace_taken_over_hold_up_no_other() {
    // They counted as unsaved for ever, and with too many unsaved events nothing was fetched any more.
    lives_well(114_911);
}

#[test]
fn a_skip_that_is_answered_outlives_a_crash() {
    // It was answered before it was saved, so a crash brought the workspace back to the event.
    [0, 3, 8].into_iter().for_each(lives_well);
}

#[test]
fn the_same_seed_is_the_same_life() {
    for seed in 0..20 {
        let delivered = || {
            simulator::live(
                seed,
                Sabotage::None,
                FaultSet::All,
                simulator::Traced::Whole,
            )
            .unwrap()
            .1
        };
        assert_eq!(delivered(), delivered(), "seed {seed}");
    }
}

/// Rules broken on purpose: the rule, the promise that the checks must report as
/// broken, and the first of the seeds to try.
const BROKEN_RULES: [(Sabotage, Rule, u64); 32] = [
    (Sabotage::NextOffsetSavedBeforeChanges, Rule::StoreIsFold, 0),
    (Sabotage::ReadyBeforeTarget, Rule::Ready, 0),
    (Sabotage::TrimAboveSaved, Rule::Trim, 0),
    (Sabotage::TrimBeforeSync, Rule::Trim, 0),
    (Sabotage::CommittedIgnoresUnclaimed, Rule::Committed, 0),
    (Sabotage::AppliesBelowNextOffset, Rule::MemoryIsFold, 0),
    (Sabotage::SavesAreNotFenced, Rule::EpochsGrow, 0),
    (Sabotage::FailedSaveForgetsChanges, Rule::StoreIsFold, 0),
    (Sabotage::PoisonIsSwallowed, Rule::PoisonIsKept, 0),
    (Sabotage::SkipIsNotKept, Rule::PoisonIsKept, 0),
    (Sabotage::PermitLeaks, Rule::Permits, 0),
    (Sabotage::ListBeforeCommitted, Rule::Settles, 123_700),
    (Sabotage::LoadIgnoresNewerEpoch, Rule::MemoryIsFold, 3_000),
    (Sabotage::SaveAnswerIsLost, Rule::Settles, 0),
    (Sabotage::RefusedCountsAsSaved, Rule::StoreIsFold, 0),
    (Sabotage::BrokenStateIsKept, Rule::MemoryIsFold, 0),
    (Sabotage::DeletionMarkIsIgnored, Rule::DeletedStays, 200),
    (Sabotage::MarksAreNotListed, Rule::Settles, 200),
    (Sabotage::ErasureIsNotSynced, Rule::DeletedStays, 300),
    (Sabotage::ResetDoesNotWaitForTrim, Rule::Trim, 600),
    (Sabotage::DeletionEndsTooEarly, Rule::DeletedStays, 0),
    (Sabotage::EventsOfTheColdAreNotNamed, Rule::StoreIsFold, 0),
    (Sabotage::AdvancesAreNotSaved, Rule::Settles, 1_100),
    (Sabotage::FailedErasureCountsAsNotDone, Rule::Trim, 4_400),
    (
        Sabotage::FailedErasureCountsAsNotDone,
        Rule::Committed,
        5_100,
    ),
    (Sabotage::AdvancesAreNotFenced, Rule::StoreIsFold, 12_100),
    (Sabotage::LossIsPassedInSilence, Rule::PoisonIsKept, 0),
    (Sabotage::ResetIgnoresLoss, Rule::NothingLost, 500),
    (Sabotage::OffsetOutlivesTheChangelog, Rule::NothingLost, 0),
    (Sabotage::OldOwnersWriteOn, Rule::NothingLost, 0),
    (Sabotage::EvictedBeforeItIsSaved, Rule::StoreIsFold, 0),
    (Sabotage::EvictedSkipsItsEvents, Rule::Ready, 0),
];

#[test]
fn every_rule_that_is_broken_on_purpose_is_caught() {
    for sabotage in Sabotage::ALL {
        let is_tried = BROKEN_RULES.iter().any(|(tried, ..)| *tried == sabotage);
        assert!(is_tried, "{sabotage:?}");
    }
    for (sabotage, rule, first) in BROKEN_RULES {
        let mut failures = [FaultSet::First, FaultSet::All]
            .into_iter()
            .flat_map(|faults| (first..first + 200).map(move |seed| (seed, faults)))
            .filter_map(|(seed, faults)| run(seed, sabotage, faults).err());
        let caught = failures.find(|failure| failure.violation.rule == rule);
        let failure = caught.unwrap_or_else(|| panic!("{sabotage:?} is not caught as {rule:?}"));
        println!(
            "{sabotage:?} is caught by seed {}: {}",
            failure.seed, failure.violation
        );
    }
}
