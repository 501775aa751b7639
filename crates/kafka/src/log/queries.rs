//! Queries the brokers about a topic: where its partitions begin and end, who leads them, and its id.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rdkafka::consumer::Consumer;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::metadata::{MetadataPartition, MetadataTopic};
use rdkafka::{Offset as At, TopicPartitionList};
use workspace_lifecycle::{Offset, PartitionId};

use super::native::Client;
use crate::topic_id::{self, TopicId};

/// The queries of one topic. An error is its text for the operator.
pub(super) struct Queries {
    pub(super) topic: String,
    pub(super) brokers: String,
    pub(super) partitions: usize,
    /// It fetches nothing, so its queries do not wait behind fetches.
    pub(super) client: Arc<Client>,
    /// The last id that the brokers returned.
    topic_id: Mutex<Option<TopicId>>,
    /// The id is not known, or the brokers reported the topic as missing since: another one may have taken its name.
    must_identify: AtomicBool,
}

impl Queries {
    pub(super) fn new(topic: &str, brokers: &str, partitions: usize, client: Arc<Client>) -> Self {
        Self {
            topic: topic.to_owned(),
            brokers: brokers.to_owned(),
            partitions,
            client,
            topic_id: Mutex::default(),
            must_identify: AtomicBool::new(true),
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
            .map_err(|error| {
                if self.reports_missing(&error) {
                    self.missing()
                } else {
                    self.unanswered(&error)
                }
            })
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
        element.error().map_err(|error| {
            self.reports_missing(&error);
            refused(&self.client.context().explain(&error))
        })?;
        match element.offset() {
            At::Offset(offset) => u64::try_from(offset)
                .map(Offset)
                .map_err(|_| refused("no offset")),
            At::Beginning | At::End | At::Stored | At::Invalid | At::OffsetTail(_) => {
                Err(refused("no offset"))
            }
        }
    }

    /// The partitions of each leader; the key is none for those without a leader.
    pub(super) fn leaders(
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
            return Err(self.missing());
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

    /// Queries the topic's id once, and again after the brokers reported the topic as missing. Polling it would notice
    /// more only of a topic that is deleted, recreated and filled beyond every position between two queries of the
    /// ends. Returns whether it was recreated.
    pub(super) fn is_recreated(&self, timeout: Duration) -> bool {
        if !self.must_identify.swap(false, Ordering::AcqRel) {
            return false;
        }
        match topic_id::query(self.client.client(), &self.topic, timeout) {
            Ok(Some(id)) => {
                let known = self.topic_id.lock().replace(id);
                known.is_some_and(|known| known != id)
            }
            Ok(None) => false,
            Err(error) => {
                tracing::debug!(topic = self.topic, %error, "the brokers do not return the id of the topic");
                let code = error.rdkafka_error_code();
                let is_late = code == Some(RDKafkaErrorCode::OperationTimedOut);
                let is_missing = code == Some(RDKafkaErrorCode::UnknownTopicOrPartition);
                self.must_identify
                    .fetch_or(is_late || is_missing, Ordering::AcqRel);
                false
            }
        }
    }

    /// Whether the topic or a partition does not exist.
    fn reports_missing(&self, error: &KafkaError) -> bool {
        let is_missing = matches!(
            error.rdkafka_error_code(),
            Some(
                RDKafkaErrorCode::UnknownPartition
                    | RDKafkaErrorCode::UnknownTopic
                    | RDKafkaErrorCode::UnknownTopicOrPartition
                    | RDKafkaErrorCode::UnknownTopicId
            )
        );
        self.must_identify.fetch_or(is_missing, Ordering::AcqRel);
        is_missing
    }

    fn missing(&self) -> String {
        self.must_identify.store(true, Ordering::Release);
        format!(
            "topic {} does not exist on {}, or has less than {} partitions",
            self.topic, self.brokers, self.partitions
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
pub(super) fn left(deadline: Instant) -> Duration {
    const MIN_TIMEOUT: Duration = Duration::from_millis(50);
    deadline
        .saturating_duration_since(Instant::now())
        .max(MIN_TIMEOUT)
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
