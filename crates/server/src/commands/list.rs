//! `list`: the status of many workspaces.

use super::{CommandError, Remote, filter::Filter, tone};
use crate::{
    client::{Client, ClientError, Status, StatusPage},
    exit::Exit,
    output::{self, Format, field},
};
use clap::Args;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Serialize;
use serde_json::value::RawValue;

/// Maximum statuses of one request.
const PAGE: usize = 1000;

#[derive(Debug, Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    filter: Filter,
    /// At most so many workspaces
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    limit: Option<u64>,
    #[command(flatten)]
    remote: Remote,
}

/// All pages as one document in the engine's format.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Whole {
    workspaces: Vec<Box<RawValue>>,
    total_count: u64,
    state_counts: Box<RawValue>,
    next_cursor: Option<String>,
}

pub(super) fn run(arguments: &Arguments) -> Result<Exit, CommandError> {
    let client = arguments.remote.client()?;
    let whole = fetch(&client, arguments)?;
    match arguments.remote.output {
        Format::Json => output::json(&whole),
        Format::Table => show(&client, &whole)?,
    }
    Ok(Exit::Done)
}

fn fetch(client: &Client, arguments: &Arguments) -> Result<Whole, ClientError> {
    let limit = arguments.limit.map_or(usize::MAX, |limit| {
        usize::try_from(limit).unwrap_or(usize::MAX)
    });
    let mut workspaces = Vec::new();
    let mut cursor = None;
    loop {
        let wanted = limit.saturating_sub(workspaces.len()).min(PAGE);
        let path = path(arguments, wanted, cursor.as_deref());
        let (page, _) = client.document::<StatusPage>(&path)?;
        workspaces.extend(page.workspaces);
        if page.next_cursor.is_none() || workspaces.len() >= limit {
            return Ok(Whole {
                workspaces,
                total_count: page.total_count,
                state_counts: page.state_counts,
                next_cursor: page.next_cursor,
            });
        }
        cursor = page.next_cursor;
    }
}

fn path(arguments: &Arguments, limit: usize, cursor: Option<&str>) -> String {
    let mut path = format!("/api/v1/workspaces/statuses?limit={limit}");
    let mut add = |name: &str, value: &str| {
        path.push('&');
        path.push_str(name);
        path.push('=');
        path.extend(utf8_percent_encode(value, NON_ALPHANUMERIC));
    };
    for (name, value) in arguments.filter.pairs() {
        add(name, &value);
    }
    if let Some(cursor) = cursor {
        add("cursor", cursor);
    }
    path
}

fn show(client: &Client, whole: &Whole) -> Result<(), ClientError> {
    let statuses: Vec<Status> = whole
        .workspaces
        .iter()
        .map(|raw| {
            serde_json::from_str(raw.get()).map_err(|error| ClientError::Malformed {
                url: client.url().to_owned(),
                reason: error.to_string(),
            })
        })
        .collect::<Result<_, _>>()?;
    output::table(
        ["WORKSPACE", "STATE", "FOR", "PROGRESS", "ETA", "MESSAGE"],
        statuses.iter().map(|status| {
            let progress = status.current_progress();
            [
                status.workspace_id.as_str().into(),
                field(&status.state, tone(&status.state)),
                status.time_in_state.as_deref().unwrap_or_default().into(),
                progress
                    .and_then(|progress| progress.percent)
                    .map(|percent| format!("{percent:.1}%"))
                    .unwrap_or_default()
                    .into(),
                progress
                    .map(|progress| progress.eta(status.observed_at))
                    .unwrap_or_default()
                    .into(),
                status
                    .error_message
                    .as_ref()
                    .unwrap_or(&status.message)
                    .into(),
            ]
        }),
    );
    if whole.next_cursor.is_some() {
        output::notice(format_args!(
            "{} shown, there are more ({} workspaces in all)",
            statuses.len(),
            whole.total_count
        ));
    }
    Ok(())
}
