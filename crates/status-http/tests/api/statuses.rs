//! `GET /api/v1/workspaces/statuses`: filters, pages and counts.

use axum::http::StatusCode;
use workspace_status::State;

use crate::support::World;

const LIST: &str = "/api/v1/workspaces/statuses";

fn ids(document: &serde_json::Value) -> Vec<String> {
    document["workspaces"]
        .as_array()
        .unwrap()
        .iter()
        .map(|status| status["workspaceId"].as_str().unwrap().to_owned())
        .collect()
}

#[tokio::test]
async fn filters_select_and_the_counts_stay_those_of_all() {
    let world = World::of_states(&State::ALL);
    for (query, expected) in [
        ("state=ready", vec!["ready"]),
        ("state=ready&state=error", vec!["error", "ready"]),
        ("state=ready,error", vec!["error", "ready"]),
        ("state=ready,error&healthy=true", vec!["ready"]),
        ("healthy=false", vec!["error", "unknown"]),
        ("prefix=un", vec!["unknown", "unloading"]),
        ("prefix=un&healthy=true", vec!["unloading"]),
        ("prefix=none", vec![]),
    ] {
        let answer = world.get(&format!("{LIST}?{query}")).await;
        assert_eq!(answer.status, StatusCode::OK, "{query}");
        let document = answer.json();
        assert_eq!(ids(&document), expected, "{query}");
        assert_eq!(document["totalCount"], 10, "{query}");
        assert!(document["nextCursor"].is_null(), "{query}");
    }
}

#[tokio::test]
async fn the_counts_name_all_ten_states_also_of_an_empty_tracker() {
    let world = World::new();
    let document = world.get(LIST).await.json();
    assert_eq!(document["totalCount"], 0);
    assert_eq!(ids(&document), Vec::<String>::new());
    let counts = document["stateCounts"].as_object().unwrap();
    assert_eq!(counts.len(), 10);
    for state in State::ALL {
        assert_eq!(counts[state.as_str()], 0, "{state}");
    }
}

#[tokio::test]
async fn pages_hold_every_workspace_once_in_the_order_of_their_ids() {
    let world = World::new();
    let mut expected: Vec<String> = (0..25).map(|number| format!("t:{number}.x")).collect();
    for id in &expected {
        world.tracker.get_or_create(id);
    }
    expected.sort();
    for limit in [1, 7, 24, 25, 26] {
        let mut seen = Vec::new();
        let mut uri = format!("{LIST}?limit={limit}");
        loop {
            let document = world.get(&uri).await.json();
            let page = ids(&document);
            assert!(page.len() <= limit);
            seen.extend(page);
            match document["nextCursor"].as_str() {
                Some(cursor) => uri = format!("{LIST}?limit={limit}&cursor={cursor}"),
                None => break,
            }
        }
        assert_eq!(seen, expected, "limit {limit}");
    }
}

#[tokio::test]
async fn a_list_over_many_workspaces_is_made_elsewhere_and_is_the_same() {
    let world = World::new();
    for number in 0..3_000 {
        world.tracker.get_or_create(&format!("t-{number:04}"));
    }
    let document = world
        .get(&format!("{LIST}?prefix=t-29&limit=2"))
        .await
        .json();
    assert_eq!(ids(&document), ["t-2900", "t-2901"]);
    assert_eq!(document["totalCount"], 3_000);
}
