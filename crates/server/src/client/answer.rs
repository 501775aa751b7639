//! An engine's answer, and why there is no usable one.

use serde::{Deserialize, de::DeserializeOwned};
use std::{fmt, path::PathBuf, time::Duration};

/// An answer with its whole body.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) retry_after: Option<Duration>,
    pub(crate) body: Vec<u8>,
}

/// The parts of an `application/problem+json` document that the commands use.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(crate) struct Problem {
    pub(crate) title: String,
    pub(crate) detail: String,
    pub(crate) errors: Vec<LineProblem>,
}

/// What is wrong with one line of a request.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(crate) struct LineProblem {
    pub(crate) line: u64,
    pub(crate) detail: String,
}

/// Why there is no usable answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ClientError {
    /// The URL is not one of an engine.
    #[error("cannot use the URL {url:?}: {reason}")]
    Url { url: String, reason: String },
    /// The token cannot be sent.
    #[error("the token holds a character that no token has")]
    Token,
    /// A file of certificates or keys cannot be used.
    #[error("cannot use {path}: {reason}", path = path.display())]
    File { path: PathBuf, reason: String },
    /// No trusted connection can be made; a retry does not help.
    #[error("no trusted connection to {url}: {reason}")]
    Tls { url: String, reason: String },
    /// No answer arrived; the engine may have executed the request.
    #[error("no engine answers at {url}: {reason}")]
    Unreachable { url: String, reason: String },
    /// The engine refused.
    #[error("{problem} ({status} from {url}{hint})", hint = hint(*.status))]
    Refused {
        url: String,
        status: u16,
        problem: Problem,
    },
    /// The answer does not come from an engine.
    #[error("what answers at {url} is no workspace engine: {reason}")]
    Malformed { url: String, reason: String },
}

/// What an operator can do about a refusal, where a command helps.
fn hint(status: u16) -> &'static str {
    match status {
        401 => {
            "; --token or WORKSPACE_ENGINE_TOKEN gives a token, which `workspace-engine token` makes"
        }
        _ => "",
    }
}

impl Answer {
    /// Whether the engine executed the request.
    pub(crate) fn is_success(&self) -> bool {
        (200..300).contains(&self.status)
    }

    /// The reason of a refusal; a body that is not a problem document is used as its text.
    pub(crate) fn problem(&self) -> Problem {
        serde_json::from_slice(&self.body).unwrap_or_else(|_| {
            let text = String::from_utf8_lossy(&self.body);
            Problem {
                detail: text.trim().chars().take(200).collect(),
                ..Problem::default()
            }
        })
    }

    /// The answer, unless it is a refusal.
    pub(crate) fn accepted(self, url: &str) -> Result<Self, ClientError> {
        if self.is_success() {
            return Ok(self);
        }
        Err(self.refused(url))
    }

    /// The refusal as an error.
    pub(crate) fn refused(&self, url: &str) -> ClientError {
        ClientError::Refused {
            url: url.to_owned(),
            status: self.status,
            problem: self.problem(),
        }
    }

    /// The body as a document.
    pub(crate) fn read<T: DeserializeOwned>(&self, url: &str) -> Result<T, ClientError> {
        serde_json::from_slice(&self.body).map_err(|error| ClientError::Malformed {
            url: url.to_owned(),
            reason: error.to_string(),
        })
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.detail.as_str(), self.title.as_str()) {
            ("", "") => f.write_str("the request was refused without a reason"),
            ("", title) => f.write_str(title),
            (detail, _) => f.write_str(detail),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_is_read_from_whatever_came() {
        for (body, expected) in [
            (
                r#"{"type":"about:blank","title":"Bad Request","status":400,"detail":"line 3 is no JSON"}"#,
                "line 3 is no JSON",
            ),
            (r#"{"title":"Not Found"}"#, "Not Found"),
            ("bad gateway\n", "bad gateway"),
            ("", "the request was refused without a reason"),
        ] {
            let answer = Answer {
                status: 400,
                retry_after: None,
                body: body.into(),
            };
            assert_eq!(answer.problem().to_string(), expected, "{body}");
        }
    }
}
