//! Numbers of transitions in an epoch that is used twice.
//!
//! A claim is not synced, and the first transitions of a load are written before it. So after a crash the history may
//! hold transitions of an epoch that the store does not know, and the next load uses that epoch again. Its transitions
//! get numbers after the earlier ones, so that none is taken for another.

use super::HistoryRecord;
use workspace_status::Epoch;

/// Most reused epochs that are remembered for a workspace; the oldest is forgotten for a newer one.
const MAX_EPOCHS: usize = 64;

/// The epochs of a workspace whose transitions were numbered since the store was opened. It stays valid if the write of
/// such transitions fails: they get the same numbers in the next attempt.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct EpochNumbering {
    newest: Option<Epoch>,
    /// The reused epochs, oldest first, each with the number of its last transition before the reuse.
    used_before: Vec<(Epoch, u64)>,
}

impl EpochNumbering {
    /// The number under which a transition is stored. `last_of` returns the number of the last stored transition of an
    /// epoch, 0 if there is none; it is called once for each epoch.
    pub(super) fn number<E>(
        &mut self,
        record: &HistoryRecord,
        last_of: impl FnOnce(Epoch) -> Result<u64, E>,
    ) -> Result<u64, E> {
        // A transition of an older epoch is late: `last_of` was called when that epoch began.
        if self.newest.is_none_or(|newest| newest < record.epoch) {
            let last_before = last_of(record.epoch)?;
            self.newest = Some(record.epoch);
            if last_before > 0 {
                if self.used_before.len() == MAX_EPOCHS {
                    self.used_before.remove(0);
                }
                self.used_before.push((record.epoch, last_before));
            }
        }
        let used_before = self
            .used_before
            .iter()
            .find(|(epoch, _)| *epoch == record.epoch);
        let last_before = used_before.map_or(0, |(_, last)| *last);
        Ok(record.sequence.saturating_add(last_before))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::conformance::transition;

    #[test]
    fn transitions_that_come_again_get_the_numbers_they_had() {
        let mut epoch_numbering = EpochNumbering::default();
        let stored =
            |epoch: Epoch| Ok::<_, ()>([0, 2, 0, 7][usize::try_from(epoch.get()).expect("small")]);
        let mut number =
            |epoch, sequence| epoch_numbering.number(&transition("acme", epoch, sequence), stored);
        for _ in 0..2 {
            let numbers =
                [(1, 1), (1, 2), (2, 1), (3, 1)].map(|(epoch, sequence)| number(epoch, sequence));
            assert_eq!(numbers, [Ok(3), Ok(4), Ok(1), Ok(8)]);
        }
    }

    #[test]
    fn an_epoch_is_asked_for_again_where_that_failed() {
        let mut epoch_numbering = EpochNumbering::default();
        let record = transition("acme", 1, 1);
        assert_eq!(
            epoch_numbering.number(&record, |_| Err("away")),
            Err("away")
        );
        assert_eq!(epoch_numbering.number(&record, |_| Ok::<_, ()>(5)), Ok(6));
        assert_eq!(epoch_numbering.number(&record, |_| Err("not asked")), Ok(6));
    }

    #[test]
    fn only_so_many_epochs_are_remembered() {
        let mut epoch_numbering = EpochNumbering::default();
        for epoch in 1..=1000 {
            let number = epoch_numbering.number(&transition("acme", epoch, 1), |_| Ok::<_, ()>(1));
            assert_eq!(number, Ok(2));
        }
        assert_eq!(epoch_numbering.used_before.len(), MAX_EPOCHS);
    }
}
