//! The whole cluster: JournalNodes, one NameNode or two, DataNodes and clients, the real drivers and the real client
//! library, under a swarm of faults.
//!
//! Promises checked, with the rules in [`model`], [`workload`] and [`check`]: acknowledged operations of the
//! namespace are there and take effect once (P1, P2); JournalNodes agree on what is committed (P2, P3); closed files
//! are read back byte for byte (P4, P5); what was deleted stays so (P6); once faults stop the cluster is whole again
//! within two minutes (P7); no node answers `Internal` (P10).

pub(super) mod audit;
mod blackout;
mod check;
mod duel;
mod durability;
pub(super) mod images;
mod model;
pub(super) mod nodes;
pub(super) mod planted;
pub(super) mod tempo;
mod workload;

use crate::nemesis::{Fault, Nemesis};
use crate::node::NodeId;
use crate::report::{Counters, Promise, Violation};
use crate::rng::Stream;
use crate::scenario::{Run, SEAM_BUGS, Scenario};
use crate::world::Handle;
use audit::Audit;
use images::Images;
use nodes::Cluster;
use planted::Planted;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;
use tempo::Tempo;

/// The scenario.
pub(crate) struct WholeCluster;

/// Faults under which every promise is owed.
const FAULTS: [Fault; 16] = [
    Fault::Kill,
    Fault::PowerFailure,
    Fault::Pause,
    Fault::Isolate,
    Fault::Split,
    Fault::OneWay,
    Fault::Partial,
    Fault::Clog,
    Fault::Loss,
    Fault::Reset,
    Fault::FailDials,
    Fault::SlowDisk,
    Fault::ClockRate,
    Fault::WallJump,
    Fault::DiskFull,
    Fault::DiskErrors,
];

/// What a run must have seen often (reliability.md S11).
const EXERCISED: [&str; 8] = [
    "elections",
    "fenced writes",
    "pipeline recoveries",
    "block recoveries",
    "lease recoveries",
    "checkpoints",
    "safe-mode exits",
    "disk faults hit",
];

/// From nothing to the first directory.
const START_LIMIT: Duration = Duration::from_secs(120);

/// NameNodes of a seed's cluster: in a third of all one that serves alone, in the others two. With a planted bug one,
/// as most show with one, and an active of two that is cut off steps down before some of them do; but two with those
/// that need two writers.
fn namenodes(run: &Run<'_>) -> usize {
    match run.planted {
        Some(name) if planted::needs_two(name) => 2,
        Some(_) => 1,
        None if run.seed.is_multiple_of(3) => 1,
        None => 2,
    }
}

/// One finished operation of a client.
#[derive(Clone, Debug)]
pub(crate) struct Operation {
    client: usize,
    start: Duration,
    end: Duration,
    what: String,
    outcome: String,
    seen_txid: u64,
}

/// What clients and checkers share.
#[derive(Clone)]
pub(crate) struct Ctx {
    handle: Handle,
    /// Clients start nothing new.
    stop: Rc<Cell<bool>>,
    /// Clients that have ended.
    ended: Rc<Cell<usize>>,
    /// Highest txid of an acknowledged mutation.
    frontier: Rc<Cell<u64>>,
    history: Rc<RefCell<Vec<Operation>>>,
    /// Who was told to have created or renamed a name that only one can.
    winners: Rc<RefCell<BTreeMap<String, usize>>>,
    trees: Rc<RefCell<Vec<model::Tree>>>,
    datanodes: Rc<[NodeId]>,
}

impl Ctx {
    fn new(handle: Handle, datanodes: &[NodeId]) -> Self {
        Self {
            handle,
            datanodes: datanodes.into(),
            stop: Rc::default(),
            ended: Rc::default(),
            frontier: Rc::default(),
            history: Rc::default(),
            winners: Rc::default(),
            trees: Rc::default(),
        }
    }

    /// The last operations of a client, for the words of a violation.
    fn last_operations(&self, client: usize) -> String {
        let history = self.history.borrow();
        let mut last: Vec<String> = history
            .iter()
            .rev()
            .filter(|operation| operation.client == client)
            .take(4)
            .map(|operation| {
                format!(
                    "{:.3}..{:.3} s {} -> {} (txid {})",
                    operation.start.as_secs_f64(),
                    operation.end.as_secs_f64(),
                    operation.what,
                    operation.outcome,
                    operation.seen_txid
                )
            })
            .collect();
        last.reverse();
        last.join("; ")
    }
}

impl Scenario for WholeCluster {
    fn name(&self) -> &'static str {
        "cluster"
    }

    fn planted(&self) -> &'static [&'static str] {
        &planted::NAMES
    }

    fn unproven(&self) -> &'static [&'static str] {
        &planted::UNPROVEN
    }

    fn finds_seam_bugs(&self) -> &'static [&'static str] {
        &SEAM_BUGS
    }

    fn floors(&self) -> &'static [&'static str] {
        &[
            "queue lengths told",
            "operations acknowledged",
            "operations unknown",
            "files closed",
            "files read back",
            "bytes read back",
            "hflushes",
            "hsyncs",
            "files left open",
            "tails at one node",
            "tails recovered at once",
            "leases recovered",
            "flushed files kept",
            "namenode starts",
            "namenode starts from an image",
            "checkpoints",
            "images saved by order",
            "NameNode ended behind an image",
            "segments purged",
            "power failures",
            "unsynced writes lost",
            "edits compared",
            "acknowledged edits found at a majority",
            "finalised edits compared",
            "epochs of writers during faults",
            "duels",
            "JournalNode wiped",
            "JournalNode rolled back",
            "JournalNode rots",
            "digests compared",
        ]
    }

    fn exercised(&self) -> &'static [&'static str] {
        &EXERCISED
    }

    fn run(&self, run: &mut Run<'_>) -> Result<Counters, Violation> {
        let world = run.world(|config| {
            config.net.idle_timeout_ms = 10_000;
            config.net.handshake_timeout_ms = 3_000;
        });
        for name in EXERCISED {
            // What never happens is shown, too.
            world.count(name, 0);
        }
        let mut rng = world.rng(Stream::Workload, 0);
        let images = Images::of(&mut world.rng(Stream::Faults, 6));
        let tempo = Tempo::of(run, &mut world.rng(Stream::Faults, 8));
        let cluster = Cluster::start(
            &world,
            &mut rng,
            namenodes(run),
            &images,
            tempo,
            Planted::named(run.planted),
        );
        let ctx = Ctx::new(world.handle(), &cluster.datanodes);
        world.plant(run.planted, &cluster.daemons());
        let clients = rng.range(2, 4) as usize;
        let names: Vec<String> = (1..=clients).map(|n| format!("user{n}")).collect();

        let ready = Rc::new(Cell::new(false));
        let setup = check::set_up(
            cluster.admin_dfs(&world),
            names.clone(),
            run.duration,
            Rc::clone(&ready),
        );
        world.spawn_on(cluster.admin, "set up", setup);
        if !world.run_until(START_LIMIT, || ready.get()) {
            world.violate(
                Promise::P7,
                format!("a new cluster does not start within {START_LIMIT:?} without faults"),
            );
            return run.finish(&world);
        }

        let mut bystanders = vec![cluster.admin];
        for (index, name) in names.iter().enumerate() {
            let node = world.add_client(name);
            bystanders.push(node);
            ctx.trees.borrow_mut().push(model::Tree::new(name));
            let dfs = cluster.dfs(&world, node);
            let client = workload::Client::new(
                ctx.clone(),
                dfs,
                world.env_of(node),
                index,
                workload::Pace::new(run.duration, rng.fork()),
                rng.fork(),
            );
            world.spawn_on(node, "workload", client.run());
        }
        let nemesis = Nemesis::swarm(&world, &cluster.daemons(), &bystanders, &FAULTS);
        let end = world.now() + run.duration;
        blackout::start(&world, &cluster, world.rng(Stream::Faults, 1), end);
        let audit = Rc::new(RefCell::new(Audit::new(
            world.handle(),
            Rc::clone(&ctx.frontier),
            &cluster.journalnodes,
        )));
        duel::start(&world, &cluster, &audit, world.rng(Stream::Faults, 4), end);
        images::start(
            &world,
            &cluster,
            &images,
            &audit,
            world.rng(Stream::Faults, 7),
            end,
        );
        let watch = audit::watch(
            world.clone(),
            Rc::clone(&audit),
            world.rng(Stream::Faults, 5),
            end,
        );
        world.spawn("audit", watch);
        world.spawn("nemesis", nemesis.run(end));
        world.run_for(run.duration + Duration::from_secs(1));
        if world.violation().is_none() {
            check::after_healing(&world, &ctx, &cluster, run.seed % 2 == 1);
        }
        if world.violation().is_none() {
            audit.borrow_mut().look();
        }
        run.finish(&world)
    }
}
