//! The file store: a directory a workspace, with files of JSON lines that people can read.
//!
//! ```text
//! index.jsonl             every workspace, and what is committed of partitions
//! <workspace>/entries.jsonl   changes, closed by commits
//! <workspace>/history.jsonl   transitions
//! ```
//!
//! A save adds its changes and a commit in one write: a crash leaves it whole, or a tail that is cut off at the next
//! save. Files are open only while they are read or written, so that thousands of workspaces need no more handles than
//! one.

mod entries;
mod history;
mod index;
mod lines;
mod names;
mod recovery;

use super::history::Page;
use super::{
    CommitRefused, Deletion, EntrySink, Erasure, HistoryCursor, HistoryPart, HistoryPlace,
    HistoryRecord, Key, Locks, Mutation, StoreError, StoredWorkspace, Table,
};
use crate::disk::{DirLock, DiskError};
use entries::{Committed, Entries};
use index::Index;
use lines::{Damage, FileEnd, NewLines};
use parking_lot::{Mutex, RwLock};
use std::collections::{BTreeSet, HashMap};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use workspace_lifecycle::{Offset, PartitionId};
use workspace_status::{Epoch, WorkspaceId};

/// Files below this size are never compacted.
const MIN_COMPACTED_BYTES: u64 = 1024 * 1024;

/// Lines that a file may hold beside twice its entries before it is compacted.
const EXCESS_LINES: u64 = 1_000;

/// From this many files on, the file system is synced as a whole.
#[cfg(target_os = "linux")]
const MAX_SINGLE_SYNCS: usize = 32;

/// A store in a directory of its own.
#[derive(Debug)]
pub struct FileStore {
    root: PathBuf,
    index: Index,
    locks: Locks,
    /// One a workspace that was touched; as many as there are workspaces.
    files: RwLock<HashMap<WorkspaceId, Arc<Mutex<WorkspaceFiles>>>>,
    /// Directories written since the last sync.
    dirty: Mutex<BTreeSet<PathBuf>>,
    _lock: DirLock,
}

/// What is known of a workspace's files; it can be read again. Locked while they are read or written.
#[derive(Debug, Default)]
struct WorkspaceFiles {
    committed: Option<Committed>,
    history: Option<history::Tail>,
}

impl FileStore {
    /// Opens the store in a directory, and creates it where it does not exist.
    ///
    /// # Errors
    /// [`DiskError`] names the path and says what can be done.
    pub fn open(root: impl AsRef<Path>) -> Result<Self, DiskError> {
        let root = root.as_ref();
        std::fs::create_dir_all(root).map_err(DiskError::io("create", root))?;
        let root = std::path::absolute(root).map_err(DiskError::io("find", root))?;
        let lock = DirLock::acquire(&root)?;
        let store = Self {
            index: Index::open(&root)?,
            locks: Locks::default(),
            files: RwLock::default(),
            dirty: Mutex::default(),
            root,
            _lock: lock,
        };
        store.finish_deletions();
        store.forget_what_was_never_durable()?;
        Ok(store)
    }

    fn files(&self, id: &WorkspaceId) -> Arc<Mutex<WorkspaceFiles>> {
        if let Some(files) = self.files.read().get(id) {
            return Arc::clone(files);
        }
        Arc::clone(self.files.write().entry(id.clone()).or_default())
    }

    /// As [`Self::files`], but nothing is kept for a workspace that is neither listed nor was written to.
    fn files_for_reading(&self, id: &WorkspaceId) -> Arc<Mutex<WorkspaceFiles>> {
        let files = self.files.read().get(id).cloned();
        let listed = || self.index.is_listed(id).then(|| self.files(id));
        files.or_else(listed).unwrap_or_default()
    }

    fn entries_path(&self, id: &WorkspaceId) -> PathBuf {
        names::directory(&self.root, id).join(entries::FILE)
    }

    fn history_path(&self, id: &WorkspaceId) -> PathBuf {
        names::directory(&self.root, id).join(history::FILE)
    }

    /// The last commit of a listed workspace.
    fn last_commit(
        &self,
        id: &WorkspaceId,
        files: &mut WorkspaceFiles,
    ) -> Result<Committed, StoreError> {
        if let Some(committed) = &files.committed {
            return Ok(committed.clone());
        }
        let path = self.entries_path(id);
        let committed = entries::last_commit(&path).map_err(|error| store_error(&path, &error))?;
        let committed = committed.ok_or_else(|| missing(&path))?;
        files.committed = Some(committed.clone());
        Ok(committed)
    }

    fn read_all(&self, id: &WorkspaceId) -> Result<(Committed, Entries), StoreError> {
        let path = self.entries_path(id);
        let read = entries::read(&path).map_err(|error| store_error(&path, &error))?;
        read.ok_or_else(|| missing(&path))
    }

    /// Writes the mutations of one workspace.
    fn commit_one(&self, id: &WorkspaceId, mutations: &[Mutation]) -> Result<(), StoreError> {
        let files = self.files(id);
        let files = &mut *files.lock();
        let mut parts = Vec::new();
        for mutation in mutations {
            if let Mutation::History(part) = mutation {
                parts.push(part);
            }
        }
        if !parts.is_empty() {
            self.write_history(id, files, &parts)?;
        }
        if let Some((Mutation::Workspace(workspace), changes)) = mutations.split_last() {
            self.write_entries(workspace, files, changes)?;
            self.index
                .add(id, workspace.partition)
                .map_err(|error| store_error(self.index.path(), &error))?;
            self.compact(id, files);
        }
        Ok(())
    }

    fn write_entries(
        &self,
        workspace: &StoredWorkspace,
        files: &mut WorkspaceFiles,
        changes: &[Mutation],
    ) -> Result<(), StoreError> {
        let id = &workspace.id;
        let path = self.entries_path(id);
        let failed = |error: io::Error| store_error(&path, &error);
        let end = if self.index.is_listed(id) {
            self.last_commit(id, files)?.end
        } else {
            self.clear_away(id, &path)?;
            create_parent(&path).map_err(failed)?;
            FileEnd::START
        };
        let mut draft = NewLines::after(end);
        for change in changes {
            match change {
                Mutation::Entry(_, entry) => {
                    let Some(data) = entries::line_data(&entry.data) else {
                        let reason = "its data is not JSON".to_owned();
                        return Err(super::refused(&entry.kind, &entry.id, reason));
                    };
                    entries::push_set(&mut draft, entry, &data).map_err(failed)?;
                }
                Mutation::Removed(Key::Entry { kind, entity, .. }) => {
                    entries::push_unset(&mut draft, kind, entity).map_err(failed)?;
                }
                // No claim and no save has them.
                Mutation::Workspace(_)
                | Mutation::Deletion(_)
                | Mutation::History(_)
                | Mutation::Removed(_)
                | Mutation::Damaged(..) => {}
            }
        }
        entries::push_commit(&mut draft, workspace).map_err(failed)?;
        // Where it fails, the file is read again.
        files.committed = None;
        let end = draft.append(&path).map_err(failed)?;
        self.dirty.lock().extend(path.parent().map(Path::to_owned));
        let workspace = workspace.clone();
        files.committed = Some(Committed { workspace, end });
        Ok(())
    }

    fn write_history(
        &self,
        id: &WorkspaceId,
        files: &mut WorkspaceFiles,
        parts: &[&HistoryPart],
    ) -> Result<(), StoreError> {
        let path = self.history_path(id);
        let failed = |error: io::Error| store_error(&path, &error);
        create_parent(&path).map_err(failed)?;
        // Where it fails, the file is read again.
        let tail = match files.history.take() {
            Some(tail) => tail,
            None => history::read(&path, id).map_err(failed)?.0,
        };
        let tail = history::append(&path, id, tail, parts).map_err(failed)?;
        files.history = Some(tail);
        self.dirty.lock().extend(path.parent().map(Path::to_owned));
        Ok(())
    }

    /// Rewrites a file of which more than half is out of date.
    fn compact(&self, id: &WorkspaceId, files: &mut WorkspaceFiles) {
        let is_excessive = files.committed.as_ref().is_some_and(|committed| {
            let needed = committed.workspace.entries * 2 + EXCESS_LINES;
            committed.end.bytes >= MIN_COMPACTED_BYTES && committed.end.lines >= needed
        });
        if !is_excessive {
            return;
        }
        // The save itself is done; what fails here is tried again after the next one. The replacement may have happened
        // and only its sync failed.
        files.committed = None;
        let path = self.entries_path(id);
        let compacted = self
            .read_all(id)
            .and_then(|(Committed { workspace, .. }, entries)| {
                let rewrite = || {
                    let mut draft = NewLines::after(FileEnd::START);
                    for entry in entries.values() {
                        let data = entries::line_data(&entry.data).unwrap_or_default();
                        entries::push_set(&mut draft, entry, &data)?;
                    }
                    entries::push_commit(&mut draft, &workspace)?;
                    draft.replace(&path)
                };
                let end = rewrite().map_err(|error| store_error(&path, &error))?;
                Ok(Committed { workspace, end })
            });
        match compacted {
            Ok(committed) => files.committed = Some(committed),
            Err(error) => {
                tracing::warn!(workspace = %id, %error, "the file of a workspace could not be compacted");
            }
        }
    }

    /// Replaces the file of a workspace by one without entries, durably.
    fn write_reset(&self, workspace: &StoredWorkspace) -> io::Result<FileEnd> {
        let path = self.entries_path(&workspace.id);
        let mut draft = NewLines::after(FileEnd::START);
        entries::push_commit(&mut draft, workspace)?;
        create_parent(&path)?;
        let end = draft.replace(&path)?;
        // The names too, where they are new.
        self.sync_names(path.parent().unwrap_or(&path))?;
        self.index.add(&workspace.id, workspace.partition)?;
        self.index.sync_file()?;
        Ok(end)
    }

    fn sync_dirs(&self, dirs: &BTreeSet<PathBuf>) -> io::Result<()> {
        #[cfg(target_os = "linux")]
        if dirs.len() > MAX_SINGLE_SYNCS {
            return Ok(rustix::fs::syncfs(std::fs::File::open(&self.root)?)?);
        }
        for dir in dirs {
            for file in [entries::FILE, history::FILE] {
                lines::sync(&dir.join(file))?;
            }
            self.sync_names(dir)?;
        }
        Ok(())
    }

    /// Syncs a directory, and those above it up to the root.
    fn sync_names(&self, dir: &Path) -> io::Result<()> {
        let mut dirs = dir.ancestors();
        dirs.try_for_each(|dir| {
            if dir.starts_with(&self.root) {
                lines::sync(dir)
            } else {
                Ok(())
            }
        })
    }
}

impl Table for FileStore {
    const IS_DURABLE: bool = true;

    fn locks(&self) -> &Locks {
        &self.locks
    }

    fn ids_of(&self, partition: PartitionId) -> Vec<WorkspaceId> {
        self.index.of_partition(partition)
    }

    fn stored(&self, id: &WorkspaceId) -> Result<Option<StoredWorkspace>, StoreError> {
        if !self.index.is_listed(id) {
            return Ok(None);
        }
        let files = self.files(id);
        let committed = self.last_commit(id, &mut files.lock())?;
        Ok(Some(committed.workspace))
    }

    fn read(&self, id: &WorkspaceId, sink: EntrySink<'_>) -> Result<StoredWorkspace, StoreError> {
        if !self.index.is_listed(id) {
            return Err(StoreError::UnknownWorkspace(id.clone()));
        }
        let (Committed { workspace, end }, entries) = {
            let files = self.files(id);
            let mut files = files.lock();
            let (committed, entries) = self.read_all(id)?;
            files.committed = Some(committed.clone());
            (committed, entries)
        };
        super::check_entries(&workspace, super::count(entries.len()), || {
            format!("{} line {}", self.entries_path(id).display(), end.lines)
        })?;
        for ((kind, id), entry) in entries {
            sink(entry).map_err(|reason| super::refused(&kind, &id, reason))?;
        }
        Ok(workspace)
    }

    fn deletion(&self, id: &WorkspaceId) -> Option<Deletion> {
        self.index.deletion(id)
    }

    fn deletions_of(&self, partition: PartitionId) -> Vec<Deletion> {
        self.index.deletions(Some(partition))
    }

    fn offset_of(&self, partition: PartitionId) -> Result<Offset, StoreError> {
        Ok(self.index.committed(partition))
    }

    fn transitions(
        &self,
        id: &WorkspaceId,
        after: Option<HistoryCursor>,
        limit: usize,
    ) -> Result<Vec<HistoryRecord>, StoreError> {
        let path = self.history_path(id);
        let files = self.files_for_reading(id);
        let mut files = files.lock();
        let (tail, history) =
            history::read(&path, id).map_err(|error| store_error(&path, &error))?;
        files.history = Some(tail);
        let mut page = Page::new(after, limit);
        for record in history.into_values() {
            page.push(record);
        }
        Ok(page.records())
    }

    fn newest_epoch(&self, id: &WorkspaceId) -> Result<Option<Epoch>, StoreError> {
        let files = self.files_for_reading(id);
        let mut files = files.lock();
        if let Some(tail) = files.history {
            return Ok(tail.newest_epoch());
        }
        let path = self.history_path(id);
        let (tail, _) = history::read(&path, id).map_err(|error| store_error(&path, &error))?;
        files.history = Some(tail);
        Ok(tail.newest_epoch())
    }

    fn history_parts(&self, _: &WorkspaceId) -> Result<Vec<(HistoryPlace, usize)>, StoreError> {
        Ok(Vec::new())
    }

    fn commit(
        &self,
        mutations: &[Mutation],
        committed: &[(PartitionId, Offset)],
    ) -> Result<Vec<CommitRefused>, StoreError> {
        let mut refused = Vec::new();
        for of_workspace in mutations.chunk_by(|a, b| a.workspace() == b.workspace()) {
            let Some(id) = of_workspace.first().map(Mutation::workspace) else {
                continue;
            };
            match self.commit_one(id, of_workspace) {
                Ok(()) => {}
                Err(error @ StoreError::NoSpace(_)) => return Err(error),
                // Each workspace has files of its own: what refuses one does not refuse the next.
                Err(error) => refused.push(CommitRefused {
                    id: id.clone(),
                    error,
                }),
            }
        }
        self.index.commit(committed);
        Ok(refused)
    }

    fn erase(&self, erasure: &Erasure) -> Result<(), StoreError> {
        let id = erasure.workspace();
        let files = self.files(id);
        let mut files = files.lock();
        let failed = |error: io::Error| store_error(self.index.path(), &error);
        // First in the index: it is erased from here on, whatever happens, and what a crash leaves belongs to no
        // workspace.
        match erasure {
            Erasure::Reset(workspace) => {
                files.committed = None;
                let path = self.entries_path(id);
                let end = self
                    .write_reset(workspace)
                    .map_err(|error| store_error(&path, &error))?;
                let workspace = workspace.clone();
                files.committed = Some(Committed { workspace, end });
                return Ok(());
            }
            Erasure::Delete(deletion) => self.index.delete(deletion).map_err(failed)?,
            Erasure::Purge(id) => self.index.purge(id).map_err(failed)?,
        }
        *files = WorkspaceFiles::default();
        self.remove_files(id)?;
        if matches!(erasure, Erasure::Purge(_)) {
            self.files.write().remove(id);
        }
        Ok(())
    }

    fn flush(&self) -> Result<(), StoreError> {
        let sync_workspaces = || {
            let dirs = std::mem::take(&mut *self.dirty.lock());
            let synced = self.sync_dirs(&dirs);
            if synced.is_err() {
                self.dirty.lock().extend(dirs);
            }
            synced
        };
        self.index
            .sync(sync_workspaces)
            .map_err(|error| store_error(self.index.path(), &error))
    }

    fn fatal_error(&self) -> Option<String> {
        None
    }
}

fn create_parent(path: &Path) -> io::Result<()> {
    std::fs::create_dir_all(path.parent().unwrap_or(path))
}

fn missing(path: &Path) -> StoreError {
    StoreError::Corrupt {
        place: path.display().to_string(),
        reason: "it is missing or holds no commit".to_owned(),
    }
}

fn store_error(path: &Path, error: &io::Error) -> StoreError {
    if let Some((place, reason)) = Damage::of(path, error) {
        return StoreError::Corrupt { place, reason };
    }
    let text = format!("{}: {error}", path.display());
    if matches!(
        error.kind(),
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded
    ) {
        return StoreError::NoSpace(text);
    }
    StoreError::Unavailable(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_store_does_what_every_store_must() {
        for (name, case) in crate::store::conformance::CASES {
            println!("{name}");
            let path = tempfile::tempdir().expect("a directory");
            case(&FileStore::open(path.path()).expect("opened"));
        }
    }
}
