//! Writes mutations into the database.

use super::layout::{self, Condition, DAMAGED};
use super::{LsmStore, Mutation, StoreError, write_error};
use crate::store::Key;
use fjall::{Keyspace, OwnedWriteBatch};

/// Mutations are written in batches of about this size, so that claims of other loads are written in between.
const BATCH_BYTES: usize = 512 * 1024;

/// Mutations that are written together.
struct Batch<'a> {
    store: &'a LsmStore,
    batch: OwnedWriteBatch,
    bytes: usize,
    /// Removals must succeed on a full disk.
    removes_only: bool,
    /// Those that the indexes in memory follow after the write.
    indexed: Vec<&'a Mutation>,
}

impl LsmStore {
    /// Writes mutations in order, and with the last of them these values of the keyspace `store-committed`. Those of one
    /// workspace that follow each other become visible together.
    pub(super) fn write(
        &self,
        mutations: &[Mutation],
        notes: impl IntoIterator<Item = (Vec<u8>, Vec<u8>)>,
    ) -> Result<(), StoreError> {
        self.finish_erasures_of(mutations)?;
        let mut batch = Batch::new(self);
        for of_workspace in mutations.chunk_by(|a, b| a.workspace() == b.workspace()) {
            if batch.bytes >= BATCH_BYTES {
                std::mem::replace(&mut batch, Batch::new(self)).write()?;
            }
            for mutation in of_workspace {
                batch.take(mutation);
            }
        }
        // They are as small as removals.
        for (key, value) in notes {
            batch.batch.insert(&self.committed, key, value);
        }
        batch.write()
    }

    /// Keyspace and key of a value.
    pub(super) fn locate(&self, key: &Key) -> (&Keyspace, Vec<u8>) {
        match key {
            Key::Workspace(id) => (&self.workspaces, id.as_str().into()),
            Key::Deletion(id) => (&self.workspaces, layout::deletion_key(id)),
            Key::Entry { id, kind, entity } => (&self.entries, layout::entry_key(id, kind, entity)),
            Key::History { id, place } => (&self.history.parts, layout::history_key(id, *place)),
        }
    }
}

impl<'a> Batch<'a> {
    fn new(store: &'a LsmStore) -> Self {
        Self {
            store,
            batch: store.dir.database().batch(),
            bytes: 0,
            removes_only: true,
            indexed: Vec::new(),
        }
    }

    fn take(&mut self, mutation: &'a Mutation) {
        let store = self.store;
        if !matches!(
            mutation,
            Mutation::Entry(..)
                | Mutation::History(_)
                | Mutation::Removed(Key::Entry { .. } | Key::History { .. })
        ) {
            self.indexed.push(mutation);
        }
        match mutation {
            Mutation::Workspace(workspace) => {
                let value = layout::encode_workspace(workspace, Condition::Whole);
                self.put(&store.workspaces, workspace.id.as_str().into(), value);
            }
            Mutation::Deletion(deletion) => {
                let value = layout::encode_deletion(deletion);
                self.put(&store.workspaces, layout::deletion_key(&deletion.id), value);
            }
            Mutation::Entry(id, entry) => {
                let key = layout::entry_key(id, &entry.kind, &entry.id);
                let value = layout::encode_entry(&key, entry);
                self.put(&store.entries, key, value);
            }
            Mutation::History(part) => {
                let key = layout::history_key(&part.id, part.place());
                let value = layout::encode_history(&key, part);
                self.put(&store.history.parts, key, value);
            }
            // Even if it does not exist: checking that would take a read for each.
            Mutation::Removed(key) => {
                let (keyspace, key) = store.locate(key);
                self.bytes += key.len();
                self.batch.remove(keyspace, key);
            }
            Mutation::Damaged(_, key) => {
                let (keyspace, key) = store.locate(key);
                self.put(keyspace, key, DAMAGED.to_vec());
            }
        }
    }

    fn put(&mut self, keyspace: &Keyspace, key: Vec<u8>, value: Vec<u8>) {
        self.removes_only = false;
        self.bytes += key.len() + value.len();
        self.batch.insert(keyspace, key, value);
    }

    fn write(self) -> Result<(), StoreError> {
        let store = self.store;
        let written = if self.removes_only {
            store.dir.write_removal(self.batch, self.bytes)
        } else {
            store.dir.write(self.batch, self.bytes)
        };
        written.map_err(write_error)?;
        let mut index = store.index.lock();
        for mutation in self.indexed {
            index.note(mutation);
        }
        Ok(())
    }
}
