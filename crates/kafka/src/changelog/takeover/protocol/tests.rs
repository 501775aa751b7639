//! Takeovers as transcripts: what is observed, and the state or the result that follows.

use std::fmt::Write as _;

use workspace_engine_core::routing::Partitioner;

use super::*;

const CHANGELOG: &str = "engine-events-changelog";
const LINEAGE: u64 = 7;
const OTHER: u64 = 8;
const NOW_MS: u64 = 1_000_000;

/// What happens to a takeover.
enum Event {
    Observed(Observation),
    /// The reader finds this record at the offset.
    Read(u64, DecodedRecord),
    /// The reader finds the end.
    End,
}

use Event::{End, Observed, Read};

fn protocol(kind: Kind) -> Protocol {
    Protocol::new(
        kind,
        Scope {
            partition: PartitionId(1),
            changelog: CHANGELOG.to_owned(),
            transactional_id: "engine-events-own".to_owned(),
            producers_of_group: "engine-events-".to_owned(),
        },
    )
}

/// The text of what follows an event.
fn after(protocol: &mut Protocol, event: Event) -> String {
    let observation = match event {
        Observed(observation) => observation,
        Read(offset, record) => {
            let State::ReadingChangelog(reading) = &mut protocol.state else {
                panic!("nothing is read while {}", protocol.state);
            };
            match reading.take(CHANGELOG, (offset, 10), record) {
                Ok(()) => return protocol.state.to_string(),
                Err(OtherChangelog) => Observation::OtherChangelog,
            }
        }
        End => {
            let State::ReadingChangelog(reading) = &mut protocol.state else {
                panic!("nothing is read while {}", protocol.state);
            };
            match reading.complete(NOW_MS) {
                Ok(()) => Observation::EndOfChangelog,
                Err(OtherChangelog) => Observation::OtherChangelog,
            }
        }
    };
    match protocol.observe(observation) {
        Ok(None) => protocol.state.to_string(),
        Ok(Some(finished)) => {
            let mut text = format!("taken up to {}", finished.position.next_offset);
            if let Some(record) = &finished.record {
                write!(text, " of lineage {}", record.lineage).expect("text");
            }
            if let Some(from) = finished.lost_from {
                write!(text, ", events lost from {from}").expect("text");
            }
            text
        }
        Err(failure) => format!("error: {failure}"),
    }
}

#[track_caller]
fn check<const N: usize>(protocol: &mut Protocol, transcript: [(Event, &str); N]) {
    for (number, (event, expected)) in transcript.into_iter().enumerate() {
        assert_eq!(after(protocol, event), expected, "after event {number}");
    }
}

fn mark(producer: &str, lineage: u64, topic_id: u128) -> CommitMark {
    CommitMark {
        producer: producer.to_owned(),
        lineage,
        first_epoch: Epoch::new(3),
        highest_epoch: Epoch::new(4),
        position: 40,
        topic_id: TopicId::new(topic_id),
        last_reads: vec![LastRead {
            leader_epoch: 2,
            offset: 19,
        }],
        misrouted_from: None,
    }
}

fn commit(producer: &str) -> Committed {
    Committed {
        offset: 20,
        metadata: mark(producer, LINEAGE, 1).encode(),
    }
}

fn undecided() -> Event {
    Observed(Observation::OffsetUndecided("timed out".to_owned()))
}

fn ends(stable: u64) -> Event {
    Observed(Observation::Ends(TopicEnds {
        topic_id: TopicId::new(1),
        low: Offset(0),
        high: Offset(30),
        changelog: Ends {
            low: 10,
            stable,
            high: 50,
        },
    }))
}

fn copy(lineage: Option<u64>, ownership_record_offset: u64) -> Event {
    let position = CopyPosition {
        source: source(CHANGELOG, lineage),
        next_offset: 45,
        ownership_record_offset,
        highest_epoch: Epoch::new(4),
        at_ms: NOW_MS,
    };
    Observed(Observation::Copy(Some(position), NOW_MS))
}

fn record_of(lineage: u64) -> OwnershipRecord {
    OwnershipRecord {
        first_epoch: Epoch::new(3),
        lineage,
        topic_id: TopicId::new(1),
        losses: Vec::new(),
        partitioner: Partitioner::default(),
    }
}

fn ownership_record(lineage: u64) -> DecodedRecord {
    DecodedRecord::Ownership(record_of(lineage))
}

/// A takeover that has reached its copy: the group's offset was committed with this lineage.
fn at_copy(kind: Kind, committed: Option<u64>) -> Protocol {
    let mut protocol = protocol(kind);
    let offset = committed.map(|lineage| Committed {
        offset: 20,
        metadata: mark("engine-events-other", lineage, 1).encode(),
    });
    check(
        &mut protocol,
        [
            (Observed(Observation::Offset(offset)), "querying the ends"),
            (ends(50), "examining the copy"),
        ],
    );
    protocol
}

#[test]
fn an_owner_that_died_in_a_transaction_is_fenced_once() {
    let mut takeover = protocol(Kind::Assigned);
    assert_eq!(takeover.state.to_string(), "querying the offset");
    let last = || Some(commit("engine-events-dead"));
    check(
        &mut takeover,
        [
            (undecided(), "probing for a transaction"),
            (
                Observed(Observation::LastCommits(last(), last())),
                "fencing engine-events-dead",
            ),
            (Observed(Observation::FenceRequested), "awaiting the offset"),
            (
                undecided(),
                "error: the group does not report what it has committed of partition 1: timed out",
            ),
        ],
    );
    takeover.restart();
    assert_eq!(takeover.state.to_string(), "awaiting the offset");
    let reread = protocol(Kind::Reread);
    assert_eq!(reread.state.to_string(), "awaiting the offset");
}

#[test]
fn only_another_producer_of_the_group_that_stays_the_last_is_fenced() {
    let of = |producer| Some(commit(producer));
    let another = "engine-events-another";
    // The last commit before and after the offset was queried again; none where the group did not answer at once.
    for (before, after, expected) in [
        (of(another), of(another), "fencing engine-events-another"),
        (
            of(another),
            of("engine-events-third"),
            "awaiting the offset",
        ),
        (of(another), None, "awaiting the offset"),
        (None, None, "awaiting the offset"),
        (
            of("engine-events-own"),
            of("engine-events-own"),
            "awaiting the offset",
        ),
        (
            of("another-group"),
            of("another-group"),
            "awaiting the offset",
        ),
    ] {
        let mut takeover = protocol(Kind::Assigned);
        let last_commits = Observed(Observation::LastCommits(before, after));
        check(
            &mut takeover,
            [
                (undecided(), "probing for a transaction"),
                (last_commits, expected),
            ],
        );
        let is_fenced = expected.starts_with("fencing");
        takeover.restart();
        let begins = if is_fenced {
            "awaiting the offset"
        } else {
            "querying the offset"
        };
        assert_eq!(takeover.state.to_string(), begins);
    }
}

#[test]
fn an_offset_that_is_decided_meanwhile_fences_nothing() {
    check(
        &mut protocol(Kind::Assigned),
        [
            (undecided(), "probing for a transaction"),
            (Observed(Observation::Offset(None)), "querying the ends"),
        ],
    );
}

#[test]
fn an_offset_belongs_to_the_group_only_with_its_mark() {
    for (metadata, is_engine) in [
        (mark("engine-events-one", LINEAGE, 1).encode(), true),
        (mark("another-group", LINEAGE, 1).encode(), false),
        (String::new(), false),
    ] {
        let found = protocol(Kind::Assigned).group_offset(Some(Committed {
            offset: 20,
            metadata,
        }));
        assert_eq!(
            matches!(found, GroupOffset::Engine { .. }),
            is_engine,
            "{found:?}"
        );
    }
}

#[test]
fn every_transaction_below_the_end_is_awaited() {
    check(
        &mut protocol(Kind::Assigned),
        [
            (Observed(Observation::Offset(None)), "querying the ends"),
            (ends(20), "awaiting the transactions from 20 to 50"),
            (
                Observed(Observation::StableEnd(49)),
                "awaiting the transactions from 49 to 50",
            ),
            (Observed(Observation::StableEnd(50)), "examining the copy"),
        ],
    );
}

#[test]
fn without_a_copy_all_of_the_changelog_is_read() {
    check(
        &mut at_copy(Kind::Assigned, None),
        [
            (
                Observed(Observation::Copy(None, NOW_MS)),
                "forgetting the copy",
            ),
            (
                Observed(Observation::Forgotten(NOW_MS)),
                "reading the changelog from 10 to 50",
            ),
            // Records of earlier and later owners, also of a rebuilt partition.
            (
                Read(12, ownership_record(OTHER)),
                "reading the changelog from 13 to 50",
            ),
            (
                Read(13, DecodedRecord::Skipped("it is damaged")),
                "reading the changelog from 14 to 50",
            ),
            (
                Read(47, ownership_record(LINEAGE)),
                "reading the changelog from 48 to 50",
            ),
            (End, "taken up to 50 of lineage 7"),
        ],
    );
}

#[test]
fn a_copy_is_continued_where_its_last_ownership_record_is_at_its_offset() {
    check(
        &mut at_copy(Kind::Assigned, Some(LINEAGE)),
        [
            (copy(Some(LINEAGE), 30), "checking the lineage at 30"),
            (
                Observed(Observation::OwnershipRecord(Some(record_of(LINEAGE)))),
                "reading the changelog from 45 to 50",
            ),
            (End, "comparing the events"),
            (
                Observed(Observation::Compared(Some(Offset(12)))),
                "taken up to 50 of lineage 7, events lost from 12",
            ),
        ],
    );
}

#[test]
fn a_copy_that_was_never_complete_is_continued_without_a_check() {
    check(
        &mut at_copy(Kind::Assigned, None),
        [
            (copy(None, 0), "reading the changelog from 45 to 50"),
            (
                Read(46, ownership_record(LINEAGE)),
                "reading the changelog from 47 to 50",
            ),
            (End, "taken up to 50 of lineage 7"),
        ],
    );
}

#[test]
fn a_newer_ownership_record_must_follow_one_that_was_replaced() {
    let reads = "reading the changelog from 45 to 50";
    let of_another = "setting the copy aside: it is of another changelog";
    let may_be = "setting the copy aside: it may be of another changelog";
    let not_there = || Observed(Observation::OwnershipRecord(None));
    // The record does not exist, it is of another lineage, or compaction has removed that offset.
    let mut takeover = at_copy(Kind::Assigned, Some(LINEAGE));
    check(
        &mut takeover,
        [
            (copy(Some(LINEAGE), 30), "checking the lineage at 30"),
            (not_there(), reads),
            (
                Read(47, ownership_record(LINEAGE)),
                "reading the changelog from 48 to 50",
            ),
            (End, "comparing the events"),
        ],
    );
    let mut takeover = at_copy(Kind::Assigned, Some(LINEAGE));
    check(
        &mut takeover,
        [
            (copy(Some(LINEAGE), 30), "checking the lineage at 30"),
            (
                Observed(Observation::OwnershipRecord(Some(record_of(OTHER)))),
                reads,
            ),
            (Read(47, ownership_record(OTHER)), of_another),
            (Observed(Observation::SetAside), "forgetting the copy"),
        ],
    );
    let mut takeover = at_copy(Kind::Assigned, Some(LINEAGE));
    check(
        &mut takeover,
        [(copy(Some(LINEAGE), 9), reads), (End, of_another)],
    );
    // Without the group's offset it is not known which changelog this is.
    let mut takeover = at_copy(Kind::Assigned, None);
    check(
        &mut takeover,
        [
            (copy(Some(LINEAGE), 30), "checking the lineage at 30"),
            (not_there(), may_be),
        ],
    );
    let mut takeover = at_copy(Kind::Assigned, None);
    check(&mut takeover, [(copy(Some(LINEAGE), 9), may_be)]);
}

#[test]
fn a_copy_of_another_lineage_than_the_groups_is_set_aside() {
    check(
        &mut at_copy(Kind::Assigned, Some(OTHER)),
        [(
            copy(Some(LINEAGE), 30),
            "setting the copy aside: it is of another changelog than the group's offset",
        )],
    );
}

#[test]
fn events_are_compared_only_where_the_previous_owner_read_the_same_topic() {
    for (kind, topic_of_record, expected) in [
        (Kind::Assigned, 1, "comparing the events"),
        (Kind::Assigned, 0, "comparing the events"),
        (Kind::Assigned, 2, "taken up to 50 of lineage 7"),
        (Kind::Reread, 1, "taken up to 50 of lineage 7"),
    ] {
        let record = OwnershipRecord {
            topic_id: TopicId::new(topic_of_record),
            ..record_of(LINEAGE)
        };
        check(
            &mut at_copy(kind, Some(LINEAGE)),
            [
                (copy(Some(LINEAGE), 30), "checking the lineage at 30"),
                (
                    Observed(Observation::OwnershipRecord(Some(record))),
                    "reading the changelog from 45 to 50",
                ),
                (End, expected),
            ],
        );
    }
}

#[test]
fn a_position_keeps_the_highest_epoch_and_the_time_of_completion() {
    let mut takeover = at_copy(Kind::Assigned, None);
    after(&mut takeover, copy(None, 0));
    after(&mut takeover, Read(46, ownership_record(LINEAGE)));
    let State::ReadingChangelog(reading) = &takeover.state else {
        panic!("{}", takeover.state);
    };
    let expected = CopyPosition {
        source: source(CHANGELOG, Some(LINEAGE)),
        next_offset: 47,
        ownership_record_offset: 46,
        highest_epoch: Epoch::new(4),
        at_ms: NOW_MS,
    };
    assert_eq!(reading.position, expected);
    assert_eq!(reading.bytes, 10);
}

#[test]
fn an_observation_of_another_state_changes_nothing() {
    check(
        &mut protocol(Kind::Assigned),
        [
            (Observed(Observation::EndOfChangelog), "querying the offset"),
            (Observed(Observation::SetAside), "querying the offset"),
        ],
    );
}
