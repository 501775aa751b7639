//! Moves files that may hold data out of the way, instead of deleting them.

use super::DiskError;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// Most files of one name that are set aside within a second.
const MAX_SAME_SECOND: u32 = 1000;

/// Renames a file or a directory to `NAME.set-aside-SECONDS` beside it, durably, and returns its new path.
pub(crate) fn set_aside(path: &Path) -> Result<PathBuf, DiskError> {
    let seconds = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |since| since.as_secs());
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".set-aside-{seconds}"));
    let plain = path.with_file_name(&name);
    let numbered = (2..=MAX_SAME_SECOND).map(|number| {
        let mut name = name.clone();
        name.push(format!("-{number}"));
        path.with_file_name(name)
    });
    let free = std::iter::once(plain)
        .chain(numbered)
        .find(|free| !free.exists())
        .ok_or_else(|| {
            DiskError::io("find a free name to set aside", path)(
                std::io::ErrorKind::AlreadyExists.into(),
            )
        })?;
    std::fs::rename(path, &free).map_err(DiskError::io("set aside", path))?;
    if let Some(parent) = path.parent() {
        super::format::sync_dir(parent)?;
    }
    Ok(free)
}

/// Whether a file or directory certainly holds no data: every file in it is empty or all zeros.
pub(crate) fn is_blank(path: &Path) -> std::io::Result<bool> {
    let kind = std::fs::symlink_metadata(path)?.file_type();
    if kind.is_dir() {
        for entry in std::fs::read_dir(path)? {
            if !is_blank(&entry?.path())? {
                return Ok(false);
            }
        }
        return Ok(true);
    }
    // A link may point to data that the engine does not own, so it is never deleted as blank.
    if !kind.is_file() {
        return Ok(false);
    }
    let mut file = std::fs::File::open(path)?;
    let mut chunk = vec![0; 64 * 1024];
    loop {
        let read = file.read(&mut chunk)?;
        match chunk.get(..read) {
            None | Some([]) => return Ok(true),
            Some(bytes) if bytes.iter().any(|byte| *byte != 0) => return Ok(false),
            Some(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_set_aside_twice_in_a_second_is_there_twice() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("db");
        let mut copies = Vec::new();
        for content in ["one", "two", "three"] {
            std::fs::write(&file, content).expect("written");
            copies.push((set_aside(&file).expect("set aside"), content));
            assert!(!file.exists());
        }
        for (copy, content) in copies {
            assert_eq!(std::fs::read_to_string(copy).expect("readable"), content);
        }
    }

    #[test]
    fn only_what_holds_nothing_is_blank() {
        let dir = tempfile::tempdir().expect("a directory");
        let inner = dir.path().join("db/keyspaces");
        std::fs::create_dir_all(&inner).expect("created");
        std::fs::write(inner.join("lock"), "").expect("written");
        std::fs::write(dir.path().join("db/0.jnl"), vec![0; 100_000]).expect("written");
        assert!(is_blank(dir.path()).expect("readable"));
        let mut bytes = vec![0; 100_000];
        bytes[99_999] = 1;
        std::fs::write(inner.join("table"), bytes).expect("written");
        assert!(!is_blank(dir.path()).expect("readable"));
    }
}
