//! Checks and repairs before the database is opened, because the database recovers silently.

use super::ledger::Ledger;
use super::witness::{self, Witness};
use super::{DataDirSpec, DiskError, Loss, aside, journal, versions};
use std::path::Path;

/// The file by which the database recognises its directory.
const MARKER: &str = "version";

/// What a database must hold before it is used.
#[derive(Debug)]
pub(super) enum Expected {
    /// Nothing: the directory is new, or has no database that can be opened.
    New,
    /// Anything: the witness was renamed or removed.
    Anything,
    /// At least this; otherwise the journal that was set aside is restored.
    AtLeast(Ledger, Option<journal::Aside>),
}

/// Reads the witness and the journals before the database is opened, because opening it cuts broken journals.
pub(super) fn expected(
    path: &Path,
    database: &Path,
    spec: &DataDirSpec,
) -> Result<Expected, DiskError> {
    let witness_path = witness::path(path);
    let witness = witness::read(path, spec.partitions)?;
    if !database.join(MARKER).exists() {
        return match witness {
            Some(witness) if witness.commit > 0 => {
                if holds_something(database)? {
                    return Err(DiskError::NoMarker {
                        file: database.join(MARKER),
                        witness: witness_path,
                    });
                }
                let lost = Ledger::new(spec.partitions).loss(&witness);
                let lost = lost.unwrap_or(Loss {
                    found_commit: 0,
                    acknowledged_commit: 0,
                    partitions: Vec::new(),
                });
                Err(DiskError::Lost {
                    path: path.to_owned(),
                    lost,
                    witness: witness_path,
                })
            }
            _ => Ok(Expected::New),
        };
    }
    versions::inspect(database)?;
    let inspected = match journal::inspect(database)? {
        Err(journal::Damage {
            path: file,
            position,
            reason,
            place: journal::Place::Between,
        }) => {
            return Err(DiskError::DamagedBetween {
                file,
                position,
                reason,
            });
        }
        inspected => inspected,
    };
    let Some(witness) = witness else {
        cut_what_is_broken(path, inspected)?;
        return Ok(Expected::Anything);
    };
    let found = match inspected {
        Ok(found) => found,
        Err(journal::Damage {
            path: file,
            position,
            reason,
            ..
        }) => {
            return Err(DiskError::Damaged {
                file,
                position,
                reason,
                witness: witness_path,
            });
        }
    };
    // The newest ledger in the journals is the newest of all, so compare it before anything is cut.
    if let Some(ledger) = &found.ledger
        && let Some(lost) = ledger.loss(&witness)
        && found.torn.is_none()
    {
        return Err(DiskError::Lost {
            path: path.to_owned(),
            lost,
            witness: witness_path,
        });
    }
    let journal::Inspection {
        ledger,
        behind,
        torn,
    } = found;
    match torn {
        None => Ok(Expected::AtLeast(witness, None)),
        Some(torn) => cut_torn_tail(path, spec, witness, ledger.as_ref(), behind, &torn),
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
pub(super) fn clear_away(database: &Path) -> Result<(), DiskError> {
    if holds_something(database)? {
        let copy = aside::set_aside(database)?;
        tracing::warn!(
            database = %database.display(),
            set_aside = %copy.display(),
            "the database cannot be opened without its version file, and nothing says that it was acknowledged: \
             it is set aside, and a new one begun"
        );
        return Ok(());
    }
    match std::fs::remove_dir_all(database) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        removed => removed.map_err(DiskError::io("remove", database)),
    }
}

/// Cuts the tail of the newest journal, if no acknowledged data is lost with it. `ledger` is the newest before the
/// tail, `behind` the newest in intact batches after the torn one.
fn cut_torn_tail(
    path: &Path,
    spec: &DataDirSpec,
    mut witness: Ledger,
    ledger: Option<&Ledger>,
    behind: Option<Ledger>,
    torn: &journal::Torn,
) -> Result<Expected, DiskError> {
    let damaged = |reason| DiskError::Damaged {
        file: torn.path.clone(),
        position: torn.position,
        reason,
        witness: witness::path(path),
    };
    if let Some(behind) = behind {
        // The commit of `behind` may not have been acknowledged; the one before it was.
        let acknowledged = behind.commit.saturating_sub(1);
        match ledger {
            Some(ledger) if ledger.commit < acknowledged => {
                return Err(damaged(format!(
                    "{}, and commits up to {acknowledged} follow behind it, while only {} are before it",
                    torn.reason, ledger.commit
                )));
            }
            // The newest ledger before the tail is in the tables. The cut removes what is known of later commits, so
            // record it in the witness.
            None if witness.commit < acknowledged => {
                witness = Ledger {
                    commit: acknowledged,
                    ..witness
                };
                Witness::create(path, &witness, spec.partitions)?;
            }
            Some(_) | None => {}
        }
    }
    if let Some(ledger) = ledger
        && let Some(lost) = ledger.loss(&witness)
    {
        return Err(damaged(format!("{}, and {lost}", torn.reason)));
    }
    tracing::warn!(
        file = %torn.path.display(),
        position = torn.position,
        reason = torn.reason,
        "a write that was never acknowledged is cut off the end of the journal"
    );
    // Without a ledger before the tail, only the opened database shows whether something is lost.
    let aside = match ledger {
        None => Some(journal::Aside::keep(torn, &path.join("journal.torn"))?),
        Some(_) => None,
    };
    journal::cut(&torn.path, torn.position)?;
    Ok(Expected::AtLeast(witness, aside))
}

/// Cuts the newest journal where it is broken: without a witness, the loss is accepted. The database itself would
/// refuse some kinds of damage and skip others.
fn cut_what_is_broken(
    path: &Path,
    inspected: Result<journal::Inspection, journal::Damage>,
) -> Result<(), DiskError> {
    let (file, position, reason) = match inspected {
        Ok(journal::Inspection { torn: None, .. }) => return Ok(()),
        Ok(journal::Inspection {
            torn: Some(torn), ..
        }) => (torn.path, torn.position, torn.reason.to_owned()),
        Err(damage) => (damage.path, damage.position, damage.reason),
    };
    let copy = journal::set_aside(&file, path)?;
    tracing::warn!(
        file = %file.display(),
        position,
        reason,
        copy = %copy.display(),
        "the loss is accepted: the journal is cut where it is broken, and a copy of it is set aside"
    );
    journal::cut(&file, position)
}
