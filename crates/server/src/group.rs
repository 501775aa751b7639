//! The consumer group of an engine on a Kafka cluster, as the server sees it. All that the server knows of Kafka is here
//! and in its configuration; a build without Kafka has `group/none.rs` instead of this file.

use crate::values::rounded;
use prometheus_client::{
    encoding::{DescriptorEncoder, EncodeMetric},
    metrics::{MetricType, counter::ConstCounter, gauge::ConstGauge},
    registry::Unit,
};
use std::{
    collections::BTreeMap,
    fmt,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};
use tracing::warn;
use workspace_engine_core::{Engine, EngineBuilder, ShutdownReport, Workspace};
use workspace_engine_kafka::{
    ChangelogCounts, KafkaEngine, MemberFailure, MemberReport, OnKafka, prepare,
};
pub(crate) use workspace_engine_kafka::{KafkaConfig, KafkaStartError as GroupError};
use workspace_lifecycle::PartitionId;

/// Pause before querying brokers again that did not answer.
const RETRY_PAUSE: Duration = Duration::from_secs(1);

/// The group of a running engine; clones share it.
#[derive(Clone)]
pub(crate) struct Group(Arc<KafkaEngine<dyn Workspace>>);

/// Starts an engine whose log and workspaces are on a cluster, and joins its group. `waits` is called with what the
/// engine waits for; `None` is returned once it answers that the engine shall not start.
pub(crate) fn start(
    builder: EngineBuilder<dyn Workspace>,
    kafka: &KafkaConfig,
    mut waits: impl FnMut(String) -> bool,
) -> Result<Option<Group>, GroupError> {
    let began = Instant::now();
    let mut what = format!("waiting for the brokers {}", kafka.brokers);
    while waits(what) {
        let error = match prepare(kafka) {
            Ok(partitions) => {
                waits("the engine is opening its data directory".to_owned());
                let running = builder.kafka(kafka.clone()).start_with(partitions)?;
                return Ok(Some(Group(Arc::new(running))));
            }
            Err(error) if !error.is_passing() => return Err(error.into()),
            Err(error) => error,
        };
        let since = rounded(Duration::from_secs(began.elapsed().as_secs()));
        warn!(%error, "waiting for the brokers");
        what = format!("waiting for the brokers for {since}: {error}");
        thread::sleep(RETRY_PAUSE);
    }
    Ok(None)
}

impl Group {
    pub(crate) fn engine(&self) -> Engine<dyn Workspace> {
        self.0.engine.clone()
    }

    /// Why this process gets no partitions; `None` where it is a member of the group.
    pub(crate) fn failure(&self) -> Option<String> {
        failure(&self.0.cluster.membership.report())
    }

    /// Why the group has permanently refused this engine.
    pub(crate) fn refusal(&self) -> Option<&str> {
        self.0.cluster.store.refusal()
    }

    /// The last writer of each partition. Blocks.
    pub(crate) fn last_writers(
        &self,
        timeout: Duration,
    ) -> Result<BTreeMap<PartitionId, String>, String> {
        self.0.cluster.last_writers(timeout)
    }

    /// Leaves the group, which hands over the partitions, and ends the engine. Blocks.
    pub(crate) fn shutdown(&self, deadline: Instant) -> ShutdownReport {
        self.0.shutdown(deadline)
    }

    /// Its metrics.
    pub(crate) fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let cluster = &self.0.cluster;
        let (member, changelog) = (cluster.membership.report(), cluster.store.counts());
        for (name, help, unit, read) in &CLUSTER_COUNTERS {
            let encoder =
                encoder.encode_descriptor(name, help, unit.as_ref(), MetricType::Counter)?;
            ConstCounter::new(read(&member, &changelog)).encode(encoder)?;
        }
        let partitions = i64::try_from(member.partitions).unwrap_or(i64::MAX);
        ConstGauge::new(partitions).encode(encoder.encode_descriptor(
            GROUP_PARTITIONS,
            "Partitions that the group has given to this engine",
            None,
            MetricType::Gauge,
        )?)?;
        let joining = member.joining_for.unwrap_or_default().as_secs_f64();
        ConstGauge::new(joining).encode(encoder.encode_descriptor(
        GROUP_JOINING,
        "How long this engine has waited for the coordinator of its group; 0 where it is a member",
        Some(&Unit::Seconds),
        MetricType::Gauge,
    )?)
    }
}

/// A counter: its name without the suffix that the format adds, its help, its unit and its source.
type ClusterRow = (
    &'static str,
    &'static str,
    Option<Unit>,
    fn(&MemberReport, &ChangelogCounts) -> u64,
);

const CLUSTER_COUNTERS: [ClusterRow; 10] = [
    (
        "workspace_engine_group_rebalances",
        "How often the group gave or took partitions",
        None,
        |member, _| member.rebalances,
    ),
    (
        "workspace_engine_group_losses",
        "How often the group took partitions away before they were handed over",
        None,
        |member, _| member.losses,
    ),
    (
        "workspace_engine_changelog_transactions_committed",
        "Transactions of saves that were committed",
        None,
        |_, changelog| changelog.transactions_committed,
    ),
    (
        "workspace_engine_changelog_transactions_aborted",
        "Transactions of saves that were aborted: nothing of them is visible",
        None,
        |_, changelog| changelog.transactions_aborted,
    ),
    (
        "workspace_engine_changelog_transactions_unknown",
        "Transactions of saves of which it was not known at first whether they were committed",
        None,
        |_, changelog| changelog.transactions_unknown,
    ),
    (
        "workspace_engine_changelog_records_written",
        "Records written in committed transactions",
        None,
        |_, changelog| changelog.records_written,
    ),
    (
        "workspace_engine_changelog_written",
        "Bytes of keys and values written in committed transactions",
        Some(Unit::Bytes),
        |_, changelog| changelog.bytes_written,
    ),
    (
        "workspace_engine_changelog_records_read",
        "Records read when partitions were taken over",
        None,
        |_, changelog| changelog.records_read,
    ),
    (
        "workspace_engine_changelog_read",
        "Bytes of keys and values read when partitions were taken over",
        Some(Unit::Bytes),
        |_, changelog| changelog.bytes_read,
    ),
    (
        "workspace_engine_changelog_partitions_rebuilt",
        "Partitions of which all of the changelog was read, because no copy on this disk fitted it",
        None,
        |_, changelog| changelog.partitions_rebuilt,
    ),
];

/// Partitions that the group has assigned to this process.
const GROUP_PARTITIONS: &str = "workspace_engine_group_partitions";
/// How long this process has waited for the coordinator of its group.
const GROUP_JOINING: &str = "workspace_engine_group_joining";

fn failure(member: &MemberReport) -> Option<String> {
    let waiting = member.joining_for.map(|since| {
        let since = rounded(Duration::from_secs(since.as_secs()));
        format!("waiting for the group coordinator for {since}")
    });
    match (waiting, &member.last_error) {
        (Some(waiting), Some(last_error)) => {
            Some(format!("{waiting}: {}", last_error.error_text()))
        }
        (Some(waiting), None) => Some(waiting),
        (None, Some(MemberFailure::Group(error_text))) => Some(error_text.clone()),
        // The coordinator is another broker, or it will soon revoke the member's partitions.
        (None, Some(MemberFailure::Connections(_)) | None) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_waiting_member_reports_what_it_waits_for() {
        let connections = || Some(MemberFailure::Connections("a broker is gone".to_owned()));
        let refusal = || Some(MemberFailure::Group("not authorized".to_owned()));
        let waited = Some(Duration::from_secs(61));
        for (joining_for, last_error, expected) in [
            (None, None, None),
            (None, connections(), None),
            (None, refusal(), Some("not authorized")),
            (
                waited,
                None,
                Some("waiting for the group coordinator for 1m1s"),
            ),
            (
                waited,
                connections(),
                Some("waiting for the group coordinator for 1m1s: a broker is gone"),
            ),
        ] {
            let member = MemberReport {
                joining_for,
                last_error,
                partitions: 0,
                rebalances: 0,
                losses: 0,
            };
            assert_eq!(failure(&member).as_deref(), expected);
        }
    }
}
