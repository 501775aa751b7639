//! The status of every workspace of a service: its state and since when, why, its progress
//! and its remaining time; with counts by state, a change feed and waits.
//!
//! No I/O, no async runtime. Three lines track a workspace:
//!
//! ```
//! use workspace_status::{State, Tracker};
//!
//! let status = Tracker::global().get_or_create("tenant-1");
//! status.set_state(State::LoadingFromPersistence, "reading the tenant's files");
//! status.set_state(State::Ready, "ok");
//! # assert!(status.is_ready());
//! ```
//!
//! A reader gets a [`Snapshot`], a consistent copy. To be notified of changes, use a
//! [`Watcher`] or wait with [`Tracker::wait`].
//!
//! **Locks.** [`WorkspaceStatus::state`], [`WorkspaceStatus::is_ready`],
//! [`WorkspaceStatus::progress`], [`Tracker::get`] and the counts take no lock. A
//! snapshot holds the lock of its own workspace while it copies one pointer. A writer waits
//! at most for that, and at the end of a phase for one measurement of it. A call that
//! creates or removes a workspace waits while a list copies 512 pointers. A call that
//! begins a phase waits for one round of [`Tracker::sample_progress`]. No caller waits for
//! what a reader does with its copy.
//!
//! **Bounds.** 20 transitions ([`HISTORY_CAPACITY`]), 64 metadata keys
//! ([`METADATA_KEYS`]), messages of 1 KiB ([`MESSAGE_BYTES`]), a feed of a fixed number
//! of changes ([`TrackerBuilder::feed_capacity`]). Only the number of workspaces is left
//! to the caller.

mod state;

mod id;

mod clock;

mod message;

mod metadata;
mod value;

mod estimate;
mod progress;

mod error;

mod history;
mod transition;

mod absent;
mod snapshot;

mod change;
mod counts;
mod ring;
mod shared;
mod sync;
mod wakeups;

mod feed;

mod state_change;
mod workspace_status;

mod attempt;

mod page;
mod tracker;

mod timer;
mod wait;

mod check;

pub use absent::{Absence, AbsentStatus, LastKnown};
pub use attempt::{Attempt, AttemptError, StaleEpoch};
pub use change::{Change, ChangeKind};
pub use check::Check;
pub use clock::{Clock, ManualClock, SystemClock};
pub use error::{ErrorInfo, ErrorKind};
pub use estimate::{Basis, Eta};
pub use feed::{FEED_CAPACITY, FeedItem, Watcher};
pub use history::HISTORY_CAPACITY;
pub use id::{Epoch, InvalidWorkspaceId, Revision, WORKSPACE_ID_BYTES, WorkspaceId};
pub use message::{MESSAGE_BYTES, Message};
pub use metadata::{
    METADATA_KEY_BYTES, METADATA_KEYS, METADATA_STRING_BYTES, Metadata, MetadataError,
};
pub use page::{ErrorCategory, IdPage, Page, PageQuery};
pub use progress::{Progress, ProgressReport, Unit};
pub use snapshot::Snapshot;
pub use state::{State, StateCounts, StateSet, StateTotals, UnknownState};
pub use tracker::{Tracker, TrackerBuilder};
pub use transition::Transition;
pub use value::{Text, Value};
pub use wait::{Condition, Wait, WaitBuilder, WaitOutcome};
pub use workspace_status::WorkspaceStatus;
