//! Scenarios: what is run under a seed, and the registry of them.

use crate::disk::Omissions;
use crate::report::{Counters, Promise, Violation, catch};
use crate::world::{Handle, World, WorldConfig};
use std::io::Write;
use std::time::Duration;

/// One run of a scenario.
pub struct Run<'a> {
    /// The seed.
    pub seed: u64,
    /// Virtual time during which faults strike.
    pub duration: Duration,
    /// The planted bug, if any.
    pub planted: Option<&'a str>,
    /// The command that repeats this run.
    pub repeat: String,
    /// Where the event log goes, if anywhere; taken by [`Run::world`].
    pub log: Option<Box<dyn Write>>,
    /// The hash of the trace; set by [`Run::finish`].
    pub trace_hash: u64,
}

impl<'a> Run<'a> {
    /// A run without a log.
    #[must_use]
    pub fn new(scenario: &str, seed: u64, minutes: u64, planted: Option<&'a str>) -> Self {
        let mut repeat = format!(
            "cargo run --release -p sim -- --scenario {scenario} --seeds {seed}..{} --minutes {minutes}",
            seed + 1
        );
        if let Some(name) = planted {
            repeat.push_str(&format!(" --planted {name}"));
        }
        let duration = Duration::from_secs(60 * minutes);
        Self {
            seed,
            duration,
            planted,
            repeat,
            log: None,
            trace_hash: 0,
        }
    }

    /// The usual world of this run. `tune` may change its configuration first.
    pub fn world(&mut self, tune: impl FnOnce(&mut WorldConfig)) -> World {
        let mut config = WorldConfig::new(self.seed);
        config.repeat.clone_from(&self.repeat);
        tune(&mut config);
        let world = World::with_config(config);
        if let Some(log) = self.log.take() {
            world.log_to(log);
        }
        world
    }

    /// Ends a run: keeps the trace hash; the counters if no promise was violated.
    ///
    /// # Errors
    /// The violated promise.
    pub fn finish(&mut self, world: &World) -> Result<Counters, Violation> {
        self.trace_hash = world.trace_hash();
        match world.violation() {
            Some(violation) => Err(violation),
            None => {
                let mut counters = world.counters();
                counters.add("polls", world.polls());
                Ok(counters)
            }
        }
    }

    /// The planted bug is this one.
    #[must_use]
    pub fn is_planted(&self, name: &str) -> bool {
        self.planted == Some(name)
    }
}

/// A system under test, its workload, its faults and its checks.
pub trait Scenario: Sync {
    /// Its name on the command line.
    fn name(&self) -> &'static str;

    /// Bugs that can be planted in it, besides those of [`Scenario::finds_seam_bugs`].
    fn planted(&self) -> &'static [&'static str];

    /// Bugs that can be planted in it and that it cannot find: other rules stand behind them.
    fn unproven(&self) -> &'static [&'static str] {
        &[]
    }

    /// Which of the bugs below the seam ([`SEAM_BUGS`]) it must find.
    fn finds_seam_bugs(&self) -> &'static [&'static str] {
        &[]
    }

    /// Counters that must not be zero over a range of seeds: else the run proved nothing.
    fn floors(&self) -> &'static [&'static str] {
        &[]
    }

    /// Counters that must come to [`crate::runner::FLOOR`] in a thousand seeds of ten minutes (reliability.md S11).
    fn exercised(&self) -> &'static [&'static str] {
        &[]
    }

    /// Runs it once.
    ///
    /// # Errors
    /// The first promise that was violated.
    fn run(&self, run: &mut Run<'_>) -> Result<Counters, Violation>;
}

/// Bugs planted below the seam, for any scenario whose daemons write and sync in all the ways there are.
pub const SEAM_BUGS: [&str; 4] = [
    "skip-fsync",
    "skip-dir-sync",
    "skip-dsync",
    "swallow-write-errors",
];

/// What the disk leaves out under that planted bug; nothing for bugs of other kinds.
#[must_use]
pub fn omissions(planted: Option<&str>) -> Omissions {
    let mut omissions = Omissions::default();
    match planted {
        Some("skip-fsync") => omissions.file_sync = true,
        Some("skip-dir-sync") => omissions.dir_sync = true,
        Some("skip-dsync") => omissions.dsync = true,
        Some("swallow-write-errors") => omissions.write_errors = true,
        _ => {}
    }
    omissions
}

impl Handle {
    /// Plants a bug below the seam on the disks of these nodes.
    pub fn plant(&self, planted: Option<&str>, nodes: &[crate::NodeId]) {
        for node in nodes {
            self.disk_of(*node).set_omissions(omissions(planted));
        }
    }
}

/// All scenarios; the first is the default.
#[must_use]
pub fn registry() -> &'static [&'static dyn Scenario] {
    &[
        &crate::scenarios::cluster::WholeCluster,
        &crate::scenarios::duel::Duel,
        &crate::scenarios::ledger::Ledger,
        &crate::scenarios::records::Records,
        &crate::scenarios::quic::QuicInTheLoop,
    ]
}

/// The scenario of that name, or the default.
#[must_use]
pub fn find(name: Option<&str>) -> Option<&'static dyn Scenario> {
    let all = registry();
    match name {
        None => all.first().copied(),
        Some(name) => all.iter().find(|scenario| scenario.name() == name).copied(),
    }
}

/// Runs a scenario once; a panic in it is a violation too.
///
/// # Errors
/// The first promise that was violated.
pub fn run_caught(scenario: &dyn Scenario, run: &mut Run<'_>) -> Result<Counters, Violation> {
    catch(|| scenario.run(run)).unwrap_or_else(|words| {
        Err(Violation {
            promise: Promise::P10,
            detail: format!("panic: {words}"),
        })
    })
}
