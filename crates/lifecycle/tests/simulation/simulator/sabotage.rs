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
}

impl Sabotage {
    /// All that can be caught.
    pub(crate) const ALL: [Self; 16] = [
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
    ];
}
