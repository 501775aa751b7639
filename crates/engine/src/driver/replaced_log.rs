//! Detects that the log of a partition was replaced under its driver, or lost its end.
//!
//! The workspaces in memory were built from the previous log, so the driver saves and releases them and ends. The next
//! driver reads the log from its beginning, and reports which workspaces were saved from the previous log or are beyond
//! the end of this one.

use std::time::{Duration, Instant};

use workspace_lifecycle::Offset;

use super::Driver;
use crate::log::{ReadError, ReadLimit};

/// Wait between two checks whether the log has lost its end.
const END_AGAIN: Duration = Duration::from_secs(1);

impl Driver {
    pub(super) fn log_is_replaced(&mut self, high_watermark: Offset) -> bool {
        self.shared.log.is_replaced(self.id)
            || high_watermark < self.machine.live_position() && self.log_has_lost_its_end()
    }

    /// Whether the log ends before the position that was read. An end that is only held back by another producer's open
    /// transaction does not count.
    fn log_has_lost_its_end(&mut self) -> bool {
        let checked_at = self.end_checked_at;
        if checked_at.is_some_and(|at| at.elapsed() < END_AGAIN) {
            return false;
        }
        self.end_checked_at = Some(Instant::now());
        let from = self.machine.live_position();
        let limit = ReadLimit {
            records: 1,
            bytes: 1,
            until: from,
        };
        let Err(error @ ReadError::BeyondEnd { .. }) = self.shared.log.read(self.id, from, limit)
        else {
            return false;
        };
        tracing::error!(
            partition = %self.id, %error,
            "the log was replaced or lost its end; the partition is closed and opened again"
        );
        true
    }
}
