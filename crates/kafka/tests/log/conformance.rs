//! The conformance suite that every log must pass.

use workspace_engine_core::log::conformance;

use crate::cluster::Mock;

#[test]
fn the_log_on_kafka_does_what_every_log_must() {
    for (name, case) in conformance::CASES.iter().chain(conformance::PRODUCER_CASES) {
        println!("{name}");
        let mock = Mock::new(3);
        case(&mock.log());
    }
}
