//! The id that the brokers gave a topic when it was created: a recreated topic has the same name but another id.

use std::ffi::CString;
use std::num::NonZeroU128;
use std::time::Duration;

use rdkafka::bindings as rd;
use rdkafka::client::{Client, ClientContext};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};

/// As a Kafka UUID, most significant bits first.
pub(crate) type TopicId = NonZeroU128;

/// Queries the id of a topic; none if the brokers do not use topic ids (before Kafka 2.8).
///
/// # Errors
/// The client's error, also when `timeout` has passed.
pub(crate) fn query<C: ClientContext>(
    client: &Client<C>,
    topic: &str,
    timeout: Duration,
) -> KafkaResult<Option<TopicId>> {
    let name = CString::new(topic)?;
    let timeout_ms = i32::try_from(timeout.as_millis()).unwrap_or(i32::MAX);
    // SAFETY: the client lives during the call. Queue, names and options are created and destroyed here, once; the call
    // for the topics copies names and options and itself keeps the queue alive for an answer that arrives too late.
    // Only an event that arrived is read, and destroyed after that.
    unsafe {
        let handle = client.native_ptr();
        let queue = rd::rd_kafka_queue_new(handle);
        let mut names = [name.as_ptr()];
        let topics = rd::rd_kafka_TopicCollection_of_topic_names(names.as_mut_ptr(), names.len());
        let options = rd::rd_kafka_AdminOptions_new(
            handle,
            rd::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_DESCRIBETOPICS,
        );
        rd::rd_kafka_AdminOptions_set_request_timeout(options, timeout_ms, std::ptr::null_mut(), 0);
        rd::rd_kafka_DescribeTopics(handle, topics, options, queue);
        let event = rd::rd_kafka_queue_poll(queue, timeout_ms);
        let id = if event.is_null() {
            Err(RDKafkaErrorCode::OperationTimedOut)
        } else {
            let id = id_of(event);
            rd::rd_kafka_event_destroy(event);
            id
        };
        rd::rd_kafka_AdminOptions_destroy(options);
        rd::rd_kafka_TopicCollection_destroy(topics);
        rd::rd_kafka_queue_destroy(queue);
        id.map_err(KafkaError::MetadataFetch)
    }
}

/// # Safety
/// The event must be the answer to a call for one topic, and live.
unsafe fn id_of(event: *mut rd::rd_kafka_event_t) -> Result<Option<TopicId>, RDKafkaErrorCode> {
    use rd::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR as NONE;
    // SAFETY: all that is reached from the event belongs to it and lives as long. `count` is the number of topics; the
    // first one is read only if it exists.
    unsafe {
        let error = rd::rd_kafka_event_error(event);
        if error != NONE {
            return Err(error.into());
        }
        let result = rd::rd_kafka_event_DescribeTopics_result(event);
        if result.is_null() {
            return Err(RDKafkaErrorCode::BadMessage);
        }
        let mut count = 0;
        let described = rd::rd_kafka_DescribeTopics_result_topics(result, &raw mut count);
        if count == 0 {
            return Err(RDKafkaErrorCode::UnknownTopic);
        }
        let topic = *described;
        let error = rd::rd_kafka_TopicDescription_error(topic);
        if !error.is_null() && rd::rd_kafka_error_code(error) != NONE {
            return Err(rd::rd_kafka_error_code(error).into());
        }
        let id = rd::rd_kafka_TopicDescription_topic_id(topic);
        if id.is_null() {
            return Ok(None);
        }
        let high = rd::rd_kafka_Uuid_most_significant_bits(id).cast_unsigned();
        let low = rd::rd_kafka_Uuid_least_significant_bits(id).cast_unsigned();
        Ok(TopicId::new(u128::from(high) << 64 | u128::from(low)))
    }
}
