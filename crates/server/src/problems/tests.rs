use super::*;

#[test]
fn what_went_wrong_decides_the_status() {
    let id = WorkspaceId::new("w").unwrap();
    for (problem, status, detail) in [
        (
            append(&AppendError::NoSpace("3 bytes free".to_owned()), None),
            507,
            "no space left for the event log: 3 bytes free",
        ),
        (
            append(
                &AppendError::Sequence {
                    producer_id: "p".to_owned(),
                    sequence: 9,
                    expected: 7,
                },
                None,
            ),
            409,
            "producer p sent request 9, but 7 is next",
        ),
        (
            append(&AppendError::Busy, None),
            503,
            "too many requests are waiting to be appended, try again",
        ),
        (
            action(&id, &ActionError::Refused(CommandError::NotStopped)),
            409,
            "the workspace is not stopped at an event that it cannot apply",
        ),
        (
            action(&id, &ActionError::Refused(CommandError::UnknownWorkspace)),
            404,
            "neither the store nor the log knows the workspace",
        ),
    ] {
        assert_eq!(problem.status().as_u16(), status, "{detail}");
        assert_eq!(problem.detail(), detail);
    }
}

#[test]
fn a_request_appended_in_part_says_what_is_there_and_how_to_go_on() {
    let partly = AppendError::Partly {
        appended: 1,
        events: 2,
        partitions: vec![AppendedRange {
            partition: workspace_lifecycle::PartitionId(3),
            first_offset: Offset(7),
            last_offset: Offset(7),
        }],
        reason: "no leader".to_owned(),
    };
    let producer = ProducerSequence {
        producer_id: "orders".to_owned(),
        sequence: 4,
    };
    let named = append(&partly, Some(&producer));
    assert_eq!(named.status().as_u16(), 503);
    assert_eq!(
        named.detail(),
        "1 of 2 events were appended, the others may be missing: no leader; repeat the same request with Producer-Id \
         orders and Producer-Sequence 4: it appends only what is missing"
    );
    assert!(append(&partly, None).detail().contains("once more"));
}
