//! Dead letters: a topic of one partition, read when somebody asks.
//!
//! In memory is only where each letter stands. The topic is not compacted: a letter that was deleted is followed by
//! a record of the same key without a value, and is not listed any more; retention removes both.

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
use super::cluster::Cluster;
use super::dead_letter_codec::{Address, address_of, decode, encode_within, key_of};
use super::native::Topic;
use super::pending::Outgoing;
use super::reader::{self, READERS};

/// The only partition of the topic.
const PARTITION: PartitionId = PartitionId(0);

/// Most letters whose places are kept; an operator skips one by one.
const MAX_DEAD_LETTERS: usize = 1_000_000;

/// Largest letter, with room for its key and for what a batch adds: the topic takes 16 MiB.
const MAX_DEAD_LETTER_BYTES: usize = 16 * 1024 * 1024 - 64 * 1024;

/// How long reading the topic, or the acknowledgement of a letter, may take: a partition waits for it.
const PATIENCE: Duration = Duration::from_secs(5);

/// How long a letter waits for others that are written or looked for: a partition waits for it, and tries again.
const TURN: Duration = Duration::from_millis(500);

/// Letters closer together are read in one go, with those between.
const MAX_GAP: u64 = 500;

/// The topic of the dead letters.
pub(super) struct DeadLetters {
    cluster: Cluster,
    readers: [Arc<Topic>; READERS],
    index: Mutex<Index>,
    /// Held by who fetches letters that are known: there is one fetch for them, and one for who looks for new ones.
    fetching: Mutex<()>,
}

#[derive(Default)]
struct Index {
    /// Where the first letter of each workspace stands, by the address of the record that it skipped.
    places: BTreeMap<(PartitionId, Offset), BTreeMap<WorkspaceId, Offset>>,
    dead_letters: usize,
    /// The first offset that was not looked at.
    next: Offset,
}

impl Index {
    fn contains(&self, (partition, offset, workspace): &Address) -> bool {
        let places = self.places.get(&(*partition, *offset));
        places.is_some_and(|places| places.contains_key(workspace))
    }

    /// Keeps where a letter stands, unless an earlier one has its address.
    fn insert(&mut self, (partition, offset, workspace): Address, place: Offset) {
        let places = self.places.entry((partition, offset)).or_default();
        if let Entry::Vacant(vacant) = places.entry(workspace) {
            vacant.insert(place);
            self.dead_letters += 1;
        }
    }

    fn remove(&mut self, (partition, offset, workspace): &Address) {
        if let Some(places) = self.places.get_mut(&(*partition, *offset))
            && places.remove(workspace).is_some()
        {
            self.dead_letters -= 1;
            if places.is_empty() {
                self.places.remove(&(*partition, *offset));
            }
        }
    }

    /// Forgets what the topic does not hold any more.
    fn forget_below(&mut self, low: Offset) {
        self.places.retain(|_, places| {
            places.retain(|_, place| *place >= low);
            !places.is_empty()
        });
        self.dead_letters = self.places.values().map(BTreeMap::len).sum();
    }

    /// Addresses behind another one with the letters of a workspace, or of all, until there are enough.
    fn page(
        &self,
        workspace: Option<&WorkspaceId>,
        after: Option<(PartitionId, Offset)>,
        limit: usize,
    ) -> Vec<((PartitionId, Offset), Offset)> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let mut page = Vec::new();
        for (address, places) in self.places.range((from, Bound::Unbounded)) {
            if page.len() >= limit {
                break;
            }
            let wanted = places
                .iter()
                .filter(|(of, _)| workspace.is_none_or(|workspace| workspace == *of));
            page.extend(wanted.map(|(_, place)| (*address, *place)));
        }
        page
    }
}

impl DeadLetters {
    pub(super) fn new(cluster: Cluster, readers: [Arc<Topic>; READERS]) -> Self {
        Self {
            cluster,
            readers,
            index: Mutex::default(),
            fetching: Mutex::default(),
        }
    }

    /// Keeps a letter; one of the same workspace with the same address stays as it is.
    pub(super) fn append(
        &self,
        appends: &Appends,
        dead_letter: &DeadLetter,
    ) -> Result<(), AppendError> {
        let Some(mut index) = self.index.try_lock_for(TURN) else {
            return Err(AppendError::Unavailable(self.is_busy()));
        };
        self.look(&mut index)
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
                self.cluster.topic
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

    /// Writes a record under the address of a letter, and waits until it is acknowledged.
    fn write(
        &self,
        appends: &Appends,
        address: &Address,
        value: &[u8],
    ) -> Result<Appended, AppendError> {
        let key = key_of(address);
        let record = Outgoing {
            topic: &self.cluster.topic,
            partition: PARTITION,
            key: key.as_bytes(),
            value,
            headers: None,
        };
        let (answer, answered) = crossbeam_channel::bounded(1);
        appends.other(
            record,
            Box::new(move |result| {
                // Whoever waited may have given up.
                let _ = answer.send(result);
            }),
        );
        answered.recv_timeout(PATIENCE).map_err(|_| {
            AppendError::Unavailable(format!(
                "topic {} did not acknowledge the dead letter in time",
                self.cluster.topic
            ))
        })?
    }

    /// Deletes the letters of workspaces that were deleted.
    pub(super) fn delete(
        &self,
        appends: &Appends,
        deleted: &[DeletedDeadLetters],
    ) -> Result<(), AppendError> {
        let Some(mut index) = self.index.try_lock_for(PATIENCE) else {
            return Err(AppendError::Unavailable(self.is_busy()));
        };
        self.look(&mut index)
            .map_err(|error| AppendError::Unavailable(error.to_string()))?;
        let mut gone = Vec::new();
        for ((partition, offset), places) in &index.places {
            let of_deleted = deleted.iter().filter(|of| {
                of.partition == *partition
                    && *offset < of.below
                    && places.contains_key(&of.workspace_id)
            });
            gone.extend(of_deleted.map(|of| (*partition, *offset, of.workspace_id.clone())));
        }
        for address in gone {
            self.write(appends, &address, &[])?;
            index.remove(&address);
        }
        Ok(())
    }

    /// Letters behind an address, ordered by partition, offset and workspace. All of an address are given
    /// where one is, because the next page begins behind it.
    pub(super) fn list(
        &self,
        workspace: Option<&WorkspaceId>,
        after: Option<(PartitionId, Offset)>,
        limit: usize,
    ) -> Result<Vec<DeadLetter>, ReadError> {
        let page = {
            let Some(mut index) = self.index.try_lock_for(PATIENCE) else {
                return Err(ReadError::Unavailable(self.is_busy()));
            };
            self.look(&mut index)?;
            index.page(workspace, after, limit)
        };
        // Letters stay where they are: whoever writes one need not wait while they are fetched.
        let Some(_fetching) = self.fetching.try_lock_for(PATIENCE) else {
            return Err(ReadError::Unavailable(self.is_busy()));
        };
        let mut records = self.fetch(page.iter().map(|(_, place)| *place).collect())?;
        self.rest();
        let dead_letters = page.iter().map(|((partition, offset), place)| {
            records
                .remove(place)
                .ok_or("it is not there any more")
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
            self.cluster.topic
        )
    }

    /// Looks at what was written since the last look.
    fn look(&self, index: &mut Index) -> Result<(), ReadError> {
        let (low, high) = self.cluster.ask(PARTITION)?;
        if index.next > high {
            tracing::error!(topic = self.cluster.topic, "the topic was made anew");
            *index = Index::default();
        }
        if index.next < low {
            index.forget_below(low);
            index.next = low;
        }
        let deadline = Instant::now() + PATIENCE;
        while index.next < high {
            let batch = self.read(index.next, high)?;
            if batch.next_offset == index.next && Instant::now() >= deadline {
                return Err(ReadError::Unavailable(format!(
                    "topic {} cannot be read to its end in time",
                    self.cluster.topic
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
                        tracing::warn!(topic = self.cluster.topic, offset = %record.offset, "not a dead letter");
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
    fn fetch(&self, mut places: Vec<Offset>) -> Result<HashMap<Offset, Record>, ReadError> {
        places.sort_unstable();
        let Some(last) = places.last().copied() else {
            return Ok(HashMap::new());
        };
        let deadline = Instant::now() + PATIENCE;
        let mut records = HashMap::new();
        let mut at = Offset::ZERO;
        for place in places {
            if records.contains_key(&place) {
                continue;
            }
            if place.since(at) > MAX_GAP || place < at {
                at = place;
            }
            while at <= place {
                let batch = self.read(at, last.next())?;
                if batch.next_offset == at && Instant::now() >= deadline {
                    return Err(ReadError::Unavailable(format!(
                        "topic {} cannot be read in time",
                        self.cluster.topic
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
        reader::read(&self.cluster, &self.readers, PARTITION, from, &limit)
    }

    /// Nothing is fetched while nobody asks.
    fn rest(&self) {
        if let Ok(part) = self.cluster.part(PARTITION) {
            part.place.lock().clear();
        }
    }
}
