//! A workspace in memory, as readers see it.

use std::any::Any;
use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::RwLock;
use workspace_lifecycle::Offset;
use workspace_status::WorkspaceId;

use crate::memory::{Memory, MemoryShare, WORKSPACE_BYTES};
use crate::panics::caught;
use crate::workspace::Workspace;

/// Position of a partition's live lane, shared by the workspaces that follow it.
#[derive(Debug, Default)]
pub(crate) struct LivePosition(AtomicU64);

impl LivePosition {
    pub(crate) fn set(&self, position: Offset) {
        self.0.store(position.0, Ordering::Release);
    }

    fn get(&self) -> Offset {
        Offset(self.0.load(Ordering::Acquire))
    }
}

/// What a workspace has applied at the time of a read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Applied {
    /// First offset not applied; events of other workspaces count as applied.
    pub next_offset: Offset,
    /// Events applied since the workspace was created.
    pub events_applied: u64,
}

/// A workspace of type `W` in memory; `dyn Workspace` where its type is not known. A read waits at most for one batch of
/// its own events to be applied, and for an earlier read that this batch waits for.
pub struct LoadedWorkspace<W: ?Sized> {
    resident: Arc<Resident>,
    workspace_type: PhantomData<W>,
}

impl<W: ?Sized> fmt::Debug for LoadedWorkspace<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("LoadedWorkspace").field(self.id()).finish()
    }
}

impl<W: ?Sized> LoadedWorkspace<W> {
    /// `resident` is of type `W`.
    pub(crate) fn new(resident: Arc<Resident>) -> Self {
        Self {
            resident,
            workspace_type: PhantomData,
        }
    }

    /// Id of the workspace.
    pub fn id(&self) -> &WorkspaceId {
        &self.resident.id
    }

    /// What it has applied.
    pub fn applied(&self) -> Applied {
        self.resident.read(|_, applied| applied)
    }
}

impl<W: Workspace> LoadedWorkspace<W> {
    /// Reads the state together with what it has applied.
    ///
    /// # Panics
    /// If `read` does.
    pub fn read<T>(&self, read: impl FnOnce(&W, Applied) -> T) -> T {
        self.resident.memory.touch();
        self.resident.read(|workspace, applied| {
            let workspace = (workspace as &dyn Any).downcast_ref();
            #[expect(
                clippy::expect_used,
                reason = "an `Engine<W>` makes each workspace by `W::new`"
            )]
            read(workspace.expect("of type W"), applied)
        })
    }
}

impl LoadedWorkspace<dyn Workspace> {
    /// Reads the state together with what it has applied.
    pub fn read_any<T>(&self, read: impl FnOnce(&dyn Workspace, Applied) -> T) -> T {
        self.resident.memory.touch();
        self.resident.read(read)
    }
}

/// A workspace in memory, shared by its driver and its readers.
pub(crate) struct Resident {
    id: WorkspaceId,
    state: RwLock<(Box<dyn Workspace>, Applied)>,
    live: Arc<LivePosition>,
    follows_live: AtomicBool,
    memory: MemoryShare,
}

impl Resident {
    pub(crate) fn new(
        id: WorkspaceId,
        workspace: Box<dyn Workspace>,
        applied: Applied,
        live: Arc<LivePosition>,
        memory: &Arc<Memory>,
    ) -> Self {
        let memory = MemoryShare::new(memory, bytes_of(&*workspace));
        Self {
            id,
            memory,
            state: RwLock::new((workspace, applied)),
            live,
            follows_live: AtomicBool::new(false),
        }
    }

    pub(crate) fn id(&self) -> &WorkspaceId {
        &self.id
    }

    pub(crate) fn memory(&self) -> &MemoryShare {
        &self.memory
    }

    /// Whether it is caught up. One that is stopped at an event stays in memory.
    pub(crate) fn may_be_evicted(&self) -> bool {
        self.follows_live.load(Ordering::Acquire)
    }

    fn read<T>(&self, read: impl FnOnce(&dyn Workspace, Applied) -> T) -> T {
        let passed = self.passed();
        let state = self.state.read();
        let (workspace, applied) = &*state;
        read(
            &**workspace,
            Applied {
                next_offset: applied.next_offset.max(passed),
                ..*applied
            },
        )
    }

    /// What it has applied.
    pub(crate) fn applied(&self) -> Applied {
        self.read(|_, applied| applied)
    }

    /// Read before the state is locked: everything that the lane had passed by then is in the state. The position is
    /// read before the flag: a workspace that leaves the lane clears its flag before the lane passes an event that it
    /// did not apply.
    fn passed(&self) -> Offset {
        let live = self.live.get();
        if self.follows_live.load(Ordering::Acquire) {
            live
        } else {
            Offset::ZERO
        }
    }

    pub(crate) fn set_follows_live(&self, follows: Following) {
        self.follows_live
            .store(follows == Following::Live, Ordering::Release);
    }

    pub(crate) fn write<T>(&self, write: impl FnOnce(&mut dyn Workspace, &mut Applied) -> T) -> T {
        let mut state = self.state.write();
        let (workspace, applied) = &mut *state;
        let result = write(&mut **workspace, applied);
        self.memory.resize(bytes_of(&**workspace));
        result
    }
}

/// What a workspace counts against the memory limit. A workspace type that panics counts as empty.
fn bytes_of(workspace: &dyn Workspace) -> u64 {
    let bytes = caught("measuring it", || workspace.memory_bytes());
    WORKSPACE_BYTES.saturating_add(bytes.unwrap_or_default())
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Following {
    Live,
    Not,
}
