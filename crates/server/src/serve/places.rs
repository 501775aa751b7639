//! Which connections may be open at the same time, and which of them give way.
//!
//! `max-connections` have an ordinary place. Beyond them [`RESERVED_CONNECTIONS`] have a reserved one, for one request
//! and [`RESERVED_TIME`]: so a probe is answered while every ordinary place is taken, by slow bodies, waits or readers
//! that stall. Another request on a reserved connection is served where an ordinary place has become free meanwhile, and
//! is refused otherwise.
//!
//! A connection without a request under way gives its place to a new one: the one that was idle for longest.

use crate::app::App;
use parking_lot::Mutex;
use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::sync::Notify;
use tracing::warn;

/// Connections beyond `max-connections` that are accepted for probes.
pub(crate) const RESERVED_CONNECTIONS: usize = 64;

/// How long a connection may hold a reserved place.
pub(super) const RESERVED_TIME: Duration = Duration::from_secs(5);

/// A connection that was idle for less keeps its place: its client is about to send the next request.
const IDLE_FOR: Duration = Duration::from_secs(1);

/// How long a request waits for the place of an idle connection that is being closed for it.
const CLOSING_TIME: Duration = Duration::from_millis(500);

/// The log says at most this often that places are short.
const WARN_EVERY: Duration = Duration::from_secs(10);

/// The places of a server.
#[derive(Clone)]
pub(super) struct Places(Arc<Shared>);

struct Shared {
    app: App,
    most: usize,
    table: Mutex<Table>,
    /// A place has become free.
    freed: Notify,
}

#[derive(Default)]
struct Table {
    ordinary: usize,
    reserved: usize,
    idle_number: u64,
    /// Connections without a request under way, the one that is idle for longest first.
    idle_ordinary: BTreeMap<u64, Idle>,
    idle_reserved: BTreeMap<u64, Idle>,
    warned: Option<Instant>,
}

struct Idle {
    since: Instant,
    close: Arc<Notify>,
}

/// The place of one connection, free again when it is dropped.
pub(super) struct Place {
    shared: Arc<Shared>,
    close: Arc<Notify>,
    /// An idle connection is being closed for this one.
    expects_room: bool,
    held: Mutex<Held>,
}

#[derive(Debug, Clone, Copy)]
struct Held {
    kind: Kind,
    /// Its number among the idle connections of its kind, while it is one.
    idle: Option<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Ordinary,
    Reserved,
}

/// What becomes of a request on a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Turn {
    /// It is served, and others may follow.
    Served,
    /// It is served, and the connection is closed after it.
    LastServed,
    /// It is refused, and the connection is closed after it.
    Refused,
}

impl Table {
    fn idle(&mut self, kind: Kind) -> &mut BTreeMap<u64, Idle> {
        match kind {
            Kind::Ordinary => &mut self.idle_ordinary,
            Kind::Reserved => &mut self.idle_reserved,
        }
    }

    fn count(&mut self, kind: Kind) -> &mut usize {
        match kind {
            Kind::Ordinary => &mut self.ordinary,
            Kind::Reserved => &mut self.reserved,
        }
    }

    fn begin_idle(&mut self, kind: Kind, close: &Arc<Notify>, now: Instant) -> u64 {
        self.idle_number += 1;
        let number = self.idle_number;
        let idle = Idle {
            since: now,
            close: Arc::clone(close),
        };
        self.idle(kind).insert(number, idle);
        number
    }

    /// Closes the connection of a kind that is idle for longest, where one is for long enough.
    fn close_idle(&mut self, kind: Kind, at_least: Duration, now: Instant) -> bool {
        let idle = self.idle(kind);
        let Some(longest) = idle.first_entry() else {
            return false;
        };
        if now.saturating_duration_since(longest.get().since) < at_least {
            return false;
        }
        longest.remove().close.notify_one();
        true
    }
}

impl Places {
    pub(super) fn new(app: App) -> Self {
        let most = app.limits().max_connections;
        Self(Arc::new(Shared {
            app,
            most,
            table: Mutex::default(),
            freed: Notify::new(),
        }))
    }

    /// A place for a connection that was accepted, as soon as there is one.
    pub(super) async fn admit(&self) -> Place {
        loop {
            let mut freed = std::pin::pin!(self.0.freed.notified());
            freed.as_mut().enable();
            if let Some(place) = self.try_admit(Instant::now()) {
                return place;
            }
            freed.await;
        }
    }

    fn try_admit(&self, now: Instant) -> Option<Place> {
        let mut table = self.0.table.lock();
        let mut expects_room = false;
        let kind = if table.ordinary < self.0.most {
            Kind::Ordinary
        } else {
            expects_room = table.close_idle(Kind::Ordinary, IDLE_FOR, now);
            if expects_room {
                self.0.app.http().idle_closed.add(1);
            }
            if table.reserved >= RESERVED_CONNECTIONS {
                // It has sent no request yet: a newer one may be a probe.
                table.close_idle(Kind::Reserved, Duration::ZERO, now);
                return None;
            }
            Kind::Reserved
        };
        *table.count(kind) += 1;
        let close = Arc::new(Notify::new());
        let number = table.begin_idle(kind, &close, now);
        drop(table);
        self.0.app.http().opened();
        Some(Place {
            shared: Arc::clone(&self.0),
            close,
            expects_room,
            held: Mutex::new(Held {
                kind,
                idle: Some(number),
            }),
        })
    }
}

impl Place {
    /// Resolves when the connection is to be closed for another.
    pub(super) async fn closing(&self) {
        self.close.notified().await;
    }

    /// Whether it is a reserved one.
    pub(super) fn is_reserved(&self) -> bool {
        self.held.lock().kind == Kind::Reserved
    }

    /// A request has arrived on the connection.
    pub(super) async fn begin(&self, is_probe: bool) -> Turn {
        if self.takes_ordinary() {
            return Turn::Served;
        }
        if is_probe {
            return Turn::LastServed;
        }
        if self.expects_room {
            let ordinary = async {
                loop {
                    let mut freed = std::pin::pin!(self.shared.freed.notified());
                    freed.as_mut().enable();
                    if self.takes_ordinary() {
                        return;
                    }
                    freed.await;
                }
            };
            if tokio::time::timeout(CLOSING_TIME, ordinary).await.is_ok() {
                return Turn::Served;
            }
        }
        self.refused();
        Turn::Refused
    }

    /// The answer to its request is on its way.
    pub(super) fn end(&self) {
        let mut held = self.held.lock();
        if held.kind == Kind::Ordinary && held.idle.is_none() {
            let mut table = self.shared.table.lock();
            held.idle = Some(table.begin_idle(held.kind, &self.close, Instant::now()));
        }
    }

    /// Whether the connection has an ordinary place now; it is idle no more.
    fn takes_ordinary(&self) -> bool {
        let mut held = self.held.lock();
        let mut table = self.shared.table.lock();
        if let Some(number) = held.idle.take() {
            table.idle(held.kind).remove(&number);
        }
        if held.kind == Kind::Reserved && table.ordinary < self.shared.most {
            held.kind = Kind::Ordinary;
            table.ordinary += 1;
            table.reserved -= 1;
            drop(table);
            self.shared.freed.notify_waiters();
        }
        held.kind == Kind::Ordinary
    }

    fn refused(&self) {
        let shared = &self.shared;
        shared.app.http().requests_refused.add(1);
        let now = Instant::now();
        let mut table = shared.table.lock();
        let is_due = table
            .warned
            .is_none_or(|warned| now.saturating_duration_since(warned) >= WARN_EVERY);
        if is_due {
            table.warned = Some(now);
            drop(table);
            warn!(
                max_connections = shared.most,
                "all connections are taken: requests other than probes are refused"
            );
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let held = *self.held.get_mut();
        let mut table = self.shared.table.lock();
        if let Some(number) = held.idle {
            table.idle(held.kind).remove(&number);
        }
        *table.count(held.kind) -= 1;
        drop(table);
        self.shared.app.http().closed();
        self.shared.freed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::HttpLimits;
    use workspace_status::Tracker;

    fn places(max_connections: usize) -> Places {
        let limits = HttpLimits {
            max_connections,
            ..HttpLimits::for_tests()
        };
        Places::new(App::new(Tracker::new(), limits))
    }

    #[tokio::test(start_paused = true)]
    async fn beyond_the_limit_only_probes_are_served() {
        let places = places(1);
        let ordinary = places.admit().await;
        assert_eq!(ordinary.begin(false).await, Turn::Served);
        let reserved = places.admit().await;
        assert!(reserved.is_reserved());
        assert_eq!(reserved.begin(true).await, Turn::LastServed);
        assert_eq!(reserved.begin(false).await, Turn::Refused);
        drop(ordinary);
        assert_eq!(reserved.begin(false).await, Turn::Served);
        assert!(!reserved.is_reserved());
    }

    #[tokio::test(start_paused = true)]
    async fn the_longest_idle_connection_gives_its_place_to_a_new_one() {
        let places = places(2);
        let (first, second) = (places.admit().await, places.admit().await);
        // The first was used last.
        assert_eq!(first.begin(false).await, Turn::Served);
        first.end();
        let later = Instant::now() + IDLE_FOR * 2;
        let new = places.try_admit(later).unwrap();
        second.closing().await;
        drop(second);
        assert_eq!(new.begin(false).await, Turn::Served);
        let busy = places.try_admit(Instant::now()).unwrap();
        assert_eq!(busy.begin(false).await, Turn::Refused, "idle only just now");
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_connection_keeps_no_reserved_place_from_a_probe() {
        let places = places(1);
        let ordinary = places.admit().await;
        assert_eq!(ordinary.begin(false).await, Turn::Served);
        let mut silent: Vec<Place> = Vec::new();
        for _ in 0..RESERVED_CONNECTIONS {
            silent.push(places.admit().await);
        }
        assert!(places.try_admit(Instant::now()).is_none());
        silent[0].closing().await;
        drop(silent.remove(0));
        let probe = places.admit().await;
        assert_eq!(probe.begin(true).await, Turn::LastServed);
    }
}
