//! Records whose key belongs on another partition: their producer uses another partitioner than this engine.
//!
//! They are never applied, because two partitions would then hold one workspace. If nothing else is known here of such
//! a workspace, it is shown as parked, with the address of its record and the setting that would apply it.

use std::collections::BTreeMap;
use std::fmt;

use parking_lot::Mutex;
use workspace_lifecycle::{Offset, PartitionId};
use workspace_status::{InvalidWorkspaceId, Tracker, Value, WorkspaceId, WorkspaceStatus};

use std::sync::Arc;

use crate::routing::Partitioner;

/// Most workspaces whose misrouted records are remembered and shown.
pub const MAX_MISROUTED: usize = 1_000;

/// The last record of a workspace that was read on a wrong partition. It is never applied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Misrouted {
    /// The topic.
    pub topic: Arc<str>,
    /// The partition on which it was read.
    pub found: PartitionId,
    /// Its offset there.
    pub offset: Offset,
    /// Its key.
    pub id: WorkspaceId,
    /// The partition to which its key belongs.
    pub expected: PartitionId,
    /// The partitioner that says so.
    pub partitioner: Partitioner,
    /// Number of partitions of the topic.
    pub partitions: u32,
}

impl Misrouted {
    /// The partitioners that would put its key on the partition where it was read.
    pub fn fitting(&self) -> impl Iterator<Item = Partitioner> {
        Partitioner::ALL
            .into_iter()
            .filter(|one| one.partition_of(&self.id, self.partitions) == self.found)
    }
}

impl fmt::Display for Misrouted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "the record at topic {} partition {} offset {} key {} is not applied: its key belongs on partition {} by {}",
            self.topic, self.found, self.offset, self.id, self.expected, self.partitioner
        )?;
        let fitting: Vec<&str> = self.fitting().map(Partitioner::name).collect();
        if fitting.is_empty() {
            f.write_str(
                "; no partitioner of --partitioner puts this key there: its producer chose the partition in another way, or \
                 partitions were added to the topic",
            )
        } else {
            write!(
                f,
                "; --partitioner {} would put this key there: if the producers use that, start all engines with it and \
                 another --group, which builds the workspaces from the topic again, or set the producers to {}",
                fitting.join(" or "),
                self.partitioner
            )
        }
    }
}

/// Records read on a wrong partition, and which workspaces are shown because of them.
#[derive(Debug, Default)]
pub(crate) struct MisroutedRecords(Mutex<BTreeMap<WorkspaceId, Remembered>>);

#[derive(Debug)]
struct Remembered {
    record: Misrouted,
    /// The status in the tracker was created for the record: nothing else is known of the workspace here.
    is_shown: bool,
}

/// Whether a record gets a line in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Noted {
    /// The first of its workspace.
    First,
    /// The first workspace beyond the limit: its records, and those of later ones, are only counted.
    TooMany,
    /// A repeat, or one beyond the limit; not logged.
    Again,
}

impl MisroutedRecords {
    /// Remembers a record, and shows its workspace if nothing else is known of it.
    pub(crate) fn note(&self, record: &Misrouted, tracker: &Tracker) -> Noted {
        let mut remembered = self.0.lock();
        if let Some(last) = remembered.get_mut(&record.id) {
            last.record = record.clone();
            return Noted::Again;
        }
        if remembered.len() > MAX_MISROUTED {
            return Noted::Again;
        }
        // One more is remembered than shown, so that [`Noted::TooMany`] is returned once.
        let is_too_many = remembered.len() == MAX_MISROUTED;
        let is_shown = !is_too_many && show(record, tracker);
        remembered.insert(
            record.id.clone(),
            Remembered {
                record: record.clone(),
                is_shown,
            },
        );
        if is_too_many {
            Noted::TooMany
        } else {
            Noted::First
        }
    }

    /// The status of a workspace whose own partition is served here. It replaces a status that was shown for a record
    /// on another partition.
    pub(crate) fn own_status(
        &self,
        id: &WorkspaceId,
        tracker: &Tracker,
    ) -> Result<Arc<WorkspaceStatus>, InvalidWorkspaceId> {
        let mut remembered = self.0.lock();
        if let Some(shown) = remembered.get_mut(id).filter(|known| known.is_shown) {
            shown.is_shown = false;
            tracker.remove(id);
        }
        tracker.try_get_or_create(id)
    }

    /// This process does not read the partition any more; the process that reads it next finds the records again.
    pub(crate) fn forget(&self, partition: PartitionId, tracker: &Tracker) {
        self.0.lock().retain(|id, known| {
            let is_kept = known.record.found != partition;
            if !is_kept && known.is_shown {
                tracker.remove(id);
            }
            is_kept
        });
    }

    pub(crate) fn of(&self, id: &WorkspaceId) -> Option<Misrouted> {
        let remembered = self.0.lock();
        remembered.get(id).map(|known| known.record.clone())
    }

    /// Whether the status in the tracker was created for a record on a wrong partition. It is not written to the
    /// history: that belongs to the owner of the workspace's own partition.
    pub(crate) fn is_shown(&self, id: &WorkspaceId) -> bool {
        self.0.lock().get(id).is_some_and(|known| known.is_shown)
    }
}

/// Shows a workspace as parked, unless it has a status.
fn show(record: &Misrouted, tracker: &Tracker) -> bool {
    let Some(status) = tracker.create(&record.id, "it has a record on a wrong partition") else {
        return false;
    };
    for (key, value) in [
        ("topic", Value::from(&*record.topic)),
        ("partition", Value::from(record.found.0)),
        ("partition_offset", Value::from(record.offset.0)),
    ] {
        let _ = status.update_metadata(key, value);
    }
    status.set_parked(record);
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use workspace_status::State;

    fn record(id: &str, found: u32, offset: u64) -> Misrouted {
        let id = WorkspaceId::new(id).unwrap();
        let partitioner = Partitioner::default();
        Misrouted {
            topic: Arc::from("events"),
            found: PartitionId(found),
            offset: Offset(offset),
            expected: partitioner.partition_of(&id, 12),
            id,
            partitioner,
            partitions: 12,
        }
    }

    #[test]
    fn a_record_names_its_address_and_the_setting_that_would_take_it() {
        assert_eq!(
            record("acme", 2, 7).to_string(),
            "the record at topic events partition 2 offset 7 key acme is not applied: its key belongs on partition 0 by \
             murmur2_random; --partitioner consistent_random would put this key there: if the producers use that, start \
             all engines with it and another --group, which builds the workspaces from the topic again, or set the \
             producers to murmur2_random"
        );
        let other = record("acme", 5, 7).to_string();
        assert!(other.contains("no partitioner of --partitioner"), "{other}");
    }

    #[test]
    fn a_misrouted_workspace_is_shown_until_its_owner_knows_more() {
        let (records, tracker) = (MisroutedRecords::default(), Tracker::new());
        assert_eq!(records.note(&record("acme", 2, 7), &tracker), Noted::First);
        assert_eq!(records.note(&record("acme", 2, 8), &tracker), Noted::Again);
        let status = tracker.snapshot("acme").expect("it is shown");
        assert_eq!(status.state(), State::Error);
        assert!(records.is_shown(&record("acme", 2, 7).id));

        let own = records.own_status(&record("acme", 2, 7).id, &tracker);
        assert_eq!(own.expect("valid").state(), State::Initializing);
        assert!(!records.is_shown(&record("acme", 2, 7).id));
        records.forget(PartitionId(2), &tracker);
        assert!(tracker.get("acme").is_some(), "its own partition shows it");

        records.note(&record("kafka", 11, 0), &tracker);
        records.forget(PartitionId(3), &tracker);
        assert!(tracker.get("kafka").is_some());
        records.forget(PartitionId(11), &tracker);
        assert!(tracker.get("kafka").is_none());
        assert_eq!(records.of(&record("kafka", 11, 0).id), None);
    }

    #[test]
    fn a_bounded_number_is_remembered_and_logged_once() {
        let (records, tracker) = (MisroutedRecords::default(), Tracker::new());
        let noted: Vec<Noted> = (0..MAX_MISROUTED + 5)
            .map(|number| records.note(&record(&format!("w{number}"), 2, 0), &tracker))
            .collect();
        let count = |wanted| noted.iter().filter(|noted| **noted == wanted).count();
        assert_eq!(count(Noted::First), MAX_MISROUTED);
        assert_eq!(count(Noted::TooMany), 1);
        assert_eq!(tracker.count(), MAX_MISROUTED);
    }
}
