//! The commands, one file each.

mod act;
mod demo;
mod filter;
mod get;
mod history;
mod list;
mod produce;
mod serve;
mod token;
mod wait;

use crate::{
    access::NoRandomness,
    client::{Client, ClientError, Endpoint},
    config::{ConfigError, ServeFlags},
    exit::{EXIT_CODES, Exit},
    output::{Format, Tone},
    produce::ProduceError,
    secret::Secret,
    serve::ServeError,
};
use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand, builder::Resettable};
use demo::DemoError;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC};
use std::{collections::BTreeSet, env, io, path::PathBuf};
use workspace_engine_core::WorkspaceType;

/// Thousands of workspaces in memory, rebuilt from a store and an event log, and the state of each of them.
#[derive(Debug, Parser)]
#[command(version, after_help = format!("{VARIABLES}\n\n{EXIT_CODES}"), arg_required_else_help = true)]
pub(crate) struct Cli {
    #[command(subcommand)]
    command: Command,
}

/// Shown near the end of the help.
const VARIABLES: &str = "\
Variables:
  Flags that show one as [env: …] can be given as WORKSPACE_ENGINE_… variables too; a flag
  overrides its variable, and empty variables are ignored.";

#[derive(Debug, Subcommand)]
enum Command {
    /// Run an engine with its HTTP server
    #[command(after_help = VARIABLES)]
    Serve(ServeFlags),
    /// Run an engine in a temporary directory and watch its states change
    Demo(demo::Arguments),
    /// Send events, one JSON object a line, to a running engine
    Produce(produce::Arguments),
    /// List workspaces and their states
    List(list::Arguments),
    /// Show the status of one workspace
    Get(get::Arguments),
    /// Wait until a workspace is in a state
    Wait(wait::Arguments),
    /// Show every change of state of a workspace
    History(history::Arguments),
    /// Make a token, and the line for the tokens file of an engine
    Token(token::Arguments),
    /// Load a workspace now, or all that match a filter
    Load(act::Arguments),
    /// Save a workspace and take it out of memory, or all that match a filter
    Unload(act::Arguments),
    /// Save a workspace and load it again, or all that match a filter
    Reload(act::Arguments),
    /// Put the event that a workspace cannot apply into the dead-letter log, or of all that match a filter
    Skip(act::Arguments),
    /// Forget what is stored of a workspace and rebuild it from the log, or of all that match a filter
    Reset(act::ResetArguments),
    /// Delete a workspace: its state, its history and its dead letters
    Delete(act::DeleteArguments),
}

/// Which engine receives the requests, and how its answers are shown.
#[derive(Debug, Clone, Args)]
pub(crate) struct Remote {
    /// URL of the engine
    #[arg(
        long,
        env = "WORKSPACE_ENGINE_URL",
        default_value = "http://127.0.0.1:8081"
    )]
    url: String,
    /// Token of the caller, as printed by `workspace-engine token`; the variable keeps it out of the list of processes
    #[arg(
        long,
        env = "WORKSPACE_ENGINE_TOKEN",
        value_name = "TOKEN",
        hide_env_values = true
    )]
    token: Option<Secret>,
    /// PEM file of the authorities that the engine's certificate must be signed by, instead of the public ones
    #[arg(long, env = "WORKSPACE_ENGINE_CA_FILE", value_name = "FILE")]
    ca_file: Option<PathBuf>,
    /// PEM file of the caller's client certificate
    #[arg(
        long,
        env = "WORKSPACE_ENGINE_CLIENT_CERT",
        value_name = "FILE",
        requires = "client_key"
    )]
    client_cert: Option<PathBuf>,
    /// PEM file of the private key of --client-cert
    #[arg(
        long,
        env = "WORKSPACE_ENGINE_CLIENT_KEY",
        value_name = "FILE",
        requires = "client_cert"
    )]
    client_key: Option<PathBuf>,
    /// How results are shown
    #[arg(
        short,
        long,
        env = "WORKSPACE_ENGINE_OUTPUT",
        value_name = "FORMAT",
        value_enum,
        default_value_t
    )]
    output: Format,
}

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CommandError {
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Serve(Box<ServeError>),
    #[error(transparent)]
    Demo(Box<DemoError>),
    #[error(transparent)]
    Token(#[from] NoRandomness),
    #[error(transparent)]
    Act(#[from] act::ActError),
    #[error("cannot read {path}", path = path.display())]
    Open { path: PathBuf, source: io::Error },
    #[error("{input}: {source}")]
    Produce {
        input: String,
        source: Box<ProduceError>,
    },
}

impl From<ServeError> for CommandError {
    fn from(error: ServeError) -> Self {
        Self::Serve(Box::new(error))
    }
}

impl From<DemoError> for CommandError {
    fn from(error: DemoError) -> Self {
        Self::Demo(Box::new(error))
    }
}

impl CommandError {
    /// The exit code of this failure.
    pub(crate) fn exit(&self) -> Exit {
        match self {
            Self::Client(error) => error.exit(),
            Self::Config(_) | Self::Act(_) => Exit::Usage,
            Self::Serve(error) => error.exit(),
            Self::Demo(error) => error.exit(),
            Self::Token(_) | Self::Open { .. } => Exit::Failed,
            Self::Produce { source, .. } => source.exit(),
        }
    }
}

impl Remote {
    fn client(&self) -> Result<Client, ClientError> {
        let identity = self.client_cert.as_deref().zip(self.client_key.as_deref());
        Client::new(&Endpoint {
            url: &self.url,
            token: self.token.as_ref(),
            ca_file: self.ca_file.as_deref(),
            identity,
        })
    }
}

impl Cli {
    /// Parses the command line, and the variables of its flags.
    ///
    /// # Errors
    /// What is wrong with them, or the requested help.
    pub(crate) fn read() -> Result<Self, clap::Error> {
        let mut matches = without_empty_variables(Self::command()).try_get_matches()?;
        Self::from_arg_matches_mut(&mut matches)
    }

    /// Runs the command.
    ///
    /// # Errors
    /// [`CommandError`] determines the exit code.
    pub(crate) fn run(self, workspace_type: WorkspaceType) -> Result<Exit, CommandError> {
        match self.command {
            Command::Serve(flags) => serve::run(&flags, workspace_type),
            Command::Demo(arguments) => demo::run(&arguments),
            Command::Produce(arguments) => produce::run(&arguments),
            Command::List(arguments) => list::run(&arguments),
            Command::Get(arguments) => get::run(&arguments),
            Command::Wait(arguments) => wait::run(&arguments),
            Command::History(arguments) => history::run(&arguments),
            Command::Token(arguments) => token::run(&arguments),
            Command::Load(arguments) => act::run(act::Action::Load, &arguments),
            Command::Unload(arguments) => act::run(act::Action::Unload, &arguments),
            Command::Reload(arguments) => act::run(act::Action::Reload, &arguments),
            Command::Skip(arguments) => act::run(act::Action::Skip, &arguments),
            Command::Reset(arguments) => act::reset(&arguments),
            Command::Delete(arguments) => act::delete(&arguments),
        }
    }
}

/// Every variable that is read for a flag of some command.
fn variables() -> BTreeSet<String> {
    let command = Cli::command();
    let arguments = command
        .get_subcommands()
        .flat_map(clap::Command::get_arguments);
    arguments
        .filter_map(|arg| Some(arg.get_env()?.to_str()?.to_owned()))
        .collect()
}

/// Escaped characters of a path: all except those that are common in ids.
const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'_')
    .remove(b'.')
    .remove(b':');

/// The same command, which ignores empty variables.
fn without_empty_variables(command: clap::Command) -> clap::Command {
    command
        .mut_args(|arg| {
            let is_empty = arg
                .get_env()
                .and_then(env::var_os)
                .is_some_and(|value| value.is_empty());
            if is_empty {
                arg.env(Resettable::Reset)
            } else {
                arg
            }
        })
        .mut_subcommands(without_empty_variables)
}

/// The highlighting of a state.
fn tone(state: &str) -> Tone {
    match state {
        "ready" => Tone::Good,
        "error" => Tone::Bad,
        "unknown" => Tone::Faint,
        _ => Tone::Busy,
    }
}

/// Path of a route below a workspace.
fn workspace_path(id: &str, rest: &str) -> String {
    let id = percent_encoding::utf8_percent_encode(id, ESCAPED);
    format!("/api/v1/workspaces/{id}{rest}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
