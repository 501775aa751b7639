//! Accepts connections and serves requests on them, within the limits of what one client may take.

use super::front::Front;
use super::stream::TimedStream;
use crate::config::HttpLimits;
use axum::Router;
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::graceful::GracefulShutdown,
};
use std::{
    io,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore, watch},
    task::{JoinHandle, JoinSet},
};
use tracing::{debug, warn};

/// Pause after an accept that failed, such as for too many open files.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Longest head of a request. It also bounds the memory that an idle or slow connection holds.
const HEAD_BYTES_MOST: usize = 64 << 10;

/// What a connection may take.
#[derive(Debug, Clone, Copy)]
pub(super) struct Connections {
    most: usize,
    header_timeout: Duration,
    write_timeout: Duration,
}

impl Connections {
    pub(super) fn new(limits: &HttpLimits) -> Self {
        Self {
            most: limits.max_connections,
            header_timeout: limits.header_timeout,
            write_timeout: limits.write_timeout,
        }
    }
}

/// A server that accepts connections until it is shut down.
pub(super) struct HttpServer {
    stop: watch::Sender<Option<Instant>>,
    accepting: JoinHandle<()>,
}

impl HttpServer {
    /// Serves `router` on the connections of a listener.
    pub(super) fn start(listener: TcpListener, router: Router, connections: Connections) -> Self {
        let (stop, stopped) = watch::channel(None);
        let accepting = tokio::spawn(accept(listener, router, connections, stopped));
        Self { stop, accepting }
    }

    /// Accepts nothing more and waits for the requests under way, but not longer than to a deadline.
    pub(super) async fn shutdown(self, deadline: Instant) {
        self.stop.send_replace(Some(deadline));
        if let Err(error) = self.accepting.await {
            warn!(%error, "the HTTP server failed");
        }
    }
}

async fn accept(
    listener: TcpListener,
    router: Router,
    connections: Connections,
    mut stopped: watch::Receiver<Option<Instant>>,
) {
    let places = Arc::new(Semaphore::new(connections.most.min(Semaphore::MAX_PERMITS)));
    let graceful = GracefulShutdown::new();
    let mut tasks = JoinSet::new();
    let deadline = loop {
        tokio::select! {
            deadline = told(&mut stopped) => break deadline,
            accepted = next(&listener, &places) => match accepted {
                Ok((stream, place)) => {
                    let served = serve(stream, router.clone(), connections, &graceful);
                    tasks.spawn(async move {
                        served.await;
                        drop(place);
                    });
                }
                Err(error) => {
                    warn!(%error, "a connection could not be accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
            // Those that ended are let go of.
            Some(_) = tasks.join_next() => {}
        }
    };
    drop(listener);
    let drained = tokio::time::timeout_at(deadline.into(), graceful.shutdown()).await;
    if drained.is_err() {
        debug!(requests = tasks.len(), "requests were cut off");
    }
    tasks.shutdown().await;
}

/// Until when the requests under way may go on, once the server is told to stop.
async fn told(stopped: &mut watch::Receiver<Option<Instant>>) -> Instant {
    let deadline = stopped.wait_for(Option::is_some).await;
    // A server that nobody holds any more stops as well.
    deadline
        .map_or(None, |deadline| *deadline)
        .unwrap_or_else(Instant::now)
}

/// The next connection, once there is a place for it.
async fn next(
    listener: &TcpListener,
    places: &Arc<Semaphore>,
) -> io::Result<(TcpStream, OwnedSemaphorePermit)> {
    let place = Arc::clone(places)
        .acquire_owned()
        .await
        .map_err(io::Error::other)?;
    let (stream, _) = listener.accept().await?;
    Ok((stream, place))
}

fn serve(
    stream: TcpStream,
    router: Router,
    connections: Connections,
    graceful: &GracefulShutdown,
) -> impl Future<Output = ()> + Send + use<> {
    if let Err(error) = stream.set_nodelay(true) {
        debug!(%error, "small answers may be late");
    }
    let stream = TokioIo::new(TimedStream::new(stream, connections.write_timeout));
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(connections.header_timeout)
        .max_buf_size(HEAD_BYTES_MOST)
        .serve_connection(stream, Front(router));
    let connection = graceful.watch(connection);
    async move {
        if let Err(error) = connection.await {
            debug!(%error, "a connection ended");
        }
    }
}
