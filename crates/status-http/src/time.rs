//! Text form of instants and durations in documents.
//!
//! An instant is RFC 3339 in UTC with milliseconds, `2026-11-23T08:09:10.123Z`, always 24 bytes.
//! A duration is written as Go does, in whole seconds (`5m30s`, `1h0m0s`, `0s`).

use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Serialize, Serializer};

/// 9999-12-31T23:59:59Z: RFC 3339 has four digits for the year.
const LAST_SECOND: u64 = 253_402_300_799;

/// An instant in a document. One before 1970 is shown as 1970, one after 9999 as the end of 9999:
/// both can only come from a clock that is set wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Time(pub(crate) SystemTime);

impl Time {
    /// The text with its quotation marks.
    pub(crate) fn quoted(self, calendar: &mut Calendar) -> [u8; 26] {
        let since = self.0.duration_since(UNIX_EPOCH).unwrap_or_default();
        let mut quoted = calendar.second(since.as_secs().min(LAST_SECOND));
        let millis = since.subsec_millis();
        let [f2, f3] = two_digits(millis % 100);
        let [.., p1, p2, p3, _, _] = &mut quoted;
        (*p1, *p2, *p3) = (digit(millis / 100), f2, f3);
        quoted
    }

    fn with_text<T>(self, use_text: impl FnOnce(&str) -> T) -> T {
        let quoted = self.quoted(&mut Calendar::default());
        let text = str::from_utf8(&quoted).unwrap_or_default();
        use_text(text.trim_matches('"'))
    }
}

impl fmt::Display for Time {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.with_text(|text| formatter.write_str(text))
    }
}

impl Serialize for Time {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.with_text(|text| serializer.serialize_str(text))
    }
}

/// Cache of the last second and its day: many instants of a document are in the same second, most
/// on the same day.
#[derive(Debug)]
pub(crate) struct Calendar {
    second: u64,
    quoted: [u8; 26],
    day: u32,
    date: [u8; 8],
}

impl Default for Calendar {
    fn default() -> Self {
        Self {
            second: 0,
            quoted: *br#""1970-01-01T00:00:00.000Z""#,
            day: 0,
            date: *b"19700101",
        }
    }
}

impl Calendar {
    /// The text of a second since 1970, with its quotation marks.
    fn second(&mut self, second: u64) -> [u8; 26] {
        if second != self.second {
            self.second = second;
            self.quoted = self.text(second);
        }
        self.quoted
    }

    fn text(&mut self, second: u64) -> [u8; 26] {
        // The last day of year 9999 is far below 2^32.
        let day = u32::try_from(second / 86_400).unwrap_or_default();
        let second_of_day = u32::try_from(second % 86_400).unwrap_or_default();
        let [y1, y2, y3, y4, m1, m2, d1, d2] = self.date(day);
        let [h1, h2] = two_digits(second_of_day / 3600);
        let [n1, n2] = two_digits(second_of_day / 60 % 60);
        let [s1, s2] = two_digits(second_of_day % 60);
        [
            b'"', y1, y2, y3, y4, b'-', m1, m2, b'-', d1, d2, b'T', h1, h2, b':', n1, n2, b':', s1,
            s2, b'.', b'0', b'0', b'0', b'Z', b'"',
        ]
    }

    /// The digits of year, month and day.
    fn date(&mut self, day: u32) -> [u8; 8] {
        if day != self.day {
            let (year, month, day_of_month) = civil(day);
            let ([y1, y2], [y3, y4]) = (two_digits(year / 100), two_digits(year % 100));
            let ([m1, m2], [d1, d2]) = (two_digits(month), two_digits(day_of_month));
            self.day = day;
            self.date = [y1, y2, y3, y4, m1, m2, d1, d2];
        }
        self.date
    }
}

/// Year, month and day of a day counted from 1970-01-01, by the algorithm `civil_from_days` of
/// <https://howardhinnant.github.io/date_algorithms.html>, only for days from 1970 on.
fn civil(days_since_1970: u32) -> (u32, u32, u32) {
    // Years begin in March, so that the leap day is the last of its year; eras have 400 years.
    let days = days_since_1970 + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 {
        month_from_march + 3
    } else {
        month_from_march - 9
    };
    (era * 400 + year_of_era + u32::from(month <= 2), month, day)
}

/// The decimal digits of a number below 100.
fn two_digits(value: u32) -> [u8; 2] {
    [digit(value / 10), digit(value % 10)]
}

fn digit(value: u32) -> u8 {
    b'0' + value.to_le_bytes()[0]
}

/// A duration in whole seconds, rounded down, as Go prints it: `0s`, `5m30s`, `49h0m7s`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Elapsed(pub(crate) Duration);

impl Elapsed {
    /// Calls `use_text` with the text, at most 24 bytes: 2^64 seconds are a number of hours with 16
    /// digits.
    pub(crate) fn with_text<T>(self, use_text: impl FnOnce(&str) -> T) -> T {
        let seconds = self.0.as_secs();
        let mut text = [0; 24];
        let mut start = text.len();
        let mut prepend = |byte| {
            start = start.saturating_sub(1);
            if let Some(place) = text.get_mut(start) {
                *place = byte;
            }
        };
        // Backwards, up to the largest unit that is needed.
        for (value, unit, is_last) in [
            (seconds % 60, b's', seconds < 60),
            (seconds / 60 % 60, b'm', seconds < 3600),
            (seconds / 3600, b'h', true),
        ] {
            prepend(unit);
            let mut rest = value;
            loop {
                prepend(b'0' + (rest % 10).to_le_bytes()[0]);
                rest /= 10;
                if rest == 0 {
                    break;
                }
            }
            if is_last {
                break;
            }
        }
        let text = text.get(start..).unwrap_or_default();
        use_text(str::from_utf8(text).unwrap_or_default())
    }
}

impl fmt::Display for Elapsed {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.with_text(|text| formatter.write_str(text))
    }
}

impl Serialize for Elapsed {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.with_text(|text| serializer.serialize_str(text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64, millis: u32) -> Time {
        Time(UNIX_EPOCH + Duration::new(seconds, millis * 1_000_000))
    }

    #[test]
    fn an_instant_is_written_as_jiff_writes_it() {
        // One in about 15 days over 8,000 years: all months, leap years and centuries.
        for seconds in (0..LAST_SECOND).step_by(1_333_377) {
            let jiff = jiff::Timestamp::from_second(seconds.try_into().unwrap()).unwrap();
            let expected = format!("{}.007Z", jiff.to_string().trim_end_matches('Z'));
            assert_eq!(at(seconds, 7).to_string(), expected);
        }
    }

    #[test]
    fn instants_of_one_document_are_each_shown_as_they_are_alone() {
        let mut calendar = Calendar::default();
        for (second, millis) in [(7, 1), (7, 999), (0, 0), (86_407, 20), (86_408, 20), (7, 3)] {
            let time = at(second, millis);
            let quoted = time.quoted(&mut calendar);
            assert_eq!(str::from_utf8(&quoted).unwrap(), format!("\"{time}\""));
        }
    }

    #[test]
    fn an_instant_of_a_wrong_clock_is_shown_at_the_nearest_end() {
        let before = Time(UNIX_EPOCH - Duration::from_secs(1));
        assert_eq!(before.to_string(), "1970-01-01T00:00:00.000Z");
        let after = at(LAST_SECOND + 5, 0);
        assert_eq!(after.to_string(), "9999-12-31T23:59:59.000Z");
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
        ] {
            let elapsed = Elapsed(Duration::from_secs(seconds) + Duration::from_millis(999));
            assert_eq!(elapsed.to_string(), expected);
        }
        let longest = Elapsed(Duration::from_secs(u64::MAX));
        assert_eq!(longest.to_string(), "5124095576030431h0m15s");
    }
}
