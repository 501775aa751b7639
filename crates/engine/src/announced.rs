//! Workspaces whose first event is acknowledged and whose partition has not read it yet.
//!
//! An append is acknowledged when it is durable. The partition reads it a moment later, or much later while the
//! partition is being opened. So that no list misses the workspace meanwhile, it has a status from before the
//! acknowledgement on: `initializing`, with that reason. The first load of the workspace takes over the status.

use std::collections::{BTreeSet, HashMap};

use workspace_lifecycle::Offset;
use workspace_status::{Tracker, WorkspaceId};

/// Most workspaces of one assignment that are announced at the same time; further ones are listed when the partition
/// has read their events.
const MAX_ANNOUNCED: usize = 65_536;

/// The announced workspaces of one assignment, each with an offset; when the partition has read that offset, it knows
/// the workspace.
#[derive(Debug, Default)]
pub(crate) struct Announced {
    offsets: HashMap<WorkspaceId, Offset>,
    by_offset: BTreeSet<(Offset, WorkspaceId)>,
    /// The assignment has ended.
    is_closed: bool,
}

impl Announced {
    /// Shows a workspace that has no status. The partition knows every workspace with an event below `discovered`.
    pub(crate) fn announce(
        &mut self,
        tracker: &Tracker,
        id: &WorkspaceId,
        offset: Offset,
        discovered: Offset,
    ) {
        if self.is_closed || offset < discovered || self.offsets.len() >= MAX_ANNOUNCED {
            return;
        }
        let message = "its first event is acknowledged and waits to be read";
        if tracker.create(id, message).is_some() {
            self.offsets.insert(id.clone(), offset);
            self.by_offset.insert((offset, id.clone()));
        }
    }

    /// Whether a workspace has a status only because it was announced.
    pub(crate) fn contains(&self, id: &WorkspaceId) -> bool {
        self.offsets.contains_key(id)
    }

    /// A load of the workspace begins: its status belongs to the load from now on.
    pub(crate) fn begin(&mut self, id: &WorkspaceId) {
        if let Some(offset) = self.offsets.remove(id) {
            self.by_offset.remove(&(offset, id.clone()));
        }
    }

    /// The partition knows every workspace with an event below `discovered`. Those that are still announced are known
    /// another way, such as one that an operator has unloaded: their statuses are removed.
    pub(crate) fn pass(&mut self, tracker: &Tracker, discovered: Offset) {
        while let Some((offset, _)) = self.by_offset.first()
            && *offset < discovered
            && let Some((_, id)) = self.by_offset.pop_first()
        {
            self.offsets.remove(&id);
            tracker.remove(&id);
        }
    }

    /// The assignment ends: the statuses of its announced workspaces are removed.
    pub(crate) fn close(&mut self, tracker: &Tracker) {
        self.is_closed = true;
        self.by_offset.clear();
        for (id, _) in self.offsets.drain() {
            tracker.remove(&id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use workspace_status::State;

    fn id(text: &str) -> WorkspaceId {
        WorkspaceId::new(text).unwrap()
    }

    #[test]
    fn a_workspace_is_announced_until_its_partition_has_met_it() {
        let (tracker, mut announced) = (Tracker::new(), Announced::default());
        for (name, offset) in [("loads", 7), ("unloaded", 8), ("ahead", 9), ("met", 3)] {
            announced.announce(&tracker, &id(name), Offset(offset), Offset(4));
        }
        assert_eq!(
            tracker.count(),
            3,
            "one was met before it could be announced"
        );
        let status = tracker.snapshot("loads").unwrap();
        assert_eq!(status.state(), State::Initializing);
        assert_eq!(
            status.message(),
            "its first event is acknowledged and waits to be read"
        );

        announced.begin(&id("loads"));
        announced.pass(&tracker, Offset(9));
        let left: Vec<_> = tracker
            .list_all()
            .iter()
            .map(|status| status.workspace_id().to_owned())
            .collect();
        assert_eq!(left, ["ahead", "loads"]);
        announced.close(&tracker);
        announced.announce(&tracker, &id("late"), Offset(10), Offset(4));
        assert_eq!(
            tracker.count(),
            1,
            "what loads is not the announcement's any more"
        );
    }

    #[test]
    fn a_workspace_with_a_status_is_not_announced() {
        let (tracker, mut announced) = (Tracker::new(), Announced::default());
        tracker.get_or_create("known").set_state(State::Ready, "");
        announced.announce(&tracker, &id("known"), Offset(7), Offset(0));
        announced.close(&tracker);
        assert_eq!(tracker.snapshot("known").unwrap().state(), State::Ready);
    }
}
