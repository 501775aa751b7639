//! Which workspaces have transitions that the history does not have yet, and which of them are due.
//!
//! The transitions of a load are taken together, at its end: many loads are then written for the price of one
//! transition each. A load that does not end is taken when its oldest transition is [`MAX_AGE`] old.

use std::collections::VecDeque;
use std::collections::hash_map::{Entry, HashMap};
use std::time::{Duration, Instant};

use workspace_status::{State, WorkspaceId};

/// The age at which a transition is due, whether its load has ended or not.
pub(super) const MAX_AGE: Duration = Duration::from_secs(1);

/// Workspaces that have changed since their transitions were last taken.
#[derive(Debug, Default)]
pub(super) struct Changes {
    changed: HashMap<WorkspaceId, Changed>,
    /// Those whose load had not ended, by the time of their oldest transition. Some have become due since.
    by_age: VecDeque<(Instant, WorkspaceId)>,
    due: VecDeque<WorkspaceId>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Changed {
    /// Its load has not ended; the time of its oldest transition.
    Since(Instant),
    /// In `due`.
    Due,
}

impl Changes {
    /// A workspace has entered a state.
    pub(super) fn entered(&mut self, id: WorkspaceId, state: State, now: Instant) {
        if state.is_settled() || state == State::Unloading {
            self.due(id);
        } else if let Entry::Vacant(vacant) = self.changed.entry(id) {
            self.by_age.push_back((now, vacant.key().clone()));
            vacant.insert(Changed::Since(now));
        }
    }

    /// A workspace is due, whatever its state.
    pub(super) fn due(&mut self, id: WorkspaceId) {
        match self.changed.entry(id) {
            Entry::Occupied(mut changed) => {
                if *changed.get() != Changed::Due {
                    self.due.push_back(changed.key().clone());
                    changed.insert(Changed::Due);
                }
            }
            Entry::Vacant(vacant) => {
                self.due.push_back(vacant.key().clone());
                vacant.insert(Changed::Due);
            }
        }
    }

    /// Makes every workspace due whose oldest transition was made at `until` or before.
    pub(super) fn due_until(&mut self, until: Instant) {
        while let Some((since, id)) = self.by_age.pop_front_if(|(since, _)| *since <= until) {
            if self.changed.get(&id) == Some(&Changed::Since(since)) {
                self.due(id);
            }
        }
    }

    /// Number of due workspaces.
    pub(super) fn due_count(&self) -> usize {
        self.due.len()
    }

    /// Takes at most `limit` due workspaces, in the order in which they became due.
    pub(super) fn take(&mut self, limit: usize) -> Vec<WorkspaceId> {
        let taken: Vec<_> = self.due.drain(..limit.min(self.due.len())).collect();
        for id in &taken {
            self.changed.remove(id);
        }
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::conformance::id;

    #[track_caller]
    fn check(changes: &mut Changes, expected: &[&str]) {
        let taken = changes.take(usize::MAX);
        let taken: Vec<_> = taken.iter().map(WorkspaceId::as_str).collect();
        assert_eq!(taken, expected);
    }

    #[test]
    fn a_workspace_is_due_once_when_its_load_ends_or_it_leaves() {
        let now = Instant::now();
        for end in [State::Ready, State::Error, State::Unloading] {
            let mut changes = Changes::default();
            changes.entered(id("other"), State::Initializing, now);
            for state in [State::Initializing, State::ReplayingEvents, end, end] {
                changes.entered(id("acme"), state, now);
            }
            check(&mut changes, &["acme"]);
            changes.due_until(now);
            check(&mut changes, &["other"]);
        }
    }

    #[test]
    fn a_load_under_way_is_due_when_its_oldest_transition_is_old() {
        let began = Instant::now();
        let second = Duration::from_secs(1);
        let mut changes = Changes::default();
        changes.entered(id("a"), State::Initializing, began);
        changes.entered(id("b"), State::Initializing, began + second);
        changes.entered(id("a"), State::ReplayingEvents, began + second);
        changes.due_until(began + second / 2);
        check(&mut changes, &["a"]);
        changes.entered(id("a"), State::RestoringFromSnapshot, began + second * 2);
        changes.due_until(began + second);
        check(&mut changes, &["b"]);
        changes.due_until(began + second * 2);
        check(&mut changes, &["a"]);
    }

    #[test]
    fn an_end_that_was_taken_leaves_no_older_transition_behind() {
        let began = Instant::now();
        let mut changes = Changes::default();
        changes.entered(id("a"), State::Initializing, began);
        changes.entered(id("a"), State::Ready, began);
        assert_eq!(changes.due_count(), 1);
        check(&mut changes, &["a"]);
        let later = began + Duration::from_millis(1);
        changes.entered(id("a"), State::ReplayingEvents, later);
        changes.due_until(began);
        check(&mut changes, &[]);
        changes.due_until(later);
        check(&mut changes, &["a"]);
    }

    #[test]
    fn a_limit_leaves_the_rest_for_the_next_time() {
        let mut changes = Changes::default();
        for name in ["a", "b", "c"] {
            changes.due(id(name));
        }
        assert_eq!(changes.take(2), [id("a"), id("b")]);
        changes.due(id("c"));
        assert_eq!(changes.take(2), [id("c")]);
    }
}
