//! What a status costs: its bytes alone, and the whole way from a request to an answer beside a
//! bare handler that answers constant bytes of the same length.
//!
//! `cargo bench -p workspace-status-http`

use std::hint::black_box;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::http::{Request, header};
use axum::routing::get;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use http_body_util::BodyExt as _;
use tower::Service as _;
use workspace_status::{Snapshot, State, Tracker, Unit};
use workspace_status_http::{
    Limits, Registry, StatusApi, StatusDocument, catch_panics, document_routes,
    with_problem_fallbacks, with_problems,
};

/// A workspace in the middle of a replay, as an engine leaves it: all members of the document are
/// there but the error.
fn replaying(tracker: &Tracker) {
    let status = tracker.get_or_create("tenant-42.eu");
    for state in [
        State::LoadingKafkaPartitions,
        State::LoadingFromPersistence,
        State::RestoringFromSnapshot,
        State::ReplayingEvents,
    ] {
        status.set_state(state, "as far as the store and the log allow");
    }
    for (key, value) in [
        ("changes_loaded", 120_000_u64),
        ("partition", 3),
        ("partition_offset", 812_233),
        ("events_total", 90_000),
        ("events_processed", 45_000),
    ] {
        let _ = status.update_metadata(key, value);
    }
    let _ = status.update_metadata("topic", "events");
    let progress = status.start_progress(State::ReplayingEvents, Unit::Events, Some(90_000));
    progress.add(45_000);
}

fn bytes_of(snapshot: &Snapshot) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(2048);
    let _ = serde_json::to_writer(&mut bytes, &StatusDocument::new(snapshot));
    bytes
}

fn bytes_of_a_snapshot(criterion: &mut Criterion) {
    let tracker = Tracker::builder().owner("node-1").build();
    replaying(&tracker);
    let Some(status) = tracker.get("tenant-42.eu") else {
        return;
    };
    let length = bytes_of(&status.snapshot()).len();
    let mut group = criterion.benchmark_group("document");
    group.throughput(Throughput::Bytes(length as u64));
    let snapshot = status.snapshot();
    group.bench_function("of a snapshot", |bencher| {
        bencher.iter(|| bytes_of(black_box(&snapshot)));
    });
    group.bench_function("with the lookup and the snapshot", |bencher| {
        bencher.iter(|| {
            let snapshot = tracker.snapshot(black_box("tenant-42.eu"));
            snapshot.map(|snapshot| bytes_of(&snapshot))
        });
    });
    group.finish();
}

fn one_request(criterion: &mut Criterion) {
    let tracker = Tracker::builder().owner("node-1").build();
    replaying(&tracker);
    let Some(snapshot) = tracker.snapshot("tenant-42.eu") else {
        return;
    };
    let constant = Bytes::from(bytes_of(&snapshot));
    let bare = Router::new().route(
        "/api/v1/workspaces/{id}/status",
        get(move || {
            let body = constant.clone();
            async move { ([(header::CONTENT_TYPE, "application/json")], body) }
        }),
    );
    let api = StatusApi::new(tracker, Limits::default(), Registry::default());
    let routes = || document_routes(api.routes());

    let Ok(runtime) = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
    else {
        return;
    };
    let mut group = criterion.benchmark_group("request");
    for (name, app, catches_panics) in [
        ("bare handler", bare, false),
        ("status", with_problems(routes()), false),
        (
            "status, panics caught around the router",
            with_problem_fallbacks(routes()),
            true,
        ),
    ] {
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                runtime.block_on(async {
                    let request = Request::get("/api/v1/workspaces/tenant-42.eu/status");
                    let Ok(request) = request.body(Body::empty()) else {
                        return 0;
                    };
                    let mut app = app.clone();
                    let Ok(response) = if catches_panics {
                        catch_panics(|| app.call(request)).await
                    } else {
                        app.call(request).await
                    };
                    let body = response.into_body().collect().await;
                    body.map_or(0, |body| body.to_bytes().len())
                })
            });
        });
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .measurement_time(Duration::from_secs(3))
        .warm_up_time(Duration::from_secs(1));
    targets = bytes_of_a_snapshot, one_request
}
criterion_main!(benches);
