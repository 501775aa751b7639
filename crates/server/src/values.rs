//! The values of flags and settings: numbers, sizes, durations and paths. An error says what is allowed.

use bytesize::ByteSize;
use std::{
    borrow::Cow, env, fs, num::NonZeroUsize, path::PathBuf, process, thread, time::Duration,
};
use workspace_status_http::parse_duration;

/// A setting that `off` leaves unset. Under this name clap takes it for one value, and not for an optional flag.
pub(crate) type OrOff<T> = Option<T>;

/// A setting whose value `auto` is determined elsewhere.
pub(crate) type OrAuto<T> = Option<T>;

/// A number of bytes.
pub(crate) type Bytes = u64;

/// A setting that cannot be used beside others.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Conflict {
    pub(crate) setting: &'static str,
    pub(crate) reason: Cow<'static, str>,
}

impl Conflict {
    pub(crate) fn new(setting: &'static str, reason: impl Into<Cow<'static, str>>) -> Self {
        Self {
            setting,
            reason: reason.into(),
        }
    }
}

/// Parses a value, or `None` from `absent`.
fn unless<T, E>(
    absent: &'static str,
    parse: impl Fn(&str) -> Result<T, E> + Clone,
) -> impl Fn(&str) -> Result<Option<T>, E> + Clone {
    move |text| {
        if text == absent {
            return Ok(None);
        }
        parse(text).map(Some)
    }
}

pub(crate) fn or_off<T, E>(
    parse: impl Fn(&str) -> Result<T, E> + Clone,
) -> impl Fn(&str) -> Result<Option<T>, E> + Clone {
    unless("off", parse)
}

pub(crate) fn or_auto<T, E>(
    parse: impl Fn(&str) -> Result<T, E> + Clone,
) -> impl Fn(&str) -> Result<Option<T>, E> + Clone {
    unless("auto", parse)
}

/// A number between two bounds, both included.
pub(crate) fn number<T: TryFrom<u64>>(
    min: u64,
    max: u64,
) -> impl Fn(&str) -> Result<T, String> + Clone {
    move |text| {
        let number = text.parse().ok();
        number
            .filter(|number| (min..=max).contains(number))
            .and_then(|number| T::try_from(number).ok())
            .ok_or_else(|| format!("{text:?} is not a number from {min} to {max}"))
    }
}

/// A size such as `16MiB`.
///
/// # Errors
/// What a size looks like.
pub(crate) fn bytes(text: &str) -> Result<Bytes, String> {
    match text.parse() {
        Ok(ByteSize(u64::MAX)) => Err(format!("{text:?} is too large a size")),
        Ok(ByteSize(bytes)) => Ok(bytes),
        Err(_) => Err(format!(
            "a size is written as 512KiB, 16MiB, 10GB or a number of bytes, not {text:?}"
        )),
    }
}

/// A size in memory that is not less than `min`.
pub(crate) fn at_least(min: &'static str) -> impl Fn(&str) -> Result<usize, String> + Clone {
    move |text| {
        let size = bytes(text)?;
        if size < bytes(min)? {
            return Err(format!("{text} is less than {min}"));
        }
        Ok(usize::try_from(size).unwrap_or(usize::MAX))
    }
}

/// A duration above zero.
pub(crate) fn positive(text: &str) -> Result<Duration, String> {
    match parse_duration(text) {
        Ok(Duration::ZERO) => Err("must be longer than nothing".to_owned()),
        Ok(duration) => Ok(duration),
        Err(error) => Err(error.to_string()),
    }
}

#[expect(clippy::unnecessary_wraps, reason = "the form of a parser")]
pub(crate) fn path(text: &str) -> Result<PathBuf, String> {
    Ok(PathBuf::from(text))
}

pub(crate) fn directory(text: &str) -> Result<PathBuf, String> {
    if text.is_empty() {
        return Err("the name of a directory is not empty".to_owned());
    }
    path(text)
}

/// A number of threads; `auto` is one per core, at least two.
pub(crate) fn threads(text: &str) -> Result<usize, String> {
    let cores = || thread::available_parallelism().map_or(2, NonZeroUsize::get);
    Ok(or_auto(number(1, 1024))(text)?.unwrap_or_else(|| cores().max(2)))
}

/// The name of an owner; `auto` is host and process id, to distinguish two engines and to locate an owner.
pub(crate) fn owner(text: &str) -> Result<String, String> {
    match text.len() {
        0 => Err("a name is not empty".to_owned()),
        256.. => Err(format!("a name has at most 255 bytes, not {}", text.len())),
        _ if text == "auto" => Ok(format!("{}:{}", host(), process::id())),
        _ => Ok(text.to_owned()),
    }
}

fn host() -> String {
    ["/proc/sys/kernel/hostname", "/etc/hostname"]
        .into_iter()
        .find_map(|path| fs::read_to_string(path).ok())
        .or_else(|| env::var("HOSTNAME").ok())
        .map(|name| name.trim().to_owned())
        .filter(|name| !name.is_empty())
        .unwrap_or_else(|| "localhost".to_owned())
}

/// A measured duration for display: at most two units, such as `1m30s`, `2.4s` or `12ms`.
pub(crate) fn rounded(duration: Duration) -> String {
    let ms = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    match ms {
        0..1_000 => format!("{ms}ms"),
        1_000..60_000 => match ms % 1_000 / 100 {
            0 => format!("{}s", ms / 1_000),
            tenths => format!("{}.{tenths}s", ms / 1_000),
        },
        60_000..3_600_000 => format!("{}m{}s", ms / 60_000, ms % 60_000 / 1_000),
        3_600_000..86_400_000 => format!("{}h{}m", ms / 3_600_000, ms % 3_600_000 / 60_000),
        _ => format!("{}d{}h", ms / 86_400_000, ms % 86_400_000 / 3_600_000),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_size_is_a_number_of_bytes_or_has_a_unit() {
        let form = |text| {
            format!("a size is written as 512KiB, 16MiB, 10GB or a number of bytes, not {text:?}")
        };
        for (text, expected) in [
            ("0", Ok(0)),
            ("100B", Ok(100)),
            ("16 mib", Ok(16 << 20)),
            ("1536KiB", Ok(1536 << 10)),
            ("10GB", Ok(10_000_000_000)),
            ("2TiB", Ok(2 << 40)),
            ("", Err(form(""))),
            ("MiB", Err(form("MiB"))),
            ("-1", Err(form("-1"))),
            ("16 megabytes", Err(form("16 megabytes"))),
            (
                "99999999999TiB",
                Err("\"99999999999TiB\" is too large a size".to_owned()),
            ),
        ] {
            assert_eq!(bytes(text), expected);
        }
    }

    #[test]
    fn a_measured_duration_has_two_units_at_most() {
        for (ms, expected) in [
            (12, "12ms"),
            (2_050, "2s"),
            (2_450, "2.4s"),
            (90_000, "1m30s"),
            (3_725_000, "1h2m"),
            (90_000_000, "1d1h"),
        ] {
            assert_eq!(rounded(Duration::from_millis(ms)), expected);
        }
    }
}
