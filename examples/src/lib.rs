//! The examples are in the directory above: `cargo run -p workspace-engine-examples --example embed_tracker`.
