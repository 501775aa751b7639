//! The model of a partition's log, and the expected state of each workspace at any offset.

use workspace_lifecycle::{FetchFailure, Offset};

use super::random::mix;
use super::sabotage::Sabotage;

/// What an event does to its workspace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Plain,
    AsksForSave,
    Poison,
    /// Cannot be read, so its workspace is unknown.
    Damaged,
    /// An offset without a record, or a record that belongs to no workspace.
    Nothing,
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Event {
    pub(crate) offset: u64,
    pub(crate) workspace: usize,
    pub(crate) kind: Kind,
}

/// The state of a workspace: which events it has applied, in which order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Fold {
    pub(crate) count: u64,
    pub(crate) hash: u64,
    pub(crate) last: Option<u64>,
}

impl Fold {
    pub(crate) fn with(self, offset: u64) -> Self {
        Self {
            count: self.count + 1,
            hash: mix(self.hash ^ mix(offset + 1)),
            last: Some(offset),
        }
    }
}

/// How a read reports a damaged record after readable ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Damage {
    /// The read returns the readable records before it.
    EndsTheBatch,
    /// The whole read fails and names the damaged record.
    FailsTheRead,
}

#[derive(Debug)]
pub(crate) struct Log {
    events: Vec<Event>,
    pub(crate) low: u64,
    damage: Damage,
    folds: Vec<Vec<Fold>>,
    poison: Vec<Vec<u64>>,
    /// The readable events of each workspace.
    own: Vec<Vec<u64>>,
    damaged: Vec<u64>,
    /// Lost parts: first offset, and first offset after the part.
    lost: Vec<(u64, u64)>,
}

pub(crate) struct Batch {
    pub(crate) events: Vec<Event>,
    pub(crate) next_offset: u64,
}

impl Log {
    pub(crate) fn new(workspaces: usize, damage: Damage) -> Self {
        Self {
            events: Vec::new(),
            low: 0,
            damage,
            folds: vec![Vec::new(); workspaces],
            poison: vec![Vec::new(); workspaces],
            own: vec![Vec::new(); workspaces],
            damaged: Vec::new(),
            lost: Vec::new(),
        }
    }

    pub(crate) fn append(&mut self, workspace: usize, kind: Kind) {
        let offset = self.high();
        self.events.push(Event {
            offset,
            workspace,
            kind,
        });
        match kind {
            Kind::Plain | Kind::AsksForSave => {
                let folds = &mut self.folds[workspace];
                folds.push(folds.last().copied().unwrap_or_default().with(offset));
            }
            Kind::Poison => self.poison[workspace].push(offset),
            Kind::Damaged => self.damaged.push(offset),
            Kind::Nothing => {}
        }
        if !matches!(kind, Kind::Damaged | Kind::Nothing) {
            self.own[workspace].push(offset);
        }
    }

    pub(crate) fn high(&self) -> u64 {
        self.events.len() as u64
    }

    pub(crate) fn workspaces(&self) -> usize {
        self.folds.len()
    }

    /// The state of a workspace that begins at `base` and has applied all its events below an offset except poison.
    pub(crate) fn fold(&self, workspace: usize, base: u64, below: u64) -> Fold {
        let folds = &self.folds[workspace];
        let first = folds.partition_point(|fold| fold.last.is_some_and(|last| last < base));
        if first > 0 {
            return folds[first..]
                .iter()
                .filter_map(|fold| fold.last)
                .take_while(|offset| *offset < below)
                .fold(Fold::default(), Fold::with);
        }
        let covered = folds.partition_point(|fold| fold.last.is_some_and(|last| last < below));
        covered
            .checked_sub(1)
            .map_or_else(Fold::default, |index| folds[index])
    }

    /// First readable event of the workspace at or above an offset.
    pub(crate) fn first(&self, workspace: usize, from: u64) -> Option<u64> {
        let own = &self.own[workspace];
        own.get(own.partition_point(|offset| *offset < from))
            .copied()
    }

    /// Poison events of the workspace in a range of the log.
    pub(crate) fn poison_in(
        &self,
        workspace: usize,
        from: u64,
        below: u64,
    ) -> impl Iterator<Item = u64> {
        let poison = self.poison[workspace].iter().copied();
        poison.filter(move |offset| (from..below).contains(offset))
    }

    pub(crate) fn is_poison_of(&self, workspace: usize, offset: u64) -> bool {
        self.poison[workspace].binary_search(&offset).is_ok()
    }

    pub(crate) fn damaged_in(&self, from: u64, below: u64) -> impl Iterator<Item = u64> {
        self.damaged
            .iter()
            .copied()
            .filter(move |offset| (from..below).contains(offset))
    }

    pub(crate) fn is_damaged(&self, offset: u64) -> bool {
        self.damaged.binary_search(&offset).is_ok()
    }

    /// Loses the end from an offset on. The log continues after it, so no offset is used twice. `applied` is the
    /// offset up to which each workspace has applied its events; it keeps the lost events that it has applied.
    pub(crate) fn lose_end(&mut self, from: u64, applied: &[u64]) {
        let until = self.high();
        self.lost.push((from, until));
        self.damaged.retain(|offset| *offset < from);
        for (workspace, applied) in applied.iter().enumerate() {
            self.forget(workspace, from.max(*applied), until);
        }
    }

    /// Removes the lost events that a workspace still had, because it is read from the log again. Returns how many of
    /// them were at or above `begins`.
    pub(crate) fn forget_lost(&mut self, workspace: usize, begins: u64) -> usize {
        let own = |log: &Self| {
            let own = log.own[workspace].iter();
            own.filter(|offset| **offset >= begins).count()
        };
        let before = own(self);
        for (from, until) in self.lost.clone() {
            self.forget(workspace, from, until);
        }
        before - own(self)
    }

    /// The first lost part that does not end before an offset.
    pub(crate) fn lost_after(&self, offset: u64) -> Option<(u64, u64)> {
        self.lost.iter().find(|(_, until)| *until > offset).copied()
    }

    fn forget(&mut self, workspace: usize, from: u64, until: u64) {
        let is_lost = |offset: u64| (from..until).contains(&offset);
        self.own[workspace].retain(|offset| !is_lost(*offset));
        self.poison[workspace].retain(|offset| !is_lost(*offset));
        let folds = &mut self.folds[workspace];
        let kept: Vec<u64> = folds.iter().filter_map(|fold| fold.last).collect();
        let mut fold = Fold::default();
        *folds = Vec::new();
        for offset in kept.into_iter().filter(|offset| !is_lost(*offset)) {
            fold = fold.with(offset);
            folds.push(fold);
        }
    }

    /// End of the last lost part: nothing below it can be lost any more.
    pub(crate) fn lost_until(&self) -> u64 {
        self.lost.last().map_or(0, |(_, until)| *until)
    }

    /// The last offsets of the lost parts between two offsets.
    pub(crate) fn lost_between(&self, from: u64, below: u64) -> impl Iterator<Item = u64> {
        let lost = self.lost.iter();
        lost.filter(move |(_, until)| from < *until && *until <= below)
            .map(|(_, until)| until - 1)
    }

    pub(crate) fn ends_lost_part(&self, offset: u64) -> bool {
        self.lost.iter().any(|(_, until)| *until == offset + 1)
    }

    fn lost_at(&self, offset: u64) -> Option<u64> {
        let mut lost = self.lost.iter();
        lost.find(|(from, until)| (*from..*until).contains(&offset))
            .map(|(_, until)| *until)
    }

    pub(crate) fn read(
        &self,
        from: u64,
        until: u64,
        records: usize,
        sabotage: Sabotage,
    ) -> Result<Batch, FetchFailure> {
        if from < self.low {
            return Err(FetchFailure::FellOut {
                low_watermark: Offset(self.low),
            });
        }
        if from > self.high() {
            return Err(FetchFailure::BeyondEnd {
                high_watermark: Offset(self.high()),
            });
        }
        let mut batch = Batch {
            events: Vec::new(),
            next_offset: from,
        };
        while batch.next_offset < until.min(self.high()) && batch.events.len() < records {
            let event = self.events[usize::try_from(batch.next_offset).unwrap()];
            match self.lost_at(batch.next_offset) {
                None => {}
                Some(_) if sabotage == Sabotage::LossIsPassedInSilence => {
                    batch.next_offset += 1;
                    continue;
                }
                Some(until) if batch.next_offset == from => {
                    return Err(FetchFailure::Lost {
                        until: Offset(until),
                    });
                }
                Some(_) => break,
            }
            match event.kind {
                Kind::Damaged
                    if batch.next_offset == from || self.damage == Damage::FailsTheRead =>
                {
                    return Err(FetchFailure::Damaged {
                        offset: Offset(event.offset),
                        reason: format!("record {} is damaged", event.offset),
                    });
                }
                Kind::Damaged => break,
                Kind::Nothing => {}
                Kind::Plain | Kind::AsksForSave | Kind::Poison => batch.events.push(event),
            }
            batch.next_offset += 1;
        }
        Ok(batch)
    }
}
