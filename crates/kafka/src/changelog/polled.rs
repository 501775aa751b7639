//! Polls a consumer as rdkafka does, but keeps where a partition ended, which rdkafka drops.

use std::marker::PhantomData;
use std::ptr::NonNull;
use std::time::Duration;

use rdkafka::bindings as rd;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::KafkaError;
use rdkafka::types::{RDKafkaMessage, RDKafkaRespErr};

use super::reader::Found;

/// A message or an error of a consumer, which must outlive it.
pub(super) struct Polled<'a> {
    message: NonNull<RDKafkaMessage>,
    consumer: PhantomData<&'a ()>,
}

/// What the consumer has next, within the time.
pub(super) fn poll<C: ConsumerContext>(
    consumer: &BaseConsumer<C>,
    timeout: Duration,
) -> Option<Polled<'_>> {
    let timeout_ms = i32::try_from(timeout.as_millis()).unwrap_or(i32::MAX);
    // SAFETY: the client lives during the call, and what it returns is ours alone until it is destroyed.
    let message = unsafe { rd::rd_kafka_consumer_poll(consumer.client().native_ptr(), timeout_ms) };
    NonNull::new(message).map(|message| Polled {
        message,
        consumer: PhantomData,
    })
}

impl Polled<'_> {
    /// What it says of a partition; of another one it says nothing, unless it failed.
    pub(super) fn what(&self, partition: i32) -> Result<Found<'_>, KafkaError> {
        // SAFETY: it is valid until it is destroyed, which happens when `self` is dropped.
        let seen = unsafe { self.message.as_ref() };
        let offset = u64::try_from(seen.offset).unwrap_or_default();
        let is_of_it = seen.partition == partition;
        if seen.err == RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR {
            // SAFETY: the message says where its key and value are; both live as long as it does.
            let (key, value) =
                unsafe { (bytes(seen.key, seen.key_len), bytes(seen.payload, seen.len)) };
            // SAFETY: it is a message of a consumer that lives, and is only read.
            let leader_epoch = unsafe { rd::rd_kafka_message_leader_epoch(self.message.as_ptr()) };
            let record = Found::Record {
                offset,
                leader_epoch,
                key: key.unwrap_or_default(),
                value,
            };
            Ok(if is_of_it { record } else { Found::Nothing })
        } else if seen.err == RDKafkaRespErr::RD_KAFKA_RESP_ERR__PARTITION_EOF {
            Ok(if is_of_it {
                Found::End { offset }
            } else {
                Found::Nothing
            })
        } else {
            Err(KafkaError::MessageConsumption(seen.err.into()))
        }
    }
}

impl Drop for Polled<'_> {
    fn drop(&mut self) {
        // SAFETY: it came from a poll, is destroyed once, and nothing borrows from it any more.
        unsafe { rd::rd_kafka_message_destroy(self.message.as_ptr()) };
    }
}

/// # Safety
/// The pointer is null, or valid for so many bytes as long as what is returned is used.
unsafe fn bytes<'a>(pointer: *const std::ffi::c_void, length: usize) -> Option<&'a [u8]> {
    // SAFETY: of a null pointer no slice is made; the rest is the caller's word.
    (!pointer.is_null())
        .then(|| unsafe { std::slice::from_raw_parts(pointer.cast::<u8>(), length) })
}
