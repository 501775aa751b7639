//! A child process is killed at random moments; everything that it reported as done must exist afterwards.

use super::support::open;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use workspace_engine_core::log::conformance::{append, read_all, request};
use workspace_engine_core::log::{AppendError, EventLog};
use workspace_engine_core::store::conformance::{claim_of, id, load, save, save_of, set};
use workspace_engine_core::store::{FileStore, LsmStore, Store};
use workspace_engine_core::testing::seed;
use workspace_lifecycle::{Offset, PartitionId};

const CHILD: &str = "SEAMS_CRASH_CHILD";

/// A number from the environment. For longer runs by hand: `KILLS=100 KILL_EVENTS=2000 KILL_WITHIN_MS=3000`, which
/// makes journals rotate.
fn number(variable: &str, default: u64) -> u64 {
    std::env::var(variable)
        .ok()
        .and_then(|number| number.parse().ok())
        .unwrap_or(default)
}

/// The program of the child: it appends and saves as fast as it can, and reports each one that is done.
#[test]
fn child_of_the_crash_tests() {
    let Ok(path) = std::env::var(CHILD) else {
        return;
    };
    let path = Path::new(&path);
    let (dir, log) = open(path).expect("opened");
    let lsm = LsmStore::open(&dir).expect("opened");
    let file = FileStore::open(path.join("workspaces")).expect("opened");
    let stores: [&dyn Store; 2] = [&lsm, &file];
    let mut next = 1;
    for store in stores {
        let epoch = store
            .workspace(&id("acme"))
            .expect("readable")
            .map_or(1, |about| about.epoch.get() + 1);
        let claimed = store.claim(claim_of("acme", epoch)).expect("claimed");
        next = next.max(claimed.next_offset.0 + 1);
        load(store, "acme").expect("loaded");
    }
    let epoch = lsm
        .workspace(&id("acme"))
        .expect("readable")
        .expect("claimed")
        .epoch
        .get();
    let epochs = [
        epoch,
        file.workspace(&id("acme"))
            .expect("readable")
            .expect("claimed")
            .epoch
            .get(),
    ];
    let mut out = std::io::stdout().lock();
    let mut sequence = std::env::var("SEAMS_CRASH_SEQUENCE")
        .expect("set")
        .parse::<u64>()
        .expect("a number");
    let events = usize::try_from(number("KILL_EVENTS", 3)).expect("small");
    for round in 0.. {
        match append(
            &log,
            request(
                &format!("w-{}", sequence % 7),
                events,
                Some(("child", sequence)),
            ),
        ) {
            Ok(_) => {}
            Err(AppendError::Sequence { expected, .. }) => {
                sequence = expected;
                continue;
            }
            Err(error) => panic!("{error}"),
        }
        writeln!(out, "appended {sequence}")
            .and_then(|()| out.flush())
            .expect("the parent listens");
        sequence += 1;
        for (store, epoch) in stores.into_iter().zip(epochs) {
            let changes = vec![
                set("k", &next.to_string(), "{}", next),
                set("k", "newest", &next.to_string(), next),
            ];
            assert!(save(store, &[save_of("acme", epoch, next, changes)]).is_empty());
        }
        writeln!(out, "saved {next}")
            .and_then(|()| out.flush())
            .expect("the parent listens");
        next += 1;
        if round % 5 == 0 {
            lsm.sync().expect("synced");
            file.sync().expect("synced");
        }
    }
}

#[test]
fn kill_9_at_any_moment_loses_nothing_that_was_acknowledged() {
    let mut random = fastrand::Rng::with_seed(seed());
    let path = tempfile::tempdir().expect("a directory");
    let (mut appended, mut saved) = (0_u64, 0_u64);
    let kills = number("KILLS", 8);
    for _ in 0..kills {
        let mut child = Command::new(std::env::current_exe().expect("known"))
            .args([
                "child_of_the_crash_tests",
                "--nocapture",
                "--test-threads=1",
            ])
            .env(CHILD, path.path())
            .env("SEAMS_CRASH_SEQUENCE", (appended + 1).to_string())
            .stdout(Stdio::piped())
            .spawn()
            .expect("started");
        let lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        let moment = Duration::from_millis(random.u64(50..number("KILL_WITHIN_MS", 400)));
        let mut begun: Option<Instant> = None;
        for line in lines {
            let Ok(line) = line else { break };
            if let Some(number) = line.strip_prefix("appended ") {
                appended = number.parse().expect("a number");
            } else if let Some(number) = line.strip_prefix("saved ") {
                saved = number.parse().expect("a number");
            } else {
                continue;
            }
            let begun = begun.get_or_insert_with(Instant::now);
            if begun.elapsed() >= moment {
                child.kill().expect("killed");
            }
        }
        let _ = child.wait();
        check(path.path(), appended, saved);
    }
    assert!(appended > kills && saved > kills, "{appended} {saved}");
}

fn check(path: &Path, appended: u64, saved: u64) {
    let (dir, log) = open(path).expect("opens after a crash");
    let partitions = (0..log.partitions()).map(PartitionId);
    let records: u64 = partitions
        .map(|partition| read_all(&log, partition, Offset::ZERO).records.len() as u64)
        .sum();
    // The last request may exist although its answer was not received.
    let events = number("KILL_EVENTS", 3);
    let acknowledged = appended * events;
    assert!(
        records == acknowledged || records == acknowledged + events,
        "{records} records of {appended} requests"
    );
    let lsm = LsmStore::open(&dir).expect("opened");
    let file = FileStore::open(path.join("workspaces")).expect("opened");
    for store in [&lsm as &dyn Store, &file] {
        let (about, entries) = load(store, "acme").expect("loaded");
        let next = about.next_offset.0;
        assert!(
            next == saved || next == saved + 1,
            "saved {saved}, found {next}"
        );
        let newest = entries
            .iter()
            .find(|entry| &*entry.id == "newest")
            .expect("there");
        assert_eq!(newest.data, next.to_string().as_bytes(), "a save is whole");
        assert_eq!(about.entries, entries.len() as u64);
    }
}
