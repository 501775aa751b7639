//! A check of a service, for its probes.

use std::fmt;

/// A check of a service, such as whether its store is open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    /// What was checked, such as `log` or `store`.
    pub name: &'static str,
    /// Passed, or why it failed.
    pub outcome: Result<(), String>,
}

impl Check {
    /// A check with its outcome.
    pub fn new(name: &'static str, outcome: Result<(), String>) -> Self {
        Self { name, outcome }
    }

    /// A passed check.
    pub fn ok(name: &'static str) -> Self {
        Self::new(name, Ok(()))
    }

    /// A failed check, and why.
    pub fn failed(name: &'static str, reason: impl fmt::Display) -> Self {
        Self::new(name, Err(reason.to_string()))
    }
}
