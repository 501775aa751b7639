//! State shared by all handlers of the engine's routes, and the only place that holds the engine's handle.
//!
//! The HTTP server answers before the engine is open: opening a log after a crash takes seconds, during which a
//! status is `unknown` instead of a refused connection.

use crate::{
    config::HttpLimits, group::Group, http_counters::HttpCounters, memory::Budget, problems,
};
use parking_lot::Mutex;
use std::{
    collections::BTreeMap,
    convert::Infallible,
    fmt,
    sync::{Arc, OnceLock},
    time::Duration,
};
use tokio::sync::watch;
use workspace_engine_core::{Workspace, loaded::LoadedWorkspace};
use workspace_lifecycle::{Command, PartitionId};
use workspace_status::{Absence, State, Tracker, WorkspaceId};
use workspace_status_http::Problem;

/// An engine whose workspace type is not known here: handlers need ids, statuses, and entities as JSON.
pub(crate) type Engine = workspace_engine_core::Engine<dyn Workspace>;

/// A workspace in memory.
pub(crate) type Loaded = LoadedWorkspace<dyn Workspace>;

/// Interval between two reads of the last writer of each partition; one request each.
const WRITERS_EVERY: Duration = Duration::from_secs(3);

/// Timeout of such a read.
const WRITERS_TIMEOUT: Duration = Duration::from_secs(5);

/// Interval between two checks whether a workspace that a client waits for was evicted.
const EVICTION_LOOK: Duration = Duration::from_millis(100);

/// Shared by all handlers; clones share the same state.
#[derive(Clone)]
pub(crate) struct App(Arc<Inner>);

struct Inner {
    tracker: Tracker,
    limits: HttpLimits,
    /// What the engine waits for while it opens, reported by requests that need it.
    opening: Mutex<Arc<str>>,
    engine: OnceLock<Up>,
    stopping: watch::Sender<bool>,
    event_memory: Budget,
    answer_memory: Budget,
    http: HttpCounters,
}

/// Available once the engine is open.
struct Up {
    engine: Engine,
    /// Assigns partitions to the engine; `None` where it owns all of them.
    group: Option<Group>,
    /// The last writer of each partition of the topic, as of the last read.
    last_writers: Mutex<BTreeMap<PartitionId, String>>,
}

impl fmt::Debug for App {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("App").finish_non_exhaustive()
    }
}

impl App {
    /// The shared state before the engine is open.
    pub(crate) fn new(tracker: Tracker, limits: HttpLimits) -> Self {
        Self(Arc::new(Inner {
            tracker,
            event_memory: Budget::new(limits.event_memory_bytes),
            answer_memory: Budget::new(limits.answer_memory_bytes),
            http: HttpCounters::default(),
            limits,
            opening: Mutex::new("the engine is opening its data directory".into()),
            engine: OnceLock::new(),
            stopping: watch::Sender::new(false),
        }))
    }

    /// Sets the opened engine; only the first call counts.
    pub(crate) fn set_engine(&self, engine: Engine, group: Option<Group>) {
        // A process has one engine.
        let _ = self.0.engine.set(Up {
            engine,
            group,
            last_writers: Mutex::default(),
        });
    }

    /// Keeps the last writers of the partitions up to date until the engine stops; runs on its own thread.
    pub(crate) fn follow_last_writers(&self) {
        while let Some(up) = self.0.engine.get()
            && let Some(group) = &up.group
            && !self.is_stopping()
        {
            match group.last_writers(WRITERS_TIMEOUT) {
                Ok(writers) => *up.last_writers.lock() = writers,
                // The previous result stays: the text that shows it says how old a name may be.
                Err(error) => tracing::debug!(error, "the last writers cannot be read"),
            }
            std::thread::sleep(WRITERS_EVERY);
        }
    }

    /// The engine that last wrote to a partition, where it is another one.
    pub(crate) fn last_writer(&self, partition: PartitionId) -> Option<String> {
        let writers = self.0.engine.get()?.last_writers.lock();
        let writer = writers.get(&partition)?;
        let own = self.tracker().owner();
        (own.as_deref() != Some(writer)).then(|| writer.clone())
    }

    /// Sets what the engine still waits for.
    pub(crate) fn set_opening(&self, what: impl Into<Arc<str>>) {
        *self.0.opening.lock() = what.into();
    }

    /// What the engine still waits for.
    pub(crate) fn opening(&self) -> Arc<str> {
        Arc::clone(&self.0.opening.lock())
    }

    /// Assigns partitions to the engine; `None` where it owns all of them, or is not open yet.
    pub(crate) fn group(&self) -> Option<&Group> {
        self.0.engine.get()?.group.as_ref()
    }

    /// Marks the engine as stopping: it accepts nothing new, and waiting requests are answered.
    pub(crate) fn stop(&self) {
        self.0.stopping.send_replace(true);
    }

    /// Whether the engine is stopping.
    pub(crate) fn is_stopping(&self) -> bool {
        *self.0.stopping.borrow()
    }

    /// The outcome of `work`, or the problem that the engine stops, as soon as it does. Only for work
    /// that changes nothing: a request that writes must get its real outcome.
    pub(crate) async fn until_stopped<T>(
        &self,
        work: impl Future<Output = Result<T, Problem>>,
    ) -> Result<T, Problem> {
        let mut stopping = self.0.stopping.subscribe();
        tokio::select! {
            biased;
            outcome = work => outcome,
            // The sender lives as long as `self`.
            _ = stopping.wait_for(|stopping| *stopping) => Err(problems::stopping()),
        }
    }

    pub(crate) fn tracker(&self) -> &Tracker {
        &self.0.tracker
    }

    pub(crate) fn limits(&self) -> &HttpLimits {
        &self.0.limits
    }

    /// The engine, once it is open.
    pub(crate) fn engine_if_up(&self) -> Option<&Engine> {
        self.0.engine.get().map(|up| &up.engine)
    }

    /// Loads a workspace whenever it is evicted, until the caller, who waits for it, drops this future. A refusal shows
    /// in its status.
    pub(crate) async fn keep_requested(&self, id: &WorkspaceId) -> Infallible {
        loop {
            if let Some(engine) = self.engine_if_up()
                && is_evicted(engine, id)
            {
                let _ = engine.command(id, Command::Load).await;
            }
            tokio::time::sleep(EVICTION_LOOK).await;
        }
    }

    /// The engine, for reads.
    pub(crate) fn engine(&self) -> Result<&Engine, Problem> {
        self.engine_if_up()
            .ok_or_else(|| problems::starting(&self.opening()))
    }

    /// The engine, for changes.
    pub(crate) fn working_engine(&self) -> Result<&Engine, Problem> {
        if self.is_stopping() {
            return Err(problems::stopping());
        }
        self.engine()
    }

    /// Memory for the bodies of event requests.
    pub(crate) fn event_memory(&self) -> &Budget {
        &self.0.event_memory
    }

    /// Memory for large answers in progress.
    pub(crate) fn answer_memory(&self) -> &Budget {
        &self.0.answer_memory
    }

    /// Counters of the HTTP server.
    pub(crate) fn http(&self) -> &HttpCounters {
        &self.0.http
    }

    /// Runs blocking work, such as reading a disk, without holding up other requests.
    pub(crate) async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Engine) -> T + Send + 'static,
    ) -> Result<T, Problem> {
        let engine = self.engine()?.clone();
        tokio::task::spawn_blocking(move || work(&engine))
            .await
            .map_err(|_| problems::failed())
    }
}

/// Whether a workspace was evicted, or may be leaving memory for that reason.
fn is_evicted(engine: &Engine, id: &WorkspaceId) -> bool {
    // The tracker first: a workspace that leaves it is absent from then on.
    if let Some(status) = engine.tracker().get(id) {
        return status.state() == State::Unloading;
    }
    let absent = engine.absent().get(id);
    absent.is_some_and(|absent| engine.absence(&absent) == Absence::Evicted)
}
