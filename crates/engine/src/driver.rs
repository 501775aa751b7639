//! Drives the state machine of one partition: reads the log, applies events, requests loads and saves, reports to the
//! status.
//!
//! Each partition has its own thread, because reading and applying block and should use all cores. The thread owns the
//! machine; other threads send it messages.

pub(crate) mod apply;
mod dead_letter;
pub(crate) mod eraser;
pub(crate) mod history;
mod history_waiting;
pub(crate) mod load_watch;
pub(crate) mod loader;
pub(crate) mod reports;
pub(crate) mod saver;
pub(crate) mod upkeep;

use std::collections::{HashMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError};
use workspace_lifecycle::{
    Action, ApplyTo, Command, CommandError, Deleted, FetchFailure, Input, Known, Lane, Listing,
    Offset, Partition, PartitionId, Refusal, Refused, SavePlan, Slot, StateAfter, Ticket, Time,
};
use workspace_status::{Attempt, Epoch, Progress, WorkspaceStatus};

use self::apply::{Grouped, OwnPartition, Source, panic_text};
use crate::assignment::{Assignment, Permit};
use crate::jobs::{EraseJob, LoadJob, SaveJob};
use crate::loaded::{Following, LivePosition, Resident};
use crate::log::{DeletedDeadLetters, ReadError, ReadLimit};
use crate::message::{CommandReply, LoadDone, Message};
use crate::misrouted::{MAX_MISROUTED, Noted};
use crate::shared::{Asked, Opened, Shared};
use crate::store::{Change, Deletion, Opening, Save, StoreError, StoredWorkspace};

/// Longest sleep of an idle partition, and so the longest time between two of its heartbeats.
const LONGEST_SLEEP: Duration = Duration::from_millis(500);

/// Wait between two attempts to open log and store for a partition.
const OPEN_AGAIN: Duration = Duration::from_secs(1);

/// Wait between two checks whether the log has lost its end.
const END_AGAIN: Duration = Duration::from_secs(1);

/// Most deletion marks that are removed when a partition is listed: each is a write.
const MAX_PURGES: usize = 100;

/// Most commands of one partition that wait for a reply.
const MAX_TICKETS: usize = 1024;

/// What a partition keeps of a workspace besides the machine's own state.
#[derive(Default)]
pub(super) struct Local {
    pub(super) status: Option<Arc<WorkspaceStatus>>,
    pub(super) attempt: Option<Attempt>,
    pub(super) workspace: Option<Arc<Resident>>,
    pub(super) progress: Option<Progress>,
    pub(super) replay_from: Offset,
    pub(super) replay_target: Offset,
    pub(super) applied_before_replay: u64,
    /// Replay position last written to its metadata.
    pub(super) reported_offset: Option<Offset>,
    /// Changes that were taken from the workspace and wait for the next save.
    taken: Vec<Change>,
    /// Epoch of the load whose changes a save holds now; `None` if the workspace was dropped meanwhile.
    being_saved: Option<Epoch>,
    /// Why taking its changes failed. Some of them are lost, so it can never be saved.
    broken: Option<String>,
    load_ms: Option<u64>,
    pub(super) load_began: Option<Instant>,
}

/// Whether log and store are ready for a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Readiness {
    Yes,
    /// The partition was revoked or lost first.
    No,
}

/// Result of one attempt to get them ready.
enum Step {
    Done,
    Again(Duration),
}

/// The driver of one partition.
pub(crate) struct Driver {
    pub(super) shared: Arc<Shared>,
    pub(super) machine: Partition,
    pub(super) id: PartitionId,
    pub(super) assignment: Arc<Assignment>,
    pub(super) locals: Vec<Local>,
    live: Arc<LivePosition>,
    batches: HashMap<Lane, (Grouped, Offset)>,
    fetches: VecDeque<(Lane, Offset, Offset)>,
    tickets: HashMap<Ticket, CommandReply>,
    next_ticket: u64,
    rounds_ended: u64,
    /// `discovered` at the last pass over the announced workspaces: none with an event below it is still announced.
    passed: Offset,
    log_fails: bool,
    /// Last check whether the log has lost its end.
    end_asked_at: Option<Instant>,
    pub(super) metadata_at: Option<Instant>,
    released: bool,
}

impl Driver {
    pub(crate) fn new(shared: Arc<Shared>, assignment: Arc<Assignment>) -> Self {
        let id = assignment.id();
        let machine = Partition::new(id, shared.config.limits);
        Self {
            shared,
            machine,
            id,
            assignment,
            locals: Vec::new(),
            live: Arc::default(),
            batches: HashMap::new(),
            fetches: VecDeque::new(),
            tickets: HashMap::new(),
            next_ticket: 0,
            rounds_ended: 0,
            passed: Offset::ZERO,
            log_fails: false,
            end_asked_at: None,
            metadata_at: None,
            released: false,
        }
    }

    /// Runs until the partition is released. If the log was replaced under it, this returns a new assignment, whose
    /// driver starts the partition again.
    pub(crate) fn run(mut self, messages: &Receiver<Message>) -> Option<Opened> {
        let mut begins_again = false;
        if self.open(messages) == Readiness::Yes {
            self.input(Input::Assigned);
        } else {
            self.released = true;
        }
        while !self.released {
            self.assignment.beat(self.shared.now());
            self.assignment.awake();
            while let Ok(message) = messages.try_recv() {
                self.message(message);
            }
            let high_watermark = self.shared.log.high_watermark(self.id);
            if high_watermark > self.machine.position().high_watermark {
                self.input(Input::Appended { high_watermark });
            }
            if !begins_again
                && (self.shared.log.is_replaced(self.id)
                    || high_watermark < self.machine.live_position() && self.has_lost_its_end())
            {
                // The workspaces in memory were built from the previous log; the revoke saves them. The next driver
                // reads the log from its beginning and reports which workspaces were saved from the previous log, or
                // are beyond the end of this one.
                begins_again = true;
                self.input(Input::Revoked);
                continue;
            }
            if self.machine.wake_at().is_some_and(|at| at <= self.now()) {
                self.input(Input::Tick);
            }
            if let Some((lane, from, until)) = self.fetches.pop_front() {
                self.fetch(lane, from, until);
                continue;
            }
            let sleep = self
                .machine
                .wake_at()
                .map_or(LONGEST_SLEEP, |at| at.since(self.now()).min(LONGEST_SLEEP));
            match messages.recv_timeout(sleep) {
                Ok(message) => self.message(message),
                Err(RecvTimeoutError::Timeout) => self.input(Input::Tick),
                Err(RecvTimeoutError::Disconnected) => self.input(Input::Lost),
            }
        }
        // The last transitions must be in the history before the next owner adds its own.
        self.shared.history.flush();
        // A save left in the queue must not undo what the next assignment saves.
        self.assignment.end_saves();
        self.shared.store.ownership().close(self.id);
        self.shared.log.close(self.id);
        self.shared.misrouted.forget(self.id, &self.shared.tracker);
        let next = begins_again
            .then(|| self.shared.renew(&self.assignment))
            .flatten();
        self.shared.close(&self.assignment, messages);
        next
    }

    /// Whether the log ends before the position that was read. An end that is only held back by another producer's open
    /// transaction does not count.
    fn has_lost_its_end(&mut self) -> bool {
        let asked_at = self.end_asked_at;
        if asked_at.is_some_and(|at| at.elapsed() < END_AGAIN) {
            return false;
        }
        self.end_asked_at = Some(Instant::now());
        let from = self.machine.live_position();
        let limit = ReadLimit {
            records: 1,
            bytes: 1,
            until: from,
        };
        let Err(error @ ReadError::BeyondEnd { .. }) = self.shared.log.read(self.id, from, limit)
        else {
            return false;
        };
        tracing::error!(partition = %self.id, %error, "the log was replaced or lost its end; the partition is begun anew");
        true
    }

    /// Opens log and store for the partition. Failures are retried until the partition is revoked or lost.
    fn open(&mut self, messages: &Receiver<Message>) -> Readiness {
        let mut log_is_open = false;
        loop {
            self.assignment.beat(self.shared.now());
            let step = if log_is_open {
                self.open_store()
            } else {
                match self.shared.log.open(self.id) {
                    Ok(()) => {
                        self.shared.log_answered(self.id, Ok(()));
                        log_is_open = true;
                        continue;
                    }
                    Err(error) => {
                        // The callers that show this text add that it concerns the log.
                        let reason = match error {
                            ReadError::Unavailable(reason) => reason,
                            ReadError::FellOut { .. }
                            | ReadError::Lost { .. }
                            | ReadError::BeyondEnd { .. }
                            | ReadError::Corrupt { .. } => error.to_string(),
                        };
                        self.assignment.set_opening(Some(reason.clone()));
                        self.shared.log_answered(self.id, Err(reason));
                        Step::Again(OPEN_AGAIN)
                    }
                }
            };
            let wait = match step {
                Step::Done => {
                    self.assignment.set_opening(None);
                    return Readiness::Yes;
                }
                Step::Again(wait) => wait,
            };
            let until = Instant::now() + wait;
            loop {
                match messages.recv_deadline(until) {
                    Ok(Message::Input(Input::Revoked | Input::Lost))
                    | Err(RecvTimeoutError::Disconnected) => return Readiness::No,
                    Ok(Message::Command { reply, .. }) => {
                        let _ = reply.send(Err(CommandError::Opening));
                    }
                    // No load or save was requested yet, so these carry nothing.
                    Ok(
                        Message::Input(_)
                        | Message::Loaded(_)
                        | Message::SaveFailed { .. }
                        | Message::Wake,
                    ) => {}
                    Err(RecvTimeoutError::Timeout) => break,
                }
            }
        }
    }

    fn open_store(&mut self) -> Step {
        match self.shared.store.ownership().open(self.id) {
            Ok(Opening::Done) => {
                self.shared
                    .store_answered(Asked::Partition(self.id), Ok(()));
                Step::Done
            }
            Ok(Opening::Reading { position, end }) => {
                let reason = format!("reading what was saved, {position} of {end}");
                tracing::debug!(partition = %self.id, "{reason}");
                self.assignment.set_opening(Some(reason));
                Step::Again(Duration::ZERO)
            }
            Err(error) => {
                self.assignment.set_opening(Some(error.to_string()));
                if self.store_failed(&error) {
                    tracing::error!(partition = %self.id, %error, "the store cannot take the partition over; it is asked again");
                }
                Step::Again(OPEN_AGAIN)
            }
        }
    }

    /// Records that the store failed for the partition. True if the error is new.
    fn store_failed(&self, error: &StoreError) -> bool {
        let asked = Asked::Partition(self.id);
        self.shared.store_answered(asked, Err(error.to_string()))
    }

    fn now(&self) -> Time {
        Time(self.shared.now())
    }

    fn message(&mut self, message: Message) {
        match message {
            Message::Input(input) => self.input(input),
            Message::Loaded(done) => self.loaded(*done),
            Message::SaveFailed { back, reason } => {
                self.take_back(back);
                self.input(Input::SaveFailed { reason });
            }
            Message::Command { id, command, reply } => {
                if self.tickets.len() >= MAX_TICKETS {
                    let _ = reply.send(Err(CommandError::Busy));
                    return;
                }
                let ticket = Ticket(self.next_ticket);
                self.next_ticket += 1;
                // Events acknowledged before the command are deleted with the workspace: the machine must know the end.
                if command == Command::Delete {
                    match self.shared.log.end(self.id) {
                        Ok(high_watermark) => self.input(Input::Appended { high_watermark }),
                        Err(error) => {
                            let _ = reply.send(Err(CommandError::Failed(error.to_string())));
                            return;
                        }
                    }
                }
                self.tickets.insert(ticket, reply);
                self.input(Input::Operator {
                    id,
                    command,
                    ticket,
                    low_watermark: self.shared.log.low_watermark(self.id),
                });
            }
            Message::Wake => {}
        }
    }

    /// Changes of a failed save go first into the next save, unless the workspace was dropped meanwhile.
    fn take_back(&mut self, saves: Vec<(Slot, Save)>) {
        for (slot, save) in saves {
            let local = self.local(slot);
            if local.being_saved.take() == Some(save.epoch) {
                local.taken = save.changes;
                local.load_ms = local.load_ms.or(save.last_load_ms);
            }
        }
    }

    fn loaded(&mut self, done: LoadDone) {
        let slot = done.slot;
        // A late result must not replace what is in memory now.
        if !self.machine.awaits_load(slot, done.epoch) {
            return;
        }
        let local = self.local(slot);
        local.workspace = Some(done.workspace);
        local.taken = done.populated;
        local.load_began = Some(done.began);
        local.applied_before_replay = done.applied.events_applied;
        let unsaved = !local.taken.is_empty();
        let high_watermark = self.shared.log.high_watermark(self.id);
        self.input(Input::Loaded {
            slot,
            epoch: done.epoch,
            first_offset: done.first_offset,
            next_offset: done.applied.next_offset,
            events_applied: done.applied.events_applied,
            unsaved,
            high_watermark,
        });
    }

    pub(super) fn local(&mut self, slot: Slot) -> &mut Local {
        let index = slot.index();
        if index >= self.locals.len() {
            self.locals.resize_with(index + 1, Local::default);
        }
        #[expect(
            clippy::indexing_slicing,
            reason = "the table was made long enough above"
        )]
        &mut self.locals[index]
    }

    /// Passes an input to the machine and executes its actions, then the inputs that these return.
    fn input(&mut self, input: Input) {
        let mut inputs = VecDeque::from([input]);
        while let Some(input) = inputs.pop_front() {
            let mut erased = None;
            if let Input::Erased { slot, .. } = &input {
                erased = Some(*slot);
            }
            let actions = self.machine.handle(self.now(), input);
            // Before the operator gets the reply to the delete.
            if let Some(slot) = erased.filter(|slot| self.machine.is_deleted(*slot)) {
                self.shared.absent.forget(self.machine.workspace_id(slot));
            }
            for action in actions {
                // The machine gets this answer only after the remaining actions are done. That is safe, because it
                // issues no save while a batch is being applied.
                if let Some(answer) = self.act(action) {
                    inputs.push_back(answer);
                }
            }
        }
        self.after_inputs();
    }

    fn act(&mut self, action: Action) -> Option<Input> {
        match action {
            Action::List => Some(self.list()),
            Action::RequestPermit { slot, urgency } => {
                self.shared.ask_permit(self.permit(slot), urgency);
                None
            }
            Action::CancelPermit { slot } => {
                self.shared.cancel_permit(&self.permit(slot));
                None
            }
            Action::ReturnPermit => {
                self.shared.release_permit();
                None
            }
            Action::Load {
                slot,
                epoch,
                first_offset,
            } => self.load(slot, epoch, first_offset),
            Action::Fetch { lane, from, until } => {
                self.fetches.push_back((lane, from, until));
                None
            }
            Action::Apply { lane, plan } => Some(self.apply(lane, &plan)),
            Action::Save(plan) => {
                self.save(&plan);
                None
            }
            Action::DeadLetter {
                slot,
                offset,
                reason,
            } => Some(self.dead_letter(slot, offset, reason)),
            Action::Erase {
                slot,
                epoch,
                erasure,
            } => {
                // The log must keep the events that a reset applies again.
                self.assignment.lower_floor(&self.machine);
                self.shared.erase(EraseJob::Workspace {
                    assignment: Arc::clone(&self.assignment),
                    slot,
                    id: self.machine.workspace_id(slot).clone(),
                    epoch,
                    erasure,
                });
                None
            }
            Action::Drop { slot } => {
                self.withdraw(slot);
                let local = self.local(slot);
                local.workspace = None;
                local.progress = None;
                local.taken = Vec::new();
                local.being_saved = None;
                local.broken = None;
                None
            }
            Action::Report { slot, report } => {
                self.report(slot, report);
                None
            }
            Action::Reply { ticket, result } => {
                if let Some(reply) = self.tickets.remove(&ticket) {
                    let _ = reply.send(result);
                }
                None
            }
            Action::Released => {
                self.released = true;
                None
            }
        }
    }

    fn list(&mut self) -> Input {
        let listed = self
            .shared
            .store
            // Read first: a workspace that another owner claims in between is then in the list.
            .committed(self.id)
            .and_then(|committed| {
                let workspaces = self.shared.store.workspaces(self.id)?;
                let deletions = self.shared.store.deletions(self.id)?;
                Ok((workspaces, deletions, committed))
            });
        match listed {
            Ok((workspaces, deletions, committed)) => {
                self.shared
                    .store_answered(Asked::Partition(self.id), Ok(()));
                let shared = &self.shared;
                let now = shared.tracker.clock().wall();
                shared
                    .absent
                    .listed(self.id, &workspaces, &*shared.store, now);
                self.assignment.set_listed();
                let high_watermark = self.shared.log.high_watermark(self.id);
                let deleted = self.deleted(&workspaces, deletions);
                Input::Listed(Listing {
                    workspaces: workspaces
                        .into_iter()
                        .map(|stored| Known {
                            id: stored.id,
                            epoch: stored.epoch,
                            next_offset: stored.next_offset,
                            first_offset: stored.first_offset,
                            unloaded: stored.unloaded,
                            // Epoch 0, which no load has, marks a workspace whose record cannot be read.
                            damaged: stored.epoch == Epoch::new(0),
                        })
                        .collect(),
                    deleted,
                    // A committed offset beyond the end belongs to another log of the same name: discovery starts
                    // again.
                    committed: if committed > high_watermark {
                        Offset::ZERO
                    } else {
                        committed
                    },
                    low_watermark: self.shared.log.low_watermark(self.id),
                    high_watermark,
                    first_epoch: self.shared.first_epoch(self.id),
                })
            }
            Err(error) => {
                if self.store_failed(&error) {
                    tracing::error!(partition = %self.id, %error, "the store cannot list the partition; it is asked again");
                }
                Input::ListFailed {
                    reason: error.to_string(),
                }
            }
        }
    }

    /// Every deletion of the partition. Marks that are not needed any more (the log has removed the events, and the
    /// name is not taken) are purged from the store, at most [`MAX_PURGES`] at each assignment.
    fn deleted(&self, workspaces: &[StoredWorkspace], deletions: Vec<Deletion>) -> Vec<Deleted> {
        let low_watermark = self.shared.log.low_watermark(self.id);
        let mut purged = 0;
        let mut deleted = Vec::with_capacity(deletions.len());
        let mut dead_letters = Vec::with_capacity(deletions.len());
        for deletion in deletions {
            let is_taken = workspaces
                .binary_search_by(|workspace| workspace.id.cmp(&deletion.id))
                .is_ok();
            if deletion.next_offset <= low_watermark && !is_taken && purged < MAX_PURGES {
                purged += 1;
                if let Err(error) = self.shared.store.purge(&deletion.id) {
                    tracing::warn!(workspace = %deletion.id, %error, "the mark of a deletion cannot be removed");
                }
            }
            dead_letters.push(DeletedDeadLetters {
                workspace_id: deletion.id.clone(),
                partition: self.id,
                below: deletion.next_offset,
            });
            deleted.push(Deleted {
                id: deletion.id,
                epoch: deletion.epoch,
                next_offset: deletion.next_offset,
            });
        }
        if !dead_letters.is_empty() {
            // A crash may have interrupted a delete before its dead letters were removed.
            self.shared.erase(EraseJob::DeadLetters(dead_letters));
        }
        deleted
    }

    fn load(&mut self, slot: Slot, epoch: Epoch, first_offset: Offset) -> Option<Input> {
        let id = self.machine.workspace_id(slot).clone();
        let live = Arc::clone(&self.live);
        let Some(attempt) = self.local(slot).attempt.clone() else {
            self.shared.release_permit();
            let reason = "its status belongs to another load".to_owned();
            return Some(Input::LoadFailed {
                slot,
                epoch,
                claimed: false,
                failure: workspace_lifecycle::LoadFailure::Retry(reason),
            });
        };
        self.shared.load(LoadJob {
            assignment: Arc::clone(&self.assignment),
            slot,
            id,
            epoch,
            first_offset,
            attempt,
            live,
        });
        None
    }

    fn fetch(&mut self, lane: Lane, from: Offset, until: Offset) {
        let limit = ReadLimit {
            records: self.shared.config.fetch_records,
            bytes: self.shared.config.fetch_bytes,
            until,
        };
        let input = match self.shared.log.read(self.id, from, limit) {
            Ok(batch) => {
                if std::mem::take(&mut self.log_fails) {
                    self.shared.log_answered(self.id, Ok(()));
                }
                let (next_offset, high_watermark) = (batch.next_offset, batch.high_watermark);
                let grouped = Grouped::new(batch, self.own_partition());
                let counters = &self.shared.counters;
                counters.bytes_read.add(grouped.bytes);
                counters.records_unroutable.add(grouped.unroutable);
                counters.records_misrouted.add(grouped.misrouted_records);
                if let Some(first) = grouped.misrouted.first() {
                    let ownership = self.shared.store.ownership();
                    ownership.note_misrouted(self.id, first.offset);
                }
                for record in &grouped.misrouted {
                    match self.shared.misrouted.note(record, &self.shared.tracker) {
                        Noted::First => tracing::error!(workspace = %record.id, "{record}"),
                        Noted::TooMany => tracing::error!(
                            shown = MAX_MISROUTED,
                            "more workspaces have records on a wrong partition than are shown; those of all others are only counted"
                        ),
                        Noted::Again => {}
                    }
                }
                let touched = grouped.touched();
                self.batches.insert(lane, (grouped, next_offset));
                Input::Fetched {
                    lane,
                    next_offset,
                    high_watermark,
                    touched,
                }
            }
            Err(error) => {
                tracing::error!(partition = %self.id, ?lane, %error, "fetch failed");
                let failure = match error {
                    ReadError::FellOut { low_watermark, .. } => {
                        FetchFailure::FellOut { low_watermark }
                    }
                    ReadError::Lost { until, .. } => FetchFailure::Lost { until },
                    ReadError::BeyondEnd { high_watermark, .. } => {
                        FetchFailure::BeyondEnd { high_watermark }
                    }
                    ReadError::Corrupt { offset, .. } => FetchFailure::Damaged {
                        offset,
                        reason: error.to_string(),
                    },
                    ReadError::Unavailable(reason) => {
                        self.log_fails = true;
                        self.shared.log_answered(self.id, Err(reason.clone()));
                        FetchFailure::Retry(reason)
                    }
                };
                Input::FetchFailed { lane, failure }
            }
        };
        self.input(input);
    }

    fn own_partition(&self) -> OwnPartition<'_> {
        let log = &self.shared.log;
        OwnPartition {
            topic: log.topic(),
            partition: self.id,
            partitions: log.partitions(),
            partitioner: log.partitioner(),
        }
    }

    fn apply(&mut self, lane: Lane, plan: &[ApplyTo]) -> Input {
        let mut results = Vec::with_capacity(plan.len());
        if let Some((grouped, end)) = self.batches.remove(&lane) {
            let read = grouped.routable();
            let plan: HashMap<Slot, ApplyTo> =
                plan.iter().map(|apply| (apply.slot, *apply)).collect();
            for (id, records) in grouped.groups() {
                let Some(apply) = self.machine.slot(id).and_then(|slot| plan.get(&slot)) else {
                    continue;
                };
                let Some(workspace) = self
                    .locals
                    .get(apply.slot.index())
                    .and_then(|local| local.workspace.as_ref())
                else {
                    continue;
                };
                let source = Source {
                    topic: self.shared.log.topic(),
                    partition: self.id,
                };
                let result = apply::apply(workspace, records, *apply, end, source);
                if let Some(poison) = &result.poison
                    && poison.state == StateAfter::Broken
                {
                    // The machine drops it later; until then no reader may see half an event.
                    self.shared.workspaces.write().remove(id);
                }
                results.push(result);
            }
            let applied: u64 = results.iter().map(|result| result.events).sum();
            self.shared.counters.events_applied.add(applied);
            self.shared
                .counters
                .events_passed
                .add(read.saturating_sub(applied));
            let poisoned = results
                .iter()
                .filter(|result| result.poison.is_some())
                .count();
            self.shared
                .counters
                .events_poisoned
                .add(u64::try_from(poisoned).unwrap_or(0));
        }
        Input::Applied { lane, results }
    }

    fn save(&mut self, plan: &SavePlan) {
        let mut saves = Vec::with_capacity(plan.workspaces.len());
        let mut refused = Vec::new();
        for one in &plan.workspaces {
            let id = self.machine.workspace_id(one.slot).clone();
            let local = self.local(one.slot);
            let Some(workspace) = &local.workspace else {
                continue;
            };
            let fresh = match &local.broken {
                Some(reason) => Err(reason.clone()),
                None => catch_unwind(AssertUnwindSafe(|| {
                    workspace.write(|workspace, _| (workspace.take_changes(), workspace.entries()))
                }))
                .map_err(|panic| format!("taking its changes panicked: {}", panic_text(&*panic))),
            };
            let (fresh, entries) = match fresh {
                Ok(fresh) => fresh,
                Err(reason) => {
                    local.broken = Some(reason.clone());
                    refused.push(Refused {
                        slot: one.slot,
                        refusal: Refusal::ForGood(reason),
                    });
                    continue;
                }
            };
            let mut changes = std::mem::take(&mut local.taken);
            if changes.is_empty() {
                changes = fresh;
            } else {
                changes.extend(fresh);
            }
            local.being_saved = Some(one.epoch);
            saves.push((
                one.slot,
                Save {
                    id,
                    epoch: one.epoch,
                    next_offset: one.next_offset,
                    events_applied: one.events_applied,
                    entries,
                    changes,
                    last_load_ms: local.load_ms.take(),
                    unloaded: one.unloaded,
                    only_offset: None,
                },
            ));
        }
        saves.extend(plan.advances.iter().map(|one| {
            let save = Save {
                id: self.machine.workspace_id(one.slot).clone(),
                epoch: one.epoch,
                next_offset: one.next_offset,
                events_applied: 0,
                entries: 0,
                changes: Vec::new(),
                last_load_ms: None,
                unloaded: false,
                only_offset: Some(one.stored),
            };
            (one.slot, save)
        }));
        self.shared.save(SaveJob {
            assignment: Arc::clone(&self.assignment),
            saves,
            refused,
            committed: plan.committed,
        });
    }

    /// Publishes positions and progress, and wakes readers that wait for an offset.
    fn after_inputs(&mut self) {
        self.live.set(self.machine.live_position());
        let rounds_ended = self.machine.rounds_ended();
        if std::mem::replace(&mut self.rounds_ended, rounds_ended) != rounds_ended {
            self.all_follow_live();
        }
        for lane in Lane::ALL {
            for slot in self.machine.replaying(lane) {
                let Some(local) = self.locals.get(slot.index()) else {
                    continue;
                };
                if let Some(progress) = &local.progress {
                    progress.set(self.machine.next_offset(*slot).since(local.replay_from));
                }
            }
        }
        self.replay_metadata();
        self.assignment.publish(&self.machine);
        let discovered = self.machine.position().discovered;
        if std::mem::replace(&mut self.passed, discovered) != discovered {
            // Only after the publish: a caller that announces a workspace from now on sees that the partition has met
            // it.
            self.assignment
                .announced()
                .pass(&self.shared.tracker, discovered);
        }
    }

    fn all_follow_live(&mut self) {
        for slot in self.machine.slots() {
            let workspace = self
                .locals
                .get(slot.index())
                .and_then(|local| local.workspace.as_ref());
            if let Some(workspace) = workspace
                && self.machine.follows_live(slot)
            {
                workspace.set_follows_live(Following::Live);
            }
        }
    }

    fn permit(&self, slot: Slot) -> Permit {
        Permit {
            assignment: Arc::clone(&self.assignment),
            slot,
            id: self.machine.workspace_id(slot).clone(),
        }
    }

    pub(super) fn finish_load_clock(&mut self, slot: Slot) {
        let local = self.local(slot);
        if let Some(began) = local.load_began.take() {
            local.load_ms = Some(u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX));
        }
    }
}
