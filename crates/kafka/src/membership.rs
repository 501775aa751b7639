//! This process as a member of the consumer group: which partitions it owns, and callbacks when they are assigned,
//! revoked or lost.
//!
//! The group's consumer reads nothing: its partitions stay paused, and other clients read them. So it is polled all
//! the time, and no load or save can make the group believe that this process is dead.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::{Mutex, RwLock};
use rdkafka::ClientConfig;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext, ConsumerGroupMetadata};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::types::RDKafkaRespErr;
use rdkafka::{ClientContext, Offset, TopicPartitionList};
use workspace_lifecycle::PartitionId;

use crate::bootstrap;
use crate::config::{GroupProtocol, KafkaConfig, MEMBER};
use crate::context::{self, Plain};
use crate::coordinator::{Silence, SilenceLimits};
use crate::generation::generation;
use crate::group::{Committed, Group, ask_committed, coordinator_answers};
use crate::topic_id::{self, TopicId};

/// Between two polls of the group's events; each poll also shows the client that this process is alive.
const POLL: Duration = Duration::from_millis(100);

/// Between two checks whether a failure has ended.
const FAILURE_CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// Shortest time for which a refusal is reported: its effect on the membership may be delayed.
const MIN_REFUSAL: Duration = Duration::from_secs(2);

/// Heartbeats within one session timeout, after which the group removes a silent member.
const HEARTBEATS_A_SESSION: u32 = 10;

/// The client's default for the longest time between two polls (`max.poll.interval.ms`).
const MAX_POLL: Duration = Duration::from_mins(5);

/// Longest time of one query that checks whether a failure has ended, or confirms that the coordinator is silent.
const MAX_LOOK: Duration = Duration::from_millis(500);

/// Longest time before a member with a fatal error joins again.
const MAX_REJOIN_WAIT: Duration = Duration::from_mins(1);

/// After a membership this long, the next wait is short again.
const STABLE_MEMBERSHIP: Duration = Duration::from_mins(1);

/// Most clients that are being closed: closing one can take as long as the brokers are silent.
const MAX_CLOSING_CLIENTS: usize = 4;

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

#[derive(Debug)]
struct Standing {
    is_member: bool,
    joining_since: Option<Instant>,
    /// The last error of connections; cleared as soon as a broker answers.
    connections: Option<String>,
    looked_at: Instant,
    /// The last refusal of the group's coordinator. The client reports it once, however long it lasts.
    refusal: Option<Refusal>,
    partitions: BTreeSet<PartitionId>,
    rebalances: u64,
    losses: u64,
}

#[derive(Debug)]
struct Refusal {
    error_text: String,
    reported_at: Instant,
}

/// Shared by the clients that are the member, one after the other.
struct Common {
    topic: String,
    protocol: GroupProtocol,
    session_timeout: Duration,
    assignments: OnceLock<Box<dyn Assignments>>,
    standing: Mutex<Standing>,
}

/// One client of the group.
struct MemberContext {
    common: Arc<Common>,
    /// Another client replaces it, and its reports no longer count.
    retired: AtomicBool,
}

impl std::ops::Deref for MemberContext {
    type Target = Common;

    fn deref(&self) -> &Common {
        &self.common
    }
}

type Member = BaseConsumer<MemberContext>;

/// Shared by the threads of a membership.
struct Inner {
    common: Arc<Common>,
    /// Creates the clients of the group.
    config: ClientConfig,
    brokers: String,
    /// Replaced after the member was cut off from its group, or had a fatal error.
    consumer: RwLock<Arc<Member>>,
    /// Queries the group without being a member, and without waiting for transactions.
    onlooker: Arc<BaseConsumer<Plain>>,
    leaving: AtomicBool,
    /// The coordinator was silent for longer than a session.
    cut_off: AtomicBool,
    closing_clients: Arc<AtomicUsize>,
}

/// A membership in the consumer group.
pub struct Membership {
    inner: Arc<Inner>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Membership {
    /// A member that has not joined yet.
    ///
    /// # Errors
    /// [`MembershipError::Client`] names the property that librdkafka refuses.
    pub fn new(config: &KafkaConfig) -> Result<Self, MembershipError> {
        let session = config.session_timeout.as_millis().to_string();
        // Members learn of a rebalance by their heartbeats.
        let heartbeat = config.session_timeout / HEARTBEATS_A_SESSION;
        let heartbeat = heartbeat.as_millis().clamp(100, 1_000).to_string();
        // The client refuses a session timeout that is longer than this.
        let poll_most = config.session_timeout.max(MAX_POLL);
        let poll_most = poll_most.as_millis().to_string();
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
                ("max.poll.interval.ms", poll_most.as_str()),
            ]),
            GroupProtocol::Consumer => defaults.push(("group.protocol", "consumer")),
        }
        if let Some(id) = &config.instance_id {
            defaults.push(("group.instance.id", id.as_str()));
        }
        let common = Arc::new(Common {
            topic: config.topic.clone(),
            protocol: config.protocol,
            session_timeout: config.session_timeout,
            assignments: OnceLock::new(),
            standing: Mutex::new(Standing {
                is_member: false,
                joining_since: None,
                connections: None,
                looked_at: Instant::now(),
                refusal: None,
                partitions: BTreeSet::new(),
                rebalances: 0,
                losses: 0,
            }),
        });
        let member_config = config.client(MEMBER, &defaults);
        let consumer: Member = member_config.create_with_context(MemberContext::new(&common))?;
        let consumer = Arc::new(consumer);
        bootstrap::register(&consumer, &config.brokers, &config.topic);
        let onlooker = [
            ("group.id", config.group.as_str()),
            ("enable.auto.commit", "false"),
            ("isolation.level", "read_uncommitted"),
        ];
        let onlooker: BaseConsumer<Plain> = config
            .client("group-onlooker", &onlooker)
            .create_with_context(Plain)?;
        let onlooker = Arc::new(onlooker);
        bootstrap::register(&onlooker, &config.brokers, &config.topic);
        Ok(Self {
            inner: Arc::new(Inner {
                common,
                config: member_config,
                brokers: config.brokers.clone(),
                consumer: RwLock::new(consumer),
                onlooker,
                leaving: AtomicBool::new(false),
                cut_off: AtomicBool::new(false),
                closing_clients: Arc::default(),
            }),
            threads: Mutex::default(),
        })
    }

    /// The view of the membership for the other clients of this process.
    pub(crate) fn group(&self) -> Arc<dyn Group> {
        Arc::clone(&self.inner) as Arc<dyn Group>
    }

    /// A client that queries the group without being a member.
    pub(crate) fn onlooker(&self) -> Arc<BaseConsumer<Plain>> {
        Arc::clone(&self.inner.onlooker)
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
        let common = &self.inner.common;
        // A second call changes nothing.
        let _ = common.assignments.set(Box::new(assignments));
        common.standing.lock().joining_since = Some(Instant::now());
        let consumer = self.inner.member();
        consumer.subscribe(&[common.topic.as_str()])?;
        // A separate thread queries the coordinator, because a query blocks.
        for (name, run) in [("group", poll as fn(&Inner)), ("coordinator", watch)] {
            let inner = Arc::clone(&self.inner);
            let thread = std::thread::Builder::new()
                .name(name.to_owned())
                .spawn(move || run(&inner))
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
        self.inner.leaving.store(true, Ordering::Release);
        let threads = std::mem::take(&mut *self.threads.lock());
        for thread in threads {
            thread.thread().unpark();
            while !thread.is_finished() && Instant::now() < deadline {
                std::thread::sleep(Duration::from_millis(2));
            }
            if !thread.is_finished() {
                tracing::warn!("the consumer group was not left in time; it notices by itself");
            } else if thread.join().is_err() {
                tracing::error!("a thread of the consumer group had panicked");
            }
        }
    }

    /// The state of this process in its group.
    pub fn report(&self) -> MemberReport {
        let standing = self.inner.common.standing.lock();
        MemberReport {
            joining_for: standing.joining_since.map(|since| since.elapsed()),
            last_error: standing.last_error(),
            partitions: standing.partitions.len(),
            rebalances: standing.rebalances,
            losses: standing.losses,
        }
    }
}

impl Inner {
    fn member(&self) -> Arc<Member> {
        Arc::clone(&self.consumer.read())
    }

    fn is_leaving(&self) -> bool {
        self.leaving.load(Ordering::Acquire)
    }

    /// Reports all partitions as lost and retires the client, whose reports no longer count. Called on the thread that
    /// makes the callbacks, so that no rebalance is under way.
    fn lose_all(&self) {
        self.member().context().retire();
        let lost: Vec<PartitionId> = {
            let mut standing = self.common.standing.lock();
            standing.is_member = false;
            standing.joining_since.get_or_insert_with(Instant::now);
            let lost = std::mem::take(&mut standing.partitions);
            standing.losses += u64::from(!lost.is_empty());
            lost.into_iter().collect()
        };
        if !lost.is_empty()
            && let Some(assignments) = self.common.assignments.get()
        {
            assignments.lost(&lost);
        }
    }

    /// Joins with another client, which replaces the retired one.
    fn rejoin(&self) -> KafkaResult<()> {
        let consumer: Member = self
            .config
            .create_with_context(MemberContext::new(&self.common))?;
        consumer.subscribe(&[self.common.topic.as_str()])?;
        let consumer = Arc::new(consumer);
        bootstrap::register(&consumer, &self.brokers, &self.common.topic);
        let retired = std::mem::replace(&mut *self.consumer.write(), consumer);
        close(retired, &self.closing_clients);
        Ok(())
    }

    /// Whether the group's coordinator answers within the time. With the classic protocol a member cannot query it
    /// while it waits for a rebalance, so another client does.
    fn coordinator_answers(&self, timeout: Duration) -> bool {
        let topic = &self.common.topic;
        match self.common.protocol {
            GroupProtocol::Classic => coordinator_answers(&self.onlooker, topic, timeout),
            GroupProtocol::Consumer => coordinator_answers(&self.member(), topic, timeout),
        }
    }
}

/// Closes a retired client on a separate thread: it can take as long as the brokers are silent.
fn close(retired: Arc<Member>, closing: &Arc<AtomicUsize>) {
    closing.fetch_add(1, Ordering::AcqRel);
    let counter = Arc::clone(closing);
    let thread = std::thread::Builder::new()
        .name("group-closing".to_owned())
        .spawn(move || {
            if retired.close_queue().is_ok() {
                while !retired.closed() {
                    let _ = retired.poll(POLL);
                }
            }
            // Dropping the last reference waits for the client's threads, so that must happen on this thread.
            while Arc::strong_count(&retired) > 1 {
                std::thread::sleep(POLL);
            }
            drop(retired);
            counter.fetch_sub(1, Ordering::AcqRel);
        });
    if let Err(error) = thread {
        closing.fetch_sub(1, Ordering::AcqRel);
        tracing::error!(%error, "a client of the consumer group cannot be closed");
    }
}

impl Group for Inner {
    fn metadata(&self) -> Option<ConsumerGroupMetadata> {
        // A client that is not a member also returns metadata, with which the broker accepts any commit. The group
        // removes a member before this process is notified, so the generation is checked before and after the query.
        let member = self.member();
        let now = || {
            let is_member = self.common.standing.lock().is_member;
            let is_current = !member.context().is_retired();
            (is_member && is_current)
                .then(|| generation(member.client()))
                .flatten()
        };
        let before = now()?;
        let metadata = member.group_metadata();
        metadata.filter(|_| now() == Some(before))
    }

    fn committed(
        &self,
        topic: &str,
        partition: PartitionId,
        timeout: Duration,
    ) -> KafkaResult<Option<Committed>> {
        ask_committed(&self.member(), topic, partition, timeout)
    }

    fn committed_before(
        &self,
        topic: &str,
        partition: PartitionId,
        timeout: Duration,
    ) -> KafkaResult<Option<Committed>> {
        ask_committed(&self.onlooker, topic, partition, timeout)
    }

    fn topic_id(&self, topic: &str, timeout: Duration) -> KafkaResult<Option<TopicId>> {
        topic_id::ask(self.onlooker.client(), topic, timeout)
    }
}

fn poll(inner: &Inner) {
    let mut rejoins = Rejoins::new(inner.common.session_timeout);
    while !inner.is_leaving() {
        let consumer = inner.member();
        // The context has already received an error, with a better message.
        let _ = consumer.poll(POLL);
        if inner.cut_off.swap(false, Ordering::AcqRel) {
            tracing::warn!(
                "the group's coordinator has not answered for the session timeout: all partitions count as lost"
            );
            inner.common.standing.lock().connections =
                Some("the group's coordinator does not answer".to_owned());
            inner.lose_all();
            rejoins.at_once();
        }
        if !consumer.context().is_retired() {
            if inner.common.protocol == GroupProtocol::Consumer {
                see_empty_handed(&consumer);
            }
            if look(&consumer) == Look::Fatal {
                inner.lose_all();
                rejoins.after_a_wait();
            }
        }
        drop(consumer);
        rejoins.go_on(inner);
    }
    let consumer = inner.member();
    if let Err(error) = consumer.close_queue() {
        tracing::error!(%error, "the consumer group cannot be left");
        return;
    }
    while !consumer.closed() {
        let _ = consumer.poll(POLL);
    }
    inner.common.standing.lock().is_member = false;
}

/// When the process joins again after its client was retired.
struct Rejoins {
    first_wait: Duration,
    wait: Duration,
    due: Option<Instant>,
    joined_at: Instant,
}

impl Rejoins {
    /// A group that refuses an instance id in use releases it after a session, so the first wait is one session long.
    fn new(session_timeout: Duration) -> Self {
        Self {
            first_wait: session_timeout,
            wait: session_timeout,
            due: None,
            joined_at: Instant::now(),
        }
    }

    fn at_once(&mut self) {
        self.due = Some(Instant::now());
    }

    /// Two processes with one instance id fence each other: each time the next wait is longer.
    fn after_a_wait(&mut self) {
        if self.joined_at.elapsed() > self.wait + STABLE_MEMBERSHIP {
            self.wait = self.first_wait;
        }
        self.due = Some(Instant::now() + self.wait);
        self.wait = (self.wait * 2).min(MAX_REJOIN_WAIT.max(self.first_wait));
    }

    fn go_on(&mut self, inner: &Inner) {
        if self.due.is_none_or(|due| due > Instant::now())
            || inner.closing_clients.load(Ordering::Acquire) >= MAX_CLOSING_CLIENTS
        {
            return;
        }
        self.joined_at = Instant::now();
        match inner.rejoin() {
            Ok(()) => {
                tracing::info!("joining the consumer group again");
                self.due = None;
            }
            Err(error) => {
                tracing::error!(%error, "the consumer group cannot be joined again");
                self.after_a_wait();
            }
        }
    }
}

/// Queries the coordinator while this process is a member, and marks the member as cut off if it stays silent.
fn watch(inner: &Inner) {
    let limits = SilenceLimits::of_session(inner.common.session_timeout);
    let mut silence = Silence::new(limits);
    while !inner.is_leaving() {
        // `leave` wakes it.
        std::thread::park_timeout(limits.pause);
        let is_member = inner.common.standing.lock().is_member;
        let asked_at = Instant::now();
        if !is_member || inner.coordinator_answers(limits.query) {
            silence.answered();
            continue;
        }
        silence.unanswered(asked_at.elapsed());
        if !silence.is_over() {
            continue;
        }
        silence.answered();
        // Only the connection of the other client may be broken.
        let topic = &inner.common.topic;
        let confirm = limits.query.min(MAX_LOOK);
        if inner.common.protocol == GroupProtocol::Classic
            && coordinator_answers(&inner.member(), topic, confirm)
        {
            continue;
        }
        inner.cut_off.store(true, Ordering::Release);
    }
}

/// Updates whether a process without partitions is a member: with the consumer protocol, the client reports neither an
/// assignment that stays empty nor its end. Called on the thread that revokes partitions: none is being lost meanwhile.
fn see_empty_handed(consumer: &Member) {
    let context = consumer.context();
    let generation = generation(consumer.client());
    let mut standing = context.standing.lock();
    match generation {
        Some(_) if standing.joining_since.is_some() => {
            standing.is_member = true;
            standing.joining_since = None;
            standing.refusal = None;
            tracing::info!("in the group");
        }
        None if standing.is_member && standing.partitions.is_empty() => {
            standing.is_member = false;
            standing.joining_since = Some(Instant::now());
        }
        Some(_) | None => {}
    }
}

/// The result of a check of a member.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Look {
    GoesOn,
    /// Its client has a fatal error.
    Fatal,
}

/// Clears a failure that has ended: the client reports only when one begins.
fn look(consumer: &Member) -> Look {
    let context = consumer.context();
    {
        let mut standing = context.standing.lock();
        if standing.last_error().is_none() || standing.looked_at.elapsed() < FAILURE_CHECK_INTERVAL
        {
            return Look::GoesOn;
        }
        standing.looked_at = Instant::now();
    }
    if let Some((code, error_text)) = consumer.client().fatal_error() {
        let error_text = fatal_error_text(code, &error_text);
        tracing::error!(
            error_text,
            "the consumer group: all partitions count as lost"
        );
        context.standing.lock().refuse(error_text);
        return Look::Fatal;
    }
    let has_connection_failure = context.standing.lock().connections.is_some();
    if has_connection_failure && consumer.fetch_metadata(None, MAX_LOOK).is_ok() {
        tracing::info!("the brokers answer again");
        context.standing.lock().connections = None;
    }
    if is_taken_again(consumer) {
        tracing::info!("the group's coordinator answers again");
        context.standing.lock().refusal = None;
    }
    Look::GoesOn
}

/// The message for the operator about a fatal error of a client.
fn fatal_error_text(code: RDKafkaErrorCode, reason: &str) -> String {
    let is_about_the_name = matches!(
        code,
        RDKafkaErrorCode::FencedInstanceId | RDKafkaErrorCode::UnreleasedInstanceId
    );
    let way_out = if is_about_the_name {
        "another process has the same group-instance-id: give each engine one of its own; this one joins again after a while"
    } else {
        "it joins again after a while"
    };
    format!("{reason} ({code}); {way_out}")
}

/// Whether a member that got a refusal is still a member and the coordinator answers it. No assignment follows that
/// would clear the refusal, and an answer of any other broker says nothing about the coordinator.
fn is_taken_again(consumer: &Member) -> bool {
    let context = consumer.context();
    let may_be = {
        let standing = context.standing.lock();
        let refusal = standing.refusal.as_ref();
        standing.is_member
            && refusal.is_some_and(|refusal| refusal.reported_at.elapsed() > MIN_REFUSAL)
    };
    may_be
        && generation(consumer.client()).is_some()
        && ask_committed(consumer, &context.topic, PartitionId(0), MAX_LOOK).is_ok()
}

impl Standing {
    /// The current failure: a refusal first, because it does not end by itself.
    fn last_error(&self) -> Option<MemberFailure> {
        let refusal = self.refusal.as_ref();
        refusal
            .map(|refusal| MemberFailure::Group(refusal.error_text.clone()))
            .or_else(|| self.connections.clone().map(MemberFailure::Connections))
    }

    fn refuse(&mut self, error_text: String) {
        self.refusal = Some(Refusal {
            error_text,
            reported_at: Instant::now(),
        });
    }
}

/// Whether an error is about connections, which ends when a broker answers. All others are about the group.
fn is_about_connections(code: Option<RDKafkaErrorCode>) -> bool {
    matches!(
        code,
        Some(
            RDKafkaErrorCode::BrokerTransportFailure
                | RDKafkaErrorCode::AllBrokersDown
                | RDKafkaErrorCode::Resolve
                | RDKafkaErrorCode::OperationTimedOut
                | RDKafkaErrorCode::NetworkException
                | RDKafkaErrorCode::Authentication
                | RDKafkaErrorCode::SSL
        )
    )
}

impl MemberContext {
    fn new(common: &Arc<Common>) -> Self {
        Self {
            common: Arc::clone(common),
            retired: AtomicBool::new(false),
        }
    }

    fn is_retired(&self) -> bool {
        self.retired.load(Ordering::Acquire)
    }

    fn retire(&self) {
        self.retired.store(true, Ordering::Release);
    }

    /// Records and logs an error of the client.
    fn note(&self, error: &KafkaError, error_text: &str) {
        let code = error.rdkafka_error_code();
        if self.is_retired() {
            tracing::debug!(
                error_text,
                "a client of the consumer group that was retired"
            );
            return;
        }
        if code == Some(RDKafkaErrorCode::AutoOffsetReset) {
            // About a paused partition, which this client does not read.
            return;
        }
        let is_first = {
            let mut standing = self.standing.lock();
            let is_first = standing.last_error().is_none();
            if is_about_connections(code) {
                standing.connections = Some(error_text.to_owned());
            } else {
                standing.refuse(error_text.to_owned());
            }
            is_first
        };
        if code == Some(RDKafkaErrorCode::PollExceeded) {
            tracing::error!(%error, "the group was not polled for too long");
        } else if is_first || !is_about_connections(code) {
            tracing::warn!(error_text, "trouble with the consumer group");
        } else {
            tracing::debug!(error_text, "more trouble with the consumer group");
        }
    }

    fn assign(&self, consumer: &Member, partitions: &TopicPartitionList) {
        let ids = self.ids(partitions);
        let mut from_end = TopicPartitionList::new();
        for element in partitions.elements() {
            // Never read; with an explicit offset the client does not query the group for one.
            let added =
                from_end.add_partition_offset(element.topic(), element.partition(), Offset::End);
            if let Err(error) = added {
                tracing::error!(%error, "a partition cannot be assigned");
            }
        }
        if let Err(error) = consumer.incremental_assign(&from_end) {
            self.note(&error, &format!("partitions cannot be assigned: {error}"));
            return;
        }
        if let Err(error) = consumer.pause(&from_end) {
            tracing::warn!(%error, "partitions of the group's consumer are not paused; it reads them for nothing");
        }
        if self.is_retired() {
            return;
        }
        {
            let mut standing = self.standing.lock();
            standing.is_member = true;
            standing.joining_since = None;
            standing.connections = None;
            standing.refusal = None;
            standing.partitions.extend(ids.iter().copied());
            standing.rebalances += u64::from(!ids.is_empty());
        }
        if !ids.is_empty() {
            tracing::info!(partitions = %Listed(&ids), "assigned");
        }
        if let Some(assignments) = self.assignments.get() {
            assignments.assigned(&ids);
        }
    }

    fn revoke(&self, consumer: &Member, partitions: &TopicPartitionList) {
        if self.is_retired() {
            // They were reported as lost before.
            let _ = consumer.incremental_unassign(partitions);
            return;
        }
        let ids = self.ids(partitions);
        let lost = consumer.assignment_lost();
        if lost {
            let mut standing = self.standing.lock();
            standing.is_member = false;
            standing.joining_since = Some(Instant::now());
        }
        if let Some(assignments) = self.assignments.get() {
            if lost {
                tracing::warn!(partitions = %Listed(&ids), "lost: the group has given them to others");
                assignments.lost(&ids);
            } else {
                tracing::info!(partitions = %Listed(&ids), "revoked: saving and letting go");
                assignments.revoked(&ids, Instant::now() + self.session_timeout / 2);
            }
        }
        {
            let mut standing = self.standing.lock();
            for id in &ids {
                standing.partitions.remove(id);
            }
            standing.rebalances += u64::from(!ids.is_empty());
            standing.losses += u64::from(lost);
        }
        if let Err(error) = consumer.incremental_unassign(partitions) {
            tracing::warn!(%error, "partitions cannot be let go of");
        }
    }

    fn ids(&self, partitions: &TopicPartitionList) -> Vec<PartitionId> {
        let elements = partitions.elements();
        elements
            .iter()
            .filter(|element| element.topic() == self.topic)
            .filter_map(|element| u32::try_from(element.partition()).ok())
            .map(PartitionId)
            .collect()
    }
}

struct Listed<'a>(&'a [PartitionId]);

impl std::fmt::Display for Listed<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (place, id) in self.0.iter().enumerate() {
            write!(f, "{}{id}", if place == 0 { "" } else { "," })?;
        }
        Ok(())
    }
}

impl ClientContext for MemberContext {
    fn error(&self, error: KafkaError, reason: &str) {
        self.note(&error, &format!("{reason} ({error})"));
    }

    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        context::log(level, facility, message);
    }
}

impl ConsumerContext for MemberContext {
    fn rebalance(
        &self,
        consumer: &Member,
        event: RDKafkaRespErr,
        partitions: &mut TopicPartitionList,
    ) {
        if event == RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS {
            self.assign(consumer, partitions);
        } else {
            self.revoke(consumer, partitions);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn membership() -> Membership {
        let config = KafkaConfig {
            brokers: "127.0.0.1:1".to_owned(),
            ..KafkaConfig::default()
        };
        Membership::new(&config).unwrap()
    }

    fn report(membership: &Membership, code: RDKafkaErrorCode, error_text: &str) {
        let member = membership.inner.member();
        member.context().error(KafkaError::Global(code), error_text);
    }

    fn last_error(membership: &Membership) -> Option<(&'static str, String)> {
        membership
            .report()
            .last_error
            .map(|last_error| match last_error {
                MemberFailure::Connections(error_text) => ("connections", error_text),
                MemberFailure::Group(error_text) => ("group", error_text),
            })
    }

    #[test]
    fn what_is_said_of_connections_does_not_hide_what_the_group_refuses() {
        let membership = membership();
        assert_eq!(last_error(&membership), None);
        report(&membership, RDKafkaErrorCode::AllBrokersDown, "1/1 down");
        let (kind, _) = last_error(&membership).unwrap();
        assert_eq!(kind, "connections");
        let refused = RDKafkaErrorCode::GroupAuthorizationFailed;
        report(&membership, refused, "not authorized");
        report(
            &membership,
            RDKafkaErrorCode::BrokerTransportFailure,
            "gone",
        );
        let (kind, error_text) = last_error(&membership).unwrap();
        assert_eq!(kind, "group");
        assert!(error_text.starts_with("not authorized"), "{error_text}");
    }

    #[test]
    fn a_refusal_is_not_over_when_any_broker_answers() {
        let cluster = rdkafka::mocking::MockCluster::new(1).unwrap();
        let config = KafkaConfig {
            brokers: cluster.bootstrap_servers(),
            ..KafkaConfig::default()
        };
        let membership = Membership::new(&config).unwrap();
        report(
            &membership,
            RDKafkaErrorCode::BrokerTransportFailure,
            "gone",
        );
        let refused = RDKafkaErrorCode::GroupAuthorizationFailed;
        report(&membership, refused, "not authorized");
        let deadline = Instant::now() + Duration::from_mins(2);
        let member = membership.inner.member();
        while member.context().standing.lock().connections.is_some() {
            assert!(Instant::now() < deadline, "a broker answers");
            let _ = member.poll(Duration::from_millis(10));
            look(&member);
        }
        let (kind, _) = last_error(&membership).unwrap();
        assert_eq!(kind, "group");
    }

    #[test]
    fn the_longest_session_is_taken() {
        let config = KafkaConfig {
            session_timeout: Duration::from_mins(30),
            ..KafkaConfig::default()
        };
        assert!(Membership::new(&config).is_ok());
    }

    /// Counts the partitions of its calls.
    #[derive(Clone, Default)]
    struct Counted(Arc<[AtomicUsize; 2]>);

    impl Counted {
        fn assigned(&self) -> usize {
            self.0[0].load(Ordering::Acquire)
        }

        fn lost(&self) -> usize {
            self.0[1].load(Ordering::Acquire)
        }
    }

    impl Assignments for Counted {
        fn assigned(&self, partitions: &[PartitionId]) {
            self.0[0].fetch_add(partitions.len(), Ordering::AcqRel);
        }

        fn revoked(&self, _: &[PartitionId], _: Instant) {}

        fn lost(&self, partitions: &[PartitionId]) {
            self.0[1].fetch_add(partitions.len(), Ordering::AcqRel);
        }
    }

    fn a_member_is_cut_off(protocol: GroupProtocol) {
        let cluster = rdkafka::mocking::MockCluster::new(1).unwrap();
        cluster.create_topic("events", 2, 1).unwrap();
        let config = KafkaConfig {
            brokers: cluster.bootstrap_servers(),
            topic: "events".to_owned(),
            session_timeout: Duration::from_secs(3),
            protocol,
            ..KafkaConfig::default()
        };
        let membership = Membership::new(&config).unwrap();
        let counted = Counted::default();
        membership.join(counted.clone()).unwrap();
        until("both partitions are assigned", || counted.assigned() == 2);
        assert_eq!(membership.report().partitions, 2);
        cluster.broker_down(1).unwrap();
        until("both are lost", || counted.lost() == 2);
        let report = membership.report();
        assert_eq!(report.partitions, 0);
        assert!(report.joining_for.is_some());
        assert!(membership.group().metadata().is_none(), "it writes nothing");
        cluster.broker_up(1).unwrap();
        until("both are assigned again", || counted.assigned() == 4);
        assert_eq!(counted.lost(), 2);
        assert_eq!(membership.report().losses, 1);
        membership.leave(Instant::now() + Duration::from_secs(20));
    }

    #[test]
    fn a_member_that_is_cut_off_loses_its_partitions_and_joins_again() {
        a_member_is_cut_off(GroupProtocol::Classic);
    }

    #[test]
    fn a_member_whose_broker_assigns_loses_its_partitions_too_when_cut_off() {
        a_member_is_cut_off(GroupProtocol::Consumer);
    }

    struct Nothing;

    impl Assignments for Nothing {
        fn assigned(&self, _: &[PartitionId]) {}
        fn revoked(&self, _: &[PartitionId], _: Instant) {}
        fn lost(&self, _: &[PartitionId]) {}
    }

    fn until(what: &str, mut is_so: impl FnMut() -> bool) {
        let deadline = Instant::now() + Duration::from_mins(2);
        while !is_so() {
            assert!(Instant::now() < deadline, "in time: {what}");
            std::thread::sleep(POLL);
        }
    }

    fn a_standby_takes_over(protocol: GroupProtocol) {
        let topic = format!("standby-{:08x}", fastrand::u32(..));
        let config = KafkaConfig {
            brokers: std::env::var("KAFKA_BROKERS").expect("KAFKA_BROKERS names the brokers"),
            group: format!("group-{topic}"),
            create_topic: Some(1),
            session_timeout: Duration::from_secs(6),
            protocol,
            topic,
            ..KafkaConfig::default()
        };
        until("topics", || crate::topics::prepare(&config).is_ok());
        let join = || {
            let membership = Membership::new(&config).unwrap();
            membership.join(Nothing).unwrap();
            membership
        };
        let is_in = |member: &Membership| member.report().joining_for.is_none();
        let first = join();
        until("the first has the partition", || {
            is_in(&first) && first.report().partitions == 1
        });
        let second = join();
        until("the second is in the group", || {
            is_in(&second) && second.report().last_error.is_none()
        });
        assert!(second.group().metadata().is_some());
        first.leave(Instant::now() + Duration::from_secs(20));
        until("the second has the partition", || {
            second.report().partitions == 1
        });
        assert!(is_in(&second));
        second.leave(Instant::now() + Duration::from_secs(20));
    }

    #[test]
    #[ignore = "needs a real Kafka in KAFKA_BROKERS"]
    fn a_standby_without_partitions_is_in_the_group() {
        a_standby_takes_over(GroupProtocol::Classic);
    }

    #[test]
    #[ignore = "needs a real Kafka in KAFKA_BROKERS"]
    fn a_standby_without_partitions_is_in_a_group_where_the_broker_assigns() {
        a_standby_takes_over(GroupProtocol::Consumer);
    }
}
