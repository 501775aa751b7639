//! Files of JSON lines, each with a checksum that also covers the line before it.
//!
//! Each line is `{"crc":"0f3a…",` and then the fields. The CRC-32 is over the checksum of the previous line and the
//! rest of this line, so a line that was changed, lost or moved is detected. A file whose last line has no line end was
//! cut by a crash; that line was never acknowledged.

use serde::{Deserialize, Serialize};
use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::path::Path;

const HEAD: &str = "{\"crc\":\"";
const CHECKSUM_DIGITS: usize = 8;
/// Bytes of a line before its fields: head, checksum, `",`.
const FIELDS_AT: usize = HEAD.len() + CHECKSUM_DIGITS + 2;

/// Checksum of a line; the first line of a file follows 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Chain(u32);

impl Chain {
    fn next(self, fields: &[u8]) -> Self {
        Self(crate::disk::codec::checksum(&self.0.to_le_bytes(), fields))
    }
}

/// The end of a file as of a complete line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FileEnd {
    pub(super) bytes: u64,
    pub(super) lines: u64,
    pub(super) chain: Chain,
}

impl FileEnd {
    /// The end of an empty file.
    pub(super) const START: Self = Self {
        bytes: 0,
        lines: 0,
        chain: Chain(0),
    };
}

/// Lines to be written behind the end of a file.
#[derive(Debug)]
pub(super) struct NewLines {
    bytes: Vec<u8>,
    begin: u64,
    /// The end of the file with them.
    pub(super) end: FileEnd,
}

impl NewLines {
    pub(super) fn after(end: FileEnd) -> Self {
        Self {
            bytes: Vec::new(),
            begin: end.bytes,
            end,
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
        self.end.chain = self.end.chain.next(fields);
        let digits = format!("{:08x}", self.end.chain.0);
        let place = self
            .bytes
            .get_mut(line_at + HEAD.len()..)
            .and_then(|rest| rest.get_mut(..CHECKSUM_DIGITS));
        if let Some(place) = place {
            place.copy_from_slice(digits.as_bytes());
        }
        self.bytes.push(b'\n');
        self.end.bytes = self.begin + crate::store::count(self.bytes.len());
        self.end.lines += 1;
        Ok(())
    }

    /// Writes the lines behind those of the file, in one write, and returns the new end. If the write fails, the file
    /// is cut back. A file that has become shorter stays unchanged and gives [`Damage::Shortened`].
    pub(super) fn append(&self, path: &Path) -> io::Result<FileEnd> {
        let expected = self.begin;
        let shortened = |found| Err(Damage::Shortened { found, expected }.into());
        let is_new = expected == 0;
        let opened = OpenOptions::new().append(true).create(is_new).open(path);
        let mut file = match opened {
            Err(error) if error.kind() == ErrorKind::NotFound && !is_new => return shortened(0),
            opened => opened?,
        };
        let found = file.metadata()?.len();
        if found < expected {
            return shortened(found);
        }
        // The rest of an earlier torn write.
        if found > expected {
            file.set_len(expected)?;
        }
        if let Err(error) = file.write_all(&self.bytes) {
            file.set_len(expected)?;
            return Err(error);
        }
        Ok(self.end)
    }

    /// Replaces a file atomically by one with these lines alone: after a crash it is the old one or the new one.
    pub(super) fn replace(&self, path: &Path) -> io::Result<FileEnd> {
        let unfinished = path.with_extension("jsonl.new");
        let write = || {
            let mut file = File::create(&unfinished)?;
            file.write_all(&self.bytes)?;
            file.sync_all()?;
            std::fs::rename(&unfinished, path)?;
            sync(path.parent().unwrap_or(path))?;
            Ok(self.end)
        };
        write().inspect_err(|_| {
            // An unfinished file only takes space; failing to remove it does no harm.
            let _ = std::fs::remove_file(&unfinished);
        })
    }
}

/// Damage of a file; an [`io::Error`] carries it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Damage {
    #[error("{reason}")]
    Line {
        /// Number of the line, from 1.
        line: u64,
        reason: String,
    },
    /// It has lost bytes that were written to it.
    #[error("it has {found} bytes, and {expected} were written")]
    Shortened { found: u64, expected: u64 },
}

impl From<Damage> for io::Error {
    fn from(damage: Damage) -> Self {
        Self::new(ErrorKind::InvalidData, damage)
    }
}

impl Damage {
    /// The place and the kind of the damage, where an error reports one.
    pub(super) fn of(path: &Path, error: &io::Error) -> Option<(String, String)> {
        let damage = error.get_ref()?.downcast_ref::<Self>()?;
        let path = path.display();
        let place = match damage {
            Self::Line { line, .. } => format!("{path} line {line}"),
            Self::Shortened { .. } => path.to_string(),
        };
        Some((place, damage.to_string()))
    }
}

/// Reads the complete lines of a file; a last line without a line end is ignored.
#[derive(Debug)]
pub(super) struct Reader<'a> {
    rest: &'a [u8],
    /// The end of the lines that were read.
    pub(super) end: FileEnd,
}

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self {
            rest: bytes,
            end: FileEnd::START,
        }
    }

    /// The next line as a JSON object, checksum included.
    pub(super) fn line(&mut self) -> io::Result<Option<&'a str>> {
        let Some(end) = memchr::memchr(b'\n', self.rest) else {
            return Ok(None);
        };
        let (line, rest) = self.rest.split_at(end);
        self.end.lines += 1;
        let chain =
            checksum_of(line).ok_or_else(|| self.broken(&"it does not begin with a checksum"))?;
        let fields = line.get(FIELDS_AT..).unwrap_or_default();
        if self.end.chain.next(fields) != chain {
            return Err(self.broken(&"its checksum does not match"));
        }
        let text = std::str::from_utf8(line).map_err(|_| self.broken(&"it is not UTF-8"))?;
        self.rest = rest.get(1..).unwrap_or_default();
        self.end.bytes += crate::store::count(end + 1);
        self.end.chain = chain;
        Ok(Some(text))
    }

    /// The next line, parsed.
    pub(super) fn parse<T: Deserialize<'a>>(&mut self) -> io::Result<Option<T>> {
        let Some(line) = self.line()? else {
            return Ok(None);
        };
        let parsed = serde_json::from_str(line);
        parsed.map(Some).map_err(|error| self.broken(&error))
    }

    /// The error for the line that was read last.
    pub(super) fn broken(&self, reason: &impl ToString) -> io::Error {
        Damage::Line {
            line: self.end.lines,
            reason: reason.to_string(),
        }
        .into()
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

/// The last line of the tail of a file, and its checksum, verified with the previous line. `None` if the tail does not end
/// with a line end, or does not certainly contain both lines in full.
pub(super) fn last_line(tail: &[u8]) -> Option<(&str, Chain)> {
    let tail = tail.strip_suffix(b"\n")?;
    let mut lines = tail.rsplit(|byte| *byte == b'\n');
    let (last, before) = (lines.next()?, lines.next()?);
    // The beginning of the tail may cut the previous line; a third line shows that it does not.
    lines.next()?;
    let chain = checksum_of(last)?;
    let matches = checksum_of(before)?.next(last.get(FIELDS_AT..)?) == chain;
    matches.then_some((std::str::from_utf8(last).ok()?, chain))
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
        let mut draft = NewLines::after(FileEnd::START);
        for number in lines {
            draft
                .push(&serde_json::json!({ "number": number, "text": "a\n\"ü" }))
                .expect("written");
        }
        draft.bytes
    }

    fn numbers(bytes: &[u8]) -> io::Result<Vec<u64>> {
        let mut reader = Reader::new(bytes);
        let mut numbers = Vec::new();
        while let Some(line) = reader.parse::<serde_json::Value>()? {
            numbers.push(line["number"].as_u64().expect("a number"));
        }
        Ok(numbers)
    }

    #[test]
    fn lines_are_json_and_read_as_they_were_written() {
        assert_eq!(numbers(&file(&[1, 2, 3])).expect("whole"), [1, 2, 3]);
    }

    #[test]
    fn a_cut_file_gives_its_whole_lines() {
        let whole = file(&[1, 2, 3]);
        for length in 0..whole.len() {
            let lines = memchr::memchr_iter(b'\n', &whole[..length]).count();
            let numbers = numbers(&whole[..length]).expect("whole lines");
            assert_eq!(numbers.len(), lines);
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
            let found = numbers(&damaged);
            let looks_cut = bit / 8 == ends[2] && matches!(&found, Ok(found) if *found == [1, 2]);
            assert!(looks_cut || found.is_err(), "bit {bit}");
        }
        let without_second = [&whole[..=ends[0]], &whole[ends[1] + 1..]].concat();
        let error = numbers(&without_second).expect_err("a line is lost");
        let damage = Damage::of(Path::new("file"), &error).expect("damage");
        assert_eq!(damage.0, "file line 2");
    }

    #[test]
    fn the_last_line_of_a_tail_is_found_with_its_checksum() {
        let whole = file(&[1, 2, 3]);
        let mut reader = Reader::new(&whole);
        while reader.line().expect("intact").is_some() {}
        let (line, chain) = last_line(&whole).expect("three lines");
        assert!(line.contains("\"number\":3"));
        assert_eq!(chain, reader.end.chain);
        assert_eq!(
            last_line(&file(&[1, 2])),
            None,
            "who knows whether the first one is whole"
        );
        assert_eq!(last_line(&whole[..whole.len() - 1]), None, "the end is cut");
    }
}
