//! The model of the store: what it has answered, and what of that would survive a power loss.

use std::collections::BTreeMap;

use workspace_lifecycle::{EraseScope, Refusal, Residence};

use super::log::{Fold, Log};
use super::rules::{Rule, Violation, ensure};
use super::sabotage::Sabotage;

/// A workspace by its partition and its number there.
pub(crate) type Key = (usize, usize);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) epoch: u64,
    /// First offset of the workspace.
    pub(crate) base: u64,
    pub(crate) next_offset: u64,
    pub(crate) events_applied: u64,
    pub(crate) fold: Fold,
    pub(crate) populated: bool,
    pub(crate) residence: Residence,
}

impl Record {
    /// A workspace before its first event.
    fn empty(epoch: u64, base: u64) -> Self {
        Self {
            epoch,
            base,
            next_offset: base,
            events_applied: 0,
            fold: Fold::default(),
            populated: false,
            residence: Residence::Memory,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Change {
    Event(u64),
    Populated,
}

#[derive(Debug, Clone)]
pub(crate) struct Save {
    pub(crate) key: Key,
    pub(crate) epoch: u64,
    pub(crate) next_offset: u64,
    pub(crate) events_applied: u64,
    pub(crate) changes: Vec<Change>,
    pub(crate) residence: Residence,
    /// If set, only `next_offset` advances, and only if the store holds this epoch.
    pub(crate) only_offset: Option<u64>,
}

/// What is left of a deleted workspace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct DeletionMark {
    pub(crate) epoch: u64,
    pub(crate) below: u64,
}

#[derive(Debug, Clone, Copy)]
enum Write {
    Record(Key, Record),
    Deleted(Key, DeletionMark),
    Committed(usize, u64),
}

#[derive(Debug, Clone, Default)]
pub(crate) struct Layer {
    pub(crate) records: BTreeMap<Key, Record>,
    pub(crate) deleted: BTreeMap<Key, DeletionMark>,
    pub(crate) committed: BTreeMap<usize, u64>,
}

impl Write {
    fn partition(&self) -> usize {
        match self {
            Write::Record(key, _) | Write::Deleted(key, _) => key.0,
            Write::Committed(partition, _) => *partition,
        }
    }
}

impl Layer {
    fn remove(&mut self, partition: usize) {
        self.records.retain(|key, _| key.0 != partition);
        self.deleted.retain(|key, _| key.0 != partition);
    }

    fn write(&mut self, write: Write) {
        match write {
            Write::Record(key, record) => drop(self.records.insert(key, record)),
            Write::Deleted(key, mark) => {
                self.records.remove(&key);
                self.deleted.insert(key, mark);
            }
            Write::Committed(partition, offset) => drop(self.committed.insert(partition, offset)),
        }
    }

    pub(crate) fn committed(&self, partition: usize) -> u64 {
        self.committed.get(&partition).copied().unwrap_or(0)
    }
}

/// What a save call wrote before it failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Written {
    All,
    /// Some of the workspaces, each entirely; the bits select which.
    Some(u64),
}

#[derive(Debug, Default)]
pub(crate) struct Store {
    pub(crate) now: Layer,
    pub(crate) durable: Layer,
    unsynced: Vec<Write>,
    /// Workspaces with damaged entries: they cannot be loaded until they are repaired.
    pub(crate) corrupt: Vec<Key>,
    /// The real first offset of each workspace: deleted events, and events abandoned by force, are below it.
    begins: BTreeMap<Key, u64>,
    /// Deleted workspaces that no later event has begun again.
    pub(crate) gone: Vec<Key>,
    /// The highest epoch used in each partition.
    highest: BTreeMap<usize, u64>,
    /// The first epoch of assignments since each partition's changelog was lost.
    first_epochs: BTreeMap<usize, u64>,
    /// Earlier assignments of the partition may not write any more.
    fenced: BTreeMap<usize, u64>,
    sabotage: Sabotage,
}

impl Store {
    pub(crate) fn new(sabotage: Sabotage) -> Self {
        Self {
            sabotage,
            ..Self::default()
        }
    }

    /// The real first offset of a workspace, whatever its record says.
    pub(crate) fn begins(&self, key: Key) -> u64 {
        self.begins.get(&key).copied().unwrap_or(0)
    }

    fn write(&mut self, write: Write) {
        let used = match &write {
            Write::Record(key, record) => Some((key.0, record.epoch)),
            Write::Deleted(key, mark) => Some((key.0, mark.epoch)),
            Write::Committed(..) => None,
        };
        if let Some((partition, epoch)) = used {
            let highest = self.highest.entry(partition).or_default();
            *highest = epoch.max(*highest);
        }
        self.now.write(write);
        self.unsynced.push(write);
    }

    /// First epoch that an assignment of the partition may use.
    pub(crate) fn first_epoch(&self, partition: usize) -> u64 {
        self.first_epochs.get(&partition).copied().unwrap_or(1)
    }

    /// Whether an assignment of a partition may write.
    pub(crate) fn takes(&self, partition: usize, life: u64) -> bool {
        self.fenced
            .get(&partition)
            .is_none_or(|first| life >= *first)
            || self.sabotage == Sabotage::OldOwnersWriteOn
    }

    /// From now on only this assignment and later ones may write.
    pub(crate) fn fence(&mut self, partition: usize, life: u64) {
        self.fenced.insert(partition, life);
    }

    /// Loses the changelog of a partition. It is rebuilt from the log, which begins at `low`.
    pub(crate) fn lose_changelog(&mut self, partition: usize, workspaces: usize, low: u64) {
        self.begin_changelog(partition);
        for layer in [&mut self.now, &mut self.durable] {
            layer.remove(partition);
            if self.sabotage != Sabotage::OffsetOutlivesTheChangelog {
                layer.committed.insert(partition, low);
            }
        }
        for workspace in 0..workspaces {
            self.begins.insert((partition, workspace), low);
        }
        self.corrupt.retain(|key| key.0 != partition);
        self.gone.retain(|key| key.0 != partition);
    }

    /// Loses the end of a partition's changelog. All of the log is read again.
    pub(crate) fn cut_changelog(&mut self, partition: usize, low: u64) {
        self.begin_changelog(partition);
        self.now.remove(partition);
        let range = (partition, 0)..(partition + 1, 0);
        let records = self.durable.records.range(range.clone());
        self.now
            .records
            .extend(records.map(|(key, record)| (*key, *record)));
        let deleted = self.durable.deleted.range(range);
        self.now
            .deleted
            .extend(deleted.map(|(key, mark)| (*key, *mark)));
        for layer in [&mut self.now, &mut self.durable] {
            layer.committed.insert(partition, low);
        }
    }

    /// Drops the unsynced writes of a partition. Its next assignment uses no epoch that was used before.
    fn begin_changelog(&mut self, partition: usize) {
        self.unsynced.retain(|write| write.partition() != partition);
        let first = self.highest.get(&partition).map_or(1, |epoch| epoch + 1);
        self.first_epochs.insert(partition, first);
    }

    /// Claims an epoch, or returns the epoch that fences it.
    pub(crate) fn claim(
        &mut self,
        log: &Log,
        key: Key,
        epoch: u64,
        first_offset: u64,
    ) -> Result<Result<Record, u64>, Violation> {
        let mark = self.now.deleted.get(&key).copied();
        let mark = mark.filter(|_| self.sabotage != Sabotage::DeletionMarkIsIgnored);
        let record = match self.now.records.get(&key) {
            Some(stored) if epoch <= stored.epoch => return Ok(Err(stored.epoch)),
            Some(stored) => Record {
                epoch,
                residence: Residence::Memory,
                ..*stored
            },
            None => {
                if let Some(mark) = mark.filter(|mark| epoch <= mark.epoch) {
                    return Ok(Err(mark.epoch));
                }
                let base = mark.map_or(first_offset, |mark| first_offset.max(mark.below));
                let first = log.first(key.1, self.begins(key));
                let lost = first.is_some_and(|first| first < base);
                ensure(!lost, Rule::NothingLost, || {
                    format!("{key:?} begins at {base}, above its first event {first:?}")
                })?;
                Record::empty(epoch, base)
            }
        };
        self.write(Write::Record(key, record));
        Ok(Ok(record))
    }

    /// Saves each workspace entirely; returns the refused ones. A `moody` store sometimes refuses one temporarily.
    pub(crate) fn save(
        &mut self,
        logs: &[Log],
        saves: &[Save],
        committed: &[(usize, u64)],
        written: Written,
        moody: bool,
    ) -> Result<Vec<(Key, Refusal)>, Violation> {
        let mut refused = Vec::new();
        for (index, save) in saves.iter().enumerate() {
            let stored = self.now.records.get(&save.key).copied();
            let Some(stored) = stored.filter(|stored| match save.only_offset {
                Some(_) if self.sabotage == Sabotage::AdvancesAreNotFenced => true,
                Some(expected) => stored.epoch == expected,
                None => save.epoch >= stored.epoch || self.sabotage == Sabotage::SavesAreNotFenced,
            }) else {
                refused.push((save.key, Refusal::TakenOver));
                continue;
            };
            if self.is_corrupt(save.key) {
                refused.push((save.key, Refusal::ForGood("it is damaged".to_owned())));
                continue;
            }
            let mood = save.epoch * 31 + save.next_offset * 7 + save.key.1 as u64;
            if moody && mood.is_multiple_of(61) {
                refused.push((save.key, Refusal::ForNow("it cannot be written".to_owned())));
                continue;
            }
            if matches!(written, Written::Some(bits) if (bits >> (index % 64)) & 1 == 0) {
                continue;
            }
            let next = saved(stored, save);
            if self.sabotage == Sabotage::NextOffsetSavedBeforeChanges {
                let torn = Record {
                    fold: stored.fold,
                    populated: stored.populated,
                    ..next
                };
                self.write(Write::Record(save.key, torn));
                check_record(&logs[save.key.0], save.key, &torn, self.begins(save.key))?;
            }
            ensure(
                next.next_offset >= stored.next_offset,
                Rule::NothingLost,
                || {
                    format!(
                        "{:?} goes back from {} to {}",
                        save.key, stored.next_offset, next.next_offset
                    )
                },
            )?;
            ensure(next.epoch >= stored.epoch, Rule::EpochsGrow, || {
                format!(
                    "{:?} goes back from epoch {} to {}",
                    save.key, stored.epoch, next.epoch
                )
            })?;
            check_record(&logs[save.key.0], save.key, &next, self.begins(save.key))?;
            self.write(Write::Record(save.key, next));
        }
        if !matches!(written, Written::Some(bits) if bits & (1 << 63) == 0) {
            for (partition, offset) in committed {
                self.write(Write::Committed(*partition, *offset));
                self.check_committed(&logs[*partition], *partition)?;
            }
        }
        Ok(refused)
    }

    /// Erases a workspace, or returns the epoch that fences the erasure. It is durable at once.
    pub(crate) fn erase(
        &mut self,
        log: &mut Log,
        key: Key,
        epoch: u64,
        scope: EraseScope,
    ) -> Result<Result<u64, u64>, Violation> {
        let stored = self.now.records.get(&key).map(|record| record.epoch);
        let deleted = self.now.deleted.get(&key).map(|mark| mark.epoch);
        if let Some(stored) = stored.max(deleted).filter(|stored| epoch <= *stored) {
            return Ok(Err(stored));
        }
        let next_offset = match scope {
            EraseScope::Reset { from, force } => {
                let deleted = self.now.deleted.get(&key).map_or(0, |mark| mark.below);
                let base = from.0.max(log.low).max(deleted);
                if force {
                    self.begins.insert(key, self.begins(key).max(log.low));
                }
                let forgotten = log.forget_lost(key.1, self.begins(key));
                ensure(force || forgotten == 0, Rule::NothingLost, || {
                    format!(
                        "{key:?} is reset, and {forgotten} events that only the store had are lost"
                    )
                })?;
                let first = log.first(key.1, self.begins(key));
                ensure(
                    first.is_none_or(|first| first >= base),
                    Rule::NothingLost,
                    || format!("{key:?} is reset to {base}, above its first event {first:?}"),
                )?;
                ensure(base >= self.begins(key), Rule::DeletedStays, || {
                    format!(
                        "{key:?} is reset to {base}, and was deleted below {}",
                        self.begins(key)
                    )
                })?;
                self.gone.retain(|gone| *gone != key);
                self.write(Write::Record(key, Record::empty(epoch, base)));
                base
            }
            EraseScope::Delete { below } => {
                let mark = DeletionMark {
                    epoch,
                    below: below.0,
                };
                self.write(Write::Deleted(key, mark));
                self.begins.insert(key, self.begins(key).max(below.0));
                below.0
            }
        };
        self.corrupt.retain(|corrupt| *corrupt != key);
        if self.sabotage != Sabotage::ErasureIsNotSynced {
            self.sync();
        }
        Ok(Ok(next_offset))
    }

    /// Checks that the store knows every workspace with events below `committed`.
    fn check_committed(&self, log: &Log, partition: usize) -> Result<(), Violation> {
        let committed = self.now.committed(partition);
        for workspace in 0..log.workspaces() {
            let key = (partition, workspace);
            let known = self.now.records.contains_key(&key);
            let first = log.first(workspace, self.begins(key));
            let below = first.is_some_and(|first| first < committed);
            ensure(known || !below, Rule::Committed, || {
                format!("{key:?} has events below {committed} and is not known")
            })?;
        }
        Ok(())
    }

    pub(crate) fn sync(&mut self) {
        for write in self.unsynced.drain(..) {
            self.durable.write(write);
        }
    }

    /// Keeps everything synced, and the first `kept` of the unsynced writes.
    pub(crate) fn lose_power(&mut self, kept: usize) {
        self.unsynced.truncate(kept);
        self.sync();
        self.now = self.durable.clone();
    }

    pub(crate) fn unsynced(&self) -> usize {
        self.unsynced.len()
    }

    pub(crate) fn is_corrupt(&self, key: Key) -> bool {
        self.corrupt.contains(&key)
    }
}

fn saved(stored: Record, save: &Save) -> Record {
    if save.only_offset.is_some() {
        return Record {
            epoch: save.epoch.max(stored.epoch),
            next_offset: stored.next_offset.max(save.next_offset),
            ..stored
        };
    }
    let mut next = Record {
        epoch: save.epoch,
        next_offset: save.next_offset,
        events_applied: save.events_applied,
        residence: save.residence,
        ..stored
    };
    for change in &save.changes {
        match change {
            // The record has this change already: writing it again has no effect.
            Change::Event(offset) if next.fold.last.is_some_and(|last| *offset <= last) => {}
            Change::Event(offset) => next.fold = next.fold.with(*offset),
            Change::Populated => next.populated = true,
        }
    }
    next
}

/// About every seventh workspace is populated: it has contents before its first event.
pub(crate) fn is_seeded(key: Key) -> bool {
    (key.0 + key.1 * 3).is_multiple_of(7)
}

fn check_record(log: &Log, key: Key, record: &Record, begins: u64) -> Result<(), Violation> {
    let oldest = log.first(key.1, record.base);
    let oldest = oldest.filter(|oldest| *oldest < record.next_offset);
    ensure(
        oldest.is_none_or(|oldest| oldest >= begins),
        Rule::DeletedStays,
        || format!("{key:?} has applied {oldest:?}, and was deleted below {begins}"),
    )?;
    let expected = log.fold(key.1, begins.max(record.base), record.next_offset);
    ensure(record.fold == expected, Rule::StoreIsFold, || {
        format!(
            "{key:?} at {} holds {:?}, not {expected:?}",
            record.next_offset, record.fold
        )
    })?;
    ensure(
        record.events_applied == expected.count,
        Rule::StoreIsFold,
        || {
            format!(
                "{key:?} counts {} events, not {}",
                record.events_applied, expected.count
            )
        },
    )?;
    let populated = record.populated || record.fold.count == 0 || !is_seeded(key);
    ensure(populated, Rule::StoreIsFold, || {
        format!("{key:?} lost what it was populated with")
    })
}

/// Checks that what the log trims is covered by what the store holds durably.
pub(crate) fn check_trim(
    store: &Store,
    log: &Log,
    partition: usize,
    low: u64,
) -> Result<(), Violation> {
    for workspace in 0..log.workspaces() {
        let key = (partition, workspace);
        let begins = store.begins(key);
        let first = log.first(workspace, begins);
        let needed = first.is_some_and(|first| first < low);
        let record = store.durable.records.get(&key);
        let covered = record.is_some_and(|record| {
            let own = log.first(workspace, begins.max(record.next_offset));
            own.is_none_or(|own| own >= low)
        });
        ensure(covered || !needed, Rule::Trim, || {
            format!("{key:?} needs events below {low}, the durable store has {record:?}")
        })?;
    }
    Ok(())
}
