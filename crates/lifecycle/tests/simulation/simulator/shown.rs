//! The status shown for a workspace, and which state may follow which.

use workspace_lifecycle::{Report, Residence, Slot};

use super::driver::Driver;
use super::env::{Env, Step};
use super::rules::{Rule, ensure};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Shown {
    /// It has no status.
    #[default]
    Nothing,
    /// `initializing`, `loading_kafka_partitions`.
    Begun,
    /// `loading_from_persistence` and the states after it.
    Loading,
    Replaying,
    Ready,
    Retrying,
    Parked,
    Unloading,
}

impl Shown {
    fn after(report: &Report) -> Self {
        match report {
            Report::Begin { .. } => Self::Begun,
            Report::Load => Self::Loading,
            Report::Replay { .. } => Self::Replaying,
            Report::Ready => Self::Ready,
            Report::Retrying { .. } => Self::Retrying,
            Report::Parked { .. } => Self::Parked,
            Report::Unloading { .. } => Self::Unloading,
            Report::Removed { .. } => Self::Nothing,
        }
    }

    /// The design's table: the states of the engine's path in order, and any state to error and to unloading.
    fn may_come_after(self, before: Self) -> bool {
        match self {
            Self::Begun => matches!(
                before,
                Self::Nothing | Self::Retrying | Self::Parked | Self::Unloading
            ),
            Self::Loading => before == Self::Begun,
            Self::Replaying => before == Self::Loading,
            Self::Ready => before == Self::Replaying,
            Self::Retrying => !matches!(before, Self::Nothing | Self::Begun | Self::Retrying),
            // The save of a workspace that is stopped at an event, or leaving, may also fail.
            Self::Parked => !matches!(before, Self::Nothing | Self::Begun | Self::Retrying),
            Self::Unloading => before != Self::Nothing,
            Self::Nothing => before == Self::Unloading,
        }
    }
}

impl Driver {
    pub(crate) fn report(&mut self, env: &mut Env, slot: Slot, report: &Report) -> Step {
        let workspace = self.workspace(slot);
        let shown = Shown::after(report);
        let before = std::mem::replace(&mut self.local(slot).shown, shown);
        let stays_out = before == Shown::Nothing
            && matches!(
                report,
                Report::Removed {
                    residence: Residence::Unloaded
                }
            );
        ensure(
            stays_out || shown.may_come_after(before),
            Rule::StateOrder,
            || format!("w{workspace} goes from {before:?} to {shown:?}"),
        )?;
        match report {
            Report::Begin { .. } => {
                let local = self.local(slot);
                let before = std::mem::take(&mut local.residence);
                local.was_evicted = before == Residence::Evicted;
            }
            Report::Load | Report::Replay { .. } => {}
            Report::Ready => {
                env.count("ready");
                self.follow_if_live(slot);
                let target = self.target(slot);
                let log = &env.logs[self.at.partition];
                let reached = self.machine.next_offset(slot).0 >= target;
                let local = self.local(slot);
                let Some(memory) = &local.memory else {
                    return Ok(ensure(false, Rule::Ready, || {
                        format!("w{workspace} is ready and not in memory")
                    })?);
                };
                let applied = memory.fold.count >= log.fold(workspace, memory.base, target).count;
                ensure(applied && reached, Rule::Ready, || {
                    format!(
                        "w{workspace} is ready at {:?}, before its target {target}",
                        memory.fold
                    )
                })?;
            }
            Report::Retrying { .. } => {
                env.count("retries");
                self.unfollow(slot);
            }
            Report::Parked { .. } => {
                env.count("parked");
                self.unfollow(slot);
            }
            Report::Unloading { .. } => self.unfollow(slot),
            Report::Removed { residence } => {
                self.unfollow(slot);
                self.local(slot).residence = *residence;
                if *residence == Residence::Evicted {
                    env.count("evictions");
                }
            }
        }
        Ok(())
    }
}
