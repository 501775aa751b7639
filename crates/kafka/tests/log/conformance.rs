//! The conformance suite that every log must pass.

use workspace_engine_core::log::conformance;

use crate::support::Mock;

#[test]
fn a_mock_cluster_passes_the_conformance_suite() {
    for (name, case) in conformance::CASES.iter().chain(conformance::PRODUCER_CASES) {
        println!("{name}");
        let mock = Mock::new(3);
        case(&mock.log());
    }
}
