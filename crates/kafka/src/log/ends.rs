//! Where a partition begins and ends for its readers, from acknowledgements, reads and the brokers' answers.
//!
//! Readers see only committed records: if another producer's transaction is open, the partition ends for them before
//! it, even if records after it were acknowledged to this process. A load that waited for such a record would wait
//! for another producer's transaction, so the end is lowered to what can be read.

use std::time::Instant;

use workspace_lifecycle::Offset;

/// What is known of both ends of a partition.
#[derive(Debug, Default)]
pub(super) struct Ends {
    low: Offset,
    high: Offset,
    /// The end that the brokers last returned.
    reported: Offset,
    /// When that answer arrived; answers to earlier queries are outdated.
    reported_at: Option<Instant>,
    /// After the last record that was acknowledged to this process.
    acknowledged: Offset,
    /// After the last record that a reader of this process has passed.
    seen: Offset,
    /// Another producer's open transaction is before what was acknowledged.
    held_back: bool,
}

/// What an answer of the brokers changed.
#[derive(Debug, PartialEq, Eq, Clone, Copy)]
pub(super) enum Change {
    None,
    /// The partition ends here now, later than before.
    Grew(Offset),
    /// It ends before its previous end: the topic was recreated, or its end was lost.
    Shrank {
        from: Offset,
    },
}

/// A query for the ends of a partition that is under way.
#[derive(Debug, Clone, Copy)]
pub(super) struct EndsQuery {
    sent_at: Instant,
    acknowledged: Offset,
}

impl Ends {
    pub(super) fn low(&self) -> Offset {
        self.low
    }

    pub(super) fn high(&self) -> Offset {
        self.high
    }

    /// After every known record, including those that readers cannot see yet.
    pub(super) fn written(&self) -> Offset {
        self.reported.max(self.acknowledged).max(self.seen)
    }

    /// Notes that the record before `end` was acknowledged. Returns the partition's end; none if readers cannot see the
    /// record yet.
    pub(super) fn acknowledge(&mut self, end: Offset) -> Option<Offset> {
        self.acknowledged = self.acknowledged.max(end);
        if self.held_back {
            return None;
        }
        self.high = self.high.max(end);
        Some(self.high)
    }

    /// Notes that a reader has passed everything below `end`.
    pub(super) fn see(&mut self, end: Offset) {
        self.seen = self.seen.max(end);
        self.high = self.high.max(end);
    }

    /// To be called before the brokers are queried.
    pub(super) fn query(&self) -> EndsQuery {
        EndsQuery {
            sent_at: Instant::now(),
            acknowledged: self.acknowledged,
        }
    }

    /// Records the answer to a query: where the partition begins and ends.
    pub(super) fn answer(&mut self, query: EndsQuery, low: Offset, end: Offset) -> Change {
        if self
            .reported_at
            .is_some_and(|reported_at| query.sent_at <= reported_at)
        {
            // A newer answer arrived first.
            return Change::None;
        }
        self.reported_at = Some(Instant::now());
        let (before, reported) = (self.high, std::mem::replace(&mut self.reported, end));
        self.low = low.min(end);
        if end < reported {
            self.acknowledged = end;
            self.seen = end;
            self.held_back = false;
            self.high = end;
            return Change::Shrank { from: reported };
        }
        self.held_back = end < query.acknowledged;
        self.high = if self.held_back {
            end.max(self.seen)
        } else {
            // The answer does not include what was acknowledged after the query was sent.
            end.max(self.acknowledged).max(self.seen)
        };
        if self.high > before {
            Change::Grew(self.high)
        } else {
            Change::None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reported(ends: &mut Ends, low: u64, end: u64) -> Change {
        let query = ends.query();
        ends.answer(query, Offset(low), Offset(end))
    }

    #[test]
    fn the_end_grows_with_what_is_acknowledged_read_and_reported() {
        let mut ends = Ends::default();
        assert_eq!(reported(&mut ends, 3, 10), Change::Grew(Offset(10)));
        assert_eq!(ends.low(), Offset(3));
        assert_eq!(ends.acknowledge(Offset(12)), Some(Offset(12)));
        assert_eq!(ends.acknowledge(Offset(11)), Some(Offset(12)));
        ends.see(Offset(14));
        assert_eq!(ends.high(), Offset(14));
        assert_eq!(reported(&mut ends, 3, 14), Change::None);
        assert_eq!(reported(&mut ends, 3, 20), Change::Grew(Offset(20)));
    }

    #[test]
    fn an_open_transaction_of_another_producer_lowers_the_end() {
        let mut ends = Ends::default();
        reported(&mut ends, 0, 10);
        ends.acknowledge(Offset(12));
        assert_eq!(reported(&mut ends, 0, 10), Change::None);
        assert_eq!(ends.high(), Offset(10), "what can be read");
        assert_eq!(ends.written(), Offset(12), "it exists");
        assert_eq!(ends.acknowledge(Offset(13)), None);
        assert_eq!(ends.high(), Offset(10));
        assert_eq!(reported(&mut ends, 0, 14), Change::Grew(Offset(14)));
        assert_eq!(ends.acknowledge(Offset(15)), Some(Offset(15)));
    }

    #[test]
    fn records_acknowledged_during_a_query_are_kept() {
        let mut ends = Ends::default();
        reported(&mut ends, 0, 10);
        let query = ends.query();
        ends.acknowledge(Offset(12));
        assert_eq!(ends.answer(query, Offset(0), Offset(10)), Change::None);
        assert_eq!(ends.high(), Offset(12));
    }

    #[test]
    fn a_recreated_topic_ends_where_the_brokers_report() {
        let mut ends = Ends::default();
        reported(&mut ends, 50, 100);
        ends.acknowledge(Offset(110));
        ends.see(Offset(110));
        assert_eq!(
            reported(&mut ends, 0, 5),
            Change::Shrank { from: Offset(100) }
        );
        assert_eq!((ends.low(), ends.high()), (Offset(0), Offset(5)));
        assert_eq!(ends.written(), Offset(5));
        assert_eq!(ends.acknowledge(Offset(6)), Some(Offset(6)));
    }

    #[test]
    fn an_outdated_answer_changes_nothing() {
        let mut ends = Ends::default();
        let old = ends.query();
        reported(&mut ends, 0, 10);
        assert_eq!(ends.answer(old, Offset(0), Offset(4)), Change::None);
        assert_eq!(ends.high(), Offset(10));
    }
}
