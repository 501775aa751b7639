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
    /// Ordered by key; `None` instead of an empty list.
    entries: Option<Box<[Entry]>>,
}

type Entry = (Text, Value);

/// An update that [`Metadata::plan`] has accepted.
pub(crate) struct Update<'a> {
    /// From the first entry that changes something.
    entries: &'a [(&'a str, Value)],
    /// Index of the entry held under the key of that first one.
    place: Option<usize>,
}

impl Metadata {
    /// No metadata.
    pub const EMPTY: &'static Metadata = &Metadata { entries: None };

    /// The value under a key.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.value_at(self.place(key)?)
    }

    /// All of them, ordered by key.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &Value)> {
        self.entries().iter().map(|(key, value)| (&**key, value))
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.entries().len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_none()
    }

    /// Checks all bounds of a key and value except the number of keys.
    #[inline]
    fn check(key: &str, value: &Value) -> Result<(), MetadataError> {
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

    /// What setting all of these, in order, changes; `None` if each is set already.
    #[inline]
    pub(crate) fn plan<'a>(
        &self,
        entries: &'a [(&'a str, Value)],
    ) -> Result<Option<Update<'a>>, MetadataError> {
        for (key, value) in entries {
            Metadata::check(key, value)?;
        }
        if self.len() + entries.len() > METADATA_KEYS {
            self.check_number(entries)?;
        }
        let mut entries = entries;
        while let [(key, value), others @ ..] = entries {
            let place = self.place(key);
            if place.and_then(|place| self.value_at(place)) != Some(value) {
                return Ok(Some(Update { entries, place }));
            }
            entries = others;
        }
        Ok(None)
    }

    /// Makes an update that was planned with these metadata.
    #[inline]
    pub(crate) fn apply(&mut self, update: &Update<'_>) {
        let Some(((key, value), others)) = update.entries.split_first() else {
            return;
        };
        self.set(update.place, key, value);
        for (key, value) in others {
            self.set(self.place(key), key, value);
        }
    }

    #[cold]
    fn check_number(&self, entries: &[(&str, Value)]) -> Result<(), MetadataError> {
        let mut new: Vec<&str> = entries.iter().map(|(key, _)| *key).collect();
        new.retain(|key| self.place(key).is_none());
        new.sort_unstable();
        new.dedup();
        if self.len() + new.len() > METADATA_KEYS {
            return Err(MetadataError::TooManyKeys);
        }
        Ok(())
    }

    #[inline]
    fn set(&mut self, place: Option<usize>, key: &str, value: &Value) {
        let entries = self.entries.as_deref_mut().unwrap_or_default();
        match place.and_then(|place| entries.get_mut(place)) {
            Some((_, held)) => *held = value.clone(),
            None => self.insert(key, value.clone()),
        }
    }

    /// Inserts a new key. Its memory has room for what it holds alone: keys rarely change after a load.
    #[inline(never)]
    fn insert(&mut self, key: &str, value: Value) {
        let mut entries = self.entries.take().map_or_else(Vec::new, Vec::from);
        entries.reserve_exact(1);
        let place = entries.partition_point(|(held, _)| **held < *key);
        entries.insert(place, (Text::from(key), value));
        self.entries = Some(entries.into_boxed_slice());
    }

    /// Removes a key; returns whether it existed.
    pub(crate) fn remove(&mut self, key: &str) -> bool {
        let Some(place) = self.place(key) else {
            return false;
        };
        let mut entries = self.entries.take().map_or_else(Vec::new, Vec::from);
        entries.remove(place);
        self.entries = (!entries.is_empty()).then(|| entries.into_boxed_slice());
        true
    }

    fn entries(&self) -> &[Entry] {
        self.entries.as_deref().unwrap_or_default()
    }

    fn value_at(&self, place: usize) -> Option<&Value> {
        self.entries().get(place).map(|(_, value)| value)
    }

    /// Index of a key. Lengths and last bytes differ for nearly all keys, so about one text is compared. With the few
    /// keys of a status this is faster than a binary search, which compares a text at each step.
    #[inline]
    fn place(&self, key: &str) -> Option<usize> {
        let key = key.as_bytes();
        self.entries().iter().position(|(held, _)| {
            let held = held.as_bytes();
            held.len() == key.len() && held.last() == key.last() && held == key
        })
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

    fn set(
        metadata: &mut Metadata,
        key: &str,
        value: impl Into<Value>,
    ) -> Result<bool, MetadataError> {
        let entries = [(key, value.into())];
        let update = metadata.plan(&entries)?;
        let Some(update) = update else {
            return Ok(false);
        };
        metadata.apply(&update);
        Ok(true)
    }

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
            assert_eq!(set(&mut metadata, &format!("key{n}"), n), Ok(true));
        }
        let one_more = [("key7", Value::from("new")), ("one more", Value::from(1))];
        assert_eq!(
            metadata.plan(&one_more).err(),
            Some(MetadataError::TooManyKeys)
        );
        assert_eq!(metadata.get("key7"), Some(&Value::from(7)));
        let twice = [("key7", Value::from(1)), ("key7", Value::from("new"))];
        let update = metadata.plan(&twice).unwrap().unwrap();
        metadata.apply(&update);
        assert_eq!(metadata.get("key7"), Some(&Value::from("new")));
        assert!(metadata.remove("key8") && !metadata.remove("key8"));
        assert_eq!(metadata.len(), METADATA_KEYS - 1);
    }

    #[test]
    fn only_a_value_that_differs_is_a_change() {
        let mut metadata = Metadata::default();
        assert_eq!(set(&mut metadata, "k", 1), Ok(true));
        assert_eq!(set(&mut metadata, "k", 1_u64), Ok(false));
        assert_eq!(set(&mut metadata, "k", 2), Ok(true));
        assert!(metadata.remove("k"));
        assert!(metadata.is_empty() && metadata == *Metadata::EMPTY);
    }

    #[test]
    fn keys_of_one_length_and_ending_are_distinguished_and_ordered() {
        let keys = [
            "b_offset", "a_offset", "offset", "c_offset", "b_offse_", "é",
        ];
        let mut metadata = Metadata::default();
        for (n, key) in keys.into_iter().enumerate() {
            assert_eq!(metadata.get(key), None);
            set(&mut metadata, key, n).unwrap();
        }
        for (n, key) in keys.into_iter().enumerate() {
            assert_eq!(metadata.get(key), Some(&Value::from(n)));
        }
        let held: Vec<&str> = metadata.iter().map(|(key, _)| key).collect();
        let mut ordered = keys;
        ordered.sort_unstable();
        assert_eq!(held, ordered);
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
            set(&mut metadata, key, value).unwrap();
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
