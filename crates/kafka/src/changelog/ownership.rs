//! What an owner records of its ownership of a partition: the ownership record in the changelog, and the mark that is
//! committed with every offset of the group. Both are JSON; readers ignore unknown fields.

use serde::{Deserialize, Serialize};
use workspace_engine_core::routing::Partitioner;
use workspace_lifecycle::Offset;
use workspace_status::Epoch;

use crate::last_reads::LastRead;
use crate::topic_id::TopicId;

/// Most losses of a log in one record; beyond it the two oldest are merged into one that covers both.
const MAX_LOSSES: usize = 16;

/// The beginning of an owner's ownership of a partition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct OwnershipRecord {
    /// Higher than the epoch of every earlier load.
    #[serde(with = "epoch")]
    pub(super) first_epoch: Epoch,
    /// A random number of the partition: a changelog that was deleted and recreated has a different one.
    #[serde(with = "hexadecimal")]
    pub(super) lineage: u64,
    /// Id of the topic of the events; none where the brokers do not support topic ids.
    #[serde(with = "topic_id", default, skip_serializing_if = "Option::is_none")]
    pub(super) topic_id: Option<TopicId>,
    /// What the log has lost of events that had been saved, oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) losses: Vec<LogLoss>,
    /// How the partition of a workspace is chosen: all engines of a group must use the same.
    #[serde(with = "partitioner", default)]
    pub(super) partitioner: Partitioner,
}

/// A loss of the log: a workspace that an earlier load has saved beyond it is not continued.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct LogLoss {
    pub(super) kind: LossKind,
    /// Loads of an earlier epoch may have applied what was lost.
    #[serde(with = "epoch")]
    pub(super) since: Epoch,
    /// The first offset that was lost.
    pub(super) from: u64,
}

/// How a log has lost records.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum LossKind {
    /// The topic was deleted and recreated.
    Recreated,
    /// Its records from an offset on were lost, and others may have taken their offsets.
    End,
}

impl OwnershipRecord {
    /// Adds a loss, and removes earlier ones that it includes.
    pub(super) fn add_loss(&mut self, loss: LogLoss) {
        self.losses.retain(|earlier| earlier.from < loss.from);
        self.losses.push(loss);
        if self.losses.len() > MAX_LOSSES {
            // The first has the lowest offset: with the epoch of the second it covers both.
            let second = self.losses.remove(1);
            if let Some(first) = self.losses.first_mut() {
                first.since = second.since;
            }
        }
    }
}

/// The loss over which a workspace cannot be continued that a load of `epoch` has saved up to `next_offset`.
pub(super) fn loss_of(losses: &[LogLoss], epoch: Epoch, next_offset: Offset) -> Option<&LogLoss> {
    losses
        .iter()
        .find(|loss| epoch < loss.since && next_offset.0 > loss.from)
}

/// The metadata of a committed offset of the group: its producer, changelog and topic.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct CommitMark {
    /// The transactional id of the producer that committed it.
    pub(super) producer: String,
    /// Lineage of the ownership record that the offset was committed under.
    #[serde(with = "hexadecimal")]
    pub(super) lineage: u64,
    /// First epoch of the same record.
    #[serde(with = "epoch")]
    pub(super) first_epoch: Epoch,
    /// The highest epoch in the partition, so that epochs do not restart where the changelog is lost.
    #[serde(with = "epoch")]
    pub(super) highest_epoch: Epoch,
    /// The changelog ended at this offset or later.
    pub(super) position: u64,
    #[serde(with = "topic_id", default, skip_serializing_if = "Option::is_none")]
    pub(super) topic_id: Option<TopicId>,
    /// The last events that were read, by the epochs of their leaders; `seen` in the metadata.
    #[serde(rename = "seen", default, skip_serializing_if = "Vec::is_empty")]
    pub(super) last_reads: Vec<LastRead>,
    /// The first known record whose workspace belongs to another partition.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) misrouted_from: Option<u64>,
}

impl CommitMark {
    /// The metadata text that is committed.
    pub(super) fn encode(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }

    /// The mark in committed metadata; none where no engine wrote it.
    pub(super) fn decode(text: &str) -> Option<Self> {
        serde_json::from_str(text).ok()
    }

    /// The first offset, not below `low`, that may hold a record of another partition's workspace.
    pub(super) fn misrouted_from(&self, low: Offset) -> Option<Offset> {
        self.misrouted_from.map(|from| Offset(from).max(low))
    }

    /// Whether the offset was committed under this record or an earlier one of the same lineage.
    pub(super) fn belongs_to(&self, record: &OwnershipRecord) -> bool {
        // Each record has its own first epoch and was committed together with an offset. Where that offset was lost, an
        // earlier offset is only lower.
        self.lineage == record.lineage && self.first_epoch <= record.first_epoch
    }
}

/// The transactional id of the producer that committed an offset; none where it was no engine.
pub(crate) fn producer_of(metadata: &str) -> Option<String> {
    CommitMark::decode(metadata).map(|mark| mark.producer)
}

mod epoch {
    use serde::{Deserialize, Deserializer, Serializer};
    use workspace_status::Epoch;

    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde requires it")]
    pub(super) fn serialize<S: Serializer>(epoch: &Epoch, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_u64(epoch.get())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Epoch, D::Error> {
        u64::deserialize(from).map(Epoch::new)
    }
}

mod partitioner {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};
    use workspace_engine_core::routing::Partitioner;

    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde requires it")]
    pub(super) fn serialize<S: Serializer>(by: &Partitioner, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(by.name())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Partitioner, D::Error> {
        String::deserialize(from)?.parse().map_err(D::Error::custom)
    }
}

mod hexadecimal {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde requires it")]
    pub(super) fn serialize<S: Serializer>(number: &u64, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(&format_args!("{number:016x}"))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<u64, D::Error> {
        u64::from_str_radix(&String::deserialize(from)?, 16).map_err(D::Error::custom)
    }
}

mod topic_id {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    use crate::topic_id::TopicId;

    #[expect(clippy::ref_option, reason = "serde requires it")]
    pub(super) fn serialize<S: Serializer>(id: &Option<TopicId>, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(&format_args!("{:032x}", id.map_or(0, TopicId::get)))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        from: D,
    ) -> Result<Option<TopicId>, D::Error> {
        let id = u128::from_str_radix(&String::deserialize(from)?, 16);
        id.map(TopicId::new).map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn loss(since: u64, from: u64) -> LogLoss {
        LogLoss {
            kind: LossKind::End,
            since: Epoch::new(since),
            from,
        }
    }

    fn record() -> OwnershipRecord {
        OwnershipRecord {
            first_epoch: Epoch::new(9),
            lineage: 1 << 63,
            topic_id: TopicId::new(u128::MAX - 1),
            losses: Vec::new(),
            partitioner: Partitioner::default(),
        }
    }

    #[test]
    fn a_workspace_is_not_continued_that_was_saved_beyond_a_loss() {
        let mut record = record();
        for (since, from) in [(4, 50), (7, 10), (9, 20)] {
            record.add_loss(loss(since, from));
        }
        assert_eq!(
            record.losses,
            [loss(7, 10), loss(9, 20)],
            "the others include the first"
        );
        for (epoch, next_offset, expected) in [
            (3, 10, None),
            (3, 11, Some(10)),
            (6, 60, Some(10)),
            (7, 20, None),
            (7, 21, Some(20)),
            (9, 60, None),
        ] {
            let found = loss_of(&record.losses, Epoch::new(epoch), Offset(next_offset));
            let found = found.map(|loss| loss.from);
            assert_eq!(found, expected, "{epoch} {next_offset}");
        }
    }

    #[test]
    fn losses_are_bounded_and_none_is_forgotten() {
        let mut record = record();
        for number in 1..100 {
            record.add_loss(loss(number, 10 * number));
        }
        assert_eq!(record.losses.len(), MAX_LOSSES);
        for number in 1..100 {
            let found = loss_of(
                &record.losses,
                Epoch::new(number - 1),
                Offset(10 * number + 1),
            );
            assert!(found.is_some(), "{number}");
        }
    }

    #[test]
    fn a_mark_is_read_as_it_was_written_and_nothing_else_is_taken_for_one() {
        let mark = CommitMark {
            producer: "engine-events-one-00".to_owned(),
            lineage: 7,
            first_epoch: Epoch::new(4),
            highest_epoch: Epoch::new(u64::MAX),
            position: 12,
            topic_id: TopicId::new(3),
            last_reads: vec![LastRead {
                leader_epoch: 2,
                offset: 11,
            }],
            misrouted_from: Some(3),
        };
        assert_eq!(CommitMark::decode(&mark.encode()), Some(mark.clone()));
        let later = mark.encode().replacen('{', "{\"later\":[1],", 1);
        assert_eq!(CommitMark::decode(&later), Some(mark));
        for text in ["", "engine-events-one-00", "{}", "[1]", "null"] {
            assert_eq!(CommitMark::decode(text), None, "{text:?}");
        }
    }

    #[test]
    fn a_mark_belongs_to_the_record_it_was_committed_under_and_later_ones() {
        let mark = |lineage, first_epoch| CommitMark {
            producer: String::new(),
            lineage,
            first_epoch: Epoch::new(first_epoch),
            highest_epoch: Epoch::new(99),
            position: 0,
            topic_id: None,
            last_reads: Vec::new(),
            misrouted_from: None,
        };
        let record = record();
        for (lineage, first_epoch, expected) in [
            (1 << 63, 9, true),
            (1 << 63, 8, true),
            (1 << 63, 10, false),
            (1, 9, false),
        ] {
            assert_eq!(mark(lineage, first_epoch).belongs_to(&record), expected);
        }
    }
}
