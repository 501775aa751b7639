//! Helpers for the tests of more than one crate.

#![allow(
    clippy::missing_panics_doc,
    clippy::print_stdout,
    clippy::panic,
    reason = "tests"
)]

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
