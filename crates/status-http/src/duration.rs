//! Durations as people write them: `250ms`, `30s`, `1m30s`, `1.5h`, `7d`.

use std::time::Duration;

use thiserror::Error;

/// Units with their length in milliseconds.
const UNITS: [(&str, u128); 5] = [
    ("d", 86_400_000),
    ("h", 3_600_000),
    ("m", 60_000),
    ("s", 1_000),
    ("ms", 1),
];

/// Digits after the point that count; further ones are far below a millisecond.
const FRACTION_DIGITS: u32 = 12;

/// Why a text is not a duration.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum InvalidDuration {
    /// It has another form.
    #[error("a duration is written as 250ms, 30s, 1m30s, 1.5h or 7d, not {0:?}")]
    Form(String),
    /// It is a number without a unit.
    #[error("the number in {0:?} needs a unit: ms, s, m, h or d")]
    NoUnit(String),
    /// It is too long to be represented.
    #[error("{0:?} is too long a duration")]
    TooLong(String),
}

/// Reads one or more numbers, each with its unit, in whole milliseconds; `0` needs no unit.
///
/// ```
/// use std::time::Duration;
/// use workspace_status_http::parse_duration;
///
/// assert_eq!(parse_duration("1m30s"), Ok(Duration::from_secs(90)));
/// assert_eq!(parse_duration("1.5s"), Ok(Duration::from_millis(1_500)));
/// assert!(parse_duration("30").is_err());
/// ```
///
/// # Errors
/// [`InvalidDuration`] says how a duration is written.
pub fn parse_duration(text: &str) -> Result<Duration, InvalidDuration> {
    let form = || InvalidDuration::Form(text.to_owned());
    let too_long = || InvalidDuration::TooLong(text.to_owned());
    let mut rest = text.trim();
    if rest == "0" {
        return Ok(Duration::ZERO);
    }
    let mut total_ms: u64 = 0;
    loop {
        let (whole, after) = split(rest, u8::is_ascii_digit);
        let (fraction, after) = match after.strip_prefix('.') {
            Some(after) => split(after, u8::is_ascii_digit),
            None => ("0", after),
        };
        if whole.is_empty() || fraction.is_empty() {
            return Err(form());
        }
        let (unit, after) = split(after, u8::is_ascii_alphabetic);
        if unit.is_empty() && after.is_empty() {
            return Err(InvalidDuration::NoUnit(text.to_owned()));
        }
        let (_, unit_ms) = UNITS
            .iter()
            .find(|(name, _)| *name == unit)
            .ok_or_else(form)?;
        let part_ms = milliseconds(whole, fraction, *unit_ms).ok_or_else(too_long)?;
        total_ms = total_ms.checked_add(part_ms).ok_or_else(too_long)?;
        rest = after.trim_start();
        if rest.is_empty() {
            return Ok(Duration::from_millis(total_ms));
        }
    }
}

/// This many units in milliseconds, rounded down; `None` if that overflows.
fn milliseconds(whole: &str, fraction: &str, unit_ms: u128) -> Option<u64> {
    let fraction = fraction.get(..FRACTION_DIGITS as usize).unwrap_or(fraction);
    let digits = u32::try_from(fraction.len()).ok()?;
    let parts = u128::from(fraction.parse::<u64>().ok()?) * unit_ms / 10_u128.pow(digits);
    let whole = u128::from(whole.parse::<u64>().ok()?).checked_mul(unit_ms)?;
    u64::try_from(whole.checked_add(parts)?).ok()
}

/// The leading bytes that satisfy `is_so`, and the rest.
fn split(text: &str, is_so: impl Fn(&u8) -> bool) -> (&str, &str) {
    text.split_at(text.bytes().take_while(is_so).count())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_is_read_with_its_units() {
        for (text, expected_ms) in [
            ("0", 0),
            ("0s", 0),
            ("30s", 30_000),
            ("90s", 90_000),
            ("1m30s", 90_000),
            ("1m 30s", 90_000),
            (" 2h ", 7_200_000),
            ("7d", 604_800_000),
            ("250ms", 250),
            ("1.5h", 5_400_000),
            ("1.0015s", 1_001),
            ("0.000000000000000000001s", 0),
        ] {
            let expected = Duration::from_millis(expected_ms);
            assert_eq!(parse_duration(text), Ok(expected), "{text}");
        }
    }

    #[test]
    fn what_is_not_a_duration_is_refused() {
        use InvalidDuration::{Form, NoUnit, TooLong};
        type Refusal = fn(String) -> InvalidDuration;
        for (refusal, texts) in [
            (
                Form as Refusal,
                &[
                    "",
                    "s",
                    "-5s",
                    "5 parsecs",
                    "1.2.3s",
                    "s1",
                    "1e3s",
                    ".",
                    ".5s",
                    "1.s",
                    "1S",
                    "1ä",
                ][..],
            ),
            (NoUnit, &["30", "1.5", "1m30"]),
            (
                TooLong,
                &[
                    "99999999999999999999d",
                    "18446744073709551615s",
                    "9999999999999d 9999999999999d",
                ],
            ),
        ] {
            for text in texts {
                assert_eq!(parse_duration(text), Err(refusal((*text).to_owned())));
            }
        }
    }
}
