//! Fetches a batch for a lane and groups its records by workspace.

use workspace_lifecycle::{FetchFailure, Input, Lane, Offset};

use super::Driver;
use super::grouped::{Grouped, OwnPartition};
use crate::log::{Batch, ReadError, ReadLimit};
use crate::misrouted::{MAX_MISROUTED, Noted};

/// A fetch that the machine has requested.
#[derive(Debug, Clone, Copy)]
pub(super) struct Fetch {
    pub(super) lane: Lane,
    pub(super) from: Offset,
    pub(super) until: Offset,
}

impl Driver {
    pub(super) fn fetch(&mut self, Fetch { lane, from, until }: Fetch) {
        let limit = ReadLimit {
            records: self.shared.config.fetch_records,
            bytes: self.shared.config.fetch_bytes,
            until,
        };
        let input = match self.shared.log.read(self.id, from, limit) {
            Ok(batch) => {
                if std::mem::take(&mut self.log_fails) {
                    self.shared.failures.log_answered(self.id, Ok(()));
                }
                self.fetched(lane, batch)
            }
            Err(error) => {
                tracing::error!(partition = %self.id, ?lane, %error, "fetch failed");
                let failure = self.fetch_failure(error);
                Input::FetchFailed { lane, failure }
            }
        };
        self.input(input);
    }

    fn fetched(&mut self, lane: Lane, batch: Batch) -> Input {
        let shared = &self.shared;
        let (next_offset, high_watermark) = (batch.next_offset, batch.high_watermark);
        let own = OwnPartition {
            topic: shared.log.topic(),
            partition: self.id,
            partitions: shared.log.partitions(),
            partitioner: shared.log.partitioner(),
        };
        let grouped = Grouped::new(batch, own);
        let counters = &shared.counters;
        counters.bytes_read.add(grouped.bytes);
        counters.records_unroutable.add(grouped.unroutable);
        counters.records_misrouted.add(grouped.misrouted_records);
        if let Some(first) = grouped.misrouted.first() {
            let ownership = shared.store.ownership();
            ownership.note_misrouted(self.id, first.offset);
        }
        for record in &grouped.misrouted {
            match shared.misrouted.note(record, &shared.tracker) {
                Noted::First => tracing::error!(workspace = %record.id, "{record}"),
                Noted::TooMany => tracing::error!(
                    shown = MAX_MISROUTED,
                    "more workspaces have records on a wrong partition than are shown; those of all others are only counted"
                ),
                Noted::Again => {}
            }
        }
        let touched = grouped.touched();
        self.batches.insert(lane, (grouped, next_offset));
        Input::Fetched {
            lane,
            next_offset,
            high_watermark,
            touched,
        }
    }

    fn fetch_failure(&mut self, error: ReadError) -> FetchFailure {
        match error {
            ReadError::FellOut { low_watermark, .. } => FetchFailure::FellOut { low_watermark },
            ReadError::Lost { until, .. } => FetchFailure::Lost { until },
            ReadError::BeyondEnd { high_watermark, .. } => {
                FetchFailure::BeyondEnd { high_watermark }
            }
            ReadError::Corrupt { offset, .. } => FetchFailure::Damaged {
                offset,
                reason: error.to_string(),
            },
            ReadError::Unavailable(reason) => {
                self.log_fails = true;
                let answer = Err(reason.clone());
                self.shared.failures.log_answered(self.id, answer);
                FetchFailure::Retry(reason)
            }
        }
    }
}
