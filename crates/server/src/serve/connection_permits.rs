//! Which connections may be open at the same time, and which of them are closed for others.
//!
//! `max-connections` connections have an ordinary permit. [`RESERVED_CONNECTIONS`] more have a reserved permit, for one
//! request and at most [`RESERVED_TIME`]. With a reserved permit a probe is answered, and a caller without the right is
//! refused, even while slow bodies, waits or stalled readers hold every ordinary permit. Any other request needs an
//! ordinary permit that has become free, and is refused without one.
//!
//! A request whose caller has the right to it takes the permit of a connection without a request in progress: first
//! one whose last request needed no right, else the one that was idle longest. So a client without a right
//! can neither keep such a caller out nor cause other callers' connections to be closed.

mod idle;

use crate::app::App;
use idle::{IdleConnections, IdleGroup};
use parking_lot::Mutex;
use std::{sync::Arc, time::Duration};
use tokio::{
    sync::Notify,
    time::{Instant, timeout},
};
use tracing::warn;

/// Connections that are accepted for probes in addition to `max-connections`.
pub(crate) const RESERVED_CONNECTIONS: usize = 64;

/// Maximum time that a connection holds a reserved permit.
pub(super) const RESERVED_TIME: Duration = Duration::from_secs(5);

/// A connection of a caller with a right keeps its permit for this long when idle: its next request may be on the way.
const IDLE_FOR: Duration = Duration::from_secs(1);

/// A new connection keeps its permit for this long: its first request may be on the way.
const FIRST_REQUEST_WITHIN: Duration = Duration::from_millis(100);

/// How long a request waits for the permit of an idle connection that is being closed for it.
const CLOSING_TIME: Duration = Duration::from_millis(500);

/// Minimum time between two log lines that permits are short.
const WARN_EVERY: Duration = Duration::from_secs(10);

/// The permits of a server. Clones share them.
#[derive(Clone)]
pub(super) struct ConnectionPermits(Arc<PermitPool>);

/// What the permits of a server share.
struct PermitPool {
    app: App,
    most: usize,
    table: Mutex<Table>,
    /// Notified when a permit becomes free.
    freed: Notify,
}

#[derive(Default)]
struct Table {
    ordinary: usize,
    reserved: usize,
    /// Requests that wait for an ordinary permit: new connections must not take it.
    waiting: usize,
    idle: IdleConnections,
    warned: Option<Instant>,
}

/// The permit of one connection; dropping it frees the permit.
pub(super) struct ConnectionPermit {
    pool: Arc<PermitPool>,
    close: Arc<Notify>,
    held: Mutex<Held>,
}

#[derive(Debug, Clone, Copy)]
struct Held {
    kind: Kind,
    /// The caller of its last request had the right to it.
    is_known: bool,
    /// Its number among the idle connections of its group; `None` while a request is in progress.
    idle: Option<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Ordinary,
    Reserved,
}

/// What a request needs from its connection's permit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Claim {
    /// A probe: answered with any permit.
    Probe,
    /// It is already refused, such as for a missing right: answered with any permit.
    Refusal,
    /// A request that needs no right.
    Open,
    /// A request of a caller that has the right to it.
    Right,
}

/// How a request on a connection proceeds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Turn {
    /// It is served, and the connection stays open.
    Served,
    /// It is served, then the connection is closed.
    LastServed,
    /// It is refused, then the connection is closed.
    Refused,
}

impl Held {
    fn idle_group(self) -> IdleGroup {
        match (self.kind, self.is_known) {
            (Kind::Reserved, _) => IdleGroup::Reserved,
            (Kind::Ordinary, false) => IdleGroup::Strangers,
            (Kind::Ordinary, true) => IdleGroup::Known,
        }
    }
}

impl Table {
    fn count(&mut self, kind: Kind) -> &mut usize {
        match kind {
            Kind::Ordinary => &mut self.ordinary,
            Kind::Reserved => &mut self.reserved,
        }
    }
}

impl ConnectionPermits {
    pub(super) fn new(app: App) -> Self {
        let most = app.limits().max_connections;
        Self(Arc::new(PermitPool {
            app,
            most,
            table: Mutex::default(),
            freed: Notify::new(),
        }))
    }

    /// Waits for a permit for an accepted connection.
    pub(super) async fn admit(&self) -> ConnectionPermit {
        loop {
            let mut freed = std::pin::pin!(self.0.freed.notified());
            freed.as_mut().enable();
            if let Some(permit) = self.try_admit(Instant::now()) {
                return permit;
            }
            // Connections that could not be closed yet may be closed after this time.
            let _ = timeout(FIRST_REQUEST_WITHIN, freed).await;
        }
    }

    fn try_admit(&self, now: Instant) -> Option<ConnectionPermit> {
        let mut table = self.0.table.lock();
        let kind = if table.ordinary + table.waiting < self.0.most {
            Kind::Ordinary
        } else if table.reserved < RESERVED_CONNECTIONS {
            Kind::Reserved
        } else {
            table.idle.close_longest(IdleGroup::Reserved, now);
            return None;
        };
        *table.count(kind) += 1;
        let mut held = Held {
            kind,
            is_known: false,
            idle: None,
        };
        let close = Arc::new(Notify::new());
        held.idle = Some(
            table
                .idle
                .add(held.idle_group(), &close, now + FIRST_REQUEST_WITHIN),
        );
        drop(table);
        self.0.app.http().opened();
        Some(ConnectionPermit {
            pool: Arc::clone(&self.0),
            close,
            held: Mutex::new(held),
        })
    }
}

impl ConnectionPermit {
    /// Resolves when this connection has to be closed for another.
    pub(super) async fn closing(&self) {
        self.close.notified().await;
    }

    /// Whether this is a reserved permit.
    pub(super) fn is_reserved(&self) -> bool {
        self.held.lock().kind == Kind::Reserved
    }

    /// Whether a connection that is closed for another ends at once, with any unfinished request or unread answer of
    /// its client. Otherwise it ends after the request that has just arrived, or after the answer in progress.
    pub(super) fn ends_at_once(&self) -> bool {
        let held = self.held.lock();
        held.idle.is_some() && held.idle_group() != IdleGroup::Known
    }

    /// Registers a request that has arrived on the connection.
    pub(super) async fn begin(&self, claim: Claim) -> Turn {
        if self.takes_ordinary(claim) {
            return Turn::Served;
        }
        match claim {
            Claim::Probe | Claim::Refusal => return Turn::LastServed,
            Claim::Right if self.waits_for_ordinary(claim).await => return Turn::Served,
            Claim::Right | Claim::Open => {}
        }
        self.refused();
        Turn::Refused
    }

    /// Closes an idle connection and waits for its permit.
    async fn waits_for_ordinary(&self, claim: Claim) -> bool {
        let waiting = Waiting::begin(&self.pool);
        let ordinary = async {
            let mut is_closing = false;
            loop {
                let mut freed = std::pin::pin!(self.pool.freed.notified());
                freed.as_mut().enable();
                if self.takes_ordinary(claim) {
                    return;
                }
                is_closing = is_closing || self.pool.makes_room(Instant::now());
                let _ = timeout(FIRST_REQUEST_WITHIN, freed).await;
            }
        };
        let is_served = timeout(CLOSING_TIME, ordinary).await.is_ok();
        drop(waiting);
        is_served
    }

    /// Registers that the request was answered: the connection is idle.
    pub(super) fn end(&self) {
        let mut held = self.held.lock();
        if held.idle.is_some() {
            return;
        }
        let now = Instant::now();
        let group = held.idle_group();
        let keeps_until = match group {
            IdleGroup::Known => now + IDLE_FOR,
            IdleGroup::Strangers | IdleGroup::Reserved => now,
        };
        let mut table = self.pool.table.lock();
        held.idle = Some(table.idle.add(group, &self.close, keeps_until));
    }

    /// Ends the idle time; returns whether the connection has an ordinary permit now.
    fn takes_ordinary(&self, claim: Claim) -> bool {
        let mut held = self.held.lock();
        let mut table = self.pool.table.lock();
        if let Some(number) = held.idle.take() {
            table.idle.remove(held.idle_group(), number);
        }
        held.is_known = claim == Claim::Right;
        let waiting_before = if held.is_known { 0 } else { table.waiting };
        if held.kind == Kind::Reserved && table.ordinary + waiting_before < self.pool.most {
            held.kind = Kind::Ordinary;
            table.ordinary += 1;
            table.reserved -= 1;
            drop(table);
            self.pool.freed.notify_waiters();
        }
        held.kind == Kind::Ordinary
    }

    fn refused(&self) {
        let pool = &self.pool;
        pool.app.http().requests_refused.add(1);
        let now = Instant::now();
        let mut table = pool.table.lock();
        let is_due = table
            .warned
            .is_none_or(|warned| now.saturating_duration_since(warned) >= WARN_EVERY);
        if is_due {
            table.warned = Some(now);
            drop(table);
            warn!(
                max_connections = pool.most,
                "all connections are taken: requests other than probes are refused"
            );
        }
    }
}

impl PermitPool {
    /// Closes an idle connection with an ordinary permit, if one may be closed.
    fn makes_room(&self, now: Instant) -> bool {
        let mut table = self.table.lock();
        let is_closing = table.idle.close_longest(IdleGroup::Strangers, now)
            || table.idle.close_longest(IdleGroup::Known, now);
        if is_closing {
            self.app.http().idle_closed.add(1);
        }
        is_closing
    }
}

/// A request that waits for an ordinary permit.
struct Waiting<'a>(&'a PermitPool);

impl<'a> Waiting<'a> {
    fn begin(pool: &'a PermitPool) -> Self {
        pool.table.lock().waiting += 1;
        Self(pool)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.table.lock().waiting -= 1;
        self.0.freed.notify_waiters();
    }
}

impl Drop for ConnectionPermit {
    fn drop(&mut self) {
        let held = *self.held.get_mut();
        let mut table = self.pool.table.lock();
        if let Some(number) = held.idle {
            table.idle.remove(held.idle_group(), number);
        }
        *table.count(held.kind) -= 1;
        drop(table);
        self.pool.app.http().closed();
        self.pool.freed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::HttpLimits;
    use workspace_status::Tracker;

    fn permits(max_connections: usize) -> ConnectionPermits {
        let limits = HttpLimits {
            max_connections,
            ..HttpLimits::for_tests()
        };
        ConnectionPermits::new(App::new(Tracker::new(), limits))
    }

    /// A new connection whose first request was answered.
    async fn answered(permits: &ConnectionPermits, claim: Claim) -> ConnectionPermit {
        let permit = permits.admit().await;
        assert_ne!(permit.begin(claim).await, Turn::Refused);
        permit.end();
        permit
    }

    #[tokio::test(start_paused = true)]
    async fn beyond_the_limit_only_probes_and_refusals_are_answered() {
        let permits = permits(1);
        let ordinary = permits.admit().await;
        assert_eq!(ordinary.begin(Claim::Right).await, Turn::Served);
        let reserved = permits.admit().await;
        assert!(reserved.is_reserved());
        assert_eq!(reserved.begin(Claim::Probe).await, Turn::LastServed);
        assert_eq!(reserved.begin(Claim::Refusal).await, Turn::LastServed);
        assert_eq!(reserved.begin(Claim::Open).await, Turn::Refused);
        assert_eq!(reserved.begin(Claim::Right).await, Turn::Refused);
        drop(ordinary);
        assert_eq!(reserved.begin(Claim::Right).await, Turn::Served);
        assert!(!reserved.is_reserved());
    }

    #[tokio::test(start_paused = true)]
    async fn the_longest_idle_connection_yields_its_permit_to_a_caller() {
        let permits = permits(2);
        let first = answered(&permits, Claim::Right).await;
        let second = answered(&permits, Claim::Right).await;
        // The first connection was used last.
        assert_eq!(first.begin(Claim::Right).await, Turn::Served);
        first.end();
        let new = permits.admit().await;
        assert_eq!(
            new.begin(Claim::Right).await,
            Turn::Refused,
            "idle only just now"
        );
        tokio::time::advance(IDLE_FOR).await;
        let closed = async {
            second.closing().await;
            assert!(!second.ends_at_once(), "its answer may be on its way");
            drop(second);
        };
        let (turn, ()) = tokio::join!(new.begin(Claim::Right), closed);
        assert_eq!(turn, Turn::Served);
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_without_a_right_gives_way_however_short_it_is_idle() {
        for claim in [Claim::Probe, Claim::Refusal, Claim::Open] {
            let permits = permits(2);
            let _known = answered(&permits, Claim::Right).await;
            tokio::time::advance(IDLE_FOR).await;
            let stranger = answered(&permits, claim).await;
            // Another stranger's request closes nothing.
            let other = permits.admit().await;
            assert!(other.begin(claim).await != Turn::Served, "{claim:?}");
            assert!(stranger.pool.table.lock().idle.count(IdleGroup::Strangers) == 1);
            let caller = permits.admit().await;
            let closed = async {
                stranger.closing().await;
                assert!(stranger.ends_at_once(), "{claim:?}");
                // A connection that is accepted now does not take the permit.
                drop(stranger);
                assert!(permits.admit().await.is_reserved(), "{claim:?}");
            };
            let (turn, ()) = tokio::join!(caller.begin(Claim::Right), closed);
            assert_eq!(turn, Turn::Served, "{claim:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_that_never_sends_a_whole_head_gives_way() {
        let permits = permits(1);
        let silent = permits.admit().await;
        let caller = permits.admit().await;
        let begun = Instant::now();
        let closed = async {
            silent.closing().await;
            assert!(begun.elapsed() >= FIRST_REQUEST_WITHIN, "too early");
            assert!(silent.ends_at_once());
            drop(silent);
        };
        let (turn, ()) = tokio::join!(caller.begin(Claim::Right), closed);
        assert_eq!(turn, Turn::Served);
    }

    #[tokio::test(start_paused = true)]
    async fn a_reserved_permit_is_given_to_a_probe_once_it_was_used() {
        for claim in [None, Some(Claim::Probe), Some(Claim::Refusal)] {
            let permits = permits(1);
            let ordinary = permits.admit().await;
            assert_eq!(ordinary.begin(Claim::Right).await, Turn::Served);
            let mut others: Vec<ConnectionPermit> = Vec::new();
            for _ in 0..RESERVED_CONNECTIONS {
                let permit = permits.admit().await;
                if let Some(claim) = claim {
                    assert_eq!(permit.begin(claim).await, Turn::LastServed);
                    // The connection stays open while the rest of its body is read.
                    permit.end();
                }
                others.push(permit);
            }
            let begun = Instant::now();
            let closed = async {
                let first = others.remove(0);
                first.closing().await;
                assert!(first.ends_at_once());
            };
            let (probe, ()) = tokio::join!(permits.admit(), closed);
            assert_eq!(probe.begin(Claim::Probe).await, Turn::LastServed);
            let least = match claim {
                None => FIRST_REQUEST_WITHIN,
                Some(_) => Duration::ZERO,
            };
            assert!(begun.elapsed() >= least, "{claim:?}");
            assert!(begun.elapsed() <= least * 2, "{claim:?}");
        }
    }
}
