//! Taking a partition over: what the group has committed, then the changelog to its end.
//!
//! The order matters. The committed offset is asked for first, stable only: so a transaction of the owner before
//! to which the group has said yes is waited for. It says yes to no later one: the generation of the owner before was over
//! before this process was given the partition, and the owner before does not begin one with a later generation
//! (see [`ChangelogStore::let_go`](super::ChangelogStore::let_go)). Then the end of what
//! is *written* is taken, and waited for until every transaction below it is decided: markers of a
//! transaction come to each partition in their own time, so the end of what is committed may still be
//! below records that are committed already.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use workspace_engine_core::store::{CacheChange, CachePlace, LsmStore, StoreError};
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

/// How long one call may take.
const CALL: Duration = Duration::from_millis(800);

/// How long a transaction of the owner before may take to be decided: it ends with its partitions.
const DECIDED: Duration = Duration::from_millis(300);

/// How long a group may take that is not slow.
const AT_ONCE: Duration = Duration::from_millis(200);

/// How long the brokers may take for one answer.
const QUERY_TIMEOUT: Duration = Duration::from_secs(1);

/// How long it may take to find out whether the log still holds what was read of it.
const COMPARED: Duration = Duration::from_secs(5);

/// Between two looks whether transactions are decided.
const LOOK: Duration = Duration::from_millis(50);

/// Changes are brought into the cache in portions of this size.
const PORTION_BYTES: usize = 1024 * 1024;

/// A partition on its way into the cache.
pub(super) struct Takeover {
    partition: PartitionId,
    kind: Kind,
    /// The copy that it is read into; none before the first step.
    cache: Option<Arc<LsmStore>>,
    group_offset: GroupOffset,
    topic_id: Option<TopicId>,
    /// Where the events begin and end.
    events: (Offset, Offset),
    phase: Phase,
    owner_before: OwnerBefore,
    /// How far it is, and how far it must.
    position: u64,
    end: u64,
}

/// Why a changelog is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// The group has given the partition to this process.
    New,
    /// This process has had it all the time.
    Again,
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
    Committed(GroupOffset),
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
    LastAssignment {
        reader: Reader,
        place: CachePlace,
        ends: Ends,
    },
    /// A copy that cannot be used is kept under another name.
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

/// What was read and is not in the cache yet, and what is known of the whole.
struct UnimportedRecords {
    place: CachePlace,
    lineage: Option<u64>,
    /// Whether it is read from its beginning: then an ownership record of another lineage only follows one.
    is_whole: bool,
    last_assignment: LastAssignment,
    changes: Vec<CacheChange>,
    bytes: usize,
    ends: Ends,
}

/// The record by which a changelog is known again: the ownership record that the cache has seen last.
#[derive(Debug, Clone, PartialEq, Eq)]
enum LastAssignment {
    /// The last one that was seen; none where nobody has owned the partition before.
    Seen(Option<OwnershipRecord>),
    /// It was not where it had been: a newer one of the same lineage must come.
    Wanted,
}

/// How far a reading is.
enum Progress {
    Done(Box<Taken>),
    Reading,
    /// What was read is not of the copy's changelog.
    DoesNotFit,
}

/// A partition of which the cache has everything.
pub(super) struct Taken {
    pub(super) group_offset: GroupOffset,
    pub(super) place: CachePlace,
    /// The newest one; none where nobody has owned the partition before, or the changelog has lost it.
    pub(super) record: Option<OwnershipRecord>,
    /// Of the topic of the events, as the brokers say it.
    pub(super) topic_id: Option<TopicId>,
    /// Where the events begin.
    pub(super) low: Offset,
    /// Where they end.
    pub(super) high: Offset,
    /// From where on the events are not those that were read.
    pub(super) lost_from: Option<Offset>,
    pub(super) set_aside: SetAside,
    /// The copy that it was read into.
    pub(super) cache: Arc<LsmStore>,
}

pub(super) enum Step {
    Done(Box<Taken>),
    Reading { position: u64, end: u64 },
}

impl Takeover {
    /// Of a partition that the group has given to this process.
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

    /// Of a partition that this process has had all the time. Nobody is told to write no more: what stands open is of
    /// this process, whose producer was let in anew just before and so has decided it.
    pub(super) fn again(partition: PartitionId) -> Self {
        Self {
            kind: Kind::Again,
            owner_before: OwnerBefore::Settled,
            ..Self::new(partition)
        }
    }

    /// Whether the owner before was told to write no more, or need not be.
    #[cfg(test)]
    pub(super) fn is_settled(&self) -> bool {
        self.owner_before == OwnerBefore::Settled
    }

    /// Goes on for a while. After an error it begins again, from where the copy is then.
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
        match self.ask_once(shared, QUERY_TIMEOUT)? {
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
            Err(error) => Err(self.not_told(&error)),
        }
    }

    /// A topic whose id is refused, or that is not there now, is taken for the one that was there.
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
            Ok(committed) => CommitMark::decode(&committed?.metadata)?.producer,
            Err(error) => {
                tracing::debug!(partition = %self.partition, %error, "the group does not tell at once who wrote last");
                return None;
            }
        };
        let is_an_owner = writer.starts_with(&shared.producers_of_group);
        (is_an_owner && writer != shared.transactional_id).then_some(writer)
    }

    /// Waits until what was written when it began is decided, and begins to read then.
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

    /// The lineage that the group's offset goes with.
    fn committed_lineage(&self) -> Option<u64> {
        match &self.group_offset {
            GroupOffset::Engine { mark, .. } => Some(mark.lineage),
            GroupOffset::None | GroupOffset::Foreign { .. } => None,
        }
    }

    /// The ownership record that the copy has seen last is not there: a newer one took its place, or it is another changelog.
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
        // What is read could be of another changelog, and would be mixed into the copy before that is known.
        let why = "it cannot be told whether the changelog is the one that it is a copy of";
        self.replace(shared, cache, reader, ends, why)
    }

    /// Begins a new copy, and keeps what is of the partition in the old one.
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

    /// From where on the events are not those that were read, by the epochs of their leaders.
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
                    // A leader that was just elected may not know yet how far it is.
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
                    // Behind the last record there are only markers and what was aborted.
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
fn is_before(offset: u64, last_assignment_offset: u64, ends: Ends) -> bool {
    offset <= last_assignment_offset && last_assignment_offset < ends.stable
}

/// What came next.
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
            // A leader that was just elected may not know yet how far it is. The end is told again where it grows.
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
        let said = record::decode(partition, key, value);
        let place = &mut self.place;
        place.position = offset.saturating_add(1);
        if let Some(epoch) = record::epoch_of(&said) {
            place.highest_epoch = place.highest_epoch.max(epoch);
        }
        match said {
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

    /// Brings it into the cache. The place keeps the time at which the cache was complete last, or the reading
    /// began: a removal that compaction forgets meanwhile would be missed.
    fn import(&mut self, cache: &LsmStore, partition: PartitionId) -> Result<(), StoreError> {
        cache.import(partition, &self.changes, &self.place)?;
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
