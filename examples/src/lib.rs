//! The examples stand beside this file: `cargo run -p workspace-engine-examples --example embed_tracker`.
