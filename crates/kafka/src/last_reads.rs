//! Up to where each partition of the events was read, and under which leader epoch, to detect a log that has lost its
//! end.
//!
//! A leader writes its epoch into every batch. Records keep the epoch that they were written under, and epochs never
//! decrease along a partition. So a record of a later epoch at or before an offset that was read earlier means that the
//! records from there on are not those that were read.

use std::collections::HashMap;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use workspace_lifecycle::{Offset, PartitionId};

/// Most leaders of a partition whose last record is kept; a takeover compares all of them and keeps only the last one.
const MAX_LEADERS: usize = 4;

/// The last record that was read of one leader epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LastRead {
    pub(crate) leader_epoch: i32,
    pub(crate) offset: u64,
}

/// The last records that this process has read of each partition, one a leader epoch, ordered by offset.
#[derive(Debug, Default)]
pub(crate) struct LastReads(Mutex<HashMap<PartitionId, Vec<LastRead>>>);

impl LastReads {
    /// Notes a record that was read. Records of brokers without leader epochs are ignored.
    pub(crate) fn note(&self, partition: PartitionId, record: LastRead) {
        if record.leader_epoch < 0 {
            return;
        }
        note(self.0.lock().entry(partition).or_default(), record);
    }

    /// Those of a partition.
    pub(crate) fn of(&self, partition: PartitionId) -> Vec<LastRead> {
        self.0.lock().get(&partition).cloned().unwrap_or_default()
    }

    /// Starts a partition with the last records that its previous owner had read and the log still holds.
    pub(crate) fn begin(&self, partition: PartitionId, last_reads: Vec<LastRead>) {
        self.0.lock().insert(partition, last_reads);
    }
}

/// Adds a record; records are added in the order in which they are read.
pub(crate) fn note(last_reads: &mut Vec<LastRead>, record: LastRead) {
    match last_reads.last_mut() {
        Some(last) if record.offset <= last.offset => {}
        Some(last) if record.leader_epoch == last.leader_epoch => last.offset = record.offset,
        Some(_) | None => {
            if last_reads.len() == MAX_LEADERS {
                last_reads.remove(0);
            }
            last_reads.push(record);
        }
    }
}

/// The first offset from which a log no longer holds what was read of it; none if no loss is detected.
///
/// `low` is its beginning, and `record_at` finds the first record at or after an offset. What was removed at the
/// beginning is not compared. A record that was compacted away is no sign of a loss.
///
/// # Errors
/// Those of `record_at`.
pub(crate) fn lost_from<E>(
    last_reads: &[LastRead],
    low: Offset,
    record_at: &mut impl FnMut(u64) -> Result<Option<LastRead>, E>,
) -> Result<Option<Offset>, E> {
    let mut lost: Option<u64> = None;
    for read in last_reads {
        if read.offset < low.0 || record_at(read.offset)? == Some(*read) {
            continue;
        }
        // Binary search for the first offset from which no record of this leader or an earlier one follows.
        let (mut from, mut to) = (low.0, read.offset.saturating_add(1));
        while from < to {
            let middle = from + (to - from) / 2;
            match record_at(middle)? {
                Some(record) if record.leader_epoch <= read.leader_epoch => {
                    from = record.offset.saturating_add(1);
                }
                Some(_) | None => to = middle,
            }
        }
        let is_lost = match record_at(from)? {
            Some(record) => record.offset <= read.offset,
            None => from <= read.offset,
        };
        if is_lost {
            lost = Some(lost.map_or(from, |lost| lost.min(from)));
        }
    }
    Ok(lost.map(Offset))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(leader_epoch: i32, offset: u64) -> LastRead {
        LastRead {
            leader_epoch,
            offset,
        }
    }

    /// [`lost_from`] on a log of some leaders, each with its epoch and the offsets of its records.
    fn lost(
        of: &[LastRead],
        low: u64,
        leaders: &[(i32, std::ops::Range<u64>)],
        without: &[u64],
    ) -> Option<u64> {
        let records: Vec<_> = leaders
            .iter()
            .flat_map(|(epoch, offsets)| offsets.clone().map(|offset| at(*epoch, offset)))
            .filter(|record| record.offset >= low && !without.contains(&record.offset))
            .collect();
        let mut queries = 0;
        let lost = lost_from(of, Offset(low), &mut |from| {
            queries += 1;
            let found = records.iter().find(|record| record.offset >= from);
            Ok::<_, ()>(found.copied())
        });
        assert!(queries < 40, "{queries} queries");
        lost.unwrap().map(|offset| offset.0)
    }

    #[test]
    fn a_log_is_recognised_by_the_leader_epochs_of_its_records() {
        let read = [at(3, 29)];
        for (what, low, leaders, without, expected) in [
            ("as it was", 0, &[(3, 0..30)][..], &[][..], None),
            ("grown", 0, &[(3, 0..40)], &[], None),
            (
                "under another leader",
                0,
                &[(3, 0..30), (5, 30..60)],
                &[],
                None,
            ),
            (
                "with a beginning removed",
                30,
                &[(3, 0..30), (5, 30..60)],
                &[],
                None,
            ),
            ("with nothing left", 40, &[(3, 0..30)], &[], None),
            ("cut", 0, &[(3, 0..10)], &[], Some(10)),
            ("cut to nothing", 0, &[], &[], Some(0)),
            (
                "cut and grown less",
                0,
                &[(3, 0..10), (5, 10..20)],
                &[],
                Some(10),
            ),
            (
                "cut and grown past",
                0,
                &[(3, 0..10), (5, 10..60)],
                &[],
                Some(10),
            ),
            (
                "cut within what is left",
                7,
                &[(3, 0..10), (5, 10..60)],
                &[],
                Some(10),
            ),
            (
                "cut to nothing and grown past",
                0,
                &[(5, 0..60)],
                &[],
                Some(0),
            ),
            (
                "cut twice",
                0,
                &[(3, 0..10), (5, 10..12), (7, 12..60)],
                &[],
                Some(10),
            ),
            (
                "the record compacted away",
                0,
                &[(3, 0..30), (5, 30..60)],
                &[29],
                None,
            ),
            (
                "more compacted away",
                0,
                &[(3, 0..30), (5, 30..60)],
                &[27, 28, 29, 30, 31],
                None,
            ),
            (
                "all of the leader compacted away",
                0,
                &[(3, 0..30), (5, 30..60)],
                &(0..30).collect::<Vec<_>>(),
                None,
            ),
            (
                "cut, a marker at that offset",
                0,
                &[(3, 0..10), (5, 10..60)],
                &[29],
                Some(10),
            ),
        ] {
            assert_eq!(lost(&read, low, leaders, without), expected, "{what}");
        }
    }

    #[test]
    fn a_loss_between_two_leaders_that_were_read_is_found() {
        // A reader continued after the loss without noticing it.
        let read = [at(3, 29), at(5, 34)];
        let leaders = [(3, 0..10), (5, 10..50)];
        assert_eq!(lost(&read, 0, &leaders, &[]), Some(10));
        let leaders = [(3, 0..30), (5, 30..50)];
        assert_eq!(lost(&read, 0, &leaders, &[]), None);
    }

    #[test]
    fn the_last_record_of_each_leader_is_remembered() {
        let records = LastReads::default();
        let partition = PartitionId(1);
        for (leader_epoch, offset) in [(-1, 0), (2, 3), (2, 9), (2, 4), (4, 10), (4, 12)] {
            records.note(partition, at(leader_epoch, offset));
        }
        assert_eq!(records.of(partition), [at(2, 9), at(4, 12)]);
        for (leader_epoch, offset) in (5..9).zip(13..) {
            records.note(partition, at(leader_epoch, offset));
        }
        assert_eq!(records.of(partition).len(), MAX_LEADERS);
        assert_eq!(records.of(PartitionId(2)), []);
    }
}
