//! Simulates thousands of lives of the state machine, each from one seed.
//!
//! The world around the machine is a model: logs, a store (what it has
//! answered, and what would survive a power loss), processes with their permits
//! and answers in flight, operators, a group that assigns partitions. One step
//! is one event somewhere; after each step the promises are checked.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test: what cannot be is to end it at once"
)]

mod desk;
mod driver;
mod env;
mod log;
mod random;
mod recovery;
mod rules;
mod sabotage;
mod shown;
mod store;
mod world;

use std::fmt;

pub(crate) use env::Tally;
pub(crate) use rules::{Rule, Violation};
pub(crate) use sabotage::Sabotage;

/// A life in which a promise was broken.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) seed: u64,
    pub(crate) step: u64,
    pub(crate) violation: Violation,
    /// The last lines of the trace, if it was traced.
    pub(crate) trace: Vec<String>,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for line in &self.trace {
            writeln!(f, "{line}")?;
        }
        let step = if self.step == world::FAULTS_END {
            "after the faults".to_owned()
        } else {
            format!("at step {}", self.step)
        };
        write!(
            f,
            "seed {} breaks a promise {step}: {}",
            self.seed, self.violation
        )
    }
}

/// How much of a life is traced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Traced {
    Nothing,
    /// The last lines.
    End,
    Whole,
}

/// Which faults a life may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FaultSet {
    /// Those that existed when the first seeds were kept by name, so that these seeds give the same lives as then.
    First,
    All,
}

/// Simulates one life. A life that breaks a promise is simulated again with a trace.
pub(crate) fn run(seed: u64, sabotage: Sabotage, faults: FaultSet) -> Result<Tally, Box<Failure>> {
    match live(seed, sabotage, faults, Traced::Nothing) {
        Ok((tally, _)) => Ok(tally),
        Err(failure) => match live(seed, sabotage, faults, Traced::End) {
            Err(traced) if traced.violation == failure.violation => Err(traced),
            other => panic!("seed {seed} is not the same twice: {failure}, then {other:?}"),
        },
    }
}

/// Simulates one life and returns its tally and trace.
pub(crate) fn live(
    seed: u64,
    sabotage: Sabotage,
    faults: FaultSet,
    traced: Traced,
) -> Result<(Tally, Vec<String>), Box<Failure>> {
    let mut world = world::World::new(seed, sabotage, faults, traced);
    let lived = world.live();
    let trace = world.env.take_trace();
    match lived {
        Ok(()) => Ok((world.env.tally, trace)),
        Err(violation) => Err(Box::new(Failure {
            seed,
            step: world.step,
            violation,
            trace,
        })),
    }
}
