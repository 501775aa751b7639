//! Follows every way out that a text names, and checks that it works.

use crate::support::{Engine, event, run};
use serde_json::json;

#[test]
fn the_message_of_an_unloaded_workspace_names_what_brings_it_back() {
    let engine = Engine::start(&[]);
    engine.produce(&event("w", "a"));
    engine.wait_for("w", "ready");
    for way in [Way::Command, Way::Route] {
        assert_eq!(engine.run(&["unload", "w"], "").code, 0);
        let status = engine.get("/api/v1/workspaces/w/status").json();
        let message = status["message"].as_str().unwrap().to_owned();
        match way {
            Way::Command => {
                let command = between(&message, "`workspace-engine ", "`");
                let arguments: Vec<&str> = command.split(' ').collect();
                let ran = engine.run(&arguments, "");
                assert_eq!(ran.code, 0, "{message}: {ran:?}");
            }
            Way::Route => {
                let route = between(&message, "POST ", " ");
                let answer = engine.post(route, &[], b"");
                assert_eq!(answer.status, 200, "{message}: {answer:?}");
            }
        }
        engine.wait_for("w", "ready");
    }
}

#[derive(Clone, Copy)]
enum Way {
    Command,
    Route,
}

fn between<'a>(text: &'a str, begin: &str, end: &str) -> &'a str {
    let rest = text
        .split_once(begin)
        .unwrap_or_else(|| panic!("no {begin:?} in {text}"))
        .1;
    rest.split_once(end).map_or(rest, |(found, _)| found)
}

#[test]
fn a_refused_action_says_that_the_count_comes_first_and_that_helps() {
    let engine = Engine::start(&[]);
    engine.produce(&event("w", "a"));
    engine.wait_for("w", "ready");
    let mut action = json!({"action": "reload", "filter": {"state": "ready"}});
    let missing = engine.post_json("/api/v1/actions", &action);
    let detail = missing.json()["detail"].as_str().unwrap().to_owned();
    let member = format!("{{{}}}", between(&detail, "with ", " first"));
    let member: serde_json::Value = serde_json::from_str(&member).unwrap();
    assert_eq!(member, json!({"dryRun": true}), "{detail}");
    action["expected"] = json!(7);
    let other = engine.post_json("/api/v1/actions", &action);
    assert!(other.text.contains("\\\"dryRun\\\":true"), "{other:?}");

    action["dryRun"] = json!(true);
    let counted = engine.post_json("/api/v1/actions", &action).json();
    action["dryRun"] = json!(false);
    action["expected"] = counted["matched"].clone();
    assert_eq!(engine.post_json("/api/v1/actions", &action).status, 202);
}

#[test]
fn a_command_that_cannot_ask_names_the_flag_that_it_needs() {
    let engine = Engine::start(&[]);
    engine.produce(&event("w", "a"));
    engine.wait_for("w", "ready");
    let arguments = ["unload", "--state", "ready"];
    let ran = engine.run(&arguments, "y\n");
    assert_eq!(ran.code, 64, "{ran:?}");
    assert_eq!(
        engine.get("/api/v1/workspaces/w/status").status,
        200,
        "nothing was done"
    );
    let flag = between(&ran.stderr, "add ", " ");
    let ran = engine.run(&[&arguments[..], &[flag]].concat(), "");
    assert_eq!(ran.code, 0, "{ran:?}");
    assert_eq!(
        engine.get("/api/v1/workspaces/w/status").json()["reason"],
        "unloaded"
    );

    let ran = run(&["load"], "");
    assert_eq!(ran.code, 64, "{ran:?}");
    let filter = between(&ran.stderr, "such as ", " for all");
    let with_filter: Vec<&str> = ["load", "--yes"]
        .into_iter()
        .chain(filter.split(' '))
        .collect();
    let ran = engine.run(&with_filter, "");
    assert_eq!(ran.code, 0, "{ran:?}");
}

#[test]
fn a_refused_reset_names_the_command_and_the_route_that_force_it() {
    for way in [Way::Command, Way::Route] {
        let engine = Engine::start(&["--partitions", "1", "--retention-age", "1ms"]);
        engine.produce(&[event("w", "a"), event("w", "b")].concat());
        engine.wait_for("w", "ready");
        engine.until("/api/v1/partitions", |partitions| {
            partitions["partitions"][0]["lowWatermark"].as_u64() > Some(0)
        });
        let refused = engine.post("/api/v1/workspaces/w/reset", &[], b"");
        assert_eq!(refused.status, 409, "{refused:?}");
        let detail = refused.json()["detail"].as_str().unwrap().to_owned();
        match way {
            Way::Command => {
                let command = between(&detail, "`workspace-engine ", "`");
                let arguments: Vec<&str> = command.split(' ').collect();
                let ran = engine.run(&arguments, "");
                assert_eq!(ran.code, 0, "{detail}: {ran:?}");
            }
            Way::Route => {
                let route = between(&detail, "POST ", " ");
                let answer = engine.post(route, &[], b"");
                assert_eq!(answer.status, 200, "{detail}: {answer:?}");
            }
        }
        engine.wait_for("w", "ready");
        let summary = engine.get("/api/v1/workspaces/w/entities").json();
        // Retention keeps the last record.
        assert_eq!(summary["eventsApplied"], 1, "{summary}");
    }
}

#[test]
fn no_more_operations_than_may_run_and_one_that_is_stopped_makes_room() {
    let engine = Engine::start(&["--partitions", "1"]);
    let lines: String = (0..2000)
        .map(|number| event(&format!("w-{number:04}"), "x"))
        .collect();
    engine.produce(&lines);
    engine.until("/api/v1/workspaces/statuses?limit=1", |list| {
        list["stateCounts"]["ready"] == 2000
    });
    let action = json!({"action": "reload", "filter": {"prefix": "w-"}, "expected": 2000});
    let mut begun = Vec::new();
    let refused = loop {
        let answer = engine.post_json("/api/v1/actions", &action);
        if answer.status != 202 {
            break answer;
        }
        begun.push(answer.json()["operation"].as_str().unwrap().to_owned());
        assert!(begun.len() <= 4, "as many as one likes");
    };
    assert_eq!(refused.status, 503, "{refused:?}");
    let detail = refused.json()["detail"].as_str().unwrap().to_owned();
    let route = between(&detail, "DELETE ", " ");
    let stopped = engine.delete(&route.replace("{id}", &begun[0]));
    assert_eq!(stopped.status, 200, "{detail}: {stopped:?}");
    engine.until(&format!("/api/v1/operations/{}", begun[0]), |now| {
        now["state"] != "running"
    });
    assert_eq!(engine.post_json("/api/v1/actions", &action).status, 202);
}
