//! Which connections may be open at the same time, and which of them give way.
//!
//! `max-connections` have an ordinary place. Beyond them [`RESERVED_CONNECTIONS`] have a reserved one, for one request
//! and [`RESERVED_TIME`]. There a probe is answered, and a caller without the right is refused, while every ordinary
//! place is taken by slow bodies, waits or readers that stall. Any other request there needs an ordinary place that has
//! become free meanwhile, and is refused without one.
//!
//! A request of a caller that may do what it asks takes the place of a connection without a request under way: first
//! of one whose last request needed no right, else of the one that was idle for longest. So a client without a right
//! can neither keep such a caller out nor have the connections of others closed.

use crate::app::App;
use parking_lot::Mutex;
use std::{collections::BTreeMap, sync::Arc, time::Duration};
use tokio::{
    sync::Notify,
    time::{Instant, timeout},
};
use tracing::warn;

/// Connections beyond `max-connections` that are accepted for probes.
pub(crate) const RESERVED_CONNECTIONS: usize = 64;

/// How long a connection may hold a reserved place.
pub(super) const RESERVED_TIME: Duration = Duration::from_secs(5);

/// A connection of a caller with a right that was idle for less keeps its place: the next request is about to arrive.
const IDLE_FOR: Duration = Duration::from_secs(1);

/// A connection that is younger keeps its place: its first request is about to arrive.
const FIRST_REQUEST_WITHIN: Duration = Duration::from_millis(100);

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
    /// Requests that wait for an ordinary place: connections that are accepted meanwhile do not take it.
    waiting: usize,
    idle_number: u64,
    /// Connections without a request under way, the one that is idle for longest first.
    idle_strangers: BTreeMap<u64, Idle>,
    idle_known: BTreeMap<u64, Idle>,
    idle_reserved: BTreeMap<u64, Idle>,
    warned: Option<Instant>,
}

struct Idle {
    /// It keeps its place until then.
    keeps_until: Instant,
    close: Arc<Notify>,
}

/// The place of one connection, free again when it is dropped.
pub(super) struct Place {
    shared: Arc<Shared>,
    close: Arc<Notify>,
    held: Mutex<Held>,
}

#[derive(Debug, Clone, Copy)]
struct Held {
    kind: Kind,
    /// Its last request was that of a caller with the right to it.
    is_known: bool,
    /// Its number among the idle connections of its group; none while a request is under way.
    idle: Option<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Ordinary,
    Reserved,
}

/// Idle connections that give way alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Group {
    /// On an ordinary place, without a request that needed a right.
    Strangers,
    /// On an ordinary place, others.
    Known,
    /// On a reserved place.
    Reserved,
}

/// What a request wants of its connection's place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Claim {
    /// A probe: answered on any place.
    Probe,
    /// It is refused already, such as for want of a right: answered on any place.
    Refusal,
    /// A request that needs no right.
    Open,
    /// A request of a caller that has the right to it.
    Right,
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

impl Held {
    fn group(self) -> Group {
        match (self.kind, self.is_known) {
            (Kind::Reserved, _) => Group::Reserved,
            (Kind::Ordinary, false) => Group::Strangers,
            (Kind::Ordinary, true) => Group::Known,
        }
    }
}

impl Table {
    fn idle(&mut self, group: Group) -> &mut BTreeMap<u64, Idle> {
        match group {
            Group::Strangers => &mut self.idle_strangers,
            Group::Known => &mut self.idle_known,
            Group::Reserved => &mut self.idle_reserved,
        }
    }

    fn count(&mut self, kind: Kind) -> &mut usize {
        match kind {
            Kind::Ordinary => &mut self.ordinary,
            Kind::Reserved => &mut self.reserved,
        }
    }

    fn begin_idle(&mut self, group: Group, close: &Arc<Notify>, keeps_until: Instant) -> u64 {
        self.idle_number += 1;
        let number = self.idle_number;
        let idle = Idle {
            keeps_until,
            close: Arc::clone(close),
        };
        self.idle(group).insert(number, idle);
        number
    }

    /// Closes the connection of a group that is idle for longest, where one may be closed.
    fn close_idle(&mut self, group: Group, now: Instant) -> bool {
        let idle = self.idle(group);
        let mut numbers = idle.iter();
        let Some((&number, _)) = numbers.find(|(_, idle)| idle.keeps_until <= now) else {
            return false;
        };
        if let Some(idle) = idle.remove(&number) {
            idle.close.notify_one();
        }
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
            // Those that could not be closed yet can be after that time.
            let _ = timeout(FIRST_REQUEST_WITHIN, freed).await;
        }
    }

    fn try_admit(&self, now: Instant) -> Option<Place> {
        let mut table = self.0.table.lock();
        let kind = if table.ordinary + table.waiting < self.0.most {
            Kind::Ordinary
        } else if table.reserved < RESERVED_CONNECTIONS {
            Kind::Reserved
        } else {
            table.close_idle(Group::Reserved, now);
            return None;
        };
        *table.count(kind) += 1;
        let mut held = Held {
            kind,
            is_known: false,
            idle: None,
        };
        let close = Arc::new(Notify::new());
        held.idle = Some(table.begin_idle(held.group(), &close, now + FIRST_REQUEST_WITHIN));
        drop(table);
        self.0.app.http().opened();
        Some(Place {
            shared: Arc::clone(&self.0),
            close,
            held: Mutex::new(held),
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

    /// Whether a connection that is to be closed for another ends at once, with whatever its client began or left
    /// unread. Otherwise it ends after the request that has arrived meanwhile, or after the answer that is being sent.
    pub(super) fn ends_at_once(&self) -> bool {
        let held = self.held.lock();
        held.idle.is_some() && held.group() != Group::Known
    }

    /// A request has arrived on the connection.
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

    /// Closes an idle connection and waits for its place.
    async fn waits_for_ordinary(&self, claim: Claim) -> bool {
        let waiting = Waiting::begin(&self.shared);
        let ordinary = async {
            let mut is_closing = false;
            loop {
                let mut freed = std::pin::pin!(self.shared.freed.notified());
                freed.as_mut().enable();
                if self.takes_ordinary(claim) {
                    return;
                }
                is_closing = is_closing || self.shared.makes_room(Instant::now());
                let _ = timeout(FIRST_REQUEST_WITHIN, freed).await;
            }
        };
        let is_served = timeout(CLOSING_TIME, ordinary).await.is_ok();
        drop(waiting);
        is_served
    }

    /// The answer to its request is on its way.
    pub(super) fn end(&self) {
        let mut held = self.held.lock();
        if held.idle.is_some() {
            return;
        }
        let now = Instant::now();
        let group = held.group();
        let keeps_until = match group {
            Group::Known => now + IDLE_FOR,
            Group::Strangers | Group::Reserved => now,
        };
        let mut table = self.shared.table.lock();
        held.idle = Some(table.begin_idle(group, &self.close, keeps_until));
    }

    /// Whether the connection has an ordinary place now; it is idle no more.
    fn takes_ordinary(&self, claim: Claim) -> bool {
        let mut held = self.held.lock();
        let mut table = self.shared.table.lock();
        if let Some(number) = held.idle.take() {
            table.idle(held.group()).remove(&number);
        }
        held.is_known = claim == Claim::Right;
        let waiting_before = if held.is_known { 0 } else { table.waiting };
        if held.kind == Kind::Reserved && table.ordinary + waiting_before < self.shared.most {
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

impl Shared {
    /// Closes an idle connection on an ordinary place, where one may be closed.
    fn makes_room(&self, now: Instant) -> bool {
        let mut table = self.table.lock();
        let is_closing =
            table.close_idle(Group::Strangers, now) || table.close_idle(Group::Known, now);
        if is_closing {
            self.app.http().idle_closed.add(1);
        }
        is_closing
    }
}

/// A request that waits for an ordinary place.
struct Waiting<'a>(&'a Shared);

impl<'a> Waiting<'a> {
    fn begin(shared: &'a Shared) -> Self {
        shared.table.lock().waiting += 1;
        Self(shared)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.table.lock().waiting -= 1;
        self.0.freed.notify_waiters();
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let held = *self.held.get_mut();
        let mut table = self.shared.table.lock();
        if let Some(number) = held.idle {
            table.idle(held.group()).remove(&number);
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

    /// Answers the request of a new connection.
    async fn answered(places: &Places, claim: Claim) -> Place {
        let place = places.admit().await;
        assert_ne!(place.begin(claim).await, Turn::Refused);
        place.end();
        place
    }

    #[tokio::test(start_paused = true)]
    async fn beyond_the_limit_only_probes_and_refusals_are_answered() {
        let places = places(1);
        let ordinary = places.admit().await;
        assert_eq!(ordinary.begin(Claim::Right).await, Turn::Served);
        let reserved = places.admit().await;
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
    async fn the_longest_idle_connection_gives_its_place_to_a_caller() {
        let places = places(2);
        let first = answered(&places, Claim::Right).await;
        let second = answered(&places, Claim::Right).await;
        // The first was used last.
        assert_eq!(first.begin(Claim::Right).await, Turn::Served);
        first.end();
        let new = places.admit().await;
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
            let places = places(2);
            let _known = answered(&places, Claim::Right).await;
            tokio::time::advance(IDLE_FOR).await;
            let stranger = answered(&places, claim).await;
            // Its like close nothing.
            let other = places.admit().await;
            assert!(other.begin(claim).await != Turn::Served, "{claim:?}");
            assert!(stranger.shared.table.lock().idle_strangers.len() == 1);
            let caller = places.admit().await;
            let closed = async {
                stranger.closing().await;
                assert!(stranger.ends_at_once(), "{claim:?}");
                // A connection that is accepted at this moment does not take the place.
                drop(stranger);
                assert!(places.admit().await.is_reserved(), "{claim:?}");
            };
            let (turn, ()) = tokio::join!(caller.begin(Claim::Right), closed);
            assert_eq!(turn, Turn::Served, "{claim:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_that_never_sends_a_whole_head_gives_way() {
        let places = places(1);
        let silent = places.admit().await;
        let caller = places.admit().await;
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
    async fn a_reserved_place_is_given_to_a_probe_once_it_was_used() {
        for claim in [None, Some(Claim::Probe), Some(Claim::Refusal)] {
            let places = places(1);
            let ordinary = places.admit().await;
            assert_eq!(ordinary.begin(Claim::Right).await, Turn::Served);
            let mut others: Vec<Place> = Vec::new();
            for _ in 0..RESERVED_CONNECTIONS {
                let place = places.admit().await;
                if let Some(claim) = claim {
                    assert_eq!(place.begin(claim).await, Turn::LastServed);
                    // Its connection stays open for the rest of its body.
                    place.end();
                }
                others.push(place);
            }
            let begun = Instant::now();
            let closed = async {
                let first = others.remove(0);
                first.closing().await;
                assert!(first.ends_at_once());
            };
            let (probe, ()) = tokio::join!(places.admit(), closed);
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
