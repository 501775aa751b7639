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
use workspace_engine_core::store::{CachePlace, LsmStore, StoreError};
use workspace_lifecycle::{Offset, PartitionId};

use super::ownership::OwnershipRecord;
use super::plan::{GroupOffset, SetAside};
use super::producer;
use super::reader::{Ends, Found, Reader};
use super::record::{self, DecodedRecord};
use super::set_aside::{self, SettingAside};
use super::{Shared, now_ms};
use crate::group::Committed;
use crate::seen::{Seen, lost_from};
use crate::topic_id::TopicId;
use protocol::{
    Failure, Finished, Kind, Known, Observation, OtherLineage, Protocol, Reading, Scope, State,
    TopicEnds,
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

/// Between two checks of whatever a takeover waits for.
const CHECK_PAUSE: Duration = Duration::from_millis(50);

/// Changes are imported into the copy in batches of about this size.
const IMPORT_BYTES: usize = 1024 * 1024;

/// A partition that is being read into the copy.
pub(super) struct Takeover {
    partition: PartitionId,
    protocol: Protocol,
    cache: Arc<LsmStore>,
    held: Held,
}

/// What the current state holds; a state begins with nothing, and releases what it holds.
enum Held {
    Nothing,
    Reader(Reader),
    SettingAside(Box<SettingAside>),
}

/// A partition whose changelog is completely in the copy.
pub(super) struct Taken {
    pub(super) group_offset: GroupOffset,
    pub(super) place: CachePlace,
    /// The newest one; none where the partition has had no owner, or the changelog has lost it.
    pub(super) record: Option<OwnershipRecord>,
    /// Id of the topic of the events, as the brokers report it.
    pub(super) topic_id: Option<TopicId>,
    /// Where the events begin.
    pub(super) low: Offset,
    /// Where they end.
    pub(super) high: Offset,
    /// The offset from which the events are not those that were read.
    pub(super) lost_from: Option<Offset>,
    pub(super) set_aside: SetAside,
    /// The copy that the partition was read into.
    pub(super) cache: Arc<LsmStore>,
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
            cache: shared.cache(),
            held: Held::Nothing,
        }
    }

    /// Continues for about [`STEP_TIMEOUT`]. After an error the takeover begins again, from where the copy is then.
    pub(super) fn step(&mut self, shared: &Shared) -> Result<Step, StoreError> {
        let until = Instant::now() + STEP_TIMEOUT;
        let cache = shared.cache();
        if !Arc::ptr_eq(&self.cache, &cache) {
            self.cache = cache;
            self.restart();
        }
        self.steps(shared, until).map_err(|error| {
            self.restart();
            shared.copy.seen(&self.cache, error)
        })
    }

    fn restart(&mut self) {
        self.held = Held::Nothing;
        self.protocol.restart();
    }

    fn steps(&mut self, shared: &Shared, until: Instant) -> Result<Step, StoreError> {
        loop {
            if let Some(observation) = self.act(shared, until)? {
                self.held = Held::Nothing;
                if let Some(finished) = self.protocol.observe(observation)? {
                    return Ok(Step::Done(Box::new(self.taken(shared, *finished))));
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
        let Self {
            partition,
            protocol,
            cache,
            held,
        } = self;
        let partition = *partition;
        let observation = match &mut protocol.state {
            State::QueryingOffset | State::QueryingOffsetAgain { .. } => {
                query_offset(shared, partition, TRANSACTION_TIMEOUT)?
            }
            State::AwaitingOffset => query_offset(shared, partition, QUERY_TIMEOUT)?,
            State::QueryingLastWriter | State::ConfirmingLastWriter { .. } => {
                Observation::LastCommit(query_last_commit(shared, partition))
            }
            State::Fencing { writer } => {
                fence(partition, shared, writer.clone());
                Observation::FenceRequested
            }
            State::QueryingEnds { .. } => Observation::Ends(query_ends(shared, partition)?),
            State::AwaitingTransactions(_) => {
                std::thread::sleep(CHECK_PAUSE);
                Observation::StableEnd(shared.readers.ends(partition, QUERY_TIMEOUT)?.stable)
            }
            State::ExaminingCopy(_) => Observation::Copy {
                place: cache.cached_place(partition)?,
                now_ms: now_ms(),
            },
            State::CheckingLineage { known, place, .. } => {
                let from = place.last_assignment_offset;
                let Some(reader) = held.reader(shared, partition, from)? else {
                    return Ok(None);
                };
                return read_assignment(reader, partition, from, known.ends.changelog);
            }
            State::SettingAside { reason, .. } => {
                let Some(setting_aside) = held.setting_aside(shared, cache, partition, reason)?
                else {
                    return Ok(Some(Observation::SetAside));
                };
                let Some(directory) = setting_aside.step(cache, until)? else {
                    return Ok(None);
                };
                tracing::error!(
                    %partition,
                    directory = %directory.display(),
                    "the copy of the partition was set aside; remove it when it is not needed"
                );
                Observation::SetAside
            }
            State::ForgettingCopy(known) => {
                cache.forget(partition, shared.partition_count.load(Ordering::Relaxed))?;
                shared.counters.rebuilt.add(1);
                let end = known.ends.changelog.high;
                tracing::info!(%partition, end, "no copy of the partition can be continued: all of the changelog is read");
                Observation::Forgotten { now_ms: now_ms() }
            }
            State::ReadingChangelog { known, reading } => {
                let Some(reader) = held.reader(shared, partition, reading.place.position)? else {
                    return Ok(None);
                };
                let high = known.ends.changelog.high;
                return read(shared, partition, (reader, high), (reading, cache), until);
            }
            State::CompletingCopy { reading, .. } => {
                import(cache, partition, reading)?;
                Observation::Completed
            }
            State::ComparingEvents { finished, seen } => {
                let known = &finished.known;
                let from = known.ends.low.0;
                let Some(reader) = held.reader(shared, partition, from)? else {
                    return Ok(None);
                };
                Observation::Compared(compare_events(shared, partition, reader, known, seen)?)
            }
        };
        Ok(Some(observation))
    }

    fn taken(&self, shared: &Shared, finished: Finished) -> Taken {
        let Finished {
            known,
            place,
            record,
            lost_from,
        } = finished;
        let Known { group_offset, ends } = *known;
        let is_set_aside = set_aside::is_there(&self.cache, &shared.readers.topic, self.partition);
        Taken {
            group_offset,
            place,
            record,
            topic_id: ends.topic_id,
            low: ends.low,
            high: ends.high,
            lost_from,
            set_aside: if is_set_aside {
                SetAside::Copy
            } else {
                SetAside::Nothing
            },
            cache: Arc::clone(&self.cache),
        }
    }
}

impl Held {
    /// The consumer of the state, which reads from `from` on; none while all are lent.
    fn reader(
        &mut self,
        shared: &Shared,
        partition: PartitionId,
        from: u64,
    ) -> Result<Option<&mut Reader>, StoreError> {
        if !matches!(self, Self::Reader(_)) {
            let Some(reader) = shared.readers.lend()? else {
                std::thread::sleep(CHECK_PAUSE);
                return Ok(None);
            };
            reader.assign(partition, from)?;
            *self = Self::Reader(reader);
        }
        Ok(match self {
            Self::Reader(reader) => Some(reader),
            Self::Nothing | Self::SettingAside(_) => None,
        })
    }

    /// What sets the partition aside; none where the copy has no workspace of it.
    fn setting_aside(
        &mut self,
        shared: &Shared,
        cache: &LsmStore,
        partition: PartitionId,
        reason: &impl std::fmt::Display,
    ) -> Result<Option<&mut SettingAside>, StoreError> {
        if !matches!(self, Self::SettingAside(_)) {
            let changelog = &shared.readers.topic;
            let Some(setting_aside) = SettingAside::begin(cache, changelog, partition)? else {
                return Ok(None);
            };
            tracing::error!(
                %partition,
                changelog,
                workspaces = setting_aside.workspaces(),
                "the copy of the partition on this disk is not used: {reason}; it is set aside"
            );
            *self = Self::SettingAside(Box::new(setting_aside));
        }
        Ok(match self {
            Self::SettingAside(setting_aside) => Some(setting_aside),
            Self::Nothing | Self::Reader(_) => None,
        })
    }
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
fn fence(partition: PartitionId, shared: &Shared, writer: String) {
    let config = shared.producer.clone();
    // The takeover does not wait for the answer: the request is enough for the transaction to end.
    let fence = move || match producer::fence(&config, &writer) {
        Ok(()) => {
            tracing::info!(%partition, writer, "the producer that committed last was fenced, and its open transaction aborted");
        }
        Err(error) => {
            tracing::warn!(%partition, writer, %error, "an open transaction of the previous owner ends only by its timeout");
        }
    };
    let thread = std::thread::Builder::new().name("fence".to_owned());
    if let Err(error) = thread.spawn(fence) {
        tracing::warn!(%error, "no thread can be started to abort a transaction of the previous owner");
    }
}

/// Reads the ownership record at an offset; no observation until it is known what is there.
fn read_assignment(
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
                DecodedRecord::Owned(record) => Some(record),
                DecodedRecord::Changed(_) | DecodedRecord::Nothing(_) => None,
            },
            Found::Record { .. } | Found::End { .. } => None,
        };
        Some(Observation::LastRecord(record))
    })
}

/// Whether the broker does not know yet of a record that must exist, so that its end says nothing.
fn is_before(offset: u64, last_assignment_offset: u64, ends: Ends) -> bool {
    offset <= last_assignment_offset && last_assignment_offset < ends.stable
}

/// Reads the changelog into the copy, up to its end or until the step is over.
fn read(
    shared: &Shared,
    partition: PartitionId,
    (reader, high): (&mut Reader, u64),
    (reading, cache): (&mut Reading, &LsmStore),
    until: Instant,
) -> Result<Option<Observation>, StoreError> {
    enum Read {
        Nothing,
        Record(Result<(), OtherLineage>),
        End,
    }
    loop {
        let now = Instant::now();
        if now >= until {
            import(cache, partition, reading)?;
            return Ok(None);
        }
        let read = reader.next(partition, until - now, |found| match found {
            Found::Nothing => Read::Nothing,
            // A leader that was just elected may not know its high watermark yet. The client reports the end again when
            // it grows.
            Found::End { offset } if offset < high => Read::Nothing,
            Found::End { .. } => Read::End,
            Found::Record {
                offset, key, value, ..
            } => {
                let bytes = key.len() + value.map_or(0, <[u8]>::len);
                shared.counters.records_read.add(1);
                shared.counters.bytes_read.add(bytes);
                let record = record::decode(partition, key, value);
                if let DecodedRecord::Nothing(reason) = record {
                    tracing::warn!(%partition, offset, reason, "a record of the changelog is skipped");
                }
                Read::Record(reading.take(&shared.readers.topic, (offset, bytes), record))
            }
        })?;
        match read {
            Read::Record(Ok(())) if reading.bytes >= IMPORT_BYTES => {
                import(cache, partition, reading)?;
            }
            Read::Nothing | Read::Record(Ok(())) => {}
            Read::Record(Err(OtherLineage)) => return Ok(Some(Observation::OtherLineage)),
            Read::End => return Ok(Some(Observation::EndOfChangelog { now_ms: now_ms() })),
        }
    }
}

/// Imports what was read into the copy.
fn import(
    cache: &LsmStore,
    partition: PartitionId,
    reading: &mut Reading,
) -> Result<(), StoreError> {
    cache.import(partition, &reading.changes, &reading.place)?;
    reading.changes.clear();
    reading.bytes = 0;
    Ok(())
}

/// The offset from which the events are not those that were read, by the epochs of their leaders.
fn compare_events(
    shared: &Shared,
    partition: PartitionId,
    reader: &mut Reader,
    known: &Known,
    seen: &[Seen],
) -> Result<Option<Offset>, StoreError> {
    let TopicEnds { low, high, .. } = known.ends;
    let deadline = Instant::now() + COMPARISON_TIMEOUT;
    lost_from(seen, low, &mut |from| {
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
                } => Some(Some(Seen {
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
    fn the_last_assignment_is_missing_only_where_the_end_is_known() {
        let ends = Ends {
            low: 0,
            stable: 10,
            high: 10,
        };
        for (offset, last_assignment_offset, expected) in [
            (4, 4, true),
            (3, 4, true),
            (5, 4, false),
            (10, 4, false),
            (10, 10, false),
        ] {
            assert_eq!(
                is_before(offset, last_assignment_offset, ends),
                expected,
                "{offset} {last_assignment_offset}"
            );
        }
    }
}
