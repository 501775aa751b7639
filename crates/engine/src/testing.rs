//! Set-ups for the tests of more than one module or crate.

#![allow(
    clippy::missing_panics_doc,
    clippy::print_stdout,
    clippy::panic,
    reason = "tests"
)]

mod faulty_store;

pub use faulty_store::{FaultyStore, Request};

/// The seed of a random test, which is printed; set `SEED` in the environment to repeat a run.
pub fn seed() -> u64 {
    let seed = std::env::var("SEED").map_or_else(
        |_| fastrand::u64(..),
        |text| {
            text.parse()
                .unwrap_or_else(|error| panic!("SEED={text}: {error}"))
        },
    );
    println!("SEED={seed}");
    seed
}

/// The state of an engine over a store, without its threads; the directory has its log.
#[cfg(test)]
pub(crate) fn shared(
    store: std::sync::Arc<dyn crate::store::Store>,
) -> (tempfile::TempDir, crate::shared::EngineShared) {
    use crate::disk::{DataDir, DataDirSpec};
    use crate::log::{EmbeddedLog, EmbeddedLogConfig};

    let path = tempfile::tempdir().unwrap();
    let dir = DataDir::open(path.path(), &DataDirSpec::default()).unwrap();
    let log = EmbeddedLog::open(&dir, EmbeddedLogConfig::default()).unwrap();
    let (shared, _jobs) = crate::shared::EngineShared::new(
        crate::workspace::WorkspaceType::of::<crate::entities::Entities>(),
        crate::config::EngineConfig::default(),
        std::sync::Arc::new(log),
        store,
        workspace_status::Tracker::new(),
        std::sync::Arc::new(crate::populate::BeginEmpty),
    );
    (path, shared)
}
