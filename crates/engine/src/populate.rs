//! Sources of a workspace's first entries, for a workspace of which the store has nothing.

use std::fs::File;
use std::io::{BufRead, BufReader, ErrorKind};
use std::path::PathBuf;

use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;
use workspace_lifecycle::Offset;
use workspace_status::WorkspaceId;

use crate::event::MAX_EVENT_BYTES;
use crate::store::{EntrySink, StoredEntry};

/// Why a workspace could not be populated.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PopulateError {
    /// The source cannot be reached now; try again.
    #[error("{0}")]
    Unavailable(String),
    /// The source holds something that is not an entry; an operator must act.
    #[error("{place}: {reason}")]
    Invalid {
        /// File and line.
        place: String,
        /// What is wrong there.
        reason: String,
    },
}

/// Provides the first entries of a workspace that the store does not know.
///
/// It is called again if the process ends before they are saved, so a second call must give the same entries.
pub trait Populate: Send + Sync + 'static {
    /// Passes every entry of `id` to `sink`, ordered by type and id; nothing if it has none.
    ///
    /// # Errors
    /// [`PopulateError`] says whether to retry.
    fn populate(&self, id: &WorkspaceId, sink: EntrySink<'_>) -> Result<(), PopulateError>;
}

/// Workspaces start empty.
#[derive(Debug, Clone, Copy, Default)]
pub struct BeginEmpty;

impl Populate for BeginEmpty {
    fn populate(&self, _id: &WorkspaceId, _sink: EntrySink<'_>) -> Result<(), PopulateError> {
        Ok(())
    }
}

/// A directory with one file per workspace, `<id>.ndjson`, and in it one line per entity:
/// `{"type":"resource","id":"a","data":{…}}`. A workspace without a file starts empty.
///
/// A `:` in the id is written `%3A` in the file's name.
#[derive(Debug, Clone)]
pub struct NdjsonDirectory {
    directory: PathBuf,
}

impl NdjsonDirectory {
    /// Reads from this directory.
    pub fn new(directory: impl Into<PathBuf>) -> Self {
        Self {
            directory: directory.into(),
        }
    }
}

#[derive(Deserialize)]
struct Line<'a> {
    #[serde(rename = "type")]
    kind: Box<str>,
    id: Box<str>,
    #[serde(borrow)]
    data: &'a RawValue,
}

impl Populate for NdjsonDirectory {
    fn populate(&self, id: &WorkspaceId, sink: EntrySink<'_>) -> Result<(), PopulateError> {
        let path = self
            .directory
            .join(format!("{}.ndjson", id.as_str().replace(':', "%3A")));
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            Err(error) => {
                return Err(PopulateError::Unavailable(format!(
                    "{}: {error}",
                    path.display()
                )));
            }
        };
        let mut entries = Vec::new();
        for (number, line) in BufReader::new(file).lines().enumerate() {
            let invalid = |reason: String| PopulateError::Invalid {
                place: format!("{} line {}", path.display(), number + 1),
                reason,
            };
            let line = line.map_err(|error| invalid(error.to_string()))?;
            if line.trim().is_empty() {
                continue;
            }
            if line.len() > MAX_EVENT_BYTES {
                return Err(invalid(format!(
                    "{} bytes, {MAX_EVENT_BYTES} are allowed",
                    line.len()
                )));
            }
            let Line { kind, id, data } =
                serde_json::from_str(&line).map_err(|error| invalid(error.to_string()))?;
            let data = Bytes::copy_from_slice(data.get().as_bytes());
            entries.push(StoredEntry {
                kind: kind.into(),
                id,
                data,
                offset: Offset::ZERO,
            });
        }
        entries.sort_by(|a, b| (&a.kind, &a.id).cmp(&(&b.kind, &b.id)));
        for entry in entries {
            sink(entry).map_err(|reason| PopulateError::Invalid {
                place: path.display().to_string(),
                reason,
            })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn populate(text: &str) -> Result<Vec<String>, String> {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("a%3Ab.ndjson"), text).unwrap();
        let mut seen = Vec::new();
        NdjsonDirectory::new(directory.path())
            .populate(&WorkspaceId::new("a:b").unwrap(), &mut |entry| {
                seen.push(format!(
                    "{}/{}={}",
                    entry.kind,
                    entry.id,
                    String::from_utf8_lossy(&entry.data)
                ));
                Ok(())
            })
            .map_err(|error| error.to_string())?;
        Ok(seen)
    }

    #[test]
    fn entries_come_ordered_from_the_file_of_the_workspace() {
        let text = "{\"type\":\"r\",\"id\":\"b\",\"data\":{\"x\": 1}}\n\n{\"type\":\"a\",\"id\":\"z\",\"data\":2}\n";
        assert_eq!(populate(text).unwrap(), ["a/z=2", "r/b={\"x\": 1}"]);
    }

    #[test]
    fn a_bad_line_is_named() {
        let error = populate("{\"type\":\"r\",\"id\":\"b\",\"data\":1}\nnonsense\n").unwrap_err();
        assert!(error.contains("a%3Ab.ndjson line 2: "), "{error}");
    }

    #[test]
    fn a_workspace_without_a_file_begins_empty() {
        let directory = tempfile::tempdir().unwrap();
        let populated = NdjsonDirectory::new(directory.path())
            .populate(&WorkspaceId::new("w").unwrap(), &mut |_| {
                Err("nothing expected".to_owned())
            });
        assert_eq!(populated, Ok(()));
    }
}
