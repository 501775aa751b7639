//! The end of a life: faults stop, and everything must recover in bounded time.

use std::time::Duration;

use workspace_lifecycle::{Command, Input, Residence};

use super::desk::Address;
use super::driver::{Driver, id_of};
use super::env::{Faults, Stop};
use super::rules::{Rule, Violation, ensure};
use super::shown::Shown;
use super::world::{FAULTS_END, World};

/// Within this time everything that can become ready must be ready.
const SETTLES_IN: Duration = Duration::from_mins(5);

/// Maximum of steps in that time.
const MAX_STEPS: u64 = 200_000;

/// What a workspace without work under way still needs.
enum Rest {
    Done,
    NotYet(String),
    Needs(Command),
}

impl World {
    pub(crate) fn recover(&mut self) -> Result<(), Violation> {
        self.end_faults()?;
        self.settle(World::everything_rests)?;
        self.operators_help()?;
        self.everything_is_ready()?;
        self.the_cold_hold_nothing_back()?;

        self.env.note(|| "everything is handed over".to_owned());
        let refused = self.refused();
        self.hand_over()?;
        // A late claim of a previous owner may still fence a save: then the events are still in the log.
        if self.refused() == refused {
            self.everything_is_stored()?;
        }

        self.env.note(|| "everything is started again".to_owned());
        for _ in 0..self.env.config.processes {
            self.start_process();
        }
        self.settle(World::everything_rests)?;
        self.operators_help()?;
        self.everything_is_ready()
    }

    fn end_faults(&mut self) -> Result<(), Violation> {
        self.env.note(|| "faults end".to_owned());
        self.env.faults = Faults::default();
        self.env.store_is_down = false;
        self.step = FAULTS_END;
        for index in 0..self.processes.len() {
            let out: Vec<_> = self.processes[index]
                .drivers
                .iter()
                .filter(|driver| {
                    !driver.released && self.owners[driver.at.partition] != Some(driver.at)
                })
                .map(|driver| driver.at)
                .collect();
            for at in out {
                let delivered = self.deliver(at, Input::Lost);
                self.survive(delivered)?;
            }
        }
        Ok(())
    }

    /// Completes all work under way and lets time pass until `rests` succeeds.
    fn settle(&mut self, rests: fn(&World) -> Result<(), String>) -> Result<(), Violation> {
        let until = self.env.now + SETTLES_IN;
        for _ in 0..MAX_STEPS {
            let worked = self.work().map_err(|(_, stop)| match stop {
                Stop::Broken(violation) => violation,
                Stop::Crash => unreachable!("no faults"),
            })?;
            if worked {
                continue;
            }
            let Err(missing) = rests(self) else {
                return Ok(());
            };
            let next = self.next_wake();
            let Some(next) = next.filter(|next| *next <= until) else {
                return ensure(false, Rule::Settles, || {
                    format!("{missing}; it wakes at {next:?}")
                });
            };
            self.env.now = next.max(self.env.now);
        }
        ensure(false, Rule::Settles, || "busy without end".to_owned())
    }

    fn everything_rests(&self) -> Result<(), String> {
        self.for_each_rest(|what, rest| match rest {
            Rest::NotYet(missing) => Err(format!("{what} {missing}")),
            Rest::Done | Rest::Needs(_) => Ok(()),
        })
    }

    fn everything_is_ready(&mut self) -> Result<(), Violation> {
        let ready = self.for_each_rest(|what, rest| match rest {
            Rest::NotYet(missing) => Err(format!("{what} {missing}")),
            Rest::Needs(command) => Err(format!("{what} needs {command:?}")),
            Rest::Done => Ok(()),
        });
        ensure(ready.is_ok(), Rule::Settles, || ready.unwrap_err())?;
        for process in &self.processes {
            for driver in &process.drivers {
                let unanswered = driver.tickets.len();
                ensure(unanswered == 0, Rule::Replies, || {
                    format!("{unanswered} operators have no answer")
                })?;
            }
            let held = process.desk.admission.held() + process.desk.admission.queued();
            ensure(held == 0, Rule::Permits, || {
                format!("{held} permits are held or waited for")
            })?;
        }
        Ok(())
    }

    /// All are unloaded and have no event left: the whole log may be trimmed, and they load again without it.
    fn the_cold_hold_nothing_back(&mut self) -> Result<(), Violation> {
        if self.env.config.erasures == 0 {
            // Lives of the first seeds must end as they always did.
            return Ok(());
        }
        let refused = self.refused();
        for at in self.owners.clone().into_iter().flatten() {
            for workspace in 0..self.env.config.workspaces {
                self.command(at, workspace, Command::Unload)?;
            }
        }
        self.settle(World::everything_rests)?;
        // A late claim of a previous owner may fence one of them.
        if self.refused() == refused {
            let is_free = |world: &World| world.everything_is_free();
            let free = self.settle(is_free);
            if self.refused() == refused {
                free?;
            }
        }
        for at in self.owners.clone().into_iter().flatten() {
            let floor = self.driver(at).map(|driver| driver.machine.trim_floor().0);
            let log = &mut self.env.logs[at.partition];
            log.low = floor.unwrap_or(0).max(log.low).min(log.high());
        }
        self.operators_help()?;
        self.everything_is_ready()
    }

    fn everything_is_free(&self) -> Result<(), String> {
        for at in self.owners.iter().copied().flatten() {
            let high = self.env.logs[at.partition].high();
            let Some(driver) = self.driver(at) else {
                continue;
            };
            let (floor, held_by) = (driver.machine.trim_floor(), driver.machine.held_by());
            if floor.0 < high || held_by.is_some() {
                return Err(format!(
                    "{at} is held back at {floor} of {high} by {held_by:?}"
                ));
            }
        }
        Ok(())
    }

    fn driver(&self, at: Address) -> Option<&Driver> {
        let mut drivers = self.processes.iter().flat_map(|process| &process.drivers);
        drivers.find(|driver| driver.at == at)
    }

    fn command(
        &mut self,
        at: Address,
        workspace: usize,
        command: Command,
    ) -> Result<(), Violation> {
        let mut processes = self.processes.iter_mut();
        let Some(process) = processes.find(|process| process.number == at.process) else {
            return Ok(());
        };
        let driver = process.drivers.iter_mut().find(|driver| driver.at == at);
        let Some(driver) = driver else { return Ok(()) };
        driver
            .command(&mut self.env, &mut process.desk, workspace, command)
            .map_err(|stop| match stop {
                Stop::Broken(violation) => violation,
                Stop::Crash => unreachable!("no faults"),
            })
    }

    fn for_each_rest(
        &self,
        mut see: impl FnMut(String, Rest) -> Result<(), String>,
    ) -> Result<(), String> {
        for (partition, owner) in self.owners.iter().enumerate() {
            let mut drivers = self.processes.iter().flat_map(|process| &process.drivers);
            let Some(driver) = owner.and_then(|at| drivers.find(|driver| driver.at == at)) else {
                return Err(format!("no process has partition {partition}"));
            };
            let high = self.env.logs[partition].high();
            let position = driver.machine.position();
            if position.position.0 < high || position.target.is_some() {
                return Err(format!(
                    "partition {partition} is at {position:?} of {high}"
                ));
            }
            for workspace in 0..self.env.config.workspaces {
                see(
                    format!("w{workspace} of partition {partition}"),
                    self.rest(driver, workspace),
                )?;
            }
        }
        Ok(())
    }

    fn rest(&self, driver: &Driver, workspace: usize) -> Rest {
        let partition = driver.at.partition;
        let log = &self.env.logs[partition];
        let Some(slot) = driver.machine.slot(&id_of(workspace)) else {
            let key = (partition, workspace);
            let exists = log.first(workspace, self.env.store.begins(key)).is_some()
                || self.env.store.now.records.contains_key(&key);
            return if exists {
                Rest::NotYet("is not known".to_owned())
            } else {
                Rest::Done
            };
        };
        let key = (partition, workspace);
        let begins = self.env.store.begins(key);
        if driver.machine.is_deleted(slot) {
            return match log.first(workspace, begins) {
                Some(first) => Rest::NotYet(format!("is deleted below {begins}, and has {first}")),
                None => Rest::Done,
            };
        }
        let is_gone = self.env.store.gone.contains(&key) && log.first(workspace, begins).is_none();
        // If partitions move, a late claim of a previous owner may recreate the empty workspace.
        if is_gone && !self.env.config.moves {
            return Rest::NotYet("was deleted, and exists".to_owned());
        }
        let Some(local) = driver.locals.get(slot.index()) else {
            return cold(Residence::Memory);
        };
        match local.shown {
            Shown::Nothing if local.residence == Residence::Evicted => {
                let record = self.env.store.now.records.get(&key);
                let complete = log.fold(workspace, begins, log.high());
                if record.is_some_and(|record| record.fold == complete) {
                    Rest::Needs(Command::Load)
                } else {
                    Rest::NotYet(format!("is evicted as {record:?}, not {complete:?}"))
                }
            }
            Shown::Nothing => cold(local.residence),
            Shown::Ready => {
                let complete = log.fold(workspace, begins, log.high());
                match &local.memory {
                    Some(memory) if memory.fold == complete => Rest::Done,
                    memory => Rest::NotYet(format!("is ready with {memory:?}, not {complete:?}")),
                }
            }
            Shown::Parked => {
                match driver.machine.stopped_at(slot) {
                    Some(at)
                        if log.is_poison_of(workspace, at.offset.0)
                            || log.is_damaged(at.offset.0)
                            || log.ends_lost_part(at.offset.0) =>
                    {
                        Rest::Needs(Command::Skip)
                    }
                    Some(at) => {
                        Rest::NotYet(format!("is stopped at {}, which is no poison", at.offset))
                    }
                    // Even ones are repaired and loaded, odd ones are reset.
                    None if self.env.store.is_corrupt(key) => {
                        Rest::Needs(if workspace.is_multiple_of(2) {
                            Command::Load
                        } else {
                            Command::Reset { force: true }
                        })
                    }
                    None => Rest::NotYet("is parked for no reason".to_owned()),
                }
            }
            Shown::Begun
            | Shown::Loading
            | Shown::Replaying
            | Shown::Retrying
            | Shown::Unloading => Rest::NotYet(format!("is {:?}", local.shown)),
        }
    }

    /// Loads cold workspaces, repairs and loads damaged ones, skips poison, until nothing is left to do.
    fn operators_help(&mut self) -> Result<(), Violation> {
        for _ in 0..=self.env.config.events {
            let mut needs = Vec::new();
            let seen = self.for_each_rest(|_, _| Ok(()));
            ensure(seen.is_ok(), Rule::Settles, || seen.unwrap_err())?;
            for (partition, owner) in self.owners.iter().enumerate() {
                let mut drivers = self.processes.iter().flat_map(|process| &process.drivers);
                let driver = owner.and_then(|at| drivers.find(|driver| driver.at == at));
                for workspace in 0..self.env.config.workspaces {
                    if let Some(driver) = driver
                        && let Rest::Needs(command) = self.rest(driver, workspace)
                    {
                        needs.push((partition, driver.at, workspace, command));
                    }
                }
            }
            if needs.is_empty() {
                self.env.store.corrupt.clear();
                return Ok(());
            }
            for (partition, at, workspace, command) in needs {
                if command == Command::Load {
                    let key = (partition, workspace);
                    self.env.store.corrupt.retain(|corrupt| *corrupt != key);
                }
                self.command(at, workspace, command)?;
            }
            self.settle(World::everything_rests)?;
        }
        ensure(false, Rule::Settles, || "more skips than events".to_owned())
    }

    fn hand_over(&mut self) -> Result<(), Violation> {
        for at in self.owners.clone().into_iter().flatten() {
            let delivered = self.deliver(at, Input::Revoked);
            self.survive(delivered)?;
        }
        // No process gets them: `owners` stays as it is until all are released.
        self.settle(|world| {
            let mut drivers = world.processes.iter().flat_map(|process| &process.drivers);
            match drivers.find(|driver| !driver.released) {
                Some(driver) => Err(format!("{} is not released", driver.at)),
                None => Ok(()),
            }
        })?;
        for process in &self.processes {
            let held = process.desk.admission.held();
            ensure(held == 0 && process.desk.is_empty(), Rule::Permits, || {
                format!("{held} permits are held")
            })?;
        }
        self.processes.clear();
        self.owners.fill(None);
        Ok(())
    }

    fn refused(&self) -> u64 {
        self.env.tally.get("saves refused").copied().unwrap_or(0)
    }

    fn everything_is_stored(&self) -> Result<(), Violation> {
        for (partition, log) in self.env.logs.iter().enumerate() {
            for workspace in 0..self.env.config.workspaces {
                let key = (partition, workspace);
                let begins = self.env.store.begins(key);
                if log.first(workspace, begins).is_none() {
                    continue;
                }
                let record = self.env.store.now.records.get(&key);
                let complete = log.fold(workspace, begins, log.high());
                ensure(
                    record.is_some_and(|record| record.fold == complete),
                    Rule::NothingLost,
                    || {
                        format!(
                            "w{workspace} of partition {partition} was handed over as {record:?}, not {complete:?}"
                        )
                    },
                )?;
            }
        }
        Ok(())
    }
}

/// A workspace that was not evicted may only be out of memory because an operator unloaded it.
fn cold(residence: Residence) -> Rest {
    if residence == Residence::Unloaded {
        Rest::Needs(Command::Load)
    } else {
        Rest::NotYet("is cold and no operator requested that".to_owned())
    }
}
