//! The file of a workspace: lines of changes, ended by a commit line.
//!
//! Changes that no commit follows do not count. The last commit contains everything of the workspace but its entries,
//! so it is found without reading the whole file.

use super::lines::{self, BrokenLine, Chain, Draft, Reader};
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
use workspace_lifecycle::{Offset, PartitionId};
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
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    unloaded: bool,
    /// Lines of the file up to here, this one included.
    lines: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
fn is_zero(offset: &u64) -> bool {
    *offset == 0
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

/// The end of the file as of its last commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct End {
    pub(super) about: StoredWorkspace,
    /// Bytes up to the end of the last commit.
    pub(super) bytes: u64,
    pub(super) lines: u64,
    pub(super) chain: Chain,
}

pub(super) type Entries = BTreeMap<(Arc<str>, Box<str>), StoredEntry>;

/// Why a file could not be read.
#[derive(Debug)]
pub(super) enum ReadFailure {
    Io(io::Error),
    Broken(BrokenLine),
}

impl From<io::Error> for ReadFailure {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// The end of the file; reads only the tail of the file if that suffices.
pub(super) fn end(path: &Path) -> Result<Option<End>, ReadFailure> {
    if let Some(end) = end_by_tail(path)? {
        return Ok(Some(end));
    }
    Ok(read(path)?.map(|(end, _)| end))
}

fn end_by_tail(path: &Path) -> io::Result<Option<End>> {
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let bytes = file.metadata()?.len();
    file.seek(SeekFrom::Start(bytes.saturating_sub(TAIL_BYTES)))?;
    let mut tail = Vec::new();
    file.read_to_end(&mut tail)?;
    let found = lines::last_line(&tail).and_then(|(line, chain)| {
        let CommitLine { commit } = serde_json::from_str(line).ok()?;
        let lines = commit.lines;
        Some(End {
            about: commit.about()?,
            bytes,
            lines,
            chain,
        })
    });
    Ok(found)
}

/// Reads the whole file: its end, and every entry.
pub(super) fn read(path: &Path) -> Result<Option<(End, Entries)>, ReadFailure> {
    let bytes = lines::read(path)?;
    let mut reader = Reader::new(&bytes);
    let mut entries = Entries::new();
    let mut pending: Vec<Change> = Vec::new();
    let mut end = None;
    while let Some(line) = reader.line().map_err(ReadFailure::Broken)? {
        let broken = |reason: String| {
            ReadFailure::Broken(BrokenLine {
                line: reader.lines,
                reason,
            })
        };
        match Line::parse(line).map_err(broken)? {
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
                let lines = commit.lines;
                let about = commit
                    .about()
                    .ok_or_else(|| broken("its workspace id is not valid".to_owned()))?;
                end = Some(End {
                    about,
                    bytes: reader.read_bytes,
                    lines,
                    chain: reader.chain,
                });
            }
        }
    }
    Ok(end.map(|end| (end, entries)))
}

fn apply(entries: &mut Entries, change: Change) {
    match change {
        Change::Set(entry) => drop(entries.insert((entry.kind.clone(), entry.id.clone()), entry)),
        Change::Unset { kind, id } => drop(entries.remove(&(kind, id))),
    }
}

impl Commit {
    fn about(self) -> Option<StoredWorkspace> {
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
            unloaded: self.unloaded,
        })
    }

    fn of(about: &StoredWorkspace, lines: u64) -> Self {
        Self {
            workspace_id: about.id.as_str().to_owned(),
            partition: about.partition.0,
            epoch: about.epoch.get(),
            owner: about.owner.clone(),
            first_offset: about.first_offset.0,
            next_offset: about.next_offset.0,
            events_applied: about.events_applied,
            entries: about.entries,
            last_load_ms: about.last_load_ms,
            unloaded: about.unloaded,
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

/// Adds the line of a change.
pub(super) fn push_change(draft: &mut Draft, change: &Change) -> io::Result<()> {
    match change {
        Change::Set(entry) => {
            let data = line_data(&entry.data).ok_or_else(|| io::Error::other("it is not JSON"))?;
            draft.push(&SetLine {
                set: (Cow::Borrowed(&entry.kind), Cow::Borrowed(&entry.id)),
                offset: entry.offset.0,
                data: serde_json::from_str(&data)?,
            })
        }
        Change::Unset { kind, id } => draft.push(&UnsetLine {
            unset: (Cow::Borrowed(kind), Cow::Borrowed(id)),
        }),
    }
}

/// Ends the changes of a draft with a commit; `lines` lines precede the draft in the file.
pub(super) fn push_commit(
    draft: &mut Draft,
    about: &StoredWorkspace,
    lines: u64,
) -> io::Result<()> {
    let lines = lines + draft.lines + 1;
    draft.push(&CommitLine {
        commit: Commit::of(about, lines),
    })
}
