//! The night's work (reliability.md section 4.1, column "Nightly"): determinism, every planted bug, duels, QUIC in the
//! loop, and whole clusters until the time is up.

use sim::figures::{Record, record};
use sim::runner::sweep;
use sim::scenario::{Run, Scenario, find, registry, run_caught};
use std::ops::Range;
use std::process::Command;
use std::time::{Duration, Instant};

/// Seeds whose trace is made three times, once of them in another process (S3).
const DETERMINISM: u64 = 1000;
/// Seeds within which a planted bug must be found (S10).
const PLANTED: Range<u64> = 0..300;
const PLANTED_MINUTES: u64 = 2;
/// Scenarios that are swept beside the whole cluster: how many seeds, a minute each.
const BESIDE: [(&str, u64); 2] = [("duel", 500), ("quic", 2000)];
/// Seeds swept and recorded at a time: the time is looked at in between.
const CHUNK: u64 = 200;

/// How much of the night's work is done.
pub(crate) struct Night {
    /// Seeds of whole clusters.
    pub(crate) seeds: Range<u64>,
    /// Their virtual minutes of faults.
    pub(crate) minutes: u64,
    /// Threads, one world each.
    pub(crate) threads: usize,
    /// No seeds of whole clusters are begun after this.
    pub(crate) budget: Duration,
    /// Share of the seeds of everything else.
    pub(crate) percent: u64,
}

impl Night {
    fn share(&self, seeds: u64) -> Range<u64> {
        0..(seeds * self.percent).div_ceil(100)
    }

    /// Runs everything; whether all of it went well.
    pub(crate) fn run(&self) -> bool {
        let started = Instant::now();
        let Some(cluster) = registry().first().copied() else {
            return false;
        };
        let mut good = is_deterministic(cluster, self.share(DETERMINISM));
        good &= finds_planted(self.threads);
        for (name, seeds) in BESIDE {
            let scenario = find(Some(name)).expect("it is in the registry");
            good &= sweep_and_record(scenario, self.share(seeds), 1, self.threads);
        }
        let mut from = self.seeds.start;
        while from < self.seeds.end && started.elapsed() < self.budget {
            let range = from..self.seeds.end.min(from + CHUNK);
            from = range.end;
            good &= sweep_and_record(cluster, range, self.minutes, self.threads);
        }
        good
    }
}

/// Sweeps seeds and records the run; whether all of it went well.
fn sweep_and_record(
    scenario: &dyn Scenario,
    seeds: Range<u64>,
    minutes: u64,
    threads: usize,
) -> bool {
    let summary = sweep(
        scenario,
        seeds.clone(),
        minutes,
        None,
        false,
        threads,
        &crate::say,
    );
    let failed = summary.failures.len() as u64;
    let runs = (summary.passed + failed).max(1);
    let row = Record {
        scenario: scenario.name(),
        seeds: format!("{}..{}", seeds.start, seeds.end),
        minutes,
        passed: summary.passed,
        failed,
        seconds_per_seed: summary.busy_seconds / runs as f64,
        counters: &summary.counters,
    };
    println!(
        "{} seeds {}: {} passed, {failed} failed",
        row.scenario, row.seeds, row.passed
    );
    if let Err(error) = record(&row) {
        println!("not recorded: {error}");
        return false;
    }
    failed == 0
}

fn hash_of(scenario: &dyn Scenario, seed: u64) -> u64 {
    let mut run = Run::new(scenario.name(), seed, 1, None);
    let _ = run_caught(scenario, &mut run);
    run.trace_hash
}

fn is_deterministic(scenario: &dyn Scenario, seeds: Range<u64>) -> bool {
    let range = format!("{}..{}", seeds.start, seeds.end);
    let asked = range.clone();
    let elsewhere = std::thread::spawn(move || {
        Command::new(std::env::current_exe()?)
            .args(["--hashes", "--minutes", "1", "--seeds", &asked])
            .output()
    });
    let here: Vec<(u64, u64, u64)> = seeds
        .map(|seed| (seed, hash_of(scenario, seed), hash_of(scenario, seed)))
        .collect();
    let elsewhere = match elsewhere.join().expect("it only runs a program") {
        Ok(output) => String::from_utf8_lossy(&output.stdout).into_owned(),
        Err(error) => {
            println!("determinism: no other process: {error}");
            return false;
        }
    };
    let mut lines = elsewhere.lines();
    let differing: Vec<u64> = here
        .into_iter()
        .filter(|(seed, once, again)| {
            let told = format!("seed {seed} trace hash {once:#018x} ");
            let line = lines.next();
            once != again || !line.is_some_and(|line| line.starts_with(&told))
        })
        .map(|(seed, _, _)| seed)
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
