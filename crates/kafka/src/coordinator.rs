//! Whether the group's coordinator is silent: for how long it was queried and did not answer.
//!
//! Only the time of queries counts. A process that was paused, or got no CPU time, has not queried, so that time is not
//! silence: the group decides what follows from it.

use std::time::Duration;

/// Longest time of one query: leaving the group waits for it.
const MAX_QUERY: Duration = Duration::from_secs(5);

/// Between two queries, at most.
const MAX_PAUSE: Duration = Duration::from_secs(1);

/// How much longer than a session the silence must last, so that a client that checks the session itself acts first.
const AFTER_CLIENT: Duration = Duration::from_secs(1);

/// How often the coordinator is queried, and when it counts as silent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SilenceLimits {
    /// How long one query may take.
    pub(crate) query: Duration,
    /// Between two queries.
    pub(crate) pause: Duration,
    limit: Duration,
}

impl SilenceLimits {
    pub(crate) fn of_session(timeout: Duration) -> Self {
        Self {
            query: (timeout / 2).min(MAX_QUERY),
            pause: (timeout / 10).min(MAX_PAUSE),
            limit: timeout + AFTER_CLIENT,
        }
    }
}

/// Adds up queries without an answer.
#[derive(Debug)]
pub(crate) struct Silence {
    limits: SilenceLimits,
    unanswered: Duration,
}

impl Silence {
    pub(crate) fn new(limits: SilenceLimits) -> Self {
        Self {
            limits,
            unanswered: Duration::ZERO,
        }
    }

    /// Resets the silence: the coordinator has answered, or need not answer.
    pub(crate) fn answered(&mut self) {
        self.unanswered = Duration::ZERO;
    }

    /// Adds a query that failed after `took`, and the pause before it. A query during which the process was paused
    /// counts no longer than its timeout.
    pub(crate) fn unanswered(&mut self, took: Duration) {
        self.unanswered += took.min(self.limits.query) + self.limits.pause;
    }

    /// Whether the silence has lasted for longer than a session.
    pub(crate) fn is_over(&self) -> bool {
        self.unanswered >= self.limits.limit
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// After how long a coordinator counts as silent if each query fails after `query_ms`.
    fn silent_after(session: Duration, query_ms: u64) -> Duration {
        let limits = SilenceLimits::of_session(session);
        let mut silence = Silence::new(limits);
        let took = Duration::from_millis(query_ms).min(limits.query);
        let mut passed = Duration::ZERO;
        while !silence.is_over() {
            silence.unanswered(took);
            passed += took + limits.pause;
        }
        passed
    }

    #[test]
    fn silence_is_a_session_and_some_seconds_whatever_a_query_takes() {
        for session in [1, 3, 6, 10, 45, 600] {
            let session = Duration::from_secs(session);
            for query_ms in [0, 10, 500, 60_000] {
                let after = silent_after(session, query_ms);
                assert!(after > session, "{session:?} {query_ms}: {after:?}");
                let max = session + Duration::from_secs(7);
                assert!(after <= max, "{session:?} {query_ms}: {after:?}");
            }
        }
    }

    #[test]
    fn a_process_that_was_stopped_during_a_query_is_not_cut_off() {
        let mut silence = Silence::new(SilenceLimits::of_session(Duration::from_secs(6)));
        silence.unanswered(Duration::from_mins(10));
        assert!(!silence.is_over());
        silence.answered();
        silence.unanswered(Duration::from_mins(10));
        assert!(!silence.is_over());
    }
}
