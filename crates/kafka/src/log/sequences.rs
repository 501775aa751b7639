//! Recognises repeated requests of producers, as long as this process knows them.
//!
//! Another engine may have answered the first requests of a producer, so one that is not known begins with
//! any number. Requests under way count: a repeat of one is answered with it.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;

use workspace_engine_core::log::{
    ANSWERS_KEPT, AppendError, Appended, PRODUCERS_MOST, ProducerSequence,
};

/// What a request is.
#[derive(Debug)]
pub(super) enum Verdict<P> {
    /// It is new: append it.
    New,
    /// It failed before, as this one: append what was not acknowledged then.
    Again(Arc<P>),
    /// It is under way: its answer is that of this one.
    Pending(Arc<P>),
    /// It was answered before.
    Answered(Appended),
}

#[derive(Debug)]
enum Slot<P> {
    Pending(Arc<P>),
    Answered(Appended),
    /// It was not appended as a whole, or nobody knows; it may come again.
    Failed(Arc<P>),
}

#[derive(Debug)]
struct Producer<P> {
    /// Number of the request in the first slot.
    first: u64,
    slots: VecDeque<Slot<P>>,
    used: u64,
}

impl<P> Producer<P> {
    fn numbered(&self) -> impl Iterator<Item = (u64, &Slot<P>)> {
        (self.first..).zip(&self.slots)
    }

    /// The only new request that is taken: the first that failed, or the one behind the last.
    fn expected(&self) -> u64 {
        self.numbered()
            .find(|(_, slot)| matches!(slot, Slot::Failed(_)))
            .map_or_else(
                || {
                    self.first
                        .saturating_add(u64::try_from(self.slots.len()).unwrap_or(0))
                },
                |(number, _)| number,
            )
    }

    /// Nothing of it was appended as a whole, so that nothing stands against another beginning.
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

/// The producers of this process, at most [`PRODUCERS_MOST`].
#[derive(Debug)]
pub(super) struct Sequences<P> {
    by_id: HashMap<String, Producer<P>>,
    by_use: BTreeMap<u64, String>,
    uses: u64,
}

impl<P> Default for Sequences<P> {
    fn default() -> Self {
        Self {
            by_id: HashMap::new(),
            by_use: BTreeMap::new(),
            uses: 0,
        }
    }
}

impl<P> Sequences<P> {
    /// Decides what a request is.
    ///
    /// # Errors
    /// [`AppendError::Sequence`] for one out of its turn, [`AppendError::Busy`] where too many are under way.
    pub(super) fn judge(&self, asked: &ProducerSequence) -> Result<Verdict<P>, AppendError> {
        let Some(producer) = self.by_id.get(&asked.producer_id) else {
            return Ok(Verdict::New);
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

    /// A request that was judged to be new is under way.
    pub(super) fn begin(&mut self, asked: &ProducerSequence, pending: Arc<P>) {
        self.uses += 1;
        let producer = self
            .by_id
            .entry(asked.producer_id.clone())
            .or_insert_with(|| Producer {
                first: asked.sequence,
                slots: VecDeque::new(),
                used: 0,
            });
        self.by_use.remove(&producer.used);
        producer.used = self.uses;
        self.by_use.insert(self.uses, asked.producer_id.clone());
        if let Some(slot) = producer.slot(asked.sequence) {
            *slot = Slot::Pending(pending);
        } else {
            if producer.all_failed() {
                producer.slots.clear();
                producer.first = asked.sequence;
            }
            producer.slots.push_back(Slot::Pending(pending));
            if producer.slots.len() > ANSWERS_KEPT {
                producer.slots.pop_front();
                producer.first = producer.first.saturating_add(1);
            }
        }
        if self.by_id.len() > PRODUCERS_MOST
            && let Some((_, silent)) = self.by_use.pop_first()
        {
            self.by_id.remove(&silent);
        }
    }

    /// A request is over; one that failed may come again.
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
            (None, Slot::Answered(_) | Slot::Failed(_)) => {}
        }
    }
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
        Appended {
            accepted,
            partitions: Vec::new(),
            repeated: false,
        }
    }

    fn append(sequences: &mut Sequences<()>, sequence: u64) {
        let asked = asked("p", sequence);
        assert!(
            matches!(sequences.judge(&asked), Ok(Verdict::New)),
            "{sequence}"
        );
        sequences.begin(&asked, Arc::new(()));
        sequences.end(&asked, Some(&answer(sequence)));
    }

    fn refused(sequences: &Sequences<()>, sequence: u64) -> AppendError {
        sequences
            .judge(&asked("p", sequence))
            .expect_err("out of turn")
    }

    #[test]
    fn a_repeat_is_answered_as_the_first_was_as_long_as_the_answer_is_kept() {
        let mut sequences = Sequences::default();
        (1..=20).for_each(|sequence| append(&mut sequences, sequence));
        for sequence in 13..=20 {
            match sequences.judge(&asked("p", sequence)) {
                Ok(Verdict::Answered(kept)) => assert_eq!(kept, answer(sequence)),
                other => panic!("{sequence}: {other:?}"),
            }
        }
        for sequence in [0, 12, 22, u64::MAX] {
            let error = refused(&sequences, sequence);
            assert!(
                matches!(error, AppendError::Sequence { expected: 21, .. }),
                "{sequence}: {error}"
            );
        }
    }

    #[test]
    fn an_unknown_producer_begins_anywhere() {
        let mut sequences = Sequences::default();
        append(&mut sequences, 7);
        append(&mut sequences, 8);
        assert!(matches!(
            refused(&sequences, 6),
            AppendError::Sequence { expected: 9, .. }
        ));
    }

    #[test]
    fn a_repeat_of_a_request_under_way_is_that_one() {
        let mut sequences = Sequences::default();
        let pending = Arc::new(5);
        sequences.begin(&asked("p", 1), Arc::clone(&pending));
        match sequences.judge(&asked("p", 1)) {
            Ok(Verdict::Pending(found)) => assert!(Arc::ptr_eq(&found, &pending)),
            other => panic!("{other:?}"),
        }
        assert!(matches!(sequences.judge(&asked("p", 2)), Ok(Verdict::New)));
    }

    #[test]
    fn a_request_that_failed_comes_again_before_any_later_one() {
        let mut sequences = Sequences::default();
        append(&mut sequences, 1);
        sequences.begin(&asked("p", 2), Arc::new(()));
        sequences.begin(&asked("p", 3), Arc::new(()));
        sequences.end(&asked("p", 3), Some(&answer(3)));
        sequences.end(&asked("p", 2), None);
        assert!(matches!(
            refused(&sequences, 4),
            AppendError::Sequence { expected: 2, .. }
        ));
        assert!(matches!(
            sequences.judge(&asked("p", 2)),
            Ok(Verdict::Again(_))
        ));
        sequences.begin(&asked("p", 2), Arc::new(()));
        sequences.end(&asked("p", 2), Some(&answer(2)));
        append(&mut sequences, 4);
    }

    #[test]
    fn a_producer_whose_requests_all_failed_may_begin_anew() {
        let mut sequences = Sequences::default();
        sequences.begin(&asked("p", 9), Arc::new(()));
        sequences.end(&asked("p", 9), None);
        assert!(matches!(
            sequences.judge(&asked("p", 9)),
            Ok(Verdict::Again(_))
        ));
        append(&mut sequences, 1);
        append(&mut sequences, 2);
    }

    #[test]
    fn no_more_requests_are_under_way_than_answers_are_kept() {
        let mut sequences = Sequences::default();
        for sequence in 1..=8 {
            sequences.begin(&asked("p", sequence), Arc::new(()));
        }
        assert_eq!(refused(&sequences, 9), AppendError::Busy);
        sequences.end(&asked("p", 1), Some(&answer(1)));
        append(&mut sequences, 9);
    }

    #[test]
    fn the_producer_that_was_silent_the_longest_is_forgotten_first() {
        let mut sequences = Sequences::default();
        let mut use_one = |id: String, sequence| {
            sequences.begin(&asked(&id, sequence), Arc::new(()));
            sequences.end(&asked(&id, sequence), Some(&answer(1)));
        };
        for number in 0..PRODUCERS_MOST {
            use_one(format!("p{number}"), 1);
        }
        use_one("p0".to_owned(), 2);
        use_one("one more".to_owned(), 1);
        assert_eq!(sequences.by_id.len(), PRODUCERS_MOST);
        assert_eq!(sequences.by_use.len(), PRODUCERS_MOST);
        assert!(sequences.by_id.contains_key("p0"));
        assert!(!sequences.by_id.contains_key("p1"));
    }
}
