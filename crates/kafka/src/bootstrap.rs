//! Adds the bootstrap brokers again to a client that has lost every broker that it knew.
//!
//! A broker that is fenced, as all of them are after the whole cluster was paused or restarted, may answer a metadata
//! request with an empty list of brokers. librdkafka (2.10 and later) then removes all that it knows, the bootstrap
//! brokers included, and never connects to anything again (librdkafka issue 5301). So one thread checks every few
//! seconds that a broker answers each registered client. If none does, it adds the bootstrap brokers again, which
//! changes nothing for a client that still has them.

use std::ffi::CString;
use std::sync::{Arc, Once};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rdkafka::bindings as rd;
use rdkafka::client::{Client, ClientContext};
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::RDKafkaErrorCode;
use rdkafka::producer::{Producer, ProducerContext, ThreadedProducer};

/// Between two checks of a client that has a broker.
const CHECK_PAUSE: Duration = Duration::from_secs(5);

/// First pause between two checks of a client that has none. It doubles up to [`CHECK_PAUSE`], because librdkafka keeps
/// every list of brokers that is added, some 50 bytes each.
const RETRY_PAUSE: Duration = Duration::from_secs(1);

/// How long one check may take.
const CHECK_TIMEOUT: Duration = Duration::from_secs(1);

/// Between two checks which clients are due.
const DUE_CHECK_PAUSE: Duration = Duration::from_millis(250);

/// A type of clients that can be registered.
pub(crate) trait HasClient: Send + Sync + 'static {
    type Context: ClientContext;

    fn client(&self) -> &Client<Self::Context>;
}

impl<C: ConsumerContext + 'static> HasClient for BaseConsumer<C> {
    type Context = C;

    fn client(&self) -> &Client<C> {
        Consumer::client(self)
    }
}

impl<C: ProducerContext + 'static> HasClient for ThreadedProducer<C> {
    type Context = C;

    fn client(&self) -> &Client<C> {
        Producer::client(self)
    }
}

struct Registered {
    /// Checks the client, and adds the bootstrap brokers if no broker answers it.
    check: Box<dyn Fn() -> Checked + Send>,
    check_at: Instant,
    pause: Duration,
}

/// The result of a check.
enum Checked {
    /// The client was dropped.
    Dropped,
    HasBroker,
    HasNone,
}

static REGISTERED: Mutex<Vec<Registered>> = Mutex::new(Vec::new());
static THREAD: Once = Once::new();

/// Registers a client for as long as it lives. `brokers` is a list of `host:port`, separated by commas; `topic` is one
/// that the client uses.
pub(crate) fn register<T: HasClient>(client: &Arc<T>, brokers: &str, topic: &str) {
    let Ok(brokers) = CString::new(brokers) else {
        return;
    };
    let (client, topic) = (Arc::downgrade(client), topic.to_owned());
    let check = move || {
        let Some(client) = client.upgrade() else {
            return Checked::Dropped;
        };
        let client = client.client();
        if broker_answers(client, &topic, CHECK_TIMEOUT) {
            return Checked::HasBroker;
        }
        // SAFETY: the client and the list live during the call, which copies the list; it may be called from any thread.
        unsafe { rd::rd_kafka_brokers_add(client.native_ptr(), brokers.as_ptr()) };
        Checked::HasNone
    };
    REGISTERED.lock().push(Registered {
        check: Box::new(check),
        check_at: Instant::now() + CHECK_PAUSE,
        pause: RETRY_PAUSE,
    });
    THREAD.call_once(|| {
        let thread = std::thread::Builder::new()
            .name("kafka-bootstrap".to_owned())
            .spawn(|| {
                loop {
                    std::thread::sleep(DUE_CHECK_PAUSE);
                    check_due();
                }
            });
        if let Err(error) = thread {
            tracing::error!(%error, "no thread checks whether the Kafka clients have a broker");
        }
    });
}

/// Checks the clients that are due, without holding the lock during a check.
fn check_due() {
    let now = Instant::now();
    let mut registered = REGISTERED.lock();
    let (due, later) = std::mem::take(&mut *registered)
        .into_iter()
        .partition::<Vec<_>, _>(|one| one.check_at <= now);
    *registered = later;
    drop(registered);
    for mut one in due {
        match (one.check)() {
            Checked::Dropped => continue,
            Checked::HasBroker => {
                one.pause = RETRY_PAUSE;
                one.check_at = Instant::now() + CHECK_PAUSE;
            }
            Checked::HasNone => {
                one.check_at = Instant::now() + one.pause;
                one.pause = (one.pause * 2).min(CHECK_PAUSE);
            }
        }
        REGISTERED.lock().push(one);
    }
}

/// Whether a broker answers a client within the time. A refusal is an answer.
///
/// Queries where a partition begins and ends: a metadata request could create the topic, or would list all topics.
fn broker_answers<C: ClientContext>(client: &Client<C>, topic: &str, timeout: Duration) -> bool {
    let Err(error) = client.fetch_watermarks(topic, 0, timeout) else {
        return true;
    };
    !matches!(
        error.rdkafka_error_code(),
        Some(
            RDKafkaErrorCode::OperationTimedOut
                | RDKafkaErrorCode::RequestTimedOut
                | RDKafkaErrorCode::BrokerTransportFailure
                | RDKafkaErrorCode::AllBrokersDown
                | RDKafkaErrorCode::BrokerDestroy
                | RDKafkaErrorCode::DestroyBroker
                | RDKafkaErrorCode::UnknownPartition
        )
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::KafkaConfig;
    use crate::context::Plain;
    use rdkafka::mocking::MockCluster;

    #[test]
    fn a_client_without_a_broker_gets_one_back() {
        let cluster = MockCluster::new(1).unwrap();
        cluster.create_topic("topic", 1, 1).unwrap();
        let config = KafkaConfig {
            brokers: "127.0.0.1:1".to_owned(),
            ..KafkaConfig::default()
        };
        let client: BaseConsumer<Plain> = config
            .client("bootstrap", &[])
            .create_with_context(Plain)
            .unwrap();
        let client = Arc::new(client);
        let has_broker = |timeout| broker_answers(Consumer::client(&*client), "topic", timeout);
        assert!(!has_broker(Duration::from_millis(300)));
        register(&client, &cluster.bootstrap_servers(), "topic");
        let patience = Instant::now() + Duration::from_mins(1);
        while !has_broker(Duration::from_secs(1)) {
            assert!(Instant::now() < patience, "no broker");
        }
    }
}
