//! Reads of one workspace: at once where it is in memory, else after its load, within one deadline.
//!
//! An event is acknowledged before its partition has read it. So an unlisted workspace is reported as
//! unknown only once its partition has passed what the reader may have written.

use crate::{
    app::{Engine, Loaded},
    problems,
    routes::Api,
};
use std::time::{Duration, Instant};
use tokio::time::timeout_at;
use workspace_lifecycle::{Command, Offset, PartitionId};
use workspace_status::{Condition, State, StateSet, WaitOutcome, WorkspaceId};
use workspace_status_http::Problem;

/// Interval between two polls of a partition's position: no notification exists for waiters on a workspace
/// that may not exist.
const LOOK: Duration = Duration::from_millis(25);

impl Api {
    /// The deadline for loads of a read that sets no timeout itself.
    pub(crate) fn cold_read_deadline(&self) -> Instant {
        Instant::now() + self.app.limits().cold_read_timeout
    }

    /// The workspace in memory; if it is not, loads it urgently and waits until `deadline`.
    pub(crate) async fn loaded(
        &self,
        id: &WorkspaceId,
        deadline: Instant,
    ) -> Result<Loaded, Problem> {
        if let Some(loaded) = self.app.engine()?.workspace(id) {
            return Ok(loaded);
        }
        self.waiting(async {
            self.met(id, Written::Anything, deadline).await?;
            self.load(id, deadline).await
        })
        .await
    }

    /// The workspace once it has applied the event at `offset`; loads it and waits until `deadline`.
    pub(crate) async fn applied(
        &self,
        id: &WorkspaceId,
        offset: Offset,
        deadline: Instant,
    ) -> Result<Loaded, Problem> {
        if let Some(loaded) = self.app.engine()?.workspace(id)
            && loaded.applied().next_offset > offset
        {
            return Ok(loaded);
        }
        self.waiting(async {
            if self.app.engine()?.workspace(id).is_none() {
                self.met(id, Written::At(offset), deadline).await?;
                // Events are not applied to a workspace that an operator unloaded, so it is loaded first.
                self.load(id, deadline).await?;
            }
            self.apply(id, offset, deadline).await
        })
        .await
    }

    /// Succeeds where the workspace is known to this engine or the store, or becomes known by an event that is
    /// in the log now.
    pub(crate) async fn known(&self, id: &WorkspaceId, deadline: Instant) -> Result<(), Problem> {
        if self.app.tracker().get(id).is_some() && !self.app.engine()?.is_announced(id) {
            return Ok(());
        }
        self.waiting(self.met(id, Written::Anything, deadline))
            .await
    }

    /// Runs work that may wait; it counts as one of the concurrently waiting requests.
    async fn waiting<T>(
        &self,
        work: impl Future<Output = Result<T, Problem>>,
    ) -> Result<T, Problem> {
        let _place = self.status.admit_wait()?;
        self.app.until_stopped(work).await
    }

    /// Waits until a workspace has applied an event, or enters `error`.
    async fn apply(
        &self,
        id: &WorkspaceId,
        offset: Offset,
        deadline: Instant,
    ) -> Result<Loaded, Problem> {
        let engine = self.app.engine()?;
        let parked = self
            .app
            .tracker()
            .wait(id)
            .until(Condition::State(State::Error))
            .deadline(deadline);
        let outcome = tokio::select! {
            biased;
            loaded = engine.wait_applied(id, offset) => return Ok(loaded),
            outcome = parked => outcome,
            never = self.app.keep_requested(id) => match never {},
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

    /// Loads a known workspace into memory, before others.
    async fn load(&self, id: &WorkspaceId, deadline: Instant) -> Result<Loaded, Problem> {
        let engine = self.app.engine()?;
        // A refusal shows in the status, which the answer contains.
        let _ = timeout_at(deadline.into(), engine.command(id, Command::Load)).await;
        let outcome = self
            .app
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

    /// Waits until the workspace is known, or its partition has passed what was written.
    async fn met(
        &self,
        id: &WorkspaceId,
        written: Written,
        deadline: Instant,
    ) -> Result<(), Problem> {
        let engine = self.app.engine()?;
        // An announced workspace has a status before its partition knows it.
        let is_met = || self.app.tracker().get(id).is_some() && !engine.is_announced(id);
        if is_met() || self.is_stored(id).await? {
            return Ok(());
        }
        let partition = engine.partition_of(id);
        let end = match written {
            Written::Anything => {
                let end = self.app.blocking(move |engine| engine.log().end(partition));
                end.await?.map_err(|error| problems::log_read(&error))?
            }
            Written::At(offset) => offset.next(),
        };
        loop {
            // Read before the workspace is checked: a workspace with an event below this position is known by then.
            let position = discovered(engine, partition);
            if is_met() {
                return Ok(());
            }
            if position >= end {
                if self.is_stored(id).await? {
                    return Ok(());
                }
                return Err(problems::unknown_workspace(id));
            }
            if Instant::now() >= deadline {
                return Err(problems::not_read_yet(id, end, position));
            }
            tokio::time::sleep_until(deadline.min(Instant::now() + LOOK).into()).await;
        }
    }

    async fn is_stored(&self, id: &WorkspaceId) -> Result<bool, Problem> {
        let stored_id = id.clone();
        self.app
            .blocking(move |engine| engine.stored(&stored_id))
            .await?
            .map(|stored| stored.is_some())
            .map_err(|error| problems::store(&error))
    }
}

/// What the reader may have written before its request.
#[derive(Debug, Clone, Copy)]
enum Written {
    /// Anything that is in the log.
    Anything,
    /// The event at this offset of the workspace's partition.
    At(Offset),
}

/// Every workspace with an event below this offset is known.
fn discovered(engine: &Engine, partition: PartitionId) -> Offset {
    engine
        .partitions()
        .into_iter()
        .find(|report| report.partition == partition)
        .map_or(Offset::ZERO, |report| report.discovered)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{app::App, config::HttpLimits, source::EngineSource, test_log::TestLog};
    use axum::http::StatusCode;
    use std::sync::Arc;
    use workspace_engine_core::{
        Entities, WorkspaceType,
        log::{Appended, AppendedRange, EventLog},
        store::{MemoryStore, Store},
    };
    use workspace_status::Tracker;
    use workspace_status_http::{Limits, Registry, StatusApi, problem_types};

    const PATIENCE: Duration = Duration::from_mins(2);

    fn id(text: &str) -> WorkspaceId {
        WorkspaceId::new(text).unwrap()
    }

    fn api_over(log: &TestLog) -> Api {
        api_with(log, Limits::default())
    }

    fn api_with(log: &TestLog, limits: Limits) -> Api {
        let tracker = Tracker::new();
        let app = App::new(tracker.clone(), HttpLimits::for_tests());
        let log: Arc<dyn EventLog> = Arc::new(log.clone());
        let store: Arc<dyn Store> = Arc::new(MemoryStore::new());
        let engine = Engine::builder_of(WorkspaceType::of::<Entities>())
            .tracker(tracker)
            .start_on(log, store);
        app.set_engine(engine.unwrap(), None);
        let status = StatusApi::new(EngineSource::new(app.clone()), limits, Registry::default());
        Api::new(app, status)
    }

    fn refused(read: Result<Loaded, Problem>) -> (StatusCode, String) {
        let problem = read.map(|loaded| loaded.applied()).unwrap_err();
        (problem.status(), problem.detail().to_owned())
    }

    #[tokio::test]
    async fn an_event_that_its_partition_has_not_read_makes_no_workspace_unknown() {
        let log = TestLog::default();
        let api = api_over(&log);
        let held = log.hold_reads();
        log.append("new");
        let expected = (
            StatusCode::SERVICE_UNAVAILABLE,
            "the workspace is not known yet: its partition is read up to offset 0, and its events may be below 1"
                .to_owned(),
        );
        let now = Instant::now();
        assert_eq!(
            refused(api.applied(&id("new"), Offset(0), now).await),
            expected
        );
        assert_eq!(refused(api.loaded(&id("new"), now).await), expected);

        let waits = tokio::spawn({
            let api = api.clone();
            async move {
                api.applied(&id("new"), Offset(0), Instant::now() + PATIENCE)
                    .await
            }
        });
        drop(held);
        let loaded = waits.await.unwrap().unwrap();
        assert_eq!(loaded.applied().events_applied, 1);
    }

    #[tokio::test]
    async fn an_acknowledged_workspace_has_a_status_before_it_is_met() {
        let log = TestLog::default();
        let api = api_over(&log);
        let held = log.hold_reads();
        log.append("new");
        let engine = api.app.engine().unwrap().clone();
        let offset = Offset(0);
        let range = AppendedRange {
            partition: engine.partition_of(&id("new")),
            first_offset: offset,
            last_offset: offset,
        };
        let appended = Appended {
            accepted: 1,
            partitions: vec![range],
            repeated: false,
        };
        engine.announce(&[id("new"), id("new")], &appended);
        let shown = api.app.tracker().snapshot("new").unwrap();
        assert_eq!(shown.state(), State::Initializing);
        assert!(engine.is_announced(&id("new")));
        // Its partition does not know it yet, so a read waits until it does.
        let (status, _) = refused(api.loaded(&id("new"), Instant::now()).await);
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);

        drop(held);
        let loaded = api.loaded(&id("new"), Instant::now() + PATIENCE).await;
        assert_eq!(loaded.unwrap().id(), &id("new"));
        assert!(!engine.is_announced(&id("new")));
        // A late announcement, as by a slow request.
        engine.announce(&[id("new"), id("unknown")], &appended);
        assert!(api.app.tracker().get("unknown").is_none());
    }

    #[tokio::test]
    async fn a_workspace_is_unknown_once_its_partition_has_passed_what_was_written() {
        let log = TestLog::default();
        let api = api_over(&log);
        log.append("other");
        let deadline = Instant::now() + PATIENCE;
        for read in [
            api.loaded(&id("unknown"), deadline).await,
            api.applied(&id("unknown"), Offset(0), deadline).await,
        ] {
            assert_eq!(
                refused(read),
                (
                    StatusCode::NOT_FOUND,
                    "neither the store nor the log knows the workspace".to_owned()
                )
            );
        }
        // The workspace is not reported as unknown before the log has reached the offset.
        let ahead = api.applied(&id("unknown"), Offset(7), Instant::now()).await;
        assert_eq!(refused(ahead).0, StatusCode::SERVICE_UNAVAILABLE);
    }

    #[tokio::test]
    async fn one_read_more_than_may_wait_is_refused_at_once() {
        let log = TestLog::default();
        let limits = Limits {
            concurrent_waits: 1,
            ..Limits::default()
        };
        let api = api_with(&log, limits);
        let permit = api.status.admit_wait().unwrap();
        let deadline = Instant::now() + PATIENCE;
        for read in [
            api.loaded(&id("a"), deadline).await,
            api.applied(&id("a"), Offset(0), deadline).await,
        ] {
            let problem = read.map(|loaded| loaded.applied()).unwrap_err();
            assert_eq!(problem.kind(), &problem_types::TOO_MANY_REQUESTS_AT_ONCE);
        }
        drop(permit);
        let read = api.loaded(&id("a"), deadline).await;
        assert_eq!(refused(read).0, StatusCode::NOT_FOUND);
    }

    #[tokio::test]
    async fn a_read_that_waits_is_answered_at_once_when_the_engine_stops() {
        let log = TestLog::default();
        let api = api_over(&log);
        let _held = log.hold_reads();
        log.append("new");
        let reads = [None, Some(Offset(0))].map(|offset| {
            let api = api.clone();
            tokio::spawn(async move {
                let deadline = Instant::now() + PATIENCE;
                match offset {
                    None => api.loaded(&id("new"), deadline).await,
                    Some(offset) => api.applied(&id("new"), offset, deadline).await,
                }
            })
        });
        // Long enough for several polls of both, and for other tasks to run on this thread.
        tokio::time::sleep(LOOK * 4).await;
        api.app.stop();
        for read in reads {
            let problem = read.await.unwrap().map(|loaded| loaded.applied());
            assert_eq!(
                problem.unwrap_err(),
                problems::stopping(),
                "answered before its deadline"
            );
        }
    }
}
