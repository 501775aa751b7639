//! The history of every workspace, in parts.

use super::{corrupt, layout, read_error};
use crate::disk::{DataDir, DiskError};
use crate::store::history::Page;
use crate::store::{HistoryCursor, HistoryPlace, HistoryRecord, StoreError};
use fjall::{Keyspace, KeyspaceCreateOptions};
use workspace_status::{Epoch, WorkspaceId};

pub(super) struct History {
    pub(super) parts: Keyspace,
}

impl History {
    pub(super) fn open(dir: &DataDir) -> Result<Self, DiskError> {
        Ok(Self {
            parts: dir.keyspace("store-history", KeyspaceCreateOptions::default)?,
        })
    }

    pub(super) fn newest_epoch(&self, id: &WorkspaceId) -> Result<Option<Epoch>, StoreError> {
        let Some(entry) = self.parts.prefix(layout::workspace_prefix(id)).next_back() else {
            return Ok(None);
        };
        place_in(id, entry).map(|place| Some(place.epoch))
    }

    /// The place of each part, oldest first.
    pub(super) fn places(
        &self,
        id: &WorkspaceId,
    ) -> impl Iterator<Item = Result<HistoryPlace, StoreError>> {
        let parts = self.parts.prefix(layout::workspace_prefix(id));
        parts.map(move |entry| place_in(id, entry))
    }

    /// Each part with its number of transitions, oldest first.
    pub(super) fn parts(&self, id: &WorkspaceId) -> Result<Vec<(HistoryPlace, usize)>, StoreError> {
        let mut parts = Vec::new();
        for entry in self.parts.prefix(layout::workspace_prefix(id)) {
            let (key, value) = entry
                .into_inner()
                .map_err(|error| read_error(&place_of(id), &error))?;
            let part = layout::history_place(id, &key).and_then(|place| {
                let count = layout::history_count(&key, value.into())?;
                Ok((place, usize::try_from(count).unwrap_or(usize::MAX)))
            });
            parts.push(part.map_err(|damage| corrupt(place_of(id), damage))?);
        }
        Ok(parts)
    }

    pub(super) fn read(
        &self,
        id: &WorkspaceId,
        after: Option<HistoryCursor>,
        limit: usize,
    ) -> Result<Vec<HistoryRecord>, StoreError> {
        let mut page = Page::new(after, limit);
        let key = |epoch| {
            let first = HistoryPlace {
                epoch,
                begun_ms: 0,
                sequence: 0,
            };
            layout::history_key(id, first)
        };
        // From the begin of the epoch, where the numbers of its transitions begin.
        let from = after.map_or_else(|| layout::workspace_prefix(id), |(epoch, _)| key(epoch));
        let mut until = layout::workspace_prefix(id);
        until.extend_from_slice(&[u8::MAX; 3 * size_of::<u64>()]);
        for entry in self.parts.range(from..=until) {
            if page.is_full() {
                break;
            }
            let (key, value) = entry
                .into_inner()
                .map_err(|error| read_error(&place_of(id), &error))?;
            let part = layout::decode_history(id, &key, value.into());
            page.add(part.map_err(|damage| corrupt(place_of(id), damage))?);
        }
        Ok(page.records())
    }
}

fn place_in(id: &WorkspaceId, entry: fjall::Guard) -> Result<HistoryPlace, StoreError> {
    let key = entry
        .key()
        .map_err(|error| read_error(&place_of(id), &error))?;
    layout::history_place(id, &key).map_err(|damage| corrupt(place_of(id), damage))
}

fn place_of(id: &WorkspaceId) -> String {
    format!("the history of workspace {id}")
}
