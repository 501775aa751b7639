//! The source of the status routes: the tracker's statuses, the store's history, the engine's health.

use crate::{
    app::{App, Engine},
    group::Group,
    lists::{self, STOPPING, not_here},
};
use std::{borrow::Cow, time::Duration};
use workspace_engine_core::store::{HistoryCursor, HistoryRecord, StoreError, StoredWorkspace};
use workspace_status::{
    Check, Epoch, Page, PageQuery, Snapshot, State, StateCounts, Tracker, WaitOutcome, WorkspaceId,
};
use workspace_status_http::{
    BoxFuture, HistoryEntry, HistoryError, HistoryPage, HistoryQuery, NOTHING_KNOWN, Problem,
    StatusSource, Wait,
};

/// Batch size for counting a long history.
const COUNTED_AT_ONCE: usize = 1_000;

/// Provides the engine's statuses to the status routes.
pub(crate) struct EngineSource(App);

impl EngineSource {
    pub(crate) fn new(app: App) -> Self {
        Self(app)
    }
}

impl StatusSource for EngineSource {
    fn status(&self, id: &str) -> Option<Snapshot> {
        lists::status(&self.0, id)
    }

    fn unknown(&self, id: &WorkspaceId) -> BoxFuture<Cow<'static, str>> {
        let app = self.0.clone();
        let id = id.clone();
        Box::pin(async move {
            if app.engine_if_up().is_none() {
                return app.opening().to_string().into();
            }
            if app.is_stopping() {
                return STOPPING.into();
            }
            let misrouted = app.engine_if_up().and_then(|engine| engine.misrouted(&id));
            match (not_here(&app, &id), misrouted) {
                (Some(elsewhere), Some(misrouted)) => {
                    return format!("{elsewhere}; {misrouted}").into();
                }
                (Some(elsewhere), None) => return elsewhere.into(),
                (None, Some(misrouted)) => return misrouted.to_string().into(),
                (None, None) => {}
            }
            match app.blocking(move |engine| engine.stored(&id)).await {
                Ok(Ok(Some(stored))) => not_listed(&stored).into(),
                Ok(Ok(None)) => NOTHING_KNOWN.into(),
                Ok(Err(error)) => format!("the workspace is not in memory; {error}").into(),
                Err(problem) => problem.detail().to_owned().into(),
            }
        })
    }

    fn page(&self, query: &PageQuery) -> Page {
        lists::page(&self.0, query)
    }

    fn counts(&self) -> StateCounts {
        lists::counts(&self.0)
    }

    fn tracker(&self) -> &Tracker {
        self.0.tracker()
    }

    fn wait(&self, wait: Wait) -> BoxFuture<Result<WaitOutcome, Problem>> {
        let app = self.0.clone();
        Box::pin(async move {
            let id = wait.id.clone();
            let needs_memory = wait.until.contains(State::Ready);
            let waits = StatusSource::wait(app.tracker(), wait);
            app.until_stopped(async {
                tokio::select! {
                    biased;
                    outcome = waits => outcome,
                    never = app.keep_requested(&id), if needs_memory => match never {},
                }
            })
            .await
        })
    }

    fn history(&self, query: HistoryQuery) -> BoxFuture<Result<Option<HistoryPage>, HistoryError>> {
        let app = self.0.clone();
        Box::pin(async move {
            let after = query
                .after
                .as_deref()
                .map(|text| HistoryPosition::read(text).ok_or(HistoryError::UnknownPlace))
                .transpose()?;
            let snapshot = app.tracker().snapshot(query.id.as_str());
            app.blocking(move |engine| page(engine, &query, after, snapshot.as_ref()))
                .await
                .map_err(|problem| HistoryError::Unavailable(problem.detail().to_owned()))?
                .map_err(|error| HistoryError::Unavailable(error.to_string()))
        })
    }

    fn readiness(&self) -> Vec<Check> {
        let Some(engine) = self.0.engine_if_up() else {
            return vec![Check::failed("engine", self.0.opening().to_string())];
        };
        if self.0.is_stopping() {
            return vec![Check::failed("engine", STOPPING)];
        }
        let checks = engine.health().ready;
        let group = self.0.group().map(group_check);
        [Check::ok("engine")]
            .into_iter()
            .chain(checks)
            .chain(group)
            .collect()
    }

    fn liveness(&self) -> Vec<Check> {
        match self.0.engine_if_up() {
            Some(engine) => engine.health().alive,
            None => vec![Check::ok("http")],
        }
    }
}

/// Whether this process is a member of its group.
fn group_check(group: &Group) -> Check {
    match group.failure() {
        None => Check::ok("group"),
        Some(last_error) => Check::failed("group", last_error),
    }
}

/// Why a workspace in the store, which no partition has listed yet, has no status.
fn not_listed(stored: &StoredWorkspace) -> String {
    format!(
        "the store holds the workspace, and partition {} is not listed yet",
        stored.partition
    )
}

/// The end of a page of a history: the transition, and its number in the whole history.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct HistoryPosition {
    epoch: Epoch,
    sequence: u64,
    number: u64,
}

impl HistoryPosition {
    fn read(text: &str) -> Option<Self> {
        let mut parts = text.split(':').map(str::parse);
        let mut next = || parts.next()?.ok();
        let position = Self {
            epoch: Epoch::new(next()?),
            sequence: next()?,
            number: next()?,
        };
        parts.next().is_none().then_some(position)
    }

    fn text(self) -> String {
        format!("{}:{}:{}", self.epoch, self.sequence, self.number)
    }

    fn cursor(self) -> HistoryCursor {
        (self.epoch, self.sequence)
    }
}

/// A page of the stored history, followed by the transitions that are not in the store yet.
fn page(
    engine: &Engine,
    query: &HistoryQuery,
    after: Option<HistoryPosition>,
    snapshot: Option<&Snapshot>,
) -> Result<Option<HistoryPage>, StoreError> {
    let mut records = engine.history(
        &query.id,
        after.map(HistoryPosition::cursor),
        query.limit + 1,
    )?;
    if records.len() <= query.limit {
        let last = records
            .last()
            .map(HistoryRecord::cursor)
            .or(after.map(HistoryPosition::cursor));
        records.extend(unsaved(snapshot, last));
    }
    if records.is_empty() && after.is_none() && snapshot.is_none() {
        return Ok(engine.stored(&query.id)?.map(|_| HistoryPage::default()));
    }
    let number_before = after.map_or(0, |position| position.number);
    let has_more = records.len() > query.limit;
    records.truncate(query.limit);
    let number = number_before + count(records.len());
    let end = records.last().map(|last| HistoryPosition {
        epoch: last.epoch,
        sequence: last.transition.sequence,
        number,
    });
    let next = end.filter(|_| has_more);
    let rest = match next {
        Some(position) => count_after(engine, query, position, snapshot)?,
        None => 0,
    };
    Ok(Some(HistoryPage {
        entries: (number_before + 1..).zip(records).map(entry).collect(),
        total: number + rest,
        next: next.map(HistoryPosition::text),
    }))
}

/// Number of transitions after a position; the store keeps a bounded number of them.
fn count_after(
    engine: &Engine,
    query: &HistoryQuery,
    position: HistoryPosition,
    snapshot: Option<&Snapshot>,
) -> Result<u64, StoreError> {
    let mut last = position.cursor();
    let mut counted = 0;
    loop {
        let records = engine.history(&query.id, Some(last), COUNTED_AT_ONCE)?;
        counted += records.len();
        match records.last() {
            Some(record) => last = record.cursor(),
            None => return Ok(count(counted + unsaved(snapshot, Some(last)).count())),
        }
    }
}

/// Transitions in memory after a position: the store receives them a moment later.
fn unsaved(
    snapshot: Option<&Snapshot>,
    after: Option<HistoryCursor>,
) -> impl Iterator<Item = HistoryRecord> {
    snapshot.into_iter().flat_map(move |snapshot| {
        snapshot
            .state_history()
            .filter(move |transition| {
                after.is_none_or(|after| (transition.epoch(), transition.sequence()) > after)
            })
            .map(move |transition| HistoryRecord::of(snapshot, transition))
    })
}

fn entry((sequence, record): (u64, HistoryRecord)) -> HistoryEntry {
    HistoryEntry {
        at: record.at(),
        sequence,
        epoch: record.epoch,
        owner: (!record.owner.is_empty()).then_some(record.owner),
        from: record.transition.from,
        to: record.transition.to,
        message: record.transition.message,
        time_in_from: Duration::from_micros(record.transition.time_in_from_us),
    }
}

fn count(length: usize) -> u64 {
    u64::try_from(length).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::HttpLimits;

    #[test]
    fn a_history_position_is_read_as_it_was_written() {
        let position = HistoryPosition {
            epoch: Epoch::new(3),
            sequence: 17,
            number: 250,
        };
        assert_eq!(HistoryPosition::read(&position.text()), Some(position));
        for text in ["", "1", "1:2", "1:2:x", "1:2:3:4", "1:2:3:"] {
            assert_eq!(HistoryPosition::read(text), None, "{text}");
        }
    }

    #[tokio::test]
    async fn while_the_engine_opens_its_directory_every_answer_says_so() {
        let app = App::new(Tracker::new(), HttpLimits::for_tests());
        let source = EngineSource::new(app.clone());
        let id = WorkspaceId::new("w").unwrap();
        assert_eq!(
            source.unknown(&id).await,
            "the engine is opening its data directory"
        );
        assert_eq!(
            source.readiness(),
            [Check::failed(
                "engine",
                "the engine is opening its data directory"
            )]
        );
        let problem = app.engine().map(|_| ()).unwrap_err();
        assert_eq!(problem.detail(), "the engine is opening its data directory");
    }
}
