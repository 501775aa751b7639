//! Drives one partition: executes what its machine ([`Partition`]) decides, against the log, the store and the status.
//!
//! Each partition has its own thread, because reading and applying block and should use all cores. The thread owns the
//! machine; other threads send it messages. An assignment passes four phases:
//!
//! | phase | begins with | code |
//! |---|---|---|
//! | opening | the assignment; commands are refused | [`opening::open`] |
//! | listing | log and store are open | [`Driver::serve`] sends `Assigned`, the machine requests `List` |
//! | serving | the list | [`Driver::serve`]: messages, then one fetch at a time |
//! | ending | revoked, lost, or the log was replaced ([`replaced_log`]) | the machine saves and releases; [`end`] |

mod apply;
mod commands;
mod dead_letter;
mod fetch;
mod grouped;
mod listing;
mod load;
mod opening;
mod presence;
mod replaced_log;
mod reports;
mod save;

pub(crate) use apply::check;

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError};
use workspace_lifecycle::{Action, Input, Lane, Offset, Partition, PartitionId, Time};

use self::commands::PendingCommands;
use self::fetch::Fetch;
use self::grouped::Grouped;
use self::presence::Presences;
use crate::assignment::Assignment;
use crate::jobs::EraseJob;
use crate::loaded::{Following, LivePosition};
use crate::message::Message;
use crate::shared::{EngineShared, Opened};

/// Longest sleep of an idle partition, and so the longest time between two of its heartbeats.
const LONGEST_SLEEP: Duration = Duration::from_millis(500);

/// Serves a partition until it is released. When its log was replaced, it is released and opened again.
pub(crate) fn run(shared: &Arc<EngineShared>, opened: Opened) {
    let mut next = Some(opened);
    while let Some((assignment, messages)) = next {
        let ended = match opening::open(shared, &assignment, &messages) {
            Ok(()) => Driver::new(shared, &assignment).serve(&messages),
            Err(opening::Revoked) => Ended::Released,
        };
        end(shared, &assignment);
        next = match ended {
            Ended::Released => None,
            Ended::LogReplaced => shared.renew(&assignment),
        };
        shared.close(&assignment, &messages);
    }
}

/// Why a driver has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ended {
    /// The partition was revoked or lost.
    Released,
    /// The log was replaced, or has lost its end.
    LogReplaced,
}

/// Releases log, store and history for the next owner.
fn end(shared: &EngineShared, assignment: &Assignment) {
    let id = assignment.id();
    // The last transitions must be in the history before the next owner adds its own.
    shared.history.flush();
    // A save left in the queue must not undo what the next assignment saves.
    assignment.end_saves();
    shared.store.ownership().close(id);
    shared.log.close(id);
    shared.misrouted.forget(id, &shared.tracker);
}

/// A partition that is listed or served.
struct Driver {
    shared: Arc<EngineShared>,
    machine: Partition,
    id: PartitionId,
    assignment: Arc<Assignment>,
    presences: Presences,
    live: Arc<LivePosition>,
    /// Batches that were fetched and not applied, each with the offset behind it.
    batches: HashMap<Lane, (Grouped, Offset)>,
    fetches: VecDeque<Fetch>,
    commands: PendingCommands,
    /// `discovered` at the last pass over the announced workspaces: none with an event below it is still announced.
    passed: Offset,
    log_fails: bool,
    /// Last check whether the log has lost its end.
    end_checked_at: Option<Instant>,
    /// When the progress of replays is shown next.
    progress_at: Instant,
    released: bool,
}

impl Driver {
    fn new(shared: &Arc<EngineShared>, assignment: &Arc<Assignment>) -> Self {
        let id = assignment.id();
        Self {
            shared: Arc::clone(shared),
            machine: Partition::new(id, shared.config.limits),
            id,
            assignment: Arc::clone(assignment),
            presences: Presences::default(),
            live: Arc::default(),
            batches: HashMap::new(),
            fetches: VecDeque::new(),
            commands: PendingCommands::default(),
            passed: Offset::ZERO,
            log_fails: false,
            end_checked_at: None,
            progress_at: Instant::now(),
            released: false,
        }
    }

    fn serve(mut self, messages: &Receiver<Message>) -> Ended {
        self.input(Input::Assigned);
        let mut ended = Ended::Released;
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
            if ended == Ended::Released && self.log_is_replaced(high_watermark) {
                ended = Ended::LogReplaced;
                self.input(Input::Revoked);
                continue;
            }
            if self.machine.wake_at().is_some_and(|at| at <= self.now()) {
                self.input(Input::Tick);
            }
            if let Some(fetch) = self.fetches.pop_front() {
                self.fetch(fetch);
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
        ended
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
            Message::Command { id, command, reply } => self.command(id, command, reply),
            Message::Evict(ids) => {
                let slots = ids.iter().filter_map(|id| self.machine.slot(id)).collect();
                self.input(Input::Evict { slots });
            }
            Message::Wake => {}
        }
    }

    /// Passes an input to the machine and executes its actions, then the inputs that these return.
    fn input(&mut self, input: Input) {
        let mut inputs = VecDeque::from([input]);
        while let Some(input) = inputs.pop_front() {
            let erased = if let Input::Erased { slot, .. } = &input {
                Some(*slot)
            } else {
                None
            };
            let actions = self.machine.handle(self.now(), input);
            // Before the operator gets the reply to the delete.
            if let Some(slot) = erased.filter(|slot| self.machine.is_deleted(*slot)) {
                self.shared.absent.forget(self.machine.workspace_id(slot));
            }
            // The machine gets an answer only after the remaining actions are done. That is safe, because it issues no
            // save while a batch is being applied.
            inputs.extend(actions.into_iter().filter_map(|action| self.act(action)));
        }
        self.after_inputs();
    }

    /// Executes an action. Returns its answer if there is one at once; others arrive as messages.
    fn act(&mut self, action: Action) -> Option<Input> {
        match action {
            Action::List => return Some(self.list()),
            Action::Load {
                slot,
                epoch,
                first_offset,
            } => return self.load(slot, epoch, first_offset),
            Action::Apply { lane, plan } => return Some(self.apply(lane, &plan)),
            Action::DeadLetter {
                slot,
                offset,
                reason,
            } => return Some(self.dead_letter(slot, offset, reason)),
            Action::RequestPermit { slot, urgency } => {
                self.shared.permits.request(self.permit(slot), urgency);
            }
            Action::CancelPermit { slot } => self.shared.permits.cancel(&self.permit(slot)),
            Action::ReturnPermit => self.shared.permits.release(),
            Action::Fetch { lane, from, until } => {
                self.fetches.push_back(Fetch { lane, from, until });
            }
            Action::Save(plan) => self.save(&plan),
            Action::Erase { slot, epoch, scope } => {
                // The log must keep the events that a reset applies again.
                self.assignment.lower_floor(&self.machine);
                self.shared.erase(EraseJob::Workspace {
                    assignment: Arc::clone(&self.assignment),
                    slot,
                    id: self.machine.workspace_id(slot).clone(),
                    epoch,
                    scope,
                });
            }
            Action::Drop { slot } => {
                self.withdraw(slot);
                self.presences.drop_memory(slot);
            }
            Action::FollowLive { slots } => {
                for slot in slots {
                    if let Some(resident) = self.presences.resident(slot) {
                        resident.workspace.set_follows_live(Following::Live);
                    }
                }
            }
            Action::Report { slot, report } => self.report(slot, report),
            Action::Reply { ticket, result } => self.commands.reply(ticket, result),
            Action::Released => self.released = true,
        }
        None
    }

    /// Publishes positions and progress, and wakes readers that wait for an offset.
    fn after_inputs(&mut self) {
        self.live.set(self.machine.live_position());
        self.report_progress();
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
}
