//! Taking a partition over: what the group has committed, then the changelog to its end.
//!
//! The order matters. The committed offset is asked for first, stable only: so a transaction of the owner before
//! to which the group has said yes is waited for. It says yes to no later one: the generation of the owner before was over
//! before this process was given the partition, and the owner before does not begin one with a later generation
//! (see [`ChangelogStore::let_go`](super::ChangelogStore::let_go)). Then the end of what
//! is *written* is taken, and waited for until every transaction below it is decided: markers of a
//! transaction come to each partition in their own time, so the end of what is committed may still be
//! below records that are committed already.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use workspace_engine_core::store::{CacheChange, CachePlace, StoreError};
use workspace_lifecycle::{Offset, PartitionId};
use workspace_status::Epoch;

use super::lineage::{fits, lineage_of, source};
use super::producer;
use super::reader::{Ends, Found, Reader};
use super::record::{self, Assignment, Said};
use super::{Shared, now_ms};
use crate::topic_id::TopicId;

/// How long one call may take.
const CALL: Duration = Duration::from_millis(800);

/// How long a transaction of the owner before may take to be decided: it ends with its partitions.
const DECIDED: Duration = Duration::from_millis(300);

/// How long a group may take that is not slow.
const AT_ONCE: Duration = Duration::from_millis(200);

/// How long the brokers may take for one answer.
const ANSWER: Duration = Duration::from_secs(1);

/// Between two looks whether transactions are decided.
const LOOK: Duration = Duration::from_millis(50);

/// Changes are brought into the cache in portions of this size.
const PORTION_BYTES: usize = 1024 * 1024;

/// A partition on its way into the cache.
pub(super) struct Takeover {
    partition: PartitionId,
    committed: Offset,
    topic_id: Option<TopicId>,
    phase: Phase,
    owner_before: OwnerBefore,
    /// How far it is, and how far it must.
    position: u64,
    end: u64,
}

/// Whether the owner before may have died in a transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum OwnerBefore {
    MayHang,
    /// It was told to write no more, or need not be.
    Settled,
}

/// What the group answers to the question what it has committed.
enum Answer {
    Committed(Offset),
    /// Nothing in time, or that a transaction is under way.
    Undecided(KafkaError),
}

enum Phase {
    /// What has the group committed?
    Committed,
    /// What is there, and does the cache fit?
    Ends,
    /// Are all transactions below the end decided?
    Stable {
        ends: Ends,
    },
    /// Is the landmark of the cache still where it was?
    Landmark {
        reader: Reader,
        place: CachePlace,
        ends: Ends,
    },
    Read(Box<Reading>),
}

struct Reading {
    reader: Reader,
    portion: Portion,
}

/// What was read and is not in the cache yet, and what is known of the whole.
struct Portion {
    place: CachePlace,
    lineage: Option<u64>,
    landmark: Landmark,
    changes: Vec<CacheChange>,
    bytes: usize,
    end: u64,
}

/// The record by which a changelog is known again: the assignment that the cache has seen last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Landmark {
    /// The last one that was seen; none where nobody has owned the partition before.
    Seen(Option<Assignment>),
    /// It was not where it had been: a newer one of the same lineage must come.
    Wanted,
}

/// How far a reading is.
enum Progress {
    Done(Taken),
    Reading,
    /// What was read is not of the cache's changelog; the cache is forgotten.
    DoesNotFit,
}

/// A partition of which the cache has everything.
pub(super) struct Taken {
    pub(super) committed: Offset,
    pub(super) place: CachePlace,
    /// The one before; none where nobody has owned the partition before.
    pub(super) assignment: Option<Assignment>,
    /// Of the topic of the events, as the brokers say it.
    pub(super) topic_id: Option<TopicId>,
}

pub(super) enum Step {
    Done(Taken),
    Reading { position: u64, end: u64 },
}

impl Takeover {
    /// Of a partition that the group has given to this process.
    pub(super) fn new(partition: PartitionId) -> Self {
        Self {
            partition,
            committed: Offset::ZERO,
            topic_id: None,
            phase: Phase::Committed,
            owner_before: OwnerBefore::MayHang,
            position: 0,
            end: 0,
        }
    }

    /// Of a partition that this process has had all the time. Nobody is told to write no more: what stands open is of
    /// this process, whose producer was let in anew just before and so has decided it.
    pub(super) fn again(partition: PartitionId) -> Self {
        Self {
            owner_before: OwnerBefore::Settled,
            ..Self::new(partition)
        }
    }

    /// Whether the owner before was told to write no more, or need not be.
    #[cfg(test)]
    pub(super) fn is_settled(&self) -> bool {
        self.owner_before == OwnerBefore::Settled
    }

    /// Goes on for a while. After an error it begins anew, from where the cache is then.
    pub(super) fn step(&mut self, shared: &Shared) -> Result<Step, StoreError> {
        let until = Instant::now() + CALL;
        self.steps(shared, until).map_err(|error| {
            self.phase = Phase::Committed;
            with_way_out(error)
        })
    }

    fn steps(&mut self, shared: &Shared, until: Instant) -> Result<Step, StoreError> {
        loop {
            let phase = std::mem::replace(&mut self.phase, Phase::Committed);
            self.phase = match phase {
                Phase::Committed => {
                    self.committed = self.ask_group(shared)?;
                    Phase::Ends
                }
                Phase::Ends => {
                    let partitions = shared.readers.partitions(ANSWER)?;
                    shared.partition_count.store(partitions, Ordering::Relaxed);
                    self.topic_id = self.ask_topic_id(shared)?;
                    let ends = shared.readers.ends(self.partition, ANSWER)?;
                    self.end = ends.high;
                    Phase::Stable { ends }
                }
                Phase::Stable { ends } => self.wait_stable(shared, ends)?,
                Phase::Landmark {
                    reader,
                    place,
                    ends,
                } => self.look(shared, reader, place, ends)?,
                Phase::Read(mut reading) => match self.read(shared, &mut reading, until)? {
                    Progress::Done(taken) => return Ok(Step::Done(taken)),
                    Progress::Reading => {
                        self.position = reading.portion.place.position;
                        Phase::Read(reading)
                    }
                    Progress::DoesNotFit => Phase::Committed,
                },
            };
            if Instant::now() >= until {
                return Ok(Step::Reading {
                    position: self.position,
                    end: self.end.max(self.position),
                });
            }
        }
    }

    fn ask_group(&mut self, shared: &Shared) -> Result<Offset, StoreError> {
        if self.owner_before == OwnerBefore::MayHang {
            if let Answer::Committed(offset) = self.ask_once(shared, DECIDED)? {
                return Ok(offset);
            }
            // The client asks again by itself as long as a transaction is under way, so that looks like a group that is
            // slow. It is one where the same question without the transactions is answered at once, before and after.
            let before = self.ask_writer(shared);
            if let Answer::Committed(offset) = self.ask_once(shared, DECIDED)? {
                return Ok(offset);
            }
            let writer = before.filter(|before| Some(before) == self.ask_writer(shared).as_ref());
            if let Some(writer) = writer {
                self.owner_before = OwnerBefore::Settled;
                fence(self.partition, shared, writer);
            }
        }
        match self.ask_once(shared, ANSWER)? {
            Answer::Committed(offset) => Ok(offset),
            Answer::Undecided(error) => Err(self.not_told(&error)),
        }
    }

    fn ask_once(&self, shared: &Shared, patience: Duration) -> Result<Answer, StoreError> {
        let asked = shared
            .group
            .committed(&shared.topic, self.partition, patience);
        match asked {
            Ok(committed) => {
                let offset = committed.map_or(0, |committed| committed.offset);
                Ok(Answer::Committed(Offset(
                    u64::try_from(offset).unwrap_or_default(),
                )))
            }
            Err(error) if is_undecided(&error) => Ok(Answer::Undecided(error)),
            Err(error) => Err(self.not_told(&error)),
        }
    }

    /// A topic whose id is refused, or that is not there now, is taken for the one that was there.
    fn ask_topic_id(&self, shared: &Shared) -> Result<Option<TopicId>, StoreError> {
        let topic = &shared.topic;
        shared.group.topic_id(topic, ANSWER).or_else(|error| {
            let is_passing = matches!(
                error.rdkafka_error_code(),
                Some(
                    RDKafkaErrorCode::OperationTimedOut
                        | RDKafkaErrorCode::RequestTimedOut
                        | RDKafkaErrorCode::BrokerTransportFailure
                        | RDKafkaErrorCode::AllBrokersDown
                )
            );
            if is_passing {
                let words = format!("the brokers do not tell the id of topic {topic}: {error}");
                return Err(StoreError::Unavailable(words));
            }
            tracing::warn!(partition = %self.partition, topic, %error, "the brokers refuse the id of the topic: were it made anew, that would not be noticed");
            Ok(None)
        })
    }

    fn not_told(&self, error: &KafkaError) -> StoreError {
        StoreError::Unavailable(format!(
            "the group does not tell what it has committed of partition {}: {error}",
            self.partition
        ))
    }

    /// Whose producer has committed last, if it is one that may be told to write no more and the group tells it at once.
    fn ask_writer(&self, shared: &Shared) -> Option<String> {
        let ask = || {
            shared
                .group
                .committed_before(&shared.topic, self.partition, AT_ONCE)
        };
        // The first question may have to make a connection.
        let told = ask().or_else(|_| ask());
        let writer = match told {
            Ok(committed) => committed?.metadata,
            Err(error) => {
                tracing::debug!(partition = %self.partition, %error, "the group does not tell at once who wrote last");
                return None;
            }
        };
        let is_an_owner = writer.starts_with(&shared.producers_of_group);
        (is_an_owner && writer != shared.transactional_id).then_some(writer)
    }

    /// Waits until what was written when it began is decided, and begins to read then.
    fn wait_stable(&mut self, shared: &Shared, ends: Ends) -> Result<Phase, StoreError> {
        let now = if ends.stable < ends.high {
            shared.readers.ends(self.partition, ANSWER)?
        } else {
            ends
        };
        if now.stable < ends.high {
            self.position = now.stable;
            std::thread::sleep(LOOK);
            return Ok(Phase::Stable { ends });
        }
        self.position = now.low;
        let Some(reader) = shared.readers.lend()? else {
            std::thread::sleep(LOOK);
            return Ok(Phase::Stable { ends });
        };
        let cached = match shared.cache.cached_place(self.partition) {
            Ok(cached) => cached,
            Err(StoreError::Corrupt { .. }) => None,
            Err(error) => return Err(error),
        };
        let Some(place) = cached.filter(|place| fits(place, &shared.readers.topic, ends)) else {
            return self.read_all(shared, reader, ends);
        };
        self.position = place.position;
        let landmark = lineage_of(&place, &shared.readers.topic).map(|_| place.landmark);
        match landmark {
            None => self.read_from(shared, reader, place, ends, Landmark::Seen(None)),
            Some(landmark) if landmark < ends.low => {
                self.read_from(shared, reader, place, ends, Landmark::Wanted)
            }
            Some(landmark) => {
                reader.assign(self.partition, landmark)?;
                Ok(Phase::Landmark {
                    reader,
                    place,
                    ends,
                })
            }
        }
    }

    fn look(
        &self,
        shared: &Shared,
        mut reader: Reader,
        place: CachePlace,
        ends: Ends,
    ) -> Result<Phase, StoreError> {
        let lineage = lineage_of(&place, &shared.readers.topic);
        let seen = reader.next(self.partition, LOOK, |found| match found {
            Found::Nothing => None,
            Found::Record { offset, key, value } if offset == place.landmark => {
                match record::decode(self.partition, key, value) {
                    Said::Assigned(assignment) if Some(assignment.lineage) == lineage => {
                        Some(Landmark::Seen(Some(assignment)))
                    }
                    Said::Assigned(_) | Said::Changed(_) | Said::Nothing(_) => {
                        Some(Landmark::Wanted)
                    }
                }
            }
            Found::End { offset } if is_before(offset, place.landmark, ends) => None,
            Found::Record { .. } | Found::End { .. } => Some(Landmark::Wanted),
        })?;
        match seen {
            Some(landmark) => self.read_from(shared, reader, place, ends, landmark),
            None => Ok(Phase::Landmark {
                reader,
                place,
                ends,
            }),
        }
    }

    fn read_all(&self, shared: &Shared, reader: Reader, ends: Ends) -> Result<Phase, StoreError> {
        let partitions = shared.partition_count.load(Ordering::Relaxed);
        shared.cache.forget(self.partition, partitions)?;
        shared.counters.rebuilt.add(1);
        tracing::info!(partition = %self.partition, end = ends.high, "there is no cache of the partition that fits: all of the changelog is read");
        let place = CachePlace {
            source: source(&shared.readers.topic, None),
            position: ends.low,
            landmark: 0,
            highest_epoch: Epoch::new(0),
            at_ms: now_ms(),
        };
        self.read_from(shared, reader, place, ends, Landmark::Seen(None))
    }

    fn read_from(
        &self,
        shared: &Shared,
        reader: Reader,
        place: CachePlace,
        ends: Ends,
        landmark: Landmark,
    ) -> Result<Phase, StoreError> {
        reader.assign(self.partition, place.position)?;
        let portion = Portion {
            lineage: lineage_of(&place, &shared.readers.topic),
            place,
            landmark,
            changes: Vec::new(),
            bytes: 0,
            end: ends.high,
        };
        Ok(Phase::Read(Box::new(Reading { reader, portion })))
    }

    fn read(
        &self,
        shared: &Shared,
        reading: &mut Reading,
        until: Instant,
    ) -> Result<Progress, StoreError> {
        loop {
            let now = Instant::now();
            if now >= until {
                reading.portion.import(shared, self.partition)?;
                return Ok(Progress::Reading);
            }
            let Reading { reader, portion } = reading;
            let read = reader.next(self.partition, until - now, |found| {
                portion.take(shared, self.partition, found)
            })?;
            match read {
                Read::Nothing => {}
                Read::Record if portion.bytes < PORTION_BYTES => {}
                Read::Record => portion.import(shared, self.partition)?,
                Read::End if let Landmark::Seen(assignment) = portion.landmark => {
                    // Behind the last record there are only markers and what was aborted.
                    portion.place.position = portion.place.position.max(portion.end);
                    portion.place.at_ms = now_ms();
                    portion.import(shared, self.partition)?;
                    return Ok(Progress::Done(Taken {
                        committed: self.committed,
                        place: portion.place.clone(),
                        assignment,
                        topic_id: self.topic_id,
                    }));
                }
                Read::End | Read::OtherLineage => {
                    tracing::warn!(partition = %self.partition, "the cache is of another changelog");
                    let partitions = shared.partition_count.load(Ordering::Relaxed);
                    shared.cache.forget(self.partition, partitions)?;
                    return Ok(Progress::DoesNotFit);
                }
            }
        }
    }
}

/// What is damaged in the changelog harms its workspace alone, so what is told here is damage of the cache.
fn with_way_out(error: StoreError) -> StoreError {
    let StoreError::Corrupt { place, reason } = error else {
        return error;
    };
    StoreError::Corrupt {
        place,
        reason: format!(
            "{reason}; it is a copy of the changelog: stop the engine, remove the directory `kafka` in its data \
             directory, and start it again"
        ),
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

/// A transaction with an offset of the partition is under way for so long that its process has died in it, or
/// should not be in it: who gives a partition away decides it before. The coordinator would wait until its time
/// is over; so it is told that the process writes no more.
///
/// The writer is who has committed last. Where the owner before died in its first transaction on the partition, that is
/// the one before it: that one begins with another producer if it still lives, and the open transaction ends with
/// its own time (see [`producer::Transactions`]).
fn fence(partition: PartitionId, shared: &Shared, writer: String) {
    let config = shared.producer.clone();
    // It is done when the coordinator has answered; that it was asked is enough for the transaction to end.
    let fence = move || match producer::fence(&config, &writer) {
        Ok(()) => {
            tracing::info!(%partition, writer, "what the process that wrote last may have left open was aborted");
        }
        Err(error) => {
            tracing::warn!(%partition, writer, %error, "a transaction that the owner before left open ends only with its time");
        }
    };
    let thread = std::thread::Builder::new().name("fence".to_owned());
    if let Err(error) = thread.spawn(fence) {
        tracing::warn!(%error, "there is no thread to abort a transaction of the owner before");
    }
}

/// Whether the broker that is read from does not know yet of a record that must be there.
fn is_before(offset: u64, landmark: u64, ends: Ends) -> bool {
    offset <= landmark && landmark < ends.stable
}

/// What came next.
enum Read {
    Nothing,
    Record,
    End,
    OtherLineage,
}

impl Portion {
    fn take(&mut self, shared: &Shared, partition: PartitionId, found: Found<'_>) -> Read {
        let (offset, key, value) = match found {
            Found::Nothing => return Read::Nothing,
            // A leader that was just elected may not know yet how far it is. The end is told again where it grows.
            Found::End { offset } if offset < self.end => return Read::Nothing,
            Found::End { .. } => return Read::End,
            Found::Record { offset, key, value } => (offset, key, value),
        };
        let size = key.len() + value.map_or(0, <[u8]>::len);
        shared.counters.records_read.add(1);
        shared.counters.bytes_read.add(size);
        self.bytes += size;
        let said = record::decode(partition, key, value);
        let place = &mut self.place;
        place.position = offset.saturating_add(1);
        if let Some(epoch) = record::epoch_of(&said) {
            place.highest_epoch = place.highest_epoch.max(epoch);
        }
        match said {
            Said::Changed(change) => self.changes.push(change),
            Said::Assigned(assignment) => {
                if self
                    .lineage
                    .is_some_and(|known| known != assignment.lineage)
                {
                    return Read::OtherLineage;
                }
                self.lineage = Some(assignment.lineage);
                self.landmark = Landmark::Seen(Some(assignment));
                place.landmark = offset;
                place.source = source(&shared.readers.topic, self.lineage);
            }
            Said::Nothing(reason) => {
                tracing::warn!(%partition, offset, reason, "a record of the changelog is passed over");
            }
        }
        Read::Record
    }

    /// Brings it into the cache. The place keeps the time at which the cache was complete last, or the reading
    /// began: a removal that compaction forgets meanwhile would be missed.
    fn import(&mut self, shared: &Shared, partition: PartitionId) -> Result<(), StoreError> {
        shared.cache.import(partition, &self.changes, &self.place)?;
        self.changes.clear();
        self.bytes = 0;
        Ok(())
    }
}
/// How the partition's threads keep takeovers between two calls.
pub(super) type Takeovers = std::collections::HashMap<PartitionId, Takeover>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_landmark_is_missing_only_where_the_broker_knows_how_far_it_is() {
        let ends = Ends {
            low: 0,
            stable: 10,
            high: 10,
        };
        for (offset, landmark, expected) in [
            (4, 4, true),
            (3, 4, true),
            (5, 4, false),
            (10, 4, false),
            (10, 10, false),
        ] {
            assert_eq!(
                is_before(offset, landmark, ends),
                expected,
                "{offset} {landmark}"
            );
        }
    }
}
