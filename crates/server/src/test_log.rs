//! An in-memory event log for tests, whose reads can be held.

use std::sync::{Arc, Condvar, Mutex};
use tokio::sync::oneshot;
use workspace_engine_core::log::{
    Append, AppendError, AppendListener, Appended, Batch, DeadLetter, EventLog, ReadError,
    ReadLimit, Record,
};
use workspace_lifecycle::{Offset, PartitionId};
use workspace_status::WorkspaceId;

/// A log with one partition; clones share it.
#[derive(Clone, Default)]
pub(crate) struct TestLog(Arc<Inner>);

#[derive(Default)]
struct Inner {
    state: Mutex<State>,
    released: Condvar,
}

#[derive(Default)]
struct State {
    records: Vec<Record>,
    is_held: bool,
    listener: Option<AppendListener>,
}

/// Holds reads until it is dropped.
pub(crate) struct Held(TestLog);

impl Drop for Held {
    fn drop(&mut self) {
        self.0.0.state.lock().unwrap().is_held = false;
        self.0.0.released.notify_all();
    }
}

impl TestLog {
    /// Blocks reads that begin from now on.
    pub(crate) fn hold_reads(&self) -> Held {
        self.0.state.lock().unwrap().is_held = true;
        Held(self.clone())
    }

    /// Appends an event that changes nothing.
    pub(crate) fn append(&self, id: &str) {
        let mut state = self.0.state.lock().unwrap();
        let value = format!(r#"{{"eventType":"workspace.tick","workspaceId":"{id}"}}"#);
        let offset = Offset(state.records.len() as u64);
        let record = Record::new(offset, Some(id.as_bytes()), Some(value.as_bytes()));
        state.records.push(record);
        let listener = state.listener.clone();
        drop(state);
        if let Some(listener) = listener {
            listener(PartitionId(0), offset.next());
        }
    }
}

impl EventLog for TestLog {
    fn topic(&self) -> &'static str {
        "test"
    }

    fn partitions(&self) -> u32 {
        1
    }

    fn keeps_until_trimmed(&self) -> bool {
        true
    }

    fn submit(&self, _: Append) -> oneshot::Receiver<Result<Appended, AppendError>> {
        let (answer, answered) = oneshot::channel();
        let _ = answer.send(Err(AppendError::Closed));
        answered
    }

    fn read(&self, _: PartitionId, from: Offset, limit: ReadLimit) -> Result<Batch, ReadError> {
        let state = self.0.state.lock().unwrap();
        let state = self
            .0
            .released
            .wait_while(state, |state| state.is_held)
            .unwrap();
        let high_watermark = Offset(state.records.len() as u64);
        let records: Vec<Record> = state
            .records
            .iter()
            .filter(|record| record.offset >= from && record.offset < limit.until)
            .take(limit.records)
            .cloned()
            .collect();
        Ok(Batch {
            next_offset: records
                .last()
                .map_or(from.max(high_watermark.min(limit.until)), |last| {
                    last.offset.next()
                }),
            records,
            high_watermark,
        })
    }

    fn health(&self) -> Result<(), String> {
        Ok(())
    }

    fn low_watermark(&self, _: PartitionId) -> Offset {
        Offset::ZERO
    }

    fn high_watermark(&self, _: PartitionId) -> Offset {
        Offset(self.0.state.lock().unwrap().records.len() as u64)
    }

    fn set_listener(&self, listener: AppendListener) {
        self.0.state.lock().unwrap().listener = Some(listener);
    }

    fn trim(&self, _: PartitionId, _: Offset) -> Result<(), ReadError> {
        Ok(())
    }

    fn append_dead_letter(&self, _: DeadLetter) -> Result<(), AppendError> {
        Ok(())
    }

    fn dead_letters(
        &self,
        _: Option<&WorkspaceId>,
        _: Option<(PartitionId, Offset)>,
        _: usize,
    ) -> Result<Vec<DeadLetter>, ReadError> {
        Ok(Vec::new())
    }

    fn delete_dead_letters(
        &self,
        _: &[workspace_engine_core::log::DeletedDeadLetters],
    ) -> Result<(), AppendError> {
        Ok(())
    }
}
