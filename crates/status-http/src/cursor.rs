//! Cursors: where a page ended, opaque to the client.
//!
//! A cursor is the hexadecimal form of a checksum and a position. The checksum also covers the name of
//! the paged collection. So a cursor of another route or workspace, a truncated one and one made by hand
//! are all refused. It guards against mistakes only: a position is not secret, and a forged one shows
//! nothing that the route would not show anyway.

use crate::problem::{Problem, types};

const CHECKSUM_BYTES: usize = 4;

/// Encodes `position` in the collection `pages`; letters and digits only.
///
/// ```
/// use workspace_status_http::{decode_cursor, encode_cursor};
///
/// let cursor = encode_cursor("entities/tenant-1/file", "src/main.rs");
/// assert_eq!(decode_cursor("entities/tenant-1/file", &cursor).unwrap(), "src/main.rs");
/// assert!(decode_cursor("entities/tenant-2/file", &cursor).is_err());
/// ```
pub fn encode_cursor(pages: &str, position: &str) -> String {
    let sum = checksum(pages, position).to_be_bytes();
    let mut text = String::with_capacity((CHECKSUM_BYTES + position.len()) * 2);
    for byte in sum.into_iter().chain(position.bytes()) {
        for nibble in [byte >> 4, byte & 0xf] {
            text.extend(char::from_digit(u32::from(nibble), 16));
        }
    }
    text
}

/// Decodes the position of `cursor` in the collection `pages`.
///
/// # Errors
/// [`invalid_cursor`] if it was not made for that collection.
pub fn decode_cursor(pages: &str, cursor: &str) -> Result<String, Problem> {
    decode_checked(pages, cursor).ok_or_else(invalid_cursor)
}

/// The answer to a cursor that the route did not make.
pub fn invalid_cursor() -> Problem {
    Problem::new(
        &types::INVALID_CURSOR,
        "the cursor was not made by this route; begin without one",
    )
    .with("parameter", "cursor")
}

fn decode_checked(pages: &str, cursor: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(cursor.len() / 2);
    let mut nibbles = cursor.chars().map(|character| character.to_digit(16));
    while let Some(high) = nibbles.next() {
        bytes.push(u8::try_from(high? * 16 + nibbles.next()??).ok()?);
    }
    let (sum, position) = bytes.split_first_chunk::<CHECKSUM_BYTES>()?;
    let position = str::from_utf8(position).ok()?;
    (u32::from_be_bytes(*sum) == checksum(pages, position)).then(|| position.to_owned())
}

/// FNV-1a, 32 bits, over the collection's name and the position.
fn checksum(pages: &str, position: &str) -> u32 {
    pages
        .bytes()
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
    fn a_cursor_decodes_to_the_position_it_was_made_of() {
        for position in [
            "",
            "a",
            "tenant:42.eu",
            "dir/file name.rs",
            "ä",
            &"x".repeat(4096),
        ] {
            let cursor = encode_cursor("statuses", position);
            assert!(cursor.bytes().all(|byte| byte.is_ascii_alphanumeric()));
            assert_eq!(decode_cursor("statuses", &cursor).unwrap(), position);
        }
    }

    #[test]
    fn a_cursor_of_another_route_or_cut_short_or_made_up_is_refused() {
        let cursor = encode_cursor("statuses", "tenant-1");
        assert!(decode_cursor("history/tenant-1", &cursor).is_err());
        for length in 0..cursor.len() {
            assert!(decode_cursor("statuses", &cursor[..length]).is_err());
        }
        for text in ["", "0", "zz", "tenant-1", "0000000061", "é"] {
            assert!(decode_cursor("statuses", text).is_err(), "{text}");
        }
    }
}
