//! Sizes in human-readable form: `512KiB`, `16MiB`, `10GB`, or a plain number of bytes.

use std::{fmt, str::FromStr};

/// Units with their length in bytes; display uses the largest binary unit that divides the size.
const UNITS: [(&str, u64); 9] = [
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("TB", 1_000_000_000_000),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("KB", 1_000),
    ("B", 1),
];

/// A number of bytes, parsed from and displayed as `16MiB`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Size(pub(crate) u64);

/// Why a text is not a size.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum InvalidSize {
    #[error("a size is written as 512KiB, 16MiB, 10GB or a number of bytes, not {0:?}")]
    Form(String),
    #[error("{0:?} is too large a size")]
    TooLarge(String),
}

impl Size {
    /// The size as a length in memory.
    pub(crate) fn as_usize(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }
}

impl FromStr for Size {
    type Err = InvalidSize;

    fn from_str(text: &str) -> Result<Self, InvalidSize> {
        let trimmed = text.trim();
        let digits = trimmed.bytes().take_while(u8::is_ascii_digit).count();
        let (number, unit) = trimmed.split_at(digits);
        let unit = unit.trim_start();
        let unit_bytes = if unit.is_empty() {
            1
        } else {
            UNITS
                .iter()
                .find(|(name, _)| name.eq_ignore_ascii_case(unit))
                .map(|(_, unit_bytes)| *unit_bytes)
                .ok_or_else(|| InvalidSize::Form(text.to_owned()))?
        };
        if number.is_empty() {
            return Err(InvalidSize::Form(text.to_owned()));
        }
        number
            .parse::<u64>()
            .ok()
            .and_then(|count| count.checked_mul(unit_bytes))
            .map(Self)
            .ok_or_else(|| InvalidSize::TooLarge(text.to_owned()))
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (unit, unit_bytes) in UNITS {
            if unit.ends_with("iB") && self.0 >= unit_bytes && self.0.is_multiple_of(unit_bytes) {
                return write!(f, "{}{unit}", self.0 / unit_bytes);
            }
        }
        write!(f, "{}B", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_and_written() {
        for (text, bytes, canonical) in [
            ("0", 0, "0B"),
            ("100", 100, "100B"),
            ("100B", 100, "100B"),
            ("16MiB", 16 << 20, "16MiB"),
            ("16 mib", 16 << 20, "16MiB"),
            ("1536KiB", 1536 << 10, "1536KiB"),
            ("10GB", 10_000_000_000, "9765625KiB"),
            ("2TiB", 2 << 40, "2TiB"),
        ] {
            let size: Size = text.parse().unwrap();
            assert_eq!(size, Size(bytes), "{text}");
            assert_eq!(size.to_string(), canonical, "{text}");
        }
    }

    #[test]
    fn what_is_not_a_size_is_refused() {
        for text in ["", "MiB", "-1", "1.5MiB", "16 megabytes", "16M"] {
            assert_eq!(
                text.parse::<Size>(),
                Err(InvalidSize::Form(text.to_owned())),
                "{text}"
            );
        }
        let huge = "99999999999TiB";
        assert_eq!(
            huge.parse::<Size>(),
            Err(InvalidSize::TooLarge(huge.to_owned()))
        );
    }
}
