//! Dead letters: a topic of one partition, read on demand.
//!
//! Only the offset of each dead letter is in memory. The topic is not compacted: a deleted dead letter is followed by a
//! record of the same key without a value, and is no longer listed; retention removes both.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::ops::Bound;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use workspace_engine_core::log::{
    AppendError, Appended, Batch, DeadLetter, DeletedDeadLetters, ReadError, ReadLimit, Record,
};
use workspace_lifecycle::{Offset, PartitionId};
use workspace_status::WorkspaceId;

use super::appends::Appends;
use super::dead_letter_codec::{Address, address_of, decode, encode_within, key_of};
use super::fetches::READERS;
use super::native::TopicHandle;
use super::pending::Outgoing;
use super::reader;
use super::topic_state::TopicState;

/// The only partition of the topic.
const PARTITION: PartitionId = PartitionId(0);

/// Most dead letters whose offsets are kept; an operator skips one by one.
const MAX_DEAD_LETTERS: usize = 1_000_000;

/// Largest dead letter: the topic accepts 16 MiB, and the rest is for its key and the overhead of a batch.
const MAX_DEAD_LETTER_BYTES: usize = 16 * 1024 * 1024 - 64 * 1024;

/// How long a read of the topic, or the acknowledgement of a dead letter, may take: a partition waits for it.
const TOPIC_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a dead letter waits while others are written or read: a partition waits for it, and retries.
const LOCK_TIMEOUT: Duration = Duration::from_millis(500);

/// Dead letters at most this many offsets apart are read in one run, with the records between them.
const MAX_GAP: u64 = 500;

/// The topic of the dead letters.
pub(super) struct DeadLetters {
    topic: TopicState,
    readers: [Arc<TopicHandle>; READERS],
    index: Mutex<Index>,
    /// Held while known dead letters are fetched: one of the two fetches is for them, the other one is for new dead
    /// letters.
    fetching: Mutex<()>,
}

#[derive(Default)]
struct Index {
    /// The offset of the first dead letter of each workspace, by the address of the record that it skipped.
    offsets: BTreeMap<(PartitionId, Offset), BTreeMap<WorkspaceId, Offset>>,
    dead_letters: usize,
    /// The first offset that was not read.
    next: Offset,
}

impl Index {
    fn contains(&self, (partition, offset, workspace): &Address) -> bool {
        let offsets = self.offsets.get(&(*partition, *offset));
        offsets.is_some_and(|offsets| offsets.contains_key(workspace))
    }

    /// Keeps the offset of a dead letter, unless an earlier one has its address.
    fn insert(&mut self, (partition, offset, workspace): Address, own: Offset) {
        let offsets = self.offsets.entry((partition, offset)).or_default();
        if let Entry::Vacant(vacant) = offsets.entry(workspace) {
            vacant.insert(own);
            self.dead_letters += 1;
        }
    }

    fn remove(&mut self, (partition, offset, workspace): &Address) {
        if let Some(offsets) = self.offsets.get_mut(&(*partition, *offset))
            && offsets.remove(workspace).is_some()
        {
            self.dead_letters -= 1;
            if offsets.is_empty() {
                self.offsets.remove(&(*partition, *offset));
            }
        }
    }

    /// Forgets the dead letters that the topic no longer holds.
    fn forget_below(&mut self, low: Offset) {
        self.offsets.retain(|_, offsets| {
            offsets.retain(|_, own| *own >= low);
            !offsets.is_empty()
        });
        self.dead_letters = self.offsets.values().map(BTreeMap::len).sum();
    }

    /// Addresses after `after`, each with the offset of a dead letter, of one workspace or of all. Ends at the first
    /// address that fills `limit`.
    fn page(
        &self,
        workspace: Option<&WorkspaceId>,
        after: Option<(PartitionId, Offset)>,
        limit: usize,
    ) -> Vec<((PartitionId, Offset), Offset)> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let mut page = Vec::new();
        for (address, offsets) in self.offsets.range((from, Bound::Unbounded)) {
            if page.len() >= limit {
                break;
            }
            let wanted = offsets
                .iter()
                .filter(|(of, _)| workspace.is_none_or(|workspace| workspace == *of));
            page.extend(wanted.map(|(_, own)| (*address, *own)));
        }
        page
    }
}

impl DeadLetters {
    pub(super) fn new(topic: TopicState, readers: [Arc<TopicHandle>; READERS]) -> Self {
        Self {
            topic,
            readers,
            index: Mutex::default(),
            fetching: Mutex::default(),
        }
    }

    /// Keeps a dead letter; an earlier one of the same workspace with the same address is left unchanged.
    pub(super) fn append(
        &self,
        appends: &Appends,
        dead_letter: &DeadLetter,
    ) -> Result<(), AppendError> {
        let Some(mut index) = self.index.try_lock_for(LOCK_TIMEOUT) else {
            return Err(AppendError::Unavailable(self.is_busy()));
        };
        self.read_new(&mut index)
            .map_err(|error| AppendError::Unavailable(error.to_string()))?;
        let address = (
            dead_letter.partition,
            dead_letter.offset,
            dead_letter.workspace_id.clone(),
        );
        if index.contains(&address) {
            return Ok(());
        }
        if index.dead_letters >= MAX_DEAD_LETTERS {
            return Err(AppendError::Unavailable(format!(
                "topic {} holds {MAX_DEAD_LETTERS} dead letters already: remove some",
                self.topic.name()
            )));
        }
        let value =
            encode_within(dead_letter, MAX_DEAD_LETTER_BYTES).map_err(AppendError::Unavailable)?;
        let appended = self.write(appends, &address, &value)?;
        if let Some(range) = appended.partitions.first() {
            index.insert(address, range.first_offset);
        }
        Ok(())
    }

    /// Writes a record under the address of a dead letter, and waits until it is acknowledged.
    fn write(
        &self,
        appends: &Appends,
        address: &Address,
        value: &[u8],
    ) -> Result<Appended, AppendError> {
        let key = key_of(address);
        let record = Outgoing {
            topic: self.topic.name(),
            partition: PARTITION,
            key: key.as_bytes(),
            value,
            headers: None,
        };
        let (answer, answered) = crossbeam_channel::bounded(1);
        appends.other(
            record,
            Box::new(move |result| {
                // Fails only when the wait below has timed out.
                let _ = answer.send(result);
            }),
        );
        answered.recv_timeout(TOPIC_TIMEOUT).map_err(|_| {
            AppendError::Unavailable(format!(
                "topic {} did not acknowledge the dead letter in time",
                self.topic.name()
            ))
        })?
    }

    /// Deletes the dead letters of workspaces that were deleted.
    pub(super) fn delete(
        &self,
        appends: &Appends,
        deleted: &[DeletedDeadLetters],
    ) -> Result<(), AppendError> {
        let Some(mut index) = self.index.try_lock_for(TOPIC_TIMEOUT) else {
            return Err(AppendError::Unavailable(self.is_busy()));
        };
        self.read_new(&mut index)
            .map_err(|error| AppendError::Unavailable(error.to_string()))?;
        let mut removed = Vec::new();
        for ((partition, offset), offsets) in &index.offsets {
            let of_deleted = deleted.iter().filter(|of| {
                of.partition == *partition
                    && *offset < of.below
                    && offsets.contains_key(&of.workspace_id)
            });
            removed.extend(of_deleted.map(|of| (*partition, *offset, of.workspace_id.clone())));
        }
        for address in removed {
            self.write(appends, &address, &[])?;
            index.remove(&address);
        }
        Ok(())
    }

    /// Dead letters after an address, ordered by partition, offset and workspace. A page holds all dead letters of an
    /// address or none, because the next page begins after it.
    pub(super) fn list(
        &self,
        workspace: Option<&WorkspaceId>,
        after: Option<(PartitionId, Offset)>,
        limit: usize,
    ) -> Result<Vec<DeadLetter>, ReadError> {
        let page = {
            let Some(mut index) = self.index.try_lock_for(TOPIC_TIMEOUT) else {
                return Err(ReadError::Unavailable(self.is_busy()));
            };
            self.read_new(&mut index)?;
            index.page(workspace, after, limit)
        };
        // Dead letters do not move: a writer need not wait while they are fetched.
        let Some(_fetching) = self.fetching.try_lock_for(TOPIC_TIMEOUT) else {
            return Err(ReadError::Unavailable(self.is_busy()));
        };
        let mut records = self.fetch(page.iter().map(|(_, own)| *own).collect())?;
        self.rest();
        let dead_letters = page.iter().map(|((partition, offset), own)| {
            records
                .remove(own)
                .ok_or("it was removed")
                .and_then(|record| decode(&record).ok_or("it is not a dead letter"))
                .map_err(|reason| ReadError::Corrupt {
                    partition: *partition,
                    offset: *offset,
                    reason: format!("its dead letter: {reason}"),
                })
        });
        dead_letters.collect()
    }

    fn is_busy(&self) -> String {
        format!(
            "topic {} is being read or written to by others: try again",
            self.topic.name()
        )
    }

    /// Reads what was written since the last call into the index.
    fn read_new(&self, index: &mut Index) -> Result<(), ReadError> {
        let (low, high) = self.topic.query_ends(PARTITION)?;
        if index.next > high {
            tracing::error!(topic = self.topic.name(), "the topic was recreated");
            *index = Index::default();
        }
        if index.next < low {
            index.forget_below(low);
            index.next = low;
        }
        let deadline = Instant::now() + TOPIC_TIMEOUT;
        while index.next < high {
            let batch = self.read(index.next, high)?;
            if batch.next_offset == index.next && Instant::now() >= deadline {
                return Err(ReadError::Unavailable(format!(
                    "topic {} cannot be read to its end in time",
                    self.topic.name()
                )));
            }
            index.next = batch.next_offset;
            for record in &batch.records {
                match record.key().and_then(address_of) {
                    Some(address) if record.value().is_none_or(<[u8]>::is_empty) => {
                        index.remove(&address);
                    }
                    Some(address) if index.dead_letters < MAX_DEAD_LETTERS => {
                        index.insert(address, record.offset);
                    }
                    Some(_) => {}
                    None => {
                        tracing::warn!(topic = self.topic.name(), offset = %record.offset, "not a dead letter");
                    }
                }
            }
        }
        if let Some(_alone) = self.fetching.try_lock() {
            self.rest();
        }
        Ok(())
    }

    /// The records at some offsets.
    fn fetch(&self, mut offsets: Vec<Offset>) -> Result<HashMap<Offset, Record>, ReadError> {
        offsets.sort_unstable();
        let Some(last) = offsets.last().copied() else {
            return Ok(HashMap::new());
        };
        let deadline = Instant::now() + TOPIC_TIMEOUT;
        let mut records = HashMap::new();
        let mut at = Offset::ZERO;
        for offset in offsets {
            if records.contains_key(&offset) {
                continue;
            }
            if offset.since(at) > MAX_GAP || offset < at {
                at = offset;
            }
            while at <= offset {
                let batch = self.read(at, last.next())?;
                if batch.next_offset == at && Instant::now() >= deadline {
                    return Err(ReadError::Unavailable(format!(
                        "topic {} cannot be read in time",
                        self.topic.name()
                    )));
                }
                at = batch.next_offset;
                records.extend(
                    batch
                        .records
                        .into_iter()
                        .map(|record| (record.offset, record)),
                );
            }
        }
        Ok(records)
    }

    fn read(&self, from: Offset, until: Offset) -> Result<Batch, ReadError> {
        let limit = ReadLimit {
            records: 1000,
            bytes: 16 * 1024 * 1024,
            until,
        };
        reader::read(&self.topic, &self.readers, PARTITION, from, &limit)
    }

    /// Stops the fetches, so that nothing is fetched between requests.
    fn rest(&self) {
        if let Ok(part) = self.topic.part(PARTITION) {
            part.fetches.lock().clear();
        }
    }
}
