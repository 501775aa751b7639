//! Recognises repeated requests of the producers that this process remembers.
//!
//! Another engine may have answered the first requests of a producer, so an unknown producer may begin with any number,
//! unless the scan of the topic found its records. A repeat of a request under way gets the same answer.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use workspace_engine_core::log::{
    ANSWERS_KEPT, AppendError, Appended, MAX_PRODUCERS, MAX_PRODUCERS_OF_PREFIX, PRODUCER_IDLE,
    ProducerSequence, ProducersByUse, producer_prefix,
};

/// What a request is.
#[derive(Debug)]
pub(super) enum Verdict<P> {
    /// It is new: append it.
    New,
    /// It failed before, as the contained request: append what was not acknowledged then.
    Again(Arc<P>),
    /// It is under way as the contained request, and gets the same answer.
    Pending(Arc<P>),
    /// It was answered before.
    Answered(Appended),
}

#[derive(Debug)]
enum Slot<P> {
    Pending(Arc<P>),
    Answered(Appended),
    /// It was not appended as a whole, or the outcome is unknown; the producer may repeat it.
    Failed(Arc<P>),
    /// Another process has received it, or a later one: only the topic shows what was appended of it.
    Elsewhere,
}

#[derive(Debug)]
struct Producer<P> {
    /// Number of the request in the first slot.
    first: u64,
    slots: VecDeque<Slot<P>>,
    used: u64,
    heard_at: Instant,
}

impl<P> Producer<P> {
    fn numbered(&self) -> impl Iterator<Item = (u64, &Slot<P>)> {
        (self.first..=u64::MAX).zip(&self.slots)
    }

    /// The only new request that is accepted: the first that failed, or the one after the last.
    fn expected(&self) -> u64 {
        self.numbered()
            .find(|(_, slot)| matches!(slot, Slot::Failed(_)))
            .map_or_else(|| self.next(), |(number, _)| number)
    }

    /// The request after the last.
    fn next(&self) -> u64 {
        self.first
            .saturating_add(u64::try_from(self.slots.len()).unwrap_or(0))
    }

    fn push(&mut self, slot: Slot<P>) {
        self.slots.push_back(slot);
        if self.slots.len() > ANSWERS_KEPT {
            self.slots.pop_front();
            self.first = self.first.saturating_add(1);
        }
    }

    /// No request of the producer was appended as a whole, so its numbers may begin again anywhere.
    fn all_failed(&self) -> bool {
        self.slots
            .iter()
            .all(|slot| matches!(slot, Slot::Failed(_)))
    }

    fn slot(&mut self, sequence: u64) -> Option<&mut Slot<P>> {
        let place = usize::try_from(sequence.checked_sub(self.first)?).ok()?;
        self.slots.get_mut(place)
    }
}

/// The producers of this process, at most [`MAX_PRODUCERS`], and at most [`MAX_PRODUCERS_OF_PREFIX`] of one prefix. A
/// new one beyond that replaces the one that was silent the longest, unless that one was heard within
/// [`PRODUCER_IDLE`].
#[derive(Debug)]
pub(super) struct Sequences<P> {
    by_id: HashMap<String, Producer<P>>,
    by_use: ProducersByUse,
    uses: u64,
}

impl<P> Default for Sequences<P> {
    fn default() -> Self {
        Self {
            by_id: HashMap::new(),
            by_use: ProducersByUse::default(),
            uses: 0,
        }
    }
}

impl<P> Sequences<P> {
    /// Whether a request can be judged by what this process knows; otherwise the topic must be scanned first.
    pub(super) fn knows(&self, asked: &ProducerSequence) -> bool {
        let Some(producer) = self.by_id.get(&asked.producer_id) else {
            return false;
        };
        let expected = producer.expected();
        let mut numbered = producer.numbered();
        match numbered.find(|(number, _)| *number == asked.sequence) {
            Some((_, Slot::Pending(_) | Slot::Answered(_))) => true,
            // Records of a request that failed may have reached the topic since.
            Some((_, Slot::Elsewhere | Slot::Failed(_))) => false,
            None => {
                asked.sequence == expected && expected == producer.next() && !producer.all_failed()
            }
        }
    }

    /// Takes in that the topic holds records of a producer, up to request `highest`. `is_there` is true for a failed
    /// request of which all records are in the topic.
    pub(super) fn reach(
        &mut self,
        producer_id: &str,
        highest: u64,
        is_there: impl Fn(u64, &P) -> bool,
    ) {
        if self.room_for(producer_id).is_err() {
            return;
        }
        let kept = u64::try_from(ANSWERS_KEPT).unwrap_or(u64::MAX);
        let lowest = highest.saturating_add(1).saturating_sub(kept).max(1);
        let producer = self.touch(producer_id, lowest);
        if producer.next() < lowest {
            producer.slots.clear();
            producer.first = lowest;
        }
        while producer.next() <= highest && producer.next() < u64::MAX {
            producer.push(Slot::Elsewhere);
        }
        for (number, slot) in (producer.first..=u64::MAX).zip(&mut producer.slots) {
            if matches!(slot, Slot::Failed(failed) if is_there(number, failed)) {
                *slot = Slot::Elsewhere;
            }
        }
    }

    /// The limit that a new producer reaches, and the producer forgotten for it; none while there is room.
    fn in_the_way(&self, producer_id: &str) -> Option<(usize, &str)> {
        let all = &self.by_use;
        let own = producer_prefix(producer_id)
            .filter(|prefix| all.len_of(prefix) >= MAX_PRODUCERS_OF_PREFIX);
        let (most, silent) = match own {
            Some(prefix) => (MAX_PRODUCERS_OF_PREFIX, all.silent_of(prefix).next()),
            None if all.len() >= MAX_PRODUCERS => (MAX_PRODUCERS, all.silent().next()),
            None => return None,
        };
        silent.map(|(_, id)| (most, id))
    }

    /// Refuses a new producer if one that may still repeat a request would have to be forgotten for it.
    fn room_for(&self, producer_id: &str) -> Result<(), AppendError> {
        if self.by_id.contains_key(producer_id) {
            return Ok(());
        }
        let Some((most, silent)) = self.in_the_way(producer_id) else {
            return Ok(());
        };
        let heard_at = self.by_id.get(silent).map(|silent| silent.heard_at);
        match heard_at.map(|heard_at| PRODUCER_IDLE.saturating_sub(heard_at.elapsed())) {
            Some(retry_after) if !retry_after.is_zero() => {
                Err(AppendError::Producers { most, retry_after })
            }
            Some(_) | None => Ok(()),
        }
    }

    /// The producer, which is now the last to be forgotten. An unknown one begins with `first`.
    fn touch(&mut self, producer_id: &str, first: u64) -> &mut Producer<P> {
        self.uses += 1;
        if !self.by_id.contains_key(producer_id)
            && let Some((_, silent)) = self.in_the_way(producer_id)
        {
            let silent = silent.to_owned();
            if let Some(forgotten) = self.by_id.remove(&silent) {
                self.by_use.remove(forgotten.used, &silent);
            }
        }
        let producer = self
            .by_id
            .entry(producer_id.to_owned())
            .or_insert_with(|| Producer {
                first,
                slots: VecDeque::new(),
                used: 0,
                heard_at: Instant::now(),
            });
        self.by_use.remove(producer.used, producer_id);
        producer.heard_at = Instant::now();
        producer.used = self.uses;
        self.by_use.insert(self.uses, producer_id);
        producer
    }

    /// Decides what a request is.
    ///
    /// # Errors
    /// [`AppendError::Sequence`] for a number out of sequence, [`AppendError::Busy`] if too many are under way,
    /// [`AppendError::Producers`] if one more producer cannot be remembered.
    pub(super) fn judge(&self, asked: &ProducerSequence) -> Result<Verdict<P>, AppendError> {
        let Some(producer) = self.by_id.get(&asked.producer_id) else {
            return self.room_for(&asked.producer_id).map(|()| Verdict::New);
        };
        let kept = producer
            .numbered()
            .find(|(number, _)| *number == asked.sequence);
        match kept {
            Some((_, Slot::Pending(pending))) => return Ok(Verdict::Pending(Arc::clone(pending))),
            Some((_, Slot::Answered(answer))) => return Ok(Verdict::Answered(answer.clone())),
            Some((_, Slot::Failed(earlier))) if asked.sequence == producer.expected() => {
                return Ok(Verdict::Again(Arc::clone(earlier)));
            }
            Some((_, Slot::Elsewhere)) => return Ok(Verdict::New),
            None if producer.all_failed() => return Ok(Verdict::New),
            Some((_, Slot::Failed(_))) | None => {}
        }
        let expected = producer.expected();
        if asked.sequence != expected {
            return Err(AppendError::Sequence {
                producer_id: asked.producer_id.clone(),
                sequence: asked.sequence,
                expected,
            });
        }
        let full = kept.is_none() && producer.slots.len() >= ANSWERS_KEPT;
        if full && matches!(producer.slots.front(), Some(Slot::Pending(_))) {
            return Err(AppendError::Busy);
        }
        Ok(Verdict::New)
    }

    /// Notes that a request that was judged to be new is under way.
    pub(super) fn begin(&mut self, asked: &ProducerSequence, pending: Arc<P>) {
        let producer = self.touch(&asked.producer_id, asked.sequence);
        if let Some(slot) = producer.slot(asked.sequence) {
            *slot = Slot::Pending(pending);
            return;
        }
        if producer.all_failed() {
            producer.slots.clear();
            producer.first = asked.sequence;
        }
        producer.push(Slot::Pending(pending));
    }

    /// Notes that a request has ended; without an answer it failed and may be repeated.
    pub(super) fn end(&mut self, asked: &ProducerSequence, answer: Option<&Appended>) {
        let Some(producer) = self.by_id.get_mut(&asked.producer_id) else {
            return;
        };
        let Some(slot) = producer.slot(asked.sequence) else {
            return;
        };
        match (answer, &*slot) {
            (Some(answer), _) => *slot = Slot::Answered(answer.clone()),
            (None, Slot::Pending(pending)) => *slot = Slot::Failed(Arc::clone(pending)),
            (None, Slot::Answered(_) | Slot::Failed(_) | Slot::Elsewhere) => {}
        }
    }
}

#[cfg(test)]
mod tests;
