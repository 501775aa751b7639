//! A running engine with its HTTP server: startup and orderly shutdown.
//!
//! The socket answers before the engine is open, and until the engine has released its last workspace:
//! as long as the process lives, a status is never a refused connection.

mod answer;
mod connection_permits;
mod descriptors;
mod front;
mod leftover;
mod listener;
mod opening;
mod signals;
mod stream;

pub(crate) use opening::OpenError;

use crate::{
    access::{Access, AccessError, Scheme, document_access},
    app::{App, Engine},
    config::ServeConfig,
    exit::Exit,
    group::Group,
    metrics::{AccessMetrics, EngineMetrics},
    routes::{self, Api},
    source::EngineSource,
    telemetry::TelemetryError,
};
use axum::Router;
use listener::HttpServer;
use opening::Opened;
use signals::Signals;
use std::{
    io,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::{net::TcpListener, sync::watch, task::JoinSet};
use tracing::{error, info, warn};
use workspace_engine_core::{ShutdownReport, WorkspaceType};
use workspace_status::Tracker;
use workspace_status_http::{Limits, Registry, StatusApi, document_routes, with_problem_fallbacks};

/// How long requests may continue after the engine has released its workspaces. Waiting requests were
/// answered when the stop began.
const DRAIN: Duration = Duration::from_secs(2);

/// Interval between two checks whether the group has permanently refused this engine.
const REFUSAL_LOOK: Duration = Duration::from_millis(500);

/// Why an engine cannot run.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ServeError {
    #[error(transparent)]
    Telemetry(#[from] TelemetryError),
    #[error("cannot start threads")]
    Runtime(#[source] io::Error),
    #[error("cannot take signals")]
    Signals(#[source] io::Error),
    #[error(transparent)]
    Access(#[from] AccessError),
    #[error("cannot listen on {address}")]
    Listen {
        address: SocketAddr,
        source: io::Error,
    },
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error("{0}")]
    Refused(String),
}

impl ServeError {
    /// The exit code of this failure.
    pub(crate) fn exit(&self) -> Exit {
        match self {
            Self::Telemetry(_) | Self::Access(_) | Self::Refused(_) => Exit::Usage,
            Self::Runtime(_) | Self::Signals(_) | Self::Listen { .. } | Self::Open(_) => {
                Exit::Failed
            }
        }
    }
}

/// A running engine, for the caller of [`serve`].
#[derive(Debug, Clone)]
pub(crate) struct Running {
    /// The listen address.
    pub(crate) address: SocketAddr,
    scheme: Scheme,
    pub(crate) tracker: Tracker,
    stop: watch::Sender<bool>,
}

impl Running {
    /// The listen address as a URL that clients can connect to.
    pub(crate) fn url(&self) -> String {
        let mut address = self.address;
        if address.ip().is_unspecified() {
            // Clients cannot connect to the unspecified address.
            match address {
                SocketAddr::V4(_) => address.set_ip([127, 0, 0, 1].into()),
                SocketAddr::V6(_) => address.set_ip(std::net::Ipv6Addr::LOCALHOST.into()),
            }
        }
        match self.scheme {
            Scheme::Http => format!("http://{address}"),
            Scheme::Https => format!("https://{address}"),
        }
    }

    /// Stops the engine in the same way as a signal.
    pub(crate) fn stop(&self) {
        self.stop.send_replace(true);
    }
}

/// Why an engine ended without an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ended {
    /// [`Running::stop`] was called.
    Reported,
    /// A signal arrived.
    Signal,
    /// A second signal arrived before the stop was complete: engine threads may still run, so the caller of
    /// [`serve`] must end the process.
    AtOnce,
}

/// Runs an engine until it is stopped. `running` is called once the engine is open; until then requests
/// get the answer that it is being opened.
///
/// # Errors
/// [`ServeError`] says what to correct.
pub(crate) fn serve(
    config: &ServeConfig,
    workspace_type: WorkspaceType,
    running: impl FnOnce(Running) + Send,
) -> Result<Ended, ServeError> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(config.http_threads)
        .thread_name("http")
        .enable_all()
        .build()
        .map_err(ServeError::Runtime)?;
    let result = runtime.block_on(run(&descriptors::fit(config), workspace_type, running));
    // A request that waits for a disk must not delay the exit.
    runtime.shutdown_background();
    result
}

async fn run(
    config: &ServeConfig,
    workspace_type: WorkspaceType,
    running: impl FnOnce(Running) + Send,
) -> Result<Ended, ServeError> {
    let mut signals = Signals::install().map_err(ServeError::Signals)?;
    let (access, seen_files) = Access::open(&config.access, config.listen.ip())?;
    let access = Arc::new(access);
    let listen_error = |source| ServeError::Listen {
        address: config.listen,
        source,
    };
    let listener = TcpListener::bind(config.listen)
        .await
        .map_err(listen_error)?;
    let address = listener.local_addr().map_err(listen_error)?;
    let tracker = Tracker::builder()
        .owner(config.engine.owner.as_str())
        .build();
    let app = App::new(tracker.clone(), config.http.clone());
    let router = router(&app, &access);
    let http = HttpServer::start(listener, router, app.clone(), Arc::clone(&access));
    // Its tasks are aborted when it is dropped.
    let mut following = JoinSet::new();
    following.spawn(Arc::clone(&access).follow_files(seen_files));
    info!(
        %address,
        directory = %config.engine.data_dir.display(),
        "opening the data directory; requests are answered with that meanwhile"
    );
    let opening = opening::open(config, workspace_type, app.clone());
    let Opened { engine, group } = tokio::select! {
        opened = opening => opened?,
        signal = signals.next() => {
            info!(signal, "stopped before the engine was open");
            app.stop();
            http.shutdown(Instant::now() + DRAIN).await;
            return Ok(Ended::Signal);
        }
    };
    info!(owner = config.engine.owner, "the engine is open");
    app.set_engine(engine.clone(), group.clone());
    if group.is_some() {
        let app = app.clone();
        // The thread ends with the process: nothing waits for what it reads.
        std::thread::Builder::new()
            .name("last-writers".to_owned())
            .spawn(move || app.follow_last_writers())
            .map_err(ServeError::Runtime)?;
    }
    let (stop, mut stopped) = watch::channel(false);
    running(Running {
        address,
        scheme: access.scheme(),
        tracker,
        stop,
    });

    let ended = tokio::select! {
        signal = signals.next() => {
            info!(signal, "stopping; a second signal ends the process at once");
            Ok(Ended::Signal)
        }
        refusal = refused(group.as_ref()) => {
            error!("{refusal}");
            Err(ServeError::Refused(refusal))
        }
        // A dropped sender is not a request to stop.
        Ok(_) = stopped.wait_for(|stop| *stop) => {
            info!("stopping");
            Ok(Ended::Reported)
        }
    };
    let deadline = Instant::now() + config.shutdown_timeout;
    let end = async {
        app.stop();
        let report = shut_down(engine, group, deadline).await;
        http.shutdown(deadline.min(Instant::now() + DRAIN)).await;
        report
    };
    tokio::select! {
        report = end => {
            log_shutdown(&report);
            ended
        }
        signal = signals.next() => {
            warn!(signal, "ended at once; what was not saved is replayed at the next start");
            Ok(Ended::AtOnce)
        }
    }
}

/// Resolves once the group has permanently refused this engine; without a group, never.
async fn refused(group: Option<&Group>) -> String {
    let Some(group) = group else {
        return std::future::pending().await;
    };
    loop {
        if let Some(refusal) = group.refusal() {
            return refusal.to_owned();
        }
        tokio::time::sleep(REFUSAL_LOOK).await;
    }
}

/// Saves and releases every workspace, on a thread that may block. In a group, leaves the group first,
/// which hands over the partitions.
async fn shut_down(engine: Engine, group: Option<Group>, deadline: Instant) -> ShutdownReport {
    let ending = tokio::task::spawn_blocking(move || match group {
        Some(group) => group.shutdown(deadline),
        None => engine.shutdown(deadline),
    });
    // A shutdown thread that panicked saves nothing more; the next start replays what is missing.
    ending.await.unwrap_or_default()
}

fn log_shutdown(report: &ShutdownReport) {
    if *report == ShutdownReport::default() {
        info!("nothing is left to save");
    } else if report.abandoned == 0 {
        info!(partitions = report.released, "everything is saved");
    } else {
        warn!(
            saved = report.released,
            abandoned = report.abandoned,
            "not all partitions were saved in time; what is missing is replayed at the next start"
        );
    }
}

/// All routes: the status routes and the engine's own. Panics of their handlers are caught by [`front`].
fn router(app: &App, access: &Arc<Access>) -> Router {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(EngineMetrics::new(app.clone())));
    registry.register_collector(Box::new(AccessMetrics::new(Arc::clone(access))));
    let status = StatusApi::new(EngineSource::new(app.clone()), limits(app), registry);
    if let Some(feed) = status.metrics_feed() {
        tokio::spawn(feed);
    }
    let api = Api::new(app.clone(), status.clone());
    let mut routes = status.routes().merge(routes::engine_routes(api));
    document_access(routes.get_openapi_mut());
    with_problem_fallbacks(document_routes(routes))
}

/// The limits of the status routes. Waiting requests leave half of the connections to all others:
/// a probe must not queue behind them.
fn limits(app: &App) -> Limits {
    let limits = Limits::default();
    let half = app.limits().max_connections / 2;
    Limits {
        concurrent_waits: limits.concurrent_waits.min(half).max(1),
        ..limits
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::HttpLimits;

    #[test]
    fn requests_that_wait_leave_half_of_the_connections_to_the_others() {
        for (max_connections, expected) in [(1, 1), (4, 2), (1_024, 512), (1_000_000, 1_024)] {
            let http = HttpLimits {
                max_connections,
                ..HttpLimits::for_tests()
            };
            let limits = limits(&App::new(Tracker::new(), http));
            assert_eq!(limits.concurrent_waits, expected, "{max_connections}");
        }
    }
}
