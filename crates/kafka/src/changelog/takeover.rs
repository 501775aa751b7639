//! Taking a partition over: what the group has committed, then the changelog to its end.
//!
//! The order matters. The committed offset is asked for first, stable only: so a transaction of the owner before
//! that could still succeed is waited for, and any later one of it is refused by the group. Then the end of what
//! is *written* is taken, and waited for until every transaction below it is decided: markers of a
//! transaction come to each partition in their own time, so the end of what is committed may still be
//! below records that are committed already.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use workspace_engine_core::store::{CacheChange, CachePlace, StoreError};
use workspace_lifecycle::{Offset, PartitionId};
use workspace_status::Epoch;

use super::reader::{Ends, Found, Reader};
use super::record::{self, Said};
use super::{Shared, now_ms};

/// How long one call may take.
const CALL: Duration = Duration::from_millis(800);

/// How long the brokers may take for one answer.
const ANSWER: Duration = Duration::from_millis(1000);

/// Between two looks whether transactions are decided.
const LOOK: Duration = Duration::from_millis(50);

/// Changes are brought into the cache in portions of this size.
const PORTION_BYTES: usize = 1024 * 1024;

/// A cache that was complete longer ago may lack removals that compaction has forgotten since: brokers keep
/// a tombstone for a day by default (`delete.retention.ms`), and the reading takes its time too.
const CACHE_AGE_MOST: Duration = Duration::from_hours(12);

/// As [`CACHE_AGE_MOST`] for a cache that was not complete yet and does not know its lineage.
const UNFINISHED_AGE_MOST: Duration = Duration::from_mins(10);

/// A partition on its way into the cache.
pub(super) struct Takeover {
    partition: PartitionId,
    committed: Offset,
    phase: Phase,
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
    place: CachePlace,
    lineage: Option<u64>,
    /// The landmark of the cache is gone: a newer one of the same lineage must come.
    must_meet: bool,
    changes: Vec<CacheChange>,
    bytes: usize,
    end: u64,
}

/// A partition of which the cache has everything.
pub(super) struct Taken {
    pub(super) committed: Offset,
    pub(super) place: CachePlace,
    /// None where nobody has owned the partition before.
    pub(super) lineage: Option<u64>,
}

pub(super) enum Step {
    Done(Taken),
    Reading { position: u64, end: u64 },
}

/// What a look at the reader gave.
enum Look {
    Here,
    Elsewhere,
    Nothing,
}

impl Takeover {
    pub(super) fn new(partition: PartitionId) -> Self {
        Self {
            partition,
            committed: Offset::ZERO,
            phase: Phase::Committed,
        }
    }

    /// Goes on for a while. After an error it begins anew, from where the cache is then.
    pub(super) fn step(&mut self, shared: &Shared) -> Result<Step, StoreError> {
        let until = Instant::now() + CALL;
        let step = self.steps(shared, until);
        if step.is_err() {
            self.phase = Phase::Committed;
        }
        step
    }

    fn steps(&mut self, shared: &Shared, until: Instant) -> Result<Step, StoreError> {
        loop {
            let phase = std::mem::replace(&mut self.phase, Phase::Committed);
            let (next, step) = match phase {
                Phase::Committed => {
                    self.committed = self.ask_group(shared)?;
                    (Phase::Ends, None)
                }
                Phase::Ends => {
                    let partitions = shared.readers.partitions(ANSWER)?;
                    shared.partition_count.store(partitions, Ordering::Relaxed);
                    let ends = shared.readers.ends(self.partition, ANSWER)?;
                    (Phase::Stable { ends }, None)
                }
                Phase::Stable { ends } => self.wait_stable(shared, ends)?,
                Phase::Landmark {
                    reader,
                    place,
                    ends,
                } => self.look(shared, reader, place, ends)?,
                Phase::Read(mut reading) => match self.read(shared, &mut reading, until)? {
                    Some(Step::Done(taken)) => return Ok(Step::Done(taken)),
                    Some(step) => (Phase::Read(reading), Some(step)),
                    // It did not fit after all.
                    None => (Phase::Committed, None),
                },
            };
            self.phase = next;
            if let Some(step) = step {
                return Ok(step);
            }
            if Instant::now() >= until {
                return Ok(Step::Reading {
                    position: 0,
                    end: 0,
                });
            }
        }
    }

    fn ask_group(&self, shared: &Shared) -> Result<Offset, StoreError> {
        let answer = shared
            .group
            .committed(&shared.topic, self.partition, ANSWER);
        let committed = answer.map_err(|error| {
            StoreError::Unavailable(format!(
                "the group does not tell what it has committed of partition {}: {error}",
                self.partition
            ))
        })?;
        let offset = committed.map_or(0, |committed| committed.offset);
        Ok(Offset(u64::try_from(offset).unwrap_or_default()))
    }

    /// Waits until what was written when it began is decided, and begins to read then.
    fn wait_stable(
        &self,
        shared: &Shared,
        ends: Ends,
    ) -> Result<(Phase, Option<Step>), StoreError> {
        let waiting = |stable| {
            let step = Step::Reading {
                position: stable,
                end: ends.high,
            };
            Ok((Phase::Stable { ends }, Some(step)))
        };
        let now = if ends.stable < ends.high {
            shared.readers.ends(self.partition, ANSWER)?
        } else {
            ends
        };
        if now.stable < ends.high {
            std::thread::sleep(LOOK);
            return waiting(now.stable);
        }
        let Some(reader) = shared.readers.lend()? else {
            std::thread::sleep(LOOK);
            return waiting(now.low);
        };
        let cached = match shared.cache.cached_place(self.partition) {
            Ok(cached) => cached,
            Err(StoreError::Corrupt { .. }) => None,
            Err(error) => return Err(error),
        };
        let Some(place) = cached.filter(|place| fits(place, &shared.readers.topic, ends)) else {
            return Ok((self.from_the_beginning(shared, reader, ends)?, None));
        };
        if lineage_of(&place, &shared.readers.topic).is_none() {
            return Ok((self.from(shared, reader, place, ends, false)?, None));
        }
        reader.assign(self.partition, place.landmark)?;
        Ok((
            Phase::Landmark {
                reader,
                place,
                ends,
            },
            None,
        ))
    }

    fn look(
        &self,
        shared: &Shared,
        reader: Reader,
        place: CachePlace,
        ends: Ends,
    ) -> Result<(Phase, Option<Step>), StoreError> {
        let lineage = lineage_of(&place, &shared.readers.topic);
        let look = reader.next(self.partition, CALL / 4, |found| match found {
            Found::Nothing => Look::Nothing,
            Found::Record { offset, key, value } if offset == place.landmark => {
                match record::decode(self.partition, key, value) {
                    Said::Assigned(assignment) if Some(assignment.lineage) == lineage => Look::Here,
                    Said::Assigned(_) | Said::Changed(_) | Said::Nothing(_) => Look::Elsewhere,
                }
            }
            Found::Record { .. } | Found::End => Look::Elsewhere,
        })?;
        match look {
            Look::Here => Ok((self.from(shared, reader, place, ends, false)?, None)),
            Look::Elsewhere => Ok((self.from(shared, reader, place, ends, true)?, None)),
            Look::Nothing => {
                let step = Step::Reading {
                    position: place.position,
                    end: ends.high,
                };
                Ok((
                    Phase::Landmark {
                        reader,
                        place,
                        ends,
                    },
                    Some(step),
                ))
            }
        }
    }

    fn from_the_beginning(
        &self,
        shared: &Shared,
        reader: Reader,
        ends: Ends,
    ) -> Result<Phase, StoreError> {
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
        self.from(shared, reader, place, ends, false)
    }

    fn from(
        &self,
        shared: &Shared,
        reader: Reader,
        place: CachePlace,
        ends: Ends,
        must_meet: bool,
    ) -> Result<Phase, StoreError> {
        reader.assign(self.partition, place.position)?;
        Ok(Phase::Read(Box::new(Reading {
            reader,
            lineage: lineage_of(&place, &shared.readers.topic),
            place,
            must_meet,
            changes: Vec::new(),
            bytes: 0,
            end: ends.high,
        })))
    }

    /// Reads on; nothing when what was read is not of the cache's changelog.
    fn read(
        &self,
        shared: &Shared,
        reading: &mut Reading,
        until: Instant,
    ) -> Result<Option<Step>, StoreError> {
        loop {
            let now = Instant::now();
            if now >= until {
                reading.import(shared, self.partition)?;
                return Ok(Some(Step::Reading {
                    position: reading.place.position,
                    end: reading.end.max(reading.place.position),
                }));
            }
            let Reading {
                reader,
                place,
                lineage,
                must_meet,
                changes,
                bytes,
                ..
            } = reading;
            let mut other = false;
            let ended = reader.next(self.partition, until - now, |found| match found {
                Found::Nothing => false,
                Found::End => true,
                Found::Record { offset, key, value } => {
                    let size = key.len() + value.map_or(0, <[u8]>::len);
                    shared.counters.records_read.add(1);
                    shared.counters.bytes_read.add(size);
                    *bytes += size;
                    place.position = offset.saturating_add(1);
                    let said = record::decode(self.partition, key, value);
                    place.highest_epoch =
                        place.highest_epoch.max(record::epoch_of(&said).unwrap_or(place.highest_epoch));
                    match said {
                        Said::Changed(change) => changes.push(change),
                        Said::Assigned(assignment) => {
                            other = lineage.is_some_and(|known| known != assignment.lineage);
                            *lineage = Some(assignment.lineage);
                            *must_meet = false;
                            place.landmark = offset;
                            place.source = source(&shared.readers.topic, *lineage);
                        }
                        Said::Nothing(reason) => {
                            tracing::warn!(partition = %self.partition, offset, reason, "a record of the changelog is passed over");
                        }
                    }
                    false
                }
            })?;
            if other || (ended && reading.must_meet) {
                tracing::warn!(partition = %self.partition, "the cache is of another changelog");
                let partitions = shared.partition_count.load(Ordering::Relaxed);
                shared.cache.forget(self.partition, partitions)?;
                return Ok(None);
            }
            if ended {
                // Behind the last record there are only markers and what was aborted.
                reading.place.position = reading.place.position.max(reading.end);
            }
            if ended || reading.bytes >= PORTION_BYTES {
                reading.import(shared, self.partition)?;
            }
            if ended {
                return Ok(Some(Step::Done(Taken {
                    committed: self.committed,
                    place: reading.place.clone(),
                    lineage: reading.lineage,
                })));
            }
        }
    }
}

impl Reading {
    fn import(&mut self, shared: &Shared, partition: PartitionId) -> Result<(), StoreError> {
        self.place.at_ms = now_ms();
        shared.cache.import(partition, &self.changes, &self.place)?;
        self.changes.clear();
        self.bytes = 0;
        Ok(())
    }
}

/// Whether a cache can be one of what the topic holds.
fn fits(place: &CachePlace, topic: &str, ends: Ends) -> bool {
    let most = match lineage_of(place, topic) {
        Some(_) => CACHE_AGE_MOST,
        None if place.source == source(topic, None) => UNFINISHED_AGE_MOST,
        None => return false,
    };
    let age = Duration::from_millis(now_ms().saturating_sub(place.at_ms));
    (ends.low..=ends.high).contains(&place.position) && age <= most
}

/// What a cache says it is of.
pub(super) fn source(topic: &str, lineage: Option<u64>) -> String {
    lineage.map_or_else(
        || format!("{topic}#"),
        |lineage| format!("{topic}#{lineage:016x}"),
    )
}

fn lineage_of(place: &CachePlace, topic: &str) -> Option<u64> {
    let lineage = place.source.strip_prefix(topic)?.strip_prefix('#')?;
    u64::from_str_radix(lineage, 16).ok()
}

/// How the partition's threads keep takeovers between two calls.
pub(super) type Takeovers = std::collections::HashMap<PartitionId, Takeover>;
