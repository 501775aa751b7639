//! `produce FILE|-`: sends events to an engine.

use super::{CommandError, Remote};
use crate::{
    exit::Exit,
    output::{self, Format},
    produce::{
        Check, Observer, Pace, ProduceError, ProduceOptions, Produced, RetryNotice, produce,
    },
    values,
};
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use std::{
    fs::File,
    io::{self, BufRead, BufReader},
    path::{Path, PathBuf},
    time::Duration,
};
use workspace_status_http::parse_duration;

const READ_BUFFER_BYTES: usize = 256 << 10;

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// File of events, one JSON object a line; `-` is standard input
    #[arg(value_name = "FILE|-")]
    input: PathBuf,
    /// How long to retry while the engine does not answer, such as over its restart
    #[arg(long, env = "WORKSPACE_ENGINE_RETRY_FOR", value_name = "DURATION", default_value = "60s", value_parser = parse_duration)]
    retry_for: Duration,
    /// Most events of one request
    #[arg(long, env = "WORKSPACE_ENGINE_BATCH_EVENTS", value_name = "N", default_value = "5000", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    batch_events: u32,
    /// Most bytes of one request; a longer event is sent in a request of its own
    #[arg(long, env = "WORKSPACE_ENGINE_BATCH_BYTES", value_name = "SIZE", default_value = "1MiB", value_parser = values::at_least("1B"))]
    batch_bytes: usize,
    /// Send events that the engine's workspace type cannot apply yet: it must know them before it reads them, else it
    /// parks the workspace
    #[arg(long, env = "WORKSPACE_ENGINE_NO_CHECK", value_parser = clap::builder::BoolishValueParser::new(), action = clap::ArgAction::SetTrue)]
    no_check: bool,
    #[command(flatten)]
    remote: Remote,
}

/// The outcome, for scripts.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Summary {
    #[serde(flatten)]
    produced: Produced,
    seconds: f64,
    events_per_second: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error_line: Option<u64>,
}

pub(super) fn run(arguments: &Arguments) -> Result<Exit, CommandError> {
    let client = arguments.remote.client()?;
    let (input, size) = match open(&arguments.input) {
        Ok(opened) => opened,
        Err(source) => {
            return Err(CommandError::Open {
                path: arguments.input.clone(),
                source,
            });
        }
    };
    let options = ProduceOptions {
        batch_events: arguments.batch_events as usize,
        batch_bytes: arguments.batch_bytes,
        retry_for: arguments.retry_for,
        check: if arguments.no_check {
            Check::EventAlone
        } else {
            Check::WorkspaceType
        },
    };
    let pace = Pace::begin();
    let mut bar = Bar::new(size, pace);
    let result = produce(&client, input, options, &mut bar);
    bar.bar.finish_and_clear();
    let produced = match &result {
        Ok(produced) => *produced,
        Err(error) => error.produced(),
    };
    match arguments.remote.output {
        Format::Json => output::json(&summary(produced, pace, result.as_ref().err())),
        Format::Table if result.is_ok() => output::notice(sentence(produced, pace)),
        Format::Table => {}
    }
    result
        .map(|_| Exit::Done)
        .map_err(|source| CommandError::Produce {
            input: name(&arguments.input),
            source: Box::new(source),
        })
}

type Input = Box<dyn BufRead + Send>;

fn open(path: &Path) -> io::Result<(Input, Option<u64>)> {
    if path.as_os_str() == "-" {
        return Ok((
            Box::new(BufReader::with_capacity(READ_BUFFER_BYTES, io::stdin())),
            None,
        ));
    }
    let file = File::open(path)?;
    let metadata = file.metadata()?;
    if metadata.is_dir() {
        return Err(io::ErrorKind::IsADirectory.into());
    }
    let size = metadata.is_file().then_some(metadata.len());
    Ok((
        Box::new(BufReader::with_capacity(READ_BUFFER_BYTES, file)),
        size,
    ))
}

fn name(path: &Path) -> String {
    if path.as_os_str() == "-" {
        "standard input".to_owned()
    } else {
        path.display().to_string()
    }
}

fn summary(produced: Produced, pace: Pace, error: Option<&ProduceError>) -> Summary {
    Summary {
        produced,
        seconds: pace.elapsed().as_secs_f64(),
        events_per_second: pace.rate(produced.accepted).round(),
        error: error.map(ToString::to_string),
        error_line: match error {
            Some(ProduceError::BadLine { line, .. }) => Some(*line),
            Some(
                ProduceError::Input { .. }
                | ProduceError::Abandoned { .. }
                | ProduceError::Refused { .. },
            )
            | None => None,
        },
    }
}

fn sentence(produced: Produced, pace: Pace) -> String {
    let retries = match produced.retries {
        0 => String::new(),
        1 => ", 1 sent again".to_owned(),
        many => format!(", {many} sent again"),
    };
    format!(
        "{} events are durable after {} ({:.0} events/s, {} requests{retries})",
        produced.accepted,
        values::rounded(pace.elapsed()),
        pace.rate(produced.accepted),
        produced.requests,
    )
}

/// A progress bar on a terminal; otherwise notices that are worth logging.
struct Bar {
    bar: ProgressBar,
    pace: Pace,
}

impl Bar {
    fn new(size: Option<u64>, pace: Pace) -> Self {
        let bar = output::progress_bar(size);
        let template = match size {
            Some(_) => "[{bar:30}] {percent}% {msg} eta {eta}",
            None => "{spinner} {msg} ({elapsed})",
        };
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style.progress_chars("=> "));
        }
        bar.enable_steady_tick(Duration::from_millis(200));
        Self { bar, pace }
    }
}

impl Observer for Bar {
    fn acknowledged(&mut self, produced: Produced) {
        self.bar.set_position(produced.bytes);
        self.bar.set_message(format!(
            "{} events, {:.0}/s",
            produced.accepted,
            self.pace.rate(produced.accepted)
        ));
    }

    fn retrying(&mut self, notice: &RetryNotice<'_>) {
        if notice.is_first {
            let text = format!("{}; trying on", notice.reason);
            self.bar.suspend(|| output::notice(text));
        }
    }
}
