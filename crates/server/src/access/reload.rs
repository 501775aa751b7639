//! Files that are reloaded when they change, such as the tokens and the certificate.
//!
//! Changes are detected by content, not by file times: a copy may keep those. A change is used once two consecutive
//! reads return the same content, so that a partly written file is not used. Content that cannot be used changes
//! nothing, and is logged and counted once.

use arc_swap::{ArcSwap, Guard};
use ring::digest::{self, Digest};
use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tracing::{error, info};

/// Interval between two reads of the files.
pub(crate) const INTERVAL: Duration = Duration::from_millis(500);

/// Largest file that is read: about ten thousand tokens.
const MAX_FILE_BYTES: u64 = 4 << 20;

/// The content of some files, as of the last time that it could be used.
pub(crate) struct Reloaded<T, E> {
    /// Name of the files in the log.
    what: &'static str,
    paths: Vec<PathBuf>,
    read: fn(&[Vec<u8>]) -> Result<T, E>,
    current: ArcSwap<T>,
    failures: AtomicU64,
}

/// The last seen content of the files.
pub(crate) struct Seen {
    /// As of the last read.
    last: Fingerprint,
    /// As of the last change that was used or rejected.
    decided: Fingerprint,
}

/// Identifies a content of the files.
#[derive(Clone, PartialEq, Eq)]
struct Fingerprint(Vec<Result<Vec<u8>, io::ErrorKind>>);

/// Why files cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReloadError<E: std::error::Error + 'static> {
    #[error("cannot read {path}", path = path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("{files}: {source}")]
    Content { files: String, source: E },
}

impl<T, E: std::error::Error + 'static> Reloaded<T, E> {
    /// Reads the files for the first time.
    ///
    /// # Errors
    /// [`ReloadError`] names the file.
    pub(crate) fn open(
        what: &'static str,
        paths: Vec<PathBuf>,
        read: fn(&[Vec<u8>]) -> Result<T, E>,
    ) -> Result<(Self, Seen), ReloadError<E>> {
        let contents = contents(&paths);
        let seen = fingerprint(&contents);
        let current = use_contents(&paths, contents, read)?;
        let reloaded = Self {
            what,
            paths,
            read,
            current: ArcSwap::from_pointee(current),
            failures: AtomicU64::new(0),
        };
        let seen = Seen {
            last: seen.clone(),
            decided: seen,
        };
        Ok((reloaded, seen))
    }

    /// What the files hold.
    pub(crate) fn current(&self) -> Guard<Arc<T>> {
        self.current.load()
    }

    /// Number of changes that could not be used.
    pub(crate) fn failures(&self) -> u64 {
        self.failures.load(Ordering::Relaxed)
    }

    /// Reads the files and uses a change. Blocks for as long as reading them takes.
    pub(crate) fn look(&self, seen: &mut Seen) {
        let contents = contents(&self.paths);
        let now = fingerprint(&contents);
        let is_settled = now == seen.last;
        seen.last = now;
        if !is_settled || seen.last == seen.decided {
            return;
        }
        seen.decided = seen.last.clone();
        match use_contents(&self.paths, contents, self.read) {
            Ok(current) => {
                self.current.store(Arc::new(current));
                info!("{} changed and is used from now on", self.what);
            }
            Err(failure) => {
                self.failures.fetch_add(1, Ordering::Relaxed);
                error!(
                    error = crate::with_sources(&failure),
                    "{} changed and cannot be used; the previous one stays in use", self.what
                );
            }
        }
    }
}

type Contents = Vec<io::Result<Vec<u8>>>;

fn contents(paths: &[PathBuf]) -> Contents {
    paths.iter().map(|path| read_bounded(path)).collect()
}

fn read_bounded(path: &Path) -> io::Result<Vec<u8>> {
    let length = fs::metadata(path)?.len();
    if length > MAX_FILE_BYTES {
        return Err(io::Error::new(
            io::ErrorKind::FileTooLarge,
            format!("the file has {length} bytes; {MAX_FILE_BYTES} are the most"),
        ));
    }
    fs::read(path)
}

fn use_contents<T, E: std::error::Error + 'static>(
    paths: &[PathBuf],
    contents: Contents,
    read: fn(&[Vec<u8>]) -> Result<T, E>,
) -> Result<T, ReloadError<E>> {
    let mut whole = Vec::with_capacity(contents.len());
    for (path, content) in paths.iter().zip(contents) {
        whole.push(content.map_err(|source| ReloadError::Read {
            path: path.clone(),
            source,
        })?);
    }
    read(&whole).map_err(|source| ReloadError::Content {
        files: names(paths),
        source,
    })
}

/// The paths, for error messages.
fn names(paths: &[PathBuf]) -> String {
    let names = paths.iter().map(|path| path.display().to_string());
    names.collect::<Vec<_>>().join(", ")
}

fn fingerprint(contents: &Contents) -> Fingerprint {
    let digest = |content: &Vec<u8>| -> Digest { digest::digest(&digest::SHA256, content) };
    let fingerprints = contents.iter().map(|content| match content {
        Ok(content) => Ok(digest(content).as_ref().to_vec()),
        Err(error) => Err(error.kind()),
    });
    Fingerprint(fingerprints.collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::num::ParseIntError;

    fn number(contents: &[Vec<u8>]) -> Result<u32, ParseIntError> {
        String::from_utf8_lossy(&contents[0]).trim().parse()
    }

    #[test]
    fn a_change_is_taken_when_it_was_seen_twice_and_a_bad_one_never() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("number");
        fs::write(&path, "1").unwrap();
        let (reloaded, mut seen) =
            Reloaded::open("the number", vec![path.clone()], number).unwrap();
        for (written, after_one_look, after_two, failures) in [
            (Some("2"), 1, 2, 0),
            (Some("two"), 2, 2, 1),
            (Some("3"), 2, 3, 1),
            (None, 3, 3, 2),
            (Some("3"), 3, 3, 2),
            (Some("4"), 3, 4, 2),
        ] {
            match written {
                Some(text) => fs::write(&path, text).unwrap(),
                None => fs::remove_file(&path).unwrap(),
            }
            reloaded.look(&mut seen);
            assert_eq!(**reloaded.current(), after_one_look, "{written:?}");
            for _ in 0..3 {
                reloaded.look(&mut seen);
            }
            assert_eq!(**reloaded.current(), after_two, "{written:?}");
            assert_eq!(reloaded.failures(), failures, "{written:?}");
        }
    }

    #[test]
    fn a_file_that_cannot_be_used_at_the_start_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("number");
        let open = || Reloaded::open("the number", vec![path.clone()], number).map(|_| ());
        let missing = open().unwrap_err();
        assert_eq!(
            missing.to_string(),
            format!("cannot read {}", path.display())
        );
        fs::write(&path, "x").unwrap();
        let bad = open().unwrap_err();
        assert_eq!(
            bad.to_string(),
            format!("{}: invalid digit found in string", path.display())
        );
    }
}
