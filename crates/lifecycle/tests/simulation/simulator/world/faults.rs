//! Faults: kills, power losses, partitions that move, and operators at the wrong moment.

use workspace_lifecycle::{Command, Input};

use super::World;
use crate::simulator::env::Stop;

impl World {
    pub(super) fn operate(&mut self) -> Result<(), (usize, Stop)> {
        let index = self.env.random.index(self.processes.len());
        let process = &mut self.processes[index];
        if process.drivers.is_empty() {
            return Ok(());
        }
        let workspace = self.env.random.index(self.env.config.workspaces + 1);
        let command = self.env.random.pick(&[
            Command::Load,
            Command::Unload,
            Command::Reload,
            Command::Skip,
            Command::Skip,
        ]);
        let config = &self.env.config;
        let erases = config.erasures > 0 && self.env.later.chance(config.erasures);
        let command = if erases {
            self.env.later.pick(&[
                Command::Reset { force: false },
                Command::Reset { force: true },
                Command::Delete,
            ])
        } else {
            command
        };
        let driver = self.env.random.index(process.drivers.len());
        let driver = &mut process.drivers[driver];
        if driver.released {
            return Ok(());
        }
        driver
            .command(&mut self.env, &mut process.desk, workspace, command)
            .map_err(|stop| (index, stop))
    }

    /// Some process needs memory.
    pub(super) fn evict(&mut self) -> Result<(), (usize, Stop)> {
        let env = &mut self.env;
        if env.config.evictions == 0 || !env.evicting.chance(env.config.evictions) {
            return Ok(());
        }
        let index = env.evicting.index(self.processes.len());
        let process = &mut self.processes[index];
        if process.drivers.is_empty() || process.frozen_until > self.step {
            return Ok(());
        }
        let driver = env.evicting.index(process.drivers.len());
        let driver = &mut process.drivers[driver];
        if driver.released {
            return Ok(());
        }
        let slots = driver.machine.slots();
        let slots = slots.filter(|_| env.evicting.chance(500)).collect();
        driver
            .input(env, &mut process.desk, Input::Evict { slots })
            .map_err(|stop| (index, stop))
    }

    pub(super) fn disturb(&mut self) -> Result<(), (usize, Stop)> {
        let partition = self.env.random.index(self.env.config.partitions);
        let process = self.env.random.index(self.processes.len());
        let losses = self.env.config.losses;
        if losses > 0 && self.env.later.chance(losses) {
            return match (self.env.config.moves, self.env.later.below(2)) {
                (false, _) => {
                    self.lose_end(partition);
                    Ok(())
                }
                (true, 0) => self.lose_changelog(partition),
                (true, _) => {
                    self.cut_off(process);
                    Ok(())
                }
            };
        }
        match self.env.random.below(14) {
            0 => self.crash(process),
            1 if self.env.random.chance(300) => self.lose_power(),
            2 => self.env.store_is_down = !self.env.store_is_down,
            3 => {
                let key = (partition, self.env.random.index(self.env.config.workspaces));
                if self.env.random.chance(200) && !self.env.store.corrupt.contains(&key) {
                    self.env
                        .note(|| format!("the entries of {key:?} are damaged"));
                    self.env.count("entries damaged");
                    self.env.store.corrupt.push(key);
                }
            }
            4 | 5 => {
                self.processes[process].frozen_until = self.step + self.env.random.between(5, 100);
            }
            6..=8 if !self.env.config.moves => {}
            6 | 7 => return self.notify_owner(partition, Input::Revoked),
            8 => return self.notify_owner(partition, Input::Lost),
            9 => return self.end_a_process(process),
            10.. if self.env.config.zombies => {
                if let Some(at) = self.owners[partition].take() {
                    self.env
                        .note(|| format!("{at} has lost the partition and does not know it"));
                    self.env.count("zombies");
                    let process = self
                        .processes
                        .iter_mut()
                        .find(|process| process.number == at.process);
                    if let Some(process) = process.filter(|_| self.env.random.chance(600)) {
                        process.frozen_until = self.step + self.env.random.between(5, 200);
                    }
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// An embedded log is restored from an older copy and continues after the lost part.
    fn lose_end(&mut self, partition: usize) {
        let log = &self.env.logs[partition];
        let earliest = log.low.max(log.lost_until());
        if earliest >= log.high() {
            return;
        }
        let from = self.env.later.between(earliest, log.high() - 1);
        self.env
            .note(|| format!("partition {partition} has lost everything from {from} on"));
        self.env.count("ends lost");
        self.restart_all();
        // The engine has started with the store, so what the store has of the lost events is durable.
        self.env.store.sync();
        let mut applied = Vec::new();
        for workspace in 0..self.env.config.workspaces {
            let key = (partition, workspace);
            let record = self.env.store.now.records.get(&key);
            let next_offset = record.map_or(0, |record| record.next_offset);
            applied.push(next_offset);
            if next_offset >= self.env.logs[partition].high() {
                // It passed the lost part before it was lost.
                let last = self.env.logs[partition].high() - 1;
                self.env.dead_letters.insert((partition, workspace, last));
            }
        }
        // The event that began a new workspace after a deletion may be lost.
        self.env.store.gone.retain(|key| key.0 != partition);
        self.env.logs[partition].lose_end(from, &applied);
    }

    /// Loses a partition's changelog, or its end, while no process owns it. Previous owners write nothing more.
    fn lose_changelog(&mut self, partition: usize) -> Result<(), (usize, Stop)> {
        let is_cut = self.env.later.chance(300);
        let keeps_beginning = is_cut || self.env.later.chance(600);
        let delivered = !self.env.config.zombies || !keeps_beginning || self.env.later.chance(500);
        let drivers = self.processes.iter().flat_map(|process| &process.drivers);
        let earlier: Vec<_> = drivers
            .filter(|driver| driver.at.partition == partition && !driver.released)
            .map(|driver| driver.at)
            .collect();
        self.owners[partition] = None;
        self.env.count("changelogs lost");
        let log = &mut self.env.logs[partition];
        if !keeps_beginning {
            log.low = self.env.later.between(log.low, log.high());
        }
        let low = log.low;
        self.env.note(|| {
            format!("the changelog of partition {partition} is lost, cut: {is_cut}; the log begins at {low}")
        });
        if is_cut {
            self.env.store.cut_changelog(partition, low);
        } else {
            let workspaces = self.env.config.workspaces;
            self.env.store.lose_changelog(partition, workspaces, low);
        }
        self.env.store.fence(partition, self.next_life);
        if delivered {
            for at in earlier {
                match self.deliver(at, Input::Lost) {
                    // The other previous owners must learn of it, too.
                    Err((process, Stop::Crash)) => self.crash(process),
                    delivered => delivered?,
                }
            }
        }
        Ok(())
    }

    /// Cuts a process off from the cluster, which assigns its partitions to others.
    fn cut_off(&mut self, index: usize) {
        let process = &mut self.processes[index];
        let number = process.number;
        process.frozen_until = self.step + self.env.later.between(5, 200);
        process.is_cut_off = true;
        for owner in &mut self.owners {
            owner.take_if(|at| at.process == number);
        }
        self.env.note(|| format!("process {number} is cut off"));
        self.env.count("cut off");
    }

    /// A process that was cut off counts all its partitions as lost when it continues, after some late writes.
    pub(super) fn end_cut_offs(&mut self) -> Result<(), (usize, Stop)> {
        let due = self
            .processes
            .iter()
            .position(|process| process.is_cut_off && process.frozen_until <= self.step);
        let Some(index) = due.filter(|_| self.env.later.chance(300)) else {
            return Ok(());
        };
        self.processes[index].is_cut_off = false;
        let number = self.processes[index].number;
        self.env
            .note(|| format!("process {number} finds that it was cut off"));
        let drivers = self.processes[index].drivers.iter();
        let lost: Vec<_> = drivers
            .filter(|driver| !driver.released)
            .map(|driver| driver.at)
            .collect();
        for at in lost {
            self.owners[at.partition].take_if(|owner| *owner == at);
            self.deliver(at, Input::Lost)?;
        }
        Ok(())
    }

    fn notify_owner(&mut self, partition: usize, input: Input) -> Result<(), (usize, Stop)> {
        let Some(at) = self.owners[partition].take() else {
            return Ok(());
        };
        self.env.count(if matches!(input, Input::Lost) {
            "lost"
        } else {
            "revoked"
        });
        self.deliver(at, input)
    }

    /// Passes `Lost` to a partition that is leaving, or to a zombie.
    fn end_a_process(&mut self, process: usize) -> Result<(), (usize, Stop)> {
        let owners = &self.owners;
        let out = self.processes[process]
            .drivers
            .iter()
            .find(|driver| !driver.released && owners[driver.at.partition] != Some(driver.at));
        match out.map(|driver| driver.at) {
            Some(at) => self.deliver(at, Input::Lost),
            None => Ok(()),
        }
    }

    pub(super) fn crash(&mut self, index: usize) {
        let process = self.processes.remove(index);
        self.env
            .note(|| format!("process {} is killed", process.number));
        self.env.count("crashes");
        for owner in &mut self.owners {
            if owner.is_some_and(|at| at.process == process.number) {
                *owner = None;
            }
        }
        self.start_process();
    }

    fn lose_power(&mut self) {
        let unsynced = self.env.store.unsynced() as u64;
        let kept = self.env.random.between(0, unsynced);
        self.env
            .note(|| format!("the power fails; {kept} of {unsynced} unsynced writes are kept"));
        self.env.count("power losses");
        self.env.store.lose_power(usize::try_from(kept).unwrap());
        self.restart_all();
    }

    fn restart_all(&mut self) {
        let processes = self.processes.len();
        self.processes.clear();
        self.owners.fill(None);
        for _ in 0..processes {
            self.start_process();
        }
    }
}
