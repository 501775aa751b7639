//! The list of all workspaces of a file store, and the committed offsets of its partitions.
//!
//! A workspace whose directory disappears must not be taken for one that never existed, so each is listed when it is
//! first claimed. A deleted workspace leaves a mark here. A line `synced` means that everything listed before it was
//! made durable; what is listed after it may be missing after a crash of the machine.

use super::entries::ReadFailure;
use super::lines::{self, BrokenLine, Chain, Draft, Reader};
use crate::store::Deletion;
use parking_lot::{Mutex, RwLock};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use workspace_lifecycle::{Offset, PartitionId};
use workspace_status::{Epoch, WorkspaceId};

/// Version of the files of the store.
pub(super) const VERSION: u64 = 1;

const FORMAT: &str = "workspace-engine file store";
const FILE: &str = "index.jsonl";

/// The file is rewritten when it holds this many lines more than twice what its contents need.
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
    Deleted {
        deleted: WorkspaceId,
        partition: u32,
        epoch: u64,
        next_offset: u64,
    },
    Purged {
        purged: WorkspaceId,
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

impl Line {
    fn deleted(deletion: &Deletion) -> Self {
        Self::Deleted {
            deleted: deletion.id.clone(),
            partition: deletion.partition.0,
            epoch: deletion.epoch.get(),
            next_offset: deletion.next_offset.0,
        }
    }
}

/// A listed workspace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Listed {
    partition: PartitionId,
    /// It was made durable after it was listed.
    synced: bool,
}

/// The file and its contents have separate locks: a query of the list does not wait for the disk.
#[derive(Debug)]
pub(super) struct Index {
    /// Held while the file is written. Taken before `contents`, which changes only under it, except `uncommitted`.
    file: Mutex<IndexFile>,
    contents: RwLock<Contents>,
}

#[derive(Debug)]
struct IndexFile {
    path: PathBuf,
    bytes: u64,
    lines: u64,
    chain: Chain,
}

#[derive(Debug, Default)]
struct Contents {
    workspaces: BTreeMap<WorkspaceId, Listed>,
    deletions: BTreeMap<WorkspaceId, Deletion>,
    /// Offsets on disk, as of the last sync; newer ones are in `uncommitted`.
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
        let mut contents = Contents::default();
        let mut reader = Reader::new(&bytes);
        while let Some(line) = reader.line().map_err(ReadFailure::Broken)? {
            let line: Line = serde_json::from_str(line).map_err(|error| {
                ReadFailure::Broken(BrokenLine {
                    line: reader.lines,
                    reason: error.to_string(),
                })
            })?;
            contents.take(line, reader.lines)?;
        }
        let mut file = IndexFile {
            path,
            bytes: reader.read_bytes,
            lines: reader.lines,
            chain: reader.chain,
        };
        if file.lines == 0 {
            if std::fs::read_dir(root)?.any(|entry| entry.is_ok_and(|entry| entry.path().is_dir()))
            {
                return Err(OpenFailure::Format(format!(
                    "it holds directories, but no {FILE}"
                )));
            }
            file.append(&[Line::Format {
                format: FORMAT.to_owned(),
                version: VERSION,
            }])?;
            lines::sync(&file.path)?;
        }
        Ok(Self {
            file: Mutex::new(file),
            contents: RwLock::new(contents),
        })
    }

    pub(super) fn is_listed(&self, id: &WorkspaceId) -> bool {
        self.contents.read().workspaces.contains_key(id)
    }

    /// The workspaces of a partition, ordered by id.
    pub(super) fn of_partition(&self, partition: PartitionId) -> Vec<WorkspaceId> {
        self.listed(|listed| listed.partition == partition)
    }

    /// Workspaces that were listed since the last sync.
    pub(super) fn unsynced(&self) -> Vec<WorkspaceId> {
        self.listed(|listed| !listed.synced)
    }

    fn listed(&self, which: impl Fn(&Listed) -> bool) -> Vec<WorkspaceId> {
        let contents = self.contents.read();
        let found = contents
            .workspaces
            .iter()
            .filter(|(_, listed)| which(listed));
        found.map(|(id, _)| id.clone()).collect()
    }

    /// Lists a workspace in a partition, unless it is already listed there.
    pub(super) fn add(&self, id: &WorkspaceId, partition: PartitionId) -> io::Result<()> {
        let known = self.contents.read().workspaces.get(id).copied();
        if known.is_some_and(|listed| listed.partition == partition) {
            return Ok(());
        }
        let mut file = self.file.lock();
        file.append(&[Line::Known {
            known: id.clone(),
            partition: partition.0,
        }])?;
        self.contents.write().workspaces.insert(
            id.clone(),
            Listed {
                partition,
                synced: false,
            },
        );
        Ok(())
    }

    /// Removes a workspace from the list.
    pub(super) fn remove(&self, id: &WorkspaceId) -> io::Result<()> {
        let mut file = self.file.lock();
        if self.is_listed(id) {
            file.append(&[Line::Gone { gone: id.clone() }])?;
            self.contents.write().workspaces.remove(id);
        }
        Ok(())
    }

    /// Removes a workspace from the list and records the mark of its deletion, durably.
    pub(super) fn delete(&self, deletion: Deletion) -> io::Result<()> {
        let mut file = self.file.lock();
        file.append(&[Line::deleted(&deletion)])?;
        lines::sync(&file.path)?;
        let mut contents = self.contents.write();
        contents.workspaces.remove(&deletion.id);
        contents.deletions.insert(deletion.id.clone(), deletion);
        Ok(())
    }

    /// Removes a workspace and the mark of its deletion.
    pub(super) fn purge(&self, id: &WorkspaceId) -> io::Result<()> {
        let mut file = self.file.lock();
        if self.is_listed(id) || self.deletion(id).is_some() {
            file.append(&[Line::Purged { purged: id.clone() }])?;
            let mut contents = self.contents.write();
            contents.workspaces.remove(id);
            contents.deletions.remove(id);
        }
        Ok(())
    }

    /// The mark of a deleted workspace.
    pub(super) fn deletion(&self, id: &WorkspaceId) -> Option<Deletion> {
        self.contents.read().deletions.get(id).cloned()
    }

    /// The marks of a partition, or of all, ordered by id.
    pub(super) fn deletions(&self, partition: Option<PartitionId>) -> Vec<Deletion> {
        let contents = self.contents.read();
        let marks = contents.deletions.values();
        marks
            .filter(|mark| partition.is_none_or(|partition| mark.partition == partition))
            .cloned()
            .collect()
    }

    /// Syncs the list; the files of the listed workspaces must be durable already.
    pub(super) fn sync(&self) -> io::Result<()> {
        lines::sync(&self.file.lock().path)
    }

    pub(super) fn committed(&self, partition: PartitionId) -> Offset {
        let contents = self.contents.read();
        let newer = contents
            .uncommitted
            .get(&partition)
            .or_else(|| contents.committed.get(&partition));
        newer.copied().unwrap_or_default()
    }

    /// Records committed offsets in memory; they are written when everything below them is durable.
    pub(super) fn commit(&self, committed: &[(PartitionId, Offset)]) {
        self.contents
            .write()
            .uncommitted
            .extend(committed.iter().copied());
    }

    /// What to write after a sync; a snapshot, because more may be listed meanwhile.
    pub(super) fn before_sync(&self) -> Pending {
        let file = self.file.lock();
        Pending {
            committed: self.contents.read().uncommitted.clone(),
            lines: file.lines,
        }
    }

    /// Records that everything up to `pending` is durable.
    pub(super) fn synced(&self, pending: Pending) -> io::Result<()> {
        let mut file = self.file.lock();
        let listed_since = file.lines > pending.lines;
        let Pending { committed, .. } = pending;
        let added = self.contents.read().added(&committed, listed_since);
        if !added.is_empty() {
            file.append(&added)?;
            lines::sync(&file.path)?;
        }
        let excessive = {
            let mut contents = self.contents.write();
            if !listed_since {
                contents.mark_synced();
            }
            for (partition, offset) in committed {
                contents.committed.insert(partition, offset);
                if contents.uncommitted.get(&partition) == Some(&offset) {
                    contents.uncommitted.remove(&partition);
                }
            }
            contents.is_synced() && file.lines >= contents.lines() * 2 + EXCESS_LINES
        };
        if !excessive {
            return Ok(());
        }
        let draft = self.contents.read().draft()?;
        file.replace(&draft)
    }
}

impl IndexFile {
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

    fn replace(&mut self, draft: &Draft) -> io::Result<()> {
        lines::replace(&self.path, &draft.bytes)?;
        self.bytes = crate::store::count(draft.bytes.len());
        self.lines = draft.lines;
        self.chain = draft.chain;
        Ok(())
    }
}

impl Contents {
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
            Line::Deleted {
                deleted,
                partition,
                epoch,
                next_offset,
            } => {
                self.workspaces.remove(&deleted);
                let deletion = Deletion {
                    id: deleted.clone(),
                    partition: PartitionId(partition),
                    epoch: Epoch::new(epoch),
                    next_offset: Offset(next_offset),
                };
                self.deletions.insert(deleted, deletion);
            }
            Line::Purged { purged } => {
                self.workspaces.remove(&purged);
                self.deletions.remove(&purged);
            }
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

    fn mark_synced(&mut self) {
        for listed in self.workspaces.values_mut() {
            listed.synced = true;
        }
    }

    fn is_synced(&self) -> bool {
        self.workspaces.values().all(|listed| listed.synced)
    }

    /// Lines that the contents need.
    fn lines(&self) -> u64 {
        crate::store::count(self.workspaces.len() + self.deletions.len() + self.committed.len())
    }

    /// The lines to write after a sync. If more was listed since it began, the next sync writes the `synced` line.
    fn added(&self, committed: &BTreeMap<PartitionId, Offset>, listed_since: bool) -> Vec<Line> {
        let newer = committed
            .iter()
            .filter(|(partition, offset)| self.committed.get(partition) != Some(offset));
        let mut added: Vec<_> = newer
            .map(|(partition, offset)| Line::Committed {
                committed: partition.0,
                next_offset: offset.0,
            })
            .collect();
        if !listed_since && !self.is_synced() {
            added.push(Line::Synced {
                synced: crate::store::count(self.workspaces.len()),
            });
        }
        added
    }

    /// The contents of a rewritten file.
    fn draft(&self) -> io::Result<Draft> {
        let mut draft = Draft::after(Chain::START);
        draft.push(&Line::Format {
            format: FORMAT.to_owned(),
            version: VERSION,
        })?;
        // Deletions first: a workspace that has since taken a deleted name is listed after its mark.
        for deletion in self.deletions.values() {
            draft.push(&Line::deleted(deletion))?;
        }
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
        Ok(draft)
    }
}

/// What a sync in progress makes durable.
#[derive(Debug)]
pub(super) struct Pending {
    committed: BTreeMap<PartitionId, Offset>,
    lines: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_listed_is_told_while_the_file_is_written() {
        let path = tempfile::tempdir().expect("a directory");
        let index = Index::open(path.path()).expect("opened");
        let id = WorkspaceId::new("acme").expect("valid");
        index.add(&id, PartitionId(1)).expect("listed");
        let _written = index.file.lock();
        assert!(index.is_listed(&id));
        assert_eq!(index.of_partition(PartitionId(1)), [id]);
        index.commit(&[(PartitionId(1), Offset(7))]);
        assert_eq!(index.committed(PartitionId(1)), Offset(7));
    }
}
