//! `history ID`: every change of state of a workspace, and how long each phase lasted.

use super::{CommandError, Remote, tone, workspace_path};
use crate::{
    client::{Client, ClientError, HistoryPage, HistoryTransition, Phase},
    exit::Exit,
    output::{self, Format, field},
    values,
};
use clap::Args;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::value::RawValue;
use std::time::Duration;
use workspace_status::WorkspaceId;

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Id of the workspace
    id: WorkspaceId,
    #[command(flatten)]
    remote: Remote,
}

/// All pages as one document in the engine's format.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Whole {
    workspace_id: String,
    transitions: Vec<Box<RawValue>>,
    phases: Vec<Box<RawValue>>,
    transitions_total: u64,
    next_cursor: Option<String>,
}

pub(super) fn run(arguments: &Arguments) -> Result<Exit, CommandError> {
    let client = arguments.remote.client()?;
    let whole = fetch(&client, arguments.id.as_str())?;
    match arguments.remote.output {
        Format::Json => output::json(&whole),
        Format::Table => show(&client, &whole)?,
    }
    Ok(Exit::Done)
}

fn fetch(client: &Client, id: &str) -> Result<Whole, ClientError> {
    let route = workspace_path(id, "/history");
    let (page, _) = client.document::<HistoryPage>(&route)?;
    let mut whole = Whole {
        workspace_id: page.workspace_id,
        transitions: page.transitions,
        phases: page.phases,
        transitions_total: page.transitions_total,
        next_cursor: page.next_cursor,
    };
    while let Some(cursor) = whole.next_cursor.take() {
        let cursor = utf8_percent_encode(&cursor, NON_ALPHANUMERIC);
        let (page, _) = client.document::<HistoryPage>(&format!("{route}?cursor={cursor}"))?;
        whole.transitions.extend(page.transitions);
        whole.phases.extend(page.phases);
        whole.transitions_total = page.transitions_total;
        whole.next_cursor = page.next_cursor;
    }
    Ok(whole)
}

fn show(client: &Client, whole: &Whole) -> Result<(), ClientError> {
    let transitions: Vec<HistoryTransition> = read(client, &whole.transitions)?;
    let phases: Vec<Phase> = read(client, &whole.phases)?;
    // Each transition ends a phase, so they are shown side by side; the current phase is last.
    let lasted = |phase: Option<&Phase>| {
        phase
            .and_then(|phase| Duration::try_from_secs_f64(phase.duration_seconds).ok())
            .map(values::rounded)
            .unwrap_or_default()
    };
    let rows = transitions.iter().enumerate().map(|(place, transition)| {
        [
            output::instant(transition.timestamp).into(),
            transition.epoch.into(),
            transition.from_state.as_str().into(),
            lasted(phases.get(place)).into(),
            field(&transition.to_state, tone(&transition.to_state)),
            transition.message.as_str().into(),
            transition.owner.as_deref().unwrap_or_default().into(),
        ]
    });
    output::table(
        ["WHEN", "LOAD", "FROM", "LASTED", "TO", "MESSAGE", "OWNER"],
        rows,
    );
    if let Some(phase) = phases.last().filter(|phase| phase.left.is_none()) {
        output::line(format_args!(
            "\n{} for {} so far",
            phase.state,
            lasted(Some(phase))
        ));
    }
    Ok(())
}

fn read<T: DeserializeOwned>(
    client: &Client,
    raw: &[Box<RawValue>],
) -> Result<Vec<T>, ClientError> {
    raw.iter()
        .map(|raw| {
            serde_json::from_str(raw.get()).map_err(|error| ClientError::Malformed {
                url: client.url().to_owned(),
                reason: error.to_string(),
            })
        })
        .collect()
}
