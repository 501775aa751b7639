//! The clients of a membership and their two threads: one polls the group, the other one queries its coordinator.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::RwLock;
use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerGroupMetadata};
use rdkafka::error::KafkaResult;
use workspace_lifecycle::PartitionId;

use super::context::{MemberClient, MemberContext, Registration, fatal_error_text};
use super::member::Event;
use crate::bootstrap;
use crate::config::GroupProtocol;
use crate::context::Plain;
use crate::coordinator::{Silence, SilenceLimits};
use crate::generation::generation;
use crate::group::{Committed, Group, coordinator_answers, query_committed};
use crate::topic_id::{self, TopicId};

/// Between two polls of the group's events; each poll also shows the client that this process is alive.
const POLL_TIMEOUT: Duration = Duration::from_millis(100);

/// Longest time of one query that checks whether a failure has ended, or confirms that the coordinator is silent.
const CHECK_TIMEOUT: Duration = Duration::from_millis(500);

/// Most clients that are being closed: closing one can take as long as the brokers are silent.
const MAX_CLOSING_CLIENTS: usize = 4;

pub(super) struct Clients {
    pub(super) registration: Arc<Registration>,
    pub(super) protocol: GroupProtocol,
    /// Creates the clients of the group.
    pub(super) config: ClientConfig,
    pub(super) brokers: String,
    /// Replaced after the member was cut off from its group, or had a fatal error.
    pub(super) consumer: RwLock<Arc<MemberClient>>,
    /// Queries the group without being a member, and without waiting for transactions.
    pub(super) observer: Arc<BaseConsumer<Plain>>,
    pub(super) leaving: AtomicBool,
    /// The coordinator was silent for longer than a session.
    pub(super) cut_off: AtomicBool,
    pub(super) closing_clients: Arc<AtomicUsize>,
}

/// Creates a client of the group.
pub(super) fn member_client(
    config: &ClientConfig,
    brokers: &str,
    registration: &Arc<Registration>,
    number: u64,
) -> KafkaResult<Arc<MemberClient>> {
    let context = MemberContext {
        registration: Arc::clone(registration),
        number,
    };
    let consumer = Arc::new(config.create_with_context(context)?);
    bootstrap::register(&consumer, brokers, &registration.topic);
    Ok(consumer)
}

impl Clients {
    pub(super) fn current(&self) -> Arc<MemberClient> {
        Arc::clone(&self.consumer.read())
    }

    fn is_leaving(&self) -> bool {
        self.leaving.load(Ordering::Acquire)
    }

    /// Polls the group until the process leaves it. All callbacks are made on this thread.
    pub(super) fn poll(&self) {
        while !self.is_leaving() {
            let consumer = self.current();
            // The context has already received an error, with a better message.
            let _ = consumer.poll(POLL_TIMEOUT);
            if self.cut_off.swap(false, Ordering::AcqRel) {
                tracing::warn!(
                    "the group's coordinator has not answered for the session timeout: all partitions count as lost"
                );
                self.registration.on(Event::CutOff);
            }
            if consumer.context().is_current() {
                self.check(&consumer);
            }
            drop(consumer);
            self.rejoin_if_due();
        }
        if poll_until_closed(&self.current()) {
            self.registration.on(Event::Left);
        }
    }

    /// Learns what the client does not report: with the consumer protocol, an assignment that stays empty and its end;
    /// with both, the end of a failure, and whether it is fatal.
    fn check(&self, consumer: &MemberClient) {
        if self.protocol == GroupProtocol::Consumer {
            let is_in_group = generation(consumer.client()).is_some();
            let event = if is_in_group {
                Event::InGroup
            } else {
                Event::NotInGroup
            };
            self.registration.on(event);
        }
        let Some(due) = self.registration.member.lock().due_checks(Instant::now()) else {
            return;
        };
        if let Some((code, reason)) = consumer.client().fatal_error() {
            let error_text = fatal_error_text(code, &reason);
            tracing::error!(
                error_text,
                "the consumer group: all partitions count as lost"
            );
            return self.registration.on(Event::Fatal(error_text));
        }
        if due.brokers && consumer.fetch_metadata(None, CHECK_TIMEOUT).is_ok() {
            tracing::info!("the brokers answer again");
            self.registration.on(Event::BrokersAnswer);
        }
        let topic = &self.registration.topic;
        if due.coordinator
            && generation(consumer.client()).is_some()
            && query_committed(consumer, topic, PartitionId(0), CHECK_TIMEOUT).is_ok()
        {
            tracing::info!("the group's coordinator answers again");
            self.registration.on(Event::CoordinatorAnswers);
        }
    }

    /// Replaces a retired client by one that joins the group again.
    fn rejoin_if_due(&self) {
        let due = self.registration.member.lock().due_client(Instant::now());
        let Some(number) = due else {
            return;
        };
        if self.closing_clients.load(Ordering::Acquire) >= MAX_CLOSING_CLIENTS {
            return;
        }
        let joined = member_client(&self.config, &self.brokers, &self.registration, number)
            .and_then(|consumer| {
                consumer.subscribe(&[self.registration.topic.as_str()])?;
                Ok(consumer)
            });
        match joined {
            Ok(consumer) => {
                tracing::info!("joining the consumer group again");
                self.registration.on(Event::Rejoined);
                let retired = std::mem::replace(&mut *self.consumer.write(), consumer);
                close(retired, &self.closing_clients);
            }
            Err(error) => {
                tracing::error!(%error, "the consumer group cannot be joined again");
                self.registration.on(Event::NotRejoined);
            }
        }
    }

    /// Queries the coordinator while this process is a member, and reports it as cut off if the coordinator stays
    /// silent.
    pub(super) fn watch(&self) {
        let limits = SilenceLimits::of_session(self.registration.session_timeout);
        let mut silence = Silence::new(limits);
        while !self.is_leaving() {
            // `leave` wakes it.
            std::thread::park_timeout(limits.pause);
            let is_member = self.registration.member.lock().is_in_group();
            let sent_at = Instant::now();
            if !is_member || self.coordinator_answers(limits.query) {
                silence.answered();
                continue;
            }
            silence.unanswered(sent_at.elapsed());
            if !silence.is_over() {
                continue;
            }
            silence.answered();
            // With the classic protocol, only the connection of the observer may be broken.
            let confirm = limits.query.min(CHECK_TIMEOUT);
            let answers_the_member = self.protocol == GroupProtocol::Classic
                && coordinator_answers(&self.current(), &self.registration.topic, confirm);
            if !answers_the_member {
                self.cut_off.store(true, Ordering::Release);
            }
        }
    }

    /// Whether the group's coordinator answers within the time. With the classic protocol a member cannot query it
    /// while it waits for a rebalance, so another client does.
    fn coordinator_answers(&self, timeout: Duration) -> bool {
        let topic = &self.registration.topic;
        match self.protocol {
            GroupProtocol::Classic => coordinator_answers(&self.observer, topic, timeout),
            GroupProtocol::Consumer => coordinator_answers(&self.current(), topic, timeout),
        }
    }
}

/// Closes a retired client on a separate thread: it can take as long as the brokers are silent.
fn close(retired: Arc<MemberClient>, closing: &Arc<AtomicUsize>) {
    closing.fetch_add(1, Ordering::AcqRel);
    let counter = Arc::clone(closing);
    let thread = std::thread::Builder::new()
        .name("group-closing".to_owned())
        .spawn(move || {
            poll_until_closed(&retired);
            // Dropping the last reference waits for the client's threads, so that must happen on this thread.
            while Arc::strong_count(&retired) > 1 {
                std::thread::sleep(POLL_TIMEOUT);
            }
            drop(retired);
            counter.fetch_sub(1, Ordering::AcqRel);
        });
    if let Err(error) = thread {
        closing.fetch_sub(1, Ordering::AcqRel);
        tracing::error!(%error, "a client of the consumer group cannot be closed");
    }
}

/// Closes a client, which revokes its partitions first. False if it cannot be closed.
fn poll_until_closed(consumer: &MemberClient) -> bool {
    if let Err(error) = consumer.close_queue() {
        tracing::error!(%error, "the consumer group cannot be left");
        return false;
    }
    while !consumer.closed() {
        let _ = consumer.poll(POLL_TIMEOUT);
    }
    true
}

impl Group for Clients {
    fn metadata(&self) -> Option<ConsumerGroupMetadata> {
        // A client that is not a member also returns metadata, with which the broker accepts any commit. The group
        // removes a member before this process is notified, so the generation is checked before and after the query.
        let consumer = self.current();
        let number = consumer.context().number;
        let now = || {
            let counts = {
                let member = self.registration.member.lock();
                member.is_in_group() && member.is_current(number)
            };
            counts.then(|| generation(consumer.client())).flatten()
        };
        let before = now()?;
        let metadata = consumer.group_metadata();
        metadata.filter(|_| now() == Some(before))
    }

    fn committed(
        &self,
        topic: &str,
        partition: PartitionId,
        timeout: Duration,
    ) -> KafkaResult<Option<Committed>> {
        query_committed(&self.current(), topic, partition, timeout)
    }

    fn committed_before(
        &self,
        topic: &str,
        partition: PartitionId,
        timeout: Duration,
    ) -> KafkaResult<Option<Committed>> {
        query_committed(&self.observer, topic, partition, timeout)
    }

    fn topic_id(&self, topic: &str, timeout: Duration) -> KafkaResult<Option<TopicId>> {
        topic_id::query(self.observer.client(), topic, timeout)
    }
}
