//! The promises that are checked, and how a broken one is told.

use std::fmt;

/// A promise.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Rule {
    /// In memory a workspace is exactly the fold of its events below its `next_offset`.
    MemoryIsFold,
    /// And so is its record in the store.
    StoreIsFold,
    /// No event of a workspace is left behind for good.
    NothingLost,
    /// Below `committed` every workspace with events is known to the store.
    Committed,
    /// Nothing is trimmed above what the store holds durably.
    Trim,
    /// An event is passed over only when it is in the dead-letter log.
    PoisonIsKept,
    /// Nothing of the events before a deletion is ever in a workspace again.
    DeletedStays,
    /// A load takes a later epoch than all before.
    EpochsGrow,
    /// `ready` after the target, and when a read is answered.
    Ready,
    /// States follow each other as the design's table says.
    StateOrder,
    /// Every operator gets one answer.
    Replies,
    /// Permits are used or returned, once.
    Permits,
    /// One fetch a lane, one save a partition, no work for what is not there.
    Bounded,
    /// The machine asks to be woken in the future, and only then.
    Wake,
    /// A partition that was let go does nothing more.
    Over,
    /// When trouble ends, everything gets ready in bounded time.
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
