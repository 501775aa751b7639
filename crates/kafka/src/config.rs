//! How the engine talks to a cluster: brokers, names, and any property of librdkafka.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use rdkafka::ClientConfig;

/// Which protocol the consumer group speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum GroupProtocol {
    /// The members rebalance among themselves, cooperatively.
    #[default]
    Classic,
    /// The broker assigns (KIP-848); needs Kafka 4.
    Consumer,
}

/// A cluster, and what the engine is called on it.
#[derive(Clone)]
pub struct KafkaConfig {
    /// `host:port` of some brokers, separated by commas.
    pub brokers: String,
    /// The topic of the events.
    pub topic: String,
    /// The consumer group; the names of the engine's own topics begin with it.
    pub group: String,
    /// How the group shares the partitions.
    pub protocol: GroupProtocol,
    /// A name that stays when the process comes back (static membership): it gets its partitions back without a rebalance.
    pub instance_id: Option<String>,
    /// A member that is not heard of for this long has lost its partitions (classic protocol; with the other one the broker says).
    pub session_timeout: Duration,
    /// Creates the topic with this many partitions where it does not exist.
    pub create_topic: Option<u32>,
    /// Replicas of topics that the engine creates; none asks for the cluster's default.
    pub replication: Option<u16>,
    /// Any property of librdkafka, such as `security.protocol`; it goes before what the engine sets by itself.
    pub properties: BTreeMap<String, String>,
}

impl Default for KafkaConfig {
    fn default() -> Self {
        Self {
            brokers: "127.0.0.1:9092".to_owned(),
            topic: "workspace-events".to_owned(),
            group: "workspace-engine".to_owned(),
            protocol: GroupProtocol::default(),
            instance_id: None,
            session_timeout: Duration::from_secs(10),
            create_topic: None,
            replication: None,
            properties: BTreeMap::new(),
        }
    }
}

impl fmt::Debug for KafkaConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Values may be credentials; their names are not.
        f.debug_struct("KafkaConfig")
            .field("brokers", &self.brokers)
            .field("topic", &self.topic)
            .field("group", &self.group)
            .field("protocol", &self.protocol)
            .field("instance_id", &self.instance_id)
            .field("session_timeout", &self.session_timeout)
            .field("create_topic", &self.create_topic)
            .field("replication", &self.replication)
            .field("properties", &self.properties.keys())
            .finish()
    }
}

impl KafkaConfig {
    /// The compacted topic that keeps the workspaces: as many partitions as the topic of the events.
    pub fn changelog_topic(&self) -> String {
        format!("{}-{}-changelog", self.group, self.topic)
    }

    /// The topic of the events that operators skipped; one partition.
    pub fn dead_letter_topic(&self) -> String {
        format!("{}-{}-dead-letters", self.group, self.topic)
    }

    /// A client with what `defaults` says, over which the properties of the configuration go.
    pub(crate) fn client(&self, role: &str, defaults: &[(&str, &str)]) -> ClientConfig {
        let mut config = ClientConfig::new();
        config.set("client.id", format!("workspace-engine-{role}"));
        for (name, value) in defaults {
            config.set(*name, *value);
        }
        for (name, value) in &self.properties {
            config.set(name, value);
        }
        config.set("bootstrap.servers", &self.brokers);
        config
    }
}
