//! The interface of a workspace type ([`Workspace`]): the state that the engine restores, applies events to and saves.

use std::any::Any;
use std::borrow::Cow;
use std::fmt;

use workspace_lifecycle::Offset;
use workspace_status::WorkspaceId;

use crate::event::Event;
use crate::store::{Change, StoredEntry};

/// Why a workspace does not apply an event. It is then parked at the event until an operator skips it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Rejection(pub String);

impl From<serde_json::Error> for Rejection {
    fn from(error: serde_json::Error) -> Self {
        Self(error.to_string())
    }
}

/// The state of one workspace in memory.
///
/// The engine calls [`restore`](Workspace::restore) for each stored entry and
/// [`restored`](Workspace::restored) once, then [`apply`](Workspace::apply) for
/// each event in the order of the log, and from time to time
/// [`take_changes`](Workspace::take_changes), whose result it saves together
/// with the offset reached. An event is never applied twice to a state that
/// was saved after it.
pub trait Workspace: Any + Send + Sync {
    /// An empty workspace.
    fn new(id: &WorkspaceId) -> Self
    where
        Self: Sized;

    /// Adds one stored entry. Entries arrive ordered by type, then id.
    ///
    /// # Errors
    /// The entry does not fit; the load ends, and the workspace is parked with this reason.
    fn restore(&mut self, entry: StoredEntry) -> Result<(), Rejection>;

    /// Called once after the last entry.
    fn restored(&mut self) {}

    /// Whether an event can be applied at all, whatever the state of its workspace. The engine calls it before it
    /// appends an event that arrives over HTTP: a refused one is a bad line of its request, and is not appended.
    ///
    /// The event is not in a log yet: its offset is 0. [`apply`](Workspace::apply) may still reject what is accepted
    /// here, and also gets events that arrived another way.
    ///
    /// # Errors
    /// No state of a workspace could apply the event; the sender gets the reason.
    fn check(event: &Event<'_>) -> Result<(), Rejection>
    where
        Self: Sized,
    {
        let _ = event;
        Ok(())
    }

    /// Applies one event. On a rejection the state must be as it was before.
    ///
    /// # Errors
    /// The event cannot be applied, now or later: it is a poison event.
    fn apply(&mut self, event: &Event<'_>) -> Result<(), Rejection>;

    /// What changed since the last call, as entries of the store, in order; a later change of an entry replaces an
    /// earlier one.
    fn take_changes(&mut self) -> Vec<Change>;

    /// Approximate bytes that the next [`take_changes`](Workspace::take_changes) returns; until that call it only
    /// grows. The engine saves before it gets too large. If it is `None`, the engine counts the bytes of the applied
    /// events instead.
    fn changed_bytes(&self) -> Option<u64> {
        None
    }

    /// Approximate bytes of memory that it takes. The engine calls it after each batch of its events, so it should not
    /// walk its entities. Where memory is limited, a workspace type without it is evicted as if it were empty.
    fn memory_bytes(&self) -> u64 {
        0
    }

    /// Number of entries in a store that has saved all changes so far. The engine calls it right after
    /// [`take_changes`](Workspace::take_changes) and saves it with them. A load that finds another number parks the
    /// workspace.
    fn entries(&self) -> u64;

    /// Its entities, for readers that do not know its type, such as `GET /api/v1/workspaces/{id}/entities`. `None`, the
    /// default, refuses such reads.
    fn entities(&self) -> Option<&dyn ReadEntities> {
        None
    }
}

/// The entities of a workspace, as readers see them that do not know its type.
pub trait ReadEntities {
    /// Number of entities of each type that has any, ordered by type.
    fn counts(&self) -> Vec<(&str, usize)>;

    /// At most `limit` entities of a type in bytewise order of their ids, beginning after the id `after`.
    fn page(&self, kind: &str, after: Option<&str>, limit: usize) -> Vec<EntityRef<'_>>;

    /// One entity.
    fn get(&self, kind: &str, id: &str) -> Option<EntityRef<'_>>;
}

/// One entity.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EntityRef<'a> {
    /// Its id.
    pub id: &'a str,
    /// Its value as JSON.
    pub data: Cow<'a, [u8]>,
    /// Offset of the event that set it.
    pub offset: Offset,
}

/// A workspace type as a value: the engine's threads and its HTTP server are compiled once for all types.
#[derive(Clone, Copy)]
pub struct WorkspaceType {
    pub(crate) new: fn(&WorkspaceId) -> Box<dyn Workspace>,
    pub(crate) check: fn(&Event<'_>) -> Result<(), Rejection>,
}

impl WorkspaceType {
    /// The type `W`.
    pub fn of<W: Workspace>() -> Self {
        Self {
            new: |id| Box::new(W::new(id)),
            check: W::check,
        }
    }
}

impl fmt::Debug for WorkspaceType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WorkspaceType").finish_non_exhaustive()
    }
}
