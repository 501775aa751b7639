//! The last writer of each partition, from the metadata that the group has committed with its offsets.
//!
//! An engine that takes a partition over writes its ownership record together with the group's offset, and names its
//! transactional producer in the commit. So the last commit names the owner, or the previous one until the next has
//! taken over. Any engine reads all of them in one request, with either group protocol.

use std::collections::BTreeMap;
use std::time::Duration;

use rdkafka::TopicPartitionList;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::KafkaResult;
use workspace_lifecycle::PartitionId;

use crate::changelog::producer_of;

/// Length of what follows the owner in the id of a producer: a dash and the number of its process.
const PROCESS_BYTES: usize = 1 + 16;

/// The id of the transactional producer of a process: `process` is random, so that no process fences another.
pub(crate) fn producer_id(group: &str, topic: &str, owner: &str, process: u64) -> String {
    format!("{}{owner}-{process:016x}", prefix(group, topic))
}

fn prefix(group: &str, topic: &str) -> String {
    format!("{group}-{topic}-")
}

/// The owner in the id of a producer; none if the id is not of this group and topic.
fn owner_of<'a>(producer_id: &'a str, prefix: &str) -> Option<&'a str> {
    let rest = producer_id.strip_prefix(prefix)?;
    let (owner, process) = rest.split_at_checked(rest.len().checked_sub(PROCESS_BYTES)?)?;
    let is_process = process
        .strip_prefix('-')
        .is_some_and(|digits| digits.bytes().all(|byte| byte.is_ascii_hexdigit()));
    (is_process && !owner.is_empty()).then_some(owner)
}

/// The last writer of each of the first `partitions` of a topic; a partition for which no engine of the group has
/// written is left out.
///
/// # Errors
/// The client's error, also when `timeout` has passed.
pub(crate) fn last_writers<C: ConsumerContext>(
    consumer: &BaseConsumer<C>,
    (group, topic): (&str, &str),
    partitions: u32,
    timeout: Duration,
) -> KafkaResult<BTreeMap<PartitionId, String>> {
    let prefix = prefix(group, topic);
    let mut queried = TopicPartitionList::new();
    for number in 0..partitions {
        queried.add_partition(topic, i32::try_from(number).unwrap_or(i32::MAX));
    }
    let answer = consumer.committed_offsets(queried, timeout)?;
    let writer = |number: u32| {
        let found = answer.find_partition(topic, i32::try_from(number).ok()?)?;
        let producer = producer_of(found.metadata())?;
        let owner = owner_of(&producer, &prefix)?;
        Some((PartitionId(number), owner.to_owned()))
    };
    Ok((0..partitions).filter_map(writer).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_id_of_a_producer_names_the_owner() {
        for owner in ["node-1", "a", "rack-7-0123456789abcdef"] {
            let id = producer_id("group-a", "events", owner, 0x0123);
            assert_eq!(owner_of(&id, "group-a-events-"), Some(owner), "{id}");
            assert_eq!(owner_of(&id, "group-b-events-"), None, "{id}");
        }
        for other in [
            "",
            "group-a-events-",
            "group-a-events-x",
            "group-a-events--0123456789abcdef",
        ] {
            assert_eq!(owner_of(other, "group-a-events-"), None, "{other}");
        }
    }
}
