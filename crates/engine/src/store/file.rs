//! The file store: a directory a workspace, with files of JSON lines that people can read.
//!
//! ```text
//! index.jsonl             every workspace, and what is committed of partitions
//! <workspace>/entries.jsonl   changes, closed by commits
//! <workspace>/history.jsonl   transitions
//! ```
//!
//! A save adds its changes and a commit in one write: a crash leaves it whole, or a tail that is
//! cut off at the next save. Files are open only while they are read or written, so that thousands
//! of workspaces need no more handles than one.

mod entries;
mod history;
mod index;
mod lines;
mod names;

use super::{
    Change, Claim, Deletion, EntrySink, Erase, HistoryCursor, HistoryRecord, Ownership, Save,
    SaveRefused, SoleOwner, Store, StoreError, StoredWorkspace, epoch_numbering::EpochNumbering,
    fence,
};
use crate::disk::{DirLock, DiskError, aside};
use entries::{End, Entries, ReadFailure};
use index::{Index, OpenFailure};
use lines::{Chain, Draft};
use parking_lot::{Mutex, RwLock};
use std::collections::{BTreeMap, BTreeSet, HashMap};
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
    /// One a workspace that was touched; as many as there are workspaces.
    slots: RwLock<HashMap<WorkspaceId, Arc<Mutex<Slot>>>>,
    /// Directories written since the last sync.
    dirty: Mutex<BTreeSet<PathBuf>>,
    _lock: DirLock,
}

/// What is known of a workspace's files, which can be read again, and of the epochs numbered since the store was opened.
#[derive(Debug, Default)]
struct Slot {
    end: Option<End>,
    history: Option<history::End>,
    epoch_numbering: EpochNumbering,
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
        let index = Index::open(&root).map_err(|failure| open_error(&root, failure))?;
        let store = Self {
            index,
            slots: RwLock::default(),
            dirty: Mutex::default(),
            root,
            _lock: lock,
        };
        store.finish_deletions();
        store
            .forget_what_was_never_durable()
            .map_err(|error| DiskError::Database {
                path: store.root.clone(),
                reason: error.to_string(),
            })?;
        Ok(store)
    }

    /// A crash of the machine may lose a workspace that was listed after the last sync: its events are still in the log.
    fn forget_what_was_never_durable(&self) -> Result<(), StoreError> {
        for id in self.index.unsynced() {
            if matches!(self.read_end(&id), Ok(None)) {
                tracing::warn!(workspace = %id, "a workspace that was never made durable is gone, and will be replayed");
                self.index
                    .remove(&id)
                    .map_err(|error| io_error(&Index::path(&self.root), &error))?;
            }
        }
        Ok(())
    }

    /// What a crash has left of workspaces that were deleted is removed.
    fn finish_deletions(&self) {
        for deletion in self.index.deletions(None) {
            let id = &deletion.id;
            if self.is_listed(id) {
                continue;
            }
            let finished = if self.is_left_over(&deletion) {
                self.remove_files(id)
            } else {
                self.clear_away(id, &self.entries_path(id))
            };
            if let Err(error) = finished {
                tracing::error!(workspace = %id, %error, "a deletion cannot be finished");
            }
        }
    }

    /// Whether what lies in the directory of a workspace is what was deleted, and not what took its name since.
    fn is_left_over(&self, deletion: &Deletion) -> bool {
        let end = self.read_end(&deletion.id);
        end.is_ok_and(|end| end.is_none_or(|end| end.about.epoch <= deletion.epoch))
    }

    fn remove_files(&self, id: &WorkspaceId) -> Result<(), StoreError> {
        let dir = names::directory(&self.root, id);
        match std::fs::remove_dir_all(&dir) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(io_error(&dir, &error)),
            _ => Ok(()),
        }
    }

    /// Checks that nothing stands against an erasure, and tells the last epoch of the history where the file
    /// of the workspace cannot be read.
    fn check_erasure(&self, erase: &Erase, slot: &mut Slot) -> Result<Option<Epoch>, StoreError> {
        let id = &erase.id;
        let (stored, newest) = if self.is_listed(id) {
            match self.end(id, slot) {
                Ok(end) => (Some(end.about), None),
                // An erasure is the way out of damage.
                Err(StoreError::Corrupt { .. }) => {
                    let newest = history::newest_epoch(&self.history_path(id), id);
                    (None, newest.unwrap_or_default())
                }
                Err(error) => return Err(error),
            }
        } else {
            (None, None)
        };
        let deletion = self.index.deletion(id);
        fence::erasable(stored.as_ref(), deletion.as_ref(), erase)?;
        Ok(newest)
    }

    fn slot(&self, id: &WorkspaceId) -> Arc<Mutex<Slot>> {
        if let Some(slot) = self.slots.read().get(id) {
            return Arc::clone(slot);
        }
        Arc::clone(self.slots.write().entry(id.clone()).or_default())
    }

    /// The slot of a workspace that is listed or was written to.
    fn slot_of_known(&self, id: &WorkspaceId) -> Option<Arc<Mutex<Slot>>> {
        let slot = self.slots.read().get(id).cloned();
        slot.or_else(|| self.is_listed(id).then(|| self.slot(id)))
    }

    fn entries_path(&self, id: &WorkspaceId) -> PathBuf {
        names::directory(&self.root, id).join(entries::FILE)
    }

    fn history_path(&self, id: &WorkspaceId) -> PathBuf {
        names::directory(&self.root, id).join(history::FILE)
    }

    fn is_listed(&self, id: &WorkspaceId) -> bool {
        self.index.is_listed(id)
    }

    fn read_end(&self, id: &WorkspaceId) -> Result<Option<End>, StoreError> {
        let path = self.entries_path(id);
        entries::end(&path).map_err(|failure| read_error(&path, failure))
    }

    /// Where a listed workspace stands.
    fn end(&self, id: &WorkspaceId, slot: &mut Slot) -> Result<End, StoreError> {
        if let Some(end) = &slot.end {
            return Ok(end.clone());
        }
        let end = self.read_end(id)?.ok_or_else(|| self.missing(id))?;
        slot.end = Some(end.clone());
        Ok(end)
    }

    /// Makes room for the file of a workspace that is not listed. A claim that a crash cut short leaves a file without
    /// entries; any other is set aside: the index may be older than the directories beside it.
    fn clear_away(&self, id: &WorkspaceId, path: &Path) -> Result<(), StoreError> {
        let bytes = match std::fs::metadata(path) {
            Ok(about) => about.len(),
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(io_error(path, &error)),
        };
        let holds_nothing = bytes == 0
            // What is left of it was to be deleted.
            || self.index.deletion(id).is_some_and(|deletion| self.is_left_over(&deletion))
            || entries::read(path).is_ok_and(|read| {
                read.is_none_or(|(end, entries)| {
                    entries.is_empty() && end.about.events_applied == 0
                })
            });
        if holds_nothing {
            return std::fs::remove_file(path).map_err(|error| io_error(path, &error));
        }
        let copy =
            aside::set_aside(path).map_err(|error| StoreError::Unavailable(error_text(&error)))?;
        tracing::warn!(
            workspace = %id,
            set_aside = %copy.display(),
            "the index does not list the workspace, but its file is there: it is set aside, and the workspace begins anew"
        );
        Ok(())
    }

    fn missing(&self, id: &WorkspaceId) -> StoreError {
        let place = self.entries_path(id).display().to_string();
        StoreError::Corrupt {
            place,
            reason: "it is missing or holds no commit".to_owned(),
        }
    }

    fn read_all(&self, id: &WorkspaceId) -> Result<(End, Entries), StoreError> {
        let path = self.entries_path(id);
        let read = entries::read(&path).map_err(|failure| read_error(&path, failure))?;
        read.ok_or_else(|| self.missing(id))
    }

    /// Writes a draft behind `end`; the slot is read again where that fails.
    fn write(
        &self,
        slot: &mut Slot,
        about: StoredWorkspace,
        end: Option<&End>,
        draft: &Draft,
    ) -> Result<(), StoreError> {
        let path = self.entries_path(&about.id);
        let (bytes, lines) = end.map_or((0, 0), |end| (end.bytes, end.lines));
        if let Err(error) = lines::append(&path, bytes, &draft.bytes) {
            slot.end = None;
            return Err(io_error(&path, &error));
        }
        self.dirty.lock().extend(path.parent().map(Path::to_owned));
        slot.end = Some(End {
            about,
            bytes: bytes + super::count(draft.bytes.len()),
            lines: lines + draft.lines,
            chain: draft.chain,
        });
        Ok(())
    }

    fn append_history_of(
        &self,
        id: &WorkspaceId,
        mut records: Vec<HistoryRecord>,
    ) -> Result<(), StoreError> {
        let slot = self.slot(id);
        let mut slot = slot.lock();
        // Under the lock: a deletion between the check and the write would leave the transitions behind.
        if let Some(deletion) = self.index.deletion(id) {
            records.retain(|record| record.epoch > deletion.epoch);
        }
        if records.is_empty() {
            return Ok(());
        }
        let path = self.history_path(id);
        let dir = path.parent().unwrap_or(&self.root);
        std::fs::create_dir_all(dir).map_err(|error| io_error(dir, &error))?;
        // Where it fails, the file is read again.
        let end = slot.history.take();
        let end = history::append(&path, id, end, &mut slot.epoch_numbering, records)
            .map_err(|failure| read_error(&path, failure))?;
        slot.history = Some(end);
        self.dirty.lock().insert(dir.to_owned());
        Ok(())
    }

    fn save_one(&self, save: &Save) -> Result<(), StoreError> {
        if !self.is_listed(&save.id) {
            return Err(StoreError::UnknownWorkspace(save.id.clone()));
        }
        let slot = self.slot(&save.id);
        let slot = &mut *slot.lock();
        let end = self.end(&save.id, slot)?;
        let about = fence::saved(Some(end.about.clone()), save)?;
        let draft = draft_of(&self.entries_path(&save.id), save, &about, &end)?;
        self.write(slot, about, Some(&end), &draft)?;
        self.compact(&save.id, slot);
        Ok(())
    }

    /// Rewrites a file of which more than half is out of date.
    fn compact(&self, id: &WorkspaceId, slot: &mut Slot) {
        let Some(end) = &slot.end else { return };
        if end.bytes < MIN_COMPACTED_BYTES || end.lines < end.about.entries * 2 + EXCESS_LINES {
            return;
        }
        let path = self.entries_path(id);
        // The save itself is done; what fails here is tried again after the next one.
        let compacted = self.read_all(id).and_then(|(end, entries)| {
            let mut draft = Draft::after(Chain::START);
            let write = |draft: &mut Draft| {
                for entry in entries.into_values() {
                    entries::push_change(draft, &Change::Set(entry))?;
                }
                entries::push_commit(draft, &end.about, 0)?;
                lines::replace(&path, &draft.bytes)
            };
            write(&mut draft).map_err(|error| io_error(&path, &error))?;
            Ok(End {
                bytes: super::count(draft.bytes.len()),
                lines: draft.lines,
                chain: draft.chain,
                ..end
            })
        });
        match compacted {
            Ok(end) => slot.end = Some(end),
            Err(error) => {
                // The replacement may have happened and only its sync failed.
                slot.end = None;
                tracing::warn!(workspace = %id, %error, "the file of a workspace could not be compacted");
            }
        }
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
            // The names too, up to the root.
            for dir in dir
                .ancestors()
                .take_while(|dir| dir.starts_with(&self.root))
            {
                lines::sync(dir)?;
            }
        }
        Ok(())
    }
}

/// The lines of a save in the file at `path`, behind `end`.
fn draft_of(
    path: &Path,
    save: &Save,
    about: &StoredWorkspace,
    end: &End,
) -> Result<Draft, StoreError> {
    let failed = |error: io::Error| io_error(path, &error);
    let mut draft = Draft::after(end.chain);
    for change in &save.changes {
        if let Change::Set(entry) = change
            && entries::line_data(&entry.data).is_none()
        {
            let reason = "its data is not JSON".to_owned();
            return Err(super::refused(&entry.kind, &entry.id, reason));
        }
        entries::push_change(&mut draft, change).map_err(failed)?;
    }
    entries::push_commit(&mut draft, about, end.lines).map_err(failed)?;
    Ok(draft)
}

impl Store for FileStore {
    fn is_durable(&self) -> bool {
        true
    }

    fn ownership(&self) -> &dyn Ownership {
        &SoleOwner
    }

    fn workspaces(&self, partition: PartitionId) -> Result<Vec<StoredWorkspace>, StoreError> {
        let listed = self.index.of_partition(partition);
        let mut found = Vec::with_capacity(listed.len());
        for id in listed {
            let slot = self.slot(&id);
            match self.end(&id, &mut slot.lock()) {
                Ok(end) => found.push(end.about),
                Err(error @ (StoreError::NoSpace(_) | StoreError::Unavailable(_))) => {
                    return Err(error);
                }
                Err(error) => {
                    tracing::error!(workspace = %id, %error, "a workspace in the store is damaged");
                    found.push(super::damaged(id, partition));
                }
            }
        }
        Ok(found)
    }

    fn workspace(&self, id: &WorkspaceId) -> Result<Option<StoredWorkspace>, StoreError> {
        if !self.is_listed(id) {
            return Ok(None);
        }
        let slot = self.slot(id);
        let end = self.end(id, &mut slot.lock())?;
        Ok(Some(end.about))
    }

    fn committed(&self, partition: PartitionId) -> Result<Offset, StoreError> {
        Ok(self.index.committed(partition))
    }

    fn claim(&self, claim: Claim) -> Result<StoredWorkspace, StoreError> {
        let id = claim.id.clone();
        let slot = self.slot(&id);
        let slot = &mut *slot.lock();
        let listed = self.is_listed(&id);
        let path = self.entries_path(&id);
        let end = if listed {
            Some(self.end(&id, slot)?)
        } else {
            self.clear_away(&id, &path)?;
            let dir = path.parent().unwrap_or(&self.root);
            std::fs::create_dir_all(dir).map_err(|error| io_error(&path, &error))?;
            slot.end = None;
            None
        };
        let partition = claim.partition;
        let deletion = self.index.deletion(&id);
        let stored = end.as_ref().map(|end| end.about.clone());
        let about = fence::claimed(stored, deletion.as_ref(), claim)?;
        let (chain, lines) = end
            .as_ref()
            .map_or((Chain::START, 0), |end| (end.chain, end.lines));
        let mut draft = Draft::after(chain);
        entries::push_commit(&mut draft, &about, lines).map_err(|error| io_error(&path, &error))?;
        self.write(slot, about.clone(), end.as_ref(), &draft)?;
        self.index
            .add(&id, partition)
            .map_err(|error| io_error(&Index::path(&self.root), &error))?;
        Ok(about)
    }

    fn load(&self, id: &WorkspaceId, sink: EntrySink<'_>) -> Result<StoredWorkspace, StoreError> {
        if !self.is_listed(id) {
            return Err(StoreError::UnknownWorkspace(id.clone()));
        }
        let (end, entries) = {
            let slot = self.slot(id);
            let mut slot = slot.lock();
            let (end, entries) = self.read_all(id)?;
            slot.end = Some(end.clone());
            (end, entries)
        };
        super::check_entries(&end.about, super::count(entries.len()), || {
            format!("{} line {}", self.entries_path(id).display(), end.lines)
        })?;
        for ((kind, id), entry) in entries {
            sink(entry).map_err(|reason| super::refused(&kind, &id, reason))?;
        }
        Ok(end.about)
    }

    fn save(
        &self,
        saves: &[Save],
        committed: &[(PartitionId, Offset)],
    ) -> Result<Vec<SaveRefused>, StoreError> {
        let mut refused = Vec::new();
        for save in saves {
            match self.save_one(save) {
                Ok(()) => {}
                Err(error @ StoreError::NoSpace(_)) => return Err(error),
                // Each workspace has files of its own: what stands against one does not stand against the next.
                Err(error) => refused.push(SaveRefused {
                    id: save.id.clone(),
                    epoch: save.epoch,
                    error,
                }),
            }
        }
        self.index.commit(committed);
        Ok(refused)
    }

    fn reset(&self, erase: Erase) -> Result<StoredWorkspace, StoreError> {
        let id = erase.id.clone();
        let slot = self.slot(&id);
        let slot = &mut *slot.lock();
        let newest = self.check_erasure(&erase, slot)?;
        let deletion = self.index.deletion(&id);
        let about = fence::emptied(erase, newest, deletion.as_ref());
        let path = self.entries_path(&id);
        let mut draft = Draft::after(Chain::START);
        let write = |draft: &mut Draft| {
            entries::push_commit(draft, &about, 0)?;
            let dir = path.parent().unwrap_or(&self.root);
            std::fs::create_dir_all(dir)?;
            lines::replace(&path, &draft.bytes)?;
            // The names too, where they are new.
            for dir in dir
                .ancestors()
                .take_while(|dir| dir.starts_with(&self.root))
            {
                lines::sync(dir)?;
            }
            self.index.add(&id, about.partition)?;
            self.index.sync()
        };
        if let Err(error) = write(&mut draft) {
            slot.end = None;
            return Err(io_error(&path, &error));
        }
        slot.end = Some(End {
            about: about.clone(),
            bytes: super::count(draft.bytes.len()),
            lines: draft.lines,
            chain: draft.chain,
        });
        Ok(about)
    }

    fn delete(&self, erase: Erase) -> Result<Deletion, StoreError> {
        let id = erase.id.clone();
        let slot = self.slot(&id);
        let mut slot = slot.lock();
        let newest = self.check_erasure(&erase, &mut slot)?;
        let deletion = fence::deletion(erase, newest);
        // It is deleted from here on, whatever happens: what a crash leaves behind is removed at the next start.
        self.index
            .delete(deletion.clone())
            .map_err(|error| io_error(&Index::path(&self.root), &error))?;
        *slot = Slot::default();
        self.remove_files(&id)?;
        Ok(deletion)
    }

    fn deletions(&self, partition: PartitionId) -> Result<Vec<Deletion>, StoreError> {
        Ok(self.index.deletions(Some(partition)))
    }

    fn purge(&self, id: &WorkspaceId) -> Result<(), StoreError> {
        let slot = self.slot(id);
        let mut slot = slot.lock();
        // Off the list first: what a crash leaves behind belongs to no workspace then.
        self.index
            .purge(id)
            .map_err(|error| io_error(&Index::path(&self.root), &error))?;
        self.remove_files(id)?;
        *slot = Slot::default();
        self.slots.write().remove(id);
        Ok(())
    }

    fn append_history(&self, records: Vec<HistoryRecord>) -> Result<(), StoreError> {
        let mut by_workspace: BTreeMap<WorkspaceId, Vec<HistoryRecord>> = BTreeMap::new();
        for record in records {
            by_workspace
                .entry(record.id.clone())
                .or_default()
                .push(record);
        }
        let mut first = Ok(());
        for (id, records) in by_workspace {
            first = first.and(self.append_history_of(&id, records));
        }
        first
    }

    fn history(
        &self,
        id: &WorkspaceId,
        after: Option<HistoryCursor>,
        limit: usize,
    ) -> Result<Vec<HistoryRecord>, StoreError> {
        let path = self.history_path(id);
        let read = || history::read(&path, id).map_err(|failure| read_error(&path, failure));
        let history = match self.slot_of_known(id) {
            Some(slot) => {
                let mut slot = slot.lock();
                let (end, history) = read()?;
                slot.history = Some(end);
                history
            }
            // Nothing is written to its file now, and nothing is kept for whoever asks for it.
            None => read()?.1,
        };
        let behind = history
            .into_iter()
            .filter(|(cursor, _)| after.is_none_or(|after| *cursor > after));
        Ok(behind.take(limit).map(|(_, record)| record).collect())
    }

    fn needs_restart(&self) -> Option<String> {
        None
    }

    fn sync(&self) -> Result<(), StoreError> {
        let pending = self.index.before_sync();
        let dirs = std::mem::take(&mut *self.dirty.lock());
        if let Err(error) = self.sync_dirs(&dirs) {
            self.dirty.lock().extend(dirs);
            return Err(io_error(&self.root, &error));
        }
        let path = Index::path(&self.root);
        self.index
            .synced(pending)
            .map_err(|error| io_error(&path, &error))
    }
}

/// The text of an error with that of its source.
fn error_text(error: &DiskError) -> String {
    match std::error::Error::source(error) {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}

fn io_error(path: &Path, error: &io::Error) -> StoreError {
    if lines::is_shortened(error) {
        return StoreError::Corrupt {
            place: path.display().to_string(),
            reason: error.to_string(),
        };
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

fn read_error(path: &Path, failure: ReadFailure) -> StoreError {
    match failure {
        ReadFailure::Io(error) => io_error(path, &error),
        ReadFailure::Broken(broken) => StoreError::Corrupt {
            place: format!("{} line {}", path.display(), broken.line),
            reason: broken.reason,
        },
    }
}

fn open_error(root: &Path, failure: OpenFailure) -> DiskError {
    let path = Index::path(root);
    match failure {
        OpenFailure::Read(ReadFailure::Io(error)) => DiskError::io("read", &path)(error),
        OpenFailure::Read(ReadFailure::Broken(broken)) => DiskError::Database {
            path: root.to_owned(),
            reason: format!(
                "{} line {} is damaged: {}",
                path.display(),
                broken.line,
                broken.reason
            ),
        },
        OpenFailure::Format(reason) => DiskError::NotADataDirectory {
            path: root.to_owned(),
            reason,
        },
        OpenFailure::Version(found) => DiskError::Version {
            path: root.to_owned(),
            found,
            expected: index::VERSION,
        },
    }
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
