//! The records of a batch, grouped by workspace.

use std::collections::HashMap;

use workspace_lifecycle::{PartitionId, Touched};
use workspace_status::WorkspaceId;

use crate::log::{Batch, Record};
use crate::misrouted::Misrouted;
use crate::routing::Partitioner;

/// A batch whose records are grouped by workspace. The records are not moved: those of a group are linked by their
/// index.
#[derive(Debug)]
pub(crate) struct Grouped {
    records: Vec<Record>,
    /// Index of the next record of the same workspace; [`NONE`] after the last.
    next: Vec<u32>,
    groups: Vec<Group>,
    pub(crate) unroutable: u64,
    /// Workspaces that belong to another partition, each with its first record here.
    pub(crate) misrouted: Vec<Misrouted>,
    pub(crate) misrouted_records: u64,
    pub(crate) bytes: u64,
}

/// The partition of a batch, and what decides which keys belong to it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct OwnPartition<'a> {
    pub(crate) topic: &'a str,
    pub(crate) partition: PartitionId,
    pub(crate) partitions: u32,
    pub(crate) partitioner: Partitioner,
}

#[derive(Debug)]
struct Group {
    id: WorkspaceId,
    first: u32,
    last: u32,
}

const NONE: u32 = u32::MAX;

/// Where the records of a key go.
#[derive(Debug, Clone, Copy)]
enum Route {
    Group(usize),
    Misrouted,
    /// The key is missing or is not a valid workspace id.
    Nowhere,
}

impl Grouped {
    /// Groups the records of a partition by key. Records without a valid key and records that belong to another
    /// partition are counted and left out.
    pub(crate) fn new(batch: Batch, own: OwnPartition<'_>) -> Self {
        let records = batch.records;
        let mut next = vec![NONE; records.len()];
        let mut groups: Vec<Group> = Vec::new();
        let (mut unroutable, mut misrouted_records, mut bytes) = (0, 0, 0);
        let mut misrouted = Vec::new();
        let mut by_key: HashMap<&[u8], Route> = HashMap::new();
        let mut before: Option<(&[u8], usize)> = None;
        for (place, record) in (0..NONE).zip(&records) {
            bytes += u64::try_from(record.value().map_or(0, <[u8]>::len)).unwrap_or(0);
            let mut route = |key| {
                let Some(id) = workspace_of(key) else {
                    return Route::Nowhere;
                };
                let expected = own.partitioner.partition_of(&id, own.partitions);
                if expected != own.partition {
                    misrouted.push(Misrouted {
                        topic: own.topic.into(),
                        found: own.partition,
                        offset: record.offset,
                        id,
                        expected,
                        partitioner: own.partitioner,
                        partitions: own.partitions,
                    });
                    return Route::Misrouted;
                }
                groups.push(Group {
                    id,
                    first: place,
                    last: place,
                });
                Route::Group(groups.len() - 1)
            };
            let route = record.key().map_or(Route::Nowhere, |key| match before {
                Some((last_key, index)) if last_key == key => Route::Group(index),
                _ => {
                    let route = *by_key.entry(key).or_insert_with(|| route(key));
                    if let Route::Group(index) = route {
                        before = Some((key, index));
                    }
                    route
                }
            });
            let group = match route {
                Route::Group(index) => groups.get_mut(index),
                Route::Misrouted => {
                    misrouted_records += 1;
                    continue;
                }
                Route::Nowhere => None,
            };
            let Some(group) = group else {
                unroutable += 1;
                continue;
            };
            if group.last != place
                && let Some(link) = usize::try_from(group.last)
                    .ok()
                    .and_then(|last| next.get_mut(last))
            {
                *link = place;
                group.last = place;
            }
        }
        Self {
            records,
            next,
            groups,
            unroutable,
            misrouted,
            misrouted_records,
            bytes,
        }
    }

    /// The workspaces of the batch, each with its first and last offset.
    pub(crate) fn touched(&self) -> Vec<Touched> {
        self.groups
            .iter()
            .filter_map(|group| {
                Some(Touched {
                    id: group.id.clone(),
                    first_offset: self.record(group.first)?.offset,
                    last_offset: self.record(group.last)?.offset,
                })
            })
            .collect()
    }

    /// The workspaces of the batch, each with its records in offset order.
    pub(crate) fn groups(
        &self,
    ) -> impl Iterator<Item = (&WorkspaceId, impl Iterator<Item = &Record>)> {
        self.groups
            .iter()
            .map(|group| (&group.id, self.chain(group.first)))
    }

    fn chain(&self, first: u32) -> impl Iterator<Item = &Record> {
        let mut place = first;
        std::iter::from_fn(move || {
            let record = self.record(place)?;
            place = usize::try_from(place)
                .ok()
                .and_then(|place| self.next.get(place).copied())
                .unwrap_or(NONE);
            Some(record)
        })
    }

    fn record(&self, place: u32) -> Option<&Record> {
        self.records.get(usize::try_from(place).ok()?)
    }

    /// Records that belong to a workspace.
    pub(crate) fn routable(&self) -> u64 {
        u64::try_from(self.records.len())
            .unwrap_or(0)
            .saturating_sub(self.unroutable + self.misrouted_records)
    }
}

fn workspace_of(key: &[u8]) -> Option<WorkspaceId> {
    WorkspaceId::new(std::str::from_utf8(key).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use workspace_lifecycle::Offset;

    #[test]
    fn records_of_other_partitions_or_of_no_workspace_are_counted() {
        let own = OwnPartition {
            topic: "events",
            partition: PartitionId(0),
            partitions: 2,
            partitioner: Partitioner::ConsistentRandom,
        };
        let id_on = |partition: u32| {
            let by = own.partitioner;
            (0..100)
                .map(|number| format!("w{number}"))
                .find(|id| by.partition_of_key(id.as_bytes(), own.partitions).0 == partition)
                .unwrap()
        };
        let (here, elsewhere) = (id_on(0), id_on(1));
        let keys: [Option<&[u8]>; 6] = [
            Some(here.as_bytes()),
            Some(elsewhere.as_bytes()),
            None,
            Some(b"no id"),
            Some(elsewhere.as_bytes()),
            Some(here.as_bytes()),
        ];
        let records = (10..)
            .zip(keys)
            .map(|(offset, key)| Record::new(Offset(offset), key, Some(b"{}")))
            .collect();
        let batch = Batch {
            records,
            next_offset: Offset(16),
            high_watermark: Offset(16),
        };
        let grouped = Grouped::new(batch, own);
        let offsets: Vec<Vec<u64>> = grouped
            .groups()
            .map(|(_, records)| records.map(|record| record.offset.0).collect())
            .collect();
        assert_eq!(offsets, [[10, 15]]);
        assert_eq!((grouped.unroutable, grouped.misrouted_records), (2, 2));
        let misrouted = Misrouted {
            topic: "events".into(),
            found: own.partition,
            offset: Offset(11),
            id: WorkspaceId::new(&elsewhere).unwrap(),
            expected: PartitionId(1),
            partitioner: own.partitioner,
            partitions: 2,
        };
        assert_eq!(grouped.misrouted, [misrouted]);
        assert_eq!(grouped.routable(), 2);
    }
}
