//! Cursors: where a page ended, opaque to the client.
//!
//! A cursor is the hexadecimal form of a kind, a checksum and a position, so that one of another
//! route, one cut short and one made by hand are all told from a good one. The checksum guards
//! against mistakes; a position is no secret, and a forged one shows nothing that the route would
//! not show anyway.

use crate::problem::{Problem, types};

/// Which route a cursor belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CursorKind {
    Statuses,
    History,
}

impl CursorKind {
    fn tag(self) -> u8 {
        match self {
            Self::Statuses => 1,
            Self::History => 2,
        }
    }
}

const HEADER_BYTES: usize = 5;

/// The cursor that stands for `position`; letters and digits only.
pub(crate) fn encode(kind: CursorKind, position: &str) -> String {
    let mut bytes = Vec::with_capacity(HEADER_BYTES + position.len());
    bytes.push(kind.tag());
    bytes.extend_from_slice(&checksum(kind, position).to_be_bytes());
    bytes.extend_from_slice(position.as_bytes());
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        for nibble in [byte >> 4, byte & 0xf] {
            text.extend(char::from_digit(u32::from(nibble), 16));
        }
    }
    text
}

/// The position that `cursor` stands for.
pub(crate) fn decode(kind: CursorKind, cursor: &str) -> Result<String, Problem> {
    decode_checked(kind, cursor).ok_or_else(|| {
        Problem::new(
            &types::INVALID_CURSOR,
            "the cursor was not made by this route; begin without one",
        )
        .with("parameter", "cursor")
    })
}

fn decode_checked(kind: CursorKind, cursor: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(cursor.len() / 2);
    let mut nibbles = cursor.chars().map(|character| character.to_digit(16));
    while let Some(high) = nibbles.next() {
        bytes.push(u8::try_from(high? * 16 + nibbles.next()??).ok()?);
    }
    let (&tag, rest) = bytes.split_first()?;
    let (sum, position) = rest.split_first_chunk::<4>()?;
    let position = str::from_utf8(position).ok()?;
    let is_intact = tag == kind.tag() && u32::from_be_bytes(*sum) == checksum(kind, position);
    is_intact.then(|| position.to_owned())
}

/// FNV-1a, 32 bits, over the kind and the position.
fn checksum(kind: CursorKind, position: &str) -> u32 {
    std::iter::once(kind.tag())
        .chain(position.bytes())
        .fold(0x811c_9dc5, |sum: u32, byte| {
            (sum ^ u32::from(byte)).wrapping_mul(0x0100_0193)
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_comes_back_as_the_position_it_was_made_of() {
        for position in ["", "a", "tenant:42.eu", &"x".repeat(255)] {
            let cursor = encode(CursorKind::Statuses, position);
            assert!(cursor.bytes().all(|byte| byte.is_ascii_alphanumeric()));
            assert_eq!(decode(CursorKind::Statuses, &cursor).unwrap(), position);
        }
    }

    #[test]
    fn a_cursor_of_another_route_or_cut_short_or_made_up_is_refused() {
        let cursor = encode(CursorKind::Statuses, "tenant-1");
        assert!(decode(CursorKind::History, &cursor).is_err());
        for length in 0..cursor.len() {
            assert!(decode(CursorKind::Statuses, &cursor[..length]).is_err());
        }
        for text in ["", "0", "zz", "tenant-1", "0100000000", "é"] {
            assert!(decode(CursorKind::Statuses, text).is_err(), "{text}");
        }
    }
}
