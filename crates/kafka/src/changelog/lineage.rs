//! Whether a cache is one of the changelog that is there.
//!
//! Names are not enough: a topic may be deleted and made anew. So a cache remembers the lineage of its partition, and
//! where it has last seen it.

use std::time::Duration;

use workspace_engine_core::store::CachePlace;

use super::now_ms;
use super::reader::Ends;

/// A cache that was complete longer ago may lack removals that compaction has forgotten since: brokers keep
/// a tombstone for a day by default (`delete.retention.ms`), and the reading takes its time too.
const CACHE_AGE_MOST: Duration = Duration::from_hours(12);

/// As [`CACHE_AGE_MOST`] for a cache that was not complete yet and does not know its lineage.
const UNFINISHED_AGE_MOST: Duration = Duration::from_hours(1);

/// Whether a cache can be one of what the topic holds.
pub(super) fn fits(place: &CachePlace, topic: &str, ends: Ends) -> bool {
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

pub(super) fn lineage_of(place: &CachePlace, topic: &str) -> Option<u64> {
    let lineage = place.source.strip_prefix(topic)?.strip_prefix('#')?;
    u64::from_str_radix(lineage, 16).ok()
}
