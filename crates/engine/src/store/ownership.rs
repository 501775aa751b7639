//! Which partitions of a store this process may write, where other processes share the store.

use super::StoreError;
use workspace_lifecycle::{Offset, PartitionId};
use workspace_status::Epoch;

/// Progress of a store that is preparing to serve a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Opening {
    /// It serves the partition.
    Done,
    /// An earlier write of the partition is still under way; the store must be called again.
    Waiting,
    /// It is reading what others have saved, and must be called again.
    Reading {
        /// Position that it has read.
        position: u64,
        /// Position that it must reach.
        end: u64,
    },
}

/// The partitions of a store that this process owns. A store that no other process uses has [`SoleOwner`].
pub trait Ownership: Send + Sync {
    /// Prepares the store to serve `partition`, which this process owns from now on. Called on the partition's own
    /// thread until it returns [`Opening::Done`]; a call takes about a second at most.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] and [`StoreError::NotServed`]; it is called again.
    fn open(&self, partition: PartitionId) -> Result<Opening, StoreError>;

    /// This process does not own `partition` any more: after the return nothing more of the partition is saved.
    fn close(&self, partition: PartitionId);

    /// Whether the store accepts saves of an open partition now. They are written together with those of other
    /// partitions, which a save that is not accepted would hold up.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    fn takes_saves(&self, partition: PartitionId) -> Result<(), StoreError>;

    /// The lowest epoch for a load in this assignment of an open partition: every earlier assignment used lower ones.
    fn first_epoch(&self, partition: PartitionId) -> Epoch;

    /// What was missing when an open partition was opened, and what was done about it, as text for an operator.
    fn notice(&self, partition: PartitionId) -> Option<String>;

    /// Notifies the store that discovery has read a record of another partition's workspace at this offset. A store
    /// over a log to which others write remembers the first one of a partition, so that a later discovery reads it
    /// again.
    fn note_misrouted(&self, partition: PartitionId, offset: Offset);
}

/// The ownership of a store that only this process uses: every partition is open at any time.
#[derive(Debug, Clone, Copy)]
pub struct SoleOwner;

impl Ownership for SoleOwner {
    fn open(&self, _: PartitionId) -> Result<Opening, StoreError> {
        Ok(Opening::Done)
    }

    fn close(&self, _: PartitionId) {}

    fn takes_saves(&self, _: PartitionId) -> Result<(), StoreError> {
        Ok(())
    }

    fn first_epoch(&self, _: PartitionId) -> Epoch {
        Epoch::FIRST
    }

    fn notice(&self, _: PartitionId) -> Option<String> {
        None
    }

    fn note_misrouted(&self, _: PartitionId, _: Offset) {}
}
