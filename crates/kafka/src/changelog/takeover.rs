//! Taking a partition over: what the group has committed, then the changelog to its end.
//!
//! The order matters. First the takeover queries the committed offset, stable only: so it waits for a transaction of
//! the previous owner that the group has accepted. The group accepts no later one: the previous owner's generation
//! ended before this process was assigned the partition, and the previous owner begins no transaction on it with a
//! later generation (see [`ChangelogStore::release`](super::ChangelogStore::release)). Then the takeover queries the end
//! of what is *written*, and waits until every transaction below it is decided: the markers of a transaction reach each
//! partition in their own time, so the end of what is committed may still be below records that are committed already.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use workspace_engine_core::store::{CachePlace, LsmStore, Mutation, StoreError};
use workspace_lifecycle::{Offset, PartitionId};
use workspace_status::Epoch;

use super::lineage::{Fate, fate, lineage_of, source};
use super::ownership::{CommitMark, OwnershipRecord};
use super::plan::{GroupOffset, SetAside};
use super::producer;
use super::reader::{Ends, Found, Reader};
use super::record::{self, DecodedRecord};
use super::set_aside::{self, SettingAside};
use super::{Shared, now_ms};
use crate::group::Committed;
use crate::seen::{Seen, lost_from};
use crate::topic_id::TopicId;

/// How long one step may take.
const CALL: Duration = Duration::from_millis(800);

/// How long a query waits for a transaction of the previous owner: a live owner ends it before it releases the
/// partition.
const DECIDED: Duration = Duration::from_millis(300);

/// A group that answers within this time is not slow.
const AT_ONCE: Duration = Duration::from_millis(200);

/// Timeout of one query of the brokers.
const QUERY_TIMEOUT: Duration = Duration::from_secs(1);

/// How long the check may take whether the log still holds what was read of it.
const COMPARED: Duration = Duration::from_secs(5);

/// Between two checks whether transactions are decided.
const LOOK: Duration = Duration::from_millis(50);

/// Changes are imported into the cache in batches of about this size.
const PORTION_BYTES: usize = 1024 * 1024;

/// A partition that is being read into the cache.
pub(super) struct Takeover {
    partition: PartitionId,
    kind: Kind,
    /// The copy that the partition is read into; none before the first step.
    cache: Option<Arc<LsmStore>>,
    group_offset: GroupOffset,
    topic_id: Option<TopicId>,
    /// Where the events begin and end.
    events: (Offset, Offset),
    phase: Phase,
    owner_before: OwnerBefore,
    /// How far the takeover is, and where it ends.
    position: u64,
    end: u64,
}

/// Why a changelog is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// The group has assigned the partition to this process.
    New,
    /// This process has owned it all the time.
    Again,
}

/// Whether the previous owner may have died in a transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum OwnerBefore {
    MayHang,
    /// It was fenced, or need not be.
    Settled,
}

/// The group's answer to a query of the committed offset.
enum Answer {
    Committed(GroupOffset),
    /// No answer in time, or a transaction is open.
    Undecided(KafkaError),
}

enum Phase {
    /// Query what the group has committed.
    Committed,
    /// Query the topic id and the ends of the events and of the changelog.
    Ends,
    /// Wait until all transactions below the end are decided; then choose what to do with the cache.
    Stable {
        ends: Ends,
    },
    /// Check whether the last ownership record that the cache has seen is still where it was.
    LastAssignment {
        reader: Reader,
        place: CachePlace,
        ends: Ends,
    },
    /// Keep a copy that cannot be used under another name.
    SetAside {
        reader: Reader,
        setting_aside: Box<SettingAside>,
        ends: Ends,
    },
    Read(Box<Reading>),
}

struct Reading {
    reader: Reader,
    unimported: UnimportedRecords,
}

/// What was read and is not in the cache yet, and what is known of the whole changelog.
struct UnimportedRecords {
    place: CachePlace,
    lineage: Option<u64>,
    /// Whether it is read from its beginning: then a record of another lineage is a later owner's, and is accepted.
    is_whole: bool,
    last_assignment: LastAssignment,
    changes: Vec<Mutation>,
    bytes: usize,
    ends: Ends,
}

/// The ownership record that the cache has seen last: it shows whether the changelog is still the same one.
#[derive(Debug, Clone, PartialEq, Eq)]
enum LastAssignment {
    /// The last one that was seen; none where the partition has had no owner.
    Seen(Option<OwnershipRecord>),
    /// It is not where it was: a newer one of the same lineage must follow.
    Wanted,
}

/// The result of one reading step.
enum Progress {
    Done(Box<Taken>),
    Reading,
    /// The records are not of the changelog that the copy is of.
    DoesNotFit,
}

/// A partition whose changelog is completely in the cache.
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

impl Takeover {
    /// Takes over a partition that the group has assigned to this process.
    pub(super) fn new(partition: PartitionId) -> Self {
        Self {
            partition,
            kind: Kind::New,
            cache: None,
            group_offset: GroupOffset::None,
            topic_id: None,
            events: (Offset::ZERO, Offset::ZERO),
            phase: Phase::Committed,
            owner_before: OwnerBefore::MayHang,
            position: 0,
            end: 0,
        }
    }

    /// Re-reads a partition that this process has owned all the time. It fences no producer: an open transaction was
    /// this process's own, and its producer has just been initialized again, which has decided it.
    pub(super) fn again(partition: PartitionId) -> Self {
        Self {
            kind: Kind::Again,
            owner_before: OwnerBefore::Settled,
            ..Self::new(partition)
        }
    }

    /// Whether the previous owner was fenced, or need not be.
    #[cfg(test)]
    pub(super) fn is_settled(&self) -> bool {
        self.owner_before == OwnerBefore::Settled
    }

    /// Continues for about [`CALL`]. After an error the takeover begins again, from where the copy is then.
    pub(super) fn step(&mut self, shared: &Shared) -> Result<Step, StoreError> {
        let until = Instant::now() + CALL;
        let cache = shared.cache();
        let is_the_same = |before: &Arc<LsmStore>| Arc::ptr_eq(before, &cache);
        if !self.cache.as_ref().is_some_and(is_the_same) {
            self.cache = Some(Arc::clone(&cache));
            self.phase = Phase::Committed;
        }
        self.steps(shared, &cache, until).map_err(|error| {
            self.phase = Phase::Committed;
            shared.copy.seen(&cache, error)
        })
    }

    fn steps(
        &mut self,
        shared: &Shared,
        cache: &Arc<LsmStore>,
        until: Instant,
    ) -> Result<Step, StoreError> {
        loop {
            let phase = std::mem::replace(&mut self.phase, Phase::Committed);
            self.phase = match phase {
                Phase::Committed => {
                    self.group_offset = self.ask_group(shared)?;
                    Phase::Ends
                }
                Phase::Ends => {
                    let partitions = shared.readers.partitions(QUERY_TIMEOUT)?;
                    shared.partition_count.store(partitions, Ordering::Relaxed);
                    self.topic_id = self.ask_topic_id(shared)?;
                    let readers = &shared.readers;
                    let (low, high) =
                        readers.ends_of_events(&shared.topic, self.partition, QUERY_TIMEOUT)?;
                    self.events = (Offset(low), Offset(high));
                    let ends = readers.ends(self.partition, QUERY_TIMEOUT)?;
                    self.end = ends.high;
                    Phase::Stable { ends }
                }
                Phase::Stable { ends } => self.wait_stable(shared, cache, ends)?,
                Phase::LastAssignment {
                    reader,
                    place,
                    ends,
                } => self.look(shared, cache, reader, place, ends)?,
                Phase::SetAside {
                    reader,
                    setting_aside,
                    ends,
                } => self.set_aside(shared, cache, reader, setting_aside, ends, until)?,
                Phase::Read(mut reading) => match self.read(shared, cache, &mut reading, until)? {
                    Progress::Done(taken) => return Ok(Step::Done(taken)),
                    Progress::Reading => {
                        self.position = reading.unimported.place.position;
                        Phase::Read(reading)
                    }
                    Progress::DoesNotFit => {
                        let Reading { reader, unimported } = *reading;
                        let why = "it is of another changelog";
                        self.replace(shared, cache, reader, unimported.ends, why)?
                    }
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

    fn ask_group(&mut self, shared: &Shared) -> Result<GroupOffset, StoreError> {
        if self.owner_before == OwnerBefore::MayHang {
            if let Answer::Committed(offset) = self.ask_once(shared, DECIDED)? {
                return Ok(offset);
            }
            // The client retries by itself while a transaction is open, which looks the same as a slow group. A
            // transaction is open if the group answers the query that ignores transactions at once, before and after.
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
        match self.ask_once(shared, QUERY_TIMEOUT)? {
            Answer::Committed(offset) => Ok(offset),
            Answer::Undecided(error) => Err(self.not_reported(&error)),
        }
    }

    fn ask_once(&self, shared: &Shared, patience: Duration) -> Result<Answer, StoreError> {
        let asked = shared
            .group
            .committed(&shared.topic, self.partition, patience);
        match asked {
            Ok(committed) => {
                let committed = committed.map(|Committed { offset, metadata }| {
                    let offset = Offset(u64::try_from(offset).unwrap_or_default());
                    let mark = CommitMark::decode(&metadata);
                    match mark.filter(|mark| mark.producer.starts_with(&shared.producers_of_group))
                    {
                        Some(mark) => GroupOffset::Engine { offset, mark },
                        None => GroupOffset::Foreign { offset, metadata },
                    }
                });
                Ok(Answer::Committed(committed.unwrap_or(GroupOffset::None)))
            }
            Err(error) if is_undecided(&error) => Ok(Answer::Undecided(error)),
            Err(error) => Err(self.not_reported(&error)),
        }
    }

    /// The id of the topic of the events; none where the brokers refuse it or the topic does not exist now: then it
    /// counts as unchanged.
    fn ask_topic_id(&self, shared: &Shared) -> Result<Option<TopicId>, StoreError> {
        let topic = &shared.topic;
        shared.group.topic_id(topic, QUERY_TIMEOUT).or_else(|error| {
            let is_refusal = matches!(
                error.rdkafka_error_code(),
                Some(
                    RDKafkaErrorCode::UnknownTopic
                        | RDKafkaErrorCode::UnknownTopicOrPartition
                        | RDKafkaErrorCode::TopicAuthorizationFailed
                        | RDKafkaErrorCode::ClusterAuthorizationFailed
                        | RDKafkaErrorCode::UnsupportedFeature
                        | RDKafkaErrorCode::UnsupportedVersion
                )
            );
            if !is_refusal {
                let error_text = format!("the brokers do not tell the id of topic {topic}: {error}");
                return Err(StoreError::Unavailable(error_text));
            }
            tracing::warn!(partition = %self.partition, topic, %error, "the brokers refuse the id of the topic: were it made anew, that would not be noticed");
            Ok(None)
        })
    }

    fn not_reported(&self, error: &KafkaError) -> StoreError {
        StoreError::Unavailable(format!(
            "the group does not tell what it has committed of partition {}: {error}",
            self.partition
        ))
    }

    /// The producer that has committed last, if it may be fenced (it belongs to this group and is not this process's
    /// own) and the group answers at once.
    fn ask_writer(&self, shared: &Shared) -> Option<String> {
        let ask = || {
            shared
                .group
                .committed_before(&shared.topic, self.partition, AT_ONCE)
        };
        // The first query may have to open a connection.
        let reported = ask().or_else(|_| ask());
        let writer = match reported {
            Ok(committed) => CommitMark::decode(&committed?.metadata)?.producer,
            Err(error) => {
                tracing::debug!(partition = %self.partition, %error, "the group does not tell at once who wrote last");
                return None;
            }
        };
        let is_an_owner = writer.starts_with(&shared.producers_of_group);
        (is_an_owner && writer != shared.transactional_id).then_some(writer)
    }

    /// Waits until all transactions below the end are decided, and then begins to read.
    fn wait_stable(
        &mut self,
        shared: &Shared,
        cache: &LsmStore,
        ends: Ends,
    ) -> Result<Phase, StoreError> {
        let now = if ends.stable < ends.high {
            shared.readers.ends(self.partition, QUERY_TIMEOUT)?
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
        let cached = cache.cached_place(self.partition)?;
        let topic = &shared.readers.topic;
        let fate = |place: &CachePlace| fate(place, topic, ends, self.committed_lineage());
        let place = match cached.map(|place| (fate(&place), place)) {
            Some((Fate::Continue, place)) => place,
            Some((Fate::SetAside(why), _)) => {
                return self.replace(shared, cache, reader, ends, why);
            }
            Some((Fate::Forget, _)) | None => return self.read_all(shared, cache, reader, ends),
        };
        self.position = place.position;
        let last_assignment_offset =
            lineage_of(&place, topic).map(|_| place.last_assignment_offset);
        match last_assignment_offset {
            None => self.read_from(shared, reader, place, ends, LastAssignment::Seen(None)),
            Some(last_assignment_offset) if last_assignment_offset < ends.low => {
                self.look_for_a_newer(shared, cache, reader, place, ends)
            }
            Some(last_assignment_offset) => {
                reader.assign(self.partition, last_assignment_offset)?;
                Ok(Phase::LastAssignment {
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
        cache: &LsmStore,
        mut reader: Reader,
        place: CachePlace,
        ends: Ends,
    ) -> Result<Phase, StoreError> {
        let lineage = lineage_of(&place, &shared.readers.topic);
        let seen = reader.next(self.partition, LOOK, |found| match found {
            Found::Nothing => None,
            Found::Record {
                offset, key, value, ..
            } if offset == place.last_assignment_offset => {
                match record::decode(self.partition, key, value) {
                    DecodedRecord::Owned(record) if Some(record.lineage) == lineage => {
                        Some(LastAssignment::Seen(Some(record)))
                    }
                    DecodedRecord::Owned(_)
                    | DecodedRecord::Changed(_)
                    | DecodedRecord::Nothing(_) => Some(LastAssignment::Wanted),
                }
            }
            Found::End { offset } if is_before(offset, place.last_assignment_offset, ends) => None,
            Found::Record { .. } | Found::End { .. } => Some(LastAssignment::Wanted),
        })?;
        match seen {
            Some(LastAssignment::Wanted) => {
                self.look_for_a_newer(shared, cache, reader, place, ends)
            }
            Some(last_assignment) => self.read_from(shared, reader, place, ends, last_assignment),
            None => Ok(Phase::LastAssignment {
                reader,
                place,
                ends,
            }),
        }
    }

    /// The lineage that the group's offset was committed with.
    fn committed_lineage(&self) -> Option<u64> {
        match &self.group_offset {
            GroupOffset::Engine { mark, .. } => Some(mark.lineage),
            GroupOffset::None | GroupOffset::Foreign { .. } => None,
        }
    }

    /// Continues where the ownership record that the copy has seen last is not in its place: a newer record has
    /// replaced it, or this is another changelog.
    fn look_for_a_newer(
        &self,
        shared: &Shared,
        cache: &LsmStore,
        reader: Reader,
        place: CachePlace,
        ends: Ends,
    ) -> Result<Phase, StoreError> {
        let lineage = lineage_of(&place, &shared.readers.topic);
        if lineage == self.committed_lineage() {
            return self.read_from(shared, reader, place, ends, LastAssignment::Wanted);
        }
        // Records of another changelog could be mixed into the copy before that is known.
        let why = "it cannot be told whether the changelog is the one that it is a copy of";
        self.replace(shared, cache, reader, ends, why)
    }

    /// Reads the partition from the beginning, and first sets aside what the copy holds of it.
    fn replace(
        &self,
        shared: &Shared,
        cache: &LsmStore,
        reader: Reader,
        ends: Ends,
        why: &str,
    ) -> Result<Phase, StoreError> {
        match SettingAside::begin(cache, &shared.readers.topic, self.partition)? {
            None => self.read_all(shared, cache, reader, ends),
            Some(setting_aside) => {
                tracing::error!(
                    partition = %self.partition,
                    changelog = shared.readers.topic,
                    workspaces = setting_aside.workspaces(),
                    "the copy of the partition on this disk is not used: {why}; it is set aside"
                );
                Ok(Phase::SetAside {
                    reader,
                    setting_aside: Box::new(setting_aside),
                    ends,
                })
            }
        }
    }

    fn set_aside(
        &mut self,
        shared: &Shared,
        cache: &LsmStore,
        reader: Reader,
        mut setting_aside: Box<SettingAside>,
        ends: Ends,
        until: Instant,
    ) -> Result<Phase, StoreError> {
        if let Some(directory) = setting_aside.step(cache, until)? {
            tracing::error!(
                partition = %self.partition,
                directory = %directory.display(),
                "the copy of the partition was set aside; remove it when it is not needed"
            );
            return self.read_all(shared, cache, reader, ends);
        }
        self.position = u64::try_from(setting_aside.done()).unwrap_or(u64::MAX);
        Ok(Phase::SetAside {
            reader,
            setting_aside,
            ends,
        })
    }

    /// The offset from which the events are not those that were read, by the epochs of their leaders.
    fn compare_events(
        &self,
        shared: &Shared,
        reader: &mut Reader,
        record: Option<&OwnershipRecord>,
    ) -> Result<Option<Offset>, StoreError> {
        let GroupOffset::Engine { mark, .. } = &self.group_offset else {
            return Ok(None);
        };
        let known_id = record.map_or(mark.topic_id, |record| record.topic_id);
        let is_another =
            matches!((known_id, self.topic_id), (Some(known), Some(id)) if known != id);
        if self.kind == Kind::Again || is_another {
            return Ok(None);
        }
        let (low, high) = self.events;
        let deadline = Instant::now() + COMPARED;
        lost_from(&mark.seen, low, &mut |from| {
            if from >= high.0 {
                return Ok(None);
            }
            reader.assign_of(&shared.topic, self.partition, from)?;
            loop {
                let found = reader.next(self.partition, LOOK, |found| match found {
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
                match found {
                    Some(found) => return Ok(found),
                    None if Instant::now() < deadline => {}
                    None => {
                        return Err(StoreError::Unavailable(format!(
                            "topic {} partition {} cannot be compared with what was read of it in time",
                            shared.topic, self.partition
                        )));
                    }
                }
            }
        })
    }

    fn read_all(
        &self,
        shared: &Shared,
        cache: &LsmStore,
        reader: Reader,
        ends: Ends,
    ) -> Result<Phase, StoreError> {
        let partitions = shared.partition_count.load(Ordering::Relaxed);
        cache.forget(self.partition, partitions)?;
        shared.counters.rebuilt.add(1);
        tracing::info!(partition = %self.partition, end = ends.high, "there is no copy of the partition that fits: all of the changelog is read");
        let place = CachePlace {
            source: source(&shared.readers.topic, None),
            position: ends.low,
            last_assignment_offset: 0,
            highest_epoch: Epoch::new(0),
            at_ms: now_ms(),
        };
        self.read_from(shared, reader, place, ends, LastAssignment::Seen(None))
    }

    fn read_from(
        &self,
        shared: &Shared,
        reader: Reader,
        place: CachePlace,
        ends: Ends,
        last_assignment: LastAssignment,
    ) -> Result<Phase, StoreError> {
        reader.assign(self.partition, place.position)?;
        let lineage = lineage_of(&place, &shared.readers.topic);
        let unimported = UnimportedRecords {
            lineage,
            is_whole: lineage.is_none(),
            place,
            last_assignment,
            changes: Vec::new(),
            bytes: 0,
            ends,
        };
        Ok(Phase::Read(Box::new(Reading { reader, unimported })))
    }

    fn read(
        &self,
        shared: &Shared,
        cache: &Arc<LsmStore>,
        reading: &mut Reading,
        until: Instant,
    ) -> Result<Progress, StoreError> {
        loop {
            let now = Instant::now();
            if now >= until {
                reading.unimported.import(cache, self.partition)?;
                return Ok(Progress::Reading);
            }
            let Reading { reader, unimported } = reading;
            let read = reader.next(self.partition, until - now, |found| {
                unimported.take(shared, self.partition, found)
            })?;
            match read {
                Read::Nothing => {}
                Read::Record if unimported.bytes < PORTION_BYTES => {}
                Read::Record => unimported.import(cache, self.partition)?,
                Read::End if let LastAssignment::Seen(record) = &unimported.last_assignment => {
                    let record = record.clone();
                    // After the last record there are only markers and aborted records.
                    unimported.place.position = unimported.place.position.max(unimported.ends.high);
                    unimported.place.at_ms = now_ms();
                    unimported.import(cache, self.partition)?;
                    let place = unimported.place.clone();
                    let lost_from = self.compare_events(shared, reader, record.as_ref())?;
                    let is_set_aside =
                        set_aside::is_there(cache, &shared.readers.topic, self.partition);
                    let (low, high) = self.events;
                    return Ok(Progress::Done(Box::new(Taken {
                        group_offset: self.group_offset.clone(),
                        place,
                        record,
                        topic_id: self.topic_id,
                        low,
                        high,
                        lost_from,
                        set_aside: if is_set_aside {
                            SetAside::Copy
                        } else {
                            SetAside::Nothing
                        },
                        cache: Arc::clone(cache),
                    })));
                }
                Read::End | Read::OtherLineage => return Ok(Progress::DoesNotFit),
            }
        }
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

/// Whether the broker does not know yet of a record that must exist, so that its end says nothing.
fn is_before(offset: u64, last_assignment_offset: u64, ends: Ends) -> bool {
    offset <= last_assignment_offset && last_assignment_offset < ends.stable
}

/// What the reader found next.
enum Read {
    Nothing,
    Record,
    End,
    OtherLineage,
}

impl UnimportedRecords {
    fn take(&mut self, shared: &Shared, partition: PartitionId, found: Found<'_>) -> Read {
        let (offset, key, value) = match found {
            Found::Nothing => return Read::Nothing,
            // A leader that was just elected may not know its high watermark yet. The client reports the end again when
            // it grows.
            Found::End { offset } if offset < self.ends.high => return Read::Nothing,
            Found::End { .. } => return Read::End,
            Found::Record {
                offset, key, value, ..
            } => (offset, key, value),
        };
        let size = key.len() + value.map_or(0, <[u8]>::len);
        shared.counters.records_read.add(1);
        shared.counters.bytes_read.add(size);
        self.bytes += size;
        let decoded_record = record::decode(partition, key, value);
        let place = &mut self.place;
        place.position = offset.saturating_add(1);
        if let Some(epoch) = record::epoch_of(&decoded_record) {
            place.highest_epoch = place.highest_epoch.max(epoch);
        }
        match decoded_record {
            DecodedRecord::Changed(change) => self.changes.push(change),
            DecodedRecord::Owned(record) => {
                if !self.is_whole && self.lineage.is_some_and(|known| known != record.lineage) {
                    return Read::OtherLineage;
                }
                self.lineage = Some(record.lineage);
                self.last_assignment = LastAssignment::Seen(Some(record));
                place.last_assignment_offset = offset;
                place.source = source(&shared.readers.topic, self.lineage);
            }
            DecodedRecord::Nothing(reason) => {
                tracing::warn!(%partition, offset, reason, "a record of the changelog is passed over");
            }
        }
        Read::Record
    }

    /// Imports what was read into the cache. `at_ms` stays the time at which the cache was last complete, or the
    /// reading began: with a later time, a tombstone that compaction removes meanwhile would be missed.
    fn import(&mut self, cache: &LsmStore, partition: PartitionId) -> Result<(), StoreError> {
        cache.import(partition, &self.changes, &self.place)?;
        self.changes.clear();
        self.bytes = 0;
        Ok(())
    }
}
/// The re-reads that the writer keeps between two steps.
pub(super) type Takeovers = std::collections::HashMap<PartitionId, Takeover>;

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
