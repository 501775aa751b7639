//! Taking a partition over: what the group has committed, then the changelog to its end. [`protocol`] decides, and this
//! file does what it decides.
//!
//! The order matters. First the takeover queries the committed offset, stable only: so it waits for a transaction of
//! the previous owner that the group has accepted. The group accepts no later one: the previous owner's generation
//! ended before this process was assigned the partition, and the previous owner begins no transaction on it with a
//! later generation (see [`ChangelogStore::release`](super::ChangelogStore::release)). Then the takeover queries the end
//! of what is *written*, and waits until every transaction below it is decided: the markers of a transaction reach each
//! partition in their own time, so the end of what is committed may still be below records that are committed already.

mod protocol;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use workspace_engine_core::store::{LsmStore, StoreError};
use workspace_lifecycle::{Offset, PartitionId};

use super::Shared;
use super::producer;
use super::reader::{Ends, Found, Reader};
use super::record::{self, DecodedRecord};
use super::set_aside::SettingAside;
use crate::clock::now_ms;
use crate::group::Committed;
use crate::last_reads::{LastRead, lost_from};
use crate::topic_id::TopicId;
pub(super) use protocol::Taken;
use protocol::{
    Failure, Kind, Observation, OtherChangelog, Protocol, Reading, Scope, State, TopicEnds,
};

/// How long one step may take.
const STEP_TIMEOUT: Duration = Duration::from_millis(800);

/// How long a query waits for a transaction of the previous owner.
const TRANSACTION_TIMEOUT: Duration = Duration::from_millis(300);

/// A group that answers within this time is not slow.
const PROMPT_TIMEOUT: Duration = Duration::from_millis(200);

/// Timeout of one query of the brokers.
const QUERY_TIMEOUT: Duration = Duration::from_secs(1);

/// How long the check may take whether the topic still holds what was read of it.
const COMPARISON_TIMEOUT: Duration = Duration::from_secs(5);

/// Between two checks while a takeover waits.
const CHECK_PAUSE: Duration = Duration::from_millis(50);

/// Changes are imported into the copy in batches of about this size.
const IMPORT_BYTES: usize = 1024 * 1024;

/// A partition that is being read into the copy.
pub(super) struct Takeover {
    pub(super) partition: PartitionId,
    protocol: Protocol,
    /// The copy that the partition is read into.
    pub(super) copy: Arc<LsmStore>,
    /// The consumer of the current state; none where it has not begun to read.
    reader: Option<Reader>,
    /// The copy that the current state sets aside; none where it has not begun to.
    setting_aside: Option<SettingAside>,
}

pub(super) enum Step {
    Done(Box<Taken>),
    Reading { position: u64, end: u64 },
}

/// The re-reads that the writer keeps between two steps.
pub(super) type Takeovers = std::collections::HashMap<PartitionId, Takeover>;

impl Takeover {
    /// Takes over a partition that the group has assigned to this process.
    pub(super) fn new(shared: &Shared, partition: PartitionId) -> Self {
        Self::of(shared, partition, Kind::Assigned)
    }

    /// Re-reads a partition that this process has owned all the time, after its producer was initialized again.
    pub(super) fn again(shared: &Shared, partition: PartitionId) -> Self {
        Self::of(shared, partition, Kind::Reread)
    }

    fn of(shared: &Shared, partition: PartitionId, kind: Kind) -> Self {
        let scope = Scope {
            partition,
            changelog: shared.readers.topic.clone(),
            transactional_id: shared.transactional_id.clone(),
            producers_of_group: shared.producers_of_group.clone(),
        };
        Self {
            partition,
            protocol: Protocol::new(kind, scope),
            copy: shared.copy(),
            reader: None,
            setting_aside: None,
        }
    }

    /// Continues for about [`STEP_TIMEOUT`]. After an error the takeover begins again, from where the copy is then.
    pub(super) fn step(&mut self, shared: &Shared) -> Result<Step, StoreError> {
        let until = Instant::now() + STEP_TIMEOUT;
        let copy = shared.copy();
        if !Arc::ptr_eq(&self.copy, &copy) {
            self.copy = copy;
            self.restart();
        }
        self.steps(shared, until).map_err(|error| {
            self.restart();
            shared.local_copy.note_damage(&self.copy, error)
        })
    }

    /// Begins again, from where the copy is then. A producer is not fenced twice.
    pub(super) fn restart(&mut self) {
        self.release();
        self.protocol.restart();
    }

    /// Ends the current state.
    fn release(&mut self) {
        self.reader = None;
        self.setting_aside = None;
    }

    fn steps(&mut self, shared: &Shared, until: Instant) -> Result<Step, StoreError> {
        loop {
            if let Some(observation) = self.act(shared, until)? {
                self.release();
                if let Some(taken) = self.protocol.observe(observation)? {
                    return Ok(Step::Done(taken));
                }
                tracing::debug!(partition = %self.partition, "takeover: {}", self.protocol.state);
            }
            // The queries for the offset belong to one step, so that their error is not hidden behind progress.
            if let Some((position, end)) = self.protocol.progress()
                && Instant::now() >= until
            {
                return Ok(Step::Reading { position, end });
            }
        }
    }

    /// Does what the state names; no observation where that takes longer than this step.
    fn act(&mut self, shared: &Shared, until: Instant) -> Result<Option<Observation>, StoreError> {
        let (partition, copy) = (self.partition, &self.copy);
        Ok(Some(match &mut self.protocol.state {
            State::QueryingOffset => query_offset(shared, partition, TRANSACTION_TIMEOUT)?,
            State::ProbingTransaction => probe_transaction(shared, partition)?,
            State::AwaitingOffset => query_offset(shared, partition, QUERY_TIMEOUT)?,
            State::Fencing(producer) => {
                fence(partition, shared, producer.clone());
                Observation::FenceRequested
            }
            State::QueryingEnds(_) => Observation::Ends(query_ends(shared, partition)?),
            State::AwaitingTransactions(_) => {
                std::thread::sleep(CHECK_PAUSE);
                Observation::StableEnd(shared.readers.ends(partition, QUERY_TIMEOUT)?.stable)
            }
            State::ExaminingCopy(_) => Observation::Copy(copy.copy_position(partition)?, now_ms()),
            State::CheckingLineage(reading) => {
                let from = reading.position.ownership_record_offset;
                let Some(reader) = lend(&mut self.reader, shared, partition, from)? else {
                    return Ok(None);
                };
                return read_ownership_record(
                    reader,
                    partition,
                    from,
                    reading.known.ends.changelog,
                );
            }
            State::SettingAside(_, reason) => {
                if self.setting_aside.is_none() {
                    let topic = &shared.readers.topic;
                    self.setting_aside = SettingAside::begin(copy, topic, partition, *reason)?;
                }
                if let Some(setting_aside) = &mut self.setting_aside
                    && !setting_aside.step(copy, until)?
                {
                    return Ok(None);
                }
                Observation::SetAside
            }
            State::ForgettingCopy(known) => {
                copy.forget(partition, shared.partition_count.load(Ordering::Relaxed))?;
                shared.counters.rebuilt.add(1);
                let end = known.ends.changelog.high;
                tracing::info!(%partition, end, "no copy of the partition can be continued: all of the changelog is read");
                Observation::Forgotten(now_ms())
            }
            State::ReadingChangelog(reading) => {
                let from = reading.position.next_offset;
                let Some(reader) = lend(&mut self.reader, shared, partition, from)? else {
                    return Ok(None);
                };
                return read(shared, partition, reader, (reading, copy), until);
            }
            State::ComparingEvents(taken, last_reads) => {
                let from = taken.ends.low.0;
                let Some(reader) = lend(&mut self.reader, shared, partition, from)? else {
                    return Ok(None);
                };
                Observation::Compared(compare_events(
                    shared,
                    partition,
                    reader,
                    (taken, last_reads),
                )?)
            }
        }))
    }
}

/// The consumer of a state, which reads the changelog from `from` on; none while all are lent.
fn lend<'a>(
    lent: &'a mut Option<Reader>,
    shared: &Shared,
    partition: PartitionId,
    from: u64,
) -> Result<Option<&'a mut Reader>, StoreError> {
    if lent.is_none() {
        *lent = shared.readers.lend()?;
        match lent {
            Some(reader) => reader.assign(partition, from)?,
            None => std::thread::sleep(CHECK_PAUSE),
        }
    }
    Ok(lent.as_mut())
}

fn query_offset(
    shared: &Shared,
    partition: PartitionId,
    timeout: Duration,
) -> Result<Observation, Failure> {
    match shared.group.committed(&shared.topic, partition, timeout) {
        Ok(committed) => Ok(Observation::Offset(committed)),
        Err(error) if is_undecided(&error) => Ok(Observation::OffsetUndecided(error.to_string())),
        Err(error) => Err(Failure::OffsetUnknown {
            partition,
            error: error.to_string(),
        }),
    }
}

fn is_undecided(error: &KafkaError) -> bool {
    matches!(
        error.rdkafka_error_code(),
        Some(
            RDKafkaErrorCode::UnstableOffsetCommit
                | RDKafkaErrorCode::OperationTimedOut
                | RDKafkaErrorCode::RequestTimedOut
        )
    )
}

/// Queries the offset again, and what was committed before open transactions, before and after.
fn probe_transaction(shared: &Shared, partition: PartitionId) -> Result<Observation, Failure> {
    let before = query_last_commit(shared, partition);
    let observation = query_offset(shared, partition, TRANSACTION_TIMEOUT)?;
    if !matches!(observation, Observation::OffsetUndecided(_)) {
        return Ok(observation);
    }
    let after = before
        .is_some()
        .then(|| query_last_commit(shared, partition))
        .flatten();
    Ok(Observation::LastCommits(before, after))
}

/// What was committed before open transactions; none where the group does not answer at once.
fn query_last_commit(shared: &Shared, partition: PartitionId) -> Option<Committed> {
    let query = || {
        let (group, topic) = (&shared.group, &shared.topic);
        group.committed_before(topic, partition, PROMPT_TIMEOUT)
    };
    // The first query may have to open a connection.
    query().or_else(|_| query()).unwrap_or_else(|error| {
        tracing::debug!(%partition, %error, "the group does not report at once who committed last");
        None
    })
}

fn query_ends(shared: &Shared, partition: PartitionId) -> Result<TopicEnds, StoreError> {
    let readers = &shared.readers;
    let partitions = readers.partitions(QUERY_TIMEOUT)?;
    shared.partition_count.store(partitions, Ordering::Relaxed);
    let topic_id = query_topic_id(shared, partition)?;
    let (low, high) = readers.ends_of_events(&shared.topic, partition, QUERY_TIMEOUT)?;
    Ok(TopicEnds {
        topic_id,
        low: Offset(low),
        high: Offset(high),
        changelog: readers.ends(partition, QUERY_TIMEOUT)?,
    })
}

/// The id of the topic of the events; none where the brokers refuse it or the topic does not exist now: then it counts
/// as unchanged.
fn query_topic_id(shared: &Shared, partition: PartitionId) -> Result<Option<TopicId>, Failure> {
    let topic = &shared.topic;
    let error = match shared.group.topic_id(topic, QUERY_TIMEOUT) {
        Ok(id) => return Ok(id),
        Err(error) => error,
    };
    match error.rdkafka_error_code() {
        Some(
            RDKafkaErrorCode::UnknownTopic
            | RDKafkaErrorCode::UnknownTopicOrPartition
            | RDKafkaErrorCode::TopicAuthorizationFailed
            | RDKafkaErrorCode::ClusterAuthorizationFailed
            | RDKafkaErrorCode::UnsupportedFeature
            | RDKafkaErrorCode::UnsupportedVersion,
        ) => {
            tracing::warn!(%partition, topic, %error, "the brokers refuse the id of the topic: a recreated topic would not be noticed");
            Ok(None)
        }
        Some(_) | None => Err(Failure::TopicIdUnknown {
            topic: topic.clone(),
            error: error.to_string(),
        }),
    }
}

/// Fences the producer that committed last. A transaction with an offset of the partition is open for so long that its
/// process has died in it, or should not be in it: an owner ends its transaction before it releases a partition.
/// Without this the coordinator would wait for the transaction's timeout.
///
/// Where the previous owner died in its first transaction on the partition, the last commit is of the owner before that
/// one: if that process still runs, it continues with a new producer. The open transaction then ends by its timeout
/// (see [`producer::Transactions`]).
fn fence(partition: PartitionId, shared: &Shared, transactional_id: String) {
    let config = shared.producer.clone();
    // The takeover does not wait for the answer: the request is enough for the transaction to end.
    let fence = move || match producer::fence(&config, &transactional_id) {
        Ok(()) => {
            tracing::info!(%partition, transactional_id, "the producer that committed last was fenced, and its open transaction aborted");
        }
        Err(error) => {
            tracing::warn!(%partition, transactional_id, %error, "an open transaction of the previous owner ends only by its timeout");
        }
    };
    let thread = std::thread::Builder::new().name("fence".to_owned());
    if let Err(error) = thread.spawn(fence) {
        tracing::warn!(%error, "no thread can be started to abort a transaction of the previous owner");
    }
}

/// Reads the ownership record at an offset; no observation before the broker has returned what is at it.
fn read_ownership_record(
    reader: &mut Reader,
    partition: PartitionId,
    at: u64,
    ends: Ends,
) -> Result<Option<Observation>, StoreError> {
    reader.next(partition, CHECK_PAUSE, |found| {
        let record = match found {
            Found::Nothing => return None,
            Found::End { offset } if is_before(offset, at, ends) => return None,
            Found::Record {
                offset, key, value, ..
            } if offset == at => match record::decode(partition, key, value) {
                DecodedRecord::Ownership(record) => Some(record),
                DecodedRecord::Mutation(_)
                | DecodedRecord::OtherVersion(_)
                | DecodedRecord::Skipped(_) => None,
            },
            Found::Record { .. } | Found::End { .. } => None,
        };
        Some(Observation::OwnershipRecord(record))
    })
}

/// Whether the broker does not know yet of a record that must exist: then the end that it reports means nothing.
fn is_before(offset: u64, ownership_record_offset: u64, ends: Ends) -> bool {
    offset <= ownership_record_offset && ownership_record_offset < ends.stable
}

/// Reads the changelog into the copy, up to its end or until the step is over.
fn read(
    shared: &Shared,
    partition: PartitionId,
    reader: &mut Reader,
    (reading, copy): (&mut Reading, &LsmStore),
    until: Instant,
) -> Result<Option<Observation>, StoreError> {
    enum Read {
        Nothing,
        Record,
        OtherVersion(String),
        End,
    }
    let high = reading.known.ends.changelog.high;
    loop {
        let now = Instant::now();
        if now >= until {
            import(copy, partition, reading)?;
            return Ok(None);
        }
        let read = reader.next(partition, until - now, |found| match found {
            Found::Nothing => Ok(Read::Nothing),
            // A leader that was just elected may not know its high watermark yet. The client reports the end again when
            // it grows.
            Found::End { offset } if offset < high => Ok(Read::Nothing),
            Found::End { .. } => reading.complete(now_ms()).map(|()| Read::End),
            Found::Record {
                offset, key, value, ..
            } => {
                let bytes = key.len() + value.map_or(0, <[u8]>::len);
                shared.counters.records_read.add(1);
                shared.counters.bytes_read.add(bytes);
                let record = record::decode(partition, key, value);
                if let DecodedRecord::OtherVersion(reason) = record {
                    return Ok(Read::OtherVersion(format!(
                        "the ownership record at offset {offset} of {} cannot be read: {reason}",
                        shared.readers.topic
                    )));
                }
                if let DecodedRecord::Skipped(reason) = record {
                    tracing::warn!(%partition, offset, reason, "a record of the changelog is skipped");
                }
                let topic = &shared.readers.topic;
                reading.take(topic, (offset, bytes), record).map(|()| Read::Record)
            }
        })?;
        match read {
            Ok(Read::Record) if reading.bytes >= IMPORT_BYTES => {
                import(copy, partition, reading)?;
            }
            Ok(Read::Nothing | Read::Record) => {}
            Ok(Read::OtherVersion(missing)) => {
                return Err(StoreError::NotServed { partition, missing });
            }
            Ok(Read::End) => {
                import(copy, partition, reading)?;
                return Ok(Some(Observation::EndOfChangelog));
            }
            Err(OtherChangelog) => return Ok(Some(Observation::OtherChangelog)),
        }
    }
}

/// Imports what was read into the copy.
fn import(
    copy: &LsmStore,
    partition: PartitionId,
    reading: &mut Reading,
) -> Result<(), StoreError> {
    copy.import(partition, &reading.changes, &reading.position)?;
    reading.changes.clear();
    reading.bytes = 0;
    Ok(())
}

/// The offset from which the events are not those that were read, by the epochs of their leaders.
fn compare_events(
    shared: &Shared,
    partition: PartitionId,
    reader: &mut Reader,
    (taken, last_reads): (&Taken, &[LastRead]),
) -> Result<Option<Offset>, StoreError> {
    let TopicEnds { low, high, .. } = taken.ends;
    let deadline = Instant::now() + COMPARISON_TIMEOUT;
    lost_from(last_reads, low, &mut |from| {
        if from >= high.0 {
            return Ok(None);
        }
        reader.assign_of(&shared.topic, partition, from)?;
        while Instant::now() < deadline {
            let found = reader.next(partition, CHECK_PAUSE, |found| match found {
                Found::Nothing => None,
                // A leader that was just elected may not know its high watermark yet.
                Found::End { offset } if offset < high.0 => None,
                Found::End { .. } => Some(None),
                Found::Record {
                    offset,
                    leader_epoch,
                    ..
                } => Some(Some(LastRead {
                    leader_epoch,
                    offset,
                })),
            })?;
            if let Some(found) = found {
                return Ok(found);
            }
        }
        let topic = shared.topic.clone();
        Err(Failure::EventsNotCompared { topic, partition }.into())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ownership_record_is_missing_only_where_the_end_is_known() {
        let ends = Ends {
            low: 0,
            stable: 10,
            high: 10,
        };
        for (offset, ownership_record_offset, expected) in [
            (4, 4, true),
            (3, 4, true),
            (5, 4, false),
            (10, 4, false),
            (10, 10, false),
        ] {
            assert_eq!(
                is_before(offset, ownership_record_offset, ends),
                expected,
                "{offset} {ownership_record_offset}"
            );
        }
    }
}
