//! Replay of a topic by an engine with its changelog written, beside bare consumers of the same topic in the same run.
//!
//! `KAFKA_BROKERS=$(scripts/kafka.sh start) cargo bench -p workspace-engine-kafka --bench replay`. `EVENTS`, `ENTITIES`
//! and `WORKSPACES` change the sizes (5,000,000, 1,000,000 and 1,000), `ROUNDS` how often each is measured (3).

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::cast_precision_loss,
    reason = "a measurement prints its figures and fails by panicking"
)]

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::Message;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rdkafka::{ClientConfig, Offset as At, TopicPartitionList};
use tempfile::TempDir;
use workspace_engine_core::disk::{DataDir, DataDirSpec};
use workspace_engine_core::log::{EventLog, ReadLimit};
use workspace_engine_core::routing::partition_of;
use workspace_engine_core::store::{LsmStore, Store};
use workspace_engine_core::{Engine, EngineConfig, Entities};
use workspace_engine_kafka::{Assignments, Cluster, KafkaConfig, KafkaLog, LocalCopy, prepare};
use workspace_lifecycle::{Offset, PartitionId};
use workspace_status::{State, Tracker, WorkspaceId};

/// The allocator of the `workspace-engine` binary; the bare consumers use it too.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const PARTITIONS: u32 = 12;
const PATIENCE: Duration = Duration::from_mins(10);

fn size(name: &str, default: usize) -> usize {
    std::env::var(name)
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(default)
}

fn main() {
    let Ok(brokers) = std::env::var("KAFKA_BROKERS") else {
        println!(
            "KAFKA_BROKERS names no cluster: nothing is measured (scripts/kafka.sh starts one)"
        );
        return;
    };
    let events = size("EVENTS", 5_000_000);
    let entities = size("ENTITIES", 1_000_000);
    let workspaces = size("WORKSPACES", 1_000);
    let run = fastrand::u32(..);
    let config = |round: usize| KafkaConfig {
        brokers: brokers.clone(),
        topic: format!("replay-{run:08x}"),
        group: format!("replay-{run:08x}-{round}"),
        create_topic: Some(PARTITIONS),
        // A handover may take half of it: here it saves millions of entities.
        session_timeout: Duration::from_mins(2),
        ..KafkaConfig::default()
    };
    prepare(&config(0)).expect("topics");
    let began = Instant::now();
    let bytes = fill(&config(0), events, entities, workspaces);
    println!(
        "{events} events of {} bytes, {entities} entities, {workspaces} workspaces, {PARTITIONS} partitions; \
         produced in {:.1?}",
        bytes / events.max(1),
        began.elapsed()
    );
    for round in 1..=size("ROUNDS", 3) {
        println!("round {round}");
        let polled = bare(&config(0), events);
        show("bare consumer, polled", events, polled);
        let read = by_log(&config(0), events);
        show(
            "the engine's reading alone, a thread a partition",
            events,
            read,
        );
        let config = config(round);
        prepare(&config).expect("topics");
        let (ready, saved) = engine(&config, workspaces);
        show("engine, until all are ready", events, ready);
        show("engine, until all is in the changelog too", events, saved);
        println!(
            "    speed / bare consumer: {:.2}, with the last save {:.2}",
            polled.time.as_secs_f64() / ready.time.as_secs_f64(),
            polled.time.as_secs_f64() / saved.time.as_secs_f64()
        );
    }
}

/// How long something took by the clock, and on all processors together, those of the brokers not counted.
#[derive(Clone, Copy)]
struct Took {
    time: Duration,
    processors: Duration,
}

struct Watch(Instant, Duration);

impl Watch {
    fn start() -> Self {
        Self(Instant::now(), processors())
    }

    fn took(&self) -> Took {
        Took {
            time: self.0.elapsed(),
            processors: processors().saturating_sub(self.1),
        }
    }
}

fn processors() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let after_name = stat.rsplit(')').next().unwrap_or_default();
    let ticks: u64 = after_name
        .split_whitespace()
        .skip(11)
        .take(2)
        .filter_map(|field| field.parse::<u64>().ok())
        .sum();
    Duration::from_millis(ticks * 10)
}

fn show(what: &str, count: usize, took: Took) {
    let rate = count as f64 / took.time.as_secs_f64() / 1000.0;
    println!(
        "  {what}: {:.2?}, {rate:.0} k/s, {:.2?} of the processors",
        took.time, took.processors
    );
}

/// Writes the events; every entity is set about `events / entities` times. Returns their bytes.
fn fill(config: &KafkaConfig, events: usize, entities: usize, workspaces: usize) -> usize {
    let producer: BaseProducer = ClientConfig::new()
        .set("bootstrap.servers", &config.brokers)
        .set("enable.idempotence", "true")
        .set("linger.ms", "20")
        .set("queue.buffering.max.messages", "1000000")
        .create()
        .expect("a producer");
    let ids: Vec<WorkspaceId> = (0..workspaces)
        .map(|n| WorkspaceId::new(&format!("workspace-{n:05}")).expect("valid"))
        .collect();
    let mut random = fastrand::Rng::with_seed(7);
    let mut bytes = 0;
    for n in 0..events {
        let number = if n < entities {
            n
        } else {
            random.usize(..entities.max(1))
        };
        let id = ids.get(number % ids.len()).expect("one of them");
        let resource = number / ids.len();
        let value = format!(
            r#"{{"eventType":"resource.updated","workspaceId":"{id}","timestamp":{},"data":{{"id":"region-{}/resource-{resource:06}","version":"{:016x}","blob":"{:032x}"}}}}"#,
            1_700_000_000_000_u64 + n as u64,
            resource % 7,
            random.u64(..),
            random.u128(..),
        );
        bytes += value.len();
        let partition = i32::try_from(partition_of(id, PARTITIONS).0).expect("small");
        let mut record = BaseRecord::to(&config.topic)
            .partition(partition)
            .key(id.as_str())
            .payload(&value);
        while let Err((_, back)) = producer.send(record) {
            producer.poll(Duration::from_millis(10));
            record = back;
        }
        if n % 10_000 == 0 {
            producer.poll(Duration::ZERO);
        }
    }
    producer.flush(PATIENCE).expect("written");
    bytes
}

/// A consumer that looks at every record and does nothing with it.
fn bare(config: &KafkaConfig, events: usize) -> Took {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", &config.brokers)
        .set("group.id", "bare")
        .set("enable.auto.commit", "false")
        .set("fetch.queue.backoff.ms", "1")
        .create()
        .expect("a consumer");
    let mut all = TopicPartitionList::new();
    for partition in 0..PARTITIONS {
        let number = i32::try_from(partition).expect("small");
        all.add_partition_offset(&config.topic, number, At::Beginning)
            .expect("added");
    }
    let watch = Watch::start();
    consumer.assign(&all).expect("assigned");
    let (mut seen, mut bytes) = (0, 0);
    while seen < events {
        let message = consumer.poll(PATIENCE).expect("in time").expect("a record");
        bytes += message.payload().map_or(0, <[u8]>::len);
        seen += 1;
    }
    assert!(bytes > 0, "records without values");
    watch.took()
}

fn by_log(config: &KafkaConfig, events: usize) -> Took {
    let log = KafkaLog::open(config, PARTITIONS).expect("a log");
    let watch = Watch::start();
    let seen: usize = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..PARTITIONS)
            .map(PartitionId)
            .map(|partition| {
                let log = &log;
                scope.spawn(move || {
                    log.open(partition).expect("opens");
                    let end = log.high_watermark(partition);
                    let (mut from, mut seen) = (Offset::ZERO, 0);
                    while from < end {
                        let limit = ReadLimit {
                            records: 4096,
                            bytes: 4 << 20,
                            until: end,
                        };
                        let batch = log.read(partition, from, limit).expect("read");
                        seen += batch.records.len();
                        from = batch.next_offset;
                    }
                    seen
                })
            })
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().expect("read"))
            .sum()
    });
    assert_eq!(seen, events);
    watch.took()
}

/// Hands the partitions to the engine, and notes when they were assigned.
struct ToEngine(Engine<Entities>, Arc<Mutex<Option<Watch>>>);

impl Assignments for ToEngine {
    fn assigned(&self, partitions: &[PartitionId]) {
        self.1.lock().get_or_insert_with(Watch::start);
        for partition in partitions {
            self.0.assign(*partition).expect("a thread");
        }
    }

    fn revoked(&self, partitions: &[PartitionId], deadline: Instant) {
        self.0.revoke(partitions, deadline);
    }

    fn lost(&self, partitions: &[PartitionId]) {
        self.0.lose(partitions);
    }
}

/// From the assignment until every workspace is ready, and until all of them are saved and handed over.
fn engine(config: &KafkaConfig, workspaces: usize) -> (Took, Took) {
    let directory = TempDir::new().expect("a directory");
    let spec = DataDirSpec {
        partitions: PARTITIONS,
        ..DataDirSpec::default()
    };
    let open = move |path: &Path| LsmStore::open(&DataDir::open(path, &spec)?);
    let copy = LocalCopy::open(directory.path().join("copy"), open).expect("opens");
    let cluster = Cluster::new(config, PARTITIONS, copy, "bench").expect("clients");
    let tracker = Tracker::new();
    let engine = Engine::builder()
        .config(EngineConfig {
            owner: "bench".to_owned(),
            ..EngineConfig::default()
        })
        .tracker(tracker.clone())
        .start_unassigned(
            Arc::clone(&cluster.log) as Arc<dyn EventLog>,
            Arc::clone(&cluster.store) as Arc<dyn Store>,
        )
        .expect("starts");
    let watch = Arc::new(Mutex::new(None));
    cluster
        .membership
        .join(ToEngine(engine.clone(), Arc::clone(&watch)))
        .expect("joins");
    let deadline = Instant::now() + PATIENCE;
    while tracker.count_by_state()[State::Ready] < workspaces {
        assert!(Instant::now() < deadline, "not ready in time");
        std::thread::sleep(Duration::from_millis(5));
    }
    let watch = watch.lock().take().expect("assigned");
    let ready = watch.took();
    cluster.membership.leave(deadline);
    let saved = watch.took();
    engine.shutdown(deadline);
    println!("    {:?}", cluster.store.counts());
    (ready, saved)
}
