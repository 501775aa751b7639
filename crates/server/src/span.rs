//! Durations as people write them: `250ms`, `30s`, `1m30s`, `7d`.

use std::{fmt, str::FromStr, time::Duration};

/// Units from the largest to the smallest, with their length in milliseconds.
const UNITS: [(&str, u64); 5] = [
    ("d", 86_400_000),
    ("h", 3_600_000),
    ("m", 60_000),
    ("s", 1_000),
    ("ms", 1),
];

/// A duration in whole milliseconds, read and written as `1m30s`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Span(pub(crate) Duration);

/// Why a text is not a duration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum InvalidSpan {
    #[error("a duration is written as 250ms, 30s, 1m30s, 2h or 7d, not {0:?}")]
    Form(String),
    #[error("the number in {0:?} needs a unit: ms, s, m, h or d")]
    NoUnit(String),
    #[error("{0:?} is too long a duration")]
    TooLong(String),
}

impl FromStr for Span {
    type Err = InvalidSpan;

    fn from_str(text: &str) -> Result<Self, InvalidSpan> {
        let mut rest = text.trim();
        if rest == "0" {
            return Ok(Self(Duration::ZERO));
        }
        if rest.is_empty() {
            return Err(InvalidSpan::Form(text.to_owned()));
        }
        let mut total_ms: u64 = 0;
        while !rest.is_empty() {
            let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
            let (number, after) = rest.split_at(digits);
            let letters = after.bytes().take_while(u8::is_ascii_alphabetic).count();
            let (unit, after) = after.split_at(letters);
            if number.is_empty() {
                return Err(InvalidSpan::Form(text.to_owned()));
            }
            if unit.is_empty() && after.is_empty() {
                return Err(InvalidSpan::NoUnit(text.to_owned()));
            }
            let unit_ms = UNITS
                .iter()
                .find(|(name, _)| *name == unit)
                .map(|(_, unit_ms)| *unit_ms)
                .ok_or_else(|| InvalidSpan::Form(text.to_owned()))?;
            total_ms = number
                .parse::<u64>()
                .ok()
                .and_then(|count| count.checked_mul(unit_ms))
                .and_then(|part_ms| total_ms.checked_add(part_ms))
                .ok_or_else(|| InvalidSpan::TooLong(text.to_owned()))?;
            rest = after.trim_start();
        }
        Ok(Self(Duration::from_millis(total_ms)))
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut left_ms = u64::try_from(self.0.as_millis()).unwrap_or(u64::MAX);
        if left_ms == 0 {
            return f.write_str("0s");
        }
        for (unit, unit_ms) in UNITS {
            if left_ms >= unit_ms {
                write!(f, "{}{unit}", left_ms / unit_ms)?;
                left_ms %= unit_ms;
            }
        }
        Ok(())
    }
}

/// A measured duration for people: two units at most, such as `1m30s`, `2.4s` or `12ms`.
pub(crate) fn rounded(duration: Duration) -> String {
    let ms = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    match ms {
        0..1_000 => format!("{ms}ms"),
        1_000..60_000 => format!("{}.{}s", ms / 1_000, ms % 1_000 / 100),
        60_000..3_600_000 => format!("{}m{}s", ms / 60_000, ms % 60_000 / 1_000),
        3_600_000..86_400_000 => format!("{}h{}m", ms / 3_600_000, ms % 3_600_000 / 60_000),
        _ => format!("{}d{}h", ms / 86_400_000, ms % 86_400_000 / 3_600_000),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_and_written() {
        for (text, ms, canonical) in [
            ("0", 0, "0s"),
            ("0s", 0, "0s"),
            ("250ms", 250, "250ms"),
            ("30s", 30_000, "30s"),
            ("90s", 90_000, "1m30s"),
            ("1m30s", 90_000, "1m30s"),
            ("1m 30s", 90_000, "1m30s"),
            ("2h", 7_200_000, "2h"),
            ("7d", 604_800_000, "7d"),
            ("1s500ms", 1_500, "1s500ms"),
        ] {
            let span: Span = text.parse().unwrap();
            assert_eq!(span.0, Duration::from_millis(ms), "{text}");
            assert_eq!(span.to_string(), canonical, "{text}");
        }
    }

    #[test]
    fn what_is_not_a_duration_is_refused() {
        for (text, expected) in [
            ("", InvalidSpan::Form(String::new())),
            ("30", InvalidSpan::NoUnit("30".to_owned())),
            ("s", InvalidSpan::Form("s".to_owned())),
            ("-5s", InvalidSpan::Form("-5s".to_owned())),
            ("1.5s", InvalidSpan::Form("1.5s".to_owned())),
            ("5 parsecs", InvalidSpan::Form("5 parsecs".to_owned())),
            (
                "99999999999999999999d",
                InvalidSpan::TooLong("99999999999999999999d".to_owned()),
            ),
        ] {
            assert_eq!(text.parse::<Span>(), Err(expected), "{text}");
        }
    }

    #[test]
    fn a_measured_duration_has_two_units_at_most() {
        for (ms, expected) in [
            (12, "12ms"),
            (2_450, "2.4s"),
            (90_000, "1m30s"),
            (3_725_000, "1h2m"),
            (90_000_000, "1d1h"),
        ] {
            assert_eq!(rounded(Duration::from_millis(ms)), expected);
        }
    }
}
