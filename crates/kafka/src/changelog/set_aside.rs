//! Keeps the copy of a partition that cannot be used any more, and holds what its changelog does not: as files that people
//! can read, in the directory of the copy.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::time::Instant;

use workspace_engine_core::store::{
    Change, Claim, FileStore, HistoryCursor, LsmStore, Save, Store, StoreError, StoredWorkspace,
};
use workspace_lifecycle::PartitionId;

use super::lineage::topic_of;
use super::now_ms;

/// Directory of what was set aside within that of the copy.
const DIRECTORY: &str = "set-aside";

/// Behind the name of one that is not whole yet.
const UNFINISHED: &str = ".unfinished";

/// Transitions that are copied at a time.
const TRANSITIONS: usize = 1_000;

/// A copy of a partition on its way aside.
pub(super) struct SettingAside {
    store: FileStore,
    unfinished: PathBuf,
    finished: PathBuf,
    waiting: VecDeque<StoredWorkspace>,
    workspaces: usize,
}

impl SettingAside {
    /// Begins with a partition; none where the copy has no workspace of it.
    pub(super) fn begin(
        cache: &LsmStore,
        changelog: &str,
        partition: PartitionId,
    ) -> Result<Option<Self>, StoreError> {
        let waiting = VecDeque::from(cache.workspaces(partition)?);
        if waiting.is_empty() {
            return Ok(None);
        }
        let place = cache.cached_place(partition)?;
        // It may be a copy of what another group has.
        let source = place.as_ref().and_then(|place| topic_of(&place.source));
        let beginning = name(source.unwrap_or(changelog), partition);
        let directory = cache.directory().join(DIRECTORY);
        for entry in std::fs::read_dir(&directory)
            .into_iter()
            .flatten()
            .flatten()
        {
            let name = entry.file_name();
            let name = name.to_string_lossy();
            if name.starts_with(&beginning) && name.ends_with(UNFINISHED) {
                // It was interrupted; all that it held is still in the copy.
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
            workspaces: waiting.len(),
            waiting,
        }))
    }

    /// Goes on until then. Tells where it is once it is whole.
    pub(super) fn step(
        &mut self,
        cache: &LsmStore,
        until: Instant,
    ) -> Result<Option<&Path>, StoreError> {
        while let Some(workspace) = self.waiting.front() {
            if Instant::now() >= until {
                return Ok(None);
            }
            match copy(cache, &self.store, workspace) {
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
        Ok(Some(&self.finished))
    }

    /// How many workspaces it has.
    pub(super) fn workspaces(&self) -> usize {
        self.workspaces
    }

    /// How many of them are copied.
    pub(super) fn done(&self) -> usize {
        self.workspaces - self.waiting.len()
    }
}

/// Whether a copy of a partition of the changelog was set aside on this disk.
pub(super) fn is_there(cache: &LsmStore, changelog: &str, partition: PartitionId) -> bool {
    let Ok(entries) = std::fs::read_dir(cache.directory().join(DIRECTORY)) else {
        return false;
    };
    let beginning = name(changelog, partition);
    entries.flatten().any(|entry| {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        name.starts_with(&beginning) && !name.ends_with(UNFINISHED)
    })
}

/// What the names of those of a partition begin with.
fn name(changelog: &str, partition: PartitionId) -> String {
    format!("{changelog}-partition-{partition}-")
}

fn copy(cache: &LsmStore, to: &FileStore, workspace: &StoredWorkspace) -> Result<(), StoreError> {
    let id = &workspace.id;
    to.claim(Claim {
        id: id.clone(),
        partition: workspace.partition,
        epoch: workspace.epoch,
        owner: workspace.owner.clone(),
        first_offset: workspace.first_offset,
    })?;
    let mut changes = Vec::new();
    cache.load(id, &mut |entry| {
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
            unloaded: workspace.unloaded,
            only_offset: None,
        }],
        &[],
    )?;
    if let Some(refused) = refused.into_iter().next() {
        return Err(refused.error);
    }
    let mut after: Option<HistoryCursor> = None;
    loop {
        let page = cache.history(id, after, TRANSITIONS)?;
        let Some(last) = page.last() else {
            return Ok(());
        };
        after = Some((last.epoch, last.sequence));
        to.append_history(page)?;
    }
}
