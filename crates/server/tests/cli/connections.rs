//! The server's limits for one client: connections, memory of answers, and refused bodies.

use crate::support::{Engine, Raw, TokensFile, bearer, until};
use std::{
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

/// A request whose body never ends.
const SLOW_BODY: &[u8] = b"POST /api/v1/events HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/x-ndjson\r\nContent-Length: 1000\r\n\r\n{";

/// A request without a token whose body never ends.
const REFUSED_BODY: &[u8] =
    b"POST /api/v1/events HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000\r\n\r\nx";

fn metric(engine: &Engine, name: &str) -> f64 {
    let page = engine.get("/metrics").text;
    let line = page
        .lines()
        .find_map(|line| line.strip_prefix(&format!("{name} ")));
    line.unwrap_or_else(|| panic!("no {name} in {page}"))
        .parse()
        .unwrap()
}

#[test]
fn probes_are_answered_while_every_connection_is_taken() {
    let engine = Engine::start(&["--max-connections", "8", "--body-timeout", "10m"]);
    let slow: Vec<Raw> = (0..8)
        .map(|_| {
            let mut connection = Raw::open(&engine);
            connection.send(SLOW_BODY);
            connection
        })
        .collect();
    let refused = until("a refusal", || {
        let mut connection = Raw::open(&engine);
        let answer = connection.request("GET /api/v1/workspaces");
        (answer.status == 503).then_some(answer)
    });
    assert_eq!(refused.header("retry-after"), Some("1"));
    assert_eq!(refused.header("connection"), Some("close"));
    assert!(
        refused
            .body
            .contains("all 8 connections have a request under way (max-connections)"),
        "{refused:?}"
    );
    // A probe is also served with more silent connections than there are reserved permits.
    let _silent: Vec<Raw> = (0..100).map(|_| Raw::open(&engine)).collect();
    for _ in 0..3 {
        for path in ["/livez", "/readyz"] {
            let answer = Raw::open(&engine).request(&format!("GET {path}"));
            assert_eq!((answer.status, &*answer.body), (200, "ok"));
            assert_eq!(answer.header("connection"), Some("close"));
        }
    }
    // A body that is refused for lack of a permit is read to its end, so that its sender sees the reason.
    let mut sender = Raw::open(&engine);
    let body = "x".repeat(1 << 20);
    let head = format!(
        "POST /api/v1/events HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    sender.send(&[head.as_bytes(), body.as_bytes()].concat());
    assert_eq!(sender.answer().status, 503);

    drop(slow);
    until("a free permit", || {
        let answer = Raw::open(&engine).request("GET /api/v1/workspaces");
        (answer.status == 200).then_some(())
    });
    assert!(metric(&engine, "workspace_engine_http_requests_refused_total") >= 2.0);
}

#[test]
fn an_idle_connection_gives_its_place_to_a_new_one() {
    let engine = Engine::start(&["--max-connections", "4", "--header-timeout", "10m"]);
    let mut idle: Vec<Raw> = (0..4)
        .map(|_| {
            let mut connection = Raw::open(&engine);
            assert_eq!(connection.request("GET /livez").status, 200);
            connection
        })
        .collect();
    until("a permit for a new connection", || {
        let answer = Raw::open(&engine).request("GET /api/v1/workspaces");
        (answer.status == 200).then_some(())
    });
    assert!(
        metric(
            &engine,
            "workspace_engine_http_idle_connections_closed_total"
        ) >= 1.0
    );
    // The other connections still work.
    let alive = idle
        .iter_mut()
        .filter_map(|connection| connection.try_request("GET /livez"))
        .filter(|answer| answer.status == 200)
        .count();
    assert!(alive >= 1, "all idle connections were closed");
}

/// An engine with eight connection permits that grants rights only to callers with a token; and the token of one.
fn with_tokens(flags: &[&str]) -> (Engine, TokensFile, String) {
    let mut file = TokensFile::new();
    let token = file.add("root", &["--role", "admin"]);
    let path = file.text();
    let all = [&["--tokens", &path, "--anonymous", "none"], flags].concat();
    (Engine::start(&all), file, token)
}

#[test]
fn clients_without_a_right_do_not_delay_probes() {
    let (engine, _file, _) = with_tokens(&["--max-connections", "8"]);
    let mut tries = Vec::new();
    // A slow machine may need more than one try.
    for _ in 0..3 {
        // As many as there are permits of both kinds.
        let holders: Vec<Raw> = (0..8 + 64)
            .map(|_| {
                let mut connection = Raw::open(&engine);
                connection.send(REFUSED_BODY);
                connection.wait_for_answer();
                connection
            })
            .collect();
        let begun = Instant::now();
        for _ in 0..5 {
            let answer = Raw::open(&engine).try_request("GET /livez");
            let status = answer.map(|answer| answer.status);
            assert_eq!(status, Some(200), "a probe was cut off");
        }
        let took = begun.elapsed();
        drop(holders);
        // A connection keeps a reserved permit for up to five seconds.
        if took < Duration::from_secs(2) {
            return;
        }
        tries.push(took);
    }
    panic!("five probes took {tries:?}");
}

#[test]
fn clients_without_a_right_keep_no_place_from_one_with() {
    let limits = ["--max-connections", "8", "--header-timeout", "10m"];
    let stalled = "GET /docs/swagger-ui-bundle.js HTTP/1.1\r\nHost: localhost\r\n\r\n".repeat(20);
    let half = b"GET /livez HTTP/1.1\r\nHost: local";
    let cases: [(&str, &[u8]); 4] = [
        ("a head that never ends", half),
        (
            "a probe that is repeated",
            b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n",
        ),
        ("a body that never ends", REFUSED_BODY),
        ("a page that is not read", stalled.as_bytes()),
    ];
    for (what, request) in cases {
        let (engine, _file, token) = with_tokens(&limits);
        let is_over = AtomicBool::new(false);
        thread::scope(|scope| {
            let (held, holders) = std::sync::mpsc::channel();
            for _ in 0..8 {
                let (engine, is_over, held) = (&engine, &is_over, held.clone());
                scope.spawn(move || {
                    let mut connection = Raw::open(engine);
                    connection.send(request);
                    if request != half {
                        connection.wait_for_answer();
                    }
                    let _ = held.send(());
                    while !is_over.load(Ordering::Relaxed) {
                        if what == "a probe that is repeated" {
                            let _ = connection.try_request("GET /livez");
                        }
                        thread::sleep(Duration::from_millis(20));
                    }
                });
            }
            for _ in 0..8 {
                holders.recv().unwrap();
            }
            let answers: Vec<Option<u16>> = (0..10)
                .map(|_| {
                    let answer = Raw::open(&engine).try_request_as(&token, "GET /api/v1/me");
                    answer.map(|answer| answer.status)
                })
                .collect();
            is_over.store(true, Ordering::Relaxed);
            // On a slow machine a request may need more than the half second that it waits.
            let served = answers.iter().filter(|status| **status == Some(200));
            assert!(served.count() >= 5, "{what}: {answers:?}");
        });
    }
}

#[test]
fn open_pages_take_no_memory_of_answers() {
    let (engine, _file, token) = with_tokens(&["--answer-memory", "8MiB"]);
    let request = "GET /docs/swagger-ui-bundle.js HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let stalled: Vec<Raw> = (0..40)
        .map(|_| {
            let mut connection = Raw::open(&engine);
            // More than the system's buffers hold.
            connection.send(request.repeat(20).as_bytes());
            connection.wait_for_answer();
            connection
        })
        .collect();
    let headers = [("authorization", bearer(&token))];
    let page = engine.send("GET", "/metrics", &headers, b"").text;
    for metric in [
        "workspace_engine_http_answer_memory_bytes 0",
        "workspace_engine_http_answers_limited_total 0",
    ] {
        assert!(page.contains(&format!("\n{metric}\n")), "{metric}: {page}");
    }
    drop(stalled);
}

#[test]
fn a_body_that_is_refused_is_read_to_its_end() {
    let engine = Engine::start(&["--max-body", "2KiB", "--event-memory", "1MiB"]);
    let body = "x".repeat(16 << 20);
    let declared = format!("Content-Length: {}\r\n\r\n{body}", body.len());
    let chunked = format!(
        "Transfer-Encoding: chunked\r\n\r\n{:x}\r\n{body}\r\n0\r\n\r\n",
        body.len()
    );
    let ndjson = "Content-Type: application/x-ndjson\r\n";
    for (path, headers, rest, status) in [
        ("/api/v1/events", ndjson, &declared, 413),
        ("/api/v1/events", ndjson, &chunked, 413),
        (
            "/api/v1/events",
            "Content-Type: text/plain\r\n",
            &declared,
            415,
        ),
        ("/api/v1/nothing", ndjson, &declared, 404),
        ("/livez", ndjson, &chunked, 405),
    ] {
        let mut connection = Raw::open(&engine);
        let request = format!("POST {path} HTTP/1.1\r\nHost: localhost\r\n{headers}{rest}");
        // An ordinary client: it reads the answer only after it has sent its whole body.
        connection.send(request.as_bytes());
        let answer = connection.answer();
        assert_eq!(answer.status, status, "{path} {headers} {answer:?}");
        assert_eq!(
            answer.header("content-type"),
            Some("application/problem+json")
        );
        assert_eq!(
            connection.request("GET /livez").status,
            200,
            "the connection stays open"
        );
    }
}

#[test]
fn a_client_that_waits_to_send_its_body_is_spared_it() {
    let engine = Engine::start(&["--max-body", "2KiB", "--event-memory", "1MiB"]);
    let mut connection = Raw::open(&engine);
    connection.send(
        b"POST /api/v1/events HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/x-ndjson\r\nExpect: 100-continue\r\nContent-Length: 1000000\r\n\r\n",
    );
    assert_eq!(connection.answer().status, 413, "and no 100");
}

#[test]
fn readers_that_take_nothing_hold_a_bounded_memory() {
    let engine = Engine::start(&[
        "--answer-memory",
        "8MiB",
        "--write-timeout",
        "3s",
        "--max-body",
        "64MiB",
    ]);
    let value = "x".repeat(1_000_000);
    for number in 0..12 {
        engine.produce(&format!(
            "{{\"eventType\":\"resource.created\",\"workspaceId\":\"w\",\"data\":{{\"id\":\"{number:02}\",\"v\":\"{value}\"}}}}\n"
        ));
    }
    engine.wait_for("w", "ready");
    let path = "/api/v1/workspaces/w/entities/resource?limit=100";
    until("all entities", || {
        let summary = engine.get("/api/v1/workspaces/w/entities").json();
        (summary["eventsApplied"] == 12).then_some(())
    });
    let before = engine.resident_bytes();
    let held = |engine: &Engine| metric(engine, "workspace_engine_http_answer_memory_bytes");
    let stalled: Vec<Raw> = (0..60)
        .map(|_| {
            let mut connection = Raw::open(&engine);
            // More than the system's buffers hold.
            let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n");
            connection.send(request.repeat(8).as_bytes());
            connection
        })
        .collect();
    until("answers that are limited", || {
        (metric(&engine, "workspace_engine_http_answers_limited_total") > 0.0).then_some(())
    });
    assert!(held(&engine) <= f64::from(8 << 20));
    let grown = engine.resident_bytes().saturating_sub(before);
    assert!(grown < 100 << 20, "{grown} bytes for 60 stalled readers");
    // Small answers are not affected.
    assert_eq!(engine.get("/api/v1/workspaces/w/status").status, 200);

    until("stalled readers that are cut off", || {
        (metric(
            &engine,
            "workspace_engine_http_stalled_connections_closed_total",
        ) >= 1.0)
            .then_some(())
    });
    until("memory that is free again", || {
        (held(&engine) == 0.0).then_some(())
    });
    drop(stalled);
    // A client that reads gets all of it, page after page.
    let mut ids: Vec<String> = Vec::new();
    let mut next = path.to_owned();
    loop {
        let page = until("a page", || {
            let page = engine.get(&next);
            (page.status == 200).then(|| page.json())
        });
        for entity in page["entities"].as_array().unwrap() {
            ids.push(entity["id"].as_str().unwrap().to_owned());
        }
        let Some(cursor) = page["nextCursor"].as_str() else {
            break;
        };
        next = format!("{path}&cursor={cursor}");
    }
    let expected: Vec<String> = (0..12).map(|number| format!("{number:02}")).collect();
    assert_eq!(ids, expected);
}
