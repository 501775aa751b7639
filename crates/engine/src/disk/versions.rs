//! Checks the lists of tables before the database reads them.
//!
//! Each tree of the database has a file `v…` with the list of its tables, and a file `current` with the number of that
//! file and its xxh3. The database (fjall 3) does not compare them, and a damaged list fails an assertion that ends the
//! process. So they are compared here first.

use super::DiskError;
use std::io::ErrorKind;
use std::path::Path;
use xxhash_rust::xxh3::xxh3_128;

/// Bytes of `current`: number of the list, its checksum, and the kind of the checksum.
const CURRENT_BYTES: usize = 8 + 16 + 1;
const KIND_XXH3: u8 = 0;

/// Refuses a database with a damaged list of tables.
pub(crate) fn inspect(database: &Path) -> Result<(), DiskError> {
    let trees = database.join("keyspaces");
    let list = match std::fs::read_dir(&trees) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        list => list.map_err(DiskError::io("list", &trees))?,
    };
    for tree in list {
        inspect_tree(&tree.map_err(DiskError::io("list", &trees))?.path())?;
    }
    Ok(())
}

fn inspect_tree(tree: &Path) -> Result<(), DiskError> {
    let path = tree.join("current");
    let current = match std::fs::read(&path) {
        // The creation of the tree was interrupted.
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            return Ok(());
        }
        current => current.map_err(DiskError::io("read", &path))?,
    };
    let Some((number, checksum)) = parse(&current) else {
        return Err(damaged(&path, "it is not what the database writes"));
    };
    let path = tree.join(format!("v{number}"));
    let list = match std::fs::read(&path) {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            return Err(damaged(&path, "it is missing"));
        }
        list => list.map_err(DiskError::io("read", &path))?,
    };
    if xxh3_128(&list) != checksum {
        return Err(damaged(&path, "its checksum does not match"));
    }
    Ok(())
}

fn parse(current: &[u8]) -> Option<(u64, u128)> {
    let current: &[u8; CURRENT_BYTES] = current.try_into().ok()?;
    let (number, rest) = current.split_first_chunk()?;
    let (checksum, kind) = rest.split_first_chunk()?;
    (kind == [KIND_XXH3]).then_some((u64::from_le_bytes(*number), u128::from_le_bytes(*checksum)))
}

fn damaged(path: &Path, reason: &str) -> DiskError {
    DiskError::DamagedList {
        file: path.to_owned(),
        reason: reason.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::{DataDir, DataDirSpec};

    #[test]
    fn every_flipped_bit_of_a_list_of_tables_is_named_and_not_opened() {
        let path = tempfile::tempdir().expect("a directory");
        let spec = DataDirSpec::default();
        drop(DataDir::open(path.path(), &spec).expect("opened"));
        let tree = path.path().join("db/keyspaces/1");
        for name in ["current", "v0"] {
            let file = tree.join(name);
            let intact = std::fs::read(&file).expect("readable");
            for bit in 0..intact.len() * 8 {
                let mut bytes = intact.clone();
                bytes[bit / 8] ^= 1 << (bit % 8);
                std::fs::remove_file(&file).expect("removed");
                std::fs::write(&file, &bytes).expect("written");
                match DataDir::open(path.path(), &spec) {
                    Err(DiskError::DamagedList { file, .. }) => assert!(file.starts_with(&tree)),
                    other => panic!("{name}, bit {bit}: {other:?}"),
                }
            }
            std::fs::write(&file, &intact).expect("written");
        }
        DataDir::open(path.path(), &spec).expect("intact");
    }
}
