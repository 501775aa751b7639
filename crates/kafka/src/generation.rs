//! Which generation of its group a client belongs to. rdkafka does not tell it.

use rdkafka::bindings as rd;
use rdkafka::client::{Client, ClientContext};

/// The generation (the member's epoch where the broker assigns); none where the client is not a member now.
pub(crate) fn generation<C: ClientContext>(client: &Client<C>) -> Option<i32> {
    // SAFETY: the client lives during the call; the metadata is asked for one number and destroyed, once.
    let generation = unsafe {
        let metadata = rd::rd_kafka_consumer_group_metadata(client.native_ptr());
        if metadata.is_null() {
            return None;
        }
        let generation = rd::rd_kafka_consumer_group_metadata_generation_id(metadata);
        rd::rd_kafka_consumer_group_metadata_destroy(metadata);
        generation
    };
    // -1 is nobody's, and 0 is who is still joining.
    (generation > 0).then_some(generation)
}
