//! What a takeover does: facts in, plan out.
//!
//! An offset of the group means that the changelog knows every workspace with an event before it; each continues from
//! its own `next_offset`. This is true only together with the ownership record under which it was committed: a
//! changelog that was deleted, recreated or truncated has no such record, or an earlier one.

use std::fmt;

use workspace_lifecycle::{Offset, PartitionId};

use super::ownership::{CommitMark, LossKind, OwnershipRecord};
use crate::config::AcceptLoss;
use crate::topic_id::TopicId;

/// What the group has committed of a partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum GroupOffset {
    /// Nothing, or it has expired.
    None,
    /// An engine of this group has committed it.
    Engine { offset: Offset, mark: CommitMark },
    /// Another application or a tool has committed it.
    Foreign { offset: Offset, metadata: String },
}

/// Whether a copy of the partition, which may hold what the changelog does not, was set aside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SetAside {
    Nothing,
    Copy,
}

/// What is known of a partition when it is taken over.
#[derive(Debug, Clone)]
pub(super) struct Facts<'a> {
    pub(super) partition: PartitionId,
    pub(super) topic: &'a str,
    pub(super) group: &'a str,
    pub(super) changelog: &'a str,
    pub(super) group_offset: &'a GroupOffset,
    /// The newest ownership record in the changelog.
    pub(super) record: Option<&'a OwnershipRecord>,
    /// Where the changelog ends.
    pub(super) changelog_end: u64,
    /// Id of the topic of the events; none where the brokers do not report it.
    pub(super) topic_id: Option<TopicId>,
    /// Where the events begin.
    pub(super) low: Offset,
    /// Where they end.
    pub(super) high: Offset,
    /// The offset from which they are not those that were read.
    pub(super) lost_from: Option<Offset>,
    pub(super) set_aside: SetAside,
    pub(super) accept_loss: AcceptLoss,
}

/// The decision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Plan {
    Serve {
        /// Discovery begins here: the changelog knows every workspace with an earlier event that still exists.
        committed: Offset,
        /// What the log has lost since the last takeover, and from which offset.
        loss: Option<(LossKind, Offset)>,
        /// In the order in which they are logged.
        notices: Vec<Notice>,
    },
    Refuse(Missing),
}

/// A problem that the takeover found, and what it does about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Notice {
    /// The group has no offset, and the topic no longer has its first events.
    BeginsLate {
        low: Offset,
    },
    /// All of the topic is read again.
    Rebuilt(Missing),
    /// The operator has accepted the loss.
    Accepted(Missing),
    /// Events were removed before any engine read them.
    Gap {
        from: Offset,
        low: Offset,
    },
    Lost {
        kind: LossKind,
        from: Offset,
    },
}

/// What is missing, so that a takeover cannot rely on the committed offset.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Missing {
    what: MissingWhat,
    partition: PartitionId,
    topic: String,
    group: String,
    changelog: String,
    low: Offset,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum MissingWhat {
    /// The offset was not committed by an engine of the group.
    Mark { offset: Offset, metadata: String },
    /// The changelog lacks the ownership record that the offset was committed under, or ends before the mark's
    /// position.
    Record { offset: Offset },
    /// Neither the group nor the changelog knows the partition, but a copy on this disk had workspaces of it.
    Group,
}

/// Decides what a takeover does.
pub(super) fn plan(facts: &Facts<'_>) -> Plan {
    let loss = loss(facts);
    let serve = |committed: Offset, notice: Option<Notice>| Plan::Serve {
        committed: loss.map_or(committed, |(_, from)| committed.min(from.max(facts.low))),
        loss,
        notices: loss
            .map(|(kind, from)| Notice::Lost { kind, from })
            .into_iter()
            .chain(notice)
            .collect(),
    };
    let begins_late = (facts.low > Offset::ZERO).then_some(Notice::BeginsLate { low: facts.low });
    let what = match (facts.group_offset, facts.record) {
        (GroupOffset::Foreign { offset, metadata }, _) => MissingWhat::Mark {
            offset: *offset,
            metadata: metadata.clone(),
        },
        (GroupOffset::None, None) if facts.set_aside == SetAside::Copy => MissingWhat::Group,
        // The group is new, or its offset has expired: then each saved workspace has its own next offset.
        (GroupOffset::None, _) => return serve(facts.low, begins_late),
        (GroupOffset::Engine { offset, mark }, Some(record))
            if mark.belongs_to(record) && facts.changelog_end >= mark.position =>
        {
            let gap = (*offset < facts.low).then_some(Notice::Gap {
                from: *offset,
                low: facts.low,
            });
            return serve(*offset, gap);
        }
        (GroupOffset::Engine { offset, .. }, _) => MissingWhat::Record { offset: *offset },
    };
    let is_foreign = matches!(what, MissingWhat::Mark { .. });
    let missing = Missing {
        what,
        partition: facts.partition,
        topic: facts.topic.to_owned(),
        group: facts.group.to_owned(),
        changelog: facts.changelog.to_owned(),
        low: facts.low,
    };
    match facts.accept_loss {
        // The topic still has every event.
        _ if !is_foreign && facts.low == Offset::ZERO => {
            serve(Offset::ZERO, Some(Notice::Rebuilt(missing)))
        }
        AcceptLoss::Yes => serve(facts.low, Some(Notice::Accepted(missing))),
        AcceptLoss::No => Plan::Refuse(missing),
    }
}

/// What the log has lost of the events that were saved.
fn loss(facts: &Facts<'_>) -> Option<(LossKind, Offset)> {
    let mark = match facts.group_offset {
        GroupOffset::Engine { offset, mark } => Some((*offset, mark)),
        GroupOffset::None | GroupOffset::Foreign { .. } => None,
    };
    let known_id = match facts.record {
        Some(record) => record.topic_id,
        None => mark.and_then(|(_, mark)| mark.topic_id),
    };
    if matches!((known_id, facts.topic_id), (Some(known), Some(id)) if known != id) {
        return Some((LossKind::Recreated, Offset::ZERO));
    }
    // This also works with brokers that report no leader epochs.
    let ends_early = mark.is_some_and(|(offset, _)| offset > facts.high);
    let lost_from = match (facts.lost_from, ends_early.then_some(facts.high)) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (one, other) => one.or(other),
    };
    lost_from.map(|from| (LossKind::End, from))
}

impl Notice {
    /// Whether group offset and changelog could not be relied on, so that the partition begins where the topic begins.
    pub(super) fn is_rebuilt(&self) -> bool {
        match self {
            Self::Rebuilt(_) | Self::Accepted(_) => true,
            Self::BeginsLate { .. } | Self::Gap { .. } | Self::Lost { .. } => false,
        }
    }

    /// Whether it is logged as an error; otherwise it is a warning.
    pub(super) fn is_error(&self) -> bool {
        match self {
            Self::BeginsLate { .. } | Self::Rebuilt(_) => false,
            Self::Accepted(_) | Self::Gap { .. } | Self::Lost { .. } => true,
        }
    }
}

impl fmt::Display for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BeginsLate { low } => write!(
                f,
                "the group begins at offset {low}, where the topic begins now: earlier events were removed"
            ),
            Self::Rebuilt(missing) => write!(
                f,
                "{}; all of the topic is read again, from offset 0",
                missing.what_is_missing()
            ),
            Self::Accepted(missing) => write!(
                f,
                "{}; this loss was accepted (accept-loss), and the partition begins at offset {} with the events that exist",
                missing.what_is_missing(),
                missing.low
            ),
            Self::Gap { from, low } => write!(
                f,
                "events from offset {from} on were removed before any engine read them; the topic begins at {low}"
            ),
            Self::Lost {
                kind: LossKind::Recreated,
                ..
            } => f.write_str(
                "the topic was deleted and recreated: workspaces that were saved from the other one are not continued",
            ),
            Self::Lost {
                kind: LossKind::End,
                from,
            } => write!(
                f,
                "the topic has lost the records from offset {from} on that were read: workspaces that were saved beyond \
                 it are not continued"
            ),
        }
    }
}

impl Missing {
    fn what_is_missing(&self) -> String {
        let Self {
            what,
            partition,
            topic,
            group,
            changelog,
            low,
        } = self;
        match what {
            MissingWhat::Mark { offset, metadata } => {
                let metadata: String = metadata.chars().take(64).collect();
                format!(
                    "offset {offset} of topic {topic} partition {partition} was not committed by an engine of group \
                     {group} (its metadata is {metadata:?}), so events before it may not have been applied"
                )
            }
            MissingWhat::Record { offset } => format!(
                "the group has committed offset {offset} of topic {topic} partition {partition}, but the ownership record \
                 that it was committed under is not in topic {changelog}, which was deleted, recreated or has lost its \
                 end; the events begin at offset {low}"
            ),
            MissingWhat::Group => format!(
                "neither the group nor topic {changelog} knows of partition {partition}, of which a copy with workspaces \
                 was set aside on this disk; the events begin at offset {low}"
            ),
        }
    }
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            what,
            partition,
            topic,
            group,
            low,
            ..
        } = self;
        let begins = format!(
            "start the engines with --accept-loss to begin at offset {low} with the events that exist"
        );
        let way_out = match what {
            MissingWhat::Mark { .. } => format!(
                "name another group, or stop the engines and delete the offset (kafka-consumer-groups.sh \
                 --delete-offsets --group {group} --topic {topic}:{partition}), or {begins}"
            ),
            MissingWhat::Record { .. } | MissingWhat::Group => begins,
        };
        write!(f, "{}; {way_out}", self.what_is_missing())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use workspace_engine_core::routing::Partitioner;
    use workspace_status::Epoch;

    const LINEAGE: u64 = 7;

    fn record(lineage: u64, first_epoch: u64, topic: u128) -> OwnershipRecord {
        OwnershipRecord {
            first_epoch: Epoch::new(first_epoch),
            lineage,
            topic_id: TopicId::new(topic),
            losses: Vec::new(),
            partitioner: Partitioner::default(),
        }
    }

    /// An offset committed under the record of `lineage` and `first_epoch`.
    fn engine(offset: u64, lineage: u64, first_epoch: u64) -> GroupOffset {
        GroupOffset::Engine {
            offset: Offset(offset),
            mark: CommitMark {
                producer: "engine-events-one".to_owned(),
                lineage,
                first_epoch: Epoch::new(first_epoch),
                highest_epoch: Epoch::new(first_epoch + 1),
                position: 40,
                topic_id: TopicId::new(1),
                last_reads: Vec::new(),
                misrouted_from: None,
            },
        }
    }

    fn foreign() -> GroupOffset {
        GroupOffset::Foreign {
            offset: Offset(20),
            metadata: String::new(),
        }
    }

    /// A partition as an engine leaves it that has read 30 events, all of which still exist.
    fn facts<'a>(group_offset: &'a GroupOffset, record: Option<&'a OwnershipRecord>) -> Facts<'a> {
        Facts {
            partition: PartitionId(2),
            topic: "events",
            group: "engine",
            changelog: "engine-events-changelog",
            group_offset,
            record,
            changelog_end: 50,
            topic_id: TopicId::new(1),
            low: Offset(0),
            high: Offset(30),
            lost_from: None,
            set_aside: SetAside::Nothing,
            accept_loss: AcceptLoss::No,
        }
    }

    /// The plan as text: from where it is served, what was lost, and the notices.
    fn decided(facts: &Facts<'_>) -> String {
        match plan(facts) {
            Plan::Refuse(_) => "refused".to_owned(),
            Plan::Serve {
                committed,
                loss,
                notices,
            } => {
                let notices = notices.into_iter().map(|notice| match notice {
                    Notice::BeginsLate { .. } => ", begins late".to_owned(),
                    Notice::Rebuilt(_) => ", rebuilt".to_owned(),
                    Notice::Accepted(_) => ", accepted".to_owned(),
                    Notice::Gap { .. } => ", gap".to_owned(),
                    Notice::Lost { kind, from } => {
                        assert_eq!(loss, Some((kind, from)));
                        format!(", lost {kind:?} {from}")
                    }
                });
                format!("from {committed}{}", notices.collect::<String>())
            }
        }
    }

    #[test]
    fn a_takeover_begins_where_everything_before_is_known() {
        let (none, own, other) = (GroupOffset::None, engine(30, LINEAGE, 5), foreign());
        let now = record(LINEAGE, 5, 1);
        let later = record(LINEAGE, 8, 1);
        let older = record(LINEAGE, 4, 1);
        let another = record(LINEAGE + 1, 9, 1);
        // Group offset, record, low offset of the events: the plan, and the plan with --accept-loss.
        for (group_offset, record, low, expected, accepted) in [
            (&none, None, 0, "from 0", "from 0"),
            (&none, None, 4, "from 4, begins late", "from 4, begins late"),
            (&none, Some(&now), 0, "from 0", "from 0"),
            (
                &none,
                Some(&now),
                4,
                "from 4, begins late",
                "from 4, begins late",
            ),
            (&own, Some(&now), 0, "from 30", "from 30"),
            (&own, Some(&now), 4, "from 30", "from 30"),
            (&own, Some(&later), 4, "from 30", "from 30"),
            (&own, Some(&now), 33, "from 30, gap", "from 30, gap"),
            // The changelog was deleted, restored from an older copy, or is another one.
            (&own, None, 0, "from 0, rebuilt", "from 0, rebuilt"),
            (&own, None, 4, "refused", "from 4, accepted"),
            (&own, Some(&older), 0, "from 0, rebuilt", "from 0, rebuilt"),
            (&own, Some(&older), 4, "refused", "from 4, accepted"),
            (
                &own,
                Some(&another),
                0,
                "from 0, rebuilt",
                "from 0, rebuilt",
            ),
            (&own, Some(&another), 4, "refused", "from 4, accepted"),
            (&other, None, 0, "refused", "from 0, accepted"),
            (&other, None, 4, "refused", "from 4, accepted"),
            (&other, Some(&now), 0, "refused", "from 0, accepted"),
            (&other, Some(&now), 4, "refused", "from 4, accepted"),
        ] {
            let facts = Facts {
                low: Offset(low),
                high: Offset(40),
                ..facts(group_offset, record)
            };
            let what = format!("{group_offset:?} {record:?} {low}");
            assert_eq!(decided(&facts), expected, "{what}");
            let facts = Facts {
                accept_loss: AcceptLoss::Yes,
                ..facts
            };
            assert_eq!(decided(&facts), accepted, "{what}");
        }
    }

    #[test]
    fn a_changelog_that_ends_before_what_was_committed_counts_as_lost() {
        let (own, now) = (engine(30, LINEAGE, 5), record(LINEAGE, 5, 1));
        for (changelog_end, low, expected) in [
            (40, 4, "from 30"),
            (39, 4, "refused"),
            (39, 0, "from 0, rebuilt"),
        ] {
            let facts = Facts {
                changelog_end,
                low: Offset(low),
                ..facts(&own, Some(&now))
            };
            assert_eq!(decided(&facts), expected, "{changelog_end} {low}");
        }
    }

    #[test]
    fn a_copy_that_was_set_aside_shows_that_a_group_is_not_new() {
        for (low, expected) in [(0, "from 0, rebuilt"), (4, "refused")] {
            let facts = Facts {
                low: Offset(low),
                set_aside: SetAside::Copy,
                ..facts(&GroupOffset::None, None)
            };
            assert_eq!(decided(&facts), expected, "{low}");
        }
    }

    #[test]
    fn a_loss_of_the_log_is_reported_and_read_again() {
        let (none, own) = (GroupOffset::None, engine(30, LINEAGE, 5));
        let (now, no_id) = (record(LINEAGE, 5, 1), record(LINEAGE, 5, 0));
        // Topic id, low and high offset of the events, lost from (by the epochs of the leaders).
        for (group_offset, record, topic, low, high, lost_from, expected) in [
            (&own, Some(&now), 1, 0, 35, None, "from 30"),
            (&own, Some(&now), 0, 0, 35, None, "from 30"),
            (&own, Some(&no_id), 2, 0, 35, None, "from 30"),
            (&own, Some(&now), 1, 0, 35, Some(10), "from 10, lost End 10"),
            (
                &own,
                Some(&now),
                1,
                12,
                35,
                Some(10),
                "from 12, lost End 10",
            ),
            (&own, Some(&now), 1, 0, 10, Some(10), "from 10, lost End 10"),
            (&own, Some(&now), 1, 0, 10, None, "from 10, lost End 10"),
            (&own, Some(&now), 1, 0, 20, Some(10), "from 10, lost End 10"),
            // The loss begins above what was applied.
            (&own, Some(&now), 1, 0, 35, Some(32), "from 30, lost End 32"),
            (&own, Some(&now), 2, 0, 35, None, "from 0, lost Recreated 0"),
            (
                &own,
                Some(&now),
                2,
                3,
                35,
                Some(10),
                "from 3, lost Recreated 0",
            ),
            (
                &none,
                Some(&now),
                2,
                0,
                35,
                None,
                "from 0, lost Recreated 0",
            ),
            // A broker has lost its disk: the ends of both topics, or the whole topics.
            (
                &own,
                None,
                1,
                0,
                35,
                Some(10),
                "from 0, lost End 10, rebuilt",
            ),
            (
                &own,
                None,
                2,
                0,
                5,
                None,
                "from 0, lost Recreated 0, rebuilt",
            ),
            (&own, None, 2, 4, 5, None, "refused"),
        ] {
            let facts = Facts {
                topic_id: TopicId::new(topic),
                low: Offset(low),
                high: Offset(high),
                lost_from: lost_from.map(Offset),
                ..facts(group_offset, record)
            };
            let what = format!("{record:?} topic {topic}, {low} to {high}, {lost_from:?}");
            assert_eq!(decided(&facts), expected, "{what}");
        }
    }

    #[test]
    fn what_is_refused_says_what_is_missing_and_what_to_do() {
        let (own, other) = (engine(30, LINEAGE, 5), foreign());
        for (group_offset, expected) in [
            (
                &own,
                "the group has committed offset 30 of topic events partition 2, but the ownership record that it was \
                 committed under is not in topic engine-events-changelog, which was deleted, recreated or has lost its \
                 end; the events begin at offset 4; start the engines with --accept-loss to begin at offset 4 with the \
                 events that exist",
            ),
            (
                &other,
                "offset 20 of topic events partition 2 was not committed by an engine of group engine (its metadata is \
                 \"\"), so events before it may not have been applied; name another group, or stop the engines \
                 and delete the offset (kafka-consumer-groups.sh --delete-offsets --group engine --topic events:2), or \
                 start the engines with --accept-loss to begin at offset 4 with the events that exist",
            ),
        ] {
            let facts = Facts {
                low: Offset(4),
                ..facts(group_offset, None)
            };
            match plan(&facts) {
                Plan::Refuse(missing) => assert_eq!(missing.to_string(), expected),
                Plan::Serve { .. } => panic!("{group_offset:?} is served"),
            }
        }
    }
}
