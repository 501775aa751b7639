//! The values of metadata: JSON scalars.

use std::fmt;
use std::ops::Deref;

use arcstr::ArcStr;

use crate::message;

/// A JSON scalar.
///
/// Numbers are compared by value: `Integer(5) == Unsigned(5)`.
///
/// ```
/// use workspace_status::Value;
///
/// assert_eq!(Value::from(5_u64).as_i64(), Some(5));
/// assert_eq!(Value::from("reading").as_str(), Some("reading"));
/// assert_eq!(Value::from(1.5).to_string(), "1.5");
/// ```
#[derive(Debug, Clone)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(untagged))]
pub enum Value {
    /// `true` or `false`.
    Bool(bool),
    /// A signed number.
    Integer(i64),
    /// An unsigned number.
    Unsigned(u64),
    /// A finite number; NaN and infinity are refused with [`NotFinite`](crate::MetadataError::NotFinite).
    Float(f64),
    /// A text of at most [`METADATA_STRING_BYTES`](crate::METADATA_STRING_BYTES); a longer one is refused.
    String(Text),
}

impl Value {
    /// The boolean, if it is one.
    pub fn as_bool(&self) -> Option<bool> {
        match self {
            Value::Bool(value) => Some(*value),
            Value::Integer(_) | Value::Unsigned(_) | Value::Float(_) | Value::String(_) => None,
        }
    }

    /// The whole number, if it is one and fits.
    pub fn as_i64(&self) -> Option<i64> {
        match self {
            Value::Integer(value) => Some(*value),
            Value::Unsigned(value) => i64::try_from(*value).ok(),
            Value::Bool(_) | Value::Float(_) | Value::String(_) => None,
        }
    }

    /// The whole number, if it is one and not negative.
    pub fn as_u64(&self) -> Option<u64> {
        match self {
            Value::Integer(value) => u64::try_from(*value).ok(),
            Value::Unsigned(value) => Some(*value),
            Value::Bool(_) | Value::Float(_) | Value::String(_) => None,
        }
    }

    /// The number, if it is one, to the nearest `f64`.
    #[expect(
        clippy::cast_precision_loss,
        reason = "the nearest one is what is promised"
    )]
    pub fn as_f64(&self) -> Option<f64> {
        match self {
            Value::Integer(value) => Some(*value as f64),
            Value::Unsigned(value) => Some(*value as f64),
            Value::Float(value) => Some(*value),
            Value::Bool(_) | Value::String(_) => None,
        }
    }

    /// The text, if it is one.
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Value::String(text) => Some(text),
            Value::Bool(_) | Value::Integer(_) | Value::Unsigned(_) | Value::Float(_) => None,
        }
    }
}

impl PartialEq for Value {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Value::Bool(a), Value::Bool(b)) => a == b,
            (Value::Float(a), Value::Float(b)) => a == b,
            (Value::String(a), Value::String(b)) => a == b,
            (Value::Unsigned(a), Value::Unsigned(b)) => a == b,
            (Value::Integer(_) | Value::Unsigned(_), Value::Integer(_) | Value::Unsigned(_)) => {
                self.as_i64().is_some() && self.as_i64() == other.as_i64()
            }
            (
                Value::Bool(_)
                | Value::Integer(_)
                | Value::Unsigned(_)
                | Value::Float(_)
                | Value::String(_),
                _,
            ) => false,
        }
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::Bool(value) => value.fmt(f),
            Value::Integer(value) => value.fmt(f),
            Value::Unsigned(value) => value.fmt(f),
            Value::Float(value) => value.fmt(f),
            Value::String(text) => f.pad(text),
        }
    }
}

macro_rules! value_from {
    ($($from:ty => $variant:ident),+ $(,)?) => {$(
        impl From<$from> for Value {
            fn from(value: $from) -> Self {
                Value::$variant(value.into())
            }
        }
    )+};
}

value_from! {
    bool => Bool,
    i32 => Integer,
    i64 => Integer,
    u32 => Unsigned,
    u64 => Unsigned,
    f64 => Float,
    &str => String,
    &String => String,
    String => String,
}

impl From<usize> for Value {
    fn from(value: usize) -> Self {
        Value::Unsigned(value as u64)
    }
}

/// The text of a [`Value`], cheap to clone; short equal texts share their memory.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(from = "String"))]
pub struct Text(ArcStr);

impl Text {
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Deref for Text {
    type Target = str;

    fn deref(&self) -> &str {
        self.as_str()
    }
}

impl From<&str> for Text {
    fn from(text: &str) -> Self {
        Text(message::shared(text))
    }
}

impl From<&String> for Text {
    fn from(text: &String) -> Self {
        Text::from(text.as_str())
    }
}

impl From<String> for Text {
    fn from(text: String) -> Self {
        Text::from(text.as_str())
    }
}

impl fmt::Debug for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

impl fmt::Display for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_compared_by_what_they_say() {
        assert_eq!(Value::from(5_i32), Value::from(5_usize));
        assert_eq!(Value::from(u64::MAX), Value::from(u64::MAX));
        assert_ne!(Value::from(-1_i64), Value::from(u64::MAX));
        assert_ne!(Value::from(1), Value::from(true));
        assert_ne!(Value::from(1), Value::from(1.0));
    }
}
