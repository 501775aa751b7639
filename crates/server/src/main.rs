//! The `workspace-engine` binary: the engine with the built-in workspace type.

use std::process::ExitCode;
use workspace_engine::Entities;

/// One thread of the engine often frees what another allocated; the system's allocator is slow at that.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    workspace_engine::run::<Entities>()
}
