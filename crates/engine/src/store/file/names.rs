//! The directory of a workspace: its id, encoded for every file system.
//!
//! Lower-case letters, digits, `-` and `_` stay; everything else becomes `%XX`. So ids that differ only in case have
//! different names on a file system that ignores case, and `.` and `..` are names like any other. A name that exceeds
//! the length of a directory name ends with `~` and continues in a directory below.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use workspace_status::WorkspaceId;

/// Most bytes of one directory's name, less than every file system accepts.
const MAX_NAME_BYTES: usize = 180;

/// The directory with the files of a workspace.
pub(super) fn directory(root: &Path, id: &WorkspaceId) -> PathBuf {
    let mut path = root.to_owned();
    let mut name = String::new();
    for byte in id.as_str().bytes() {
        if name.len() + 3 > MAX_NAME_BYTES {
            name.push('~');
            path.push(std::mem::take(&mut name));
        }
        match byte {
            b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' => name.push(char::from(byte)),
            // Writing to a `String` cannot fail.
            _ => drop(write!(name, "%{byte:02X}")),
        }
    }
    path.push(name);
    path
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    fn name(id: &str) -> String {
        let id = WorkspaceId::new(id).expect("valid");
        directory(Path::new(""), &id)
            .to_str()
            .expect("text")
            .to_owned()
    }

    #[test]
    fn ids_become_names_that_differ_on_every_file_system() {
        let check = |id: &str, expected: &str| assert_eq!(name(id), expected);
        check("acme", "acme");
        check("acme-2_b", "acme-2_b");
        check("Acme", "%41cme");
        check(".", "%2E");
        check("..", "%2E%2E");
        check("a:b.c", "a%3Ab%2Ec");
    }

    #[test]
    fn long_ids_continue_in_a_directory_below_and_stay_unique() {
        let ids = (1..=255)
            .flat_map(|length| [".".repeat(length), "a".repeat(length), "A".repeat(length)]);
        let names: HashSet<String> = ids.map(|id| name(&id).to_lowercase()).collect();
        assert_eq!(names.len(), 255 * 3);
        for name in &names {
            assert!(
                name.split('/').all(|part| part.len() <= MAX_NAME_BYTES + 1),
                "{name}"
            );
        }
    }
}
