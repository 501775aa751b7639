//! What the other clients of this process query about its membership in the consumer group.

use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext, ConsumerGroupMetadata};
use rdkafka::error::KafkaResult;
use rdkafka::{Offset, TopicPartitionList};
use workspace_lifecycle::PartitionId;

use crate::topic_id::TopicId;

/// An offset that the group has committed for a partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Committed {
    pub(crate) offset: i64,
    /// The text that was committed with it.
    pub(crate) metadata: String,
}

/// This process as a member of the group.
pub(crate) trait Group: Send + Sync {
    /// This member's identity and its generation; none if it is not a member now. Once the generation has ended, adding
    /// offsets to a transaction with this metadata fails; what was added before may still be committed. The broker does
    /// not check that the member owns the partitions, so a writer gets the metadata before it reads which ones it owns.
    fn metadata(&self) -> Option<ConsumerGroupMetadata>;

    /// What the group has committed for a partition of the events' topic. It waits for transactions under way
    /// (the client must read committed records only).
    ///
    /// # Errors
    /// The client's error, also when `timeout` has passed.
    fn committed(
        &self,
        topic: &str,
        partition: PartitionId,
        timeout: Duration,
    ) -> KafkaResult<Option<Committed>>;

    /// As [`Group::committed`], but without waiting for transactions: what was committed before those under way.
    ///
    /// # Errors
    /// The client's error.
    fn committed_before(
        &self,
        topic: &str,
        partition: PartitionId,
        timeout: Duration,
    ) -> KafkaResult<Option<Committed>>;

    /// The id that the brokers gave a topic; none if they do not use topic ids.
    ///
    /// # Errors
    /// The client's error, also when `timeout` has passed.
    fn topic_id(&self, topic: &str, timeout: Duration) -> KafkaResult<Option<TopicId>>;
}

/// Whether the group's coordinator answers a client within the time.
pub(crate) fn coordinator_answers<C: ConsumerContext>(
    consumer: &BaseConsumer<C>,
    topic: &str,
    timeout: Duration,
) -> bool {
    let mut queried = TopicPartitionList::new();
    // No topic has this partition, so no transaction under way delays the answer, which is ignored.
    queried.add_partition(topic, i32::MAX);
    consumer.committed_offsets(queried, timeout).is_ok()
}

/// Queries what the group has committed. A client that reads committed records waits for transactions under way, any
/// other client does not.
///
/// # Errors
/// The client's error, also when `timeout` has passed.
pub(crate) fn query_committed<C: ConsumerContext>(
    consumer: &BaseConsumer<C>,
    topic: &str,
    partition: PartitionId,
    timeout: Duration,
) -> KafkaResult<Option<Committed>> {
    let number = i32::try_from(partition.0).unwrap_or(i32::MAX);
    let mut queried = TopicPartitionList::new();
    queried.add_partition(topic, number);
    let answer = consumer.committed_offsets(queried, timeout)?;
    let Some(found) = answer.find_partition(topic, number) else {
        return Ok(None);
    };
    found.error()?;
    Ok(match found.offset() {
        Offset::Offset(offset) => Some(Committed {
            offset,
            metadata: found.metadata().to_owned(),
        }),
        Offset::Beginning
        | Offset::End
        | Offset::Stored
        | Offset::Invalid
        | Offset::OffsetTail(_) => None,
    })
}
