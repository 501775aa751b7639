//! The settings of a Kafka cluster.

use super::{
    keys::{AUTO, OFF},
    layers::{InvalidSetting, Layers},
    positive,
};
use std::{collections::BTreeMap, fs, time::Duration};
use workspace_engine_core::{disk::MAX_PARTITIONS, routing::Partitioner};
use workspace_engine_kafka::{AcceptLoss, GroupProtocol, KafkaConfig, read_properties};

/// Kafka's longest topic name; the engine's own topics have longer names than the events' topic.
const MAX_NAME_BYTES: usize = 249;

/// Bounds of a session: shorter, and a hiccup loses partitions; longer, and a dead engine is not noticed.
const SESSION: [Duration; 2] = [Duration::from_secs(1), Duration::from_mins(30)];

/// The configured cluster, if any.
pub(super) fn from_layers(layers: &Layers) -> Result<Option<KafkaConfig>, InvalidSetting> {
    let brokers = layers.text("kafka").trim();
    if brokers == OFF {
        if partitioner(layers)? != Partitioner::default() {
            return Err(layers.invalid(
                "partitioner",
                format_args!("is of a Kafka topic: it needs --kafka (the log in the data directory is written by engines alone, by {})", Partitioner::default()),
            ));
        }
        return Ok(None);
    }
    if brokers.split(',').any(|broker| broker.trim().is_empty()) {
        return Err(layers.invalid(
            "kafka",
            format_args!("{brokers:?} is not a list of brokers such as 127.0.0.1:9092"),
        ));
    }
    let config = KafkaConfig {
        brokers: brokers.to_owned(),
        topic: layers.text("topic").trim().to_owned(),
        group: layers.text("group").trim().to_owned(),
        partitioner: partitioner(layers)?,
        protocol: layers.choice(
            "group-protocol",
            &[
                ("classic", GroupProtocol::Classic),
                ("consumer", GroupProtocol::Consumer),
            ],
        )?,
        instance_id: unless(OFF, layers, "group-instance-id").map(str::to_owned),
        session_timeout: session_timeout(layers)?,
        create_topic: match unless(OFF, layers, "create-topic") {
            None => None,
            Some(_) => Some(number(layers, "create-topic", MAX_PARTITIONS.into())?),
        },
        replication: match unless(AUTO, layers, "topic-replication") {
            None => None,
            Some(_) => Some(number(layers, "topic-replication", 1_000)?),
        },
        accept_loss: layers.choice(
            "accept-loss",
            &[("false", AcceptLoss::No), ("true", AcceptLoss::Yes)],
        )?,
        properties: properties(layers)?,
    };
    for name in ["topic", "group"] {
        check_name(layers, name)?;
    }
    if config
        .changelog_topic()
        .len()
        .max(config.dead_letter_topic().len())
        > MAX_NAME_BYTES
    {
        return Err(layers.invalid(
            "group",
            format_args!(
                "the topics that begin with group and topic would have names of more than {MAX_NAME_BYTES} bytes"
            ),
        ));
    }
    Ok(Some(config))
}

fn unless<'a>(off: &str, layers: &'a Layers, name: &str) -> Option<&'a str> {
    Some(layers.text(name).trim()).filter(|text| *text != off)
}

fn number<T: TryFrom<u64>>(layers: &Layers, name: &str, most: u64) -> Result<T, InvalidSetting> {
    T::try_from(layers.number(name, 1, most)?)
        .map_err(|_| layers.invalid(name, format_args!("is not a number from 1 to {most}")))
}

fn partitioner(layers: &Layers) -> Result<Partitioner, InvalidSetting> {
    let choices = Partitioner::ALL.map(|partitioner| (partitioner.name(), partitioner));
    layers.choice("partitioner", &choices)
}

fn session_timeout(layers: &Layers) -> Result<Duration, InvalidSetting> {
    let name = "session-timeout";
    let timeout = positive(layers, name)?;
    let [least, most] = SESSION;
    if timeout < least || timeout > most {
        return Err(layers.invalid(name, format_args!("must be from 1s to 30m")));
    }
    Ok(timeout)
}

/// Checks a name that becomes part of topic names.
fn check_name(layers: &Layers, name: &str) -> Result<(), InvalidSetting> {
    let text = layers.text(name).trim();
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    if text.is_empty() || matches!(text, "." | "..") || !text.bytes().all(is_plain) {
        return Err(layers.invalid(
            name,
            format_args!(
                "{text:?} is not a name of letters, digits, dots, underscores and hyphens"
            ),
        ));
    }
    Ok(())
}

fn properties(layers: &Layers) -> Result<BTreeMap<String, String>, InvalidSetting> {
    let name = "kafka-config";
    let Some(path) = layers.path_unless_off(name) else {
        return Ok(BTreeMap::new());
    };
    let text = fs::read_to_string(&path).map_err(|error| {
        layers.invalid(
            name,
            format_args!("cannot read {}: {error}", path.display()),
        )
    })?;
    read_properties(&text)
        .map_err(|error| layers.invalid(name, format_args!("{}: {error}", path.display())))
}
