//! The file of a workspace: lines of changes, ended by a commit line.
//!
//! Changes that no commit follows do not count. The last commit contains everything of the workspace but its entries,
//! so it is found without reading the whole file.

use super::lines::{self, FileEnd, NewLines, Reader};
use crate::store::{Change, StoredEntry, StoredWorkspace};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;
use std::sync::Arc;
use workspace_lifecycle::{Offset, PartitionId, Residence};
use workspace_status::{Epoch, WorkspaceId};

/// Name of the file.
pub(super) const FILE: &str = "entries.jsonl";

/// How much of the end of the file is read to find the last commit.
const TAIL_BYTES: u64 = 64 * 1024;

#[derive(Debug, Serialize, Deserialize)]
struct SetLine<'a> {
    #[serde(borrow)]
    set: (Cow<'a, str>, Cow<'a, str>),
    offset: u64,
    #[serde(borrow)]
    data: &'a RawValue,
}

#[derive(Debug, Serialize, Deserialize)]
struct UnsetLine<'a> {
    #[serde(borrow)]
    unset: (Cow<'a, str>, Cow<'a, str>),
}

#[derive(Debug, Serialize, Deserialize)]
struct CommitLine {
    commit: Commit,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Commit {
    workspace_id: String,
    partition: u32,
    epoch: u64,
    owner: String,
    #[serde(default, skip_serializing_if = "is_zero")]
    first_offset: u64,
    next_offset: u64,
    events_applied: u64,
    entries: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    last_load_ms: Option<u64>,
    #[serde(with = "residence", default, skip_serializing_if = "is_memory")]
    residence: Residence,
    /// Lines of the file up to here, this one included.
    lines: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
fn is_zero(offset: &u64) -> bool {
    *offset == 0
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
fn is_memory(residence: &Residence) -> bool {
    *residence == Residence::Memory
}

mod residence {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};
    use workspace_lifecycle::Residence;

    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde requires it")]
    pub(super) fn serialize<S: Serializer>(
        residence: &Residence,
        to: S,
    ) -> Result<S::Ok, S::Error> {
        to.serialize_str(residence.as_str())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Residence, D::Error> {
        let name = String::deserialize(from)?;
        Residence::of_name(&name).ok_or_else(|| D::Error::custom("its residence is not known here"))
    }
}

/// Any line.
#[derive(Debug)]
enum Line<'a> {
    Set(SetLine<'a>),
    Unset(UnsetLine<'a>),
    Commit(Commit),
}

impl<'a> Line<'a> {
    fn parse(line: &'a str) -> Result<Self, String> {
        let json = |error: serde_json::Error| error.to_string();
        match lines::first_field(line) {
            "set" => serde_json::from_str(line).map(Self::Set).map_err(json),
            "unset" => serde_json::from_str(line).map(Self::Unset).map_err(json),
            "commit" => serde_json::from_str(line)
                .map(|CommitLine { commit }| Self::Commit(commit))
                .map_err(json),
            _ => Err("it is neither a set, an unset nor a commit".to_owned()),
        }
    }
}

/// What the last commit of the file says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Committed {
    pub(super) workspace: StoredWorkspace,
    /// The end of the commit.
    pub(super) end: FileEnd,
}

pub(super) type Entries = BTreeMap<(Arc<str>, Box<str>), StoredEntry>;

/// The last commit of the file; reads only the tail of the file if that suffices.
pub(super) fn last_commit(path: &Path) -> io::Result<Option<Committed>> {
    if let Some(committed) = commit_in_tail(path)? {
        return Ok(Some(committed));
    }
    Ok(read(path)?.map(|(committed, _)| committed))
}

fn commit_in_tail(path: &Path) -> io::Result<Option<Committed>> {
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let bytes = file.metadata()?.len();
    file.seek(SeekFrom::Start(bytes.saturating_sub(TAIL_BYTES)))?;
    let mut tail = Vec::new();
    file.read_to_end(&mut tail)?;
    Ok(lines::last_line(&tail).and_then(|(line, chain)| {
        let CommitLine { commit } = serde_json::from_str(line).ok()?;
        let lines = commit.lines;
        Some(Committed {
            workspace: commit.workspace()?,
            end: FileEnd {
                bytes,
                lines,
                chain,
            },
        })
    }))
}

/// Reads the whole file: its last commit, and every entry.
pub(super) fn read(path: &Path) -> io::Result<Option<(Committed, Entries)>> {
    let bytes = lines::read(path)?;
    let mut reader = Reader::new(&bytes);
    let mut entries = Entries::new();
    let mut pending: Vec<Change> = Vec::new();
    let mut committed = None;
    while let Some(line) = reader.line()? {
        match Line::parse(line).map_err(|reason| reader.broken(&reason))? {
            Line::Set(SetLine {
                set: (kind, id),
                offset,
                data,
            }) => pending.push(Change::Set(StoredEntry {
                kind: kind.into(),
                id: id.into(),
                data: Bytes::copy_from_slice(data.get().as_bytes()),
                offset: Offset(offset),
            })),
            Line::Unset(UnsetLine { unset: (kind, id) }) => {
                pending.push(Change::Unset {
                    kind: kind.into(),
                    id: id.into(),
                });
            }
            Line::Commit(commit) => {
                for change in pending.drain(..) {
                    apply(&mut entries, change);
                }
                let workspace = commit.workspace();
                committed = Some(Committed {
                    workspace: workspace
                        .ok_or_else(|| reader.broken(&"its workspace id is not valid"))?,
                    end: reader.end,
                });
            }
        }
    }
    Ok(committed.map(|committed| (committed, entries)))
}

fn apply(entries: &mut Entries, change: Change) {
    match change {
        Change::Set(entry) => drop(entries.insert((entry.kind.clone(), entry.id.clone()), entry)),
        Change::Unset { kind, id } => drop(entries.remove(&(kind, id))),
    }
}

impl Commit {
    fn workspace(self) -> Option<StoredWorkspace> {
        Some(StoredWorkspace {
            id: WorkspaceId::new(&self.workspace_id).ok()?,
            partition: PartitionId(self.partition),
            epoch: Epoch::new(self.epoch),
            owner: self.owner,
            first_offset: Offset(self.first_offset),
            next_offset: Offset(self.next_offset),
            events_applied: self.events_applied,
            entries: self.entries,
            last_load_ms: self.last_load_ms,
            residence: self.residence,
        })
    }

    fn of(workspace: &StoredWorkspace, lines: u64) -> Self {
        Self {
            workspace_id: workspace.id.as_str().to_owned(),
            partition: workspace.partition.0,
            epoch: workspace.epoch.get(),
            owner: workspace.owner.clone(),
            first_offset: workspace.first_offset.0,
            next_offset: workspace.next_offset.0,
            events_applied: workspace.events_applied,
            entries: workspace.entries,
            last_load_ms: workspace.last_load_ms,
            residence: workspace.residence,
            lines,
        }
    }
}

/// Data in a form that fits into one line; `None` if it is not JSON.
pub(super) fn line_data(data: &Bytes) -> Option<Cow<'_, str>> {
    let text = serde_json::from_slice::<&RawValue>(data).ok()?.get();
    // JSON allows line ends only outside strings, where they are white space.
    let one_line = !text.contains(['\n', '\r']);
    Some(if one_line {
        Cow::Borrowed(text)
    } else {
        Cow::Owned(text.replace(['\n', '\r'], " "))
    })
}

/// Adds the line of an entry, whose data is given as [`line_data`].
pub(super) fn push_set(draft: &mut NewLines, entry: &StoredEntry, data: &str) -> io::Result<()> {
    draft.push(&SetLine {
        set: (Cow::Borrowed(&entry.kind), Cow::Borrowed(&entry.id)),
        offset: entry.offset.0,
        data: serde_json::from_str(data)?,
    })
}

/// Adds the line of an entry that was removed.
pub(super) fn push_unset(draft: &mut NewLines, kind: &str, id: &str) -> io::Result<()> {
    draft.push(&UnsetLine {
        unset: (Cow::Borrowed(kind), Cow::Borrowed(id)),
    })
}

/// Ends the changes of a draft with a commit.
pub(super) fn push_commit(draft: &mut NewLines, workspace: &StoredWorkspace) -> io::Result<()> {
    let lines = draft.end.lines + 1;
    draft.push(&CommitLine {
        commit: Commit::of(workspace, lines),
    })
}
