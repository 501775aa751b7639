//! Why a workspace is in `error`, and what happens next.

use std::time::SystemTime;

use crate::message::Message;

/// What happens to a workspace in `error`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// It is retried automatically.
    Retrying {
        /// How many attempts have failed, from 1.
        attempt: u32,
        /// When the next one starts.
        next_retry_at: SystemTime,
    },
    /// An operator must act; the message says how.
    Parked,
}

impl ErrorKind {
    /// `retrying` or `parked`.
    pub const fn as_str(self) -> &'static str {
        match self {
            ErrorKind::Retrying { .. } => "retrying",
            ErrorKind::Parked => "parked",
        }
    }
}

/// The error of a workspace in `error`; there is none in any other state.
///
/// ```
/// use workspace_status::{ErrorKind, Tracker};
///
/// let status = Tracker::new().get_or_create("a");
/// status.set_error("the disk is full");
/// let snapshot = status.snapshot();
/// let error = snapshot.error().unwrap();
/// assert_eq!(error.kind(), ErrorKind::Parked);
/// assert_eq!(error.message(), "the disk is full");
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ErrorInfo {
    pub(crate) message: Message,
    pub(crate) kind: ErrorKind,
    pub(crate) at: SystemTime,
}

impl ErrorInfo {
    /// What went wrong.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// Whether it is retried or parked.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// When it was last reported, on the wall clock.
    pub fn at(&self) -> SystemTime {
        self.at
    }
}
