//! The configuration file: TOML, one `key = value` a setting.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};
use toml::{Spanned, Value};

/// One setting of a file.
#[derive(Debug)]
pub(super) struct FileSetting {
    pub(super) name: String,
    pub(super) value: String,
    pub(super) line: usize,
}

/// Why a configuration file was refused.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FileError {
    #[error("cannot read configuration file {path}", path = path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("{path}:{line}: {reason}", path = path.display())]
    Line {
        path: PathBuf,
        line: usize,
        reason: String,
    },
}

/// Reads the settings in the file at `path`; `names` are those that exist.
pub(super) fn read(path: &Path, names: &[&str]) -> Result<Vec<FileSetting>, FileError> {
    let text = fs::read_to_string(path).map_err(|source| FileError::Read {
        path: path.to_owned(),
        source,
    })?;
    parse(&text, names).map_err(|(line, reason)| FileError::Line {
        path: path.to_owned(),
        line,
        reason,
    })
}

/// Parses the settings in a file's text. An error has its line and its reason.
fn parse(text: &str, names: &[&str]) -> Result<Vec<FileSetting>, (usize, String)> {
    // Lines are counted from 1.
    let line_of = |position| {
        1 + text
            .bytes()
            .take(position)
            .filter(|byte| *byte == b'\n')
            .count()
    };
    let table: BTreeMap<Spanned<String>, Value> = toml::from_str(text).map_err(|error| {
        let start = error.span().map_or(0, |span| span.start);
        (line_of(start), error.message().trim().replace('\n', ", "))
    })?;
    let settings = table.into_iter().map(|(key, value)| {
        let line = line_of(key.span().start);
        let name = key.into_inner();
        if !names.contains(&name.as_str()) {
            let nearest = match nearest(&name, names) {
                Some(nearest) => format!("did you mean `{nearest}`?"),
                None => "see `workspace-engine serve --help` for all keys".to_owned(),
            };
            return Err((line, format!("unknown key `{name}`, {nearest}")));
        }
        let value = match value {
            Value::String(text) => text,
            Value::Integer(number) => number.to_string(),
            Value::Boolean(is_on) => is_on.to_string(),
            Value::Float(_) | Value::Datetime(_) | Value::Array(_) | Value::Table(_) => {
                let found = value.type_str();
                return Err((
                    line,
                    format!(
                        "`{name}` takes a string, a whole number or a boolean, not a value of type {found}"
                    ),
                ));
            }
        };
        Ok(FileSetting { name, value, line })
    });
    let mut errors = Vec::new();
    let settings = settings
        .filter_map(|setting| setting.map_err(|error| errors.push(error)).ok())
        .collect();
    match errors.into_iter().min() {
        Some(first) => Err(first),
        None => Ok(settings),
    }
}

/// The name that is most similar to `wanted`, if any is similar.
pub(super) fn nearest<'a>(wanted: &str, names: &[&'a str]) -> Option<&'a str> {
    let plain = |name: &str| name.to_ascii_lowercase().replace('_', "-");
    let similarity = |name: &str| strsim::jaro_winkler(&plain(name), &plain(wanted));
    let nearest = names
        .iter()
        .max_by(|one, other| similarity(one).total_cmp(&similarity(other)))?;
    (similarity(nearest) > 0.8).then_some(nearest)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAMES: [&str; 4] = ["listen", "data-dir", "permits", "save-interval"];

    fn check(text: &str, expected: &str) {
        let shown = match parse(text, &NAMES) {
            Ok(settings) => settings
                .iter()
                .map(|setting| format!("{}={}@{}", setting.name, setting.value, setting.line))
                .collect::<Vec<_>>()
                .join(" "),
            Err((line, reason)) => format!("{line}: {reason}"),
        };
        assert_eq!(shown, expected, "{text}");
    }

    #[test]
    fn settings_are_read_with_their_lines() {
        check("", "");
        check(
            "# a comment\nlisten = \"0.0.0.0:80\"\n\npermits = 1_024\n",
            "listen=0.0.0.0:80@2 permits=1024@4",
        );
    }

    #[test]
    fn what_is_wrong_is_refused_with_its_line_and_the_nearest_key() {
        for (text, expected) in [
            (
                "permits = 4\ndata_dir = \"x\"\n",
                "2: unknown key `data_dir`, did you mean `data-dir`?",
            ),
            (
                "\n\nxyzzy = 1\nabc = 1",
                "3: unknown key `xyzzy`, see `workspace-engine serve --help` for all keys",
            ),
            (
                "[server]\nlisten = 1",
                "1: unknown key `server`, see `workspace-engine serve --help` for all keys",
            ),
            ("permits = 4\npermits = 5\n", "2: duplicate key"),
            (
                "listen = \"127.0.0.1:80\n",
                "1: invalid basic string, expected `\"`",
            ),
            (
                "permits = [1]",
                "1: `permits` takes a string, a whole number or a boolean, not a value of type array",
            ),
            (
                "permits = 1.5",
                "1: `permits` takes a string, a whole number or a boolean, not a value of type float",
            ),
        ] {
            check(text, expected);
        }
    }

    #[test]
    fn the_nearest_setting_is_found_where_one_is_near() {
        for (name, expected) in [
            ("listn", Some("listen")),
            ("data_dir", Some("data-dir")),
            ("datadir", Some("data-dir")),
            ("Permits", Some("permits")),
            ("save_intervall", Some("save-interval")),
            ("xyzzy", None),
        ] {
            assert_eq!(nearest(name, &NAMES), expected, "{name}");
        }
    }
}
