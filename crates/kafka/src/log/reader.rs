//! Reads a partition: a fetch continues from where the last read ended, and its surplus records are kept.
//!
//! Two lanes read a partition at different offsets, so it has two fetches, one from each client.

use std::sync::Arc;

use rdkafka::error::RDKafkaErrorCode;
use workspace_engine_core::log::{Batch, ReadError, ReadLimit};
use workspace_lifecycle::{Offset, PartitionId};

use super::fetches::READERS;
use super::native::{Failure, TopicHandle};
use super::topic_state::{PartitionState, TopicState};

/// Reads a partition of the events.
pub(super) fn read(
    topic: &TopicState,
    handles: &[Arc<TopicHandle>; READERS],
    partition: PartitionId,
    from: Offset,
    limit: &ReadLimit,
) -> Result<Batch, ReadError> {
    let part = topic.part(partition)?;
    let mut fetches = part.fetches.lock();
    let end = if fetches.continue_at(from) {
        // The buffer may still hold records that the cluster has removed since; if it does not, the fetch fails.
        check(topic, part, partition, from, Bounds::End)?
    } else {
        check(topic, part, partition, from, Bounds::Both)?
    };
    if limit.until <= from {
        return Ok(Batch {
            records: Vec::new(),
            next_offset: from,
            high_watermark: end,
        });
    }
    let kept = fetches.run(handles, partition, from)?;
    let Some(run) = kept else {
        return Err(ReadError::Unavailable("there is no reader".to_owned()));
    };
    let records = run.read(limit, end);
    for record in run.last_reads.drain(..) {
        topic.last_reads.note(partition, record);
    }
    let next_offset = run.next;
    if next_offset > from {
        let mut ends = part.ends.lock();
        ends.see(next_offset);
        return Ok(Batch {
            records,
            next_offset,
            high_watermark: ends.high(),
        });
    }
    if let Some(failure) = run.failure.take() {
        // The next read starts another fetch, at its own offset.
        *kept = None;
        return Err(failed(topic, part, partition, from, failure));
    }
    if from < limit.until.min(end)
        && let Some(error_text) = topic.last_error(part)
    {
        return Err(ReadError::Unavailable(error_text));
    }
    Ok(Batch {
        records,
        next_offset,
        high_watermark: part.ends.lock().high(),
    })
}

/// Which ends of a partition an offset is compared with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Bounds {
    Both,
    End,
}

/// Checks that a partition holds an offset, and returns its end. Queries the brokers if the offset seems outside.
fn check(
    topic: &TopicState,
    part: &PartitionState,
    partition: PartitionId,
    requested: Offset,
    bounds: Bounds,
) -> Result<Offset, ReadError> {
    let (low, high) = {
        let ends = part.ends.lock();
        (ends.low(), ends.high())
    };
    if requested <= high && (bounds == Bounds::End || requested >= low) {
        return Ok(high);
    }
    let (low_watermark, high_watermark) = topic.query_ends(partition)?;
    if requested < low_watermark {
        return Err(ReadError::FellOut {
            partition,
            requested,
            low_watermark,
        });
    }
    // An offset after another producer's open transaction exists but cannot be read yet.
    if requested > high_watermark && requested > part.ends.lock().written() {
        return Err(ReadError::BeyondEnd {
            partition,
            requested,
            high_watermark,
        });
    }
    Ok(high_watermark)
}

/// Maps a failed fetch to the error for a reader at `from`.
fn failed(
    topic: &TopicState,
    part: &PartitionState,
    partition: PartitionId,
    from: Offset,
    failure: Failure,
) -> ReadError {
    tracing::debug!(%partition, %from, ?failure, "a fetch failed");
    let is_damaged = matches!(
        failure.code,
        RDKafkaErrorCode::BadMessage
            | RDKafkaErrorCode::BadCompression
            | RDKafkaErrorCode::NotImplemented
            | RDKafkaErrorCode::InvalidMessage
    );
    if is_damaged {
        return ReadError::Corrupt {
            partition,
            offset: failure.offset.max(from),
            reason: failure.error_text,
        };
    }
    let is_out_of_range = matches!(
        failure.code,
        RDKafkaErrorCode::AutoOffsetReset | RDKafkaErrorCode::OffsetOutOfRange
    );
    if is_out_of_range {
        if let Err(error) = topic
            .query_ends(partition)
            .and_then(|_| check(topic, part, partition, from, Bounds::Both))
        {
            return error;
        }
        // The client compares leader epochs: the offset is in the partition, but its log differs from what was read.
        tracing::error!(%partition, %from, error_text = failure.error_text, "the partition has lost its end, or seems to have");
        part.replaced();
    }
    ReadError::Unavailable(format!(
        "topic {} partition {partition} cannot be read at offset {from}: {}",
        topic.name(),
        failure.error_text
    ))
}
