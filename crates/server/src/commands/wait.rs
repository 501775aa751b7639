//! `wait ID`: ends when a workspace is in a requested state or in one that fails the wait, or at its deadline.

use super::{CommandError, Remote, workspace_path};
use crate::{
    client::{Answer, Client, ClientError, Status, left},
    exit::Exit,
    output::{self, Format},
    values,
};
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use std::{
    thread,
    time::{Duration, Instant},
};
use workspace_status::{State, WorkspaceId};
use workspace_status_http::parse_duration;

/// Longest wait of one request, so that a dead connection is noticed.
const LONGEST_ROUND: Duration = Duration::from_secs(20);
/// The same on a terminal, so that the progress bar moves.
const WATCHED_ROUND: Duration = Duration::from_millis(400);
/// How much longer than its wait a request may take.
const GRACE: Duration = Duration::from_secs(1);
/// Pause between two requests while no answer arrives.
const RETRY_PAUSE: Duration = Duration::from_millis(250);

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Id of the workspace; one that the engine does not know yet is waited for
    id: WorkspaceId,
    /// State to wait for; one of several where it is repeated
    #[arg(
        long = "for",
        env = "WORKSPACE_ENGINE_FOR",
        value_name = "STATE",
        default_value = "ready",
        value_delimiter = ','
    )]
    until: Vec<State>,
    /// State that ends the wait with exit code 1; `none` for no state
    #[arg(
        long,
        env = "WORKSPACE_ENGINE_FAIL_ON",
        value_name = "STATE",
        default_value = "error",
        value_delimiter = ','
    )]
    fail_on: Vec<FailOn>,
    /// Longest time to wait, also over restarts of the engine; exit code 2 when it is over
    #[arg(long, env = "WORKSPACE_ENGINE_TIMEOUT", value_name = "DURATION", default_value = "60s", value_parser = parse_duration)]
    timeout: Duration,
    #[command(flatten)]
    remote: Remote,
}

/// A state that fails the wait, or `none`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct FailOn(Option<State>);

impl std::str::FromStr for FailOn {
    type Err = <State as std::str::FromStr>::Err;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "none" => Ok(Self(None)),
            state => state.parse().map(Some).map(Self),
        }
    }
}

/// The states of a wait, by their API names.
#[derive(Debug)]
struct Wanted {
    until: Vec<String>,
    fail_on: Vec<String>,
}

/// What a status means for a wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Met,
    Failed,
    Open,
}

pub(super) fn run(arguments: &Arguments) -> Result<Exit, CommandError> {
    let client = arguments.remote.client()?;
    let begun = Instant::now();
    let deadline = begun
        .checked_add(arguments.timeout)
        .unwrap_or_else(|| begun + Duration::from_hours(24 * 365));
    let wanted = Wanted::new(arguments);
    let bar = bar(arguments.id.as_str());
    let end = wait(&client, arguments.id.as_str(), &wanted, deadline, &bar);
    bar.finish_and_clear();
    let end = end?;
    if let (Format::Json, Some(answer)) = (arguments.remote.output, &end.answer) {
        output::document(&answer.body);
    }
    let took = values::rounded(begun.elapsed());
    let text = end.summary(arguments.id.as_str(), &took);
    match (end.exit, arguments.remote.output) {
        (Exit::Done, Format::Table) => output::line(text),
        (Exit::Done, Format::Json) => {}
        (Exit::Failed | Exit::TimedOut | Exit::Unanswered | Exit::Usage | Exit::Interrupted, _) => {
            output::error(text);
        }
    }
    Ok(end.exit)
}

/// How a wait ended, with the last answer and the last failure.
struct WaitEnd {
    exit: Exit,
    status: Option<Status>,
    answer: Option<Answer>,
    last_error: Option<ClientError>,
}

impl WaitEnd {
    fn summary(&self, id: &str, took: &str) -> String {
        let Some(status) = &self.status else {
            let last_error = self.last_error.as_ref().map(ToString::to_string);
            return format!(
                "timed out after {took}: {}",
                last_error.unwrap_or_else(|| "there was no answer".to_owned())
            );
        };
        let mut text = match self.exit {
            Exit::Done => format!("{id} is {} after {took}", status.state),
            Exit::Failed => format!("{id} is in {} after {took}", status.state),
            Exit::TimedOut | Exit::Unanswered | Exit::Usage | Exit::Interrupted => {
                format!("timed out after {took}: {id} is in {}", status.state)
            }
        };
        if let Some(progress) = status.current_progress()
            && self.exit != Exit::Done
        {
            text.push_str(", ");
            text.push_str(&progress.summary());
        }
        let message = status.error_message.as_ref().unwrap_or(&status.message);
        if !message.is_empty() && self.exit != Exit::Done {
            text.push_str(": ");
            text.push_str(message);
        }
        if let Some(known) = &status.last_known
            && self.exit != Exit::Done
        {
            text.push_str("; last known: ");
            text.push_str(&known.summary());
        }
        if let Some(last_error) = &self.last_error {
            text.push_str("; since then ");
            text.push_str(&last_error.to_string());
        }
        text
    }
}

/// Sends requests until a status decides the wait or the deadline has passed.
fn wait(
    client: &Client,
    id: &str,
    wanted: &Wanted,
    deadline: Instant,
    bar: &ProgressBar,
) -> Result<WaitEnd, ClientError> {
    let mut end = WaitEnd {
        exit: Exit::TimedOut,
        status: None,
        answer: None,
        last_error: None,
    };
    loop {
        match poll(client, id, wanted, deadline) {
            Ok((status, answer)) => {
                show(bar, &status);
                let verdict = wanted.verdict(&status.state);
                end.status = Some(status);
                end.answer = Some(answer);
                end.last_error = None;
                end.exit = match verdict {
                    Verdict::Met => Exit::Done,
                    Verdict::Failed => Exit::Failed,
                    Verdict::Open => Exit::TimedOut,
                };
                if verdict != Verdict::Open {
                    return Ok(end);
                }
            }
            Err(error) if is_passing(&error) => {
                bar.set_message(error.to_string());
                if end.last_error.is_none() && !output::watched() {
                    output::notice(format_args!("{error}; trying on"));
                }
                end.last_error = Some(error);
                thread::sleep(RETRY_PAUSE.min(left(deadline)));
            }
            Err(error) => return Err(error),
        }
        if Instant::now() >= deadline {
            return Ok(end);
        }
    }
}

/// One request, which the engine answers when the wait is decided, or at the end of the round.
fn poll(
    client: &Client,
    id: &str,
    wanted: &Wanted,
    deadline: Instant,
) -> Result<(Status, Answer), ClientError> {
    let longest = if output::watched() {
        WATCHED_ROUND
    } else {
        LONGEST_ROUND
    };
    let round = left(deadline).min(longest);
    let mut query = format!(
        "/status?waitFor={}&timeout={}ms",
        wanted.until.join(","),
        round.as_millis().max(1)
    );
    if !wanted.fail_on.is_empty() {
        query.push_str("&failOn=");
        query.push_str(&wanted.fail_on.join(","));
    }
    let sent = Instant::now();
    let answer = client.get(&workspace_path(id, &query), round + GRACE)?;
    if !answer.is_success() && answer.status != 404 {
        return Err(answer.refused(client.url()));
    }
    let status: Status = answer.read(client.url())?;
    // An immediate answer that decides nothing must not cause a loop without a pause.
    if status.timed_out != Some(true) && wanted.verdict(&status.state) == Verdict::Open {
        thread::sleep(
            RETRY_PAUSE
                .saturating_sub(sent.elapsed())
                .min(left(deadline)),
        );
    }
    Ok((status, answer))
}

/// Whether a failure may be temporary: the engine restarts, or is too busy.
fn is_passing(error: &ClientError) -> bool {
    match error {
        ClientError::Unreachable { .. } => true,
        ClientError::Refused { status, .. } => matches!(status, 429 | 502 | 503 | 504),
        ClientError::Url { .. }
        | ClientError::Token
        | ClientError::File { .. }
        | ClientError::Tls { .. }
        | ClientError::Malformed { .. } => false,
    }
}

impl Wanted {
    fn new(arguments: &Arguments) -> Self {
        let until: Vec<String> = arguments.until.iter().map(ToString::to_string).collect();
        let fail_on = arguments
            .fail_on
            .iter()
            .filter_map(|fail_on| fail_on.0)
            .map(|state| state.to_string())
            // A state that is waited for does not fail the wait.
            .filter(|state| !until.contains(state))
            .collect();
        Self { until, fail_on }
    }

    fn verdict(&self, state: &str) -> Verdict {
        let is_in = |states: &[String]| states.iter().any(|name| name == state);
        if is_in(&self.until) {
            Verdict::Met
        } else if is_in(&self.fail_on) {
            Verdict::Failed
        } else {
            Verdict::Open
        }
    }
}

fn bar(id: &str) -> ProgressBar {
    let bar = output::progress_bar(None);
    bar.set_prefix(id.to_owned());
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}

fn show(bar: &ProgressBar, status: &Status) {
    let percent = status
        .current_progress()
        .and_then(|progress| progress.percent);
    let template = if percent.is_some() {
        "{prefix} {spinner} [{bar:30}] {percent}% {msg} ({elapsed})"
    } else {
        "{prefix} {spinner} {msg} ({elapsed})"
    };
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style.progress_chars("=> "));
    }
    if let Some(percent) = percent {
        bar.set_length(100);
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a percentage, cut to a whole one"
        )]
        bar.set_position(percent.clamp(0.0, 100.0) as u64);
    }
    let eta = status
        .current_progress()
        .map(|progress| progress.eta(status.observed_at))
        .filter(|eta| !eta.is_empty())
        .map(|eta| format!(" eta {eta}"))
        .unwrap_or_default();
    let message = status.error_message.as_ref().unwrap_or(&status.message);
    bar.set_message(format!("{} {message}{eta}", status.state));
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        arguments: Arguments,
    }

    #[test]
    fn a_state_decides_a_wait() {
        for (flags, state, expected) in [
            (&[][..], "ready", Verdict::Met),
            (&[], "error", Verdict::Failed),
            (&[], "replaying_events", Verdict::Open),
            (&["--fail-on", "none"], "error", Verdict::Open),
            (&["--for", "error"], "error", Verdict::Met),
            (&["--for", "ready,error"], "error", Verdict::Met),
            (
                &["--fail-on", "error,unloading"],
                "unloading",
                Verdict::Failed,
            ),
        ] {
            let line = [&["wait", "a"], flags].concat();
            let wanted = Wanted::new(&Cli::parse_from(line).arguments);
            assert_eq!(wanted.verdict(state), expected, "{flags:?} {state}");
        }
    }

    #[test]
    fn a_slip_on_the_command_line_is_refused() {
        for flags in [
            &["wait", "a", "--for", "reddy"][..],
            &["wait", "a", "--fail-on", "reddy"],
            &["wait", "a/b"],
            &["wait", "a", "--timeout", "60"],
        ] {
            assert!(Cli::try_parse_from(flags).is_err(), "{flags:?}");
        }
    }
}
