//! Requests that wait: the limit of their number, and how a stop ends them.

use crate::support::{Engine, until};
use std::thread;

#[test]
fn waiting_requests_block_no_probe_and_end_with_the_engine() {
    let mut engine = Engine::start(&["--max-connections", "4"]);
    let url = engine.url.clone();
    let wait = "/api/v1/workspaces/unknown/status?waitFor=ready";
    let waits = [0, 1].map(|_| {
        let requested = format!("{url}{wait}&timeout=10m");
        thread::spawn(move || {
            loop {
                let answer = crate::support::get(&requested);
                // The request below may hold its permit for a moment.
                if answer.json()["type"] != "/problems/too-many-at-once" {
                    return answer;
                }
            }
        })
    });
    // Both are waiting when a third one is refused.
    let refused = until("a refused wait", || {
        let answer = engine.get(&format!("{wait}&timeout=1ms"));
        (answer.status != 404).then_some(answer)
    });
    assert_eq!(refused.status, 503, "{refused:?}");
    assert_eq!(refused.json()["maximum"], 2, "{refused:?}");
    let read = engine.get("/api/v1/workspaces/unknown/entities?atLeast=0");
    assert_eq!(
        read.json()["type"],
        "/problems/too-many-at-once",
        "{read:?}"
    );
    assert_eq!(engine.get("/livez").status, 200);

    assert!(engine.stop().success());
    for wait in waits {
        let answer = wait.join().unwrap();
        assert_eq!(answer.status, 503, "{answer:?}");
        assert_eq!(answer.json()["type"], "/problems/stopping", "{answer:?}");
    }
}
