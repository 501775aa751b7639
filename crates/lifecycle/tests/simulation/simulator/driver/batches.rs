//! Events are fetched, applied, and put into the dead-letter log.

use workspace_lifecycle::{
    AppliedTo, ApplyTo, FetchFailure, Input, Lane, Offset, Poison, Slot, StateAfter, Touched,
};

use super::{Driver, id_of};
use crate::simulator::desk::Desk;
use crate::simulator::env::{Env, Step};
use crate::simulator::log::Kind;
use crate::simulator::rules::{Rule, ensure};
use crate::simulator::sabotage::Sabotage;
use crate::simulator::store::Change;

impl Driver {
    pub(crate) fn fetch(&mut self, env: &mut Env, desk: &mut Desk) -> Step {
        let Some((lane, from, until)) = self.fetches.pop_front() else {
            return Ok(());
        };
        let log = &env.logs[self.at.partition];
        let records = usize::try_from(env.random.between(1, env.config.batch)).unwrap();
        let read = if env.random.chance(env.faults.fetch) {
            Err(FetchFailure::Retry("the log does not answer".to_owned()))
        } else {
            log.read(from, until, records, env.sabotage)
        };
        let high_watermark = Offset(log.high());
        let input = match read {
            Ok(batch) => {
                let mut touched: Vec<Touched> = Vec::new();
                for event in &batch.events {
                    let id = id_of(event.workspace);
                    let last_offset = Offset(event.offset);
                    match touched.iter_mut().find(|touch| touch.id == id) {
                        Some(touch) => touch.last_offset = last_offset,
                        None => touched.push(Touched {
                            id,
                            first_offset: last_offset,
                            last_offset,
                        }),
                    }
                }
                if env.sabotage == Sabotage::EventsOfTheColdAreNotNamed {
                    touched.retain(|touch| {
                        let slot = self.machine.slot(&touch.id);
                        slot.is_none_or(|slot| self.local(slot).memory.is_some())
                    });
                }
                let next_offset = Offset(batch.next_offset);
                self.batches.insert(lane, batch);
                Input::Fetched {
                    lane,
                    next_offset,
                    high_watermark,
                    touched,
                }
            }
            Err(failure) => {
                env.count("fetches failed");
                Input::FetchFailed { lane, failure }
            }
        };
        self.input(env, desk, input)
    }

    pub(super) fn apply(&mut self, env: &mut Env, lane: Lane, plan: &[ApplyTo]) -> Step<Input> {
        let Some(batch) = self.batches.remove(&lane) else {
            ensure(false, Rule::Bounded, || {
                format!("{lane:?} has no batch to apply")
            })?;
            unreachable!();
        };
        let mut results = Vec::new();
        for apply in plan {
            let workspace = self.workspace(apply.slot);
            let local = self.local(apply.slot);
            let Some(memory) = &mut local.memory else {
                ensure(false, Rule::Bounded, || {
                    format!("w{workspace} applies and is not in memory")
                })?;
                continue;
            };
            let mut apply = *apply;
            if env.sabotage == Sabotage::AppliesBelowNextOffset {
                apply.from = Offset(0);
            }
            let mut result = AppliedTo {
                slot: apply.slot,
                events: 0,
                bytes: 0,
                save_requested: false,
                poison: None,
            };
            for event in batch
                .events
                .iter()
                .filter(|event| event.workspace == workspace)
                .filter(|event| apply.covers(Offset(event.offset)))
            {
                match event.kind {
                    Kind::Poison if env.sabotage == Sabotage::PoisonIsSwallowed => {}
                    Kind::Poison => {
                        let offset = Offset(event.offset);
                        // At odd offsets, poison panics in the middle with the event partly applied.
                        let mut state = StateAfter::Intact;
                        if event.offset % 2 == 1 {
                            memory.fold = memory.fold.with(event.offset);
                            memory.fresh.push(Change::Event(event.offset));
                            if env.sabotage != Sabotage::BrokenStateIsKept {
                                state = StateAfter::Broken;
                            }
                        }
                        result.poison = Some(Poison {
                            offset,
                            reason: format!("event {offset} is poison"),
                            state,
                        });
                        break;
                    }
                    Kind::AsksForSave | Kind::Plain => {
                        result.save_requested |= event.kind == Kind::AsksForSave;
                        result.events += 1;
                        result.bytes += 1;
                        memory.fold = memory.fold.with(event.offset);
                        memory.fresh.push(Change::Event(event.offset));
                    }
                    Kind::Damaged | Kind::Nothing => unreachable!("not part of a batch"),
                }
            }
            let end = apply
                .until
                .map_or(batch.next_offset, |until| until.0.min(batch.next_offset));
            let poison = result.poison.as_ref();
            let reached = poison.map_or(end, |poison| poison.offset.0);
            memory.next_offset = memory.next_offset.max(reached);
            env.count_many("events applied", result.events);
            results.push(result);
        }
        Ok(Input::Applied { lane, results })
    }

    pub(super) fn dead_letter(&mut self, env: &mut Env, slot: Slot, offset: Offset) -> Step<Input> {
        let workspace = self.workspace(slot);
        let log = &env.logs[self.at.partition];
        let due = log.is_poison_of(workspace, offset.0)
            || log.is_damaged(offset.0)
            || log.ends_lost_part(offset.0);
        ensure(due, Rule::PoisonIsKept, || {
            format!("w{workspace} skips {offset}, which is no poison")
        })?;
        if env.random.chance(env.faults.dead_letter) {
            return Ok(Input::DeadLetterFailed {
                slot,
                reason: "the disk is full".to_owned(),
            });
        }
        env.count("events skipped");
        self.local(slot).skipped = Some(offset.0);
        if env.sabotage != Sabotage::SkipIsNotKept {
            env.dead_letters
                .insert((self.at.partition, workspace, offset.0));
        }
        Ok(Input::DeadLettered { slot, offset })
    }
}
