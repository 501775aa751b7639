//! The ids of all workspaces: those in memory, and those that only the store holds.
//!
//! Most of the time all that are known are in memory, and the store is not asked. Where some are
//! not, the ids of both are put together once and kept for as long as no further workspace is met:
//! the store lists a partition by reading the records of all of them.

use parking_lot::Mutex;
use std::sync::Arc;
use workspace_engine_core::{
    Engine,
    store::{Store, StoreError},
};
use workspace_lifecycle::PartitionId;
use workspace_status::{IdPage, PageQuery, StateSet, Tracker, WorkspaceId};

/// What is known of the ids, beside the tracker.
pub(crate) struct KnownIds {
    store: Arc<dyn Store>,
    all: Mutex<Option<All>>,
}

/// All ids at a time.
#[derive(Clone)]
struct All {
    /// The partitions, and how many workspaces each had met.
    met: Arc<[(PartitionId, usize)]>,
    /// How many workspaces had a status: more than were met where some are announced.
    here: usize,
    /// Ordered.
    ids: Arc<[WorkspaceId]>,
}

/// Which page of ids.
#[derive(Debug, Clone)]
pub(crate) struct IdQuery {
    pub(crate) after: Option<WorkspaceId>,
    pub(crate) prefix: Option<String>,
    pub(crate) limit: usize,
}

impl From<IdQuery> for PageQuery {
    fn from(query: IdQuery) -> Self {
        Self {
            after: query.after,
            limit: query.limit,
            prefix: query.prefix,
            states: StateSet::default(),
            healthy: None,
        }
    }
}

impl KnownIds {
    pub(crate) fn new(store: Arc<dyn Store>) -> Self {
        Self {
            store,
            all: Mutex::new(None),
        }
    }

    /// A page, and how many ids there are in all. Blocks on the store.
    ///
    /// # Errors
    /// [`StoreError`] when the store does not answer.
    pub(crate) fn page(
        &self,
        engine: &Engine,
        query: &IdQuery,
    ) -> Result<(IdPage, usize), StoreError> {
        let all = self.all(engine)?;
        Ok((page_of(&all, query), all.len()))
    }

    fn all(&self, engine: &Engine) -> Result<Arc<[WorkspaceId]>, StoreError> {
        // One that is being opened tells nothing yet.
        let reports: Vec<_> = engine
            .partitions()
            .into_iter()
            .filter(|report| report.opening.is_none())
            .collect();
        // Counted before the ids are read: one that is met meanwhile makes what is kept too old.
        let met: Arc<[_]> = reports
            .iter()
            .map(|report| (report.partition, report.workspaces))
            .collect();
        let here = engine.tracker().count();
        let kept = self.all.lock().clone();
        if let Some(kept) = kept.filter(|kept| kept.met == met && kept.here == here) {
            return Ok(kept.ids);
        }
        let mut ids = in_memory(engine.tracker());
        for report in &reports {
            ids.extend(self.stored(report.partition)?);
        }
        ids.sort_unstable();
        ids.dedup();
        let ids: Arc<[WorkspaceId]> = ids.into();
        *self.all.lock() = Some(All {
            met,
            here,
            ids: Arc::clone(&ids),
        });
        Ok(ids)
    }

    fn stored(
        &self,
        partition: PartitionId,
    ) -> Result<impl Iterator<Item = WorkspaceId>, StoreError> {
        let stored = self.store.workspaces(partition)?;
        Ok(stored.into_iter().map(|workspace| workspace.id))
    }
}

/// Whether the tracker has every workspace that there is. A partition that has met none may not have
/// asked the store yet.
pub(crate) fn all_in_memory(engine: &Engine) -> bool {
    let reports = engine.partitions();
    let met: usize = reports.iter().map(|report| report.workspaces).sum();
    met == engine.tracker().count() && reports.iter().all(|report| report.workspaces > 0)
}

fn in_memory(tracker: &Tracker) -> Vec<WorkspaceId> {
    let everything = IdQuery {
        after: None,
        prefix: None,
        limit: usize::MAX,
    };
    tracker.ids(&everything.into()).ids
}

/// A page of ordered ids.
fn page_of(all: &[WorkspaceId], query: &IdQuery) -> IdPage {
    let prefix = query.prefix.as_deref().unwrap_or_default();
    let begin = all.partition_point(|id| {
        id.as_str() < prefix || query.after.as_ref().is_some_and(|after| id <= after)
    });
    let mut rest = all
        .iter()
        .skip(begin)
        .take_while(|id| id.as_str().starts_with(prefix));
    let ids: Vec<WorkspaceId> = rest.by_ref().take(query.limit).cloned().collect();
    let next = ids.last().filter(|_| rest.next().is_some()).cloned();
    IdPage { ids, next }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(after: Option<&str>, prefix: Option<&str>, limit: usize, expected: &str) {
        let id = |text: &str| WorkspaceId::new(text).unwrap();
        let all = ["a", "b1", "b2", "b3", "c"].map(id);
        let query = IdQuery {
            after: after.map(id),
            prefix: prefix.map(str::to_owned),
            limit,
        };
        let page = page_of(&all, &query);
        let ids: Vec<&str> = page.ids.iter().map(WorkspaceId::as_str).collect();
        let more = if page.next.is_some() { " .." } else { "" };
        assert_eq!(format!("{}{more}", ids.join(" ")), expected, "{query:?}");
    }

    #[test]
    fn a_page_of_ids_goes_on_where_the_one_before_ended() {
        check(None, None, 9, "a b1 b2 b3 c");
        check(None, None, 2, "a b1 ..");
        check(Some("b1"), None, 2, "b2 b3 ..");
        check(Some("b3"), None, 2, "c");
        check(None, Some("b"), 2, "b1 b2 ..");
        check(Some("b2"), Some("b"), 2, "b3");
        check(Some("a"), Some("b"), 3, "b1 b2 b3");
        check(Some("bb"), None, 9, "c");
        check(None, Some("x"), 9, "");
    }
}
