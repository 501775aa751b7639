//! What the clients of a log share: the partitions, who is told of growth, and how the cluster is.

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

/// How long the brokers may take to tell where a partition ends, when somebody waits for it.
pub(super) const OFFSETS_TIMEOUT: Duration = Duration::from_secs(2);

/// How long a failed append is told of: where nobody appends because of it, nobody would find that it is over.
const APPEND_TROUBLE: Duration = Duration::from_secs(10);

/// Most ids of topics of one name that are remembered.
const MAX_TOPIC_IDS: usize = 16;

/// One partition of the topic.
#[derive(Default)]
pub(super) struct Part {
    pub(super) ends: Mutex<Ends>,
    pub(super) place: Mutex<Place>,
    pub(super) open: AtomicBool,
    /// How many topics of this name there had been before the one it was opened on.
    opened_on: AtomicU64,
    /// Since it was opened it seems to have lost its end.
    lost_end: AtomicBool,
    /// What the brokers say of this partition alone.
    trouble: Mutex<Option<String>>,
}

enum Standing {
    Unheard,
    Fine,
    Trouble(String),
}

/// Which ends are asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Asked {
    Both,
    /// The beginning moves seldom.
    End,
}

/// A topic on its cluster, as this process knows it.
pub(super) struct Cluster {
    pub(super) topic: String,
    pub(super) brokers: String,
    pub(super) parts: Vec<Part>,
    /// What was read of them.
    pub(super) seen: Arc<SeenRecords>,
    pub(super) partitioner: Partitioner,
    /// Of a client that fetches nothing: what it asks does not wait behind fetches.
    pub(super) client: Arc<Client>,
    pub(super) listener: RwLock<Option<AppendListener>>,
    standing: Mutex<Standing>,
    /// Every id that the topic has had, the one it has last; empty before the brokers have told it.
    topic_ids: Mutex<VecDeque<TopicId>>,
    /// How often the topic was found to be another one.
    replaced: AtomicU64,
    append_trouble: Mutex<Option<(Instant, String)>>,
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
            append_trouble: Mutex::new(None),
        }
    }

    pub(super) fn part(&self, partition: PartitionId) -> Result<&Part, ReadError> {
        usize::try_from(partition.0)
            .ok()
            .and_then(|place| self.parts.get(place))
            .ok_or_else(|| ReadError::Unavailable(self.has_grown(partition)))
    }

    /// Why a partition cannot be served that the topic did not have when the engine was started.
    fn has_grown(&self, partition: PartitionId) -> String {
        format!(
            "topic {} has got a partition {partition}, but had {} partitions when this engine was started: workspaces \
             would be looked for in the wrong place; partitions must not be added to a topic whose keys have a place",
            self.topic,
            self.parts.len()
        )
    }

    /// Asks which topic it is: one that was deleted and made anew may have grown past where the other ended. False where
    /// the brokers do not tell.
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
        // An id that went never comes back: a broker that says so has not heard of the new one yet.
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

    /// A partition is read from the topic that is there.
    pub(super) fn opened(&self, part: &Part) {
        let replaced = self.replaced.load(Ordering::Acquire);
        part.opened_on.store(replaced, Ordering::Release);
        part.lost_end.store(false, Ordering::Release);
        part.open.store(true, Ordering::Release);
    }

    /// Whether the topic is another one than when a partition was opened, or the partition may have lost its end.
    pub(super) fn is_replaced(&self, part: &Part) -> bool {
        part.lost_end.load(Ordering::Acquire)
            || part.opened_on.load(Ordering::Acquire) != self.replaced.load(Ordering::Acquire)
    }

    /// Tells whoever listens that a partition has grown.
    pub(super) fn tell(&self, partition: PartitionId, end: Offset) {
        let listener = self.listener.read().clone();
        if let Some(listener) = listener {
            listener(partition, end);
        }
    }

    /// A record before `end` was acknowledged.
    pub(super) fn acknowledged(&self, partition: PartitionId, end: Offset) {
        let Ok(part) = self.part(partition) else {
            return;
        };
        let end = part.ends.lock().acknowledge(end);
        if let Some(end) = end {
            self.tell(partition, end);
        }
    }

    /// The last record of a partition that is known.
    pub(super) fn last(&self, partition: PartitionId) -> Offset {
        let end = self
            .part(partition)
            .map(|part| part.ends.lock().high())
            .unwrap_or_default();
        Offset(end.0.saturating_sub(1))
    }

    /// Whether the brokers answered when they were asked last.
    pub(super) fn answers(&self) -> bool {
        matches!(&*self.standing.lock(), Standing::Fine)
    }

    /// What stands against appends and reads.
    pub(super) fn health(&self) -> Result<(), String> {
        match &*self.standing.lock() {
            Standing::Unheard => {
                return Err(format!(
                    "the brokers {} have not answered yet",
                    self.brokers
                ));
            }
            Standing::Trouble(words) => return Err(words.clone()),
            Standing::Fine => {}
        }
        let mut open = self.parts.iter().filter(|part| part.is_open());
        if let Some(words) = open.find_map(Part::trouble) {
            return Err(words);
        }
        match &*self.append_trouble.lock() {
            Some((since, words)) if since.elapsed() < APPEND_TROUBLE => Err(words.clone()),
            Some(_) | None => Ok(()),
        }
    }

    /// Keeps why an append failed.
    pub(super) fn append_failed(&self, words: &str) {
        let words = format!("events are not acknowledged by {}: {words}", self.brokers);
        *self.append_trouble.lock() = Some((Instant::now(), words));
    }

    /// Appends succeed.
    pub(super) fn append_succeeded(&self) {
        *self.append_trouble.lock() = None;
    }

    /// What stands against reads of one partition.
    pub(super) fn trouble(&self, part: &Part) -> Option<String> {
        match &*self.standing.lock() {
            Standing::Trouble(words) => Some(words.clone()),
            Standing::Fine | Standing::Unheard => part.trouble(),
        }
    }

    /// Asks where a partition begins and ends.
    ///
    /// # Errors
    /// [`ReadError::Unavailable`] in the brokers' words.
    pub(super) fn ask(&self, partition: PartitionId) -> Result<(Offset, Offset), ReadError> {
        let part = self.part(partition)?;
        self.refresh(&[partition], Asked::Both, OFFSETS_TIMEOUT)
            .map_err(ReadError::Unavailable)?;
        if let Some(words) = part.trouble() {
            return Err(ReadError::Unavailable(words));
        }
        let ends = part.ends.lock();
        Ok((ends.low(), ends.high()))
    }

    /// Asks where some partitions end, takes the answers in, and tells of growth. Where a leader cannot be reached, its
    /// partitions alone are in trouble. It takes up to half as long again as the `timeout`.
    ///
    /// # Errors
    /// Why no broker answers.
    pub(super) fn refresh(
        &self,
        partitions: &[PartitionId],
        asked: Asked,
        timeout: Duration,
    ) -> Result<(), String> {
        // One question to a leader that does not answer spoils those to all others, so these are asked apart; all are
        // where nobody answered before: not all leaders need come back at once.
        let nobody_answered = matches!(&*self.standing.lock(), Standing::Trouble(_));
        let (mut apart, together): (Vec<PartitionId>, Vec<PartitionId>) =
            partitions.iter().partition(|id| {
                nobody_answered || self.part(**id).is_ok_and(|part| part.trouble().is_some())
            });
        let mut unanswered = None;
        if !together.is_empty() {
            match self.take(&together, asked, Instant::now() + timeout) {
                Ok(()) => self.heard(),
                Err(words) => {
                    unanswered = Some(words);
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
            .map_err(|words| {
                let words = unanswered.unwrap_or(words);
                *self.standing.lock() = Standing::Trouble(words.clone());
                words
            })
    }

    /// Asks each leader for its own partitions, one after the other.
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
            if let Err(words) = taken {
                for part in partitions.iter().filter_map(|id| self.part(*id).ok()) {
                    *part.trouble.lock() = Some(words.clone());
                }
            }
        }
        Ok(())
    }

    /// Which broker leads which partitions; none where no broker does.
    fn leaders(
        &self,
        partitions: &[PartitionId],
        timeout: Duration,
    ) -> Result<BTreeMap<Option<i32>, Vec<PartitionId>>, String> {
        // Of all topics: asking for one that does not exist would create it on most clusters.
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

    /// A broker has answered.
    fn heard(&self) {
        *self.standing.lock() = Standing::Fine;
    }

    /// Asks where some partitions end and takes the answers in: those of all, or none.
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
            Err(words) => {
                *part.trouble.lock() = Some(words);
                return;
            }
        };
        *part.trouble.lock() = None;
        let change = part.ends.lock().answer(question, low, end);
        match change {
            Change::None => {}
            Change::Grew(end) => self.tell(id, end),
            Change::Shrank { from } => {
                tracing::error!(
                    topic = self.topic,
                    partition = %id,
                    %from,
                    to = %end,
                    "the partition ends before where it had ended: the topic was recreated, or lost its end"
                );
                // It may have grown past that again before its reader looks.
                part.lose_end();
            }
        }
    }

    /// The answer for one partition.
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

    /// Asks the brokers. Of a reader of committed records the end is that of the committed ones.
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
        // What the client has said of its brokers is in its queue.
        drain(&self.client);
        format!(
            "topic {} cannot be read from {}: {}",
            self.topic,
            self.brokers,
            self.client.context().explain(error)
        )
    }
}

/// What is left of a time, and a moment more: a question that may take no time at all fails for nothing.
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

    /// What was read of it may not be what it holds now.
    pub(super) fn lose_end(&self) {
        self.lost_end.store(true, Ordering::Release);
    }

    fn trouble(&self) -> Option<String> {
        self.trouble.lock().clone()
    }
}

/// Lets a client tell what it has to say. Its records go through queues of their own.
pub(super) fn drain(client: &Client) {
    // A poll that takes a line for the log or what is said of a broker tells nothing as well: one that found nothing
    // is no sign that there is nothing.
    const POLLS: usize = 100;
    for _ in 0..POLLS {
        let _ = client.poll(Duration::ZERO);
    }
}

/// The topics of the readers and the thread that looks after the log.
pub(super) type Shared = Arc<Cluster>;
