//! The HTTP server's counters of connections and answers.

use std::sync::atomic::{AtomicUsize, Ordering};
use workspace_engine_core::counters::Counter;

/// Counters and gauges of the HTTP server; `/metrics` shows them.
#[derive(Debug, Default)]
pub(crate) struct HttpCounters {
    connections: AtomicUsize,
    /// Requests refused because all connections were taken.
    pub(crate) requests_refused: Counter,
    /// Idle connections closed because others needed their permit.
    pub(crate) idle_closed: Counter,
    /// Connections closed because the client stopped reading its answer.
    pub(crate) stalled_closed: Counter,
    /// Answers refused or cut short because the answers in progress held all memory for them.
    pub(crate) answers_limited: Counter,
}

impl HttpCounters {
    /// Open connections.
    pub(crate) fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }

    /// Registers an opened connection.
    pub(crate) fn opened(&self) {
        self.connections.fetch_add(1, Ordering::Relaxed);
    }

    /// Registers a closed connection.
    pub(crate) fn closed(&self) {
        self.connections.fetch_sub(1, Ordering::Relaxed);
    }
}
