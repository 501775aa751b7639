//! What the clients of a log share: the partitions, the listener for growth, and the health of the cluster.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Mutex, RwLock};
use rdkafka::Offset as At;
use rdkafka::consumer::Consumer;
use workspace_engine_core::log::{AppendListener, ReadError};
use workspace_engine_core::routing::Partitioner;
use workspace_lifecycle::{Offset, PartitionId};

use super::ends::{Change, Ends, EndsQuery};
use super::fetches::Fetches;
use super::native::Client;
use super::queries::{Queries, left};
use crate::last_reads::LastReads;

/// How long the brokers may take to answer where a partition ends, when a caller waits for it.
pub(super) const OFFSETS_TIMEOUT: Duration = Duration::from_secs(2);

/// How long health reports a failed append: if callers stop appending because of it, no later success clears it.
const APPEND_ERROR_AGE: Duration = Duration::from_secs(10);

/// One partition of the topic.
#[derive(Default)]
pub(super) struct PartitionState {
    pub(super) ends: Mutex<Ends>,
    pub(super) fetches: Mutex<Fetches>,
    pub(super) open: AtomicBool,
    /// It seems to have lost its end, or to belong to a recreated topic, since it was opened.
    is_replaced: AtomicBool,
    /// The brokers' last error for this partition alone.
    last_error: Mutex<Option<String>>,
}

/// The outcome of the last query.
enum LastQuery {
    /// No query has ended yet.
    Pending,
    Answered,
    Failed(String),
}

/// A topic, as this process knows it.
pub(super) struct TopicState {
    pub(super) queries: Queries,
    pub(super) partitions: Vec<PartitionState>,
    /// What this process has read of the partitions.
    pub(super) last_reads: Arc<LastReads>,
    pub(super) partitioner: Partitioner,
    pub(super) listener: RwLock<Option<AppendListener>>,
    last_query: Mutex<LastQuery>,
    pub(super) last_append_error: Mutex<Option<(Instant, String)>>,
}

impl TopicState {
    /// `client` sends the queries.
    pub(super) fn new(
        topic: &str,
        brokers: &str,
        partitions: u32,
        partitioner: Partitioner,
        client: Arc<Client>,
    ) -> Self {
        let partitions: Vec<_> = (0..partitions).map(|_| PartitionState::default()).collect();
        Self {
            queries: Queries::new(topic, brokers, partitions.len(), client),
            partitions,
            last_reads: Arc::default(),
            partitioner,
            listener: RwLock::new(None),
            last_query: Mutex::new(LastQuery::Pending),
            last_append_error: Mutex::default(),
        }
    }

    /// The topic's name.
    pub(super) fn name(&self) -> &str {
        &self.queries.topic
    }

    pub(super) fn part(&self, partition: PartitionId) -> Result<&PartitionState, ReadError> {
        usize::try_from(partition.0)
            .ok()
            .and_then(|index| self.partitions.get(index))
            .ok_or_else(|| ReadError::Unavailable(self.has_grown(partition)))
    }

    /// Error text for a partition that the topic did not have when the engine was started.
    fn has_grown(&self, partition: PartitionId) -> String {
        format!(
            "topic {} now has a partition {partition}, but had {} partitions when this engine was started: workspaces would \
             be looked for in the wrong partition; partitions must not be added to a topic that is partitioned by key",
            self.name(),
            self.partitions.len()
        )
    }

    /// Notifies the listener that a partition has grown.
    pub(super) fn report(&self, partition: PartitionId, end: Offset) {
        let listener = self.listener.read().clone();
        if let Some(listener) = listener {
            listener(partition, end);
        }
    }

    /// Notes that the record before `end` was acknowledged.
    pub(super) fn acknowledged(&self, partition: PartitionId, end: Offset) {
        let Ok(part) = self.part(partition) else {
            return;
        };
        let end = part.ends.lock().acknowledge(end);
        if let Some(end) = end {
            self.report(partition, end);
        }
    }

    /// The offset of the last known record of a partition.
    pub(super) fn last(&self, partition: PartitionId) -> Offset {
        let end = self
            .part(partition)
            .map(|part| part.ends.lock().high())
            .unwrap_or_default();
        Offset(end.0.saturating_sub(1))
    }

    /// Whether the brokers answered the last query.
    pub(super) fn is_answered(&self) -> bool {
        matches!(*self.last_query.lock(), LastQuery::Answered)
    }

    /// Why no broker answered the last query.
    fn outage(&self) -> Option<String> {
        match &*self.last_query.lock() {
            LastQuery::Failed(error_text) => Some(error_text.clone()),
            LastQuery::Pending | LastQuery::Answered => None,
        }
    }

    /// The failure that affects appends or reads, if there is one.
    pub(super) fn health(&self) -> Result<(), String> {
        let brokers = &self.queries.brokers;
        if let LastQuery::Pending = *self.last_query.lock() {
            return Err(format!("the brokers {brokers} have not answered yet"));
        }
        let mut open = self.partitions.iter().filter(|part| part.is_open());
        let failure = self
            .outage()
            .or_else(|| open.find_map(PartitionState::last_error))
            .or_else(|| match &*self.last_append_error.lock() {
                Some((since, error_text)) if since.elapsed() < APPEND_ERROR_AGE => Some(format!(
                    "events are not acknowledged by {brokers}: {error_text}"
                )),
                Some(_) | None => None,
            });
        failure.map_or(Ok(()), Err)
    }

    /// The failure that affects reads of one partition, if there is one.
    pub(super) fn last_error(&self, part: &PartitionState) -> Option<String> {
        self.outage().or_else(|| part.last_error())
    }

    /// Queries where a partition begins and ends.
    ///
    /// # Errors
    /// [`ReadError::Unavailable`] with the brokers' error text.
    pub(super) fn query_ends(&self, partition: PartitionId) -> Result<(Offset, Offset), ReadError> {
        let part = self.part(partition)?;
        self.refresh(&[partition], OFFSETS_TIMEOUT)
            .map_err(ReadError::Unavailable)?;
        if let Some(error_text) = part.last_error() {
            return Err(ReadError::Unavailable(error_text));
        }
        let ends = part.ends.lock();
        Ok((ends.low(), ends.high()))
    }

    /// Queries where some partitions end, records the answers, and notifies of growth. If a leader cannot be reached,
    /// only its partitions get a failure. It takes up to one and a half times the `timeout`.
    ///
    /// # Errors
    /// Why no broker answers.
    pub(super) fn refresh(
        &self,
        partitions: &[PartitionId],
        timeout: Duration,
    ) -> Result<(), String> {
        // One leader that does not answer fails the query for all partitions, so partitions with a failure are queried
        // by leader. If no broker answered last time, all of them are: the leaders may recover one by one.
        let no_broker_answered = self.outage().is_some();
        let (mut apart, together): (Vec<PartitionId>, Vec<PartitionId>) =
            partitions.iter().partition(|id| {
                no_broker_answered
                    || self
                        .part(**id)
                        .is_ok_and(|part| part.last_error().is_some())
            });
        let mut unanswered = None;
        if !together.is_empty() {
            match self.take(&together, Instant::now() + timeout) {
                Ok(()) => *self.last_query.lock() = LastQuery::Answered,
                Err(error_text) => {
                    unanswered = Some(error_text);
                    apart.extend(together);
                }
            }
        }
        if apart.is_empty() {
            self.queries.client.context().forget();
            return Ok(());
        }
        let left = match unanswered {
            Some(_) => timeout / 2,
            None => timeout,
        };
        self.refresh_by_leader(&apart, Instant::now() + left)
            .map_err(|error_text| {
                let error_text = unanswered.unwrap_or(error_text);
                *self.last_query.lock() = LastQuery::Failed(error_text.clone());
                error_text
            })
    }

    /// Queries each leader for its own partitions, one after the other.
    fn refresh_by_leader(
        &self,
        partitions: &[PartitionId],
        deadline: Instant,
    ) -> Result<(), String> {
        let leaders = self.queries.leaders(partitions, left(deadline) / 2)?;
        *self.last_query.lock() = LastQuery::Answered;
        let mut waiting = u32::try_from(leaders.len()).unwrap_or(u32::MAX);
        for (leader, partitions) in leaders {
            let until = Instant::now() + left(deadline) / waiting.max(1);
            waiting = waiting.saturating_sub(1);
            let taken = match leader {
                Some(_) => self.take(&partitions, until),
                None => Err(format!(
                    "topic {} cannot be read from {}: the partition has no leader now",
                    self.name(),
                    self.queries.brokers
                )),
            };
            if let Err(error_text) = taken {
                for part in partitions.iter().filter_map(|id| self.part(*id).ok()) {
                    *part.last_error.lock() = Some(error_text.clone());
                }
            }
        }
        Ok(())
    }

    /// Queries where some partitions end and records the answers: those of all partitions, or none if the query fails.
    fn take(&self, partitions: &[PartitionId], deadline: Instant) -> Result<(), String> {
        let queries: Vec<(PartitionId, EndsQuery)> = partitions
            .iter()
            .filter_map(|id| Some((*id, self.part(*id).ok()?.ends.lock().query())))
            .collect();
        let low = self
            .queries
            .offsets(partitions, At::Beginning, left(deadline))?;
        let high = self.queries.offsets(partitions, At::End, left(deadline))?;
        for (id, query) in queries {
            let low = self.queries.found(&low, id);
            let ends = low.and_then(|low| Ok((low, self.queries.found(&high, id)?)));
            self.answered(id, query, ends);
        }
        Ok(())
    }

    fn answered(&self, id: PartitionId, query: EndsQuery, ends: Result<(Offset, Offset), String>) {
        let Ok(part) = self.part(id) else {
            return;
        };
        let (low, end) = match ends {
            Ok(ends) => ends,
            Err(error_text) => {
                *part.last_error.lock() = Some(error_text);
                return;
            }
        };
        *part.last_error.lock() = None;
        let change = part.ends.lock().answer(query, low, end);
        match change {
            Change::None => {}
            Change::Grew(end) => self.report(id, end),
            Change::Shrank { from } => {
                tracing::error!(
                    topic = self.name(),
                    partition = %id,
                    %from,
                    to = %end,
                    "the partition ends before where it had ended: the topic was recreated, or lost its end"
                );
                // Marked, because it may have grown past the old end again before its reader compares.
                part.replaced();
            }
        }
    }
}

impl PartitionState {
    pub(super) fn is_open(&self) -> bool {
        self.open.load(Ordering::Acquire)
    }

    pub(super) fn open(&self) {
        self.is_replaced.store(false, Ordering::Release);
        self.open.store(true, Ordering::Release);
    }

    /// Whether the partition may no longer hold what was read of it since it was opened.
    pub(super) fn is_replaced(&self) -> bool {
        self.is_replaced.load(Ordering::Acquire)
    }

    pub(super) fn replaced(&self) {
        self.is_replaced.store(true, Ordering::Release);
    }

    fn last_error(&self) -> Option<String> {
        self.last_error.lock().clone()
    }
}
