//! Sends events from a stream of lines to an engine, each exactly once, even if the engine restarts.
//!
//! One thread reads lines into the open batch, another sends batches: while a request is in flight the
//! next batch grows, so its size adapts to the speed of the engine, and a single line is sent at once.

mod batch;
mod line;
mod queue;
mod send;

pub(crate) use send::RetryNotice;

use crate::{
    client::{Client, ClientError},
    exit::Exit,
    values,
};
use batch::Batch;
use line::{Lines, Next};
use queue::{InputEnd, Queue};
use send::{SendError, Sender};
use serde::Serialize;
use std::{
    io::{self, BufRead},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

/// The limits of a request, and how long to retry without an acknowledgement.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ProduceOptions {
    pub(crate) batch_events: usize,
    pub(crate) batch_bytes: usize,
    pub(crate) retry_for: Duration,
    pub(crate) check: Check,
}

/// What the engine checks before it accepts an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Check {
    /// That it is an event that its workspace type could apply.
    WorkspaceType,
    /// That it is an event.
    EventAlone,
}

impl Default for ProduceOptions {
    fn default() -> Self {
        Self {
            batch_events: 5_000,
            batch_bytes: 1 << 20,
            retry_for: Duration::from_mins(1),
            check: Check::WorkspaceType,
        }
    }
}

/// The progress so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Produced {
    /// Events that the engine holds durably.
    pub(crate) accepted: u64,
    /// Requests that the engine answered.
    pub(crate) requests: u64,
    /// Requests that were sent again.
    pub(crate) retries: u64,
    /// Bytes of the input that are accepted, including newlines and empty lines.
    pub(crate) bytes: u64,
    /// Last line of the input that is accepted.
    pub(crate) line: u64,
}

/// Why not all of the input was sent; each variant includes the progress.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ProduceError {
    #[error("line {line}: {reason} ({sent})", sent = Sent(*.produced))]
    BadLine {
        line: u64,
        reason: String,
        produced: Produced,
    },
    #[error("cannot read the input after line {line} ({sent})", line = .produced.line, sent = Sent(*.produced))]
    Input {
        source: io::Error,
        produced: Produced,
    },
    #[error("abandoned after {waited}: {source} ({sent}; lines {first} to {last} may be there as well)", waited = values::rounded(*.waited), sent = Sent(*.produced))]
    Abandoned {
        source: Box<ClientError>,
        waited: Duration,
        first: u64,
        last: u64,
        produced: Produced,
    },
    #[error("{source} ({sent})", sent = Sent(*.produced))]
    Refused {
        source: Box<ClientError>,
        produced: Produced,
    },
}

/// The progress, as the end of an error's text.
struct Sent(Produced);

impl std::fmt::Display for Sent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0.accepted {
            0 => f.write_str("no event was sent before it"),
            1 => f.write_str("the event before it is sent and durable"),
            many => write!(f, "the {many} events before it are sent and durable"),
        }
    }
}

impl ProduceError {
    /// The exit code of this failure.
    pub(crate) fn exit(&self) -> Exit {
        match self {
            Self::BadLine { .. } | Self::Input { .. } => Exit::Failed,
            Self::Abandoned { .. } => Exit::Unanswered,
            Self::Refused { source, .. } => source.exit(),
        }
    }

    /// The progress before the failure.
    pub(crate) fn produced(&self) -> Produced {
        match self {
            Self::BadLine { produced, .. }
            | Self::Input { produced, .. }
            | Self::Abandoned { produced, .. }
            | Self::Refused { produced, .. } => *produced,
        }
    }
}

/// Receives the progress.
pub(crate) trait Observer {
    /// A request was answered.
    fn acknowledged(&mut self, produced: Produced);
    /// A request is sent again.
    fn retrying(&mut self, notice: &RetryNotice<'_>);
}

/// Sends every line of `input`.
///
/// # Errors
/// [`ProduceError`] names the line where it stopped; everything before that line is durable.
pub(crate) fn produce(
    client: &Client,
    input: impl BufRead + Send + 'static,
    options: ProduceOptions,
    observer: &mut dyn Observer,
) -> Result<Produced, ProduceError> {
    let queue = Arc::new(Queue::new(options.batch_events, options.batch_bytes));
    let reader = {
        let queue = Arc::clone(&queue);
        thread::spawn(move || read(input, &queue))
    };
    let mut run = Run {
        sender: Sender::new(client, options.retry_for, options.check),
        produced: Produced::default(),
        observer,
    };
    let result = run.send_all(&queue);
    if result.is_err() {
        // The reader may be blocked in a read of a terminal or a pipe that never returns, so it is not
        // joined; it ends at its next line, or with the process.
        queue.abandon();
    } else if reader.join().is_err() {
        return Err(ProduceError::Input {
            source: io::Error::other("the reading thread failed"),
            produced: run.produced,
        });
    }
    result
}

/// Adds the lines of the input to the queue, up to its end or its first bad line.
fn read(input: impl BufRead, queue: &Queue) {
    let mut lines = Lines::new(input);
    let end = loop {
        match lines.next_line() {
            Ok(Next::Line { number, text, read }) => {
                if let Err(reason) = line::check(text) {
                    break InputEnd::BadLine { number, reason };
                }
                if !queue.push(number, text, read) {
                    return;
                }
            }
            Ok(Next::TooLong { number, limit }) => {
                break InputEnd::BadLine {
                    number,
                    reason: format!("the line is longer than {limit} bytes"),
                };
            }
            Ok(Next::End) => break InputEnd::Finished,
            Err(error) => break InputEnd::Failed(error),
        }
    };
    queue.end(end);
}

/// One run from the first line to the last.
struct Run<'a> {
    sender: Sender<'a>,
    produced: Produced,
    observer: &'a mut dyn Observer,
}

impl Run<'_> {
    fn send_all(&mut self, queue: &Queue) -> Result<Produced, ProduceError> {
        let end = loop {
            match queue.take() {
                Ok(batch) => self.send(batch)?,
                Err(end) => break end,
            }
        };
        let produced = self.produced;
        match end {
            InputEnd::Finished => Ok(produced),
            InputEnd::BadLine { number, reason } => Err(ProduceError::BadLine {
                line: number,
                reason,
                produced,
            }),
            InputEnd::Failed(source) => Err(ProduceError::Input { source, produced }),
        }
    }

    /// Sends a batch, split into parts where it exceeds the engine's limit.
    fn send(&mut self, batch: Batch) -> Result<(), ProduceError> {
        let mut parts = vec![batch];
        while let Some(part) = parts.pop() {
            match self.sender.send(&part, self.observer) {
                Ok(retries) => self.acknowledge(&part, retries),
                Err(SendError::TooLarge(reason)) => match part.halve() {
                    Ok((first, second)) => parts.extend([second, first]),
                    Err(part) => {
                        return Err(ProduceError::BadLine {
                            line: part.first_line(),
                            reason,
                            produced: self.produced,
                        });
                    }
                },
                Err(SendError::Line { index, reason }) => {
                    return Err(self.stop_at(&part, index, reason));
                }
                Err(SendError::Abandoned { source, waited }) => {
                    return Err(ProduceError::Abandoned {
                        source,
                        waited,
                        first: part.first_line(),
                        last: part.last_line(),
                        produced: self.produced,
                    });
                }
                Err(SendError::Refused(source)) => {
                    return Err(ProduceError::Refused {
                        source,
                        produced: self.produced,
                    });
                }
            }
        }
        Ok(())
    }

    /// Sends the lines before the one that the engine refused, and returns the error for that line.
    fn stop_at(&mut self, batch: &Batch, index: usize, reason: String) -> ProduceError {
        let line = batch.line_number(index);
        if let Some(before) = batch.before(index)
            && let Err(error) = self.send(before)
        {
            return error;
        }
        ProduceError::BadLine {
            line,
            reason,
            produced: self.produced,
        }
    }

    fn acknowledge(&mut self, batch: &Batch, retries: u64) {
        self.produced.accepted += batch.events();
        self.produced.requests += 1;
        self.produced.retries += retries;
        self.produced.bytes = self.produced.bytes.max(batch.read_bytes());
        self.produced.line = batch.last_line();
        self.observer.acknowledged(self.produced);
    }
}

/// Measures the rate of events.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pace {
    begun: Instant,
}

impl Pace {
    /// Starts the clock.
    pub(crate) fn begin() -> Self {
        Self {
            begun: Instant::now(),
        }
    }

    /// Time since the start.
    pub(crate) fn elapsed(self) -> Duration {
        self.begun.elapsed()
    }

    /// Events per second since the start.
    #[expect(clippy::cast_precision_loss, reason = "a rate for people")]
    pub(crate) fn rate(self, events: u64) -> f64 {
        events as f64 / self.begun.elapsed().as_secs_f64().max(0.001)
    }
}
