//! Durations in human-readable form: `250ms`, `30s`, `1m30s`, `7d`.

use std::{fmt, str::FromStr, time::Duration};
use workspace_status_http::{InvalidDuration, parse_duration};

/// Units from the largest to the smallest, with their length in milliseconds.
const UNITS: [(&str, u64); 5] = [
    ("d", 86_400_000),
    ("h", 3_600_000),
    ("m", 60_000),
    ("s", 1_000),
    ("ms", 1),
];

/// A duration in whole milliseconds, parsed from and displayed as `1m30s`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Span(pub(crate) Duration);

impl FromStr for Span {
    type Err = InvalidDuration;

    fn from_str(text: &str) -> Result<Self, InvalidDuration> {
        parse_duration(text).map(Self)
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

/// A measured duration for display: at most two units, such as `1m30s`, `2.4s` or `12ms`.
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
    fn a_duration_is_written_with_the_fewest_units_that_say_it() {
        for (text, canonical) in [
            ("0", "0s"),
            ("250ms", "250ms"),
            ("90s", "1m30s"),
            ("1m 30s", "1m30s"),
            ("1.5h", "1h30m"),
            ("168h", "7d"),
            ("1500ms", "1s500ms"),
        ] {
            let span: Span = text.parse().unwrap();
            assert_eq!(span.to_string(), canonical, "{text}");
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
