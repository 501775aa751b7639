//! Metadata of a status: few keys, scalar values, all bounded.

use std::fmt;

use crate::value::{Text, Value};

/// Maximum number of keys of a status.
pub const METADATA_KEYS: usize = 64;
/// Maximum length of a key, in bytes.
pub const METADATA_KEY_BYTES: usize = 128;
/// Maximum length of a text value, in bytes.
pub const METADATA_STRING_BYTES: usize = 1024;

/// Why a metadatum is refused. The status stays as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum MetadataError {
    /// The key is new, and the status already has [`METADATA_KEYS`].
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
    /// NaN or infinite, which JSON cannot represent.
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
    /// No metadata.
    pub const EMPTY: &'static Metadata = &Metadata { by_key: Vec::new() };

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

    /// Checks all bounds of a key and value except the number of keys.
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

    /// Checks whether all of these may be set, in order.
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

    /// Whether each of these is set already.
    pub(crate) fn has_all(&self, entries: &[(&str, Value)]) -> bool {
        let mut entries = entries.iter();
        entries.all(|(key, value)| self.get(key) == Some(value))
    }

    /// Sets an entry that [`Metadata::check_all`] has accepted.
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

    /// Removes a key; returns whether it existed.
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
