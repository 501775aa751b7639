//! Opening a partition, in steps.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError};
use workspace_engine_core::routing::Partitioner;
use workspace_engine_core::store::{LsmStore, Opening, StoreError};
use workspace_lifecycle::PartitionId;
use workspace_status::Epoch;

use super::draft::Job;
use super::ownership::{LogLoss, OwnershipRecord};
use super::partitions::{OwnershipState, not_open};
use super::plan::{Facts, GroupOffset, Notice, Plan, SetAside, plan};
use super::set_aside;
use super::takeover::{Step, Taken, Takeover};
use super::{ChangelogStore, Shared, ended};

/// How long one step waits for an earlier transaction of this process that holds the partition.
const EARLIER_TRANSACTION_TIMEOUT: Duration = Duration::from_millis(800);

/// How long one step waits for the writer.
const WRITER_TIMEOUT: Duration = Duration::from_millis(800);

/// A partition that is being opened. It is kept until the partition is open or closed, also after an error: its takeover
/// fences a producer only once.
pub(super) struct OpeningPartition {
    takeover: Takeover,
    progress: Progress,
}

/// How far the opening of a partition is.
enum Progress {
    /// An earlier transaction may still hold the partition.
    Beginning,
    /// The changelog is being read into the copy.
    Reading,
    /// The ownership record of this process is being written.
    WritingRecord {
        end: u64,
        answer: Receiver<Result<(), StoreError>>,
    },
}

impl OpeningPartition {
    pub(super) fn new(shared: &Shared, partition: PartitionId) -> Self {
        Self {
            takeover: Takeover::new(shared, partition),
            progress: Progress::Beginning,
        }
    }

    /// Continues for a while.
    ///
    /// # Errors
    /// The next step begins again.
    pub(super) fn step(&mut self, store: &ChangelogStore) -> Result<Opening, StoreError> {
        self.continue_opening(store).inspect_err(|_| {
            self.takeover.restart();
            self.progress = Progress::Beginning;
        })
    }

    fn continue_opening(&mut self, store: &ChangelogStore) -> Result<Opening, StoreError> {
        let (shared, partition) = (&store.shared, self.takeover.partition);
        if matches!(self.progress, Progress::Beginning) {
            let deadline = Instant::now() + EARLIER_TRANSACTION_TIMEOUT;
            if !shared.partitions.begin(partition, deadline)? {
                return Ok(Opening::Waiting);
            }
            self.progress = Progress::Reading;
        }
        if matches!(self.progress, Progress::Reading) {
            match self.takeover.step(shared)? {
                Step::Reading { position, end } => return Ok(Opening::Reading { position, end }),
                Step::Done(taken) => {
                    let copy = Arc::clone(&self.takeover.copy);
                    self.progress = send_record(store, partition, *taken, copy)?;
                }
            }
        }
        let Progress::WritingRecord { end, answer } = &self.progress else {
            return Ok(Opening::Waiting);
        };
        match answer.recv_timeout(WRITER_TIMEOUT) {
            Ok(answer) => answer.map(|()| Opening::Done),
            Err(RecvTimeoutError::Timeout) => Ok(Opening::Reading {
                position: *end,
                end: *end,
            }),
            Err(RecvTimeoutError::Disconnected) => Err(ended()),
        }
    }
}

/// Why an engine cannot serve its group.
fn refusal(topic: &str, own: Partitioner, of_group: Partitioner) -> String {
    format!(
        "this engine was started with --partitioner {own}, but its group keeps the workspaces of topic {topic} by \
         {of_group}: start it with --partitioner {of_group}, or, if the producers use {own}, start all engines with another \
         --group, which builds the workspaces from the topic again"
    )
}

/// Refuses a partition whose previous owner distributed workspaces by another partitioner.
fn check_partitioner(
    store: &ChangelogStore,
    own: Partitioner,
    record: Option<&OwnershipRecord>,
) -> Result<(), StoreError> {
    let Some(record) = record.filter(|record| record.partitioner != own) else {
        return Ok(());
    };
    let reason = store
        .refusal
        .get_or_init(|| refusal(&store.shared.topic, own, record.partitioner));
    Err(StoreError::Unavailable(reason.clone()))
}

/// Decides how the partition begins, and sends the ownership record to the writer.
fn send_record(
    store: &ChangelogStore,
    partition: PartitionId,
    taken: Taken,
    copy: Arc<LsmStore>,
) -> Result<Progress, StoreError> {
    let shared = &store.shared;
    let partitioner = shared.copy().partitioner();
    check_partitioner(store, partitioner, taken.record.as_ref())?;
    let facts = Facts {
        partition,
        topic: &shared.topic,
        group: &shared.group_name,
        changelog: &shared.readers.topic,
        group_offset: &taken.group_offset,
        record: taken.record.as_ref(),
        changelog_end: taken.position.next_offset,
        topic_id: taken.ends.topic_id,
        low: taken.ends.low,
        high: taken.ends.high,
        lost_from: taken.lost_from,
        set_aside: if set_aside::exists(&copy, &shared.readers.topic, partition) {
            SetAside::Copy
        } else {
            SetAside::Nothing
        },
        accept_loss: shared.accept_loss,
    };
    let (committed, loss, notices) = match plan(&facts) {
        Plan::Refuse(missing) => {
            return Err(StoreError::NotServed {
                partition,
                missing: missing.to_string(),
            });
        }
        Plan::Serve {
            committed,
            loss,
            notices,
        } => (committed, loss, notices),
    };
    for notice in &notices {
        report(partition, &shared.topic, notice);
    }
    let mark = match taken.group_offset {
        GroupOffset::Engine { mark, .. } => Some(mark),
        GroupOffset::None | GroupOffset::Foreign { .. } => None,
    };
    let highest = mark
        .as_ref()
        .map_or(Epoch::new(0), |mark| mark.highest_epoch)
        .max(taken.position.highest_epoch);
    let first_epoch = Epoch::new(highest.get().saturating_add(1));
    let known_id = taken.record.as_ref().and_then(|record| record.topic_id);
    let mut record = taken.record.unwrap_or_else(|| OwnershipRecord {
        first_epoch,
        lineage: fastrand::u64(..),
        topic_id: None,
        losses: Vec::new(),
        partitioner,
    });
    if notices.iter().any(Notice::is_rebuilt) {
        // A new lineage keeps copies elsewhere from continuing with this changelog: they would mix old and rebuilt
        // state.
        record.lineage = fastrand::u64(..);
    }
    record.first_epoch = first_epoch;
    record.topic_id = taken.ends.topic_id.or(known_id);
    if let Some((kind, from)) = loss {
        record.add_loss(LogLoss {
            kind,
            since: first_epoch,
            from: from.0,
        });
    }
    let misrouted_from = mark
        .as_ref()
        .and_then(|mark| mark.misrouted_from(taken.ends.low));
    let mut last_reads = mark.map_or_else(Vec::new, |mark| mark.last_reads);
    last_reads.retain(|read| loss.is_none_or(|(_, from)| read.offset < from.0));
    // Only the newest leader is kept: the takeover has just compared the earlier ones.
    shared
        .last_reads
        .begin(partition, last_reads.pop().into_iter().collect());
    let record = Arc::new(record);
    let end = taken.position.next_offset;
    let is_owned = shared
        .partitions
        .change(partition, OwnershipState::Opening, |owned| {
            owned.state = OwnershipState::WritingRecord;
            owned.committed = committed;
            owned.first_epoch = first_epoch;
            owned.misrouted_from = misrouted_from;
            owned.record = Some(Arc::clone(&record));
            owned.notices = notices;
            owned.position = Some(taken.position);
        });
    if !is_owned {
        // The partition was released meanwhile.
        return Err(not_open(partition));
    }
    let answer = store.send(|reply| Job::WriteOwnershipRecord {
        partition,
        record,
        copy,
        reply,
    })?;
    Ok(Progress::WritingRecord { end, answer })
}

fn report(partition: PartitionId, topic: &str, notice: &Notice) {
    if notice.is_error() {
        tracing::error!(%partition, topic, "{notice}");
    } else {
        tracing::warn!(%partition, topic, "{notice}");
    }
}
