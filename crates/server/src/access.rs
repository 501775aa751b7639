//! Access control: the checks that every request passes before it is routed.
//!
//! There are four checks; the first that fails determines the answer:
//!
//! 1. Did a web page of another site make a browser send it? 403, see [`origin`].
//! 2. Which route is it? 404 and 405, see [`routes`]. A route that is not in that table does not exist.
//! 3. Who is the caller? A token, else the name in a client certificate, else the anonymous caller. 401 for an
//!    unknown token.
//! 4. Does the caller have the right that the route needs, for the workspace in its path? 401 where the caller can
//!    still authenticate, else 403.

mod audit;
pub(crate) mod caller;
mod document;
mod origin;
mod reload;
pub(crate) mod role;
mod routes;
mod settings;
mod token;
pub(crate) mod tokens;

pub(crate) use audit::{AUDIT_TARGET, Action, ActionDetails};
pub(crate) use caller::Caller;
pub(crate) use document::document_access;
pub(crate) use origin::{Scheme, is_loopback_address};
pub(crate) use reload::ReloadError;
pub(crate) use role::{Missing, Right, Role};
pub(crate) use routes::Route;
pub(crate) use settings::AccessSettings;
pub(crate) use token::{NoRandomness, TokenHash, generate as generate_token};
pub(crate) use tokens::{check_name, check_prefix, line as tokens_line};

use crate::{
    problems::{self, KnownTokens},
    tls::{self, ClientCertificate, ServerTls, TlsError},
};
use audit::RefusalLog;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, Request, header};
use caller::ANONYMOUS;
use origin::{Foreign, Links, OriginPolicy, OwnHosts};
use reload::{Reloaded, Seen};
use routes::{Lookup, Need, PathId, Reach, Routes};
use std::{
    net::{IpAddr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};
use tokens::{Tokens, TokensError};
use tracing::{info, warn};
use workspace_status_http::Problem;

/// The checks that every request passes.
pub(crate) struct Access {
    origins: OriginPolicy,
    routes: Routes,
    anonymous: Caller,
    tokens: Option<Reloaded<Tokens, TokensError>>,
    tls: Option<Reloaded<ServerTls, TlsError>>,
    pub(crate) counts: AccessCounts,
    refusals: RefusalLog,
}

/// Counts of refused requests.
#[derive(Debug, Default)]
pub(crate) struct AccessCounts {
    pub(crate) foreign: AtomicU64,
    pub(crate) unauthenticated: AtomicU64,
    pub(crate) forbidden: AtomicU64,
    pub(crate) failed_handshakes: AtomicU64,
}

/// The other end of a connection, as far as the connection identifies it.
#[derive(Clone)]
pub(crate) struct Peer {
    pub(crate) remote: SocketAddr,
    pub(crate) scheme: Scheme,
    /// The TLS configuration used in the handshake.
    pub(crate) tls: Option<Arc<ServerTls>>,
    /// The client's certificate, verified in the handshake.
    pub(crate) certificate: Option<ClientCertificate>,
}

/// A request that passed the checks.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Admitted<'a> {
    pub(crate) caller: Caller,
    pub(crate) route: &'static Route,
    /// The workspace in its path.
    workspace: Option<PathId<'a>>,
    /// The operation in its path.
    operation: Option<&'a str>,
}

impl Admitted<'_> {
    /// The caller, for the handlers that need it: those of requests that change something, and of `/api/v1/me`.
    pub(crate) fn for_handler(&self) -> Option<Caller> {
        let is_read = self.route.changes_something() || self.route.need == Need::AnyRole;
        is_read.then(|| self.caller.clone())
    }
}

/// Why the token or certificate files cannot be used at startup.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AccessError {
    #[error("tokens")]
    Tokens(#[source] ReloadError<TokensError>),
    #[error("TLS")]
    Tls(#[source] ReloadError<TlsError>),
}

/// The last seen content of the files, for [`Access::follow_files`].
pub(crate) struct SeenFiles {
    tokens: Option<Seen>,
    tls: Option<Seen>,
}

impl Access {
    /// Reads the files that the settings name.
    ///
    /// # Errors
    /// [`AccessError`] names the file that cannot be used.
    pub(crate) fn open(
        settings: &AccessSettings,
        address: IpAddr,
    ) -> Result<(Self, SeenFiles), AccessError> {
        let tokens = match &settings.tokens {
            None => None,
            Some(path) => {
                let read = |contents: &[Vec<u8>]| {
                    Tokens::read(contents.first().map_or(&[], Vec::as_slice))
                };
                let opened = Reloaded::open("the tokens file", vec![path.clone()], read);
                Some(opened.map_err(AccessError::Tokens)?)
            }
        };
        let tls = match settings.tls() {
            None => None,
            Some(files) => {
                let paths = [files.certificate, files.key].into_iter();
                let paths = paths.chain(files.client_ca).cloned();
                let opened =
                    Reloaded::open("the TLS certificate", paths.collect(), tls::server_config);
                Some(opened.map_err(AccessError::Tls)?)
            }
        };
        let (tokens, seen_tokens) = tokens.unzip();
        let (tls, seen_tls) = tls.unzip();
        let anonymous = settings.anonymous_on(address);
        let access = Self {
            origins: settings.origins_on(address),
            routes: Routes::new(),
            anonymous: Caller::new(ANONYMOUS, anonymous, None),
            tokens,
            tls,
            counts: AccessCounts::default(),
            refusals: RefusalLog::default(),
        };
        access.log_settings(settings, address);
        let seen = SeenFiles {
            tokens: seen_tokens,
            tls: seen_tls,
        };
        Ok((access, seen))
    }

    fn log_settings(&self, settings: &AccessSettings, address: IpAddr) {
        let anonymous = self.anonymous.role();
        let callers = self.tokens.as_ref().map(|tokens| tokens.current().count());
        info!(
            anonymous = anonymous.as_str(),
            callers,
            tls = self.tls.is_some(),
            "who may do what"
        );
        if callers.is_some() && settings.anonymous.is_none() && anonymous == Role::Admin {
            warn!(
                "on a loopback address a request without a token may do everything, also one that a proxy passes on: --anonymous none requires a token of each"
            );
        }
        if self.origins.own == OwnHosts::Addresses && self.origins.allowed.is_empty() {
            warn!(
                "callers without a token have a role here: requests may name this engine only by an address or as localhost, so that no page of another site reaches it by a name of its own; --allowed-host NAME allows a name"
            );
        }
        if callers.is_some() && self.tls.is_none() && !is_loopback_address(address) {
            warn!(
                "tokens are sent to here without encryption: give --tls-cert and --tls-key, or put a proxy with TLS in front"
            );
        }
    }

    /// Whether TLS is served.
    pub(crate) fn scheme(&self) -> Scheme {
        match self.tls {
            Some(_) => Scheme::Https,
            None => Scheme::Http,
        }
    }

    /// The current TLS configuration; `None` where TLS is not served.
    pub(crate) fn tls(&self) -> Option<Arc<ServerTls>> {
        self.tls.as_ref().map(|tls| Arc::clone(&*tls.current()))
    }

    /// Whether a client with a certificate has to make a new handshake: its certificate has expired, or the TLS files
    /// were reloaded since, so that the client CA or the engine's certificate may have changed.
    pub(crate) fn needs_handshake(&self, peer: &Peer) -> bool {
        let certificate = peer.certificate.as_ref();
        certificate.is_some_and(|certificate| certificate.has_expired() || self.has_other_tls(peer))
    }

    fn has_other_tls(&self, peer: &Peer) -> bool {
        match (&self.tls, &peer.tls) {
            (Some(tls), Some(handshake)) => !Arc::ptr_eq(&*tls.current(), handshake),
            (Some(_) | None, None) | (None, Some(_)) => false,
        }
    }

    /// The client's certificate if it would still be accepted now: the connection may be older than the current CA.
    fn certificate<'a>(&self, peer: &'a Peer) -> Option<&'a ClientCertificate> {
        let certificate = peer.certificate.as_ref()?;
        let is_accepted = || match &self.tls {
            Some(tls) if self.has_other_tls(peer) => tls.current().accepts(certificate),
            Some(_) | None => true,
        };
        (!certificate.has_expired() && is_accepted()).then_some(certificate)
    }

    /// Number of changed token files, and of changed certificate files, that could not be used.
    pub(crate) fn reload_failures(&self) -> (u64, u64) {
        (
            self.tokens.as_ref().map_or(0, Reloaded::failures),
            self.tls.as_ref().map_or(0, Reloaded::failures),
        )
    }

    /// Reloads the files when they change, until the future is dropped.
    pub(crate) async fn follow_files(self: Arc<Self>, mut seen: SeenFiles) {
        if self.tokens.is_none() && self.tls.is_none() {
            return;
        }
        loop {
            tokio::time::sleep(reload::INTERVAL).await;
            let access = Arc::clone(&self);
            // A network disk may hang.
            let looked = tokio::task::spawn_blocking(move || {
                if let (Some(tokens), Some(seen)) = (&access.tokens, &mut seen.tokens) {
                    tokens.look(seen);
                }
                if let (Some(tls), Some(seen)) = (&access.tls, &mut seen.tls) {
                    tls.look(seen);
                }
                seen
            });
            match looked.await {
                Ok(after) => seen = after,
                Err(error) => {
                    warn!(%error, "changes of tokens and certificates are not noticed any more");
                    return;
                }
            }
        }
    }

    /// Decides whether a request may be routed.
    ///
    /// # Errors
    /// The problem to answer with.
    pub(crate) fn admit<'a, B>(
        &'a self,
        request: &'a Request<B>,
        peer: &Peer,
    ) -> Result<Admitted<'a>, Problem> {
        let (method, uri, headers) = (request.method(), request.uri(), request.headers());
        let path = uri.path();
        let found = self.routes.find(method, path);
        let links = match &found {
            Lookup::Found { route, .. } if route.is_open() => Links::Followed,
            // A read of a workspace that is not in memory loads it.
            Lookup::Found { .. } | Lookup::UnknownMethod { .. } | Lookup::UnknownPath => {
                Links::Refused
            }
        };
        self.origins
            .check(method, uri, headers, peer.scheme, links)
            .map_err(|foreign| self.refuse_foreign(foreign, method, path, headers, peer))?;
        let (route, workspace, operation) = match found {
            Lookup::Found {
                route,
                workspace,
                operation,
            } => (route, workspace, operation),
            Lookup::UnknownMethod { allow } => {
                return Err(problems::no_method(method, path, allow));
            }
            Lookup::UnknownPath => return Err(problems::no_route(path)),
        };
        let admitted = |caller| Admitted {
            caller,
            route,
            workspace,
            operation,
        };
        if route.need == Need::Nothing {
            // Open even to a caller whose token is no longer valid.
            return Ok(admitted(self.anonymous.clone()));
        }
        let refusal = match self.identify(headers, peer) {
            Err(BadToken) => Refusal::BadToken,
            Ok(caller) => match what_is_missing(&caller, route, workspace) {
                None => return Ok(admitted(caller)),
                Some(missing) if caller == self.anonymous => Refusal::Unknown(caller, missing),
                Some(missing) => Refusal::Forbidden(caller, missing),
            },
        };
        Err(self.refuse(&refusal, method, path, peer))
    }

    /// The caller of a request.
    fn identify(&self, headers: &HeaderMap, peer: &Peer) -> Result<Caller, BadToken> {
        if let Some(tokens) = &self.tokens
            && let Some(value) = headers.get(header::AUTHORIZATION)
            && let Some(token) = bearer(value)
        {
            let is_single = headers.get_all(header::AUTHORIZATION).iter().count() == 1;
            return match tokens.current().of_token(token) {
                Some(caller) if is_single => Ok(caller.clone()),
                Some(_) | None => Err(BadToken),
            };
        }
        let Some(certificate) = self.certificate(peer).map(|shown| &shown.name) else {
            return Ok(self.anonymous.clone());
        };
        let name = certificate.name.as_str();
        let known = self
            .tokens
            .as_ref()
            .and_then(|tokens| tokens.current().of_name(name).cloned());
        Ok(known.unwrap_or_else(|| {
            let role = certificate.role.unwrap_or_else(|| self.anonymous.role());
            Caller::new(name, role, None)
        }))
    }

    fn known_tokens(&self) -> KnownTokens {
        match self.tokens {
            Some(_) => KnownTokens::File,
            None => KnownTokens::None,
        }
    }

    fn refuse_foreign(
        &self,
        foreign: Foreign,
        method: &Method,
        path: &str,
        headers: &HeaderMap,
        peer: &Peer,
    ) -> Problem {
        self.counts.foreign.fetch_add(1, Ordering::Relaxed);
        let shown = |name: HeaderName| headers.get(name).map(HeaderValue::as_bytes);
        let (host, origin) = (shown(header::HOST), shown(header::ORIGIN));
        self.refusals.log(|suppressed| {
            warn!(
                remote = %peer.remote,
                %method,
                path = ?shortened(path.as_bytes()),
                host = host.map(shortened),
                origin = origin.map(shortened),
                suppressed,
                "refused: a request with a foreign {foreign}"
            );
        });
        match foreign {
            Foreign::Host => problems::foreign_host(host.map(shortened)),
            Foreign::Origin => problems::foreign_origin(origin.map(shortened)),
        }
    }

    fn refuse(&self, refusal: &Refusal, method: &Method, path: &str, peer: &Peer) -> Problem {
        let (counter, name, role, problem) = match refusal {
            Refusal::BadToken => (
                &self.counts.unauthenticated,
                None,
                None,
                problems::bad_token(),
            ),
            Refusal::Unknown(caller, missing) => (
                &self.counts.unauthenticated,
                Some(caller.name()),
                Some(caller.role()),
                problems::unauthenticated(missing, self.known_tokens()),
            ),
            Refusal::Forbidden(caller, missing) => (
                &self.counts.forbidden,
                Some(caller.name()),
                Some(caller.role()),
                problems::forbidden(caller, missing),
            ),
        };
        counter.fetch_add(1, Ordering::Relaxed);
        self.refusals.log(|suppressed| {
            warn!(
                remote = %peer.remote,
                name,
                role = role.map(Role::as_str),
                %method,
                path = ?shortened(path.as_bytes()),
                status = problem.status().as_u16(),
                suppressed,
                "refused: {}",
                problem.detail()
            );
        });
        problem
    }
}

/// An unknown token, or a header that cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct BadToken;

/// Why a request to a known route is refused.
enum Refusal {
    BadToken,
    /// The caller did not authenticate, and the anonymous role lacks the right.
    Unknown(Caller, Missing),
    Forbidden(Caller, Missing),
}

/// What a caller lacks for a request; `None` where it may make it.
fn what_is_missing(
    caller: &Caller,
    route: &Route,
    workspace: Option<PathId<'_>>,
) -> Option<Missing> {
    match route.need {
        Need::Nothing => return None,
        Need::AnyRole if caller.role() == Role::None => return Some(Missing::Role),
        Need::Right(right) if !caller.has(right) => return Some(Missing::Right(right)),
        Need::AnyRole | Need::Right(_) => {}
    }
    caller.prefix()?;
    match route.reach {
        Reach::Nothing | Reach::BodyWorkspaces => None,
        Reach::AllWorkspaces => Some(Missing::AllWorkspaces),
        Reach::PathWorkspace => {
            let id = workspace.and_then(PathId::decoded);
            let is_reached = id.is_some_and(|id| caller.may_reach(&id));
            (!is_reached).then_some(Missing::Workspace)
        }
    }
}

/// The token in a header; `None` where the header has another scheme, such as that of a proxy in front.
fn bearer(value: &HeaderValue) -> Option<&[u8]> {
    const SCHEME: &[u8] = b"bearer";
    let (scheme, rest) = value.as_bytes().split_at_checked(SCHEME.len())?;
    let is_bearer =
        scheme.eq_ignore_ascii_case(SCHEME) && rest.first().is_none_or(u8::is_ascii_whitespace);
    is_bearer.then(|| rest.trim_ascii())
}

/// Client input as a bounded text, for logs and answers.
fn shortened(bytes: &[u8]) -> String {
    const MAX_CHARS: usize = 200;
    String::from_utf8_lossy(bytes)
        .chars()
        .take(MAX_CHARS)
        .collect()
}

#[cfg(test)]
mod tests;
