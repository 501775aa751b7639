//! Opening a partition, from one call to the next.

use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError};
use workspace_engine_core::store::{Opening, StoreError};
use workspace_lifecycle::{Offset, PartitionId};
use workspace_status::Epoch;

use super::draft::{Done, Work};
use super::partitions::{Standing, not_open};
use super::record::Assignment;
use super::takeover::{Step, Taken, Takeover};
use super::{ChangelogStore, ended};

/// How long the answer of the writer is waited for in one call.
const ANSWER: Duration = Duration::from_millis(800);

/// A partition that is being opened.
pub(super) enum Entering {
    /// What others have written is read.
    Reading(Takeover),
    /// This process says that it is the owner now.
    Assigning {
        end: u64,
        answer: Receiver<Result<Done, StoreError>>,
    },
}

impl Entering {
    /// Goes on for a while; nothing when the partition is open.
    pub(super) fn step(
        self,
        store: &ChangelogStore,
        partition: PartitionId,
    ) -> Result<Option<(Self, Opening)>, StoreError> {
        match self {
            Self::Reading(mut takeover) => match takeover.step(&store.shared)? {
                Step::Reading { position, end } => {
                    let opening = Opening::Reading { position, end };
                    Ok(Some((Self::Reading(takeover), opening)))
                }
                Step::Done(taken) => assign(store, partition, taken)?.wait(),
            },
            assigning @ Self::Assigning { .. } => assigning.wait(),
        }
    }

    fn wait(self) -> Result<Option<(Self, Opening)>, StoreError> {
        let Self::Assigning { end, answer } = self else {
            return Ok(None);
        };
        match answer.recv_timeout(ANSWER) {
            Ok(answer) => answer.map(|_| None),
            Err(RecvTimeoutError::Timeout) => {
                let opening = Opening::Reading { position: end, end };
                Ok(Some((Self::Assigning { end, answer }, opening)))
            }
            Err(RecvTimeoutError::Disconnected) => Err(ended()),
        }
    }
}

/// Has the beginning of this assignment written.
fn assign(
    store: &ChangelogStore,
    partition: PartitionId,
    taken: Taken,
) -> Result<Entering, StoreError> {
    let end = taken.place.position;
    let highest = taken.place.highest_epoch.get();
    let first_epoch = Epoch::new(highest.saturating_add(1));
    let before = taken.assignment;
    let known_id = before.and_then(|before| before.topic_id);
    let is_other_topic =
        matches!((known_id, taken.topic_id), (Some(one), Some(other)) if one != other);
    if is_other_topic {
        tracing::error!(%partition, topic = store.shared.topic, "the topic was made anew: what was saved before is not continued from it");
    }
    let assignment = Assignment {
        first_epoch,
        lineage: before.map_or_else(|| fastrand::u64(..), |before| before.lineage),
        topic_id: taken.topic_id.or(known_id),
        topic_since: if is_other_topic {
            first_epoch
        } else {
            before.map_or(Epoch::new(0), |before| before.topic_since)
        },
    };
    let partitions = &store.shared.partitions;
    let is_owned = partitions.change(partition, Standing::Opening, |owned| {
        owned.standing = Standing::Assigning;
        // What the group has committed may be of the topic that has gone.
        owned.committed = if is_other_topic {
            Offset::ZERO
        } else {
            taken.committed
        };
        owned.first_epoch = first_epoch;
        owned.topic_since = assignment.topic_since;
        owned.place = Some(taken.place);
    });
    if !is_owned {
        // It was taken away meanwhile.
        return Err(not_open(partition));
    }
    let answer = store.send(Work::Assign {
        partition,
        assignment,
    })?;
    Ok(Entering::Assigning { end, answer })
}
