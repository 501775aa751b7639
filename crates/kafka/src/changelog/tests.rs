//! The changelog against a mock broker in this process, and against a real one where `KAFKA_BROKERS` names it.

mod mock;
mod real;
mod stress;

use std::sync::atomic::AtomicUsize;

use super::*;
use crate::group::{Committed, query_committed};
use crate::topic_id::TopicId;
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerGroupMetadata};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use workspace_engine_core::disk::{DataDir, DataDirSpec, DiskError};
use workspace_engine_core::store::conformance::{
    self, claim_of, counted, id, load, save_of, set, transition, unset,
};

const PARTITIONS: u32 = 4;

/// Long enough for every wait on a busy machine.
const LONG: Duration = Duration::from_mins(2);

/// A group that never rebalances; the test sets what it answers about this process.
struct FakeGroup {
    consumer: BaseConsumer,
    /// Does not wait for transactions.
    observer: BaseConsumer,
    member: Mutex<Member>,
    topic_id: Mutex<Option<TopicId>>,
    /// Where a transaction of another process is open: what was committed before it.
    open_transaction: Mutex<Option<Committed>>,
    /// How often what was committed before open transactions was queried.
    probes: AtomicUsize,
    /// Runs once, when the membership is queried.
    hook: Mutex<Option<Box<dyn FnOnce() + Send>>>,
}

/// What this process is in the group.
enum Member {
    Live,
    None,
    /// A frozen process: its metadata, taken earlier, once for each query.
    Frozen(Vec<ConsumerGroupMetadata>),
}

impl FakeGroup {
    fn of(config: &KafkaConfig, consumer: BaseConsumer) -> Arc<Self> {
        Arc::new(Self {
            consumer,
            observer: client(config, "read_uncommitted"),
            member: Mutex::new(Member::Live),
            topic_id: Mutex::default(),
            open_transaction: Mutex::default(),
            probes: AtomicUsize::new(0),
            hook: Mutex::default(),
        })
    }

    fn set_member(&self, member: Member) {
        *self.member.lock() = member;
    }
}

impl Group for FakeGroup {
    fn metadata(&self) -> Option<ConsumerGroupMetadata> {
        let hook = self.hook.lock().take();
        if let Some(hook) = hook {
            hook();
        }
        match &mut *self.member.lock() {
            Member::Live => self.consumer.group_metadata(),
            Member::None => None,
            Member::Frozen(copies) => copies.pop(),
        }
    }

    fn committed(
        &self,
        topic: &str,
        partition: PartitionId,
        timeout: Duration,
    ) -> KafkaResult<Option<Committed>> {
        if self.open_transaction.lock().is_some() {
            let code = RDKafkaErrorCode::UnstableOffsetCommit;
            return Err(KafkaError::OffsetFetch(code));
        }
        query_committed(&self.consumer, topic, partition, timeout)
    }

    fn committed_before(
        &self,
        topic: &str,
        partition: PartitionId,
        timeout: Duration,
    ) -> KafkaResult<Option<Committed>> {
        self.probes.fetch_add(1, Ordering::Relaxed);
        if let Some(committed) = &*self.open_transaction.lock() {
            return Ok(Some(committed.clone()));
        }
        query_committed(&self.observer, topic, partition, timeout)
    }

    fn topic_id(&self, _: &str, _: Duration) -> KafkaResult<Option<TopicId>> {
        Ok(*self.topic_id.lock())
    }
}

/// A cluster with fresh topics.
struct TestTopics {
    config: KafkaConfig,
    group: Arc<FakeGroup>,
}

impl TestTopics {
    fn new(brokers: &str) -> Self {
        let config = KafkaConfig {
            brokers: brokers.to_owned(),
            topic: format!("events-{:08x}", fastrand::u32(..)),
            group: "engine".to_owned(),
            create_topic: Some(PARTITIONS),
            replication: Some(1),
            ..KafkaConfig::default()
        };
        let group = group(&config);
        Self { config, group }
    }

    /// Creates its topics over the protocol.
    fn with_topics(self, settings: &[(&str, &str)]) -> Self {
        let admin: AdminClient<DefaultClientContext> =
            self.config.client("admin", &[]).create().expect("a client");
        let changelog = self.config.changelog_topic();
        let events = NewTopic::new(&self.config.topic, 4, TopicReplication::Fixed(1));
        let mut topic = NewTopic::new(&changelog, 4, TopicReplication::Fixed(1));
        for (name, value) in settings {
            topic = topic.set(name, value);
        }
        let options = AdminOptions::new().operation_timeout(Some(LONG));
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .expect("a runtime");
        let answers = runtime
            .block_on(admin.create_topics([&events, &topic], &options))
            .expect("answered");
        for answer in answers {
            answer.expect("created");
        }
        self
    }

    /// Writes `events` events to each partition of their topic.
    fn fill_events(&self, events: usize) {
        let producer: BaseProducer = ClientConfig::new()
            .set("bootstrap.servers", &self.config.brokers)
            .set("linger.ms", "20")
            .create()
            .expect("a client");
        for _ in 0..events {
            for partition in 0..4 {
                let mut record = BaseRecord::<[u8], [u8]>::to(&self.config.topic)
                    .partition(partition)
                    .payload(b"{}");
                while let Err((_, back)) = producer.send(record) {
                    producer.poll(Duration::from_millis(10));
                    record = back;
                }
            }
        }
        producer.flush(LONG).expect("written");
    }

    fn store(&self, dir: &std::path::Path, name: &str) -> ChangelogStore {
        self.store_of(dir, name, Arc::clone(&self.group))
    }

    fn store_of(&self, dir: &std::path::Path, name: &str, group: Arc<FakeGroup>) -> ChangelogStore {
        let id = format!("{}-{name}", self.config.changelog_topic());
        let last_reads = Arc::default();
        let copy = LocalCopy::open(dir.join("copy"), open_copy).expect("opened");
        ChangelogStore::open(&self.config, copy, group, last_reads, id).expect("opened")
    }

    /// Writes a record into the changelog without a transaction, as a foreign client could.
    fn write_raw(&self, partition: u32, key: &[u8], value: Option<&[u8]>) {
        let producer: BaseProducer = ClientConfig::new()
            .set("bootstrap.servers", &self.config.brokers)
            .create()
            .expect("a client");
        let topic = self.config.changelog_topic();
        let mut record = BaseRecord::<[u8], [u8]>::to(&topic)
            .partition(i32::try_from(partition).expect("small"))
            .key(key);
        record.payload = value;
        producer
            .send(record)
            .map_err(|(error, _)| error)
            .expect("sent");
        producer.flush(LONG).expect("written");
    }
}

fn client(config: &KafkaConfig, isolation_level: &str) -> BaseConsumer {
    let properties = [
        ("group.id", config.group.as_str()),
        ("isolation.level", isolation_level),
        ("enable.auto.commit", "false"),
    ];
    let client = config.client("group", &properties).create();
    client.expect("a client")
}

fn group(config: &KafkaConfig) -> Arc<FakeGroup> {
    FakeGroup::of(config, client(config, "read_committed"))
}

/// The copy of a store in the directory.
fn copy(dir: &std::path::Path) -> LsmStore {
    open_copy(&dir.join("copy")).expect("opened")
}

fn open_copy(path: &std::path::Path) -> Result<LsmStore, DiskError> {
    let spec = DataDirSpec {
        partitions: PARTITIONS,
        ..DataDirSpec::default()
    };
    LsmStore::open(&DataDir::open(path, &spec)?)
}

/// Opens a partition, in as many steps as it takes.
fn open(store: &ChangelogStore, partition: u32) {
    let began = Instant::now();
    let mut last = None;
    while began.elapsed() < LONG {
        match store.open(PartitionId(partition)) {
            Ok(Opening::Done) => return,
            Ok(Opening::Waiting | Opening::Reading { .. }) => {}
            Err(error) => {
                last = Some(error);
                std::thread::sleep(Duration::from_millis(20));
            }
        }
    }
    panic!("partition {partition} is not open in time: {last:?}");
}

fn open_all(store: &ChangelogStore) {
    for partition in 0..PARTITIONS {
        open(store, partition);
    }
}

/// An attempt must take less than `limit`. A slow one is repeated: the machine may have been busy.
fn quick<T>(limit: Duration, what: &str, mut attempt: impl FnMut() -> T) -> T {
    let mut took = Vec::new();
    for _ in 0..10 {
        let began = Instant::now();
        let done = attempt();
        took.push(began.elapsed());
        if took.last() < Some(&limit) {
            return done;
        }
    }
    panic!("{what} never took less than {limit:?}: {took:?}");
}

fn dir() -> tempfile::TempDir {
    tempfile::tempdir().expect("a directory")
}

/// Writes two workspaces with entries that were set, changed and unset, and a history.
fn fill(store: &ChangelogStore) {
    for text in ["acme", "other"] {
        let epoch = store.first_epoch(PartitionId(1)).get();
        store.claim(claim_of(text, epoch)).expect("claimed");
        let changes = (0..10).map(|number| set("kind", &number.to_string(), "{\"a\":1}", number));
        let saves = [save_of(text, epoch, 10, changes.collect())];
        let refused = store.save(&saves, &[(PartitionId(1), Offset(10))]);
        assert!(refused.expect("saved").is_empty());
        let changes = vec![unset("kind", "3"), set("kind", "4", "4", 11)];
        let saves = [counted(store, save_of(text, epoch, 12, changes))];
        let refused = store.save(&saves, &[(PartitionId(1), Offset(12))]);
        assert!(refused.expect("saved").is_empty());
        let reported =
            store.append_history(vec![transition(text, epoch, 1), transition(text, epoch, 2)]);
        reported.expect("kept");
    }
}

/// Everything of a partition: what is known of its workspaces, their entries and histories.
type Contents = Vec<(
    StoredWorkspace,
    Vec<workspace_engine_core::store::StoredEntry>,
    Vec<HistoryRecord>,
)>;

fn contents(store: &ChangelogStore, partition: u32) -> Contents {
    let listed = store.workspaces(PartitionId(partition)).expect("listed");
    let all = listed.into_iter().map(|about| {
        let text = about.id.as_str().to_owned();
        let (loaded, entries) = load(store, &text).expect("loaded");
        assert_eq!(loaded, about);
        let history = store.history(&about.id, None, 1000).expect("readable");
        (about, entries, history)
    });
    all.collect()
}

fn all_cases(mut fresh: impl FnMut() -> TestTopics) {
    let only = std::env::var("CASE").unwrap_or_default();
    for (name, case) in conformance::CASES
        .iter()
        .filter(|(name, _)| name.contains(&only))
    {
        let (topics, dir) = (fresh(), dir());
        let began = Instant::now();
        let store = topics.store(dir.path(), "one");
        open_all(&store);
        println!("{name}: open after {:?}", began.elapsed());
        case(&store);
        println!(
            "{name}: done after {:?}, {:?}",
            began.elapsed(),
            store.counts()
        );
    }
}

/// `committed` is the offset that the group returns after a transaction with offset 12.
fn saved_state_is_found_with_an_empty_and_a_warm_disk(topics: &TestTopics, committed: Offset) {
    let (warm, cold) = (dir(), dir());
    let store = topics.store(warm.path(), "one");
    open(&store, 1);
    let first_epoch = store.first_epoch(PartitionId(1));
    fill(&store);
    let written = contents(&store, 1);
    assert_eq!(written.len(), 2);
    let counts = store.counts();
    assert!(counts.records_written > 20, "{counts:?}");
    drop(store);

    let store = topics.store(warm.path(), "one");
    open(&store, 1);
    assert_eq!(contents(&store, 1), written);
    assert_eq!(store.committed(PartitionId(1)), Ok(committed));
    assert_eq!(store.counts().records_read, 0, "the copy has everything");
    assert!(store.first_epoch(PartitionId(1)) > first_epoch);
    let second_epoch = store.first_epoch(PartitionId(1));

    // Later the warm copy reads only what another process writes in between.
    drop(store);
    let store = topics.store(cold.path(), "two");
    open(&store, 1);
    assert_eq!(contents(&store, 1), written, "from an empty disk");
    assert_eq!(store.committed(PartitionId(1)), Ok(committed));
    assert!(store.first_epoch(PartitionId(1)) > second_epoch);
    let epoch = store.first_epoch(PartitionId(1)).get();
    store.claim(claim_of("acme", epoch)).expect("claimed");
    store.purge(&id("other")).expect("deleted");
    let written = contents(&store, 1);
    assert_eq!(written.len(), 1);
    drop(store);

    let store = topics.store(warm.path(), "one");
    open(&store, 1);
    assert_eq!(contents(&store, 1), written);
    let counts = store.counts();
    assert_eq!(counts.partitions_rebuilt, 0);
    // An ownership record, a claim, and a removal: a workspace, the mark of a deletion, 9 entries and a part of a history.
    assert_eq!(counts.records_read, 1 + 1 + 12, "{counts:?}");
    let history = store.shared.copy().history(&id("other"), None, 10);
    assert_eq!(history, Ok(Vec::new()));
}

/// The end that a reader reports is after the commit markers that follow the last record.
fn a_reader_reports_the_end_behind_the_markers(topics: &TestTopics) {
    let dir = dir();
    let store = topics.store(dir.path(), "one");
    open(&store, 1);
    fill(&store);
    let readers = &store.shared.readers;
    let until = Instant::now() + LONG;
    // A commit is answered before its marker is in the partition.
    let ends = loop {
        let ends = readers.ends(PartitionId(1), LONG).expect("reported");
        if ends.stable == ends.high {
            break ends;
        }
        assert!(Instant::now() < until, "{ends:?}");
    };
    let mut reader = readers.lend().expect("made").expect("none is lent");
    reader.assign(PartitionId(1), ends.low).expect("assigned");
    let mut reported = None;
    while reported != Some(ends.high) {
        assert!(Instant::now() < until, "{reported:?} of {ends:?}");
        let next = reader.next(PartitionId(1), LONG, |found| match found {
            reader::Found::End { offset } => Some(offset),
            reader::Found::Record { offset, .. } => {
                assert!(offset < ends.high);
                None
            }
            reader::Found::Nothing => None,
        });
        reported = reported.max(next.expect("read"));
        assert!(reported <= Some(ends.high));
    }
}
