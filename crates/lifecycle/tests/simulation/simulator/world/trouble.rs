//! What goes wrong: kills, power losses, partitions that move, and operators at the wrong moment.

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

    pub(super) fn disturb(&mut self) -> Result<(), (usize, Stop)> {
        let partition = self.env.random.index(self.env.config.partitions);
        let process = self.env.random.index(self.processes.len());
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
            6 | 7 => return self.tell_owner(partition, Input::Revoked),
            8 => return self.tell_owner(partition, Input::Lost),
            9 => return self.end_somebody(process),
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

    fn tell_owner(&mut self, partition: usize, input: Input) -> Result<(), (usize, Stop)> {
        let Some(at) = self.owners[partition].take() else {
            return Ok(());
        };
        self.env.count(if matches!(input, Input::Lost) {
            "lost"
        } else {
            "revoked"
        });
        self.tell(at, input)
    }

    /// Tells somebody who is on the way out, or a zombie, that its partition is lost.
    fn end_somebody(&mut self, process: usize) -> Result<(), (usize, Stop)> {
        let owners = &self.owners;
        let out = self.processes[process]
            .drivers
            .iter()
            .find(|driver| !driver.released && owners[driver.at.partition] != Some(driver.at));
        match out.map(|driver| driver.at) {
            Some(at) => self.tell(at, Input::Lost),
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
        let processes = self.processes.len();
        self.processes.clear();
        self.owners.fill(None);
        for _ in 0..processes {
            self.start_process();
        }
    }
}
