//! What the other clients of this process ask of its membership in the consumer group.

use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext, ConsumerGroupMetadata};
use rdkafka::error::KafkaResult;
use rdkafka::{Offset, TopicPartitionList};
use workspace_lifecycle::PartitionId;

use crate::topic_id::TopicId;

/// An offset that the group has committed of a partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Committed {
    pub(crate) offset: i64,
    /// The text that was committed with it.
    pub(crate) metadata: String,
}

/// This process as a member of the group.
pub(crate) trait Group: Send + Sync {
    /// Who this member is and which generation it belongs to. A transaction with it fails once the generation is over
    /// when its offsets are added; what was added before may still be committed. Nobody looks at whether the member has
    /// the partitions: whoever writes asks for it before looking which ones it has.
    fn metadata(&self) -> Option<ConsumerGroupMetadata>;

    /// What the group has committed of a partition of the events' topic. It waits for transactions under way
    /// (the client must read committed records only).
    ///
    /// # Errors
    /// The client's own, also when `timeout` is over.
    fn committed(
        &self,
        topic: &str,
        partition: PartitionId,
        timeout: Duration,
    ) -> KafkaResult<Option<Committed>>;

    /// As [`Group::committed`], but it waits for no transaction: what was committed before those under way.
    ///
    /// # Errors
    /// The client's own.
    fn committed_before(
        &self,
        topic: &str,
        partition: PartitionId,
        timeout: Duration,
    ) -> KafkaResult<Option<Committed>>;

    /// The id that the brokers gave a topic; none where they give their topics none.
    ///
    /// # Errors
    /// The client's own, also when `timeout` is over.
    fn topic_id(&self, topic: &str, timeout: Duration) -> KafkaResult<Option<TopicId>>;
}

/// Whether the group's coordinator answers a client within the time.
pub(crate) fn coordinator_answers<C: ConsumerContext>(
    consumer: &BaseConsumer<C>,
    topic: &str,
    timeout: Duration,
) -> bool {
    let mut queried = TopicPartitionList::new();
    // No topic has this partition: no transaction under way holds the answer up. What is answered of it is nothing.
    queried.add_partition(topic, i32::MAX);
    consumer.committed_offsets(queried, timeout).is_ok()
}

/// Asks the group what it has committed. A client of committed records waits for transactions under way, another
/// one does not.
///
/// # Errors
/// The client's own, also when `timeout` is over.
pub(crate) fn ask_committed<C: ConsumerContext>(
    consumer: &BaseConsumer<C>,
    topic: &str,
    partition: PartitionId,
    timeout: Duration,
) -> KafkaResult<Option<Committed>> {
    let number = i32::try_from(partition.0).unwrap_or(i32::MAX);
    let mut asked = TopicPartitionList::new();
    asked.add_partition(topic, number);
    let answer = consumer.committed_offsets(asked, timeout)?;
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
