//! Checks and repairs before the database is opened, because the database recovers silently.

use super::journal::{self, Torn};
use super::ledger::Ledger;
use super::witness::{self, Witness};
use super::{DataDirSpec, DiskError, Loss, aside, versions};
use std::path::{Path, PathBuf};

/// The file by which the database recognises its directory.
const MARKER: &str = "version";

/// What the database must hold once it is open.
#[derive(Debug)]
pub(super) struct Expected {
    /// What was acknowledged; `None` if the witness was renamed or removed, which accepts any loss.
    acknowledged: Option<Ledger>,
    /// The journal that was cut before it was known whether something is lost with it, and its copy.
    cut: Option<(Torn, PathBuf)>,
}

impl Expected {
    pub(super) fn is_anything(&self) -> bool {
        self.acknowledged.is_none()
    }

    /// What an open database with this ledger lacks.
    pub(super) fn loss(&self, found: &Ledger) -> Option<Loss> {
        found.loss(self.acknowledged.as_ref()?)
    }

    /// The error for a loss. Restores the journal that was cut; the database must be closed.
    pub(super) fn refuse(self, dir: &Path, lost: Loss) -> DiskError {
        let Some((torn, copy)) = self.cut else {
            return lost_error(dir, lost);
        };
        match std::fs::rename(&copy, &torn.path) {
            Err(error) => DiskError::io("restore the damaged journal from", &copy)(error),
            Ok(()) => damaged_error(dir, torn, &lost),
        }
    }

    /// Removes the copy of a journal of which nothing acknowledged was cut off.
    pub(super) fn settle(self) -> Result<(), DiskError> {
        match (self.acknowledged, self.cut) {
            (Some(_), Some((_, copy))) => {
                std::fs::remove_file(&copy).map_err(DiskError::io("remove", &copy))
            }
            (None, _) | (_, None) => Ok(()),
        }
    }
}

/// Reads the witness and the journals before the database is opened, and cuts the torn tail off the newest journal.
/// Makes room for a database that is yet to be created.
pub(super) fn prepare(
    dir: &Path,
    database: &Path,
    spec: &DataDirSpec,
) -> Result<Expected, DiskError> {
    let witness = witness::read(dir, spec.partitions)?;
    if !database.join(MARKER).exists() {
        let nothing = Ledger::new(spec.partitions);
        if let Some(lost) = witness.and_then(|witness| nothing.loss(&witness)) {
            if holds_something(database)? {
                return Err(DiskError::NoMarker {
                    file: database.join(MARKER),
                    witness: witness::path(dir),
                });
            }
            return Err(lost_error(dir, lost));
        }
        clear_away(database)?;
        Witness::create(dir, &nothing, spec.partitions)?;
        return Ok(Expected {
            acknowledged: Some(nothing),
            cut: None,
        });
    }
    versions::inspect(database)?;
    let Some(torn) = journal::inspect(database)? else {
        return Ok(Expected {
            acknowledged: witness,
            cut: None,
        });
    };
    let acknowledged = witness.map(|witness| Ledger {
        commit: witness.commit.max(torn.acknowledged_commit),
        ..witness
    });
    // The newest ledger of all is in the journals, or in the tables if no journal has one.
    let is_known = match (&torn.ledger, &acknowledged) {
        (Some(found), Some(acknowledged)) => {
            if let Some(lost) = found.loss(acknowledged) {
                return Err(damaged_error(dir, torn, &lost));
            }
            true
        }
        (None, _) | (_, None) => false,
    };
    let cut = if is_known {
        None
    } else {
        Some(journal::set_aside(&torn, dir)?)
    };
    tracing::warn!(
        file = %torn.path.display(),
        position = torn.position,
        reason = torn.reason,
        copy = cut.as_ref().map(|copy| tracing::field::display(copy.display())),
        "the journal is cut where it is broken"
    );
    journal::cut(&torn)?;
    Ok(Expected {
        acknowledged,
        cut: cut.map(|copy| (torn, copy)),
    })
}

fn lost_error(dir: &Path, lost: Loss) -> DiskError {
    DiskError::Lost {
        path: dir.to_owned(),
        lost,
        witness: witness::path(dir),
    }
}

fn damaged_error(dir: &Path, torn: Torn, lost: &Loss) -> DiskError {
    DiskError::Damaged {
        reason: format!("{}, and {lost}", torn.reason),
        file: torn.path,
        position: torn.position,
        witness: witness::path(dir),
    }
}

/// Whether the directory of a database holds any data.
fn holds_something(database: &Path) -> Result<bool, DiskError> {
    match aside::is_blank(database) {
        Ok(is_blank) => Ok(!is_blank),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(DiskError::io("read", database)(error)),
    }
}

/// Makes room for a new database. The remains of an interrupted creation hold nothing and are removed; anything else is
/// set aside.
fn clear_away(database: &Path) -> Result<(), DiskError> {
    if holds_something(database)? {
        let copy = aside::set_aside(database)?;
        tracing::warn!(
            database = %database.display(),
            set_aside = %copy.display(),
            "the database cannot be opened without its version file, and nothing shows that it was acknowledged: \
             it is set aside, and a new one is created"
        );
        return Ok(());
    }
    match std::fs::remove_dir_all(database) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        removed => removed.map_err(DiskError::io("remove", database)),
    }
}
