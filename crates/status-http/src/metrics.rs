//! The metrics page: every name of it, and how each is measured.
//!
//! Counts and totals are read from the source at each scrape, so they cannot drift from it. The change
//! feed feeds the two histograms. If its reader is too slow and gets a resync, the durations in between
//! are missing from the histograms, and `resyncs_total` counts that.
//!
//! Invariant: no label names a workspace, except that of the unhealthy ones, which are capped.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};
use workspace_status::{
    Change, ChangeKind, ErrorKind, FeedItem, PageQuery, State, StateSet, Watcher, WorkspaceId,
};

use crate::limits::LOADS_MEASURED;
use crate::source::StatusSource;

/// The names of all metrics of a status source, without the suffixes that the format adds
/// (`_total`, `_seconds`).
pub mod names {
    /// Gauge by `state`: number of workspaces in it.
    pub const WORKSPACES: &str = "workspace_status_workspaces";
    /// Counter by `state`: transitions into it.
    pub const TRANSITIONS: &str = "workspace_status_transitions";
    /// Counter: transitions along an edge outside the engine's table.
    pub const UNEXPECTED_TRANSITIONS: &str = "workspace_status_unexpected_transitions";
    /// Counter: metadata refused for being over a limit.
    pub const METADATA_REFUSALS: &str = "workspace_status_metadata_refusals";
    /// Histogram: from entering `initializing` to `ready`.
    pub const LOAD: &str = "workspace_status_load";
    /// Histogram by `state`: how long workspaces were in a state when they left it.
    pub const PHASE: &str = "workspace_status_phase";
    /// Counter: how often the reader of the change feed was too slow for the histograms.
    pub const RESYNCS: &str = "workspace_status_metrics_resyncs";
    /// Gauge by `workspace` and `kind`: 1 for each workspace in `error`, the first 100 by id.
    pub const UNHEALTHY: &str = "workspace_status_unhealthy";
    /// Gauge: workspaces in `error` over the cap of the previous metric.
    pub const UNHEALTHY_UNNAMED: &str = "workspace_status_unhealthy_unnamed";
    /// Gauge: requests that currently wait for a state.
    pub const WAITS: &str = "workspace_status_waits";
    /// Counter: requests refused because too many wait.
    pub const WAITS_REFUSED: &str = "workspace_status_waits_refused";
}

/// From a millisecond (a load from memory) to an hour (a very large tenant).
const BUCKETS_SECONDS: [f64; 14] = [
    0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0, 3600.0,
];

/// Number of changes taken from the feed before the task yields to others.
const CHANGES_PER_TURN: usize = 256;

/// The metrics of a status source.
pub(crate) struct StatusMetrics {
    source: Arc<dyn StatusSource>,
    unhealthy_series: usize,
    load: Histogram,
    phases: [(State, Histogram); State::ALL.len()],
    loads: Mutex<HashMap<WorkspaceId, Duration>>,
    resyncs: AtomicU64,
    waits: AtomicI64,
    waits_refused: AtomicU64,
}

impl fmt::Debug for StatusMetrics {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("StatusMetrics")
            .finish_non_exhaustive()
    }
}

impl StatusMetrics {
    /// Metrics of `source` that are encoded with the rest of `registry`.
    pub(crate) fn register(
        source: Arc<dyn StatusSource>,
        unhealthy_series: usize,
        registry: &mut Registry,
    ) -> Arc<Self> {
        let metrics = Arc::new(Self {
            source,
            unhealthy_series,
            load: Histogram::new(BUCKETS_SECONDS),
            phases: State::ALL.map(|state| (state, Histogram::new(BUCKETS_SECONDS))),
            loads: Mutex::default(),
            resyncs: AtomicU64::default(),
            waits: AtomicI64::default(),
            waits_refused: AtomicU64::default(),
        });
        registry.register_collector(Box::new(Arc::clone(&metrics)));
        metrics
    }

    /// Follows the feed for ever; drop the future to stop it.
    pub(crate) async fn follow(self: Arc<Self>, mut feed: Watcher) {
        loop {
            self.observe(&feed.next().await);
            for _ in 1..CHANGES_PER_TURN {
                match feed.try_next() {
                    Some(item) => self.observe(&item),
                    None => break,
                }
            }
            // The feed is not part of the runtime's cooperative budget, so a busy one would never yield by itself.
            tokio::task::yield_now().await;
        }
    }

    /// Adds one item of the feed to the histograms.
    pub(crate) fn observe(&self, item: &FeedItem) {
        match item {
            FeedItem::Change(change) => self.observe_change(change),
            FeedItem::Resync { .. } => {
                self.resyncs.fetch_add(1, Ordering::Relaxed);
                // The transitions of these loads in between are unknown.
                self.loads.lock().clear();
            }
        }
    }

    fn observe_change(&self, change: &Change) {
        match change.kind {
            ChangeKind::Transition {
                from,
                to,
                time_in_from,
            } => {
                if let Some((_, phase)) = self.phases.get(from.index()) {
                    phase.observe(time_in_from.as_secs_f64());
                }
                self.observe_load(&change.workspace_id, from, to, time_in_from);
            }
            ChangeKind::Removed => {
                self.loads.lock().remove(&change.workspace_id);
            }
            ChangeKind::Created | ChangeKind::Message | ChangeKind::Metadata => {}
        }
    }

    /// A load lasts from entering `initializing` to entering `ready`. An error in between ends it,
    /// and the retry begins a new one.
    fn observe_load(&self, id: &WorkspaceId, from: State, to: State, time_in_from: Duration) {
        let mut loads = self.loads.lock();
        let before = loads.remove(id);
        let elapsed = match (from == State::Initializing, before) {
            (true, _) => time_in_from,
            (false, Some(before)) => before + time_in_from,
            // The load began before the feed was followed.
            (false, None) => return,
        };
        match to {
            State::Ready => self.load.observe(elapsed.as_secs_f64()),
            State::LoadingFromPersistence
            | State::LoadingKafkaPartitions
            | State::ReplayingEvents
            | State::PopulatingInitialState
            | State::RestoringFromSnapshot => {
                if loads.len() < LOADS_MEASURED {
                    loads.insert(id.clone(), elapsed);
                }
            }
            State::Initializing | State::Error | State::Unloading | State::Unknown => {}
        }
    }

    pub(crate) fn wait_began(&self) {
        self.waits.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn wait_ended(&self) {
        self.waits.fetch_sub(1, Ordering::Relaxed);
    }

    pub(crate) fn wait_refused(&self) {
        self.waits_refused.fetch_add(1, Ordering::Relaxed);
    }

    fn encode_unhealthy(
        &self,
        encoder: &mut DescriptorEncoder<'_>,
        in_error: usize,
    ) -> fmt::Result {
        let mut named = 0;
        let mut family = encoder.encode_descriptor(
            names::UNHEALTHY,
            "Workspaces in state error, the first by id",
            None,
            MetricType::Gauge,
        )?;
        // Finding them costs a scan of all workspaces, so skip it if there are none.
        if in_error > 0 {
            let page = self.source.page(&PageQuery {
                limit: self.unhealthy_series,
                states: StateSet::from(State::Error),
                ..PageQuery::default()
            });
            for snapshot in &page.snapshots {
                let kind = match snapshot.error().map(workspace_status::ErrorInfo::kind) {
                    Some(ErrorKind::Retrying { .. }) => "retrying",
                    Some(ErrorKind::Parked) => "parked",
                    // The workspace recovered after the page was selected.
                    None => continue,
                };
                named += 1;
                let labels = [("workspace", snapshot.workspace_id()), ("kind", kind)];
                ConstGauge::new(1_i64).encode(family.encode_family(&labels)?)?;
            }
        }
        let unnamed = in_error.saturating_sub(named);
        gauge(
            encoder,
            names::UNHEALTHY_UNNAMED,
            "Workspaces in state error that the cap leaves unnamed",
            i64::try_from(unnamed).unwrap_or(i64::MAX),
        )
    }
}

impl Collector for StatusMetrics {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let counts = self.source.counts();
        let mut family = encoder.encode_descriptor(
            names::WORKSPACES,
            "Workspaces by the state they are in",
            None,
            MetricType::Gauge,
        )?;
        for (state, count) in counts.iter() {
            let count = i64::try_from(count).unwrap_or(i64::MAX);
            ConstGauge::new(count).encode(family.encode_family(&[("state", state.as_str())])?)?;
        }

        let totals = self.source.tracker().transitions_into();
        let mut family = encoder.encode_descriptor(
            names::TRANSITIONS,
            "Transitions by the state they entered",
            None,
            MetricType::Counter,
        )?;
        for state in State::ALL {
            ConstCounter::new(totals[state])
                .encode(family.encode_family(&[("state", state.as_str())])?)?;
        }

        let encoder = &mut encoder;
        counter(
            encoder,
            names::UNEXPECTED_TRANSITIONS,
            "Transitions along an edge that the table of edges does not have",
            self.source.tracker().unexpected_transitions(),
        )?;
        counter(
            encoder,
            names::METADATA_REFUSALS,
            "Metadata refused for being over a limit",
            self.source.tracker().metadata_refusals(),
        )?;

        self.load.encode(encoder.encode_descriptor(
            names::LOAD,
            "Time from entering initializing to ready",
            Some(&Unit::Seconds),
            MetricType::Histogram,
        )?)?;
        let mut family = encoder.encode_descriptor(
            names::PHASE,
            "Time in a state, of those that left it",
            Some(&Unit::Seconds),
            MetricType::Histogram,
        )?;
        for (state, phase) in &self.phases {
            phase.encode(family.encode_family(&[("state", state.as_str())])?)?;
        }
        counter(
            encoder,
            names::RESYNCS,
            "Times that changes went by faster than the histograms could follow",
            self.resyncs.load(Ordering::Relaxed),
        )?;

        self.encode_unhealthy(encoder, counts[State::Error])?;
        gauge(
            encoder,
            names::WAITS,
            "Requests that wait for a state at present",
            self.waits.load(Ordering::Relaxed),
        )?;
        counter(
            encoder,
            names::WAITS_REFUSED,
            "Requests refused because too many wait",
            self.waits_refused.load(Ordering::Relaxed),
        )
    }
}

fn counter(encoder: &mut DescriptorEncoder<'_>, name: &str, help: &str, value: u64) -> fmt::Result {
    let encoder = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
    ConstCounter::new(value).encode(encoder)
}

fn gauge(encoder: &mut DescriptorEncoder<'_>, name: &str, help: &str, value: i64) -> fmt::Result {
    let encoder = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
    ConstGauge::new(value).encode(encoder)
}
