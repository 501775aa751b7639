//! Hanging loads, as on a disk that does not answer: the file store opens a FIFO without a writer.

use crate::support::{Answer, Engine, wait_until};
use std::{
    fs,
    fs::OpenOptions,
    path::{Path, PathBuf},
    process::Command,
};

/// One more than the number of concurrent loads.
const HUNG: usize = 9;
const FLAGS: [&str; 6] = [
    "--store",
    "file",
    "--partitions",
    "2",
    "--load-timeout",
    "300ms",
];

/// A workspace whose entries cannot be read while a FIFO replaces them.
struct Hung {
    name: String,
    entries: PathBuf,
    kept: PathBuf,
}

impl Hung {
    fn new(root: &Path, name: String) -> Self {
        let entries = root.join(&name).join("entries.jsonl");
        let kept = root.join(&name).join("kept");
        fs::rename(&entries, &kept).unwrap();
        let made = Command::new("mkfifo").arg(&entries).status().unwrap();
        assert!(made.success());
        Self {
            name,
            entries,
            kept,
        }
    }

    /// Simulates that the disk answers again. Reads of the FIFO return no data.
    fn release(&self) {
        let fifo = self.entries.with_extension("fifo");
        fs::hard_link(&self.entries, &fifo).unwrap();
        // An atomic rename, because a retry that found no file would create a new workspace.
        fs::rename(&self.kept, &self.entries).unwrap();
        // Wakes blocked readers of the FIFO, which then read its end.
        let both = OpenOptions::new().read(true).write(true).open(&fifo);
        drop(both.unwrap());
        fs::remove_file(fifo).unwrap();
    }
}

fn events(workspace: &str, ids: std::ops::Range<usize>) -> String {
    ids.map(|id| {
        format!(
            "{{\"eventType\":\"resource.created\",\"workspaceId\":\"{workspace}\",\"data\":{{\"id\":\"r{id}\"}}}}\n"
        )
    })
    .collect()
}

fn hung_loads(engine: &Engine) -> usize {
    let metrics = engine.get("/metrics").text;
    let line = metrics
        .lines()
        .find_map(|line| line.strip_prefix("workspace_engine_loads_hung "));
    line.unwrap_or_else(|| panic!("{metrics}"))
        .trim()
        .parse()
        .unwrap()
}

#[test]
fn hung_loads_release_their_permits_and_continue_with_the_disk() {
    let engine = Engine::start(&FLAGS);
    let names: Vec<String> = (0..HUNG).map(|number| format!("hung-{number}")).collect();
    for name in &names {
        engine.produce(&events(name, 0..3));
        engine.wait_for(name, "ready");
    }
    engine.produce(&events("other", 0..3));
    engine.wait_for("other", "ready");
    let root = engine.directory().join("workspaces");
    let hung: Vec<Hung> = names
        .into_iter()
        .map(|name| {
            let unloaded = engine.run(&["unload", &name], "");
            assert_eq!(unloaded.code, 0, "{unloaded:?}");
            Hung::new(&root, name)
        })
        .collect();
    for Hung { name, .. } in &hung {
        let load = format!("/api/v1/workspaces/{name}/load");
        assert_eq!(engine.post(&load, &[], b"").status, 200);
    }

    for Hung { name, .. } in &hung {
        let path = format!("/api/v1/workspaces/{name}/status");
        let status = engine.until(&path, |status| status["state"] == "error");
        assert_eq!(status["error"]["kind"], "retrying", "{status}");
        let reason = status["errorMessage"].as_str().unwrap();
        assert!(
            reason.starts_with("the load made no progress for 0.3 s while ")
                || reason.starts_with("an earlier load of it still hangs"),
            "{reason}"
        );
    }
    engine.wait_for("other", "ready");
    for number in 0..3 {
        let name = format!("new-{number}");
        engine.produce(&events(&name, 0..1));
        engine.wait_for(&name, "ready");
    }
    assert!(hung_loads(&engine) > 0);

    hung.iter().for_each(Hung::release);
    for Hung { name, .. } in &hung {
        engine.wait_for(name, "ready");
        let Answer { text, .. } = engine.get(&format!("/api/v1/workspaces/{name}/entities"));
        assert!(text.contains("\"eventsApplied\":3"), "{text}");
    }
    wait_until("no load hangs", || hung_loads(&engine) == 0);
}
