//! A change of state to make. It is built completely before the lock of the status is
//! taken.

use std::fmt;
use std::time::{Duration, SystemTime};

use crate::clock::Moment;
use crate::error::{ErrorInfo, ErrorKind};
use crate::id::Epoch;
use crate::message::Message;
use crate::state::State;

/// A change of state to make.
pub(crate) struct StateChange {
    pub(crate) to: State,
    pub(crate) message: Message,
    /// The kind of error, if it enters `error`.
    pub(crate) failure: Failure,
    /// The epoch of the load that begins with it, if one begins.
    pub(crate) epoch: Option<Epoch>,
}

#[derive(Clone, Copy)]
pub(crate) enum Failure {
    Parked,
    Retrying { attempt: u32, after: Duration },
}

impl StateChange {
    pub(crate) fn new(to: State, message: Message) -> Self {
        Self {
            to,
            message,
            failure: Failure::Parked,
            epoch: None,
        }
    }

    pub(crate) fn parked(reason: impl fmt::Display) -> Self {
        Self::new(State::Error, Message::from_display(reason))
    }

    pub(crate) fn retrying(reason: impl fmt::Display, attempt: u32, after: Duration) -> Self {
        Self {
            failure: Failure::Retrying { attempt, after },
            ..Self::parked(reason)
        }
    }
}

impl Failure {
    pub(crate) fn info(self, message: Message, now: Moment) -> ErrorInfo {
        let at: SystemTime = now.wall.to_system();
        let kind = match self {
            Failure::Parked => ErrorKind::Parked,
            Failure::Retrying { attempt, after } => ErrorKind::Retrying {
                attempt,
                next_retry_at: at.checked_add(after).unwrap_or(at),
            },
        };
        ErrorInfo { message, kind, at }
    }
}
