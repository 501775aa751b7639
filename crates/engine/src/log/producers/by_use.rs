//! The producers that a log remembers, ordered by last use. The order decides which one is forgotten for a new one.

use std::collections::{BTreeMap, BTreeSet, HashMap};

/// The prefix of a producer's name: the part before the first slash, which is the prefix of a token. `None` without a
/// slash.
pub(super) fn producer_prefix(producer_id: &str) -> Option<&str> {
    producer_id.split_once('/').map(|(prefix, _)| prefix)
}

/// Producers ordered by last use, in total and for each prefix. A use is a growing number that no two producers share.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct ProducersByUse {
    all: BTreeMap<u64, String>,
    /// The last uses of each prefix's producers.
    by_prefix: HashMap<String, BTreeSet<u64>>,
}

impl ProducersByUse {
    /// Records the last use of a producer.
    pub(super) fn insert(&mut self, used: u64, producer_id: &str) {
        if let Some(prefix) = producer_prefix(producer_id) {
            let of_prefix = self.by_prefix.entry(prefix.to_owned()).or_default();
            of_prefix.insert(used);
        }
        self.all.insert(used, producer_id.to_owned());
    }

    /// Removes a use of a producer, which was used again or is forgotten.
    pub(super) fn remove(&mut self, used: u64, producer_id: &str) {
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
    pub(super) fn silent(&self) -> impl Iterator<Item = (u64, &str)> {
        self.all.iter().map(|(used, id)| (*used, id.as_str()))
    }

    /// Producers of one prefix, least recently used first.
    pub(super) fn silent_of(&self, prefix: &str) -> impl Iterator<Item = (u64, &str)> {
        let of_prefix = self.by_prefix.get(prefix).into_iter().flatten();
        of_prefix
            .filter_map(|used| self.all.get_key_value(used))
            .map(|(used, id)| (*used, id.as_str()))
    }

    /// Number of producers.
    pub(super) fn len(&self) -> usize {
        self.all.len()
    }

    /// Number of producers of one prefix.
    pub(super) fn len_of(&self, prefix: &str) -> usize {
        self.by_prefix.get(prefix).map_or(0, BTreeSet::len)
    }
}
