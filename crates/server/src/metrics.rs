//! The engine's own metrics, in addition to those of the status; this file and `group.rs` have every name.
//!
//! Invariant: no label names a workspace.

use crate::{access::Access, app::App, http_counters::HttpCounters};
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric},
    metrics::{MetricType, counter::ConstCounter, gauge::ConstGauge},
    registry::Unit,
};
use std::{
    fmt,
    sync::{Arc, atomic::Ordering},
};
use workspace_engine_core::{counters::Counter, counters::EngineCounters, report::PartitionReport};

/// A counter: its name without the suffix that the format adds, its help, and its source.
type CounterRow = (
    &'static str,
    &'static str,
    Option<Unit>,
    fn(&EngineCounters) -> &Counter,
);

const COUNTERS: [CounterRow; 16] = [
    (
        "workspace_engine_events_applied",
        "Events applied to workspaces",
        None,
        |counters| &counters.events_applied,
    ),
    (
        "workspace_engine_events_passed",
        "Records read for a workspace that had applied them, that was not in memory, or that stopped at a poison event before them",
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
        "workspace_engine_records_misrouted",
        "Records whose key belongs on another partition: their producer uses another partitioner than this engine",
        None,
        |counters| &counters.records_misrouted,
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
        "workspace_engine_evictions",
        "Workspaces that left memory because it was needed",
        None,
        |counters| &counters.evictions,
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
/// Loads in progress.
const LOADS_UNDER_WAY: &str = "workspace_engine_loads_under_way";
/// Loads that hang.
const LOADS_HUNG: &str = "workspace_engine_loads_hung";
/// Workspaces that wait for a load permit.
const LOADS_QUEUED: &str = "workspace_engine_loads_queued";

/// Memory of the workspaces.
const MEMORY: &str = "workspace_engine_workspaces_memory";
/// Its limit.
const MEMORY_LIMIT: &str = "workspace_engine_workspaces_memory_limit";

/// A gauge of a partition: its name, its help, and its source.
type PartitionRow = (&'static str, &'static str, fn(&PartitionReport) -> u64);

const PARTITION_GAUGES: [PartitionRow; 5] = [
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
    (
        "workspace_engine_partition_held_positions",
        "Positions that retention may not remove, because a workspace has not applied them or may not have",
        |report| {
            let held = report.held_by.as_ref();
            held.map_or(0, |held| report.high_watermark.since(held.offset))
        },
    ),
];

/// Reads the engine's counters at each scrape, so that the metrics cannot drift from them.
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

/// A counter of the HTTP server: its name, its help, and its source.
type HttpRow = (&'static str, &'static str, fn(&HttpCounters) -> &Counter);

const HTTP_COUNTERS: [HttpRow; 4] = [
    (
        "workspace_engine_http_requests_refused",
        "Requests refused because all connections had a request under way",
        |http| &http.requests_refused,
    ),
    (
        "workspace_engine_http_idle_connections_closed",
        "Idle connections closed because others needed their permit",
        |http| &http.idle_closed,
    ),
    (
        "workspace_engine_http_stalled_connections_closed",
        "Connections closed because the client took nothing of its answer",
        |http| &http.stalled_closed,
    ),
    (
        "workspace_engine_http_answers_limited",
        "Answers refused or cut short because the answers under way held all memory for them",
        |http| &http.answers_limited,
    ),
];

fn encode_http(app: &App, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
    for (name, help, read) in &HTTP_COUNTERS {
        let encoder = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        ConstCounter::new(read(app.http()).get()).encode(encoder)?;
    }
    for (name, help, unit, value) in [
        (
            "workspace_engine_http_connections",
            "Open connections",
            None,
            app.http().connections(),
        ),
        (
            "workspace_engine_http_answer_memory",
            "Memory that large answers under way hold",
            Some(&Unit::Bytes),
            app.answer_memory().reserved_bytes(),
        ),
        (
            "workspace_engine_http_event_memory",
            "Memory that the bodies of event requests under way hold",
            Some(&Unit::Bytes),
            app.event_memory().reserved_bytes(),
        ),
    ] {
        let encoder = encoder.encode_descriptor(name, help, unit, MetricType::Gauge)?;
        ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX)).encode(encoder)?;
    }
    Ok(())
}

impl Collector for EngineMetrics {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        encode_http(&self.0, &mut encoder)?;
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
            (
                LOADS_HUNG,
                "Loads that were abandoned because they made no progress, and still hang",
                engine.hung_loads(),
            ),
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
        let (used, limit) = engine.memory();
        for (name, help, bytes) in [
            (
                MEMORY,
                "Memory of the workspaces, as an estimate",
                Some(used),
            ),
            (
                MEMORY_LIMIT,
                "Memory of the workspaces above which some are evicted",
                limit,
            ),
        ] {
            let Some(bytes) = bytes else { continue };
            let unit = Some(&Unit::Bytes);
            let encoder = encoder.encode_descriptor(name, help, unit, MetricType::Gauge)?;
            ConstGauge::new(i64::try_from(bytes).unwrap_or(i64::MAX)).encode(encoder)?;
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
        match self.0.group() {
            Some(group) => group.encode(encoder),
            None => Ok(()),
        }
    }
}

/// Requests refused by access control.
const ACCESS_REFUSED: &str = "workspace_engine_access_refused";
/// TLS handshakes that failed.
const TLS_HANDSHAKES_FAILED: &str = "workspace_engine_tls_handshakes_failed";
/// File changes that could not be used.
const RELOADS_FAILED: &str = "workspace_engine_reloads_failed";

/// Reads the access counters at each scrape.
pub(crate) struct AccessMetrics(Arc<Access>);

impl AccessMetrics {
    pub(crate) fn new(access: Arc<Access>) -> Self {
        Self(access)
    }
}

impl fmt::Debug for AccessMetrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AccessMetrics").finish_non_exhaustive()
    }
}

impl Collector for AccessMetrics {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let counts = &self.0.counts;
        let (tokens, tls) = self.0.reload_failures();
        let families = [
            (
                ACCESS_REFUSED,
                "Requests refused: of a foreign site, without a known caller, or without the right",
                "reason",
                vec![
                    ("foreign", counts.foreign.load(Ordering::Relaxed)),
                    (
                        "unauthenticated",
                        counts.unauthenticated.load(Ordering::Relaxed),
                    ),
                    ("forbidden", counts.forbidden.load(Ordering::Relaxed)),
                ],
            ),
            (
                RELOADS_FAILED,
                "Changes of a file that could not be used; the content before stays in use",
                "file",
                vec![("tokens", tokens), ("tls", tls)],
            ),
        ];
        for (name, help, label, values) in families {
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            for (value, count) in values {
                let labels = [(label, value)];
                ConstCounter::new(count).encode(family.encode_family(&labels)?)?;
            }
        }
        let failed = counts.failed_handshakes.load(Ordering::Relaxed);
        ConstCounter::new(failed).encode(encoder.encode_descriptor(
            TLS_HANDSHAKES_FAILED,
            "TLS handshakes that failed or took too long",
            None,
            MetricType::Counter,
        )?)
    }
}
