//! All that an engine needs of a cluster: log, store, and its membership in the group.

use std::sync::Arc;

use workspace_engine_core::store::LsmStore;

use crate::changelog::{ChangelogError, ChangelogStore};
use crate::config::KafkaConfig;
use crate::log::{KafkaLog, KafkaLogError};
use crate::membership::{Membership, MembershipError};

/// Why an engine cannot be connected to a cluster: configuration or threads. Brokers that do not answer are no reason.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    /// Of the group.
    #[error(transparent)]
    Membership(#[from] MembershipError),
    /// Of the log.
    #[error(transparent)]
    Log(#[from] KafkaLogError),
    /// Of the store.
    #[error(transparent)]
    Changelog(#[from] ChangelogError),
}

/// A cluster as an engine sees it.
pub struct Cluster {
    /// The events.
    pub log: Arc<KafkaLog>,
    /// The workspaces.
    pub store: Arc<ChangelogStore>,
    /// Which partitions this process owns.
    pub membership: Membership,
}

impl Cluster {
    /// Gets the clients ready; none waits for a broker. The topic of the events has `partitions`, `copy` is
    /// where the workspaces are copied to, and `owner` tells this process from the others of the group.
    ///
    /// # Errors
    /// [`ClusterError`].
    pub fn new(
        config: &KafkaConfig,
        partitions: u32,
        copy: LsmStore,
        owner: &str,
    ) -> Result<Self, ClusterError> {
        let membership = Membership::new(config)?;
        let log = KafkaLog::open(config, partitions)?;
        // Of this process alone: one that was stopped for a while must not fence the one that was started in its place.
        let life = fastrand::u64(..);
        let transactional_id = format!("{}-{}-{owner}-{life:016x}", config.group, config.topic);
        let store = ChangelogStore::open(config, copy, membership.group(), transactional_id)?;
        Ok(Self {
            log: Arc::new(log),
            store: Arc::new(store),
            membership,
        })
    }
}
