//! This process as a member of the consumer group: which partitions it owns, told as they come and go.
//!
//! The group's consumer reads nothing: its partitions stay paused, other clients read them. So it is
//! always polled, and neither a load nor a save can make the group believe that this process is dead.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext, ConsumerGroupMetadata};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::types::RDKafkaRespErr;
use rdkafka::{ClientContext, Offset, TopicPartitionList};
use workspace_lifecycle::PartitionId;

use crate::config::{GroupProtocol, KafkaConfig, MEMBER};
use crate::context::{self, Plain};
use crate::generation::generation;
use crate::group::{Committed, Group, ask_committed};
use crate::topic_id::{self, TopicId};

/// Between two looks at the group's events; each look also tells the client that this process lives.
const POLL: Duration = Duration::from_millis(100);

/// Between two looks whether a trouble with the brokers is over.
const TROUBLE_LOOK: Duration = Duration::from_secs(1);

/// How long a refusal is told of at least: what follows from it may take a moment.
const REFUSAL_LEAST: Duration = Duration::from_secs(2);

/// Heartbeats in the time after which a member that is silent is taken for dead.
const HEARTBEATS_A_SESSION: u32 = 10;

/// The client's own most between two looks at the group's events.
const POLL_MOST: Duration = Duration::from_mins(5);

/// How long such a look may take.
const LOOK_MOST: Duration = Duration::from_millis(500);

/// What a member does with its partitions. Calls come one after the other from one thread.
pub trait Assignments: Send + Sync + 'static {
    /// They belong to this process from now on. It must not wait for their loads.
    fn assigned(&self, partitions: &[PartitionId]);

    /// They go to another member as soon as this returns, which must be by `deadline`.
    fn revoked(&self, partitions: &[PartitionId], deadline: Instant);

    /// They have gone to another member already.
    fn lost(&self, partitions: &[PartitionId]);
}

/// Where this process stands in its group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemberReport {
    /// Since when it waits for the group's coordinator to let it in; none once it was.
    pub joining_for: Option<Duration>,
    /// What stands between it and its group.
    pub trouble: Option<MemberTrouble>,
    /// Partitions that it owns.
    pub partitions: usize,
    /// How often partitions came or went.
    pub rebalances: u64,
    /// How often partitions were gone before they could be handed over.
    pub losses: u64,
}

/// What stands between a member and its group, in the client's words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MemberTrouble {
    /// Some brokers cannot be reached. One that is a member already stays so unless it is the coordinator, and then it
    /// is not a member for long.
    Connections(String),
    /// The group does not take it, or it cannot go on.
    Group(String),
}

impl MemberTrouble {
    /// What the client says.
    pub fn words(&self) -> &str {
        match self {
            Self::Connections(words) | Self::Group(words) => words,
        }
    }
}

/// Why a process cannot be a member.
#[derive(Debug, thiserror::Error)]
pub enum MembershipError {
    /// The client refuses its configuration.
    #[error("the Kafka client cannot be configured: {0}")]
    Client(String),
    /// The operating system gives no thread.
    #[error("cannot start the thread of the consumer group")]
    Thread(#[source] std::io::Error),
}

#[derive(Debug)]
struct Standing {
    is_member: bool,
    joining_since: Option<Instant>,
    /// What is said of connections; over as soon as a broker answers.
    connections: Option<String>,
    looked_at: Instant,
    /// What the group's coordinator refuses. The client tells it once, however long it lasts.
    refusal: Option<Refusal>,
    partitions: BTreeSet<PartitionId>,
    rebalances: u64,
    losses: u64,
}

#[derive(Debug)]
struct Refusal {
    words: String,
    told_at: Instant,
}

struct MemberContext {
    topic: String,
    protocol: GroupProtocol,
    /// How long partitions that are revoked may take to be saved.
    handover: Duration,
    assignments: OnceLock<Box<dyn Assignments>>,
    standing: Mutex<Standing>,
}

type Member = BaseConsumer<MemberContext>;

/// A membership in the consumer group.
pub struct Membership {
    consumer: Arc<Member>,
    /// Asks the group without being a member, and without waiting for transactions.
    onlooker: Arc<BaseConsumer<Plain>>,
    leaving: Arc<AtomicBool>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Membership {
    /// A member that has not joined yet.
    ///
    /// # Errors
    /// [`MembershipError::Client`] names the property that librdkafka does not take.
    pub fn new(config: &KafkaConfig) -> Result<Self, MembershipError> {
        let session = config.session_timeout.as_millis().to_string();
        // Members learn of a rebalance by their heartbeats.
        let heartbeat = config.session_timeout / HEARTBEATS_A_SESSION;
        let heartbeat = heartbeat.as_millis().clamp(100, 1_000).to_string();
        // The client refuses a session that is longer.
        let poll_most = config.session_timeout.max(POLL_MOST);
        let poll_most = poll_most.as_millis().to_string();
        let mut defaults = vec![
            ("group.id", config.group.as_str()),
            ("enable.auto.commit", "false"),
            ("enable.auto.offset.store", "false"),
            // Committed offsets are asked for with the transactions that are under way.
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
        let context = MemberContext {
            topic: config.topic.clone(),
            protocol: config.protocol,
            handover: config.session_timeout / 2,
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
        };
        let consumer: Member = config
            .client(MEMBER, &defaults)
            .create_with_context(context)?;
        let onlooker = [
            ("group.id", config.group.as_str()),
            ("enable.auto.commit", "false"),
            ("isolation.level", "read_uncommitted"),
        ];
        let onlooker = config
            .client("group-onlooker", &onlooker)
            .create_with_context(Plain)?;
        Ok(Self {
            consumer: Arc::new(consumer),
            onlooker: Arc::new(onlooker),
            leaving: Arc::new(AtomicBool::new(false)),
            thread: Mutex::new(None),
        })
    }

    /// What the other clients of this process ask of the membership.
    pub(crate) fn group(&self) -> Arc<dyn Group> {
        Arc::new(OwnGroup {
            member: Arc::clone(&self.consumer),
            onlooker: Arc::clone(&self.onlooker),
        })
    }

    /// Joins the group; `assignments` is told of every partition that comes or goes.
    ///
    /// # Errors
    /// [`MembershipError`].
    pub fn join(&self, assignments: impl Assignments) -> Result<(), MembershipError> {
        let context = self.consumer.context();
        // A second call changes nothing.
        let _ = context.assignments.set(Box::new(assignments));
        context.standing.lock().joining_since = Some(Instant::now());
        self.consumer.subscribe(&[context.topic.as_str()])?;
        let (consumer, leaving) = (Arc::clone(&self.consumer), Arc::clone(&self.leaving));
        let thread = std::thread::Builder::new()
            .name("group".to_owned())
            .spawn(move || poll(&consumer, &leaving))
            .map_err(MembershipError::Thread)?;
        *self.thread.lock() = Some(thread);
        Ok(())
    }

    /// Leaves the group: partitions are revoked first, so that others take them over at once. Blocks until
    /// it has left or `deadline` is over.
    ///
    /// One with a name of its own (`instance_id`) is taken for one that comes back: it revokes its partitions, but the
    /// group gives them to others only when the session timeout is over.
    pub fn leave(&self, deadline: Instant) {
        self.leaving.store(true, Ordering::Release);
        let Some(thread) = self.thread.lock().take() else {
            return;
        };
        while !thread.is_finished() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(2));
        }
        if thread.is_finished() {
            if thread.join().is_err() {
                tracing::error!("the thread of the consumer group had panicked");
            }
        } else {
            tracing::warn!("the consumer group was not left in time; it notices by itself");
        }
    }

    /// Where this process stands in its group.
    pub fn report(&self) -> MemberReport {
        let standing = self.consumer.context().standing.lock();
        MemberReport {
            joining_for: standing.joining_since.map(|since| since.elapsed()),
            trouble: standing.trouble(),
            partitions: standing.partitions.len(),
            rebalances: standing.rebalances,
            losses: standing.losses,
        }
    }
}

struct OwnGroup {
    member: Arc<Member>,
    onlooker: Arc<BaseConsumer<Plain>>,
}

impl Group for OwnGroup {
    fn metadata(&self) -> Option<ConsumerGroupMetadata> {
        // A client that is no member hands metadata out as well: with those the broker lets anybody commit. It is
        // thrown out before this process is told, so the generation is looked at on both sides of the question.
        let now = || {
            let is_member = self.member.context().standing.lock().is_member;
            is_member
                .then(|| generation(self.member.client()))
                .flatten()
        };
        let before = now()?;
        let metadata = self.member.group_metadata();
        metadata.filter(|_| now() == Some(before))
    }

    fn committed(
        &self,
        topic: &str,
        partition: PartitionId,
        timeout: Duration,
    ) -> KafkaResult<Option<Committed>> {
        ask_committed(&self.member, topic, partition, timeout)
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

fn poll(consumer: &Member, leaving: &AtomicBool) {
    while !leaving.load(Ordering::Acquire) {
        // An error was told to the context before, in better words.
        let _ = consumer.poll(POLL);
        if consumer.context().protocol == GroupProtocol::Consumer {
            see_empty_handed(consumer);
        }
        look(consumer);
    }
    if let Err(error) = consumer.close_queue() {
        tracing::error!(%error, "the consumer group cannot be left");
        return;
    }
    while !consumer.closed() {
        let _ = consumer.poll(POLL);
    }
    consumer.context().standing.lock().is_member = false;
}

/// Whether one without partitions is a member: where the broker assigns, the client tells nothing of an assignment that
/// stays empty, nor of its end. Called on the thread that lets go of partitions: none is being lost meanwhile.
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

/// Forgets a trouble that is over: the client tells only when one begins.
fn look(consumer: &Member) {
    let context = consumer.context();
    {
        let mut standing = context.standing.lock();
        if standing.trouble().is_none() || standing.looked_at.elapsed() < TROUBLE_LOOK {
            return;
        }
        standing.looked_at = Instant::now();
    }
    if let Some((code, words)) = consumer.client().fatal_error() {
        context.standing.lock().refuse(format!(
            "{words} ({code}); it does not go on by itself: start this engine anew"
        ));
        return;
    }
    let has_connection_trouble = context.standing.lock().connections.is_some();
    if has_connection_trouble && consumer.fetch_metadata(None, LOOK_MOST).is_ok() {
        tracing::info!("the brokers answer again");
        context.standing.lock().connections = None;
    }
    if is_taken_again(consumer) {
        tracing::info!("the group's coordinator answers again");
        context.standing.lock().refusal = None;
    }
}

/// Whether a member that was refused something is still one, and the coordinator answers it: nothing is assigned to it
/// because of that. That any broker answers says nothing about the coordinator.
fn is_taken_again(consumer: &Member) -> bool {
    let context = consumer.context();
    let may_be = {
        let standing = context.standing.lock();
        let refusal = standing.refusal.as_ref();
        standing.is_member
            && refusal.is_some_and(|refusal| refusal.told_at.elapsed() > REFUSAL_LEAST)
    };
    may_be
        && generation(consumer.client()).is_some()
        && ask_committed(consumer, &context.topic, PartitionId(0), LOOK_MOST).is_ok()
}

impl Standing {
    /// Of two troubles the one that does not pass by itself.
    fn trouble(&self) -> Option<MemberTrouble> {
        let refusal = self.refusal.as_ref();
        refusal
            .map(|refusal| MemberTrouble::Group(refusal.words.clone()))
            .or_else(|| self.connections.clone().map(MemberTrouble::Connections))
    }

    fn refuse(&mut self, words: String) {
        self.refusal = Some(Refusal {
            words,
            told_at: Instant::now(),
        });
    }
}

/// Whether an error is one of connections: it is over when a broker answers. All others are the group's.
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
    /// Keeps what stands between this process and its group.
    fn note(&self, error: &KafkaError, words: &str) {
        let code = error.rdkafka_error_code();
        if code == Some(RDKafkaErrorCode::AutoOffsetReset) {
            // Of a partition that is paused: nobody reads it here.
            return;
        }
        let is_first = {
            let mut standing = self.standing.lock();
            let is_first = standing.trouble().is_none();
            if is_about_connections(code) {
                standing.connections = Some(words.to_owned());
            } else {
                standing.refuse(words.to_owned());
            }
            is_first
        };
        if code == Some(RDKafkaErrorCode::PollExceeded) {
            tracing::error!(%error, "the group was not polled for too long");
        } else if is_first || !is_about_connections(code) {
            tracing::warn!(words, "trouble with the consumer group");
        } else {
            tracing::debug!(words, "more trouble with the consumer group");
        }
    }

    fn assign(&self, consumer: &Member, partitions: &TopicPartitionList) {
        let ids = self.ids(partitions);
        let mut from_end = TopicPartitionList::new();
        for element in partitions.elements() {
            // Never read; a place that exists keeps the client from asking the group for one.
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
                assignments.revoked(&ids, Instant::now() + self.handover);
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

    fn tell(membership: &Membership, code: RDKafkaErrorCode, words: &str) {
        let context = membership.consumer.context();
        context.error(KafkaError::Global(code), words);
    }

    fn trouble(membership: &Membership) -> Option<(&'static str, String)> {
        membership.report().trouble.map(|trouble| match trouble {
            MemberTrouble::Connections(words) => ("connections", words),
            MemberTrouble::Group(words) => ("group", words),
        })
    }

    #[test]
    fn what_is_said_of_connections_does_not_hide_what_the_group_refuses() {
        let membership = membership();
        assert_eq!(trouble(&membership), None);
        tell(&membership, RDKafkaErrorCode::AllBrokersDown, "1/1 down");
        let (kind, _) = trouble(&membership).unwrap();
        assert_eq!(kind, "connections");
        let refused = RDKafkaErrorCode::GroupAuthorizationFailed;
        tell(&membership, refused, "not authorized");
        tell(
            &membership,
            RDKafkaErrorCode::BrokerTransportFailure,
            "gone",
        );
        let (kind, words) = trouble(&membership).unwrap();
        assert_eq!(kind, "group");
        assert!(words.starts_with("not authorized"), "{words}");
    }

    #[test]
    fn a_refusal_is_not_over_when_any_broker_answers() {
        let cluster = rdkafka::mocking::MockCluster::new(1).unwrap();
        let config = KafkaConfig {
            brokers: cluster.bootstrap_servers(),
            ..KafkaConfig::default()
        };
        let membership = Membership::new(&config).unwrap();
        tell(
            &membership,
            RDKafkaErrorCode::BrokerTransportFailure,
            "gone",
        );
        let refused = RDKafkaErrorCode::GroupAuthorizationFailed;
        tell(&membership, refused, "not authorized");
        let deadline = Instant::now() + Duration::from_mins(2);
        while membership
            .consumer
            .context()
            .standing
            .lock()
            .connections
            .is_some()
        {
            assert!(Instant::now() < deadline, "a broker answers");
            let _ = membership.consumer.poll(Duration::from_millis(10));
            look(&membership.consumer);
        }
        let (kind, _) = trouble(&membership).unwrap();
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
            is_in(&second) && second.report().trouble.is_none()
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
