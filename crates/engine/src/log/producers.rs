//! Recognises repeated requests of named producers, for every log: which requests are remembered, what a new one is, and
//! which producers are forgotten.
//!
//! A producer that did not receive an answer sends the request again, with the same number. Its last [`ANSWERS_KEPT`]
//! requests are remembered (`window.rs`). Nothing here reads a clock, a disk or a topic: `now` is the time since any
//! fixed moment, the same for all calls.

mod by_use;
mod stored;
mod window;

pub(super) use stored::{AnsweredProducers, Staged};
pub use window::{ANSWERS_KEPT, Verdict};

use super::{AppendError, Appended, ProducerSequence};
use crate::clock::micros;
use by_use::{ProducersByUse, producer_prefix};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use window::{RequestState, Window, out_of_sequence};

/// Most producers that are remembered. For a new one beyond them, the least recently used one is forgotten. None that
/// sent within [`PRODUCER_IDLE`] is forgotten: the new one is refused instead.
pub const MAX_PRODUCERS: usize = 10_000;

/// Most remembered producers of one prefix. Without this limit, a token limited to a prefix could fill the places of
/// all producers.
pub const MAX_PRODUCERS_OF_PREFIX: usize = MAX_PRODUCERS / 10;

/// A producer that sent within this time is never forgotten: it may still repeat its last requests.
pub const PRODUCER_IDLE: Duration = Duration::from_hours(1);

/// Most bytes of a producer's name.
pub const MAX_PRODUCER_ID_BYTES: usize = 255;

impl ProducerSequence {
    /// Checks the name and the number.
    ///
    /// # Errors
    /// [`AppendError::Producer`] says which is not allowed.
    pub fn check(&self) -> Result<(), AppendError> {
        if self.producer_id.is_empty() || self.producer_id.len() > MAX_PRODUCER_ID_BYTES {
            return Err(AppendError::Producer(format!(
                "ids have 1 to {MAX_PRODUCER_ID_BYTES} bytes"
            )));
        }
        if self.sequence == 0 {
            return Err(AppendError::Producer("sequences begin with 1".to_owned()));
        }
        Ok(())
    }
}

/// With which request a producer begins that is not remembered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FirstRequest {
    /// With request 1: the log remembers all that were ever answered.
    One,
    /// With any: another process may have answered the ones before.
    Any,
}

/// The remembered requests of one producer.
#[derive(Debug, Clone)]
struct Producer<P> {
    window: Window<P>,
    /// When it last sent, in microseconds. Each use has its own number, which grows even if the clock does not.
    used: u64,
}

/// All remembered producers. `P` is a request under way.
#[derive(Debug)]
pub struct Producers<P> {
    first: FirstRequest,
    by_id: HashMap<String, Producer<P>>,
    by_use: ProducersByUse,
    used: u64,
}

impl<P> Producers<P> {
    /// No producers yet.
    pub fn new(first: FirstRequest) -> Self {
        Self {
            first,
            by_id: HashMap::new(),
            by_use: ProducersByUse::default(),
            used: 0,
        }
    }

    /// Decides what a request is.
    ///
    /// # Errors
    /// [`AppendError::Sequence`] for a number out of sequence, [`AppendError::Busy`] if too many are under way,
    /// [`AppendError::Producers`] if one more producer cannot be remembered.
    pub fn judge(
        &self,
        request: &ProducerSequence,
        now: Duration,
    ) -> Result<Verdict<P>, AppendError> {
        if let Some(producer) = self.by_id.get(&request.producer_id) {
            return producer.window.judge(request);
        }
        // A gap is refused as a gap, with or without room.
        if self.first == FirstRequest::One && request.sequence != 1 {
            return Err(out_of_sequence(request, 1));
        }
        self.check_room(&request.producer_id, now)?;
        Ok(Verdict::New)
    }

    /// Whether a request can be judged by what is remembered here. If not, the topic may hold records of it.
    pub fn knows(&self, request: &ProducerSequence) -> bool {
        self.by_id
            .get(&request.producer_id)
            .is_some_and(|producer| producer.window.knows(request.sequence))
    }

    /// Notes that a request that was judged to be new is under way.
    pub fn begin(&mut self, request: &ProducerSequence, pending: Arc<P>, now: Duration) {
        self.set(request, RequestState::Pending(pending), now);
    }

    /// Notes that a request has ended; without an answer it failed and may be repeated.
    pub fn end(&mut self, request: &ProducerSequence, answer: Option<&Appended>) {
        if let Some(producer) = self.by_id.get_mut(&request.producer_id) {
            producer.window.end(request.sequence, answer);
        }
    }

    /// Takes in that the topic holds records of a producer, up to request `highest`. `is_whole` is true for a failed
    /// request of which all records are in the topic.
    pub fn reach(
        &mut self,
        producer_id: &str,
        highest: u64,
        now: Duration,
        is_whole: impl Fn(u64, &P) -> bool,
    ) {
        if self.check_room(producer_id, now).is_ok() {
            let (producer, _) = self.touch(producer_id, now);
            producer.window.reach(highest, is_whole);
        }
    }

    /// Remembers a request. Returns the producer that was forgotten for it.
    fn set(
        &mut self,
        request: &ProducerSequence,
        state: RequestState<P>,
        now: Duration,
    ) -> Option<(String, Producer<P>)> {
        let (producer, forgotten) = self.touch(&request.producer_id, now);
        producer.window.set(request.sequence, state);
        forgotten
    }

    /// The producer, which is now the last to be forgotten, and the one that was forgotten if it is new.
    fn touch(
        &mut self,
        producer_id: &str,
        now: Duration,
    ) -> (&mut Producer<P>, Option<(String, Producer<P>)>) {
        let forgotten = self
            .in_the_way(producer_id)
            .map(|(_, _, id)| id.to_owned())
            .and_then(|id| Some((id.clone(), self.remove(&id)?)));
        self.used = self.used.saturating_add(1).max(micros(now));
        let producer = self
            .by_id
            .entry(producer_id.to_owned())
            .or_insert_with(|| Producer {
                window: Window::beginning_at(0),
                used: 0,
            });
        self.by_use.remove(producer.used, producer_id);
        producer.used = self.used;
        self.by_use.insert(producer.used, producer_id);
        (producer, forgotten)
    }

    /// Remembers a producer with the use that it has.
    fn insert(&mut self, producer_id: String, producer: Producer<P>) {
        self.used = self.used.max(producer.used);
        self.by_use.insert(producer.used, &producer_id);
        self.by_id.insert(producer_id, producer);
    }

    fn remove(&mut self, producer_id: &str) -> Option<Producer<P>> {
        let removed = self.by_id.remove(producer_id)?;
        self.by_use.remove(removed.used, producer_id);
        Some(removed)
    }

    /// The limit that a new producer reaches, and the use and the name of the one forgotten for it; none while there is
    /// room.
    fn in_the_way(&self, producer_id: &str) -> Option<(usize, u64, &str)> {
        if self.by_id.contains_key(producer_id) {
            return None;
        }
        let all = &self.by_use;
        let own = producer_prefix(producer_id)
            .filter(|prefix| all.len_of(prefix) >= MAX_PRODUCERS_OF_PREFIX);
        let (most, silent) = match own {
            Some(prefix) => (MAX_PRODUCERS_OF_PREFIX, all.silent_of(prefix).next()),
            None if all.len() >= MAX_PRODUCERS => (MAX_PRODUCERS, all.silent().next()),
            None => return None,
        };
        silent.map(|(used, id)| (most, used, id))
    }

    /// Refuses a new producer if one that may still repeat a request would have to be forgotten for it.
    fn check_room(&self, producer_id: &str, now: Duration) -> Result<(), AppendError> {
        let Some((most, used, _)) = self.in_the_way(producer_id) else {
            return Ok(());
        };
        // If the clock was set back far, every producer is idle: otherwise new ones would be refused until it caught up.
        if Duration::from_micros(micros(now).abs_diff(used)) >= PRODUCER_IDLE {
            return Ok(());
        }
        let silence = Duration::from_micros(micros(now).saturating_sub(used));
        Err(AppendError::Producers {
            most,
            retry_after: PRODUCER_IDLE.saturating_sub(silence),
        })
    }
}

#[cfg(test)]
mod tests;
