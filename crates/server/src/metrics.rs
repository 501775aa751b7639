//! The engine's own metrics, beside those of the status; every name stands here.
//!
//! Invariant: no label names a workspace.

use crate::app::App;
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric},
    metrics::{MetricType, counter::ConstCounter, gauge::ConstGauge},
    registry::Unit,
};
use std::fmt;
use workspace_engine_core::{counters::Counter, counters::EngineCounters, report::PartitionReport};

/// A counter: its name without the suffix that the format adds, what it counts, and where it is.
type CounterRow = (
    &'static str,
    &'static str,
    Option<Unit>,
    fn(&EngineCounters) -> &Counter,
);

const COUNTERS: [CounterRow; 15] = [
    (
        "workspace_engine_events_applied",
        "Events applied to workspaces",
        None,
        |counters| &counters.events_applied,
    ),
    (
        "workspace_engine_events_passed",
        "Records read for a workspace that had applied them, or that was not in memory",
        None,
        |counters| &counters.events_passed,
    ),
    (
        "workspace_engine_events_poisoned",
        "Events that a workspace could not apply",
        None,
        |counters| &counters.events_poisoned,
    ),
    (
        "workspace_engine_records_unroutable",
        "Records without a valid workspace id as their key",
        None,
        |counters| &counters.records_unroutable,
    ),
    (
        "workspace_engine_records_misplaced",
        "Records whose key belongs on another partition: their producer does not partition by murmur2",
        None,
        |counters| &counters.records_misplaced,
    ),
    (
        "workspace_engine_dead_letters",
        "Events put into the dead-letter log",
        None,
        |counters| &counters.dead_letters,
    ),
    (
        "workspace_engine_read",
        "Bytes of records read from the log",
        Some(Unit::Bytes),
        |counters| &counters.bytes_read,
    ),
    (
        "workspace_engine_workspaces_saved",
        "Workspaces saved",
        None,
        |counters| &counters.workspaces_saved,
    ),
    (
        "workspace_engine_changes_saved",
        "Entries written or removed by saves",
        None,
        |counters| &counters.changes_saved,
    ),
    (
        "workspace_engine_saved",
        "Bytes of entries written by saves",
        Some(Unit::Bytes),
        |counters| &counters.bytes_saved,
    ),
    (
        "workspace_engine_save_failures",
        "Saves that the store failed or refused",
        None,
        |counters| &counters.save_failures,
    ),
    (
        "workspace_engine_loads",
        "Loads from the store that succeeded",
        None,
        |counters| &counters.loads,
    ),
    (
        "workspace_engine_load_failures",
        "Loads from the store that failed",
        None,
        |counters| &counters.load_failures,
    ),
    (
        "workspace_engine_entries_loaded",
        "Entries read from the store by loads",
        None,
        |counters| &counters.entries_loaded,
    ),
    (
        "workspace_engine_history_lost",
        "Transitions that could not be written to the durable history",
        None,
        |counters| &counters.history_lost,
    ),
];

/// Time spent in saves.
const SAVE_TIME: &str = "workspace_engine_save";
/// Loads under way.
const LOADS_UNDER_WAY: &str = "workspace_engine_loads_under_way";
/// Workspaces that wait for a load permit.
const LOADS_QUEUED: &str = "workspace_engine_loads_queued";

/// A gauge of a partition: its name, what it shows, and where it is.
type PartitionRow = (&'static str, &'static str, fn(&PartitionReport) -> u64);

const PARTITION_GAUGES: [PartitionRow; 4] = [
    (
        "workspace_engine_partition_position",
        "First offset that some workspace in memory has not seen",
        |report| report.position.0,
    ),
    (
        "workspace_engine_partition_high_watermark",
        "End of the partition",
        |report| report.high_watermark.0,
    ),
    (
        "workspace_engine_partition_low_watermark",
        "First offset that is still in the log",
        |report| report.low_watermark.0,
    ),
    (
        "workspace_engine_partition_lag",
        "Positions between the position and the end",
        |report| report.lag,
    ),
];

/// Reads the engine's counters at each scrape, so that they cannot drift from it.
pub(crate) struct EngineMetrics(App);

impl EngineMetrics {
    pub(crate) fn new(app: App) -> Self {
        Self(app)
    }
}

impl fmt::Debug for EngineMetrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EngineMetrics").finish_non_exhaustive()
    }
}

impl Collector for EngineMetrics {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let Some(engine) = self.0.engine_if_up() else {
            return Ok(());
        };
        let counters = engine.counters();
        for (name, help, unit, read) in &COUNTERS {
            let encoder =
                encoder.encode_descriptor(name, help, unit.as_ref(), MetricType::Counter)?;
            ConstCounter::new(read(counters).get()).encode(encoder)?;
        }
        #[expect(clippy::cast_precision_loss, reason = "a time for people")]
        let save_seconds = counters.save_micros.get() as f64 / 1e6;
        ConstCounter::new(save_seconds).encode(encoder.encode_descriptor(
            SAVE_TIME,
            "Time spent in saves",
            Some(&Unit::Seconds),
            MetricType::Counter,
        )?)?;
        let (under_way, queued) = engine.admission();
        for (name, help, value) in [
            (LOADS_UNDER_WAY, "Loads under way", under_way),
            (
                LOADS_QUEUED,
                "Workspaces that wait for a load permit",
                queued,
            ),
        ] {
            let encoder = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX)).encode(encoder)?;
        }
        let partitions = engine.partitions();
        for (name, help, read) in PARTITION_GAUGES {
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            for report in &partitions {
                let labels = [("partition", report.partition.to_string())];
                let value = i64::try_from(read(report)).unwrap_or(i64::MAX);
                ConstGauge::new(value).encode(family.encode_family(&labels)?)?;
            }
        }
        Ok(())
    }
}
