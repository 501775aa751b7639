//! A process whose workspaces do not fit into its memory limit.

use crate::support::{Engine, event};

/// The limit leaves 16 MiB for workspaces: about 3,300 with one entity.
const FLAGS: [&str; 2] = ["--memory-limit", "208MiB"];

const WORKSPACES: usize = 5_000;

fn evicted(engine: &Engine) -> (usize, String) {
    let path = "/api/v1/workspaces/statuses?state=unknown&limit=1";
    let list = engine.get(path).json();
    let count = list["stateCounts"]["unknown"].as_u64().unwrap();
    let first = &list["workspaces"][0];
    (
        usize::try_from(count).unwrap(),
        first["workspaceId"].as_str().unwrap_or_default().to_owned(),
    )
}

#[test]
fn what_does_not_fit_into_memory_is_evicted_shown_and_served() {
    let mut engine = Engine::start(&FLAGS);
    let events: String = (0..WORKSPACES)
        .map(|number| event(&format!("w{number}"), "x"))
        .collect();
    engine.produce(&events);
    engine.until("/api/v1/workspaces/statuses?limit=1", |list| {
        let counts = &list["stateCounts"];
        let [ready, unknown] = ["ready", "unknown"].map(|state| counts[state].as_u64().unwrap());
        unknown > 1_000 && ready + unknown == WORKSPACES as u64
    });
    let metrics = engine.get("/metrics").text;
    for name in [
        "workspace_engine_evictions_total ",
        "workspace_engine_workspaces_memory_bytes ",
        "workspace_engine_workspaces_memory_limit_bytes 16777216",
    ] {
        assert!(metrics.contains(name), "{name}");
    }

    let (_, id) = evicted(&engine);
    let status = engine
        .get(&format!("/api/v1/workspaces/{id}/status"))
        .json();
    assert_eq!(status["reason"], "evicted", "{status}");
    assert_eq!(status["lastKnown"]["state"], "ready", "{status}");
    let shown = engine.run(&["get", &id], "").stdout;
    assert!(shown.contains("its memory was needed"), "{shown}");

    // A read loads it, and so does a wait.
    let path = format!("/api/v1/workspaces/{id}/entities/resource/x");
    let entity = engine.get(&path);
    assert_eq!(entity.status, 200, "{entity:?}");
    let (_, id) = evicted(&engine);
    let waited = engine.run(&["wait", &id, "--for", "ready", "--timeout", "60s"], "");
    assert_eq!(waited.code, 0, "{waited:?}");

    // It stays evicted over a restart; nothing is an error.
    assert!(engine.stop().success());
    engine.restart();
    let (count, _) = evicted(&engine);
    assert!(count > 1_000, "{count}");
    engine.until("/api/v1/workspaces/statuses?limit=1", |list| {
        let counts = &list["stateCounts"];
        counts["error"] == 0
            && counts["ready"].as_u64().unwrap() + counts["unknown"].as_u64().unwrap()
                == WORKSPACES as u64
    });
}
