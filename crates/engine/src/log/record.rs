//! Layout of a record on disk: the value stored under its offset.
//!
//! ```text
//! flags u8 · appended_at_ms u64 · bytes_before u64 · key length u16 · key · value · crc32 u32
//! ```
//!
//! `bytes_before` is the total size of all records before it in its partition. The size of any range is therefore a
//! difference of two records, and retention needs neither an index nor a scan. The checksum also covers the offset: a
//! record stored under another offset is rejected.

use crate::disk::codec::{CHECKSUM_BYTES, Damage, checksum};
use crate::log::Record;
use bytes::{Buf, Bytes};
use workspace_lifecycle::Offset;

const HAS_KEY: u8 = 1;
const HAS_VALUE: u8 = 2;
const HEAD_BYTES: usize = 19;

/// Bytes that a record takes in the database in addition to its key and value.
pub(crate) const RECORD_OVERHEAD_BYTES: usize = HEAD_BYTES + CHECKSUM_BYTES + 8;

/// When a record was appended, and how many bytes precede it in its partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stamp {
    pub(crate) appended_at_ms: u64,
    pub(crate) bytes_before: u64,
}

/// The value of a record, as it is stored under its offset.
pub(crate) fn encode(offset: Offset, key: &[u8], value: &[u8], stamp: Stamp) -> Vec<u8> {
    let key_bytes = u16::try_from(key.len()).unwrap_or(u16::MAX);
    let mut bytes = Vec::with_capacity(HEAD_BYTES + key.len() + value.len() + CHECKSUM_BYTES);
    bytes.push(HAS_KEY | HAS_VALUE);
    bytes.extend_from_slice(&stamp.appended_at_ms.to_le_bytes());
    bytes.extend_from_slice(&stamp.bytes_before.to_le_bytes());
    bytes.extend_from_slice(&key_bytes.to_le_bytes());
    bytes.extend_from_slice(key);
    bytes.extend_from_slice(value);
    let checksum = checksum(&offset.0.to_be_bytes(), &bytes);
    bytes.extend_from_slice(&checksum.to_le_bytes());
    bytes
}

/// Decodes the value stored under `offset`, without copying key or value.
pub(crate) fn decode(offset: Offset, mut bytes: Bytes) -> Result<Record, Damage> {
    let Some((body, stored)) = bytes.split_last_chunk::<CHECKSUM_BYTES>() else {
        return Err(SHORT);
    };
    if u32::from_le_bytes(*stored) != checksum(&offset.0.to_be_bytes(), body) {
        return Err("its checksum does not match");
    }
    let Some((head, rest)) = body.split_first_chunk::<HEAD_BYTES>() else {
        return Err(SHORT);
    };
    let [flags, .., k0, k1] = *head;
    let key_bytes = usize::from(u16::from_le_bytes([k0, k1]));
    if key_bytes > rest.len() {
        return Err(SHORT);
    }
    // Cut in place: this runs for every record of a replay, and a split updates a reference count.
    bytes.truncate(bytes.len() - CHECKSUM_BYTES);
    bytes.advance(HEAD_BYTES);
    Ok(Record {
        offset,
        body: bytes,
        key_bytes: (flags & HAS_KEY != 0).then_some(u32::from(u16::from_le_bytes([k0, k1]))),
        has_value: flags & HAS_VALUE != 0,
    })
}

/// The stamp of an encoded record; does not verify the checksum.
pub(crate) fn stamp(bytes: &[u8]) -> Result<Stamp, Damage> {
    let Some((head, _)) = bytes.split_first_chunk::<HEAD_BYTES>() else {
        return Err(SHORT);
    };
    let [
        _,
        t0,
        t1,
        t2,
        t3,
        t4,
        t5,
        t6,
        t7,
        b0,
        b1,
        b2,
        b3,
        b4,
        b5,
        b6,
        b7,
        _,
        _,
    ] = *head;
    Ok(Stamp {
        appended_at_ms: u64::from_le_bytes([t0, t1, t2, t3, t4, t5, t6, t7]),
        bytes_before: u64::from_le_bytes([b0, b1, b2, b3, b4, b5, b6, b7]),
    })
}

const SHORT: Damage = "it is too short";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_reads_as_it_was_written() {
        let written = Stamp {
            appended_at_ms: 1_700_000_000_123,
            bytes_before: 42,
        };
        let bytes = encode(Offset(7), b"acme", b"{}", written);
        assert_eq!(stamp(&bytes), Ok(written));
        assert_eq!(bytes.len() + 8, RECORD_OVERHEAD_BYTES + 6);
        let record = decode(Offset(7), bytes.into()).expect("intact");
        assert_eq!(record.key(), Some(b"acme".as_slice()));
        assert_eq!(record.value(), Some(b"{}".as_slice()));
    }

    #[test]
    fn any_flipped_bit_any_cut_and_any_other_offset_is_noticed() {
        let stamp = Stamp {
            appended_at_ms: 1,
            bytes_before: 2,
        };
        let intact = encode(Offset(7), b"acme", b"{\"a\":1}", stamp);
        assert!(decode(Offset(8), intact.clone().into()).is_err());
        for length in 0..intact.len() {
            assert!(
                decode(Offset(7), intact[..length].to_vec().into()).is_err(),
                "cut at {length}"
            );
        }
        for bit in 0..intact.len() * 8 {
            let mut damaged = intact.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(decode(Offset(7), damaged.into()).is_err(), "bit {bit}");
        }
    }
}
