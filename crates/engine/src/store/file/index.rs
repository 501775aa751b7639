//! The list of all workspaces of a file store, and the offsets committed of its partitions.
//!
//! A workspace whose directory disappears must not be taken for one that never was, so each is
//! listed when it is first claimed. A line `synced` tells that everything listed before it was
//! made durable; what is listed after it may be missing after a crash of the machine.

use super::entries::ReadFailure;
use super::lines::{self, BrokenLine, Chain, Draft, Reader};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use workspace_lifecycle::{Offset, PartitionId};
use workspace_status::WorkspaceId;

/// Version of the files of the store.
pub(super) const VERSION: u64 = 1;

const FORMAT: &str = "workspace-engine file store";
const FILE: &str = "index.jsonl";

/// The file is rewritten when it holds this many lines more than twice what it tells.
const EXCESS_LINES: u64 = 10_000;

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", untagged)]
enum Line {
    Format {
        format: String,
        version: u64,
    },
    Known {
        known: WorkspaceId,
        partition: u32,
    },
    Gone {
        gone: WorkspaceId,
    },
    #[serde(rename_all = "camelCase")]
    Committed {
        committed: u32,
        next_offset: u64,
    },
    Synced {
        synced: u64,
    },
}

/// A listed workspace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Listed {
    pub(super) partition: PartitionId,
    /// It was made durable since it was listed.
    pub(super) synced: bool,
}

#[derive(Debug)]
pub(super) struct Index {
    path: PathBuf,
    bytes: u64,
    lines: u64,
    chain: Chain,
    pub(super) workspaces: BTreeMap<WorkspaceId, Listed>,
    /// As of the last sync, on disk; newer ones are in `uncommitted`.
    committed: BTreeMap<PartitionId, Offset>,
    uncommitted: BTreeMap<PartitionId, Offset>,
}

/// Why an index cannot be used.
#[derive(Debug)]
pub(super) enum OpenFailure {
    Read(ReadFailure),
    Format(String),
    Version(u64),
}

impl From<ReadFailure> for OpenFailure {
    fn from(failure: ReadFailure) -> Self {
        Self::Read(failure)
    }
}

impl From<io::Error> for OpenFailure {
    fn from(error: io::Error) -> Self {
        Self::Read(ReadFailure::Io(error))
    }
}

impl Index {
    pub(super) fn path(root: &Path) -> PathBuf {
        root.join(FILE)
    }

    pub(super) fn open(root: &Path) -> Result<Self, OpenFailure> {
        let path = Self::path(root);
        let bytes = lines::read(&path)?;
        let mut index = Self {
            path,
            bytes: 0,
            lines: 0,
            chain: Chain::START,
            workspaces: BTreeMap::new(),
            committed: BTreeMap::new(),
            uncommitted: BTreeMap::new(),
        };
        let mut reader = Reader::new(&bytes);
        while let Some(line) = reader.line().map_err(ReadFailure::Broken)? {
            let line: Line = serde_json::from_str(line).map_err(|error| {
                ReadFailure::Broken(BrokenLine {
                    line: reader.lines,
                    reason: error.to_string(),
                })
            })?;
            index.take(line, reader.lines)?;
        }
        (index.bytes, index.lines, index.chain) = (reader.read_bytes, reader.lines, reader.chain);
        if index.lines == 0 {
            if std::fs::read_dir(root)?.any(|entry| entry.is_ok_and(|entry| entry.path().is_dir()))
            {
                return Err(OpenFailure::Format(format!(
                    "it holds directories, but no {FILE}"
                )));
            }
            index.append(&[Line::Format {
                format: FORMAT.to_owned(),
                version: VERSION,
            }])?;
            lines::sync(&index.path)?;
        }
        Ok(index)
    }

    fn take(&mut self, line: Line, number: u64) -> Result<(), OpenFailure> {
        match line {
            Line::Format { format, version } if number == 1 && format == FORMAT => {
                return if version == VERSION {
                    Ok(())
                } else {
                    Err(OpenFailure::Version(version))
                };
            }
            _ if number == 1 => {
                return Err(OpenFailure::Format(format!(
                    "{FILE} does not tell its format"
                )));
            }
            Line::Format { .. } => {}
            Line::Known { known, partition } => {
                self.workspaces.insert(
                    known,
                    Listed {
                        partition: PartitionId(partition),
                        synced: false,
                    },
                );
            }
            Line::Gone { gone } => drop(self.workspaces.remove(&gone)),
            Line::Committed {
                committed,
                next_offset,
            } => {
                self.committed
                    .insert(PartitionId(committed), Offset(next_offset));
            }
            Line::Synced { .. } => self.mark_synced(),
        }
        Ok(())
    }

    fn append(&mut self, added: &[Line]) -> io::Result<()> {
        let mut draft = Draft::after(self.chain);
        for line in added {
            draft.push(line)?;
        }
        lines::append(&self.path, self.bytes, &draft.bytes)?;
        self.bytes += crate::store::count(draft.bytes.len());
        self.lines += draft.lines;
        self.chain = draft.chain;
        Ok(())
    }

    /// Lists a workspace.
    pub(super) fn add(&mut self, id: &WorkspaceId, partition: PartitionId) -> io::Result<()> {
        self.append(&[Line::Known {
            known: id.clone(),
            partition: partition.0,
        }])?;
        self.workspaces.insert(
            id.clone(),
            Listed {
                partition,
                synced: false,
            },
        );
        Ok(())
    }

    /// Takes a workspace off the list.
    pub(super) fn remove(&mut self, id: &WorkspaceId) -> io::Result<()> {
        if self.workspaces.contains_key(id) {
            self.append(&[Line::Gone { gone: id.clone() }])?;
            self.workspaces.remove(id);
        }
        Ok(())
    }

    pub(super) fn committed(&self, partition: PartitionId) -> Offset {
        let newer = self
            .uncommitted
            .get(&partition)
            .or_else(|| self.committed.get(&partition));
        newer.copied().unwrap_or_default()
    }

    /// Remembers what is committed; it is written when everything below it is durable.
    pub(super) fn commit(&mut self, committed: &[(PartitionId, Offset)]) {
        self.uncommitted.extend(committed.iter().copied());
    }

    /// What is to be written after a sync; a snapshot, because more may be listed meanwhile.
    pub(super) fn before_sync(&self) -> Pending {
        Pending {
            committed: self.uncommitted.clone(),
            lines: self.lines,
        }
    }

    /// Notes that everything up to `pending` is durable.
    pub(super) fn synced(&mut self, pending: Pending) -> io::Result<()> {
        let listed_since = self.lines > pending.lines;
        let Pending { committed, .. } = pending;
        let mut added: Vec<_> = committed
            .iter()
            .filter(|(partition, offset)| self.committed.get(partition) != Some(offset))
            .map(|(partition, offset)| Line::Committed {
                committed: partition.0,
                next_offset: offset.0,
            })
            .collect();
        // Where more was listed since, the next sync marks it.
        if !listed_since && self.workspaces.values().any(|listed| !listed.synced) {
            added.push(Line::Synced {
                synced: crate::store::count(self.workspaces.len()),
            });
        }
        if !added.is_empty() {
            self.append(&added)?;
            lines::sync(&self.path)?;
        }
        if !listed_since {
            self.mark_synced();
        }
        for (partition, offset) in committed {
            self.committed.insert(partition, offset);
            if self.uncommitted.get(&partition) == Some(&offset) {
                self.uncommitted.remove(&partition);
            }
        }
        self.compact()
    }

    fn mark_synced(&mut self) {
        for listed in self.workspaces.values_mut() {
            listed.synced = true;
        }
    }

    fn compact(&mut self) -> io::Result<()> {
        let told = crate::store::count(self.workspaces.len() + self.committed.len());
        if self.lines < told * 2 + EXCESS_LINES
            || self.workspaces.values().any(|listed| !listed.synced)
        {
            return Ok(());
        }
        let mut draft = Draft::after(Chain::START);
        draft.push(&Line::Format {
            format: FORMAT.to_owned(),
            version: VERSION,
        })?;
        for (id, listed) in &self.workspaces {
            draft.push(&Line::Known {
                known: id.clone(),
                partition: listed.partition.0,
            })?;
        }
        draft.push(&Line::Synced {
            synced: crate::store::count(self.workspaces.len()),
        })?;
        for (partition, offset) in &self.committed {
            draft.push(&Line::Committed {
                committed: partition.0,
                next_offset: offset.0,
            })?;
        }
        lines::replace(&self.path, &draft.bytes)?;
        (self.bytes, self.lines, self.chain) = (
            crate::store::count(draft.bytes.len()),
            draft.lines,
            draft.chain,
        );
        Ok(())
    }
}

/// What a sync under way will have made durable.
#[derive(Debug)]
pub(super) struct Pending {
    committed: BTreeMap<PartitionId, Offset>,
    lines: u64,
}
