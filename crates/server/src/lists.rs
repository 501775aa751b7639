//! Lists and counts of all workspaces: those in memory, and those that are known but not in memory.
//!
//! No request reads the store. The engine keeps an index of the absent workspaces, which takes about 200 bytes
//! for each of them; a page reads as many entries of it as it shows, or all of them where a filter
//! uses more than state and id.

use crate::{
    app::{App, Engine},
    group::Group,
};
use std::{collections::HashMap, sync::Arc};
use workspace_engine_core::absent::AbsentWorkspace;
use workspace_lifecycle::PartitionId;
use workspace_status::{
    Absence, AbsentStatus, IdPage, Message, Page, PageQuery, Snapshot, State, StateCounts, Value,
    WorkspaceId,
};

/// The message of workspaces while the engine releases them.
pub(crate) const STOPPING: &str = "the engine is shutting down";

/// Absent workspaces that are read before the lock of their index is released for others.
const CHUNK: usize = 512;

/// A page of statuses.
pub(crate) fn page(app: &App, query: &PageQuery) -> Page {
    let Some(engine) = app.engine_if_up() else {
        return app.tracker().page(query);
    };
    // Reads the absent workspaces before and after: one that is loaded or unloaded meanwhile is in one of the three.
    let (before, more_before) = absent_page(app, engine, query);
    let here = app.tracker().page(query);
    let (after, more_after) = absent_page(app, engine, query);
    let more = here.next.is_some() || more_before || more_after;
    let found = here.snapshots.into_iter().chain(after).chain(before);
    let (snapshots, next) = merge(found.collect(), Snapshot::id, query.limit, more);
    Page { snapshots, next }
}

/// A page of ids.
pub(crate) fn ids(app: &App, query: &PageQuery) -> IdPage {
    let page = |engine: &Engine| {
        let limit = query.limit.max(1);
        let absent = || {
            let found = engine
                .absent()
                .after(query.after.as_ref(), prefix(query), limit + 1);
            found.into_iter().map(|absent| absent.id.clone())
        };
        let mut found: Vec<_> = absent().collect();
        let here = app.tracker().ids(query);
        found.extend(here.ids);
        found.extend(absent());
        let (ids, next) = merge(found, |id| id, limit, here.next.is_some());
        IdPage { ids, next }
    };
    app.engine_if_up()
        .map_or_else(|| app.tracker().ids(query), page)
}

/// Number of workspaces in each state; those that are not in memory are `unknown`.
pub(crate) fn counts(app: &App) -> StateCounts {
    let here = || app.tracker().count_by_state();
    match app.engine_if_up() {
        Some(engine) => engine
            .absent()
            .counted(|absent| here().plus(State::Unknown, absent)),
        None => here(),
    }
}

/// The status of a workspace, in memory or not.
pub(crate) fn status(app: &App, id: &str) -> Option<Snapshot> {
    let here = || app.tracker().snapshot(id);
    // Queried twice: the workspace may begin to load between the two.
    here().or_else(|| absent(app, id)).or_else(here)
}

/// The status of a workspace that is known but not in memory.
fn absent(app: &App, id: &str) -> Option<Snapshot> {
    let engine = app.engine_if_up()?;
    let absent = engine.absent().get(id)?;
    Some(Reasons::new(app, engine).snapshot(&absent))
}

/// The absent workspaces of a page, and whether there are more.
fn absent_page(app: &App, engine: &Engine, query: &PageQuery) -> (Vec<Snapshot>, bool) {
    if !query.wants(State::Unknown) || !query.error_kinds.is_empty() {
        return (Vec::new(), false);
    }
    let limit = query.limit.max(1);
    let mut reasons = Reasons::new(app, engine);
    let mut page = Vec::new();
    let mut last = query.after.clone();
    loop {
        let chunk = engine.absent().after(last.as_ref(), prefix(query), CHUNK);
        for absent in &chunk {
            if !query.partitions.is_empty() && !query.partitions.contains(&absent.partition.0) {
                continue;
            }
            let snapshot = reasons.snapshot(absent);
            if !query.selects(&snapshot) {
                continue;
            }
            if page.len() == limit {
                return (page, true);
            }
            page.push(snapshot);
        }
        if chunk.len() < CHUNK {
            return (page, false);
        }
        last = chunk.last().map(|absent| absent.id.clone());
    }
}

fn prefix(query: &PageQuery) -> &str {
    query.prefix.as_deref().unwrap_or_default()
}

/// The first `limit` of the found items, ordered by id and without duplicates: of two with the same id, the one
/// that was found first. Then the `after` of the next page, where there is more.
fn merge<T>(
    mut found: Vec<T>,
    id: impl Fn(&T) -> &WorkspaceId,
    limit: usize,
    more: bool,
) -> (Vec<T>, Option<WorkspaceId>) {
    let limit = limit.max(1);
    // A stable sort, so that the first of two stays the first.
    found.sort_by(|left, right| id(left).cmp(id(right)));
    found.dedup_by(|right, left| id(right) == id(left));
    let more = more || found.len() > limit;
    found.truncate(limit);
    let next = found.last().filter(|_| more).map(|last| id(last).clone());
    (found, next)
}

/// Why workspaces are not in memory; reasons that apply to a whole partition are determined once.
struct Reasons<'a> {
    app: &'a App,
    engine: &'a Engine,
    elsewhere: HashMap<PartitionId, Elsewhere>,
}

/// Why a partition is not on this engine.
struct Elsewhere {
    message: String,
    /// Its owner, as far as that is known.
    owner: Option<Arc<str>>,
}

impl<'a> Reasons<'a> {
    fn new(app: &'a App, engine: &'a Engine) -> Self {
        Self {
            app,
            engine,
            elsewhere: HashMap::new(),
        }
    }

    fn snapshot(&mut self, absent: &AbsentWorkspace) -> Snapshot {
        let (reason, mut message, owner) = self.reason(absent);
        if let Some(misrouted) = self.engine.misrouted(&absent.id) {
            message = format!("{message}; {misrouted}").into();
        }
        self.app.tracker().absent_snapshot(&AbsentStatus {
            id: absent.id.clone(),
            reason,
            message,
            since: absent.since,
            owner,
            metadata: vec![("partition", Value::from(absent.partition.0))],
            last_known: absent.last_known.clone(),
        })
    }

    fn reason(&mut self, absent: &AbsentWorkspace) -> (Absence, Message, Option<Arc<str>>) {
        if self.app.is_stopping() {
            return (Absence::OwnerLost, STOPPING.into(), None);
        }
        let reason = self.engine.absence(absent);
        let partition = absent.partition;
        let message = match reason {
            Absence::Unloaded => unloaded(&absent.id),
            Absence::Evicted => evicted(),
            Absence::Opening => {
                let opening = self.engine.opening(partition);
                let opening = opening.as_deref().unwrap_or("its workspaces are listed");
                format!("partition {partition} of the workspace is being opened: {opening}")
            }
            Absence::OwnerLost | Absence::OwnedElsewhere => {
                let app = self.app;
                let elsewhere = self
                    .elsewhere
                    .entry(partition)
                    .or_insert_with(|| Elsewhere::of(app, partition, reason));
                let owner = elsewhere.owner.clone();
                // The owner was lost, and another engine has taken over since.
                let reason = match &owner {
                    Some(_) => Absence::OwnedElsewhere,
                    None => reason,
                };
                return (reason, elsewhere.message.as_str().into(), owner);
            }
        };
        (reason, message.into(), None)
    }
}

impl Elsewhere {
    fn of(app: &App, partition: PartitionId, reason: Absence) -> Self {
        let last_error = app.group().and_then(Group::failure);
        let owner = app.last_writer(partition);
        let message = match (last_error, &owner, reason) {
            (Some(last_error), _, _) => last_error,
            (None, Some(owner), _) => format!(
                "partition {partition} of the workspace is assigned to another engine of the group: {owner} was the last to write of it"
            ),
            (None, None, Absence::OwnerLost) => format!(
                "this engine has lost partition {partition} of the workspace, and no engine has taken it over yet"
            ),
            (None, None, _) => format!(
                "partition {partition} of the workspace is assigned to another engine of the group, or to none yet"
            ),
        };
        Self {
            message,
            owner: owner.map(Into::into),
        }
    }
}

/// The message of a workspace that an operator unloaded.
fn unloaded(id: &WorkspaceId) -> String {
    format!(
        "unloaded by an operator: `workspace-engine load {id}` or POST /api/v1/workspaces/{id}/load brings it back"
    )
}

/// The message of a workspace that left memory because it was needed.
fn evicted() -> String {
    "evicted because its memory was needed: a read, a load or new events bring it back".to_owned()
}

/// Why a workspace is not on this engine, by its id alone; `None` where it should be here.
pub(crate) fn not_here(app: &App, id: &WorkspaceId) -> Option<String> {
    let (_, engine) = (app.group()?, app.engine_if_up()?);
    let partition = engine.partition_of(id);
    if engine.is_assigned(partition) {
        let opening = engine.opening(partition)?;
        return Some(format!(
            "partition {partition} of the workspace is being opened: {opening}"
        ));
    }
    Some(Elsewhere::of(app, partition, Absence::OwnedElsewhere).message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(found: &str, limit: usize, more: bool, expected: &str) {
        let found: Vec<_> = found
            .split_whitespace()
            .map(|id| WorkspaceId::new(id).unwrap())
            .collect();
        let (page, next) = merge(found, |id| id, limit, more);
        let ids: Vec<&str> = page.iter().map(WorkspaceId::as_str).collect();
        let next = next.map_or_else(String::new, |next| format!(" > {next}"));
        assert_eq!(format!("{}{next}", ids.join(" ")), expected);
    }

    #[test]
    fn two_ordered_lists_make_one_page_with_each_id_once() {
        check("", 3, false, "");
        check("a c b", 3, false, "a b c");
        check("a c b", 2, false, "a b > b");
        check("a c a b", 9, false, "a b c");
        check("a b", 2, true, "a b > b");
        check("b a", 0, false, "a > a");
    }
}
