//! Client certificates: whom they name, and when their rights end.

use crate::{
    authority::{Authority, Valid, begin, replace, ureq_with},
    support::{Engine, eventually},
};
use rcgen::DnType;
use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio_rustls::rustls::{
    ClientConfig, ClientConnection, RootCertStore, StreamOwned,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
};

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
    let request = |engine: &Engine, from: &Authority, name: &str| {
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
        let ran = request(&engine, from, name);
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
    let ran = request(&engine, &authority, "listed");
    assert_eq!(ran.code, 1, "{ran:?}");
    assert!(ran.stderr.contains("401"), "{ran:?}");
    drop(engine);

    // A client CA alone allows an engine to listen on a non-loopback address.
    let engine = begin(&flags, &["--listen", "0.0.0.0:0"]);
    let ran = request(&engine, &authority, "unit");
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
    fn request(&mut self, request: &str) -> (u16, String, bool) {
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
    fn request_until_closed(&mut self) -> u16 {
        eventually("a closed connection", || {
            let (status, body, closes) = self.request("GET /api/v1/me");
            if closes {
                return Ok(status);
            }
            assert_eq!(status, 200, "{body}");
            Err(body)
        })
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
        let (status, body, closes) = connection.request("GET /api/v1/me");
        assert_eq!((status, closes), (200, false), "{name} {body}");
        connection
    };

    let short = Duration::from_secs(10);
    authority.sign("short", &subject, &[], Valid::For(short));
    let begun = Instant::now();
    let mut connection = open("short");
    assert_eq!(connection.request_until_closed(), 401, "it has expired");
    assert!(begun.elapsed() < short * 3, "long after its end");

    // If only the engine's certificate changes, a client keeps its right and makes a new handshake.
    let mut connection = open("long");
    authority.sign_server("server", Valid::Now);
    assert_eq!(
        connection.request_until_closed(),
        200,
        "the authority is the same"
    );

    let mut connection = open("long");
    let replaced = fs::read_to_string(other.path("ca.pem")).unwrap();
    replace(&client_ca, &replaced);
    assert_eq!(connection.request_until_closed(), 401, "another authority");
}
