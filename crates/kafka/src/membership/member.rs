//! The state of this process in its consumer group, and how each event changes it. This file decides; `context.rs` and
//! `clients.rs` execute.
//!
//! ```text
//! Outside -Subscribed-> Joining -Assigned, InGroup-> Member -Lost, NotInGroup-> Joining
//! Joining, Member -CutOff, Fatal-> Retired -Rejoined-> Joining
//! any -Left-> Outside
//! ```

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use workspace_lifecycle::PartitionId;

use super::{MemberFailure, MemberReport};

/// Between two checks whether a failure has ended.
const FAILURE_CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// Shortest time for which a refusal is reported: its effect on the membership may be delayed.
const MIN_REFUSAL: Duration = Duration::from_secs(2);

/// Longest time before a member with a fatal error joins again.
const MAX_REJOIN_WAIT: Duration = Duration::from_mins(1);

/// After a membership this long, the next wait is short again.
const STABLE_MEMBERSHIP: Duration = Duration::from_mins(1);

/// What happened to a member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Event {
    /// The first client has subscribed to the topic.
    Subscribed,
    /// The group has assigned these; none for a member for which no partition is left.
    Assigned(Vec<PartitionId>),
    /// These were handed over.
    Released(Vec<PartitionId>),
    /// The group has assigned these to other members.
    Lost(Vec<PartitionId>),
    /// The client belongs to a generation of the group.
    InGroup,
    /// The client belongs to none.
    NotInGroup,
    Failed(MemberFailure),
    /// A broker has answered.
    BrokersAnswer,
    /// The group's coordinator has answered the member.
    CoordinatorAnswers,
    /// The coordinator was silent for longer than a session.
    CutOff,
    /// The client cannot continue.
    Fatal(String),
    /// Another client has replaced the retired one.
    Rejoined,
    /// No other client could be created.
    NotRejoined,
    Left,
}

/// What follows from an event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Action {
    /// These belong to this process from now on.
    Take(Vec<PartitionId>),
    /// These may belong to another member already.
    Lose(Vec<PartitionId>),
}

/// What must be checked to learn whether a failure has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Checks {
    /// Whether any broker answers.
    pub(super) brokers: bool,
    /// Whether the client is a member whom the coordinator answers.
    pub(super) coordinator: bool,
}

/// This process as a member.
#[derive(Debug, Clone)]
pub(super) struct Member {
    state: State,
    /// The number of the client whose reports count, from 1.
    client: u64,
    client_since: Instant,
    partitions: BTreeSet<PartitionId>,
    /// The last error of connections; cleared as soon as a broker answers.
    connections: Option<String>,
    /// The last refusal of the group's coordinator, and when. The client reports it once, however long it lasts.
    refusal: Option<(String, Instant)>,
    checked_at: Instant,
    first_wait: Duration,
    next_wait: Duration,
    rebalances: u64,
    losses: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// It has not joined, or has left.
    Outside,
    /// A client waits for the group to admit it.
    Joining { since: Instant },
    /// A client belongs to a generation of the group.
    Member,
    /// The last client no longer counts; the next one is created then.
    Retired { since: Instant, until: Instant },
}

impl Member {
    /// A group that refuses an instance id in use releases it after a session, so the first wait is one session long.
    pub(super) fn new(session_timeout: Duration, now: Instant) -> Self {
        Self {
            state: State::Outside,
            client: 1,
            client_since: now,
            partitions: BTreeSet::new(),
            connections: None,
            refusal: None,
            checked_at: now,
            first_wait: session_timeout,
            next_wait: session_timeout,
            rebalances: 0,
            losses: 0,
        }
    }

    /// Handles an event.
    pub(super) fn on(&mut self, event: Event, now: Instant) -> Option<Action> {
        match event {
            Event::Subscribed => {
                self.state = State::Joining { since: now };
                self.client_since = now;
            }
            Event::Assigned(ids) => {
                self.state = State::Member;
                self.connections = None;
                self.refusal = None;
                self.partitions.extend(&ids);
                self.rebalances += u64::from(!ids.is_empty());
                return (!ids.is_empty()).then_some(Action::Take(ids));
            }
            Event::Released(ids) => self.remove(&ids),
            Event::Lost(ids) => {
                self.state = State::Joining { since: now };
                self.remove(&ids);
                return self.lose(ids);
            }
            Event::InGroup => {
                if let State::Joining { .. } = self.state {
                    self.state = State::Member;
                    self.refusal = None;
                }
            }
            Event::NotInGroup => {
                if self.state == State::Member && self.partitions.is_empty() {
                    self.state = State::Joining { since: now };
                }
            }
            Event::Failed(MemberFailure::Connections(error_text)) => {
                self.connections = Some(error_text);
            }
            Event::Failed(MemberFailure::Group(error_text)) => {
                self.refusal = Some((error_text, now));
            }
            Event::BrokersAnswer => self.connections = None,
            Event::CoordinatorAnswers => self.refusal = None,
            Event::CutOff => {
                self.connections = Some("the group's coordinator does not answer".to_owned());
                return self.retire(now, now);
            }
            Event::Fatal(error_text) => {
                self.refusal = Some((error_text, now));
                let until = now + self.wait(now);
                return self.retire(now, until);
            }
            Event::Rejoined => {
                if let State::Retired { since, .. } = self.state {
                    self.state = State::Joining { since };
                    self.client += 1;
                    self.client_since = now;
                }
            }
            Event::NotRejoined => {
                if let State::Retired { since, .. } = self.state {
                    self.client_since = now;
                    let until = now + self.wait(now);
                    self.state = State::Retired { since, until };
                }
            }
            Event::Left => self.state = State::Outside,
        }
        None
    }

    fn remove(&mut self, ids: &[PartitionId]) {
        self.partitions.retain(|id| !ids.contains(id));
        self.rebalances += u64::from(!ids.is_empty());
    }

    fn lose(&mut self, ids: Vec<PartitionId>) -> Option<Action> {
        self.losses += u64::from(!ids.is_empty());
        (!ids.is_empty()).then_some(Action::Lose(ids))
    }

    /// All partitions are lost, and the client's reports no longer count.
    fn retire(&mut self, now: Instant, until: Instant) -> Option<Action> {
        let since = match self.state {
            State::Outside | State::Retired { .. } => return None,
            State::Joining { since } => since,
            State::Member => now,
        };
        self.state = State::Retired { since, until };
        let all = std::mem::take(&mut self.partitions);
        self.lose(all.into_iter().collect())
    }

    /// How long to wait before the next client is created. Two processes with one instance id fence each other: each
    /// time the next wait is longer.
    fn wait(&mut self, now: Instant) -> Duration {
        if now.saturating_duration_since(self.client_since) > self.next_wait + STABLE_MEMBERSHIP {
            self.next_wait = self.first_wait;
        }
        let next = (self.next_wait * 2).min(MAX_REJOIN_WAIT.max(self.first_wait));
        std::mem::replace(&mut self.next_wait, next)
    }

    /// Whether it belongs to its group, as far as is known.
    pub(super) fn is_in_group(&self) -> bool {
        self.state == State::Member
    }

    /// Whether the reports of a client count.
    pub(super) fn is_current(&self, client: u64) -> bool {
        client == self.client && !matches!(self.state, State::Retired { .. })
    }

    /// The number of the client to be created now, if the last one was retired and the wait is over.
    pub(super) fn due_client(&self, now: Instant) -> Option<u64> {
        match self.state {
            State::Retired { until, .. } if until <= now => Some(self.client + 1),
            State::Retired { .. } | State::Outside | State::Joining { .. } | State::Member => None,
        }
    }

    /// What to check now; none if there is no failure, or it was checked a moment ago. The client reports only when a
    /// failure begins.
    pub(super) fn due_checks(&mut self, now: Instant) -> Option<Checks> {
        let is_due = now.saturating_duration_since(self.checked_at) >= FAILURE_CHECK_INTERVAL;
        if self.last_error().is_none() || !is_due {
            return None;
        }
        self.checked_at = now;
        // No assignment that would clear the refusal follows while it is a member, and an answer of any other broker
        // says nothing about the coordinator.
        let is_old = |(_, at): &(String, Instant)| now.saturating_duration_since(*at) > MIN_REFUSAL;
        Some(Checks {
            brokers: self.connections.is_some(),
            coordinator: self.is_in_group() && self.refusal.as_ref().is_some_and(is_old),
        })
    }

    /// The current failure: a refusal first, because it does not end by itself.
    pub(super) fn last_error(&self) -> Option<MemberFailure> {
        let refusal = self.refusal.as_ref();
        refusal
            .map(|(error_text, _)| MemberFailure::Group(error_text.clone()))
            .or_else(|| self.connections.clone().map(MemberFailure::Connections))
    }

    pub(super) fn report(&self, now: Instant) -> MemberReport {
        let joining_since = match self.state {
            State::Joining { since } | State::Retired { since, .. } => Some(since),
            State::Outside | State::Member => None,
        };
        MemberReport {
            joining_for: joining_since.map(|since| now.saturating_duration_since(since)),
            last_error: self.last_error(),
            partitions: self.partitions.len(),
            rebalances: self.rebalances,
            losses: self.losses,
        }
    }
}

#[cfg(test)]
mod tests;
