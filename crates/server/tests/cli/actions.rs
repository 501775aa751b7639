//! Actions on one workspace and on all that match a filter, by HTTP and by command.

use crate::support::{Engine, TokensFile, bearer, event};
use serde_json::{Value, json};

const ACTIONS: &str = "/api/v1/actions";
const POISON: &str = "{\"eventType\":\"nonsense\",\"workspaceId\":\"ID\"}\n";

fn poison(id: &str) -> String {
    POISON.replace("ID", id)
}

/// An engine with two ready workspaces and two that cannot apply an event.
fn two_and_two() -> Engine {
    let engine = Engine::start(&["--partitions", "2"]);
    for id in ["bad-1", "bad-2"] {
        engine.produce(&event(id, "x"));
        engine.produce_unchecked(&poison(id));
        engine.wait_for(id, "error");
    }
    for id in ["good-1", "good-2"] {
        engine.produce(&event(id, "x"));
        engine.wait_for(id, "ready");
    }
    engine
}

fn ended(engine: &Engine, operation: &str) -> Value {
    engine.until(&format!("/api/v1/operations/{operation}"), |now| {
        now["state"] != "running"
    })
}

#[test]
fn an_action_on_all_that_match_is_counted_first() {
    let engine = two_and_two();
    let all = json!({"action": "skip", "filter": {}, "dryRun": true});
    let counted = engine.post_json(ACTIONS, &all);
    assert_eq!(counted.status, 200, "{counted:?}");
    assert_eq!(
        counted.json(),
        json!({"matched": 4, "refusable": [{
            "detail": "the workspace is not stopped at an event that it cannot apply", "count": 2,
        }]})
    );

    let mut action = json!({
        "action": "skip",
        "filter": {"state": "error", "errorKind": ["parked"], "prefix": "bad-", "healthy": false},
        "reason": "the producer was broken",
    });
    let without = engine.post_json(ACTIONS, &action);
    assert_eq!(without.status, 400, "{without:?}");
    action["expected"] = json!(3);
    let wrong = engine.post_json(ACTIONS, &action);
    assert_eq!(wrong.status, 409, "{wrong:?}");
    assert_eq!(wrong.json()["matched"], 2);
    let status = engine.get("/api/v1/workspaces/bad-1/status").json();
    assert_eq!(status["state"], "error", "nothing was done");

    action["expected"] = json!(2);
    let begun = engine.post_json(ACTIONS, &action);
    assert_eq!(begun.status, 202, "{begun:?}");
    let begun = begun.json();
    let operation = begun["operation"].as_str().unwrap();
    let end = ended(&engine, operation);
    assert_eq!(
        (&end["total"], &end["done"], &end["refused"], &end["state"]),
        (&json!(2), &json!(2), &json!([]), &json!("done")),
        "{end}"
    );
    for id in ["bad-1", "bad-2"] {
        engine.wait_for(id, "ready");
    }
    // An ended operation cannot be stopped.
    let stopped = engine.delete(&format!("/api/v1/operations/{operation}"));
    assert_eq!(
        (stopped.status, &stopped.json()["state"]),
        (200, &json!("done"))
    );
    let unknown = engine.get("/api/v1/operations/nonsense");
    assert_eq!(unknown.status, 404, "{unknown:?}");
}

#[test]
fn an_operation_names_those_that_it_did_not_do_and_why() {
    let engine = two_and_two();
    let action = json!({"action": "skip", "filter": {}, "expected": 4});
    let begun = engine.post_json(ACTIONS, &action).json();
    let end = ended(&engine, begun["operation"].as_str().unwrap());
    assert_eq!(
        (&end["done"], &end["refusedCount"]),
        (&json!(2), &json!(2)),
        "{end}"
    );
    let mut refused: Vec<&str> = end["refused"]
        .as_array()
        .unwrap()
        .iter()
        .map(|refused| {
            assert_eq!(
                refused["detail"],
                "the workspace is not stopped at an event that it cannot apply"
            );
            refused["workspaceId"].as_str().unwrap()
        })
        .collect();
    refused.sort_unstable();
    assert_eq!(refused, ["good-1", "good-2"]);
}

#[test]
fn a_retry_loads_those_in_error_again() {
    let engine = two_and_two();
    let epoch = |id: &str| {
        engine
            .get(&format!("/api/v1/workspaces/{id}/status"))
            .json()["epoch"]
            .as_u64()
    };
    let before = epoch("bad-1");
    let action = json!({"action": "retry", "filter": {"state": "error,ready"}, "expected": 4});
    let begun = engine.post_json(ACTIONS, &action).json();
    let end = ended(&engine, begun["operation"].as_str().unwrap());
    assert_eq!(
        (&end["done"], &end["refusedCount"]),
        (&json!(2), &json!(2)),
        "{end}"
    );
    assert_eq!(
        end["refused"][0]["detail"],
        "the workspace is not in error but in ready"
    );
    engine.until("/api/v1/workspaces/bad-1/status", |now| {
        now["epoch"].as_u64() > before && now["state"] == "error"
    });
}

#[test]
fn a_body_that_is_no_action_is_refused_with_what_it_may_be() {
    let engine = Engine::start(&[]);
    for (body, status, text) in [
        (json!({"action": "explode", "dryRun": true}), 400, "explode"),
        (json!({"action": "load", "dryrun": true}), 400, "dryrun"),
        (
            json!({"action": "load", "filter": {"sate": "error"}, "dryRun": true}),
            400,
            "sate",
        ),
        (
            json!({"action": "load", "filter": {"state": "eror"}, "dryRun": true}),
            400,
            "eror",
        ),
        (
            json!({"action": "load", "filter": {"partition": {}}, "dryRun": true}),
            400,
            "partition",
        ),
        (json!([]), 400, "invalid"),
    ] {
        let refused = engine.post_json(ACTIONS, &body);
        assert_eq!(refused.status, status, "{refused:?}");
        assert_eq!(refused.content_type, "application/problem+json");
        assert!(refused.text.contains(text), "{refused:?}");
    }
    // As a form of another site would send it.
    let text = engine.post(
        ACTIONS,
        &[("content-type", "text/plain")],
        b"{\"action\":\"load\"}",
    );
    assert_eq!(text.status, 415, "{text:?}");
}

#[test]
fn actions_are_commands_too() {
    let engine = two_and_two();
    let ran = engine.run(&["skip", "bad-1"], "");
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(
        ran.stdout.starts_with("bad-1: its event is skipped; "),
        "{ran:?}"
    );
    let ran = engine.run(&["skip", "good-1"], "");
    assert_eq!(ran.code, 1, "{ran:?}");
    assert!(ran.stderr.contains("is not stopped at an event"), "{ran:?}");
    let ran = engine.run(&["unload", "good-1", "-o", "json"], "");
    assert_eq!((ran.code, &ran.json()["state"]), (0, &json!("unknown")));
    let ran = engine.run(&["reload", "good-2"], "");
    assert_eq!(ran.code, 0, "{ran:?}");
    let ran = engine.run(&["load", "unknown"], "");
    assert_eq!(ran.code, 1, "{ran:?}");

    // On all that match.
    let ran = engine.run(
        &["skip", "--state", "error", "--yes", "--reason", "broken"],
        "",
    );
    assert_eq!(ran.code, 0, "{ran:?}");
    assert_eq!(ran.stdout.trim(), "skip: 1 of 1 workspaces done, 0 refused");
    engine.wait_for("bad-2", "ready");
    let ran = engine.run(&["skip", "--prefix", "bad", "--yes", "-o", "json"], "");
    assert_eq!(ran.code, 1, "what is refused is no success: {ran:?}");
    assert_eq!(ran.json()["refusedCount"], 2);
    assert!(
        ran.stderr
            .contains("2 of them would be refused: the workspace is not stopped at"),
        "{ran:?}"
    );
    let ran = engine.run(&["load", "--state", "error", "--yes"], "");
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(ran.stderr.starts_with("no workspace matches"), "{ran:?}");

    for arguments in [
        &["load"][..],
        &["load", "a", "--state", "error"],
        &["skip", "--error-kind", "x"],
    ] {
        let ran = engine.run(arguments, "");
        assert_eq!(ran.code, 64, "{arguments:?} {ran:?}");
    }
}

#[test]
fn an_operation_that_is_stopped_begins_no_more_workspaces() {
    let engine = Engine::start(&["--partitions", "1"]);
    let lines: String = (0..3000)
        .map(|number| event(&format!("w-{number:04}"), "x"))
        .collect();
    engine.produce(&lines);
    engine.until("/api/v1/workspaces/statuses?limit=1", |list| {
        list["stateCounts"]["ready"] == 3000
    });
    let action = json!({"action": "unload", "filter": {"prefix": "w-"}, "expected": 3000});
    let begun = engine.post_json(ACTIONS, &action).json();
    let path = format!(
        "/api/v1/operations/{}",
        begun["operation"].as_str().unwrap()
    );
    let stopped = engine.delete(&path);
    assert_eq!(stopped.status, 200, "{stopped:?}");
    let end = engine.until(&path, |now| now["state"] != "running");
    let (done, state) = (end["done"].as_u64().unwrap(), &end["state"]);
    assert!(state == "stopped" && done < 3000, "{end}");
    // Workspaces that had their turn are unloaded, and still listed.
    let list = engine.get("/api/v1/workspaces/statuses?limit=1").json();
    assert_eq!(list["totalCount"], 3000);
    assert_eq!(list["stateCounts"]["unknown"], done);
}

#[test]
fn a_reset_rebuilds_and_a_delete_ends_a_workspace_also_over_a_restart() {
    let mut engine = Engine::start(&["--partitions", "1"]);
    for id in ["a", "b", "c"] {
        engine.produce(&event(id, "x"));
        engine.wait_for(id, "ready");
    }
    let epoch = |engine: &Engine| {
        engine.get("/api/v1/workspaces/a/status").json()["epoch"]
            .as_u64()
            .unwrap()
    };
    let before = epoch(&engine);
    let reset = engine.post("/api/v1/workspaces/a/reset", &[], b"");
    assert_eq!(reset.status, 200, "{reset:?}");
    assert_eq!(reset.json()["workspaceId"], "a");
    engine.wait_for("a", "ready");
    assert!(epoch(&engine) > before);
    let ran = engine.run(&["reset", "a"], "");
    assert_eq!(ran.code, 0, "{ran:?}");
    engine.wait_for("a", "ready");
    let summary = engine.get("/api/v1/workspaces/a/entities").json();
    assert_eq!(summary["eventsApplied"], 1);
    let slip = engine.post("/api/v1/workspaces/a/reset?force=maybe", &[], b"");
    assert_eq!(slip.status, 400, "{slip:?}");

    // One in memory, and one that is not.
    let deleted = engine.delete("/api/v1/workspaces/b");
    assert_eq!(
        (deleted.status, deleted.text.as_str()),
        (204, ""),
        "{deleted:?}"
    );
    assert_eq!(engine.run(&["unload", "c"], "").code, 0);
    let ran = engine.run(&["delete", "c"], "");
    assert_eq!((ran.code, ran.stdout.trim()), (0, "c: it is deleted"));
    let check = |engine: &Engine| {
        let list = engine.get("/api/v1/workspaces/statuses").json();
        assert_eq!(list["totalCount"], 1, "{list}");
        assert_eq!(list["workspaces"][0]["workspaceId"], "a");
        let status = engine.get("/api/v1/workspaces/c/status").json();
        assert_eq!(
            (&status["state"], &status["lastKnown"]),
            (&json!("unknown"), &Value::Null)
        );
    };
    check(&engine);
    assert!(engine.stop().success());
    engine.restart();
    engine.wait_for("a", "ready");
    check(&engine);
    let ran = engine.run(&["delete", "unknown", "-o", "json"], "");
    assert_eq!(ran.code, 1, "{ran:?}");

    // A later event creates a new workspace.
    engine.produce(&event("b", "y"));
    engine.wait_for("b", "ready");
    let summary = engine.get("/api/v1/workspaces/b/entities").json();
    assert_eq!(summary["eventsApplied"], 1);
}

#[test]
fn all_that_match_can_be_reset() {
    let engine = two_and_two();
    let ran = engine.run(&["reset", "--prefix", "good", "--yes", "--force"], "");
    assert_eq!(ran.code, 0, "{ran:?}");
    assert_eq!(
        ran.stdout.trim(),
        "reset: 2 of 2 workspaces done, 0 refused"
    );
    for id in ["good-1", "good-2"] {
        engine.wait_for(id, "ready");
    }
    let slip = json!({"action": "load", "force": true, "dryRun": true});
    assert_eq!(engine.post_json(ACTIONS, &slip).status, 400);
}

#[test]
fn a_workspace_with_the_name_of_a_route_can_be_deleted() {
    let mut file = TokensFile::new();
    let acme = file.add("acme", &["--role", "admin", "--prefix", "acme-"]);
    let path = file.text();
    let engine = Engine::start(&["--tokens", &path]);
    for way in ["command", "route", "escaped route"] {
        engine.produce(&event("statuses", "a"));
        engine.wait_for("statuses", "ready");
        let escaped = "/api/v1/workspaces/%73tatuses";
        for path in ["/api/v1/workspaces/statuses", escaped] {
            let headers = [("authorization", bearer(&acme))];
            let foreign = engine.send("DELETE", path, &headers, b"");
            assert_eq!(foreign.status, 403, "{foreign:?}");
        }
        match way {
            "command" => {
                let ran = engine.run(&["delete", "statuses"], "");
                assert_eq!(ran.code, 0, "{ran:?}");
            }
            "route" => {
                let answer = engine.delete("/api/v1/workspaces/statuses");
                assert_eq!(answer.status, 204, "{answer:?}");
            }
            _ => assert_eq!(engine.delete(escaped).status, 204),
        }
        let status = engine.get("/api/v1/workspaces/statuses/status");
        assert_eq!(status.status, 404, "{way} {status:?}");
    }
    let list = engine.get("/api/v1/workspaces/statuses").json();
    assert_eq!(list["totalCount"], 0, "{list}");
}
