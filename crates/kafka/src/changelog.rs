//! The store on a Kafka cluster: a compacted topic with the latest value of every entity, written in transactions
//! together with the group's offsets, and the LSM store as its local copy.
//!
//! - Changes and offsets become visible together or not at all; nothing is in the copy before it is committed.
//! - A transaction carries the group membership that the writer took before it checked which partitions it owns. If a
//!   partition is revoked after that check, the group is in a later generation and refuses the transaction. The group
//!   checks only the generation, not the owner of the partition.
//! - A new owner of a partition reads what its copy lacks; with an empty disk it reads everything.
//! - The copy answers loads, lists and histories, of open partitions only.
//!
//! What a `kill -9` within a transaction leaves, and how the next owner takes over, is in `changelog/writer.rs`.
//!
//! A workspace's records are in the changelog partition with the same number as its partition of the events.

mod counts;
mod ownership;
mod partitions;
mod record;

mod lineage;
mod opening_partition;
mod plan;
mod reader;
mod set_aside;
mod takeover;

mod draft;
mod failure;
mod guards;
mod producer;
mod writer;

pub use counts::ChangelogCounts;

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender};
use parking_lot::Mutex;
use rdkafka::ClientConfig;
use workspace_engine_core::disk::DiskError;
use workspace_engine_core::store::{
    Claim, Deletion, EntrySink, Erase, HistoryCursor, HistoryRecord, LsmStore, Opening, Ownership,
    Save, SaveRefused, Store, StoreError, StoredWorkspace,
};
use workspace_lifecycle::{Offset, PartitionId};
use workspace_status::{Epoch, WorkspaceId};

use crate::clock::now_ms;
use crate::config::{AcceptLoss, KafkaConfig};
use crate::group::Group;
use crate::last_reads::LastReads;
use crate::local_copy::LocalCopy;
use counts::Counters;
use draft::{Job, Reply, save_bytes};
use opening_partition::OpeningPartition;
pub(crate) use ownership::producer_of;
use partitions::{OwnershipState, Partitions};
use producer::Transactions;
use reader::Readers;
use writer::{MAX_JOBS_WAITING, TRANSACTION_BYTES, Writer};

/// How long closing a partition waits for the transaction in progress that holds it.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// How long dropping a changelog waits for its writer, which may be in a call of the client.
const WRITER_EXIT_TIMEOUT: Duration = Duration::from_secs(5);

/// Between two checks whether the writer has ended.
const WRITER_EXIT_POLL: Duration = Duration::from_millis(2);

/// Why a changelog cannot be used at all.
#[derive(Debug, thiserror::Error)]
pub enum ChangelogError {
    /// The client refuses its configuration.
    #[error("the Kafka client cannot be configured: {0}")]
    Client(String),
    /// The operating system cannot start a thread.
    #[error("cannot start the thread that writes the changelog")]
    Thread(#[source] std::io::Error),
    /// The local copy belongs to another changelog and cannot be set aside.
    #[error(transparent)]
    Copy(#[from] DiskError),
}

/// State that the threads of a changelog share.
struct Shared {
    /// The topic of the events.
    topic: String,
    group_name: String,
    accept_loss: AcceptLoss,
    /// The last events that were read, by the epochs of their leaders.
    last_reads: Arc<LastReads>,
    /// Of this process's producer.
    transactional_id: String,
    /// Prefix of the transactional ids of all producers that write this changelog.
    producers_of_group: String,
    /// The configuration of a producer.
    producer: ClientConfig,
    local_copy: LocalCopy,
    group: Arc<dyn Group>,
    readers: Arc<Readers>,
    partitions: Partitions,
    /// How many partitions the topics have; 0 until a takeover has queried it.
    partition_count: AtomicU32,
    counters: Counters,
}

impl Shared {
    /// The copy of the changelog on this disk.
    fn copy(&self) -> Arc<LsmStore> {
        self.local_copy.store()
    }

    /// Maps an error of the copy for the caller, and notes damage, so that the copy is rebuilt.
    fn note_damage(&self, error: StoreError) -> StoreError {
        self.local_copy.note_damage(&self.copy(), error)
    }

    /// The partition of a workspace.
    fn partition_of(&self, id: &WorkspaceId) -> PartitionId {
        let copy = self.copy();
        copy.partition_of(id).unwrap_or_else(|| {
            let partitions = self.partition_count.load(Ordering::Relaxed);
            copy.home_of(id, partitions)
        })
    }
}

/// The store over a changelog topic.
pub struct ChangelogStore {
    shared: Arc<Shared>,
    opening: Mutex<std::collections::HashMap<PartitionId, OpeningPartition>>,
    /// Why this engine cannot serve its group, once that is known.
    refusal: OnceLock<String>,
    /// Present until the store is dropped.
    jobs: Option<Sender<Job>>,
    thread: Option<JoinHandle<()>>,
}

impl std::fmt::Debug for ChangelogStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ChangelogStore")
            .field("topic", &self.shared.readers.topic)
            .field("copy", &self.shared.local_copy)
            .finish_non_exhaustive()
    }
}

impl ChangelogStore {
    /// A store over the changelog of `config`, with its copy on this machine. It waits for no broker.
    ///
    /// The data directory of the copy has as many partitions as the topics. No two processes may share a
    /// `transactional_id`: each would fence the other whenever it can write again.
    ///
    /// # Errors
    /// [`ChangelogError`].
    pub(crate) fn open(
        config: &KafkaConfig,
        local_copy: LocalCopy,
        group: Arc<dyn Group>,
        last_reads: Arc<LastReads>,
        transactional_id: String,
    ) -> Result<Self, ChangelogError> {
        let transactions = Transactions::new(config, &transactional_id)?;
        local_copy.set_aside_unless_of(&config.changelog_topic())?;
        let shared = Arc::new(Shared {
            topic: config.topic.clone(),
            group_name: config.group.clone(),
            accept_loss: config.accept_loss,
            last_reads,
            producer: transactions.config().clone(),
            transactional_id,
            producers_of_group: format!("{}-{}-", config.group, config.topic),
            local_copy,
            group,
            readers: Arc::new(Readers::new(config)?),
            partitions: Partitions::default(),
            partition_count: AtomicU32::new(0),
            counters: Counters::default(),
        });
        let (jobs, waiting) = crossbeam_channel::bounded(MAX_JOBS_WAITING);
        let writer = Writer::new(Arc::clone(&shared), waiting, transactions);
        let thread = std::thread::Builder::new()
            .name("changelog".to_owned())
            .spawn(move || writer.run())
            .map_err(ChangelogError::Thread)?;
        Ok(Self {
            shared,
            opening: Mutex::default(),
            refusal: OnceLock::new(),
            jobs: Some(jobs),
            thread: Some(thread),
        })
    }

    /// Releases partitions that the group revokes. Call it before the group learns of the release: from then on this
    /// process may write in the group's next generation, and the brokers check nothing else. Jobs of these partitions
    /// that wait for the writer are refused from now on, and so is opening them, until
    /// [`assigned`](ChangelogStore::assigned). It does not block; closing a partition waits for the transaction in
    /// progress.
    pub fn release(&self, partitions: &[PartitionId]) {
        self.shared.partitions.release(partitions);
    }

    /// Allows opening partitions that the group has assigned to this process. Call it before opening partitions that
    /// were ever [released](ChangelogStore::release).
    pub fn assigned(&self, partitions: &[PartitionId]) {
        self.shared.partitions.assigned(partitions);
    }

    /// Why this engine cannot serve its group at all, once that is known: its partitioner differs from the group's. The
    /// process should exit with this message.
    pub fn refusal(&self) -> Option<&str> {
        self.refusal.get().map(String::as_str)
    }

    /// What the changelog has done so far.
    pub fn counts(&self) -> ChangelogCounts {
        self.shared.counters.read()
    }

    /// Sends a request to the writer, and returns the channel of its answer.
    fn send<T>(
        &self,
        job: impl FnOnce(Reply<T>) -> Job,
    ) -> Result<Receiver<Result<T, StoreError>>, StoreError> {
        let (reply, answer) = crossbeam_channel::bounded(1);
        match self.jobs.as_ref().map(|jobs| jobs.send(job(reply))) {
            Some(Ok(())) => Ok(answer),
            Some(Err(_)) | None => Err(ended()),
        }
    }

    /// Sends a request to the writer and waits for its answer.
    fn request<T>(&self, job: impl FnOnce(Reply<T>) -> Job) -> Result<T, StoreError> {
        self.send(job)?.recv().map_err(|_| ended())?
    }

    /// Fails where the partition of a workspace is not open.
    fn check_open(&self, id: &WorkspaceId) -> Result<(), StoreError> {
        self.shared
            .partitions
            .open(self.shared.partition_of(id))
            .map(|_| ())
    }
}

impl Ownership for ChangelogStore {
    fn open(&self, partition: PartitionId) -> Result<Opening, StoreError> {
        let kept = self.opening.lock().remove(&partition);
        let mut opening = match kept {
            Some(opening) => opening,
            None if self.shared.partitions.open(partition).is_ok() => return Ok(Opening::Done),
            None => OpeningPartition::new(&self.shared, partition),
        };
        let result = opening.step(self);
        if !matches!(result, Ok(Opening::Done)) {
            self.opening.lock().insert(partition, opening);
        }
        result
    }

    fn close(&self, partition: PartitionId) {
        self.opening.lock().remove(&partition);
        let owned = self
            .shared
            .partitions
            .close(partition, Instant::now() + CLOSE_TIMEOUT);
        if owned.is_none_or(|owned| owned.state != OwnershipState::Open) {
            return;
        }
        // The copy was complete until now, also where nothing was written for a long time.
        let copy = self.shared.copy();
        if let Ok(Some(mut position)) = copy.copy_position(partition) {
            position.at_ms = now_ms();
            if let Err(error) = copy.import(partition, &[], &position) {
                tracing::warn!(%partition, %error, "the time at which the copy was complete cannot be recorded");
            }
        }
    }

    fn takes_saves(&self, partition: PartitionId) -> Result<(), StoreError> {
        self.shared.partitions.not_behind(partition)
    }

    fn first_epoch(&self, partition: PartitionId) -> Epoch {
        let owned = self.shared.partitions.of(partition);
        owned.map_or(Epoch::FIRST, |owned| owned.first_epoch)
    }

    fn notice(&self, partition: PartitionId) -> Option<String> {
        let owned = self.shared.partitions.of(partition)?;
        let notices: Vec<String> = owned.notices.iter().map(ToString::to_string).collect();
        (!notices.is_empty()).then(|| notices.join("; "))
    }

    fn note_misrouted(&self, partition: PartitionId, offset: Offset) {
        self.shared.partitions.note_misrouted(partition, offset);
    }
}

impl Store for ChangelogStore {
    fn is_durable(&self) -> bool {
        true
    }

    fn ownership(&self) -> &dyn Ownership {
        self
    }

    fn workspaces(&self, partition: PartitionId) -> Result<Vec<StoredWorkspace>, StoreError> {
        self.shared.partitions.open(partition)?;
        self.read(|copy| copy.workspaces(partition))
    }

    fn workspace(&self, id: &WorkspaceId) -> Result<Option<StoredWorkspace>, StoreError> {
        self.check_open(id)?;
        self.read(|copy| copy.workspace(id))
    }

    fn committed(&self, partition: PartitionId) -> Result<Offset, StoreError> {
        self.shared
            .partitions
            .open(partition)
            .map(|owned| owned.discovered())
    }

    fn claim(&self, claim: Claim) -> Result<StoredWorkspace, StoreError> {
        self.request(|reply| Job::Claim(claim, reply))
    }

    fn load(&self, id: &WorkspaceId, sink: EntrySink<'_>) -> Result<StoredWorkspace, StoreError> {
        self.check_open(id)?;
        self.read(|copy| copy.load(id, sink))
    }

    fn save(
        &self,
        saves: &[Save],
        committed: &[(PartitionId, Offset)],
    ) -> Result<Vec<SaveRefused>, StoreError> {
        let mut refused = Vec::new();
        let mut batch = Vec::new();
        let mut bytes = 0;
        // The committed offsets are written with the last batch, so that they do not change where an earlier one fails.
        for save in saves {
            if bytes >= TRANSACTION_BYTES {
                bytes = 0;
                let saves = std::mem::take(&mut batch);
                refused.extend(self.save_batch(saves, Vec::new())?);
            }
            bytes += save_bytes(save);
            batch.push(save.clone());
        }
        refused.extend(self.save_batch(batch, committed.to_vec())?);
        Ok(refused)
    }

    fn reset(&self, erase: Erase) -> Result<StoredWorkspace, StoreError> {
        self.request(|reply| Job::Reset(erase, reply))
    }

    fn delete(&self, erase: Erase) -> Result<Deletion, StoreError> {
        self.request(|reply| Job::Delete(erase, reply))
    }

    fn deletions(&self, partition: PartitionId) -> Result<Vec<Deletion>, StoreError> {
        self.shared.partitions.open(partition)?;
        self.read(|copy| copy.deletions(partition))
    }

    fn purge(&self, id: &WorkspaceId) -> Result<(), StoreError> {
        self.request(|reply| Job::Purge(id.clone(), reply))
    }

    fn append_history(&self, records: Vec<HistoryRecord>) -> Result<(), StoreError> {
        self.request(|reply| Job::History(records, reply))
    }

    fn history(
        &self,
        id: &WorkspaceId,
        after: Option<HistoryCursor>,
        limit: usize,
    ) -> Result<Vec<HistoryRecord>, StoreError> {
        self.check_open(id)?;
        self.read(|copy| copy.history(id, after, limit))
    }

    fn needs_restart(&self) -> Option<String> {
        let broken = || {
            self.shared
                .partitions
                .broken()
                .map(|reason| reason.to_string())
        };
        self.shared.copy().needs_restart().or_else(broken)
    }

    /// Committed transactions are durable already.
    fn sync(&self) -> Result<(), StoreError> {
        Ok(())
    }
}

impl ChangelogStore {
    /// Reads from the copy.
    fn read<T>(
        &self,
        read: impl FnOnce(&LsmStore) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let copy = self.shared.copy();
        read(&copy).map_err(|error| self.shared.local_copy.note_damage(&copy, error))
    }

    fn save_batch(
        &self,
        saves: Vec<Save>,
        committed: Vec<(PartitionId, Offset)>,
    ) -> Result<Vec<SaveRefused>, StoreError> {
        if saves.is_empty() && committed.is_empty() {
            return Ok(Vec::new());
        }
        self.request(|reply| Job::Save {
            saves,
            committed,
            reply,
        })
    }
}

impl Drop for ChangelogStore {
    fn drop(&mut self) {
        drop(self.jobs.take());
        let Some(thread) = self.thread.take() else {
            return;
        };
        let until = Instant::now() + WRITER_EXIT_TIMEOUT;
        while !thread.is_finished() && Instant::now() < until {
            std::thread::sleep(WRITER_EXIT_POLL);
        }
        if !thread.is_finished() {
            // It ends by itself once the client returns, and keeps its copy open until then.
            tracing::warn!(
                "the thread that writes the changelog does not end in time; it ends by itself later"
            );
        } else if thread.join().is_err() {
            tracing::error!("the thread that writes the changelog ended in a panic");
        }
    }
}

fn ended() -> StoreError {
    StoreError::Unavailable("the thread that writes the changelog has ended".to_owned())
}

#[cfg(test)]
mod tests;
