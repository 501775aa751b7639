use super::support::{copy, events, fill, open, spec};
use std::path::Path;
use workspace_engine_core::disk::{DataDir, DataDirSpec, DiskError};

#[test]
fn a_second_engine_on_the_same_directory_is_refused_with_the_process_that_has_it() {
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
    let text = std::fs::read_to_string(&file)
        .expect("readable")
        .replace("\"version\": 2", "\"version\": 7");
    std::fs::write(&file, text).expect("written");
    let text = refused(path.path(), &spec());
    assert!(
        text.contains("has format version 7, this engine reads version 2"),
        "{text}"
    );
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
fn a_creation_that_was_cut_short_is_begun_anew() {
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
