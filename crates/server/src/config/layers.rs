//! Selects each setting's value from flag, variable, file and default.

use super::{
    file::FileSetting,
    keys::{KEYS, Key, OFF},
};
use std::{
    collections::HashMap,
    fmt::{self, Display},
    path::{Path, PathBuf},
    str::FromStr,
};

/// Where a value was set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Source {
    Flag,
    Variable,
    File { path: PathBuf, line: usize },
    Default,
}

/// A setting's value as text, and where it was set.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Layered {
    value: String,
    source: Source,
}

/// Every setting's value as text, before it is parsed.
#[derive(Debug)]
pub(crate) struct Layers {
    values: HashMap<&'static str, Layered>,
}

/// A setting whose value cannot be used.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{place}: {reason}")]
pub(crate) struct InvalidSetting {
    place: Place,
    reason: String,
}

/// Where a setting was set, in the notation of that source.
#[derive(Debug, PartialEq, Eq)]
struct Place {
    key: &'static Key,
    source: Source,
}

impl PartialEq for Key {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

impl Eq for Key {}

impl Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.key.name;
        match &self.source {
            Source::Flag => write!(f, "--{name}"),
            Source::Variable => f.write_str(&self.key.variable()),
            Source::File { path, line } => write!(f, "{}:{line}: `{name}`", path.display()),
            Source::Default => write!(f, "default of {name}"),
        }
    }
}

impl Layers {
    /// Combines the layers: a flag overrides a variable, a variable the file, the file the default.
    pub(crate) fn new(
        flag: impl Fn(&str) -> Option<String>,
        variable: impl Fn(&str) -> Option<String>,
        file: &[FileSetting],
        path: &Path,
    ) -> Self {
        let values = KEYS.iter().map(|key| {
            let from_file = || {
                let setting = file.iter().find(|setting| setting.key == key.name)?;
                let source = Source::File {
                    path: path.to_owned(),
                    line: setting.line,
                };
                Some((setting.value.clone(), source))
            };
            let (value, source) = flag(key.name)
                .map(|value| (value, Source::Flag))
                .or_else(|| variable(&key.variable()).map(|value| (value, Source::Variable)))
                .or_else(from_file)
                .unwrap_or_else(|| (key.default.to_owned(), Source::Default));
            (key.name, Layered { value, source })
        });
        Self {
            values: values.collect(),
        }
    }

    /// The value of a setting as text.
    pub(crate) fn text(&self, name: &str) -> &str {
        self.values
            .get(name)
            .map_or("", |layered| layered.value.as_str())
    }

    /// The value of a setting, parsed.
    pub(crate) fn read<T>(&self, name: &str) -> Result<T, InvalidSetting>
    where
        T: FromStr<Err: Display>,
    {
        self.text(name)
            .trim()
            .parse()
            .map_err(|error: T::Err| self.invalid(name, format_args!("{error}")))
    }

    /// The value of a setting, parsed, or `None` where it is `off`.
    pub(crate) fn read_unless<T>(&self, off: &str, name: &str) -> Result<Option<T>, InvalidSetting>
    where
        T: FromStr<Err: Display>,
    {
        if self.text(name).trim() == off {
            return Ok(None);
        }
        self.read(name).map(Some)
    }

    /// A number between two bounds, both included.
    pub(crate) fn number(&self, name: &str, least: u64, most: u64) -> Result<u64, InvalidSetting> {
        let text = self.text(name);
        text.trim()
            .parse()
            .ok()
            .filter(|number| (least..=most).contains(number))
            .ok_or_else(|| {
                self.invalid(
                    name,
                    format_args!("{text:?} is not a number from {least} to {most}"),
                )
            })
    }

    /// One of the given words.
    pub(crate) fn choice<T: Copy>(
        &self,
        name: &str,
        choices: &[(&str, T)],
    ) -> Result<T, InvalidSetting> {
        let text = self.text(name).trim();
        if let Some((_, choice)) = choices.iter().find(|(word, _)| *word == text) {
            return Ok(*choice);
        }
        let words: Vec<&str> = choices.iter().map(|(word, _)| *word).collect();
        Err(self.invalid(
            name,
            format_args!("{text:?} is not one of {}", words.join(", ")),
        ))
    }

    /// A path, or `None` where it is `off`.
    pub(crate) fn path_unless_off(&self, name: &str) -> Option<PathBuf> {
        match self.text(name) {
            OFF => None,
            path => Some(PathBuf::from(path)),
        }
    }

    /// The error for a setting whose value cannot be used.
    pub(crate) fn invalid(&self, name: &str, reason: fmt::Arguments<'_>) -> InvalidSetting {
        // Callers pass only names in the table; a test reads them all.
        let key = Key::find(name).unwrap_or(&KEYS[0]);
        let source = self
            .values
            .get(name)
            .map_or(Source::Default, |layered| layered.source.clone());
        InvalidSetting {
            place: Place { key, source },
            reason: reason.to_string(),
        }
    }

    /// Every setting that is not a default, for the log.
    pub(crate) fn set(&self) -> impl Iterator<Item = (&'static str, &str)> {
        KEYS.iter().filter_map(|key| {
            let layered = self.values.get(key.name)?;
            (layered.source != Source::Default).then_some((key.name, layered.value.as_str()))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layers(flag: Option<&str>, variable: Option<&str>, file: Option<&str>) -> Layers {
        let own = |asked: &str, name: &str, value: Option<&str>| {
            value.filter(|_| asked == name).map(str::to_owned)
        };
        let settings: Vec<FileSetting> = file
            .map(|value| FileSetting {
                key: "permits",
                value: value.to_owned(),
                line: 7,
            })
            .into_iter()
            .collect();
        Layers::new(
            |name| own(name, "permits", flag),
            |name| own(name, "WORKSPACE_ENGINE_PERMITS", variable),
            &settings,
            Path::new("engine.toml"),
        )
    }

    #[test]
    fn a_flag_goes_before_a_variable_before_the_file_before_the_default() {
        for (flag, variable, file, expected) in [
            (None, None, None, 8),
            (None, None, Some("3"), 3),
            (None, Some("2"), Some("3"), 2),
            (Some("1"), Some("2"), Some("3"), 1),
            (Some("1"), None, None, 1),
        ] {
            let number = layers(flag, variable, file).number("permits", 1, 100);
            assert_eq!(number, Ok(expected));
        }
    }

    #[test]
    fn a_wrong_value_is_refused_in_the_words_of_who_set_it() {
        for (flag, variable, file, expected) in [
            (Some("x"), None, None, "--permits"),
            (None, Some("x"), None, "WORKSPACE_ENGINE_PERMITS"),
            (None, None, Some("x"), "engine.toml:7: `permits`"),
        ] {
            let error = layers(flag, variable, file)
                .number("permits", 1, 100)
                .unwrap_err();
            assert_eq!(
                error.to_string(),
                format!("{expected}: \"x\" is not a number from 1 to 100")
            );
        }
    }
}
