//! Recognises repeated requests of producers.
//!
//! A producer that did not receive an answer sends the request again, with the same number. Its last [`ANSWERS_KEPT`]
//! answers are kept, written in the same batch as their events.
//!
//! Each answer has its own key, so a request writes one key and removes one. The key is the length of the producer's
//! name, the name, and the number of the request, big endian.

use super::{
    AppendError, Appended, AppendedRange, MAX_PRODUCERS_OF_PREFIX, ProducerSequence,
    ProducersByUse, producer_prefix,
};
use crate::disk::codec::{Damage, Reader, Writer};
use bytes::Bytes;
use std::collections::{HashMap, HashSet, VecDeque};
use std::ops::RangeInclusive;
use std::time::Duration;
use workspace_lifecycle::{Offset, PartitionId};

/// Answers kept for each producer: how many requests it may have in flight and still repeat all of them.
pub const ANSWERS_KEPT: usize = 8;

/// Most producers that are remembered. For a new one beyond them, the least recently used one is forgotten and begins
/// again with request 1. None that sent within [`PRODUCER_IDLE`] is forgotten: the new one is refused instead.
pub const MAX_PRODUCERS: usize = 10_000;

/// A producer that sent within this time is never forgotten: it may still repeat its last requests.
pub const PRODUCER_IDLE: Duration = Duration::from_hours(1);

/// Most bytes of a producer's name.
pub const MAX_PRODUCER_ID_BYTES: usize = 255;

/// The remembered state of one producer.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Producer {
    /// Number of its last answered request.
    pub(crate) sequence: u64,
    /// When it last sent, in microseconds since the Unix epoch. Each request has its own number, which grows even if
    /// the clock does not.
    pub(crate) used: u64,
    /// Its last answers, the newest last.
    answers: VecDeque<Appended>,
}

/// What to do with a request.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It is new: append it.
    Append,
    /// It was answered before: return this answer.
    Repeated(Appended),
}

impl Producer {
    /// Decides whether a request is new, a repeat, or out of sequence.
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

    /// Records the answer to its next request.
    pub(crate) fn answered(&mut self, answer: Appended, used: u64) {
        self.sequence = self.sequence.saturating_add(1);
        self.used = used;
        self.answers.push_back(answer);
        if self.answers.len() > ANSWERS_KEPT {
            self.answers.pop_front();
        }
    }

    /// Numbers of the requests whose answers are kept.
    fn kept(&self) -> RangeInclusive<u64> {
        let kept = u64::try_from(self.answers.len()).unwrap_or(u64::MAX);
        self.sequence.saturating_sub(kept).saturating_add(1)..=self.sequence
    }

    #[cfg(test)]
    fn encode(&self, producer_id: &str) -> Vec<(Vec<u8>, Vec<u8>)> {
        self.encode_after(producer_id, 0)
    }

    /// Its answers to requests after `sequence`, as they are stored.
    fn encode_after(&self, producer_id: &str, sequence: u64) -> Vec<(Vec<u8>, Vec<u8>)> {
        let new = self
            .kept()
            .zip(&self.answers)
            .filter(|(number, _)| *number > sequence);
        new.map(|(number, answer)| {
            let key = answer_key(producer_id, number);
            let value = encode_answer(&key, answer, self.used);
            (key, value)
        })
        .collect()
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
        .u32(count(answer.partitions.len()));
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

fn count(length: usize) -> u32 {
    u32::try_from(length).unwrap_or(u32::MAX)
}

/// All remembered producers, about [`MAX_PRODUCERS`] at most.
#[derive(Debug, Default)]
pub(crate) struct Producers {
    by_id: HashMap<String, Producer>,
    by_use: ProducersByUse,
    used: u64,
}

impl Producers {
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

        let producer = self.by_id.entry(id.to_owned()).or_default();
        if producer.answers.is_empty() {
            producer.sequence = sequence.saturating_sub(1);
        }
        let before = (!producer.answers.is_empty()).then_some(producer.used);
        if producer.sequence.checked_add(1) != Some(sequence) {
            return Err("an answer before it is missing");
        }
        producer.answered(answer, used);
        if let Some(before) = before {
            self.by_use.remove(before, id);
        }
        self.by_use.insert(used, id);
        self.used = self.used.max(used);
        Ok(())
    }

    /// Begins a group of requests that takes effect as a whole, or not at all.
    pub(crate) fn stage(&self, now_ms: u64) -> Staged<'_> {
        Staged {
            base: self,
            changed: HashMap::new(),
            new: 0,
            new_of_prefix: HashMap::new(),
            used: self.used,
            now_us: now_ms.saturating_mul(1000),
        }
    }

    /// Applies a group whose batch is durable.
    pub(crate) fn apply(&mut self, changes: Changes) {
        let Changes {
            changed,
            forgotten,
            used,
            ..
        } = changes;
        self.used = used;
        for (producer_id, producer) in changed {
            if let Some(before) = self.by_id.get(&producer_id) {
                self.by_use.remove(before.used, &producer_id);
            }
            self.by_use.insert(producer.used, &producer_id);
            self.by_id.insert(producer_id, producer);
        }
        for producer_id in forgotten {
            if let Some(before) = self.by_id.remove(&producer_id) {
                self.by_use.remove(before.used, &producer_id);
            }
        }
    }

    #[cfg(test)]
    fn len(&self) -> usize {
        self.by_id.len()
    }
}

/// A group of requests in progress: later ones see the answers that earlier ones will get.
#[derive(Debug)]
pub(crate) struct Staged<'a> {
    base: &'a Producers,
    changed: HashMap<String, Producer>,
    /// Number of changed producers that were unknown before.
    new: usize,
    /// The same for each prefix.
    new_of_prefix: HashMap<String, usize>,
    used: u64,
    now_us: u64,
}

impl Staged<'_> {
    pub(crate) fn judge(&self, asked: &ProducerSequence) -> Result<Verdict, AppendError> {
        let known = self
            .changed
            .get(&asked.producer_id)
            .or_else(|| self.base.by_id.get(&asked.producer_id));
        if let Some(producer) = known {
            return producer.judge(asked);
        }
        let verdict = Producer::default().judge(asked)?;
        if let Some(prefix) = producer_prefix(&asked.producer_id) {
            let new = self.new_of_prefix.get(prefix).map_or(0, |new| *new);
            let excess = self.excess_of(prefix, new + 1);
            let silent = self.silent_of(prefix).map(|(used, _)| used);
            self.room(MAX_PRODUCERS_OF_PREFIX, excess, silent)?;
        }
        let silent = self.silent().map(|(used, _)| used);
        self.room(MAX_PRODUCERS, self.excess(self.new + 1), silent)?;
        Ok(verdict)
    }

    /// Refuses a new producer if one that may still repeat a request would have to be forgotten for it.
    fn room(
        &self,
        most: usize,
        excess: usize,
        mut silent: impl Iterator<Item = u64>,
    ) -> Result<(), AppendError> {
        let Some(last) = excess.checked_sub(1) else {
            return Ok(());
        };
        match silent.nth(last) {
            Some(used) if !self.is_idle(used) => Err(AppendError::Producers {
                most,
                retry_after: PRODUCER_IDLE
                    .saturating_sub(Duration::from_micros(self.now_us.saturating_sub(used))),
            }),
            // `None`: the group alone has more producers than the limit, and all of them are remembered.
            Some(_) | None => Ok(()),
        }
    }

    /// By how many producers the limit is exceeded with `new` more.
    fn excess(&self, new: usize) -> usize {
        (self.base.by_id.len() + new).saturating_sub(MAX_PRODUCERS)
    }

    fn excess_of(&self, prefix: &str, new: usize) -> usize {
        (self.base.by_use.len_of(prefix) + new).saturating_sub(MAX_PRODUCERS_OF_PREFIX)
    }

    /// As [`Self::silent`], for one prefix.
    fn silent_of(&self, prefix: &str) -> impl Iterator<Item = (u64, &str)> {
        let of_prefix = self.base.by_use.silent_of(prefix);
        of_prefix.filter(|(_, id)| !self.changed.contains_key(*id))
    }

    /// Producers that sent nothing in this group, least recently used first.
    fn silent(&self) -> impl Iterator<Item = (u64, &str)> {
        let all = self.base.by_use.silent();
        all.filter(|(_, id)| !self.changed.contains_key(*id))
    }

    /// If the clock was set back far, every producer is idle: otherwise new ones would be refused until it caught up.
    fn is_idle(&self, used: u64) -> bool {
        Duration::from_micros(self.now_us.abs_diff(used)) >= PRODUCER_IDLE
    }

    pub(crate) fn answered(&mut self, producer_id: &str, answer: Appended) {
        self.used = self.used.saturating_add(1).max(self.now_us);
        let base = self.base;
        if !self.changed.contains_key(producer_id) && !base.by_id.contains_key(producer_id) {
            self.new += 1;
            if let Some(prefix) = producer_prefix(producer_id) {
                *self.new_of_prefix.entry(prefix.to_owned()).or_default() += 1;
            }
        }
        let producer = self
            .changed
            .entry(producer_id.to_owned())
            .or_insert_with(|| base.by_id.get(producer_id).cloned().unwrap_or_default());
        producer.answered(answer, self.used);
    }

    /// The new state of the producers, and what the batch must write and remove.
    pub(crate) fn changes(self) -> Changes {
        // Checked again: an idle producer may have sent later in this group, and the next one need not be idle.
        let is_idle = |(used, _): &(u64, &str)| self.is_idle(*used);
        let prefixes = self.new_of_prefix.iter();
        let of_prefixes: HashSet<&str> = prefixes
            .flat_map(|(prefix, new)| {
                let excess = self.excess_of(prefix, *new);
                self.silent_of(prefix).take(excess).take_while(is_idle)
            })
            .map(|(_, id)| id)
            .collect();
        let excess = self.excess(self.new).saturating_sub(of_prefixes.len());
        let of_all = self
            .silent()
            .filter(|(_, id)| !of_prefixes.contains(id))
            .take(excess)
            .take_while(is_idle)
            .map(|(_, id)| id);
        let forgotten = of_prefixes.iter().copied().chain(of_all);
        let forgotten: Vec<String> = forgotten.map(str::to_owned).collect();
        let mut written = Vec::new();
        let mut removed = Vec::new();
        let none = Producer::default();
        for (id, producer) in &self.changed {
            let before = self.base.by_id.get(id).unwrap_or(&none);
            written.extend(producer.encode_after(id, before.sequence));
            let kept = producer.kept();
            let gone = before.kept().filter(|number| !kept.contains(number));
            removed.extend(gone.map(|number| answer_key(id, number)));
        }
        for id in &forgotten {
            let before = self.base.by_id.get(id).unwrap_or(&none);
            removed.extend(before.kept().map(|number| answer_key(id, number)));
        }
        Changes {
            changed: self.changed,
            forgotten,
            written,
            removed,
            used: self.used,
        }
    }
}

/// The outcome of a group.
#[derive(Debug)]
pub(crate) struct Changes {
    changed: HashMap<String, Producer>,
    forgotten: Vec<String>,
    /// Keys and values of new answers.
    pub(crate) written: Vec<(Vec<u8>, Vec<u8>)>,
    /// Keys of answers that are no longer kept.
    pub(crate) removed: Vec<Vec<u8>>,
    used: u64,
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    const NOW_MS: u64 = 1_700_000_000_000;

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
            producers.stage(NOW_MS).judge(&asked("new", 1)),
            Ok(Verdict::Append)
        );
        let refused = producers
            .stage(NOW_MS)
            .judge(&asked("new", 7))
            .expect_err("a gap");
        assert!(matches!(refused, AppendError::Sequence { expected: 1, .. }));
    }

    #[test]
    fn a_repeat_in_the_same_group_sees_the_answer_of_the_first() {
        let producers = Producers::default();
        let mut staged = producers.stage(NOW_MS);
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
        let mut staged = producers.stage(NOW_MS);
        staged.answered("p", answer(1));
        drop(staged);
        assert_eq!(
            producers.stage(NOW_MS).judge(&asked("p", 1)),
            Ok(Verdict::Append)
        );
    }

    /// Sends the next request of a producer, in a group of its own.
    fn send(producers: &mut Producers, now_ms: u64, id: &str) -> Result<Vec<String>, AppendError> {
        let mut staged = producers.stage(now_ms);
        let known = producers.by_id.get(id).map_or(0, |known| known.sequence);
        staged.judge(&asked(id, known + 1))?;
        staged.answered(id, answer(1));
        let changes = staged.changes();
        let forgotten = changes.forgotten.clone();
        producers.apply(changes);
        Ok(forgotten)
    }

    /// The most producers that are remembered, each used a millisecond after the previous one.
    fn full() -> Producers {
        let mut producers = Producers::default();
        for (now_ms, i) in (NOW_MS..).zip(0..MAX_PRODUCERS) {
            send(&mut producers, now_ms, &format!("p{i}")).expect("there is room");
        }
        producers
    }

    #[test]
    fn a_new_producer_is_refused_while_all_others_were_heard_of_late() {
        let mut producers = full();
        let refused = send(&mut producers, NOW_MS + 60_000, "one more").expect_err("no room");
        let left = PRODUCER_IDLE.saturating_sub(Duration::from_mins(1));
        assert_eq!(
            refused,
            AppendError::Producers {
                most: MAX_PRODUCERS,
                retry_after: left
            }
        );
        assert!(
            refused.to_string().contains("within 60 minutes"),
            "{refused}"
        );
        // A gap is refused as a gap, with or without room, and known producers continue.
        let gap = producers.stage(NOW_MS).judge(&asked("one more", 2));
        assert!(matches!(
            gap,
            Err(AppendError::Sequence { expected: 1, .. })
        ));
        assert_eq!(send(&mut producers, NOW_MS + 60_000, "p0"), Ok(Vec::new()));
        let repeat = producers.stage(NOW_MS).judge(&asked("p1", 1));
        assert!(matches!(repeat, Ok(Verdict::Repeated(_))));
        assert_eq!(producers.len(), MAX_PRODUCERS);
    }

    #[test]
    fn the_producers_of_one_prefix_take_no_place_from_others() {
        let mut producers = Producers::default();
        for (now_ms, i) in (NOW_MS..).zip(0..MAX_PRODUCERS_OF_PREFIX) {
            send(&mut producers, now_ms, &format!("acme-/p{i}")).expect("there is room");
        }
        let now_ms = NOW_MS + 60_000;
        let refused = send(&mut producers, now_ms, "acme-/one more").expect_err("no room");
        let most = MAX_PRODUCERS_OF_PREFIX;
        assert!(
            matches!(refused, AppendError::Producers { most: found, .. } if found == most),
            "{refused}"
        );
        // Known producers continue, and producers of other prefixes find room.
        for id in ["acme-/p1", "acme-2/p", "p", "acme-"] {
            assert_eq!(send(&mut producers, now_ms, id), Ok(Vec::new()), "{id}");
        }
        // The least recently used producer of the same prefix is forgotten, not one of another prefix.
        let idle_ms = u64::try_from(PRODUCER_IDLE.as_millis()).expect("small");
        let forgotten = send(&mut producers, NOW_MS + idle_ms, "acme-/one more");
        assert_eq!(forgotten, Ok(vec!["acme-/p0".to_owned()]));
        assert_eq!(producers.by_use.len_of("acme-"), MAX_PRODUCERS_OF_PREFIX);
        // A forgotten producer is unknown, also after a restore from disk.
        let mut restored = Producers::default();
        for (id, producer) in &producers.by_id {
            for (key, value) in producer.encode(id) {
                restored.restore(&key, value.into()).expect("intact");
            }
        }
        assert_eq!(restored.by_use, producers.by_use);
    }

    #[test]
    fn the_producer_that_was_silent_the_longest_is_forgotten_first() {
        let mut producers = full();
        let idle_ms = u64::try_from(PRODUCER_IDLE.as_millis()).expect("small");
        send(&mut producers, NOW_MS + 20_000, "p0").expect("known");
        // Of the others, only p1 and p2 are idle.
        let now_ms = NOW_MS + 2 + idle_ms;
        let mut staged = producers.stage(now_ms);
        for id in ["one more", "another"] {
            staged.judge(&asked(id, 1)).expect("there is room");
            staged.answered(id, answer(1));
        }
        let refused = staged.judge(&asked("a third", 1));
        assert!(matches!(refused, Err(AppendError::Producers { .. })));
        let changes = staged.changes();
        assert_eq!(changes.forgotten, ["p1", "p2"]);
        producers.apply(changes);
        assert_eq!(producers.len(), MAX_PRODUCERS);
        assert!(matches!(
            producers.stage(now_ms).judge(&asked("p0", 2)),
            Ok(Verdict::Repeated(_))
        ));
    }

    #[test]
    fn one_that_is_heard_again_in_the_same_group_is_not_forgotten() {
        let mut producers = full();
        let idle_ms = u64::try_from(PRODUCER_IDLE.as_millis()).expect("small");
        let mut staged = producers.stage(NOW_MS + idle_ms);
        staged.judge(&asked("one more", 1)).expect("p0 was silent");
        staged.answered("one more", answer(1));
        staged.judge(&asked("p0", 2)).expect("still known");
        staged.answered("p0", answer(1));
        let changes = staged.changes();
        assert_eq!(changes.forgotten, Vec::<String>::new());
        producers.apply(changes);
        assert_eq!(producers.len(), MAX_PRODUCERS + 1);
    }

    #[test]
    fn a_clock_that_was_set_back_leaves_room() {
        let mut producers = full();
        let idle_ms = u64::try_from(PRODUCER_IDLE.as_millis()).expect("small");
        let forgotten = send(&mut producers, NOW_MS - 2 * idle_ms, "one more");
        assert_eq!(forgotten, Ok(vec!["p0".to_owned()]));
    }

    #[test]
    fn producers_read_as_they_were_written_also_after_many_groups() {
        let mut disk = BTreeMap::new();
        let mut producers = Producers::default();
        for round in 1..=30 {
            let mut staged = producers.stage(NOW_MS);
            // One name is a prefix of another, and one producer has more answers at once than are kept.
            for (id, requests) in [("p", 1), ("p\0", 3), ("many", 10)] {
                if round % (requests + 1) == 0 {
                    (0..requests).for_each(|_| staged.answered(id, answer(round)));
                }
            }
            let mut changes = staged.changes();
            disk.extend(std::mem::take(&mut changes.written));
            for key in &changes.removed {
                assert!(disk.remove(key).is_some(), "only what was written goes");
            }
            producers.apply(changes);

            let mut restored = Producers::default();
            for (key, value) in &disk {
                restored.restore(key, value.clone().into()).expect("intact");
            }
            assert_eq!(restored.by_id, producers.by_id);
            let ids = |producers: &Producers| {
                let silent = producers.by_use.silent();
                silent.map(|(_, id)| id.to_owned()).collect::<Vec<_>>()
            };
            assert_eq!(ids(&restored), ids(&producers));
        }
    }

    #[test]
    fn a_request_writes_its_own_answer_alone() {
        let mut producers = Producers::default();
        for sequence in 1..=20 {
            let mut staged = producers.stage(NOW_MS);
            staged.answered("p", answer(sequence));
            let changes = staged.changes();
            assert_eq!(changes.written.len(), 1);
            assert_eq!(changes.removed.len(), usize::from(sequence > 8));
            producers.apply(changes);
        }
    }

    #[test]
    fn an_answer_that_is_missing_between_others_is_noticed() {
        let mut producer = Producer::default();
        for sequence in 1..=4 {
            producer.answered(answer(sequence), sequence);
        }
        let mut written = producer.encode("p");
        written.remove(2);
        let mut producers = Producers::default();
        let restored: Result<(), _> = written
            .into_iter()
            .try_for_each(|(key, value)| producers.restore(&key, value.into()));
        assert_eq!(restored, Err("an answer before it is missing"));
    }
}
