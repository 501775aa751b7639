//! A build without Kafka: no engine is in a group.

use prometheus_client::encoding::DescriptorEncoder;
use std::{
    collections::BTreeMap,
    convert::Infallible,
    fmt,
    time::{Duration, Instant},
};
use workspace_engine_core::{Engine, EngineBuilder, ShutdownReport, Workspace};
use workspace_lifecycle::PartitionId;

/// No configuration names a cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct KafkaConfig(Infallible);

pub(crate) type GroupError = Infallible;

#[derive(Clone)]
pub(crate) struct Group(Infallible);

pub(crate) fn start(
    _: EngineBuilder<dyn Workspace>,
    kafka: &KafkaConfig,
    _: impl FnMut(String) -> bool,
) -> Result<Option<Group>, GroupError> {
    match kafka.0 {}
}

impl Group {
    pub(crate) fn engine(&self) -> Engine<dyn Workspace> {
        match self.0 {}
    }

    pub(crate) fn failure(&self) -> Option<String> {
        match self.0 {}
    }

    pub(crate) fn refusal(&self) -> Option<&str> {
        match self.0 {}
    }

    pub(crate) fn last_writers(
        &self,
        _: Duration,
    ) -> Result<BTreeMap<PartitionId, String>, String> {
        match self.0 {}
    }

    pub(crate) fn shutdown(&self, _: Instant) -> ShutdownReport {
        match self.0 {}
    }

    pub(crate) fn encode(&self, _: DescriptorEncoder<'_>) -> fmt::Result {
        match self.0 {}
    }
}
