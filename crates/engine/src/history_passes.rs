//! Progress of the history writer, for threads that must not continue before it.

use std::time::Duration;

use parking_lot::{Condvar, Mutex};

/// Longest wait for the history to be written; transitions that are late are still written.
const MAX_FLUSH: Duration = Duration::from_secs(1);

/// Counts the passes of the writer: each one takes the transitions made before it began.
#[derive(Debug, Default)]
pub(crate) struct HistoryPasses {
    passes: Mutex<Passes>,
    ended: Condvar,
}

#[derive(Debug, Default)]
struct Passes {
    begun: u64,
    ended: u64,
    /// The highest pass whose end a caller of [`HistoryPasses::flush`] waits for.
    wanted: u64,
    over: bool,
}

impl HistoryPasses {
    /// A pass begins.
    pub(crate) fn begin(&self) {
        self.passes.lock().begun += 1;
    }

    /// Whether a caller waits for the pass under way or the next one: then the pass does not wait to gather
    /// transitions.
    pub(crate) fn is_hurried(&self) -> bool {
        let passes = self.passes.lock();
        passes.wanted >= passes.begun
    }

    /// A pass has ended.
    pub(crate) fn end(&self) {
        let mut passes = self.passes.lock();
        passes.ended = passes.begun;
        self.ended.notify_all();
    }

    /// There are no further passes: ends all waits, also later ones.
    pub(crate) fn finish(&self) {
        self.passes.lock().over = true;
        self.ended.notify_all();
    }

    /// Waits until every transition made before the call has been written, or could not be; at most [`MAX_FLUSH`].
    pub(crate) fn flush(&self) {
        let mut passes = self.passes.lock();
        let wanted = passes.begun + 1;
        passes.wanted = passes.wanted.max(wanted);
        self.ended.wait_while_for(
            &mut passes,
            |passes| passes.ended < wanted && !passes.over,
            MAX_FLUSH,
        );
    }
}
