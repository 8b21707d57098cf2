//! Duels: JournalNodes and NameNodes without DataNodes, under faults aimed at the rule of one writer. Cheap, so that many
//! rounds are fought.
//!
//! * Even seeds, **claims**: three NameNodes of which each is configured as the only one. No lease stands between them,
//!   so that the journal alone must keep its promises (`protocols.md` section 1), and claims overlap all the time.
//!   See [`claims`].
//! * Odd seeds, **roles**: a pair with its lease, whose reads must be linearizable. See [`roles`].
//!
//! Promises are checked at every instant at which a JournalNode's disk changed: one writer per epoch and promises that
//! bind (P3), acknowledged edits at a majority from the acknowledgement on, what is finalised stays (P2); reads of a pair
//! see everything that was acknowledged before they began (P1). At the end writing goes on (P7), and every directory
//! that was acknowledged is there (P2).

mod callers;
mod claims;
mod roles;

use super::cluster::audit::Audit;
use super::cluster::images::Images;
use super::cluster::nodes::{
    JOURNALNODES, SUPERUSER, Task, journalnode, journalnode_address, journalnode_config,
    journalnode_name, namenode, namenode_address, namenode_name,
};
use super::cluster::planted::Planted;
use super::cluster::tempo::QUICK;
use crate::env::SimEnv;
use crate::nemesis::make_whole;
use crate::node::{Crash, NodeId, NodeSpec};
use crate::report::{Counters, Promise, Violation};
use crate::rng::{Rng, Stream};
use crate::scenario::{Run, Scenario};
use crate::world::Handle;
use callers::Caller;
use futures_util::future::select;
use hadal_types::Role;
use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::future::{pending, poll_fn};
use std::pin::pin;
use std::rc::Rc;
use std::task::{Poll, Waker};
use std::time::Duration;

/// The scenario.
pub(crate) struct Duel;

/// Bugs of the journal: found by claims.
const OF_CLAIMS: [&str; 4] = [
    "skip-epoch-check",
    "forget-acceptance",
    "compare-lengths",
    "longest-wins",
];

/// Bugs of the lease: found by roles.
const OF_ROLES: [&str; 2] = ["grant-over-lease", "serve-after-lapse"];

/// All of them.
const PLANTED: [&str; 6] = [
    OF_CLAIMS[0],
    OF_CLAIMS[1],
    OF_CLAIMS[2],
    OF_CLAIMS[3],
    OF_ROLES[0],
    OF_ROLES[1],
];

/// Rules that others stand behind, so that no fault of the model makes their absence show: the README says why.
const UNPROVEN: [&str; 2] = ["trust-marks", "count-old-incarnations"];

/// NameNodes that claim, and those of a pair.
const CLAIMANTS: usize = 3;
/// See [`CLAIMANTS`].
const PAIR: usize = 2;
/// Callers that write, per NameNode, and readers.
const WRITERS: usize = 4;
/// See [`WRITERS`].
const READERS: usize = 1;
/// From nothing to the first directory.
const START_LIMIT: Duration = Duration::from_secs(60);
/// Progress is owed within this time (reliability.md S8).
const HEAL_LIMIT: Duration = Duration::from_secs(120);

/// What all parts of a run share.
#[derive(Clone)]
struct Scene {
    handle: Handle,
    journalnodes: Rc<[NodeId]>,
    namenodes: Rc<[NodeId]>,
    audit: Rc<RefCell<Audit>>,
    /// Highest txid acknowledged to anybody, and by which NameNode.
    frontier: Rc<Cell<u64>>,
    acknowledged_by: Rc<Cell<usize>>,
    /// Directories acknowledged.
    made: Rc<RefCell<BTreeSet<String>>>,
    /// How many callers of a NameNode write.
    writers: Rc<[Cell<usize>]>,
    waiting: Rc<RefCell<Vec<Waker>>>,
    steps: Rc<Cell<u64>>,
}

impl Scene {
    /// Looks at what changed since the last step, and wakes who waits for that.
    fn step(&self, seen: &Cell<u64>) {
        let frontier = self.frontier.get();
        let changed = self.audit.borrow_mut().step();
        if changed || seen.replace(frontier) != frontier {
            self.steps.set(self.steps.get() + 1);
            for waker in self.waiting.borrow_mut().drain(..) {
                waker.wake();
            }
        }
    }

    /// The next instant at which something changed.
    async fn changed(&self) {
        let mark = self.steps.get();
        poll_fn(|cx| {
            if self.steps.get() != mark {
                return Poll::Ready(());
            }
            self.waiting.borrow_mut().push(cx.waker().clone());
            Poll::Pending
        })
        .await;
    }

    /// Waits until it is so; whether it was so in time.
    async fn until(&self, limit_ms: u64, mut so: impl FnMut(&Self) -> bool) -> bool {
        let end = self.handle.now() + Duration::from_millis(limit_ms);
        loop {
            if so(self) {
                return true;
            }
            let now = self.handle.now();
            if now >= end {
                return false;
            }
            let late = self.handle.sleep(end - now);
            select(pin!(self.changed()), pin!(late)).await;
        }
    }

    async fn wait(&self, rng: &mut Rng, low_ms: u64, high_ms: u64) {
        let wait = Duration::from_millis(rng.range(low_ms, high_ms));
        self.handle.sleep(wait).await;
    }

    fn write_all(&self) {
        for writers in self.writers.iter() {
            writers.set(WRITERS);
        }
    }

    /// Ends a JournalNode; it is back a little later.
    fn restart_journalnode(&self, index: usize, crash: Crash, after_ms: u64) {
        let node = self.journalnodes[index];
        self.handle.crash(node, crash);
        let wait = Duration::from_millis(after_ms);
        self.handle.at(wait, move |handle| handle.restart(node));
    }

    /// Everything is whole and everybody runs, for a while.
    async fn calm(&self, rng: &mut Rng) {
        let all = [&self.journalnodes[..], &self.namenodes[..]].concat();
        make_whole(&self.handle, &all);
        self.write_all();
        self.wait(rng, 100, 1_200).await;
        self.audit.borrow_mut().look();
    }

    /// Owed at the end.
    fn check_end(&self, admin: NodeId, seen: &Cell<u64>) {
        let handle = &self.handle;
        let all = [&self.journalnodes[..], &self.namenodes[..]].concat();
        make_whole(handle, &all);
        self.write_all();
        if self.namenodes.len() == CLAIMANTS {
            // They would take the journal from each other for ever.
            for node in &self.namenodes[1..] {
                handle.crash(*node, Crash::Process);
            }
        }
        let before = self.frontier.get();
        let goes_on = handle.run_until(HEAL_LIMIT, || {
            self.step(seen);
            self.frontier.get() > before
        });
        if !goes_on {
            let detail = format!("nothing is written within {HEAL_LIMIT:?} after the last fault");
            return handle.violate(Promise::P7, detail);
        }
        let listed = Rc::new(RefCell::new(None));
        let listing = callers::list(self.clone(), handle.env_of(admin), Rc::clone(&listed));
        handle.spawn_on(admin, "listing", listing);
        let made = self.made.borrow().clone();
        handle.run_until(HEAL_LIMIT, || {
            self.step(seen);
            listed.borrow().is_some()
        });
        let listed = listed.borrow();
        let Some(listed) = listed.as_ref() else {
            return handle.violate(Promise::P7, "the root cannot be listed after healing");
        };
        handle.count("directories found again", made.len() as u64);
        if let Some(lost) = made.difference(listed).next() {
            handle.violate(Promise::P2, format!("the acknowledged {lost} is lost"));
        }
    }
}

/// Whether NameNodes of this run hold leases.
fn has_leases(run: &Run<'_>) -> bool {
    match run.planted {
        Some(name) if OF_ROLES.contains(&name) => true,
        Some(name) if OF_CLAIMS.contains(&name) => false,
        _ => run.seed % 2 == 1,
    }
}

/// Starts all nodes.
fn start_nodes(world: &Handle, run: &Run<'_>) -> (Vec<NodeId>, Vec<NodeId>) {
    let planted = Planted::named(run.planted);
    let journalnodes = (0..JOURNALNODES)
        .map(|index| {
            let mut config = journalnode_config(index, QUICK, planted);
            config.segment_bytes = 4 << 10;
            let start = move |env: SimEnv| -> Task { Box::pin(journalnode(env, config.clone())) };
            let (name, address) = (journalnode_name(index), journalnode_address(index));
            world.add_node(&name, Role::Journalnode, address, start)
        })
        .collect();
    let leases = has_leases(run);
    let count = if leases { PAIR } else { CLAIMANTS };
    let namenodes = (0..count)
        .map(|index| {
            let start = move |env: SimEnv| -> Task {
                let images = Images::never();
                Box::pin(namenode(env, index, count, !leases, images, QUICK, planted))
            };
            let (name, address) = (namenode_name(index), namenode_address(index));
            world.add_node(&name, Role::Namenode, address, start)
        })
        .collect();
    (journalnodes, namenodes)
}

impl Scenario for Duel {
    fn name(&self) -> &'static str {
        "duel"
    }

    fn planted(&self) -> &'static [&'static str] {
        &PLANTED
    }

    fn unproven(&self) -> &'static [&'static str] {
        &UNPROVEN
    }

    fn floors(&self) -> &'static [&'static str] {
        &[
            "queue lengths told",
            "directories made",
            "directories found again",
            "reads of a pair",
            "acknowledged edits found at a majority",
            "finalised edits compared",
            "figure acceptance",
            "figure lengths",
            "figure longest",
            "figure late words",
            "figure turns",
            "figure deaf",
            "figure sleepers",
            "claims taken up",
            "tails left",
        ]
    }

    fn run(&self, run: &mut Run<'_>) -> Result<Counters, Violation> {
        let world = run.world(|config| {
            config.net.idle_timeout_ms = 10_000;
            config.net.handshake_timeout_ms = 3_000;
        });
        let handle = world.handle();
        let (journalnodes, namenodes) = start_nodes(&handle, run);
        let frontier = Rc::new(Cell::new(0));
        let audit = Audit::new(world.handle(), Rc::clone(&frontier), &journalnodes);
        let scene = Scene {
            handle: world.handle(),
            audit: Rc::new(RefCell::new(audit)),
            frontier,
            acknowledged_by: Rc::default(),
            made: Rc::default(),
            writers: namenodes.iter().map(|_| Cell::new(WRITERS)).collect(),
            waiting: Rc::default(),
            steps: Rc::default(),
            journalnodes: journalnodes.into(),
            namenodes: namenodes.into(),
        };
        let address = std::net::SocketAddr::from(([10, 0, 3, 1], 40_000));
        let spec = NodeSpec::new(SUPERUSER, Role::Admin, address);
        let admin = world.add_node_with(&spec, |_: SimEnv| -> Task { Box::pin(pending()) });
        let mut rng = world.rng(Stream::Workload, 0);
        for namenode in 0..scene.namenodes.len() {
            for number in 0..WRITERS + READERS {
                let caller = Caller::new(&scene, world.env_of(admin), namenode, number, rng.fork());
                world.spawn_on(admin, "caller", caller.run());
            }
        }
        let seen = Cell::new(0);
        let started = world.run_until(START_LIMIT, || {
            scene.step(&seen);
            scene.frontier.get() > 0
        });
        if !started {
            world.violate(
                Promise::P7,
                format!("nothing is written within {START_LIMIT:?} without faults"),
            );
            return run.finish(&world);
        }
        let mut rng = world.rng(Stream::Faults, 0);
        for node in scene.journalnodes.iter().chain(scene.namenodes.iter()) {
            if rng.chance(1, 3) {
                let rate = rng.range(0, 100_000) as i32 - 50_000;
                world.set_clock_rate_ppm(*node, rate);
            }
        }
        let end = world.now() + run.duration;
        if has_leases(run) {
            world.spawn("roles", roles::run(scene.clone(), rng, end));
        } else {
            world.spawn("claims", claims::run(scene.clone(), rng, end));
        }
        world.run_until(run.duration + Duration::from_secs(1), || {
            scene.step(&seen);
            false
        });
        if world.violation().is_none() {
            scene.check_end(admin, &seen);
        }
        if world.violation().is_none() {
            scene.audit.borrow_mut().look();
        }
        run.finish(&world)
    }
}
