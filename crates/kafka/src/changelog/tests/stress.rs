//! Many threads, refused transactions and handovers: exactly what was acknowledged must be stored.

use super::*;
use std::collections::BTreeMap;
use workspace_engine_core::store::Change;
use workspace_engine_core::testing::seed;

const WORKSPACES: usize = 8;

/// The expected state of a workspace.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
struct Expected {
    epoch: u64,
    next_offset: u64,
    entries: BTreeMap<String, String>,
    transitions: u64,
}

/// Repeats an attempt while it is `Unavailable`; the same call may then be repeated unchanged.
fn insist<T>(what: &str, mut attempt: impl FnMut() -> Result<T, StoreError>) -> T {
    let until = Instant::now() + 2 * LONG;
    loop {
        match attempt() {
            Ok(done) => return done,
            Err(error @ StoreError::Unavailable(_)) => {
                assert!(Instant::now() < until, "{what}: {error}");
                std::thread::sleep(Duration::from_millis(30));
            }
            Err(error) => panic!("{what}: {error:?}"),
        }
    }
}

fn claim(store: &ChangelogStore, partition: u32, text: &str, expected: &mut Expected) {
    let least = store.first_epoch(PartitionId(partition)).get();
    expected.epoch = (expected.epoch + 1).max(least);
    insist("a claim", || {
        let claimed = store.claim(Claim {
            partition: PartitionId(partition),
            first_offset: Offset(0),
            ..claim_of(text, expected.epoch)
        });
        // A claim that returned an error may have been committed all the same.
        if let Err(StoreError::Fenced { stored, .. }) = &claimed {
            expected.epoch = stored.get() + 1;
            return Err(StoreError::Unavailable("again".to_owned()));
        }
        claimed
    });
}

fn save(
    store: &ChangelogStore,
    partition: u32,
    text: &str,
    expected: &mut Expected,
    random: &mut fastrand::Rng,
) {
    expected.next_offset += random.u64(1..10);
    let mut changes: Vec<Change> = Vec::new();
    for _ in 0..random.usize(0..20) {
        let name = random.u32(0..30).to_string();
        if random.u8(0..4) == 0 {
            expected.entries.remove(&name);
            changes.push(unset("kind", &name));
        } else {
            let data = random.u32(..).to_string();
            changes.push(set("kind", &name, &data, expected.next_offset));
            expected.entries.insert(name, data);
        }
    }
    let entries = u64::try_from(expected.entries.len()).expect("few");
    let saves = [Save {
        entries,
        ..save_of(text, expected.epoch, expected.next_offset, changes)
    }];
    let committed = [(PartitionId(partition), Offset(expected.next_offset))];
    insist("a save", || {
        let refused = store.save(&saves, &committed)?;
        match refused.into_iter().next() {
            None => Ok(()),
            Some(refused) => Err(refused.error),
        }
    });
}

fn owner(store: &ChangelogStore, partition: u32, seed: u64, until: Instant) -> Vec<Expected> {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut all = vec![Expected::default(); WORKSPACES];
    let name = |number: usize| format!("w-{partition}-{number}");
    open(store, partition);
    for (number, expected) in all.iter_mut().enumerate() {
        claim(store, partition, &name(number), expected);
    }
    while Instant::now() < until {
        let number = random.usize(0..WORKSPACES);
        let (text, expected) = (name(number), &mut all[number]);
        match random.u8(0..40) {
            0 => {
                store.close(PartitionId(partition));
                open(store, partition);
                for (number, expected) in all.iter_mut().enumerate() {
                    claim(store, partition, &name(number), expected);
                }
            }
            1..=3 => claim(store, partition, &text, expected),
            4..=8 => {
                expected.transitions += 1;
                let mut reported = transition(&text, expected.epoch, expected.transitions);
                reported.transition.message = format!("{number}");
                insist("history", || store.append_history(vec![reported.clone()]));
            }
            _ => save(store, partition, &text, expected, &mut random),
        }
    }
    all
}

fn check(store: &ChangelogStore, partition: u32, all: &[Expected], what: &str) {
    for (number, expected) in all.iter().enumerate() {
        let text = format!("w-{partition}-{number}");
        let (about, entries) = load(store, &text).expect("loaded");
        let entries = entries.into_iter().map(|entry| {
            let data = String::from_utf8(entry.data.to_vec()).expect("text");
            (entry.id.to_string(), data)
        });
        let history = store
            .history(&id(&text), None, usize::MAX)
            .expect("readable");
        let found = Expected {
            epoch: about.epoch.get(),
            next_offset: about.next_offset.0,
            entries: entries.collect(),
            transitions: u64::try_from(history.len()).expect("small"),
        };
        assert_eq!(&found, expected, "{what}: {text}");
    }
}

/// Calls `last_error` repeatedly while the owners run.
pub(super) fn what_was_acknowledged_is_there(
    topics: &TestTopics,
    lasting: Duration,
    last_error: impl Fn() + Sync,
) {
    let seed = seed();
    let (warm, cold) = (dir(), dir());
    let store = topics.store(warm.path(), "one");
    let until = Instant::now() + lasting;
    let all: Vec<Vec<Expected>> = std::thread::scope(|scope| {
        let owners: Vec<_> = (0..PARTITIONS)
            .map(|partition| {
                let store = &store;
                scope.spawn(move || {
                    owner(
                        store,
                        partition,
                        seed.wrapping_add(u64::from(partition)),
                        until,
                    )
                })
            })
            .collect();
        while owners.iter().any(|owner| !owner.is_finished()) {
            last_error();
        }
        owners
            .into_iter()
            .map(|owner| owner.join().expect("no panic"))
            .collect()
    });
    println!("{:?}", store.counts());
    let verify = |store: &ChangelogStore, what: &str| {
        for (partition, all) in (0..PARTITIONS).zip(&all) {
            open(store, partition);
            check(store, partition, all, what);
        }
    };
    for (partition, all) in (0..PARTITIONS).zip(&all) {
        insist("what it has", || store.workspaces(PartitionId(partition)));
        check(&store, partition, all, "as it was left");
    }
    drop(store);
    verify(&topics.store(cold.path(), "two"), "cold");
    verify(&topics.store(warm.path(), "one"), "warm");
}
