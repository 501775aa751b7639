//! Durations as people write them: `250ms`, `30s`, `1m30s`, `1.5h`, `7d`.

use std::time::Duration;

use jiff::SpanRelativeTo;
use jiff::fmt::friendly::SpanParser;
use thiserror::Error;

/// Why a text is not a duration.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum InvalidDuration {
    /// It has another form, or is longer than some 20,000 years.
    #[error("a duration is written as 250ms, 30s, 1m30s, 1.5h or 7d, not {0:?}")]
    Form(String),
    /// Its last number has no unit.
    #[error("the number in {0:?} needs a unit: ms, s, m, h or d")]
    NoUnit(String),
}

/// Reads one or more numbers, each with its unit, in whole milliseconds; `0` needs no unit. Longer names of the
/// units are accepted too, as [`jiff::fmt::friendly`] documents. A day has 24 hours.
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
    let trimmed = text.trim();
    if trimmed == "0" {
        return Ok(Duration::ZERO);
    }
    if trimmed.ends_with(|last: char| last.is_ascii_digit()) {
        return Err(InvalidDuration::NoUnit(text.to_owned()));
    }
    let span = SpanParser::new().parse_span(trimmed);
    let duration = span.and_then(|span| span.to_duration(SpanRelativeTo::days_are_24_hours()));
    duration
        .ok()
        .and_then(|duration| u64::try_from(duration.as_millis()).ok())
        .map(Duration::from_millis)
        .ok_or_else(|| InvalidDuration::Form(text.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::InvalidDuration::{Form, NoUnit};
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
            ("1d 12h", 129_600_000),
            ("250ms", 250),
            ("1.5h", 5_400_000),
            ("1.0015s", 1_001),
            ("5 minutes", 300_000),
        ] {
            let expected = Duration::from_millis(expected_ms);
            assert_eq!(parse_duration(text), Ok(expected), "{text}");
        }
    }

    #[test]
    fn what_is_not_a_duration_is_refused() {
        for text in [
            "",
            "s",
            "-5s",
            "5s ago",
            "5 parsecs",
            "1.2.3s",
            "1e3s",
            ".",
            ".5s",
            "1ä",
            "1 month",
            "99999999999999999999d",
            "18446744073709551615s",
            "9999999999999d 9999999999999d",
        ] {
            assert_eq!(parse_duration(text), Err(Form(text.to_owned())));
        }
        for text in ["30", "1.5", "1m30"] {
            assert_eq!(parse_duration(text), Err(NoUnit(text.to_owned())));
        }
    }
}
