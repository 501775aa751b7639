//! Accepts connections and serves their requests, within the limits for one client.

use super::connection_permits::{ConnectionPermit, ConnectionPermits, RESERVED_TIME};
use super::front::{Front, Steps};
use super::leftover::Leftover;
use super::stream::TimedStream;
use crate::{
    access::{Access, Peer},
    app::App,
    tls::ClientCertificate,
};
use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use parking_lot::Mutex;
use std::{
    error::Error,
    io,
    net::SocketAddr,
    pin::pin,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::{JoinHandle, JoinSet},
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tracing::{debug, warn};

/// Pause after a failed accept, such as one for too many open files.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Maximum size of a request's head. It also bounds the memory of an idle or slow connection.
const MAX_HEAD_BYTES: usize = 64 << 10;

/// A server that accepts connections until it is shut down.
pub(super) struct HttpServer {
    stop: watch::Sender<Option<Instant>>,
    accepting: JoinHandle<()>,
}

impl HttpServer {
    /// Serves `router` on the connections of a listener, within the limits of `app`, for requests that `access` admits.
    pub(super) fn start(
        listener: TcpListener,
        router: Router,
        app: App,
        access: Arc<Access>,
    ) -> Self {
        let (stop, stopped) = watch::channel(None);
        let accepting = tokio::spawn(accept(listener, router, app, access, stopped));
        Self { stop, accepting }
    }

    /// Stops accepting, and waits until `deadline` for the requests in progress.
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
    app: App,
    access: Arc<Access>,
    mut stopped: watch::Receiver<Option<Instant>>,
) {
    let permits = ConnectionPermits::new(app.clone());
    let mut tasks = JoinSet::new();
    let mut accepted = None;
    let stopping = stopped.clone();
    let deadline = loop {
        tokio::select! {
            deadline = reported(&mut stopped) => break deadline,
            next = listener.accept(), if accepted.is_none() => match next {
                Ok(connected) => accepted = Some(connected),
                Err(error) => {
                    warn!(%error, "a connection could not be accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
            permit = permits.admit(), if accepted.is_some() => {
                if let Some((stream, remote)) = accepted.take() {
                    let connection = Connection {
                        app: app.clone(),
                        router: router.clone(),
                        access: Arc::clone(&access),
                        remote,
                        permit: Arc::new(permit),
                        stopping: stopping.clone(),
                    };
                    tasks.spawn(connection.serve(stream));
                }
            }
            // Removes finished tasks.
            Some(_) = tasks.join_next() => {}
        }
    };
    drop((listener, accepted));
    let ended = async { while tasks.join_next().await.is_some() {} };
    let drained = tokio::time::timeout_at(deadline.into(), ended).await;
    if drained.is_err() {
        debug!(requests = tasks.len(), "requests were cut off");
    }
    tasks.shutdown().await;
}

/// Waits for the shutdown, and returns the deadline for the requests in progress.
async fn reported(stopped: &mut watch::Receiver<Option<Instant>>) -> Instant {
    let deadline = stopped.wait_for(Option::is_some).await;
    // A server whose handle was dropped stops at once.
    deadline
        .map_or(None, |deadline| *deadline)
        .unwrap_or_else(Instant::now)
}

/// One connection.
struct Connection {
    app: App,
    router: Router,
    access: Arc<Access>,
    remote: SocketAddr,
    permit: Arc<ConnectionPermit>,
    stopping: watch::Receiver<Option<Instant>>,
}

impl Connection {
    async fn serve(mut self, stream: TcpStream) {
        if let Err(error) = stream.set_nodelay(true) {
            debug!(%error, "small answers may be late");
        }
        let mut peer = Peer {
            remote: self.remote,
            scheme: self.access.scheme(),
            tls: self.access.tls(),
            certificate: None,
        };
        let Some(tls) = &peer.tls else {
            return self.serve_requests(stream, peer).await;
        };
        let handshake = TlsAcceptor::from(Arc::clone(&tls.config)).accept(stream);
        let Some(stream) = self.encrypted(handshake).await else {
            return;
        };
        let (_, session) = stream.get_ref();
        let shown = session.peer_certificates();
        peer.certificate = shown.and_then(ClientCertificate::of_chain);
        self.serve_requests(stream, peer).await;
    }

    /// The stream after a handshake, which may take as long as the head of a request; `None` where it fails.
    async fn encrypted(
        &mut self,
        handshake: impl Future<Output = io::Result<TlsStream<TcpStream>>>,
    ) -> Option<TlsStream<TcpStream>> {
        let header_timeout = self.app.limits().header_timeout;
        let timeout = if self.permit.is_reserved() {
            header_timeout.min(RESERVED_TIME)
        } else {
            header_timeout
        };
        let failure = tokio::select! {
            done = tokio::time::timeout(timeout, handshake) => match done {
                Ok(Ok(stream)) => return Some(stream),
                Ok(Err(error)) => error,
                Err(_) => io::ErrorKind::TimedOut.into(),
            },
            () = self.permit.closing() => return None,
            _ = reported(&mut self.stopping) => return None,
        };
        let failed = &self.access.counts.failed_handshakes;
        failed.fetch_add(1, Ordering::Relaxed);
        debug!(error = %failure, remote = %self.remote, "a TLS handshake failed");
        None
    }

    async fn serve_requests(
        mut self,
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        peer: Peer,
    ) {
        let limits = self.app.limits();
        let stream = TokioIo::new(TimedStream::new(stream, limits.write_timeout));
        let leftover = Arc::new(Leftover::default());
        let front = Front::new(Steps {
            app: self.app.clone(),
            router: Mutex::new(self.router.clone()),
            access: Arc::clone(&self.access),
            peer: Arc::new(peer),
            permit: Arc::clone(&self.permit),
            leftover: Arc::clone(&leftover),
        });
        let served = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(limits.header_timeout)
            .max_buf_size(MAX_HEAD_BYTES)
            .serve_connection(stream, front);
        let mut served = pin!(served);
        let mut leftover = pin!(leftover.read());
        let mut reserved = pin!(tokio::time::sleep(RESERVED_TIME));
        let mut may_stay_reserved = true;
        let mut is_closing = false;
        loop {
            tokio::select! {
                ended = served.as_mut() => {
                    if let Err(error) = ended {
                        self.failed(&error);
                    }
                    return;
                }
                () = leftover.as_mut() => {}
                () = self.permit.closing(), if !is_closing => {
                    if self.permit.ends_at_once() {
                        return;
                    }
                    // A request that arrives at the same moment is still answered.
                    served.as_mut().graceful_shutdown();
                    is_closing = true;
                }
                _ = reported(&mut self.stopping), if !is_closing => {
                    served.as_mut().graceful_shutdown();
                    is_closing = true;
                }
                () = reserved.as_mut(), if may_stay_reserved => {
                    if self.permit.is_reserved() {
                        return;
                    }
                    may_stay_reserved = false;
                }
            }
        }
    }

    fn failed(&self, error: &hyper::Error) {
        debug!(%error, "a connection ended");
        let source = error
            .source()
            .and_then(<dyn Error>::downcast_ref::<io::Error>);
        if source.is_some_and(|source| source.kind() == io::ErrorKind::TimedOut) {
            self.app.http().stalled_closed.add(1);
        }
    }
}
