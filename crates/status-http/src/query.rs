//! Strict reading of a query string: an unknown parameter, a repeated one or a bad value is an
//! error, never guessed at.

use std::borrow::Cow;
use std::fmt::Display;
use std::str::FromStr;
use std::time::Duration;

use serde_json::{Map, Value as Json};
use workspace_status::{ErrorCategory, PageQuery, State, StateSet};

use crate::cursor::decode_cursor;
use crate::duration::parse_duration;
use crate::problem::{Problem, types};

/// The parameters that select workspaces, in lists and in bulk actions.
pub const FILTER_PARAMETERS: [&str; 7] = [
    "state",
    "healthy",
    "prefix",
    "q",
    "partition",
    "owner",
    "errorKind",
];

/// The parameters of one request, in their order.
///
/// ```
/// use workspace_status_http::Parameters;
///
/// let parameters = Parameters::read(Some("limit=10"), &["limit", "cursor"])?;
/// assert_eq!(parameters.limit(100, 1_000)?, 10);
/// let slip = Parameters::read(Some("limits=10"), &["limit", "cursor"]).unwrap_err();
/// assert_eq!(slip.detail(), "the route has no parameter \"limits\"");
/// # Ok::<(), workspace_status_http::Problem>(())
/// ```
#[derive(Debug)]
pub struct Parameters<'a> {
    pairs: Vec<(Cow<'a, str>, Cow<'a, str>)>,
}

impl<'a> Parameters<'a> {
    /// Reads a query string that may hold only the parameters `known`.
    ///
    /// # Errors
    /// The problem to answer with, 400 with the parameter and what it may be.
    pub fn read(query: Option<&'a str>, known: &[&str]) -> Result<Self, Problem> {
        let pairs: Vec<_> = form_urlencoded::parse(query.unwrap_or_default().as_bytes()).collect();
        Self { pairs }.of_known(known)
    }

    /// The value of a parameter that may occur at most once.
    ///
    /// # Errors
    /// The problem to answer with, 400 with the parameter and what it may be.
    pub fn one(&self, name: &'static str) -> Result<Option<&str>, Problem> {
        let mut values = self.all(name);
        match (values.next(), values.next()) {
            (value, None) => Ok(value),
            (_, Some(_)) => Err(invalid_parameter(
                name,
                "the parameter may be given only once",
            )),
        }
    }

    /// The same from the members of a JSON object: a list represents a repeated parameter.
    ///
    /// # Errors
    /// The problem to answer with, 400 with the member and what it may be.
    pub fn of_object(object: &'a Map<String, Json>, known: &[&str]) -> Result<Self, Problem> {
        let mut pairs = Vec::new();
        for (name, value) in object {
            let values = match value {
                Json::Array(values) => values.as_slice(),
                Json::Null => continue,
                Json::Bool(_) | Json::Number(_) | Json::String(_) | Json::Object(_) => {
                    std::slice::from_ref(value)
                }
            };
            for value in values {
                let text = match value {
                    Json::String(text) => Cow::Borrowed(text.as_str()),
                    Json::Bool(_) | Json::Number(_) => Cow::Owned(value.to_string()),
                    Json::Null | Json::Array(_) | Json::Object(_) => {
                        return Err(Problem::new(
                            &types::INVALID_PARAMETER,
                            "the value is neither a text, a number nor a truth value",
                        )
                        .with("parameter", name));
                    }
                };
                pairs.push((Cow::Borrowed(name.as_str()), text));
            }
        }
        Self { pairs }.of_known(known)
    }

    fn of_known(self, known: &[&str]) -> Result<Self, Problem> {
        match self
            .pairs
            .iter()
            .find(|(name, _)| !known.contains(&&**name))
        {
            None => Ok(self),
            Some((name, _)) => Err(Problem::new(
                &types::INVALID_PARAMETER,
                format!("the route has no parameter {name:?}"),
            )
            .with("parameter", name)
            .with("allowed", known)),
        }
    }

    /// The selection of workspaces by the given ones of [`FILTER_PARAMETERS`]; begin and length of the
    /// page keep their defaults.
    ///
    /// # Errors
    /// The problem to answer with, 400 with the parameter and what it may be.
    pub fn filter(&self) -> Result<PageQuery, Problem> {
        Ok(PageQuery {
            prefix: self.one("prefix")?.map(str::to_owned),
            states: self.states("state")?,
            healthy: self.truth("healthy")?,
            contains: self.one("q")?.map(str::to_owned),
            partitions: self.several("partition", |text| {
                text.parse().map_err(|_| {
                    invalid_parameter("partition", "the value is no number of a partition")
                })
            })?,
            owners: self.several("owner", |text| Ok(text.to_owned()))?,
            error_kinds: self.several("errorKind", |text| {
                ErrorCategory::ALL
                    .into_iter()
                    .find(|kind| kind.as_str() == text)
                    .ok_or_else(|| {
                        invalid_parameter("errorKind", "there is no such kind of error")
                            .with("allowed", ErrorCategory::ALL.map(ErrorCategory::as_str))
                    })
            })?,
            ..PageQuery::default()
        })
    }

    /// The values of a parameter that may be repeated or hold several values separated by commas.
    fn several<T>(
        &self,
        name: &'static str,
        read: impl Fn(&str) -> Result<T, Problem>,
    ) -> Result<Vec<T>, Problem> {
        self.all(name)
            .flat_map(|value| value.split(','))
            .map(|text| read(text).map_err(|problem| problem.with("value", text)))
            .collect()
    }

    /// The states of a parameter that may be repeated or hold several values separated by commas.
    ///
    /// # Errors
    /// The problem to answer with, 400 with the parameter and what it may be.
    pub fn states(&self, name: &'static str) -> Result<StateSet, Problem> {
        self.all(name)
            .flat_map(|value| value.split(','))
            .map(|text| {
                State::from_str(text).map_err(|error| {
                    invalid_parameter(name, error)
                        .with("value", text)
                        .with("allowed", State::ALL.map(State::as_str))
                })
            })
            .collect()
    }

    /// A boolean: `true` or `false`.
    ///
    /// # Errors
    /// The problem to answer with, 400 with the parameter and what it may be.
    pub fn truth(&self, name: &'static str) -> Result<Option<bool>, Problem> {
        match self.one(name)? {
            None => Ok(None),
            Some("true") => Ok(Some(true)),
            Some("false") => Ok(Some(false)),
            Some(other) => Err(
                invalid_parameter(name, "the value is neither true nor false")
                    .with("value", other)
                    .with("allowed", ["true", "false"]),
            ),
        }
    }

    /// The size of a page, from 1 to `most`.
    ///
    /// # Errors
    /// The problem to answer with, 400 with the parameter and what it may be.
    pub fn limit(&self, default: usize, most: usize) -> Result<usize, Problem> {
        let Some(text) = self.one("limit")? else {
            return Ok(default);
        };
        text.parse()
            .ok()
            .filter(|limit| (1..=most).contains(limit))
            .ok_or_else(|| {
                invalid_parameter(
                    "limit",
                    format_args!("the limit is a number from 1 to {most}"),
                )
                .with("value", text)
                .with("maximum", most)
            })
    }

    /// A duration of at most `longest`.
    ///
    /// # Errors
    /// The problem to answer with, 400 with the parameter and what it may be.
    pub fn duration(
        &self,
        name: &'static str,
        longest: Duration,
    ) -> Result<Option<Duration>, Problem> {
        let Some(text) = self.one(name)? else {
            return Ok(None);
        };
        let duration = parse_duration(text)
            .map_err(|error| invalid_parameter(name, error).with("value", text))?;
        if duration > longest {
            let longest = longest.as_secs();
            return Err(invalid_parameter(
                name,
                format_args!("the longest duration here is {longest}s"),
            )
            .with("value", text)
            .with("maximumSeconds", longest));
        }
        Ok(Some(duration))
    }

    /// A whole number.
    ///
    /// # Errors
    /// The problem to answer with, 400 with the parameter and what it may be.
    pub fn number(&self, name: &'static str) -> Result<Option<u64>, Problem> {
        let Some(text) = self.one(name)? else {
            return Ok(None);
        };
        text.parse().map(Some).map_err(|_| {
            invalid_parameter(name, "the value is no whole number from 0 on").with("value", text)
        })
    }

    /// The end of the previous page: the position of the parameter `cursor` in the collection
    /// `pages`.
    ///
    /// # Errors
    /// The problem to answer with, 400, if the cursor was not made for that collection.
    pub fn cursor(&self, pages: &str) -> Result<Option<String>, Problem> {
        self.one("cursor")?
            .map(|text| decode_cursor(pages, text))
            .transpose()
    }

    fn all(&self, name: &str) -> impl Iterator<Item = &str> {
        self.pairs
            .iter()
            .filter(move |(key, _)| key == name)
            .map(|(_, value)| &**value)
    }
}

/// A parameter with an invalid value.
pub fn invalid_parameter(name: &'static str, reason: impl Display) -> Problem {
    Problem::new(&types::INVALID_PARAMETER, reason.to_string()).with("parameter", name)
}

/// A parameter that only has a meaning together with another one, which is missing.
pub fn meaningless_without(name: &'static str, other: &str) -> Problem {
    invalid_parameter(
        name,
        format_args!("the parameter means nothing without {other}"),
    )
}
