//! The list of all workspaces of a file store, and the committed offsets of its partitions.
//!
//! A workspace whose directory disappears must not be taken for one that never existed, so each is listed when it is
//! first claimed. A deleted workspace leaves its deletion mark here. A line `synced` means that everything listed
//! before it was made durable; what is listed after it may be missing after a crash of the machine.

use super::lines::{self, Damage, FileEnd, NewLines, Reader};
use crate::disk::DiskError;
use crate::store::{Deletion, count};
use parking_lot::{Mutex, RwLock};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use workspace_lifecycle::{Offset, PartitionId};
use workspace_status::{Epoch, WorkspaceId};

/// Version of the files of the store.
const VERSION: u64 = 1;

const FORMAT: &str = "workspace-engine file store";
const FILE: &str = "index.jsonl";

/// The file is rewritten when it holds this many lines beside twice those that its contents need.
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
    fn format() -> Self {
        Self::Format {
            format: FORMAT.to_owned(),
            version: VERSION,
        }
    }

    fn known(id: &WorkspaceId, partition: PartitionId) -> Self {
        Self::Known {
            known: id.clone(),
            partition: partition.0,
        }
    }

    fn committed(partition: PartitionId, next_offset: Offset) -> Self {
        Self::Committed {
            committed: partition.0,
            next_offset: next_offset.0,
        }
    }

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
    path: PathBuf,
    /// Held while the file is written. Taken before `contents`, which changes only under it, except `committed`.
    end: Mutex<FileEnd>,
    contents: RwLock<Contents>,
}

#[derive(Debug, Default)]
struct Contents {
    workspaces: BTreeMap<WorkspaceId, Listed>,
    deletions: BTreeMap<WorkspaceId, Deletion>,
    committed: BTreeMap<PartitionId, Offset>,
    /// The committed offsets in the file, as of the last sync.
    written: BTreeMap<PartitionId, Offset>,
}

impl Index {
    pub(super) fn open(root: &Path) -> Result<Self, DiskError> {
        let path = root.join(FILE);
        let unreadable = |error| match Damage::of(&path, &error) {
            Some((place, reason)) => DiskError::Database {
                path: root.to_owned(),
                reason: format!("{place} is damaged: {reason}"),
            },
            None => DiskError::io("read", &path)(error),
        };
        let unknown = |reason| DiskError::NotADataDirectory {
            path: root.to_owned(),
            reason,
        };
        let bytes = lines::read(&path).map_err(unreadable)?;
        let mut contents = Contents::default();
        let mut reader = Reader::new(&bytes);
        let end = match reader.parse().map_err(unreadable)? {
            None if has_directory(root).map_err(unreadable)? => {
                return Err(unknown(format!("it holds directories, but no {FILE}")));
            }
            None => {
                let mut draft = NewLines::after(FileEnd::START);
                let written = draft.push(&Line::format()).and_then(|()| {
                    let end = draft.append(&path)?;
                    lines::sync(&path)?;
                    Ok(end)
                });
                written.map_err(unreadable)?
            }
            Some(Line::Format { format, version }) if format == FORMAT => {
                if version != VERSION {
                    return Err(DiskError::Version {
                        path: root.to_owned(),
                        found: version,
                        expected: VERSION,
                    });
                }
                while let Some(line) = reader.parse().map_err(unreadable)? {
                    contents.take(line);
                }
                reader.end
            }
            Some(_) => return Err(unknown(format!("{FILE} does not name its format"))),
        };
        contents.written.clone_from(&contents.committed);
        Ok(Self {
            path,
            end: Mutex::new(end),
            contents: RwLock::new(contents),
        })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
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
        self.append(&mut self.end.lock(), vec![Line::known(id, partition)])
    }

    /// Removes a workspace from the list.
    pub(super) fn remove(&self, id: &WorkspaceId) -> io::Result<()> {
        self.append(&mut self.end.lock(), vec![Line::Gone { gone: id.clone() }])
    }

    /// Removes a workspace from the list and records its deletion mark, durably.
    pub(super) fn delete(&self, deletion: &Deletion) -> io::Result<()> {
        self.append(&mut self.end.lock(), vec![Line::deleted(deletion)])?;
        self.sync_file()
    }

    /// Removes a workspace and its deletion mark.
    pub(super) fn purge(&self, id: &WorkspaceId) -> io::Result<()> {
        if !self.is_listed(id) && self.deletion(id).is_none() {
            return Ok(());
        }
        let purged = id.clone();
        self.append(&mut self.end.lock(), vec![Line::Purged { purged }])
    }

    fn append(&self, end: &mut FileEnd, added: Vec<Line>) -> io::Result<()> {
        let mut draft = NewLines::after(*end);
        for line in &added {
            draft.push(line)?;
        }
        *end = draft.append(&self.path)?;
        let mut contents = self.contents.write();
        for line in added {
            contents.take(line);
        }
        Ok(())
    }

    /// The deletion mark of a workspace.
    pub(super) fn deletion(&self, id: &WorkspaceId) -> Option<Deletion> {
        self.contents.read().deletions.get(id).cloned()
    }

    /// The deletion marks of a partition, or of all, ordered by id.
    pub(super) fn deletions(&self, partition: Option<PartitionId>) -> Vec<Deletion> {
        let contents = self.contents.read();
        let deletions = contents.deletions.values();
        deletions
            .filter(|deletion| partition.is_none_or(|partition| deletion.partition == partition))
            .cloned()
            .collect()
    }

    /// Syncs the file of the list; the files of the listed workspaces must be durable already.
    pub(super) fn sync_file(&self) -> io::Result<()> {
        lines::sync(&self.path)
    }

    pub(super) fn committed(&self, partition: PartitionId) -> Offset {
        let contents = self.contents.read();
        contents
            .committed
            .get(&partition)
            .copied()
            .unwrap_or_default()
    }

    /// Records committed offsets in memory; they are written when everything below them is durable.
    pub(super) fn commit(&self, committed: &[(PartitionId, Offset)]) {
        let mut contents = self.contents.write();
        contents.committed.extend(committed.iter().copied());
    }

    /// Records that everything up to now is durable, after `sync_workspaces` has made it so.
    pub(super) fn sync(&self, sync_workspaces: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
        let (lines, committed) = {
            let end = self.end.lock();
            (end.lines, self.contents.read().committed.clone())
        };
        sync_workspaces()?;
        let mut end = self.end.lock();
        let listed_since = end.lines > lines;
        let added = self.contents.read().unwritten(&committed, listed_since);
        if !added.is_empty() {
            let mut draft = NewLines::after(*end);
            for line in &added {
                draft.push(line)?;
            }
            *end = draft.append(&self.path)?;
            self.sync_file()?;
        }
        let rewritten = {
            let mut contents = self.contents.write();
            contents.written = committed;
            if !listed_since {
                contents.mark_synced();
            }
            let is_excessive = end.lines >= contents.lines() * 2 + EXCESS_LINES;
            (is_excessive && contents.is_synced()).then(|| contents.draft())
        };
        if let Some(draft) = rewritten {
            *end = draft?.replace(&self.path)?;
        }
        Ok(())
    }
}

fn has_directory(root: &Path) -> io::Result<bool> {
    let mut entries = std::fs::read_dir(root)?;
    Ok(entries.any(|entry| entry.is_ok_and(|entry| entry.path().is_dir())))
}

impl Contents {
    fn take(&mut self, line: Line) {
        match line {
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
        count(self.workspaces.len() + self.deletions.len() + self.written.len())
    }

    /// The lines to write after a sync. If more was listed since it began, the next sync writes the `synced` line.
    fn unwritten(
        &self,
        committed: &BTreeMap<PartitionId, Offset>,
        listed_since: bool,
    ) -> Vec<Line> {
        let newer = committed
            .iter()
            .filter(|(partition, offset)| self.written.get(partition) != Some(offset));
        let mut added: Vec<_> = newer
            .map(|(partition, offset)| Line::committed(*partition, *offset))
            .collect();
        if !listed_since && !self.is_synced() {
            added.push(self.synced());
        }
        added
    }

    fn synced(&self) -> Line {
        Line::Synced {
            synced: count(self.workspaces.len()),
        }
    }

    /// The contents of a rewritten file.
    fn draft(&self) -> io::Result<NewLines> {
        let mut draft = NewLines::after(FileEnd::START);
        draft.push(&Line::format())?;
        // Deletions first: a workspace that has since taken a deleted name is listed after its deletion mark.
        for deletion in self.deletions.values() {
            draft.push(&Line::deleted(deletion))?;
        }
        for (id, listed) in &self.workspaces {
            draft.push(&Line::known(id, listed.partition))?;
        }
        draft.push(&self.synced())?;
        for (partition, offset) in &self.written {
            draft.push(&Line::committed(*partition, *offset))?;
        }
        Ok(draft)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_is_answered_while_the_file_is_written() {
        let path = tempfile::tempdir().expect("a directory");
        let index = Index::open(path.path()).expect("opened");
        let id = WorkspaceId::new("acme").expect("valid");
        index.add(&id, PartitionId(1)).expect("listed");
        let _written = index.end.lock();
        assert!(index.is_listed(&id));
        assert_eq!(index.of_partition(PartitionId(1)), [id]);
        index.commit(&[(PartitionId(1), Offset(7))]);
        assert_eq!(index.committed(PartitionId(1)), Offset(7));
    }
}
