//! `token NAME --role ROLE`: a new token, and the line for the tokens file of `serve`.

use super::CommandError;
use crate::{
    access::{
        NoRandomness, Role, TokenHash, check_name, check_prefix, generate_token, tokens_line,
    },
    exit::Exit,
    output::{self, Format},
};
use clap::Args;
use serde::Serialize;

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Name of the caller, which the log of actions shows
    #[arg(value_parser = parse_name)]
    name: String,
    /// What the caller may do: viewer (status, lists, history, metrics), reader (viewer and entities), producer (events),
    /// operator (reader and actions), admin (all)
    #[arg(long)]
    role: Role,
    /// Limits the caller to workspaces whose ids begin so; it is refused lists and whatever else concerns all
    #[arg(long, value_parser = parse_prefix)]
    prefix: Option<String>,
    /// How the result is shown
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

/// The JSON output, for scripts.
#[derive(Serialize)]
struct Document<'a> {
    token: &'a str,
    line: &'a str,
}

pub(super) fn run(arguments: &Arguments) -> Result<Exit, CommandError> {
    let token = generate_token()?;
    let hash = TokenHash::of_token(token.expose().as_bytes()).ok_or(NoRandomness)?;
    let prefix = arguments.prefix.as_deref();
    let line = tokens_line(&arguments.name, &hash, arguments.role, prefix);
    match arguments.output {
        Format::Json => output::json(&Document {
            token: token.expose(),
            line: &line,
        }),
        Format::Table => {
            output::notice(
                "The token, shown this once; WORKSPACE_ENGINE_TOKEN or --token gives it to the commands:",
            );
            output::line(token.expose());
            output::notice("The line for the file of serve --tokens, which holds no secret:");
            output::line(&line);
        }
    }
    Ok(Exit::Done)
}

fn parse_name(text: &str) -> Result<String, String> {
    check_name(text)
        .map(str::to_owned)
        .map_err(|error| error.to_string())
}

fn parse_prefix(text: &str) -> Result<String, String> {
    check_prefix(text)
        .map(str::to_owned)
        .map_err(|error| error.to_string())
}
