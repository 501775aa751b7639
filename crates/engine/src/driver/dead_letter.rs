//! Writes an event that an operator skips to the dead-letter log.

use std::time::{Duration, Instant};

use bytes::Bytes;
use workspace_lifecycle::{Input, Offset, Slot};

use super::Driver;
use crate::clock::now_ms;
use crate::log::{Batch, DeadLetter, ReadError, ReadLimit};

/// Longest wait of a skip for the log to return the record; its partition waits with it.
const READ_WAIT: Duration = Duration::from_secs(2);

/// Wait between two reads.
const READ_AGAIN: Duration = Duration::from_millis(10);

/// Key and value of the record, as the dead letter keeps them; none where the record was removed or cannot be read.
#[derive(Debug, PartialEq, Eq)]
struct Contents {
    key: Option<Bytes>,
    value: Option<Bytes>,
}

impl Driver {
    pub(super) fn dead_letter(&mut self, slot: Slot, offset: Offset, reason: String) -> Input {
        let workspace_id = self.machine.workspace_id(slot).clone();
        let limit = ReadLimit {
            records: 1,
            bytes: usize::MAX,
            until: offset.next(),
        };
        let log = &self.shared.log;
        let until = Instant::now() + READ_WAIT;
        let Contents { key, value } = loop {
            let read = log.read(self.id, offset, limit);
            match contents(read, offset, log.low_watermark(self.id)) {
                Ok(contents) => break contents,
                // A log over a network may have to start a fetch at this offset first.
                Err(_) if Instant::now() < until => std::thread::sleep(READ_AGAIN),
                Err(reason) => return Input::DeadLetterFailed { slot, reason },
            }
        };
        let dead_letter = DeadLetter {
            topic: log.topic().to_owned(),
            partition: self.id,
            offset,
            workspace_id,
            key,
            value,
            reason,
            skipped_at_ms: now_ms(),
        };
        match log.append_dead_letter(dead_letter) {
            Ok(()) => {
                self.shared.counters.dead_letters.add(1);
                Input::DeadLettered { slot, offset }
            }
            Err(error) => Input::DeadLetterFailed {
                slot,
                reason: error.to_string(),
            },
        }
    }
}

/// What the dead letter keeps, from the read of the one record at `offset`.
///
/// # Errors
/// The log may still return the record. A dead letter without it would lose the event, so the operator must retry the
/// skip.
fn contents(
    read: Result<Batch, ReadError>,
    offset: Offset,
    low_watermark: Offset,
) -> Result<Contents, String> {
    const NO_RECORD: Contents = Contents {
        key: None,
        value: None,
    };
    match read {
        Ok(batch) => {
            let found = batch.records.iter().find(|record| record.offset == offset);
            if let Some(record) = found {
                return Ok(Contents {
                    key: record.key().map(Bytes::copy_from_slice),
                    value: record.value().map(Bytes::copy_from_slice),
                });
            }
            // A log over a network returns an empty batch until its first fetch has been answered.
            if batch.next_offset <= offset && low_watermark <= offset {
                return Err(format!(
                    "the event log has not returned the event at offset {offset} yet, try again"
                ));
            }
            Ok(NO_RECORD)
        }
        // An event that cannot be read is skipped too: the dead letter keeps its address and the reason.
        Err(
            ReadError::Corrupt { .. }
            | ReadError::Lost { .. }
            | ReadError::FellOut { .. }
            | ReadError::BeyondEnd { .. },
        ) => Ok(NO_RECORD),
        Err(ReadError::Unavailable(reason)) => Err(reason),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::Record;
    use workspace_lifecycle::PartitionId;

    const REQUESTED: Offset = Offset(5);

    #[test]
    fn a_dead_letter_lacks_its_event_only_if_the_log_cannot_return_it() {
        let batch = |records, next_offset| {
            Ok(Batch {
                records,
                next_offset: Offset(next_offset),
                high_watermark: Offset(9),
            })
        };
        let record = |offset| Record::new(Offset(offset), Some(b"acme"), Some(b"poison"));
        let whole = Ok(Contents {
            key: Some(Bytes::from_static(b"acme")),
            value: Some(Bytes::from_static(b"poison")),
        });
        let without = || {
            Ok(Contents {
                key: None,
                value: None,
            })
        };
        let partition = PartitionId(1);
        let fell_out = ReadError::FellOut {
            partition,
            requested: REQUESTED,
            low_watermark: Offset(7),
        };
        let damaged = ReadError::Corrupt {
            partition,
            offset: REQUESTED,
            reason: "on purpose".to_owned(),
        };
        let lost = ReadError::Lost {
            partition,
            requested: REQUESTED,
            until: Offset(6),
        };
        let not_yet = "the event log has not returned the event at offset 5 yet, try again";
        for (name, read, low_watermark, expected) in [
            ("returned", batch(vec![record(5)], 6), 0, whole),
            (
                "not fetched yet",
                batch(Vec::new(), 5),
                0,
                Err(not_yet.to_owned()),
            ),
            ("passed over", batch(Vec::new(), 6), 0, without()),
            ("a later record", batch(vec![record(6)], 7), 0, without()),
            ("removed meanwhile", batch(Vec::new(), 5), 6, without()),
            ("removed", Err(fell_out), 7, without()),
            ("damaged", Err(damaged), 0, without()),
            ("lost", Err(lost), 0, without()),
            (
                "unavailable",
                Err(ReadError::Unavailable("no leader".to_owned())),
                0,
                Err("no leader".to_owned()),
            ),
        ] {
            assert_eq!(
                contents(read, REQUESTED, Offset(low_watermark)),
                expected,
                "{name}"
            );
        }
    }
}
