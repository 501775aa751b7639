//! Properties of librdkafka that a user sets.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

/// Properties that the engine sets itself, and what to do instead, or why they are fixed.
const RESERVED: [(&str, &str); 15] = [
    ("bootstrap.servers", "name the brokers instead"),
    ("metadata.broker.list", "name the brokers instead"),
    ("group.id", "name the group instead"),
    ("group.instance.id", "name the instance instead"),
    ("group.protocol", "name the group protocol instead"),
    ("session.timeout.ms", "set the session timeout instead"),
    (
        "partition.assignment.strategy",
        "partitions must be handed over one by one, cooperatively",
    ),
    ("transactional.id", "the engine makes one"),
    ("enable.idempotence", "no record may be written twice"),
    ("isolation.level", "what was aborted must not be read"),
    (
        "enable.auto.commit",
        "offsets are committed with what was saved",
    ),
    (
        "enable.auto.offset.store",
        "offsets are committed with what was saved",
    ),
    ("auto.offset.reset", "the store knows where reading begins"),
    ("enable.partition.eof", "the engine detects the end"),
    ("client.id", "the engine names its clients by what they do"),
];

/// A property that the engine sets itself.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{name} cannot be set: {why}")]
pub struct ReservedProperty {
    /// The property.
    pub name: String,
    /// Why not, or what to do instead.
    pub why: &'static str,
}

/// Why a file of properties cannot be used. Never contains a value: it may be a credential.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PropertyError {
    /// A line is not `name=value`.
    #[error("line {line}: expected `name=value`, as in `security.protocol=SASL_SSL`")]
    Syntax {
        /// Its number, from 1.
        line: usize,
    },
    /// The engine sets this property itself.
    #[error("line {line}: {reserved}")]
    Reserved {
        /// Its number, from 1.
        line: usize,
        /// The property.
        reserved: ReservedProperty,
    },
}

/// Properties of librdkafka, such as `security.protocol`. They override the engine's defaults, but not what its
/// promises depend on. `Debug` shows their names: a value may be a credential.
///
/// Their text has one `name=value` per line; empty lines and lines that begin with `#` or `!` are ignored.
///
/// ```
/// use workspace_engine_kafka::Properties;
///
/// let mut properties: Properties = "security.protocol=SASL_SSL".parse()?;
/// assert!(properties.set("isolation.level", "read_uncommitted").is_err());
/// # Ok::<(), workspace_engine_kafka::PropertyError>(())
/// ```
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Properties(BTreeMap<String, String>);

impl Properties {
    /// Sets a property. An unknown name and a value that librdkafka does not accept are reported when the engine starts.
    ///
    /// # Errors
    /// [`ReservedProperty`] if the engine sets it itself.
    pub fn set(
        &mut self,
        name: impl Into<String>,
        value: impl Into<String>,
    ) -> Result<(), ReservedProperty> {
        let name = name.into();
        if let Some((_, why)) = RESERVED.iter().find(|(reserved, _)| *reserved == name) {
            return Err(ReservedProperty { name, why });
        }
        self.0.insert(name, value.into());
        Ok(())
    }

    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        let properties = self.0.iter();
        properties.map(|(name, value)| (name.as_str(), value.as_str()))
    }
}

impl FromStr for Properties {
    type Err = PropertyError;

    fn from_str(text: &str) -> Result<Self, PropertyError> {
        let mut properties = Self::default();
        for (line, text) in (1..).zip(text.lines()) {
            let text = text.trim();
            if text.is_empty() || text.starts_with(['#', '!']) {
                continue;
            }
            let (name, value) = text
                .split_once('=')
                .map(|(name, value)| (name.trim(), value.trim()))
                .filter(|(name, _)| !name.is_empty())
                .ok_or(PropertyError::Syntax { line })?;
            properties
                .set(name, value)
                .map_err(|reserved| PropertyError::Reserved { line, reserved })?;
        }
        Ok(properties)
    }
}

impl fmt::Debug for Properties {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn properties_are_read_a_line_each() {
        let text = "# who we are\n\n! also a comment\nsasl.username = me\nsasl.password=a=b\n";
        let properties: Properties = text.parse().unwrap();
        assert_eq!(
            properties.iter().collect::<Vec<_>>(),
            [("sasl.password", "a=b"), ("sasl.username", "me")]
        );
    }

    #[test]
    fn a_refused_property_is_named_by_its_line_without_its_value() {
        for (text, expected) in [
            (
                "\nsecret",
                "line 2: expected `name=value`, as in `security.protocol=SASL_SSL`",
            ),
            (
                "=secret",
                "line 1: expected `name=value`, as in `security.protocol=SASL_SSL`",
            ),
            (
                "group.id=secret",
                "line 1: group.id cannot be set: name the group instead",
            ),
        ] {
            let error = text.parse::<Properties>().unwrap_err();
            assert_eq!(error.to_string(), expected);
        }
    }

    #[test]
    fn a_promise_cannot_be_set_aside_by_an_embedder() {
        let mut properties = Properties::default();
        let error = properties.set("isolation.level", "read_uncommitted");
        assert_eq!(
            error.unwrap_err().to_string(),
            "isolation.level cannot be set: what was aborted must not be read"
        );
        assert_eq!(properties, Properties::default());
    }

    #[test]
    fn credentials_are_not_shown() {
        let properties: Properties = "sasl.password=secret".parse().unwrap();
        assert_eq!(format!("{properties:?}"), r#"{"sasl.password"}"#);
    }
}
