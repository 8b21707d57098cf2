//! The night's work (reliability.md section 4.1, column "Nightly"): determinism, every planted bug, and whole clusters
//! until the time is up.

use sim::figures::{Record, record};
use sim::runner::sweep;
use sim::scenario::{Run, Scenario, registry, run_caught};
use std::ops::Range;
use std::process::Command;
use std::time::{Duration, Instant};

/// Seeds whose trace is made three times, once of them in another process (S3).
const DETERMINISM: Range<u64> = 0..1000;
/// Seeds within which a planted bug must be found (S10).
const PLANTED: Range<u64> = 0..300;
const PLANTED_MINUTES: u64 = 2;
/// Seeds swept and recorded at a time.
const CHUNK: u64 = 1000;

/// Runs everything; whether all of it went well.
pub(crate) fn run(seeds: Range<u64>, minutes: u64, threads: usize, budget: Duration) -> bool {
    let started = Instant::now();
    let Some(cluster) = registry().first().copied() else {
        return false;
    };
    let mut good = is_deterministic(cluster);
    good &= finds_planted(threads);
    let mut from = seeds.start;
    while from < seeds.end && started.elapsed() < budget {
        let range = from..seeds.end.min(from + CHUNK);
        from = range.end;
        let summary = sweep(
            cluster,
            range.clone(),
            minutes,
            None,
            false,
            threads,
            &|failure| {
                println!(
                    "FAILED seed {}: {}\n  repeat with: {}",
                    failure.seed, failure.violation, failure.repeat
                );
            },
        );
        let failed = summary.failures.len() as u64;
        good &= failed == 0;
        let runs = (summary.passed + failed).max(1);
        let row = Record {
            scenario: cluster.name(),
            seeds: format!("{}..{}", range.start, range.end),
            minutes,
            passed: summary.passed,
            failed,
            seconds_per_seed: summary.busy_seconds / runs as f64,
            counters: &summary.counters,
        };
        println!(
            "seeds {}: {} passed, {failed} failed",
            row.seeds, row.passed
        );
        if let Err(error) = record(&row) {
            println!("not recorded: {error}");
            good = false;
        }
    }
    good
}

fn hash_of(scenario: &dyn Scenario, seed: u64) -> u64 {
    let mut run = Run::new(scenario.name(), seed, 1, None);
    let _ = run_caught(scenario, &mut run);
    run.trace_hash
}

fn is_deterministic(scenario: &dyn Scenario) -> bool {
    let range = format!("{}..{}", DETERMINISM.start, DETERMINISM.end);
    let elsewhere = std::env::current_exe().and_then(|program| {
        Command::new(program)
            .args(["--hashes", "--minutes", "1", "--seeds", &range])
            .output()
    });
    let elsewhere = match elsewhere {
        Ok(output) => String::from_utf8_lossy(&output.stdout).into_owned(),
        Err(error) => {
            println!("determinism: no other process: {error}");
            return false;
        }
    };
    let mut lines = elsewhere.lines();
    let differing: Vec<u64> = DETERMINISM
        .filter(|seed| {
            let here = hash_of(scenario, *seed);
            let told = format!("seed {seed} trace hash {here:#018x} ");
            here != hash_of(scenario, *seed)
                || !lines.next().is_some_and(|line| line.starts_with(&told))
        })
        .collect();
    println!("determinism: seeds {range} three times, differing: {differing:?}");
    differing.is_empty()
}

fn finds_planted(threads: usize) -> bool {
    let mut missed = Vec::new();
    let mut count = 0;
    for scenario in registry() {
        for bug in [scenario.planted(), scenario.finds_seam_bugs()].concat() {
            let summary = sweep(
                *scenario,
                PLANTED,
                PLANTED_MINUTES,
                Some(bug),
                true,
                threads,
                &|_| {},
            );
            count += 1;
            match summary.failures.first() {
                Some(failure) => println!(
                    "planted {bug} in {}: seed {}, {}",
                    scenario.name(),
                    failure.seed,
                    failure.violation.promise
                ),
                None => missed.push(format!("{bug} in {}", scenario.name())),
            }
        }
    }
    println!(
        "planted bugs: {} of {count} found, missed: {missed:?}",
        count - missed.len()
    );
    missed.is_empty()
}
