//! TLS: the CAs that commands trust, certificates that change while serving, and files that cannot be used.

use crate::{
    authority::{Authority, Valid, begin, replace, ureq_with},
    support::{Engine, Ran, event, eventually, run, wait_until},
};
use std::{
    fs,
    io::Read,
    net::TcpStream,
    time::{Duration, Instant},
};

/// Repeats a command until it ends as expected; its engine may still be opening its log.
fn run_until(engine: &Engine, arguments: &[&str], input: &str, is_expected: impl Fn(&Ran) -> bool) {
    eventually(&arguments.join(" "), || {
        let ran = engine.run(arguments, input);
        if is_expected(&ran) { Ok(()) } else { Err(ran) }
    });
}

#[test]
fn the_commands_work_over_https_with_an_authority_of_ones_own() {
    let authority = Authority::new();
    authority.sign_server("server", Valid::Now);
    let engine = begin(&authority.server_flags("server"), &[]);
    assert!(engine.url.starts_with("https://"), "{}", engine.url);
    let ca = authority.text("ca.pem");
    let trusting = ["--ca-file", ca.as_str()];
    run_until(&engine, &[&["list"], &trusting[..]].concat(), "", |ran| {
        ran.code == 0
    });
    let produce = [&["produce", "-", "--ca-file"][..], &[&ca]].concat();
    let ran = engine.run(&produce, &event("w", "a"));
    assert_eq!(ran.code, 0, "{ran:?}");
    for command in [
        &["wait", "w"][..],
        &["get", "w"],
        &["history", "w"],
        &["list"],
    ] {
        let ran = engine.run(&[command, &trusting[..]].concat(), "");
        assert_eq!(ran.code, 0, "{command:?} {ran:?}");
    }
    // By host name, too.
    let named = engine.url.replace("127.0.0.1", "localhost");
    let ran = run(&["get", "w", "--url", &named, "--ca-file", &ca], "");
    assert_eq!(ran.code, 0, "{ran:?}");
    // An unencrypted request gets no answer, and the error names the cause.
    let plain = engine.url.replace("https://", "http://");
    let ran = run(&["get", "w", "--url", &plain], "");
    assert_eq!(ran.code, 3, "{ran:?}");
    assert!(ran.stderr.contains("https"), "{ran:?}");
}

#[test]
fn a_wrong_authority_and_an_expired_certificate_are_named() {
    let (authority, other) = (Authority::new(), Authority::new());
    authority.sign_server("expired", Valid::InThePast);
    authority.sign("elsewhere", &[], &["engine.example"], Valid::Now);
    authority.sign_server("good", Valid::Now);
    let (ca, wrong) = (authority.text("ca.pem"), other.text("ca.pem"));
    for (server, flags, expected) in [
        (
            "good",
            &["--ca-file", wrong.as_str()][..],
            "--ca-file FILE names its authority",
        ),
        ("good", &[], "--ca-file FILE names its authority"),
        (
            "expired",
            &["--ca-file", &ca],
            "its certificate has expired",
        ),
        (
            "elsewhere",
            &["--ca-file", &ca],
            "its certificate is for another name",
        ),
    ] {
        let engine = begin(&authority.server_flags(server), &[]);
        for command in [
            &["list"][..],
            &["get", "w"],
            &["wait", "w"],
            &["produce", "-"],
        ] {
            let begun = Instant::now();
            let ran = engine.run(&[command, flags].concat(), &event("w", "a"));
            assert_eq!(ran.code, 3, "{server} {command:?} {ran:?}");
            assert!(
                ran.stderr.contains(expected),
                "{server} {command:?} {ran:?}"
            );
            // A retry would not help.
            assert!(
                begun.elapsed() < Duration::from_secs(40),
                "{server} {command:?}"
            );
        }
    }
    let ran = run(&["list", "--ca-file", "no-such-file.pem"], "");
    assert_eq!(ran.code, 64, "{ran:?}");
    let key = authority.text("good.key");
    let ran = run(&["list", "--ca-file", &key], "");
    assert_eq!(ran.code, 64, "{ran:?}");
    assert!(
        ran.stderr.contains("the CA file holds no certificate"),
        "{ran:?}"
    );
}

#[test]
fn a_certificate_that_changes_while_serving_is_the_new_one() {
    let (old, new) = (Authority::new(), Authority::new());
    old.sign_server("server", Valid::Now);
    let flags = old.server_flags("server");
    let engine = begin(&flags, &[]);
    let (old_ca, new_ca) = (old.text("ca.pem"), new.text("ca.pem"));
    let trusts = |ca: &str, code: i32| {
        run_until(&engine, &["list", "--ca-file", ca], "", |ran| {
            ran.code == code
        });
    };
    trusts(&old_ca, 0);
    trusts(&new_ca, 3);

    // An invalid certificate changes nothing.
    replace(&old.path("server.pem"), "no certificate");
    let failed = || {
        let config = ureq_with(&old_ca);
        let metrics = config
            .get(format!("{}/metrics", engine.url))
            .call()
            .unwrap()
            .body_mut()
            .read_to_string()
            .unwrap();
        metrics.contains("workspace_engine_reloads_failed_total{file=\"tls\"} 1")
    };
    wait_until("the failed reload is counted", failed);
    trusts(&old_ca, 0);

    new.sign_server("server", Valid::Now);
    for end in ["key", "pem"] {
        let text = fs::read_to_string(new.path(&format!("server.{end}"))).unwrap();
        replace(&old.path(&format!("server.{end}")), &text);
    }
    trusts(&new_ca, 0);
    trusts(&old_ca, 3);
}

#[test]
fn clients_that_never_finish_a_handshake_delay_no_other() {
    let authority = Authority::new();
    authority.sign_server("server", Valid::Now);
    let flags = authority.server_flags("server");
    let engine = begin(&flags, &["--header-timeout", "2s"]);
    let address = engine.url.trim_start_matches("https://").to_owned();
    let mut silent: Vec<TcpStream> = (0..50)
        .map(|_| TcpStream::connect(&address).unwrap())
        .collect();
    let ca = authority.text("ca.pem");
    let begun = Instant::now();
    let probe = ureq_with(&ca).get(format!("{}/livez", engine.url)).call();
    assert_eq!(probe.unwrap().status(), 200);
    // The engine closes them at some later time.
    for stream in &mut silent {
        stream
            .set_read_timeout(Some(Duration::from_mins(1)))
            .unwrap();
        assert_eq!(stream.read(&mut [0; 16]).unwrap_or_default(), 0);
    }
    assert!(
        begun.elapsed() >= Duration::from_secs(1),
        "they were waited for"
    );
    // A connection is closed before its failure is counted.
    wait_until("the failed handshakes are counted", || {
        let metrics = ureq_with(&ca)
            .get(format!("{}/metrics", engine.url))
            .call()
            .unwrap()
            .body_mut()
            .read_to_string()
            .unwrap();
        metrics.contains("workspace_engine_tls_handshakes_failed_total 50")
    });
}

#[test]
fn certificates_that_cannot_be_used_are_refused_at_the_start() {
    let authority = Authority::new();
    authority.sign_server("one", Valid::Now);
    authority.sign_server("other", Valid::Now);
    fs::write(authority.path("empty.pem"), "").unwrap();
    let (one, other) = (authority.text("one.pem"), authority.text("other.key"));
    let (empty, key) = (authority.text("empty.pem"), authority.text("one.key"));
    for (certificate, key, client_ca, expected) in [
        (&one, &other, None, "the key is not that of the certificate"),
        (
            &empty,
            &key,
            None,
            "the certificate file holds no certificate",
        ),
        (&one, &empty, None, "the key file holds no private key"),
        (&one, &one, None, "the key file holds no private key"),
        (
            &one,
            &key,
            Some(&key),
            "the client CA file holds no certificate",
        ),
    ] {
        let mut arguments = vec![
            "serve",
            "--listen",
            "127.0.0.1:0",
            "--tls-cert",
            certificate,
        ];
        arguments.extend(["--tls-key", key]);
        if let Some(client_ca) = client_ca {
            arguments.extend(["--tls-client-ca", client_ca]);
        }
        let ran = run(&arguments, "");
        assert_eq!(ran.code, 64, "{arguments:?} {ran:?}");
        assert!(ran.stderr.contains(expected), "{arguments:?} {ran:?}");
    }
}
