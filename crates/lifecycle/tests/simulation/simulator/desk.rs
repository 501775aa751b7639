//! The surroundings of one process's partitions: permits, loads, lists, saves, and answers in flight.

use std::collections::{BTreeSet, VecDeque};
use std::fmt;

use workspace_lifecycle::{
    Admission, Deleted, EraseFailure, EraseScope, Input, Known, Listing, LoadFailure, Offset,
    Refusal, Refused, Slot, Urgency,
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

#[derive(Debug)]
pub(crate) struct EraseJob {
    pub(crate) at: Address,
    pub(crate) slot: Slot,
    pub(crate) workspace: usize,
    pub(crate) epoch: Epoch,
    pub(crate) scope: EraseScope,
}

/// An answer in flight to a partition.
#[derive(Debug)]
pub(crate) enum Message {
    Input(Input),
    Loaded(LoadJob, Record),
    Saved(Vec<Refused>),
    SaveFailed(Vec<(Slot, Save)>),
}

/// State of the upkeep: floors are computed, then the store is synced, then the log may be trimmed.
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
    pub(crate) erasures: Vec<EraseJob>,
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
            erasures: Vec::new(),
            inbox: Vec::new(),
            upkeep: Upkeep::Idle,
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.loads.is_empty()
            && self.lists.is_empty()
            && self.saves.is_empty()
            && self.erasures.is_empty()
            && self.inbox.is_empty()
    }

    /// Whether something is under way for an assignment.
    pub(crate) fn knows(&self, at: Address) -> bool {
        self.loads.iter().any(|job| job.at == at)
            || self.lists.iter().any(|job| job.at == at)
            || self.saves.iter().any(|job| job.at == at)
            || self.erasures.iter().any(|job| job.at == at)
            || self.inbox.iter().any(|(to, _)| *to == at)
            || self.admission.waiting().any(|(who, _)| *who == at)
    }

    fn deliver(&mut self, at: Address, input: Input) {
        self.inbox.push((at, Message::Input(input)));
    }

    pub(crate) fn release(&mut self) {
        self.admission.release();
        self.grant();
    }

    pub(crate) fn grant(&mut self) {
        while let Some((at, slot)) = self.admission.grant(Urgency::Ordinary) {
            self.deliver(at, Input::PermitGranted { slot });
        }
    }

    /// Checks that every held permit is in flight to a partition or used by a load.
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
            return self.deliver(
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
                deleted: deleted(env, at.partition),
                committed: Offset(job.committed.unwrap_or_default()),
                low_watermark: Offset(log.low),
                high_watermark: Offset(log.high()),
                first_epoch: Epoch::new(env.store.first_epoch(at.partition)),
            };
            self.deliver(at, Input::Listed(listing));
        }
    }

    pub(crate) fn step_load(&mut self, env: &mut Env, index: usize) -> Step {
        let job = &mut self.loads[index];
        let key = (job.at.partition, job.workspace);
        let retry = |reason: &str| LoadFailure::Retry(reason.to_owned());
        let claimed = job.claimed.is_some();
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
                // The entries are read now, the rest is the answer of the claim.
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
            let is_fenced = !env.store.takes(key.0, job.at.life);
            let fails = fails || is_fenced;
            let answer = if claims && !is_fenced {
                env.store
                    .claim(&env.logs[key.0], key, job.epoch.get(), job.first_offset)?
            } else {
                Err(0)
            };
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
        self.deliver(
            job.at,
            Input::LoadFailed {
                slot: job.slot,
                epoch: job.epoch,
                claimed,
                failure,
            },
        );
        self.release();
        Ok(())
    }

    /// Writes the saves of some partitions in one call.
    pub(crate) fn step_save(&mut self, env: &mut Env, is_newest: impl Fn(Address) -> bool) -> Step {
        let gathered = env.random.between(1, self.saves.len() as u64);
        let jobs: Vec<SaveJob> = self
            .saves
            .drain(..usize::try_from(gathered).unwrap())
            .collect();
        let takes = |env: &Env, at: Address| env.store.takes(at.partition, at.life);
        let saves: Vec<Save> = jobs
            .iter()
            .filter(|job| takes(env, job.at))
            .flat_map(|job| job.saves.iter().cloned())
            .collect();
        // A previous owner may not know later deletions, so the store refuses its committed offset.
        let deleted = env.store.now.deleted.keys();
        let deleted: BTreeSet<usize> = deleted.map(|(partition, _)| *partition).collect();
        let committed: Vec<_> = jobs
            .iter()
            .filter(|job| takes(env, job.at))
            .filter(|job| !deleted.contains(&job.at.partition) || is_newest(job.at))
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
                let saves: Vec<Save> = saves
                    .iter()
                    .filter(|save| {
                        save.only_offset.is_none() || env.sabotage != Sabotage::AdvancesAreNotSaved
                    })
                    .cloned()
                    .collect();
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
                let taken_over = (!takes(env, job.at)).then_some(Refusal::TakenOver);
                for (slot, save) in job.slots.iter().zip(&job.saves) {
                    let why = refused.iter().find(|(key, _)| *key == save.key);
                    if let Some(refusal) = taken_over.as_ref().or(why.map(|(_, why)| why))
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

    /// Erases a workspace in the store if the assignment still owns the partition.
    pub(crate) fn step_erase(&mut self, env: &mut Env, index: usize, owns: bool) -> Step {
        let job = self.erasures.swap_remove(index);
        let key = (job.at.partition, job.workspace);
        let owns = owns && env.store.takes(key.0, job.at.life);
        let log = &mut env.logs[key.0];
        let fails = env.store_is_down || env.later.chance(env.faults.erase);
        let failed = || EraseFailure::Failed("the store does not answer".to_owned());
        let failed_and_done = if env.sabotage == Sabotage::FailedErasureCountsAsNotDone {
            EraseFailure::LogBeginsLater {
                low_watermark: Offset(log.low),
            }
        } else {
            failed()
        };
        let late = match job.scope {
            EraseScope::Reset { from, force: false } => {
                let stored = env.store.now.records.get(&key);
                let lost = log.lost_after(from.0).filter(|(lost, _)| {
                    stored.is_some_and(|stored| stored.next_offset > *lost)
                        && env.sabotage != Sabotage::ResetIgnoresLoss
                });
                let (low, until) = (log.low, lost.map(|(_, until)| until));
                (low > from.0).then_some(low).or(until)
            }
            EraseScope::Reset { .. } | EraseScope::Delete { .. } => None,
        };
        let result = if !owns {
            Err(EraseFailure::Failed("it is handed over".to_owned()))
        } else if let Some(low_watermark) = late {
            Err(EraseFailure::LogBeginsLater {
                low_watermark: Offset(low_watermark),
            })
        } else if fails && (env.store_is_down || env.later.chance(500)) {
            Err(failed())
        } else {
            let erased = env.store.erase(log, key, job.epoch.get(), job.scope)?;
            match erased {
                Err(stored) => Err(EraseFailure::Fenced {
                    stored: Epoch::new(stored),
                }),
                Ok(next_offset) if matches!(job.scope, EraseScope::Reset { .. }) => {
                    // The rebuilt workspace meets the lost parts of the log again.
                    let lost = env.logs[key.0].lost_between(next_offset, u64::MAX);
                    for last in lost {
                        env.dead_letters.remove(&(key.0, key.1, last));
                    }
                    if fails {
                        Err(failed_and_done)
                    } else {
                        Ok(next_offset)
                    }
                }
                Ok(_) if fails => {
                    // The load that finds this out leaves an empty workspace.
                    env.store.gone.retain(|gone| *gone != key);
                    Err(failed_and_done)
                }
                Ok(next_offset) => Ok(next_offset),
            }
        };
        if result.is_ok() && matches!(job.scope, EraseScope::Delete { .. }) {
            env.store.gone.push(key);
        }
        env.note(|| format!("erasure {} of {key:?}: {result:?}", job.scope));
        env.count(match (&result, job.scope) {
            (Err(_), _) => "erasures failed",
            (Ok(_), EraseScope::Reset { .. }) => "resets",
            (Ok(_), EraseScope::Delete { .. }) => "deletions",
        });
        let input = match result {
            Ok(next_offset) => Input::Erased {
                slot: job.slot,
                epoch: job.epoch,
                stored: job.epoch,
                next_offset: Offset(next_offset),
                left_over: None,
            },
            Err(failure) => Input::EraseFailed {
                slot: job.slot,
                epoch: job.epoch,
                failure,
            },
        };
        self.deliver(job.at, input);
        Ok(())
    }

    /// Does the next step of the upkeep; `owns` returns whether an assignment is still valid.
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
                    // Retention may keep more than required.
                    let low = if floor > log.low {
                        env.random.between(log.low, floor)
                    } else {
                        log.low
                    };
                    check_trim(&env.store, log, at.partition, low)?;
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

fn deleted(env: &Env, partition: usize) -> Vec<Deleted> {
    if env.sabotage == Sabotage::MarksAreNotListed {
        return Vec::new();
    }
    let marks = env.store.now.deleted.iter();
    let marks = marks.filter(|(key, _)| key.0 == partition);
    marks
        .map(|(key, mark)| Deleted {
            id: id_of(key.1),
            epoch: Epoch::new(mark.epoch),
            next_offset: Offset(mark.below),
        })
        .collect()
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
            first_offset: Offset(record.base),
            residence: record.residence,
            damaged: false,
        })
        .collect()
}
