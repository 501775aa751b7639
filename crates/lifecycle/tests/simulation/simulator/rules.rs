//! The promises that are checked, and how a broken one is reported.

use std::fmt;

/// A promise.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Rule {
    /// A workspace in memory is exactly the fold of its events below its `next_offset`.
    MemoryIsFold,
    /// So is its record in the store.
    StoreIsFold,
    /// No event of a workspace stays unapplied for ever.
    NothingLost,
    /// The store knows every workspace with events below `committed`.
    Committed,
    /// Nothing is trimmed above what the store holds durably.
    Trim,
    /// An event is skipped only if it is in the dead-letter log.
    PoisonIsKept,
    /// No event before a deletion is ever applied to a workspace again.
    DeletedStays,
    /// Every load has a later epoch than all loads before.
    EpochsGrow,
    /// `ready` is reported only after the target is reached and a read is answered.
    Ready,
    /// States follow each other as in the design's table.
    StateOrder,
    /// Every command gets exactly one answer.
    Replies,
    /// Every permit is used or returned exactly once.
    Permits,
    /// One fetch per lane, one save per partition, no work for workspaces that do not exist.
    Bounded,
    /// `wake_at` is in the future.
    Wake,
    /// A released partition does nothing more.
    Over,
    /// After the last fault, everything becomes ready in bounded time.
    Settles,
}

/// A promise that was broken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Violation {
    pub(crate) rule: Rule,
    pub(crate) text: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.rule, self.text)
    }
}

pub(crate) fn ensure(
    holds: bool,
    rule: Rule,
    text: impl FnOnce() -> String,
) -> Result<(), Violation> {
    if holds {
        Ok(())
    } else {
        Err(Violation { rule, text: text() })
    }
}
