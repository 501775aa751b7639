//! The headers by which a producer numbers its requests.

use crate::problems;
use axum::http::HeaderMap;
use workspace_engine_core::log::ProducerSequence;
use workspace_status_http::Problem;

const ID: &str = "producer-id";
const SEQUENCE: &str = "producer-sequence";

/// Who asks, and which of its requests this is; `None` where the request is not numbered.
pub(super) fn read(headers: &HeaderMap) -> Result<Option<ProducerSequence>, Problem> {
    let (producer_id, sequence) = match (headers.get(ID), headers.get(SEQUENCE)) {
        (None, None) => return Ok(None),
        (Some(id), Some(sequence)) => (id, sequence),
        (Some(_), None) => return Err(problems::invalid_producer("Producer-Sequence is missing")),
        (None, Some(_)) => return Err(problems::invalid_producer("Producer-Id is missing")),
    };
    let producer_id = producer_id
        .to_str()
        .ok()
        .filter(|id| (1..=255).contains(&id.len()))
        .ok_or_else(|| {
            problems::invalid_producer("Producer-Id is 1 to 255 bytes of printable ASCII")
        })?
        .to_owned();
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
            let found = read(&headers)
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
