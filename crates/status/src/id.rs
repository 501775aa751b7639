//! Ids and numbers that must not be mixed up: workspace, epoch, revision.

use std::borrow::Borrow;
use std::fmt;
use std::ops::Deref;
use std::str::FromStr;
use std::sync::Arc;

use arcstr::ArcStr;

/// Maximum length of a workspace id, in bytes.
pub const WORKSPACE_ID_BYTES: usize = 255;

/// The id of a workspace: 1 to 255 bytes of `[A-Za-z0-9._:-]`. Cheap to clone; ordered
/// bytewise.
///
/// ```
/// use workspace_status::WorkspaceId;
///
/// let id = WorkspaceId::new("tenant:eu-1.blue")?;
/// assert_eq!(id.as_str(), "tenant:eu-1.blue");
/// assert!(WorkspaceId::new("no spaces").is_err());
/// # Ok::<(), workspace_status::InvalidWorkspaceId>(())
/// ```
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(try_from = "String"))]
pub struct WorkspaceId(ArcStr);

impl WorkspaceId {
    /// Validates an id.
    ///
    /// # Errors
    /// If it is empty, longer than [`WORKSPACE_ID_BYTES`], or holds another character.
    pub fn new(id: &str) -> Result<Self, InvalidWorkspaceId> {
        check(id)?;
        Ok(Self(ArcStr::from(id)))
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

fn check(id: &str) -> Result<(), InvalidWorkspaceId> {
    if id.is_empty() {
        return Err(InvalidWorkspaceId::Empty);
    }
    if id.len() > WORKSPACE_ID_BYTES {
        return Err(InvalidWorkspaceId::TooLong { bytes: id.len() });
    }
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b':' | b'-');
    if id.bytes().all(allowed) {
        return Ok(());
    }
    let (position, character) = id
        .char_indices()
        .find(|(_, c)| !u8::try_from(*c).is_ok_and(allowed))
        .unwrap_or((0, char::REPLACEMENT_CHARACTER));
    Err(InvalidWorkspaceId::Character {
        position,
        character,
    })
}

/// Why a text is not a valid workspace id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidWorkspaceId {
    /// It is empty.
    #[error("a workspace id must not be empty")]
    Empty,
    /// Longer than [`WORKSPACE_ID_BYTES`].
    #[error("a workspace id must not be longer than 255 bytes, this one has {bytes}")]
    TooLong {
        /// Its length.
        bytes: usize,
    },
    /// A character outside `[A-Za-z0-9._:-]`.
    #[error(
        "a workspace id consists of letters, digits and any of . _ : - only, but byte {position} \
         of this one is {character:?}"
    )]
    Character {
        /// Its position in bytes, from 0.
        position: usize,
        /// The character.
        character: char,
    },
}

impl fmt::Debug for WorkspaceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

impl fmt::Display for WorkspaceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self)
    }
}

impl Deref for WorkspaceId {
    type Target = str;

    fn deref(&self) -> &str {
        self.as_str()
    }
}

impl AsRef<str> for WorkspaceId {
    fn as_ref(&self) -> &str {
        self
    }
}

impl Borrow<str> for WorkspaceId {
    fn borrow(&self) -> &str {
        self
    }
}

impl PartialEq<str> for WorkspaceId {
    fn eq(&self, other: &str) -> bool {
        self.as_str() == other
    }
}

impl PartialEq<&str> for WorkspaceId {
    fn eq(&self, other: &&str) -> bool {
        self.as_str() == *other
    }
}

impl FromStr for WorkspaceId {
    type Err = InvalidWorkspaceId;

    fn from_str(id: &str) -> Result<Self, Self::Err> {
        Self::new(id)
    }
}

impl TryFrom<&str> for WorkspaceId {
    type Error = InvalidWorkspaceId;

    fn try_from(id: &str) -> Result<Self, Self::Error> {
        Self::new(id)
    }
}

impl TryFrom<String> for WorkspaceId {
    type Error = InvalidWorkspaceId;

    fn try_from(id: String) -> Result<Self, Self::Error> {
        Self::new(&id)
    }
}

impl From<WorkspaceId> for String {
    fn from(id: WorkspaceId) -> Self {
        id.as_str().to_owned()
    }
}

impl From<WorkspaceId> for Arc<str> {
    fn from(id: WorkspaceId) -> Self {
        Arc::from(id.as_str())
    }
}

/// The number of a load of a workspace. It only grows, and outlives the process if the
/// owner stores it. A write of an older epoch is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(transparent))]
pub struct Epoch(u64);

impl Epoch {
    /// The epoch of a workspace that was never loaded before.
    pub const FIRST: Epoch = Epoch(1);

    /// An epoch by its number.
    pub const fn new(number: u64) -> Self {
        Self(number)
    }

    /// Its number.
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The epoch after it.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The number of a status change among all changes of one [`Tracker`](crate::Tracker).
/// It grows strictly; 0 is "before the first change".
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(transparent))]
pub struct Revision(u64);

impl Revision {
    /// A revision by its number.
    pub const fn new(number: u64) -> Self {
        Self(number)
    }

    /// Its number.
    pub const fn get(self) -> u64 {
        self.0
    }
}

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_checked_with_the_place_of_what_is_wrong() {
        fn check(id: &str, expected: Result<(), InvalidWorkspaceId>) {
            assert_eq!(WorkspaceId::new(id).map(|_| ()), expected, "{id:?}");
        }
        use InvalidWorkspaceId::{Character, Empty, TooLong};

        check("a", Ok(()));
        check("Tenant-1_a.b:c", Ok(()));
        check(&"x".repeat(255), Ok(()));
        check("", Err(Empty));
        check(&"x".repeat(256), Err(TooLong { bytes: 256 }));
        for (id, position, character) in [("a/b", 1, '/'), ("äb", 0, 'ä'), ("ab\n", 2, '\n')] {
            check(
                id,
                Err(Character {
                    position,
                    character,
                }),
            );
        }
    }

    #[test]
    fn the_first_epoch_is_one_and_the_next_is_two() {
        assert_eq!(Epoch::FIRST.get(), 1);
        assert_eq!(Epoch::FIRST.next(), Epoch::new(2));
        assert_eq!(Epoch::new(u64::MAX).next(), Epoch::new(u64::MAX));
    }

    #[cfg(feature = "serde")]
    #[test]
    fn ids_are_plain_values_on_the_wire_and_checked_on_the_way_in() {
        let id = WorkspaceId::new("a").unwrap();
        let json = serde_json::to_string(&(id, Epoch::FIRST, Revision::new(7))).unwrap();
        assert_eq!(json, r#"["a",1,7]"#);
        assert!(serde_json::from_str::<WorkspaceId>("\"a b\"").is_err());
    }
}
