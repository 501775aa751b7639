//! Which workspaces may load now: a fixed number of permits and two queues.
//!
//! A workspace that a client requests waits in the urgent queue, which is
//! bounded and served first. The others wait in order of arrival.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::hash::Hash;

/// How many loads may run at once, and how many may wait as urgent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AdmissionLimits {
    /// Maximum of concurrent loads.
    pub permits: usize,
    /// Maximum length of the urgent queue; a further request waits in the ordinary queue.
    pub urgent_queue: usize,
}

impl Default for AdmissionLimits {
    fn default() -> Self {
        Self {
            permits: 8,
            urgent_queue: 64,
        }
    }
}

/// Permits and the requests that wait for them. `K` identifies the requester.
#[derive(Debug)]
pub struct Admission<K> {
    limits: AdmissionLimits,
    held: usize,
    /// In order of service.
    queue: BTreeMap<Turn, K>,
    turns: HashMap<K, Turn>,
    /// How many of them are urgent.
    urgent: usize,
    requests: u64,
}

/// The more urgent requests are served first, each kind in order of arrival.
type Turn = (Urgency, u64);

impl<K: Eq + Hash + Clone> Admission<K> {
    /// No permit is held and both queues are empty. At least one permit exists, whatever `limits` says.
    pub fn new(limits: AdmissionLimits) -> Self {
        Self {
            limits: AdmissionLimits {
                permits: limits.permits.max(1),
                ..limits
            },
            held: 0,
            queue: BTreeMap::new(),
            turns: HashMap::new(),
            urgent: 0,
            requests: 0,
        }
    }

    /// Requests a permit. A requester that waits already keeps its turn, or moves to
    /// the urgent queue if this request is urgent and that queue has room.
    pub fn request(&mut self, who: K, urgency: Urgency) {
        let has_room = self.urgent < self.limits.urgent_queue;
        let urgency = match urgency {
            Urgency::Urgent if has_room => Urgency::Urgent,
            Urgency::Urgent | Urgency::Ordinary => Urgency::Ordinary,
            Urgency::Due => Urgency::Due,
        };
        if self.turns.get(&who).is_some_and(|(had, _)| *had <= urgency) {
            return;
        }
        self.cancel(&who);
        let turn = (urgency, self.requests);
        self.requests += 1;
        self.urgent += usize::from(urgency == Urgency::Urgent);
        self.turns.insert(who.clone(), turn);
        self.queue.insert(turn, who);
    }

    /// Cancels the request of one that waits.
    pub fn cancel(&mut self, who: &K) {
        if let Some(turn) = self.turns.remove(who) {
            self.queue.remove(&turn);
            self.urgent -= usize::from(turn.0 == Urgency::Urgent);
        }
    }

    /// Grants the next free permit to the first in order of service; `None` if none is free, or none waits that is as
    /// urgent as `least`.
    pub fn grant(&mut self, least: Urgency) -> Option<K> {
        if self.held >= self.limits.permits {
            return None;
        }
        let ((urgency, _), first) = self.queue.first_key_value()?;
        if *urgency > least {
            return None;
        }
        let first = first.clone();
        self.cancel(&first);
        self.held += 1;
        Some(first)
    }

    /// A permit is returned.
    pub fn release(&mut self) {
        self.held = self.held.saturating_sub(1);
    }

    /// All that wait, in order of service.
    pub fn waiting(&self) -> impl Iterator<Item = &K> {
        self.queue.values()
    }

    /// How many wait.
    pub fn queued(&self) -> usize {
        self.queue.len()
    }

    /// How many hold a permit.
    pub fn held(&self) -> usize {
        self.held
    }
}

/// How urgent a load is, most urgent first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Urgency {
    /// A client requested it.
    Urgent,
    /// It was evicted, and its events have waited long enough: they hold the log's retention back.
    Due,
    /// The engine loads it by itself.
    Ordinary,
}

impl fmt::Display for Urgency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Due => "due",
            Self::Ordinary => "ordinary",
            Self::Urgent => "urgent",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admission(permits: usize, urgent_queue: usize) -> Admission<&'static str> {
        Admission::new(AdmissionLimits {
            permits,
            urgent_queue,
        })
    }

    #[test]
    fn an_urgent_request_overtakes_and_the_position_shows_it() {
        let mut admission = admission(1, 4);
        for who in ["a", "b", "c"] {
            admission.request(who, Urgency::Ordinary);
        }
        assert_eq!(admission.grant(Urgency::Ordinary), Some("a"));
        admission.request("c", Urgency::Urgent);
        assert!(admission.waiting().eq([&"c", &"b"]));
        assert_eq!(admission.grant(Urgency::Ordinary), None);
        admission.release();
        assert_eq!(admission.grant(Urgency::Ordinary), Some("c"));
    }

    #[test]
    fn a_full_urgent_queue_sends_to_the_ordinary_one() {
        let mut admission = admission(1, 1);
        admission.request("a", Urgency::Urgent);
        admission.request("b", Urgency::Urgent);
        admission.request("b", Urgency::Urgent);
        assert_eq!(admission.waiting().copied().collect::<Vec<_>>(), ["a", "b"]);
    }

    #[test]
    fn a_cancelled_request_is_not_granted() {
        let mut admission = admission(1, 1);
        admission.request("a", Urgency::Ordinary);
        admission.cancel(&"a");
        assert_eq!(admission.grant(Urgency::Ordinary), None);
    }

    #[test]
    fn an_ordinary_request_waits_while_only_urgent_ones_are_served() {
        let mut admission = admission(2, 1);
        admission.request("a", Urgency::Ordinary);
        assert_eq!(admission.grant(Urgency::Urgent), None);
        admission.request("b", Urgency::Urgent);
        assert_eq!(admission.grant(Urgency::Urgent), Some("b"));
        assert_eq!(admission.grant(Urgency::Urgent), None);
        assert_eq!(admission.grant(Urgency::Ordinary), Some("a"));
    }
}
