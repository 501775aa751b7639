//! The last requests of one producer, by number.
//!
//! ```text
//!                    begin                 end with an answer
//!   (new) ─────────────────────► Pending ─────────────────────► Answered
//!                                 ▲   │ end without one
//!                           begin │   ▼
//!                                Failed ──── found in the topic ───► Elsewhere
//! ```

use super::super::{AppendError, Appended, ProducerSequence};
use std::collections::VecDeque;
use std::ops::RangeInclusive;
use std::sync::Arc;

/// Requests remembered for each producer: how many it may have under way and still repeat all of them.
pub const ANSWERS_KEPT: usize = 8;

/// What a request is. `P` is a request under way.
#[derive(Debug)]
pub enum Verdict<P> {
    /// It is new: append it.
    New,
    /// It failed before, as the contained request: append what was not acknowledged then.
    Again(Arc<P>),
    /// It is under way as the contained request, and gets the same answer.
    Pending(Arc<P>),
    /// It was answered before.
    Answered(Appended),
}

/// What is remembered of one request.
#[derive(Debug, Clone)]
pub(super) enum RequestState<P> {
    Pending(Arc<P>),
    Answered(Appended),
    /// It was not appended as a whole, or the outcome is unknown; the producer may repeat it.
    Failed(Arc<P>),
    /// Another process has received it, or a later one: only the topic shows what was appended of it.
    Elsewhere,
}

/// The last requests of one producer, at most [`ANSWERS_KEPT`].
#[derive(Debug, Clone)]
pub(super) struct Window<P> {
    /// Number of the first request.
    first: u64,
    requests: VecDeque<RequestState<P>>,
}

impl<P> Window<P> {
    /// An empty window, which any request may begin.
    pub(super) fn beginning_at(first: u64) -> Self {
        Self {
            first,
            requests: VecDeque::new(),
        }
    }

    /// The request after the last.
    pub(super) fn next(&self) -> u64 {
        self.first
            .saturating_add(u64::try_from(self.requests.len()).unwrap_or(0))
    }

    /// Numbers of the requests that are remembered.
    pub(super) fn kept(&self) -> RangeInclusive<u64> {
        self.first..=self.next().saturating_sub(1)
    }

    /// The requests that are remembered, with their numbers.
    pub(super) fn numbered(&self) -> impl Iterator<Item = (u64, &RequestState<P>)> {
        (self.first..=u64::MAX).zip(&self.requests)
    }

    pub(super) fn get(&self, sequence: u64) -> Option<&RequestState<P>> {
        self.requests.get(self.place(sequence)?)
    }

    fn place(&self, sequence: u64) -> Option<usize> {
        usize::try_from(sequence.checked_sub(self.first)?).ok()
    }

    /// The only new request that is accepted: the first that failed, or the one after the last.
    fn expected(&self) -> u64 {
        self.numbered()
            .find(|(_, state)| matches!(state, RequestState::Failed(_)))
            .map_or_else(|| self.next(), |(number, _)| number)
    }

    /// No request of the producer was appended as a whole, so its numbers may begin again anywhere.
    fn all_failed(&self) -> bool {
        self.requests
            .iter()
            .all(|state| matches!(state, RequestState::Failed(_)))
    }

    /// As [`Producers::judge`](super::Producers::judge).
    pub(super) fn judge(&self, request: &ProducerSequence) -> Result<Verdict<P>, AppendError> {
        let kept = self.get(request.sequence);
        let expected = self.expected();
        match kept {
            Some(RequestState::Pending(pending)) => {
                return Ok(Verdict::Pending(Arc::clone(pending)));
            }
            Some(RequestState::Answered(answer)) => return Ok(Verdict::Answered(answer.clone())),
            Some(RequestState::Failed(earlier)) if request.sequence == expected => {
                return Ok(Verdict::Again(Arc::clone(earlier)));
            }
            Some(RequestState::Elsewhere) => return Ok(Verdict::New),
            None if self.all_failed() => return Ok(Verdict::New),
            Some(RequestState::Failed(_)) | None => {}
        }
        if request.sequence != expected {
            return Err(out_of_sequence(request, expected));
        }
        // The first answer would be dropped before it arrives.
        let is_full = self.requests.len() >= ANSWERS_KEPT;
        if is_full && matches!(self.requests.front(), Some(RequestState::Pending(_))) {
            return Err(AppendError::Busy);
        }
        Ok(Verdict::New)
    }

    /// As [`Producers::knows`](super::Producers::knows).
    pub(super) fn knows(&self, sequence: u64) -> bool {
        match self.get(sequence) {
            Some(RequestState::Pending(_) | RequestState::Answered(_)) => true,
            // Records of a request that failed may have reached the topic since.
            Some(RequestState::Elsewhere | RequestState::Failed(_)) => false,
            None => {
                let expected = self.expected();
                sequence == expected && expected == self.next() && !self.all_failed()
            }
        }
    }

    /// Remembers a request that was judged to be new.
    pub(super) fn set(&mut self, sequence: u64, state: RequestState<P>) {
        let place = self.place(sequence);
        if let Some(kept) = place.and_then(|place| self.requests.get_mut(place)) {
            *kept = state;
            return;
        }
        if self.all_failed() {
            *self = Self::beginning_at(sequence);
        }
        self.push(state);
    }

    fn push(&mut self, state: RequestState<P>) {
        self.requests.push_back(state);
        if self.requests.len() > ANSWERS_KEPT {
            self.requests.pop_front();
            self.first = self.first.saturating_add(1);
        }
    }

    /// As [`Producers::end`](super::Producers::end).
    pub(super) fn end(&mut self, sequence: u64, answer: Option<&Appended>) {
        let place = self.place(sequence);
        let Some(state) = place.and_then(|place| self.requests.get_mut(place)) else {
            return;
        };
        match (answer, &*state) {
            (Some(answer), _) => *state = RequestState::Answered(answer.clone()),
            (None, RequestState::Pending(pending)) => {
                *state = RequestState::Failed(Arc::clone(pending));
            }
            (
                None,
                RequestState::Answered(_) | RequestState::Failed(_) | RequestState::Elsewhere,
            ) => {}
        }
    }

    /// As [`Producers::reach`](super::Producers::reach).
    pub(super) fn reach(&mut self, highest: u64, is_whole: impl Fn(u64, &P) -> bool) {
        let kept = u64::try_from(ANSWERS_KEPT).unwrap_or(u64::MAX);
        let lowest = highest.saturating_add(1).saturating_sub(kept).max(1);
        if self.next() < lowest {
            *self = Self::beginning_at(lowest);
        }
        while self.next() <= highest && self.next() < u64::MAX {
            self.push(RequestState::Elsewhere);
        }
        for (number, state) in (self.first..=u64::MAX).zip(&mut self.requests) {
            if matches!(state, RequestState::Failed(failed) if is_whole(number, failed)) {
                *state = RequestState::Elsewhere;
            }
        }
    }
}

pub(super) fn out_of_sequence(request: &ProducerSequence, expected: u64) -> AppendError {
    AppendError::Sequence {
        producer_id: request.producer_id.clone(),
        sequence: request.sequence,
        expected,
    }
}
