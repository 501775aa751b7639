//! The change feed: all changes, in order, for any number of watchers.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use futures_core::Stream;

use crate::change::Change;
use crate::id::Revision;
use crate::ring::Found;
use crate::shared::TrackerShared;
use crate::wakeups::Listening;

/// Default number of changes that a tracker keeps for its watchers: a thousand workspaces
/// may load at once, with a dozen changes each, before a watcher reads.
pub const FEED_CAPACITY: usize = 16_384;

/// What a watcher receives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FeedItem {
    /// The next change.
    Change(Change),
    /// The watcher was too slow, or requested changes that are no longer kept. It continues
    /// after `revision`; read all statuses to get the changes before it.
    Resync {
        /// Changes after this one follow.
        revision: Revision,
    },
}

/// A reader of the change feed with its own position. No writer waits for it: changes that
/// it does not read in time are replaced by a [`FeedItem::Resync`].
///
/// Use it as a future (`next`), a blocking call (`next_deadline`), or a [`Stream`].
///
/// ```
/// use workspace_status::{ChangeKind, FeedItem, State, Tracker};
///
/// let tracker = Tracker::new();
/// let mut watcher = tracker.watch();
/// tracker.get_or_create("a").set_state(State::Ready, "ok");
/// let Some(FeedItem::Change(created)) = watcher.try_next() else { panic!() };
/// assert_eq!(created.kind, ChangeKind::Created);
/// let Some(FeedItem::Change(ready)) = watcher.try_next() else { panic!() };
/// assert!(matches!(ready.kind, ChangeKind::Transition { to: State::Ready, .. }));
/// assert_eq!(watcher.try_next(), None);
/// ```
pub struct Watcher {
    shared: Arc<TrackerShared>,
    next: u64,
    /// It requested a revision that does not exist yet.
    ahead: bool,
    listener: Option<Listening>,
}

impl Watcher {
    pub(crate) fn after(shared: Arc<TrackerShared>, revision: Revision) -> Self {
        let head = shared.feed.head();
        Self {
            next: revision.get().saturating_add(1),
            ahead: revision.get() > head,
            shared,
            listener: None,
        }
    }

    /// The next item, if one is available now.
    pub fn try_next(&mut self) -> Option<FeedItem> {
        if self.ahead {
            self.ahead = false;
            return Some(self.resync());
        }
        match self.shared.feed.get(self.next) {
            Found::Item((workspace_id, kind)) => {
                let revision = Revision::new(self.next);
                self.next += 1;
                Some(FeedItem::Change(Change {
                    revision,
                    workspace_id,
                    kind,
                }))
            }
            Found::Later => None,
            Found::Gone => Some(self.resync()),
        }
    }

    /// The next item; blocks until there is one, or the deadline has passed.
    pub fn next_deadline(&mut self, deadline: Instant) -> Option<FeedItem> {
        loop {
            if let Some(item) = self.try_next() {
                return Some(item);
            }
            let listener = self.shared.listen_feed();
            if let Some(item) = self.try_next() {
                return Some(item);
            }
            if !listener.wait(Some(deadline)) {
                return self.try_next();
            }
        }
    }

    #[expect(
        clippy::should_implement_trait,
        reason = "named as the next of every async stream"
    )]
    /// The next item. Nothing is lost if the future is dropped before it is ready.
    pub fn next(&mut self) -> impl Future<Output = FeedItem> + Send {
        poll_fn(|context| self.poll(context))
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<FeedItem> {
        loop {
            if let Some(item) = self.try_next() {
                self.listener = None;
                return Poll::Ready(item);
            }
            // Check again once the listener exists: a change before it would be missed.
            let Some(listener) = &mut self.listener else {
                self.listener = Some(self.shared.listen_feed());
                continue;
            };
            match Pin::new(listener).poll(context) {
                Poll::Ready(()) => self.listener = None,
                Poll::Pending => return Poll::Pending,
            }
        }
    }

    fn resync(&mut self) -> FeedItem {
        let head = self.shared.feed.head();
        self.next = head + 1;
        FeedItem::Resync {
            revision: Revision::new(head),
        }
    }
}

impl Stream for Watcher {
    type Item = FeedItem;

    /// Never ends.
    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<FeedItem>> {
        self.get_mut().poll(context).map(Some)
    }
}

impl std::fmt::Debug for Watcher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Watcher")
            .field("next", &self.next)
            .finish_non_exhaustive()
    }
}
