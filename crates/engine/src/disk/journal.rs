//! Inspects the database's journals before the database opens them.
//!
//! The database (fjall 3) stops its recovery at the first broken batch of a journal, cuts the file there and reports
//! nothing, even if intact batches follow. So the journals are read here first, without changing anything. This
//! distinguishes a torn tail, which a crash leaves behind, from a damaged middle, where acknowledged data is lost.
//!
//! A journal consists of batches, then zeros to the end of the file. A batch is a start marker, items, and an end
//! marker with the xxh3 of the items. The start marker contains the sequence number of the batch, which no checksum
//! covers; it decides which of two values is newer, so it must grow. A journal that is not the newest was synced before
//! the next one began, so it has no torn tail. Every durable commit contains the ledger, and the next commit is written
//! only when it is durable: a batch with ledger *n* proves that *n - 1* was acknowledged.

use super::DiskError;
use super::ledger::{LEDGER_KEY, Ledger};
use std::fs::File;
use std::io::{BufReader, ErrorKind, Read};
use std::path::{Path, PathBuf};
use xxhash_rust::xxh3::Xxh3;

/// The database assigns sequence numbers one by one and stops at 2^63. A number of half that or more is a flipped bit;
/// continuing from it would end the log's writer.
const SEQUENCE_END: u64 = 1 << 62;
const TAG_START: u8 = 1;
const TAG_ITEM: u8 = 2;
const TAG_END: u8 = 3;
const TAG_CLEAR: u8 = 4;
const TRAILER: [u8; 4] = *b"FJL\x03";

const START_BYTES: usize = 13;
const ITEM_HEAD_BYTES: usize = 21;
const READ_BUFFER_BYTES: usize = 256 * 1024;

/// Most copies of one journal that are set aside.
const MAX_COPIES: u32 = 100;

/// What the journals of a database hold.
#[derive(Debug, Default)]
pub(crate) struct Inspection {
    /// The newest ledger before the first broken batch.
    pub(crate) ledger: Option<Ledger>,
    /// The newest ledger in intact batches after the broken one.
    pub(crate) behind: Option<Ledger>,
    /// The tail of the newest journal, if it is broken.
    pub(crate) torn: Option<Torn>,
}

/// A journal whose tail cannot be read.
#[derive(Debug)]
pub(crate) struct Torn {
    pub(crate) path: PathBuf,
    /// Everything before this byte is intact.
    pub(crate) position: u64,
    pub(crate) reason: &'static str,
}

/// Damage that a crash cannot have caused.
#[derive(Debug)]
pub(crate) struct Damage {
    pub(crate) path: PathBuf,
    /// Everything of this journal before this byte is intact.
    pub(crate) position: u64,
    pub(crate) reason: String,
    pub(crate) place: Place,
}

/// Position of a damaged journal among the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// No journal follows it: it can be cut.
    Newest,
    /// Later journals build on it, or the journal before it is missing.
    Between,
}

/// Reads all journals of a database, oldest first.
pub(crate) fn inspect(database: &Path) -> Result<Result<Inspection, Damage>, DiskError> {
    let mut found = Inspection::default();
    let mut sequence = None;
    let journals = journals(database)?;
    let mut previous: Option<u64> = None;
    let newest = journals.last().map(|(id, _)| *id);
    for (id, path) in journals {
        let place = if Some(id) == newest {
            Place::Newest
        } else {
            Place::Between
        };
        if previous.is_some_and(|previous| previous + 1 != id) {
            return Ok(Err(Damage {
                path,
                position: 0,
                reason: "the journal before it is missing".to_owned(),
                place: Place::Between,
            }));
        }
        previous = Some(id);
        let journal = scan(&path, &mut sequence, &mut found.ledger)?;
        let position = journal.intact_bytes;
        let damage = |path, reason| Damage {
            path,
            position,
            reason,
            place,
        };
        let reason = match journal.end {
            End::Clean => continue,
            End::Gap(reason) => return Ok(Err(damage(path, reason))),
            End::Broken(reason) => reason,
        };
        match place {
            Place::Newest => {}
            Place::Between => return Ok(Err(damage(path, reason.to_owned()))),
        }
        found.behind = ledger_behind(&path, position)?;
        found.torn = Some(Torn {
            path,
            position,
            reason,
        });
    }
    Ok(Ok(found))
}

/// Cuts a journal at a byte, so that the database itself finds the end of the intact part.
pub(crate) fn cut(journal: &Path, position: u64) -> Result<(), DiskError> {
    let cut = || {
        let file = File::options().write(true).open(journal)?;
        file.set_len(position)?;
        file.sync_all()
    };
    cut().map_err(DiskError::io("cut the broken tail off", journal))
}

/// Copies a damaged journal into the data directory, durably, before it is cut. Nothing deletes the copy.
pub(crate) fn set_aside(journal: &Path, dir: &Path) -> Result<PathBuf, DiskError> {
    let name = journal.file_stem().unwrap_or_default().display();
    let free = (1..=MAX_COPIES)
        .map(|number| dir.join(format!("damaged-{name}-{number}.jnl")))
        .find(|copy| !copy.exists());
    let copy = free.ok_or_else(|| {
        DiskError::io("set a damaged journal aside: remove older copies in", dir)(
            ErrorKind::AlreadyExists.into(),
        )
    })?;
    std::fs::copy(journal, &copy)
        .and_then(|_| File::open(&copy)?.sync_all())
        .map_err(DiskError::io("copy the damaged journal to", &copy))?;
    super::format::sync_dir(dir)?;
    Ok(copy)
}

/// A copy of a journal whose tail is cut off, kept until it is known that nothing is lost with it.
#[derive(Debug)]
pub(crate) struct Aside {
    copy: PathBuf,
    journal: PathBuf,
}

impl Aside {
    pub(crate) fn keep(torn: &Torn, copy: &Path) -> Result<Self, DiskError> {
        std::fs::copy(&torn.path, copy).map_err(DiskError::io("copy the torn journal to", copy))?;
        Ok(Self {
            copy: copy.to_owned(),
            journal: torn.path.clone(),
        })
    }

    /// Restores the journal as it was found.
    pub(crate) fn restore(self) -> Result<(), DiskError> {
        std::fs::rename(&self.copy, &self.journal).map_err(DiskError::io("restore", &self.journal))
    }

    pub(crate) fn remove(self) -> Result<(), DiskError> {
        std::fs::remove_file(&self.copy).map_err(DiskError::io("remove", &self.copy))
    }
}

fn journals(database: &Path) -> Result<Vec<(u64, PathBuf)>, DiskError> {
    let list = || {
        let mut journals = Vec::new();
        for entry in std::fs::read_dir(database)? {
            let path = entry?.path();
            let id = path
                .file_name()
                .and_then(|name| name.to_str()?.strip_suffix(".jnl")?.parse().ok());
            journals.extend(id.map(|id| (id, path)));
        }
        journals.sort_unstable();
        Ok(journals)
    };
    list().map_err(DiskError::io("list", database))
}

/// The size of a journal's intact part, and what ends it.
#[derive(Debug)]
struct Scan {
    intact_bytes: u64,
    end: End,
}

#[derive(Debug)]
enum End {
    /// Only zeros follow.
    Clean,
    /// What follows is not an intact batch.
    Broken(&'static str),
    /// The next batch is intact, but its number does not grow, or a commit before it is missing.
    Gap(String),
}

/// Reads one journal. `sequence` and `newest` are the newest ones before it; they advance with its batches.
fn scan(
    path: &Path,
    sequence: &mut Option<u64>,
    newest: &mut Option<Ledger>,
) -> Result<Scan, DiskError> {
    let file = File::open(path).map_err(DiskError::io("open", path))?;
    let mut source = Source::new(BufReader::with_capacity(READ_BUFFER_BYTES, file));
    let mut intact_bytes = 0;
    loop {
        let end = match source.batch() {
            Ok(Some(batch)) => follow(batch, sequence, newest).err().map(End::Gap),
            Ok(None) => Some(End::Clean),
            Err(Stop::Broken(reason)) => Some(End::Broken(reason)),
            Err(Stop::Io(error)) => return Err(DiskError::io("read", path)(error)),
        };
        if let Some(end) = end {
            return Ok(Scan { intact_bytes, end });
        }
        intact_bytes = source.position;
    }
}

/// Accepts the next intact batch, if it follows the previous one.
fn follow(
    batch: Batch,
    sequence: &mut Option<u64>,
    newest: &mut Option<Ledger>,
) -> Result<(), String> {
    let Batch {
        sequence: next,
        ledger,
    } = batch;
    if let Some(before) = *sequence
        && next <= before
    {
        return Err(format!("batch {next} follows batch {before}"));
    }
    *sequence = Some(next);
    if let Some(ledger) = ledger {
        if let Some(before) = newest
            && before.commit + 1 != ledger.commit
        {
            return Err(format!(
                "commit {} follows commit {}",
                ledger.commit, before.commit
            ));
        }
        *newest = Some(ledger);
    }
    Ok(())
}

/// The newest ledger in any intact batch after a broken position.
fn ledger_behind(path: &Path, position: u64) -> Result<Option<Ledger>, DiskError> {
    let read = || {
        let mut file = File::open(path)?;
        std::io::Seek::seek(&mut file, std::io::SeekFrom::Start(position))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    let bytes = read().map_err(DiskError::io("read", path))?;
    let mut newest: Option<Ledger> = None;
    let mut at = 1;
    while let Some(rest) = bytes.get(at..) {
        let Some(skipped) = rest.iter().position(|byte| *byte == TAG_START) else {
            break;
        };
        at += skipped;
        let candidate = bytes.get(at..).unwrap_or_default();
        // Cheap check first: an item or a clear follows the start marker.
        if !matches!(candidate.get(START_BYTES), Some(&(TAG_ITEM | TAG_CLEAR))) {
            at += 1;
            continue;
        }
        let mut reader = Source::new(candidate);
        match reader.batch() {
            Ok(Some(batch)) => {
                if let Some(ledger) = batch.ledger
                    && newest
                        .as_ref()
                        .is_none_or(|newest| newest.commit < ledger.commit)
                {
                    newest = Some(ledger);
                }
                at += usize::try_from(reader.position).unwrap_or(usize::MAX);
            }
            Ok(None) | Err(_) => at += 1,
        }
    }
    Ok(newest)
}

/// An intact batch.
#[derive(Debug)]
struct Batch {
    sequence: u64,
    ledger: Option<Ledger>,
}

enum Stop {
    Broken(&'static str),
    Io(std::io::Error),
}

const CUT_SHORT: &str = "a batch is cut short";

struct Source<R> {
    reader: R,
    position: u64,
    buffer: Vec<u8>,
}

impl<R: Read> Source<R> {
    fn new(reader: R) -> Self {
        Self {
            reader,
            position: 0,
            buffer: Vec::new(),
        }
    }

    /// The next batch; `None` if only zeros or nothing follows.
    fn batch(&mut self) -> Result<Option<Batch>, Stop> {
        let Some(tag) = self.tag_or_end()? else {
            return Ok(None);
        };
        match tag {
            TAG_START => {}
            0 => return self.only_zeros().map(|()| None),
            _ => return Err(Stop::Broken("a batch does not begin with its marker")),
        }
        let items = u32::from_le_bytes(self.array()?);
        let sequence = u64::from_le_bytes(self.array()?);
        if sequence >= SEQUENCE_END {
            return Err(Stop::Broken(
                "the sequence number of a batch is beyond any that a database gives",
            ));
        }
        let mut hasher = Xxh3::new();
        let mut ledger = None;
        for _ in 0..items {
            match self.byte()? {
                TAG_ITEM => {
                    if let Some(found) = self.item(&mut hasher)? {
                        ledger = Some(found);
                    }
                }
                TAG_CLEAR => {
                    let keyspace: [u8; 8] = self.array()?;
                    hasher.update(&[TAG_CLEAR]);
                    hasher.update(&keyspace);
                }
                _ => {
                    return Err(Stop::Broken(
                        "an item of a batch does not begin with its marker",
                    ));
                }
            }
        }
        if self.byte()? != TAG_END {
            return Err(Stop::Broken("a batch does not end with its marker"));
        }
        let expected = u64::from_le_bytes(self.array()?);
        if self.array()? != TRAILER {
            return Err(Stop::Broken("a batch does not end with its trailer"));
        }
        if hasher.digest() != expected {
            return Err(Stop::Broken("the checksum of a batch does not match"));
        }
        Ok(Some(Batch { sequence, ledger }))
    }

    /// One item after its tag.
    fn item(&mut self, hasher: &mut Xxh3) -> Result<Option<Ledger>, Stop> {
        let head: [u8; ITEM_HEAD_BYTES - 1] = self.array()?;
        let [
            _type,
            _compression,
            _,
            _,
            _,
            _,
            _,
            _,
            _,
            _,
            k0,
            k1,
            v0,
            v1,
            v2,
            v3,
            d0,
            d1,
            d2,
            d3,
        ] = head;
        let key_bytes = usize::from(u16::from_le_bytes([k0, k1]));
        let value_bytes = u32::from_le_bytes([v0, v1, v2, v3]);
        let stored_bytes = u32::from_le_bytes([d0, d1, d2, d3]);
        hasher.update(&[TAG_ITEM]);
        hasher.update(&head);
        let body_bytes = u64::try_from(key_bytes).unwrap_or(u64::MAX) + u64::from(stored_bytes);
        self.buffer.clear();
        let read = (&mut self.reader)
            .take(body_bytes)
            .read_to_end(&mut self.buffer)
            .map_err(Stop::Io)?;
        self.position += u64::try_from(read).unwrap_or(u64::MAX);
        if u64::try_from(read).ok() != Some(body_bytes) {
            return Err(Stop::Broken(CUT_SHORT));
        }
        hasher.update(&self.buffer);
        match self.buffer.split_at_checked(key_bytes) {
            Some((key, value)) if key == LEDGER_KEY && value_bytes == stored_bytes => {
                Ok(Ledger::decode(value.to_vec().into()).ok())
            }
            _ => Ok(None),
        }
    }

    fn tag_or_end(&mut self) -> Result<Option<u8>, Stop> {
        match self.byte() {
            Ok(tag) => Ok(Some(tag)),
            Err(Stop::Broken(_)) => Ok(None),
            Err(stop) => Err(stop),
        }
    }

    fn byte(&mut self) -> Result<u8, Stop> {
        self.array().map(|[byte]| byte)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Stop> {
        let mut bytes = [0; N];
        match self.reader.read_exact(&mut bytes) {
            Ok(()) => {
                self.position += u64::try_from(N).unwrap_or(u64::MAX);
                Ok(bytes)
            }
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => Err(Stop::Broken(CUT_SHORT)),
            Err(error) => Err(Stop::Io(error)),
        }
    }

    fn only_zeros(&mut self) -> Result<(), Stop> {
        let mut chunk = vec![0; READ_BUFFER_BYTES];
        loop {
            let read = self.reader.read(&mut chunk).map_err(Stop::Io)?;
            let Some(read) = chunk.get(..read).filter(|read| !read.is_empty()) else {
                return Ok(());
            };
            if read.iter().any(|byte| *byte != 0) {
                return Err(Stop::Broken("something follows the zeros at the end"));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::{DataDir, DataDirSpec};
    use workspace_lifecycle::{Offset, PartitionId};

    const COMMITS: u64 = 6;

    /// A closed database of a few commits, each after a plain write, and its only journal.
    fn database() -> (tempfile::TempDir, PathBuf, Vec<u8>) {
        let path = tempfile::tempdir().expect("a directory");
        for _ in 0..2 {
            // The second time the journal ends where its content does.
            let dir = DataDir::open(path.path(), &DataDirSpec::default()).expect("opened");
            let keyspace = dir.keyspace("test", Default::default).expect("created");
            for number in 1..=COMMITS / 2 {
                let batch = || {
                    let mut batch = dir.database().batch();
                    batch.insert(&keyspace, number.to_be_bytes(), vec![7; 30]);
                    batch
                };
                dir.write(batch(), 0).expect("written");
                let end = dir.acknowledged_end(PartitionId(1)).next();
                dir.commit(batch(), 0, &[(PartitionId(1), end)])
                    .expect("committed");
            }
        }
        drop(DataDir::open(path.path(), &DataDirSpec::default()).expect("opened"));
        let database = path.path().join("db");
        let [(_, journal)] = journals(&database)
            .expect("listed")
            .try_into()
            .expect("one journal");
        let bytes = std::fs::read(&journal).expect("readable");
        (path, journal, bytes)
    }

    fn inspect_all(journal: &Path) -> Result<Inspection, Damage> {
        inspect(journal.parent().expect("a database")).expect("readable")
    }

    #[test]
    fn an_intact_journal_gives_its_newest_ledger() {
        let (_path, journal, _) = database();
        let found = inspect_all(&journal).expect("intact");
        assert!(found.torn.is_none());
        let ledger = found.ledger.expect("there");
        assert_eq!(ledger.commit, COMMITS);
        assert_eq!(ledger.high_watermark(PartitionId(1)), Offset(COMMITS));
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        let (_path, journal, bytes) = database();
        let mut source = Source::new(bytes.as_slice());
        let mut numbers = std::collections::HashSet::new();
        let mut highest = std::collections::HashSet::new();
        loop {
            let start = usize::try_from(source.position).expect("small");
            numbers.extend(start + 5..start + 13);
            highest.extend([(start + 12) * 8 + 6, (start + 12) * 8 + 7]);
            let Ok(Some(_)) = source.batch() else { break };
        }
        for bit in 0..bytes.len() * 8 {
            let mut damaged = bytes.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            std::fs::remove_file(&journal).expect("removed");
            std::fs::write(&journal, &damaged).expect("written");
            match inspect_all(&journal) {
                Err(_) => {}
                // A changed sequence number that is still in order changes nothing.
                Ok(Inspection {
                    torn: None,
                    ledger: Some(ledger),
                    ..
                }) => {
                    assert_eq!(ledger.commit, COMMITS);
                    assert!(numbers.contains(&(bit / 8)), "bit {bit}");
                    assert!(
                        !highest.contains(&bit),
                        "bit {bit}: the next batch finds no number"
                    );
                }
                Ok(found) => {
                    let behind = found.behind.map_or(0, |ledger| ledger.commit);
                    let before = found.ledger.map_or(0, |ledger| ledger.commit);
                    assert!(found.torn.is_some() && before < COMMITS, "bit {bit}");
                    assert!(
                        behind == COMMITS || before >= COMMITS - 1,
                        "bit {bit}: {before} {behind}"
                    );
                }
            }
        }
    }

    #[test]
    fn zeros_behind_the_last_batch_are_its_clean_end() {
        let (_path, journal, bytes) = database();
        for zeros in [0, 1, 4096, 1 << 20] {
            std::fs::write(&journal, [bytes.as_slice(), &vec![0; zeros]].concat())
                .expect("written");
            assert!(
                inspect_all(&journal).expect("intact").torn.is_none(),
                "{zeros}"
            );
        }
    }

    #[test]
    fn an_older_journal_that_is_cut_short_or_missing_is_damage() {
        let (_path, journal, bytes) = database();
        let next = journal.with_file_name("1.jnl");
        std::fs::write(&next, vec![0; 100]).expect("written");
        assert!(inspect_all(&journal).is_ok());
        std::fs::write(&journal, &bytes[..bytes.len() - 10]).expect("written");
        let damage = inspect_all(&journal).expect_err("the older journal was synced as a whole");
        assert_eq!(
            (damage.path, damage.reason.as_str(), damage.place),
            (journal.clone(), CUT_SHORT, Place::Between)
        );
        std::fs::write(&journal, &bytes).expect("written");
        std::fs::rename(&next, journal.with_file_name("2.jnl")).expect("renamed");
        let damage = inspect_all(&journal).expect_err("journal 1 is missing");
        assert!(damage.reason.contains("missing"), "{}", damage.reason);
    }
}
