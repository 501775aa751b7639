//! What a crash has left: unfinished deletions, workspaces that were never durable, files that the index does not list.

use super::{FileStore, entries, names, store_error};
use crate::disk::{DiskError, aside};
use crate::store::{Deletion, StoreError};
use std::io::ErrorKind;
use std::path::Path;
use workspace_status::WorkspaceId;

impl FileStore {
    /// A crash of the machine may lose a workspace that was listed after the last sync: its events are still in the log.
    pub(super) fn forget_what_was_never_durable(&self) -> Result<(), DiskError> {
        for id in self.index.unsynced() {
            if matches!(entries::last_commit(&self.entries_path(&id)), Ok(None)) {
                tracing::warn!(workspace = %id, "a workspace that was never made durable does not exist, and is replayed");
                let path = self.index.path();
                self.index
                    .remove(&id)
                    .map_err(DiskError::io("write", path))?;
            }
        }
        Ok(())
    }

    /// What a crash has left of workspaces that were deleted is removed.
    pub(super) fn finish_deletions(&self) {
        for deletion in self.index.deletions(None) {
            let id = &deletion.id;
            if self.index.is_listed(id) {
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

    /// Whether what is in the directory of a workspace is what was deleted, and not what took its name since.
    fn is_left_over(&self, deletion: &Deletion) -> bool {
        let committed = entries::last_commit(&self.entries_path(&deletion.id));
        committed.is_ok_and(|committed| {
            committed.is_none_or(|committed| committed.workspace.epoch <= deletion.epoch)
        })
    }

    pub(super) fn remove_files(&self, id: &WorkspaceId) -> Result<(), StoreError> {
        let dir = names::directory(&self.root, id);
        match std::fs::remove_dir_all(&dir) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(store_error(&dir, &error)),
            _ => Ok(()),
        }
    }

    /// Makes room for the file of a workspace that is not listed. A claim that a crash cut short leaves a file without
    /// entries; any other is set aside: the index may be older than the directories beside it.
    pub(super) fn clear_away(&self, id: &WorkspaceId, path: &Path) -> Result<(), StoreError> {
        let bytes = match std::fs::metadata(path) {
            Ok(about) => about.len(),
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(store_error(path, &error)),
        };
        let holds_nothing = bytes == 0
            // What is left of it was to be deleted.
            || self.index.deletion(id).is_some_and(|deletion| self.is_left_over(&deletion))
            || entries::read(path).is_ok_and(|read| {
                read.is_none_or(|(committed, entries)| {
                    entries.is_empty() && committed.workspace.events_applied == 0
                })
            });
        if holds_nothing {
            return std::fs::remove_file(path).map_err(|error| store_error(path, &error));
        }
        let copy =
            aside::set_aside(path).map_err(|error| StoreError::Unavailable(error_text(&error)))?;
        tracing::warn!(
            workspace = %id,
            set_aside = %copy.display(),
            "the index does not list the workspace, but its file exists: it is set aside, and the workspace begins empty"
        );
        Ok(())
    }
}

/// The text of an error with that of its source.
fn error_text(error: &DiskError) -> String {
    match std::error::Error::source(error) {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}
