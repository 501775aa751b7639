//! Executes the decisions of one partition's machine, as the engine's driver does.

mod batches;
mod checks;

use std::collections::{BTreeMap, VecDeque};

use workspace_lifecycle::{
    Action, Command, Input, Lane, LoadFailure, Offset, Partition, PartitionId, Refused, Residence,
    SavePlan, Slot, Ticket,
};
use workspace_status::WorkspaceId;

use super::desk::{Address, Desk, EraseJob, ListJob, LoadJob, SaveJob};
use super::env::{Env, Step};
use super::log::{Batch, Fold};
use super::rules::{Rule, ensure};
use super::sabotage::Sabotage;
use super::shown::Shown;
use super::store::{Change, Record, Save, is_seeded};

/// A workspace in memory.
#[derive(Debug)]
pub(crate) struct Memory {
    pub(crate) fold: Fold,
    /// First offset of the workspace.
    pub(crate) base: u64,
    populated: bool,
    /// Changes that no save has taken.
    fresh: Vec<Change>,
    /// The `next_offset` shown to readers, without the positions that its lane has passed.
    next_offset: u64,
}

#[derive(Debug, Default)]
pub(crate) struct Local {
    pub(crate) memory: Option<Memory>,
    pub(crate) shown: Shown,
    /// Why it is out of memory, in this assignment or since an earlier one.
    pub(crate) residence: Residence,
    /// It was evicted before its last load.
    pub(crate) was_evicted: bool,
    taken: Vec<Change>,
    /// The load whose changes a save holds now.
    being_saved: Option<u64>,
    target: u64,
    epoch: u64,
    /// The last event put into the dead-letter log.
    skipped: Option<u64>,
    follows_live: bool,
}

pub(crate) struct Driver {
    pub(crate) at: Address,
    pub(crate) machine: Partition,
    pub(crate) fetches: VecDeque<(Lane, u64, u64)>,
    pub(crate) released: bool,
    pub(crate) locals: Vec<Local>,
    batches: BTreeMap<Lane, Batch>,
    save_under_way: bool,
    /// Open commands: workspace, command, and the end of the log at that time.
    pub(crate) tickets: BTreeMap<u64, (usize, Command, u64)>,
    /// Its partition was revoked.
    pub(crate) is_leaving: bool,
    live: u64,
}

pub(crate) fn id_of(workspace: usize) -> WorkspaceId {
    WorkspaceId::new(&format!("w{workspace}")).unwrap()
}

fn listed_out_of_memory(input: &Input) -> Vec<(WorkspaceId, Residence)> {
    let Input::Listed(listing) = input else {
        return Vec::new();
    };
    let out = listing.workspaces.iter();
    out.filter(|known| known.residence != Residence::Memory)
        .map(|known| (known.id.clone(), known.residence))
        .collect()
}

impl Driver {
    pub(crate) fn new(at: Address, env: &Env) -> Self {
        let id = PartitionId(u32::try_from(at.partition).unwrap());
        Self {
            at,
            machine: Partition::new(id, env.config.limits),
            fetches: VecDeque::new(),
            released: false,
            locals: Vec::new(),
            batches: BTreeMap::new(),
            save_under_way: false,
            tickets: BTreeMap::new(),
            is_leaving: false,
            live: 0,
        }
    }

    pub(crate) fn workspace(&self, slot: Slot) -> usize {
        self.machine.workspace_id(slot).as_str()[1..]
            .parse()
            .unwrap()
    }

    pub(crate) fn local(&mut self, slot: Slot) -> &mut Local {
        if slot.index() >= self.locals.len() {
            self.locals.resize_with(slot.index() + 1, Local::default);
        }
        &mut self.locals[slot.index()]
    }

    pub(crate) fn sees_growth(&self, env: &Env) -> bool {
        !self.released
            && env.logs[self.at.partition].high() > self.machine.position().high_watermark.0
    }

    pub(crate) fn is_woken(&self, env: &Env) -> bool {
        self.machine.wake_at().is_some_and(|at| at <= env.now)
    }

    /// Passes an input to the machine and executes its actions, including inputs that answer at once.
    pub(crate) fn input(&mut self, env: &mut Env, desk: &mut Desk, input: Input) -> Step {
        let mut inputs = VecDeque::from([input]);
        while let Some(input) = inputs.pop_front() {
            env.note(|| format!("{} <- {input:?}", self.at));
            let was_over = self.released;
            self.is_leaving |= matches!(input, Input::Revoked);
            let out = listed_out_of_memory(&input);
            let actions = self.machine.handle(env.now, input);
            for (id, residence) in out {
                if let Some(slot) = self.machine.slot(&id) {
                    self.local(slot).residence = residence;
                }
            }
            let most = 16 * (self.machine.position().workspaces + 2);
            ensure(actions.len() <= most, Rule::Bounded, || {
                format!("{} actions at once", actions.len())
            })?;
            for action in actions {
                if env.random.chance(env.faults.crash_in_action) {
                    return Err(super::env::Stop::Crash);
                }
                env.note(|| format!("{} -> {action}", self.at));
                let ends = matches!(action, Action::Drop { .. } | Action::ReturnPermit);
                ensure(ends || !was_over, Rule::Over, || {
                    format!("{action} after it was released")
                })?;
                inputs.extend(self.act(env, desk, action)?);
            }
        }
        self.after_inputs();
        self.check(env)
    }

    #[expect(clippy::too_many_lines, reason = "one arm for each action")]
    fn act(&mut self, env: &mut Env, desk: &mut Desk, action: Action) -> Step<Option<Input>> {
        match action {
            Action::List => desk.lists.push(ListJob {
                at: self.at,
                committed: None,
                listed: None,
            }),
            Action::RequestPermit { slot, urgency } => {
                desk.admission.request((self.at, slot), urgency);
                desk.grant();
            }
            Action::CancelPermit { slot } => desk.admission.cancel(&(self.at, slot)),
            Action::ReturnPermit => {
                env.count("permits returned");
                if env.sabotage != Sabotage::PermitLeaks {
                    desk.release();
                }
            }
            Action::Load {
                slot,
                epoch,
                first_offset,
            } => {
                let workspace = self.workspace(slot);
                let local = self.local(slot);
                ensure(local.memory.is_none(), Rule::Bounded, || {
                    format!("w{workspace} is in memory already")
                })?;
                ensure(epoch.get() > local.epoch, Rule::EpochsGrow, || {
                    format!("w{workspace} loads at epoch {epoch} after {}", local.epoch)
                })?;
                local.epoch = epoch.get();
                if env.random.chance(env.faults.attempt) {
                    desk.release();
                    let failure =
                        LoadFailure::Retry("its status belongs to another load".to_owned());
                    return Ok(Some(Input::LoadFailed {
                        slot,
                        epoch,
                        claimed: false,
                        failure,
                    }));
                }
                desk.loads.push(LoadJob {
                    at: self.at,
                    slot,
                    workspace,
                    epoch,
                    first_offset: first_offset.0,
                    claimed: None,
                });
            }
            Action::Fetch { lane, from, until } => {
                let is_fetching = self.fetches.iter().any(|(of, _, _)| *of == lane);
                ensure(!is_fetching && from < until, Rule::Bounded, || {
                    format!("{lane:?} fetches {from} to {until}")
                })?;
                self.fetches.push_back((lane, from.0, until.0));
            }
            Action::Apply { lane, plan } => return self.apply(env, lane, &plan).map(Some),
            Action::Save(plan) => self.save(env, desk, &plan)?,
            Action::DeadLetter {
                slot,
                offset,
                reason: _,
            } => return self.dead_letter(env, slot, offset).map(Some),
            Action::Erase { slot, epoch, scope } => {
                let workspace = self.workspace(slot);
                let local = self.local(slot);
                ensure(local.memory.is_none(), Rule::Bounded, || {
                    format!("w{workspace} is erased and in memory")
                })?;
                ensure(epoch.get() > local.epoch, Rule::EpochsGrow, || {
                    format!(
                        "w{workspace} is erased at epoch {epoch} after {}",
                        local.epoch
                    )
                })?;
                local.epoch = epoch.get();
                desk.erasures.push(EraseJob {
                    at: self.at,
                    slot,
                    workspace,
                    epoch,
                    scope,
                });
            }
            Action::Drop { slot } => {
                self.unfollow(slot);
                let local = self.local(slot);
                local.memory = None;
                local.taken.clear();
                local.being_saved = None;
            }
            Action::FollowLive { slots } => {
                for slot in slots {
                    let local = self.local(slot);
                    local.follows_live |= local.memory.is_some();
                }
            }
            Action::Report { slot, report } => self.report(env, slot, &report)?,
            Action::Reply { ticket, result } => {
                let ticketed = self.tickets.remove(&ticket.0);
                let Some((workspace, command, high)) = ticketed else {
                    ensure(false, Rule::Replies, || {
                        format!("{ticket:?} is answered twice")
                    })?;
                    return Ok(None);
                };
                env.count(if result.is_ok() {
                    "commands done"
                } else {
                    "commands refused"
                });
                let slot = self
                    .machine
                    .slot(&id_of(workspace))
                    .filter(|_| result.is_ok());
                if let Some(slot) = slot {
                    self.done(env, slot, command, high)?;
                }
            }
            Action::Released => {
                ensure(!self.released, Rule::Over, || "released twice".to_owned())?;
                env.count("released");
                self.released = true;
            }
        }
        Ok(None)
    }

    /// Puts the loaded record into memory and passes `Loaded` to the machine.
    pub(crate) fn loaded(
        &mut self,
        env: &mut Env,
        desk: &mut Desk,
        job: &LoadJob,
        record: Record,
    ) -> Step {
        // A late load must not replace what is in memory now.
        if !self.machine.awaits_load(job.slot, job.epoch) {
            return Ok(());
        }
        let seeded = is_seeded((self.at.partition, job.workspace));
        let populates = seeded && !record.populated && record.fold.count == 0;
        let high = env.logs[self.at.partition].high();
        let local = self.local(job.slot);
        local.memory = Some(Memory {
            fold: record.fold,
            base: record.base,
            populated: record.populated || populates,
            fresh: Vec::new(),
            next_offset: record.next_offset,
        });
        local.taken = if populates {
            vec![Change::Populated]
        } else {
            Vec::new()
        };
        local.target = high;
        let is_early = env.sabotage == Sabotage::ReadyBeforeTarget;
        let delivered = if is_early { record.next_offset } else { high };
        let skips = env.sabotage == Sabotage::EvictedSkipsItsEvents && local.was_evicted;
        let next_offset = if skips { high } else { record.next_offset };
        let input = Input::Loaded {
            slot: job.slot,
            epoch: job.epoch,
            first_offset: Offset(record.base),
            next_offset: Offset(next_offset),
            events_applied: record.events_applied,
            unsaved: populates,
            high_watermark: Offset(delivered),
        };
        self.input(env, desk, input)
    }

    pub(crate) fn saved(&mut self, env: &mut Env, desk: &mut Desk, refused: Vec<Refused>) -> Step {
        self.save_under_way = false;
        self.input(env, desk, Input::Saved { refused })
    }

    pub(crate) fn save_failed(
        &mut self,
        env: &mut Env,
        desk: &mut Desk,
        back: Vec<(Slot, Save)>,
    ) -> Step {
        self.save_under_way = false;
        for (slot, save) in back {
            let local = self.local(slot);
            if local.being_saved.take() == Some(save.epoch)
                && env.sabotage != Sabotage::FailedSaveForgetsChanges
            {
                local.taken = save.changes;
            }
        }
        self.input(
            env,
            desk,
            Input::SaveFailed {
                reason: "the disk says no".to_owned(),
            },
        )
    }

    pub(crate) fn command(
        &mut self,
        env: &mut Env,
        desk: &mut Desk,
        workspace: usize,
        command: Command,
    ) -> Step {
        let ticket = env.next_ticket;
        env.next_ticket += 1;
        let high = env.logs[self.at.partition].high();
        if command == Command::Delete && env.sabotage != Sabotage::DeletionEndsTooEarly {
            let high_watermark = Offset(high);
            self.input(env, desk, Input::Appended { high_watermark })?;
        }
        self.tickets.insert(ticket, (workspace, command, high));
        let input = Input::Operator {
            id: id_of(workspace),
            command,
            ticket: Ticket(ticket),
            low_watermark: Offset(env.logs[self.at.partition].low),
        };
        self.input(env, desk, input)
    }

    fn save(&mut self, env: &mut Env, desk: &mut Desk, plan: &SavePlan) -> Step {
        let mut saves = Vec::new();
        let mut slots = Vec::new();
        let partition = self.at.partition;
        for one in &plan.workspaces {
            let workspace = self.workspace(one.slot);
            ensure(!slots.contains(&one.slot), Rule::Bounded, || {
                format!("w{workspace} is saved twice at once")
            })?;
            let local = self.local(one.slot);
            let Some(memory) = &mut local.memory else {
                ensure(false, Rule::Bounded, || {
                    format!("w{workspace} is saved and not in memory")
                })?;
                continue;
            };
            let mut changes = std::mem::take(&mut local.taken);
            changes.append(&mut memory.fresh);
            if env.sabotage == Sabotage::EvictedBeforeItIsSaved
                && one.residence == Residence::Evicted
            {
                changes.clear();
            }
            local.being_saved = Some(one.epoch.get());
            slots.push(one.slot);
            saves.push(Save {
                key: (partition, workspace),
                epoch: one.epoch.get(),
                next_offset: one.next_offset.0,
                events_applied: one.events_applied,
                changes,
                residence: one.residence,
                only_offset: None,
            });
        }
        for one in &plan.advances {
            let workspace = self.workspace(one.slot);
            let is_in_memory = self.local(one.slot).memory.is_some();
            ensure(
                !slots.contains(&one.slot) && !is_in_memory,
                Rule::Bounded,
                || format!("w{workspace} is in memory and only advanced"),
            )?;
            env.count("advances");
            slots.push(one.slot);
            saves.push(Save {
                key: (partition, workspace),
                epoch: one.epoch.get(),
                next_offset: one.next_offset.0,
                events_applied: 0,
                changes: Vec::new(),
                residence: Residence::Memory,
                only_offset: Some(one.stored.get()),
            });
        }
        ensure(!self.save_under_way, Rule::Bounded, || {
            "two saves of a partition at once".to_owned()
        })?;
        let committed = if env.sabotage == Sabotage::CommittedIgnoresUnclaimed {
            self.machine.live_position().0
        } else {
            plan.committed.0
        };
        desk.saves.push_back(SaveJob {
            at: self.at,
            slots,
            saves,
            committed,
        });
        self.save_under_way = true;
        Ok(())
    }

    /// Updates what readers see.
    fn after_inputs(&mut self) {
        self.live = self.machine.live_position().0;
    }

    /// From now on its own `next_offset` counts, whatever the lane passes.
    pub(crate) fn unfollow(&mut self, slot: Slot) {
        let next_offset = self.machine.next_offset(slot).0;
        let local = self.local(slot);
        if let Some(memory) = &mut local.memory {
            memory.next_offset = memory.next_offset.max(next_offset);
        }
        local.follows_live = false;
    }

    pub(crate) fn follow_if_live(&mut self, slot: Slot) {
        if self.machine.follows_live(slot) {
            self.local(slot).follows_live = true;
        }
    }

    pub(crate) fn target(&mut self, slot: Slot) -> u64 {
        self.local(slot).target
    }
}
