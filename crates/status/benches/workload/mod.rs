//! The life of every workspace in the benches: 20 transitions with the messages of a
//! loader, some of them with numbers.

use workspace_status::State;

/// Calls `set` with every state and message of a life of 20 transitions; `n` is the
/// workspace's number.
pub(crate) fn live(n: usize, mut set: impl FnMut(State, &str)) {
    let entities = n % 50;
    let read = format!("reading {entities} entities");
    let replay = format!("replaying to offset {}", (n % 50) * 1000);
    for _ in 0..3 {
        set(State::LoadingKafkaPartitions, "waiting for a load permit");
        set(State::LoadingFromPersistence, "opening the store");
        set(State::RestoringFromSnapshot, &read);
        set(State::ReplayingEvents, &replay);
        set(State::Ready, "target reached");
        set(State::Unloading, "revoked by the group coordinator");
        set(State::Initializing, "assigned again");
    }
}

/// One load and its end, for statuses that are changed repeatedly.
pub(crate) const ROUND: [(State, &str); 7] = [
    (State::LoadingKafkaPartitions, "waiting for a load permit"),
    (State::LoadingFromPersistence, "opening the store"),
    (State::RestoringFromSnapshot, "restoring 120 entities"),
    (State::ReplayingEvents, "replaying to offset 4711"),
    (State::Ready, "target reached"),
    (State::Unloading, "revoked by the group coordinator"),
    (State::Initializing, "assigned again"),
];

pub(crate) fn id(n: usize) -> String {
    format!("workspace-{n:07}")
}

/// The metadata of a load as the engine reports it: what it knows at the start, …
pub(crate) const TOPIC: (&str, &str) = ("topic", "events");
pub(crate) const COUNTED: [&str; 3] = ["partition", "changes_loaded", "events_total"];
/// … and what changes while it replays.
pub(crate) const PHASE: &str = "partition_status";
pub(crate) const REPORTED: [&str; 4] = [
    "partition_offset",
    "events_processed",
    "events_replayed",
    "progress_percent",
];
