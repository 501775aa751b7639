//! The HTTP client of the operator's commands.

mod answer;
mod document;
mod tls;

pub(crate) use answer::{Answer, ClientError};
pub(crate) use document::{
    ActionCount, HistoryPage, HistoryTransition, Operation, OperationBegun, Phase, Status,
    StatusPage,
};

use crate::{exit::Exit, secret::Secret};
use serde::de::DeserializeOwned;
use std::{
    fmt,
    path::Path,
    time::{Duration, Instant},
};
use ureq::{
    Agent, RequestBuilder,
    http::{HeaderValue, Uri, header},
};

/// Timeout for opening a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Timeout for a request that the engine answers at once.
pub(crate) const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
/// Maximum size of an answer.
const ANSWER_LIMIT_BYTES: u64 = 256 << 20;

/// An engine at a URL.
#[derive(Clone)]
pub(crate) struct Client {
    agent: Agent,
    base: String,
    /// The header that identifies the caller.
    authorization: Option<HeaderValue>,
}

/// An engine's URL, the CA to trust for it, and the caller's credentials.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Endpoint<'a> {
    pub(crate) url: &'a str,
    pub(crate) token: Option<&'a Secret>,
    /// The CA of its certificate; the public CAs where `None`.
    pub(crate) ca_file: Option<&'a Path>,
    /// Files of a client certificate and its key.
    pub(crate) identity: Option<(&'a Path, &'a Path)>,
}

impl<'a> Endpoint<'a> {
    /// An engine at a URL that requires no credentials.
    pub(crate) fn of_url(url: &'a str) -> Self {
        Self {
            url,
            ..Self::default()
        }
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client")
            .field("base", &self.base)
            .finish_non_exhaustive()
    }
}

/// A body to post, with its headers.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RequestBody<'a> {
    pub(crate) content_type: &'static str,
    pub(crate) body: &'a [u8],
    /// The producer's name and the sequence number of the request, so that the engine recognises repeats.
    pub(crate) producer: Option<(&'a str, u64)>,
}

impl Client {
    /// A client of an engine; nothing is sent yet.
    ///
    /// # Errors
    /// [`ClientError::Url`] where the URL is not an HTTP URL with a host, [`ClientError::Token`] and
    /// [`ClientError::File`] where the credentials or the CA cannot be used.
    pub(crate) fn new(endpoint: &Endpoint<'_>) -> Result<Self, ClientError> {
        let url = endpoint.url;
        let with_scheme = if url.contains("://") {
            url.to_owned()
        } else {
            format!("http://{url}")
        };
        let invalid = |reason: &str| ClientError::Url {
            url: url.to_owned(),
            reason: reason.to_owned(),
        };
        if url.is_empty() {
            return Err(invalid("it is empty"));
        }
        let base = with_scheme.trim_end_matches('/').to_owned();
        let uri: Uri = base.parse().map_err(|_| invalid("it cannot be read"))?;
        let host = uri
            .host()
            .filter(|host| !host.is_empty())
            .ok_or_else(|| invalid("it has no host"))?;
        if !matches!(uri.scheme_str(), Some("http" | "https")) {
            return Err(invalid("its scheme is neither http nor https"));
        }
        let mut config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .tls_config(tls::config(endpoint)?)
            .timeout_connect(Some(CONNECT_TIMEOUT))
            .user_agent(concat!("workspace-engine/", env!("CARGO_PKG_VERSION")));
        if is_loopback(host) {
            // A network proxy cannot reach an engine on this machine.
            config = config.proxy(None);
        }
        Ok(Self {
            agent: config.build().into(),
            base,
            authorization: endpoint.token.map(authorization).transpose()?,
        })
    }

    /// The base URL.
    pub(crate) fn url(&self) -> &str {
        &self.base
    }

    /// Sends a GET for `path`, which begins with a slash.
    ///
    /// # Errors
    /// [`ClientError::Unreachable`] where no answer arrived; any answer is a success, including a refusal.
    pub(crate) fn get(&self, path: &str, timeout: Duration) -> Result<Answer, ClientError> {
        let response = self
            .with_headers(self.agent.get(format!("{}{path}", self.base)))
            .config()
            .timeout_global(Some(timeout))
            .build()
            .call();
        self.answer(response)
    }

    /// Posts to `path`.
    ///
    /// # Errors
    /// As [`Client::get`]. Without an answer it is unknown whether the engine executed the request.
    pub(crate) fn post(
        &self,
        path: &str,
        post: RequestBody<'_>,
        timeout: Duration,
    ) -> Result<Answer, ClientError> {
        let mut request = self
            .with_headers(self.agent.post(format!("{}{path}", self.base)))
            .header(header::CONTENT_TYPE, post.content_type);
        if let Some((producer_id, sequence)) = post.producer {
            request = request
                .header("Producer-Id", producer_id)
                .header("Producer-Sequence", sequence);
        }
        let response = request
            .config()
            .timeout_global(Some(timeout))
            .build()
            .send(post.body);
        self.answer(response)
    }

    /// Posts a JSON document to `path`.
    ///
    /// # Errors
    /// As [`Client::post`].
    pub(crate) fn post_json(
        &self,
        path: &str,
        document: &serde_json::Value,
        timeout: Duration,
    ) -> Result<Answer, ClientError> {
        let body = document.to_string();
        let post = RequestBody {
            content_type: "application/json",
            body: body.as_bytes(),
            producer: None,
        };
        self.post(path, post, timeout)
    }

    /// Sends a DELETE for `path`.
    ///
    /// # Errors
    /// As [`Client::post`].
    pub(crate) fn delete(&self, path: &str, timeout: Duration) -> Result<Answer, ClientError> {
        let response = self
            .with_headers(self.agent.delete(format!("{}{path}", self.base)))
            .config()
            .timeout_global(Some(timeout))
            .build()
            .call();
        self.answer(response)
    }

    /// Gets a document of a type; a refusal is an error with the engine's reason.
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub(crate) fn document<T: DeserializeOwned>(
        &self,
        path: &str,
    ) -> Result<(T, Answer), ClientError> {
        let answer = self.get(path, ANSWER_TIMEOUT)?.accepted(&self.base)?;
        let document = answer.read(&self.base)?;
        Ok((document, answer))
    }

    /// Adds the headers that all requests have.
    fn with_headers<B>(&self, request: RequestBuilder<B>) -> RequestBuilder<B> {
        let request = request.header(header::ACCEPT, "application/json");
        match &self.authorization {
            Some(authorization) => request.header(header::AUTHORIZATION, authorization),
            None => request,
        }
    }

    fn answer(
        &self,
        response: Result<ureq::http::Response<ureq::Body>, ureq::Error>,
    ) -> Result<Answer, ClientError> {
        let unreachable = |error: ureq::Error| match tls::reason(&error) {
            Some(reason) => ClientError::Tls {
                url: self.base.clone(),
                reason,
            },
            None => ClientError::Unreachable {
                url: self.base.clone(),
                reason: reason(&error),
            },
        };
        let mut response = response.map_err(unreachable)?;
        let retry_after = response
            .headers()
            .get(header::RETRY_AFTER)
            .and_then(|value| value.to_str().ok()?.parse().ok())
            .map(Duration::from_secs);
        let status = response.status().as_u16();
        let body = response
            .body_mut()
            .with_config()
            .limit(ANSWER_LIMIT_BYTES)
            .read_to_vec()
            .map_err(unreachable)?;
        Ok(Answer {
            status,
            retry_after,
            body,
        })
    }
}

/// The header for a token, without surrounding white space such as a file's last newline.
fn authorization(token: &Secret) -> Result<HeaderValue, ClientError> {
    let text = format!("Bearer {}", token.expose().trim());
    let mut value = HeaderValue::from_str(&text).map_err(|_| ClientError::Token)?;
    value.set_sensitive(true);
    Ok(value)
}

/// Why no answer arrived, without the library's type names.
fn reason(error: &ureq::Error) -> String {
    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "the library's other errors speak for themselves"
    )]
    match error {
        ureq::Error::Io(error) => match error.kind() {
            std::io::ErrorKind::ConnectionRefused => "connection refused".to_owned(),
            std::io::ErrorKind::ConnectionReset | std::io::ErrorKind::UnexpectedEof => {
                "the connection broke before the answer".to_owned()
            }
            _ => error.to_string(),
        },
        ureq::Error::Timeout(_) => "no answer in time".to_owned(),
        ureq::Error::HostNotFound => "unknown host".to_owned(),
        ureq::Error::Protocol(error) => {
            format!("the answer is not HTTP ({error}): does it take https?")
        }
        other => other.to_string(),
    }
}

fn is_loopback(host: &str) -> bool {
    let host = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost"
        || host
            .parse::<std::net::IpAddr>()
            .is_ok_and(|address| address.is_loopback())
}

/// Time left until a deadline, at least 1 ms so that a last request can be sent.
pub(crate) fn left(deadline: Instant) -> Duration {
    deadline
        .saturating_duration_since(Instant::now())
        .max(Duration::from_millis(1))
}

impl ClientError {
    /// The exit code of this failure.
    pub(crate) fn exit(&self) -> Exit {
        match self {
            Self::Url { .. } | Self::Token | Self::File { .. } => Exit::Usage,
            Self::Refused { status, .. } if (400..500).contains(status) => Exit::Failed,
            Self::Tls { .. }
            | Self::Unreachable { .. }
            | Self::Refused { .. }
            | Self::Malformed { .. } => Exit::Unanswered,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_needs_a_host_and_a_scheme_that_is_spoken() {
        for (url, expected) in [
            ("http://127.0.0.1:8081/", Ok("http://127.0.0.1:8081")),
            ("localhost:8081", Ok("http://localhost:8081")),
            (
                "https://engine.example/base",
                Ok("https://engine.example/base"),
            ),
            (
                "ftp://host",
                Err("cannot use the URL \"ftp://host\": its scheme is neither http nor https"),
            ),
            ("", Err("cannot use the URL \"\": it is empty")),
        ] {
            match (Client::new(&Endpoint::of_url(url)), expected) {
                (Ok(client), Ok(base)) => assert_eq!(client.url(), base),
                (Err(error), Err(text)) => assert_eq!(error.to_string(), text),
                (found, expected) => panic!("{url}: {found:?}, expected {expected:?}"),
            }
        }
    }

    #[test]
    fn a_url_without_a_server_is_a_plain_error() {
        // A port that was free a moment ago and has not been reused since.
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        drop(listener);
        let client = Client::new(&Endpoint::of_url(&address.to_string())).unwrap();
        let error = client.get("/livez", ANSWER_TIMEOUT).unwrap_err();
        assert_eq!(
            error.to_string(),
            format!("no engine answers at http://{address}: connection refused")
        );
        assert_eq!(error.exit(), Exit::Unanswered);
    }
}
