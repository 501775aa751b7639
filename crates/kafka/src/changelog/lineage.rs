//! Whether the local copy is one of the current changelog.
//!
//! The topic's name is not enough: a topic may be deleted and recreated. So a copy stores the lineage of its
//! partition, and the offset of the last ownership record.

use std::time::Duration;

use workspace_engine_core::store::CopyPosition;

use super::reader::Ends;
use crate::copy_source::{lineage_of, source};

/// A copy that was complete longer ago may lack removals whose tombstones compaction has removed since: brokers keep
/// a tombstone for a day by default (`delete.retention.ms`), and reading takes time too.
const MAX_COPY_AGE: Duration = Duration::from_hours(12);

/// As [`MAX_COPY_AGE`], for a copy that was never complete and does not know its lineage.
const MAX_UNFINISHED_AGE: Duration = Duration::from_hours(1);

/// What is done with a copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    /// Reading continues where it ends.
    Continue,
    /// The changelog holds all of it: it is discarded.
    Forget,
    /// It may hold what the changelog does not: it is kept under another name.
    SetAside(Unusable),
}

/// Why a copy is not used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Unusable {
    #[error("it is of another changelog than the group's offset")]
    OtherThanGroup,
    #[error("it is of another changelog")]
    OtherChangelog,
    #[error("it may be of another changelog")]
    PerhapsOtherChangelog,
    #[error("the changelog ends before it does")]
    ChangelogEndsBefore,
}

/// Decides what is done with the copy of a partition. `committed` is the lineage that the group's offset was committed
/// with.
pub(super) fn fate(
    position: &CopyPosition,
    topic: &str,
    ends: Ends,
    committed: Option<u64>,
    now_ms: u64,
) -> Fate {
    let is_within = (ends.low..=ends.high).contains(&position.next_offset);
    let age = Duration::from_millis(now_ms.saturating_sub(position.at_ms));
    let is_beyond = position.next_offset > ends.high;
    match lineage_of(position, topic) {
        Some(lineage) if committed.is_some_and(|committed| committed != lineage) => {
            Fate::SetAside(Unusable::OtherThanGroup)
        }
        Some(_) if is_beyond => Fate::SetAside(Unusable::ChangelogEndsBefore),
        Some(_) if is_within && age <= MAX_COPY_AGE => Fate::Continue,
        Some(_) if committed.is_some() => Fate::Forget,
        Some(_) => Fate::SetAside(Unusable::PerhapsOtherChangelog),
        None if position.source != source(topic, None) => Fate::SetAside(Unusable::OtherChangelog),
        None if is_beyond => Fate::SetAside(Unusable::ChangelogEndsBefore),
        None if is_within && age <= MAX_UNFINISHED_AGE => Fate::Continue,
        None => Fate::Forget,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use workspace_status::Epoch;

    const TOPIC: &str = "changelog";

    #[test]
    fn a_copy_is_forgotten_only_where_the_changelog_holds_all_of_it() {
        use Unusable::{
            ChangelogEndsBefore, OtherChangelog, OtherThanGroup, PerhapsOtherChangelog,
        };
        let of = |lineage| source(TOPIC, lineage);
        // Source, next offset, age in hours, and the lineage of the group's offset; the changelog has 10 to 50.
        for (source, next_offset, age, committed, expected) in [
            (of(Some(7)), 50, 0, Some(7), Fate::Continue),
            (of(Some(7)), 10, 11, Some(7), Fate::Continue),
            (of(Some(7)), 50, 0, None, Fate::Continue),
            (of(Some(7)), 50, 13, Some(7), Fate::Forget),
            (of(Some(7)), 9, 0, Some(7), Fate::Forget),
            (
                of(Some(7)),
                50,
                13,
                None,
                Fate::SetAside(PerhapsOtherChangelog),
            ),
            (
                of(Some(7)),
                9,
                0,
                None,
                Fate::SetAside(PerhapsOtherChangelog),
            ),
            (
                of(Some(7)),
                51,
                0,
                Some(7),
                Fate::SetAside(ChangelogEndsBefore),
            ),
            (
                of(Some(7)),
                51,
                0,
                None,
                Fate::SetAside(ChangelogEndsBefore),
            ),
            (of(Some(7)), 50, 0, Some(8), Fate::SetAside(OtherThanGroup)),
            (of(Some(7)), 50, 13, Some(8), Fate::SetAside(OtherThanGroup)),
            (of(None), 50, 0, Some(7), Fate::Continue),
            (of(None), 50, 2, Some(7), Fate::Forget),
            (of(None), 9, 0, None, Fate::Forget),
            (of(None), 51, 0, None, Fate::SetAside(ChangelogEndsBefore)),
            (
                "another#7".to_owned(),
                20,
                0,
                None,
                Fate::SetAside(OtherChangelog),
            ),
            (String::new(), 20, 0, None, Fate::SetAside(OtherChangelog)),
        ] {
            let what = format!("{source} {next_offset} {age} h {committed:?}");
            let position = CopyPosition {
                source,
                next_offset,
                ownership_record_offset: 0,
                highest_epoch: Epoch::new(1),
                at_ms: 0,
            };
            let ends = Ends {
                low: 10,
                stable: 50,
                high: 50,
            };
            let now_ms = age * 3_600_000;
            assert_eq!(
                fate(&position, TOPIC, ends, committed, now_ms),
                expected,
                "{what}"
            );
        }
    }
}
