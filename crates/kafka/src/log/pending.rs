//! A request whose records are in flight: which of them are acknowledged, and the answer.

use std::collections::BTreeMap;

use parking_lot::Mutex;
use rdkafka::message::OwnedHeaders;
use workspace_engine_core::log::{AppendError, Appended, AppendedRange, ProducerSequence};
use workspace_lifecycle::{Offset, PartitionId};

use super::origin;
use super::tail::FoundRecord;

/// What a record takes in the producer's queue beside key and value.
const RECORD_OVERHEAD_BYTES: usize = 128;

/// Passes the answer to the caller that waits for it.
pub(super) type Waiter = Box<dyn FnOnce(Result<Appended, AppendError>) + Send>;

/// One record to be appended.
pub(super) struct Outgoing<'a> {
    pub(super) topic: &'a str,
    pub(super) partition: PartitionId,
    pub(super) key: &'a [u8],
    pub(super) value: &'a [u8],
    pub(super) headers: Option<OwnedHeaders>,
}

impl Outgoing<'_> {
    pub(super) fn bytes(&self) -> usize {
        self.key.len() + self.value.len() + RECORD_OVERHEAD_BYTES
    }
}

/// Whether the records are events, of which readers are notified.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Events,
    Other,
}

/// Which of several equal requests a waiter sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Turn {
    First,
    Repeat,
}

/// A request whose records are in flight.
pub(super) struct Pending {
    pub(super) sequence: Option<ProducerSequence>,
    pub(super) kind: Kind,
    /// Bytes it takes in the queue.
    pub(super) bytes: usize,
    /// One for each record, if the request has a sequence and may be repeated.
    fingerprints: Vec<u64>,
    state: Mutex<Progress>,
}

struct Progress {
    /// Records that are neither acknowledged nor failed.
    open: usize,
    acknowledged: Vec<Option<Acknowledged>>,
    failed: Option<AppendError>,
    waiters: Vec<(Waiter, Turn)>,
}

/// Position of an acknowledged record. For one that was sent twice the brokers may return no offset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Acknowledged {
    pub(super) partition: PartitionId,
    pub(super) offset: Option<Offset>,
}

/// Whether anything of a request is still under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Settled {
    Partly,
    Whole,
}

impl Pending {
    pub(super) fn new(
        sequence: Option<ProducerSequence>,
        kind: Kind,
        records: &[Outgoing<'_>],
    ) -> Self {
        let print = |record: &Outgoing<'_>| origin::fingerprint(record.key, record.value);
        let fingerprints = sequence
            .as_ref()
            .map(|_| records.iter().map(print).collect())
            .unwrap_or_default();
        Self {
            sequence,
            kind,
            bytes: records.iter().map(Outgoing::bytes).sum(),
            fingerprints,
            state: Mutex::new(Progress {
                open: records.len(),
                acknowledged: vec![None; records.len()],
                failed: None,
                waiters: Vec::new(),
            }),
        }
    }

    /// Continues an earlier attempt at the same request: what was acknowledged then is not sent again.
    pub(super) fn continue_from(&self, earlier: &Self) {
        let acknowledged = earlier.state.lock().acknowledged.clone();
        let mut state = self.state.lock();
        if earlier.fingerprints == self.fingerprints
            && acknowledged.len() == state.acknowledged.len()
        {
            state.open = acknowledged.iter().filter(|one| one.is_none()).count();
            state.acknowledged = acknowledged;
        }
    }

    /// Notes the records that are in the topic already; they are not sent again. Records with other contents belong to
    /// another request with the same number; then none counts as found. Returns whether all records are in the topic.
    pub(super) fn note_found(&self, found: &[FoundRecord]) -> bool {
        let is_same =
            |record: &FoundRecord| self.fingerprints.get(record.index) == Some(&record.fingerprint);
        if found.is_empty() || !found.iter().all(is_same) {
            return false;
        }
        let mut state = self.state.lock();
        for record in found {
            if let Some(acknowledged @ None) = state.acknowledged.get_mut(record.index) {
                *acknowledged = Some(Acknowledged {
                    partition: record.partition,
                    offset: Some(record.offset),
                });
            }
        }
        state.open = state
            .acknowledged
            .iter()
            .filter(|one| one.is_none())
            .count();
        state.open == 0
    }

    pub(super) fn wait(&self, waiter: Waiter, turn: Turn) {
        self.state.lock().waiters.push((waiter, turn));
    }

    pub(super) fn take_waiters(&self) -> Vec<(Waiter, Turn)> {
        std::mem::take(&mut self.state.lock().waiters)
    }

    /// Which records must be sent.
    pub(super) fn open(&self) -> Vec<bool> {
        let state = self.state.lock();
        state.acknowledged.iter().map(Option::is_none).collect()
    }

    /// Notes that one record is acknowledged, or never will be.
    pub(super) fn settle(
        &self,
        index: usize,
        result: Result<Acknowledged, AppendError>,
    ) -> Settled {
        let mut state = self.state.lock();
        match result {
            Ok(position) => {
                if let Some(acknowledged) = state.acknowledged.get_mut(index) {
                    *acknowledged = Some(position);
                }
            }
            Err(error) => {
                state.failed.get_or_insert(error);
            }
        }
        state.open = state.open.saturating_sub(1);
        if state.open == 0 {
            Settled::Whole
        } else {
            Settled::Partly
        }
    }

    /// The first and last offset in each partition; none where the brokers returned no offset.
    pub(super) fn ranges(&self) -> BTreeMap<PartitionId, Option<(Offset, Offset)>> {
        let mut ranges: BTreeMap<_, Option<(Offset, Offset)>> = BTreeMap::new();
        let state = self.state.lock();
        for Acknowledged { partition, offset } in state.acknowledged.iter().flatten() {
            let range = ranges.entry(*partition).or_default();
            if let Some(offset) = *offset {
                let (first, last) = range.unwrap_or((offset, offset));
                *range = Some((first.min(offset), last.max(offset)));
            }
        }
        ranges
    }

    /// The answer, when everything is settled. A record without an offset is at or before the `last` one of its
    /// partition.
    pub(super) fn answer(
        &self,
        last: impl Fn(PartitionId) -> Offset,
    ) -> Result<Appended, AppendError> {
        let (events, appended, failed) = {
            let state = self.state.lock();
            let count = |count: usize| u64::try_from(count).unwrap_or(u64::MAX);
            let appended = state.acknowledged.iter().flatten().count();
            let events = state.acknowledged.len();
            (count(events), count(appended), state.failed.clone())
        };
        if let Some(error) = failed.as_ref().filter(|_| appended == 0) {
            return Err(error.clone());
        }
        let ranges = self.ranges().into_iter().map(|(partition, range)| {
            let (first_offset, last_offset) = range.unwrap_or_else(|| {
                let last = last(partition);
                (last, last)
            });
            AppendedRange {
                partition,
                first_offset,
                last_offset,
            }
        });
        let partitions = ranges.collect();
        match failed {
            Some(error) => Err(AppendError::Partly {
                appended,
                events,
                partitions,
                reason: error.to_string(),
            }),
            None => Ok(Appended {
                accepted: events,
                partitions,
                repeated: false,
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pending(values: &[&[u8]]) -> Pending {
        let records: Vec<_> = values
            .iter()
            .map(|value| Outgoing {
                topic: "events",
                partition: PartitionId(0),
                key: b"acme",
                value,
                headers: None,
            })
            .collect();
        let sequence = ProducerSequence {
            producer_id: "p".to_owned(),
            sequence: 1,
        };
        Pending::new(Some(sequence), Kind::Events, &records)
    }

    fn at(partition: u32, offset: u64) -> Acknowledged {
        Acknowledged {
            partition: PartitionId(partition),
            offset: Some(Offset(offset)),
        }
    }

    fn range(partition: u32, first: u64, last: u64) -> AppendedRange {
        AppendedRange {
            partition: PartitionId(partition),
            first_offset: Offset(first),
            last_offset: Offset(last),
        }
    }

    #[test]
    fn a_request_is_answered_with_a_range_a_partition() {
        let pending = pending(&[b"a", b"b", b"c"]);
        assert_eq!(pending.settle(2, Ok(at(1, 9))), Settled::Partly);
        assert_eq!(pending.settle(0, Ok(at(0, 4))), Settled::Partly);
        assert_eq!(pending.settle(1, Ok(at(1, 8))), Settled::Whole);
        let answer = pending.answer(|_| Offset(0)).expect("appended");
        assert_eq!(answer.accepted, 3);
        assert_eq!(answer.partitions, [range(0, 4, 4), range(1, 8, 9)]);
    }

    #[test]
    fn what_was_acknowledged_before_a_failure_is_not_sent_again() {
        let values: [&[u8]; 3] = [b"a", b"b", b"c"];
        let first = pending(&values);
        first.settle(0, Ok(at(0, 4)));
        first.settle(1, Err(AppendError::Unavailable("down".to_owned())));
        first.settle(2, Ok(at(1, 7)));
        let partly = AppendError::Partly {
            appended: 2,
            events: 3,
            partitions: vec![range(0, 4, 4), range(1, 7, 7)],
            reason: "the event log cannot write: down".to_owned(),
        };
        assert_eq!(first.answer(|_| Offset(0)), Err(partly));

        let again = pending(&values);
        again.continue_from(&first);
        assert_eq!(again.open(), [false, true, false]);
        assert_eq!(again.settle(1, Ok(at(0, 20))), Settled::Whole);
        let answer = again.answer(|_| Offset(0)).expect("appended");
        assert_eq!(answer.partitions, [range(0, 4, 20), range(1, 7, 7)]);

        let other = pending(&[b"a", b"x", b"c"]);
        other.continue_from(&first);
        assert_eq!(other.open(), [true; 3], "another request with its number");
    }

    #[test]
    fn a_request_of_which_nothing_was_acknowledged_is_refused_as_a_whole() {
        let pending = pending(&[b"a"]);
        let down = AppendError::Unavailable("down".to_owned());
        pending.settle(0, Err(down.clone()));
        assert_eq!(pending.answer(|_| Offset(0)), Err(down));
    }

    #[test]
    fn records_in_the_topic_are_not_sent_again() {
        let check = |found: &[(usize, u64, &[u8])], open: [bool; 2], is_whole: bool| {
            let record = |(index, offset, value): &(usize, u64, &[u8])| FoundRecord {
                index: *index,
                partition: PartitionId(0),
                offset: Offset(*offset),
                fingerprint: origin::fingerprint(b"acme", value),
            };
            let records: Vec<FoundRecord> = found.iter().map(record).collect();
            let pending = pending(&[b"a", b"b"]);
            assert_eq!(pending.note_found(&records), is_whole, "{found:?}");
            assert_eq!(pending.open(), open, "{found:?}");
        };
        check(&[], [true, true], false);
        check(&[(1, 7, b"b")], [true, false], false);
        check(
            &[(1, 7, b"b"), (0, 9, b"a"), (0, 12, b"a")],
            [false; 2],
            true,
        );
        check(&[(1, 7, b"b"), (0, 9, b"x")], [true; 2], false);
        check(&[(2, 7, b"b")], [true; 2], false);
    }

    #[test]
    fn a_record_without_an_offset_counts_as_the_last() {
        let pending = pending(&[b"a"]);
        let somewhere = Acknowledged {
            partition: PartitionId(2),
            offset: None,
        };
        pending.settle(0, Ok(somewhere));
        let answer = pending.answer(|_| Offset(41)).expect("appended");
        assert_eq!(answer.partitions, [range(2, 41, 41)]);
    }
}
