//! What surrounds the partitions of one process: permits, loads, lists, saves, and answers on their way.

use std::collections::VecDeque;
use std::fmt;

use workspace_lifecycle::{
    Admission, Input, Known, Listing, LoadFailure, Offset, Refusal, Refused, Slot,
};
use workspace_status::Epoch;

use super::driver::id_of;
use super::env::{Env, Step};
use super::rules::{Rule, ensure};
use super::sabotage::Sabotage;
use super::store::{Record, Save, Written, check_trim};

/// One assignment of a partition to a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Address {
    pub(crate) process: u64,
    pub(crate) partition: usize,
    pub(crate) life: u64,
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "process {} partition {} life {}",
            self.process, self.partition, self.life
        )
    }
}

#[derive(Debug, Clone)]
pub(crate) struct LoadJob {
    pub(crate) at: Address,
    pub(crate) slot: Slot,
    pub(crate) workspace: usize,
    pub(crate) epoch: Epoch,
    pub(crate) first_offset: u64,
    pub(crate) claimed: Option<Record>,
}

#[derive(Debug, Clone)]
pub(crate) struct ListJob {
    pub(crate) at: Address,
    pub(crate) committed: Option<u64>,
    pub(crate) listed: Option<Vec<Known>>,
}

#[derive(Debug)]
pub(crate) struct SaveJob {
    pub(crate) at: Address,
    pub(crate) slots: Vec<Slot>,
    pub(crate) saves: Vec<Save>,
    pub(crate) committed: u64,
}

/// An answer on its way to a partition.
#[derive(Debug)]
pub(crate) enum Message {
    Input(Input),
    Loaded(LoadJob, Record),
    Saved(Vec<Refused>),
    SaveFailed(Vec<(Slot, Save)>),
}

/// Where the upkeep stands: floors are taken, then the store is synced, then the log may forget.
#[derive(Debug, Default)]
pub(crate) enum Upkeep {
    #[default]
    Idle,
    Floors(Vec<(Address, u64)>),
    Synced(Vec<(Address, u64)>),
}

pub(crate) struct Desk {
    pub(crate) admission: Admission<(Address, Slot)>,
    permits: usize,
    pub(crate) loads: Vec<LoadJob>,
    pub(crate) lists: Vec<ListJob>,
    pub(crate) saves: VecDeque<SaveJob>,
    pub(crate) inbox: Vec<(Address, Message)>,
    pub(crate) upkeep: Upkeep,
}

impl Desk {
    pub(crate) fn new(env: &Env) -> Self {
        Self {
            admission: Admission::new(env.config.admission),
            permits: env.config.admission.permits,
            loads: Vec::new(),
            lists: Vec::new(),
            saves: VecDeque::new(),
            inbox: Vec::new(),
            upkeep: Upkeep::Idle,
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.loads.is_empty()
            && self.lists.is_empty()
            && self.saves.is_empty()
            && self.inbox.is_empty()
    }

    /// Whether something is under way for an assignment.
    pub(crate) fn knows(&self, at: Address) -> bool {
        self.loads.iter().any(|job| job.at == at)
            || self.lists.iter().any(|job| job.at == at)
            || self.saves.iter().any(|job| job.at == at)
            || self.inbox.iter().any(|(to, _)| *to == at)
            || self.admission.waiting().any(|(who, _)| *who == at)
    }

    fn tell(&mut self, at: Address, input: Input) {
        self.inbox.push((at, Message::Input(input)));
    }

    pub(crate) fn release(&mut self) {
        self.admission.release();
        self.grant();
    }

    pub(crate) fn grant(&mut self) {
        while let Some((at, slot)) = self.admission.grant() {
            self.tell(at, Input::PermitGranted { slot });
        }
    }

    /// Every permit that is held is on its way to a partition or in a load.
    pub(crate) fn check(&self) -> Step {
        let on_their_way = self
            .inbox
            .iter()
            .filter(|(_, message)| matches!(message, Message::Input(Input::PermitGranted { .. })))
            .count();
        let used = on_their_way + self.loads.len();
        ensure(
            self.admission.held() == used && used <= self.permits,
            Rule::Permits,
            || {
                format!(
                    "{} permits are held and {used} used, of {}",
                    self.admission.held(),
                    self.permits
                )
            },
        )?;
        Ok(())
    }

    pub(crate) fn step_list(&mut self, env: &mut Env, index: usize) {
        let at = self.lists[index].at;
        if env.store_fails(env.faults.list) {
            self.lists.swap_remove(index);
            env.count("lists failed");
            return self.tell(
                at,
                Input::ListFailed {
                    reason: "the store does not answer".to_owned(),
                },
            );
        }
        let job = &mut self.lists[index];
        let first_listed = env.sabotage == Sabotage::ListBeforeCommitted;
        if first_listed && job.listed.is_none() {
            job.listed = Some(known(env, at.partition));
        } else if job.committed.is_none() {
            job.committed = Some(env.store.now.committed(at.partition));
        } else {
            let job = self.lists.swap_remove(index);
            let log = &env.logs[at.partition];
            let listing = Listing {
                workspaces: job.listed.unwrap_or_else(|| known(env, at.partition)),
                deleted: Vec::new(),
                committed: Offset(job.committed.unwrap_or_default()),
                low_watermark: Offset(log.low),
                high_watermark: Offset(log.high()),
                first_epoch: Epoch::FIRST,
            };
            self.tell(at, Input::Listed(listing));
        }
    }

    pub(crate) fn step_load(&mut self, env: &mut Env, index: usize) -> Step {
        let job = &mut self.loads[index];
        let key = (job.at.partition, job.workspace);
        let retry = |words: &str| LoadFailure::Retry(words.to_owned());
        let failure = if let Some(record) = job.claimed {
            let empty = record.fold.count == 0 && !record.populated;
            let stored = env.store.now.records.get(&key).copied().unwrap_or(record);
            if env.store.is_corrupt(key) {
                LoadFailure::Park("its entries are damaged".to_owned())
            } else if env.store_fails(env.faults.load) {
                retry("the store does not answer")
            } else if stored.epoch != record.epoch
                && !empty
                && env.sabotage != Sabotage::LoadIgnoresNewerEpoch
            {
                LoadFailure::Fenced {
                    stored: Epoch::new(stored.epoch),
                }
            } else {
                // The entries are those of now, the rest is what the claim answered.
                let record = if empty {
                    record
                } else {
                    Record {
                        fold: stored.fold,
                        ..record
                    }
                };
                let job = self.loads.swap_remove(index);
                env.count("loads");
                self.inbox.push((job.at, Message::Loaded(job, record)));
                self.release();
                return Ok(());
            }
        } else {
            let fails = env.store_fails(env.faults.claim);
            let claims = !fails || (!env.store_is_down && env.random.chance(500));
            let fresh = !env.store.now.records.contains_key(&key);
            let answer = if claims {
                env.store
                    .claim(&env.logs[key.0], key, job.epoch.get(), job.first_offset)?
            } else {
                Err(0)
            };
            if claims && fresh {
                env.born.insert(key, job.first_offset);
            }
            match answer {
                _ if fails => retry("the store does not answer"),
                Ok(record) => {
                    job.claimed = Some(record);
                    return Ok(());
                }
                Err(stored) => LoadFailure::Fenced {
                    stored: Epoch::new(stored),
                },
            }
        };
        let job = self.loads.swap_remove(index);
        env.note(|| {
            format!(
                "load of w{} at epoch {} fails: {failure:?}",
                job.workspace, job.epoch
            )
        });
        env.count("loads failed");
        self.tell(
            job.at,
            Input::LoadFailed {
                slot: job.slot,
                epoch: job.epoch,
                failure,
            },
        );
        self.release();
        Ok(())
    }

    /// Writes what some of the partitions want saved in one call.
    pub(crate) fn step_save(&mut self, env: &mut Env) -> Step {
        let gathered = env.random.between(1, self.saves.len() as u64);
        let jobs: Vec<SaveJob> = self
            .saves
            .drain(..usize::try_from(gathered).unwrap())
            .collect();
        let saves: Vec<Save> = jobs
            .iter()
            .flat_map(|job| job.saves.iter().cloned())
            .collect();
        let committed: Vec<_> = jobs
            .iter()
            .map(|job| (job.at.partition, job.committed))
            .collect();
        let fails = env.store_fails(env.faults.save);
        let kinds = [None, Some(Written::All), Some(Written::Some(0))];
        let written = if fails {
            env.random.pick(&kinds)
        } else {
            Some(Written::All)
        };
        let written = match written {
            Some(Written::Some(_)) => Some(Written::Some(env.random.next())),
            Some(Written::All) | None => written,
        };
        env.note(|| {
            format!(
                "save of {} workspaces, written: {written:?}, fails: {fails}",
                saves.len()
            )
        });
        let refused = match written {
            Some(written) => {
                let moody = env.faults.save > 0;
                env.store
                    .save(&env.logs, &saves, &committed, written, moody)?
            }
            None => Vec::new(),
        };
        env.count(if fails { "saves failed" } else { "saves" });
        env.count_many("saves refused", refused.len() as u64);
        for job in jobs {
            if env.sabotage == Sabotage::SaveAnswerIsLost && env.random.chance(200) {
                continue;
            }
            let message = if fails {
                Message::SaveFailed(job.slots.into_iter().zip(job.saves).collect())
            } else {
                let mut refusals = Vec::new();
                for (slot, save) in job.slots.iter().zip(&job.saves) {
                    let why = refused.iter().find(|(key, _)| *key == save.key);
                    if let Some((_, refusal)) = why
                        && (*refusal == Refusal::TakenOver
                            || env.sabotage != Sabotage::RefusedCountsAsSaved)
                    {
                        refusals.push(Refused {
                            slot: *slot,
                            refusal: refusal.clone(),
                        });
                    }
                }
                Message::Saved(refusals)
            };
            self.inbox.push((job.at, message));
        }
        Ok(())
    }

    /// Goes on with the upkeep; `owns` tells whether an assignment still holds.
    pub(crate) fn step_upkeep(&mut self, env: &mut Env, owns: impl Fn(Address) -> bool) -> Step {
        match std::mem::take(&mut self.upkeep) {
            Upkeep::Idle => {}
            Upkeep::Floors(floors) => {
                if env.store_fails(env.faults.sync) {
                    return Ok(());
                }
                if env.sabotage != Sabotage::TrimBeforeSync {
                    env.store.sync();
                }
                env.count("syncs");
                self.upkeep = Upkeep::Synced(floors);
            }
            Upkeep::Synced(floors) => {
                for (at, floor) in floors.into_iter().filter(|(at, _)| owns(*at)) {
                    let log = &env.logs[at.partition];
                    let excess = if env.sabotage == Sabotage::TrimAboveSaved {
                        2
                    } else {
                        0
                    };
                    let floor = (floor + excess).min(log.high());
                    // Retention may keep more than it must.
                    let low = if floor > log.low {
                        env.random.between(log.low, floor)
                    } else {
                        log.low
                    };
                    check_trim(&env.store.durable, log, at.partition, low)?;
                    if low > log.low {
                        env.count("trims");
                    }
                    env.note(|| format!("partition {} is trimmed to {low}", at.partition));
                    env.logs[at.partition].low = low;
                }
            }
        }
        Ok(())
    }
}

fn known(env: &Env, partition: usize) -> Vec<Known> {
    let records = env
        .store
        .now
        .records
        .iter()
        .filter(|(key, _)| key.0 == partition);
    records
        .map(|(key, record)| Known {
            id: id_of(key.1),
            epoch: Epoch::new(record.epoch),
            next_offset: Offset(record.next_offset),
            first_offset: Offset::ZERO,
            unloaded: record.unloaded,
        })
        .collect()
}
