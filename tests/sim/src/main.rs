//! The simulator's command line (`cli.md` section 6): seeds in, violated promises out.

mod nightly;

use clap::Parser;
use nightly::Night;
use sim::figures::{Record, record, sum_up};
use sim::runner::{Failure, is_full, short, sweep};
use sim::scenario::{Run, Scenario, find, registry, run_caught};
use std::fs::File;
use std::io::BufWriter;
use std::ops::Range;
use std::process::ExitCode;
use std::time::Duration;

/// A tenth of a run is spent on memory with the system's allocator.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Runs seeds of a simulated cluster over virtual time.
#[derive(Parser)]
#[command(name = "sim")]
struct Options {
    /// Seeds to run, as A..B (B excluded).
    #[arg(long, value_parser = parse_range)]
    seeds: Option<Range<u64>>,
    /// Virtual minutes of faults per seed.
    #[arg(long, default_value_t = 10)]
    minutes: u64,
    /// Plant this bug; success is then to find it.
    #[arg(long)]
    planted: Option<String>,
    /// Run one seed and write its event log to sim-trace-SEED.log.
    #[arg(long)]
    trace: Option<u64>,
    /// Which scenario; see --list.
    #[arg(long)]
    scenario: Option<String>,
    /// Threads, one world each.
    #[arg(long)]
    threads: Option<usize>,
    /// Print scenarios and the bugs that can be planted in them.
    #[arg(long)]
    list: bool,
    /// Add the run to tests/FIGURES.md and the sums to README.md.
    #[arg(long)]
    record: bool,
    /// Work the sums in README.md out anew from tests/FIGURES.md, and run nothing.
    #[arg(long, conflicts_with_all = ["planted", "trace", "scenario", "hashes", "record", "nightly"])]
    figures: bool,
    /// The night's work: determinism, every planted bug, duels, QUIC in the loop, then seeds (0..50000) until two hours are
    /// over, all recorded.
    #[arg(long, conflicts_with_all = ["planted", "trace", "scenario", "hashes"])]
    nightly: bool,
    /// With --nightly: this share of the seeds of everything but whole clusters, to see that it works.
    #[arg(long, hide = true, default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..=100))]
    percent: u64,
    /// Print the trace hash of each seed instead of sweeping; for comparisons between processes.
    #[arg(long)]
    hashes: bool,
}

fn parse_range(text: &str) -> Result<Range<u64>, String> {
    let (start, end) = text.split_once("..").ok_or("expected A..B")?;
    let number = |part: &str| {
        part.parse::<u64>()
            .map_err(|error| format!("`{part}`: {error}"))
    };
    let (start, end) = (number(start)?, number(end)?);
    if start < end {
        Ok(start..end)
    } else {
        Err(format!("{start}..{end} is empty"))
    }
}

/// Exit code for a wrong command line (cli.md section 1).
const USAGE: u8 = 255;
const NIGHT: Duration = Duration::from_secs(2 * 3600);

impl Options {
    fn seeds(&self) -> Range<u64> {
        let usual = if self.nightly { 0..50_000 } else { 0..100 };
        self.seeds.clone().unwrap_or(usual)
    }

    fn threads(&self) -> usize {
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        self.threads.unwrap_or(cores)
    }
}

fn main() -> ExitCode {
    let options = match Options::try_parse() {
        Ok(options) => options,
        Err(error) => {
            let _ = error.print();
            return if error.use_stderr() {
                ExitCode::from(USAGE)
            } else {
                ExitCode::SUCCESS
            };
        }
    };
    if std::env::var_os("RUST_LOG").is_some() {
        // What the daemons say, to go with --trace.
        tracing_subscriber::fmt()
            .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
            .with_writer(std::io::stderr)
            .without_time()
            .init();
    }
    if options.list {
        list();
        return ExitCode::SUCCESS;
    }
    if options.figures {
        return match sum_up() {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("README.md is as it was: {error}");
                ExitCode::FAILURE
            }
        };
    }
    if options.nightly {
        let night = Night {
            seeds: options.seeds(),
            minutes: options.minutes,
            threads: options.threads(),
            budget: NIGHT,
            percent: options.percent,
        };
        return if night.run() {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        };
    }
    let Some(scenario) = choose(&options) else {
        return ExitCode::from(USAGE);
    };
    if let Some(seed) = options.trace {
        return trace(scenario, seed, &options);
    }
    if options.hashes {
        return hashes(scenario, &options);
    }
    run(scenario, &options)
}

fn list() {
    for scenario in registry() {
        println!("{}", scenario.name());
        for name in planted_in(*scenario) {
            println!("    --planted {name}");
        }
        for name in scenario.unproven() {
            println!("    --planted {name} (masked by other rules: tests/sim/README.md)");
        }
    }
}

fn planted_in(scenario: &dyn Scenario) -> Vec<&'static str> {
    [scenario.planted(), scenario.finds_seam_bugs()].concat()
}

/// The scenario asked for; with a planted bug and no name, the first that can have it.
fn choose(options: &Options) -> Option<&'static dyn Scenario> {
    let has_bug = |scenario: &dyn Scenario| {
        options.planted.as_deref().is_none_or(|name| {
            planted_in(scenario).contains(&name) || scenario.unproven().contains(&name)
        })
    };
    let found = match &options.scenario {
        Some(name) => find(Some(name)).filter(|scenario| has_bug(*scenario)),
        None => registry()
            .iter()
            .copied()
            .find(|scenario| has_bug(*scenario)),
    };
    if found.is_none() {
        let scenario = options.scenario.as_deref().unwrap_or("any");
        let planted = options.planted.as_deref().unwrap_or("none");
        eprintln!("no scenario `{scenario}` with planted bug `{planted}`; see --list");
    }
    found
}

fn say(failure: &Failure) {
    println!(
        "FAILED seed {}: {}\n  repeat with: {}",
        failure.seed, failure.violation, failure.repeat
    );
}

fn run(scenario: &'static dyn Scenario, options: &Options) -> ExitCode {
    let planted = options.planted.as_deref();
    let started = std::time::Instant::now();
    let summary = sweep(
        scenario,
        options.seeds(),
        options.minutes,
        planted,
        planted.is_some(),
        options.threads(),
        &say,
    );
    let (passed, failed) = (summary.passed, summary.failures.len());
    println!(
        "scenario {}, {} virtual minutes of faults per seed",
        scenario.name(),
        options.minutes
    );
    for (name, count) in summary.counters.iter() {
        println!("  {name:<28} {count}");
    }
    let runs = (passed + failed as u64).max(1);
    let virtual_seconds = (runs * options.minutes * 60) as f64;
    println!(
        "  {:.3} CPU s per seed, {:.0} times real time per core, {:.1} s in all",
        summary.busy_seconds / runs as f64,
        virtual_seconds / summary.busy_seconds.max(1e-9),
        started.elapsed().as_secs_f64(),
    );
    let mut succeeded = failed == 0;
    if let Some(name) = planted {
        match summary.failures.first() {
            Some(failure) => println!("planted bug {name} found, first by seed {}", failure.seed),
            None => println!("planted bug {name} NOT found"),
        }
        succeeded = failed > 0;
    } else if failed == 0 {
        for name in scenario.floors() {
            if summary.counters.get(name) == 0 {
                println!(
                    "warning: nothing counted for `{name}`: these seeds prove nothing about it"
                );
            }
        }
        let full = is_full(runs, options.minutes);
        for short in short(scenario, &summary.counters, runs, options.minutes) {
            println!(
                "{}: `{}` came to {}, its floor is {}: these seeds prove too little about it",
                if full { "FAILED" } else { "warning" },
                short.name,
                short.count,
                short.floor
            );
            succeeded &= !full;
        }
    }
    if options.record && planted.is_none() {
        let seeds = options.seeds();
        let row = Record {
            scenario: scenario.name(),
            seeds: format!("{}..{}", seeds.start, seeds.end),
            minutes: options.minutes,
            passed,
            failed: failed as u64,
            seconds_per_seed: summary.busy_seconds / runs as f64,
            counters: &summary.counters,
        };
        if let Err(error) = record(&row) {
            println!("not recorded: {error}");
            succeeded = false;
        }
    }
    println!("{passed} passed, {failed} failed");
    if succeeded {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn trace(scenario: &dyn Scenario, seed: u64, options: &Options) -> ExitCode {
    let path = format!("sim-trace-{seed}.log");
    let file = match File::create(&path) {
        Ok(file) => file,
        Err(error) => {
            eprintln!("cannot create {path}: {error}");
            return ExitCode::FAILURE;
        }
    };
    let mut run = Run::new(
        scenario.name(),
        seed,
        options.minutes,
        options.planted.as_deref(),
    );
    run.log = Some(Box::new(BufWriter::new(file)));
    let outcome = run_caught(scenario, &mut run);
    println!("events of seed {seed} in {path}");
    println!("seed {seed} trace hash {:#018x}", run.trace_hash);
    match outcome {
        Ok(counters) => {
            println!("{counters}\n1 passed, 0 failed");
            ExitCode::SUCCESS
        }
        Err(violation) => {
            say(&Failure {
                seed,
                violation,
                repeat: run.repeat,
            });
            println!("0 passed, 1 failed");
            ExitCode::FAILURE
        }
    }
}

fn hashes(scenario: &dyn Scenario, options: &Options) -> ExitCode {
    for seed in options.seeds() {
        let mut run = Run::new(
            scenario.name(),
            seed,
            options.minutes,
            options.planted.as_deref(),
        );
        let outcome = run_caught(scenario, &mut run);
        let verdict = if outcome.is_ok() { "passed" } else { "failed" };
        println!("seed {seed} trace hash {:#018x} {verdict}", run.trace_hash);
    }
    ExitCode::SUCCESS
}
