//! Decides, without I/O, clock, threads or randomness, what happens to a
//! partition and to each of its workspaces.
//!
//! A driver hands [`Input`]s to a [`Partition`] and does the [`Action`]s that
//! come out. Everything the engine promises about order, saving and readiness
//! is decided here, so that a simulator can live through thousands of lives
//! from one seed and check the promises after each step.

mod position;
mod time;
mod retry;
mod admission;
mod input;
mod action;
mod workspace;
mod partition;

pub use action::{Action, ApplyTo, CommandError, Report, SaveOne, SavePlan};
pub use admission::{Admission, AdmissionLimits, Urgency};
pub use input::{
    AppliedTo, Command, FetchFailure, Input, Known, Lane, Listing, LoadFailure, Poison, Ticket,
    Touched,
};
pub use partition::{Limits, Partition, Position};
pub use position::{Offset, PartitionId};
pub use retry::{Failures, RetryPolicy};
pub use time::Time;
pub use workspace::{Slot, StandsAt};
