//! Full disks: each test uses a small file system of its own.
//!
//! As root, each test mounts one. Without the right to mount, one can be provided:
//!
//! ```text
//! mount -t tmpfs -o size=32m tmpfs /mnt/small
//! SMALL_DISK=/mnt/small cargo test -p workspace-engine-core --test on_disk full_disk -- --test-threads=1
//! ```

use super::support::{NOTHING_KEPT, events, open, open_with};
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};
use workspace_engine_core::log::conformance::{append, request};
use workspace_engine_core::log::{AppendError, EmbeddedLog, EventLog};
use workspace_engine_core::store::conformance::{claim_of, counted, load, save, save_of, set};
use workspace_engine_core::store::{FileStore, LsmStore, Store, StoreError};
use workspace_lifecycle::PartitionId;

/// An empty file system of 32 MiB, which is removed with the test.
struct SmallDisk {
    path: PathBuf,
    mounted: Option<tempfile::TempDir>,
}

impl SmallDisk {
    /// `None` if no such disk exists and none can be mounted; the test then prints that and proves nothing.
    fn get() -> Option<Self> {
        if let Some(path) = std::env::var_os("SMALL_DISK").map(PathBuf::from) {
            for entry in std::fs::read_dir(&path).expect("listed") {
                let entry = entry.expect("listed").path();
                let _ = std::fs::remove_dir_all(&entry).or_else(|_| std::fs::remove_file(&entry));
            }
            return Some(Self {
                path,
                mounted: None,
            });
        }
        let dir = tempfile::tempdir().expect("a directory");
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=32m", "tmpfs"])
            .arg(dir.path())
            .status();
        if mounted.is_ok_and(|status| status.success()) {
            return Some(Self {
                path: dir.path().to_owned(),
                mounted: Some(dir),
            });
        }
        println!("NOT TESTED: no right to mount a small disk, and SMALL_DISK names none");
        None
    }

    fn join(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Fills this much of it with other data.
    fn fill(&self, mebibytes: usize) {
        std::fs::write(self.join("ballast"), vec![7; mebibytes << 20]).expect("there is space");
    }

    fn relieve(&self) {
        std::fs::remove_file(self.join("ballast")).expect("removed");
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        if self.mounted.is_some() {
            let _ = Command::new("umount").arg("-l").arg(&self.path).status();
        }
    }
}

/// Appends until the log refuses; returns the number of appended events and the refusal.
fn append_until_full(log: &EmbeddedLog) -> (usize, AppendError) {
    let mut appended = 0;
    loop {
        match append(log, request("acme", 500, None)) {
            Ok(_) => appended += 500,
            Err(error) => return (appended, error),
        }
    }
}

#[test]
fn a_full_disk_refuses_and_goes_on_when_there_is_space() {
    let Some(disk) = SmallDisk::get() else { return };
    let path = disk.join("data");
    let (dir, log) = open(&path).expect("opened");
    let store = LsmStore::open(&dir).expect("opened");
    store.claim(claim_of("acme", 1)).expect("claimed");
    let mut appended = 0;
    let mut rounds = 0;
    for round in 0..3 {
        // Fill part of the space with other data, then the rest with events until the log refuses.
        disk.fill(12 - round * 4);
        let (more, refused) = append_until_full(&log);
        appended += more;
        println!("round {round}, {appended} events: {refused}");
        assert!(matches!(refused, AppendError::NoSpace(_)), "{refused}");
        let health = log.health().expect_err("appends are refused");
        assert!(health.contains("MiB are free"), "{health}");
        let text = format!("\"{}\"", "x".repeat(1_000_000));
        let refused = store.save(&[save_of("acme", 1, 9, vec![set("k", "a", &text, 1)])], &[]);
        println!("save: {refused:?}");
        assert!(matches!(refused, Err(StoreError::NoSpace(_))));
        assert_eq!(events(&log), appended, "readable while the disk is full");
        disk.relieve();
        log.health()
            .expect("there is space again, also before the next append");
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
fn a_full_disk_is_synced_and_trimmed() {
    let Some(disk) = SmallDisk::get() else { return };
    let path = disk.join("data");
    let (dir, log) = open_with(&path, NOTHING_KEPT).expect("opened");
    let store = LsmStore::open(&dir).expect("opened");
    disk.fill(16);
    let (appended, refused) = append_until_full(&log);
    println!("{appended} events: {refused}");
    store.sync().expect("the reserve is there for it");
    let partition = (0..log.partitions())
        .map(PartitionId)
        .find(|partition| log.high_watermark(*partition).0 > 0)
        .expect("events");
    let end = log.high_watermark(partition);
    assert_eq!(end.0, appended as u64);
    // A disk as small as this needs more than one removal, with a flush in between.
    let deadline = Instant::now() + Duration::from_mins(2);
    while let Err(error) = log.trim(partition, end) {
        assert!(Instant::now() < deadline, "{error}");
        std::thread::yield_now();
    }
    assert_eq!(log.low_watermark(partition).next(), end);
    drop((store, log, dir));
    let (_dir, log) = open_with(&path, NOTHING_KEPT).expect("opened");
    assert_eq!(
        (
            log.low_watermark(partition).next(),
            log.high_watermark(partition)
        ),
        (end, end)
    );
    disk.relieve();
    append(&log, request("acme", 500, None)).expect("there is space again");
}

#[test]
fn a_full_disk_tears_no_file_of_the_file_store() {
    let Some(disk) = SmallDisk::get() else { return };
    let path = disk.join("workspaces");
    let store = FileStore::open(&path).expect("opened");
    store.claim(claim_of("acme", 1)).expect("claimed");
    disk.fill(6);
    let text = format!("\"{}\"", "x".repeat(20_000));
    let mut saves = 0;
    let refused = loop {
        let changes = vec![set("k", &format!("entity-{saves}"), &text, saves)];
        let save = counted(&store, save_of("acme", 1, saves + 10, changes));
        match store.save(&[save], &[]) {
            Ok(_) => saves += 1,
            Err(error) => break error,
        }
    };
    println!("{saves} saves: {refused}");
    assert!(matches!(refused, StoreError::NoSpace(_)), "{refused}");
    assert_eq!(load(&store, "acme").expect("loaded").1.len() as u64, saves);
    disk.relieve();
    let last = save_of("acme", 1, 999, vec![set("k", "last", "1", 1)]);
    assert!(save(&store, &[last]).is_empty());
    drop(store);
    let store = FileStore::open(&path).expect("opened");
    assert_eq!(
        load(&store, "acme").expect("loaded").1.len() as u64,
        saves + 1
    );
}
