//! A git repository's history as events: a commit becomes a deployment version of each workspace that it
//! touches, a changed file becomes a resource.

use serde_json::json;
use std::{
    collections::{BTreeSet, HashSet},
    io::{self, BufRead, BufReader, BufWriter, Write},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

/// Maximum workspaces of a history; further directories belong to the repository's own workspace.
const MAX_WORKSPACES: usize = 48;
/// Longest id of a workspace.
const MAX_ID_BYTES: usize = 255;
/// Prefix of a commit's line; it occurs in no path.
const COMMIT: char = '\u{1e}';
/// Separator between the fields of a commit's line.
const PART: char = '\u{1f}';

/// The history of a repository.
pub(super) struct History {
    directory: PathBuf,
    name: String,
    commits: u32,
}

impl History {
    /// The history of the repository that contains a directory.
    ///
    /// # Errors
    /// Why there is none, as the end of a sentence.
    pub(super) fn open(directory: &Path, commits: u32) -> Result<Self, String> {
        let top = git(directory)
            .args(["rev-parse", "--show-toplevel"])
            .output()
            .map_err(|_| "there is no git".to_owned())?;
        if !top.status.success() {
            return Err("there is no git repository here".to_owned());
        }
        let has_commits = git(directory)
            .args(["rev-parse", "--verify", "--quiet", "HEAD"])
            .output()
            .is_ok_and(|output| output.status.success());
        if !has_commits {
            return Err("the git repository here is empty".to_owned());
        }
        let top = PathBuf::from(String::from_utf8_lossy(&top.stdout).trim_end());
        let name = top
            .file_name()
            .map_or_else(|| "repository".into(), |name| name.to_string_lossy());
        Ok(Self {
            directory: directory.to_owned(),
            name: id_of(&name),
            commits,
        })
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Writes the events, one per line, oldest commit first.
    pub(super) fn write(&self, out: &mut dyn Write) -> io::Result<()> {
        let mut child = git(&self.directory)
            .args(["-c", "core.quotePath=false", "log", "--first-parent", "-m"])
            .args(["--reverse", "--raw", "--no-renames", "--abbrev=40"])
            .arg(format!("--max-count={}", self.commits))
            .arg(format!("--format={COMMIT}%H{PART}%ct{PART}%s"))
            .stdout(Stdio::piped())
            .spawn()?;
        let Some(log) = child.stdout.take() else {
            return Err(io::Error::other("git gives no output"));
        };
        let written = self.write_log(BufReader::new(log), out);
        let status = child.wait()?;
        written?;
        if status.success() {
            Ok(())
        } else {
            Err(io::Error::other(format!("git log ended with {status}")))
        }
    }

    fn write_log(&self, log: impl BufRead, out: &mut dyn Write) -> io::Result<()> {
        let mut out = BufWriter::new(out);
        let mut workspaces = Workspaces::new(&self.name);
        let mut commit = Commit::default();
        for line in log.split(b'\n') {
            let line = line?;
            let line = String::from_utf8_lossy(&line);
            if let Some(header) = line.strip_prefix(COMMIT) {
                commit.write(&mut workspaces, &mut out)?;
                commit = Commit::read(header);
            } else if let Some(file) = line.strip_prefix(':').and_then(File::read) {
                commit.files.push(file);
            }
        }
        commit.write(&mut workspaces, &mut out)?;
        out.flush()
    }
}

fn git(directory: &Path) -> Command {
    let mut git = Command::new("git");
    git.arg("-C")
        .arg(directory)
        .stdin(Stdio::null())
        .stderr(Stdio::null());
    git
}

/// One commit with its files.
#[derive(Debug, Default)]
struct Commit {
    hash: String,
    timestamp_ms: u64,
    subject: String,
    files: Vec<File>,
}

/// One changed file.
#[derive(Debug)]
struct File {
    verb: &'static str,
    mode: String,
    blob: String,
    path: String,
}

impl File {
    /// Parses `100644 100644 <blob> <blob> M<TAB>path`.
    fn read(line: &str) -> Option<Self> {
        let (change, path) = line.split_once('\t')?;
        let mut parts = change.split(' ');
        let (_, mode, _, blob, kind) = (
            parts.next()?,
            parts.next()?,
            parts.next()?,
            parts.next()?,
            parts.next()?,
        );
        let verb = match kind {
            "A" => "created",
            "D" => "deleted",
            _ => "updated",
        };
        Some(Self {
            verb,
            mode: mode.to_owned(),
            blob: blob.to_owned(),
            path: path.to_owned(),
        })
    }
}

impl Commit {
    fn read(header: &str) -> Self {
        let mut parts = header.splitn(3, PART);
        let mut next = || parts.next().unwrap_or_default();
        Self {
            hash: next().to_owned(),
            timestamp_ms: next().parse::<u64>().unwrap_or_default() * 1_000,
            subject: next().to_owned(),
            files: Vec::new(),
        }
    }

    fn write(&self, workspaces: &mut Workspaces, out: &mut impl Write) -> io::Result<()> {
        let version: String = self.hash.chars().take(12).collect();
        let touched: BTreeSet<String> = self
            .files
            .iter()
            .map(|file| workspaces.of(&file.path))
            .collect();
        for workspace in touched {
            let event = json!({
                "eventType": "deployment-version.created",
                "workspaceId": workspace,
                "timestamp": self.timestamp_ms,
                "data": {"id": self.hash, "tag": version, "subject": self.subject},
            });
            writeln!(out, "{event}")?;
        }
        for file in &self.files {
            let event = json!({
                "eventType": format!("resource.{}", file.verb),
                "workspaceId": workspaces.of(&file.path),
                "timestamp": self.timestamp_ms,
                "data": {
                    "id": file.path,
                    "mode": file.mode,
                    "blob": file.blob,
                    "version": version,
                },
            });
            writeln!(out, "{event}")?;
        }
        Ok(())
    }
}

/// Maps a path to its workspace: that of its first two directories.
struct Workspaces {
    whole: String,
    known: HashSet<String>,
}

impl Workspaces {
    fn new(whole: &str) -> Self {
        Self {
            whole: whole.to_owned(),
            known: HashSet::from([whole.to_owned()]),
        }
    }

    fn of(&mut self, path: &str) -> String {
        let mut parts: Vec<&str> = path.split('/').collect();
        // The last part is the file.
        parts.pop();
        parts.truncate(2);
        while !parts.is_empty() {
            let id = id_of(&format!("{}.{}", self.whole, parts.join(".")));
            if self.known.contains(&id) {
                return id;
            }
            if self.known.len() < MAX_WORKSPACES {
                self.known.insert(id.clone());
                return id;
            }
            parts.pop();
        }
        self.whole.clone()
    }
}

/// Turns a text into a valid workspace id.
fn id_of(text: &str) -> String {
    text.chars()
        .map(|character| match character {
            'a'..='z' | 'A'..='Z' | '0'..='9' | '.' | '_' | ':' | '-' => character,
            _ => '-',
        })
        .take(MAX_ID_BYTES)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use workspace_engine_core::event::EventEnvelope;

    const LOG: &str = "\
\u{1e}1111111111111111111111111111111111111111\u{1f}1700000000\u{1f}Begin\n\
\n\
:000000 100644 0000000000000000000000000000000000000000 aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa A\tREADME.md\n\
:000000 100644 0000000000000000000000000000000000000000 bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb A\tcrates/one/src/lib rs\n\
\u{1e}2222222222222222222222222222222222222222\u{1f}1700000001\u{1f}Nothing\n\
\u{1e}3333333333333333333333333333333333333333\u{1f}1700000002\u{1f}End \"it\"\n\
\n\
:100644 000000 aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa 0000000000000000000000000000000000000000 D\tREADME.md\n\
:100644 100755 bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb cccccccccccccccccccccccccccccccccccccccc M\tcrates/one/src/lib rs\n";

    #[test]
    fn a_history_becomes_events_of_its_directories() {
        let history = History {
            directory: PathBuf::new(),
            name: "repo".to_owned(),
            commits: 10,
        };
        let mut out = Vec::new();
        history.write_log(LOG.as_bytes(), &mut out).unwrap();
        let events: Vec<String> = String::from_utf8(out)
            .unwrap()
            .lines()
            .map(|line| {
                EventEnvelope::parse(line.as_bytes()).unwrap();
                let event: serde_json::Value = serde_json::from_str(line).unwrap();
                let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
                let (workspace, kind) = (text(&event["workspaceId"]), text(&event["eventType"]));
                let id: String = text(&event["data"]["id"]).chars().take(22).collect();
                format!("{workspace} {kind} {id}")
            })
            .collect();
        assert_eq!(
            events,
            [
                "repo deployment-version.created 1111111111111111111111",
                "repo.crates.one deployment-version.created 1111111111111111111111",
                "repo resource.created README.md",
                "repo.crates.one resource.created crates/one/src/lib rs",
                "repo deployment-version.created 3333333333333333333333",
                "repo.crates.one deployment-version.created 3333333333333333333333",
                "repo resource.deleted README.md",
                "repo.crates.one resource.updated crates/one/src/lib rs",
            ]
        );
    }

    #[test]
    fn a_history_of_many_directories_has_a_bounded_number_of_workspaces() {
        let mut workspaces = Workspaces::new("repo");
        let ids: HashSet<String> = (0..1000)
            .map(|number| workspaces.of(&format!("a{}/b{number}/file", number % 100)))
            .collect();
        assert!(ids.len() <= MAX_WORKSPACES, "{}", ids.len());
    }
}
