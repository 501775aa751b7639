//! A life: processes that start and stop around logs and a store, one step at a time.

mod faults;

use std::time::Duration;

use workspace_lifecycle::{Input, Time};

use super::desk::{Address, Desk, Message, Upkeep};
use super::driver::Driver;
use super::env::{Env, Step, Stop};
use super::log::Kind;
use super::rules::{Rule, Violation, ensure};
use super::sabotage::Sabotage;
use super::{FaultSet, Traced};

/// The step after the last.
pub(crate) const FAULTS_END: u64 = u64::MAX;

pub(crate) struct Process {
    pub(crate) number: u64,
    pub(crate) desk: Desk,
    pub(crate) drivers: Vec<Driver>,
    /// It does nothing until this step.
    frozen_until: u64,
    /// It was cut off from the cluster, and finds its session expired when it continues.
    is_cut_off: bool,
}

/// Something that could happen next in a process.
#[derive(Debug, Clone, Copy)]
enum Work {
    Deliver(usize),
    Fetch(usize),
    Grow(usize),
    Wake(usize),
    List(usize),
    Load(usize),
    Save,
    Erase(usize),
}

pub(crate) struct World {
    pub(crate) env: Env,
    pub(crate) processes: Vec<Process>,
    /// The owner of each partition according to the group.
    pub(crate) owners: Vec<Option<Address>>,
    /// The newest assignment of each partition, also after its end: the store refuses commits of older ones.
    newest: Vec<Option<Address>>,
    pub(crate) step: u64,
    events_left: u64,
    next_process: u64,
    next_life: u64,
}

impl World {
    pub(crate) fn new(seed: u64, sabotage: Sabotage, faults: FaultSet, traced: Traced) -> Self {
        let env = Env::new(seed, sabotage, faults, traced);
        Self {
            processes: Vec::new(),
            owners: vec![None; env.config.partitions],
            newest: vec![None; env.config.partitions],
            step: 0,
            events_left: env.config.events,
            next_process: 0,
            next_life: 0,
            env,
        }
    }

    /// Runs the steps with faults, then checks that everything recovers.
    pub(crate) fn live(&mut self) -> Result<(), Violation> {
        for _ in 0..self.env.config.processes {
            self.start_process();
        }
        while self.step < self.env.config.steps {
            self.step += 1;
            let happened = self.happen();
            self.survive(happened)?;
        }
        self.recover()
    }

    fn happen(&mut self) -> Result<(), (usize, Stop)> {
        self.end_cut_offs()?;
        self.evict()?;
        let config = &self.env.config;
        let (appends, clock, operators) = (config.appends, config.clock, config.operators);
        let (upkeep, disturbances) = (config.upkeep, config.disturbances);
        let roll = self.env.random.below(1000);
        let mut bound = appends;
        if roll < bound {
            self.append();
            return Ok(());
        }
        bound += clock;
        if roll < bound {
            self.pass_time();
            return Ok(());
        }
        bound += operators;
        if roll < bound {
            return self.operate();
        }
        bound += upkeep;
        if roll < bound {
            return self.keep_up();
        }
        bound += disturbances;
        if roll < bound {
            return self.disturb();
        }
        self.work().map(|_| ())
    }

    /// A crash ends its process; any other failure ends the life.
    pub(crate) fn survive(&mut self, happened: Result<(), (usize, Stop)>) -> Result<(), Violation> {
        match happened {
            Ok(()) => Ok(()),
            Err((process, Stop::Crash)) => {
                self.crash(process);
                Ok(())
            }
            Err((_, Stop::Broken(violation))) => Err(violation),
        }
    }

    pub(crate) fn start_process(&mut self) {
        let number = self.next_process;
        self.next_process += 1;
        let desk = Desk::new(&self.env);
        self.processes.push(Process {
            number,
            desk,
            drivers: Vec::new(),
            frozen_until: 0,
            is_cut_off: false,
        });
    }

    fn append(&mut self) {
        let env = &mut self.env;
        let partition = env.random.index(env.config.partitions);
        let burst = if env.random.chance(100) { 20 } else { 3 };
        for _ in 0..env.random.between(1, burst).min(self.events_left) {
            self.events_left -= 1;
            // Workspaces with higher numbers appear later.
            let known = 1 + env.logs[partition].high() * env.config.workspaces as u64
                / (env.config.events / 2 + 1);
            let workspace = env.random.below(known.min(env.config.workspaces as u64));
            let kinds = [
                (env.config.poison, Kind::Poison),
                (env.config.damaged, Kind::Damaged),
                (env.config.asks_for_save, Kind::AsksForSave),
                (env.config.nothing, Kind::Nothing),
            ];
            let drawn = kinds
                .into_iter()
                .find(|(permille, _)| env.random.chance(*permille));
            let kind = drawn.map_or(Kind::Plain, |(_, kind)| kind);
            env.note(|| format!("w{workspace} of partition {partition} gets {kind:?}"));
            env.logs[partition].append(usize::try_from(workspace).unwrap(), kind);
        }
    }

    fn pass_time(&mut self) {
        let wait = match self.env.random.below(10) {
            0 => self.env.random.between(1, 60_000),
            1..=4 => self.env.random.between(1, 2_000),
            _ => self.env.random.between(1, 100),
        };
        let next = self.next_wake().filter(|_| self.env.random.chance(500));
        let later = self.env.now + Duration::from_millis(wait);
        self.env.now = next.unwrap_or(later).max(self.env.now);
    }

    pub(crate) fn next_wake(&self) -> Option<Time> {
        let drivers = self.processes.iter().flat_map(|process| &process.drivers);
        drivers.filter_map(|driver| driver.machine.wake_at()).min()
    }

    fn keep_up(&mut self) -> Result<(), (usize, Stop)> {
        let index = self.env.random.index(self.processes.len());
        self.keep_up_with(index)
    }

    fn keep_up_with(&mut self, index: usize) -> Result<(), (usize, Stop)> {
        let process = &mut self.processes[index];
        if matches!(process.desk.upkeep, Upkeep::Idle) {
            let floors = process
                .drivers
                .iter()
                .map(|driver| (driver.at, driver.machine.trim_floor().0));
            process.desk.upkeep = Upkeep::Floors(floors.collect());
            return Ok(());
        }
        let owners = &self.owners;
        let owns = |at: Address| owners[at.partition] == Some(at);
        process
            .desk
            .step_upkeep(&mut self.env, owns)
            .map_err(|stop| (index, stop))
    }

    pub(crate) fn deliver(&mut self, at: Address, input: Input) -> Result<(), (usize, Stop)> {
        let Some(index) = self
            .processes
            .iter()
            .position(|process| process.number == at.process)
        else {
            return Ok(());
        };
        let process = &mut self.processes[index];
        let Some(driver) = process.drivers.iter_mut().find(|driver| driver.at == at) else {
            return Ok(());
        };
        driver
            .input(&mut self.env, &mut process.desk, input)
            .map_err(|stop| (index, stop))
    }

    /// Assigns partitions without an owner to processes.
    pub(crate) fn assign(&mut self, permille: u64) -> Result<(), (usize, Stop)> {
        for partition in 0..self.owners.len() {
            if self.owners[partition].is_some() || !self.env.random.chance(permille) {
                continue;
            }
            let index = self.env.random.index(self.processes.len());
            let process = &mut self.processes[index];
            // A process releases a partition before it takes it again.
            if process
                .drivers
                .iter()
                .any(|driver| driver.at.partition == partition && !driver.released)
            {
                continue;
            }
            let at = Address {
                process: process.number,
                partition,
                life: self.next_life,
            };
            self.next_life += 1;
            self.owners[partition] = Some(at);
            self.newest[partition] = Some(at);
            let mut driver = Driver::new(at, &self.env);
            let assigned = driver.input(&mut self.env, &mut process.desk, Input::Assigned);
            process.drivers.push(driver);
            assigned.map_err(|stop| (index, stop))?;
        }
        Ok(())
    }

    /// Does one piece of work that is under way; false if there is none.
    pub(crate) fn work(&mut self) -> Result<bool, (usize, Stop)> {
        self.assign(if self.step == FAULTS_END { 1000 } else { 300 })?;
        let mut choices = Vec::new();
        for (index, process) in self.processes.iter().enumerate() {
            if process.frozen_until > self.step {
                continue;
            }
            let desk = &process.desk;
            choices.extend((0..desk.inbox.len()).map(|message| (index, Work::Deliver(message))));
            choices.extend((0..desk.loads.len()).map(|load| (index, Work::Load(load))));
            choices.extend((0..desk.lists.len()).map(|list| (index, Work::List(list))));
            choices.extend((!desk.saves.is_empty()).then_some((index, Work::Save)));
            // An erasure waits for a trim whose floors were computed before it.
            let may_erase = matches!(desk.upkeep, Upkeep::Idle)
                || self.env.sabotage == Sabotage::ResetDoesNotWaitForTrim;
            let erasures = if may_erase { desk.erasures.len() } else { 0 };
            choices.extend((0..erasures).map(|erasure| (index, Work::Erase(erasure))));
            for (number, driver) in process.drivers.iter().enumerate() {
                choices
                    .extend((!driver.fetches.is_empty()).then_some((index, Work::Fetch(number))));
                choices.extend(
                    driver
                        .sees_growth(&self.env)
                        .then_some((index, Work::Grow(number))),
                );
                choices.extend(
                    driver
                        .is_woken(&self.env)
                        .then_some((index, Work::Wake(number))),
                );
            }
        }
        if choices.is_empty() {
            let waiting = self.processes.iter().position(|process| {
                !process.desk.erasures.is_empty() && process.frozen_until <= self.step
            });
            // Erasures only wait for a trim, so continue the trim.
            return match waiting {
                Some(index) => self.keep_up_with(index).map(|()| true),
                None => Ok(false),
            };
        }
        let (index, work) = self.env.random.pick(&choices);
        self.do_work(index, work).map_err(|stop| (index, stop))?;
        Ok(true)
    }

    fn do_work(&mut self, index: usize, work: Work) -> Step {
        let env = &mut self.env;
        let process = &mut self.processes[index];
        let desk = &mut process.desk;
        let is_slow = matches!(
            work,
            Work::List(_) | Work::Load(_) | Work::Save | Work::Erase(_)
        );
        if is_slow && env.random.chance(env.faults.slow) {
            return Ok(());
        }
        match work {
            Work::List(list) => desk.step_list(env, list),
            Work::Load(load) => desk.step_load(env, load)?,
            Work::Save => {
                let newest = &self.newest;
                desk.step_save(env, |at| newest[at.partition] == Some(at))?;
            }
            Work::Erase(erasure) => {
                let at = desk.erasures[erasure].at;
                // An assignment that has ended, or that a newer one has replaced, erases nothing.
                let is_owner = self.owners[at.partition] == Some(at);
                let mut drivers = process.drivers.iter();
                let owns = self.newest[at.partition] == Some(at)
                    && drivers.any(|driver| {
                        driver.at == at && !driver.released && (is_owner || driver.is_leaving)
                    });
                desk.step_erase(env, erasure, owns)?;
            }
            Work::Fetch(driver) => process.drivers[driver].fetch(env, desk)?,
            Work::Wake(driver) => process.drivers[driver].input(env, desk, Input::Tick)?,
            Work::Grow(driver) => {
                let driver = &mut process.drivers[driver];
                let high_watermark =
                    workspace_lifecycle::Offset(env.logs[driver.at.partition].high());
                driver.input(env, desk, Input::Appended { high_watermark })?;
            }
            Work::Deliver(message) => {
                let (at, message) = desk.inbox.swap_remove(message);
                let Some(driver) = process.drivers.iter_mut().find(|driver| driver.at == at) else {
                    return Ok(ensure(false, Rule::Bounded, || {
                        format!("{at} has ended, an answer arrives")
                    })?);
                };
                match message {
                    Message::Input(input) => driver.input(env, desk, input)?,
                    Message::Loaded(job, record) => driver.loaded(env, desk, &job, record)?,
                    Message::Saved(refused) => driver.saved(env, desk, refused)?,
                    Message::SaveFailed(back) => driver.save_failed(env, desk, back)?,
                }
            }
        }
        desk.check()?;
        for driver in process.drivers.iter().filter(|driver| driver.released) {
            ensure(driver.tickets.is_empty(), Rule::Replies, || {
                format!("{} leaves without an answer", driver.at)
            })?;
            let left = driver.locals.iter().any(|local| local.memory.is_some());
            ensure(!left, Rule::Over, || {
                format!("{} leaves workspaces in memory", driver.at)
            })?;
        }
        process.drivers.retain(|driver| {
            !driver.released || desk.knows(driver.at) || !driver.fetches.is_empty()
        });
        Ok(())
    }
}
