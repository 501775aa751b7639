//! The format file: which version wrote the directory, and with how many partitions.

use super::{DataDirSpec, DiskError};
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::{ErrorKind, Write};
use std::path::Path;

/// Format version of the whole data directory. A directory of any other version is refused.
pub const FORMAT_VERSION: u64 = 4;

const FILE: &str = "format.json";
const NAME: &str = "workspace-engine data directory";

#[derive(Debug, Serialize, Deserialize)]
struct FormatFile {
    format: String,
    version: u64,
    #[serde(default)]
    partitions: u32,
}

/// Compares the format file with the engine and its configuration. Returns whether there is one.
pub(crate) fn check(dir: &Path, spec: &DataDirSpec) -> Result<bool, DiskError> {
    let path = dir.join(FILE);
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(DiskError::io("read", &path)(error)),
    };
    let not_ours = |reason: String| DiskError::NotADataDirectory {
        path: dir.to_owned(),
        reason,
    };
    let file: FormatFile = serde_json::from_str(&text)
        .map_err(|error| not_ours(format!("{FILE} cannot be read ({error})")))?;
    if file.format != NAME {
        return Err(not_ours(format!(
            "{FILE} describes a \"{}\"",
            file.format.escape_debug()
        )));
    }
    if file.version != FORMAT_VERSION {
        return Err(DiskError::Version {
            path: dir.to_owned(),
            found: file.version,
            expected: FORMAT_VERSION,
        });
    }
    if file.partitions != spec.partitions {
        return Err(DiskError::Partitions {
            path: dir.to_owned(),
            found: file.partitions,
            requested: spec.partitions,
        });
    }
    Ok(true)
}

/// Writes the format file, durably and atomically.
pub(crate) fn write(dir: &Path, spec: &DataDirSpec) -> Result<(), DiskError> {
    let file = FormatFile {
        format: NAME.to_owned(),
        version: FORMAT_VERSION,
        partitions: spec.partitions,
    };
    let path = dir.join(FILE);
    let mut text = serde_json::to_string_pretty(&file)
        .map_err(|error| DiskError::io("write", &path)(error.into()))?;
    text.push('\n');
    let draft = dir.join("format.json.new");
    let written = File::create(&draft).and_then(|mut file| {
        file.write_all(text.as_bytes())?;
        file.sync_all()
    });
    written
        .and_then(|()| std::fs::rename(&draft, &path))
        .map_err(DiskError::io("write", &path))?;
    sync_dir(dir)
}

/// Syncs a directory, which makes the names in it durable.
pub(crate) fn sync_dir(dir: &Path) -> Result<(), DiskError> {
    if cfg!(unix) {
        File::open(dir)
            .and_then(|dir| dir.sync_all())
            .map_err(DiskError::io("sync", dir))?;
    }
    Ok(())
}
