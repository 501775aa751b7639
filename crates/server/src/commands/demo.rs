//! `demo`: an engine in a temporary directory, fed with sample events.

use super::{CommandError, workspace_path};
use crate::{
    access::is_loopback_address,
    client::{ANSWER_TIMEOUT, Client, ClientError, Endpoint, RequestBody, StatusPage},
    config::{ServeConfig, ServeFlags},
    demo::{Events, Screen},
    exit::Exit,
    output,
    produce::{Observer, Pace, ProduceError, ProduceOptions, Produced, RetryNotice, produce},
    serve::{Ended, Running, ServeError, serve},
    telemetry, values,
};
use clap::Args;
use serde::Deserialize;
use std::{
    fmt::Display,
    io,
    net::{SocketAddr, TcpListener},
    path::PathBuf,
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};
use tempfile::TempDir;
use workspace_engine_core::{Entities, WorkspaceType};
use workspace_status::{PageQuery, State, StateSet, Tracker};

/// Timeout for each step of the demonstration.
const PATIENCE: Duration = Duration::from_mins(2);
/// Interval between two polls.
const LOOK: Duration = Duration::from_millis(20);
const USUAL_ADDRESS: &str = "127.0.0.1:8081";
const ANY_ADDRESS: &str = "127.0.0.1:0";

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Directory in a git repository whose history makes the events; made-up events where there is none
    #[arg(long, value_name = "DIR", default_value = ".")]
    repository: PathBuf,
    /// Most commits, counted from the last one
    #[arg(long, value_name = "N", default_value = "500", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    commits: u32,
    /// Address of the HTTP server [default: 127.0.0.1:8081, or a free port where that is taken]
    #[arg(long, value_name = "ADDR:PORT")]
    listen: Option<String>,
    /// End with exit code 0 when every workspace is ready, instead of staying up
    #[arg(long)]
    exit_when_ready: bool,
}

/// Why a demonstration fails.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DemoError {
    #[error(
        "--listen: {0} is not a loopback address, and the demonstration lets every caller do everything"
    )]
    Elsewhere(SocketAddr),
    #[error("cannot make a temporary directory")]
    Directory(#[source] io::Error),
    #[error("cannot begin to feed the engine")]
    Begin(#[source] io::Error),
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error(transparent)]
    Produce(#[from] ProduceError),
    #[error("workspace {id} is in error: {message}")]
    Workspace { id: String, message: String },
    #[error("not every workspace is ready after {after}", after = values::rounded(*.0))]
    NotReady(Duration),
    #[error("stopped before every workspace was ready")]
    Stopped,
    #[error("cannot write to standard output")]
    Unread(#[source] io::Error),
}

impl DemoError {
    /// The exit code of this failure.
    pub(crate) fn exit(&self) -> Exit {
        match self {
            Self::Elsewhere(_) => Exit::Usage,
            Self::Directory(_)
            | Self::Begin(_)
            | Self::Workspace { .. }
            | Self::Stopped
            | Self::Unread(_) => Exit::Failed,
            Self::Client(error) => error.exit(),
            Self::Produce(error) => error.exit(),
            Self::NotReady(_) => Exit::TimedOut,
        }
    }
}

pub(super) fn run(arguments: &Arguments) -> Result<Exit, CommandError> {
    let directory = tempfile::Builder::new()
        .prefix("workspace-engine-demo-")
        .tempdir()
        .map_err(DemoError::Directory)?;
    let listen = arguments.listen.clone().unwrap_or_else(usual_or_any);
    if let Ok(address) = listen.parse::<SocketAddr>()
        && !is_loopback_address(address.ip())
    {
        return Err(DemoError::Elsewhere(address).into());
    }
    let flags = ServeFlags::of(&[
        ("listen", &listen),
        ("data-dir", &directory.path().to_string_lossy()),
        ("log-level", "warn"),
    ]);
    let config = ServeConfig::resolve(&flags)?.config;
    telemetry::begin(&config.log).map_err(ServeError::from)?;
    let events = Events::find(&arguments.repository, arguments.commits);
    let stays = !arguments.exit_when_ready;
    let (report, reported) = mpsc::channel();
    let served = serve(&config, WorkspaceType::of::<Entities>(), move |running| {
        let stage = Stage {
            running,
            report,
            stays,
        };
        let shows = thread::Builder::new().name("demo".to_owned());
        let begun = shows.spawn({
            let stage = stage.clone();
            move || match show(events, &stage) {
                Ok(()) if stays => {}
                outcome => stage.end(outcome),
            }
        });
        if let Err(error) = begun {
            stage.end(Err(DemoError::Begin(error)));
        }
    });
    let ended = match served {
        Ok(Ended::AtOnce) => {
            remove_beside_threads(directory);
            return Ok(Exit::Interrupted);
        }
        Ok(ended) => ended,
        Err(error) => return Err(error.into()),
    };
    match verdict(ended, reported.try_recv().ok(), stays) {
        Ok(()) => Ok(Exit::Done),
        Err(error) => Err(error.into()),
    }
}

/// The result of a demonstration that has ended.
fn verdict(
    ended: Ended,
    outcome: Option<Result<(), DemoError>>,
    stays: bool,
) -> Result<(), DemoError> {
    match (outcome, ended) {
        (Some(Ok(())), _) => Ok(()),
        // A demonstration that stays up is ended by its user, or by a reader that closed the pipe.
        (_, Ended::Signal | Ended::AtOnce) | (None, Ended::Reported) if stays => Ok(()),
        (Some(Err(DemoError::Unread(error))), Ended::Reported)
            if stays && error.kind() == io::ErrorKind::BrokenPipe =>
        {
            Ok(())
        }
        (Some(Err(error)), Ended::Reported) => Err(error),
        // A failure after the signal is a consequence of it.
        (_, Ended::Signal | Ended::AtOnce) | (None, Ended::Reported) => Err(DemoError::Stopped),
    }
}

/// Removes the directory of an engine whose threads may still write. Files that they create again are
/// removed by a retry, up to `ATTEMPTS` times.
fn remove_beside_threads(directory: TempDir) {
    const ATTEMPTS: usize = 20;
    let path = directory.keep();
    for _ in 0..ATTEMPTS {
        if std::fs::remove_dir_all(&path).is_ok() {
            return;
        }
        thread::sleep(LOOK);
    }
    output::warn(format_args!("{} could not be removed", path.display()));
}

/// A running engine that is shown, and the channel for the outcome.
#[derive(Debug, Clone)]
struct Stage {
    running: Running,
    report: mpsc::Sender<Result<(), DemoError>>,
    /// Whether the engine stays up when all is shown.
    stays: bool,
}

impl Stage {
    /// Ends the demonstration.
    fn end(&self, outcome: Result<(), DemoError>) {
        // The receiver is dropped where the engine was stopped meanwhile.
        let _ = self.report.send(outcome);
        self.running.stop();
    }

    fn screen(&self) -> Result<Screen, DemoError> {
        let stage = self.clone();
        let unread = move |error| stage.end(Err(DemoError::Unread(error)));
        Screen::begin(self.running.tracker.clone(), Box::new(unread)).map_err(DemoError::Begin)
    }
}

fn line(text: impl Display) -> Result<(), DemoError> {
    output::try_line(text).map_err(DemoError::Unread)
}

/// The default address where it is free, so that the commands need no flag; else any.
fn usual_or_any() -> String {
    match TcpListener::bind(USUAL_ADDRESS) {
        Ok(_) => USUAL_ADDRESS.to_owned(),
        Err(_) => ANY_ADDRESS.to_owned(),
    }
}

/// Sends the events, waits until every workspace is ready, and loads all of them again.
fn show(events: Events, stage: &Stage) -> Result<(), DemoError> {
    let running = &stage.running;
    let url = running.url();
    let client = Client::new(&Endpoint::of_url(&url))?;
    line(format_args!("workspace-engine listens on {url}"))?;
    line(format_args!("feeding it with {}", events.title))?;
    let screen = stage.screen()?;
    let pace = Pace::begin();
    let fed = feed(events, &client, running);
    screen.finish();
    let produced = fed?;
    line(format_args!(
        "\nall {} workspaces are ready, {} events in {}",
        running.tracker.count(),
        produced.accepted,
        values::rounded(pace.elapsed())
    ))?;

    line("now every workspace leaves the memory and is loaded again from the store")?;
    let screen = stage.screen()?;
    let pace = Pace::begin();
    let reloaded = reload(&client, running);
    screen.finish();
    reloaded?;
    line(format_args!(
        "\nall are ready again after {}\n",
        values::rounded(pace.elapsed())
    ))?;
    invite(&client, running)?;
    if stage.stays {
        line("Ctrl-C ends the demonstration and removes its directory")?;
    }
    Ok(())
}

fn feed(events: Events, client: &Client, running: &Running) -> Result<Produced, DemoError> {
    let lines = events.lines().map_err(DemoError::Begin)?;
    let options = ProduceOptions {
        // Small batches, so that changes are visible.
        batch_events: 200,
        ..ProduceOptions::default()
    };
    let produced = produce(client, lines, options, &mut Silent)?;
    let deadline = Instant::now() + PATIENCE;
    until(deadline, || Ok(lag(client)? == 0))?;
    all_ready(&running.tracker, deadline)?;
    Ok(produced)
}

/// Loads every workspace again, and waits until each is ready with a later epoch.
fn reload(client: &Client, running: &Running) -> Result<(), DemoError> {
    let deadline = Instant::now() + PATIENCE;
    let before = running.tracker.list_all();
    for snapshot in &before {
        let post = RequestBody {
            content_type: "application/json",
            body: b"",
            producer: None,
        };
        client
            .post(
                &workspace_path(snapshot.workspace_id(), "/reload"),
                post,
                ANSWER_TIMEOUT,
            )?
            .accepted(client.url())?;
    }
    until(deadline, || {
        let later = |id: &str, epoch| {
            running
                .tracker
                .snapshot(id)
                .is_some_and(|now| now.epoch() > epoch)
        };
        Ok(before
            .iter()
            .all(|snapshot| later(snapshot.workspace_id(), snapshot.epoch())))
    })?;
    all_ready(&running.tracker, deadline)
}

fn all_ready(tracker: &Tracker, deadline: Instant) -> Result<(), DemoError> {
    until(deadline, || {
        let counts = tracker.count_by_state();
        if counts[State::Error] > 0 {
            return Err(first_error(tracker));
        }
        Ok(counts[State::Ready] == counts.total())
    })
}

fn first_error(tracker: &Tracker) -> DemoError {
    let page = tracker.page(&PageQuery {
        limit: 1,
        states: StateSet::from(State::Error),
        ..PageQuery::default()
    });
    match page.snapshots.first() {
        Some(snapshot) => DemoError::Workspace {
            id: snapshot.workspace_id().to_owned(),
            message: snapshot.error_message().unwrap_or_default().to_owned(),
        },
        None => DemoError::NotReady(Duration::ZERO),
    }
}

/// Polls until a condition holds.
fn until(
    deadline: Instant,
    mut is_true: impl FnMut() -> Result<bool, DemoError>,
) -> Result<(), DemoError> {
    while !is_true()? {
        if Instant::now() >= deadline {
            return Err(DemoError::NotReady(PATIENCE));
        }
        thread::sleep(LOOK);
    }
    Ok(())
}

/// Number of offsets that are not applied yet, over all partitions.
fn lag(client: &Client) -> Result<u64, ClientError> {
    #[derive(Deserialize)]
    struct Partitions {
        partitions: Vec<Partition>,
    }
    #[derive(Deserialize)]
    struct Partition {
        lag: u64,
    }
    let (document, _) = client.document::<Partitions>("/api/v1/partitions")?;
    Ok(document.partitions.iter().map(|one| one.lag).sum())
}

/// Prints commands to try next.
fn invite(client: &Client, running: &Running) -> Result<(), DemoError> {
    let url = client.url();
    let (page, _) = client.document::<StatusPage>("/api/v1/workspaces/statuses?limit=1")?;
    let name = running
        .tracker
        .list_all()
        .first()
        .map(|snapshot| snapshot.workspace_id().to_owned())
        .unwrap_or_default();
    line(format_args!(
        "{} workspaces; try, in another terminal:\n  \
         export WORKSPACE_ENGINE_URL={url}\n  \
         workspace-engine list\n  \
         workspace-engine history {name}\n  \
         curl {url}{}\n\
         or see {url}/docs in a browser",
        page.total_count,
        workspace_path(&name, "/entities"),
    ))?;
    Ok(())
}

/// Reports nothing: the states show the progress.
struct Silent;

impl Observer for Silent {
    fn acknowledged(&mut self, _: Produced) {}
    fn retrying(&mut self, _: &RetryNotice<'_>) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_demonstration_that_was_stopped_early_did_not_make_everything_ready() {
        let failed = || Some(Err(DemoError::NotReady(PATIENCE)));
        let unread = || Some(Err(DemoError::Unread(io::ErrorKind::BrokenPipe.into())));
        let stopped = "stopped before every workspace was ready";
        let late = "not every workspace is ready after 2m0s";
        for (ended, outcome, stays, expected) in [
            (Ended::Reported, Some(Ok(())), false, ""),
            (Ended::Signal, Some(Ok(())), false, ""),
            (Ended::Signal, None, false, stopped),
            (Ended::Signal, failed(), false, stopped),
            (Ended::Reported, failed(), false, late),
            (
                Ended::Reported,
                unread(),
                false,
                "cannot write to standard output",
            ),
            (Ended::Signal, None, true, ""),
            (Ended::Signal, failed(), true, ""),
            (Ended::Reported, failed(), true, late),
            (Ended::Reported, unread(), true, ""),
        ] {
            let text = match verdict(ended, outcome, stays) {
                Ok(()) => String::new(),
                Err(error) => error.to_string(),
            };
            assert_eq!(text, expected, "{ended:?} {stays}");
        }
    }
}
