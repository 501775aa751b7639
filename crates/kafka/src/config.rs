//! How the engine connects to a cluster: brokers, names, and any property of librdkafka.

use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::error::KafkaError;
use rdkafka::types::RDKafkaConfRes;
use workspace_engine_core::routing::Partitioner;

use crate::properties::Properties;

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
pub(crate) const MEMBER_ROLE: &str = "group";

/// A cluster, and the names that the engine uses on it.
#[derive(Debug, Clone, PartialEq, Eq)]
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
    /// Further properties of librdkafka, such as those of TLS and SASL.
    pub properties: Properties,
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
            properties: Properties::default(),
        }
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
        // A client's threads may use OpenSSL until the process has ended, and a C program's exit handlers would release
        // what they use. This makes OpenSSL register none.
        openssl_sys::init();
        let mut config = ClientConfig::new();
        config.set("client.id", format!("workspace-engine-{role}"));
        // The default of 10 s would delay reconnects after an outage.
        config.set("reconnect.backoff.max.ms", "2000");
        for (name, value) in defaults {
            config.set(*name, *value);
        }
        for (name, value) in self.properties.iter() {
            config.set(name, value);
        }
        if role != MEMBER_ROLE {
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
    fn the_poll_interval_is_that_of_the_member_alone() {
        let config = KafkaConfig {
            properties: "max.poll.interval.ms=6000".parse().unwrap(),
            ..KafkaConfig::default()
        };
        let of = |role| {
            let client = config.client(role, &[]);
            client.get("max.poll.interval.ms").map(str::to_owned)
        };
        assert_eq!(of(MEMBER_ROLE).as_deref(), Some("6000"));
        assert_eq!(of("changelog-reader"), None);
    }
}
