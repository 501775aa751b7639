//! Lines of the input, with a maximum length, and the check that a line is an event.

use std::io::{self, BufRead};
use workspace_engine_core::event::EventEnvelope;

/// Maximum length of a line: the engine's default maximum body size.
const LINE_LIMIT_BYTES: usize = 16 << 20;

/// Reads the non-empty lines of an input.
#[derive(Debug)]
pub(super) struct Lines<R> {
    input: R,
    limit: usize,
    number: u64,
    read: u64,
    line: Vec<u8>,
    /// The end was reached. A terminal reports it only once, so the input must not be read again.
    is_ended: bool,
}

/// The next item of an input.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next<'a> {
    /// A line with its number, from 1, and the bytes read so far, this line included.
    Line {
        number: u64,
        text: &'a [u8],
        read: u64,
    },
    /// A line over the limit; the input is read no further.
    TooLong { number: u64, limit: usize },
    /// The input is at its end.
    End,
}

/// The part of a line in the current buffer.
enum Found {
    Whole,
    Part,
    TooLong,
    End,
}

impl<R: BufRead> Lines<R> {
    pub(super) fn new(input: R) -> Self {
        Self::with_limit(input, LINE_LIMIT_BYTES)
    }

    fn with_limit(input: R, limit: usize) -> Self {
        Self {
            input,
            limit,
            number: 0,
            read: 0,
            line: Vec::new(),
            is_ended: false,
        }
    }

    /// The next non-empty line, without surrounding white space.
    ///
    /// # Errors
    /// As reading the input.
    pub(super) fn next_line(&mut self) -> io::Result<Next<'_>> {
        loop {
            self.line.clear();
            self.number += 1;
            let last = loop {
                match self.read_part()? {
                    Found::Part => {}
                    Found::Whole => break false,
                    Found::End => break true,
                    Found::TooLong => {
                        return Ok(Next::TooLong {
                            number: self.number,
                            limit: self.limit,
                        });
                    }
                }
            };
            if !self.line.trim_ascii().is_empty() {
                return Ok(Next::Line {
                    number: self.number,
                    text: self.line.trim_ascii(),
                    read: self.read,
                });
            }
            if last {
                return Ok(Next::End);
            }
        }
    }

    fn read_part(&mut self) -> io::Result<Found> {
        while !self.is_ended {
            match self.input.fill_buf() {
                Ok(available) => {
                    self.is_ended = available.is_empty();
                    break;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        if self.is_ended {
            return Ok(Found::End);
        }
        // The buffer is not empty, so this call does not read.
        let available = self.input.fill_buf()?;
        let end = memchr::memchr(b'\n', available);
        let text = available
            .get(..end.unwrap_or(available.len()))
            .unwrap_or(available);
        if self.line.len() + text.len() > self.limit {
            return Ok(Found::TooLong);
        }
        self.line.extend_from_slice(text);
        let used = text.len() + usize::from(end.is_some());
        self.input.consume(used);
        self.read += used as u64;
        Ok(match end {
            Some(_) => Found::Whole,
            None => Found::Part,
        })
    }
}

/// Checks that a line is an event that the engine would accept.
///
/// # Errors
/// The reason why it is not.
pub(super) fn check(text: &[u8]) -> Result<(), String> {
    if let Err(error) = str::from_utf8(text) {
        return Err(format!("not UTF-8 after byte {}", error.valid_up_to()));
    }
    match EventEnvelope::parse(text) {
        Ok(_) => Ok(()),
        Err(error) => Err(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::BufReader;

    fn check_lines(input: &str, expected: &[&str]) {
        // A small buffer splits lines into parts.
        let buffered = BufReader::with_capacity(3, input.as_bytes());
        let mut lines = Lines::with_limit(buffered, 8);
        let mut found = Vec::new();
        loop {
            match lines.next_line().unwrap() {
                Next::Line { number, text, read } => {
                    found.push(format!("{number}:{}@{read}", String::from_utf8_lossy(text)));
                }
                Next::TooLong { number, limit } => {
                    found.push(format!("{number} is over {limit}"));
                    break;
                }
                Next::End => break,
            }
        }
        assert_eq!(found, expected, "{input:?}");
    }

    #[test]
    fn lines_keep_their_numbers_when_empty_ones_are_skipped() {
        check_lines("", &[]);
        check_lines("a\nb\n", &["1:a@2", "2:b@4"]);
        check_lines("a\n\n \r\nb", &["1:a@2", "4:b@7"]);
        check_lines("abcdefgh\n", &["1:abcdefgh@9"]);
        check_lines("a\r\nb\r\n", &["1:a@3", "2:b@6"]);
        check_lines("\n\n", &[]);
    }

    /// A terminal: each read returns the text typed next; empty text is the end, and is reported once.
    struct Terminal(Vec<io::Result<&'static str>>);

    impl io::Read for Terminal {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            assert!(!self.0.is_empty(), "read after the end");
            let typed = self.0.remove(0)?;
            buffer[..typed.len()].copy_from_slice(typed.as_bytes());
            Ok(typed.len())
        }
    }

    #[test]
    fn the_end_is_read_once() {
        let interrupted = || Err(io::ErrorKind::Interrupted.into());
        for last in ["b", "b\n", "\n"] {
            let typed = vec![interrupted(), Ok("a\n"), interrupted(), Ok(last), Ok("")];
            let mut lines = Lines::new(BufReader::new(Terminal(typed)));
            let mut count = 0;
            while lines.next_line().unwrap() != Next::End {
                count += 1;
            }
            assert_eq!(count, 1 + usize::from(last != "\n"), "{last:?}");
            assert_eq!(lines.next_line().unwrap(), Next::End);
        }
    }

    #[test]
    fn a_line_over_the_limit_is_reported_and_not_kept() {
        check_lines("a\nabcdefghi\nb\n", &["1:a@2", "2 is over 8"]);
    }
}
