//! State shared by all statuses of one tracker: clock, owner, counts, feed, and waiters.
//!
//! It holds no status, so that statuses can hold it without a reference cycle.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use arc_swap::ArcSwapOption;
use arcstr::ArcStr;

use crate::change::ChangeKind;
use crate::clock::AnyClock;
use crate::counts::Counts;
use crate::id::{Revision, WorkspaceId};
use crate::progress::Active;
use crate::ring::Ring;
use crate::wakeups::{Listening, Wakeups};

/// Waits are woken by shard: a wait for one workspace is rarely woken by another's change.
const WAIT_SHARDS: usize = 256;

pub(crate) struct TrackerShared {
    pub(crate) clock: AnyClock,
    owner: Owner,
    pub(crate) counts: Counts,
    pub(crate) metadata_refusals: AtomicU64,
    pub(crate) active: Active,
    pub(crate) feed: Ring<(WorkspaceId, ChangeKind)>,
    /// One wakeup for the feed, then one per shard of the workspaces.
    wakeups: Wakeups,
}

impl TrackerShared {
    pub(crate) fn new(clock: AnyClock, owner: Option<ArcStr>, feed_capacity: usize) -> Self {
        Self {
            clock,
            owner: Owner::new(owner),
            counts: Counts::new(),
            metadata_refusals: AtomicU64::new(0),
            active: Active::new(),
            feed: Ring::new(feed_capacity),
            wakeups: Wakeups::new(1 + WAIT_SHARDS),
        }
    }

    pub(crate) fn owner(&self) -> Option<ArcStr> {
        self.owner.get()
    }

    pub(crate) fn set_owner(&self, owner: ArcStr) {
        self.owner.set(owner);
    }

    #[inline]
    pub(crate) fn publish(&self, workspace_id: &WorkspaceId, kind: ChangeKind) -> Revision {
        Revision::new(self.feed.push(|| (workspace_id.clone(), kind)))
    }

    /// Wakes the watchers, and the waits for workspaces with this key. Call it after every
    /// change of a status, with no lock held.
    #[inline]
    pub(crate) fn notify(&self, key: u16) {
        self.wakeups.notify(FEED);
        self.wakeups.notify(shard(key));
    }

    /// The same after a workspace was created or removed, which waits read without a lock.
    pub(crate) fn notify_of_presence(&self, key: u16) {
        self.wakeups.notify(FEED);
        self.wakeups.notify_after_fence(shard(key));
    }

    /// Listens for every published change.
    pub(crate) fn listen_feed(&self) -> Listening {
        self.wakeups.listen(FEED)
    }

    /// Listens for every change of workspaces with this key.
    pub(crate) fn listen_workspace(&self, key: u16) -> Listening {
        self.wakeups.listen(shard(key))
    }
}

const FEED: usize = 0;

fn shard(key: u16) -> usize {
    1 + usize::from(key) % WAIT_SHARDS
}

/// The owner's name. Every snapshot reads it, and it rarely changes.
struct Owner {
    first: OnceLock<ArcStr>,
    changed: AtomicBool,
    last: ArcSwapOption<ArcStr>,
}

impl Owner {
    fn new(owner: Option<ArcStr>) -> Self {
        let held = Self {
            first: OnceLock::new(),
            changed: AtomicBool::new(false),
            last: ArcSwapOption::empty(),
        };
        if let Some(owner) = owner {
            held.set(owner);
        }
        held
    }

    fn get(&self) -> Option<ArcStr> {
        if self.changed.load(Ordering::Acquire) {
            return self.last.load().as_ref().map(|owner| (**owner).clone());
        }
        self.first.get().cloned()
    }

    fn set(&self, owner: ArcStr) {
        if let Err(owner) = self.first.set(owner) {
            self.last.store(Some(Arc::new(owner)));
            self.changed.store(true, Ordering::Release);
        }
    }
}

/// A hash of the id, evenly distributed; it selects the shard of the waits.
pub(crate) fn key_of(id: &str) -> u16 {
    // FNV-1a: ids are short, and it is computed rarely.
    let hash = id.bytes().fold(0x811c_9dc5_u32, |hash, byte| {
        (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193)
    });
    #[expect(clippy::cast_possible_truncation, reason = "folded to 16 bits")]
    let folded = (hash ^ hash >> 16) as u16;
    folded
}
