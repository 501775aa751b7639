//! This process as a member of the consumer group: which partitions it owns, and callbacks when they are assigned,
//! revoked or lost.
//!
//! The group's consumer reads nothing: its partitions stay paused, and other clients read them. So it is polled all
//! the time, and no load or save can make the group believe that this process is dead.

mod clients;
mod context;
mod member;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::{Mutex, RwLock};
use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use workspace_lifecycle::PartitionId;

use crate::bootstrap;
use crate::config::{GroupProtocol, KafkaConfig, MEMBER_ROLE};
use crate::context::Plain;
use crate::group::Group;
use clients::{Clients, member_client};
use context::Registration;
use member::{Event, Member};

/// Heartbeats within one session timeout, after which the group removes a silent member.
const HEARTBEATS_A_SESSION: u32 = 10;

/// The client's default for the longest time between two polls (`max.poll.interval.ms`).
const MAX_POLL: Duration = Duration::from_mins(5);

/// What a member does with its partitions. One thread makes the calls, one after the other.
pub trait Assignments: Send + Sync + 'static {
    /// The partitions belong to this process from now on. This must not wait for their loads.
    fn assigned(&self, partitions: &[PartitionId]);

    /// The partitions move to another member as soon as this returns, which must be by `deadline`.
    fn revoked(&self, partitions: &[PartitionId], deadline: Instant);

    /// The partitions may belong to another member already.
    fn lost(&self, partitions: &[PartitionId]);
}

/// The state of this process in its group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemberReport {
    /// How long it has waited for the group's coordinator to admit it; none if it is not waiting.
    pub joining_for: Option<Duration>,
    /// The failure that keeps it from its group, if there is one.
    pub last_error: Option<MemberFailure>,
    /// Partitions that it owns.
    pub partitions: usize,
    /// How often partitions were assigned or revoked.
    pub rebalances: u64,
    /// How often partitions were lost before they could be handed over.
    pub losses: u64,
}

/// A failure between a member and its group, with the client's error text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MemberFailure {
    /// Some brokers cannot be reached. An existing member stays one, unless the coordinator is among them: then it soon
    /// is not.
    Connections(String),
    /// The group refuses the member, or its client has a fatal error.
    Group(String),
}

impl MemberFailure {
    /// The client's error text.
    pub fn error_text(&self) -> &str {
        match self {
            Self::Connections(error_text) | Self::Group(error_text) => error_text,
        }
    }
}

/// Why a process cannot be a member.
#[derive(Debug, thiserror::Error)]
pub enum MembershipError {
    /// The client refuses its configuration.
    #[error("the Kafka client cannot be configured: {0}")]
    Client(String),
    /// The operating system cannot start a thread.
    #[error("cannot start the thread of the consumer group")]
    Thread(#[source] std::io::Error),
}

/// A membership in the consumer group.
pub struct Membership {
    clients: Arc<Clients>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Membership {
    /// A member that has not joined yet.
    ///
    /// # Errors
    /// [`MembershipError::Client`] names the property that librdkafka refuses.
    pub fn new(config: &KafkaConfig) -> Result<Self, MembershipError> {
        let registration = Arc::new(Registration {
            topic: config.topic.clone(),
            session_timeout: config.session_timeout,
            assignments: OnceLock::new(),
            member: Mutex::new(Member::new(config.session_timeout, Instant::now())),
        });
        let member_config = member_config(config);
        let consumer = member_client(&member_config, &config.brokers, &registration, 1)?;
        let defaults = [
            ("group.id", config.group.as_str()),
            ("enable.auto.commit", "false"),
            ("isolation.level", "read_uncommitted"),
        ];
        let observer: BaseConsumer<Plain> = config
            .client("group-observer", &defaults)
            .create_with_context(Plain)?;
        let observer = Arc::new(observer);
        bootstrap::register(&observer, &config.brokers, &config.topic);
        Ok(Self {
            clients: Arc::new(Clients {
                registration,
                protocol: config.protocol,
                config: member_config,
                brokers: config.brokers.clone(),
                consumer: RwLock::new(consumer),
                observer,
                leaving: AtomicBool::new(false),
                cut_off: AtomicBool::new(false),
                closing_clients: Arc::default(),
            }),
            threads: Mutex::default(),
        })
    }

    /// The view of the membership for the other clients of this process.
    pub(crate) fn group(&self) -> Arc<dyn Group> {
        Arc::clone(&self.clients) as Arc<dyn Group>
    }

    /// A client that queries the group without being a member.
    pub(crate) fn observer(&self) -> Arc<BaseConsumer<Plain>> {
        Arc::clone(&self.clients.observer)
    }

    /// Joins the group; `assignments` is called for every partition that is assigned, revoked or lost.
    ///
    /// Partitions also count as lost once the coordinator has not answered for longer than the session timeout,
    /// whatever state the member is in (librdkafka checks the session only in some states, and with the consumer
    /// protocol never), and after a fatal error, such as another process with the same `instance_id`. The process then
    /// joins again by itself, with another client.
    ///
    /// # Errors
    /// [`MembershipError`].
    pub fn join(&self, assignments: impl Assignments) -> Result<(), MembershipError> {
        let registration = &self.clients.registration;
        // A second call changes nothing.
        let _ = registration.assignments.set(Box::new(assignments));
        registration.on(Event::Subscribed);
        let consumer = self.clients.current();
        consumer.subscribe(&[registration.topic.as_str()])?;
        // A separate thread queries the coordinator, because a query blocks.
        for (name, run) in [
            ("group", Clients::poll as fn(&_)),
            ("coordinator", Clients::watch),
        ] {
            let clients = Arc::clone(&self.clients);
            let thread = std::thread::Builder::new()
                .name(name.to_owned())
                .spawn(move || run(&clients))
                .map_err(MembershipError::Thread)?;
            self.threads.lock().push(thread);
        }
        Ok(())
    }

    /// Leaves the group: partitions are revoked first, so that other members take them over at once. Blocks until
    /// it has left or `deadline` has passed.
    ///
    /// The group expects a member with a static `instance_id` to return: its partitions are revoked here, but the group
    /// assigns them to other members only after the session timeout.
    pub fn leave(&self, deadline: Instant) {
        self.clients.leaving.store(true, Ordering::Release);
        let threads = std::mem::take(&mut *self.threads.lock());
        for thread in threads {
            thread.thread().unpark();
            while !thread.is_finished() && Instant::now() < deadline {
                std::thread::sleep(Duration::from_millis(2));
            }
            if !thread.is_finished() {
                tracing::warn!("the consumer group was not left in time; it notices by itself");
            } else if thread.join().is_err() {
                tracing::error!("a thread of the consumer group ended in a panic");
            }
        }
    }

    /// The state of this process in its group.
    pub fn report(&self) -> MemberReport {
        self.clients
            .registration
            .member
            .lock()
            .report(Instant::now())
    }
}

/// The settings of the client that is the member.
fn member_config(config: &KafkaConfig) -> ClientConfig {
    let session = config.session_timeout.as_millis().to_string();
    // Members learn of a rebalance by their heartbeats.
    let heartbeat = config.session_timeout / HEARTBEATS_A_SESSION;
    let heartbeat = heartbeat.as_millis().clamp(100, 1_000).to_string();
    // The client refuses a session timeout that is longer than this.
    let max_poll = config.session_timeout.max(MAX_POLL).as_millis().to_string();
    let mut defaults = vec![
        ("group.id", config.group.as_str()),
        ("enable.auto.commit", "false"),
        ("enable.auto.offset.store", "false"),
        // So that a query of committed offsets waits for transactions under way.
        ("isolation.level", "read_committed"),
        ("auto.offset.reset", "latest"),
    ];
    match config.protocol {
        GroupProtocol::Classic => defaults.extend([
            ("partition.assignment.strategy", "cooperative-sticky"),
            ("session.timeout.ms", session.as_str()),
            ("heartbeat.interval.ms", heartbeat.as_str()),
            ("max.poll.interval.ms", max_poll.as_str()),
        ]),
        GroupProtocol::Consumer => defaults.push(("group.protocol", "consumer")),
    }
    if let Some(id) = &config.instance_id {
        defaults.push(("group.instance.id", id.as_str()));
    }
    config.client(MEMBER_ROLE, &defaults)
}

#[cfg(test)]
mod tests;
