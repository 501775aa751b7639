//! A transaction that is being built from the waiting jobs.
//!
//! Every job is planned against the cache, which does not contain the earlier jobs of the same transaction. So a
//! transaction takes one job on a workspace's state and one on its history; further ones wait for the next transaction.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::Sender;
use workspace_engine_core::store::{
    Claim, Deletion, Erase, Erasure, HistoryRecord, LsmStore, Mutation, Save, SaveRefused, Store,
    StoreError, StoredWorkspace, by_workspace, plan,
};
use workspace_lifecycle::{Offset, PartitionId};
use workspace_status::{Epoch, WorkspaceId};

use super::Shared;
use super::ownership::{LogLoss, LossKind, OwnershipRecord, loss_of};
use super::partitions::{Owned, Standing};
use super::producer::Record;
use super::record::{self, MAX_RECORD_BYTES};

/// Timeout of the query where the events begin.
const QUERY_TIMEOUT: Duration = Duration::from_secs(1);

/// A request to the writer.
#[derive(Debug)]
pub(super) enum Work {
    Assign {
        partition: PartitionId,
        record: Arc<OwnershipRecord>,
        /// The copy that the partition was read into.
        cache: Arc<LsmStore>,
    },
    Claim(Claim),
    Save {
        saves: Vec<Save>,
        committed: Vec<(PartitionId, Offset)>,
    },
    History(Vec<HistoryRecord>),
    Reset(Erase),
    Delete(Erase),
    Purge(WorkspaceId),
}

/// The result of a request.
#[derive(Debug)]
pub(super) enum Done {
    Nothing,
    Workspace(StoredWorkspace),
    Saved(Vec<SaveRefused>),
    Deleted(Deletion),
}

pub(super) type Reply = Sender<Result<Done, StoreError>>;

/// A request, and the channel for its result.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) work: Work,
    pub(super) reply: Reply,
}

/// The part of one partition in a transaction.
pub(super) struct Part {
    pub(super) owned: Owned,
    pub(super) mutations: Vec<Mutation>,
    pub(super) committed: Offset,
    /// The ownership record, where this transaction writes it.
    pub(super) record: Option<Arc<OwnershipRecord>>,
}

/// The contents of a transaction.
#[derive(Default)]
pub(super) struct Draft {
    pub(super) records: Vec<Record>,
    pub(super) bytes: usize,
    pub(super) parts: BTreeMap<PartitionId, Part>,
    /// Sent when the transaction has ended; where it was not committed, each answer is its error.
    pub(super) answers: Vec<(Reply, Result<Done, StoreError>)>,
    saved: HashSet<WorkspaceId>,
    reported: HashSet<WorkspaceId>,
}

impl Draft {
    /// Adds a job, or returns it for the next transaction.
    pub(super) fn take(&mut self, shared: &Shared, job: Job) -> Result<(), Job> {
        if self.conflicts(&job.work) {
            return Err(job);
        }
        let Job { work, reply } = job;
        let planned = match work {
            Work::Assign {
                partition,
                record,
                cache,
            } => self.assign(shared, partition, record, &cache),
            Work::Claim(claim) => self.claim(shared, claim),
            Work::Save { saves, committed } => self.save(shared, &saves, &committed),
            Work::History(records) => self.history(shared, records),
            Work::Reset(erase) => self.reset(shared, erase),
            Work::Delete(erase) => self.delete(shared, erase),
            Work::Purge(id) => self.purge(shared, id),
        };
        let planned = planned.map_err(|error| shared.seen(error));
        self.answers.push((reply, planned));
        Ok(())
    }

    fn conflicts(&self, work: &Work) -> bool {
        match work {
            Work::Assign { .. } => false,
            Work::Claim(claim) => self.saved.contains(&claim.id),
            Work::Save { saves, .. } => saves.iter().any(|save| self.saved.contains(&save.id)),
            Work::History(records) => records
                .iter()
                .any(|record| self.reported.contains(&record.id)),
            Work::Reset(Erase { id, .. }) | Work::Delete(Erase { id, .. }) | Work::Purge(id) => {
                self.saved.contains(id) || self.reported.contains(id)
            }
        }
    }

    fn assign(
        &mut self,
        shared: &Shared,
        partition: PartitionId,
        record: Arc<OwnershipRecord>,
        cache: &Arc<LsmStore>,
    ) -> Result<Done, StoreError> {
        if !Arc::ptr_eq(cache, &shared.cache()) {
            return Err(StoreError::Unavailable(format!(
                "the copy that partition {partition} was read into is damaged; it is read again"
            )));
        }
        let value = record::encode_ownership(&record);
        // A deletion from a lost part of the log must not hide later events at the same offsets.
        let mut mutations = Vec::new();
        for deletion in cache.deletions(partition)? {
            if let Some(loss) = loss_of(&record.losses, deletion.epoch, deletion.next_offset) {
                let next_offset = Offset(loss.from);
                mutations.push(Mutation::Deletion(Deletion {
                    next_offset,
                    ..deletion
                }));
            }
        }
        let encoded: Vec<_> = mutations.iter().map(record::encode).collect();
        let part = self.part(shared, partition, Standing::Assigning)?;
        part.record = Some(record);
        part.mutations = mutations;
        for (key, value) in encoded {
            self.write(partition, key, value);
        }
        // The last record of the partition, so that its offset is known.
        self.write(partition, record::OWNERSHIP_KEY.to_vec(), Some(value));
        Ok(Done::Nothing)
    }

    fn claim(&mut self, shared: &Shared, claim: Claim) -> Result<Done, StoreError> {
        let partition = claim.partition;
        let owned = shared.partitions.open(partition)?;
        of_this_assignment(&owned, &claim.id, claim.epoch)?;
        of_this_log(shared, &owned, &claim.id)?;
        let workspace = plan::claim(&*shared.cache(), claim)?;
        self.saved.insert(workspace.id.clone());
        let mutation = Mutation::Workspace(workspace.clone());
        self.add(shared, partition, vec![mutation])?;
        Ok(Done::Workspace(workspace))
    }

    fn save(
        &mut self,
        shared: &Shared,
        saves: &[Save],
        committed: &[(PartitionId, Offset)],
    ) -> Result<Done, StoreError> {
        // While one of its partitions is re-read, the whole job fails and the caller repeats it unchanged. A workspace
        // that is refused alone would be removed from memory and loaded again.
        let homes = saves.iter().map(|save| shared.partition_of(&save.id));
        for partition in homes.chain(committed.iter().map(|(partition, _)| *partition)) {
            shared.partitions.not_behind(partition)?;
        }
        let mut refused = Vec::new();
        let mut stale = HashSet::new();
        for save in saves {
            match self.save_one(shared, save, &mut stale) {
                Ok(()) => {}
                Err(error @ StoreError::NoSpace(_)) => return Err(error),
                Err(error) => refused.push(SaveRefused {
                    id: save.id.clone(),
                    epoch: save.epoch,
                    error: shared.seen(error),
                }),
            }
        }
        for (partition, offset) in committed {
            // A partition that was revoked, also one that has returned since, takes no offset of this job.
            if stale.contains(partition) || shared.partitions.open(*partition).is_err() {
                continue;
            }
            if let Ok(part) = self.part(shared, *partition, Standing::Open) {
                part.committed = *offset;
            }
        }
        Ok(Done::Saved(refused))
    }

    fn save_one(
        &mut self,
        shared: &Shared,
        save: &Save,
        stale: &mut HashSet<PartitionId>,
    ) -> Result<(), StoreError> {
        let partition = shared.partition_of(&save.id);
        let owned = shared.partitions.open(partition)?;
        if save.epoch < owned.first_epoch {
            stale.insert(partition);
        }
        of_this_assignment(&owned, &save.id, save.epoch)?;
        if save.only_offset.is_some() {
            // It may begin an epoch, as a claim does; after that, a workspace saved beyond a loss would look continued.
            of_this_log(shared, &owned, &save.id)?;
        }
        let mutations = plan::save(&*shared.cache(), save)?;
        self.saved.insert(save.id.clone());
        self.add(shared, partition, mutations)
    }

    fn history(
        &mut self,
        shared: &Shared,
        records: Vec<HistoryRecord>,
    ) -> Result<Done, StoreError> {
        let mut first = Ok(Done::Nothing);
        for (id, records) in by_workspace(records) {
            if let Err(error) = self.report(shared, id, records) {
                first = first.and(Err(error));
            }
        }
        first
    }

    fn report(
        &mut self,
        shared: &Shared,
        id: WorkspaceId,
        records: Vec<HistoryRecord>,
    ) -> Result<(), StoreError> {
        let partition = shared.partition_of(&id);
        let owned = shared.partitions.open(partition)?;
        for record in &records {
            if record.epoch < owned.first_epoch {
                begun_by_no_other(shared, record)?;
            }
        }
        let mutations = plan::history(&*shared.cache(), &id, records)?;
        self.reported.insert(id);
        self.add(shared, partition, mutations)
    }

    fn reset(&mut self, shared: &Shared, erase: Erase) -> Result<Done, StoreError> {
        let partition = erase.partition;
        let owned = shared.partitions.open(partition)?;
        of_this_assignment(&owned, &erase.id, erase.epoch)?;
        let erase = from_what_is_there(shared, &owned, erase)?;
        let workspace = plan::reset(&*shared.cache(), erase)?;
        self.erase(shared, partition, Erasure::Reset(workspace.clone()))?;
        Ok(Done::Workspace(workspace))
    }

    fn delete(&mut self, shared: &Shared, erase: Erase) -> Result<Done, StoreError> {
        let partition = erase.partition;
        let owned = shared.partitions.open(partition)?;
        of_this_assignment(&owned, &erase.id, erase.epoch)?;
        let deletion = plan::delete(&*shared.cache(), erase)?;
        self.erase(shared, partition, Erasure::Delete(deletion.clone()))?;
        Ok(Done::Deleted(deletion))
    }

    fn purge(&mut self, shared: &Shared, id: WorkspaceId) -> Result<Done, StoreError> {
        let partition = shared.partition_of(&id);
        shared.partitions.open(partition)?;
        self.erase(shared, partition, Erasure::Purge(id))?;
        Ok(Done::Nothing)
    }

    fn erase(
        &mut self,
        shared: &Shared,
        partition: PartitionId,
        erasure: Erasure,
    ) -> Result<(), StoreError> {
        let id = erasure.workspace().clone();
        let mutations = shared.cache().single_mutations(erasure)?;
        self.saved.insert(id.clone());
        self.reported.insert(id);
        self.add(shared, partition, mutations)
    }

    /// Adds the mutations of one workspace, all or none.
    fn add(
        &mut self,
        shared: &Shared,
        partition: PartitionId,
        mutations: Vec<Mutation>,
    ) -> Result<(), StoreError> {
        if mutations.is_empty() {
            return Ok(());
        }
        let mut encoded = Vec::with_capacity(mutations.len());
        for mutation in &mutations {
            let (key, value) = record::encode(mutation);
            let bytes = key.len() + value.as_ref().map_or(0, Vec::len);
            if bytes > MAX_RECORD_BYTES {
                return Err(too_large(mutation, bytes));
            }
            encoded.push((key, value));
        }
        let part = self.part(shared, partition, Standing::Open)?;
        part.mutations.extend(mutations);
        for (key, value) in encoded {
            self.write(partition, key, value);
        }
        Ok(())
    }

    fn write(&mut self, partition: PartitionId, key: Vec<u8>, value: Option<Vec<u8>>) {
        self.bytes += key.len() + value.as_ref().map_or(0, Vec::len);
        self.records.push(Record {
            partition,
            key,
            value,
        });
    }

    fn part(
        &mut self,
        shared: &Shared,
        partition: PartitionId,
        standing: Standing,
    ) -> Result<&mut Part, StoreError> {
        use std::collections::btree_map::Entry;
        match self.parts.entry(partition) {
            Entry::Occupied(part) => Ok(part.into_mut()),
            Entry::Vacant(place) => {
                let owned = shared.partitions.pin(partition, standing)?;
                Ok(place.insert(Part {
                    committed: owned.committed,
                    owned,
                    mutations: Vec::new(),
                    record: None,
                }))
            }
        }
    }
}

impl Part {
    /// The highest epoch of the partition once the transaction is committed.
    pub(super) fn highest_epoch(&self) -> Epoch {
        let place = self.owned.place.as_ref().map(|place| place.highest_epoch);
        let record = self.owned.record.as_ref().map(|record| record.first_epoch);
        let written = self.mutations.iter().filter_map(record::epoch_of_mutation);
        let epochs = written.chain(place).chain(record);
        epochs.max().unwrap_or(Epoch::new(0))
    }
}

/// Refuses a load of an earlier assignment, also where no later load has claimed its workspace.
fn of_this_assignment(owned: &Owned, id: &WorkspaceId, epoch: Epoch) -> Result<(), StoreError> {
    if epoch >= owned.first_epoch {
        return Ok(());
    }
    Err(StoreError::Fenced {
        id: id.clone(),
        attempted: epoch,
        stored: Epoch::new(owned.first_epoch.get().saturating_sub(1)),
    })
}

/// Refuses a late transition of a load that was never claimed, where another owner has used its epoch since.
fn begun_by_no_other(shared: &Shared, record: &HistoryRecord) -> Result<(), StoreError> {
    let is_others = |epoch, owner: &str| epoch == record.epoch && owner != record.owner;
    let claim = shared.cache().workspace(&record.id)?;
    let before = (record.epoch, 0);
    let reported = shared.cache().history(&record.id, Some(before), 1)?;
    if claim.is_none_or(|claim| !is_others(claim.epoch, &claim.owner))
        && reported
            .first()
            .is_none_or(|reported| !is_others(reported.epoch, &reported.owner))
    {
        return Ok(());
    }
    Err(StoreError::Fenced {
        id: record.id.clone(),
        attempted: record.epoch,
        stored: record.epoch,
    })
}

/// Refuses a workspace that was saved from what the log has lost: no later offset continues its saved state.
fn of_this_log(shared: &Shared, owned: &Owned, id: &WorkspaceId) -> Result<(), StoreError> {
    let Some((saved, loss)) = loss_of_saved(shared, owned, id)? else {
        return Ok(());
    };
    let log = format!("topic {}", shared.topic);
    Err(match loss.kind {
        LossKind::Recreated => StoreError::OtherLog {
            id: id.clone(),
            log,
        },
        LossKind::End => StoreError::LostEnd {
            id: id.clone(),
            log,
            next_offset: saved.next_offset,
            from: Offset(loss.from),
        },
    })
}

/// The saved state of a workspace and the loss of the log that it cannot be continued over, if there is one.
fn loss_of_saved(
    shared: &Shared,
    owned: &Owned,
    id: &WorkspaceId,
) -> Result<Option<(StoredWorkspace, LogLoss)>, StoreError> {
    let losses = owned.record.as_ref().map(|record| record.losses.as_slice());
    let losses = losses.unwrap_or_default();
    if losses.is_empty() {
        return Ok(None);
    }
    Ok(shared.cache().workspace(id)?.and_then(|saved| {
        let loss = loss_of(losses, saved.epoch, saved.next_offset).copied();
        loss.map(|loss| (saved, loss))
    }))
}

/// A reset begins at the first event of a workspace. Where the log has lost what was saved, the workspace's current
/// events may begin at a lower offset, so the reset begins no later than the loss or the low offset of the log.
fn from_what_is_there(shared: &Shared, owned: &Owned, erase: Erase) -> Result<Erase, StoreError> {
    let Some((_, loss)) = loss_of_saved(shared, owned, &erase.id)? else {
        return Ok(erase);
    };
    let (low, _) = shared
        .readers
        .ends_of_events(&shared.topic, erase.partition, QUERY_TIMEOUT)?;
    let next_offset = erase.next_offset.min(Offset(loss.from.max(low)));
    Ok(Erase {
        next_offset,
        ..erase
    })
}

fn too_large(mutation: &Mutation, bytes: usize) -> StoreError {
    let (kind, id) = match mutation {
        Mutation::Entry(_, entry) => (&*entry.kind, &*entry.id),
        Mutation::Workspace(_)
        | Mutation::Deletion(_)
        | Mutation::Transition(_)
        | Mutation::Removed(_)
        | Mutation::Damaged(..) => ("", ""),
    };
    StoreError::Refused {
        kind: kind.chars().take(64).collect(),
        id: id.chars().take(64).collect(),
        reason: format!("its record has {bytes} bytes, more than {MAX_RECORD_BYTES}"),
    }
}

/// Estimated bytes of a workspace's save in a transaction.
pub(super) fn save_bytes(save: &Save) -> usize {
    use workspace_engine_core::store::Change;
    let changes = save.changes.iter().map(|change| match change {
        Change::Set(entry) => entry.kind.len() + entry.id.len() + entry.data.len() + 64,
        Change::Unset { kind, id } => kind.len() + id.len() + 64,
    });
    changes.sum::<usize>() + 128
}

/// Ends of partitions, from delivery reports.
pub(super) type Positions = HashMap<PartitionId, u64>;
