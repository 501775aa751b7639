//! Statuses of workspaces that are not in memory, and the filters of lists.

use std::time::Duration;

use workspace_status::{
    Absence, AbsentStatus, Clock, Epoch, ErrorCategory, LastKnown, ManualClock, PageQuery,
    Snapshot, State, Tracker, WorkspaceId,
};

fn absent(tracker: &Tracker, id: &str) -> Snapshot {
    let clock = tracker.clock();
    tracker.absent_snapshot(&AbsentStatus {
        id: id.parse().unwrap(),
        reason: Absence::Unloaded,
        message: "unloaded by an operator".into(),
        since: clock.wall() - Duration::from_secs(90),
        owner: None,
        metadata: vec![("partition", 7.into())],
        last_known: Some(LastKnown {
            state: State::Ready,
            at: clock.wall() - Duration::from_secs(90),
            epoch: Epoch::new(4),
            owner: Some("node-1".into()),
        }),
    })
}

#[test]
fn an_absent_workspace_is_unknown_with_what_was_last_known_of_it() {
    let clock = ManualClock::new();
    let tracker = Tracker::builder().clock(clock.clone()).owner("me").build();
    clock.advance(Duration::from_secs(1_000));
    let snapshot = absent(&tracker, "w");
    assert_eq!(snapshot.state(), State::Unknown);
    assert!(!snapshot.is_healthy());
    assert_eq!(snapshot.absence(), Some(Absence::Unloaded));
    assert_eq!(snapshot.last_known().unwrap().state, State::Ready);
    assert_eq!(snapshot.epoch(), Epoch::new(4));
    assert_eq!(snapshot.owner(), None);
    assert_eq!(snapshot.state_history().len(), 0);
    assert_eq!(snapshot.time_in_current_state(), Duration::from_secs(90));
    assert_eq!(
        snapshot.metadata().get("partition").unwrap().as_u64(),
        Some(7)
    );
    // The tracker does not have it.
    assert_eq!(tracker.count(), 0);
    let present = tracker.get_or_create("w").snapshot();
    assert_eq!((present.absence(), present.last_known()), (None, None));
    assert_eq!(clock.wall(), snapshot.observed_at());
}

#[test]
fn a_filter_selects_by_text_partition_owner_and_kind_of_error() {
    let tracker = Tracker::builder().owner("node-1").build();
    let parked = tracker.get_or_create("eu-parked");
    parked.update_metadata("partition", 3).unwrap();
    parked.set_parked("the DISK is full");
    let retrying = tracker.get_or_create("eu-retrying");
    retrying.update_metadata("partition", 4).unwrap();
    retrying.set_retrying("the store is away", 1, Duration::from_secs(1));
    tracker
        .get_or_create("us-ready")
        .set_state(State::Ready, "ready");

    let check = |query: &PageQuery, expected: &str| {
        let page = tracker.page(query);
        let ids: Vec<&str> = page.snapshots.iter().map(Snapshot::workspace_id).collect();
        assert_eq!(ids.join(" "), expected, "{query:?}");
        let of_ids = tracker.ids(query).ids;
        let of_ids: Vec<&str> = of_ids.iter().map(WorkspaceId::as_str).collect();
        assert_eq!(of_ids, ids, "{query:?}");
        for snapshot in tracker.list_all() {
            let is_listed = ids.contains(&snapshot.workspace_id());
            assert_eq!(query.selects(&snapshot), is_listed, "{query:?}");
        }
    };
    let text = |text: &str| PageQuery {
        contains: Some(text.to_owned()),
        ..PageQuery::default()
    };
    check(&text("disk"), "eu-parked");
    check(&text("EU-"), "eu-parked eu-retrying");
    check(&text("nothing of that"), "");
    check(&text(""), "eu-parked eu-retrying us-ready");
    let partitions = |partitions: &[u32]| PageQuery {
        partitions: partitions.to_vec(),
        ..PageQuery::default()
    };
    check(&partitions(&[3]), "eu-parked");
    check(&partitions(&[4, 3]), "eu-parked eu-retrying");
    let owners = |owner: &str| PageQuery {
        owners: vec![owner.to_owned()],
        ..PageQuery::default()
    };
    check(&owners("node-1"), "eu-parked eu-retrying us-ready");
    check(&owners("node-2"), "");
    let kinds = |kinds: &[ErrorCategory]| PageQuery {
        error_kinds: kinds.to_vec(),
        ..PageQuery::default()
    };
    check(&kinds(&[ErrorCategory::Retrying]), "eu-retrying");
    check(&kinds(&ErrorCategory::ALL), "eu-parked eu-retrying");
    let both = PageQuery {
        prefix: Some("eu".to_owned()),
        ..partitions(&[4])
    };
    check(&both, "eu-retrying");
}
