//! The audit log: who did what, and who was refused.

use super::{
    Admitted, Caller, Right,
    routes::{Need, PathId},
    shortened,
};
use axum::{http::StatusCode, response::Response};
use parking_lot::Mutex;
use std::{
    borrow::Cow,
    net::SocketAddr,
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};
use tracing::info;
use workspace_status_http::Parameters;

/// The log target of actions: stable, so that a filter can route it elsewhere.
pub(crate) const AUDIT_TARGET: &str = "workspace_engine::audit";

/// Minimum time between two lines about refusals: a client with an old token may send a thousand requests a second.
const REFUSAL_INTERVAL: Duration = Duration::from_secs(1);

/// Maximum characters of an action's body in its line.
const MAX_REQUEST_CHARS: usize = 2_000;

/// What a handler adds to an action's line, as an extension of its answer.
#[derive(Debug, Clone)]
pub(crate) struct ActionDetails {
    /// The request's body.
    request: String,
    /// The action was only counted, not executed.
    is_dry_run: bool,
}

impl ActionDetails {
    pub(crate) fn new(request: &serde_json::Value, is_dry_run: bool) -> Self {
        let text = request.to_string();
        Self {
            request: text.chars().take(MAX_REQUEST_CHARS).collect(),
            is_dry_run,
        }
    }
}

/// An action in progress, and its caller; logged when dropped, also when the client disconnected before the answer.
#[derive(Debug)]
pub(crate) struct Action {
    name: &'static str,
    caller: Caller,
    remote: SocketAddr,
    workspace: Option<String>,
    operation: Option<String>,
    query: Option<String>,
    details: Option<ActionDetails>,
    /// `None` until the answer is known.
    status: Option<StatusCode>,
}

impl Action {
    /// The action of a request; `None` where it is not one.
    pub(crate) fn of(
        admitted: &Admitted<'_>,
        query: Option<&str>,
        remote: SocketAddr,
    ) -> Option<Self> {
        let id = admitted.workspace.and_then(PathId::decoded);
        Some(Self {
            name: name(admitted, query)?,
            caller: admitted.caller.clone(),
            remote,
            workspace: id.map(Cow::into_owned),
            operation: admitted.operation.map(|id| shortened(id.as_bytes())),
            query: query.map(|query| shortened(query.as_bytes())),
            details: None,
            status: None,
        })
    }

    /// Records the answer.
    pub(crate) fn answered(mut self, response: &mut Response) {
        self.status = Some(response.status());
        self.details = response.extensions_mut().remove();
    }
}

/// The logged name of a request: of an action, or of an append of unchecked events.
fn name(admitted: &Admitted<'_>, query: Option<&str>) -> Option<&'static str> {
    let is_unchecked = || {
        let parameters = Parameters::read(query, &["check"]).ok()?;
        (parameters.one("check").ok()? == Some("off")).then_some("append unchecked events")
    };
    match admitted.route.need {
        Need::Right(Right::Produce) => is_unchecked(),
        Need::Nothing | Need::AnyRole | Need::Right(_) => admitted.route.action,
    }
}

impl Drop for Action {
    fn drop(&mut self) {
        let details = self.details.as_ref();
        let outcome = match self.status {
            Some(status) if status.is_success() && details.is_some_and(|has| has.is_dry_run) => {
                "dry run: nothing was done"
            }
            Some(status) if status.is_success() => "done",
            Some(_) => "refused or failed",
            None => "unknown: the client did not wait for the answer",
        };
        info!(
            target: AUDIT_TARGET,
            action = self.name,
            workspace = self.workspace,
            operation = self.operation,
            query = self.query,
            request = details.map(|has| has.request.as_str()),
            name = self.caller.name(),
            role = self.caller.role().as_str(),
            remote = %self.remote,
            status = self.status.map(|status| status.as_u16()),
            outcome,
            "an operator's action"
        );
    }
}

/// Bounds the log lines about refused requests; the metrics count all of them.
#[derive(Debug, Default)]
pub(super) struct RefusalLog {
    last: Mutex<Option<Instant>>,
    suppressed: AtomicU64,
}

impl RefusalLog {
    /// Calls `write` with the number of suppressed lines, unless it was called within the interval.
    pub(super) fn log(&self, write: impl FnOnce(u64)) {
        let now = Instant::now();
        {
            let mut last = self.last.lock();
            if last.is_some_and(|last| now.duration_since(last) < REFUSAL_INTERVAL) {
                self.suppressed.fetch_add(1, Ordering::Relaxed);
                return;
            }
            *last = Some(now);
        }
        write(self.suppressed.swap(0, Ordering::Relaxed));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thousand_refusals_make_one_line() {
        let log = RefusalLog::default();
        let mut lines = Vec::new();
        for _ in 0..1_000 {
            log.log(|suppressed| lines.push(suppressed));
        }
        // A slow machine may take more than a second.
        assert!(lines.len() < 100, "{lines:?}");
        assert_eq!(lines.first(), Some(&0));
    }
}
