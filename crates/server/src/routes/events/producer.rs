//! The headers with which a producer numbers its requests.

use crate::{access::Caller, problems};
use axum::http::HeaderMap;
use workspace_engine_core::log::ProducerSequence;
use workspace_status_http::Problem;

const ID: &str = "producer-id";
const SEQUENCE: &str = "producer-sequence";

/// Maximum length of a name in the log.
const MAX_ID_BYTES: usize = 255;

/// The producer and the sequence number of its request; `None` where the request is not numbered.
///
/// A caller with a prefix has producer names of its own: otherwise it could use up the numbers of another's producer,
/// whose events would then be treated as repeats.
pub(super) fn read(
    headers: &HeaderMap,
    caller: &Caller,
) -> Result<Option<ProducerSequence>, Problem> {
    let (producer_id, sequence) = match (headers.get(ID), headers.get(SEQUENCE)) {
        (None, None) => return Ok(None),
        (Some(id), Some(sequence)) => (id, sequence),
        (Some(_), None) => return Err(problems::invalid_producer("Producer-Sequence is missing")),
        (None, Some(_)) => return Err(problems::invalid_producer("Producer-Id is missing")),
    };
    let producer_id = producer_id
        .to_str()
        .ok()
        .filter(|id| (1..=MAX_ID_BYTES).contains(&id.len()))
        .ok_or_else(|| {
            problems::invalid_producer("Producer-Id is 1 to 255 bytes of printable ASCII")
        })?
        .to_owned();
    let producer_id = match caller.prefix() {
        None => producer_id,
        // No prefix contains a slash, so two callers' names never collide.
        Some(prefix) => format!("{prefix}/{producer_id}"),
    };
    if producer_id.len() > MAX_ID_BYTES {
        return Err(problems::invalid_producer(
            "Producer-Id and the prefix of the token have more than 254 bytes together",
        ));
    }
    let sequence = sequence
        .to_str()
        .ok()
        .and_then(|text| text.parse().ok())
        .filter(|sequence| *sequence > 0)
        .ok_or_else(|| {
            problems::invalid_producer("Producer-Sequence is a number from 1, growing by 1")
        })?;
    Ok(Some(ProducerSequence {
        producer_id,
        sequence,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::access::Role;

    #[test]
    fn a_caller_with_a_prefix_has_producers_of_its_own() {
        let read = |prefix: Option<&str>, id: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(ID, id.parse().unwrap());
            headers.insert(SEQUENCE, "1".parse().unwrap());
            let caller = Caller::new("p", Role::Producer, prefix);
            read(&headers, &caller).map(|producer| producer.unwrap().producer_id)
        };
        assert_eq!(read(None, "x").unwrap(), "x");
        assert_eq!(read(Some("acme-"), "x").unwrap(), "acme-/x");
        assert!(read(Some("acme-"), &"x".repeat(249)).is_ok());
        let long = read(Some("acme-"), &"x".repeat(250)).unwrap_err();
        assert_eq!(
            long.detail(),
            "Producer-Id and the prefix of the token have more than 254 bytes together"
        );
    }

    #[test]
    fn a_request_is_numbered_by_both_headers_or_none() {
        for (id, sequence, expected) in [
            (None, None, Ok(None)),
            (Some("p"), Some("7"), Ok(Some(7))),
            (Some("p"), None, Err("Producer-Sequence is missing")),
            (None, Some("7"), Err("Producer-Id is missing")),
            (
                Some(""),
                Some("7"),
                Err("Producer-Id is 1 to 255 bytes of printable ASCII"),
            ),
            (
                Some("p"),
                Some("0"),
                Err("Producer-Sequence is a number from 1, growing by 1"),
            ),
            (
                Some("p"),
                Some("-1"),
                Err("Producer-Sequence is a number from 1, growing by 1"),
            ),
        ] {
            let mut headers = HeaderMap::new();
            let values = [(ID, id), (SEQUENCE, sequence)];
            for (name, value) in values.into_iter().filter_map(|(n, v)| Some((n, v?))) {
                headers.insert(name, value.parse().unwrap());
            }
            let caller = Caller::new("p", Role::Producer, None);
            let found = read(&headers, &caller)
                .map(|producer| producer.map(|producer| producer.sequence))
                .map_err(|problem| problem.detail().to_owned());
            assert_eq!(
                found,
                expected.map_err(str::to_owned),
                "{id:?} {sequence:?}"
            );
        }
    }
}
