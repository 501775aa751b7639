use super::support::{copy, write};
use std::path::Path;
use workspace_engine_core::store::conformance::{
    claim_of, erase_of, id, load, save, save_of, set, transition, unset,
};
use workspace_engine_core::store::{
    Change, FileStore, MAX_HISTORY_TRANSITIONS, Save, SaveRefused, Store, StoreError,
};
use workspace_lifecycle::{Offset, PartitionId};

const SAVES: u64 = 8;

fn changes(number: u64) -> Vec<Change> {
    let mut changes = vec![
        set(
            "kind",
            &format!("entity-{number}"),
            &format!("{{\"number\":{number}}}"),
            number,
        ),
        set("kind", "always", &number.to_string(), number),
    ];
    if number % 3 == 2 {
        changes.push(unset("kind", &format!("entity-{}", number - 1)));
    }
    changes
}

/// Names and data that must exist after this many saves.
fn expected(saves: u64) -> Vec<(String, String)> {
    let mut model = std::collections::BTreeMap::new();
    for number in 1..=saves {
        for change in changes(number) {
            match change {
                Change::Set(entry) => {
                    let data = std::str::from_utf8(&entry.data).expect("text").to_owned();
                    model.insert(entry.id.to_string(), data);
                }
                Change::Unset { id, .. } => drop(model.remove(&*id)),
            }
        }
    }
    model.into_iter().collect()
}

fn found(store: &FileStore) -> (u64, Vec<(String, String)>) {
    let (about, entries) = load(store, "acme").expect("loaded");
    let entries = entries.into_iter().map(|entry| {
        (
            entry.id.to_string(),
            std::str::from_utf8(&entry.data).expect("text").to_owned(),
        )
    });
    (about.next_offset.0 - 10, entries.collect())
}

fn filled(path: &Path) {
    let store = FileStore::open(path).expect("opened");
    store.claim(claim_of("acme", 1)).expect("claimed");
    for number in 1..=SAVES {
        assert!(save(&store, &[save_of("acme", 1, number + 10, changes(number))]).is_empty());
    }
}

#[test]
fn a_file_cut_at_any_byte_gives_a_prefix_of_whole_saves_and_goes_on() {
    let whole = tempfile::tempdir().expect("a directory");
    filled(whole.path());
    let bytes = std::fs::read(whole.path().join("acme/entries.jsonl")).expect("readable");
    let claim_ends = bytes
        .iter()
        .position(|byte| *byte == b'\n')
        .expect("a line")
        + 1;
    let path = tempfile::tempdir().expect("a directory");
    copy(whole.path(), path.path());
    let mut most = 0;
    for length in claim_ends..=bytes.len() {
        write(path.path().join("acme/entries.jsonl"), &bytes[..length]);
        let store = FileStore::open(path.path()).expect("opened");
        let commits = bytes[..length]
            .split_inclusive(|byte| *byte == b'\n')
            .filter(|line| {
                line.ends_with(b"\n") && line.windows(9).any(|window| window == b"\"commit\":")
            });
        let saves = u64::try_from(commits.count()).expect("small") - 1;
        if saves == 0 {
            assert_eq!(load(&store, "acme").expect("loaded").1, []);
        } else {
            assert_eq!(found(&store), (saves, expected(saves)), "cut at {length}");
        }
        most = most.max(saves);
        if length % 9 != 0 {
            continue;
        }
        // The next save follows the last complete one.
        for number in saves + 1..=SAVES {
            assert!(save(&store, &[save_of("acme", 1, number + 10, changes(number))]).is_empty());
        }
        drop(store);
        let store = FileStore::open(path.path()).expect("opened");
        assert_eq!(
            found(&store),
            (SAVES, expected(SAVES)),
            "cut at {length}, then saved"
        );
    }
    assert_eq!(most, SAVES);
}

#[test]
fn a_changed_bit_anywhere_is_named_by_file_and_line() {
    let whole = tempfile::tempdir().expect("a directory");
    filled(whole.path());
    let file = whole.path().join("acme/entries.jsonl");
    let bytes = std::fs::read(&file).expect("readable");
    for bit in (0..bytes.len() * 8).step_by(17) {
        let mut damaged = bytes.clone();
        damaged[bit / 8] ^= 1 << (bit % 8);
        write(&file, &damaged);
        let store = FileStore::open(whole.path()).expect("opened");
        match load(&store, "acme") {
            Err(StoreError::Corrupt { place, .. }) => {
                assert!(place.contains("acme/entries.jsonl line "), "{place}");
            }
            // A damaged last line end looks like a torn write.
            Ok(_) => assert!(
                bit / 8 == bytes.len() - 1 && found(&store) == (SAVES - 1, expected(SAVES - 1)),
                "bit {bit}"
            ),
            other => panic!("bit {bit}: {other:?}"),
        }
    }
}

#[test]
fn a_damaged_workspace_harms_no_other_and_is_still_listed() {
    let path = tempfile::tempdir().expect("a directory");
    filled(path.path());
    {
        let store = FileStore::open(path.path()).expect("opened");
        store.claim(claim_of("other", 1)).expect("claimed");
        let saved = store.save(
            &[save_of("other", 1, 12, changes(1))],
            &[(PartitionId(1), Offset(12))],
        );
        assert!(saved.expect("saved").is_empty());
        store.sync().expect("synced");
    }
    for (damage, next_offset) in [("text\n", 12), ("", 13)] {
        write(path.path().join("acme/entries.jsonl"), damage);
        let store = FileStore::open(path.path()).expect("opened");
        let listed = store.workspaces(PartitionId(1)).expect("listed");
        let listed: Vec<_> = listed
            .iter()
            .map(|about| (about.id.as_str(), about.epoch.get(), about.next_offset.0))
            .collect();
        assert_eq!(listed, [("acme", 0, 0), ("other", 1, next_offset)]);
        for refused in [
            store.workspace(&id("acme")).err(),
            store.claim(claim_of("acme", 2)).err(),
            load(&store, "acme").err(),
        ] {
            assert!(
                matches!(&refused, Some(StoreError::Corrupt { .. })),
                "{refused:?}"
            );
        }
        let refused = save(
            &store,
            &[
                save_of("acme", 1, 99, changes(1)),
                save_of("other", 1, 13, changes(2)),
            ],
        );
        assert!(
            matches!(
                refused.as_slice(),
                [SaveRefused {
                    error: StoreError::Corrupt { .. },
                    ..
                }]
            ),
            "{refused:?}"
        );
        assert_eq!(
            load(&store, "other").expect("loaded").0.next_offset,
            Offset(13)
        );
    }
    let store = FileStore::open(path.path()).expect("opened");
    store.purge(&id("acme")).expect("deleting is the way out");
    store.claim(claim_of("acme", 1)).expect("claimed again");
}

#[test]
fn a_directory_that_disappeared_is_damage_and_not_an_unknown_workspace() {
    let path = tempfile::tempdir().expect("a directory");
    filled(path.path());
    FileStore::open(path.path())
        .expect("opened")
        .sync()
        .expect("synced");
    std::fs::remove_dir_all(path.path().join("acme")).expect("removed");
    let store = FileStore::open(path.path()).expect("opened");
    assert!(matches!(
        store.workspace(&id("acme")),
        Err(StoreError::Corrupt { .. })
    ));
    assert_eq!(store.workspaces(PartitionId(1)).expect("listed").len(), 1);
}

#[test]
fn another_number_of_entries_than_was_saved_is_named_by_file_and_line() {
    let path = tempfile::tempdir().expect("a directory");
    let store = FileStore::open(path.path()).expect("opened");
    store.claim(claim_of("acme", 1)).expect("claimed");
    let wrong = Save {
        entries: 3,
        ..save_of("acme", 1, 11, changes(1))
    };
    store.save(&[wrong], &[]).expect("saved");
    let file = path.path().join("acme/entries.jsonl");
    let refused = load(&store, "acme").expect_err("damaged");
    assert_eq!(
        refused.to_string(),
        format!(
            "{} line 4 is damaged: wrong number of entries: expected 3, found 2",
            file.display()
        )
    );
}

#[test]
fn a_file_that_became_shorter_is_damage_and_is_not_filled_with_zeros() {
    for left in [Some(100), Some(0), None] {
        let path = tempfile::tempdir().expect("a directory");
        let store = FileStore::open(path.path()).expect("opened");
        store.claim(claim_of("acme", 1)).expect("claimed");
        assert!(save(&store, &[save_of("acme", 1, 11, changes(1))]).is_empty());
        store
            .append_history(vec![transition("acme", 1, 1)])
            .expect("kept");
        let shorten = |file: &str| {
            let file = path.path().join(file);
            match left {
                Some(bytes) => write(&file, &std::fs::read(&file).expect("readable")[..bytes]),
                None => std::fs::remove_file(&file).expect("removed"),
            }
            file
        };
        let check = |file: &Path, refused: Option<&StoreError>| {
            let Some(StoreError::Corrupt { place, reason }) = refused else {
                panic!("{left:?}: {refused:?}");
            };
            assert_eq!(place, file.to_str().expect("text"));
            let found = left.unwrap_or(0);
            assert!(reason.starts_with(&format!("it has {found} bytes, and ")));
            let length = std::fs::metadata(file).ok().map(|about| about.len());
            assert_eq!(length, left.map(|bytes| bytes as u64), "left as it is");
        };

        let file = shorten("acme/entries.jsonl");
        let refused = save(&store, &[save_of("acme", 1, 12, changes(2))]);
        check(&file, refused.first().map(|refused| &refused.error));
        let file = shorten("acme/history.jsonl");
        let refused = store.append_history(vec![transition("acme", 1, 2)]);
        check(&file, refused.err().as_ref());
        let file = shorten("index.jsonl");
        check(&file, store.claim(claim_of("new", 1)).err().as_ref());
    }
}

#[test]
fn a_file_with_much_garbage_is_compacted_and_loads_the_same() {
    let path = tempfile::tempdir().expect("a directory");
    let store = FileStore::open(path.path()).expect("opened");
    store.claim(claim_of("acme", 1)).expect("claimed");
    let text = format!("\"{}\"", "x".repeat(300));
    let mut longest = 0;
    for round in 0..60_u64 {
        let changes = (0..100)
            .map(|number| set("kind", &number.to_string(), &text, round))
            .collect();
        assert!(save(&store, &[save_of("acme", 1, round + 10, changes)]).is_empty());
        longest = longest.max(
            std::fs::metadata(path.path().join("acme/entries.jsonl"))
                .expect("there")
                .len(),
        );
    }
    let bytes = std::fs::metadata(path.path().join("acme/entries.jsonl"))
        .expect("there")
        .len();
    assert!(
        bytes < longest && longest < 3_000_000,
        "{bytes} of {longest}"
    );
    let before = load(&store, "acme").expect("loaded");
    drop(store);
    let store = FileStore::open(path.path()).expect("opened");
    let after = load(&store, "acme").expect("loaded");
    assert_eq!(before, after);
    assert_eq!((after.0.entries, after.0.next_offset), (100, Offset(69)));
}

#[test]
fn what_is_committed_is_kept_by_a_sync_and_not_before() {
    let path = tempfile::tempdir().expect("a directory");
    let store = FileStore::open(path.path()).expect("opened");
    store
        .save(&[], &[(PartitionId(1), Offset(7))])
        .expect("saved");
    store.sync().expect("synced");
    store
        .save(&[], &[(PartitionId(1), Offset(9))])
        .expect("saved");
    assert_eq!(
        store.committed(PartitionId(1)).expect("readable"),
        Offset(9)
    );
    drop(store);
    let store = FileStore::open(path.path()).expect("opened");
    assert_eq!(
        store.committed(PartitionId(1)).expect("readable"),
        Offset(7)
    );
}

#[test]
fn a_file_store_is_read_by_people() {
    let path = tempfile::tempdir().expect("a directory");
    filled(path.path());
    let text = std::fs::read_to_string(path.path().join("acme/entries.jsonl")).expect("text");
    for line in text.lines() {
        let line: serde_json::Value = serde_json::from_str(line).expect("each line is JSON");
        assert!(line["crc"].is_string());
    }
    assert!(
        text.contains(r#""set":["kind","entity-1"],"offset":1,"data":{"number":1}}"#),
        "{text}"
    );
}

#[test]
fn a_damaged_or_missing_index_is_refused() {
    let path = tempfile::tempdir().expect("a directory");
    filled(path.path());
    let index = path.path().join("index.jsonl");
    let text = std::fs::read_to_string(&index).expect("text");
    write(&index, text.replace("acme", "acmf"));
    let refused = FileStore::open(path.path())
        .expect_err("refused")
        .to_string();
    assert!(
        refused.contains("index.jsonl line 2 is damaged"),
        "{refused}"
    );
    std::fs::remove_file(&index).expect("removed");
    let refused = FileStore::open(path.path())
        .expect_err("refused")
        .to_string();
    assert!(
        refused.contains("holds directories, but no index.jsonl"),
        "{refused}"
    );
}

#[test]
fn history_keeps_the_newest_transitions() {
    let path = tempfile::tempdir().expect("a directory");
    let store = FileStore::open(path.path()).expect("opened");
    let most = u64::try_from(MAX_HISTORY_TRANSITIONS).expect("small");
    for first in (1..=most + 5_000).step_by(500) {
        store
            .append_history(
                (first..first + 500)
                    .map(|number| transition("acme", 1, number))
                    .collect(),
            )
            .expect("kept");
    }
    let all = store
        .history(&id("acme"), None, usize::MAX)
        .expect("readable");
    assert_eq!(all.len(), MAX_HISTORY_TRANSITIONS);
    assert_eq!(
        all.last().map(|record| record.transition.sequence),
        Some(most + 5_000)
    );
    let lines = std::fs::read_to_string(path.path().join("acme/history.jsonl"))
        .expect("text")
        .lines()
        .count();
    assert!(lines <= MAX_HISTORY_TRANSITIONS + 2_500, "{lines}");
}

#[test]
fn a_damaged_history_harms_no_other() {
    let path = tempfile::tempdir().expect("a directory");
    let store = FileStore::open(path.path()).expect("opened");
    for text in ["acme", "ber"] {
        store
            .append_history(vec![transition(text, 1, 1)])
            .expect("kept");
    }
    drop(store);
    write(path.path().join("acme/history.jsonl"), "text\n");
    let store = FileStore::open(path.path()).expect("opened");
    let refused = store.append_history(vec![transition("acme", 2, 1), transition("ber", 2, 1)]);
    assert!(
        matches!(&refused, Err(StoreError::Corrupt { place, .. }) if place.contains("acme/history.jsonl line 1")),
        "{refused:?}"
    );
    let kept = store.history(&id("ber"), None, 10).expect("readable");
    assert_eq!(kept, [transition("ber", 1, 1), transition("ber", 2, 1)]);
}

#[test]
fn a_workspace_missing_in_an_older_index_is_set_aside_by_a_claim() {
    let path = tempfile::tempdir().expect("a directory");
    let index = path.path().join("index.jsonl");
    let store = FileStore::open(path.path()).expect("opened");
    let older = std::fs::read(&index).expect("readable");
    for name in ["acme", "empty"] {
        store.claim(claim_of(name, 1)).expect("claimed");
    }
    assert!(save(&store, &[save_of("acme", 1, 9, changes(1))]).is_empty());
    drop(store);
    let entries = std::fs::read(path.path().join("acme/entries.jsonl")).expect("readable");
    write(&index, older);

    let store = FileStore::open(path.path()).expect("opened");
    for name in ["acme", "empty"] {
        let claimed = store.claim(claim_of(name, 1)).expect("claimed");
        assert_eq!(claimed.entries, 0, "{name} begins again");
    }
    let copies = |name: &str| -> Vec<Vec<u8>> {
        let files = std::fs::read_dir(path.path().join(name)).expect("listed");
        files
            .map(|file| file.expect("listed").path())
            .filter(|file| {
                file.to_str()
                    .is_some_and(|file| file.contains(".set-aside-"))
            })
            .map(|file| std::fs::read(file).expect("readable"))
            .collect()
    };
    assert_eq!(copies("acme"), [entries]);
    assert_eq!(copies("empty"), Vec::<Vec<u8>>::new());
}

#[test]
fn a_successor_of_a_deleted_workspace_survives_an_older_index() {
    let path = tempfile::tempdir().expect("a directory");
    let (index, entries) = (
        path.path().join("index.jsonl"),
        path.path().join("acme/entries.jsonl"),
    );
    let store = FileStore::open(path.path()).expect("opened");
    store.claim(claim_of("acme", 1)).expect("claimed");
    store.delete(erase_of("acme", 2, 20)).expect("deleted");
    drop(store);
    let older = std::fs::read(&index).expect("readable");
    let store = FileStore::open(path.path()).expect("opened");
    store.claim(claim_of("acme", 3)).expect("claimed");
    assert!(save(&store, &[save_of("acme", 3, 25, changes(1))]).is_empty());
    drop(store);
    let newer = std::fs::read(&entries).expect("readable");
    write(&index, older);

    drop(FileStore::open(path.path()).expect("opened"));
    let files = std::fs::read_dir(path.path().join("acme")).expect("it is still there");
    let kept = files.map(|file| std::fs::read(file.expect("listed").path()).expect("readable"));
    assert!(kept.into_iter().any(|kept| kept == newer));
}

#[test]
fn an_unknown_workspace_has_no_history_and_an_unclaimed_one_has() {
    let path = tempfile::tempdir().expect("a directory");
    let store = FileStore::open(path.path()).expect("opened");
    let one = transition("acme", 1, 1);
    store.append_history(vec![one.clone()]).expect("kept");
    drop(store);
    let store = FileStore::open(path.path()).expect("opened");
    assert_eq!(store.history(&id("unknown"), None, 10), Ok(Vec::new()));
    assert_eq!(store.history(&id("acme"), None, 10), Ok(vec![one]));
}
