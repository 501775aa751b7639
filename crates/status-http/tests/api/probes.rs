//! `/livez`, `/readyz`, `/metrics`.

use std::time::Duration;

use axum::http::StatusCode;
use workspace_status::{State, Tracker};
use workspace_status_http::Limits;

use crate::support::{World, assert_golden};

#[tokio::test]
async fn a_probe_says_ok_and_with_verbose_each_check() {
    let world = World::new();
    for name in ["livez", "readyz"] {
        let answer = world.get(&format!("/{name}")).await;
        assert_eq!((answer.status, &*answer.body), (StatusCode::OK, "ok"));
        let answer = world.get(&format!("/{name}?verbose")).await;
        assert_eq!(answer.status, StatusCode::OK);
        assert_eq!(answer.body, format!("[+]tracker ok\n{name} check passed\n"));
    }
}

/// Takes scrapes until the histograms have followed the feed.
async fn scrape_until(world: &World, line: &str) -> String {
    for _ in 0..1000 {
        let page = world.get("/metrics").await;
        assert_eq!(page.status, StatusCode::OK);
        if page.body.lines().any(|found| found == line) {
            return page.body;
        }
        tokio::task::yield_now().await;
    }
    panic!("the metrics never hold {line:?}");
}

fn load(tracker: &Tracker, id: &str, advance: impl Fn(u64)) {
    let status = tracker.get_or_create(id);
    advance(1);
    status.set_state(State::LoadingKafkaPartitions, "");
    advance(1);
    status.set_state(State::LoadingFromPersistence, "");
    advance(2);
    status.set_state(State::ReplayingEvents, "");
    advance(3);
    status.set_state(State::Ready, "");
}

#[tokio::test]
async fn the_metrics_page_is_as_it_was() {
    let world = World::new();
    let advance = |seconds| world.clock.advance(Duration::from_secs(seconds));
    load(&world.tracker, "a", advance);
    load(&world.tracker, "b", advance);
    let broken = world.tracker.get_or_create("broken");
    broken.set_state(State::LoadingKafkaPartitions, "");
    broken.set_parked("its entry is broken");
    world.tracker.get_or_create("late").set_retrying(
        "the store is away",
        1,
        Duration::from_secs(1),
    );
    let page = scrape_until(
        &world,
        "workspace_status_phase_seconds_count{state=\"initializing\"} 4",
    )
    .await;
    assert_golden("metrics.txt", &page);
    let open_metrics = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    let page = world.get_as("/metrics", open_metrics).await;
    assert_eq!(page.content_type(), open_metrics);
    assert_golden("metrics.openmetrics.txt", &page.body);
    let page = world.get_as("/metrics", "text/plain").await;
    assert_eq!(
        page.content_type(),
        "text/plain; version=0.0.4; charset=utf-8"
    );
    assert!(!page.body.contains("# EOF") && !page.body.contains("# UNIT"));
}

#[tokio::test]
async fn a_load_is_measured_from_initializing_to_ready_without_failed_ones() {
    let world = World::new();
    let advance = |seconds| world.clock.advance(Duration::from_secs(seconds));
    let status = world.tracker.get_or_create("a");
    advance(100);
    status.set_state(State::LoadingFromPersistence, "");
    advance(100);
    status.set_retrying("away", 1, Duration::from_secs(1));
    advance(1);
    status.set_state(State::Initializing, "again");
    advance(2);
    status.set_state(State::LoadingFromPersistence, "");
    advance(3);
    status.set_state(State::Ready, "");
    let page = scrape_until(&world, "workspace_status_load_seconds_count 1").await;
    assert!(
        page.contains("workspace_status_load_seconds_sum 5.0"),
        "{page}"
    );
}

#[tokio::test]
async fn unhealthy_workspaces_are_named_up_to_a_cap_and_healthy_ones_never() {
    let world = World::with_limits(Limits {
        unhealthy_series: 3,
        ..Limits::default()
    });
    for number in 0..5 {
        world
            .tracker
            .get_or_create(&format!("broken-{number}"))
            .set_parked("broken");
        world
            .tracker
            .get_or_create(&format!("fine-{number}"))
            .set_state(State::Ready, "");
    }
    let page = world.get("/metrics").await.body;
    let named = page.lines().filter(|line| line.contains("broken-")).count();
    assert_eq!(named, 3);
    assert!(
        page.contains("workspace_status_unhealthy_unnamed 2\n"),
        "{page}"
    );
    assert!(!page.contains("fine-"));
}

#[tokio::test]
async fn counters_survive_changes_that_the_histograms_could_not_follow() {
    let world = World::new();
    let status = world.tracker.get_or_create("a");
    for _ in 0..workspace_status::FEED_CAPACITY {
        status.set_state(State::ReplayingEvents, "");
        status.set_state(State::Ready, "");
    }
    let page = scrape_until(&world, "workspace_status_metrics_resyncs_total 1").await;
    let expected = format!(
        "workspace_status_transitions_total{{state=\"ready\"}} {}\n",
        workspace_status::FEED_CAPACITY
    );
    assert!(page.contains(&expected), "{page}");
}
