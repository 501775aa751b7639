use super::*;
use crate::tls::CertificateName;
use axum::http::StatusCode;

fn access(anonymous: Role, tokens: Option<&str>) -> Access {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("tokens.toml");
    std::fs::write(&path, tokens.unwrap_or_default()).unwrap();
    let settings = AccessSettings {
        anonymous: Some(anonymous),
        tokens: tokens.map(|_| path),
        tls_cert: None,
        tls_key: None,
        tls_client_ca: None,
        allowed_hosts: Vec::new(),
    };
    Access::open(&settings, [127, 0, 0, 1].into()).unwrap().0
}

fn peer(certificate: Option<CertificateName>) -> Peer {
    Peer {
        remote: ([127, 0, 0, 1], 50_000).into(),
        scheme: Scheme::Http,
        tls: None,
        certificate: certificate.map(ClientCertificate::for_tests),
    }
}

#[expect(clippy::unnecessary_wraps, reason = "a peer has a certificate or none")]
fn named(name: &str, role: Option<Role>) -> Option<CertificateName> {
    let name = name.to_owned();
    Some(CertificateName { name, role })
}

/// The name of the admitted caller, or the status of the refusal.
fn outcome(
    access: &Access,
    request: &str,
    authorization: Option<&str>,
    certificate: Option<CertificateName>,
) -> Result<String, u16> {
    let (method, path) = request.split_once(' ').unwrap();
    let mut request = Request::builder().method(method).uri(path);
    if let Some(value) = authorization {
        request = request.header(header::AUTHORIZATION, value);
    }
    access
        .admit(&request.body(()).unwrap(), &peer(certificate))
        .map(|admitted| admitted.caller.name().to_owned())
        .map_err(|problem| problem.status().as_u16())
}

const STATUS: &str = "GET /api/v1/workspaces/acme-1/status";
const UNLOAD: &str = "POST /api/v1/workspaces/acme-1/unload";

#[test]
fn a_token_overrides_a_certificate_and_that_the_anonymous_role() {
    let token = generate_token().unwrap();
    let hash = TokenHash::of_token(token.expose().as_bytes()).unwrap();
    let line = tokens_line("ci", &hash, Role::Viewer, None);
    let file = format!("{line}\nnode = {{ role = \"operator\" }}\n");
    let access = access(Role::Reader, Some(&file));
    let good = format!("Bearer {}", token.expose());
    let lower = format!("bearer   {} ", token.expose());
    let bad = format!("Bearer wse_{}", "0".repeat(64));
    let check = |authorization: Option<&str>, certificate, expected: Result<&str, u16>| {
        let found = outcome(&access, STATUS, authorization, certificate);
        assert_eq!(found, expected.map(str::to_owned), "{authorization:?}");
    };
    check(Some(&good), None, Ok("ci"));
    check(Some(&lower), named("node", None), Ok("ci"));
    check(Some(&bad), named("node", None), Err(401));
    check(Some("Bearer"), None, Err(401));
    check(Some("Bearerx"), None, Ok("anonymous"));
    check(Some("Basic dTpw"), None, Ok("anonymous"));
    check(None, named("node", None), Ok("node"));
    check(None, None, Ok("anonymous"));
    // The role of a certificate is that of its name's entry, or the one in it, or the anonymous one.
    for (certificate, expected) in [
        (named("node", Some(Role::Viewer)), Ok("node".to_owned())),
        (named("other", Some(Role::Operator)), Ok("other".to_owned())),
        (named("other", Some(Role::Viewer)), Err(403)),
        (named("other", None), Err(403)),
        (None, Err(401)),
    ] {
        assert_eq!(outcome(&access, UNLOAD, None, certificate), expected);
    }
    assert_eq!(outcome(&access, UNLOAD, Some(&good), None), Err(403));
    assert_eq!(
        outcome(&access, "GET /livez", Some(&bad), None),
        Ok("anonymous".to_owned())
    );
}

#[test]
fn without_a_tokens_file_no_token_is_judged() {
    let access = access(Role::Admin, None);
    let found = outcome(&access, UNLOAD, Some("Bearer x"), None);
    assert_eq!(found, Ok("anonymous".to_owned()));
}

#[test]
fn a_prefix_is_a_limit_on_every_route_that_concerns_workspaces() {
    let file = "acme = { role = \"admin\", prefix = \"acme-\" }";
    let access = access(Role::None, Some(file));
    for (request, expected) in [
        (STATUS, Ok("acme".to_owned())),
        (UNLOAD, Ok("acme".to_owned())),
        (
            "GET /api/v1/workspaces/acme%2D1/status",
            Ok("acme".to_owned()),
        ),
        ("DELETE /api/v1/workspaces/acme-1", Ok("acme".to_owned())),
        (
            "POST /api/v1/workspaces/acme-1/events",
            Ok("acme".to_owned()),
        ),
        ("GET /api/v1/workspaces/acme/status", Err(403)),
        ("GET /api/v1/workspaces/other/status", Err(403)),
        (
            "GET /api/v1/workspaces/%61cme-1/status",
            Ok("acme".to_owned()),
        ),
        ("GET /api/v1/workspaces/%ffcme-1/status", Err(403)),
        ("GET /api/v1/workspaces/other%2Facme-1/status", Err(403)),
        ("DELETE /api/v1/workspaces/other", Err(403)),
        ("GET /api/v1/workspaces", Err(403)),
        ("GET /api/v1/workspaces/statuses?prefix=acme-", Err(403)),
        ("GET /metrics", Err(403)),
        ("GET /api/v1/partitions", Err(403)),
        ("POST /api/v1/actions", Err(403)),
        ("GET /api/v1/operations/1", Err(403)),
        // Its handler checks each event.
        ("POST /api/v1/events", Ok("acme".to_owned())),
        ("GET /api/v1/me", Ok("acme".to_owned())),
        ("GET /livez", Ok("anonymous".to_owned())),
        ("GET /api/v1/nothing", Err(404)),
        ("PATCH /api/v1/workspaces/acme-1", Err(405)),
    ] {
        let found = outcome(&access, request, None, named("acme", None));
        assert_eq!(found, expected, "{request}");
    }
}

#[test]
fn a_refusal_says_what_is_missing() {
    let access = access(Role::None, Some("ci = { role = \"viewer\" }"));
    let request = Request::post("/api/v1/workspaces/w/unload")
        .body(())
        .unwrap();
    let refusal = access
        .admit(&request, &peer(named("ci", None)))
        .unwrap_err();
    assert_eq!(refusal.status(), StatusCode::FORBIDDEN);
    assert_eq!(
        refusal.detail(),
        "this needs the role operator or admin; \"ci\" is viewer"
    );
    let refusal = access.admit(&request, &peer(None)).unwrap_err();
    assert_eq!(refusal.status(), StatusCode::UNAUTHORIZED);
    assert_eq!(
        refusal.detail(),
        "this needs the role operator or admin: send a token as `Authorization: Bearer …`"
    );
}
