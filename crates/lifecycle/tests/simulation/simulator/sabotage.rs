//! Rules broken on purpose around the machine, to see that the checks catch it.

/// What the world does wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Sabotage {
    /// Nothing.
    #[default]
    None,
    /// A save is two writes: `next_offset`, then the changes.
    NextOffsetSavedBeforeChanges,
    /// A load is told that the log ends where the workspace stands.
    ReadyBeforeTarget,
    /// The log forgets a little more than it may.
    TrimAboveSaved,
    /// The log forgets before the store is synced.
    TrimBeforeSync,
    /// `committed` is where the live lane stands, whoever is not claimed yet.
    CommittedIgnoresUnclaimed,
    /// A batch is applied from its beginning.
    AppliesBelowNextOffset,
    /// The store takes a save of any epoch.
    SavesAreNotFenced,
    /// Changes that were in a failed save are not saved again.
    FailedSaveForgetsChanges,
    /// A poison event is passed over in silence.
    PoisonIsSwallowed,
    /// A skipped event is not kept.
    SkipIsNotKept,
    /// A permit that came too late is not returned.
    PermitLeaks,
    /// The list is read before `committed`, so that a workspace can slip between.
    ListBeforeCommitted,
    /// A load does not look whether a newer one has taken over while it read.
    LoadIgnoresNewerEpoch,
    /// The answer of a save is lost.
    SaveAnswerIsLost,
    /// A workspace that the store refused to save counts as saved.
    RefusedCountsAsSaved,
    /// A workspace that an event broke stays in memory.
    BrokenStateIsKept,
    /// A claim does not look for the mark of a deletion.
    MarkIsIgnored,
    /// Marks of deletions are not listed.
    MarksAreNotListed,
    /// An erasure is answered before it is durable.
    ErasureIsNotSynced,
    /// A reset does not wait for the trim whose floor was taken before it.
    ResetDoesNotWaitForTrim,
    /// A deletion ends where the partition has read to, and not where the log ends.
    DeletionEndsTooEarly,
    /// A batch does not name the workspaces that are not in memory.
    EventsOfTheColdAreNotNamed,
    /// Workspaces that are not in memory are not advanced in the store.
    AdvancesAreNotSaved,
    /// An erasure that failed, and happened all the same, is answered as one that did not happen.
    FailedErasureCountsAsNotDone,
    /// A workspace is advanced whatever epoch the store has.
    AdvancesAreNotFenced,
    /// A read passes what the log has lost as if nothing had been there.
    LossIsPassedInSilence,
    /// A reset does not look for what the log has lost and only the store holds.
    ResetIgnoresLoss,
    /// The committed offset counts without the changelog that it was committed with.
    OffsetOutlivesTheChangelog,
    /// A previous owner writes on after the changelog was lost.
    OldOwnersWriteOn,
}

impl Sabotage {
    /// All that can be caught.
    pub(crate) const ALL: [Self; 29] = [
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
        Self::MarkIsIgnored,
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
    ];
}
