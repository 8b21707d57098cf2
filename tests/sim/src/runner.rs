//! Runs a range of seeds on several threads, one world each, and gathers what they say.

use crate::report::{Counters, Violation};
use crate::scenario::{Run, Scenario, run_caught};
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Instant;

/// A seed that failed.
#[derive(Clone, Debug)]
pub struct Failure {
    /// The seed.
    pub seed: u64,
    /// What was violated.
    pub violation: Violation,
    /// The command that repeats it.
    pub repeat: String,
}

/// What came of a range of seeds.
#[derive(Clone, Default, Debug)]
pub struct Summary {
    /// Seeds without a violation.
    pub passed: u64,
    /// The others, by seed.
    pub failures: Vec<Failure>,
    /// Sum of all counters of the passed ones.
    pub counters: Counters,
    /// Seconds of processor time the runs took (wall time where the system does not tell).
    pub busy_seconds: f64,
}

/// What each counter of [`Scenario::exercised`] must come to in [`FULL_SEEDS`] seeds of [`FULL_MINUTES`].
pub const FLOOR: u64 = 100;
/// See [`FLOOR`].
pub const FULL_SEEDS: u64 = 1_000;
/// See [`FLOOR`].
pub const FULL_MINUTES: u64 = 10;
/// Fewer seeds say nothing about a floor.
const SEEDS_MIN: u64 = 300;

/// A counter that stayed below its floor: what was run proves too little about it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Short {
    /// Its name.
    pub name: &'static str,
    /// What it came to.
    pub count: u64,
    /// What it had to come to in that many seeds of that length.
    pub floor: u64,
}

/// The counters that are below their floors after so many seeds of so many virtual minutes; none with too few seeds to
/// tell.
#[must_use]
pub fn short(scenario: &dyn Scenario, counters: &Counters, seeds: u64, minutes: u64) -> Vec<Short> {
    if seeds < SEEDS_MIN {
        return Vec::new();
    }
    let floor = FLOOR * seeds * minutes / (FULL_SEEDS * FULL_MINUTES);
    let names = scenario.exercised().iter();
    names
        .map(|name| Short {
            name,
            count: counters.get(name),
            floor,
        })
        .filter(|short| short.count < floor)
        .collect()
}

/// Whether a run is long enough for a counter below its floor to be a failure.
#[must_use]
pub fn is_full(seeds: u64, minutes: u64) -> bool {
    seeds >= FULL_SEEDS && minutes >= FULL_MINUTES
}

/// Seconds of processor time this thread has had.
fn cpu_seconds() -> f64 {
    static START: OnceLock<Instant> = OnceLock::new();
    let told = std::fs::read_to_string("/proc/thread-self/schedstat").ok();
    let nanos = told.and_then(|text| text.split(' ').next()?.parse::<f64>().ok());
    nanos.map_or_else(
        || START.get_or_init(Instant::now).elapsed().as_secs_f64(),
        |nanos| nanos / 1e9,
    )
}

/// Runs all seeds. With `until_first`, stops early once a failure is found that no lower seed can
/// precede. `report` is called for each failure as it happens.
pub fn sweep(
    scenario: &dyn Scenario,
    seeds: Range<u64>,
    minutes: u64,
    planted: Option<&str>,
    until_first: bool,
    threads: usize,
    report: &(dyn Fn(&Failure) + Sync),
) -> Summary {
    let next = AtomicU64::new(seeds.start);
    let first_failure = AtomicU64::new(u64::MAX);
    let summary = Mutex::new(Summary::default());
    std::thread::scope(|scope| {
        for _ in 0..threads.max(1) {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds.end
                        || (until_first && seed > first_failure.load(Ordering::Relaxed))
                    {
                        return;
                    }
                    let started = cpu_seconds();
                    let mut run = Run::new(scenario.name(), seed, minutes, planted);
                    let outcome = run_caught(scenario, &mut run);
                    let seconds = cpu_seconds() - started;
                    let mut summary = summary.lock().unwrap_or_else(PoisonError::into_inner);
                    summary.busy_seconds += seconds;
                    match outcome {
                        Ok(counters) => {
                            summary.passed += 1;
                            summary.counters.merge(&counters);
                        }
                        Err(violation) => {
                            first_failure.fetch_min(seed, Ordering::Relaxed);
                            let failure = Failure {
                                seed,
                                violation,
                                repeat: run.repeat,
                            };
                            report(&failure);
                            summary.failures.push(failure);
                        }
                    }
                }
            });
        }
    });
    let mut summary = summary.into_inner().unwrap_or_else(PoisonError::into_inner);
    summary.failures.sort_by_key(|failure| failure.seed);
    if until_first && let Some(first) = summary.failures.first() {
        // What other threads did beyond it depends on their speed.
        summary.passed = first.seed - seeds.start;
        summary.failures.truncate(1);
    }
    summary
}
