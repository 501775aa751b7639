//! The log and the stores on real disks: damage, crashes, full disks, frozen formats.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stdout,
    reason = "tests"
)]

mod on_disk {
    mod crash;
    mod damage;
    mod data_dir;
    mod file_store;
    mod frozen;
    mod full_disk;
    mod lost_end;
    mod retention;
    mod support;
}
