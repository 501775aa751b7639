//! A dead letter as a record: a JSON object whose key is its address.

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use workspace_engine_core::log::{DeadLetter, Record};
use workspace_lifecycle::{Offset, PartitionId};
use workspace_status::WorkspaceId;

/// Which record was skipped, and by which workspace.
pub(super) type Address = (PartitionId, Offset, WorkspaceId);

/// A dead letter as stored in the record's value.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Written {
    topic: String,
    partition: u32,
    offset: u64,
    workspace_id: String,
    reason: String,
    skipped_at_ms: u64,
    key: Option<Content>,
    value: Option<Content>,
}

/// Bytes: readable if they are UTF-8 text, otherwise in hexadecimal.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
enum Content {
    Text(String),
    Hex(String),
}

pub(super) fn key_of((partition, offset, workspace): &Address) -> String {
    format!("{partition}/{offset}/{workspace}")
}

pub(super) fn address_of(key: &[u8]) -> Option<Address> {
    let mut parts = std::str::from_utf8(key).ok()?.splitn(3, '/');
    let partition = PartitionId(parts.next()?.parse().ok()?);
    let offset = Offset(parts.next()?.parse().ok()?);
    Some((partition, offset, WorkspaceId::new(parts.next()?).ok()?))
}

fn encode(dead_letter: &DeadLetter) -> Result<Vec<u8>, String> {
    let written = Written {
        topic: dead_letter.topic.clone(),
        partition: dead_letter.partition.0,
        offset: dead_letter.offset.0,
        workspace_id: dead_letter.workspace_id.as_str().to_owned(),
        reason: dead_letter.reason.clone(),
        skipped_at_ms: dead_letter.skipped_at_ms,
        key: dead_letter.key.as_deref().map(Content::new),
        value: dead_letter.value.as_deref().map(Content::new),
    };
    serde_json::to_vec(&written).map_err(|error| error.to_string())
}

/// [`encode`], without the record's value if the dead letter would be larger than `max_bytes`: its size must not prevent
/// the skip, and the reason names where the value is.
pub(super) fn encode_within(dead_letter: &DeadLetter, max_bytes: usize) -> Result<Vec<u8>, String> {
    let whole = encode(dead_letter)?;
    let Some(value) = dead_letter
        .value
        .as_ref()
        .filter(|_| whole.len() > max_bytes)
    else {
        return Ok(whole);
    };
    let reason = format!(
        "{}; its value of {} bytes is too large for a dead letter and is only in the topic",
        dead_letter.reason,
        value.len()
    );
    encode(&DeadLetter {
        value: None,
        reason,
        ..dead_letter.clone()
    })
}

pub(super) fn decode(record: &Record) -> Option<DeadLetter> {
    let written: Written = serde_json::from_slice(record.value()?).ok()?;
    let bytes =
        |content: Option<Content>| content.map_or(Some(None), |content| content.bytes().map(Some));
    Some(DeadLetter {
        topic: written.topic,
        partition: PartitionId(written.partition),
        offset: Offset(written.offset),
        workspace_id: WorkspaceId::new(&written.workspace_id).ok()?,
        key: bytes(written.key)?,
        value: bytes(written.value)?,
        reason: written.reason,
        skipped_at_ms: written.skipped_at_ms,
    })
}

impl Content {
    fn new(bytes: &[u8]) -> Self {
        use std::fmt::Write as _;
        match std::str::from_utf8(bytes) {
            Ok(text) => Self::Text(text.to_owned()),
            Err(_) => Self::Hex(bytes.iter().fold(String::new(), |mut hex, byte| {
                // Writing to a string cannot fail.
                let _ = write!(hex, "{byte:02x}");
                hex
            })),
        }
    }

    fn bytes(self) -> Option<Bytes> {
        match self {
            Self::Text(text) => Some(text.into()),
            Self::Hex(hex) => {
                let (pairs, rest) = hex.as_bytes().as_chunks::<2>();
                let bytes: Option<Vec<u8>> = pairs
                    .iter()
                    .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok())
                    .collect();
                bytes.filter(|_| rest.is_empty()).map(Bytes::from)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dead_letter_reads_as_it_was_written() {
        for (key, value) in [
            (Some(&b"acme"[..]), Some(&b"{\"a\":\"\\\"\"}"[..])),
            (None, None),
            (Some(&b""[..]), Some(&[0xff, 0x00, 0x7f][..])),
        ] {
            let dead_letter = DeadLetter {
                topic: "events".to_owned(),
                partition: PartitionId(3),
                offset: Offset(u64::MAX >> 1),
                workspace_id: WorkspaceId::new("acme").expect("valid"),
                key: key.map(Bytes::from_static),
                value: value.map(Bytes::from_static),
                reason: "no \"such\" type".to_owned(),
                skipped_at_ms: 5,
            };
            let written = encode(&dead_letter).expect("written");
            let record = Record::new(Offset(0), None, Some(&written));
            assert_eq!(decode(&record), Some(dead_letter));
        }
    }

    #[test]
    fn a_dead_letter_that_is_too_large_names_where_its_value_is() {
        let dead_letter = |bytes| DeadLetter {
            topic: "events".to_owned(),
            partition: PartitionId(3),
            offset: Offset(7),
            workspace_id: WorkspaceId::new("acme").expect("valid"),
            key: Some(Bytes::from_static(b"acme")),
            // In hexadecimal, twice as long in the dead letter.
            value: Some(vec![0xff; bytes].into()),
            reason: "too large".to_owned(),
            skipped_at_ms: 5,
        };
        let read = |bytes| {
            let written = encode_within(&dead_letter(bytes), 1000).expect("written");
            assert!(written.len() <= 1000);
            decode(&Record::new(Offset(0), None, Some(&written))).expect("a dead letter")
        };
        assert_eq!(read(300), dead_letter(300));
        let cut = DeadLetter {
            value: None,
            reason: "too large; its value of 600 bytes is too large for a dead letter and is only in the topic"
                .to_owned(),
            ..dead_letter(600)
        };
        assert_eq!(read(600), cut);
    }

    #[test]
    fn a_key_is_an_address() {
        let address = (
            PartitionId(7),
            Offset(900),
            WorkspaceId::new("a:b.c-d_e").expect("valid"),
        );
        assert_eq!(address_of(key_of(&address).as_bytes()), Some(address));
        for key in ["", "7", "7/1", "7/1/", "x/1/a", "7/x/a", "7/1/a/b"] {
            assert_eq!(address_of(key.as_bytes()), None, "{key}");
        }
    }
}
