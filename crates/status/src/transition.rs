//! A transition, as a reader of a status sees it.

use std::time::{Duration, SystemTime};

use crate::id::Epoch;
use crate::message::Message;
use crate::state::State;

/// One change from a state to another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transition {
    pub(crate) from: State,
    pub(crate) to: State,
    pub(crate) timestamp: SystemTime,
    pub(crate) message: Message,
    pub(crate) epoch: Epoch,
    pub(crate) sequence: u64,
    pub(crate) time_in_from: Duration,
}

impl Transition {
    /// The state that was left.
    pub fn from_state(&self) -> State {
        self.from
    }

    /// The state that was entered.
    pub fn to_state(&self) -> State {
        self.to
    }

    /// When, on the wall clock.
    pub fn timestamp(&self) -> SystemTime {
        self.timestamp
    }

    /// The message with which the state was entered.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// The load it belongs to.
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// Its number among all transitions of the status, from 1.
    pub fn sequence(&self) -> u64 {
        self.sequence
    }

    /// How long the status was in the state that was left, on the monotonic clock, in
    /// whole microseconds.
    pub fn time_in_from(&self) -> Duration {
        self.time_in_from
    }
}
