//! The settings of a Kafka cluster.

use crate::{
    group::KafkaConfig,
    values::{Conflict, OrAuto, OrOff, number, or_auto, or_off, path, positive},
};
use clap::{
    Args,
    builder::{PossibleValuesParser, TypedValueParser},
};
#[cfg(feature = "kafka")]
use std::fs;
use std::{path::PathBuf, time::Duration};
use workspace_engine_core::{disk::MAX_PARTITIONS, routing::Partitioner};
#[cfg(feature = "kafka")]
use workspace_engine_kafka::{AcceptLoss, GroupProtocol, Properties};

/// Kafka's longest topic name; the engine's own topics have longer names than the events' topic.
#[cfg(feature = "kafka")]
const MAX_NAME_BYTES: usize = 249;

/// Bounds of a session: with a shorter one, a hiccup loses partitions; with a longer one, a dead engine is not noticed.
const MIN_SESSION: Duration = Duration::from_secs(1);
const MAX_SESSION: Duration = Duration::from_mins(30);

/// Why a build without Kafka refuses a cluster.
#[cfg(any(test, not(feature = "kafka")))]
const WITHOUT_KAFKA: &str =
    "this program was built without Kafka: build it with the feature `kafka` of workspace-engine";

/// The settings of a Kafka cluster.
#[derive(Debug, Clone, Args)]
pub(crate) struct KafkaSettings {
    /// Brokers (HOST:PORT,...) of the Kafka cluster whose topic is the event log, shared with the other engines of the
    /// group; off keeps the log in the data directory
    #[arg(long = "kafka", value_name = "BROKERS", default_value = "off", value_parser = or_off(brokers))]
    pub(crate) brokers: OrOff<String>,
    /// Kafka topic of the events; their key is the workspace id
    #[arg(long, value_name = "TOPIC", default_value = "workspace-events", value_parser = name)]
    topic: String,
    /// How the producers of the Kafka topic choose the partition of a key: `murmur2_random` (Java, kafkajs, franz-go),
    /// `consistent_random` (librdkafka, and so Python, Go, Node, .NET and Ruby by default) or `fnv1a_random` (Sarama);
    /// the same for all engines of a group, which records it
    #[arg(long, default_value = "murmur2_random", value_parser = partitioner())]
    partitioner: Partitioner,
    /// Consumer group of the engines that share the topic
    #[arg(long, value_name = "GROUP", default_value = "workspace-engine", value_parser = name)]
    group: String,
    /// How the group shares its partitions: cooperative-sticky among its members, or by the broker (KIP-848, Kafka 4)
    #[arg(long, default_value = "classic", value_parser = ["classic", "consumer"])]
    group_protocol: String,
    /// Name that stays the same when this engine restarts (static membership): it gets its partitions back without a
    /// rebalance, and others take them over only after the session timeout
    #[arg(long, value_name = "NAME", default_value = "off", value_parser = or_off(text))]
    group_instance_id: OrOff<String>,
    /// An engine from which the group has had no heartbeat for this long loses its partitions (classic protocol; else the brokers
    /// decide). With both protocols, an engine whose coordinator does not answer for this long releases its partitions
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = session)]
    session_timeout: Duration,
    /// Creates the topic with this many partitions if it does not exist
    #[arg(long, value_name = "N", default_value = "off", value_parser = or_off(number::<u32>(1, MAX_PARTITIONS.into())))]
    create_topic: OrOff<u32>,
    /// Replicas of the topics that the engine creates; auto is the cluster's default
    #[arg(long, value_name = "N", default_value = "auto", value_parser = or_auto(number::<u16>(1, 1_000)))]
    topic_replication: OrAuto<u16>,
    /// Serves a partition of the cluster although its changelog, or the record of the engine that committed the offset of
    /// the group, is missing, and begins with what still exists; without it such a partition is refused, and the error
    /// says what is missing
    #[arg(
        long, default_value = "false", default_missing_value = "true", num_args = 0..=1, require_equals = true,
        action = clap::ArgAction::Set,
    )]
    accept_loss: bool,
    /// File of properties of librdkafka, one name=value a line, such as those of TLS and SASL; its values are never logged
    #[arg(long, value_name = "FILE", default_value = "off", value_parser = or_off(path))]
    kafka_config: OrOff<PathBuf>,
}

#[cfg(not(feature = "kafka"))]
impl KafkaSettings {
    /// Refuses a cluster.
    pub(super) fn cluster(&self) -> Result<Option<KafkaConfig>, Conflict> {
        without_kafka(self.brokers.as_deref())
    }
}

#[cfg(any(test, not(feature = "kafka")))]
fn without_kafka<T>(brokers: Option<&str>) -> Result<Option<T>, Conflict> {
    match brokers {
        None => Ok(None),
        Some(_) => Err(Conflict::new("kafka", WITHOUT_KAFKA)),
    }
}

#[cfg(feature = "kafka")]
impl KafkaSettings {
    /// The configured cluster, if any.
    pub(super) fn cluster(&self) -> Result<Option<KafkaConfig>, Conflict> {
        let Some(brokers) = self.brokers.clone() else {
            if self.partitioner == Partitioner::default() {
                return Ok(None);
            }
            let reason = format!(
                "applies to a Kafka topic and needs --kafka (the log in the data directory is written by engines only, \
                 by {})",
                Partitioner::default()
            );
            return Err(Conflict::new("partitioner", reason));
        };
        let config = KafkaConfig {
            brokers,
            topic: self.topic.clone(),
            group: self.group.clone(),
            partitioner: self.partitioner,
            protocol: match self.group_protocol.as_str() {
                "consumer" => GroupProtocol::Consumer,
                _ => GroupProtocol::Classic,
            },
            instance_id: self.group_instance_id.clone(),
            session_timeout: self.session_timeout,
            create_topic: self.create_topic,
            replication: self.topic_replication,
            accept_loss: if self.accept_loss {
                AcceptLoss::Yes
            } else {
                AcceptLoss::No
            },
            properties: self.properties()?,
        };
        let longest = config
            .changelog_topic()
            .len()
            .max(config.dead_letter_topic().len());
        if longest > MAX_NAME_BYTES {
            let reason = format!(
                "the topics that begin with group and topic would have names of more than {MAX_NAME_BYTES} bytes"
            );
            return Err(Conflict::new("group", reason));
        }
        Ok(Some(config))
    }

    fn properties(&self) -> Result<Properties, Conflict> {
        let Some(path) = &self.kafka_config else {
            return Ok(Properties::default());
        };
        let refuse = |reason: String| Conflict::new("kafka-config", reason);
        let text = fs::read_to_string(path)
            .map_err(|error| refuse(format!("cannot read {}: {error}", path.display())))?;
        text.parse()
            .map_err(|error| refuse(format!("{}: {error}", path.display())))
    }
}

fn brokers(text: &str) -> Result<String, String> {
    if text.split(',').any(|broker| broker.trim().is_empty()) {
        return Err(format!(
            "{text:?} is not a list of brokers such as 127.0.0.1:9092"
        ));
    }
    Ok(text.to_owned())
}

/// A name that becomes part of topic names.
fn name(text: &str) -> Result<String, String> {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    if matches!(text, "" | "." | "..") || !text.bytes().all(is_plain) {
        return Err(format!(
            "{text:?} is not a name of letters, digits, dots, underscores and hyphens"
        ));
    }
    Ok(text.to_owned())
}

#[expect(clippy::unnecessary_wraps, reason = "the form of a parser")]
fn text(text: &str) -> Result<String, String> {
    Ok(text.to_owned())
}

fn session(text: &str) -> Result<Duration, String> {
    let timeout = positive(text)?;
    if timeout < MIN_SESSION || timeout > MAX_SESSION {
        return Err("must be from 1s to 30m".to_owned());
    }
    Ok(timeout)
}

fn partitioner() -> impl TypedValueParser<Value = Partitioner> {
    let names = Partitioner::ALL.map(Partitioner::name);
    PossibleValuesParser::new(names).try_map(|name| name.parse::<Partitioner>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_build_without_kafka_refuses_a_cluster_and_names_the_feature() {
        assert_eq!(without_kafka::<()>(None), Ok(None));
        let refused = without_kafka::<()>(Some("broker:9092")).unwrap_err();
        assert_eq!(
            (refused.setting, &*refused.reason),
            ("kafka", WITHOUT_KAFKA)
        );
        assert!(WITHOUT_KAFKA.contains("`kafka`"));
    }
}
