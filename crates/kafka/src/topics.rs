//! The topics of the engine: the events' one is found, its own are made.

use std::time::{Duration, Instant};

use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};

use crate::config::{KafkaConfig, refusal};
use crate::context::Plain;

/// How long the brokers may take for one answer.
const ANSWER: Duration = Duration::from_secs(10);

/// Between two looks for a topic that is being created.
const LOOK: Duration = Duration::from_millis(50);

/// Largest record of the engine's own topics, 16 MiB: an entity is never larger than the event that set it.
const RECORD_BYTES_MOST: &str = "16777216";

/// Why the topics cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TopicError {
    /// The client refuses its configuration.
    #[error("the Kafka client cannot be configured: {0}")]
    Client(String),
    /// The brokers do not answer now; ask again.
    #[error("the brokers {brokers} do not answer: {reason}")]
    Unreachable {
        /// Who was asked.
        brokers: String,
        /// In the client's words.
        reason: KafkaError,
    },
    /// The topic of the events does not exist.
    #[error("topic {0} does not exist: create it, or let the engine create it (--create-topic N)")]
    Missing(String),
    /// The topic exists, but the brokers do not tell of it yet; ask again.
    #[error("topic {0} exists, but the brokers do not tell of it yet")]
    Unseen(String),
    /// The brokers refuse it.
    #[error("topic {topic}: {reason}")]
    Refused {
        /// Which topic.
        topic: String,
        /// In the brokers' words.
        reason: String,
    },
    /// The changelog was made for another number of partitions.
    #[error(
        "topic {changelog} has {found} partitions and topic {topic} has {expected}: workspaces would be looked for \
         in the wrong place; partitions must not be added to a topic whose keys have a place"
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
}

impl TopicError {
    /// Whether asking again may help.
    pub fn is_passing(&self) -> bool {
        matches!(self, Self::Unreachable { .. } | Self::Unseen(_))
    }
}

/// Finds the topic of the events, creates it where that was asked for, and creates the engine's own
/// topics where they are missing. Tells how many partitions the events have. Blocks.
///
/// # Errors
/// [`TopicError`]; one that [is passing](TopicError::is_passing) may be over soon.
pub fn prepare(config: &KafkaConfig) -> Result<u32, TopicError> {
    let admin: AdminClient<Plain> = config
        .client("admin", &[])
        .create_with_context(Plain)
        .map_err(|error| TopicError::Client(refusal(&error)))?;
    let topics = Topics { config, admin };
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
                // Longer than a copy on a disk is trusted.
                ("delete.retention.ms", "86400000"),
                ("max.message.bytes", RECORD_BYTES_MOST),
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
    let letters = config.dead_letter_topic();
    if topics.partitions(&letters)?.is_none() {
        topics.create(
            &letters,
            1,
            &[
                ("retention.ms", "-1"),
                ("max.message.bytes", RECORD_BYTES_MOST),
            ],
        )?;
    }
    Ok(partitions)
}

struct Topics<'a> {
    config: &'a KafkaConfig,
    admin: AdminClient<Plain>,
}

impl Topics<'_> {
    /// How many partitions a topic has; none where it does not exist.
    fn partitions(&self, name: &str) -> Result<Option<u32>, TopicError> {
        // Of all topics: asking for one that does not exist would create it on most clusters, as it should not be.
        let metadata = self
            .admin
            .inner()
            .fetch_metadata(None, ANSWER)
            .map_err(|reason| self.unreachable(reason))?;
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

    /// Creates a topic; another engine may do so at the same time. Tells how many partitions it has then.
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
            .request_timeout(Some(ANSWER))
            .operation_timeout(Some(ANSWER));
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .map_err(|error| refused(error.to_string()))?;
        let answers = runtime
            .block_on(self.admin.create_topics([&topic], &options))
            .map_err(|reason| self.unreachable(reason))?;
        match answers.into_iter().next() {
            None | Some(Ok(_)) => {
                tracing::info!(topic = name, partitions, "topic created");
                Ok(partitions)
            }
            Some(Err((_, RDKafkaErrorCode::TopicAlreadyExists))) => self.created_by_another(name),
            Some(Err((_, code))) => Err(refused(code.to_string())),
        }
    }

    /// A topic that another engine creates is seen when the brokers have told each other.
    fn created_by_another(&self, name: &str) -> Result<u32, TopicError> {
        let deadline = Instant::now() + ANSWER;
        loop {
            if let Some(partitions) = self.partitions(name)? {
                return Ok(partitions);
            }
            if Instant::now() > deadline {
                return Err(TopicError::Unseen(name.to_owned()));
            }
            std::thread::sleep(LOOK);
        }
    }

    fn unreachable(&self, reason: KafkaError) -> TopicError {
        TopicError::Unreachable {
            brokers: self.config.brokers.clone(),
            reason,
        }
    }
}
