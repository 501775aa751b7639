//! The source that a copy records: the changelog's topic and its lineage.

use workspace_engine_core::store::CopyPosition;

/// The source of a copy of a changelog.
pub(crate) fn source(topic: &str, lineage: Option<u64>) -> String {
    lineage.map_or_else(
        || format!("{topic}#"),
        |lineage| format!("{topic}#{lineage:016x}"),
    )
}

/// The topic of a copy, from its source.
pub(crate) fn topic_of(source: &str) -> Option<&str> {
    source.rsplit_once('#').map(|(topic, _)| topic)
}

pub(crate) fn lineage_of(position: &CopyPosition, topic: &str) -> Option<u64> {
    let lineage = position.source.strip_prefix(topic)?.strip_prefix('#')?;
    u64::from_str_radix(lineage, 16).ok()
}
