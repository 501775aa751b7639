//! Polls a consumer as rdkafka does, but keeps the offset at which a partition ended, which rdkafka drops.

use std::ffi::{CString, c_void};
use std::marker::PhantomData;
use std::ptr::NonNull;
use std::time::Duration;

use rdkafka::bindings as rd;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::KafkaError;
use rdkafka::types::{RDKafkaMessage, RDKafkaRespErr};

/// A message or an error of a consumer, which must outlive it.
pub(crate) struct Polled<'a> {
    message: NonNull<RDKafkaMessage>,
    consumer: PhantomData<&'a ()>,
}

/// What a consumer found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Found<'a> {
    Record {
        partition: i32,
        offset: u64,
        leader_epoch: i32,
        key: Option<&'a [u8]>,
        value: Option<&'a [u8]>,
    },
    /// The broker that it fetches from has nothing at or after this offset. It may not be the leader, or may not have
    /// caught up with the previous leader yet: an end that a leader reported before may be higher.
    End { partition: i32, offset: u64 },
}

/// The consumer's next message or error, if one arrives within `timeout`.
pub(crate) fn poll<C: ConsumerContext>(
    consumer: &BaseConsumer<C>,
    timeout: Duration,
) -> Option<Polled<'_>> {
    let timeout_ms = i32::try_from(timeout.as_millis()).unwrap_or(i32::MAX);
    // SAFETY: the client lives during the call, and only this code owns what it returns until it is destroyed.
    let message = unsafe { rd::rd_kafka_consumer_poll(consumer.client().native_ptr(), timeout_ms) };
    NonNull::new(message).map(|message| Polled {
        message,
        consumer: PhantomData,
    })
}

impl Polled<'_> {
    /// The record, or the end of a partition.
    ///
    /// # Errors
    /// The client's error.
    pub(crate) fn found(&self) -> Result<Found<'_>, KafkaError> {
        // SAFETY: it is valid until it is destroyed, which happens when `self` is dropped.
        let seen = unsafe { self.message.as_ref() };
        let offset = u64::try_from(seen.offset).unwrap_or_default();
        let partition = seen.partition;
        if seen.err == RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR {
            // SAFETY: the message says where its key and value are; both live as long as it does.
            let (key, value) =
                unsafe { (bytes(seen.key, seen.key_len), bytes(seen.payload, seen.len)) };
            // SAFETY: it is a message of a consumer that lives, and is only read.
            let leader_epoch = unsafe { rd::rd_kafka_message_leader_epoch(self.message.as_ptr()) };
            Ok(Found::Record {
                partition,
                offset,
                leader_epoch,
                key,
                value,
            })
        } else if seen.err == RDKafkaRespErr::RD_KAFKA_RESP_ERR__PARTITION_EOF {
            Ok(Found::End { partition, offset })
        } else {
            Err(KafkaError::MessageConsumption(seen.err.into()))
        }
    }

    /// The value of the first header of this name.
    pub(crate) fn header(&self, name: &str) -> Option<&[u8]> {
        let name = CString::new(name).ok()?;
        let mut headers = std::ptr::null_mut();
        let mut value = std::ptr::null::<c_void>();
        let mut length = 0;
        // SAFETY: the message, its headers and their values live as long as `self`; the name lives during the calls.
        unsafe {
            if rd::rd_kafka_message_headers(self.message.as_ptr(), &raw mut headers)
                != RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR
            {
                return None;
            }
            let found =
                rd::rd_kafka_header_get(headers, 0, name.as_ptr(), &raw mut value, &raw mut length);
            if found != RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR {
                return None;
            }
            bytes(value, length)
        }
    }
}

impl Drop for Polled<'_> {
    fn drop(&mut self) {
        // SAFETY: it came from a poll, is destroyed once, and nothing borrows from it now.
        unsafe { rd::rd_kafka_message_destroy(self.message.as_ptr()) };
    }
}

/// # Safety
/// The pointer is null, or valid for `length` bytes for as long as the returned slice is used.
unsafe fn bytes<'a>(pointer: *const c_void, length: usize) -> Option<&'a [u8]> {
    // SAFETY: a null pointer makes no slice; the caller guarantees the rest.
    (!pointer.is_null())
        .then(|| unsafe { std::slice::from_raw_parts(pointer.cast::<u8>(), length) })
}
