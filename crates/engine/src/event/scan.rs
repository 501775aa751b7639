//! Parses the usual event in one pass without a copy: a replay spends most of its time parsing event JSON.
//!
//! It handles only the usual form. For anything else (escapes in a name, a repeated field, a timestamp that is not a
//! whole number, text that is not JSON) it returns `None`, and the general parser decides and has the error messages.
//! Whatever this parser accepts, the general parser accepts too, with the same result; a property test checks that.

/// The fields of an event, all borrowed from its JSON.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Scanned<'a> {
    pub(super) event_type: Option<&'a str>,
    pub(super) workspace_id: Option<&'a str>,
    pub(super) timestamp_ms: Option<i64>,
    pub(super) data: Option<&'a str>,
    /// The string `data.id`.
    pub(super) data_id: Option<&'a str>,
}

/// Deepest nesting that is accepted here: one bit for each level distinguishes objects from arrays.
const MAX_DEPTH: u32 = 64;

/// A number with more characters may not fit into an `i64`.
const MAX_TIMESTAMP_DIGITS: usize = 18;

/// Parses an event; `None` if it does not have the usual form.
pub(super) fn scan(json: &[u8]) -> Option<Scanned<'_>> {
    let text = std::str::from_utf8(json).ok()?;
    let mut cursor = Cursor { text, at: 0 };
    let mut scanned = Scanned::default();
    cursor.object(|cursor, key| match key {
        "eventType" => once(&mut scanned.event_type, cursor.name()?),
        "workspaceId" => once(&mut scanned.workspace_id, cursor.name()?),
        "timestamp" => once(&mut scanned.timestamp_ms, cursor.whole_number()?),
        "data" => {
            let from = cursor.at;
            cursor.object(|cursor, key| match key {
                "id" => once(&mut scanned.data_id, cursor.name()?),
                _ => cursor.value(),
            })?;
            once(&mut scanned.data, text.get(from..cursor.at)?)
        }
        _ => cursor.value(),
    })?;
    cursor.space();
    (cursor.at == json.len()).then_some(scanned)
}

fn once<T>(field: &mut Option<T>, value: T) -> Option<()> {
    field.replace(value).is_none().then_some(())
}

struct Cursor<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Cursor<'a> {
    #[inline]
    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    /// Consumes a byte if it is the next one.
    #[inline]
    fn eat(&mut self, byte: u8) -> bool {
        let is_next = self.peek() == Some(byte);
        self.at += usize::from(is_next);
        is_next
    }

    #[inline]
    fn space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\n' | b'\t' | b'\r')) {
            self.at += 1;
        }
    }

    /// An object; `field` is called after each key and reads the value.
    #[inline]
    fn object(&mut self, mut field: impl FnMut(&mut Self, &str) -> Option<()>) -> Option<()> {
        self.space();
        if !self.eat(b'{') {
            return None;
        }
        self.space();
        if self.eat(b'}') {
            return Some(());
        }
        loop {
            let key = self.name()?;
            self.colon()?;
            field(self, key)?;
            self.space();
            if self.eat(b'}') {
                return Some(());
            }
            if !self.eat(b',') {
                return None;
            }
            self.space();
        }
    }

    /// The colon between key and value, and the space around it.
    #[inline]
    fn colon(&mut self) -> Option<()> {
        self.space();
        if !self.eat(b':') {
            return None;
        }
        self.space();
        Some(())
    }

    /// A string without escapes.
    #[inline]
    fn name(&mut self) -> Option<&'a str> {
        if !self.eat(b'"') {
            return None;
        }
        let from = self.at;
        self.at += plain_bytes(self.rest()?);
        let name = self.text.get(from..self.at)?;
        self.eat(b'"').then_some(name)
    }

    #[inline]
    fn rest(&self) -> Option<&'a [u8]> {
        self.text.as_bytes().get(self.at..)
    }

    fn whole_number(&mut self) -> Option<i64> {
        let from = self.at;
        self.number()?;
        let digits = self.text.get(from..self.at)?;
        // The general parser takes `-0` for a fraction.
        let is_usual = digits.len() <= MAX_TIMESTAMP_DIGITS && digits != "-0";
        is_usual.then(|| digits.parse().ok()).flatten()
    }

    /// Skips any value.
    #[inline]
    fn value(&mut self) -> Option<()> {
        match self.peek()? {
            b'"' => self.string(),
            b'{' | b'[' => self.nested(),
            _ => self.scalar(),
        }
    }

    /// Skips an object or an array. The levels are kept as bits, so that nesting takes no stack.
    fn nested(&mut self) -> Option<()> {
        // A set bit is an object, a clear one an array; the lowest bit is the innermost level.
        let mut levels = 0_u64;
        let mut depth = 0;
        loop {
            // A value is next; the space before it has been consumed.
            match self.peek()? {
                open @ (b'{' | b'[') => {
                    self.at += 1;
                    if depth == MAX_DEPTH {
                        return None;
                    }
                    let is_object = open == b'{';
                    levels = levels << 1 | u64::from(is_object);
                    depth += 1;
                    self.space();
                    let is_empty = self.eat(if is_object { b'}' } else { b']' });
                    if !is_empty {
                        if is_object {
                            self.string()?;
                            self.colon()?;
                        }
                        continue;
                    }
                    levels >>= 1;
                    depth -= 1;
                }
                b'"' => self.string()?,
                _ => self.scalar()?,
            }
            // After a value: close the levels that end with it, or consume the comma before the next one.
            loop {
                if depth == 0 {
                    return Some(());
                }
                self.space();
                let is_object = levels & 1 == 1;
                if self.eat(b',') {
                    self.space();
                    if is_object {
                        self.string()?;
                        self.colon()?;
                    }
                    break;
                }
                if !self.eat(if is_object { b'}' } else { b']' }) {
                    return None;
                }
                levels >>= 1;
                depth -= 1;
            }
        }
    }

    fn scalar(&mut self) -> Option<()> {
        let word = match self.peek()? {
            b't' => "true",
            b'f' => "false",
            b'n' => "null",
            _ => return self.number(),
        };
        self.rest()?
            .starts_with(word.as_bytes())
            .then(|| self.at += word.len())
    }

    /// A number as in RFC 8259.
    fn number(&mut self) -> Option<()> {
        self.eat(b'-');
        if !self.eat(b'0') {
            self.digits()?;
        }
        if self.eat(b'.') {
            self.digits()?;
        }
        if self.eat(b'e') || self.eat(b'E') {
            let _ = self.eat(b'+') || self.eat(b'-');
            self.digits()?;
        }
        Some(())
    }

    /// One or more digits.
    fn digits(&mut self) -> Option<()> {
        let from = self.at;
        while self.peek().is_some_and(|byte| byte.is_ascii_digit()) {
            self.at += 1;
        }
        (self.at > from).then_some(())
    }

    /// A string, which may hold escapes.
    #[inline]
    fn string(&mut self) -> Option<()> {
        if !self.eat(b'"') {
            return None;
        }
        loop {
            self.at += plain_bytes(self.rest()?);
            if self.eat(b'"') {
                return Some(());
            }
            // The next byte is the backslash of an escape, or one that is not allowed in a string.
            if !self.eat(b'\\') {
                return None;
            }
            let escape = self.peek()?;
            self.at += 1;
            match escape {
                b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't' => {}
                b'u' => {
                    let digits = self.rest()?.get(..4)?;
                    if !digits.iter().all(u8::is_ascii_hexdigit) {
                        return None;
                    }
                    self.at += 4;
                }
                _ => return None,
            }
        }
    }
}

const ONES: u64 = u64::from_ne_bytes([0x01; 8]);
const HIGHS: u64 = u64::from_ne_bytes([0x80; 8]);

/// Number of bytes before the first quote, backslash or control character; all of them if there is none.
///
/// It takes eight bytes at a time: `(x - 0x01..) & !x & 0x80..` sets the high bit of the lowest byte of `x` that is
/// zero, and with `0x20..` instead of `0x01..` that of the lowest byte below 0x20 (Bit Twiddling Hacks, "Determine if a
/// word has a byte less than n"). Bits above the lowest set bit may be wrong, so only the lowest is used.
#[inline]
fn plain_bytes(bytes: &[u8]) -> usize {
    let mut passed = 0;
    let mut rest = bytes;
    while let Some((eight, more)) = rest.split_first_chunk::<8>() {
        let word = u64::from_le_bytes(*eight);
        let quotes = word ^ (ONES * u64::from(b'"'));
        let backslashes = word ^ (ONES * u64::from(b'\\'));
        let found = (quotes.wrapping_sub(ONES) & !quotes)
            | (backslashes.wrapping_sub(ONES) & !backslashes)
            | (word.wrapping_sub(ONES * 0x20) & !word);
        let found = found & HIGHS;
        if found != 0 {
            let bits = usize::try_from(found.trailing_zeros()).unwrap_or(0);
            return passed + bits / 8;
        }
        passed += 8;
        rest = more;
    }
    let last = rest
        .iter()
        .position(|byte| matches!(byte, b'"' | b'\\' | 0..0x20));
    passed + last.unwrap_or(rest.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_byte_that_ends_a_plain_text_is_found_at_any_place() {
        for length in 0..20 {
            for place in 0..=length {
                for end in [b'"', b'\\', 0, 0x1f, b'\n'] {
                    // Bytes with the high bit set, or next to one of these, must not match.
                    let mut bytes = vec![0xa2_u8; length];
                    for (byte, other) in bytes.iter_mut().zip(
                        [b'!', b'#', b'[', b']', 0x20, 0x7f, 0x80, 0xff]
                            .iter()
                            .cycle(),
                    ) {
                        *byte = *other;
                    }
                    if let Some(byte) = bytes.get_mut(place) {
                        *byte = end;
                    }
                    assert_eq!(plain_bytes(&bytes), place.min(length), "{bytes:x?}");
                }
            }
        }
    }

    #[test]
    fn the_usual_event_is_read_whole() {
        let json = r#" {"eventType":"a.created" , "workspaceId":"w","timestamp":-12,"more":[{},[1e3,"\u00e4"]],"data":{"x":[],"id":"é/1"}} "#;
        let scanned = scan(json.as_bytes()).unwrap();
        let expected = Scanned {
            event_type: Some("a.created"),
            workspace_id: Some("w"),
            timestamp_ms: Some(-12),
            data: Some(r#"{"x":[],"id":"é/1"}"#),
            data_id: Some("é/1"),
        };
        assert_eq!(scanned, expected);
    }

    #[test]
    fn what_is_not_usual_is_left_to_the_general_parser() {
        let deep = format!(r#"{{"a":{}1{}}}"#, "[".repeat(65), "]".repeat(65));
        for json in [
            "",
            "{",
            "{}x",
            "[]",
            r#"{"a":1,}"#,
            r#"{"a" 1}"#,
            r#"{"a":01}"#,
            r#"{"a":1.}"#,
            r#"{"a":-}"#,
            r#"{"a":.5}"#,
            r#"{"a":1e}"#,
            r#"{"a":tru}"#,
            r#"{"a":"\x"}"#,
            r#"{"a":"\u12g4"}"#,
            r#"{"a":[1,]}"#,
            r#"{"a":[1}}"#,
            r#"{"a":{"b":1]}"#,
            r#"{"a":{1:1}}"#,
            "{\"a\":\"\n\"}",
            r#"{"eventType":"a","eventType":"a"}"#,
            r#"{"data":{"id":"a","id":"a"}}"#,
            r#"{"data":null}"#,
            r#"{"timestamp":1.5}"#,
            r#"{"timestamp":-0}"#,
            r#"{"timestamp":1234567890123456789}"#,
            r#"{"workspaceId":"\u0041"}"#,
            &deep,
        ] {
            assert_eq!(scan(json.as_bytes()), None, "{json}");
        }
        assert_eq!(scan(b"{\"a\":\"\xff\"}"), None);
    }
}
