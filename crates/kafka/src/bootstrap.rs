//! Adds the bootstrap brokers again to a client that has lost every broker that it knew.
//!
//! A broker that is fenced, as all of them are after the whole cluster was paused or restarted, may answer a metadata
//! request with an empty list of brokers. librdkafka (2.10 and later) then removes all that it knows, the bootstrap
//! brokers included, and never connects to anything again (librdkafka issue 5301). So one thread checks every few
//! seconds that a broker answers each registered client. If none does, it adds the bootstrap brokers again, which
//! changes nothing for a client that still has them.

use std::ffi::CString;
use std::sync::{Arc, Once, Weak};
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
const TICK: Duration = Duration::from_millis(250);

/// A client that can be registered.
pub(crate) trait Checked: Send + Sync + 'static {
    /// Whether a broker answers.
    fn has_broker(&self, topic: &str, timeout: Duration) -> bool;

    /// Adds the bootstrap brokers that are missing.
    fn add_brokers(&self, brokers: &CString);
}

impl<C: ConsumerContext + 'static> Checked for BaseConsumer<C> {
    fn has_broker(&self, topic: &str, timeout: Duration) -> bool {
        broker_answers(self.client(), topic, timeout)
    }

    fn add_brokers(&self, brokers: &CString) {
        add(self.client(), brokers);
    }
}

impl<C: ProducerContext + 'static> Checked for ThreadedProducer<C> {
    fn has_broker(&self, topic: &str, timeout: Duration) -> bool {
        broker_answers(self.client(), topic, timeout)
    }

    fn add_brokers(&self, brokers: &CString) {
        add(self.client(), brokers);
    }
}

struct Registered {
    client: Weak<dyn Checked>,
    brokers: CString,
    topic: String,
    check_at: Instant,
    pause: Duration,
}

static REGISTERED: Mutex<Vec<Registered>> = Mutex::new(Vec::new());
static THREAD: Once = Once::new();

/// Registers a client for as long as it lives. `brokers` is a list of `host:port`, separated by commas; `topic` is one
/// that the client uses.
pub(crate) fn register<T: Checked>(client: &Arc<T>, brokers: &str, topic: &str) {
    let Ok(brokers) = CString::new(brokers) else {
        return;
    };
    let weak = Arc::downgrade(client);
    REGISTERED.lock().push(Registered {
        client: weak,
        brokers,
        topic: topic.to_owned(),
        check_at: Instant::now() + CHECK_PAUSE,
        pause: RETRY_PAUSE,
    });
    THREAD.call_once(|| {
        let thread = std::thread::Builder::new()
            .name("kafka-bootstrap".to_owned())
            .spawn(|| {
                loop {
                    std::thread::sleep(TICK);
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
    registered.retain(|one| one.client.strong_count() > 0);
    let (due, later) = std::mem::take(&mut *registered)
        .into_iter()
        .partition::<Vec<_>, _>(|one| one.check_at <= now);
    *registered = later;
    drop(registered);
    for mut one in due {
        let Some(client) = one.client.upgrade() else {
            continue;
        };
        if client.has_broker(&one.topic, CHECK_TIMEOUT) {
            one.pause = RETRY_PAUSE;
            one.check_at = Instant::now() + CHECK_PAUSE;
        } else {
            client.add_brokers(&one.brokers);
            one.check_at = Instant::now() + one.pause;
            one.pause = (one.pause * 2).min(CHECK_PAUSE);
        }
        drop(client);
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

fn add<C: ClientContext>(client: &Client<C>, brokers: &CString) {
    // SAFETY: the client and the list live during the call, which copies the list; it may be called from any thread.
    unsafe { rd::rd_kafka_brokers_add(client.native_ptr(), brokers.as_ptr()) };
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
        assert!(!client.has_broker("topic", Duration::from_millis(300)));
        register(&client, &cluster.bootstrap_servers(), "topic");
        let patience = Instant::now() + Duration::from_mins(1);
        while !client.has_broker("topic", Duration::from_secs(1)) {
            assert!(Instant::now() < patience, "no broker");
        }
    }
}
