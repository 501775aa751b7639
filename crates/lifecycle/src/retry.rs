//! When to try again after a failure: exponential backoff with jitter.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

/// How the waits between attempts grow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetryPolicy {
    /// Wait after the first failure.
    pub first: Duration,
    /// Longest wait.
    pub longest: Duration,
    /// After this long in `ready` the attempts are counted from 1 again.
    pub reset_after: Duration,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            first: Duration::from_secs(1),
            longest: Duration::from_secs(30),
            reset_after: Duration::from_mins(1),
        }
    }
}

impl RetryPolicy {
    /// The wait after the `attempt`th failure in a row (from 1).
    ///
    /// `first * 2^(attempt - 1)`, limited to `longest`, minus a jitter of up to a fifth.
    /// The jitter is derived from `salt`, so that it is the same when the simulator
    /// replays a seed and differs between workspaces.
    #[must_use]
    pub fn wait(&self, attempt: u32, salt: &impl Hash) -> Duration {
        let doublings = attempt.saturating_sub(1).min(16);
        let full = self.first.saturating_mul(1 << doublings).min(self.longest);
        let mut hasher = DefaultHasher::new();
        salt.hash(&mut hasher);
        attempt.hash(&mut hasher);
        let share = u32::try_from(hasher.finish() % 1000).unwrap_or(0);
        full.saturating_sub(full * share / 5000)
    }
}

/// Consecutive failures of one workspace or partition.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Failures {
    count: u32,
}

impl Failures {
    /// Counts one more failure and returns its number and the wait before the next attempt.
    pub fn fail(&mut self, policy: &RetryPolicy, salt: &impl Hash) -> (u32, Duration) {
        self.count = self.count.saturating_add(1);
        (self.count, policy.wait(self.count, salt))
    }

    /// Resets the count.
    pub fn clear(&mut self) {
        self.count = 0;
    }

    /// Resets the count if the workspace was `ready` for at least `reset_after`.
    pub fn were_well_for(&mut self, policy: &RetryPolicy, well: Duration) {
        if well >= policy.reset_after {
            self.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_longest_and_lose_at_most_a_fifth() {
        let policy = RetryPolicy::default();
        for (attempt, full_secs) in [
            (1, 1.0),
            (2, 2.0),
            (3, 4.0),
            (5, 16.0),
            (6, 30.0),
            (90, 30.0),
        ] {
            let wait = policy.wait(attempt, &"workspace").as_secs_f64();
            assert!(
                wait <= full_secs && wait >= full_secs * 0.8,
                "{attempt}: {wait}"
            );
        }
    }

    #[test]
    fn a_minute_of_being_well_resets_the_attempts() {
        let policy = RetryPolicy::default();
        let mut failures = Failures::default();
        assert_eq!(failures.fail(&policy, &1).0, 1);
        failures.were_well_for(&policy, Duration::from_secs(59));
        assert_eq!(failures.fail(&policy, &1).0, 2);
        failures.were_well_for(&policy, Duration::from_mins(1));
        assert_eq!(failures.fail(&policy, &1).0, 1);
    }
}
