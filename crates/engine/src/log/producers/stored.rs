//! The answers to producers in the database of the embedded log: what a group of requests writes, and how it is read.
//!
//! Each answer has its own key, so a request writes one key and removes one. The key is the length of the producer's
//! name, the name, and the number of the request, big endian. Answers are written in the same batch as their events.

use super::super::{AppendError, Appended, AppendedRange, ProducerSequence};
use super::window::{RequestState, Window};
use super::{Producer, Producers, Verdict};
use crate::disk::codec::{Damage, Reader, Writer};
use bytes::Bytes;
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::time::Duration;
use workspace_lifecycle::{Offset, PartitionId};

/// Producers whose requests are answered at once, so that none is ever under way.
pub(crate) type AnsweredProducers = Producers<Infallible>;

impl AnsweredProducers {
    /// Adds an answer that was read from disk; the answers of a producer must be added in order.
    pub(crate) fn restore(&mut self, key: &[u8], sealed: Bytes) -> Result<(), Damage> {
        const KEY: Damage = "its key is not that of an answer";
        let (length, rest) = key.split_first().ok_or(KEY)?;
        let (id, sequence) = rest.split_at_checked(usize::from(*length)).ok_or(KEY)?;
        let id = std::str::from_utf8(id).map_err(|_| "its name is not UTF-8")?;
        let sequence = u64::from_be_bytes(sequence.try_into().map_err(|_| KEY)?);
        let mut reader = Reader::open(key, sealed)?;
        let used = reader.u64()?;
        let answer = read_answer(&mut reader)?;

        let mut window = match self.remove(id).map(|producer| producer.window) {
            Some(window) if window.next() != sequence => {
                return Err("an answer before it is missing");
            }
            window => window.unwrap_or_else(|| Window::beginning_at(sequence)),
        };
        window.set(sequence, RequestState::Answered(answer));
        self.insert(id.to_owned(), Producer { window, used });
        Ok(())
    }

    /// Begins a group of requests that takes effect as a whole, or not at all.
    pub(crate) fn stage(&mut self, now: Duration) -> Staged<'_> {
        Staged {
            used: self.used,
            producers: self,
            before: BTreeMap::new(),
            now,
        }
    }
}

/// A group of requests in progress: later ones see the answers that earlier ones will get.
#[derive(Debug)]
pub(crate) struct Staged<'a> {
    producers: &'a mut AnsweredProducers,
    /// The changed producers as they were before the group; `None` for new ones.
    before: BTreeMap<String, Option<Producer<Infallible>>>,
    used: u64,
    now: Duration,
}

/// What the batch of a group writes and removes.
#[derive(Debug, Default)]
pub(crate) struct Changes {
    /// Keys and values of new answers.
    pub(crate) written: Vec<(Vec<u8>, Vec<u8>)>,
    /// Keys of answers that are no longer kept.
    pub(crate) removed: Vec<Vec<u8>>,
}

impl Staged<'_> {
    /// The answer to a repeated request; `None` for a new one.
    pub(crate) fn judge(
        &self,
        request: &ProducerSequence,
    ) -> Result<Option<Appended>, AppendError> {
        match self.producers.judge(request, self.now)? {
            Verdict::New => Ok(None),
            Verdict::Answered(answer) => Ok(Some(Appended {
                repeated: true,
                ..answer
            })),
            Verdict::Again(never) | Verdict::Pending(never) => match *never {},
        }
    }

    /// Records the answer to a request that was judged to be new.
    pub(crate) fn answered(&mut self, request: &ProducerSequence, answer: Appended) {
        let id = &request.producer_id;
        if !self.before.contains_key(id) {
            let before = self.producers.by_id.get(id).cloned();
            self.before.insert(id.clone(), before);
        }
        let forgotten = self
            .producers
            .set(request, RequestState::Answered(answer), self.now);
        if let Some((id, forgotten)) = forgotten {
            self.before.entry(id).or_insert(Some(forgotten));
        }
    }

    /// What the batch must write and remove.
    pub(crate) fn changes(&self) -> Changes {
        let mut changes = Changes::default();
        for (id, before) in &self.before {
            let before = before.as_ref().map(|producer| &producer.window);
            let after = self.producers.by_id.get(id);
            let kept_after = |number| after.is_some_and(|one| one.window.get(number).is_some());
            let removed = before.into_iter().flat_map(Window::kept);
            let removed = removed.filter(|number| !kept_after(*number));
            changes
                .removed
                .extend(removed.map(|number| answer_key(id, number)));
            let Some(after) = after else { continue };
            for (number, state) in after.window.numbered() {
                let RequestState::Answered(answer) = state else {
                    continue;
                };
                let earlier = before.and_then(|before| before.get(number));
                if !matches!(earlier, Some(RequestState::Answered(earlier)) if earlier == answer) {
                    let key = answer_key(id, number);
                    let value = encode_answer(&key, answer, after.used);
                    changes.written.push((key, value));
                }
            }
        }
        changes
    }

    /// Restores the producers as they were before the group, because its batch was not written.
    pub(crate) fn roll_back(self) {
        for (id, before) in self.before {
            self.producers.remove(&id);
            if let Some(before) = before {
                self.producers.insert(id, before);
            }
        }
        self.producers.used = self.used;
    }
}

/// Key of an answer; answers of a producer are adjacent, in the order of its requests.
fn answer_key(producer_id: &str, sequence: u64) -> Vec<u8> {
    let length = u8::try_from(producer_id.len()).unwrap_or(u8::MAX);
    [
        &[length],
        producer_id.as_bytes(),
        &sequence.to_be_bytes()[..],
    ]
    .concat()
}

fn encode_answer(key: &[u8], answer: &Appended, used: u64) -> Vec<u8> {
    let mut writer = Writer::default();
    writer
        .u64(used)
        .u64(answer.accepted)
        .u32(u32::try_from(answer.partitions.len()).unwrap_or(u32::MAX));
    for range in &answer.partitions {
        writer
            .u32(range.partition.0)
            .u64(range.first_offset.0)
            .u64(range.last_offset.0);
    }
    writer.seal(key)
}

fn read_answer(reader: &mut Reader) -> Result<Appended, Damage> {
    let accepted = reader.u64()?;
    let mut partitions = Vec::new();
    for _ in 0..reader.u32()? {
        partitions.push(AppendedRange {
            partition: PartitionId(reader.u32()?),
            first_offset: Offset(reader.u64()?),
            last_offset: Offset(reader.u64()?),
        });
    }
    Ok(Appended {
        accepted,
        partitions,
        repeated: false,
    })
}
