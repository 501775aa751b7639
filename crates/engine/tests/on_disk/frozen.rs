//! Frozen disk formats: what this version wrote must stay readable.
//!
//! `UPDATE_GOLDEN=1` rewrites the fixtures. A change of them is a change of the format: raise the version, or find
//! another way.

use super::support::{copy, spec};
use bytes::Bytes;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use workspace_engine_core::disk::DataDir;
use workspace_engine_core::log::conformance::{append, event, read_all, request};
use workspace_engine_core::log::{DeadLetter, EmbeddedLog, EmbeddedLogConfig, EventLog};
use workspace_engine_core::store::conformance::{
    claim_of, counted, entry, id, load, save_of, set, transition, unset,
};
use workspace_engine_core::store::{FileStore, LsmStore, Save, Store};
use workspace_lifecycle::{Offset, PartitionId};

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fixtures")
        .join(name)
}

fn updates() -> bool {
    std::env::var_os("UPDATE_GOLDEN").is_some()
}

/// Compares with a fixture, or writes it.
fn golden(name: &str, found: &str) {
    let path = fixture(name);
    if updates() {
        std::fs::create_dir_all(path.parent().expect("a parent")).expect("created");
        std::fs::write(&path, found).expect("written");
    }
    let expected = std::fs::read_to_string(&path).expect("a fixture, made with UPDATE_GOLDEN=1");
    assert!(
        found == expected,
        "{} differs; found:\n{found}",
        path.display()
    );
}

fn fill_store(store: &dyn Store) {
    store.claim(claim_of("acme", 3)).expect("claimed");
    let changes = vec![
        set("resource", "r/1", "{\"id\":\"r/1\"}", 7),
        set("note", "ü", "null", 8),
        set("note", "gone", "1", 8),
    ];
    store
        .save(
            &[Save {
                last_load_ms: Some(12),
                ..save_of("acme", 3, 9, changes)
            }],
            &[(PartitionId(1), Offset(9))],
        )
        .expect("saved");
    let unset = save_of("acme", 3, 10, vec![unset("note", "gone")]);
    store.save(&[counted(store, unset)], &[]).expect("saved");
    store.claim(claim_of("ber", 1)).expect("claimed");
    store
        .append_history(vec![transition("acme", 3, 1), transition("acme", 3, 2)])
        .expect("kept");
    store.sync().expect("synced");
}

fn check_store(store: &dyn Store) {
    let (about, entries) = load(store, "acme").expect("loaded");
    assert_eq!(
        entries,
        [
            entry("note", "ü", "null", 8),
            entry("resource", "r/1", "{\"id\":\"r/1\"}", 7)
        ]
    );
    assert_eq!(
        (about.next_offset, about.events_applied, about.entries),
        (Offset(10), 20, 2)
    );
    assert_eq!(
        (about.epoch.get(), about.owner.as_str(), about.last_load_ms),
        (3, "node-1", Some(12))
    );
    assert_eq!(store.workspaces(PartitionId(1)).expect("listed").len(), 2);
    assert_eq!(
        store.committed(PartitionId(1)).expect("readable"),
        Offset(9)
    );
    let history = store.history(&id("acme"), None, 10).expect("readable");
    assert_eq!(
        history,
        [transition("acme", 3, 1), transition("acme", 3, 2)]
    );
}

fn dead_letter() -> DeadLetter {
    DeadLetter {
        topic: "workspace-events".to_owned(),
        partition: PartitionId(1),
        offset: Offset(2),
        workspace_id: id("acme"),
        key: Some(Bytes::from_static(b"acme")),
        value: Some(Bytes::from_static(b"not json")),
        reason: "it is not JSON".to_owned(),
        skipped_at_ms: 1_700_000_000_000,
    }
}

fn fill_dir(path: &Path) {
    for round in 0..2 {
        let dir = DataDir::open(path, &spec()).expect("opened");
        let log = EmbeddedLog::open(&dir, EmbeddedLogConfig::default()).expect("opened");
        let store = LsmStore::open(&dir).expect("opened");
        if round == 0 {
            continue;
        }
        append(&log, request("acme", 3, Some(("producer-1", 1)))).expect("appended");
        append(&log, request("other", 2, Some(("producer-1", 2)))).expect("appended");
        log.append_dead_letter(dead_letter()).expect("kept");
        fill_store(&store);
    }
}

#[test]
fn a_data_directory_of_version_4_is_read_and_written_to() {
    if updates() {
        let path = tempfile::tempdir().expect("a directory");
        fill_dir(path.path());
        drop(DataDir::open(path.path(), &spec()).expect("opened"));
        let mut packed = String::new();
        pack(path.path(), Path::new(""), &mut packed);
        std::fs::write(fixture("data-dir-v4.txt"), packed).expect("written");
    }
    let path = tempfile::tempdir().expect("a directory");
    let packed = std::fs::read_to_string(fixture("data-dir-v4.txt")).expect("a fixture");
    unpack(&packed, path.path());
    for _ in 0..2 {
        check_dir(path.path());
    }
}

fn check_dir(path: &Path) {
    let dir = DataDir::open(path, &spec()).expect("opened");
    let log = EmbeddedLog::open(&dir, EmbeddedLogConfig::default()).expect("opened");
    let mut values = Vec::new();
    for partition in 0..2 {
        let batch = read_all(&log, PartitionId(partition), Offset::ZERO);
        values.extend(
            batch
                .records
                .into_iter()
                .filter_map(|record| record.value().map(<[u8]>::to_vec)),
        );
    }
    values.sort();
    let mut expected: Vec<_> = (0..3).map(|number| event(&id("acme"), number)).collect();
    expected.extend((0..2).map(|number| event(&id("other"), number)));
    expected.sort();
    assert_eq!(values, expected);
    for request in [
        request("acme", 3, Some(("producer-1", 1))),
        request("other", 2, Some(("producer-1", 2))),
    ] {
        assert!(append(&log, request).expect("answered").repeated);
    }
    let of_another = DeadLetter {
        workspace_id: id("other"),
        ..dead_letter()
    };
    for dead_letter in [dead_letter(), of_another.clone(), dead_letter()] {
        log.append_dead_letter(dead_letter).expect("kept");
    }
    assert_eq!(
        log.dead_letters(None, None, 10).expect("listed"),
        [dead_letter(), of_another]
    );
    check_store(&LsmStore::open(&dir).expect("opened"));
}

#[test]
fn the_database_is_written_as_version_4() {
    let path = tempfile::tempdir().expect("a directory");
    fill_dir(path.path());
    let database = fjall::Database::builder(path.path().join("db"))
        .open()
        .expect("opened");
    let mut names: Vec<_> = database
        .list_keyspace_names()
        .iter()
        .map(ToString::to_string)
        .collect();
    names.sort();
    let mut text = String::new();
    for name in names {
        writeln!(text, "# {name}").expect("written");
        let keyspace = database.keyspace(&name, Default::default).expect("there");
        for entry in keyspace.iter() {
            let (key, value) = entry.into_inner().expect("readable");
            let mut value = value.to_vec();
            if name.starts_with("log-") && name.trim_start_matches("log-").parse::<u32>().is_ok() {
                // The time of the append, and the checksum over it.
                let end = value.len();
                value[1..9].fill(0);
                value[end - 4..].fill(0);
            }
            if name == "log-answers" {
                // The time of the request, and the checksum over it.
                let end = value.len();
                value[..8].fill(0);
                value[end - 4..].fill(0);
            }
            writeln!(text, "{} = {}", key.escape_ascii(), value.escape_ascii()).expect("written");
        }
    }
    golden("database-v4.txt", &text);
    golden(
        "format-v4.json",
        &std::fs::read_to_string(path.path().join("format.json")).expect("text"),
    );
}

#[test]
fn the_file_store_is_written_and_read_as_version_1() {
    let path = tempfile::tempdir().expect("a directory");
    fill_store(&FileStore::open(path.path()).expect("opened"));
    for (file, name) in [
        ("index.jsonl", "file-store-v1/index.jsonl"),
        ("acme/entries.jsonl", "file-store-v1/acme/entries.jsonl"),
        ("acme/history.jsonl", "file-store-v1/acme/history.jsonl"),
        ("ber/entries.jsonl", "file-store-v1/ber/entries.jsonl"),
    ] {
        golden(
            name,
            &std::fs::read_to_string(path.path().join(file)).expect("text"),
        );
    }
    let frozen = tempfile::tempdir().expect("a directory");
    copy(&fixture("file-store-v1"), frozen.path());
    check_store(&FileStore::open(frozen.path()).expect("opened"));
}

/// A directory as lines of `path hex`; a directory has no hex.
fn pack(root: &Path, below: &Path, packed: &mut String) {
    let mut entries: Vec<_> = std::fs::read_dir(root.join(below))
        .expect("listed")
        .map(|entry| entry.expect("listed"))
        .collect();
    entries.sort_by_key(std::fs::DirEntry::file_name);
    for entry in entries {
        let path = below.join(entry.file_name());
        if entry.file_type().expect("known").is_dir() {
            writeln!(packed, "{}/", path.display()).expect("written");
            pack(root, &path, packed);
        } else if entry.file_name() != "lock" || below == Path::new("db") {
            let bytes = std::fs::read(entry.path()).expect("readable");
            let hex = bytes
                .iter()
                .fold(String::new(), |hex, byte| hex + &format!("{byte:02x}"));
            writeln!(packed, "{} {hex}", path.display()).expect("written");
        }
    }
}

fn unpack(packed: &str, root: &Path) {
    for line in packed.lines() {
        match line.split_once(' ') {
            None => std::fs::create_dir_all(root.join(line)).expect("created"),
            Some((path, hex)) => {
                let digits = hex
                    .as_bytes()
                    .chunks(2)
                    .map(|pair| std::str::from_utf8(pair).expect("text"));
                let bytes: Vec<u8> = digits
                    .map(|pair| u8::from_str_radix(pair, 16).expect("hex"))
                    .collect();
                std::fs::write(root.join(path), bytes).expect("written");
            }
        }
    }
}
