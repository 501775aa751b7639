//! The flags of `serve`, generated from the table of settings.

use super::keys::KEYS;
use clap::{Arg, ArgMatches, Args, Command, Error, FromArgMatches, value_parser};
use std::{
    collections::HashMap,
    path::{Path, PathBuf},
};

const CONFIG: &str = "config";

/// The flags given on the command line.
#[derive(Debug, Clone, Default)]
pub(crate) struct ServeFlags {
    config: Option<PathBuf>,
    values: HashMap<&'static str, String>,
}

impl ServeFlags {
    /// The configuration file, if `--config` was given.
    pub(crate) fn config(&self) -> Option<&Path> {
        self.config.as_deref()
    }

    /// The value of the flag `--name`, if it was given.
    pub(crate) fn value(&self, name: &str) -> Option<String> {
        self.values.get(name).cloned()
    }

    /// The same flags with one added.
    pub(crate) fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.values.insert(name, value.into());
        self
    }
}

impl FromArgMatches for ServeFlags {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, Error> {
        let mut flags = Self::default();
        flags.update_from_arg_matches(matches)?;
        Ok(flags)
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), Error> {
        self.config = matches.get_one::<PathBuf>(CONFIG).cloned();
        for key in &KEYS {
            if let Some(value) = matches.get_one::<String>(key.name) {
                self.values.insert(key.name, value.clone());
            }
        }
        Ok(())
    }
}

impl Args for ServeFlags {
    fn augment_args(command: Command) -> Command {
        let config = Arg::new(CONFIG)
            .long(CONFIG)
            .value_name("FILE")
            .env("WORKSPACE_ENGINE_CONFIG")
            .value_parser(value_parser!(PathBuf))
            .help("TOML file with any of the settings below under their names, such as `permits = 16`");
        KEYS.iter().fold(command.arg(config), |command, key| {
            let arg = Arg::new(key.name)
                .long(key.name)
                .value_name(key.value_name)
                .help(format!(
                    "{} [env: {}] [default: {}]",
                    key.help,
                    key.variable(),
                    key.default
                ));
            command.arg(if key.is_switch() {
                arg.num_args(0..=1)
                    .require_equals(true)
                    .default_missing_value("true")
            } else {
                arg
            })
        })
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}
