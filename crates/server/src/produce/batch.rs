//! The lines of one request.

/// Lines of one request, each with its number in the input.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Batch {
    body: Vec<u8>,
    numbers: Vec<u64>,
    read_bytes: u64,
}

impl Batch {
    /// Adds a line; `read_bytes` is the number of input bytes read up to its end.
    pub(super) fn push(&mut self, number: u64, text: &[u8], read_bytes: u64) {
        self.body.extend_from_slice(text);
        self.body.push(b'\n');
        self.numbers.push(number);
        self.read_bytes = read_bytes;
    }

    pub(super) fn is_empty(&self) -> bool {
        self.numbers.is_empty()
    }

    pub(super) fn events(&self) -> u64 {
        self.numbers.len() as u64
    }

    /// The body of the request: the lines with their newlines.
    pub(super) fn body(&self) -> &[u8] {
        &self.body
    }

    /// Bytes of the input that are accepted once this batch is.
    pub(super) fn read_bytes(&self) -> u64 {
        self.read_bytes
    }

    pub(super) fn first_line(&self) -> u64 {
        self.numbers.first().copied().unwrap_or_default()
    }

    pub(super) fn last_line(&self) -> u64 {
        self.numbers.last().copied().unwrap_or_default()
    }

    /// Number in the input of the line at `index`, from 0.
    pub(super) fn line_number(&self, index: usize) -> u64 {
        self.numbers
            .get(index)
            .copied()
            .unwrap_or_else(|| self.last_line())
    }

    /// Whether a line of `bytes` bytes still fits; one line always fits.
    pub(super) fn has_room(&self, bytes: usize, most_events: usize, most_bytes: usize) -> bool {
        self.is_empty()
            || (self.numbers.len() < most_events && self.body.len() + bytes < most_bytes)
    }

    /// The lines before the one at `index`; `None` where it is the first.
    pub(super) fn before(&self, index: usize) -> Option<Self> {
        if index == 0 || self.is_empty() {
            return None;
        }
        let mut part = Self::default();
        for (text, number) in self.lines().take(index) {
            part.push(number, text, 0);
        }
        Some(part)
    }

    /// Two batches with half of the lines each, or the batch itself where it is a single line.
    pub(super) fn halve(self) -> Result<(Self, Self), Self> {
        let middle = self.numbers.len() / 2;
        let Some(first) = self.before(middle) else {
            return Err(self);
        };
        let mut second = Self::default();
        for (text, number) in self.lines().skip(middle) {
            second.push(number, text, self.read_bytes);
        }
        Ok((first, second))
    }

    fn lines(&self) -> impl Iterator<Item = (&[u8], u64)> {
        self.body
            .split(|byte| *byte == b'\n')
            .zip(self.numbers.iter().copied())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(lines: &[(u64, &str)]) -> Batch {
        let mut batch = Batch::default();
        for (number, text) in lines {
            batch.push(*number, text.as_bytes(), 100);
        }
        batch
    }

    #[test]
    fn a_batch_is_cut_before_a_line() {
        let whole = batch(&[(1, "a"), (3, "bb"), (7, "c")]);
        let before = whole.before(2).unwrap();
        assert_eq!(before.body(), b"a\nbb\n");
        assert_eq!((before.first_line(), before.last_line()), (1, 3));
        assert_eq!(whole.before(0), None);
        assert_eq!(whole.line_number(2), 7);
    }

    #[test]
    fn a_batch_is_halved_down_to_single_lines() {
        let (first, second) = batch(&[(1, "a"), (3, "bb"), (7, "c")]).halve().unwrap();
        assert_eq!(
            (first.body(), second.body()),
            (&b"a\n"[..], &b"bb\nc\n"[..])
        );
        assert_eq!(second.read_bytes(), 100);
        assert!(batch(&[(1, "a")]).halve().is_err());
    }

    #[test]
    fn an_empty_batch_takes_a_line_of_any_length() {
        assert!(Batch::default().has_room(1000, 1, 10));
        assert!(!batch(&[(1, "abc")]).has_room(8, 5, 10));
        assert!(!batch(&[(1, "abc")]).has_room(1, 1, 10));
        assert!(batch(&[(1, "abc")]).has_room(1, 2, 10));
    }
}
