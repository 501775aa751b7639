//! The calls of librdkafka that rdkafka does not wrap: fetching without a group, in batches.
//!
//! Reading one queue for each partition in batches is twice as fast as polling a consumer, with half the work.
//! The unsafe code relies on this: handles of librdkafka may be used from any thread; a client outlives its topics and
//! a topic its fetches, because a topic holds its client and a fetch its topic.

use std::ffi::{CStr, CString, c_void};
use std::sync::Arc;
use std::time::Duration;

use rdkafka::bindings as rd;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::RDKafkaErrorCode;
use rdkafka::types::{RDKafkaMessage, RDKafkaQueue, RDKafkaRespErr, RDKafkaTopic};
use workspace_engine_core::log::Record;
use workspace_lifecycle::{Offset, PartitionId};

use crate::client_errors::ClientErrors;

/// A client that reads without a group.
pub(super) type Client = BaseConsumer<ClientErrors>;

/// Messages taken in one call.
const BATCH_MESSAGES: usize = 1024;

/// A topic as one client reads it.
pub(super) struct TopicHandle {
    client: Arc<Client>,
    name: CString,
    handle: *mut RDKafkaTopic,
}

// SAFETY: librdkafka documents its handles as safe for use from any thread; the pointer is never changed.
unsafe impl Send for TopicHandle {}
// SAFETY: as for `Send`: all functions called with the handle take their own locks.
unsafe impl Sync for TopicHandle {}

impl TopicHandle {
    pub(super) fn new(client: Arc<Client>, name: &str) -> Result<Arc<Self>, String> {
        let name = CString::new(name).map_err(|_| "a topic's name has no zero byte".to_owned())?;
        // SAFETY: the client and the name live during the call, which copies the name; no configuration is passed.
        let handle = unsafe {
            rd::rd_kafka_topic_new(
                client.client().native_ptr(),
                name.as_ptr(),
                std::ptr::null_mut(),
            )
        };
        if handle.is_null() {
            return Err(last_error().to_string());
        }
        Ok(Arc::new(Self {
            client,
            name,
            handle,
        }))
    }

    pub(super) fn client(&self) -> &Client {
        &self.client
    }
}

impl Drop for TopicHandle {
    fn drop(&mut self) {
        // SAFETY: the handle came from `rd_kafka_topic_new`, its client still lives, and the handle is not used again.
        unsafe { rd::rd_kafka_topic_destroy(self.handle) };
    }
}

/// One item that a fetch returns.
pub(super) enum Fetched {
    /// A record, and the epoch of the leader that wrote it.
    Record(Record, i32),
    /// The partition ended at this offset when the client reached it.
    End(Offset),
    Failed(Failure),
}

/// Why a fetch has stopped.
#[derive(Debug, Clone)]
pub(super) struct Failure {
    pub(super) code: RDKafkaErrorCode,
    /// Where it happened, as far as the client reports it.
    pub(super) offset: Offset,
    pub(super) error_text: String,
}

/// A running fetch of one partition from an offset on. A client has at most one for each partition.
pub(super) struct Fetch {
    topic: Arc<TopicHandle>,
    partition: i32,
    queue: *mut RDKafkaQueue,
}

// SAFETY: the queue may be used from any thread, and only the thread that holds the `Fetch` uses it.
unsafe impl Send for Fetch {}

impl Fetch {
    pub(super) fn start(
        topic: &Arc<TopicHandle>,
        partition: PartitionId,
        from: Offset,
    ) -> Result<Self, String> {
        let number = i32::try_from(partition.0).map_err(|_| "there is no such partition")?;
        let offset = i64::try_from(from.0).map_err(|_| "there is no such offset")?;
        // SAFETY: the client lives as long as its topic, which is held.
        let queue = unsafe { rd::rd_kafka_queue_new(topic.client.client().native_ptr()) };
        if queue.is_null() {
            return Err("the client cannot create a queue".to_owned());
        }
        // SAFETY: topic and queue belong to the same client and live; the partition is not being fetched by this
        // client, because its reader drops an earlier fetch first.
        let started =
            unsafe { rd::rd_kafka_consume_start_queue(topic.handle, number, offset, queue) };
        if started != 0 {
            let error = last_error();
            // SAFETY: the queue was created above and nothing was routed to it.
            unsafe { rd::rd_kafka_queue_destroy(queue) };
            return Err(error.to_string());
        }
        Ok(Self {
            topic: Arc::clone(topic),
            partition: number,
            queue,
        })
    }

    /// Takes what has arrived; if nothing has, waits up to `wait` for the first item. Returns how many items it took.
    pub(super) fn take(&mut self, wait: Duration, mut each: impl FnMut(Fetched)) -> usize {
        let taken = self.take_batch(&mut each);
        if taken > 0 || wait.is_zero() {
            return taken;
        }
        let wait_ms = i32::try_from(wait.as_millis()).unwrap_or(i32::MAX).max(1);
        // One message, because a batch call would wait until the batch is full.
        // SAFETY: the queue lives as long as `self`.
        let message = unsafe { rd::rd_kafka_consume_queue(self.queue, wait_ms) };
        if message.is_null() {
            return 0;
        }
        // SAFETY: the message is not null and owned by this call alone.
        each(unsafe { owned(message) });
        1 + self.take_batch(&mut each)
    }

    fn take_batch(&mut self, each: &mut impl FnMut(Fetched)) -> usize {
        let mut messages = [std::ptr::null_mut::<RDKafkaMessage>(); BATCH_MESSAGES];
        // SAFETY: the queue lives as long as `self`; the array has room for as many messages as are requested.
        let taken = unsafe {
            rd::rd_kafka_consume_batch_queue(self.queue, 0, messages.as_mut_ptr(), BATCH_MESSAGES)
        };
        let taken = usize::try_from(taken).unwrap_or(0);
        for message in messages.into_iter().take(taken) {
            // SAFETY: librdkafka filled `taken` elements with messages that only this call owns.
            each(unsafe { owned(message) });
        }
        taken
    }

    /// The client's position after everything that was taken, control records included; none before the first record.
    pub(super) fn position(&self) -> Option<Offset> {
        // SAFETY: the list is created, filled, read and destroyed here; the name lives and is copied by the call.
        // Elements that `add` returns belong to the list and stay in place, because it has room for one.
        let offset = unsafe {
            let list = rd::rd_kafka_topic_partition_list_new(1);
            let element = rd::rd_kafka_topic_partition_list_add(
                list,
                self.topic.name.as_ptr(),
                self.partition,
            );
            rd::rd_kafka_position(self.topic.client.client().native_ptr(), list);
            let offset = (*element).offset;
            rd::rd_kafka_topic_partition_list_destroy(list);
            offset
        };
        u64::try_from(offset).ok().map(Offset)
    }
}

impl Drop for Fetch {
    fn drop(&mut self) {
        // SAFETY: the fetch was started with this topic, partition and queue, all of which still live; after the
        // stop nothing is routed to the queue, and it is not used again.
        unsafe {
            rd::rd_kafka_consume_stop(self.topic.handle, self.partition);
            rd::rd_kafka_queue_destroy(self.queue);
        }
    }
}

/// Copies a message and destroys the original.
///
/// # Safety
/// The message must come from a consume function, and the caller must be its only owner.
unsafe fn owned(message: *mut RDKafkaMessage) -> Fetched {
    // SAFETY: the caller is the only owner of the message; it is valid until it is destroyed below.
    let fetched = unsafe {
        let seen = &*message;
        let offset = Offset(u64::try_from(seen.offset).unwrap_or(0));
        if seen.err == RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR {
            let (key, value) = (bytes(seen.key, seen.key_len), bytes(seen.payload, seen.len));
            let leader_epoch = rd::rd_kafka_message_leader_epoch(message);
            Fetched::Record(Record::new(offset, key, value), leader_epoch)
        } else if seen.err == RDKafkaRespErr::RD_KAFKA_RESP_ERR__PARTITION_EOF {
            Fetched::End(offset)
        } else {
            let code = RDKafkaErrorCode::from(seen.err);
            let error_text = rd::rd_kafka_message_errstr(message);
            Fetched::Failed(Failure {
                code,
                offset,
                error_text: if error_text.is_null() {
                    code.to_string()
                } else {
                    CStr::from_ptr(error_text).to_string_lossy().into_owned()
                },
            })
        }
    };
    // SAFETY: nothing of the message is borrowed any more, and it is destroyed once.
    unsafe { rd::rd_kafka_message_destroy(message) };
    fetched
}

/// # Safety
/// The pointer is null, or valid for `length` bytes for as long as the returned slice is used.
unsafe fn bytes<'a>(pointer: *const c_void, length: usize) -> Option<&'a [u8]> {
    // SAFETY: a null pointer makes no slice; the caller guarantees the rest.
    (!pointer.is_null())
        .then(|| unsafe { std::slice::from_raw_parts(pointer.cast::<u8>(), length) })
}

fn last_error() -> RDKafkaErrorCode {
    // SAFETY: it reads the error of the last call on this thread, and takes no pointer.
    RDKafkaErrorCode::from(unsafe { rd::rd_kafka_last_error() })
}
