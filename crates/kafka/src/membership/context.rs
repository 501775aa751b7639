//! One client of the group: passes what librdkafka reports to the member, as long as it is the current client.

use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::types::RDKafkaRespErr;
use rdkafka::{ClientContext, Offset, TopicPartitionList};
use workspace_lifecycle::PartitionId;

use super::member::{Action, Event, Member};
use super::{Assignments, MemberFailure};
use crate::context;

/// A client of the group.
pub(super) type MemberClient = BaseConsumer<MemberContext>;

/// The member, and the receiver of its assignments: the same for all clients that are the member, one after the
/// other.
pub(super) struct Registration {
    pub(super) topic: String,
    pub(super) session_timeout: Duration,
    pub(super) assignments: OnceLock<Box<dyn Assignments>>,
    pub(super) member: Mutex<Member>,
}

impl Registration {
    /// Handles an event, and executes the action that follows from it.
    pub(super) fn on(&self, event: Event) {
        let action = self.member.lock().on(event, Instant::now());
        match (action, self.assignments.get()) {
            (Some(Action::Take(ids)), Some(assignments)) => {
                tracing::info!(partitions = listed(&ids), "assigned");
                assignments.assigned(&ids);
            }
            (Some(Action::Lose(ids)), Some(assignments)) => {
                tracing::warn!(
                    partitions = listed(&ids),
                    "lost: they may belong to another member"
                );
                assignments.lost(&ids);
            }
            (_, None) | (None, _) => {}
        }
    }

    /// Hands partitions over to the group, which assigns them to other members afterwards.
    fn release(&self, ids: Vec<PartitionId>) {
        if let Some(assignments) = self.assignments.get() {
            tracing::info!(partitions = listed(&ids), "revoked: saving and releasing");
            assignments.revoked(&ids, Instant::now() + self.session_timeout / 2);
        }
        self.on(Event::Released(ids));
    }
}

pub(super) struct MemberContext {
    pub(super) registration: Arc<Registration>,
    /// Distinguishes it from the clients before and after it.
    pub(super) number: u64,
}

impl MemberContext {
    pub(super) fn is_current(&self) -> bool {
        self.registration.member.lock().is_current(self.number)
    }

    /// Records and logs an error of the client.
    fn failed(&self, error: &KafkaError, error_text: String) {
        if !self.is_current() {
            tracing::debug!(error_text, "a retired client of the consumer group");
            return;
        }
        let code = error.rdkafka_error_code();
        let Some(failure) = failure(code, error_text) else {
            return;
        };
        let is_first = self.registration.member.lock().last_error().is_none();
        let error_text = failure.error_text();
        if code == Some(RDKafkaErrorCode::PollExceeded) {
            tracing::error!(error_text, "the group was not polled for too long");
        } else if is_first || matches!(failure, MemberFailure::Group(_)) {
            tracing::warn!(
                error_text,
                "the client of the consumer group reports an error"
            );
        } else {
            tracing::debug!(
                error_text,
                "the client of the consumer group reports another error"
            );
        }
        self.registration.on(Event::Failed(failure));
    }

    fn assign(&self, consumer: &MemberClient, partitions: &TopicPartitionList) {
        let mut from_end = TopicPartitionList::new();
        for element in partitions.elements() {
            // Never read; with an explicit offset the client does not query the group for one.
            let added =
                from_end.add_partition_offset(element.topic(), element.partition(), Offset::End);
            if let Err(error) = added {
                tracing::error!(%error, "a partition cannot be assigned");
            }
        }
        if let Err(error) = consumer.incremental_assign(&from_end) {
            self.failed(&error, format!("partitions cannot be assigned: {error}"));
            return;
        }
        if let Err(error) = consumer.pause(&from_end) {
            tracing::warn!(%error, "partitions of the group's consumer are not paused; it reads records that are not used");
        }
        if self.is_current() {
            self.registration.on(Event::Assigned(self.ids(partitions)));
        }
    }

    fn revoke(&self, consumer: &MemberClient, partitions: &TopicPartitionList) {
        // The partitions of a retired client were reported as lost before.
        let is_current = self.is_current();
        let ids = self.ids(partitions);
        if is_current && consumer.assignment_lost() {
            self.registration.on(Event::Lost(ids));
        } else if is_current {
            self.registration.release(ids);
        }
        if let Err(error) = consumer.incremental_unassign(partitions)
            && is_current
        {
            tracing::warn!(%error, "partitions cannot be returned to the group");
        }
    }

    fn ids(&self, partitions: &TopicPartitionList) -> Vec<PartitionId> {
        let elements = partitions.elements();
        elements
            .iter()
            .filter(|element| element.topic() == self.registration.topic)
            .filter_map(|element| u32::try_from(element.partition()).ok())
            .map(PartitionId)
            .collect()
    }
}

impl ClientContext for MemberContext {
    fn error(&self, error: KafkaError, reason: &str) {
        self.failed(&error, format!("{reason} ({error})"));
    }

    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        context::log(level, facility, message);
    }
}

impl ConsumerContext for MemberContext {
    fn rebalance(
        &self,
        consumer: &MemberClient,
        event: RDKafkaRespErr,
        partitions: &mut TopicPartitionList,
    ) {
        if event == RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS {
            self.assign(consumer, partitions);
        } else {
            self.revoke(consumer, partitions);
        }
    }
}

/// The failure that an error of the client is; none if it is about a paused partition, which the client does not read.
fn failure(code: Option<RDKafkaErrorCode>, error_text: String) -> Option<MemberFailure> {
    match code {
        Some(RDKafkaErrorCode::AutoOffsetReset) => None,
        Some(
            RDKafkaErrorCode::BrokerTransportFailure
            | RDKafkaErrorCode::AllBrokersDown
            | RDKafkaErrorCode::Resolve
            | RDKafkaErrorCode::OperationTimedOut
            | RDKafkaErrorCode::NetworkException
            | RDKafkaErrorCode::Authentication
            | RDKafkaErrorCode::SSL,
        ) => Some(MemberFailure::Connections(error_text)),
        Some(_) | None => Some(MemberFailure::Group(error_text)),
    }
}

/// The message for the operator about a fatal error of a client.
pub(super) fn fatal_error_text(code: RDKafkaErrorCode, reason: &str) -> String {
    let is_about_the_name = matches!(
        code,
        RDKafkaErrorCode::FencedInstanceId | RDKafkaErrorCode::UnreleasedInstanceId
    );
    let way_out = if is_about_the_name {
        "another process has the same group-instance-id: give each engine one of its own; this one joins again after a while"
    } else {
        "it joins again after a while"
    };
    format!("{reason} ({code}); {way_out}")
}

fn listed(ids: &[PartitionId]) -> String {
    let ids: Vec<String> = ids.iter().map(PartitionId::to_string).collect();
    ids.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_of_connections_are_not_refusals_of_the_group() {
        let connections = |text: &str| Some(MemberFailure::Connections(text.to_owned()));
        let group = |text: &str| Some(MemberFailure::Group(text.to_owned()));
        for (code, expected) in [
            (Some(RDKafkaErrorCode::AutoOffsetReset), None),
            (Some(RDKafkaErrorCode::AllBrokersDown), connections("why")),
            (Some(RDKafkaErrorCode::Authentication), connections("why")),
            (
                Some(RDKafkaErrorCode::GroupAuthorizationFailed),
                group("why"),
            ),
            (Some(RDKafkaErrorCode::PollExceeded), group("why")),
            (None, group("why")),
        ] {
            assert_eq!(failure(code, "why".to_owned()), expected, "{code:?}");
        }
    }
}
