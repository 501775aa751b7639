//! How far the writer of the history is, for those who must not go on before it.

use std::time::Duration;

use parking_lot::{Condvar, Mutex};

/// Longest wait for the history to be written; what comes later is written all the same.
const MAX_FLUSH: Duration = Duration::from_secs(1);

/// Counts the passes of the writer: each takes what was told before it began.
#[derive(Debug, Default)]
pub(crate) struct HistoryPasses {
    passes: Mutex<Passes>,
    ended: Condvar,
}

#[derive(Debug, Default)]
struct Passes {
    begun: u64,
    ended: u64,
    /// Who waits needs a pass to end that begins after this one.
    wanted: u64,
    over: bool,
}

impl HistoryPasses {
    /// A pass begins.
    pub(crate) fn begin(&self) {
        self.passes.lock().begun += 1;
    }

    /// Whether somebody waits for a later pass than the one under way.
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

    /// No pass comes any more.
    pub(crate) fn finish(&self) {
        self.passes.lock().over = true;
        self.ended.notify_all();
    }

    /// Waits until everything that was told before the call has been written, or could not be.
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
