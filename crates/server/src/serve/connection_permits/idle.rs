//! Connections without a request in progress, and which of them is closed for another.

use std::{collections::BTreeMap, sync::Arc};
use tokio::{sync::Notify, time::Instant};

/// Idle connections of equal priority when one has to be closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum IdleGroup {
    /// With an ordinary permit, without a request that needed a right.
    Strangers,
    /// With an ordinary permit, the last request needed a right and had it.
    Known,
    /// With a reserved permit.
    Reserved,
}

struct Idle {
    /// It cannot be closed before this instant.
    keeps_until: Instant,
    close: Arc<Notify>,
}

/// The idle connections of each group by number, which orders them by how long they are idle, longest first.
#[derive(Default)]
pub(super) struct IdleConnections {
    last_number: u64,
    strangers: BTreeMap<u64, Idle>,
    known: BTreeMap<u64, Idle>,
    reserved: BTreeMap<u64, Idle>,
}

impl IdleConnections {
    fn of(&mut self, group: IdleGroup) -> &mut BTreeMap<u64, Idle> {
        match group {
            IdleGroup::Strangers => &mut self.strangers,
            IdleGroup::Known => &mut self.known,
            IdleGroup::Reserved => &mut self.reserved,
        }
    }

    /// Adds a connection; returns its number. `close` is notified when it has to be closed.
    pub(super) fn add(
        &mut self,
        group: IdleGroup,
        close: &Arc<Notify>,
        keeps_until: Instant,
    ) -> u64 {
        self.last_number += 1;
        let number = self.last_number;
        let idle = Idle {
            keeps_until,
            close: Arc::clone(close),
        };
        self.of(group).insert(number, idle);
        number
    }

    pub(super) fn remove(&mut self, group: IdleGroup, number: u64) {
        self.of(group).remove(&number);
    }

    /// Closes the connection of a group that was idle longest, if one may be closed.
    pub(super) fn close_longest(&mut self, group: IdleGroup, now: Instant) -> bool {
        let idle = self.of(group);
        let mut numbers = idle.iter();
        let Some((&number, _)) = numbers.find(|(_, idle)| idle.keeps_until <= now) else {
            return false;
        };
        if let Some(idle) = idle.remove(&number) {
            idle.close.notify_one();
        }
        true
    }

    #[cfg(test)]
    pub(super) fn count(&mut self, group: IdleGroup) -> usize {
        self.of(group).len()
    }
}
