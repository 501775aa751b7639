//! The generation of its group that a client belongs to, which rdkafka does not expose.

use rdkafka::bindings as rd;
use rdkafka::client::{Client, ClientContext};

/// The generation (with the consumer protocol, the member's epoch); none if the client is not a member now.
pub(crate) fn generation<C: ClientContext>(client: &Client<C>) -> Option<i32> {
    // SAFETY: the client lives during the call; the metadata is read for one number and destroyed once.
    let generation = unsafe {
        let metadata = rd::rd_kafka_consumer_group_metadata(client.native_ptr());
        if metadata.is_null() {
            return None;
        }
        let generation = rd::rd_kafka_consumer_group_metadata_generation_id(metadata);
        rd::rd_kafka_consumer_group_metadata_destroy(metadata);
        generation
    };
    // -1 means no member, and 0 a member that is still joining.
    (generation > 0).then_some(generation)
}
