//! `load`, `unload`, `reload`, `skip`, `reset`, `delete`: actions on one workspace, or on all that match a filter.

use super::{CommandError, Remote, filter::Filter, workspace_path};
use crate::{
    client::{
        ANSWER_TIMEOUT, ActionCount, Answer, Client, ClientError, Operation, OperationBegun,
        RequestBody, Status,
    },
    exit::Exit,
    output::{self, Format, field},
};
use clap::Args;
use serde_json::json;
use std::{
    io::{self, BufRead, IsTerminal, Write},
    thread,
    time::Duration,
};
use workspace_status::WorkspaceId;

/// Timeout for an action on one workspace: a save to slow brokers takes longest.
const ACTION_TIMEOUT: Duration = Duration::from_mins(2);

/// Interval between two polls of an operation.
const LOOK: Duration = Duration::from_millis(200);

/// Maximum consecutive polls without an answer.
const MAX_UNANSWERED: u32 = 25;

/// Refused workspaces that a table shows; JSON shows all that the engine names.
const MAX_SHOWN: usize = 50;

/// The requested action.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Action {
    Load,
    Unload,
    Reload,
    Skip,
    Reset { force: bool },
    Delete,
}

impl Action {
    /// Its name, as used in the API.
    const fn name(self) -> &'static str {
        match self {
            Self::Load => "load",
            Self::Unload => "unload",
            Self::Reload => "reload",
            Self::Skip => "skip",
            Self::Reset { .. } => "reset",
            Self::Delete => "delete",
        }
    }

    /// The outcome for the workspace.
    const fn outcome(self) -> &'static str {
        match self {
            Self::Load => "a load is requested",
            Self::Unload => "it is unloaded",
            Self::Reload => "a reload is requested",
            Self::Skip => "its event is skipped",
            Self::Reset { .. } => "what was stored of it is forgotten",
            Self::Delete => "it is deleted",
        }
    }
}

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Id of the workspace; without one, all that match the filter
    id: Option<WorkspaceId>,
    #[command(flatten)]
    filter: Filter,
    /// Act on all that match without a confirmation
    #[arg(long)]
    yes: bool,
    /// Why, for the log of the engine
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    #[command(flatten)]
    remote: Remote,
}

#[derive(Debug, Args)]
pub(super) struct ResetArguments {
    /// Also where the log no longer reaches back to the first event: rebuild it from those that are left
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    arguments: Arguments,
}

#[derive(Debug, Args)]
pub(super) struct DeleteArguments {
    /// Id of the workspace
    id: WorkspaceId,
    #[command(flatten)]
    remote: Remote,
}

/// Why a command line requests nothing that can be executed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ActError {
    #[error("give the id of a workspace, or a filter such as --state error for all that match")]
    NoTarget,
    #[error("an id and a filter exclude each other: leave out one of them")]
    TwoTargets,
    #[error(
        "{matched} workspaces match, and there is no terminal to confirm on: nothing was done; add --yes to {action} them"
    )]
    NotAsked { matched: u64, action: &'static str },
}

pub(super) fn run(action: Action, arguments: &Arguments) -> Result<Exit, CommandError> {
    match (&arguments.id, arguments.filter.is_empty()) {
        (Some(id), true) => one(action, id.as_str(), &arguments.remote),
        (None, false) => many(action, arguments),
        (None, true) => Err(ActError::NoTarget.into()),
        (Some(_), false) => Err(ActError::TwoTargets.into()),
    }
}

pub(super) fn reset(arguments: &ResetArguments) -> Result<Exit, CommandError> {
    let force = arguments.force;
    run(Action::Reset { force }, &arguments.arguments)
}

pub(super) fn delete(arguments: &DeleteArguments) -> Result<Exit, CommandError> {
    let id = arguments.id.as_str();
    let client = arguments.remote.client()?;
    client
        .delete(&workspace_path(id, ""), ACTION_TIMEOUT)?
        .accepted(client.url())?;
    match arguments.remote.output {
        Format::Json => output::json(&json!({"workspaceId": id, "deleted": true})),
        Format::Table => output::line(format_args!("{id}: {}", Action::Delete.outcome())),
    }
    Ok(Exit::Done)
}

fn one(action: Action, id: &str, remote: &Remote) -> Result<Exit, CommandError> {
    let client = remote.client()?;
    let force = match action {
        Action::Reset { force: true } => "?force=true",
        Action::Reset { force: false }
        | Action::Load
        | Action::Unload
        | Action::Reload
        | Action::Skip
        | Action::Delete => "",
    };
    let path = workspace_path(id, &format!("/{}{force}", action.name()));
    let post = RequestBody {
        content_type: "application/json",
        body: b"",
        producer: None,
    };
    let answer = client
        .post(&path, post, ACTION_TIMEOUT)?
        .accepted(client.url())?;
    match remote.output {
        Format::Json => output::document(&answer.body),
        Format::Table => {
            let status: Status = answer.read(client.url())?;
            let text = status.error_message.as_ref().unwrap_or(&status.message);
            output::line(format_args!(
                "{id}: {}; it is {} now: {text}",
                action.outcome(),
                status.state
            ));
        }
    }
    Ok(Exit::Done)
}

fn many(action: Action, arguments: &Arguments) -> Result<Exit, CommandError> {
    let client = arguments.remote.client()?;
    let count = count(&client, action, arguments)?;
    let matched = count.matched;
    let name = action.name();
    if matched == 0 {
        output::notice("no workspace matches");
    } else {
        output::notice(format_args!("{name}: {matched} workspaces match"));
    }
    for refusable in &count.refusable {
        output::notice(format_args!(
            "  {} of them would be refused: {}",
            refusable.count, refusable.detail
        ));
    }
    if matched > 0 && !arguments.yes {
        if !io::stdin().is_terminal() || !output::watched() {
            return Err(ActError::NotAsked {
                matched,
                action: name,
            }
            .into());
        }
        if !confirmed(&format!("{name} {matched} workspaces?")) {
            output::notice("nothing was done");
            return Ok(Exit::Failed);
        }
    }
    let request = json!({
        "action": name,
        "filter": arguments.filter.object(),
        "reason": arguments.reason,
        "expected": matched,
        "force": matches!(action, Action::Reset { force: true }),
    });
    let begun: OperationBegun = client
        .post_json("/api/v1/actions", &request, ANSWER_TIMEOUT)?
        .accepted(client.url())?
        .read(client.url())?;
    let (operation, answer) = follow(&client, &begun.operation)?;
    match arguments.remote.output {
        Format::Json => output::document(&answer.body),
        Format::Table => show(name, &operation),
    }
    let all_done = operation.state == "done" && operation.refused_count == 0;
    Ok(if all_done { Exit::Done } else { Exit::Failed })
}

fn count(
    client: &Client,
    action: Action,
    arguments: &Arguments,
) -> Result<ActionCount, ClientError> {
    let request = json!({
        "action": action.name(),
        "filter": arguments.filter.object(),
        "dryRun": true,
    });
    client
        .post_json("/api/v1/actions", &request, ANSWER_TIMEOUT)?
        .accepted(client.url())?
        .read(client.url())
}

/// Requests confirmation; only a yes counts as one.
fn confirmed(question: &str) -> bool {
    // If the question cannot be printed, it was not seen.
    if write!(io::stderr(), "{question} [y/N] ").is_err() {
        return false;
    }
    let mut answer = String::new();
    let read = io::stdin().lock().read_line(&mut answer);
    read.is_ok() && matches!(answer.trim(), "y" | "Y" | "yes")
}

/// Waits until an operation ends.
fn follow(client: &Client, id: &str) -> Result<(Operation, Answer), ClientError> {
    let path = format!("/api/v1/operations/{id}");
    let bar = output::progress_bar(None);
    let mut unanswered = 0;
    loop {
        match client.document::<Operation>(&path) {
            Ok((operation, answer)) => {
                unanswered = 0;
                bar.set_length(operation.total);
                bar.set_position(operation.done + operation.refused_count);
                if operation.state != "running" {
                    bar.finish_and_clear();
                    return Ok((operation, answer));
                }
            }
            Err(error) => {
                unanswered += 1;
                if error.exit() != Exit::Unanswered || unanswered >= MAX_UNANSWERED {
                    bar.finish_and_clear();
                    output::notice(format_args!(
                        "operation {id} was begun; how it ended is not known: GET {path} says how far it is while the engine runs"
                    ));
                    return Err(error);
                }
            }
        }
        thread::sleep(LOOK);
    }
}

fn show(name: &str, operation: &Operation) {
    if !operation.refused.is_empty() {
        output::table(
            ["WORKSPACE", "REFUSED BECAUSE"],
            operation.refused.iter().take(MAX_SHOWN).map(|refused| {
                [
                    refused.workspace_id.as_str().into(),
                    field(&refused.detail, super::tone("error")),
                ]
            }),
        );
        if operation.refused.len() > MAX_SHOWN {
            output::line(format_args!(
                "... and {} more; -o json shows up to 1000",
                operation.refused_count.saturating_sub(MAX_SHOWN as u64)
            ));
        }
    }
    output::line(format_args!(
        "{name}: {} of {} workspaces done, {} refused{}",
        operation.done,
        operation.total,
        operation.refused_count,
        if operation.state == "stopped" {
            "; it was stopped before the others had their turn"
        } else {
            ""
        }
    ));
}
