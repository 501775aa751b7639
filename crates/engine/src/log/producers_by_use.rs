//! The producers that a log remembers, ordered by last use. The order decides which one is forgotten for a new one.

use super::MAX_PRODUCERS;
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// Most remembered producers of one prefix. Without this limit, a token limited to a prefix could fill the places of
/// all producers.
pub const MAX_PRODUCERS_OF_PREFIX: usize = MAX_PRODUCERS / 10;

/// The prefix of a producer's name: the part before the first slash, which is the prefix of a token. `None` without a
/// slash.
pub fn producer_prefix(producer_id: &str) -> Option<&str> {
    producer_id.split_once('/').map(|(prefix, _)| prefix)
}

/// Producers ordered by last use, in total and for each prefix. A use is a growing number that no two producers share.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct ProducersByUse {
    all: BTreeMap<u64, String>,
    /// The last uses of each prefix's producers.
    by_prefix: HashMap<String, BTreeSet<u64>>,
}

impl ProducersByUse {
    /// Records the last use of a producer.
    pub fn insert(&mut self, used: u64, producer_id: &str) {
        if let Some(prefix) = producer_prefix(producer_id) {
            let of_prefix = self.by_prefix.entry(prefix.to_owned()).or_default();
            of_prefix.insert(used);
        }
        self.all.insert(used, producer_id.to_owned());
    }

    /// Removes a use of a producer, which was used again or is forgotten.
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

    /// All producers, least recently used first.
    pub fn silent(&self) -> impl Iterator<Item = (u64, &str)> {
        self.all.iter().map(|(used, id)| (*used, id.as_str()))
    }

    /// Producers of one prefix, least recently used first.
    pub fn silent_of(&self, prefix: &str) -> impl Iterator<Item = (u64, &str)> {
        let of_prefix = self.by_prefix.get(prefix).into_iter().flatten();
        of_prefix
            .filter_map(|used| self.all.get_key_value(used))
            .map(|(used, id)| (*used, id.as_str()))
    }

    /// Number of producers.
    pub fn len(&self) -> usize {
        self.all.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// Number of producers of one prefix.
    pub fn len_of(&self, prefix: &str) -> usize {
        self.by_prefix.get(prefix).map_or(0, BTreeSet::len)
    }
}
