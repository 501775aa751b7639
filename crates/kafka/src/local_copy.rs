//! The copy of the changelog on this disk. A damaged copy is set aside under another name, and another one is created,
//! which is rebuilt from the changelog.
//!
//! While an engine runs, the database threads of a damaged copy may still write to its files by name. So the next copy
//! never replaces the previous one: it is created beside it, with the next number.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::{Mutex, RwLock};
use workspace_engine_core::disk::DiskError;
use workspace_engine_core::store::{LsmStore, StoreError};

use crate::clock::now_ms;
use crate::copy_source::topic_of;

/// Most damaged locations that are rebuilt in the lifetime of a process: a disk with more damage will not recover.
const MAX_DAMAGED_LOCATIONS: usize = 1_000;

type Open = dyn Fn(&Path) -> Result<LsmStore, DiskError> + Send + Sync;

/// A copy on a disk, and how another one is created.
pub struct LocalCopy {
    /// Path of the first copy; the names of further ones end with their number.
    path: PathBuf,
    open: Box<Open>,
    store: RwLock<Arc<LsmStore>>,
    damage: Mutex<Damage>,
}

/// Damage found while the engine runs.
#[derive(Default)]
struct Damage {
    /// The first error of the copy in use, which must be rebuilt.
    found: Option<String>,
    /// Every damaged location, so that none is rebuilt twice: damage found again is in the changelog itself.
    locations: HashSet<String>,
}

impl std::fmt::Debug for LocalCopy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LocalCopy")
            .field("store", &self.store)
            .finish_non_exhaustive()
    }
}

impl LocalCopy {
    /// Opens the copy at a path, or creates one. A damaged copy is set aside. `open` opens the database in a directory.
    ///
    /// # Errors
    /// [`DiskError`] if the directory cannot be used for another reason, such as another engine that has it open.
    pub fn open(
        path: impl Into<PathBuf>,
        open: impl Fn(&Path) -> Result<LsmStore, DiskError> + Send + Sync + 'static,
    ) -> Result<Self, DiskError> {
        let path = path.into();
        let mut copies = numbered(&path)?;
        let newest = copies.pop().map_or_else(|| path.clone(), |(_, copy)| copy);
        for (_, left) in copies {
            // It was damaged when the next one was created, and the engine ended before it was renamed.
            let aside = set_aside(&left)?;
            tracing::warn!(directory = %left.display(), set_aside = %aside.display(), "an earlier copy of the changelog is set aside");
        }
        let store = match open(&newest) {
            Err(damage) if can_be_rebuilt(&damage) => {
                let aside = set_aside(&newest)?;
                tracing::error!(
                    error = %damage,
                    directory = %newest.display(),
                    set_aside = %aside.display(),
                    "the copy of the changelog cannot be used: it is set aside and rebuilt; remove it when it is not needed"
                );
                open(&newest)?
            }
            other => other?,
        };
        Ok(Self {
            path,
            open: Box::new(open),
            store: RwLock::new(Arc::new(store)),
            damage: Mutex::default(),
        })
    }

    /// The copy in use.
    pub fn store(&self) -> Arc<LsmStore> {
        Arc::clone(&self.store.read())
    }

    /// Maps an error of a copy for its caller. New damage of the copy in use is recorded for [`LocalCopy::replace`] and
    /// becomes a temporary error; damage found again, or beyond the limit, is returned as it is.
    pub(crate) fn note_damage(&self, of: &Arc<LsmStore>, error: StoreError) -> StoreError {
        let StoreError::Corrupt {
            place: location, ..
        } = &error
        else {
            return error;
        };
        if !error.is_damage_of_a_copy() {
            return error;
        }
        let mut damage = self.damage.lock();
        let is_current = Arc::ptr_eq(of, &self.store.read());
        if is_current {
            let is_bounded = damage.locations.len() < MAX_DAMAGED_LOCATIONS;
            if !is_bounded || !damage.locations.insert(location.clone()) {
                return error;
            }
            damage.found.get_or_insert_with(|| error.to_string());
        }
        StoreError::Unavailable(format!(
            "the copy of the changelog on this disk is damaged and is rebuilt: {error}"
        ))
    }

    /// Whether damage was found in the copy in use.
    pub(crate) fn is_damaged(&self) -> bool {
        self.damage.lock().found.is_some()
    }

    /// Creates another copy if the one in use was found damaged. Returns true if an empty one has replaced it.
    ///
    /// # Errors
    /// [`DiskError`]; the damaged one is still in use.
    pub(crate) fn replace(&self) -> Result<bool, DiskError> {
        let Some(reason) = self.damage.lock().found.clone() else {
            return Ok(false);
        };
        self.replace_by_another(&format!("it is damaged: {reason}"))?;
        Ok(true)
    }

    /// Sets the copy aside if it holds anything of another changelog, such as another group's: a workspace may be in
    /// another partition there.
    ///
    /// # Errors
    /// [`DiskError`]; the copy is still in use.
    pub(crate) fn set_aside_unless_of(&self, changelog: &str) -> Result<(), DiskError> {
        // The damage of a copy that cannot be read is found again later, and the copy is rebuilt then.
        let sources = self.store().copy_sources().unwrap_or_default();
        let other = sources
            .iter()
            .filter_map(|source| topic_of(source))
            .find(|topic| *topic != changelog);
        other.map_or(Ok(()), |other| {
            self.replace_by_another(&format!(
                "it is of topic {other}, and this engine uses {changelog}"
            ))
        })
    }

    fn replace_by_another(&self, reason: &str) -> Result<(), DiskError> {
        let previous = self.store();
        let directory = previous.directory().to_owned();
        let last = numbered(&self.path)?
            .last()
            .map_or(1, |(number, _)| *number);
        let next = with_number(&self.path, last.saturating_add(1));
        let store = (self.open)(&next)?;
        {
            let mut damage = self.damage.lock();
            *self.store.write() = Arc::new(store);
            damage.found = None;
        }
        drop(previous);
        match set_aside(&directory) {
            Ok(aside) => tracing::error!(
                reason,
                directory = %next.display(),
                set_aside = %aside.display(),
                "the copy of the changelog cannot be used: it is set aside and rebuilt; remove it when it is not needed"
            ),
            Err(error) => tracing::error!(
                reason,
                %error,
                directory = %next.display(),
                previous = %directory.display(),
                "the copy of the changelog cannot be used: it is rebuilt; the previous one keeps its name until the next start"
            ),
        }
        Ok(())
    }
}

fn can_be_rebuilt(error: &DiskError) -> bool {
    match error {
        DiskError::Version { .. }
        | DiskError::Partitions { .. }
        | DiskError::NotADataDirectory { .. }
        | DiskError::Damaged { .. }
        | DiskError::NoMarker { .. }
        | DiskError::DamagedBetween { .. }
        | DiskError::DamagedList { .. }
        | DiskError::Lost { .. }
        | DiskError::Witness { .. }
        | DiskError::DamagedDatabase { .. } => true,
        // No sign of damage: another engine has it open, or the disk or a setting is wrong.
        DiskError::Locked { .. }
        | DiskError::PartitionCount { .. }
        | DiskError::Io { .. }
        | DiskError::Database { .. } => false,
    }
}

/// The copies at a path and beside it, by their numbers; the one at the path has number 1.
fn numbered(path: &Path) -> Result<Vec<(u32, PathBuf)>, DiskError> {
    let Some(parent) = path.parent() else {
        return Ok(Vec::new());
    };
    let name = file_name(path);
    let entries = match std::fs::read_dir(parent) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(io("read", parent, error)),
    };
    let mut copies = Vec::new();
    for entry in entries {
        let entry = entry.map_err(|error| io("read", parent, error))?;
        let found = entry.file_name().to_string_lossy().into_owned();
        let number = match found.strip_prefix(&name) {
            Some("") => Some(1),
            Some(rest) => rest
                .strip_prefix('-')
                .and_then(|number| number.parse().ok())
                .filter(|number| *number > 1),
            None => None,
        };
        copies.extend(number.map(|number| (number, entry.path())));
    }
    copies.sort_unstable();
    Ok(copies)
}

fn with_number(path: &Path, number: u32) -> PathBuf {
    if number <= 1 {
        return path.to_owned();
    }
    path.with_file_name(format!("{}-{number}", file_name(path)))
}

/// Renames a directory to another name beside it.
fn set_aside(path: &Path) -> Result<PathBuf, DiskError> {
    let name = file_name(path);
    let aside = path.with_file_name(format!("{name}-set-aside-{}", now_ms()));
    std::fs::rename(path, &aside).map_err(|error| io("rename", path, error))?;
    Ok(aside)
}

fn file_name(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default();
    name.to_string_lossy().into_owned()
}

fn io(doing: &'static str, path: &Path, source: std::io::Error) -> DiskError {
    DiskError::Io {
        doing,
        path: path.to_owned(),
        source,
    }
}
