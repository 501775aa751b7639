//! Records of named producers at the recent end of the topic, whichever process appended them.
//!
//! Every scan adds to it: the next one continues where the last one ended, even if that one was cut short.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use workspace_engine_core::log::{ANSWERS_KEPT, MAX_PRODUCERS};
use workspace_lifecycle::{Offset, PartitionId};

use super::origin::Origin;

/// Older records are not scanned: unless configured otherwise, a producer abandons a request after a minute, so none
/// repeats an older one. The rest allows for clocks that differ, because a record carries its sender's time.
pub(super) const MAX_AGE: Duration = Duration::from_mins(5);

/// Most records of a partition that one scan reads, counted from its end: a scan must end before the producer, or a
/// proxy in front of it, abandons the request. On a partition with more than 3,000 records a second this covers less
/// than the minute for which producers repeat.
pub(super) const MAX_RECORDS: u64 = 200_000;

/// Records at the end of a partition that are read whatever their time: they cost little, and a clock may be wrong.
pub(super) const RECORDS_ALWAYS: u64 = 1_000;

/// A record that was found in the topic: one event of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FoundRecord {
    pub(super) index: usize,
    pub(super) partition: PartitionId,
    pub(super) offset: Offset,
    pub(super) fingerprint: u64,
}

/// The last requests of one producer: the records that the topic holds of each.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct RecentRequests(BTreeMap<u64, Vec<FoundRecord>>);

impl RecentRequests {
    /// The highest request of which a record was found.
    pub(super) fn highest(&self) -> Option<u64> {
        self.0.keys().next_back().copied()
    }

    /// The records of a request.
    pub(super) fn records(&self, sequence: u64) -> &[FoundRecord] {
        self.0.get(&sequence).map(Vec::as_slice).unwrap_or_default()
    }
}

/// A producer of which records were found.
struct RecentProducer {
    requests: RecentRequests,
    read_at: Instant,
}

/// The recent requests of all producers.
pub(super) struct TopicTail {
    /// The first offset of each partition that was not read; none if the partition was not read at all.
    next: Vec<Option<Offset>>,
    producers: HashMap<String, RecentProducer>,
}

impl TopicTail {
    pub(super) fn new(partitions: usize) -> Self {
        Self {
            next: vec![None; partitions],
            producers: HashMap::new(),
        }
    }

    /// Where a scan begins in a partition that holds `low..end`; at its end if there is nothing to read.
    /// `newer` is its first record that is young enough, if there is one.
    pub(super) fn begin(
        &self,
        partition: PartitionId,
        low: Offset,
        newer: Option<Offset>,
        end: Offset,
    ) -> Offset {
        let back = |records: u64| Offset(end.0.saturating_sub(records));
        let recent = newer
            .unwrap_or(end)
            .min(back(RECORDS_ALWAYS))
            .max(back(MAX_RECORDS))
            .max(low);
        self.next(partition).unwrap_or_default().max(recent)
    }

    /// Whether a partition ends before what was read of it: then it was recreated or lost its end.
    pub(super) fn is_beyond(&self, partition: PartitionId, end: Offset) -> bool {
        self.next(partition).is_some_and(|next| next > end)
    }

    fn next(&self, partition: PartitionId) -> Option<Offset> {
        let index = usize::try_from(partition.0).ok()?;
        self.next.get(index).copied().flatten()
    }

    /// Notes that everything of a partition below `next` has been read.
    pub(super) fn reach(&mut self, partition: PartitionId, next: Offset) {
        let index = usize::try_from(partition.0).unwrap_or(usize::MAX);
        if let Some(reached) = self.next.get_mut(index) {
            *reached = (*reached).max(Some(next));
        }
    }

    /// Adds one record.
    pub(super) fn note(&mut self, origin: &Origin<'_>, record: FoundRecord, now: Instant) {
        if !self.producers.contains_key(origin.producer_id) {
            let recent = RecentProducer {
                requests: RecentRequests::default(),
                read_at: now,
            };
            self.producers.insert(origin.producer_id.to_owned(), recent);
        }
        if let Some(recent) = self.producers.get_mut(origin.producer_id) {
            recent.read_at = now;
            let records = recent.requests.0.entry(origin.sequence).or_default();
            records.push(record);
            if recent.requests.0.len() > ANSWERS_KEPT {
                recent.requests.0.pop_first();
            }
        }
    }

    /// Forgets producers of which nothing was read for [`MAX_AGE`], and the longest silent ones beyond
    /// [`MAX_PRODUCERS`].
    pub(super) fn forget(&mut self, now: Instant) {
        self.producers
            .retain(|_, recent| now.saturating_duration_since(recent.read_at) < MAX_AGE);
        let excess = self.producers.len().saturating_sub(MAX_PRODUCERS);
        if excess > 0 {
            let mut times: Vec<Instant> = self.producers.values().map(|one| one.read_at).collect();
            let (_, newest_forgotten, _) = times.select_nth_unstable(excess - 1);
            let newest_forgotten = *newest_forgotten;
            self.producers
                .retain(|_, recent| recent.read_at > newest_forgotten);
        }
    }

    pub(super) fn requests_of(&self, producer_id: &str) -> RecentRequests {
        let recent = self.producers.get(producer_id);
        recent
            .map(|recent| recent.requests.clone())
            .unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const P: PartitionId = PartitionId(0);

    fn found(offset: u64) -> FoundRecord {
        FoundRecord {
            index: 0,
            partition: P,
            offset: Offset(offset),
            fingerprint: 0,
        }
    }

    #[test]
    fn a_scan_begins_with_what_is_young_and_not_read() {
        let check = |next: Option<u64>, low, newer: Option<u64>, end, expected| {
            let mut tail = TopicTail::new(1);
            if let Some(next) = next {
                tail.reach(P, Offset(next));
            }
            let begin = tail.begin(P, Offset(low), newer.map(Offset), Offset(end));
            assert_eq!(begin, Offset(expected), "{next:?} {low} {newer:?} {end}");
        };
        check(None, 0, None, 0, 0);
        check(None, 0, Some(50_000), 60_000, 50_000);
        check(None, 0, Some(50_000), 900_000, 700_000);
        check(None, 0, Some(59_999), 60_000, 59_000);
        check(None, 0, None, 60_000, 59_000);
        check(None, 59_500, None, 60_000, 59_500);
        check(Some(55_000), 0, Some(50_000), 60_000, 55_000);
        check(Some(60_000), 0, Some(50_000), 60_000, 60_000);
        check(Some(5), 0, Some(50_000), 60_000, 50_000);
    }

    #[test]
    fn the_last_requests_of_a_producer_are_kept_for_a_while() {
        let mut tail = TopicTail::new(1);
        let now = Instant::now();
        for sequence in 1..=20 {
            let origin = Origin {
                producer_id: "p",
                sequence,
                index: 0,
            };
            tail.note(&origin, found(sequence), now);
        }
        let requests = tail.requests_of("p");
        assert_eq!(requests.highest(), Some(20));
        assert_eq!(requests.records(13), [found(13)]);
        assert_eq!(requests.records(12), []);
        tail.forget(now + MAX_AGE);
        assert_eq!(tail.requests_of("p"), RecentRequests::default());
    }
}
