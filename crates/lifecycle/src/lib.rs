//! Decides, without I/O, clock, threads or randomness, what happens to a
//! partition and to each of its workspaces.
//!
//! A driver passes [`Input`]s to a [`Partition`] and executes the [`Action`]s
//! that it returns. Everything the engine promises about order, saving and
//! readiness is decided here, so that a simulator can run thousands of lives
//! from one seed and check the promises after each step.
//!
//! A driver must keep these rules:
//! - It executes actions in their order. It passes `Applied` before any other
//!   input, also if one call returned two `Apply` actions.
//! - An answer goes to the machine that requested it. A partition that is assigned
//!   again gets a new machine. Answers to requests of the previous machine go to the
//!   previous machine (which returns its permits) and never to the new one.
//! - It passes the time with every input, and `Tick` when [`Partition::wake_at`]
//!   is reached.

mod action;
mod admission;
mod input;
mod partition;
mod position;
mod retry;
mod time;
mod workspace;

pub use action::{Action, Advance, ApplyTo, CommandError, EraseScope, Report, SaveOne, SavePlan};
pub use admission::{Admission, AdmissionLimits, Urgency};
pub use input::{
    AppliedTo, Command, Deleted, EraseFailure, FetchFailure, Input, Known, Lane, Listing,
    LoadFailure, Poison, Refusal, Refused, StateAfter, Ticket, Touched,
};
pub use partition::{Holder, Limits, Partition, Position};
pub use position::{Offset, PartitionId};
pub use retry::{Failures, RetryPolicy};
pub use time::Time;
pub use workspace::{Residence, Slot, StoppedAt};

#[cfg(test)]
mod tests {
    /// Fails when a dependency is added: check that the new one does no I/O before you extend the list.
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
