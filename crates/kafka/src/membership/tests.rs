use std::sync::atomic::AtomicUsize;

use rdkafka::ClientContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::mocking::MockCluster;

use super::*;

fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_mins(2);
    while !is_so() {
        assert!(Instant::now() < deadline, "in time: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Counts the partitions of its calls.
#[derive(Clone, Default)]
struct Counts {
    assigned: Arc<AtomicUsize>,
    lost: Arc<AtomicUsize>,
}

impl Assignments for Counts {
    fn assigned(&self, partitions: &[PartitionId]) {
        self.assigned.fetch_add(partitions.len(), Ordering::AcqRel);
    }

    fn revoked(&self, _: &[PartitionId], _: Instant) {}

    fn lost(&self, partitions: &[PartitionId]) {
        self.lost.fetch_add(partitions.len(), Ordering::AcqRel);
    }
}

#[test]
fn the_longest_session_is_accepted() {
    let config = KafkaConfig {
        session_timeout: Duration::from_mins(30),
        ..KafkaConfig::default()
    };
    assert!(Membership::new(&config).is_ok());
}

#[test]
fn a_refusal_does_not_end_when_any_broker_answers() {
    let cluster = MockCluster::new(1).unwrap();
    let config = KafkaConfig {
        brokers: cluster.bootstrap_servers(),
        ..KafkaConfig::default()
    };
    let membership = Membership::new(&config).unwrap();
    let registration = &membership.clients.registration;
    registration.on(Event::Subscribed);
    let client = membership.clients.current();
    for (code, error_text) in [
        (
            RDKafkaErrorCode::BrokerTransportFailure,
            "connection closed",
        ),
        (RDKafkaErrorCode::GroupAuthorizationFailed, "not authorized"),
    ] {
        let context = client.context();
        context.error(KafkaError::Global(code), error_text);
    }
    // Its checks clear the failure of the connection, and nothing else.
    let clients = Arc::clone(&membership.clients);
    let polling = std::thread::spawn(move || clients.poll());
    until("a broker answers", || {
        // A copy, so that the checks of the thread stay due.
        let mut member = registration.member.lock().clone();
        let checks = member.due_checks(Instant::now() + Duration::from_mins(1));
        checks.is_some_and(|checks| !checks.brokers)
    });
    membership.clients.leaving.store(true, Ordering::Release);
    polling.join().unwrap();
    let last_error = membership.report().last_error;
    let expected = "not authorized (Global error: GroupAuthorizationFailed (Broker: Group authorization failed))";
    assert_eq!(last_error, Some(MemberFailure::Group(expected.to_owned())));
}

#[test]
fn a_member_that_is_cut_off_loses_its_partitions_and_joins_again() {
    for protocol in [GroupProtocol::Classic, GroupProtocol::Consumer] {
        let cluster = MockCluster::new(1).unwrap();
        cluster.create_topic("events", 2, 1).unwrap();
        let config = KafkaConfig {
            brokers: cluster.bootstrap_servers(),
            topic: "events".to_owned(),
            session_timeout: Duration::from_secs(3),
            protocol,
            ..KafkaConfig::default()
        };
        let membership = Membership::new(&config).unwrap();
        let counts = Counts::default();
        let assigned = || counts.assigned.load(Ordering::Acquire);
        let lost = || counts.lost.load(Ordering::Acquire);
        membership.join(counts.clone()).unwrap();
        until("both partitions are assigned", || assigned() == 2);
        assert_eq!(membership.report().partitions, 2);
        cluster.broker_down(1).unwrap();
        until("both are lost", || lost() == 2);
        let report = membership.report();
        assert_eq!(report.partitions, 0);
        assert!(report.joining_for.is_some());
        assert!(membership.group().metadata().is_none(), "it writes nothing");
        cluster.broker_up(1).unwrap();
        until("both are assigned again", || assigned() == 4);
        assert_eq!(lost(), 2);
        assert_eq!(membership.report().losses, 1);
        membership.leave(Instant::now() + Duration::from_secs(20));
    }
}

#[test]
#[ignore = "needs a real Kafka in KAFKA_BROKERS"]
fn a_standby_without_partitions_is_in_the_group() {
    for protocol in [GroupProtocol::Classic, GroupProtocol::Consumer] {
        let topic = format!("standby-{:08x}", fastrand::u32(..));
        let config = KafkaConfig {
            brokers: std::env::var("KAFKA_BROKERS").expect("KAFKA_BROKERS names the brokers"),
            group: format!("group-{topic}"),
            create_topic: Some(1),
            session_timeout: Duration::from_secs(6),
            protocol,
            topic,
            ..KafkaConfig::default()
        };
        until("topics", || crate::topics::prepare(&config).is_ok());
        let join = || {
            let membership = Membership::new(&config).unwrap();
            membership.join(Counts::default()).unwrap();
            membership
        };
        let is_in = |member: &Membership| member.report().joining_for.is_none();
        let first = join();
        until("the first has the partition", || {
            is_in(&first) && first.report().partitions == 1
        });
        let second = join();
        until("the second is in the group", || {
            is_in(&second) && second.report().last_error.is_none()
        });
        assert!(second.group().metadata().is_some());
        first.leave(Instant::now() + Duration::from_secs(20));
        until("the second has the partition", || {
            second.report().partitions == 1
        });
        assert!(is_in(&second));
        second.leave(Instant::now() + Duration::from_secs(20));
    }
}
