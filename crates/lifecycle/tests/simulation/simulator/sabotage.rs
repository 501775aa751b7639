//! Rules broken on purpose in the model around the machine, to prove that the checks catch it.

/// The rule that the model breaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Sabotage {
    /// Nothing.
    #[default]
    None,
    /// A save is two writes: `next_offset`, then the changes.
    NextOffsetSavedBeforeChanges,
    /// A load reports the workspace's `next_offset` as the end of the log.
    ReadyBeforeTarget,
    /// The log trims slightly more than it may.
    TrimAboveSaved,
    /// The log trims before the store is synced.
    TrimBeforeSync,
    /// `committed` is the live lane's cursor, whatever is not claimed yet.
    CommittedIgnoresUnclaimed,
    /// A batch is applied from its first event, also below `next_offset`.
    AppliesBelowNextOffset,
    /// The store accepts a save of any epoch.
    SavesAreNotFenced,
    /// The changes of a failed save are not saved again.
    FailedSaveForgetsChanges,
    /// A poison event is skipped silently.
    PoisonIsSwallowed,
    /// A skipped event is not put into the dead-letter log.
    SkipIsNotKept,
    /// A permit that was granted too late is not returned.
    PermitLeaks,
    /// The list is read before `committed`, so that a workspace claimed in between is missed.
    ListBeforeCommitted,
    /// A load does not check whether a newer one has taken over while it read.
    LoadIgnoresNewerEpoch,
    /// The answer of a save is lost.
    SaveAnswerIsLost,
    /// A workspace that the store refused to save counts as saved.
    RefusedCountsAsSaved,
    /// A workspace that an event has broken stays in memory.
    BrokenStateIsKept,
    /// A claim does not check for the deletion mark.
    DeletionMarkIsIgnored,
    /// The store does not list the deletion marks.
    MarksAreNotListed,
    /// An erasure is answered before it is durable.
    ErasureIsNotSynced,
    /// A reset does not wait for a trim whose floor was computed before it.
    ResetDoesNotWaitForTrim,
    /// A deletion ends at the partition's read position instead of at the end of the log.
    DeletionEndsTooEarly,
    /// A batch does not name the workspaces out of memory.
    EventsOfTheColdAreNotNamed,
    /// Workspaces out of memory are not advanced in the store.
    AdvancesAreNotSaved,
    /// An erasure that failed but happened all the same is answered as not done.
    FailedErasureCountsAsNotDone,
    /// A workspace is advanced whatever epoch the store holds.
    AdvancesAreNotFenced,
    /// A read passes a lost part of the log as if it had been empty.
    LossIsPassedInSilence,
    /// A reset does not check for events that the log has lost and only the store holds.
    ResetIgnoresLoss,
    /// The committed offset is used although its changelog is lost.
    OffsetOutlivesTheChangelog,
    /// A previous owner continues to write after the changelog was lost.
    OldOwnersWriteOn,
    /// A workspace is evicted without the changes that no save has taken.
    EvictedBeforeItIsSaved,
    /// A workspace that was evicted begins at the end of the log.
    EvictedSkipsItsEvents,
}

impl Sabotage {
    /// All that the checks can catch.
    pub(crate) const ALL: [Self; 31] = [
        Self::NextOffsetSavedBeforeChanges,
        Self::ReadyBeforeTarget,
        Self::TrimAboveSaved,
        Self::TrimBeforeSync,
        Self::CommittedIgnoresUnclaimed,
        Self::AppliesBelowNextOffset,
        Self::SavesAreNotFenced,
        Self::FailedSaveForgetsChanges,
        Self::PoisonIsSwallowed,
        Self::SkipIsNotKept,
        Self::PermitLeaks,
        Self::ListBeforeCommitted,
        Self::LoadIgnoresNewerEpoch,
        Self::SaveAnswerIsLost,
        Self::RefusedCountsAsSaved,
        Self::BrokenStateIsKept,
        Self::DeletionMarkIsIgnored,
        Self::MarksAreNotListed,
        Self::ErasureIsNotSynced,
        Self::ResetDoesNotWaitForTrim,
        Self::DeletionEndsTooEarly,
        Self::EventsOfTheColdAreNotNamed,
        Self::AdvancesAreNotSaved,
        Self::FailedErasureCountsAsNotDone,
        Self::AdvancesAreNotFenced,
        Self::LossIsPassedInSilence,
        Self::ResetIgnoresLoss,
        Self::OffsetOutlivesTheChangelog,
        Self::OldOwnersWriteOn,
        Self::EvictedBeforeItIsSaved,
        Self::EvictedSkipsItsEvents,
    ];
}
