//! Sends a batch until it is acknowledged. Each retry is the same request with the same number, so that the
//! engine appends it once.

use super::{Check, Observer, batch::Batch};
use crate::client::{ANSWER_TIMEOUT, Answer, Client, ClientError, RequestBody};
use std::{
    thread,
    time::{Duration, Instant},
};

/// First pause before a retry; it doubles with each retry.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
/// Longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// Sends the batches of one producer, in order.
#[derive(Debug)]
pub(super) struct Sender<'a> {
    client: &'a Client,
    producer_id: String,
    /// Sequence number of the next request; it grows only when a request is acknowledged.
    sequence: u64,
    retry_for: Duration,
    path: &'static str,
}

/// Why a batch was not accepted.
#[derive(Debug)]
pub(super) enum SendError {
    /// The line at this index, from 0, is not valid; nothing of the batch was appended.
    Line { index: usize, reason: String },
    /// The request exceeds the engine's limit; nothing of it was appended.
    TooLarge(String),
    /// No acknowledgement arrived for too long; the batch may have been appended.
    Abandoned {
        source: Box<ClientError>,
        waited: Duration,
    },
    /// A retry does not help, such as after a refusal.
    Refused(Box<ClientError>),
}

/// A request is sent again.
#[derive(Debug)]
pub(crate) struct RetryNotice<'a> {
    pub(crate) reason: &'a ClientError,
    /// Whether this is the first retry of the batch.
    pub(crate) is_first: bool,
}

/// What to do after an answer.
#[derive(Debug)]
enum Next {
    Acknowledged,
    Again(ClientError, Option<Duration>),
    Stop(SendError),
}

impl<'a> Sender<'a> {
    pub(super) fn new(client: &'a Client, retry_for: Duration, check: Check) -> Self {
        Self {
            client,
            producer_id: format!("produce-{:032x}", fastrand::u128(..)),
            sequence: 1,
            retry_for,
            path: match check {
                Check::WorkspaceType => "/api/v1/events",
                Check::EventAlone => "/api/v1/events?check=off",
            },
        }
    }

    /// Sends a batch; returns the number of retries.
    pub(super) fn send(
        &mut self,
        batch: &Batch,
        observer: &mut dyn Observer,
    ) -> Result<u64, SendError> {
        let mut retries = 0;
        let mut silent_since = None;
        let mut pause = FIRST_PAUSE;
        loop {
            let answer = self.client.post(
                self.path,
                RequestBody {
                    content_type: "application/x-ndjson",
                    body: batch.body(),
                    producer: Some((&self.producer_id, self.sequence)),
                },
                ANSWER_TIMEOUT,
            );
            let (reason, wanted_pause) = match next(answer, self.client.url()) {
                Next::Acknowledged => {
                    self.sequence += 1;
                    return Ok(retries);
                }
                Next::Stop(error) => return Err(error),
                Next::Again(reason, wanted_pause) => (reason, wanted_pause),
            };
            let since = *silent_since.get_or_insert_with(Instant::now);
            let waited = since.elapsed();
            if waited >= self.retry_for {
                return Err(SendError::Abandoned {
                    source: Box::new(reason),
                    waited,
                });
            }
            observer.retrying(&RetryNotice {
                reason: &reason,
                is_first: retries == 0,
            });
            retries += 1;
            let jittered = pause.mul_f64(0.5 + fastrand::f64() / 2.0);
            let next_pause = wanted_pause.map_or(jittered, |wanted| wanted.min(LONGEST_PAUSE));
            thread::sleep(next_pause.min(self.retry_for.saturating_sub(waited)));
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }
}

/// Decides what an answer means for the request.
fn next(answer: Result<Answer, ClientError>, url: &str) -> Next {
    let answer = match answer {
        Ok(answer) if answer.is_success() => return Next::Acknowledged,
        Ok(answer) => answer,
        Err(error @ ClientError::Unreachable { .. }) => return Next::Again(error, None),
        Err(error) => return Next::Stop(SendError::Refused(Box::new(error))),
    };
    match answer.status {
        408 | 429 | 500 | 502 | 503 | 504 | 507 => {
            Next::Again(answer.refused(url), answer.retry_after)
        }
        413 => Next::Stop(SendError::TooLarge(answer.problem().to_string())),
        400 => match answer.problem().errors.into_iter().next() {
            Some(error) => Next::Stop(SendError::Line {
                index: usize::try_from(error.line.saturating_sub(1)).unwrap_or(usize::MAX),
                reason: error.detail,
            }),
            None => Next::Stop(SendError::Refused(Box::new(answer.refused(url)))),
        },
        _ => Next::Stop(SendError::Refused(Box::new(answer.refused(url)))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(status: u16, body: &str, expected: &str) {
        let answer = Answer {
            status,
            retry_after: Some(Duration::from_secs(1)),
            body: body.into(),
        };
        let found = match next(Ok(answer), "URL") {
            Next::Acknowledged => "acknowledged".to_owned(),
            Next::Again(_, pause) => format!("again after {pause:?}"),
            Next::Stop(SendError::Line { index, reason }) => format!("line {index}: {reason}"),
            Next::Stop(SendError::TooLarge(_)) => "too large".to_owned(),
            Next::Stop(error) => format!("{error:?}").chars().take(7).collect(),
        };
        assert_eq!(found, expected, "{status} {body}");
    }

    #[test]
    fn an_answer_decides_whether_a_request_is_sent_again() {
        check(202, "{}", "acknowledged");
        check(503, "", "again after Some(1s)");
        check(507, "", "again after Some(1s)");
        check(413, "", "too large");
        check(409, "", "Refused");
        check(400, "", "Refused");
        check(
            400,
            r#"{"errors":[{"line":3,"detail":"not JSON"},{"line":9,"detail":"x"}]}"#,
            "line 2: not JSON",
        );
    }
}
