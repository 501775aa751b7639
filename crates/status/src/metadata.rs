//! Metadata of a status: few keys, scalar values, everything bounded.

use std::fmt;
use std::ops::Deref;

use arcstr::ArcStr;

use crate::message;

/// How many keys a status may have.
pub const METADATA_KEYS: usize = 64;
/// The longest key, in bytes.
pub const METADATA_KEY_BYTES: usize = 128;
/// The longest text as a value, in bytes.
pub const METADATA_STRING_BYTES: usize = 1024;

/// A JSON scalar.
///
/// Numbers are compared by what they say: `Integer(5) == Unsigned(5)`.
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
    /// A finite number; others are refused with [`MetadataError::NotFinite`].
    Float(f64),
    /// A text; one over [`METADATA_STRING_BYTES`] is refused.
    String(Text),
}

impl Value {
    /// The truth value, if it is one.
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

/// The text of a [`Value`], cheap to clone; short ones share their memory with equal ones.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(into = "String", from = "String"))]
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

impl From<Text> for String {
    fn from(text: Text) -> Self {
        text.as_str().to_owned()
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

/// Why a metadatum is refused. The status stays as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum MetadataError {
    /// A new key, and there are [`METADATA_KEYS`] already.
    #[error("a status holds at most 64 metadata keys")]
    TooManyKeys,
    /// An empty key.
    #[error("a metadata key must not be empty")]
    KeyEmpty,
    /// A key over [`METADATA_KEY_BYTES`].
    #[error("a metadata key must not be longer than 128 bytes, this one has {bytes}")]
    KeyTooLong {
        /// Its length.
        bytes: usize,
    },
    /// A text over [`METADATA_STRING_BYTES`].
    #[error("a metadata text must not be longer than 1024 bytes, this one has {bytes}")]
    ValueTooLong {
        /// Its length.
        bytes: usize,
    },
    /// NaN or infinite, which JSON cannot say.
    #[error("a metadata number must be finite")]
    NotFinite,
}

/// The metadata of a status, ordered by key.
///
/// ```
/// use workspace_status::{Tracker, Value};
///
/// let status = Tracker::new().get_or_create("a");
/// status.update_metadata("topic", "events")?;
/// status.update_metadata("partition", 3)?;
/// let snapshot = status.snapshot();
/// assert_eq!(snapshot.metadata().get("partition"), Some(&Value::from(3)));
/// let keys: Vec<&str> = snapshot.metadata().iter().map(|(key, _)| key).collect();
/// assert_eq!(keys, ["partition", "topic"]);
/// # Ok::<(), workspace_status::MetadataError>(())
/// ```
#[derive(Clone, Default, PartialEq)]
pub struct Metadata {
    by_key: Vec<(Text, Value)>,
}

impl Metadata {
    pub(crate) const EMPTY: &'static Metadata = &Metadata { by_key: Vec::new() };

    /// The value under a key.
    pub fn get(&self, key: &str) -> Option<&Value> {
        let place = self.place(key).ok()?;
        self.by_key.get(place).map(|(_, value)| value)
    }

    /// All of them, ordered by key.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &Value)> {
        self.by_key.iter().map(|(key, value)| (&**key, value))
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.by_key.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.by_key.is_empty()
    }

    /// Whether this key and value are within the bounds, but for the number of keys.
    pub(crate) fn check(key: &str, value: &Value) -> Result<(), MetadataError> {
        if key.is_empty() {
            return Err(MetadataError::KeyEmpty);
        }
        if key.len() > METADATA_KEY_BYTES {
            return Err(MetadataError::KeyTooLong { bytes: key.len() });
        }
        match value {
            Value::String(text) if text.len() > METADATA_STRING_BYTES => {
                Err(MetadataError::ValueTooLong { bytes: text.len() })
            }
            Value::Float(number) if !number.is_finite() => Err(MetadataError::NotFinite),
            Value::Bool(_)
            | Value::Integer(_)
            | Value::Unsigned(_)
            | Value::Float(_)
            | Value::String(_) => Ok(()),
        }
    }

    /// Whether all of these may be set, one after the other.
    pub(crate) fn check_all(&self, entries: &[(&str, Value)]) -> Result<(), MetadataError> {
        for (key, value) in entries {
            Metadata::check(key, value)?;
        }
        if self.len() + entries.len() <= METADATA_KEYS {
            return Ok(());
        }
        let mut new: Vec<&str> = entries.iter().map(|(key, _)| *key).collect();
        new.retain(|key| self.place(key).is_err());
        new.sort_unstable();
        new.dedup();
        if self.len() + new.len() > METADATA_KEYS {
            return Err(MetadataError::TooManyKeys);
        }
        Ok(())
    }

    /// Whether each of these is there already.
    pub(crate) fn has_all(&self, entries: &[(&str, Value)]) -> bool {
        let mut entries = entries.iter();
        entries.all(|(key, value)| self.get(key) == Some(value))
    }

    /// Sets what [`Metadata::check_all`] has passed.
    pub(crate) fn set(&mut self, key: &str, value: Value) {
        match self.place(key) {
            Ok(place) => {
                if let Some((_, held)) = self.by_key.get_mut(place) {
                    *held = value;
                }
            }
            Err(place) => self.by_key.insert(place, (Text::from(key), value)),
        }
    }

    /// Whether the key was there.
    pub(crate) fn remove(&mut self, key: &str) -> bool {
        self.place(key)
            .map(|place| self.by_key.remove(place))
            .is_ok()
    }

    fn place(&self, key: &str) -> Result<usize, usize> {
        self.by_key.binary_search_by(|(held, _)| (**held).cmp(key))
    }
}

impl fmt::Debug for Metadata {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

#[cfg(feature = "serde")]
impl serde::Serialize for Metadata {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.iter())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_over_a_bound_is_refused_by_name() {
        fn check(key: &str, value: impl Into<Value>, expected: Result<(), MetadataError>) {
            assert_eq!(Metadata::check(key, &value.into()), expected);
        }
        check("k", 1, Ok(()));
        check("", 1, Err(MetadataError::KeyEmpty));
        check(&"k".repeat(128), "v".repeat(1024), Ok(()));
        check(
            &"k".repeat(129),
            1,
            Err(MetadataError::KeyTooLong { bytes: 129 }),
        );
        check(
            "k",
            "v".repeat(1025),
            Err(MetadataError::ValueTooLong { bytes: 1025 }),
        );
        check("k", f64::NAN, Err(MetadataError::NotFinite));
        check("k", f64::INFINITY, Err(MetadataError::NotFinite));
    }

    #[test]
    fn the_65th_key_is_refused_and_a_held_one_can_still_change() {
        let mut metadata = Metadata::default();
        for n in 0..METADATA_KEYS {
            metadata.set(&format!("key{n}"), n.into());
        }
        let value = Value::from("new");
        let one_more = [("key7", value.clone()), ("one more", value.clone())];
        assert_eq!(
            metadata.check_all(&one_more),
            Err(MetadataError::TooManyKeys)
        );
        assert_eq!(metadata.check_all(&one_more[..1]), Ok(()));
        metadata.set("key7", value.clone());
        assert_eq!(metadata.get("key7"), Some(&value));
        assert!(metadata.remove("key8") && !metadata.remove("key8"));
        assert_eq!(metadata.len(), METADATA_KEYS - 1);
    }

    #[test]
    fn numbers_are_compared_by_what_they_say() {
        assert_eq!(Value::from(5_i32), Value::from(5_usize));
        assert_eq!(Value::from(u64::MAX), Value::from(u64::MAX));
        assert_ne!(Value::from(-1_i64), Value::from(u64::MAX));
        assert_ne!(Value::from(1), Value::from(true));
        assert_ne!(Value::from(1), Value::from(1.0));
    }

    #[cfg(feature = "serde")]
    #[test]
    fn values_are_json_scalars() {
        let mut metadata = Metadata::default();
        for (key, value) in [
            ("b", Value::from(true)),
            ("f", Value::from(0.5)),
            ("i", Value::from(-3)),
            ("s", Value::from("x")),
            ("u", Value::from(u64::MAX)),
        ] {
            metadata.set(key, value);
        }
        let json = serde_json::to_string(&metadata).unwrap();
        assert_eq!(
            json,
            r#"{"b":true,"f":0.5,"i":-3,"s":"x","u":18446744073709551615}"#
        );
        let back: Vec<Value> = serde_json::from_str("[true,0.5,-3,\"x\"]").unwrap();
        assert_eq!(back[2], Value::from(-3));
        assert_eq!(back[3], Value::from("x"));
    }
}
