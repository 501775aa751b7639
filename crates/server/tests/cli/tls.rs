//! TLS: the CAs that commands trust, certificates that change while serving, and client certificates.

use crate::support::{Engine, Ran, event, run};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, date_time_ymd};
use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};
use tempfile::TempDir;
use tokio_rustls::rustls::{
    ClientConfig, ClientConnection, RootCertStore, StreamOwned,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
};

/// A CA and the certificates that it signed, as files in its own directory.
struct Authority {
    directory: TempDir,
    issuer: Issuer<'static, KeyPair>,
}

/// The validity of a certificate.
#[derive(Clone, Copy)]
enum Valid {
    Now,
    InThePast,
    /// For this long from now on.
    For(Duration),
}

impl Authority {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params
            .distinguished_name
            .push(DnType::CommonName, "a test's authority");
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        fs::write(directory.path().join("ca.pem"), certificate.pem()).unwrap();
        Self {
            directory,
            issuer: Issuer::new(params, key),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_owned()
    }

    /// Signs a certificate and writes it with its key: `NAME.pem`, `NAME.key`.
    fn sign(&self, name: &str, subject: &[(DnType, &str)], hosts: &[&str], valid: Valid) {
        let hosts: Vec<String> = hosts.iter().map(|host| (*host).to_owned()).collect();
        let mut params = CertificateParams::new(hosts).unwrap();
        for (kind, value) in subject {
            params.distinguished_name.push(kind.clone(), *value);
        }
        match valid {
            Valid::Now => {}
            Valid::InThePast => {
                params.not_before = date_time_ymd(2001, 1, 1);
                params.not_after = date_time_ymd(2001, 1, 2);
            }
            Valid::For(time) => {
                let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
                params.not_after = date_time_ymd(1970, 1, 1) + now.unwrap() + time;
            }
        }
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        // The key first: an engine that reads between the writes finds a mismatched pair, and keeps the previous one.
        replace(&self.path(&format!("{name}.key")), &key.serialize_pem());
        replace(&self.path(&format!("{name}.pem")), &certificate.pem());
    }

    /// The certificate of an engine on this machine.
    fn sign_server(&self, name: &str, valid: Valid) {
        let subject = [(DnType::CommonName, name)];
        self.sign(name, &subject, &["127.0.0.1", "localhost"], valid);
    }

    /// The flags of an engine that serves with a certificate of this CA.
    fn server_flags(&self, name: &str) -> Vec<String> {
        vec![
            "--tls-cert".to_owned(),
            self.text(&format!("{name}.pem")),
            "--tls-key".to_owned(),
            self.text(&format!("{name}.key")),
        ]
    }
}

/// Replaces a file atomically, as tools that renew certificates do.
fn replace(path: &Path, text: &str) {
    let new = path.with_extension("new");
    fs::write(&new, text).unwrap();
    fs::rename(&new, path).unwrap();
}

fn begin(flags: &[String], more: &[&str]) -> Engine {
    let flags: Vec<&str> = flags
        .iter()
        .map(String::as_str)
        .chain(more.iter().copied())
        .collect();
    Engine::begin(&flags)
}

/// Repeats a command until it ends as expected; its engine may still be opening its log.
fn run_until(engine: &Engine, arguments: &[&str], input: &str, is_expected: impl Fn(&Ran) -> bool) {
    let deadline = Instant::now() + Duration::from_mins(1);
    loop {
        let ran = engine.run(arguments, input);
        if is_expected(&ran) {
            return;
        }
        assert!(Instant::now() < deadline, "{arguments:?} {ran:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
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
    let deadline = Instant::now() + Duration::from_mins(1);
    while !failed() {
        assert!(Instant::now() < deadline);
        std::thread::sleep(Duration::from_millis(20));
    }
    trusts(&old_ca, 0);

    new.sign_server("server", Valid::Now);
    for end in ["key", "pem"] {
        let text = fs::read_to_string(new.path(&format!("server.{end}"))).unwrap();
        replace(&old.path(&format!("server.{end}")), &text);
    }
    trusts(&new_ca, 0);
    trusts(&old_ca, 3);
}

fn ureq_with(ca: &str) -> ureq::Agent {
    let pem = fs::read(ca).unwrap();
    let roots = [ureq::tls::Certificate::from_pem(&pem).unwrap()];
    let tls = ureq::tls::TlsConfig::builder()
        .root_certs(ureq::tls::RootCerts::new_with_certs(&roots))
        .build();
    let config = ureq::Agent::config_builder().proxy(None).tls_config(tls);
    config.build().into()
}

#[test]
fn a_client_certificate_says_who_asks() {
    let (authority, other) = (Authority::new(), Authority::new());
    authority.sign_server("server", Valid::Now);
    let unit = DnType::OrganizationalUnitName;
    let common = DnType::CommonName;
    for (from, name, subject, valid) in [
        (
            &authority,
            "listed",
            &[(common.clone(), "node 1")][..],
            Valid::Now,
        ),
        (
            &authority,
            "unit",
            &[
                (common.clone(), "node 2"),
                (unit.clone(), "workspace-engine:viewer"),
            ],
            Valid::Now,
        ),
        (
            &authority,
            "both",
            &[
                (common.clone(), "node 1"),
                (unit.clone(), "workspace-engine:admin"),
            ],
            Valid::Now,
        ),
        (
            &authority,
            "unknown",
            &[(common.clone(), "node 3"), (unit, "admin")],
            Valid::Now,
        ),
        (
            &authority,
            "expired",
            &[(common.clone(), "node 1")],
            Valid::InThePast,
        ),
        (&other, "foreign", &[(common, "node 1")], Valid::Now),
    ] {
        from.sign(name, subject, &[], valid);
    }
    let tokens = authority.text("tokens.toml");
    fs::write(&tokens, "\"node 1\" = { role = \"reader\" }\n").unwrap();
    let client_ca = authority.text("ca.pem");
    let mut flags = authority.server_flags("server");
    flags.extend(["--tls-client-ca".to_owned(), client_ca.clone()]);
    let with_tokens = ["--tokens", tokens.as_str(), "--anonymous", "none"];
    let engine = begin(&flags, &with_tokens);
    let ask = |engine: &Engine, from: &Authority, name: &str| {
        let (certificate, key) = (
            from.text(&format!("{name}.pem")),
            from.text(&format!("{name}.key")),
        );
        let identity = ["--client-cert", &certificate, "--client-key", &key];
        engine.run(
            &[&["get", "w", "--ca-file", &client_ca], &identity[..]].concat(),
            "",
        )
    };
    for (from, name, code, expected) in [
        // The workspace is unknown, but the caller has the right.
        (&authority, "listed", 1, "unknown"),
        (&authority, "unit", 1, "unknown"),
        (&authority, "both", 1, "unknown"),
        (&authority, "unknown", 1, "\"node 3\" is none"),
        (
            &authority,
            "expired",
            3,
            "it refuses the certificate of this client",
        ),
        (
            &other,
            "foreign",
            3,
            "it refuses the certificate of this client",
        ),
    ] {
        let ran = ask(&engine, from, name);
        assert_eq!(ran.code, code, "{name} {ran:?}");
        let shown = format!("{}{}", ran.stdout, ran.stderr);
        assert!(shown.contains(expected), "{name} {ran:?}");
    }
    // Without a certificate, a token or an open route works.
    let ran = engine.run(&["get", "w", "--ca-file", &client_ca], "");
    assert_eq!(ran.code, 1, "{ran:?}");
    assert!(ran.stderr.contains("401"), "{ran:?}");
    let probe = ureq_with(&client_ca)
        .get(format!("{}/livez", engine.url))
        .call();
    assert_eq!(probe.unwrap().status(), 200);
    drop(engine);

    // Without a client CA, a client certificate has no effect.
    let engine = begin(&authority.server_flags("server"), &with_tokens);
    let ran = ask(&engine, &authority, "listed");
    assert_eq!(ran.code, 1, "{ran:?}");
    assert!(ran.stderr.contains("401"), "{ran:?}");
    drop(engine);

    // A client CA alone allows an engine to listen on a non-loopback address.
    let engine = begin(&flags, &["--listen", "0.0.0.0:0"]);
    let ran = ask(&engine, &authority, "unit");
    assert!(format!("{ran:?}").contains("unknown"), "{ran:?}");
    let key_of_another = engine.run(
        &[
            "list",
            "--client-cert",
            &authority.text("unit.pem"),
            "--client-key",
            &authority.text("listed.key"),
        ],
        "",
    );
    assert_eq!(key_of_another.code, 64, "{key_of_another:?}");
    assert!(
        key_of_another
            .stderr
            .contains("the key is not that of the certificate"),
        "{key_of_another:?}"
    );
}

/// A connection that a test keeps open.
struct Connection(BufReader<StreamOwned<ClientConnection, TcpStream>>);

impl Connection {
    /// Opens one with a client certificate of a CA that also signed the engine's certificate.
    fn open(engine: &Engine, authority: &Authority, name: &str) -> Self {
        let read = |end: &str| fs::read(authority.path(&format!("{name}.{end}"))).unwrap();
        let certificate = CertificateDer::from_pem_slice(&read("pem")).unwrap();
        let key = PrivateKeyDer::from_pem_slice(&read("key")).unwrap();
        let mut roots = RootCertStore::empty();
        let authorities = fs::read(authority.path("ca.pem")).unwrap();
        let root = CertificateDer::from_pem_slice(&authorities).unwrap();
        roots.add(root).unwrap();
        let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_client_auth_cert(vec![certificate], key)
            .unwrap();
        let address = engine.url.trim_start_matches("https://");
        let host = ServerName::try_from("localhost").unwrap();
        let session = ClientConnection::new(Arc::new(config), host).unwrap();
        let stream = TcpStream::connect(address).unwrap();
        let patience = Some(Duration::from_mins(1));
        stream.set_read_timeout(patience).unwrap();
        Self(BufReader::new(StreamOwned::new(session, stream)))
    }

    /// The status and body of an answer, and whether the connection is closed after it.
    fn ask(&mut self, request: &str) -> (u16, String, bool) {
        let request = format!("{request} HTTP/1.1\r\nHost: localhost\r\n\r\n");
        self.0.get_mut().write_all(request.as_bytes()).unwrap();
        let (mut head, mut length, mut closes) = (String::new(), 0, false);
        loop {
            let mut line = String::new();
            self.0.read_line(&mut line).unwrap();
            let line = line.trim_end().to_ascii_lowercase();
            if line.is_empty() {
                break;
            }
            if let Some(value) = line.strip_prefix("content-length: ") {
                length = value.parse().unwrap();
            }
            closes |= line == "connection: close";
            if head.is_empty() {
                head = line;
            }
        }
        let mut body = vec![0; length];
        self.0.read_exact(&mut body).unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        (status, String::from_utf8(body).unwrap(), closes)
    }

    /// Sends `GET /api/v1/me` until the connection is closed; returns the last status.
    fn ask_until_closed(&mut self) -> u16 {
        let deadline = Instant::now() + Duration::from_mins(1);
        loop {
            let (status, body, closes) = self.ask("GET /api/v1/me");
            if closes {
                return status;
            }
            assert_eq!(status, 200, "{body}");
            assert!(Instant::now() < deadline, "it stays {body}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

#[test]
fn a_right_ends_with_the_client_certificate_or_its_authority() {
    let (authority, other) = (Authority::new(), Authority::new());
    authority.sign_server("server", Valid::Now);
    let unit = DnType::OrganizationalUnitName;
    let subject = [
        (DnType::CommonName, "node"),
        (unit, "workspace-engine:operator"),
    ];
    authority.sign("long", &subject, &[], Valid::Now);
    let client_ca = authority.path("clients.pem");
    fs::copy(authority.path("ca.pem"), &client_ca).unwrap();
    let mut flags = authority.server_flags("server");
    let client_ca_text = client_ca.to_str().unwrap().to_owned();
    flags.extend(["--tls-client-ca".to_owned(), client_ca_text]);
    let engine = begin(&flags, &["--anonymous", "none"]);
    let open = |name: &str| {
        let mut connection = Connection::open(&engine, &authority, name);
        let (status, body, closes) = connection.ask("GET /api/v1/me");
        assert_eq!((status, closes), (200, false), "{name} {body}");
        connection
    };

    let short = Duration::from_secs(10);
    authority.sign("short", &subject, &[], Valid::For(short));
    let begun = Instant::now();
    let mut connection = open("short");
    assert_eq!(connection.ask_until_closed(), 401, "it has expired");
    assert!(begun.elapsed() < short * 3, "long after its end");

    // If only the engine's certificate changes, a client keeps its right and makes a new handshake.
    let mut connection = open("long");
    authority.sign_server("server", Valid::Now);
    assert_eq!(
        connection.ask_until_closed(),
        200,
        "the authority is the same"
    );

    let mut connection = open("long");
    let replaced = fs::read_to_string(other.path("ca.pem")).unwrap();
    replace(&client_ca, &replaced);
    assert_eq!(connection.ask_until_closed(), 401, "another authority");
}

#[test]
fn clients_that_never_finish_a_handshake_hold_up_nobody() {
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
    let deadline = Instant::now() + Duration::from_mins(1);
    loop {
        let metrics = ureq_with(&ca)
            .get(format!("{}/metrics", engine.url))
            .call()
            .unwrap()
            .body_mut()
            .read_to_string()
            .unwrap();
        if metrics.contains("workspace_engine_tls_handshakes_failed_total 50") {
            break;
        }
        assert!(Instant::now() < deadline, "{metrics}");
        std::thread::sleep(Duration::from_millis(20));
    }
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
