//! The one thread that writes: gathers the waiting jobs into a transaction, commits it, and imports it into the copy.
//!
//! librdkafka's transaction calls block, and a producer has one transaction at a time; so the thread owns the
//! producer, and all callers wait for its answers.
//!
//! # After a `kill -9`
//!
//! The next owner of the partition is another engine, or this one after its restart, with another producer. What it
//! finds depends on how far the transaction was:
//!
//! | killed | changelog and group offset | the next owner |
//! |---|---|---|
//! | before the commit request | an open transaction | waits until it is aborted, and replays its events |
//! | after it, without an answer | the coordinator completes the commit | waits for that, and reads the records |
//! | after the commit, before the import | both hold the transaction | reads the records |
//!
//! - An open transaction is invisible: the takeover reads committed records and offsets only. Each workspace continues
//!   from the `next_offset` of its previous save. If the transaction holds the group's offset already, the takeover
//!   fences the producer that committed the partition last, and the coordinator aborts that producer's transaction.
//!   Otherwise, or if that is another producer because this was the first transaction on the partition, the coordinator
//!   aborts it when it times out.
//! - A commit request that did not arrive is the first row. One that arrived is always completed: fencing the producer
//!   aborts nothing then. The takeover waits until the group's offset is stable, and until every transaction below the
//!   end of the changelog is decided.
//! - The copy of the killed process has nothing of the transaction, or some of its mutations with the position unchanged.
//!   The next takeover by that process reads the changelog from that position on. Importing a record again
//!   ends in the same state.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError};
use rdkafka::consumer::ConsumerGroupMetadata;
use rdkafka::{Offset, TopicPartitionList};
use workspace_engine_core::store::{CopyPosition, StoreError};
use workspace_lifecycle::PartitionId;
use workspace_status::Epoch;

use super::draft::{Draft, Job, Part, Positions};
use super::ownership::CommitMark;
use super::partitions::OwnershipState;
use super::plan::GroupOffset;
use super::producer::{Outcome, Transactions};
use super::reader::number;
use super::takeover::{Step, Taken, Takeover, Takeovers};
use super::{Shared, now_ms};
use crate::copy_source::source;

/// Most jobs that wait for the writer: of a saver, a history, and the loads. A caller blocks while the queue is full.
pub(super) const MAX_JOBS_WAITING: usize = 256;

/// A transaction takes no more jobs from this size on; the last job may exceed it.
pub(super) const TRANSACTION_BYTES: usize = 16 * 1024 * 1024;

/// Most jobs of a transaction.
const MAX_JOBS: usize = 1024;

/// How long the writer waits for a job before it checks for other work.
const JOB_WAIT: Duration = Duration::from_millis(250);

/// Pause after a re-read of the changelog has failed.
const REREAD_PAUSE: Duration = Duration::from_secs(1);

/// Pause after another copy could not be created.
const REPLACE_PAUSE: Duration = Duration::from_secs(5);

/// The writer.
pub(super) struct Writer {
    shared: Arc<Shared>,
    jobs: Receiver<Job>,
    transactions: Transactions,
    /// Jobs for the next transaction, oldest first.
    later: VecDeque<Job>,
    takeovers: Takeovers,
    /// When another copy is created at the earliest.
    replace_copy_at: Instant,
    /// When partitions are re-read at the earliest, after a failure.
    reread_at: Instant,
    /// The partition whose re-read failed last.
    failed_last: Option<PartitionId>,
    /// Why there is no producer, as logged last.
    reported: Option<String>,
}

impl Writer {
    pub(super) fn new(
        shared: Arc<Shared>,
        jobs: Receiver<Job>,
        transactions: Transactions,
    ) -> Self {
        Self {
            shared,
            jobs,
            transactions,
            later: VecDeque::new(),
            takeovers: Takeovers::new(),
            replace_copy_at: Instant::now(),
            reread_at: Instant::now(),
            failed_last: None,
            reported: None,
        }
    }

    /// Writes until the store is dropped and no job waits.
    pub(super) fn run(mut self) {
        loop {
            let first = match self.later.pop_front() {
                Some(job) => job,
                None => match self.jobs.recv_timeout(JOB_WAIT) {
                    Ok(job) => job,
                    Err(RecvTimeoutError::Timeout) => {
                        self.idle();
                        continue;
                    }
                    Err(RecvTimeoutError::Disconnected) => return,
                },
            };
            self.replace_damaged_copy();
            self.reread_behind();
            // Before the draft checks which partitions this process owns. The brokers check only the generation:
            // with one that began after a partition was released they would accept records of that partition.
            let member = self.shared.group.metadata();
            let draft = self.gather(first);
            self.transact(draft, member);
        }
    }

    fn idle(&mut self) {
        if !self.transactions.is_settled() {
            let reason = self.transactions.ready().err();
            if reason.is_some() && reason != self.reported {
                tracing::warn!(reason, "the changelog cannot be written yet");
            }
            self.reported = reason;
        }
        self.replace_damaged_copy();
        self.reread_behind();
    }

    fn gather(&mut self, first: Job) -> Draft {
        let mut draft = Draft::default();
        let mut next = Some(first);
        while let Some(job) = next {
            if let Err(job) = draft.take(&self.shared, job) {
                self.later.push_front(job);
                break;
            }
            if draft.bytes >= TRANSACTION_BYTES || draft.answers.len() >= MAX_JOBS {
                break;
            }
            next = self.later.pop_front().or_else(|| self.jobs.try_recv().ok());
        }
        draft
    }

    fn transact(&mut self, mut draft: Draft, member: Option<ConsumerGroupMetadata>) {
        let outcome = if draft.parts.is_empty() {
            Ok(())
        } else {
            self.write(&mut draft, member)
        };
        self.shared.partitions.end_transaction();
        for answer in draft.answers {
            answer(outcome.clone());
        }
    }

    fn write(
        &mut self,
        draft: &mut Draft,
        member: Option<ConsumerGroupMetadata>,
    ) -> Result<(), StoreError> {
        let counters = &self.shared.counters;
        let Some(member) = member else {
            return Err(StoreError::Unavailable(
                "this process is not in the consumer group now".to_owned(),
            ));
        };
        let mut offsets = TopicPartitionList::new();
        for (partition, part) in &draft.parts {
            // For every partition that is written, also where its offset does not change: the next owner waits for
            // transactions with an offset of the partition.
            let offset = Offset::Offset(i64::try_from(part.committed.0).unwrap_or(i64::MAX));
            let mut element = offsets.add_partition(&self.shared.topic, number(*partition));
            element
                .set_offset(offset)
                .map_err(|error| StoreError::Unavailable(error.to_string()))?;
            element.set_metadata(self.mark(*partition, part).encode());
        }
        if draft.records.iter().any(|record| record.value.is_some()) {
            // Before the commit: what does not fit into the copy would have to be re-read.
            self.shared.copy().check_room(draft.bytes)?;
        }
        let known_ends = draft.parts.iter().filter_map(|(partition, part)| {
            let position = part.owned.position.as_ref()?;
            Some((*partition, position.next_offset))
        });
        let known_ends = known_ends.collect();
        match self
            .transactions
            .run(&draft.records, offsets, member, &known_ends)
        {
            Outcome::Committed(ends) => {
                counters.committed.add(1);
                counters.records_written.add(draft.records.len());
                counters.bytes_written.add(draft.bytes);
                self.import(draft, &ends)
            }
            Outcome::Aborted(error_text) => {
                counters.aborted.add(1);
                tracing::warn!(
                    error_text,
                    "a transaction was aborted; its jobs are repeated"
                );
                Err(StoreError::Unavailable(error_text))
            }
            Outcome::Unknown(error_text) => {
                counters.unknown.add(1);
                for partition in draft.parts.keys() {
                    self.mark_behind(*partition);
                }
                Err(StoreError::Unavailable(error_text))
            }
            Outcome::LostEnd { partition, offset } => {
                counters.aborted.add(1);
                let reason = format!(
                    "topic {} partition {partition} has lost its end: a record was written at offset {offset}, \
                     below the known end of the partition",
                    self.shared.readers.topic
                );
                Err(self.mark_broken(partition, &reason))
            }
        }
    }

    /// Stops saving a partition whose changelog is not the one that was read: the state in memory continues from
    /// records that no longer exist.
    fn mark_broken(&self, partition: PartitionId, reason: &str) -> StoreError {
        let reason = format!(
            "{reason}; nothing of the partition is saved until this engine is restarted, which rebuilds it, or another \
             engine takes it over"
        );
        if self.shared.partitions.mark_broken(partition, &reason) {
            tracing::error!(%partition, "{reason}");
        }
        StoreError::Unavailable(reason)
    }

    /// What the next owner needs to rely on the offset, and to find the producer of a process that died.
    fn mark(&self, partition: PartitionId, part: &Part) -> CommitMark {
        let record = part.owned.record.as_deref();
        let owned = self.shared.partitions.of(partition);
        CommitMark {
            producer: self.shared.transactional_id.clone(),
            lineage: record.map_or(0, |record| record.lineage),
            first_epoch: record.map_or(Epoch::new(0), |record| record.first_epoch),
            highest_epoch: part.highest_epoch(),
            position: part
                .owned
                .position
                .as_ref()
                .map_or(0, |position| position.next_offset),
            topic_id: record.and_then(|record| record.topic_id),
            last_reads: self.shared.last_reads.of(partition),
            misrouted_from: owned
                .and_then(|owned| owned.misrouted_from)
                .map(|from| from.0),
        }
    }

    /// Imports what was committed into the copy. Where that fails, the writer re-reads the changelog.
    fn import(&self, draft: &mut Draft, ends: &Positions) -> Result<(), StoreError> {
        let mut first = Ok(());
        for (partition, part) in &mut draft.parts {
            let applied = self.import_part(*partition, part, ends.get(partition).copied());
            if let Err(error) = applied {
                tracing::error!(%partition, %error, "the committed records cannot be imported into the copy");
                self.mark_behind(*partition);
                first = first.and(Err(error));
            }
        }
        first
    }

    fn import_part(
        &self,
        partition: PartitionId,
        part: &mut Part,
        end: Option<u64>,
    ) -> Result<(), StoreError> {
        let shared = &self.shared;
        let state = part.owned.state;
        let (position, committed) = (self.position_after(part, end), part.committed);
        let nothing_written = part.mutations.is_empty() && part.record.is_none();
        match (&position, end) {
            (Some(position), Some(_)) => shared
                .copy()
                .import(partition, &part.mutations, position)
                .map_err(|error| shared.note_damage(error))?,
            _ if nothing_written => {}
            _ => {
                let error_text = "the brokers did not report the offsets of its records".to_owned();
                return Err(StoreError::Unavailable(error_text));
            }
        }
        // This has no effect where the partition was released meanwhile.
        shared.partitions.change(partition, state, |owned| {
            owned.state = OwnershipState::Open;
            owned.committed = committed;
            owned.position = position;
        });
        Ok(())
    }

    fn position_after(&self, part: &Part, end: Option<u64>) -> Option<CopyPosition> {
        let mut position = part.owned.position.clone()?;
        position.highest_epoch = part.highest_epoch();
        position.at_ms = now_ms();
        if let Some(end) = end {
            position.next_offset = position.next_offset.max(end);
        }
        if let (Some(record), Some(end)) = (&part.record, end) {
            // The ownership record is the last record of its partition in the transaction.
            position.ownership_record_offset = end.saturating_sub(1);
            position.source = source(&self.shared.readers.topic, Some(record.lineage));
        }
        Some(position)
    }

    fn mark_behind(&self, partition: PartitionId) {
        let changed = self
            .shared
            .partitions
            .change(partition, OwnershipState::Open, |owned| {
                owned.state = OwnershipState::Behind;
            });
        if changed {
            tracing::warn!(%partition, "the copy may lack records of the changelog, which is read again");
        }
    }

    /// Creates another copy where the one in use is damaged. It runs only between transactions: each is planned and
    /// applied with one copy.
    fn replace_damaged_copy(&mut self) {
        if !self.shared.local_copy.is_damaged() || Instant::now() < self.replace_copy_at {
            return;
        }
        match self.shared.local_copy.replace() {
            Ok(false) => {}
            Ok(true) => {
                self.takeovers.clear();
                for partition in self.shared.partitions.all_open() {
                    self.mark_behind(partition);
                }
            }
            Err(error) => {
                self.replace_copy_at = Instant::now() + REPLACE_PAUSE;
                tracing::error!(%error, "the copy of the changelog is damaged, and another one cannot be created yet");
            }
        }
    }

    /// Re-reads what the copy of a partition may lack, once the next producer has decided the transaction that was left
    /// open. One step a call: the next transaction waits for it, and may be of other partitions.
    fn reread_behind(&mut self) {
        let behind = self.shared.partitions.behind();
        self.takeovers
            .retain(|partition, _| behind.contains(partition));
        let Some(partition) = next_of(&behind, self.failed_last) else {
            return;
        };
        if Instant::now() < self.reread_at || self.transactions.ready().is_err() {
            return;
        }
        let takeover = self
            .takeovers
            .entry(partition)
            .or_insert_with(|| Takeover::again(&self.shared, partition));
        match takeover.step(&self.shared) {
            Ok(Step::Reading { .. }) => {}
            Ok(Step::Done(taken)) => {
                self.takeovers.remove(&partition);
                self.reopen(partition, *taken);
            }
            Err(error) => {
                self.failed_last = Some(partition);
                self.reread_at = Instant::now() + REREAD_PAUSE;
                tracing::warn!(%partition, %error, "the changelog cannot be read again yet");
            }
        }
    }

    /// Opens a partition again after its changelog was re-read to the end, unless the changelog is another one.
    fn reopen(&mut self, partition: PartitionId, taken: Taken) {
        let partitions = &self.shared.partitions;
        let own = partitions.of(partition).and_then(|owned| owned.record);
        if taken.record.as_ref() != own.as_deref() {
            let reason = format!(
                "topic {} partition {partition} does not hold the ownership record of this process: it was recreated or has \
                 lost its end",
                self.shared.readers.topic
            );
            self.mark_broken(partition, &reason);
            return;
        }
        partitions.change(partition, OwnershipState::Behind, |owned| {
            owned.state = OwnershipState::Open;
            if let GroupOffset::Engine { offset, .. } = taken.group_offset {
                owned.committed = offset;
            }
            owned.position = Some(taken.position);
        });
        tracing::info!(%partition, "the copy is complete again");
    }
}

/// The partition to re-read next: the first one after that which failed last, otherwise the first.
fn next_of(behind: &[PartitionId], failed_last: Option<PartitionId>) -> Option<PartitionId> {
    let later = behind
        .iter()
        .find(|partition| failed_last < Some(**partition));
    later.or(behind.first()).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_partition_that_cannot_be_read_again_holds_up_no_other() {
        for (behind, failed_last, expected) in [
            (&[][..], None, None),
            (&[], Some(1), None),
            (&[1, 2, 5], None, Some(1)),
            (&[1, 2, 5], Some(1), Some(2)),
            (&[1, 2, 5], Some(3), Some(5)),
            (&[1, 2, 5], Some(5), Some(1)),
            (&[1], Some(1), Some(1)),
        ] {
            let behind: Vec<_> = behind.iter().copied().map(PartitionId).collect();
            let next = next_of(&behind, failed_last.map(PartitionId));
            assert_eq!(
                next,
                expected.map(PartitionId),
                "{behind:?} {failed_last:?}"
            );
        }
    }
}
