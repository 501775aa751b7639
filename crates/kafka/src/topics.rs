//! The topics of the engine: finds the topic of the events and creates the engine's own.

use std::time::{Duration, Instant};

use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, ResourceSpecifier, TopicReplication};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};

use crate::client_errors::ClientErrors;
use crate::config::{KafkaConfig, refusal};
use crate::context::Plain;

/// How long the brokers may take for one answer.
const ADMIN_TIMEOUT: Duration = Duration::from_secs(10);

/// Between two queries for a topic that is being created.
const CREATION_POLL: Duration = Duration::from_millis(50);

/// How long a client is polled for its errors before an error is returned.
const ERRORS_WAIT: Duration = Duration::from_millis(100);

/// Largest record of the engine's own topics, 16 MiB: an entity is never larger than the event that set it.
const MAX_RECORD_BYTES: u64 = 16 * 1024 * 1024;

/// How long the tombstones of a removed workspace must be kept, 24 hours: longer than a copy on a disk is trusted.
const MIN_REMOVAL_MS: u64 = 24 * 60 * 60 * 1000;

/// Why the topics cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TopicError {
    /// The client refuses its configuration.
    #[error("the Kafka client cannot be configured: {0}")]
    Client(String),
    /// The brokers do not answer now; retry.
    #[error("the brokers {brokers} do not answer: {reason}")]
    Unreachable {
        /// The brokers that were queried.
        brokers: String,
        /// The client's error text, such as that of a refused login.
        reason: String,
    },
    /// The topic of the events does not exist.
    #[error(
        "topic {0} does not exist, or this principal may not see it: create it, let the engine create it \
         (--create-topic N), or allow the principal to describe it"
    )]
    Missing(String),
    /// The topic exists, but the brokers do not list it yet; retry.
    #[error("topic {0} exists, but the brokers do not list it yet")]
    NotListed(String),
    /// The brokers cannot create the topic now; retry.
    #[error("topic {topic} cannot be created yet: {reason}")]
    NotYet {
        /// Which topic.
        topic: String,
        /// The brokers' error text.
        reason: String,
    },
    /// The brokers refuse it.
    #[error("topic {topic}: {reason}")]
    Refused {
        /// Which topic.
        topic: String,
        /// The brokers' error text.
        reason: String,
    },
    /// The changelog was created for another number of partitions.
    #[error(
        "topic {changelog} has {found} partitions and topic {topic} has {expected}: workspaces would be looked for \
         in the wrong partition; partitions must not be added to a topic that is partitioned by key"
    )]
    Partitions {
        /// The topic of the events.
        topic: String,
        /// How many partitions it has.
        expected: u32,
        /// The topic of the workspaces.
        changelog: String,
        /// How many it has.
        found: u32,
    },
    /// A setting of the changelog would lose what it must keep.
    #[error(
        "topic {topic} has {setting}={found}, with which workspaces are lost, or reappear after they were removed: it \
         must be {wanted}; alter it (kafka-configs.sh --alter --entity-type topics --entity-name {topic} \
         --add-config {setting}={value})"
    )]
    Setting {
        /// The topic of the workspaces.
        topic: String,
        /// The wrong setting.
        setting: &'static str,
        /// Its value.
        found: String,
        /// The required value, as text.
        wanted: &'static str,
        /// A valid value.
        value: String,
    },
}

impl TopicError {
    /// Whether a retry may succeed.
    pub fn is_passing(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::NotListed(_) | Self::NotYet { .. } => true,
            Self::Client(_)
            | Self::Missing(_)
            | Self::Refused { .. }
            | Self::Partitions { .. }
            | Self::Setting { .. } => false,
        }
    }
}

/// Finds the topic of the events, creates it if it is missing and the configuration says so, and creates the engine's
/// own topics if they are missing. Returns the number of partitions of the events. Blocks.
///
/// # Errors
/// [`TopicError`]; one that [is passing](TopicError::is_passing) may end soon.
pub fn prepare(config: &KafkaConfig) -> Result<u32, TopicError> {
    let topics = Topics::new(config)?;
    let partitions = match topics.partitions(&config.topic)? {
        Some(partitions) => partitions,
        None => match config.create_topic {
            None => return Err(TopicError::Missing(config.topic.clone())),
            Some(partitions) => topics.create(&config.topic, partitions, &[])?,
        },
    };
    let changelog = config.changelog_topic();
    let found = match topics.partitions(&changelog)? {
        Some(found) => found,
        None => topics.create(
            &changelog,
            partitions,
            &[
                ("cleanup.policy", "compact"),
                ("delete.retention.ms", &MIN_REMOVAL_MS.to_string()),
                ("max.message.bytes", &MAX_RECORD_BYTES.to_string()),
            ],
        )?,
    };
    if found != partitions {
        return Err(TopicError::Partitions {
            topic: config.topic.clone(),
            expected: partitions,
            changelog,
            found,
        });
    }
    // Also if it was created here: another process may have been first, with other settings.
    topics.check(&changelog)?;
    let dead_letters = config.dead_letter_topic();
    if topics.partitions(&dead_letters)?.is_none() {
        topics.create(
            &dead_letters,
            1,
            &[
                ("retention.ms", "-1"),
                ("max.message.bytes", &MAX_RECORD_BYTES.to_string()),
            ],
        )?;
    }
    Ok(partitions)
}

/// Whether a changelog with these settings keeps what it must. A setting that the brokers do not return is valid.
fn check<'a>(topic: &str, setting: impl Fn(&str) -> Option<&'a str>) -> Result<(), TopicError> {
    let wrong = |setting, found: &str, wanted, value: String| TopicError::Setting {
        topic: topic.to_owned(),
        setting,
        found: found.to_owned(),
        wanted,
        value,
    };
    let name = "cleanup.policy";
    if let Some(found) = setting(name)
        && found != "compact"
    {
        return Err(wrong(
            name,
            found,
            "compact and nothing else",
            "compact".to_owned(),
        ));
    }
    let is_below = |found: &str, min: u64| found.parse().is_ok_and(|found: u64| found < min);
    let name = "delete.retention.ms";
    if let Some(found) = setting(name)
        && is_below(found, MIN_REMOVAL_MS)
    {
        let value = MIN_REMOVAL_MS.to_string();
        return Err(wrong(name, found, "at least 24 hours", value));
    }
    let name = "max.message.bytes";
    if let Some(found) = setting(name)
        && is_below(found, MAX_RECORD_BYTES)
    {
        tracing::warn!(
            topic,
            found,
            "max.message.bytes of the changelog is less than {MAX_RECORD_BYTES}: an entity that is larger cannot be \
             saved, and its workspace does not advance"
        );
    }
    Ok(())
}

struct Topics<'a> {
    config: &'a KafkaConfig,
    admin: AdminClient<Plain>,
    /// Queries topics, and keeps the errors about its brokers, which an admin client does not pass on.
    observer: BaseConsumer<ClientErrors>,
}

impl<'a> Topics<'a> {
    fn new(config: &'a KafkaConfig) -> Result<Self, TopicError> {
        let admin = config
            .client("admin", &[])
            .create_with_context(Plain)
            .map_err(|error| TopicError::Client(refusal(&error)))?;
        let observer = config
            .client("topics", &[])
            .create_with_context(ClientErrors::default())
            .map_err(|error| TopicError::Client(refusal(&error)))?;
        Ok(Self {
            config,
            admin,
            observer,
        })
    }

    /// How many partitions a topic has; none if it does not exist.
    fn partitions(&self, name: &str) -> Result<Option<u32>, TopicError> {
        // For all topics: a query for one that does not exist would create it on most clusters, with default settings.
        let metadata = self
            .observer
            .fetch_metadata(None, ADMIN_TIMEOUT)
            .map_err(|error| self.unreachable(&error))?;
        self.observer.context().forget();
        let Some(topic) = metadata.topics().iter().find(|topic| topic.name() == name) else {
            return Ok(None);
        };
        match topic.error().map(RDKafkaErrorCode::from) {
            None | Some(RDKafkaErrorCode::LeaderNotAvailable) => {}
            Some(RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::UnknownTopic) => {
                return Ok(None);
            }
            Some(code) => {
                return Err(TopicError::Refused {
                    topic: name.to_owned(),
                    reason: code.to_string(),
                });
            }
        }
        Ok(u32::try_from(topic.partitions().len())
            .ok()
            .filter(|partitions| *partitions > 0))
    }

    /// Creates a topic; another engine may do so at the same time. Returns how many partitions it has then.
    fn create(
        &self,
        name: &str,
        partitions: u32,
        settings: &[(&str, &str)],
    ) -> Result<u32, TopicError> {
        let refused = |reason: String| TopicError::Refused {
            topic: name.to_owned(),
            reason,
        };
        let replicas = self.config.replication.map_or(-1, i32::from);
        let count = i32::try_from(partitions).unwrap_or(i32::MAX);
        let mut topic = NewTopic::new(name, count, TopicReplication::Fixed(replicas));
        for (name, value) in settings {
            topic = topic.set(name, value);
        }
        let options = AdminOptions::new()
            .request_timeout(Some(ADMIN_TIMEOUT))
            .operation_timeout(Some(ADMIN_TIMEOUT));
        let answers = wait(self.admin.create_topics([&topic], &options))
            .map_err(|error| refused(error.to_string()))?
            .map_err(|error| self.unreachable(&error))?;
        match answers.into_iter().next() {
            None | Some(Ok(_)) => {
                tracing::info!(topic = name, partitions, "topic created");
                Ok(partitions)
            }
            Some(Err((_, RDKafkaErrorCode::TopicAlreadyExists))) => self.created_by_another(name),
            Some(Err((
                _,
                code @ (RDKafkaErrorCode::NotController
                | RDKafkaErrorCode::RequestTimedOut
                // Brokers that are starting have not all joined yet.
                | RDKafkaErrorCode::InvalidReplicationFactor),
            ))) => Err(TopicError::NotYet {
                topic: name.to_owned(),
                reason: code.to_string(),
            }),
            Some(Err((_, code))) => Err(refused(code.to_string())),
        }
    }

    /// Checks that the settings of a topic keep what a changelog must keep.
    fn check(&self, name: &str) -> Result<(), TopicError> {
        let options = AdminOptions::new().request_timeout(Some(ADMIN_TIMEOUT));
        let resources = [ResourceSpecifier::Topic(name)];
        let answers = wait(self.admin.describe_configs(&resources, &options)).map_err(|error| {
            TopicError::Refused {
                topic: name.to_owned(),
                reason: error.to_string(),
            }
        })?;
        let answer = answers.map(|answers| answers.into_iter().next());
        let error = match answer {
            Ok(Some(Ok(found))) => {
                return check(name, |setting| found.get(setting)?.value.as_deref());
            }
            Ok(None) => return Ok(()),
            Ok(Some(Err(code))) => KafkaError::AdminOp(code),
            Err(error) => error,
        };
        match error.rdkafka_error_code() {
            Some(
                RDKafkaErrorCode::TopicAuthorizationFailed
                | RDKafkaErrorCode::ClusterAuthorizationFailed
                | RDKafkaErrorCode::UnsupportedVersion
                | RDKafkaErrorCode::UnsupportedFeature,
            ) => {
                tracing::warn!(
                    topic = name,
                    %error,
                    "the settings of the changelog cannot be read: cleanup.policy must be compact, \
                     delete.retention.ms at least {MIN_REMOVAL_MS}, max.message.bytes at least {MAX_RECORD_BYTES}"
                );
                Ok(())
            }
            Some(RDKafkaErrorCode::UnknownTopicOrPartition) => {
                Err(TopicError::NotListed(name.to_owned()))
            }
            _ => Err(self.unreachable(&error)),
        }
    }

    /// Waits until the brokers list a topic that another engine creates. Returns how many partitions it has.
    fn created_by_another(&self, name: &str) -> Result<u32, TopicError> {
        let deadline = Instant::now() + ADMIN_TIMEOUT;
        loop {
            if let Some(partitions) = self.partitions(name)? {
                return Ok(partitions);
            }
            if Instant::now() > deadline {
                return Err(TopicError::NotListed(name.to_owned()));
            }
            std::thread::sleep(CREATION_POLL);
        }
    }

    fn unreachable(&self, error: &KafkaError) -> TopicError {
        // The client's errors about its brokers are in its queue. A poll that handles a log line also returns nothing,
        // so nothing returned does not mean that the queue is empty.
        let deadline = Instant::now() + ERRORS_WAIT;
        while Instant::now() < deadline {
            let _ = self.observer.poll(ERRORS_WAIT / 10);
        }
        TopicError::Unreachable {
            brokers: self.config.brokers.clone(),
            reason: self.observer.context().explain(error),
        }
    }
}

/// Waits for an answer of the admin client, which its own thread delivers.
fn wait<T>(answer: impl Future<Output = T>) -> std::io::Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    Ok(runtime.block_on(answer))
}

#[cfg(test)]
mod tests {
    use super::*;

    const RIGHT: [(&str, &str); 3] = [
        ("cleanup.policy", "compact"),
        ("delete.retention.ms", "86400000"),
        ("max.message.bytes", "16777216"),
    ];

    fn check_with(other: &[(&str, &str)]) -> Result<(), String> {
        let settings = |name: &str| {
            let mut all = other.iter().chain(&RIGHT);
            all.find(|(of, _)| *of == name).map(|(_, value)| *value)
        };
        check("changelog", settings).map_err(|error| {
            assert!(!error.is_passing());
            error.to_string()
        })
    }

    #[test]
    fn a_changelog_that_would_lose_records_is_refused() {
        for (name, value) in [
            ("cleanup.policy", "delete"),
            ("cleanup.policy", "compact,delete"),
            ("delete.retention.ms", "86399999"),
        ] {
            let error_text = check_with(&[(name, value)]).unwrap_err();
            assert!(error_text.contains(&format!("topic changelog has {name}={value}")));
            let (_, right) = RIGHT.iter().find(|(of, _)| *of == name).unwrap();
            assert!(
                error_text.ends_with(&format!("--add-config {name}={right})")),
                "{error_text}"
            );
        }
        for settings in [
            &[][..],
            &[("delete.retention.ms", "172800000")],
            // Only logged, because most entities are small.
            &[("max.message.bytes", "1048588")],
        ] {
            assert_eq!(check_with(settings), Ok(()));
        }
        assert!(
            check("changelog", |_| None).is_ok(),
            "a setting that is not returned is valid"
        );
    }

    #[test]
    fn a_failed_handshake_is_reported_with_the_client_error() {
        let cluster = rdkafka::mocking::MockCluster::new(1).unwrap();
        let mut config = KafkaConfig {
            brokers: cluster.bootstrap_servers(),
            ..KafkaConfig::default()
        };
        config.properties.set("security.protocol", "ssl").unwrap();
        let error = prepare(&config).unwrap_err();
        assert!(error.is_passing());
        let error_text = error.to_string();
        // Or the client reports that the connection ended during the handshake.
        let is_reported =
            error_text.contains("SSL handshake failed") || error_text.contains("SSL_HANDSHAKE");
        assert!(is_reported, "{error_text}");
    }

    /// A new topic for one test on the real cluster.
    fn real() -> KafkaConfig {
        let topic = format!("topics-{:08x}", fastrand::u32(..));
        KafkaConfig {
            brokers: std::env::var("KAFKA_BROKERS").expect("KAFKA_BROKERS names the brokers"),
            group: "engine".to_owned(),
            create_topic: Some(2),
            topic,
            ..KafkaConfig::default()
        }
    }

    fn prepared(config: &KafkaConfig) -> Result<u32, TopicError> {
        let deadline = Instant::now() + Duration::from_mins(2);
        loop {
            match prepare(config) {
                Err(error) if error.is_passing() && Instant::now() < deadline => {
                    std::thread::sleep(CREATION_POLL);
                }
                answer => return answer,
            }
        }
    }

    #[test]
    #[ignore = "needs a real Kafka in KAFKA_BROKERS"]
    fn a_changelog_that_another_program_created_is_checked() {
        let config = real();
        assert_eq!(prepared(&config).unwrap(), 2);
        assert_eq!(
            prepared(&config).unwrap(),
            2,
            "a topic that was created here is right"
        );
        let config = real();
        let topics = Topics::new(&config).unwrap();
        let settings = [("cleanup.policy", "delete")];
        topics
            .create(&config.changelog_topic(), 2, &settings)
            .unwrap();
        match prepared(&config) {
            Err(TopicError::Setting { setting, found, .. }) => {
                assert_eq!((setting, found.as_str()), ("cleanup.policy", "delete"));
            }
            other => panic!("{other:?}"),
        }
    }
}
