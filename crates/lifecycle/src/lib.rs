//! Decides, without I/O, clock, threads or randomness, what happens to a
//! partition and to each of its workspaces.
//!
//! A driver hands [`Input`]s to a [`Partition`] and does the [`Action`]s that
//! come out. Everything the engine promises about order, saving and readiness
//! is decided here, so that a simulator can live through thousands of lives
//! from one seed and check the promises after each step.
//!
//! What a driver has to keep for this to hold:
//! - Actions are done in their order. `Applied` is handed in before any other
//!   input, also where one answer wanted two batches applied.
//! - An answer goes to the machine that asked. A partition that is assigned anew
//!   has a new machine; what is still under way for the one before is handed to
//!   that one (it returns its permits) and never to the new.
//! - Time is handed in with every input, and `Tick` when [`Partition::wake_at`]
//!   is reached.

mod action;
mod admission;
mod input;
mod partition;
mod position;
mod retry;
mod time;
mod workspace;

pub use action::{Action, Advance, ApplyTo, CommandError, Erasure, Report, SaveOne, SavePlan};
pub use admission::{Admission, AdmissionLimits, Urgency};
pub use input::{
    AppliedTo, Command, Deleted, EraseFailure, FetchFailure, Input, Known, Lane, Listing,
    LoadFailure, Poison, Refusal, Refused, StateAfter, Ticket, Touched,
};
pub use partition::{Holder, Limits, Partition, Position};
pub use position::{Offset, PartitionId};
pub use retry::{Failures, RetryPolicy};
pub use time::Time;
pub use workspace::{Slot, StandsAt};

#[cfg(test)]
mod tests {
    /// Whoever adds a dependency looks here first, and at what it does.
    #[test]
    fn the_machine_depends_on_nothing_that_does_io() {
        let manifest = include_str!("../Cargo.toml");
        let (_, dependencies) = manifest.split_once("[dependencies]").unwrap();
        let dependencies: Vec<&str> = dependencies
            .lines()
            .take_while(|line| !line.starts_with('['))
            .filter_map(|line| line.split_once('.'))
            .map(|(name, _)| name)
            .collect();
        assert_eq!(dependencies, ["thiserror", "workspace-status"]);
    }
}
