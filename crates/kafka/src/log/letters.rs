//! Dead letters: a topic of one partition, read when somebody asks.
//!
//! A letter is a JSON object whose key is its address; in memory is only where each of them stands.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::ops::Bound;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use workspace_engine_core::log::{AppendError, DeadLetter, ReadError, ReadLimit, Record};
use workspace_lifecycle::{Offset, PartitionId};
use workspace_status::WorkspaceId;

use super::appends::{Appends, Outgoing};
use super::cluster::Cluster;
use super::native::Topic;
use super::reader::{self, READERS};

/// The only partition of the topic.
const PARTITION: PartitionId = PartitionId(0);

/// Most letters whose places are kept; an operator skips one by one.
const LETTERS_MOST: usize = 1_000_000;

/// How long reading the topic, or the acknowledgement of a letter, may take: a partition waits for it.
const PATIENCE: Duration = Duration::from_secs(5);

/// Letters closer together are read in one go, with those between.
const GAP_MOST: u64 = 500;

type Address = (PartitionId, Offset, WorkspaceId);

/// The topic of the dead letters.
pub(super) struct Letters {
    cluster: Cluster,
    readers: [Arc<Topic>; READERS],
    index: Mutex<Index>,
}

#[derive(Default)]
struct Index {
    /// Where the first letter of each workspace stands, by the address of the record that it skipped.
    places: BTreeMap<(PartitionId, Offset), BTreeMap<WorkspaceId, Offset>>,
    letters: usize,
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
            self.letters += 1;
        }
    }

    /// Forgets what the topic does not hold any more.
    fn forget_below(&mut self, low: Offset) {
        self.places.retain(|_, places| {
            places.retain(|_, place| *place >= low);
            !places.is_empty()
        });
        self.letters = self.places.values().map(BTreeMap::len).sum();
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

/// A letter as it is written.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Written {
    topic: String,
    partition: u32,
    offset: u64,
    workspace_id: String,
    reason: String,
    skipped_at_ms: u64,
    key: Option<Content>,
    value: Option<Content>,
}

/// Bytes, legible where they are text.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
enum Content {
    Text(String),
    Hex(String),
}

impl Letters {
    pub(super) fn new(cluster: Cluster, readers: [Arc<Topic>; READERS]) -> Self {
        Self {
            cluster,
            readers,
            index: Mutex::default(),
        }
    }

    /// Keeps a letter; one of the same workspace with the same address stays as it is.
    pub(super) fn append(&self, appends: &Appends, letter: &DeadLetter) -> Result<(), AppendError> {
        let mut index = self.index.lock();
        self.look(&mut index)
            .map_err(|error| AppendError::Unavailable(error.to_string()))?;
        let address = (letter.partition, letter.offset, letter.workspace_id.clone());
        if index.contains(&address) {
            return Ok(());
        }
        if index.letters >= LETTERS_MOST {
            return Err(AppendError::Unavailable(format!(
                "topic {} holds {LETTERS_MOST} dead letters already: remove some",
                self.cluster.topic
            )));
        }
        let key = key_of(&address);
        let value = encode(letter).map_err(AppendError::Unavailable)?;
        let record = Outgoing {
            topic: &self.cluster.topic,
            partition: PARTITION,
            key: key.as_bytes(),
            value: Some(&value),
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
        let appended = answered.recv_timeout(PATIENCE).map_err(|_| {
            AppendError::Unavailable(format!(
                "topic {} did not acknowledge the dead letter in time",
                self.cluster.topic
            ))
        })??;
        if let Some(range) = appended.partitions.first() {
            index.insert(address, range.first_offset);
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
        let mut index = self.index.lock();
        self.look(&mut index)?;
        let page = index.page(workspace, after, limit);
        let mut records = self.fetch(page.iter().map(|(_, place)| *place).collect())?;
        self.rest();
        let letters = page.iter().map(|((partition, offset), place)| {
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
        letters.collect()
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
                    Some(address) if index.letters < LETTERS_MOST => {
                        index.insert(address, record.offset);
                    }
                    Some(_) => {}
                    None => {
                        tracing::warn!(topic = self.cluster.topic, offset = %record.offset, "not a dead letter");
                    }
                }
            }
        }
        self.rest();
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
            if place.since(at) > GAP_MOST || place < at {
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

    fn read(
        &self,
        from: Offset,
        until: Offset,
    ) -> Result<workspace_engine_core::log::Batch, ReadError> {
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

fn key_of((partition, offset, workspace): &Address) -> String {
    format!("{partition}/{offset}/{workspace}")
}

fn address_of(key: &[u8]) -> Option<Address> {
    let mut parts = std::str::from_utf8(key).ok()?.splitn(3, '/');
    let partition = PartitionId(parts.next()?.parse().ok()?);
    let offset = Offset(parts.next()?.parse().ok()?);
    Some((partition, offset, WorkspaceId::new(parts.next()?).ok()?))
}

fn encode(letter: &DeadLetter) -> Result<Vec<u8>, String> {
    let written = Written {
        topic: letter.topic.clone(),
        partition: letter.partition.0,
        offset: letter.offset.0,
        workspace_id: letter.workspace_id.as_str().to_owned(),
        reason: letter.reason.clone(),
        skipped_at_ms: letter.skipped_at_ms,
        key: letter.key.as_deref().map(Content::new),
        value: letter.value.as_deref().map(Content::new),
    };
    serde_json::to_vec(&written).map_err(|error| error.to_string())
}

fn decode(record: &Record) -> Option<DeadLetter> {
    let written: Written = serde_json::from_slice(record.value()?).ok()?;
    let bytes =
        |content: Option<Content>| content.map_or(Some(None), |content| content.bytes().map(Some));
    Some(DeadLetter {
        topic: written.topic,
        partition: PartitionId(written.partition),
        offset: Offset(written.offset),
        workspace_id: WorkspaceId::new(&written.workspace_id).ok()?,
        key: bytes(written.key)?,
        value: bytes(written.value)?,
        reason: written.reason,
        skipped_at_ms: written.skipped_at_ms,
    })
}

impl Content {
    fn new(bytes: &[u8]) -> Self {
        use std::fmt::Write as _;
        match std::str::from_utf8(bytes) {
            Ok(text) => Self::Text(text.to_owned()),
            Err(_) => Self::Hex(bytes.iter().fold(String::new(), |mut hex, byte| {
                // Writing to a string cannot fail.
                let _ = write!(hex, "{byte:02x}");
                hex
            })),
        }
    }

    fn bytes(self) -> Option<Bytes> {
        match self {
            Self::Text(text) => Some(text.into()),
            Self::Hex(hex) => {
                let (pairs, rest) = hex.as_bytes().as_chunks::<2>();
                let bytes: Option<Vec<u8>> = pairs
                    .iter()
                    .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok())
                    .collect();
                bytes.filter(|_| rest.is_empty()).map(Bytes::from)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_letter_reads_as_it_was_written() {
        for (key, value) in [
            (Some(&b"acme"[..]), Some(&b"{\"a\":\"\\\"\"}"[..])),
            (None, None),
            (Some(&b""[..]), Some(&[0xff, 0x00, 0x7f][..])),
        ] {
            let letter = DeadLetter {
                topic: "events".to_owned(),
                partition: PartitionId(3),
                offset: Offset(u64::MAX >> 1),
                workspace_id: WorkspaceId::new("acme").expect("valid"),
                key: key.map(Bytes::from_static),
                value: value.map(Bytes::from_static),
                reason: "no \"such\" type".to_owned(),
                skipped_at_ms: 5,
            };
            let written = encode(&letter).expect("written");
            let record = Record::new(Offset(0), None, Some(&written));
            assert_eq!(decode(&record), Some(letter));
        }
    }

    #[test]
    fn a_key_is_an_address() {
        let address = (
            PartitionId(7),
            Offset(900),
            WorkspaceId::new("a:b.c-d_e").expect("valid"),
        );
        assert_eq!(address_of(key_of(&address).as_bytes()), Some(address));
        for key in ["", "7", "7/1", "7/1/", "x/1/a", "7/x/a", "7/1/a/b"] {
            assert_eq!(address_of(key.as_bytes()), None, "{key}");
        }
    }
}
