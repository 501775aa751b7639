//! Whether a cache is a copy of the current changelog.
//!
//! The topic's name is not enough: a topic may be deleted and recreated. So a cache stores the lineage of its
//! partition, and the offset of the last ownership record.

use std::time::Duration;

use workspace_engine_core::store::CachePlace;

use super::now_ms;
use super::reader::Ends;

/// A cache that was complete longer ago may lack removals whose tombstones compaction has removed since: brokers keep
/// a tombstone for a day by default (`delete.retention.ms`), and reading takes time too.
const MAX_CACHE_AGE: Duration = Duration::from_hours(12);

/// As [`MAX_CACHE_AGE`], for a cache that was never complete and does not know its lineage.
const MAX_UNFINISHED_AGE: Duration = Duration::from_hours(1);

/// What is done with a copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    /// Reading continues where it ends.
    Continue,
    /// The changelog holds all of it: it is discarded.
    Forget,
    /// It may hold what the changelog does not: it is kept under another name, for this reason.
    SetAside(&'static str),
}

/// Decides what is done with the copy of a partition. `committed` is the lineage that the group's offset was committed
/// with.
pub(super) fn fate(place: &CachePlace, topic: &str, ends: Ends, committed: Option<u64>) -> Fate {
    let is_within = (ends.low..=ends.high).contains(&place.position);
    let age = Duration::from_millis(now_ms().saturating_sub(place.at_ms));
    let is_beyond = place.position > ends.high;
    match lineage_of(place, topic) {
        Some(lineage) if committed.is_some_and(|committed| committed != lineage) => {
            Fate::SetAside("it is of another changelog than the group's offset")
        }
        Some(_) if is_beyond => Fate::SetAside("the changelog ends before it does"),
        Some(_) if is_within && age <= MAX_CACHE_AGE => Fate::Continue,
        Some(_) if committed.is_some() => Fate::Forget,
        Some(_) => Fate::SetAside(
            "it cannot be told whether the changelog is the one that it is a copy of",
        ),
        None if place.source != source(topic, None) => Fate::SetAside("it is of another changelog"),
        None if is_beyond => Fate::SetAside("the changelog ends before it does"),
        None if is_within && age <= MAX_UNFINISHED_AGE => Fate::Continue,
        None => Fate::Forget,
    }
}

/// The source that a cache records: topic and lineage.
pub(super) fn source(topic: &str, lineage: Option<u64>) -> String {
    lineage.map_or_else(
        || format!("{topic}#"),
        |lineage| format!("{topic}#{lineage:016x}"),
    )
}

/// The topic of a copy, from its source.
pub(crate) fn topic_of(source: &str) -> Option<&str> {
    source.rsplit_once('#').map(|(topic, _)| topic)
}

pub(super) fn lineage_of(place: &CachePlace, topic: &str) -> Option<u64> {
    let lineage = place.source.strip_prefix(topic)?.strip_prefix('#')?;
    u64::from_str_radix(lineage, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use workspace_status::Epoch;

    const TOPIC: &str = "changelog";

    #[test]
    fn a_copy_is_forgotten_only_where_the_changelog_holds_all_of_it() {
        let hours = |hours| Duration::from_hours(hours);
        let fate_name = |fate| match fate {
            Fate::Continue => "continue",
            Fate::Forget => "forget",
            Fate::SetAside(_) => "set aside",
        };
        // Lineage, position, age, and the lineage of the group's offset; the changelog has 10 to 50.
        for (lineage, position, age, committed, expected) in [
            (Some(7), 50, 0, Some(7), "continue"),
            (Some(7), 10, 11, Some(7), "continue"),
            (Some(7), 50, 0, None, "continue"),
            (Some(7), 50, 13, Some(7), "forget"),
            (Some(7), 9, 0, Some(7), "forget"),
            (Some(7), 50, 13, None, "set aside"),
            (Some(7), 9, 0, None, "set aside"),
            (Some(7), 51, 0, Some(7), "set aside"),
            (Some(7), 51, 0, None, "set aside"),
            (Some(7), 50, 0, Some(8), "set aside"),
            (Some(7), 50, 13, Some(8), "set aside"),
            (None, 50, 0, Some(7), "continue"),
            (None, 50, 2, Some(7), "forget"),
            (None, 9, 0, None, "forget"),
            (None, 51, 0, None, "set aside"),
        ] {
            let place = CachePlace {
                source: source(TOPIC, lineage),
                position,
                last_assignment_offset: 0,
                highest_epoch: Epoch::new(1),
                at_ms: now_ms() - u64::try_from(hours(age).as_millis()).unwrap_or_default(),
            };
            let ends = Ends {
                low: 10,
                stable: 50,
                high: 50,
            };
            let found = fate_name(fate(&place, TOPIC, ends, committed));
            assert_eq!(
                found, expected,
                "{lineage:?} {position} {age} h {committed:?}"
            );
        }
        let place = CachePlace {
            source: source("another", Some(7)),
            position: 20,
            last_assignment_offset: 0,
            highest_epoch: Epoch::new(1),
            at_ms: now_ms(),
        };
        let ends = Ends {
            low: 0,
            stable: 50,
            high: 50,
        };
        assert_eq!(fate_name(fate(&place, TOPIC, ends, None)), "set aside");
    }
}
