//! A transaction that is being built from the waiting jobs.
//!
//! Every job is planned against the copy, which does not contain the earlier jobs of the same transaction. So a
//! transaction takes one job on a workspace's state and one on its history; further ones wait for the next transaction.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use crossbeam_channel::Sender;
use workspace_engine_core::store::{
    Claim, Deletion, Erase, Erasure, HistoryRecord, LsmStore, Mutation, Save, SaveRefused, Store,
    StoreError, StoredWorkspace, by_workspace, plan,
};
use workspace_lifecycle::{Offset, PartitionId};
use workspace_status::{Epoch, WorkspaceId};

use super::Shared;
use super::guards::{check_assignment, check_epoch_owner, check_log, reset_within_log};
use super::ownership::{OwnershipRecord, loss_of};
use super::partitions::{OwnedPartition, OwnershipState};
use super::producer::Record;
use super::record::{self, MAX_RECORD_BYTES};

/// The channel for the result of a request.
pub(super) type Reply<T> = Sender<Result<T, StoreError>>;

/// A request to the writer.
#[derive(Debug)]
pub(super) enum Job {
    WriteOwnershipRecord {
        partition: PartitionId,
        record: Arc<OwnershipRecord>,
        /// The copy that the partition was read into.
        copy: Arc<LsmStore>,
        reply: Reply<()>,
    },
    Claim(Claim, Reply<StoredWorkspace>),
    Save {
        saves: Vec<Save>,
        committed: Vec<(PartitionId, Offset)>,
        reply: Reply<Vec<SaveRefused>>,
    },
    History(Vec<HistoryRecord>, Reply<()>),
    Reset(Erase, Reply<StoredWorkspace>),
    Delete(Erase, Reply<Deletion>),
    Purge(WorkspaceId, Reply<()>),
}

/// Answers a request: with its own result if the transaction was committed, otherwise with the transaction's error.
pub(super) type Answer = Box<dyn FnOnce(Result<(), StoreError>)>;

/// The part of one partition in a transaction.
pub(super) struct Part {
    pub(super) owned: OwnedPartition,
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
    /// Called when the transaction has ended.
    pub(super) answers: Vec<Answer>,
    saved: HashSet<WorkspaceId>,
    reported: HashSet<WorkspaceId>,
}

impl Draft {
    /// Adds a job, or returns it for the next transaction.
    pub(super) fn take(&mut self, shared: &Shared, job: Job) -> Result<(), Job> {
        if self.conflicts(&job) {
            return Err(job);
        }
        let answer = match job {
            Job::WriteOwnershipRecord {
                partition,
                record,
                copy,
                reply,
            } => {
                let planned = self.write_ownership_record(shared, partition, record, &copy);
                answer(shared, reply, planned)
            }
            Job::Claim(claim, reply) => answer(shared, reply, self.claim(shared, claim)),
            Job::Save {
                saves,
                committed,
                reply,
            } => answer(shared, reply, self.save(shared, &saves, &committed)),
            Job::History(records, reply) => answer(shared, reply, self.history(shared, records)),
            Job::Reset(erase, reply) => answer(shared, reply, self.reset(shared, erase)),
            Job::Delete(erase, reply) => answer(shared, reply, self.delete(shared, erase)),
            Job::Purge(id, reply) => answer(shared, reply, self.purge(shared, id)),
        };
        self.answers.push(answer);
        Ok(())
    }

    fn conflicts(&self, job: &Job) -> bool {
        match job {
            Job::WriteOwnershipRecord { .. } => false,
            Job::Claim(claim, _) => self.saved.contains(&claim.id),
            Job::Save { saves, .. } => saves.iter().any(|save| self.saved.contains(&save.id)),
            Job::History(records, _) => records
                .iter()
                .any(|record| self.reported.contains(&record.id)),
            Job::Reset(Erase { id, .. }, _)
            | Job::Delete(Erase { id, .. }, _)
            | Job::Purge(id, _) => self.saved.contains(id) || self.reported.contains(id),
        }
    }

    fn write_ownership_record(
        &mut self,
        shared: &Shared,
        partition: PartitionId,
        record: Arc<OwnershipRecord>,
        copy: &Arc<LsmStore>,
    ) -> Result<(), StoreError> {
        if !Arc::ptr_eq(copy, &shared.copy()) {
            return Err(StoreError::Unavailable(format!(
                "the copy that partition {partition} was read into is damaged; the partition is read again"
            )));
        }
        let value = record::encode_ownership(&record);
        // A deletion from a lost part of the log must not hide later events at the same offsets.
        let mut mutations = Vec::new();
        for deletion in copy.deletions(partition)? {
            if let Some(loss) = loss_of(&record.losses, deletion.epoch, deletion.next_offset) {
                let next_offset = Offset(loss.from);
                mutations.push(Mutation::Deletion(Deletion {
                    next_offset,
                    ..deletion
                }));
            }
        }
        let encoded: Vec<_> = mutations.iter().map(record::encode).collect();
        let part = self.part(shared, partition, OwnershipState::WritingRecord)?;
        part.record = Some(record);
        part.mutations = mutations;
        for (key, value) in encoded {
            self.write(partition, key, value);
        }
        // The last record of the partition, so that its offset is known.
        self.write(partition, record::OWNERSHIP_KEY.to_vec(), Some(value));
        Ok(())
    }

    fn claim(&mut self, shared: &Shared, claim: Claim) -> Result<StoredWorkspace, StoreError> {
        let partition = claim.partition;
        let owned = shared.partitions.open(partition)?;
        check_assignment(&owned, &claim.id, claim.epoch)?;
        check_log(shared, &owned, &claim.id)?;
        let workspace = plan::claim(&*shared.copy(), claim)?;
        self.saved.insert(workspace.id.clone());
        let mutation = Mutation::Workspace(workspace.clone());
        self.add(shared, partition, vec![mutation])?;
        Ok(workspace)
    }

    fn save(
        &mut self,
        shared: &Shared,
        saves: &[Save],
        committed: &[(PartitionId, Offset)],
    ) -> Result<Vec<SaveRefused>, StoreError> {
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
                    error: shared.note_damage(error),
                }),
            }
        }
        for (partition, offset) in committed {
            // A partition that was revoked, also one that has returned since, takes no offset of this job.
            if stale.contains(partition) || shared.partitions.open(*partition).is_err() {
                continue;
            }
            if let Ok(part) = self.part(shared, *partition, OwnershipState::Open) {
                part.committed = *offset;
            }
        }
        Ok(refused)
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
        check_assignment(&owned, &save.id, save.epoch)?;
        if save.only_offset.is_some() {
            // It may begin an epoch, as a claim does; after that, a workspace saved beyond a loss would look continued.
            check_log(shared, &owned, &save.id)?;
        }
        let mutations = plan::save(&*shared.copy(), save)?;
        self.saved.insert(save.id.clone());
        self.add(shared, partition, mutations)
    }

    fn history(&mut self, shared: &Shared, records: Vec<HistoryRecord>) -> Result<(), StoreError> {
        let mut first = Ok(());
        for (id, records) in by_workspace(records) {
            first = first.and(self.report(shared, id, records));
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
                check_epoch_owner(shared, record)?;
            }
        }
        let mutations = plan::history(&*shared.copy(), &id, records)?;
        self.reported.insert(id);
        self.add(shared, partition, mutations)
    }

    fn reset(&mut self, shared: &Shared, erase: Erase) -> Result<StoredWorkspace, StoreError> {
        let partition = erase.partition;
        let owned = shared.partitions.open(partition)?;
        check_assignment(&owned, &erase.id, erase.epoch)?;
        let erase = reset_within_log(shared, &owned, erase)?;
        let workspace = plan::reset(&*shared.copy(), erase)?;
        self.erase(shared, partition, Erasure::Reset(workspace.clone()))?;
        Ok(workspace)
    }

    fn delete(&mut self, shared: &Shared, erase: Erase) -> Result<Deletion, StoreError> {
        let partition = erase.partition;
        let owned = shared.partitions.open(partition)?;
        check_assignment(&owned, &erase.id, erase.epoch)?;
        let deletion = plan::delete(&*shared.copy(), erase)?;
        self.erase(shared, partition, Erasure::Delete(deletion.clone()))?;
        Ok(deletion)
    }

    fn purge(&mut self, shared: &Shared, id: WorkspaceId) -> Result<(), StoreError> {
        let partition = shared.partition_of(&id);
        shared.partitions.open(partition)?;
        self.erase(shared, partition, Erasure::Purge(id))
    }

    fn erase(
        &mut self,
        shared: &Shared,
        partition: PartitionId,
        erasure: Erasure,
    ) -> Result<(), StoreError> {
        let id = erasure.workspace().clone();
        let mutations = shared.copy().single_mutations(erasure)?;
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
        let part = self.part(shared, partition, OwnershipState::Open)?;
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
        state: OwnershipState,
    ) -> Result<&mut Part, StoreError> {
        use std::collections::btree_map::Entry;
        match self.parts.entry(partition) {
            Entry::Occupied(part) => Ok(part.into_mut()),
            Entry::Vacant(vacant) => {
                let owned = shared.partitions.add_to_transaction(partition, state)?;
                Ok(vacant.insert(Part {
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
        let position = self
            .owned
            .position
            .as_ref()
            .map(|position| position.highest_epoch);
        let record = self.owned.record.as_ref().map(|record| record.first_epoch);
        let written = self.mutations.iter().filter_map(record::epoch_of_mutation);
        let epochs = written.chain(position).chain(record);
        epochs.max().unwrap_or(Epoch::new(0))
    }
}

fn answer<T: 'static>(shared: &Shared, reply: Reply<T>, planned: Result<T, StoreError>) -> Answer {
    let planned = planned.map_err(|error| shared.note_damage(error));
    Box::new(move |outcome| {
        // The caller may have stopped waiting.
        let _ = reply.send(outcome.and(planned));
    })
}

fn too_large(mutation: &Mutation, bytes: usize) -> StoreError {
    let (kind, id) = match mutation {
        Mutation::Entry(_, entry) => (&*entry.kind, &*entry.id),
        Mutation::Workspace(_)
        | Mutation::Deletion(_)
        | Mutation::History(_)
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
