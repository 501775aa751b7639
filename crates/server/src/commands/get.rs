//! `get ID`: the status of one workspace.

use super::{CommandError, Remote, tone, workspace_path};
use crate::{
    client::{ANSWER_TIMEOUT, Status},
    exit::Exit,
    output::{self, Field, Format, field},
};
use clap::Args;
use workspace_status::WorkspaceId;

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Id of the workspace
    id: WorkspaceId,
    #[command(flatten)]
    remote: Remote,
}

pub(super) fn run(arguments: &Arguments) -> Result<Exit, CommandError> {
    let client = arguments.remote.client()?;
    let answer = client.get(
        &workspace_path(arguments.id.as_str(), "/status"),
        ANSWER_TIMEOUT,
    )?;
    // An unknown workspace also has a status: `unknown`, with code 404.
    let status = match answer.read::<Status>(client.url()) {
        Ok(status) if answer.is_success() || answer.status == 404 => status,
        Ok(_) | Err(_) if !answer.is_success() => return Err(answer.refused(client.url()).into()),
        Ok(status) => status,
        Err(error) => return Err(error.into()),
    };
    match arguments.remote.output {
        Format::Json => output::document(&answer.body),
        Format::Table => show(&status),
    }
    Ok(if answer.is_success() {
        Exit::Done
    } else {
        Exit::Failed
    })
}

fn show(status: &Status) {
    output::table(["", ""], rows(status));
    if !status.recent_history.is_empty() {
        output::line("");
        output::table(
            ["WHEN", "FROM", "TO", "MESSAGE"],
            status.recent_history.iter().map(|transition| {
                [
                    output::instant(transition.timestamp).into(),
                    transition.from_state.as_str().into(),
                    field(&transition.to_state, tone(&transition.to_state)),
                    transition.message.as_str().into(),
                ]
            }),
        );
    }
}

fn rows(status: &Status) -> Vec<[Field; 2]> {
    let mut rows: Vec<[Field; 2]> = Vec::new();
    let mut add = |name: &str, value: Field| rows.push([name.into(), value]);
    add("workspace", status.workspace_id.as_str().into());
    add("state", field(&status.state, tone(&status.state)));
    add("healthy", status.healthy.into());
    add("message", status.message.as_str().into());
    if let Some(reason) = &status.reason {
        add("reason", reason.as_str().into());
    }
    if let Some(known) = &status.last_known {
        add("last known", known.summary().into());
    }
    if let Some(entered) = status.state_entered {
        let lasting = status.time_in_state.as_deref().unwrap_or_default();
        add(
            "since",
            format!("{} ({lasting})", output::instant(entered)).into(),
        );
    }
    if let Some(updated) = status.last_updated {
        add("updated", output::instant(updated).into());
    }
    if let Some(message) = &status.error_message {
        add("error", field(message, tone("error")));
    }
    if let Some(error) = &status.error {
        add("error kind", error.kind.as_str().into());
        if let (Some(attempt), Some(at)) = (error.attempt, error.next_retry_at) {
            add(
                "next retry",
                format!("{} (attempt {attempt} failed)", output::instant(at)).into(),
            );
        }
    }
    if let Some(progress) = status.current_progress() {
        add("progress", progress.summary().into());
        if let Some(rate) = progress.rate_per_second {
            add("rate", format!("{rate:.0} {}/s", progress.unit).into());
        }
        let eta = progress.eta(status.observed_at);
        if !eta.is_empty() {
            add("eta", eta.into());
        }
    }
    if let Some(epoch) = status.epoch {
        add("epoch", epoch.into());
    }
    if let Some(owner) = &status.owner {
        add("owner", owner.as_str().into());
    }
    for (key, value) in &status.metadata {
        let text = value
            .as_str()
            .map_or_else(|| value.to_string(), str::to_owned);
        add(key, text.into());
    }
    rows
}
