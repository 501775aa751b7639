use super::support::{copy, events, fill, journal, open, spec, write};
use std::path::Path;
use tempfile::TempDir;
use workspace_engine_core::disk::{DataDir, DiskError};
use workspace_engine_core::store::conformance::{claim_of, id, load, save, save_of, set};
use workspace_engine_core::store::{LsmStore, Store};
use workspace_engine_core::testing::seed;

/// A closed directory of `requests` requests of three events each, and as many entries in a store.
fn filled(requests: u64) -> TempDir {
    let whole = tempfile::tempdir().expect("a directory");
    let path = whole.path();
    // Opened twice, because only then does the journal end where its content ends.
    drop(open(path).expect("opened"));
    let (dir, log) = open(path).expect("opened");
    let store = LsmStore::open(&dir).expect("opened");
    store.claim(claim_of("acme", 1)).expect("claimed");
    for number in 1..=requests {
        fill(&log, number, 1);
        let changes = vec![set("kind", &number.to_string(), "{\"a\":1}", number)];
        assert!(save(&store, &[save_of("acme", 1, number + 5, changes)]).is_empty());
    }
    store.sync().expect("synced");
    whole
}

/// The length of the only journal.
fn journal_bytes(path: &Path) -> u64 {
    let about = std::fs::metadata(journal(path));
    about.expect("the journal exists").len()
}

/// Opens a directory after damage: either everything is intact, or the refusal is returned.
fn outcome(path: &Path, requests: u64) -> Option<DiskError> {
    let (dir, log) = match open(path) {
        Ok(opened) => opened,
        Err(error) => return Some(error),
    };
    assert_eq!(
        events(&log),
        usize::try_from(requests * 3).expect("small"),
        "acknowledged events"
    );
    let store = LsmStore::open(&dir).expect("opened");
    let mut entries = 0;
    let about = store.load(&id("acme"), &mut |_| {
        entries += 1;
        Ok(())
    });
    assert_eq!(about.expect("loaded").entries, requests, "synced entries");
    assert_eq!(entries, requests);
    None
}

#[test]
fn a_bit_flipped_in_the_journal_is_refused_and_nothing_is_changed() {
    const REQUESTS: u64 = 12;
    let mut random = fastrand::Rng::with_seed(seed());
    let whole = filled(REQUESTS);
    assert_eq!(
        outcome(whole.path(), REQUESTS).map(|error| error.to_string()),
        None
    );
    let length = journal_bytes(whole.path());
    let mut refused = 0;
    let rounds = rounds(60);
    for _ in 0..rounds {
        let path = tempfile::tempdir().expect("a directory");
        copy(whole.path(), path.path());
        let file = journal(path.path());
        let mut bytes = std::fs::read(&file).expect("readable");
        let bit = random.u64(..length * 8);
        bytes[usize::try_from(bit / 8).expect("small")] ^= 1 << (bit % 8);
        write(&file, &bytes);
        if let Some(error) = outcome(path.path(), REQUESTS) {
            let text = error.to_string();
            assert!(
                text.contains("to continue without the lost data, rename"),
                "bit {bit}: {text}"
            );
            assert_eq!(
                std::fs::read(&file).expect("readable"),
                bytes,
                "the journal is as it was"
            );
            refused += 1;
            accept(path.path(), &bytes);
        }
    }
    assert!(
        refused >= rounds - 1,
        "only a flip behind the last commit is harmless: {refused}"
    );
}

/// Accepts the loss by removing the witness: what precedes the damage is kept and usable, and the damaged journal is
/// set aside.
fn accept(path: &Path, damaged: &[u8]) {
    std::fs::remove_file(path.join("witness")).expect("removed");
    let left = {
        let (dir, log) = open(path).expect("opened with what is intact");
        let left = events(&log);
        assert_eq!(left % 3, 0, "requests are there whole or not at all");
        let store = LsmStore::open(&dir).expect("opened");
        if store.workspace(&id("acme")).expect("readable").is_some() {
            load(&store, "acme").expect("saves are there whole or not at all");
        }
        left
    };
    let copies = std::fs::read_dir(path)
        .expect("listed")
        .map(|entry| entry.expect("listed").path())
        .filter(|file| file.extension().is_some_and(|extension| extension == "jnl"));
    let copies: Vec<_> = copies.collect();
    assert_eq!(copies.len(), 1, "{copies:?}");
    assert_eq!(std::fs::read(&copies[0]).expect("readable"), damaged);
    {
        let (_dir, log) = open(path).expect("the loss is accepted for good");
        fill(&log, u64::try_from(left).expect("small") / 3 + 1, 1);
    }
    let (_dir, log) = open(path).expect("opened");
    assert_eq!(events(&log), left + 3);
}

#[test]
fn damage_in_an_older_journal_is_refused_also_without_the_witness() {
    const REQUESTS: u64 = 3;
    let path = filled(REQUESTS);
    let file = journal(path.path());
    let mut bytes = std::fs::read(&file).expect("readable");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    write(&file, &bytes);
    write(file.with_file_name("1.jnl"), [0; 100]);
    for _ in 0..2 {
        let error = outcome(path.path(), REQUESTS).expect("refused");
        assert!(
            matches!(&error, DiskError::DamagedBetween { file: named, .. } if *named == file),
            "{error}"
        );
        let text = error.to_string();
        assert!(
            text.contains("only a copy of the directory helps"),
            "{text}"
        );
        assert_eq!(std::fs::read(&file).expect("readable"), bytes);
        let _ = std::fs::remove_file(path.path().join("witness"));
    }
}

/// Splits the only journal into an older and a newer one, as if the database had begun another in between. Returns the
/// older one.
fn split_journal(path: &Path) -> std::path::PathBuf {
    let older = journal(path);
    let bytes = std::fs::read(&older).expect("readable");
    let is_end = |at: &usize| bytes[..*at].ends_with(b"FJL\x03");
    let end = (bytes.len() / 2..bytes.len())
        .find(is_end)
        .expect("a batch");
    write(&older, &bytes[..end]);
    write(older.with_file_name("1.jnl"), &bytes[end..]);
    older
}

#[test]
fn a_block_that_is_missing_before_acknowledged_events_is_refused() {
    const REQUESTS: u64 = 6;
    let whole = filled(REQUESTS);
    let length = {
        let path = tempfile::tempdir().expect("a directory");
        copy(whole.path(), path.path());
        let older = split_journal(path.path());
        let length = std::fs::metadata(older).expect("there").len();
        let intact = outcome(path.path(), REQUESTS).map(|error| error.to_string());
        assert_eq!(intact, None);
        usize::try_from(length).expect("small")
    };
    for at in (0..length).step_by(97) {
        let path = tempfile::tempdir().expect("a directory");
        copy(whole.path(), path.path());
        let older = split_journal(path.path());
        let mut bytes = std::fs::read(&older).expect("readable");
        let end = (at + 150).min(bytes.len());
        bytes[at..end].fill(0);
        write(&older, &bytes);
        let error = outcome(path.path(), REQUESTS).expect("refused");
        let is_named = matches!(&error, DiskError::DamagedBetween { file, .. } if *file == older);
        assert!(is_named, "{at}: {error}");
        assert_eq!(std::fs::read(&older).expect("readable"), bytes);
    }
}

#[test]
fn a_journal_cut_short_is_refused_with_partition_and_offsets() {
    const REQUESTS: u64 = 12;
    let whole = filled(REQUESTS);
    assert_eq!(
        outcome(whole.path(), REQUESTS).map(|error| error.to_string()),
        None
    );
    let length = journal_bytes(whole.path());
    for step in 0..30 {
        let path = tempfile::tempdir().expect("a directory");
        copy(whole.path(), path.path());
        let file = std::fs::File::options()
            .write(true)
            .open(journal(path.path()))
            .expect("opened");
        file.set_len(length * step / 30).expect("cut");
        let error = outcome(path.path(), REQUESTS).expect("something acknowledged is lost");
        let text = error.to_string();
        assert!(text.contains("of 13 commits"), "{text}");
        if step < 25 {
            assert!(
                text.contains("partition ") && text.contains("ends at offset"),
                "{text}"
            );
        }
        let again = outcome(path.path(), REQUESTS).expect("still lost");
        assert_eq!(
            again.to_string(),
            text,
            "a repeated request gets the same answer"
        );
    }
}

#[test]
fn a_tail_that_was_never_acknowledged_is_cut_off() {
    const REQUESTS: u64 = 5;
    let whole = filled(REQUESTS);
    let intact = std::fs::read(journal(whole.path())).expect("readable");
    let batch = intact[..200].to_vec();
    for length in [1, 5, 13, 20, 60, 100] {
        for zeros in [0, 1, 1000] {
            let path = tempfile::tempdir().expect("a directory");
            copy(whole.path(), path.path());
            let torn = [intact.as_slice(), &batch[..length], &vec![0; zeros]].concat();
            write(journal(path.path()), torn);
            if let Some(error) = outcome(path.path(), REQUESTS) {
                panic!("{length} bytes and {zeros} zeros: {error}");
            }
        }
    }
}

#[test]
fn a_torn_unsynced_write_is_cut_off_also_before_a_whole_unsynced_one() {
    const REQUESTS: u64 = 4;
    let path = filled(REQUESTS);
    let synced = journal_bytes(path.path());
    {
        // Two saves that were never synced; the first one does not reach the disk.
        let dir = DataDir::open(path.path(), &spec()).expect("opened");
        let store = LsmStore::open(&dir).expect("opened");
        for number in 0..2 {
            let changes = vec![set("late", &number.to_string(), "{}", 50)];
            assert!(save(&store, &[save_of("acme", 1, 50, changes)]).is_empty());
        }
    }
    let file = journal(path.path());
    let mut bytes = std::fs::read(&file).expect("readable");
    let at = usize::try_from(synced).expect("small") + 40;
    bytes[at..at + 20].fill(0);
    write(&file, bytes);
    if let Some(error) = outcome(path.path(), REQUESTS) {
        panic!("{error}");
    }
}

#[test]
fn removing_the_witness_accepts_the_loss() {
    const REQUESTS: u64 = 12;
    let path = filled(REQUESTS);
    let file = journal(path.path());
    let length = std::fs::metadata(&file).expect("there").len();
    std::fs::File::options()
        .write(true)
        .open(&file)
        .expect("opened")
        .set_len(length / 2)
        .expect("cut");
    match open(path.path()) {
        Err(DiskError::Lost { witness, .. } | DiskError::Damaged { witness, .. }) => {
            std::fs::remove_file(witness).expect("the error names the file to remove");
        }
        other => panic!("{other:?}"),
    }
    let (dir, log) = open(path.path()).expect("opened with what is there");
    let left = events(&log);
    assert!(left > 0 && left < 36, "{left}");
    let next = u64::try_from(left).expect("small") / 3 + 1;
    fill(&log, next, 3);
    drop((dir, log));
    let (_dir, log) = open(path.path()).expect("the loss is accepted for good");
    assert_eq!(events(&log), left + 9);
}

#[test]
fn damage_anywhere_is_an_error_and_never_a_panic_or_a_loss() {
    const REQUESTS: u64 = 8;
    let mut random = fastrand::Rng::with_seed(seed());
    let whole = filled(REQUESTS);
    let mut files = Vec::new();
    list(whole.path(), Path::new(""), &mut files);
    for round in 0..rounds(40) {
        let path = tempfile::tempdir().expect("a directory");
        copy(whole.path(), path.path());
        let file = &files[random.usize(..files.len())];
        let mut bytes = std::fs::read(path.path().join(file)).expect("readable");
        if bytes.is_empty() {
            continue;
        }
        let at = random.usize(..bytes.len());
        if round % 3 == 0 {
            bytes.truncate(at);
        } else {
            bytes[at] ^= 1 << random.u8(..8);
        }
        write(path.path().join(file), bytes);
        println!("{} at {at}, round {round}", file.display());
        let _ = outcome(path.path(), REQUESTS);
    }
}

/// How often a random test runs; for longer runs by hand: `ROUNDS=1000`.
fn rounds(few: usize) -> usize {
    std::env::var("ROUNDS")
        .ok()
        .and_then(|rounds| rounds.parse().ok())
        .unwrap_or(few)
}

fn list(root: &Path, below: &Path, files: &mut Vec<std::path::PathBuf>) {
    for entry in std::fs::read_dir(root.join(below)).expect("listed") {
        let entry = entry.expect("listed");
        let path = below.join(entry.file_name());
        if entry.file_type().expect("known").is_dir() {
            list(root, &path, files);
        } else {
            files.push(path);
        }
    }
}
