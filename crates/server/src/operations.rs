//! Actions on all workspaces that match a filter: counted first, then executed one by one.
//!
//! An operation ends with the process. Its workspaces are those that matched when it began; each is checked
//! again when its turn comes. Few commands are in flight at a time, and they are sent more slowly while many loads
//! wait for a permit, so that an operation on 100,000 workspaces leaves capacity for other requests.

use crate::{
    access::{AUDIT_TARGET, Caller},
    app::{App, Engine},
    lists,
};
use parking_lot::Mutex;
use std::{
    collections::{BTreeMap, VecDeque},
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, SystemTime},
};
use tokio::{sync::watch, task::JoinSet, time::timeout};
use tracing::info;
use workspace_engine_core::ActionError;
use workspace_lifecycle::{Command, CommandError, PartitionId};
use workspace_status::{Absence, PageQuery, Snapshot, State, WorkspaceId};

/// Maximum operations that run at the same time.
const MAX_RUNNING: usize = 4;

/// Number of latest ended operations that are kept.
const MAX_KEPT: usize = 100;

/// Number of refused workspaces that an operation names; further ones are only counted.
const MAX_REFUSED: usize = 1_000;

/// Maximum commands of one operation in flight: fewer than a partition accepts, so that others are accepted too.
const MAX_UNDER_WAY: usize = 64;

/// While more loads than this wait for a permit, an operation that loads is slowed down.
const MAX_LOADS_WAITING: usize = 64;

/// The longest pause before a command of a slowed operation.
const LONGEST_PAUSE: Duration = Duration::from_millis(100);

/// Interval between two checks of the waiting loads.
const LOOK: Duration = Duration::from_millis(10);

/// What is done to every workspace.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, serde::Deserialize, serde::Serialize, utoipa::ToSchema,
)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Action {
    /// Try one in `error` again now.
    Retry,
    /// Load it now.
    Load,
    /// Save it and remove it from memory.
    Unload,
    /// Save it and load it again.
    Reload,
    /// Skip the event that it cannot apply.
    Skip,
    /// Forget what is stored of it and rebuild it from the log.
    Reset,
}

impl Action {
    /// The command for a workspace; refused where its state gives no reason for the action.
    fn command(self, facts: Facts, force: bool) -> Result<Command, Refusal> {
        match self {
            Self::Retry if facts.state != State::Error => Err(Refusal::NotInError(facts.state)),
            // In memory up to the failing event: only loading it again retries that event.
            Self::Retry if facts.is_in_memory => Ok(Command::Reload),
            Self::Retry | Self::Load => Ok(Command::Load),
            Self::Unload => Ok(Command::Unload),
            Self::Reload => Ok(Command::Reload),
            Self::Skip => Ok(Command::Skip),
            Self::Reset => Ok(Command::Reset { force }),
        }
    }

    /// Why the action would be refused now, as far as that can be determined without sending the command.
    fn foreseen(self, facts: Facts) -> Option<Refusal> {
        if let Err(refusal) = self.command(facts, false) {
            return Some(refusal);
        }
        match facts.absence {
            Some(Absence::OwnedElsewhere | Absence::OwnerLost) => {
                return Some(Refusal::Engine(ActionError::NotAssigned(facts.partition)));
            }
            Some(Absence::Opening) => return Some(Refusal::of(CommandError::Opening)),
            Some(Absence::Unloaded | Absence::Evicted) | None => {}
        }
        let is_being_loaded = matches!(
            facts.state,
            State::LoadingFromPersistence
                | State::PopulatingInitialState
                | State::RestoringFromSnapshot
        );
        match self {
            Self::Skip if facts.state != State::Error || !facts.is_in_memory => {
                Some(Refusal::of(CommandError::NotStopped))
            }
            Self::Unload | Self::Reload if is_being_loaded => Some(Refusal::of(CommandError::Busy)),
            Self::Unload | Self::Reload | Self::Load | Self::Retry | Self::Reset
                if facts.state == State::Unloading =>
            {
                Some(Refusal::of(CommandError::Busy))
            }
            Self::Skip | Self::Unload | Self::Reload | Self::Load | Self::Retry | Self::Reset => {
                None
            }
        }
    }

    /// Whether the action makes workspaces wait for a load permit.
    fn loads(self) -> bool {
        match self {
            Self::Retry | Self::Load | Self::Reload | Self::Skip | Self::Reset => true,
            Self::Unload => false,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Retry => "retry",
            Self::Load => "load",
            Self::Unload => "unload",
            Self::Reload => "reload",
            Self::Skip => "skip",
            Self::Reset => "reset",
        }
    }
}

/// The facts that decide about an action.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Facts {
    state: State,
    absence: Option<Absence>,
    partition: PartitionId,
    /// Its applied state can be read.
    is_in_memory: bool,
}

impl Facts {
    fn of(snapshot: &Snapshot, engine: &Engine) -> Self {
        Self {
            state: snapshot.state(),
            absence: snapshot.absence(),
            partition: engine.partition_of(snapshot.id()),
            is_in_memory: engine.workspace(snapshot.id()).is_some(),
        }
    }
}

/// Why an action is not executed on a workspace.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
enum Refusal {
    #[error(transparent)]
    Engine(#[from] ActionError),
    #[error("the workspace is not in error but in {0}")]
    NotInError(State),
    #[error("the workspace does not match the filter any more, it is in {0}")]
    NoMatch(State),
    #[error("the workspace is not known any more")]
    Gone,
}

impl Refusal {
    fn of(error: CommandError) -> Self {
        Self::Engine(ActionError::Refused(error))
    }
}

/// An action on all workspaces that match a filter.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    pub(crate) action: Action,
    /// Applies to a reset only.
    pub(crate) force: bool,
    pub(crate) filter: PageQuery,
    pub(crate) reason: Option<String>,
    /// Who requests it.
    pub(crate) caller: Caller,
}

/// The expected outcome of a request now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Foreseen {
    pub(crate) matched: Vec<WorkspaceId>,
    /// Reasons for which workspaces would be refused, with their number; the most frequent first.
    pub(crate) refusable: Vec<(String, usize)>,
}

impl Request {
    /// Counts what the request would do. Reads every workspace.
    pub(crate) fn foresee(&self, app: &App, engine: &Engine) -> Foreseen {
        let everything = PageQuery {
            limit: usize::MAX,
            ..self.filter.clone()
        };
        let mut refusable: BTreeMap<String, usize> = BTreeMap::new();
        let matched = lists::page(app, &everything).snapshots;
        for snapshot in &matched {
            if let Some(refusal) = self.action.foreseen(Facts::of(snapshot, engine)) {
                *refusable.entry(refusal.to_string()).or_default() += 1;
            }
        }
        let mut refusable: Vec<_> = refusable.into_iter().collect();
        refusable.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        Foreseen {
            matched: matched.iter().map(Snapshot::id).cloned().collect(),
            refusable,
        }
    }

    /// Executes the action on one workspace, after checking it again.
    async fn carry_out(&self, app: &App, engine: &Engine, id: &WorkspaceId) -> Result<(), Refusal> {
        let snapshot = lists::status(app, id).ok_or(Refusal::Gone)?;
        if !self.filter.selects(&snapshot) {
            return Err(Refusal::NoMatch(snapshot.state()));
        }
        let command = self
            .action
            .command(Facts::of(&snapshot, engine), self.force)?;
        Ok(engine.command(id, command).await?)
    }
}

/// How far an operation is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum OperationState {
    /// Some workspaces have not had their turn.
    Running,
    /// Every workspace has had its turn.
    Done,
    /// It was stopped before that.
    Stopped,
}

/// A workspace to which the action was not done.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Refused {
    /// The workspace.
    workspace_id: String,
    /// Why.
    detail: String,
}

/// The progress of an operation.
#[derive(Debug, Clone)]
pub(crate) struct Progress {
    pub(crate) state: OperationState,
    pub(crate) done: usize,
    /// The first refused workspaces.
    pub(crate) refused: Vec<Refused>,
    pub(crate) refused_count: usize,
    pub(crate) ended: Option<SystemTime>,
}

/// One operation.
#[derive(Debug)]
pub(crate) struct Operation {
    pub(crate) id: String,
    pub(crate) request: Request,
    pub(crate) total: usize,
    pub(crate) began: SystemTime,
    progress: watch::Sender<Progress>,
    is_stopped: AtomicBool,
}

impl Operation {
    /// The current progress.
    pub(crate) fn progress(&self) -> Progress {
        self.progress.borrow().clone()
    }

    /// Sends no more commands, and waits up to `patience` for those in flight.
    pub(crate) async fn stop(&self, patience: Duration) {
        self.is_stopped.store(true, Ordering::Release);
        let mut progress = self.progress.subscribe();
        // If they take longer, the answer says that the operation still runs.
        let _ = timeout(patience, progress.wait_for(|now| now.ended.is_some())).await;
    }

    fn is_stopped(&self, app: &App) -> bool {
        self.is_stopped.load(Ordering::Acquire) || app.is_stopping()
    }

    fn count(&self, id: &WorkspaceId, outcome: Result<(), Refusal>) {
        self.progress.send_modify(|progress| match outcome {
            Ok(()) => progress.done += 1,
            Err(refusal) => {
                progress.refused_count += 1;
                if progress.refused.len() < MAX_REFUSED {
                    progress.refused.push(Refused {
                        workspace_id: id.to_string(),
                        detail: refusal.to_string(),
                    });
                }
            }
        });
    }

    /// Logs the outcome for one workspace.
    fn log(&self, id: &WorkspaceId, outcome: &Result<(), Refusal>) {
        info!(
            target: AUDIT_TARGET,
            operation = self.id,
            action = self.request.action.name(),
            workspace = id.as_str(),
            name = self.request.caller.name(),
            outcome = if outcome.is_ok() { "done" } else { "refused or failed" },
            reason = outcome.as_ref().err().map(tracing::field::display),
            "a workspace of an operation"
        );
    }

    async fn run(self: Arc<Self>, app: App, engine: Engine, workspaces: Vec<WorkspaceId>) {
        let mut under_way = JoinSet::new();
        for id in workspaces {
            if self.request.action.loads() {
                self.pause(&app, &engine).await;
            }
            if under_way.len() >= MAX_UNDER_WAY {
                // The task itself counts its outcome.
                let _ = under_way.join_next().await;
            }
            if self.is_stopped(&app) {
                break;
            }
            let (operation, app, engine) = (Arc::clone(&self), app.clone(), engine.clone());
            under_way.spawn(async move {
                let outcome = operation.request.carry_out(&app, &engine, &id).await;
                operation.log(&id, &outcome);
                operation.count(&id, outcome);
            });
        }
        while under_way.join_next().await.is_some() {}
        let now = app.tracker().clock().wall();
        self.progress.send_modify(|progress| {
            progress.ended = Some(now);
            progress.state = if progress.done + progress.refused_count < self.total {
                OperationState::Stopped
            } else {
                OperationState::Done
            };
        });
        let Progress {
            state,
            done,
            refused_count: refused,
            ..
        } = self.progress();
        info!(
            target: AUDIT_TARGET,
            operation = self.id,
            name = self.request.caller.name(),
            ?state,
            done,
            refused,
            "operation ended"
        );
    }

    /// Waits while many loads wait for a permit, but not longer than the maximum pause.
    async fn pause(&self, app: &App, engine: &Engine) {
        let mut paused = Duration::ZERO;
        while paused < LONGEST_PAUSE && engine.admission().1 > MAX_LOADS_WAITING {
            if self.is_stopped(app) {
                return;
            }
            tokio::time::sleep(LOOK).await;
            paused += LOOK;
        }
    }
}

/// The maximum number of operations is running.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TooMany {
    pub(crate) maximum: usize,
}

/// The operations of this process: those that run, and the latest that ended.
pub(crate) struct Operations {
    /// Distinguishes the operations of this process from those of an earlier one.
    process: u32,
    kept: Mutex<Kept>,
}

#[derive(Default)]
struct Kept {
    begun: u64,
    /// Oldest first.
    operations: VecDeque<Arc<Operation>>,
}

impl fmt::Debug for Operations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Operations").finish_non_exhaustive()
    }
}

impl Default for Operations {
    fn default() -> Self {
        Self {
            process: fastrand::u32(..),
            kept: Mutex::default(),
        }
    }
}

impl Operations {
    /// Starts an operation on these workspaces.
    ///
    /// # Errors
    /// [`TooMany`] where the maximum number of operations is running.
    pub(crate) fn begin(
        &self,
        app: &App,
        engine: &Engine,
        request: Request,
        workspaces: Vec<WorkspaceId>,
    ) -> Result<Arc<Operation>, TooMany> {
        let mut kept = self.kept.lock();
        let is_running = |operation: &&Arc<Operation>| operation.progress.borrow().ended.is_none();
        if kept.operations.iter().filter(is_running).count() >= MAX_RUNNING {
            return Err(TooMany {
                maximum: MAX_RUNNING,
            });
        }
        kept.begun += 1;
        let operation = Arc::new(Operation {
            id: format!("{:08x}-{}", self.process, kept.begun),
            total: workspaces.len(),
            began: app.tracker().clock().wall(),
            progress: watch::Sender::new(Progress {
                state: OperationState::Running,
                done: 0,
                refused: Vec::new(),
                refused_count: 0,
                ended: None,
            }),
            is_stopped: AtomicBool::new(false),
            request,
        });
        info!(
            target: AUDIT_TARGET,
            operation = operation.id,
            name = operation.request.caller.name(),
            role = operation.request.caller.role().as_str(),
            action = operation.request.action.name(),
            force = operation.request.force,
            workspaces = operation.total,
            reason = operation.request.reason.as_deref().unwrap_or_default(),
            "operation begins"
        );
        kept.operations.push_back(Arc::clone(&operation));
        while kept.operations.len() > MAX_KEPT
            && let Some(oldest) = kept
                .operations
                .iter()
                .position(|one| one.progress.borrow().ended.is_some())
        {
            kept.operations.remove(oldest);
        }
        drop(kept);
        tokio::spawn(Arc::clone(&operation).run(app.clone(), engine.clone(), workspaces));
        Ok(operation)
    }

    /// The operation with this id.
    pub(crate) fn get(&self, id: &str) -> Option<Arc<Operation>> {
        let kept = self.kept.lock();
        kept.operations.iter().find(|one| one.id == id).cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(action: Action, facts: Facts, expected: Result<Command, &str>) {
        let found = match action.foreseen(facts) {
            Some(refusal) => Err(refusal.to_string()),
            None => action
                .command(facts, false)
                .map_err(|error| error.to_string()),
        };
        assert_eq!(
            found,
            expected.map_err(str::to_owned),
            "{action:?} {facts:?}"
        );
    }

    #[test]
    fn an_action_is_refused_by_what_is_known_of_the_workspace() {
        let here = |state, is_in_memory| Facts {
            state,
            absence: None,
            partition: PartitionId(3),
            is_in_memory,
        };
        let ready = here(State::Ready, true);
        let stopped = here(State::Error, true);
        let failed = here(State::Error, false);
        let loading = here(State::RestoringFromSnapshot, false);
        let absent = |absence| Facts {
            absence: Some(absence),
            ..here(State::Unknown, false)
        };
        let busy = "the workspace is busy with another command, try again";
        check(Action::Retry, failed, Ok(Command::Load));
        check(Action::Retry, stopped, Ok(Command::Reload));
        check(
            Action::Retry,
            ready,
            Err("the workspace is not in error but in ready"),
        );
        check(Action::Skip, stopped, Ok(Command::Skip));
        for facts in [failed, ready] {
            check(
                Action::Skip,
                facts,
                Err("the workspace is not stopped at an event that it cannot apply"),
            );
        }
        check(Action::Unload, ready, Ok(Command::Unload));
        check(Action::Unload, loading, Err(busy));
        check(Action::Reload, loading, Err(busy));
        check(Action::Load, loading, Ok(Command::Load));
        check(Action::Load, absent(Absence::Unloaded), Ok(Command::Load));
        check(
            Action::Load,
            absent(Absence::OwnedElsewhere),
            Err("partition 3 of the workspace is not assigned to this process"),
        );
        check(
            Action::Unload,
            absent(Absence::Opening),
            Err("the partition is being taken over, try again"),
        );
    }
}
