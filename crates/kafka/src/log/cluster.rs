//! What the clients of a log share: the partitions, the listener for growth, and the health of the cluster.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Mutex, RwLock};
use rdkafka::consumer::Consumer;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::metadata::{MetadataPartition, MetadataTopic};
use rdkafka::{Offset as At, TopicPartitionList};
use workspace_engine_core::log::{AppendListener, ReadError};
use workspace_engine_core::routing::Partitioner;
use workspace_lifecycle::{Offset, PartitionId};

use super::ends::{Change, Ends, Question};
use super::native::Client;
use super::reader::Place;
use crate::seen::SeenRecords;
use crate::topic_id::{self, TopicId};

/// How long the brokers may take to answer where a partition ends, when a caller waits for it.
pub(super) const OFFSETS_TIMEOUT: Duration = Duration::from_secs(2);

/// How long health reports a failed append: if callers stop appending because of it, no later success clears it.
const APPEND_ERROR_AGE: Duration = Duration::from_secs(10);

/// Most ids that are remembered of topics of one name.
const MAX_TOPIC_IDS: usize = 16;

/// One partition of the topic.
#[derive(Default)]
pub(super) struct Part {
    pub(super) ends: Mutex<Ends>,
    pub(super) place: Mutex<Place>,
    pub(super) open: AtomicBool,
    /// The value of `Cluster::replaced` when it was opened.
    opened_on: AtomicU64,
    /// It seems to have lost its end since it was opened.
    lost_end: AtomicBool,
    /// The brokers' last error for this partition alone.
    last_error: Mutex<Option<String>>,
}

enum Standing {
    Unheard,
    Fine,
    Failure(String),
}

/// Which ends are queried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Asked {
    Both,
    /// Without the beginning, which rarely moves.
    End,
}

/// A topic on its cluster, as this process knows it.
pub(super) struct Cluster {
    pub(super) topic: String,
    pub(super) brokers: String,
    pub(super) parts: Vec<Part>,
    /// What this process has read of the partitions.
    pub(super) seen: Arc<SeenRecords>,
    pub(super) partitioner: Partitioner,
    /// This client fetches nothing, so its queries do not wait behind fetches.
    pub(super) client: Arc<Client>,
    pub(super) listener: RwLock<Option<AppendListener>>,
    standing: Mutex<Standing>,
    /// The last ids that the topic has had, the current one last; empty until the brokers return one.
    topic_ids: Mutex<VecDeque<TopicId>>,
    /// How often the topic was found to be recreated.
    replaced: AtomicU64,
    last_append_error: Mutex<Option<(Instant, String)>>,
}

impl Cluster {
    pub(super) fn new(
        topic: &str,
        brokers: &str,
        partitions: u32,
        partitioner: Partitioner,
        client: Arc<Client>,
    ) -> Self {
        Self {
            topic: topic.to_owned(),
            brokers: brokers.to_owned(),
            parts: (0..partitions).map(|_| Part::default()).collect(),
            seen: Arc::default(),
            partitioner,
            client,
            listener: RwLock::new(None),
            standing: Mutex::new(Standing::Unheard),
            topic_ids: Mutex::default(),
            replaced: AtomicU64::new(0),
            last_append_error: Mutex::new(None),
        }
    }

    pub(super) fn part(&self, partition: PartitionId) -> Result<&Part, ReadError> {
        usize::try_from(partition.0)
            .ok()
            .and_then(|place| self.parts.get(place))
            .ok_or_else(|| ReadError::Unavailable(self.has_grown(partition)))
    }

    /// Error text for a partition that the topic did not have when the engine was started.
    fn has_grown(&self, partition: PartitionId) -> String {
        format!(
            "topic {} has got a partition {partition}, but had {} partitions when this engine was started: workspaces \
             would be looked for in the wrong place; partitions must not be added to a topic whose keys have a place",
            self.topic,
            self.parts.len()
        )
    }

    /// Queries the topic's id: a topic that was deleted and recreated may have grown past the end of the previous one.
    /// False if the brokers return no id.
    pub(super) fn identify(&self, timeout: Duration) -> bool {
        let id = match topic_id::ask(self.client.client(), &self.topic, timeout) {
            Ok(Some(id)) => id,
            Ok(None) => return false,
            Err(error)
                if error.rdkafka_error_code()
                    == Some(RDKafkaErrorCode::UnknownTopicOrPartition) =>
            {
                return true;
            }
            Err(error) => {
                tracing::debug!(topic = self.topic, %error, "the brokers do not tell the id of the topic");
                return false;
            }
        };
        let mut ids = self.topic_ids.lock();
        // The id of a deleted topic is never used again: a broker that returns it has not learned the new one yet.
        if ids.contains(&id) {
            return true;
        }
        if !ids.is_empty() {
            self.replaced.fetch_add(1, Ordering::AcqRel);
            tracing::error!(topic = self.topic, "the topic was deleted and made anew");
        }
        if ids.len() == MAX_TOPIC_IDS {
            ids.pop_front();
        }
        ids.push_back(id);
        true
    }

    /// Marks a partition as open on the topic that exists now.
    pub(super) fn opened(&self, part: &Part) {
        let replaced = self.replaced.load(Ordering::Acquire);
        part.opened_on.store(replaced, Ordering::Release);
        part.lost_end.store(false, Ordering::Release);
        part.open.store(true, Ordering::Release);
    }

    /// Whether the topic was recreated since a partition was opened, or the partition may have lost its end.
    pub(super) fn is_replaced(&self, part: &Part) -> bool {
        part.lost_end.load(Ordering::Acquire)
            || part.opened_on.load(Ordering::Acquire) != self.replaced.load(Ordering::Acquire)
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
    pub(super) fn answers(&self) -> bool {
        matches!(&*self.standing.lock(), Standing::Fine)
    }

    /// The failure that affects appends or reads, if there is one.
    pub(super) fn health(&self) -> Result<(), String> {
        match &*self.standing.lock() {
            Standing::Unheard => {
                return Err(format!(
                    "the brokers {} have not answered yet",
                    self.brokers
                ));
            }
            Standing::Failure(error_text) => return Err(error_text.clone()),
            Standing::Fine => {}
        }
        let mut open = self.parts.iter().filter(|part| part.is_open());
        if let Some(error_text) = open.find_map(Part::last_error) {
            return Err(error_text);
        }
        match &*self.last_append_error.lock() {
            Some((since, error_text)) if since.elapsed() < APPEND_ERROR_AGE => {
                Err(error_text.clone())
            }
            Some(_) | None => Ok(()),
        }
    }

    /// Records why an append failed.
    pub(super) fn append_failed(&self, error_text: &str) {
        let error_text = format!(
            "events are not acknowledged by {}: {error_text}",
            self.brokers
        );
        *self.last_append_error.lock() = Some((Instant::now(), error_text));
    }

    /// Clears the failure of the last append.
    pub(super) fn append_succeeded(&self) {
        *self.last_append_error.lock() = None;
    }

    /// The failure that affects reads of one partition, if there is one.
    pub(super) fn last_error(&self, part: &Part) -> Option<String> {
        match &*self.standing.lock() {
            Standing::Failure(error_text) => Some(error_text.clone()),
            Standing::Fine | Standing::Unheard => part.last_error(),
        }
    }

    /// Queries where a partition begins and ends.
    ///
    /// # Errors
    /// [`ReadError::Unavailable`] with the brokers' error text.
    pub(super) fn ask(&self, partition: PartitionId) -> Result<(Offset, Offset), ReadError> {
        let part = self.part(partition)?;
        self.refresh(&[partition], Asked::Both, OFFSETS_TIMEOUT)
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
        asked: Asked,
        timeout: Duration,
    ) -> Result<(), String> {
        // One leader that does not answer fails the query for all partitions, so partitions with a failure are queried
        // by leader. If no broker answered last time, all of them are: the leaders may recover one by one.
        let no_broker_answered = matches!(&*self.standing.lock(), Standing::Failure(_));
        let (mut apart, together): (Vec<PartitionId>, Vec<PartitionId>) =
            partitions.iter().partition(|id| {
                no_broker_answered
                    || self
                        .part(**id)
                        .is_ok_and(|part| part.last_error().is_some())
            });
        let mut unanswered = None;
        if !together.is_empty() {
            match self.take(&together, asked, Instant::now() + timeout) {
                Ok(()) => self.heard(),
                Err(error_text) => {
                    unanswered = Some(error_text);
                    apart.extend(together);
                }
            }
        }
        if apart.is_empty() {
            self.client.context().forget();
            return Ok(());
        }
        let left = match unanswered {
            Some(_) => timeout / 2,
            None => timeout,
        };
        self.refresh_by_leader(&apart, asked, Instant::now() + left)
            .map_err(|error_text| {
                let error_text = unanswered.unwrap_or(error_text);
                *self.standing.lock() = Standing::Failure(error_text.clone());
                error_text
            })
    }

    /// Queries each leader for its own partitions, one after the other.
    fn refresh_by_leader(
        &self,
        partitions: &[PartitionId],
        asked: Asked,
        deadline: Instant,
    ) -> Result<(), String> {
        let leaders = self.leaders(partitions, left(deadline) / 2)?;
        self.heard();
        let mut waiting = u32::try_from(leaders.len()).unwrap_or(u32::MAX);
        for (leader, partitions) in leaders {
            let until = Instant::now() + left(deadline) / waiting.max(1);
            waiting = waiting.saturating_sub(1);
            let taken = match leader {
                Some(_) => self.take(&partitions, asked, until),
                None => Err(format!(
                    "topic {} cannot be read from {}: the partition has no leader now",
                    self.topic, self.brokers
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

    /// The partitions of each leader; the key is none for those without a leader.
    fn leaders(
        &self,
        partitions: &[PartitionId],
        timeout: Duration,
    ) -> Result<BTreeMap<Option<i32>, Vec<PartitionId>>, String> {
        // For all topics: a query for one that does not exist would create it on most clusters.
        let metadata = self
            .client
            .fetch_metadata(None, timeout)
            .map_err(|error| self.unanswered(&error))?;
        let topic = metadata.topics().iter().find(|of| of.name() == self.topic);
        let found = topic.map(MetadataTopic::partitions).unwrap_or_default();
        if found.is_empty() {
            return Err(self.is_missing());
        }
        let mut leaders: BTreeMap<_, Vec<PartitionId>> = BTreeMap::new();
        for id in partitions {
            let number = i32::try_from(id.0).unwrap_or(i32::MAX);
            let leader = found.iter().find(|of| of.id() == number);
            let leader = leader
                .map(MetadataPartition::leader)
                .filter(|leader| *leader >= 0);
            leaders.entry(leader).or_default().push(*id);
        }
        Ok(leaders)
    }

    /// Notes that a broker has answered.
    fn heard(&self) {
        *self.standing.lock() = Standing::Fine;
    }

    /// Queries where some partitions end and records the answers: those of all partitions, or none if the query fails.
    fn take(
        &self,
        partitions: &[PartitionId],
        asked: Asked,
        deadline: Instant,
    ) -> Result<(), String> {
        let questions: Vec<(PartitionId, Question)> = partitions
            .iter()
            .filter_map(|id| Some((*id, self.part(*id).ok()?.ends.lock().question())))
            .collect();
        let low = match asked {
            Asked::Both => Some(self.offsets(partitions, At::Beginning, left(deadline))?),
            Asked::End => None,
        };
        let high = self.offsets(partitions, At::End, left(deadline))?;
        for (id, question) in questions {
            let end = self.found(&high, id);
            let beginning = low.as_ref().map(|low| self.found(low, id)).transpose();
            self.answered(id, question, beginning, end);
        }
        Ok(())
    }

    fn answered(
        &self,
        id: PartitionId,
        question: Question,
        low: Result<Option<Offset>, String>,
        end: Result<Offset, String>,
    ) {
        let Ok(part) = self.part(id) else {
            return;
        };
        let (low, end) = match low.and_then(|low| Ok((low, end?))) {
            Ok(ends) => ends,
            Err(error_text) => {
                *part.last_error.lock() = Some(error_text);
                return;
            }
        };
        *part.last_error.lock() = None;
        let change = part.ends.lock().answer(question, low, end);
        match change {
            Change::None => {}
            Change::Grew(end) => self.report(id, end),
            Change::Shrank { from } => {
                tracing::error!(
                    topic = self.topic,
                    partition = %id,
                    %from,
                    to = %end,
                    "the partition ends before where it had ended: the topic was recreated, or lost its end"
                );
                // Marked, because it may have grown past the old end again before its reader compares.
                part.lose_end();
            }
        }
    }

    /// The offset in the answer for one partition.
    pub(super) fn found(
        &self,
        answers: &TopicPartitionList,
        id: PartitionId,
    ) -> Result<Offset, String> {
        let number = i32::try_from(id.0).unwrap_or(i32::MAX);
        let refused =
            |why: &str| format!("topic {} partition {id} cannot be read: {why}", self.topic);
        let element = answers
            .find_partition(&self.topic, number)
            .ok_or_else(|| refused("no answer"))?;
        element
            .error()
            .map_err(|error| refused(&self.client.context().explain(&error)))?;
        match element.offset() {
            At::Offset(offset) => u64::try_from(offset)
                .map(Offset)
                .map_err(|_| refused("no offset")),
            At::Beginning | At::End | At::Stored | At::Invalid | At::OffsetTail(_) => {
                Err(refused("no offset"))
            }
        }
    }

    /// Queries offsets of partitions. The client reads committed records, so the end is that of the committed ones.
    pub(super) fn offsets(
        &self,
        partitions: &[PartitionId],
        at: At,
        timeout: Duration,
    ) -> Result<TopicPartitionList, String> {
        let mut list = TopicPartitionList::with_capacity(partitions.len());
        for id in partitions {
            let number = i32::try_from(id.0).unwrap_or(i32::MAX);
            list.add_partition_offset(&self.topic, number, at)
                .map_err(|error| error.to_string())?;
        }
        self.client
            .offsets_for_times(list, timeout)
            .map_err(|error| match error.rdkafka_error_code() {
                Some(
                    RDKafkaErrorCode::UnknownPartition
                    | RDKafkaErrorCode::UnknownTopic
                    | RDKafkaErrorCode::UnknownTopicOrPartition,
                ) => self.is_missing(),
                _ => self.unanswered(&error),
            })
    }

    fn is_missing(&self) -> String {
        format!(
            "topic {} does not exist on {}, or has less than {} partitions",
            self.topic,
            self.brokers,
            self.parts.len()
        )
    }

    fn unanswered(&self, error: &KafkaError) -> String {
        // The client's errors about its brokers are in its queue.
        drain(&self.client);
        format!(
            "topic {} cannot be read from {}: {}",
            self.topic,
            self.brokers,
            self.client.context().explain(error)
        )
    }
}

/// Time left until the deadline, at least `MIN_TIMEOUT`: a query without any time would always fail.
fn left(deadline: Instant) -> Duration {
    const MIN_TIMEOUT: Duration = Duration::from_millis(50);
    deadline
        .saturating_duration_since(Instant::now())
        .max(MIN_TIMEOUT)
}

impl Part {
    pub(super) fn is_open(&self) -> bool {
        self.open.load(Ordering::Acquire)
    }

    /// Notes that the partition may no longer hold what was read of it.
    pub(super) fn lose_end(&self) {
        self.lost_end.store(true, Ordering::Release);
    }

    fn last_error(&self) -> Option<String> {
        self.last_error.lock().clone()
    }
}

/// Handles a client's pending log lines and errors. Its records go through other queues.
pub(super) fn drain(client: &Client) {
    // A poll that handles a log line or an error also returns nothing, so nothing returned does not mean that the
    // queue is empty.
    const POLLS: usize = 100;
    for _ in 0..POLLS {
        let _ = client.poll(Duration::ZERO);
    }
}

/// One topic's state, shared by the appends, the recovery thread and the log.
pub(super) type Shared = Arc<Cluster>;
