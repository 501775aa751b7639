//! Makes `cfg(loom)` known: the lints of the workspace, which could do so, are for all of
//! its crates.

fn main() {
    println!("cargo::rustc-check-cfg=cfg(loom)");
    println!("cargo::rerun-if-changed=build.rs");
}
