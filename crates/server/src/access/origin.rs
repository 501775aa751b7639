//! Requests that a web page of another site makes its visitor's browser send.
//!
//! A page of any site can post to an engine on its visitor's machine or network, without reading the answer.
//! If its name is pointed to the engine's address after the page was loaded (DNS rebinding), it can also read the
//! answers. So:
//!
//! * The `Host` must be one of the engine's own ([`OwnHosts`]) or an allowed one: a rebound page sends its own name.
//! * An `Origin` must be that of the request itself or an allowed one. Browsers send it with everything but plain GETs.
//! * `Sec-Fetch-Site` must not name another site, except for a link that is followed to an open page.
//!
//! Clients that are not browsers send only `Host`.

use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, Uri, header};
use std::{fmt, net::IpAddr, str::FromStr};

const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");
const SEC_FETCH_MODE: HeaderName = HeaderName::from_static("sec-fetch-mode");
const SEC_FETCH_DEST: HeaderName = HeaderName::from_static("sec-fetch-dest");

/// Which hosts and origins requests may name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct OriginPolicy {
    pub(crate) own: OwnHosts,
    /// Names of the engine in addition to its own, such as that of a proxy in front of it.
    pub(crate) allowed: Vec<HostName>,
}

/// The hosts that are accepted without being in the allowed list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OwnHosts {
    /// Loopback addresses and `localhost`: the engine listens on loopback.
    Loopback,
    /// All addresses and `localhost`. An address cannot be rebound; any other name can be pointed at the engine.
    Addresses,
    /// All: a rebound page has no token, and without one no caller has a right.
    All,
}

/// How links from pages of other sites are handled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Links {
    /// Followed: the linked page needs no right and loads nothing.
    Followed,
    Refused,
}

/// A host with or without a port. Without one, it matches as `Host` any port, and as an origin the port of its
/// scheme or that of the request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct HostName {
    host: String,
    port: Option<u16>,
}

/// Why a request is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Foreign {
    Host,
    Origin,
}

/// Whether a connection is encrypted by this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scheme {
    Http,
    Https,
}

/// The text is not a host, with or without a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a host such as engine.example or engine.example:8443")]
pub(crate) struct InvalidHost;

impl OriginPolicy {
    /// Checks method, URI and headers of a request.
    pub(crate) fn check(
        &self,
        method: &Method,
        uri: &Uri,
        headers: &HeaderMap,
        scheme: Scheme,
        links: Links,
    ) -> Result<(), Foreign> {
        let host = self.host(uri, headers)?;
        let site = headers.get(SEC_FETCH_SITE);
        match headers.get(header::ORIGIN) {
            None => match site {
                Some(site) if is_own_site(site) => Ok(()),
                Some(_) if links == Links::Followed && is_link(method, headers) => Ok(()),
                Some(_) => Err(Foreign::Origin),
                None => Ok(()),
            },
            Some(origin) => {
                let origin = single(headers, &header::ORIGIN, origin)
                    .and_then(Origin::read)
                    .ok_or(Foreign::Origin)?;
                let is_own =
                    host.is_some_and(|host| origin.is_of(host)) || self.allows_origin(origin, host);
                if is_own && origin.may_reach(scheme) && site.is_none_or(is_own_site) {
                    Ok(())
                } else {
                    Err(Foreign::Origin)
                }
            }
        }
    }

    /// The host that a request names; `None` where it names none, as only HTTP/1.0 clients do.
    fn host<'a>(
        &self,
        uri: &'a Uri,
        headers: &'a HeaderMap,
    ) -> Result<Option<Authority<'a>>, Foreign> {
        let named = headers.get(header::HOST);
        let of_header = match named {
            None => None,
            Some(value) => Some(
                single(headers, &header::HOST, value)
                    .and_then(Authority::read)
                    .ok_or(Foreign::Host)?,
            ),
        };
        // A request to a proxy names the host in its first line; both must be allowed.
        let of_uri = match uri.authority() {
            None => None,
            Some(authority) => Some(Authority::read(authority.as_str()).ok_or(Foreign::Host)?),
        };
        for host in [of_header, of_uri].into_iter().flatten() {
            if !self.is_own_host(host) {
                return Err(Foreign::Host);
            }
        }
        Ok(of_header.or(of_uri))
    }

    fn is_own_host(&self, host: Authority<'_>) -> bool {
        let is_own = match self.own {
            OwnHosts::Loopback => is_loopback(host.host),
            OwnHosts::Addresses => is_loopback(host.host) || address(host.host).is_some(),
            OwnHosts::All => true,
        };
        let mut allowed = self.allowed.iter();
        is_own || allowed.any(|allowed| allowed.is_host(host))
    }

    /// Whether an origin is that of an allowed host; `host` is the one that the request names.
    fn allows_origin(&self, origin: Origin<'_>, host: Option<Authority<'_>>) -> bool {
        let of_request = host.and_then(|host| host.port);
        let is_its_port = |port: Option<u16>| match port {
            Some(port) => origin.port == port,
            None => origin.port == origin.scheme.port() || Some(origin.port) == of_request,
        };
        self.allowed.iter().any(|allowed| {
            allowed.host.eq_ignore_ascii_case(origin.host) && is_its_port(allowed.port)
        })
    }
}

/// A host with its port, in the form of the `Host` header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Authority<'a> {
    host: &'a str,
    port: Option<u16>,
}

impl<'a> Authority<'a> {
    fn read(text: &'a str) -> Option<Self> {
        let (host, port) = if let Some(rest) = text.strip_prefix('[') {
            let (address, rest) = rest.split_once(']')?;
            let host = text.get(..address.len() + 2)?;
            match rest {
                "" => (host, None),
                rest => (host, Some(rest.strip_prefix(':')?)),
            }
        } else {
            match text.split_once(':') {
                None => (text, None),
                Some((host, port)) => (host, Some(port)),
            }
        };
        let is_plain = |byte: u8| byte.is_ascii_graphic() && !b"@/\\?#:[]".contains(&byte);
        let is_bracketed = host.starts_with('[');
        if host.is_empty() || !(is_bracketed || host.bytes().all(is_plain)) {
            return None;
        }
        let port = match port {
            None => None,
            Some(port) => Some(port.parse().ok()?),
        };
        Some(Self { host, port })
    }
}

fn address(host: &str) -> Option<IpAddr> {
    match host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'))
    {
        Some(v6) => v6.parse().ok().map(IpAddr::V6),
        None => host.parse().ok().map(IpAddr::V4),
    }
}

/// Whether a host is this machine, without name resolution.
fn is_loopback(host: &str) -> bool {
    host.eq_ignore_ascii_case("localhost") || address(host).is_some_and(is_loopback_address)
}

/// Whether only programs on this machine can reach an address.
pub(crate) fn is_loopback_address(address: IpAddr) -> bool {
    address.to_canonical().is_loopback()
}

/// A web origin: scheme, host and port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Origin<'a> {
    scheme: Scheme,
    host: &'a str,
    port: u16,
}

impl<'a> Origin<'a> {
    /// `None` for `null`, the origin of pages without one, such as local files.
    fn read(text: &'a str) -> Option<Self> {
        let (name, authority) = text.split_once("://")?;
        let scheme = if name.eq_ignore_ascii_case("http") {
            Scheme::Http
        } else if name.eq_ignore_ascii_case("https") {
            Scheme::Https
        } else {
            return None;
        };
        let authority = Authority::read(authority)?;
        Some(Self {
            scheme,
            host: authority.host,
            port: authority.port.unwrap_or(scheme.port()),
        })
    }

    /// Whether a request to `host` has this origin.
    fn is_of(self, host: Authority<'_>) -> bool {
        self.host.eq_ignore_ascii_case(host.host)
            && self.port == host.port.unwrap_or(self.scheme.port())
    }

    /// Whether a page of this origin may send a request over this scheme. A plain HTTP request may have passed a
    /// proxy that terminates TLS.
    fn may_reach(self, scheme: Scheme) -> bool {
        scheme == Scheme::Http || self.scheme == Scheme::Https
    }
}

impl Scheme {
    const fn port(self) -> u16 {
        match self {
            Self::Http => 80,
            Self::Https => 443,
        }
    }
}

/// The text of a header; `None` where the header is repeated.
fn single<'a>(headers: &HeaderMap, name: &HeaderName, value: &'a HeaderValue) -> Option<&'a str> {
    if headers.get_all(name).iter().nth(1).is_some() {
        return None;
    }
    value.to_str().ok()
}

/// Whether `Sec-Fetch-Site` names this site, or the user as the initiator.
fn is_own_site(site: &HeaderValue) -> bool {
    let site = site.as_bytes();
    site.eq_ignore_ascii_case(b"same-origin") || site.eq_ignore_ascii_case(b"none")
}

/// Whether a link from another site is followed: the answer replaces that site's page.
fn is_link(method: &Method, headers: &HeaderMap) -> bool {
    let is = |name: HeaderName, expected: &[u8]| {
        let value = headers.get(name);
        value.is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(expected))
    };
    *method == Method::GET && is(SEC_FETCH_MODE, b"navigate") && is(SEC_FETCH_DEST, b"document")
}

impl HostName {
    fn is_host(&self, host: Authority<'_>) -> bool {
        self.host.eq_ignore_ascii_case(host.host) && (self.port.is_none() || self.port == host.port)
    }
}

impl FromStr for HostName {
    type Err = InvalidHost;

    fn from_str(text: &str) -> Result<Self, InvalidHost> {
        let authority = Authority::read(text).ok_or(InvalidHost)?;
        Ok(Self {
            host: authority.host.to_ascii_lowercase(),
            port: authority.port,
        })
    }
}

impl fmt::Display for Foreign {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Host => "host",
            Self::Origin => "origin",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(own: OwnHosts, allowed: &[&str]) -> OriginPolicy {
        OriginPolicy {
            own,
            allowed: allowed.iter().map(|host| host.parse().unwrap()).collect(),
        }
    }

    /// Checks a request given as its method and its headers.
    fn check_with(
        policy: &OriginPolicy,
        scheme: Scheme,
        request: &str,
        expected: Result<(), Foreign>,
    ) {
        let mut headers = HeaderMap::new();
        let (method, lines) = request.split_once(' ').unwrap();
        for line in lines.split(" | ") {
            let (name, value) = line.split_once(": ").unwrap();
            headers.append(
                HeaderName::from_bytes(name.as_bytes()).unwrap(),
                HeaderValue::from_bytes(value.as_bytes()).unwrap(),
            );
        }
        let uri = Uri::from_static("/livez");
        let method = method.parse().unwrap();
        let found = policy.check(&method, &uri, &headers, scheme, Links::Followed);
        assert_eq!(found, expected, "{request} {policy:?}");
    }

    fn check(request: &str, expected: Result<(), Foreign>) {
        let loopback = policy(OwnHosts::Loopback, &[]);
        check_with(&loopback, Scheme::Http, request, expected);
    }

    #[test]
    fn on_loopback_a_host_is_a_loopback_address_or_localhost() {
        for host in [
            "localhost",
            "LocalHost:8081",
            "127.0.0.1",
            "127.9.9.9:80",
            "[::1]",
            "[::1]:8081",
            "[::ffff:127.0.0.1]:8081",
        ] {
            check(&format!("POST Host: {host}"), Ok(()));
        }
        for host in [
            "evil.example",
            "evil.example:8081",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "127.0.0.1@evil.example",
            "192.168.0.7:8081",
            "[::2]:8081",
            "::1",
            "0.0.0.0:8081",
            "localhost:x",
            "localhost:99999",
            "",
            "[::1",
            "[::1]evil",
        ] {
            check(&format!("GET Host: {host}"), Err(Foreign::Host));
        }
        check("GET Host: localhost | Host: localhost", Err(Foreign::Host));
        check("GET Accept: */*", Ok(()));
    }

    #[test]
    fn an_origin_is_that_of_the_request() {
        for (host, origin) in [
            ("localhost:8081", "http://localhost:8081"),
            ("LOCALHOST:8081", "HTTP://localhost:8081"),
            ("[::1]:8081", "http://[::1]:8081"),
            ("localhost", "http://localhost"),
            ("localhost:80", "http://localhost"),
            ("localhost", "http://localhost:80"),
            ("localhost", "https://localhost"),
        ] {
            let request = format!("POST Host: {host} | Origin: {origin}");
            check(&request, Ok(()));
        }
        for origin in [
            "http://evil.example",
            "http://localhost",
            "http://localhost:3000",
            "http://127.0.0.1:8081",
            "http://localhost:8081.evil.example",
            "http://localhost:8081/",
            "http://evil@localhost:8081",
            "chrome-extension://localhost:8081",
            "localhost:8081",
            "null",
            "",
            "\u{e4}",
        ] {
            let request = format!("POST Host: localhost:8081 | Origin: {origin}");
            check(&request, Err(Foreign::Origin));
        }
        let twice = "POST Host: localhost:8081 | Origin: http://localhost:8081 | Origin: http://evil.example";
        check(twice, Err(Foreign::Origin));
        check("POST Origin: http://localhost", Err(Foreign::Origin));
    }

    #[test]
    fn a_page_without_encryption_is_foreign_to_a_connection_that_has_it() {
        let plain = "POST Host: localhost:8443 | Origin: http://localhost:8443";
        let secure = "POST Host: localhost:8443 | Origin: https://localhost:8443";
        for allowed in [&[][..], &["localhost"], &["localhost:8443"]] {
            let policy = policy(OwnHosts::Loopback, allowed);
            check_with(&policy, Scheme::Https, plain, Err(Foreign::Origin));
            check_with(&policy, Scheme::Https, secure, Ok(()));
        }
    }

    #[test]
    fn what_a_browser_says_of_the_asking_site_counts() {
        let link = "Sec-Fetch-Mode: navigate | Sec-Fetch-Dest: document";
        for (request, expected) in [
            ("GET Sec-Fetch-Site: same-origin", Ok(())),
            ("GET Sec-Fetch-Site: none", Ok(())),
            ("GET Sec-Fetch-Site: cross-site", Err(Foreign::Origin)),
            ("GET Sec-Fetch-Site: Same-Site", Err(Foreign::Origin)),
            (
                "POST Host: localhost | Origin: http://localhost | Sec-Fetch-Site: cross-site",
                Err(Foreign::Origin),
            ),
            (&format!("GET Sec-Fetch-Site: cross-site | {link}"), Ok(())),
            (
                &format!("POST Sec-Fetch-Site: cross-site | {link}"),
                Err(Foreign::Origin),
            ),
            (
                "GET Sec-Fetch-Site: cross-site | Sec-Fetch-Mode: navigate | Sec-Fetch-Dest: iframe",
                Err(Foreign::Origin),
            ),
        ] {
            check(request, expected);
        }
        // Links are followed only to a page that needs no right.
        let headers = link.split(" | ").chain(["Sec-Fetch-Site: cross-site"]);
        let headers: HeaderMap = headers
            .map(|line| line.split_once(": ").unwrap())
            .map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()))
            .collect::<Vec<(HeaderName, HeaderValue)>>()
            .into_iter()
            .collect();
        let uri = Uri::from_static("/api/v1/workspaces/w/entities");
        for (links, expected) in [
            (Links::Followed, Ok(())),
            (Links::Refused, Err(Foreign::Origin)),
        ] {
            let policy = policy(OwnHosts::Loopback, &[]);
            let found = policy.check(&Method::GET, &uri, &headers, Scheme::Http, links);
            assert_eq!(found, expected, "{links:?}");
        }
    }

    #[test]
    fn a_name_that_is_allowed_may_be_host_and_origin() {
        let behind_proxy = policy(
            OwnHosts::Loopback,
            &["Engine.example", "other.example:8443"],
        );
        for (request, expected) in [
            ("POST Host: engine.example", Ok(())),
            (
                "POST Host: engine.example:444 | Origin: https://engine.example:444",
                Ok(()),
            ),
            // A proxy that sends the engine's address as `Host`.
            (
                "POST Host: 127.0.0.1:8081 | Origin: https://engine.example | Sec-Fetch-Site: same-origin",
                Ok(()),
            ),
            (
                "POST Host: 127.0.0.1:8081 | Origin: https://engine.example | Sec-Fetch-Site: cross-site",
                Err(Foreign::Origin),
            ),
            // Without a port: the port of the scheme, or of the request.
            (
                "POST Host: 127.0.0.1:8081 | Origin: http://engine.example:8081",
                Ok(()),
            ),
            (
                "POST Host: 127.0.0.1:8081 | Origin: https://engine.example:3000",
                Err(Foreign::Origin),
            ),
            (
                "POST Host: engine.example | Origin: https://engine.example:3000",
                Err(Foreign::Origin),
            ),
            (
                "POST Host: localhost | Origin: https://other.example:8443",
                Ok(()),
            ),
            ("POST Host: other.example:8443", Ok(())),
            ("POST Host: other.example", Err(Foreign::Host)),
            (
                "POST Host: localhost | Origin: https://other.example",
                Err(Foreign::Origin),
            ),
        ] {
            check_with(&behind_proxy, Scheme::Http, request, expected);
        }
    }

    #[test]
    fn elsewhere_any_host_is_taken_unless_names_are_limited() {
        let open = policy(OwnHosts::All, &[]);
        check_with(&open, Scheme::Http, "GET Host: any.example", Ok(()));
        let foreign = "POST Host: any.example | Origin: http://evil.example";
        check_with(&open, Scheme::Http, foreign, Err(Foreign::Origin));
        let named = policy(OwnHosts::Addresses, &["engine.example"]);
        for (host, expected) in [
            ("engine.example", Ok(())),
            // Probes use the address.
            ("10.1.2.3:8081", Ok(())),
            ("[fd00::7]:8081", Ok(())),
            ("localhost:8081", Ok(())),
            ("any.example", Err(Foreign::Host)),
        ] {
            check_with(&named, Scheme::Http, &format!("GET Host: {host}"), expected);
        }
    }

    #[test]
    fn the_host_of_the_first_line_counts_as_well() {
        let uri = Uri::from_static("http://evil.example/livez");
        let (policy, none) = (policy(OwnHosts::Loopback, &[]), HeaderMap::new());
        let found = policy.check(&Method::GET, &uri, &none, Scheme::Http, Links::Followed);
        assert_eq!(found, Err(Foreign::Host));
    }
}
