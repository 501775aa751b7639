//! The ends of a demonstration: in each case, its directory is removed.

use crate::support::{program, run};
use std::{
    fs,
    io::{BufRead, BufReader, Read},
    process::{Child, Command, Stdio},
};
use tempfile::TempDir;

/// A demonstration that has printed its first line.
struct Demo {
    child: Child,
    stdout: Option<Box<dyn BufRead>>,
    temporary: TempDir,
}

impl Demo {
    fn start(flags: &[&str]) -> Self {
        let temporary = tempfile::tempdir().unwrap();
        let mut child = program()
            .args(["demo", "--listen", "127.0.0.1:0", "--repository"])
            .arg(temporary.path())
            .args(flags)
            .env("TMPDIR", temporary.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let mut first = String::new();
        stdout.read_line(&mut first).unwrap();
        assert!(first.starts_with("workspace-engine listens on "), "{first}");
        Self {
            child,
            stdout: Some(Box::new(stdout)),
            temporary,
        }
    }

    fn signal(&self) {
        let pid = self.child.id().to_string();
        let sent = Command::new("kill").args(["-TERM", &pid]).status().unwrap();
        assert!(sent.success());
    }

    /// Its exit code and standard error, after a check that no directory remains.
    fn end(mut self) -> (i32, String) {
        if let Some(mut stdout) = self.stdout.take() {
            std::io::copy(&mut stdout, &mut std::io::sink()).unwrap();
        }
        let mut stderr = String::new();
        let mut pipe = self.child.stderr.take().unwrap();
        pipe.read_to_string(&mut stderr).unwrap();
        let code = self.child.wait().unwrap().code().unwrap();
        let left: Vec<_> = fs::read_dir(self.temporary.path()).unwrap().collect();
        assert!(left.is_empty(), "{left:?}");
        (code, stderr)
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_demonstration_ends_when_all_is_ready() {
    let empty = tempfile::tempdir().unwrap();
    let directory = empty.path().to_str().unwrap();
    let arguments = [
        "demo",
        "--exit-when-ready",
        "--listen",
        "127.0.0.1:0",
        "--repository",
        directory,
    ];
    let ran = run(&arguments, "");
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(
        ran.stdout
            .contains("all 12 workspaces are ready, 6000 events in "),
        "{ran:?}"
    );
    assert!(ran.stdout.contains("-> restoring_from_snapshot"), "{ran:?}");
}

#[test]
fn a_demonstration_that_is_stopped_before_all_is_ready_fails() {
    let demo = Demo::start(&["--exit-when-ready"]);
    demo.signal();
    let (code, stderr) = demo.end();
    assert_eq!(code, 1, "{stderr}");
    assert!(
        stderr.contains("error: stopped before every workspace was ready"),
        "{stderr}"
    );
}

#[test]
fn a_demonstration_that_stays_up_is_ended_by_its_user() {
    let demo = Demo::start(&[]);
    demo.signal();
    let (code, stderr) = demo.end();
    assert_eq!(code, 0, "{stderr}");
}

#[test]
fn a_demonstration_whose_reader_is_gone_stops_and_leaves_nothing_behind() {
    let mut demo = Demo::start(&[]);
    demo.stdout = None;
    let (code, stderr) = demo.end();
    assert_eq!(code, 0, "{stderr}");
}

#[test]
fn a_second_signal_leaves_nothing_behind_either() {
    let demo = Demo::start(&[]);
    demo.signal();
    demo.signal();
    // It may have ended before the second signal.
    let (code, stderr) = demo.end();
    assert!([0, 130].contains(&code), "{code} {stderr}");
}
