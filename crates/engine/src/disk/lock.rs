//! One engine for each directory: the lock file, with the id of the process that holds it.

use super::DiskError;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Seek, Write};
use std::path::Path;
use std::time::Duration;

/// A process that is ending, or was just forked, holds the lock a moment longer.
const ATTEMPTS: u32 = 6;
const PAUSE: Duration = Duration::from_millis(50);

/// Holds the directory until it is dropped; the operating system releases it when the process dies.
#[derive(Debug)]
pub(crate) struct DirLock {
    _file: File,
}

impl DirLock {
    pub(crate) fn acquire(dir: &Path) -> Result<Self, DiskError> {
        let path = dir.join("lock");
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(DiskError::io("open", &path))?;
        let mut attempt = 1;
        loop {
            match file.try_lock() {
                Ok(()) => break,
                Err(TryLockError::WouldBlock) if attempt < ATTEMPTS => {
                    attempt += 1;
                    std::thread::sleep(PAUSE);
                }
                Err(TryLockError::WouldBlock) => {
                    let mut text = String::new();
                    let read = file.read_to_string(&mut text).ok();
                    let pid = read.and_then(|_| text.trim().parse().ok());
                    return Err(DiskError::Locked {
                        path: dir.to_owned(),
                        pid,
                    });
                }
                Err(TryLockError::Error(source)) => {
                    return Err(DiskError::io("lock", &path)(source));
                }
            }
        }
        // The process id is only for the operator; a full disk must not keep an engine from starting.
        let written = file
            .set_len(0)
            .and_then(|()| file.rewind())
            .and_then(|()| file.write_all(std::process::id().to_string().as_bytes()));
        if let Err(error) = written {
            tracing::warn!(%error, path = %path.display(), "the process number could not be written into the lock file");
        }
        Ok(Self { _file: file })
    }
}
