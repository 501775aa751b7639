//! Who sent an event: the headers of its record, for consumers of the topic and for the process that replaces this one.

use std::hash::{DefaultHasher, Hash, Hasher};

use rdkafka::message::{Header, OwnedHeaders};
use workspace_engine_core::log::ProducerSequence;

const PRODUCER_ID: &str = "producer-id";
const SEQUENCE: &str = "producer-sequence";
const INDEX: &str = "producer-index";

/// Which event of which request a record is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Origin<'a> {
    pub(super) producer_id: &'a str,
    pub(super) sequence: u64,
    /// Index of the event in its request, from 0.
    pub(super) index: usize,
}

pub(super) fn write(producer: &ProducerSequence, index: usize) -> OwnedHeaders {
    let sequence = producer.sequence.to_string();
    let index = index.to_string();
    [
        (PRODUCER_ID, producer.producer_id.as_str()),
        (SEQUENCE, sequence.as_str()),
        (INDEX, index.as_str()),
    ]
    .into_iter()
    .fold(
        OwnedHeaders::new_with_capacity(3),
        |headers, (key, value)| {
            headers.insert(Header {
                key,
                value: Some(value),
            })
        },
    )
}

/// None if a record is not of a named producer.
pub(super) fn read<'a>(header: impl Fn(&str) -> Option<&'a [u8]>) -> Option<Origin<'a>> {
    let text = |name: &str| std::str::from_utf8(header(name)?).ok();
    Some(Origin {
        producer_id: text(PRODUCER_ID)?,
        sequence: text(SEQUENCE)?.parse().ok()?,
        index: text(INDEX)?.parse().ok()?,
    })
}

/// Equal for records with equal contents, and comparable only within one process.
pub(super) fn fingerprint(key: &[u8], value: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    (key, value).hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use rdkafka::message::Headers;

    fn read_back(headers: &OwnedHeaders) -> Option<Origin<'_>> {
        read(|name| headers.iter().find(|header| header.key == name)?.value)
    }

    #[test]
    fn headers_name_the_producer_as_it_was_written() {
        let producer = ProducerSequence {
            producer_id: "orders-7".to_owned(),
            sequence: u64::MAX,
        };
        let origin = Origin {
            producer_id: "orders-7",
            sequence: u64::MAX,
            index: 12,
        };
        assert_eq!(read_back(&write(&producer, 12)), Some(origin));
        let other = OwnedHeaders::new().insert(Header {
            key: PRODUCER_ID,
            value: Some("orders-7"),
        });
        assert_eq!(read_back(&other), None, "without a number");
    }
}
