//! The whole binary of a workspace type of one's own: started with `OWN_TYPE`, this test is that binary.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a test fails where it is surprised"
)]

use serde_json::{Value, json};
use std::{
    borrow::Cow,
    env,
    io::{BufRead, BufReader, Write},
    process::{Child, Command, ExitCode, Stdio},
};
use workspace_engine::{
    Change, EntityRef, Event, ReadEntities, Rejection, StoredEntry, Workspace, WorkspaceId,
};

const NAME: &str = "an_own_type_has_the_whole_binary_and_is_read_where_it_offers_entities";

/// Counts its events, and shows the count only if it is readable.
#[derive(Default)]
struct Counter<const READABLE: bool> {
    count: Option<StoredEntry>,
    is_changed: bool,
}

impl<const READABLE: bool> Workspace for Counter<READABLE> {
    fn new(_id: &WorkspaceId) -> Self {
        Self::default()
    }

    fn restore(&mut self, entry: StoredEntry) -> Result<(), Rejection> {
        self.count = Some(entry);
        Ok(())
    }

    fn check(event: &Event<'_>) -> Result<(), Rejection> {
        match event.event_type() {
            "counted" => Ok(()),
            other => Err(Rejection(format!("{other} is not counted"))),
        }
    }

    fn apply(&mut self, event: &Event<'_>) -> Result<(), Rejection> {
        let before: u64 = match &self.count {
            Some(entry) => serde_json::from_slice(&entry.data)?,
            None => 0,
        };
        self.count = Some(StoredEntry {
            kind: "counter".into(),
            id: "events".into(),
            data: (before + 1).to_string().into(),
            offset: event.offset(),
        });
        self.is_changed = true;
        Ok(())
    }

    fn take_changes(&mut self) -> Vec<Change> {
        let changed = self.count.iter().filter(|_| self.is_changed);
        let changes = changed.cloned().map(Change::Set).collect();
        self.is_changed = false;
        changes
    }

    fn entries(&self) -> u64 {
        u64::from(self.count.is_some())
    }

    fn entities(&self) -> Option<&dyn ReadEntities> {
        READABLE.then_some(self as &dyn ReadEntities)
    }
}

impl<const READABLE: bool> ReadEntities for Counter<READABLE> {
    fn counts(&self) -> Vec<(&str, usize)> {
        self.count.iter().map(|entry| (&*entry.kind, 1)).collect()
    }

    fn page(&self, kind: &str, after: Option<&str>, limit: usize) -> Vec<EntityRef<'_>> {
        let entity = self.get(kind, "events");
        let rest = entity.filter(|entity| after.is_none_or(|after| entity.id > after));
        rest.into_iter().take(limit).collect()
    }

    fn get(&self, kind: &str, id: &str) -> Option<EntityRef<'_>> {
        let entry = self.count.as_ref()?;
        (*entry.kind == *kind && *entry.id == *id).then(|| EntityRef {
            id: &entry.id,
            data: Cow::Borrowed(&entry.data),
            offset: entry.offset,
        })
    }
}

fn main() -> ExitCode {
    match env::var("OWN_TYPE").as_deref() {
        Ok("readable") => return workspace_engine::run::<Counter<true>>(),
        Ok(_) => return workspace_engine::run::<Counter<false>>(),
        Err(_) => {}
    }
    // The arguments of the test runner: filters, and flags of which one leaves this test out.
    let arguments: Vec<String> = env::args().skip(1).collect();
    let mut names = arguments.iter().filter(|name| !name.starts_with('-'));
    let is_named = names.clone().next().is_none() || names.any(|name| NAME.contains(name.as_str()));
    if is_named
        && !arguments
            .iter()
            .any(|flag| flag == "--ignored" || flag == "--list")
    {
        readable();
        unreadable();
        println!("test {NAME} ... ok");
    }
    ExitCode::SUCCESS
}

fn readable() {
    let engine = Engine::start("readable");
    let (status, summary) = engine.get("/entities?atLeast=1");
    assert_eq!((status, &summary["eventsApplied"]), (200, &json!(2)));
    assert_eq!(summary["counts"], json!({"counter": 1}));
    let entities = json!([{"id": "events", "data": 2}]);
    assert_eq!(engine.get("/entities/counter").1["entities"], entities);
    let (_, entity) = engine.get("/entities/counter/events");
    assert_eq!((&entity["data"], &entity["offset"]), (&json!(2), &json!(1)));
    assert_eq!(engine.get("/entities/counter/x").0, 404);
}

fn unreadable() {
    let engine = Engine::start("unreadable");
    for path in ["/entities", "/entities/counter", "/entities/counter/events"] {
        let (status, problem) = engine.get(path);
        assert_eq!(
            (status, &problem["type"]),
            (404, &json!("/problems/no-entities"))
        );
    }
    let (code, error) = engine.command(
        &["produce", "-"],
        r#"{"eventType":"x","workspaceId":"acme","timestamp":0}"#,
    );
    assert_ne!(code, Some(0));
    assert!(error.contains("x is not counted"), "{error}");
}

/// A running engine with a workspace that has two events; killed when dropped.
struct Engine {
    own_type: &'static str,
    child: Child,
    url: String,
    _data: tempfile::TempDir,
}

impl Engine {
    fn start(own_type: &'static str) -> Self {
        let data = tempfile::tempdir().unwrap();
        let mut child = program(own_type)
            .args([
                "serve",
                "--listen",
                "127.0.0.1:0",
                "--partitions",
                "1",
                "--data-dir",
            ])
            .arg(data.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        stdout.read_line(&mut line).unwrap();
        let url = line.trim().rsplit(' ').next().unwrap().to_owned();
        let engine = Self {
            own_type,
            child,
            url,
            _data: data,
        };
        let event = r#"{"eventType":"counted","workspaceId":"acme","timestamp":0}"#;
        let produced = engine.command(&["produce", "-"], &format!("{event}\n{event}\n"));
        assert_eq!(produced.0, Some(0), "{produced:?}");
        let wait = ["wait", "acme", "--for", "ready", "--timeout", "2m"];
        let waited = engine.command(&wait, "");
        assert_eq!(waited.0, Some(0), "{waited:?}");
        engine
    }

    /// The exit code of a command and its output on standard error.
    fn command(&self, arguments: &[&str], input: &str) -> (Option<i32>, String) {
        let mut child = program(self.own_type)
            .args(arguments)
            .args(["--url", &self.url])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child
            .stdin
            .take()
            .unwrap()
            .write_all(input.as_bytes())
            .unwrap();
        let output = child.wait_with_output().unwrap();
        (
            output.status.code(),
            String::from_utf8(output.stderr).unwrap(),
        )
    }

    fn get(&self, path: &str) -> (u16, Value) {
        let agent = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .build()
            .new_agent();
        let url = format!("{}/api/v1/workspaces/acme{path}", self.url);
        let mut answer = agent.get(url).call().unwrap();
        (
            answer.status().as_u16(),
            answer.body_mut().read_json().unwrap(),
        )
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn program(own_type: &str) -> Command {
    let mut command = Command::new(env::current_exe().unwrap());
    for (name, _) in env::vars_os() {
        if name.to_string_lossy().starts_with("WORKSPACE_ENGINE_") {
            command.env_remove(name);
        }
    }
    command.env("OWN_TYPE", own_type);
    command
}
