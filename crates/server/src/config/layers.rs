//! Merges flags, variables, file and defaults, and names in errors where a value was set.

use super::{
    ServeConfig,
    file::{self, FileError},
};
use crate::values::Conflict;
use clap::{
    Arg, ArgMatches, Args, Command, Error, FromArgMatches,
    builder::PossibleValue,
    error::{ContextKind, ContextValue},
    parser::ValueSource,
    value_parser,
};
use std::{collections::BTreeSet, error::Error as _, fmt, path::PathBuf};

/// Prefix of the variables.
const VARIABLE_PREFIX: &str = "WORKSPACE_ENGINE_";

/// The flags and variables of `serve` as text. They are parsed together with the configuration file, which one of them
/// names.
#[derive(Debug, Clone, Default)]
pub(crate) struct ServeFlags {
    file: Option<PathBuf>,
    given: Vec<Setting>,
}

/// A setting's value as text, and where it was set.
#[derive(Debug, Clone)]
struct Setting {
    name: String,
    value: String,
    source: Source,
}

#[derive(Debug, Clone)]
enum Source {
    Flag,
    Variable,
    File { path: PathBuf, line: usize },
}

/// Why a configuration was refused.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConfigError {
    #[error(transparent)]
    File(#[from] FileError),
    #[error("{place}: {reason}")]
    Setting { place: String, reason: String },
}

/// A configuration, and the settings that the operator made, as `name=value`, for the log.
#[derive(Debug)]
pub(crate) struct Resolved {
    pub(crate) config: ServeConfig,
    pub(crate) set: Vec<String>,
}

impl fmt::Display for Setting {
    /// Writes where it was set, in the notation of that source.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = &self.name;
        match &self.source {
            Source::Flag => write!(f, "--{name}"),
            Source::Variable => f.write_str(&variable(name)),
            Source::File { path, line } => write!(f, "{}:{line}: `{name}`", path.display()),
        }
    }
}

impl ServeConfig {
    /// Resolves a configuration from flags, variables and the file that one of them names.
    ///
    /// # Errors
    /// [`ConfigError`] names the flag, the variable or the line of the file that cannot be used.
    pub(crate) fn resolve(flags: &ServeFlags) -> Result<Resolved, ConfigError> {
        let given = with_file(flags)?;
        let refuse = |name: &str, reason: String| {
            let setting = given.iter().find(|setting| setting.name == name);
            let place = setting.map_or_else(|| format!("--{name}"), Setting::to_string);
            ConfigError::Setting { place, reason }
        };
        let arguments = given
            .iter()
            .map(|Setting { name, value, .. }| format!("--{name}={}", value.trim()));
        let matches = command().try_get_matches_from(arguments);
        let mut config = matches
            .and_then(|matches| Self::from_arg_matches(&matches))
            .map_err(|error| {
                let (name, reason) = explain(&error);
                refuse(&name, reason)
            })?;
        config
            .check()
            .map_err(|Conflict { setting, reason }| refuse(setting, reason.into_owned()))?;
        let cluster = config.engine.kafka_settings.cluster();
        config.engine.kafka =
            cluster.map_err(|Conflict { setting, reason }| refuse(setting, reason.into_owned()))?;
        let set = given
            .iter()
            .map(|Setting { name, value, .. }| format!("{name}={value}"));
        Ok(Resolved {
            config,
            set: set.collect(),
        })
    }
}

/// The settings of flags and variables, and those of the file that neither of them overrides.
fn with_file(flags: &ServeFlags) -> Result<Vec<Setting>, FileError> {
    let mut given = flags.given.clone();
    if let Some(path) = &flags.file {
        let command = command();
        let names: Vec<&str> = command.get_arguments().filter_map(Arg::get_long).collect();
        for setting in file::read(path, &names)? {
            if given.iter().all(|other| other.name != setting.name) {
                given.push(Setting {
                    name: setting.name,
                    value: setting.value,
                    source: Source::File {
                        path: path.clone(),
                        line: setting.line,
                    },
                });
            }
        }
    }
    Ok(given)
}

/// The setting that an error is about, and what is wrong with its value.
fn explain(error: &Error) -> (String, String) {
    let context = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => text.as_str(),
        _ => "",
    };
    // Its form is `--name <VALUE>`.
    let name = context(ContextKind::InvalidArg).trim_start_matches("--");
    let name = name
        .split([' ', '=', '['])
        .next()
        .unwrap_or_default()
        .to_owned();
    let value = context(ContextKind::InvalidValue);
    let reason = match (error.get(ContextKind::ValidValue), error.source()) {
        (Some(ContextValue::Strings(valid)), _) => {
            format!("{value:?} is not one of {}", valid.join(", "))
        }
        (_, Some(source)) => source.to_string(),
        (_, None) => error.to_string(),
    };
    (name, reason)
}

/// The settings as typed flags.
fn command() -> Command {
    ServeConfig::augment_args(Command::new("serve").no_binary_name(true)).mut_args(|arg| {
        let values: Vec<_> = arg.get_possible_values();
        if values.is_empty() {
            return arg;
        }
        let names: Vec<&str> = values.iter().map(PossibleValue::get_name).collect();
        arg.value_name(names.join("|"))
    })
}

/// Name of the variable of a setting.
fn variable(name: &str) -> String {
    format!(
        "{VARIABLE_PREFIX}{}",
        name.replace('-', "_").to_ascii_uppercase()
    )
}

impl Args for ServeFlags {
    fn augment_args(serve: Command) -> Command {
        let file = Arg::new("config")
            .long("config")
            .value_name("FILE")
            .env(variable("config"))
            .value_parser(value_parser!(PathBuf))
            .help("TOML file with any of the settings below under their names, such as `permits = 16`");
        command()
            .get_arguments()
            .fold(serve.arg(file), |serve, arg| {
                let variable = variable(arg.get_long().unwrap_or_default());
                serve.arg(
                    arg.clone()
                        .env(variable)
                        .value_parser(value_parser!(String)),
                )
            })
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for ServeFlags {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, Error> {
        let mut flags = Self::default();
        flags.update_from_arg_matches(matches)?;
        Ok(flags)
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), Error> {
        self.file = matches.get_one::<PathBuf>("config").cloned();
        self.given = command()
            .get_arguments()
            .filter_map(|arg| {
                let id = arg.get_id().as_str();
                let source = match matches.value_source(id)? {
                    ValueSource::CommandLine => Source::Flag,
                    ValueSource::EnvVariable => Source::Variable,
                    ValueSource::DefaultValue | _ => return None,
                };
                Some(Setting {
                    name: arg.get_long()?.to_owned(),
                    value: matches.get_one::<String>(id)?.clone(),
                    source,
                })
            })
            .collect();
        Ok(())
    }
}

impl ServeFlags {
    /// Flags with these values.
    pub(crate) fn of(values: &[(&str, &str)]) -> Self {
        let given = values.iter().map(|(name, value)| Setting {
            name: (*name).to_owned(),
            value: (*value).to_owned(),
            source: Source::Flag,
        });
        Self {
            file: None,
            given: given.collect(),
        }
    }
}

/// The variables with the engine's prefix that resemble one of the `known` ones, each with the one probably meant.
///
/// Orchestrators set variables with this prefix for a service of the same name, so an unknown variable is logged and not
/// refused.
pub(crate) fn misspelt_variables<'a>(
    set: impl IntoIterator<Item = &'a str>,
    known: &BTreeSet<String>,
) -> Vec<String> {
    let names: Vec<&str> = known
        .iter()
        .filter_map(|name| name.strip_prefix(VARIABLE_PREFIX))
        .collect();
    set.into_iter()
        .filter_map(|variable| {
            let rest = variable.strip_prefix(VARIABLE_PREFIX)?;
            let is_orchestrated =
                rest == "PORT" || rest.starts_with("PORT_") || rest.starts_with("SERVICE_");
            if is_orchestrated || names.contains(&rest) {
                return None;
            }
            let nearest = file::nearest(rest, &names)?;
            Some(format!(
                "{variable} (did you mean {VARIABLE_PREFIX}{nearest}?)"
            ))
        })
        .collect()
}
