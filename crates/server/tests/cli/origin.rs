//! Requests that a web page of another site must not make, sent as a browser would send them.

use crate::support::{Engine, event};
use std::{
    io::{Read, Write},
    net::TcpStream,
};

/// Sends a request with exactly these headers, and returns status and body.
fn send(engine: &Engine, first: &str, headers: &[&str]) -> (u16, String) {
    let address = engine.url.trim_start_matches("http://");
    let mut stream = TcpStream::connect(address).unwrap();
    let lines: String = headers.iter().map(|line| format!("{line}\r\n")).collect();
    let lines = lines.replace("ADDRESS", address);
    let request =
        format!("{first} HTTP/1.1\r\n{lines}Content-Length: 0\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let status = answer.split(' ').nth(1).unwrap().parse().unwrap();
    (status, answer)
}

#[test]
fn a_page_of_another_site_cannot_unload_a_workspace() {
    let engine = Engine::start(&[]);
    engine.produce(&event("w", "a"));
    engine.wait_for("w", "ready");
    let unload = "POST /api/v1/workspaces/w/unload";
    for (headers, problem) in [
        (
            &["Host: ADDRESS", "Origin: https://evil.example"][..],
            "foreign-origin",
        ),
        (&["Host: ADDRESS", "Origin: null"], "foreign-origin"),
        (
            &["Host: ADDRESS", "origin: HTTP://EVIL.EXAMPLE"],
            "foreign-origin",
        ),
        // A page of another program on this machine.
        (
            &["Host: ADDRESS", "Origin: http://127.0.0.1:3000"],
            "foreign-origin",
        ),
        (
            &["Host: ADDRESS", "Origin: http://localhost:3000"],
            "foreign-origin",
        ),
        (
            &["Host: ADDRESS", "Sec-Fetch-Site: cross-site"],
            "foreign-origin",
        ),
        // DNS rebinding: a name that was pointed to this machine after the page was loaded.
        (
            &[
                "Host: evil.example:8081",
                "Origin: http://evil.example:8081",
            ],
            "foreign-host",
        ),
        (&["Host: evil.example"], "foreign-host"),
        (&["Host: ADDRESS", "Host: evil.example"], "foreign-host"),
    ] {
        let (status, answer) = send(&engine, unload, headers);
        assert_eq!(status, 403, "{headers:?} {answer}");
        assert!(
            answer.contains("application/problem+json"),
            "{headers:?} {answer}"
        );
        assert!(
            answer.contains(&format!("/problems/{problem}")),
            "{headers:?} {answer}"
        );
    }
    // It must not read either: under its own name, the answer would be same-origin.
    let rebound = ["Host: evil.example:8081"];
    let (status, answer) = send(&engine, "GET /api/v1/workspaces/w/entities", &rebound);
    assert_eq!(status, 403, "{answer}");
    assert_eq!(
        engine.get("/api/v1/workspaces/w/status").json()["state"],
        "ready"
    );
    let refused = "workspace_engine_access_refused_total{reason=\"foreign\"} 10";
    let metrics = engine.get("/metrics").text;
    assert!(metrics.contains(refused), "{metrics}");
}

#[test]
fn the_engines_own_page_and_clients_without_a_browser_may_act() {
    let engine = Engine::start(&[]);
    engine.produce(&event("w", "a"));
    engine.wait_for("w", "ready");
    let port = engine.url.rsplit(':').next().unwrap().to_owned();
    let local = [
        format!("Host: localhost:{port}"),
        format!("Origin: http://localhost:{port}"),
        "Sec-Fetch-Site: same-origin".to_owned(),
    ];
    let local: Vec<&str> = local.iter().map(String::as_str).collect();
    for headers in [
        &["Host: ADDRESS", "Origin: http://ADDRESS"][..],
        &[
            "Host: ADDRESS",
            "Origin: http://ADDRESS",
            "Sec-Fetch-Site: same-origin",
        ],
        &local,
        &["Host: ADDRESS"],
    ] {
        let (status, answer) = send(&engine, "POST /api/v1/workspaces/w/load", headers);
        assert_eq!(status, 200, "{headers:?} {answer}");
    }
    // A link to the engine on a page of another site.
    let link = [
        "Host: ADDRESS",
        "Sec-Fetch-Site: cross-site",
        "Sec-Fetch-Mode: navigate",
        "Sec-Fetch-Dest: document",
    ];
    assert_eq!(send(&engine, "GET /docs/", &link).0, 200);
}

#[test]
fn a_link_of_another_site_does_not_load_a_workspace() {
    let engine = Engine::start(&[]);
    engine.produce(&event("w", "a"));
    engine.wait_for("w", "ready");
    assert_eq!(engine.run(&["unload", "w"], "").code, 0);
    let link = [
        "Host: ADDRESS",
        "Sec-Fetch-Site: cross-site",
        "Sec-Fetch-Mode: navigate",
        "Sec-Fetch-Dest: document",
    ];
    for path in [
        "/api/v1/workspaces/w/entities",
        "/api/v1/workspaces/w/status",
    ] {
        let (status, answer) = send(&engine, &format!("GET {path}"), &link);
        assert_eq!(status, 403, "{path} {answer}");
    }
    let status = engine.get("/api/v1/workspaces/w/status").json();
    assert_eq!(status["reason"], "unloaded", "{status}");
}

#[test]
fn elsewhere_a_page_under_a_name_of_its_own_has_no_anonymous_role() {
    let elsewhere = ["--listen", "0.0.0.0:0", "--anonymous", "admin"];
    let engine = Engine::start(&elsewhere);
    for (host, expected) in [
        ("Host: ADDRESS", 200),
        ("Host: localhost:8081", 200),
        ("Host: 10.1.2.3", 200),
        ("Host: evil.example:8081", 403),
        ("Host: engine.example", 403),
    ] {
        let (status, answer) = send(&engine, "GET /api/v1/me", &[host]);
        assert_eq!(status, expected, "{host} {answer}");
        assert_eq!(
            status == 403,
            answer.contains("--allowed-host NAME"),
            "{answer}"
        );
    }
    drop(engine);
    let engine = Engine::start(&[&elsewhere[..], &["--allowed-host", "engine.example"]].concat());
    for (host, expected) in [("engine.example", 200), ("evil.example", 403)] {
        let host = format!("Host: {host}");
        assert_eq!(
            send(&engine, "GET /api/v1/me", &[&host]).0,
            expected,
            "{host}"
        );
    }
    drop(engine);
    // Without a token no caller has a right, and a page has no token.
    let engine = Engine::start(&["--listen", "0.0.0.0:0", "--anonymous", "none"]);
    assert_eq!(
        send(&engine, "GET /livez", &["Host: engine.example"]).0,
        200
    );
}

#[test]
fn a_proxy_in_front_of_the_engine_is_let_in_by_its_name() {
    let engine = Engine::start(&["--allowed-host", "engine.example"]);
    let through = ["Host: engine.example", "Origin: https://engine.example"];
    let (status, answer) = send(&engine, "POST /api/v1/workspaces/w/load", &through);
    assert_eq!(status, 404, "{answer}");
    assert!(answer.contains("/problems/workspace-unknown"), "{answer}");
    for origin in [
        "Origin: https://evil.example",
        // Another program on the proxy's machine.
        "Origin: https://engine.example:3000",
    ] {
        let headers = ["Host: engine.example", origin];
        let (status, answer) = send(&engine, "POST /api/v1/workspaces/w/load", &headers);
        assert_eq!(status, 403, "{origin} {answer}");
    }
    let other_site = [through[0], through[1], "Sec-Fetch-Site: cross-site"];
    let (status, answer) = send(&engine, "POST /api/v1/workspaces/w/load", &other_site);
    assert_eq!(status, 403, "{answer}");
}
