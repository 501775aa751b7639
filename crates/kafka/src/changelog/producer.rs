//! The one transactional producer of an engine: runs a transaction and returns how it ended.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::ConsumerGroupMetadata;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{DeliveryResult, Message};
use rdkafka::producer::{BaseRecord, Producer, ProducerContext, ThreadedProducer};
use rdkafka::{ClientConfig, ClientContext, TopicPartitionList};
use workspace_lifecycle::PartitionId;

use super::failure::{is_fatal, is_retriable, requires_abort};
use super::reader::number;
use crate::bootstrap;
use crate::config::KafkaConfig;
use crate::context;

/// The coordinator aborts a transaction that takes longer. If a process dies in its first transaction on a partition,
/// the next owner waits for this time, and for the coordinator's next check (every ten seconds by default). The time is
/// the session timeout within these bounds, so that this wait is no longer than the one for the dead member's session.
const MIN_TRANSACTION_TIMEOUT: Duration = Duration::from_secs(10);
const MAX_TRANSACTION_TIMEOUT: Duration = Duration::from_secs(30);

/// The share of that time, as a divisor, that a transaction may take until its commit; the rest is for the commit.
const UNTIL_COMMIT_DIVISOR: u32 = 2;

/// The most time that a transaction may take until its commit.
const MAX_UNTIL_COMMIT: Duration = Duration::from_secs(10);

/// How long a call of the client may exceed its timeout before the client counts as stuck.
const STUCK_AFTER: Duration = Duration::from_secs(2);

/// Most stuck clients: each may keep its threads, connections and buffers for good.
const MAX_STUCK_CLIENTS: usize = 4;

/// How long a commit is retried before its outcome counts as unknown.
const COMMIT_TIMEOUT: Duration = Duration::from_secs(20);

/// Timeout of one `init_transactions` call.
const INIT_TIMEOUT: Duration = Duration::from_secs(5);

/// How long an abort is retried before the producer is abandoned.
const ABORT_TIMEOUT: Duration = Duration::from_secs(10);

/// Wait between two attempts to create a producer.
const MIN_BACKOFF: Duration = Duration::from_millis(100);
const MAX_BACKOFF: Duration = Duration::from_secs(5);

/// Wait when the client's queue is full, and before a call is retried.
const RETRY_PAUSE: Duration = Duration::from_millis(5);

/// Between two checks whether the records of a transaction are delivered.
const DELIVERY_POLL: Duration = Duration::from_micros(500);

/// Between two log lines about errors of the client.
const REPORT_INTERVAL: Duration = Duration::from_secs(10);

/// A record of a transaction.
pub(super) struct Record {
    pub(super) partition: PartitionId,
    pub(super) key: Vec<u8>,
    pub(super) value: Option<Vec<u8>>,
}

/// How a transaction ended.
#[derive(Debug)]
pub(super) enum Outcome {
    /// It is visible. Holds the offset after its last record in each partition.
    Committed(HashMap<PartitionId, u64>),
    /// Nothing of it is visible or will be.
    Aborted(String),
    /// It may have been committed; a new producer decides it.
    Unknown(String),
    /// It was aborted, or will be: the changelog of a partition accepted a record at an offset below its known end.
    LostEnd { partition: PartitionId, offset: u64 },
}

/// What the client reports about the records of a transaction.
#[derive(Default)]
struct Delivered {
    /// The first and the last offset of each partition.
    offsets: Mutex<HashMap<i32, (i64, i64)>>,
    failure: Mutex<Option<String>>,
    /// When an error was logged last: the client repeats it twice a second.
    reported_at: Mutex<Option<Instant>>,
}

impl Delivered {
    /// A partition that accepted a record below its known end, and the offset of that record.
    fn below(&self, known_ends: &HashMap<PartitionId, u64>) -> Option<(PartitionId, u64)> {
        self.offsets.lock().iter().find_map(|(number, (first, _))| {
            let partition = PartitionId(u32::try_from(*number).ok()?);
            let first = u64::try_from(*first).ok()?;
            (first < *known_ends.get(&partition)?).then_some((partition, first))
        })
    }
}

impl ClientContext for Delivered {
    fn error(&self, error: KafkaError, reason: &str) {
        let now = Instant::now();
        let mut reported_at = self.reported_at.lock();
        if reported_at.is_none_or(|at| now.duration_since(at) >= REPORT_INTERVAL) {
            *reported_at = Some(now);
            tracing::warn!(%error, reason, "the changelog's producer reports an error");
        }
    }

    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        context::log(level, facility, message);
    }
}

impl ProducerContext for Delivered {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        match result {
            Ok(message) => {
                let offset = message.offset();
                let mut offsets = self.offsets.lock();
                let (first, last) = offsets
                    .entry(message.partition())
                    .or_insert((offset, offset));
                *first = offset.min(*first);
                *last = offset.max(*last);
            }
            Err((error, _)) => {
                self.failure.lock().get_or_insert_with(|| error.to_string());
            }
        }
    }
}

type Client = ThreadedProducer<Delivered>;

/// The producer, and what is needed to create the next one.
pub(super) struct Transactions {
    config: ClientConfig,
    brokers: String,
    topic: String,
    id: Arc<str>,
    state: State,
    backoff: Duration,
    /// How long a transaction may take until its commit.
    until_commit: Duration,
    /// Cloned by each running call that adds the group's offsets. Between two transactions only stuck calls hold a
    /// clone.
    calls: Arc<()>,
}

enum State {
    /// No producer, and none is created before `again_at`; `reason` is why the last one was abandoned.
    None {
        again_at: Instant,
        reason: String,
    },
    /// The coordinator has not initialized it yet.
    Starting(Arc<Client>),
    Ready(Arc<Client>),
}

impl Transactions {
    pub(super) fn new(config: &KafkaConfig, id: &str) -> Result<Self, KafkaError> {
        let timeout = transaction_timeout(config).as_millis().to_string();
        let defaults = [
            ("enable.idempotence", "true"),
            ("transaction.timeout.ms", timeout.as_str()),
            ("compression.type", "lz4"),
            ("linger.ms", "2"),
            // The coordinator requests a retry while it still writes the markers of the previous transaction:
            // with the default of 100 ms a transaction takes three times as long.
            ("retry.backoff.ms", "10"),
            ("message.max.bytes", "16777216"),
            ("queue.buffering.max.messages", "0"),
        ];
        let mut client = config.client("changelog", &defaults);
        client.set("transactional.id", id);
        // Created at once, so that opening the store fails where the client refuses a property.
        let first = connect(&client, &config.brokers, &config.changelog_topic())?;
        let whole = milliseconds(client.get("transaction.timeout.ms"));
        let whole = whole.unwrap_or(MIN_TRANSACTION_TIMEOUT);
        Ok(Self {
            until_commit: (whole / UNTIL_COMMIT_DIVISOR).min(MAX_UNTIL_COMMIT),
            topic: config.changelog_topic(),
            config: client,
            brokers: config.brokers.clone(),
            id: id.into(),
            state: State::Starting(first),
            backoff: MIN_BACKOFF,
            calls: Arc::new(()),
        })
    }

    /// Ensures that there is a producer that the coordinator has initialized: the outcome of the transaction that an
    /// earlier one left open is then decided.
    pub(super) fn ready(&mut self) -> Result<(), String> {
        let now = Instant::now();
        match &self.state {
            State::Ready(_) => return Ok(()),
            State::None { again_at, reason } if now < *again_at => return Err(reason.clone()),
            State::None { reason, .. } if self.stuck() >= MAX_STUCK_CLIENTS => {
                return Err(format!(
                    "{} clients are stuck in a call, and no further one is created until one of them returns: {reason}",
                    self.stuck()
                ));
            }
            State::None { .. } => match connect(&self.config, &self.brokers, &self.topic) {
                Ok(client) => self.state = State::Starting(client),
                Err(error) => {
                    return Err(self.without(format!("the producer cannot be created: {error}")));
                }
            },
            State::Starting(_) => {}
        }
        let State::Starting(client) = &self.state else {
            return Ok(());
        };
        if let Err(error) = client.init_transactions(INIT_TIMEOUT) {
            let error_text = format!("the coordinator does not initialize the producer: {error}");
            return Err(if is_retriable(&error) {
                error_text
            } else {
                self.without(error_text)
            });
        }
        self.backoff = MIN_BACKOFF;
        let nothing = State::None {
            again_at: now,
            reason: String::new(),
        };
        if let State::Starting(client) = std::mem::replace(&mut self.state, nothing) {
            self.state = State::Ready(client);
        }
        Ok(())
    }

    /// How many clients are stuck in a call.
    fn stuck(&self) -> usize {
        Arc::strong_count(&self.calls).saturating_sub(1)
    }

    /// The configuration of a producer.
    pub(super) fn config(&self) -> &ClientConfig {
        &self.config
    }

    /// Whether there is an initialized producer.
    pub(super) fn is_settled(&self) -> bool {
        matches!(self.state, State::Ready(_))
    }

    /// Writes the records and the offsets of the group together, or not at all. `known_ends` is where the changelog of
    /// each partition ended before.
    pub(super) fn run(
        &mut self,
        records: &[Record],
        offsets: TopicPartitionList,
        member: ConsumerGroupMetadata,
        known_ends: &HashMap<PartitionId, u64>,
    ) -> Outcome {
        if let Err(error_text) = self.ready() {
            return Outcome::Aborted(error_text);
        }
        let State::Ready(client) = &self.state else {
            return Outcome::Aborted("there is no producer".to_owned());
        };
        let client = Arc::clone(client);
        let until = Instant::now() + self.until_commit;
        client.context().offsets.lock().clear();
        *client.context().failure.lock() = None;
        if let Err(error) = client.begin_transaction() {
            return self.never_committed(&client, "a transaction cannot begin", &error);
        }
        let prepared = produce(&client, &self.topic, records, until)
            .and_then(|()| send_offsets(&client, &self.calls, offsets, member, until));
        match prepared {
            Ok(()) => {}
            Err(Failure::Reported(what, error)) => {
                return self.never_committed(&client, what, &error);
            }
            Err(Failure::Stuck(what)) => {
                // The client cannot be used any more. The next producer aborts what it leaves open.
                tracing::error!(
                    transactional_id = &*self.id,
                    what,
                    "the changelog's producer is abandoned"
                );
                return Outcome::Aborted(self.without(what.to_owned()));
            }
        }
        // A commit begins with the client's own flush, which sleeps for 100 ms while any record is in flight.
        while client.in_flight_count() > 0 && Instant::now() < until {
            std::thread::sleep(DELIVERY_POLL);
        }
        let below = client.context().below(known_ends);
        if let Some((partition, offset)) = below {
            let error_text = format!("partition {partition} of the changelog has lost its end");
            // Where the abort fails, the next producer aborts it.
            let _ = self.roll_back(&client, &error_text);
            return Outcome::LostEnd { partition, offset };
        }
        self.commit(&client)
    }

    fn commit(&mut self, client: &Client) -> Outcome {
        let deadline = Instant::now() + COMMIT_TIMEOUT;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let error = match client.commit_transaction(left.max(Duration::from_millis(100))) {
                Ok(()) => {
                    let offsets = std::mem::take(&mut *client.context().offsets.lock());
                    let ends = offsets.into_iter().filter_map(|(partition, (_, last))| {
                        let partition = PartitionId(u32::try_from(partition).ok()?);
                        Some((partition, u64::try_from(last).ok()?.saturating_add(1)))
                    });
                    return Outcome::Committed(ends.collect());
                }
                Err(error) => error,
            };
            if requires_abort(&error) {
                return match self.abort(client, "the transaction cannot be committed", &error) {
                    Ok(error_text) => Outcome::Aborted(error_text),
                    // The commit was requested, and no answer says that it was not done.
                    Err(error_text) => Outcome::Unknown(error_text),
                };
            }
            if is_retriable(&error) && Instant::now() < deadline {
                std::thread::sleep(RETRY_PAUSE);
                continue;
            }
            let error_text = self.abandon("the outcome of the commit is unknown", &error);
            return Outcome::Unknown(error_text);
        }
    }

    /// Ends a transaction whose commit was not requested: it is aborted, by this call or later.
    fn never_committed(&mut self, client: &Client, what: &str, error: &KafkaError) -> Outcome {
        match self.abort(client, what, error) {
            Ok(error_text) | Err(error_text) => Outcome::Aborted(error_text),
        }
    }

    /// Aborts a transaction and returns the reason. Fails, with the reason, where the abort is not confirmed.
    fn abort(&mut self, client: &Client, what: &str, error: &KafkaError) -> Result<String, String> {
        if is_fatal(error) {
            return Err(self.abandon(what, error));
        }
        self.roll_back(client, &format!("{what}: {error}"))
    }

    fn roll_back(&mut self, client: &Client, why: &str) -> Result<String, String> {
        let deadline = Instant::now() + ABORT_TIMEOUT;
        loop {
            let failure = client.context().failure.lock().clone();
            let error_text = match failure {
                Some(failure) => format!("{why}; a record was not written: {failure}"),
                None => why.to_owned(),
            };
            let left = deadline.saturating_duration_since(Instant::now());
            match client.abort_transaction(left.max(Duration::from_millis(100))) {
                Ok(()) => return Ok(error_text),
                Err(again) if is_retriable(&again) && Instant::now() < deadline => {
                    std::thread::sleep(RETRY_PAUSE);
                }
                // A new producer aborts what this one leaves open.
                Err(failed) => return Err(self.abandon(&error_text, &failed)),
            }
        }
    }

    /// Abandons the producer; the next one decides what it left open.
    ///
    /// It may have been fenced: by the coordinator because a transaction took too long, or by a process that takes over
    /// a partition that a transaction of this process holds. This process writes what it still owns with the next
    /// producer.
    fn abandon(&mut self, what: &str, error: &KafkaError) -> String {
        tracing::error!(transactional_id = &*self.id, %error, what, "the changelog's producer is abandoned");
        self.without(format!("{what}: {error}"))
    }

    fn without(&mut self, reason: String) -> String {
        self.state = State::None {
            again_at: Instant::now() + self.backoff,
            reason: reason.clone(),
        };
        self.backoff = (self.backoff * 2).min(MAX_BACKOFF);
        reason
    }
}

fn connect(config: &ClientConfig, brokers: &str, topic: &str) -> Result<Arc<Client>, KafkaError> {
    let client: Client = config.create_with_context(Delivered::default())?;
    let client = Arc::new(client);
    bootstrap::register(&client, brokers, topic);
    Ok(client)
}

/// How long a transaction may take. The client accepts no time that is shorter than its other configured timeouts.
fn transaction_timeout(config: &KafkaConfig) -> Duration {
    let given = |name| milliseconds(config.properties.get(name));
    let others = [
        "socket.timeout.ms",
        "message.timeout.ms",
        "delivery.timeout.ms",
    ];
    let longest = others.into_iter().filter_map(given).max();
    config
        .session_timeout
        .max(longest.unwrap_or_default())
        .clamp(MIN_TRANSACTION_TIMEOUT, MAX_TRANSACTION_TIMEOUT)
}

fn milliseconds(text: Option<&str>) -> Option<Duration> {
    text?.parse().ok().map(Duration::from_millis)
}

/// Why a transaction cannot be committed.
enum Failure {
    Reported(&'static str, KafkaError),
    /// The client does not return from a call, or the call could not be made.
    Stuck(&'static str),
}

fn produce(
    client: &Client,
    topic: &str,
    records: &[Record],
    until: Instant,
) -> Result<(), Failure> {
    for Record {
        partition,
        key,
        value,
    } in records
    {
        let mut record = BaseRecord::<[u8], [u8]>::to(topic)
            .partition(number(*partition))
            .key(key.as_slice());
        record.payload = value.as_deref();
        while let Err((error, back)) = client.send(record) {
            let full = error.rdkafka_error_code() == Some(RDKafkaErrorCode::QueueFull);
            if !full || Instant::now() >= until {
                return Err(Failure::Reported("a record cannot be written", error));
            }
            std::thread::sleep(RETRY_PAUSE);
            record = back;
        }
    }
    Ok(())
}

/// Adds the group's offsets. The call runs on its own thread: librdkafka (up to 2.14) may never return from it where
/// the group's coordinator becomes unavailable (librdkafka issues 5456 and 5511).
fn send_offsets(
    client: &Arc<Client>,
    calls: &Arc<()>,
    offsets: TopicPartitionList,
    member: ConsumerGroupMetadata,
    until: Instant,
) -> Result<(), Failure> {
    const STUCK_ERROR_TEXT: &str = "the client does not return from sending the group's offsets";
    let (client, call_of) = (Arc::clone(client), Arc::clone(calls));
    let (report, reported) = crossbeam_channel::bounded(1);
    let call = move || {
        let answer = loop {
            let left = until.saturating_duration_since(Instant::now());
            match client.send_offsets_to_transaction(&offsets, &member, left.max(RETRY_PAUSE)) {
                Err(error)
                    if is_retriable(&error) && !requires_abort(&error) && !left.is_zero() =>
                {
                    std::thread::sleep(RETRY_PAUSE);
                }
                answer => break answer,
            }
        };
        // No caller waits for a late answer. The client is dropped before the call counts as over.
        let is_late = report.send(answer).is_err();
        drop(client);
        drop(call_of);
        if is_late {
            tracing::info!("a client of the changelog that was stuck has returned from its call");
        }
    };
    let thread = std::thread::Builder::new().name("changelog-offsets".to_owned());
    if thread.spawn(call).is_err() {
        return Err(Failure::Stuck(
            "no thread can be started to send the group's offsets",
        ));
    }
    match reported.recv_deadline(until + STUCK_AFTER) {
        Ok(answer) => answer.map_err(|error| {
            Failure::Reported("the group refuses the offsets of the transaction", error)
        }),
        Err(_) => Err(Failure::Stuck(STUCK_ERROR_TEXT)),
    }
}

/// Aborts what a producer of this transactional id has left open, and fences it.
///
/// # Errors
/// The error of the client or the coordinator.
pub(super) fn fence(config: &ClientConfig, id: &str) -> Result<(), KafkaError> {
    let mut config = config.clone();
    let client: Client = config
        .set("transactional.id", id)
        .create_with_context(Delivered::default())?;
    client.init_transactions(INIT_TIMEOUT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_transaction_lasts_a_session_or_the_clients_minimum() {
        for (session, property, expected) in [
            (6, None, 10),
            (20, None, 20),
            (45, None, 30),
            (10, Some(("socket.timeout.ms", "25000")), 25),
            (10, Some(("message.timeout.ms", "29000")), 29),
            (10, Some(("transaction.timeout.ms", "15000")), 15),
        ] {
            let mut config = KafkaConfig {
                brokers: "127.0.0.1:1".to_owned(),
                session_timeout: Duration::from_secs(session),
                ..KafkaConfig::default()
            };
            if let Some((name, value)) = property {
                config.properties.set(name, value).unwrap();
            }
            let transactions = Transactions::new(&config, "id").expect("the client accepts it");
            let whole = milliseconds(transactions.config().get("transaction.timeout.ms"));
            let whole = whole.expect("a number");
            assert_eq!(whole, Duration::from_secs(expected), "{property:?}");
            assert!(transactions.until_commit < whole);
        }
    }

    #[test]
    fn no_client_is_created_while_too_many_are_stuck() {
        let config = KafkaConfig {
            brokers: "127.0.0.1:1".to_owned(),
            ..KafkaConfig::default()
        };
        let mut transactions = Transactions::new(&config, "id").expect("the client accepts it");
        let mut stuck = vec![Arc::clone(&transactions.calls); MAX_STUCK_CLIENTS];
        transactions.without("stuck".to_owned());
        let now_due = |transactions: &mut Transactions| {
            if let State::None { again_at, .. } = &mut transactions.state {
                *again_at = Instant::now();
            }
        };
        now_due(&mut transactions);
        let error_text = transactions.ready().expect_err("too many");
        assert_eq!(
            error_text,
            "4 clients are stuck in a call, and no further one is created until one of them returns: stuck"
        );
        assert!(matches!(transactions.state, State::None { .. }));
        stuck.pop();
        now_due(&mut transactions);
        transactions.ready().expect_err("there is no broker");
        assert!(matches!(transactions.state, State::Starting(_)));
    }
}
