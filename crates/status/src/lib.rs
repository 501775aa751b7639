//! Where every workspace of a service stands: its state and since when, why, how far it
//! is and how long it still takes; with counts by state, a change feed and waits.
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
//! Everybody who asks gets a [`Snapshot`], a consistent copy; whoever wants to know of
//! changes takes a [`Watcher`] or waits with [`Tracker::wait`].
//!
//! **Who waits for whom.** [`WorkspaceStatus::state`], [`WorkspaceStatus::is_ready`],
//! [`WorkspaceStatus::progress`], [`Tracker::get`] and the counts take no lock. A
//! snapshot holds the lock of its own workspace while it copies one pointer. Writers wait
//! for no more than that, and where a phase ends, for one measurement of it; those who
//! make or remove a workspace, while a list copies 512 pointers; those who begin a phase,
//! for one round of [`Tracker::sample_progress`]. What a reader then does with its copy,
//! and how long that takes, nobody waits for.
//!
//! **Bounds.** 20 transitions ([`HISTORY_CAPACITY`]), 64 metadata keys
//! ([`METADATA_KEYS`]), messages of 1 KiB ([`MESSAGE_BYTES`]), a feed of a fixed number
//! of changes ([`TrackerBuilder::feed_capacity`]). Only the number of workspaces is the
//! caller's affair.

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

pub use absent::{Absence, AbsentStatus, LastKnown};
pub use attempt::{Attempt, AttemptError, StaleEpoch};
pub use change::{Change, ChangeKind};
pub use clock::{Clock, ManualClock, SystemClock};
pub use error::{ErrorInfo, ErrorKind};
pub use estimate::{Basis, Eta};
pub use feed::{FEED_CAPACITY, FeedItem, Watcher};
pub use history::{HISTORY_CAPACITY, Transition};
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
pub use value::{Text, Value};
pub use wait::{Condition, Wait, WaitBuilder, WaitOutcome};
pub use workspace_status::WorkspaceStatus;
