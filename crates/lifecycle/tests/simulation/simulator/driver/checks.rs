//! Checks of a partition after each input.

use workspace_lifecycle::{Command, Residence, Slot};

use super::Driver;
use crate::simulator::env::{Env, Step};
use crate::simulator::rules::{Rule, ensure};
use crate::simulator::store::is_seeded;

impl Driver {
    /// Checks that a command that was answered as done really is.
    pub(super) fn done(&mut self, env: &Env, slot: Slot, command: Command, high: u64) -> Step {
        let key = (self.at.partition, self.workspace(slot));
        if !env.store.takes(key.0, self.at.life) {
            // What it did was lost with the changelog.
            return Ok(());
        }
        let local = self.local(slot);
        match command {
            // `Store::erase` checks resets.
            Command::Load | Command::Reload | Command::Reset { .. } => {}
            Command::Delete => {
                let begins = env.store.begins(key);
                ensure(begins >= high, Rule::DeletedStays, || {
                    format!("{key:?} is deleted below {begins}, and the log ended at {high}")
                })?;
            }
            Command::Unload => {
                local.residence = Residence::Unloaded;
                let left = local.memory.is_none();
                ensure(left, Rule::Replies, || {
                    format!("{key:?} is unloaded and in memory")
                })?;
            }
            Command::Skip => {
                let record = env.store.now.records.get(&key);
                let passed = record.is_some_and(|record| Some(record.next_offset) > local.skipped);
                ensure(passed, Rule::Replies, || {
                    format!(
                        "{key:?} skipped {:?} and would stand at it after a crash",
                        local.skipped
                    )
                })?;
            }
        }
        Ok(())
    }

    pub(super) fn check(&mut self, env: &Env) -> Step {
        let wake_at = self.machine.wake_at();
        ensure(wake_at.is_none_or(|at| at > env.now), Rule::Wake, || {
            format!(
                "{} wants to be woken at {wake_at:?}, and it is {:?}",
                self.at, env.now
            )
        })?;
        let known = self.machine.position().workspaces;
        let replaying = self.machine.replaying().count();
        ensure(replaying <= known, Rule::Bounded, || {
            format!("{replaying} of {known} workspaces replay")
        })?;
        let partition = self.at.partition;
        let log = &env.logs[partition];
        for slot in self.machine.slots() {
            let workspace = self.workspace(slot);
            let next_offset = self.machine.next_offset(slot).0;
            let events_applied = self.machine.events_applied(slot);
            let live = self.live;
            let local = self.local(slot);
            let Some(memory) = &local.memory else {
                continue;
            };
            let base = memory.base;
            let expected = log.fold(workspace, base, next_offset);
            ensure(memory.fold == expected, Rule::MemoryIsFold, || {
                format!(
                    "w{workspace} at {next_offset} is {:?}, not {expected:?}",
                    memory.fold
                )
            })?;
            ensure(events_applied == expected.count, Rule::MemoryIsFold, || {
                format!(
                    "w{workspace} counts {events_applied} events, not {}",
                    expected.count
                )
            })?;
            let shown = if local.follows_live {
                memory.next_offset.max(live)
            } else {
                memory.next_offset
            };
            ensure(
                log.fold(workspace, base, shown) == memory.fold,
                Rule::MemoryIsFold,
                || format!("a reader of w{workspace} sees {shown}, it is at {next_offset}"),
            )?;
            let key = (partition, workspace);
            ensure(
                memory.populated || !is_seeded(key),
                Rule::MemoryIsFold,
                || format!("w{workspace} lost what it was populated with"),
            )?;
            let unkept = log
                .poison_in(workspace, base, next_offset)
                .chain(log.damaged_in(base, next_offset))
                .chain(log.lost_between(base, next_offset))
                .find(|offset| !env.dead_letters.contains(&(key.0, key.1, *offset)));
            ensure(unkept.is_none(), Rule::PoisonIsKept, || {
                format!(
                    "w{workspace} at {next_offset} has passed {unkept:?}, which no operator skipped"
                )
            })?;
        }
        Ok(())
    }
}
