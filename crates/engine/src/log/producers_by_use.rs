//! The producers that a log remembers, in the order in which they were last heard: which of them is forgotten for a new
//! one.

use super::MAX_PRODUCERS;
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// Most producers of one prefix that are remembered, so that a token that is limited to a prefix cannot take the places
/// of all.
pub const MAX_PRODUCERS_OF_PREFIX: usize = MAX_PRODUCERS / 10;

/// The prefix of a producer's name: what stands before the first slash, which is the prefix of a token. A name without a
/// slash has none.
pub fn producer_prefix(producer_id: &str) -> Option<&str> {
    producer_id.split_once('/').map(|(prefix, _)| prefix)
}

/// Producers in the order of their last use, those of each prefix as well. A use is a number that grows and that no two
/// producers have.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct ProducersByUse {
    all: BTreeMap<u64, String>,
    /// The uses of each prefix's producers.
    by_prefix: HashMap<String, BTreeSet<u64>>,
}

impl ProducersByUse {
    /// A producer was heard.
    pub fn insert(&mut self, used: u64, producer_id: &str) {
        if let Some(prefix) = producer_prefix(producer_id) {
            let of_prefix = self.by_prefix.entry(prefix.to_owned()).or_default();
            of_prefix.insert(used);
        }
        self.all.insert(used, producer_id.to_owned());
    }

    /// A use of a producer is over: it was heard again, or is forgotten.
    pub fn remove(&mut self, used: u64, producer_id: &str) {
        self.all.remove(&used);
        if let Some(prefix) = producer_prefix(producer_id)
            && let Some(of_prefix) = self.by_prefix.get_mut(prefix)
        {
            of_prefix.remove(&used);
            if of_prefix.is_empty() {
                self.by_prefix.remove(prefix);
            }
        }
    }

    /// All of them, the one that was silent the longest first.
    pub fn silent(&self) -> impl Iterator<Item = (u64, &str)> {
        self.all.iter().map(|(used, id)| (*used, id.as_str()))
    }

    /// Those of one prefix, the one that was silent the longest first.
    pub fn silent_of(&self, prefix: &str) -> impl Iterator<Item = (u64, &str)> {
        let of_prefix = self.by_prefix.get(prefix).into_iter().flatten();
        of_prefix
            .filter_map(|used| self.all.get_key_value(used))
            .map(|(used, id)| (*used, id.as_str()))
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.all.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// How many there are of one prefix.
    pub fn len_of(&self, prefix: &str) -> usize {
        self.by_prefix.get(prefix).map_or(0, BTreeSet::len)
    }
}
