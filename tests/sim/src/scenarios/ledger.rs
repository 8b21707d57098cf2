//! The ledger: servers that log records and acknowledge them once durable, clients that remember every
//! acknowledgement. It is here to prove that the world finds bugs in code that is wrong about disks,
//! crashes and networks, before the real cluster moves in.
//!
//! Promises: an acknowledged record is in the log of the server that acknowledged it after every restart
//! (P2); a record read back is one some client sent, byte for byte (P5); once faults stop every server
//! acknowledges again within a minute (P7).

mod log;
mod wire;

use crate::env::SimEnv;
use crate::nemesis::{Fault, Nemesis, make_whole};
use crate::node::NodeId;
use crate::report::{Counters, Promise, Violation};
use crate::rng::{Rng, Stream};
use crate::scenario::{Run, SEAM_BUGS, Scenario};
use crate::world::Handle;
use futures_util::future::{Either, select};
use hadal_env::{Clock, Conn, Disk, Env, Expect, Net, NetError, NetErrorKind, Seam, SendStream};
use hadal_types::Role;
use log::Log;
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::net::SocketAddr;
use std::path::Path;
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;
use wire::{Queue, Reader, Record, ack};

/// The scenario.
pub(crate) struct Ledger;

/// Bugs planted in the ledger's own code.
#[derive(Clone, Copy, Default)]
struct Bugs {
    /// Acknowledges first, syncs a little later.
    ack_before_sync: bool,
    /// After a failed sync, syncs again and believes it.
    retry_failed_sync: bool,
    /// Believes records whose hash is wrong.
    trust_torn_tail: bool,
    /// Appends behind a torn tail instead of cutting it.
    keep_torn_tail: bool,
    /// After a restart, appends behind bytes that may never have reached the medium.
    reuse_unsynced_tail: bool,
}

const PLANTED: [&str; 5] = [
    "ack-before-sync",
    "retry-failed-sync",
    "trust-torn-tail",
    "keep-torn-tail",
    "reuse-unsynced-tail",
];

const SERVERS: u16 = 3;
const CLIENTS: u16 = 2;

/// Exit code of a server whose disk failed it.
const EXIT_DISK: i32 = 74;

/// What the clients know.
#[derive(Default)]
struct Checker {
    acked: BTreeMap<NodeId, BTreeSet<(u32, u64)>>,
    last_ack: BTreeMap<NodeId, Duration>,
}

#[derive(Clone)]
struct Ctx {
    handle: Handle,
    checker: Rc<RefCell<Checker>>,
    bugs: Bugs,
    dsync: bool,
}

impl Ctx {
    fn acked(&self, server: NodeId, id: (u32, u64)) {
        self.handle.count("records acknowledged", 1);
        let mut checker = self.checker.borrow_mut();
        checker.acked.entry(server).or_default().insert(id);
        checker.last_ack.insert(server, self.handle.now());
    }

    /// A server came up and read its log: is everything there, and nothing else?
    fn recovered(&self, server: NodeId, records: &[Record]) {
        self.handle.count("recoveries", 1);
        self.handle.count("records read back", records.len() as u64);
        for record in records {
            if *record != Record::make(record.client, record.sequence) {
                let detail = format!(
                    "{} reads back record {:?} with bytes nobody sent",
                    self.handle.name(server),
                    record.id()
                );
                self.handle.violate(Promise::P5, detail);
            }
        }
        let present: BTreeSet<_> = records.iter().map(Record::id).collect();
        let checker = self.checker.borrow();
        let Some(acked) = checker.acked.get(&server) else {
            return;
        };
        let lost: Vec<_> = acked.difference(&present).collect();
        if let Some(first) = lost.first() {
            let detail = format!(
                "{} lost {} of {} acknowledged records, first {first:?}",
                self.handle.name(server),
                lost.len(),
                acked.len()
            );
            self.handle.violate(Promise::P2, detail);
        }
    }

    /// Records whose segment is about to be removed.
    fn removed(&self, server: NodeId, ids: &[(u32, u64)]) {
        if let Some(acked) = self.checker.borrow_mut().acked.get_mut(&server) {
            for id in ids {
                acked.remove(id);
            }
        }
    }
}

async fn within<T>(
    env: &SimEnv,
    limit_ms: u64,
    work: impl Future<Output = Result<T, NetError>>,
) -> Result<T, NetError> {
    let deadline = env.now().after_ms(limit_ms);
    match select(pin!(work), pin!(env.sleep_until(deadline))).await {
        Either::Left((result, _)) => result,
        Either::Right(_) => Err(NetError::new(NetErrorKind::Lost, "no answer in time")),
    }
}

/// A record to be logged and where its acknowledgement goes.
type Pending = (Record, Queue<(u32, u64)>);

/// A server's life.
async fn serve(env: SimEnv, ctx: Ctx) {
    let dir = Path::new("/ledger");
    let disk = env.disk();
    let opened = async {
        disk.create_dir_all(dir).await?;
        let (checks, server) = (ctx.clone(), env.node());
        let on_remove = Box::new(move |ids: &[(u32, u64)]| checks.removed(server, ids));
        let lock = disk.lock(&dir.join("in_use.lock")).await?;
        let (log, records) = Log::open(disk.clone(), dir, ctx.dsync, ctx.bugs, on_remove).await?;
        Ok::<_, log::LogError>((lock, log, records))
    };
    let (_lock, mut log, records) = match opened.await {
        Ok(opened) => opened,
        Err(log::LogError::Rotten(path)) => {
            ctx.handle.violate(
                Promise::P2,
                format!(
                    "{}: bad record in finished {}",
                    ctx.handle.name(env.node()),
                    path.display()
                ),
            );
            return;
        }
        Err(error) => return env.stop(EXIT_DISK, &format!("cannot open the log: {error}")),
    };
    ctx.recovered(env.node(), &records);
    let queue: Queue<Pending> = Queue::new();
    env.spawn("accept", accept_all(env.clone(), queue.clone()));
    loop {
        let batch = queue.take(16).await;
        let (records, replies): (Vec<Record>, Vec<_>) = batch.into_iter().unzip();
        if let Err(error) = log.append(&records).await {
            return env.stop(EXIT_DISK, &format!("cannot append: {error}"));
        }
        for (record, reply) in records.iter().zip(&replies) {
            reply.push(record.id());
        }
        if ctx.bugs.ack_before_sync {
            env.sleep_until(env.now().after_ms(5)).await;
            if let Err(error) = log.sync_late().await {
                return env.stop(EXIT_DISK, &format!("cannot sync: {error}"));
            }
        }
    }
}

async fn accept_all(env: SimEnv, queue: Queue<Pending>) {
    while let Some(conn) = env.net().accept().await {
        let (env, queue) = (env.clone(), queue.clone());
        env.clone().spawn("connection", async move {
            while let Ok((mut send, recv)) = conn.accept().await {
                let acks: Queue<(u32, u64)> = Queue::new();
                let (queue, to_send) = (queue.clone(), acks.clone());
                env.spawn("acks", async move {
                    loop {
                        let mut chunks: Vec<_> =
                            to_send.take(64).await.into_iter().map(ack).collect();
                        if send.write_chunks(&mut chunks).await.is_err() {
                            return;
                        }
                    }
                });
                let mut reader = Reader::new(recv);
                while let Ok(Some(record)) = reader.next().await {
                    queue.push((record, acks.clone()));
                }
            }
        });
    }
}

/// A client's side of one server: sends bursts of records and waits for their acknowledgements.
async fn drive(env: SimEnv, ctx: Ctx, client: u32, server: NodeId, addr: SocketAddr, mut rng: Rng) {
    let expect = Expect::node(Role::Journalnode, ctx.handle.name(server));
    let mut sequence = u64::from(server.0) << 32;
    loop {
        let outcome: Result<(), NetError> = async {
            let conn = env.net().connect(addr, &expect).await?;
            let (mut send, recv) = conn.open().await?;
            let mut reader = Reader::new(recv);
            loop {
                let count = rng.range(1, 8);
                let mut chunks = Vec::new();
                for number in sequence..sequence + count {
                    let mut bytes = Vec::new();
                    Record::make(client, number).encode(&mut bytes);
                    chunks.push(bytes.into());
                }
                sequence += count;
                within(&env, 2000, send.write_chunks(&mut chunks)).await?;
                for _ in 0..count {
                    match within(&env, 2000, reader.next()).await? {
                        Some(record) => ctx.acked(server, record.id()),
                        None => return Ok(()),
                    }
                }
                env.sleep_until(env.now().after_ms(rng.range(1, 1500)))
                    .await;
            }
        }
        .await;
        ctx.handle
            .count("client retries", u64::from(outcome.is_err()));
        env.sleep_until(env.now().after_ms(rng.range(10, 500)))
            .await;
    }
}

impl Scenario for Ledger {
    fn name(&self) -> &'static str {
        "ledger"
    }

    fn planted(&self) -> &'static [&'static str] {
        &PLANTED
    }

    fn finds_seam_bugs(&self) -> &'static [&'static str] {
        &SEAM_BUGS
    }

    fn floors(&self) -> &'static [&'static str] {
        &[
            "records acknowledged",
            "records read back",
            "recoveries",
            "disk errors injected",
            "unsynced writes lost",
            "unsynced writes torn",
        ]
    }

    fn run(&self, run: &mut Run<'_>) -> Result<Counters, Violation> {
        let bugs = Bugs {
            ack_before_sync: run.is_planted("ack-before-sync"),
            retry_failed_sync: run.is_planted("retry-failed-sync"),
            trust_torn_tail: run.is_planted("trust-torn-tail"),
            keep_torn_tail: run.is_planted("keep-torn-tail"),
            reuse_unsynced_tail: run.is_planted("reuse-unsynced-tail"),
        };
        let world = run.world(|_| {});
        let mut rng = world.rng(Stream::Workload, 0);
        let ctx = Ctx {
            handle: world.handle(),
            checker: Rc::default(),
            bugs,
            dsync: rng.chance(1, 2),
        };
        let mut servers = Vec::new();
        let addr = |server: u16| SocketAddr::from(([10, 0, 0, server as u8 + 1], 8485));
        for server in 0..SERVERS {
            let ctx = ctx.clone();
            let start = move |env: SimEnv| -> std::pin::Pin<Box<dyn Future<Output = ()>>> {
                Box::pin(serve(env, ctx.clone()))
            };
            servers.push(world.add_node(
                &format!("jn{}", server + 1),
                Role::Journalnode,
                addr(server),
                start,
            ));
        }
        world.plant(run.planted, &servers);
        let mut clients = Vec::new();
        for client in 0..CLIENTS {
            let node = world.add_client(&format!("user{}", client + 1));
            clients.push(node);
            for (place, server) in servers.iter().enumerate() {
                let task = drive(
                    world.env_of(node),
                    ctx.clone(),
                    u32::from(client),
                    *server,
                    addr(place as u16),
                    rng.fork(),
                );
                world.spawn_on(node, "drive", task);
            }
        }
        let nemesis = Nemesis::swarm(&world, &servers, &clients, &Fault::ALL);
        let end = world.now() + run.duration;
        world.spawn("nemesis", nemesis.run(end));
        world.run_for(run.duration + Duration::from_secs(1));
        check_progress(&world, &ctx, &servers);
        run.finish(&world)
    }
}

/// Faults have stopped: within a minute every server acknowledges again, and has all it ever acknowledged.
fn check_progress(world: &Handle, ctx: &Ctx, servers: &[NodeId]) {
    let since = world.now();
    make_whole(world, servers);
    let all_acked = || {
        servers.iter().all(|server| {
            ctx.checker
                .borrow()
                .last_ack
                .get(server)
                .is_some_and(|at| *at > since)
        })
    };
    for _ in 0..60 {
        if world.run_until(Duration::from_secs(1), all_acked) || world.violation().is_some() {
            break;
        }
        // Errors decided before the faults stopped can still end a server.
        make_whole(world, servers);
    }
    if !all_acked() {
        world.violate(
            Promise::P7,
            "a server acknowledges nothing for a minute after the last fault",
        );
        return;
    }
    for server in servers {
        world.crash(*server, crate::Crash::Power);
        world.restart(*server);
    }
    world.run_for(Duration::from_secs(5));
}
