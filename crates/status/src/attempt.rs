//! A load of a workspace: the right to write its status until a later load begins.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::id::Epoch;
use crate::message::Message;
use crate::metadata::MetadataError;
use crate::progress::{Progress, Unit};
use crate::state::State;
use crate::state_change::StateChange;
use crate::value::Value;
use crate::workspace_status::{Locked, WorkspaceStatus};

/// One load of a workspace, begun with [`WorkspaceStatus::begin_attempt`]. Everything it
/// writes is refused once a later load has begun, so that a loader that was slow, or was
/// considered dead, never overwrites the status of its successor.
///
/// ```
/// use workspace_status::{AttemptError, Epoch, State, Tracker};
///
/// let status = Tracker::new().get_or_create("a");
/// let slow = status.begin_attempt(Epoch::new(7), "first try")?;
/// let next = status.begin_attempt(Epoch::new(8), "second try")?;
/// assert!(matches!(slow.set_state(State::Ready, "done"), Err(AttemptError::Stale { .. })));
/// assert!(next.set_state(State::Ready, "done").is_ok());
/// # Ok::<(), workspace_status::StaleEpoch>(())
/// ```
#[derive(Debug, Clone)]
pub struct Attempt {
    status: Arc<WorkspaceStatus>,
    epoch: Epoch,
}

/// Metadata set as one change without an allocation; the engine sets at most five.
const FEW: usize = 8;

impl WorkspaceStatus {
    /// Begins a load: enters `initializing` in `epoch`. Writes of attempts of earlier epochs
    /// are refused from now on.
    ///
    /// # Errors
    /// If `epoch` is not above the current one. A new status (empty history, no load begun)
    /// accepts the current one once.
    pub fn begin_attempt(
        self: &Arc<Self>,
        epoch: Epoch,
        message: impl Into<Message>,
    ) -> Result<Attempt, StaleEpoch> {
        self.begin_epoch(epoch, message.into())
            .map_err(|current| StaleEpoch {
                attempt: epoch,
                current,
            })?;
        Ok(Attempt {
            status: Arc::clone(self),
            epoch,
        })
    }
}

impl Attempt {
    /// Its epoch.
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// The status it writes to.
    pub fn status(&self) -> &Arc<WorkspaceStatus> {
        &self.status
    }

    /// Whether no later load has begun.
    pub fn is_current(&self) -> bool {
        self.lock().is_ok()
    }

    /// See [`WorkspaceStatus::set_state`]. Setting `initializing` from another state
    /// begins the next epoch, which is not this attempt's.
    ///
    /// # Errors
    /// If a later load has begun.
    pub fn set_state(&self, state: State, message: impl Into<Message>) -> Result<(), AttemptError> {
        self.enter(StateChange::new(state, message.into()))
    }

    /// See [`WorkspaceStatus::set_parked`].
    ///
    /// # Errors
    /// If a later load has begun.
    pub fn set_parked(&self, reason: impl fmt::Display) -> Result<(), AttemptError> {
        self.enter(StateChange::parked(reason))
    }

    /// See [`WorkspaceStatus::set_retrying`].
    ///
    /// # Errors
    /// If a later load has begun.
    pub fn set_retrying(
        &self,
        reason: impl fmt::Display,
        attempt: u32,
        next_retry_in: Duration,
    ) -> Result<(), AttemptError> {
        self.enter(StateChange::retrying(reason, attempt, next_retry_in))
    }

    /// See [`WorkspaceStatus::update_metadata`].
    ///
    /// # Errors
    /// If a later load has begun, or the metadatum is over a bound.
    pub fn update_metadata(&self, key: &str, value: impl Into<Value>) -> Result<(), AttemptError> {
        let value = value.into();
        Ok(self.status.write_metadata(self.lock()?, &[(key, value)])?)
    }

    /// Sets several metadata as one change, in order; all or none.
    ///
    /// # Errors
    /// If a later load has begun, or a metadatum is over a bound.
    pub fn update_metadata_many<'a>(
        &self,
        entries: impl IntoIterator<Item = (&'a str, Value)>,
    ) -> Result<(), AttemptError> {
        // Collected before the lock is taken: the iterator is the caller's. A report of a few needs no allocation.
        let mut entries = entries.into_iter().fuse();
        let mut few = [const { ("", Value::Bool(false)) }; FEW];
        let mut count = 0;
        for (slot, entry) in few.iter_mut().zip(entries.by_ref()) {
            *slot = entry;
            count += 1;
        }
        let more: Vec<_> = entries.collect();
        let few = few.get(..count).unwrap_or_default();
        if more.is_empty() {
            return Ok(self.status.write_metadata(self.lock()?, few)?);
        }
        let all = [few, &more].concat();
        Ok(self.status.write_metadata(self.lock()?, &all)?)
    }

    /// See [`WorkspaceStatus::start_progress`].
    ///
    /// # Errors
    /// If a later load has begun.
    pub fn start_progress(
        &self,
        phase: State,
        unit: Unit,
        total: Option<u64>,
    ) -> Result<Progress, AttemptError> {
        let locked = self.lock()?;
        Ok(self.status.replace_progress(locked, phase, unit, total))
    }

    fn enter(&self, state_change: StateChange) -> Result<(), AttemptError> {
        self.status.enter_locked(self.lock()?, state_change);
        Ok(())
    }

    fn lock(&self) -> Result<Locked<'_>, AttemptError> {
        let epoch = self.epoch;
        self.status
            .lock_for(epoch)
            .map_err(|current| AttemptError::Stale {
                attempt: epoch,
                current,
            })
    }
}

/// A load cannot begin in this epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("epoch {attempt} is not above the current epoch {current} of the workspace")]
pub struct StaleEpoch {
    /// The requested epoch.
    pub attempt: Epoch,
    /// The epoch the workspace is in.
    pub current: Epoch,
}

/// Why a write of an attempt is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AttemptError {
    /// A later load has begun: stop loading.
    #[error("the load of epoch {attempt} is stale, the workspace is in epoch {current}")]
    Stale {
        /// The epoch of the attempt.
        attempt: Epoch,
        /// The epoch the workspace is in.
        current: Epoch,
    },
    /// A metadatum is over a bound; the attempt stays valid.
    #[error(transparent)]
    Metadata(#[from] MetadataError),
}

impl From<StaleEpoch> for AttemptError {
    fn from(StaleEpoch { attempt, current }: StaleEpoch) -> Self {
        AttemptError::Stale { attempt, current }
    }
}
