//! The positions of the log's partitions.

use crate::app::App;
use axum::{extract::State as Extract, http::StatusCode, response::Response};
use jiff::Timestamp;
use serde::Serialize;
use utoipa::ToSchema;
use workspace_engine_core::report::PartitionReport;
use workspace_status_http::{Problem, ProblemDocument, answer_document};

/// The partitions of this engine.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Partitions)]
#[serde(rename_all = "camelCase")]
struct PartitionsDocument {
    /// Name of the topic.
    topic: String,
    /// The consumer group; null where all partitions are this engine's own.
    #[schema(required)]
    group: Option<String>,
    /// How many partitions the topic has.
    total_count: u32,
    /// Those of this engine.
    /// Ordered by number.
    partitions: Vec<PartitionDocument>,
}

/// The progress of a partition.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Partition)]
struct PartitionDocument {
    /// Its number.
    partition: u32,
    /// First offset that some workspace in memory has not seen.
    position: u64,
    /// End of the replay under way; null where none is.
    #[schema(required)]
    target: Option<u64>,
    /// End of the partition.
    high_watermark: u64,
    /// First offset that is still in the log.
    low_watermark: u64,
    /// Positions between `position` and `highWatermark`.
    lag: u64,
    /// Positions passed in a second, over the last second or so.
    rate_per_second: f64,
    /// Workspaces known.
    workspaces: usize,
    /// Who owns it.
    owner: String,
    /// The workspace that keeps retention from removing more; null where only saves are due.
    #[schema(required)]
    held_by: Option<HeldByDocument>,
    /// What log and store still do before it can be served; null when it is.
    #[schema(required)]
    opening: Option<String>,
    /// What was missing when it was taken over, such as a lost changelog, and what was done about it; null where nothing was.
    #[schema(required)]
    notice: Option<String>,
}

/// A workspace that has not applied events which retention could remove, or may not have.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = HeldBy)]
struct HeldByDocument {
    /// Which one.
    workspace_id: String,
    /// First offset that the log must keep for it.
    offset: u64,
    /// Since when this workspace has been the one.
    #[schema(value_type = String, format = DateTime)]
    since: Timestamp,
}

impl From<PartitionReport> for PartitionDocument {
    fn from(report: PartitionReport) -> Self {
        Self {
            partition: report.partition.0,
            position: report.position.0,
            target: report.target.map(|target| target.0),
            high_watermark: report.high_watermark.0,
            low_watermark: report.low_watermark.0,
            lag: report.lag,
            rate_per_second: report.rate_per_second.round(),
            workspaces: report.workspaces,
            owner: report.owner,
            held_by: report.held_by.map(|held| HeldByDocument {
                workspace_id: held.workspace_id.as_str().to_owned(),
                offset: held.offset.0,
                since: Timestamp::try_from(held.since).unwrap_or(Timestamp::MAX),
            }),
            opening: report.opening,
            notice: report.notice,
        }
    }
}

/// Positions of the partitions of the log
#[utoipa::path(
    get,
    path = "/api/v1/partitions",
    operation_id = "listPartitions",
    tag = "node",
    responses(
        (status = 200, description = "The partitions of this engine", body = PartitionsDocument),
        (status = 503, description = "The engine is starting", body = ProblemDocument, content_type = "application/problem+json"),
    )
)]
pub(super) async fn list(Extract(app): Extract<App>) -> Result<Response, Problem> {
    let engine = app.engine()?;
    let partitions = engine.partitions();
    let document = PartitionsDocument {
        topic: engine.log().topic().to_owned(),
        group: engine.group().map(str::to_owned),
        total_count: engine.log().partitions(),
        partitions: partitions.into_iter().map(Into::into).collect(),
    };
    Ok(answer_document(StatusCode::OK, &document))
}
