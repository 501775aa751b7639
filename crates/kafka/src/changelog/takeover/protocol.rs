//! The protocol of a takeover, without I/O: a state names what happens now, an observation its result, and
//! [`Protocol::observe`] decides the next state.
//!
//! ```text
//! querying the offset -> probing for a transaction -> fencing
//!         |                      |                       v
//!         |                      |--------------> awaiting the offset
//!         v                      v                       |
//!         +-----------> querying the ends <--------------+
//!                              v
//!       awaiting the transactions below the end of the changelog
//!                              v
//!                      examining the copy ----> setting the copy aside
//!                       |          |  \                 |
//!       checking the lineage       |   `-> forgetting the copy
//!                       v          v                   v
//!                      reading the changelog <---------+
//!                              v
//!                     comparing the events -> taken
//! ```
//!
//! A changelog that turns out to be another one than the copy's leads from *checking the lineage* or *reading the
//! changelog* to *setting the copy aside*. A failure leads back to querying the offset; in a
//! re-read, or after a producer was fenced, to awaiting the offset. Where there is nothing to compare, *reading the
//! changelog* leads to *taken*.

use std::fmt;

use workspace_engine_core::store::{CopyPosition, Mutation, StoreError};
use workspace_lifecycle::{Offset, PartitionId};
use workspace_status::Epoch;

use super::super::lineage::{Fate, Unusable, fate};
use super::super::ownership::{CommitMark, OwnershipRecord};
use super::super::plan::GroupOffset;
use super::super::reader::Ends;
use super::super::record::{self, DecodedRecord};
use crate::copy_source::{lineage_of, source};
use crate::group::Committed;
use crate::last_reads::LastRead;
use crate::topic_id::TopicId;

/// Why a changelog is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// The group has assigned the partition to this process.
    Assigned,
    /// This process has owned it all the time. An open transaction was its own, and its producer has been initialized
    /// since, which has decided the transaction.
    Reread,
}

/// Who takes over, and what.
#[derive(Debug)]
pub(super) struct Scope {
    pub(super) partition: PartitionId,
    pub(super) changelog: String,
    /// Of this process's producer.
    pub(super) transactional_id: String,
    /// Prefix of the transactional ids of all producers that write this changelog.
    pub(super) producers_of_group: String,
}

/// What the executor does now.
#[derive(Debug)]
pub(super) enum State {
    /// Querying the committed offset, without waiting for long: a live owner ends its transaction before it releases
    /// the partition.
    QueryingOffset,
    /// No offset yet. The client retries by itself while a transaction is open, which looks the same as a slow group. A
    /// transaction is open if the group answers the query that ignores transactions at once, before and after the
    /// offset is queried again.
    ProbingTransaction,
    /// Fencing the producer that committed last: its process died in a transaction, or should not be in one.
    Fencing(String),
    /// Querying the committed offset; without an answer the takeover fails.
    AwaitingOffset,
    /// Querying the topic's id, and the ends of the events and of the changelog.
    QueryingEnds(GroupOffset),
    /// Waiting until all transactions below the end of the changelog are decided.
    AwaitingTransactions(Box<Known>),
    /// Reading up to which position the copy is complete.
    ExaminingCopy(Box<Known>),
    /// Reading the last ownership record of the copy from the changelog, at its offset.
    CheckingLineage(Box<Reading>),
    /// Keeping a copy that cannot be used under another name.
    SettingAside(Box<Known>, Unusable),
    /// Removing the partition from the copy.
    ForgettingCopy(Box<Known>),
    /// Reading the changelog into the copy.
    ReadingChangelog(Box<Reading>),
    /// Comparing the leader epochs of the events with those of the last records that the previous owner has read.
    ComparingEvents(Box<Taken>, Vec<LastRead>),
}

/// What the brokers report of the topics.
#[derive(Debug, Clone)]
pub(in crate::changelog) struct TopicEnds {
    /// Id of the topic of the events; none where the brokers do not report it.
    pub(in crate::changelog) topic_id: Option<TopicId>,
    /// Where the events begin.
    pub(in crate::changelog) low: Offset,
    /// Where they end.
    pub(in crate::changelog) high: Offset,
    pub(in crate::changelog) changelog: Ends,
}

/// What a takeover knows before it reads the changelog.
#[derive(Debug)]
pub(super) struct Known {
    pub(super) group_offset: GroupOffset,
    pub(super) ends: TopicEnds,
}

/// A partition whose changelog is completely in the copy.
#[derive(Debug)]
pub(in crate::changelog) struct Taken {
    pub(in crate::changelog) group_offset: GroupOffset,
    pub(in crate::changelog) ends: TopicEnds,
    pub(in crate::changelog) position: CopyPosition,
    /// The newest one; none where the partition has had no owner, or the changelog has lost it.
    pub(in crate::changelog) record: Option<OwnershipRecord>,
    /// The offset from which the events are not those that were read.
    pub(in crate::changelog) lost_from: Option<Offset>,
}

/// The result of what a state does.
#[derive(Debug, Clone)]
pub(super) enum Observation {
    /// What the group has committed; none where it has no offset.
    Offset(Option<Committed>),
    /// No offset in time, or a transaction is open.
    OffsetUndecided(String),
    /// No offset again, and what was committed before open transactions, before and after; none where nothing was, or
    /// the group did not answer at once.
    LastCommits(Option<Committed>, Option<Committed>),
    FenceRequested,
    Ends(TopicEnds),
    /// The current last stable offset of the changelog.
    StableEnd(u64),
    /// The position of the copy; none where there is no copy. And the time in milliseconds.
    Copy(Option<CopyPosition>, u64),
    /// The ownership record at the offset of the last one of the copy; none where that offset holds something else.
    OwnershipRecord(Option<OwnershipRecord>),
    SetAside,
    /// The time in milliseconds.
    Forgotten(u64),
    /// The copy is complete.
    EndOfChangelog,
    OtherChangelog,
    /// The offset from which the events are not those that were read.
    Compared(Option<Offset>),
}

/// Why a takeover begins again.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Failure {
    #[error("the group does not report what it has committed of partition {partition}: {error}")]
    OffsetUnknown {
        partition: PartitionId,
        error: String,
    },
    #[error("the brokers do not report the id of topic {topic}: {error}")]
    TopicIdUnknown { topic: String, error: String },
    #[error(
        "topic {topic} partition {partition} cannot be compared with what was read of it in time"
    )]
    EventsNotCompared {
        topic: String,
        partition: PartitionId,
    },
}

impl From<Failure> for StoreError {
    fn from(failure: Failure) -> Self {
        Self::Unavailable(failure.to_string())
    }
}

/// The decisions of a takeover.
#[derive(Debug)]
pub(super) struct Protocol {
    pub(super) scope: Scope,
    pub(super) state: State,
    kind: Kind,
    /// Whether the previous owner may have died in a transaction; not after it was fenced.
    may_hang: bool,
}

impl Protocol {
    pub(super) fn new(kind: Kind, scope: Scope) -> Self {
        let (state, may_hang) = match kind {
            Kind::Assigned => (State::QueryingOffset, true),
            Kind::Reread => (State::AwaitingOffset, false),
        };
        Self {
            scope,
            state,
            kind,
            may_hang,
        }
    }

    /// Begins again, from where the copy is then. A producer is not fenced twice.
    pub(super) fn restart(&mut self) {
        self.state = if self.may_hang {
            State::QueryingOffset
        } else {
            State::AwaitingOffset
        };
    }

    /// How far the changelog is read, and where it ends; none before the group's offset is known.
    pub(super) fn progress(&self) -> Option<(u64, u64)> {
        let (position, ends) = match &self.state {
            State::QueryingOffset
            | State::ProbingTransaction
            | State::Fencing(_)
            | State::AwaitingOffset => return None,
            State::QueryingEnds(_) => return Some((0, 0)),
            State::AwaitingTransactions(known) => (known.ends.changelog.stable, &known.ends),
            State::ExaminingCopy(known)
            | State::SettingAside(known, _)
            | State::ForgettingCopy(known) => (known.ends.changelog.low, &known.ends),
            State::CheckingLineage(reading) | State::ReadingChangelog(reading) => {
                (reading.position.next_offset, &reading.known.ends)
            }
            State::ComparingEvents(taken, _) => (taken.position.next_offset, &taken.ends),
        };
        Some((position, ends.changelog.high.max(position)))
    }

    /// Decides what follows an observation; one that does not belong to the state changes nothing. Returns the result at
    /// the end.
    ///
    /// # Errors
    /// The takeover must be restarted.
    pub(super) fn observe(
        &mut self,
        observation: Observation,
    ) -> Result<Option<Box<Taken>>, Failure> {
        use State as S;
        let state = std::mem::replace(&mut self.state, S::AwaitingOffset);
        self.state = match (state, observation) {
            (
                S::QueryingOffset | S::ProbingTransaction | S::AwaitingOffset,
                Observation::Offset(committed),
            ) => S::QueryingEnds(self.group_offset(committed)),
            (S::QueryingOffset, Observation::OffsetUndecided(_)) => S::ProbingTransaction,
            (S::ProbingTransaction, Observation::LastCommits(before, after)) => {
                let before = self.producer_to_fence(before);
                match before.filter(|before| Some(before) == self.producer_to_fence(after).as_ref())
                {
                    None => S::AwaitingOffset,
                    Some(producer) => {
                        self.may_hang = false;
                        S::Fencing(producer)
                    }
                }
            }
            (S::Fencing(_), Observation::FenceRequested) => S::AwaitingOffset,
            (S::AwaitingOffset, Observation::OffsetUndecided(error)) => {
                let partition = self.scope.partition;
                return Err(Failure::OffsetUnknown { partition, error });
            }
            (S::QueryingEnds(group_offset), Observation::Ends(ends)) => {
                await_transactions(Box::new(Known { group_offset, ends }))
            }
            (S::AwaitingTransactions(mut known), Observation::StableEnd(stable)) => {
                known.ends.changelog.stable = stable;
                await_transactions(known)
            }
            (S::ExaminingCopy(known), Observation::Copy(position, now_ms)) => {
                self.use_copy(known, position, now_ms)
            }
            (S::CheckingLineage(mut reading), Observation::OwnershipRecord(record)) => {
                match record.filter(|record| Some(record.lineage) == reading.lineage) {
                    None => read_up_to_a_newer(reading),
                    Some(record) => {
                        reading.newest_record = NewestRecord::Read(Some(record));
                        S::ReadingChangelog(reading)
                    }
                }
            }
            (S::SettingAside(known, _), Observation::SetAside) => S::ForgettingCopy(known),
            (S::ForgettingCopy(known), Observation::Forgotten(now_ms)) => {
                let position = CopyPosition {
                    source: source(&self.scope.changelog, None),
                    next_offset: known.ends.changelog.low,
                    ownership_record_offset: 0,
                    highest_epoch: Epoch::new(0),
                    at_ms: now_ms,
                };
                S::ReadingChangelog(Reading::of(known, position, None))
            }
            (S::ReadingChangelog(reading), Observation::OtherChangelog) => {
                S::SettingAside(reading.known, Unusable::OtherChangelog)
            }
            (S::ReadingChangelog(reading), Observation::EndOfChangelog) => {
                let taken = Box::new(reading.taken());
                match self.events_to_compare(&taken) {
                    Some(last_reads) => S::ComparingEvents(taken, last_reads),
                    None => return Ok(Some(taken)),
                }
            }
            (S::ComparingEvents(mut taken, _), Observation::Compared(lost_from)) => {
                taken.lost_from = lost_from;
                return Ok(Some(taken));
            }
            (state, _) => state,
        };
        Ok(None)
    }

    fn group_offset(&self, committed: Option<Committed>) -> GroupOffset {
        let Some(Committed { offset, metadata }) = committed else {
            return GroupOffset::None;
        };
        let offset = Offset(u64::try_from(offset).unwrap_or_default());
        match CommitMark::decode(&metadata) {
            Some(mark) if mark.producer.starts_with(&self.scope.producers_of_group) => {
                GroupOffset::Engine { offset, mark }
            }
            Some(_) | None => GroupOffset::Foreign { offset, metadata },
        }
    }

    /// The producer of a commit, if it belongs to this group and is not this process's own.
    fn producer_to_fence(&self, committed: Option<Committed>) -> Option<String> {
        let producer = CommitMark::decode(&committed?.metadata)?.producer;
        let is_of_group = producer.starts_with(&self.scope.producers_of_group);
        (is_of_group && producer != self.scope.transactional_id).then_some(producer)
    }

    fn use_copy(&self, known: Box<Known>, position: Option<CopyPosition>, now_ms: u64) -> State {
        let changelog = &self.scope.changelog;
        let Some(position) = position else {
            return State::ForgettingCopy(known);
        };
        let ends = known.ends.changelog;
        let committed = known.committed_lineage();
        match fate(&position, changelog, ends, committed, now_ms) {
            Fate::SetAside(reason) => return State::SettingAside(known, reason),
            Fate::Forget => return State::ForgettingCopy(known),
            Fate::Continue => {}
        }
        let lineage = lineage_of(&position, changelog);
        let is_removed = position.ownership_record_offset < ends.low;
        let reading = Reading::of(known, position, lineage);
        match lineage {
            None => State::ReadingChangelog(reading),
            Some(_) if is_removed => read_up_to_a_newer(reading),
            Some(_) => State::CheckingLineage(reading),
        }
    }

    /// What was read of the events by the previous owner, if it is to be compared with the topic: not with a topic that
    /// is known to be another one, and not by a process that has read the events itself.
    fn events_to_compare(&self, taken: &Taken) -> Option<Vec<LastRead>> {
        let GroupOffset::Engine { mark, .. } = &taken.group_offset else {
            return None;
        };
        let known_id = match &taken.record {
            Some(record) => record.topic_id,
            None => mark.topic_id,
        };
        let is_another =
            matches!((known_id, taken.ends.topic_id), (Some(known), Some(id)) if known != id);
        let is_needed = self.kind == Kind::Assigned && !is_another && !mark.last_reads.is_empty();
        is_needed.then(|| mark.last_reads.clone())
    }
}

impl Known {
    /// The lineage that the group's offset was committed with.
    fn committed_lineage(&self) -> Option<u64> {
        match &self.group_offset {
            GroupOffset::Engine { mark, .. } => Some(mark.lineage),
            GroupOffset::None | GroupOffset::Foreign { .. } => None,
        }
    }
}

fn await_transactions(known: Box<Known>) -> State {
    if known.ends.changelog.stable < known.ends.changelog.high {
        State::AwaitingTransactions(known)
    } else {
        State::ExaminingCopy(known)
    }
}

/// Continues where the last ownership record of the copy is no longer at its offset: a newer record has replaced it, or
/// this is another changelog.
fn read_up_to_a_newer(mut reading: Box<Reading>) -> State {
    if reading.known.committed_lineage() == reading.lineage {
        reading.newest_record = NewestRecord::Awaited;
        return State::ReadingChangelog(reading);
    }
    // Records of another changelog could be mixed into the copy before that is known.
    State::SettingAside(reading.known, Unusable::PerhapsOtherChangelog)
}

/// A changelog that is being read into a copy.
#[derive(Debug)]
pub(super) struct Reading {
    pub(super) known: Box<Known>,
    /// Up to where it is read. Its `at_ms` stays the time at which the copy was last complete, or the reading began: with
    /// a later time, a tombstone that compaction removes meanwhile would be missed.
    pub(super) position: CopyPosition,
    /// The lineage of the copy that is continued; none where the changelog is read from its beginning: then a record of
    /// another lineage is a later owner's.
    lineage: Option<u64>,
    newest_record: NewestRecord,
    /// What was read and is not in the copy yet.
    pub(super) changes: Vec<Mutation>,
    /// Size of the records behind `changes`.
    pub(super) bytes: usize,
}

/// The newest ownership record: it shows whether the changelog is still the same one.
#[derive(Debug, PartialEq, Eq)]
enum NewestRecord {
    /// The newest that was read; none where the partition has had no owner.
    Read(Option<OwnershipRecord>),
    /// The last one of the copy is no longer at its offset: a newer one of the same lineage must follow.
    Awaited,
}

/// The changelog is another one than the copy's.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct OtherChangelog;

impl Reading {
    fn of(known: Box<Known>, position: CopyPosition, lineage: Option<u64>) -> Box<Self> {
        Box::new(Self {
            known,
            position,
            lineage,
            newest_record: NewestRecord::Read(None),
            changes: Vec::new(),
            bytes: 0,
        })
    }

    /// Adds the next record.
    ///
    /// # Errors
    /// [`OtherChangelog`]: what was read since the last import does not belong into the copy.
    pub(super) fn take(
        &mut self,
        changelog: &str,
        (offset, bytes): (u64, usize),
        record: DecodedRecord,
    ) -> Result<(), OtherChangelog> {
        let position = &mut self.position;
        self.bytes += bytes;
        position.next_offset = offset.saturating_add(1);
        if let Some(epoch) = record::epoch_of(&record) {
            position.highest_epoch = position.highest_epoch.max(epoch);
        }
        match record {
            DecodedRecord::Mutation(change) => self.changes.push(change),
            DecodedRecord::Ownership(record) => {
                if self
                    .lineage
                    .is_some_and(|lineage| lineage != record.lineage)
                {
                    return Err(OtherChangelog);
                }
                position.ownership_record_offset = offset;
                position.source = source(changelog, Some(record.lineage));
                self.newest_record = NewestRecord::Read(Some(record));
            }
            DecodedRecord::OtherVersion(_) | DecodedRecord::Skipped(_) => {}
        }
        Ok(())
    }

    /// Ends the reading; the position must then be imported.
    ///
    /// # Errors
    /// [`OtherChangelog`]: a newer ownership record did not follow.
    pub(super) fn complete(&mut self, now_ms: u64) -> Result<(), OtherChangelog> {
        if self.newest_record == NewestRecord::Awaited {
            return Err(OtherChangelog);
        }
        // After the last record there are only markers and aborted records.
        self.position.next_offset = self
            .position
            .next_offset
            .max(self.known.ends.changelog.high);
        self.position.at_ms = now_ms;
        Ok(())
    }

    fn taken(self) -> Taken {
        let Known { group_offset, ends } = *self.known;
        Taken {
            group_offset,
            ends,
            position: self.position,
            record: match self.newest_record {
                NewestRecord::Read(record) => record,
                NewestRecord::Awaited => None,
            },
            lost_from: None,
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::QueryingOffset => f.write_str("querying the offset"),
            Self::ProbingTransaction => f.write_str("probing for a transaction"),
            Self::Fencing(producer) => write!(f, "fencing {producer}"),
            Self::AwaitingOffset => f.write_str("awaiting the offset"),
            Self::QueryingEnds(_) => f.write_str("querying the ends"),
            Self::AwaitingTransactions(known) => {
                let Ends { stable, high, .. } = known.ends.changelog;
                write!(f, "awaiting the transactions from {stable} to {high}")
            }
            Self::ExaminingCopy(_) => f.write_str("examining the copy"),
            Self::CheckingLineage(reading) => {
                let at = reading.position.ownership_record_offset;
                write!(f, "checking the lineage at {at}")
            }
            Self::SettingAside(_, reason) => write!(f, "setting the copy aside: {reason}"),
            Self::ForgettingCopy(_) => f.write_str("forgetting the copy"),
            Self::ReadingChangelog(reading) => {
                let (position, end) = (
                    reading.position.next_offset,
                    reading.known.ends.changelog.high,
                );
                write!(f, "reading the changelog from {position} to {end}")
            }
            Self::ComparingEvents(..) => f.write_str("comparing the events"),
        }
    }
}

#[cfg(test)]
mod tests;
