//! Sets aside the copy of a partition that cannot be used any more but may hold what its changelog does not: as
//! readable files, in the directory of the copy.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::time::Instant;

use workspace_engine_core::store::{
    Change, Claim, FileStore, HistoryCursor, LsmStore, Save, Store, StoreError, StoredWorkspace,
};
use workspace_lifecycle::PartitionId;

use super::lineage::Unusable;
use crate::clock::now_ms;
use crate::copy_source::topic_of;

/// Directory, within that of the copy, of what was set aside.
const DIRECTORY: &str = "set-aside";

/// Suffix of a directory that is not complete yet.
const UNFINISHED: &str = ".unfinished";

/// Transitions of a history that are copied at a time.
const HISTORY_PAGE: usize = 1_000;

/// A partition that is being set aside.
pub(super) struct SettingAside {
    store: FileStore,
    unfinished: PathBuf,
    finished: PathBuf,
    waiting: VecDeque<StoredWorkspace>,
}

impl SettingAside {
    /// Begins to set a partition aside; none where the copy has no workspace of it.
    pub(super) fn begin(
        copy: &LsmStore,
        changelog: &str,
        partition: PartitionId,
        reason: Unusable,
    ) -> Result<Option<Self>, StoreError> {
        let waiting = VecDeque::from(copy.workspaces(partition)?);
        if waiting.is_empty() {
            return Ok(None);
        }
        tracing::error!(
            %partition,
            changelog,
            workspaces = waiting.len(),
            "the copy of the partition on this disk is not used: {reason}; it is set aside"
        );
        let position = copy.copy_position(partition)?;
        // The copy may be of another group's changelog.
        let source = position
            .as_ref()
            .and_then(|position| topic_of(&position.source));
        let beginning = name(source.unwrap_or(changelog), partition);
        let directory = copy.directory().join(DIRECTORY);
        for entry in std::fs::read_dir(&directory)
            .into_iter()
            .flatten()
            .flatten()
        {
            let name = entry.file_name();
            let name = name.to_string_lossy();
            if name.starts_with(&beginning) && name.ends_with(UNFINISHED) {
                // An interrupted attempt; all that it holds is still in the copy.
                let _ = std::fs::remove_dir_all(entry.path());
            }
        }
        let name = format!("{beginning}{}", now_ms());
        let unfinished = directory.join(format!("{name}{UNFINISHED}"));
        let store = FileStore::open(&unfinished)
            .map_err(|error| StoreError::Unavailable(error.to_string()))?;
        Ok(Some(Self {
            store,
            unfinished,
            finished: directory.join(name),
            waiting,
        }))
    }

    /// Continues until the deadline. Returns true once the directory is complete.
    pub(super) fn step(&mut self, copy: &LsmStore, until: Instant) -> Result<bool, StoreError> {
        while let Some(workspace) = self.waiting.front() {
            if Instant::now() >= until {
                return Ok(false);
            }
            match copy_workspace(copy, &self.store, workspace) {
                Err(error @ StoreError::Corrupt { .. }) => {
                    tracing::error!(workspace = %workspace.id, %error, "a workspace that is set aside is damaged: the rest of it is left out");
                }
                other => other?,
            }
            self.waiting.pop_front();
        }
        self.store.sync()?;
        std::fs::rename(&self.unfinished, &self.finished).map_err(|error| {
            let (from, to) = (self.unfinished.display(), self.finished.display());
            StoreError::Unavailable(format!("cannot rename {from} to {to}: {error}"))
        })?;
        tracing::error!(
            directory = %self.finished.display(),
            "the copy of the partition was set aside; remove it when it is not needed"
        );
        Ok(true)
    }
}

/// Whether a copy of a partition of the changelog was set aside on this disk.
pub(super) fn exists(copy: &LsmStore, changelog: &str, partition: PartitionId) -> bool {
    let Ok(entries) = std::fs::read_dir(copy.directory().join(DIRECTORY)) else {
        return false;
    };
    let beginning = name(changelog, partition);
    entries.flatten().any(|entry| {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        name.starts_with(&beginning) && !name.ends_with(UNFINISHED)
    })
}

/// The prefix of the directory names of a partition.
fn name(changelog: &str, partition: PartitionId) -> String {
    format!("{changelog}-partition-{partition}-")
}

fn copy_workspace(
    copy: &LsmStore,
    to: &FileStore,
    workspace: &StoredWorkspace,
) -> Result<(), StoreError> {
    let id = &workspace.id;
    to.claim(Claim {
        id: id.clone(),
        partition: workspace.partition,
        epoch: workspace.epoch,
        owner: workspace.owner.clone(),
        first_offset: workspace.first_offset,
    })?;
    let mut changes = Vec::new();
    copy.load(id, &mut |entry| {
        changes.push(Change::Set(entry));
        Ok(())
    })?;
    let refused = to.save(
        &[Save {
            id: id.clone(),
            epoch: workspace.epoch,
            next_offset: workspace.next_offset,
            events_applied: workspace.events_applied,
            entries: workspace.entries,
            changes,
            last_load_ms: workspace.last_load_ms,
            residence: workspace.residence,
            only_offset: None,
        }],
        &[],
    )?;
    if let Some(refused) = refused.into_iter().next() {
        return Err(refused.error);
    }
    let mut after: Option<HistoryCursor> = None;
    loop {
        let page = copy.history(id, after, HISTORY_PAGE)?;
        let Some(last) = page.last() else {
            return Ok(());
        };
        after = Some(last.cursor());
        to.append_history(page)?;
    }
}
