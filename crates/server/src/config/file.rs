//! The configuration file: TOML, one `key = value` a setting.

use super::keys::Key;
use std::{
    fmt, fs, io,
    path::{Path, PathBuf},
};
use toml::de::{DeTable, DeValue};

/// One setting of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FileSetting {
    pub(crate) key: &'static str,
    pub(crate) value: String,
    pub(crate) line: usize,
}

/// Why a configuration file was refused.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FileError {
    #[error("cannot read configuration file {path}", path = path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("{path}:{line}: {reason}", path = path.display())]
    Syntax {
        path: PathBuf,
        line: usize,
        reason: String,
    },
    #[error("{path}:{line}: unknown key `{key}`{nearest}", path = path.display())]
    UnknownKey {
        path: PathBuf,
        line: usize,
        key: String,
        nearest: Nearest,
    },
    #[error("{path}:{line}: `{key}` takes a string, a whole decimal number or a boolean, not {found}", path = path.display())]
    Type {
        path: PathBuf,
        line: usize,
        key: &'static str,
        found: &'static str,
    },
}

/// The end of an error message that names the nearest known key, where there is one.
#[derive(Debug)]
pub(crate) struct Nearest(pub(crate) Option<&'static str>);

impl fmt::Display for Nearest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(name) => write!(f, ", did you mean `{name}`?"),
            None => f.write_str(", see `workspace-engine serve --help` for all keys"),
        }
    }
}

/// Reads the settings in the file at `path`.
pub(crate) fn read(path: &Path) -> Result<Vec<FileSetting>, FileError> {
    let text = fs::read_to_string(path).map_err(|source| FileError::Read {
        path: path.to_owned(),
        source,
    })?;
    parse(&text, path)
}

/// Parses the settings in a file's text; `path` is named in errors.
pub(crate) fn parse(text: &str, path: &Path) -> Result<Vec<FileSetting>, FileError> {
    let table = DeTable::parse(text).map_err(|error| FileError::Syntax {
        path: path.to_owned(),
        line: line_of(text, error.span().map_or(0, |span| span.start)),
        reason: error.message().trim().replace('\n', ", "),
    })?;
    let mut settings = Vec::new();
    for (name, value) in table.get_ref() {
        let line = line_of(text, name.span().start);
        let Some(key) = Key::find(name.get_ref()) else {
            return Err(FileError::UnknownKey {
                path: path.to_owned(),
                line,
                key: name.get_ref().to_string(),
                nearest: Nearest(Key::nearest(name.get_ref())),
            });
        };
        let value = plain(value.get_ref()).ok_or_else(|| FileError::Type {
            path: path.to_owned(),
            line,
            key: key.name,
            found: kind(value.get_ref()),
        })?;
        settings.push(FileSetting {
            key: key.name,
            value,
            line,
        });
    }
    settings.sort_by_key(|setting| setting.line);
    Ok(settings)
}

/// A value in the form that its flag takes.
fn plain(value: &DeValue<'_>) -> Option<String> {
    match value {
        DeValue::String(text) => Some(text.to_string()),
        // Underscores are TOML's digit separators; other radixes are not worth a second reader of numbers.
        DeValue::Integer(number) if number.radix() == 10 => Some(number.as_str().replace('_', "")),
        DeValue::Boolean(value) => Some(value.to_string()),
        DeValue::Integer(_)
        | DeValue::Float(_)
        | DeValue::Datetime(_)
        | DeValue::Array(_)
        | DeValue::Table(_) => None,
    }
}

/// The kind of a value, for error messages.
fn kind(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::Integer(_) => "a hexadecimal, octal or binary one",
        DeValue::Float(_) => "one with a fraction or an exponent",
        DeValue::Datetime(_) => "a date or time",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
        DeValue::String(_) | DeValue::Boolean(_) => value.type_str(),
    }
}

/// Number of the line, from 1, that contains the byte at `position`.
fn line_of(text: &str, position: usize) -> usize {
    text.bytes()
        .take(position)
        .filter(|byte| *byte == b'\n')
        .count()
        + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: &str) {
        let shown = match parse(text, Path::new("engine.toml")) {
            Ok(settings) => settings
                .iter()
                .map(|setting| format!("{}={}@{}", setting.key, setting.value, setting.line))
                .collect::<Vec<_>>()
                .join(" "),
            Err(error) => error.to_string(),
        };
        assert_eq!(shown, expected, "{text}");
    }

    #[test]
    fn settings_are_read_with_their_lines() {
        check("", "");
        check(
            "# a comment\nlisten = \"0.0.0.0:80\"\n\npartitions = 1_024\n",
            "listen=0.0.0.0:80@2 partitions=1024@4",
        );
    }

    #[test]
    fn an_unknown_key_is_refused_with_its_line_and_the_nearest_key() {
        check(
            "permits = 4\ndata_dir = \"x\"\n",
            "engine.toml:2: unknown key `data_dir`, did you mean `data-dir`?",
        );
        check(
            "\n\nxyzzy = 1",
            "engine.toml:3: unknown key `xyzzy`, see `workspace-engine serve --help` for all keys",
        );
        check(
            "[server]\nlisten = 1",
            "engine.toml:1: unknown key `server`, see `workspace-engine serve --help` for all keys",
        );
    }

    #[test]
    fn broken_toml_is_refused_with_its_line() {
        check("permits = 4\npermits = 5\n", "engine.toml:2: duplicate key");
        check(
            "listen = \"127.0.0.1:80\n",
            "engine.toml:1: invalid basic string, expected `\"`",
        );
    }

    #[test]
    fn a_value_of_another_type_is_refused() {
        for (value, found) in [
            ("[1]", "a list"),
            ("0x10", "a hexadecimal, octal or binary one"),
            ("1.5", "one with a fraction or an exponent"),
            ("2026-11-23", "a date or time"),
        ] {
            check(
                &format!("permits = {value}"),
                &format!(
                    "engine.toml:1: `permits` takes a string, a whole decimal number or a boolean, not {found}"
                ),
            );
        }
    }
}
