//! How the engine connects to a cluster: brokers, names, and any property of librdkafka.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::error::KafkaError;
use rdkafka::types::RDKafkaConfRes;
use workspace_engine_core::routing::Partitioner;

/// The protocol of the consumer group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum GroupProtocol {
    /// The members rebalance among themselves, cooperatively.
    #[default]
    Classic,
    /// The broker assigns (KIP-848); needs Kafka 4.
    Consumer,
}

/// Whether to serve a partition of which saved data is missing: its changelog, or the mark of the engine that committed
/// its offset.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum AcceptLoss {
    /// It is refused; the error names what is missing and what to do.
    #[default]
    No,
    /// It is served with what still exists, and a notice reports the loss.
    Yes,
}

/// The client that is the member of the group.
pub(crate) const MEMBER: &str = "group";

/// Properties that the engine sets itself, and what to do instead, or why they are fixed.
const RESERVED: [(&str, &str); 15] = [
    ("bootstrap.servers", "name the brokers instead"),
    ("metadata.broker.list", "name the brokers instead"),
    ("group.id", "name the group instead"),
    ("group.instance.id", "name the instance instead"),
    ("group.protocol", "name the group protocol instead"),
    ("session.timeout.ms", "set the session timeout instead"),
    (
        "partition.assignment.strategy",
        "partitions must be handed over one by one, cooperatively",
    ),
    ("transactional.id", "the engine makes one"),
    ("enable.idempotence", "nothing may be doubled"),
    ("isolation.level", "what was aborted must not be read"),
    (
        "enable.auto.commit",
        "offsets are committed with what was saved",
    ),
    (
        "enable.auto.offset.store",
        "offsets are committed with what was saved",
    ),
    ("auto.offset.reset", "the store knows where reading begins"),
    ("enable.partition.eof", "the engine detects the end"),
    ("client.id", "the engine names its clients by what they do"),
];

/// Why properties of librdkafka cannot be used. Never contains a value: it may be a credential.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PropertyError {
    /// A line is not `name=value`.
    #[error("line {line}: expected `name=value`, as in `security.protocol=SASL_SSL`")]
    Syntax {
        /// Its number, from 1.
        line: usize,
    },
    /// The engine sets this property itself.
    #[error("line {line}: {name} cannot be set: {why}")]
    Reserved {
        /// Its number, from 1.
        line: usize,
        /// The property.
        name: String,
        /// Why not, and what to do.
        why: &'static str,
    },
}

/// Reads properties of librdkafka, one `name=value` per line; empty lines and lines that begin with `#` or `!` are
/// ignored.
///
/// # Errors
/// [`PropertyError`] with the number of the line. An unknown property is refused later, when a client is created.
pub fn read_properties(text: &str) -> Result<BTreeMap<String, String>, PropertyError> {
    let mut properties = BTreeMap::new();
    for (line, text) in (1..).zip(text.lines()) {
        let text = text.trim();
        if text.is_empty() || text.starts_with(['#', '!']) {
            continue;
        }
        let (name, value) = text
            .split_once('=')
            .map(|(name, value)| (name.trim(), value.trim()))
            .filter(|(name, _)| !name.is_empty())
            .ok_or(PropertyError::Syntax { line })?;
        if let Some((_, why)) = RESERVED.iter().find(|(reserved, _)| *reserved == name) {
            return Err(PropertyError::Reserved {
                line,
                name: name.to_owned(),
                why,
            });
        }
        properties.insert(name.to_owned(), value.to_owned());
    }
    Ok(properties)
}

/// A cluster, and the names that the engine uses on it.
#[derive(Clone, PartialEq, Eq)]
pub struct KafkaConfig {
    /// `host:port` of some brokers, separated by commas.
    pub brokers: String,
    /// The topic of the events.
    pub topic: String,
    /// The consumer group; the names of the engine's own topics begin with it.
    pub group: String,
    /// How the producers of the topic choose the partition of a workspace.
    pub partitioner: Partitioner,
    /// How the group shares the partitions.
    pub protocol: GroupProtocol,
    /// A name that survives a restart of the process (static membership): it gets its partitions back without a
    /// rebalance.
    pub instance_id: Option<String>,
    /// A member that is silent for this long loses its partitions (classic protocol; with the consumer protocol the
    /// brokers decide). With both protocols, a member whose coordinator does not answer for this long abandons its
    /// partitions.
    pub session_timeout: Duration,
    /// Creates the topic with this many partitions where it does not exist.
    pub create_topic: Option<u32>,
    /// Replicas of topics that the engine creates; none means the cluster's default.
    pub replication: Option<u16>,
    /// Whether to serve a partition of which saved data is missing.
    pub accept_loss: AcceptLoss,
    /// Any property of librdkafka, such as `security.protocol`; it overrides the engine's defaults.
    pub properties: BTreeMap<String, String>,
}

impl Default for KafkaConfig {
    fn default() -> Self {
        Self {
            brokers: "127.0.0.1:9092".to_owned(),
            topic: "workspace-events".to_owned(),
            group: "workspace-engine".to_owned(),
            partitioner: Partitioner::default(),
            protocol: GroupProtocol::default(),
            instance_id: None,
            session_timeout: Duration::from_secs(10),
            create_topic: None,
            replication: None,
            accept_loss: AcceptLoss::No,
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
            .field("partitioner", &self.partitioner)
            .field("protocol", &self.protocol)
            .field("instance_id", &self.instance_id)
            .field("session_timeout", &self.session_timeout)
            .field("create_topic", &self.create_topic)
            .field("replication", &self.replication)
            .field("accept_loss", &self.accept_loss)
            .field("properties", &self.properties.keys())
            .finish()
    }
}

impl KafkaConfig {
    /// A cluster by `host:port` of some of its brokers, separated by commas; all else has its default.
    pub fn bootstrap(brokers: impl Into<String>) -> Self {
        Self {
            brokers: brokers.into(),
            ..Self::default()
        }
    }

    /// The compacted topic that keeps the workspaces; it has as many partitions as the topic of the events.
    pub fn changelog_topic(&self) -> String {
        format!("{}-{}-changelog", self.group, self.topic)
    }

    /// The topic of the events that operators skipped; one partition.
    pub fn dead_letter_topic(&self) -> String {
        format!("{}-{}-dead-letters", self.group, self.topic)
    }

    /// The settings of a client: `defaults`, overridden by the properties of the configuration.
    pub(crate) fn client(&self, role: &str, defaults: &[(&str, &str)]) -> ClientConfig {
        let mut config = ClientConfig::new();
        config.set("client.id", format!("workspace-engine-{role}"));
        // The default of 10 s would delay reconnects after an outage.
        config.set("reconnect.backoff.max.ms", "2000");
        for (name, value) in defaults {
            config.set(*name, *value);
        }
        for (name, value) in &self.properties {
            config.set(name, value);
        }
        if role != MEMBER {
            // Only for the member: the other clients do not poll for a group, and librdkafka refuses to create them if
            // it is shorter than their default session timeout.
            config.remove("max.poll.interval.ms");
        }
        config.set("bootstrap.servers", &self.brokers);
        config
    }
}

/// Why a client cannot be created, without the value of any property: it may be a credential, and the client's own
/// error text repeats it.
pub(crate) fn refusal(error: &KafkaError) -> String {
    let KafkaError::ClientConfig(why, _, key, _) = error else {
        return error.to_string();
    };
    if *why == RDKafkaConfRes::RD_KAFKA_CONF_UNKNOWN {
        format!("librdkafka knows no property {key}")
    } else {
        format!("librdkafka does not take the value of {key}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn properties_are_read_a_line_each() {
        let text = "# who we are\n\n! also a comment\nsasl.username = me\nsasl.password=a=b\n";
        let read = read_properties(text).unwrap();
        let shown: Vec<String> = read
            .iter()
            .map(|(name, value)| format!("{name}>{value}"))
            .collect();
        assert_eq!(shown, ["sasl.password>a=b", "sasl.username>me"]);
    }

    #[test]
    fn a_refused_property_is_named_by_its_line_without_its_value() {
        for (text, expected) in [
            (
                "\nsecret",
                "line 2: expected `name=value`, as in `security.protocol=SASL_SSL`",
            ),
            (
                "=secret",
                "line 1: expected `name=value`, as in `security.protocol=SASL_SSL`",
            ),
            (
                "group.id=secret",
                "line 1: group.id cannot be set: name the group instead",
            ),
        ] {
            let error = read_properties(text).unwrap_err();
            assert_eq!(error.to_string(), expected);
        }
    }

    #[test]
    fn the_poll_interval_is_that_of_the_member_alone() {
        let config = KafkaConfig {
            properties: read_properties("max.poll.interval.ms=6000").unwrap(),
            ..KafkaConfig::default()
        };
        let of = |role| {
            let client = config.client(role, &[]);
            client.get("max.poll.interval.ms").map(str::to_owned)
        };
        assert_eq!(of(MEMBER).as_deref(), Some("6000"));
        assert_eq!(of("changelog-reader"), None);
    }

    #[test]
    fn credentials_are_not_shown() {
        let config = KafkaConfig {
            properties: read_properties("sasl.password=secret").unwrap(),
            ..KafkaConfig::default()
        };
        let shown = format!("{config:?}");
        assert!(
            shown.contains("sasl.password") && !shown.contains("secret"),
            "{shown}"
        );
    }
}
