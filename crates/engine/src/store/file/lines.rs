//! Files of JSON lines, each with a checksum that also covers the line before it.
//!
//! Each line is `{"crc":"0f3a…",` and then the fields. The CRC-32 is over the checksum of the previous line and the
//! rest of this line, so a line that was changed, lost or moved is detected. A file whose last line has no line end was
//! cut by a crash; that line was never acknowledged.

use serde::Serialize;
use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};

const HEAD: &str = "{\"crc\":\"";
const CHECKSUM_DIGITS: usize = 8;
/// Bytes of a line before its fields: head, checksum, `",`.
const FIELDS_AT: usize = HEAD.len() + CHECKSUM_DIGITS + 2;

/// Checksum of a line; the first line of a file follows [`Chain::START`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Chain(u32);

impl Chain {
    pub(super) const START: Self = Self(0);

    fn next(self, fields: &[u8]) -> Self {
        Self(crate::disk::codec::checksum(&self.0.to_le_bytes(), fields))
    }
}

/// Lines to be written after the line with the checksum `chain`.
#[derive(Debug)]
pub(super) struct Draft {
    pub(super) bytes: Vec<u8>,
    pub(super) chain: Chain,
    pub(super) lines: u64,
}

impl Draft {
    pub(super) fn after(chain: Chain) -> Self {
        Self {
            bytes: Vec::new(),
            chain,
            lines: 0,
        }
    }

    /// Adds a line with the fields of `value`, which must serialise to a JSON object that is not empty.
    pub(super) fn push(&mut self, value: &impl Serialize) -> io::Result<()> {
        let line_at = self.bytes.len();
        self.bytes.extend_from_slice(HEAD.as_bytes());
        self.bytes.extend_from_slice(&[b'0'; CHECKSUM_DIGITS]);
        self.bytes.extend_from_slice(b"\"");
        let brace_at = self.bytes.len();
        serde_json::to_writer(&mut self.bytes, value)?;
        // The opening brace of the fields becomes the comma after the checksum.
        if let Some(brace) = self.bytes.get_mut(brace_at) {
            *brace = b',';
        }
        let fields = self.bytes.get(line_at + FIELDS_AT..).unwrap_or_default();
        self.chain = self.chain.next(fields);
        let digits = format!("{:08x}", self.chain.0);
        let place = self
            .bytes
            .get_mut(line_at + HEAD.len()..)
            .and_then(|rest| rest.get_mut(..CHECKSUM_DIGITS));
        if let Some(place) = place {
            place.copy_from_slice(digits.as_bytes());
        }
        self.bytes.push(b'\n');
        self.lines += 1;
        Ok(())
    }
}

/// A damaged line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct BrokenLine {
    /// Number of the line, from 1.
    pub(super) line: u64,
    pub(super) reason: String,
}

/// Reads the complete lines of a file; a last line without a line end is ignored.
#[derive(Debug)]
pub(super) struct Reader<'a> {
    rest: &'a [u8],
    /// Bytes of the lines that were read.
    pub(super) read_bytes: u64,
    /// Number of lines that were read.
    pub(super) lines: u64,
    pub(super) chain: Chain,
}

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self {
            rest: bytes,
            read_bytes: 0,
            lines: 0,
            chain: Chain::START,
        }
    }

    /// The next line as a JSON object, checksum included.
    pub(super) fn line(&mut self) -> Result<Option<&'a str>, BrokenLine> {
        let Some(end) = memchr::memchr(b'\n', self.rest) else {
            return Ok(None);
        };
        let (line, rest) = self.rest.split_at(end);
        let number = self.lines + 1;
        let broken = |reason: &str| BrokenLine {
            line: number,
            reason: reason.to_owned(),
        };
        let chain = checksum_of(line).ok_or_else(|| broken("it does not begin with a checksum"))?;
        let fields = line.get(FIELDS_AT..).unwrap_or_default();
        if self.chain.next(fields) != chain {
            return Err(broken("its checksum does not match"));
        }
        let text = std::str::from_utf8(line).map_err(|_| broken("it is not UTF-8"))?;
        self.rest = rest.get(1..).unwrap_or_default();
        self.read_bytes += u64::try_from(end + 1).unwrap_or(u64::MAX);
        self.lines = number;
        self.chain = chain;
        Ok(Some(text))
    }
}

fn checksum_of(line: &[u8]) -> Option<Chain> {
    let digits = line.strip_prefix(HEAD.as_bytes())?.get(..CHECKSUM_DIGITS)?;
    let lower = digits
        .iter()
        .all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f'));
    if !lower || line.get(FIELDS_AT - 2..FIELDS_AT) != Some(b"\",") {
        return None;
    }
    u32::from_str_radix(std::str::from_utf8(digits).ok()?, 16)
        .ok()
        .map(Chain)
}

/// Name of the first field after the checksum.
pub(super) fn first_field(line: &str) -> &str {
    let fields = line.get(FIELDS_AT..).unwrap_or_default();
    fields.split('"').nth(1).unwrap_or_default()
}

/// The last line of a piece of a file that ends with a line end, and its checksum, verified with the previous line.
/// `None` if the piece does not certainly contain both lines in full.
pub(super) fn last_line(piece: &[u8]) -> Option<(&str, Chain)> {
    let piece = piece.strip_suffix(b"\n")?;
    let mut lines = piece.rsplit(|byte| *byte == b'\n');
    let (last, before) = (lines.next()?, lines.next()?);
    // The beginning of the piece may cut the previous line; a third line shows that it does not.
    lines.next()?;
    let chain = checksum_of(last)?;
    let matches = checksum_of(before)?.next(last.get(FIELDS_AT..)?) == chain;
    matches.then_some((std::str::from_utf8(last).ok()?, chain))
}

/// A file that has lost bytes that were written to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("it has {found} bytes, and {expected} were written")]
pub(super) struct Shortened {
    found: u64,
    expected: u64,
}

impl From<Shortened> for io::Error {
    fn from(shortened: Shortened) -> Self {
        Self::new(ErrorKind::InvalidData, shortened)
    }
}

/// Whether an error reports a [`Shortened`] file, so that a retry does not help.
pub(super) fn is_shortened(error: &io::Error) -> bool {
    let cause = error.get_ref();
    cause
        .and_then(|cause| cause.downcast_ref::<Shortened>())
        .is_some()
}

/// Writes bytes after the first `end` bytes of a file, in one write; if the write fails, the file is cut back to `end`.
/// A file that is shorter than `end` stays unchanged and gives [`Shortened`].
pub(super) fn append(path: &Path, end: u64, bytes: &[u8]) -> io::Result<()> {
    let shortened = |found| Shortened {
        found,
        expected: end,
    };
    let opened = OpenOptions::new().append(true).create(end == 0).open(path);
    let mut file = match opened {
        Err(error) if error.kind() == ErrorKind::NotFound && end > 0 => {
            return Err(shortened(0).into());
        }
        opened => opened?,
    };
    let found = file.metadata()?.len();
    if found < end {
        return Err(shortened(found).into());
    }
    // The rest of an earlier torn write.
    if found > end {
        file.set_len(end)?;
    }
    if let Err(error) = file.write_all(bytes) {
        file.set_len(end)?;
        return Err(error);
    }
    Ok(())
}

/// Replaces a file atomically: after a crash it is the old one or the new one.
pub(super) fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let draft = draft_of(path);
    let write = || {
        let mut file = File::create(&draft)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        std::fs::rename(&draft, path)?;
        sync(path.parent().unwrap_or(path))
    };
    write().inspect_err(|_| {
        // An incomplete draft only takes space; failing to remove it does no harm.
        let _ = std::fs::remove_file(&draft);
    })
}

fn draft_of(path: &Path) -> PathBuf {
    path.with_extension("jsonl.new")
}

/// Syncs a file or a directory.
pub(super) fn sync(path: &Path) -> io::Result<()> {
    match File::open(path) {
        Ok(file) if cfg!(unix) || file.metadata()?.is_file() => file.sync_all(),
        Ok(_) => Ok(()),
        // It was deleted meanwhile.
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

/// The bytes of a file; empty if it does not exist.
pub(super) fn read(path: &Path) -> io::Result<Vec<u8>> {
    match std::fs::read(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Vec::new()),
        read => read,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(lines: &[u32]) -> Vec<u8> {
        let mut draft = Draft::after(Chain::START);
        for number in lines {
            draft
                .push(&serde_json::json!({ "number": number, "text": "a\n\"ü" }))
                .expect("written");
        }
        draft.bytes
    }

    fn numbers(bytes: &[u8]) -> Result<Vec<u64>, BrokenLine> {
        let mut reader = Reader::new(bytes);
        let mut numbers = Vec::new();
        while let Some(line) = reader.line()? {
            let line: serde_json::Value = serde_json::from_str(line).expect("a line is JSON");
            numbers.push(line["number"].as_u64().expect("a number"));
        }
        Ok(numbers)
    }

    #[test]
    fn lines_are_json_and_read_as_they_were_written() {
        assert_eq!(numbers(&file(&[1, 2, 3])), Ok(vec![1, 2, 3]));
    }

    #[test]
    fn a_cut_file_gives_its_whole_lines() {
        let whole = file(&[1, 2, 3]);
        for length in 0..whole.len() {
            let lines = memchr::memchr_iter(b'\n', &whole[..length]).count();
            assert_eq!(
                numbers(&whole[..length]).map(|numbers| numbers.len()),
                Ok(lines)
            );
        }
    }

    #[test]
    fn a_changed_a_lost_and_a_moved_line_are_noticed() {
        let whole = file(&[1, 2, 3]);
        let ends: Vec<_> = (0..whole.len()).filter(|at| whole[*at] == b'\n').collect();
        for bit in 0..whole.len() * 8 {
            let mut damaged = whole.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            // The damage may be in the end of the last line: then the file looks cut.
            let looks_cut = bit / 8 == ends[2] && numbers(&damaged) == Ok(vec![1, 2]);
            assert!(looks_cut || numbers(&damaged).is_err(), "bit {bit}");
        }
        let without_second = [&whole[..=ends[0]], &whole[ends[1] + 1..]].concat();
        assert_eq!(
            numbers(&without_second).expect_err("a line is lost").line,
            2
        );
    }

    #[test]
    fn the_last_line_of_a_piece_is_found_with_its_checksum() {
        let whole = file(&[1, 2, 3]);
        let mut reader = Reader::new(&whole);
        while reader.line().expect("intact").is_some() {}
        let (line, chain) = last_line(&whole).expect("three lines");
        assert!(line.contains("\"number\":3"));
        assert_eq!(chain, reader.chain);
        assert_eq!(
            last_line(&file(&[1, 2])),
            None,
            "who knows whether the first one is whole"
        );
        assert_eq!(last_line(&whole[..whole.len() - 1]), None, "the end is cut");
    }
}
