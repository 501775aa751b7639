//! What all statuses of one tracker share: clock, owner, counts, feed, and who waits.
//!
//! It knows no status, so that statuses can hold it without a circle.

use std::sync::atomic::{AtomicU64, Ordering, fence};

use arc_swap::ArcSwapOption;
use arcstr::ArcStr;
use event_listener::{Event, EventListener, IntoNotification as _};

use crate::clock::AnyClock;
use crate::counts::Counts;
use crate::feed::ChangeKind;
use crate::id::{Revision, WorkspaceId};
use crate::progress::Active;
use crate::ring::Ring;

/// Waits are woken by shard: a wait for one workspace is seldom woken by another's change.
const WAIT_SHARDS: usize = 256;

pub(crate) struct Shared {
    pub(crate) clock: AnyClock,
    pub(crate) owner: ArcSwapOption<ArcStr>,
    pub(crate) counts: Counts,
    pub(crate) unexpected_transitions: AtomicU64,
    pub(crate) metadata_refusals: AtomicU64,
    pub(crate) active: Active,
    pub(crate) feed: Ring<(WorkspaceId, ChangeKind)>,
    fed: Event,
    waited: Box<[Event]>,
}

impl Shared {
    pub(crate) fn new(clock: AnyClock, owner: Option<ArcStr>, feed_capacity: usize) -> Self {
        Self {
            clock,
            owner: ArcSwapOption::from_pointee(owner),
            counts: Counts::new(),
            unexpected_transitions: AtomicU64::new(0),
            metadata_refusals: AtomicU64::new(0),
            active: Active::new(),
            feed: Ring::new(feed_capacity),
            fed: Event::new(),
            waited: (0..WAIT_SHARDS).map(|_| Event::new()).collect(),
        }
    }

    pub(crate) fn owner(&self) -> Option<ArcStr> {
        self.owner.load().as_ref().map(|owner| (**owner).clone())
    }

    pub(crate) fn publish(&self, workspace_id: &WorkspaceId, kind: ChangeKind) -> Revision {
        Revision::new(self.feed.push((workspace_id.clone(), kind)))
    }

    /// Wakes the watchers, and the waits for workspaces with this key. To be called after
    /// every change, with no lock held.
    pub(crate) fn notify(&self, key: u16) {
        // Orders the change before the look for listeners; they listen before they look.
        fence(Ordering::SeqCst);
        self.fed.notify(usize::MAX.relaxed());
        if let Some(event) = self.waited.get(usize::from(key) % WAIT_SHARDS) {
            event.notify(usize::MAX.relaxed());
        }
    }

    pub(crate) fn listen_feed(&self) -> EventListener {
        self.fed.listen()
    }

    /// Hears of every change of workspaces with this key.
    pub(crate) fn listen_workspace(&self, key: u16) -> Option<EventListener> {
        let event = self.waited.get(usize::from(key) % WAIT_SHARDS)?;
        Some(event.listen())
    }
}

/// The same number for the same id, spread evenly; it picks stripes and shards.
pub(crate) fn key_of(id: &str) -> u16 {
    // FNV-1a: ids are short, and it is computed once a workspace.
    let hash = id.bytes().fold(0x811c_9dc5_u32, |hash, byte| {
        (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193)
    });
    (hash ^ hash >> 16) as u16
}
