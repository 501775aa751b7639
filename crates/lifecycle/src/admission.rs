//! Which workspaces may load now: a fixed number of permits and two queues.
//!
//! A workspace that a client requests waits in the urgent queue, which is
//! bounded and served first. The others wait in order of arrival.

use std::collections::{HashSet, VecDeque};
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
    urgent: VecDeque<K>,
    ordinary: VecDeque<K>,
    /// All that are in one of the queues.
    waiting: HashSet<K>,
}

impl<K: Eq + Hash + Clone> Admission<K> {
    /// No permit is held and both queues are empty. At least one permit exists, whatever `limits` says.
    pub fn new(limits: AdmissionLimits) -> Self {
        Self {
            limits: AdmissionLimits {
                permits: limits.permits.max(1),
                ..limits
            },
            held: 0,
            urgent: VecDeque::new(),
            ordinary: VecDeque::new(),
            waiting: HashSet::new(),
        }
    }

    /// Requests a permit. A requester that waits already keeps its place, or moves to
    /// the urgent queue if this request is urgent and that queue has room.
    pub fn request(&mut self, who: K, urgency: Urgency) {
        let new = self.waiting.insert(who.clone());
        match urgency {
            Urgency::Urgent if self.urgent.contains(&who) => {}
            Urgency::Urgent if self.urgent.len() < self.limits.urgent_queue => {
                if !new {
                    self.ordinary.retain(|waiting| *waiting != who);
                }
                self.urgent.push_back(who);
            }
            Urgency::Urgent | Urgency::Ordinary if new => self.ordinary.push_back(who),
            Urgency::Urgent | Urgency::Ordinary => {}
        }
    }

    /// Cancels the request of one that waits.
    pub fn cancel(&mut self, who: &K) {
        if !self.waiting.remove(who) {
            return;
        }
        self.urgent.retain(|waiting| waiting != who);
        self.ordinary.retain(|waiting| waiting != who);
    }

    /// Grants the next free permit to the first in order of service; `None` if none is free or none waits.
    pub fn grant(&mut self) -> Option<K> {
        if self.held >= self.limits.permits {
            return None;
        }
        let first = self
            .urgent
            .pop_front()
            .or_else(|| self.ordinary.pop_front())?;
        self.waiting.remove(&first);
        self.held += 1;
        Some(first)
    }

    /// A permit is returned.
    pub fn release(&mut self) {
        self.held = self.held.saturating_sub(1);
    }

    /// All that wait, in order of service.
    pub fn waiting(&self) -> impl Iterator<Item = &K> {
        self.urgent.iter().chain(&self.ordinary)
    }

    /// How many wait.
    pub fn queued(&self) -> usize {
        self.waiting.len()
    }

    /// How many hold a permit.
    pub fn held(&self) -> usize {
        self.held
    }
}

/// Whether a client waits for a workspace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Urgency {
    /// The engine loads it by itself.
    Ordinary,
    /// A client requested it.
    Urgent,
}

impl fmt::Display for Urgency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
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
    fn an_urgent_wish_overtakes_and_the_position_shows_it() {
        let mut admission = admission(1, 4);
        for who in ["a", "b", "c"] {
            admission.request(who, Urgency::Ordinary);
        }
        assert_eq!(admission.grant(), Some("a"));
        admission.request("c", Urgency::Urgent);
        assert!(admission.waiting().eq([&"c", &"b"]));
        assert_eq!(admission.grant(), None);
        admission.release();
        assert_eq!(admission.grant(), Some("c"));
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
    fn a_cancelled_wish_is_not_granted() {
        let mut admission = admission(1, 1);
        admission.request("a", Urgency::Ordinary);
        admission.cancel(&"a");
        assert_eq!(admission.grant(), None);
    }
}
