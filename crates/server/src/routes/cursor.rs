//! Cursors of the engine's pages: where a page ended, opaque to the client.
//!
//! A cursor is the hexadecimal form of a checksum and a position. The checksum covers what the page
//! is of as well, so that a cursor of another route or another type is told from a good one.

use crate::problems;
use std::fmt::Write as _;
use workspace_status_http::Problem;

const CHECKSUM_BYTES: usize = 4;

/// The cursor that stands for `position` in the pages of `what`.
pub(super) fn encode(what: &str, position: &str) -> String {
    let mut text = format!("{:08x}", checksum(what, position));
    for byte in position.bytes() {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}

/// The position in the pages of `what` that a cursor stands for; none begins at the first.
pub(super) fn decode(what: &str, cursor: Option<&str>) -> Result<Option<String>, Problem> {
    cursor
        .map(|cursor| decode_checked(what, cursor).ok_or_else(problems::invalid_cursor))
        .transpose()
}

fn decode_checked(what: &str, cursor: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(cursor.len() / 2);
    let mut nibbles = cursor.chars().map(|character| character.to_digit(16));
    while let Some(high) = nibbles.next() {
        bytes.push(u8::try_from(high? * 16 + nibbles.next()??).ok()?);
    }
    let (sum, position) = bytes.split_first_chunk::<CHECKSUM_BYTES>()?;
    let position = str::from_utf8(position).ok()?;
    (u32::from_be_bytes(*sum) == checksum(what, position)).then(|| position.to_owned())
}

/// FNV-1a, 32 bits, over what the page is of and the position.
fn checksum(what: &str, position: &str) -> u32 {
    what.bytes()
        .chain([0])
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
        for position in ["a", "dir/file name.rs", "ä", &"x".repeat(4096)] {
            let cursor = encode("w/resource", position);
            let found = decode("w/resource", Some(&cursor)).unwrap();
            assert_eq!(found.as_deref(), Some(position));
        }
        assert_eq!(decode("w/resource", None).unwrap(), None);
    }

    #[test]
    fn a_cursor_of_another_page_or_cut_short_or_made_up_is_refused() {
        let cursor = encode("w/resource", "a");
        assert!(decode("w/deployment", Some(&cursor)).is_err());
        for length in 0..cursor.len() {
            assert!(decode("w/resource", Some(&cursor[..length])).is_err());
        }
        for text in ["", "zz", "a", "0000000061", "é"] {
            assert!(decode("w/resource", Some(text)).is_err(), "{text}");
        }
    }
}
