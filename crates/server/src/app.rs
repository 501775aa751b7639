//! What all handlers of the engine's routes share, and the one place that holds the engine's handle.
//!
//! The HTTP server answers before the engine is there: opening a log after a crash takes seconds,
//! in which a status is `unknown` and not a refused connection.

use crate::{config::HttpLimits, problems};
use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::timeout_at,
};
use workspace_engine_core::{Engine, Entities, loaded::LoadedWorkspace};
use workspace_lifecycle::Command;
use workspace_status::{Condition, State, StateSet, Tracker, WaitOutcome, WorkspaceId};
use workspace_status_http::Problem;

/// Unit in which memory for bodies is counted, so that it fits a semaphore.
const MEMORY_UNIT_BYTES: usize = 1024;

/// A workspace in memory.
pub(crate) type Loaded = Arc<LoadedWorkspace<Entities>>;

/// Shared by all handlers; clones are the same.
#[derive(Clone)]
pub(crate) struct App(Arc<Inner>);

struct Inner {
    tracker: Tracker,
    limits: HttpLimits,
    engine: OnceLock<Engine>,
    stopping: AtomicBool,
    event_memory: Arc<Semaphore>,
}

impl App {
    /// What is shared before the engine is there.
    pub(crate) fn new(tracker: Tracker, limits: HttpLimits) -> Self {
        let units = limits.event_memory_bytes / MEMORY_UNIT_BYTES;
        Self(Arc::new(Inner {
            tracker,
            event_memory: Arc::new(Semaphore::new(units.min(Semaphore::MAX_PERMITS))),
            limits,
            engine: OnceLock::new(),
            stopping: AtomicBool::new(false),
        }))
    }

    /// The engine is there; only the first one counts.
    pub(crate) fn set_engine(&self, engine: Engine) {
        // There is one engine a process.
        let _ = self.0.engine.set(engine);
    }

    /// The engine stops: nothing new is taken.
    pub(crate) fn stop(&self) {
        self.0.stopping.store(true, Ordering::Release);
    }

    /// Whether the engine stops.
    pub(crate) fn is_stopping(&self) -> bool {
        self.0.stopping.load(Ordering::Acquire)
    }

    pub(crate) fn tracker(&self) -> &Tracker {
        &self.0.tracker
    }

    pub(crate) fn limits(&self) -> &HttpLimits {
        &self.0.limits
    }

    /// The engine where it is there.
    pub(crate) fn engine_if_up(&self) -> Option<&Engine> {
        self.0.engine.get()
    }

    /// The engine, to read from.
    pub(crate) fn engine(&self) -> Result<&Engine, Problem> {
        self.engine_if_up().ok_or_else(problems::starting)
    }

    /// The engine, to change something.
    pub(crate) fn working_engine(&self) -> Result<&Engine, Problem> {
        if self.is_stopping() {
            return Err(problems::stopping());
        }
        self.engine()
    }

    /// Memory for a body of so many bytes, given back when dropped; `None` where there is too little now.
    pub(crate) fn reserve_memory(&self, bytes: usize) -> Option<OwnedSemaphorePermit> {
        let units = u32::try_from(bytes.div_ceil(MEMORY_UNIT_BYTES)).unwrap_or(u32::MAX);
        Arc::clone(&self.0.event_memory)
            .try_acquire_many_owned(units)
            .ok()
    }

    /// Does something that blocks, such as reading a disk, where it holds up no other request.
    pub(crate) async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Engine) -> T + Send + 'static,
    ) -> Result<T, Problem> {
        let engine = self.engine()?.clone();
        tokio::task::spawn_blocking(move || work(&engine))
            .await
            .map_err(|_| problems::failed())
    }

    /// Until when a read that names no time of its own may wait for a load.
    pub(crate) fn cold_read_deadline(&self) -> Instant {
        Instant::now() + self.limits().cold_read_timeout
    }

    /// A workspace in memory; one that is not is loaded first, urgently, and waited for until `deadline`.
    pub(crate) async fn loaded(
        &self,
        id: &WorkspaceId,
        deadline: Instant,
    ) -> Result<Loaded, Problem> {
        let engine = self.engine()?;
        if let Some(loaded) = engine.workspace(id) {
            return Ok(loaded);
        }
        self.known(id).await?;
        if !self.is_stopping() {
            // A refusal shows in the status, which is what the answer tells.
            let _ = timeout_at(deadline.into(), engine.command(id, Command::Load)).await;
        }
        let outcome = self
            .tracker()
            .wait(id)
            .until(Condition::State(State::Ready))
            .fail_on(StateSet::from(State::Error))
            .deadline(deadline)
            .await;
        if let Some(loaded) = engine.workspace(id) {
            return Ok(loaded);
        }
        Err(match outcome {
            WaitOutcome::Met(status) | WaitOutcome::Failed(status) => {
                problems::not_loaded(id, Some(&status))
            }
            WaitOutcome::TimedOut(status) => problems::not_loaded(id, status.as_ref()),
            WaitOutcome::Gone => problems::not_loaded(id, None),
        })
    }

    /// The workspace as it has applied the event at `offset`; it is loaded and waited for until `deadline`.
    pub(crate) async fn applied(
        &self,
        id: &WorkspaceId,
        offset: workspace_lifecycle::Offset,
        deadline: Instant,
    ) -> Result<Loaded, Problem> {
        // Nothing is applied to a workspace that an operator unloaded, so it is loaded first.
        self.loaded(id, deadline).await?;
        let engine = self.engine()?;
        let parked = self
            .tracker()
            .wait(id)
            .until(Condition::State(State::Error))
            .deadline(deadline);
        let outcome = tokio::select! {
            biased;
            loaded = engine.wait_applied(id, offset) => return Ok(loaded),
            outcome = parked => outcome,
        };
        let status = match outcome {
            WaitOutcome::Met(status) | WaitOutcome::Failed(status) => Some(status),
            WaitOutcome::TimedOut(status) => status,
            WaitOutcome::Gone => None,
        };
        let reached = engine
            .workspace(id)
            .map(|loaded| loaded.applied().next_offset);
        Err(problems::not_applied(id, offset, reached, status.as_ref()))
    }

    /// Nothing, where the workspace is known here or to the store.
    pub(crate) async fn known(&self, id: &WorkspaceId) -> Result<(), Problem> {
        if self.tracker().get(id).is_some() {
            return Ok(());
        }
        let asked = id.clone();
        match self.blocking(move |engine| engine.stored(&asked)).await? {
            Ok(Some(_)) => Ok(()),
            Ok(None) => Err(problems::unknown_workspace(id)),
            Err(error) => Err(problems::store(&error)),
        }
    }
}
