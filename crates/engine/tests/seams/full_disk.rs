//! A disk without space. Run by hand on a small file system of its own:
//!
//! ```text
//! mount -t tmpfs -o size=32m tmpfs /mnt/small
//! SMALL_DISK=/mnt/small cargo test -p workspace-engine-core --test seams full_disk
//! ```

use super::support::{events, open};
use std::path::PathBuf;
use workspace_engine_core::log::AppendError;
use workspace_engine_core::log::conformance::{append, request};
use workspace_engine_core::store::conformance::{claim_of, load, save_of, set};
use workspace_engine_core::store::{FileStore, LsmStore, Store, StoreError};

fn small_disk() -> Option<PathBuf> {
    std::env::var_os("SMALL_DISK").map(PathBuf::from)
}

#[test]
fn a_full_disk_refuses_and_goes_on_when_there_is_space() {
    let Some(disk) = small_disk() else { return };
    let path = disk.join("data");
    let ballast = disk.join("ballast");
    let (dir, log) = open(&path).expect("opened");
    let store = LsmStore::open(&dir).expect("opened");
    store.claim(claim_of("acme", 1)).expect("claimed");
    let mut appended = 0;
    let mut rounds = 0;
    for round in 0..3 {
        // Fill what is left with something else, then with events until the log refuses.
        std::fs::write(&ballast, vec![7; (12 - round * 4) << 20]).expect("there is space");
        let refused = loop {
            match append(&log, request("acme", 500, None)) {
                Ok(_) => appended += 500,
                Err(error) => break error,
            }
        };
        println!("round {round}, {appended} events: {refused}");
        assert!(matches!(refused, AppendError::NoSpace(_)), "{refused}");
        let text = format!("\"{}\"", "x".repeat(1_000_000));
        let refused = store.save(&[save_of("acme", 1, 9, vec![set("k", "a", &text, 1)])], &[]);
        println!("save: {refused:?}");
        assert!(matches!(refused, Err(StoreError::NoSpace(_))));
        assert_eq!(events(&log), appended, "readable while the disk is full");
        std::fs::remove_file(&ballast).expect("removed");
        append(&log, request("acme", 500, None)).expect("there is space again");
        appended += 500;
        store
            .save(&[save_of("acme", 1, 9, vec![set("k", "a", "1", 1)])], &[])
            .expect("saved");
        rounds += 1;
    }
    drop((store, log, dir));
    let (_dir, log) = open(&path).expect("opened");
    assert_eq!((events(&log), rounds), (appended, 3));
}

#[test]
fn a_full_disk_tears_no_file_of_the_file_store() {
    let Some(disk) = small_disk() else { return };
    let path = disk.join("workspaces");
    let ballast = disk.join("ballast-2");
    let store = FileStore::open(&path).expect("opened");
    store.claim(claim_of("acme", 1)).expect("claimed");
    std::fs::write(&ballast, vec![7; 6 << 20]).expect("there is space");
    let text = format!("\"{}\"", "x".repeat(20_000));
    let mut saves = 0;
    let refused = loop {
        let changes = vec![set("k", &format!("entity-{saves}"), &text, saves)];
        match store.save(&[save_of("acme", 1, saves + 10, changes)], &[]) {
            Ok(_) => saves += 1,
            Err(error) => break error,
        }
    };
    println!("{saves} saves: {refused}");
    assert!(matches!(refused, StoreError::NoSpace(_)), "{refused}");
    assert_eq!(load(&store, "acme").expect("loaded").1.len() as u64, saves);
    std::fs::remove_file(&ballast).expect("removed");
    assert!(
        store
            .save(
                &[save_of("acme", 1, 999, vec![set("k", "last", "1", 1)])],
                &[]
            )
            .expect("saved")
            .is_empty()
    );
    drop(store);
    let store = FileStore::open(&path).expect("opened");
    assert_eq!(
        load(&store, "acme").expect("loaded").1.len() as u64,
        saves + 1
    );
}
