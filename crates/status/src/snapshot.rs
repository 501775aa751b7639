//! A status as it was at one moment.

use std::fmt;
use std::sync::OnceLock;
use std::time::{Duration, SystemTime};

use arcstr::ArcStr;

use crate::absent::{Absence, AbsentFacts, AbsentStatus, LastKnown};
use crate::clock::{Moment, WallNanos};
use crate::error::ErrorInfo;
use crate::history::{Core, HISTORY_CAPACITY};
use crate::id::{Epoch, Revision, WorkspaceId};
use crate::metadata::Metadata;
use crate::progress::ProgressReport;
use crate::state::State;
use crate::transition::Transition;

/// A consistent copy of a status. It shares its memory with the status until the status changes.
///
/// ```
/// use workspace_status::{State, Tracker};
///
/// let status = Tracker::new().get_or_create("a");
/// status.set_state(State::Ready, "ok");
/// let snapshot = status.snapshot();
/// status.set_state(State::Unloading, "moving away");
///
/// assert_eq!((snapshot.state(), snapshot.message()), (State::Ready, "ok"));
/// let entered: Vec<State> = snapshot.state_history().map(|t| t.to_state()).collect();
/// assert_eq!(entered, [State::Ready]);
/// ```
#[derive(Clone)]
pub struct Snapshot {
    core: Core,
    observed: Moment,
    owner: Option<ArcStr>,
    progress: Option<Box<ProgressReport>>,
    /// Built on first use: most readers do not need it.
    history: OnceLock<Box<[Transition]>>,
    /// Set only for a workspace that is not in memory.
    absent: Option<Box<AbsentFacts>>,
}

impl Snapshot {
    pub(crate) fn new(
        core: Core,
        observed: Moment,
        owner: Option<ArcStr>,
        progress: Option<ProgressReport>,
    ) -> Self {
        Self {
            core,
            observed,
            owner,
            progress: progress.map(Box::new),
            history: OnceLock::new(),
            absent: None,
        }
    }

    /// The status of a workspace that is not in memory.
    pub(crate) fn absent(status: &AbsentStatus, observed: Moment) -> Self {
        let since = WallNanos::from_system(status.since);
        let lasts_nanos = observed.wall.0.saturating_sub(since.0);
        let mut core = Core::new(status.id.clone(), status.message.clone(), observed);
        let head = core.edit();
        head.state = State::Unknown;
        head.epoch = status
            .last_known
            .as_ref()
            .map_or(Epoch::new(0), |known| known.epoch);
        head.updated = since;
        head.entered = Moment {
            wall: since,
            monotonic_nanos: observed.monotonic_nanos.saturating_sub(lasts_nanos),
        };
        for (key, value) in &status.metadata {
            // An entry over a bound is left out.
            if let Ok(Some(update)) = head.metadata.plan(&[(*key, value.clone())]) {
                head.metadata.apply(&update);
            }
        }
        let owner = status.owner.as_deref().map(ArcStr::from);
        Self {
            absent: Some(Box::new(AbsentFacts {
                reason: status.reason,
                last_known: status.last_known.clone(),
            })),
            ..Self::new(core, observed, owner, None)
        }
    }

    /// Why the workspace is not in memory; `None` if it is in memory.
    pub fn absence(&self) -> Option<Absence> {
        self.absent.as_ref().map(|absent| absent.reason)
    }

    /// The last known state of a workspace that is not in memory; `None` if it is in memory or nothing
    /// was recorded.
    pub fn last_known(&self) -> Option<&LastKnown> {
        self.absent.as_ref()?.last_known.as_ref()
    }

    /// The workspace's id.
    pub fn workspace_id(&self) -> &str {
        &self.core.head().id
    }

    /// The workspace's id, cheap to clone.
    pub fn id(&self) -> &WorkspaceId {
        &self.core.head().id
    }

    /// The state it is in.
    pub fn state(&self) -> State {
        self.core.head().state
    }

    /// Its current message.
    pub fn message(&self) -> &str {
        &self.core.head().message
    }

    /// The text of [`Snapshot::error`].
    pub fn error_message(&self) -> Option<&str> {
        self.error().map(ErrorInfo::message)
    }

    /// Its error, in `error` only.
    pub fn error(&self) -> Option<&ErrorInfo> {
        self.core.head().error()
    }

    /// Since when it has been in its state, on the wall clock.
    pub fn state_entered(&self) -> SystemTime {
        self.core.head().entered.wall.to_system()
    }

    /// When message, state or metadata was last set, on the wall clock.
    pub fn last_updated(&self) -> SystemTime {
        self.core.head().updated.to_system()
    }

    /// How long it had been in its state when the snapshot was taken, on the monotonic clock.
    pub fn time_in_current_state(&self) -> Duration {
        let entered = self.core.head().entered.monotonic_nanos;
        Duration::from_nanos(self.observed.monotonic_nanos.saturating_sub(entered))
    }

    /// Its metadata.
    pub fn metadata(&self) -> &Metadata {
        &self.core.head().metadata
    }

    /// The last 20 transitions, oldest first.
    pub fn state_history(
        &self,
    ) -> impl ExactSizeIterator<Item = &Transition> + DoubleEndedIterator + Clone {
        let made = || self.core.transitions(HISTORY_CAPACITY).into_boxed_slice();
        self.history.get_or_init(made).iter()
    }

    /// At most `most` of the newest transitions, oldest first. Builds only these, and
    /// builds them again at every call.
    pub fn recent_history(&self, most: usize) -> Vec<Transition> {
        self.core.transitions(most)
    }

    /// Number of all transitions ever.
    pub fn transitions_total(&self) -> u64 {
        self.core.head().sequence
    }

    /// Epoch of its current load.
    pub fn epoch(&self) -> Epoch {
        self.core.head().epoch
    }

    /// Revision of its last change.
    pub fn revision(&self) -> Revision {
        self.core.head().revision
    }

    /// The owner of the workspace, if the tracker knows it.
    pub fn owner(&self) -> Option<&str> {
        self.owner.as_deref()
    }

    /// When the snapshot was taken, on the wall clock.
    pub fn observed_at(&self) -> SystemTime {
        self.observed.wall.to_system()
    }

    /// Progress of the phase that last reported progress.
    pub fn progress(&self) -> Option<ProgressReport> {
        self.progress.as_deref().copied()
    }

    /// When progress was last observed, on the wall clock.
    pub fn last_progress_at(&self) -> Option<SystemTime> {
        self.progress.as_ref()?.last_progress_at()
    }

    /// Whether it is in `ready`.
    pub fn is_ready(&self) -> bool {
        self.state() == State::Ready
    }

    /// Whether it is in `error`.
    pub fn is_error(&self) -> bool {
        self.state() == State::Error
    }

    /// Whether it is neither in `error` nor `unknown`.
    pub fn is_healthy(&self) -> bool {
        self.state().is_healthy()
    }
}

impl fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Snapshot")
            .field("workspace_id", &self.core.head().id)
            .field("state", &self.state())
            .field("message", &self.message())
            .field("epoch", &self.epoch().get())
            .field("revision", &self.revision().get())
            .field("transitions_total", &self.transitions_total())
            .finish_non_exhaustive()
    }
}
