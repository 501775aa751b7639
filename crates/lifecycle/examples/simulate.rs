//! Simulates any number of lives of the state machine:
//! `cargo run -p workspace-lifecycle --release --example simulate -- --seeds 100000`,
//! or one life with its full trace: `-- --seed 7 --trace`. Seeds that the test keeps by name need
//! `--first-faults`.

#![allow(
    clippy::print_stdout,
    clippy::expect_used,
    reason = "a tool of the developers"
)]

#[path = "../tests/simulation/simulator/mod.rs"]
mod simulator;

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use simulator::{Failure, FaultSet, Rule, Sabotage, Tally, live, run};

/// Number of failures that are printed; further ones are only counted.
const MAX_FAILURES_SHOWN: usize = 20;

struct Options {
    first: u64,
    seeds: u64,
    threads: usize,
    traced: bool,
    sabotage: Sabotage,
    faults: FaultSet,
}

fn options() -> Result<Options, String> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let mut options = Options {
        first: 0,
        seeds: 1000,
        threads,
        traced: false,
        sabotage: Sabotage::None,
        faults: FaultSet::All,
    };
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut number = || {
            let value = arguments
                .next()
                .ok_or_else(|| format!("{argument} needs a number"))?;
            value
                .parse::<u64>()
                .map_err(|error| format!("{argument} {value}: {error}"))
        };
        match argument.as_str() {
            "--seeds" => options.seeds = number()?,
            "--from" => options.first = number()?,
            "--threads" => {
                options.threads = usize::try_from(number()?).map_err(|error| error.to_string())?;
            }
            "--seed" => {
                options.first = number()?;
                options.seeds = 1;
            }
            "--trace" => options.traced = true,
            "--first-faults" => options.faults = FaultSet::First,
            "--sabotage" => {
                let name = arguments.next().unwrap_or_default();
                let known = Sabotage::ALL
                    .into_iter()
                    .find(|sabotage| format!("{sabotage:?}") == name);
                options.sabotage = known.ok_or_else(|| format!("one of {:?}", Sabotage::ALL))?;
            }
            _ => {
                return Err(format!(
                    "unknown argument {argument}; known: --seeds N --from N --seed N --threads N --trace --first-faults --sabotage NAME"
                ));
            }
        }
    }
    Ok(options)
}

fn main() -> ExitCode {
    let options = match options() {
        Ok(options) => options,
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::FAILURE;
        }
    };
    if options.traced {
        return trace(&options);
    }
    let began = Instant::now();
    let next = AtomicU64::new(options.first);
    let end = options.first + options.seeds;
    let results: Mutex<(Tally, Vec<Box<Failure>>)> = Mutex::default();
    std::thread::scope(|scope| {
        for _ in 0..options.threads {
            scope.spawn(|| {
                let mut tally = Tally::new();
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= end {
                        break;
                    }
                    match run(seed, options.sabotage, options.faults) {
                        Ok(lived) => add(&mut tally, lived),
                        Err(failure) => results
                            .lock()
                            .expect("no thread panics with it")
                            .1
                            .push(failure),
                    }
                }
                add(
                    &mut results.lock().expect("no thread panics with it").0,
                    tally,
                );
            });
        }
    });
    let (tally, mut failures) = results.into_inner().expect("no thread panics with it");
    failures.sort_by_key(|failure| failure.seed);
    for failure in failures.iter().take(MAX_FAILURES_SHOWN) {
        eprintln!(
            "seed {} step {}: {}",
            failure.seed, failure.step, failure.violation
        );
    }
    for (what, times) in tally {
        println!("{times:>12} {what}");
    }
    let mut broken: BTreeMap<Rule, usize> = BTreeMap::new();
    for failure in &failures {
        *broken.entry(failure.violation.rule).or_default() += 1;
    }
    for (rule, times) in broken {
        println!("{times:>12} lives break {rule:?}");
    }
    println!(
        "{} seeds in {:.1?}, {} of them break a promise",
        options.seeds,
        began.elapsed(),
        failures.len()
    );
    if failures.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn trace(options: &Options) -> ExitCode {
    let traced = simulator::Traced::Whole;
    match live(options.first, options.sabotage, options.faults, traced) {
        Ok((tally, trace)) => {
            for line in trace {
                println!("{line}");
            }
            println!("seed {}: {tally:?}", options.first);
            ExitCode::SUCCESS
        }
        Err(failure) => {
            println!("{failure}");
            ExitCode::FAILURE
        }
    }
}

fn add(tally: &mut Tally, lived: Tally) {
    for (what, times) in lived {
        *tally.entry(what).or_default() += times;
    }
}
