//! All that an engine needs of a cluster: log, store, and its membership in the group.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use rdkafka::error::KafkaError;
use workspace_lifecycle::PartitionId;

use crate::changelog::{ChangelogError, ChangelogStore};
use crate::config::{KafkaConfig, refusal};
use crate::local_copy::LocalCopy;
use crate::log::{KafkaLog, KafkaLogError};
use crate::membership::{Membership, MembershipError};
use crate::owners;

/// Why an engine cannot be connected to a cluster: configuration or threads. Brokers that do not answer are no reason.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    /// From the membership in the group.
    #[error(transparent)]
    Membership(#[from] MembershipError),
    /// From the log.
    #[error(transparent)]
    Log(#[from] KafkaLogError),
    /// From the store.
    #[error(transparent)]
    Changelog(#[from] ChangelogError),
}

// The conversions drop the client's own error, which contains the value of the refused property.

impl From<KafkaError> for MembershipError {
    fn from(error: KafkaError) -> Self {
        Self::Client(refusal(&error))
    }
}

impl From<KafkaError> for KafkaLogError {
    fn from(error: KafkaError) -> Self {
        Self::Client(refusal(&error))
    }
}

impl From<KafkaError> for ChangelogError {
    fn from(error: KafkaError) -> Self {
        Self::Client(refusal(&error))
    }
}

/// A cluster as an engine sees it.
pub struct Cluster {
    /// The events.
    pub log: Arc<KafkaLog>,
    /// The workspaces.
    pub store: Arc<ChangelogStore>,
    /// Which partitions this process owns.
    pub membership: Membership,
    group: String,
    topic: String,
    partitions: u32,
}

impl Cluster {
    /// Creates the clients without waiting for a broker. The topic of the events has `partitions`, `copy` is the local
    /// copy of the workspaces, and `owner` distinguishes this process from the others of the group.
    ///
    /// # Errors
    /// [`ClusterError`].
    pub fn new(
        config: &KafkaConfig,
        partitions: u32,
        copy: LocalCopy,
        owner: &str,
    ) -> Result<Self, ClusterError> {
        let membership = Membership::new(config)?;
        let log = KafkaLog::open(config, partitions)?;
        // Unique for each process, so that one that was paused cannot fence its replacement.
        let process = fastrand::u64(..);
        let transactional_id = owners::producer_id(&config.group, &config.topic, owner, process);
        let store = ChangelogStore::open(
            config,
            copy,
            membership.group(),
            log.last_reads(),
            transactional_id,
        )?;
        Ok(Self {
            log: Arc::new(log),
            store: Arc::new(store),
            membership,
            group: config.group.clone(),
            topic: config.topic.clone(),
            partitions,
        })
    }

    /// The last writer of each partition: its owner, or the previous one until the next has taken over. A partition
    /// for which no engine of the group has written is left out. Blocks.
    ///
    /// # Errors
    /// The client's error text, also when `timeout` has passed.
    pub fn last_writers(&self, timeout: Duration) -> Result<BTreeMap<PartitionId, String>, String> {
        let consumer = self.membership.observer();
        let of = (self.group.as_str(), self.topic.as_str());
        owners::last_writers(&consumer, of, self.partitions, timeout)
            .map_err(|error| error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topics::prepare;
    use std::path::Path;
    use workspace_engine_core::disk::{DataDir, DataDirSpec};
    use workspace_engine_core::store::LsmStore;

    #[test]
    fn a_property_that_is_refused_is_named_and_its_value_is_not_shown() {
        for (name, expected) in [
            ("sasl.pasword", "librdkafka knows no property sasl.pasword"),
            (
                "security.protocol",
                "librdkafka does not take the value of security.protocol",
            ),
        ] {
            let mut config = KafkaConfig::default();
            config.properties.set(name, "hunter2").unwrap();
            let dir = tempfile::tempdir().unwrap();
            let open = |path: &Path| LsmStore::open(&DataDir::open(path, &DataDirSpec::default())?);
            let copy = LocalCopy::open(dir.path().join("copy"), open).unwrap();
            let group = Membership::new(&KafkaConfig::default()).unwrap().group();
            let last_reads = Arc::default();
            let store = ChangelogStore::open(&config, copy, group, last_reads, "id".to_owned());
            let errors: [Box<dyn std::error::Error>; 4] = [
                Box::new(prepare(&config).unwrap_err()),
                Box::new(Membership::new(&config).err().unwrap()),
                Box::new(KafkaLog::open(&config, 1).unwrap_err()),
                Box::new(store.unwrap_err()),
            ];
            for error in errors {
                assert_eq!(
                    error.to_string(),
                    format!("the Kafka client cannot be configured: {expected}")
                );
                assert!(error.source().is_none());
                assert!(!format!("{error:?}").contains("hunter2"), "{error:?}");
            }
        }
    }
}
