use super::support::{copy, events, fill, journal, open, spec, write};
use std::path::Path;
use std::time::{Duration, Instant};
use workspace_engine_core::disk::{DataDir, DataDirSpec, DiskError, MIN_DATABASE_MEMORY};
use workspace_engine_core::log::Append;
use workspace_engine_core::{Engine, Entities, StoreKind};
use workspace_status::WorkspaceId;

#[test]
fn a_second_engine_is_refused_with_the_process_of_the_first() {
    let path = tempfile::tempdir().expect("a directory");
    let _open = open(path.path()).expect("opened");
    match DataDir::open(path.path(), &spec()) {
        Err(error @ DiskError::Locked { pid, .. }) => {
            assert_eq!(pid, Some(std::process::id()));
            let text = error.to_string();
            assert!(
                text.contains("in use by another engine (process "),
                "{text}"
            );
            assert!(text.contains(path.path().to_str().expect("text")), "{text}");
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_directory_is_free_again_when_it_is_closed() {
    let path = tempfile::tempdir().expect("a directory");
    for round in 0..3 {
        let (_dir, log) = open(path.path()).expect("opened");
        fill(&log, round * 4 + 1, 4);
    }
    let (_dir, log) = open(path.path()).expect("opened");
    assert_eq!(events(&log), 36);
}

fn refused(path: &Path, spec: &DataDirSpec) -> String {
    DataDir::open(path, spec).expect_err("refused").to_string()
}

#[test]
fn a_directory_of_another_version_is_refused_with_both_versions() {
    let path = tempfile::tempdir().expect("a directory");
    drop(open(path.path()).expect("opened"));
    let file = path.path().join("format.json");
    let intact = std::fs::read_to_string(&file).expect("readable");
    for version in [3, 7] {
        let other = intact.replace("\"version\": 4", &format!("\"version\": {version}"));
        std::fs::write(&file, &other).expect("written");
        let text = refused(path.path(), &spec());
        let expected = format!(
            "has format version {version}, this engine reads version 4; \
             use the engine that wrote it, or start with an empty directory"
        );
        assert!(text.contains(&expected), "{text}");
        assert_eq!(std::fs::read_to_string(&file).expect("readable"), other);
    }
}

#[test]
fn another_number_of_partitions_is_refused_with_both_numbers() {
    let path = tempfile::tempdir().expect("a directory");
    drop(open(path.path()).expect("opened"));
    let text = refused(
        path.path(),
        &DataDirSpec {
            partitions: 3,
            ..spec()
        },
    );
    assert!(
        text.contains("was created with 2 partitions, not 3"),
        "{text}"
    );
    for partitions in [0, 257] {
        let text = refused(
            path.path(),
            &DataDirSpec {
                partitions,
                ..spec()
            },
        );
        assert!(text.contains("between 1 and 256"), "{text}");
    }
}

#[test]
fn a_format_file_that_is_damaged_or_foreign_is_refused() {
    let path = tempfile::tempdir().expect("a directory");
    drop(open(path.path()).expect("opened"));
    let file = path.path().join("format.json");
    for text in [
        "",
        "{",
        "{\"format\":\"something else\",\"version\":1,\"partitions\":2}",
        "\u{0}\u{0}",
    ] {
        std::fs::write(&file, text).expect("written");
        let text = refused(path.path(), &spec());
        assert!(
            text.contains("is not a data directory of an engine"),
            "{text}"
        );
    }
    std::fs::remove_file(&file).expect("removed");
    let text = refused(path.path(), &spec());
    assert!(text.contains("no format.json"), "{text}");
}

#[test]
fn a_file_in_the_place_of_the_directory_is_refused() {
    let path = tempfile::tempdir().expect("a directory");
    let file = path.path().join("data");
    std::fs::write(&file, "text").expect("written");
    let text = refused(&file, &spec());
    assert!(text.contains("cannot create"), "{text}");
}

#[test]
fn an_interrupted_creation_is_started_again() {
    let whole = tempfile::tempdir().expect("a directory");
    drop(open(whole.path()).expect("opened"));
    for left in [
        &["format.json"][..],
        &["format.json", "witness"],
        &["format.json", "witness", "db/0.jnl", "db/lock"],
    ] {
        let path = tempfile::tempdir().expect("a directory");
        copy(whole.path(), path.path());
        for entry in ["db", "witness", "format.json"] {
            let from = path.path().join(entry);
            let _ = std::fs::remove_dir_all(&from).or_else(|_| std::fs::remove_file(&from));
        }
        for file in left {
            let to = path.path().join(file);
            std::fs::create_dir_all(to.parent().expect("a parent")).expect("created");
            std::fs::copy(whole.path().join(file), to).expect("copied");
        }
        let (_dir, log) = open(path.path()).unwrap_or_else(|error| panic!("{left:?}: {error}"));
        fill(&log, 1, 2);
        assert_eq!(events(&log), 6);
    }
}

#[test]
fn a_database_that_disappeared_is_a_loss() {
    let path = tempfile::tempdir().expect("a directory");
    let (dir, log) = open(path.path()).expect("opened");
    fill(&log, 1, 5);
    drop((dir, log));
    std::fs::remove_dir_all(path.path().join("db")).expect("removed");
    let text = refused(path.path(), &spec());
    assert!(
        text.contains("it holds 0 of 5 commits") && text.contains("ends at offset 0 and not at"),
        "{text}"
    );
}

/// Number of databases that were set aside.
fn set_aside(path: &Path) -> usize {
    let entries = std::fs::read_dir(path).expect("listed");
    entries
        .filter(|entry| {
            let name = entry.as_ref().expect("listed").file_name();
            name.to_str()
                .is_some_and(|name| name.starts_with("db.set-aside-"))
        })
        .count()
}

#[test]
#[expect(clippy::too_many_lines, reason = "one case for each error")]
fn every_way_out_that_an_error_names_opens_the_directory() {
    type Step = fn(&Path, &Path);
    let rename: Step = |path, _| {
        std::fs::rename(path.join("witness"), path.join("witness.accepted")).expect("renamed");
    };
    let remove: Step = |path, _| std::fs::remove_file(path.join("witness")).expect("removed");
    let restore: Step = |path, whole| {
        std::fs::remove_dir_all(path).expect("removed");
        copy(whole, path);
    };
    let empty: Step = |path, _| {
        std::fs::rename(path, path.with_file_name("moved")).expect("moved");
    };
    let marker: Step = |path, whole| {
        std::fs::copy(whole.join("db/version"), path.join("db/version")).expect("copied");
    };
    let cut: Step = |path, _| {
        let file = journal(path);
        let bytes = std::fs::read(&file).expect("readable");
        write(&file, &bytes[..bytes.len() / 2]);
    };
    let flip: Step = |path, _| {
        let file = journal(path);
        let mut bytes = std::fs::read(&file).expect("readable");
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        write(&file, bytes);
    };
    let no_database: Step = |path, _| {
        std::fs::remove_dir_all(path.join("db")).expect("removed");
    };
    let no_marker: Step = |path, _| {
        std::fs::remove_file(path.join("db/version")).expect("removed");
    };
    let no_format: Step = |path, _| {
        std::fs::remove_file(path.join("format.json")).expect("removed");
    };
    let nothing_but_the_witness: Step = |path, _| {
        std::fs::remove_dir_all(path.join("db")).expect("removed");
        std::fs::remove_file(path.join("format.json")).expect("removed");
    };
    let other_version: Step = |path, _| {
        let text = std::fs::read_to_string(path.join("format.json")).expect("readable");
        let text = text.replace("\"version\": 4", "\"version\": 7");
        std::fs::write(path.join("format.json"), text).expect("written");
    };
    let bad_witness: Step = |path, _| write(path.join("witness"), [7; 2000]);
    let bad_list: Step = |path, _| write(path.join("db/keyspaces/1/current"), [7; 25]);

    let whole = tempfile::tempdir().expect("a directory");
    drop(open(whole.path()).expect("opened"));
    let (dir, log) = open(whole.path()).expect("opened");
    fill(&log, 1, 12);
    drop((dir, log));
    let all = Some(36);
    for (name, break_it, text, way_out, expected) in [
        ("cut", cut, "rename", rename, None),
        ("cut", cut, "restore the directory", restore, all),
        ("flip", flip, "rename", rename, None),
        ("flip", flip, "", remove, None),
        (
            "flip",
            flip,
            "restore the directory from a copy",
            restore,
            all,
        ),
        ("no database", no_database, "rename", rename, Some(0)),
        (
            "no marker",
            no_marker,
            "copy it from any other",
            marker,
            all,
        ),
        (
            "no marker",
            no_marker,
            "existing files are set aside",
            rename,
            Some(0),
        ),
        ("no marker", no_marker, "", remove, Some(0)),
        (
            "no format",
            no_format,
            "restore it from a copy",
            restore,
            all,
        ),
        (
            "no format",
            no_format,
            "give the engine another directory",
            empty,
            Some(0),
        ),
        (
            "only a witness",
            nothing_but_the_witness,
            "rename",
            rename,
            Some(0),
        ),
        (
            "version",
            other_version,
            "with an empty directory",
            empty,
            Some(0),
        ),
        ("bad witness", bad_witness, "rename", rename, all),
        (
            "bad witness",
            bad_witness,
            "restore the directory",
            restore,
            all,
        ),
        ("bad list", bad_list, "restore it", restore, all),
    ] {
        let parent = tempfile::tempdir().expect("a directory");
        let path = parent.path().join("data");
        copy(whole.path(), &path);
        break_it(&path, whole.path());
        let refused = open(&path).expect_err(name).to_string();
        assert!(refused.contains(text), "{name}: {refused}");
        way_out(&path, whole.path());
        let (dir, log) = open(&path).unwrap_or_else(|error| panic!("{name}, {text}: {error}"));
        let found = events(&log);
        if let Some(expected) = expected {
            assert_eq!(found, expected, "{name}, {text}");
        } else {
            assert!((1..36).contains(&found), "{name}, {text}: {found}");
        }
        fill(&log, u64::try_from(found).expect("small") / 3 + 1, 1);
        drop((dir, log));
        let (_dir, log) = open(&path).expect("it stays open to be used");
        assert_eq!(events(&log), found + 3, "{name}, {text}");
        let lost_all = name == "no marker" && expected == Some(0);
        assert_eq!(set_aside(&path), usize::from(lost_all), "{name}, {text}");
    }
}

#[test]
fn what_an_interrupted_creation_leaves_is_not_set_aside() {
    let path = tempfile::tempdir().expect("a directory");
    drop(open(path.path()).expect("opened"));
    std::fs::remove_dir_all(path.path().join("db")).expect("removed");
    std::fs::create_dir_all(path.path().join("db/keyspaces")).expect("created");
    std::fs::write(path.path().join("db/lock"), "").expect("written");
    std::fs::write(path.path().join("db/0.jnl"), [0; 4096]).expect("written");
    let (_dir, log) = open(path.path()).expect("opened");
    fill(&log, 1, 2);
    assert_eq!(set_aside(path.path()), 0);
}

/// Number of the database's tables, without those of its own lists.
fn tables(path: &Path) -> usize {
    let keyspaces = std::fs::read_dir(path.join("db/keyspaces")).expect("listed");
    let keyspaces = keyspaces.map(|keyspace| keyspace.expect("listed").path());
    keyspaces
        .filter(|keyspace| !keyspace.ends_with("0"))
        .map(|keyspace| {
            std::fs::read_dir(keyspace.join("tables"))
                .expect("listed")
                .count()
        })
        .sum()
}

#[test]
fn an_existing_directory_follows_the_memory_of_its_database() {
    let path = tempfile::tempdir().expect("a directory");
    let event = format!(
        r#"{{"eventType":"workspace.tick","note":"{}"}}"#,
        "x".repeat(1_000)
    );
    for (memory, is_in_tables) in [(128 * 1024 * 1024, false), (MIN_DATABASE_MEMORY, true)] {
        let engine = Engine::<Entities>::builder()
            .data_dir(path.path())
            .store(StoreKind::Memory)
            .database_memory(memory)
            .start()
            .expect("started");
        for _ in 0..10 {
            let workspace = WorkspaceId::new("acme").expect("valid");
            let events = vec![(workspace, event.clone().into()); 1_000];
            let producer = None;
            let answer = engine.log().submit(Append { producer, events });
            answer.blocking_recv().expect("answered").expect("appended");
        }
        if is_in_tables {
            let until = Instant::now() + Duration::from_mins(1);
            while tables(path.path()) == 0 {
                assert!(Instant::now() < until, "nothing is written to tables");
                std::thread::sleep(Duration::from_millis(10));
            }
        } else {
            assert_eq!(tables(path.path()), 0);
        }
        engine.shutdown(Instant::now() + Duration::from_mins(1));
    }
}
