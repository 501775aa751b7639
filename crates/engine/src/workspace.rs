//! The seam for a workspace's own state: what the engine restores, applies events to and saves.

use workspace_status::WorkspaceId;

use crate::event::Event;
use crate::store::{Change, StoredEntry};

/// Why a workspace does not apply an event. It then stands at the event, parked,
/// until an operator skips it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Rejection(pub String);

/// The state of one workspace in memory.
///
/// The engine calls [`restore`](Workspace::restore) for each stored entry and
/// [`restored`](Workspace::restored) once, then [`apply`](Workspace::apply) for
/// each event in the order of the log, and from time to time
/// [`take_changes`](Workspace::take_changes), whose result it saves together
/// with the offset reached. An event is never applied twice to a state that
/// was saved after it.
pub trait Workspace: Send + Sync + Sized + 'static {
    /// A workspace with nothing in it.
    fn new(id: &WorkspaceId) -> Self;

    /// Takes one stored entry. Entries come ordered by type, then id.
    ///
    /// # Errors
    /// The entry does not fit; the load ends, and the workspace is parked with this reason.
    fn restore(&mut self, entry: StoredEntry) -> Result<(), Rejection>;

    /// All entries were given.
    fn restored(&mut self) {}

    /// Whether an event can be applied at all, whatever the state of its workspace is. It is asked before an event that
    /// arrives over HTTP is appended: a refused one is a bad line of its request, and is in no log.
    ///
    /// The event is in no log yet: its offset is 0. [`apply`](Workspace::apply) may still reject what is accepted here,
    /// and is also asked to apply events that arrived another way.
    ///
    /// # Errors
    /// No state of a workspace could apply the event; the reason is what the sender reads.
    fn check(event: &Event<'_>) -> Result<(), Rejection> {
        let _ = event;
        Ok(())
    }

    /// Applies one event. On a rejection the state must be as it was before.
    ///
    /// # Errors
    /// The event cannot be applied, now or later: it is a poison event.
    fn apply(&mut self, event: &Event<'_>) -> Result<(), Rejection>;

    /// What changed since the last call, as entries of the store; of two changes of one entry the later counts.
    fn take_changes(&mut self) -> Vec<Change>;

    /// About how many bytes the next [`take_changes`](Workspace::take_changes) gives; until then it only grows. A save
    /// begins before they are too many. Where it is not known, the values of the events count.
    fn changed_bytes(&self) -> Option<u64> {
        None
    }

    /// Number of entries that a store holds which has saved all changes so far: asked right after
    /// [`take_changes`](Workspace::take_changes) and saved with them. A load that finds another number parks the workspace.
    fn entries(&self) -> u64;
}
