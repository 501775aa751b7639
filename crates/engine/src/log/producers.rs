//! Recognises repeated requests of producers.
//!
//! A producer that lost an answer sends the request again, with the same number. Its last
//! [`ANSWERS_KEPT`] answers are kept, written in the same batch as the events they speak of.

use super::{AppendError, Appended, AppendedRange, ProducerSequence};
use crate::disk::codec::{Damage, Reader, Writer};
use bytes::Bytes;
use std::collections::{BTreeMap, HashMap, VecDeque};
use workspace_lifecycle::{Offset, PartitionId};

/// Answers kept a producer: how many requests it may have under way at once and still repeat them all.
pub const ANSWERS_KEPT: usize = 8;

/// Most producers that are remembered; beyond, the one that was silent the longest is forgotten,
/// and begins again with request 1.
pub const PRODUCERS_MOST: usize = 10_000;

/// Most bytes of a producer's name.
pub const PRODUCER_ID_BYTES_MOST: usize = 255;

/// What is known of one producer.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Producer {
    /// Number of its last answered request.
    pub(crate) sequence: u64,
    /// When it was last heard, as a number that only grows.
    pub(crate) used: u64,
    /// Its last answers, the newest last.
    answers: VecDeque<Appended>,
}

/// What to do with a request.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It is new: append it.
    Append,
    /// It was answered before: answer this.
    Repeated(Appended),
}

impl Producer {
    /// Decides what a request with this number is.
    pub(crate) fn judge(&self, asked: &ProducerSequence) -> Result<Verdict, AppendError> {
        let expected = self.sequence.saturating_add(1);
        if asked.sequence == expected {
            return Ok(Verdict::Append);
        }
        let age = self
            .sequence
            .checked_sub(asked.sequence)
            .and_then(|age| usize::try_from(age).ok());
        let kept = age.and_then(|age| self.answers.iter().rev().nth(age));
        match kept {
            Some(answer) if asked.sequence > 0 => Ok(Verdict::Repeated(Appended {
                repeated: true,
                ..answer.clone()
            })),
            _ => Err(AppendError::Sequence {
                producer_id: asked.producer_id.clone(),
                sequence: asked.sequence,
                expected,
            }),
        }
    }

    /// Notes the answer to its next request.
    pub(crate) fn answered(&mut self, answer: Appended, used: u64) {
        self.sequence = self.sequence.saturating_add(1);
        self.used = used;
        self.answers.push_back(answer);
        if self.answers.len() > ANSWERS_KEPT {
            self.answers.pop_front();
        }
    }

    pub(crate) fn encode(&self, producer_id: &str) -> Vec<u8> {
        let mut writer = Writer::default();
        writer
            .u64(self.sequence)
            .u64(self.used)
            .u32(count(self.answers.len()));
        for answer in &self.answers {
            writer
                .u64(answer.accepted)
                .u32(count(answer.partitions.len()));
            for range in &answer.partitions {
                writer
                    .u32(range.partition.0)
                    .u64(range.first_offset.0)
                    .u64(range.last_offset.0);
            }
        }
        writer.seal(producer_id.as_bytes())
    }

    pub(crate) fn decode(producer_id: &[u8], sealed: Bytes) -> Result<Self, Damage> {
        let mut reader = Reader::open(producer_id, sealed)?;
        let mut producer = Self {
            sequence: reader.u64()?,
            used: reader.u64()?,
            answers: VecDeque::new(),
        };
        for _ in 0..reader.u32()? {
            let accepted = reader.u64()?;
            let mut partitions = Vec::new();
            for _ in 0..reader.u32()? {
                partitions.push(AppendedRange {
                    partition: PartitionId(reader.u32()?),
                    first_offset: Offset(reader.u64()?),
                    last_offset: Offset(reader.u64()?),
                });
            }
            producer.answers.push_back(Appended {
                accepted,
                partitions,
                repeated: false,
            });
        }
        Ok(producer)
    }
}

fn count(length: usize) -> u32 {
    u32::try_from(length).unwrap_or(u32::MAX)
}

/// All producers that are remembered, at most [`PRODUCERS_MOST`].
#[derive(Debug, Default)]
pub(crate) struct Producers {
    by_id: HashMap<String, Producer>,
    by_use: BTreeMap<u64, String>,
    used: u64,
}

impl Producers {
    /// Takes a producer in, as it was read from the disk.
    pub(crate) fn restore(&mut self, producer_id: String, producer: Producer) {
        self.used = self.used.max(producer.used);
        self.by_use.insert(producer.used, producer_id.clone());
        self.by_id.insert(producer_id, producer);
    }

    /// Begins a group of requests that becomes known together, or not at all.
    pub(crate) fn stage(&self) -> Staged<'_> {
        Staged {
            base: self,
            changed: HashMap::new(),
            used: self.used,
        }
    }

    /// Makes a group known whose batch is durable.
    pub(crate) fn apply(&mut self, changes: Changes) {
        let Changes {
            changed,
            forgotten,
            used,
        } = changes;
        self.used = used;
        for (producer_id, producer) in changed {
            self.by_use.insert(producer.used, producer_id.clone());
            if let Some(before) = self.by_id.insert(producer_id, producer) {
                self.by_use.remove(&before.used);
            }
        }
        for producer_id in forgotten {
            if let Some(before) = self.by_id.remove(&producer_id) {
                self.by_use.remove(&before.used);
            }
        }
    }

    #[cfg(test)]
    fn len(&self) -> usize {
        self.by_id.len()
    }
}

/// A group of requests under way: later ones see the answers that earlier ones will get.
#[derive(Debug)]
pub(crate) struct Staged<'a> {
    base: &'a Producers,
    changed: HashMap<String, Producer>,
    used: u64,
}

impl Staged<'_> {
    pub(crate) fn judge(&self, asked: &ProducerSequence) -> Result<Verdict, AppendError> {
        let known = self
            .changed
            .get(&asked.producer_id)
            .or_else(|| self.base.by_id.get(&asked.producer_id));
        match known {
            Some(producer) => producer.judge(asked),
            None => Producer::default().judge(asked),
        }
    }

    pub(crate) fn answered(&mut self, producer_id: &str, answer: Appended) {
        self.used += 1;
        let base = self.base;
        let producer = self
            .changed
            .entry(producer_id.to_owned())
            .or_insert_with(|| base.by_id.get(producer_id).cloned().unwrap_or_default());
        producer.answered(answer, self.used);
    }

    /// What the batch must write and remove.
    pub(crate) fn changes(self) -> Changes {
        let new = self
            .changed
            .keys()
            .filter(|id| !self.base.by_id.contains_key(*id))
            .count();
        let excess = (self.base.by_id.len() + new).saturating_sub(PRODUCERS_MOST);
        let silent = self
            .base
            .by_use
            .values()
            .filter(|id| !self.changed.contains_key(*id));
        let forgotten = silent.take(excess).cloned().collect();
        Changes {
            changed: self.changed,
            forgotten,
            used: self.used,
        }
    }
}

/// The outcome of a group.
#[derive(Debug)]
pub(crate) struct Changes {
    pub(crate) changed: HashMap<String, Producer>,
    pub(crate) forgotten: Vec<String>,
    used: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(id: &str, sequence: u64) -> ProducerSequence {
        ProducerSequence {
            producer_id: id.to_owned(),
            sequence,
        }
    }

    fn answer(accepted: u64) -> Appended {
        let range = |p| AppendedRange {
            partition: PartitionId(p),
            first_offset: Offset(accepted),
            last_offset: Offset(accepted + 1),
        };
        Appended {
            accepted,
            partitions: vec![range(1), range(4)],
            repeated: false,
        }
    }

    #[test]
    fn a_repeat_is_answered_as_the_first_was_as_long_as_the_answer_is_kept() {
        let mut producer = Producer::default();
        for sequence in 1..=20 {
            assert_eq!(producer.judge(&asked("p", sequence)), Ok(Verdict::Append));
            producer.answered(answer(sequence), sequence);
        }
        for sequence in 13..=20 {
            let repeated = Appended {
                repeated: true,
                ..answer(sequence)
            };
            assert_eq!(
                producer.judge(&asked("p", sequence)),
                Ok(Verdict::Repeated(repeated))
            );
        }
        for sequence in [0, 12, 22, u64::MAX] {
            let refused = producer
                .judge(&asked("p", sequence))
                .expect_err("neither kept nor next");
            assert!(
                matches!(refused, AppendError::Sequence { expected: 21, .. }),
                "{sequence}: {refused}"
            );
        }
    }

    #[test]
    fn an_unknown_producer_begins_with_request_1() {
        let producers = Producers::default();
        assert_eq!(
            producers.stage().judge(&asked("new", 1)),
            Ok(Verdict::Append)
        );
        let refused = producers
            .stage()
            .judge(&asked("new", 7))
            .expect_err("a gap");
        assert!(matches!(refused, AppendError::Sequence { expected: 1, .. }));
    }

    #[test]
    fn a_repeat_in_the_same_group_sees_the_answer_of_the_first() {
        let producers = Producers::default();
        let mut staged = producers.stage();
        staged.answered("p", answer(1));
        assert!(matches!(
            staged.judge(&asked("p", 1)),
            Ok(Verdict::Repeated(_))
        ));
        assert_eq!(staged.judge(&asked("p", 2)), Ok(Verdict::Append));
    }

    #[test]
    fn a_group_that_failed_leaves_no_trace() {
        let producers = Producers::default();
        let mut staged = producers.stage();
        staged.answered("p", answer(1));
        drop(staged);
        assert_eq!(producers.stage().judge(&asked("p", 1)), Ok(Verdict::Append));
    }

    #[test]
    fn the_producer_that_was_silent_the_longest_is_forgotten_first() {
        let mut producers = Producers::default();
        for i in 0..PRODUCERS_MOST {
            let mut staged = producers.stage();
            staged.answered(&format!("p{i}"), answer(1));
            producers.apply(staged.changes());
        }
        let mut staged = producers.stage();
        staged.answered("p0", answer(2));
        staged.answered("one more", answer(1));
        let changes = staged.changes();
        assert_eq!(changes.forgotten, ["p1"]);
        producers.apply(changes);
        assert_eq!(producers.len(), PRODUCERS_MOST);
        assert!(matches!(
            producers.stage().judge(&asked("p0", 2)),
            Ok(Verdict::Repeated(_))
        ));
        assert_eq!(
            producers.stage().judge(&asked("p1", 1)),
            Ok(Verdict::Append)
        );
    }

    #[test]
    fn a_producer_reads_as_it_was_written() {
        let mut producer = Producer::default();
        for sequence in 1..=9 {
            producer.answered(answer(sequence), sequence);
        }
        assert_eq!(
            Producer::decode(b"p", producer.encode("p").into()),
            Ok(producer)
        );
    }
}
