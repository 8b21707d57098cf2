//! QUIC in the loop (S12): `wire/quic`'s calls and append streams over quinn, between a server and clients whose
//! datagrams are lost, repeated, delayed, cut and sized down, whose addresses move, and whose server is killed, paused
//! and started again.
//!
//! Promises: a call is answered once, by its own answer, or fails by name, and runs at most once (P1); frames of an append
//! stream arrive in order, once, byte for byte, and acknowledgements never run ahead of them (P5); a sender is never
//! further ahead of its reader than the window (P9); no call, stream or hand-shake outlives its time-out, and once faults
//! stop everybody gets through (P7); whoever has no certificate of the cluster, or dials the wrong node, gets nowhere (P8).

mod client;
mod server;

use crate::node::{Crash, NodeId};
use crate::quic::{DatagramFaults, Datagrams, QuicEnv};
use crate::report::{Counters, Promise, Violation};
use crate::rng::{Rng, Stream};
use crate::scenario::{Run, Scenario};
use crate::world::Handle;
use bytes::Bytes;
use hadal_proto::transfer::TransferProtocol;
use hadal_proto::{Protocol, ProtocolId};
use hadal_quic::{ClusterCa, Identity, TransportOptions, Validity};
use hadal_types::Role;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::OnceLock;
use std::time::{Duration, SystemTime};

/// The scenario.
pub(crate) struct QuicInTheLoop;

/// What the server does wrong, to show that it is noticed.
const PLANTED: [&str; 4] = [
    "ack-too-much",
    "lose-frame",
    "never-answer",
    "answer-another",
];

const CLIENTS: usize = 3;
/// Bytes of a frame's payload at most.
const FRAME: usize = 16 << 10;

/// A protocol whose messages are bytes.
struct Echo;

impl Protocol for Echo {
    const ID: ProtocolId = ProtocolId::Transfer;
    const VERSION: u16 = TransferProtocol::VERSION;
    type Request = Bytes;
    type Response = Bytes;
}

/// Certificates, made once in a process.
struct Certificates {
    server: Identity,
    client: Identity,
    /// Of another cluster.
    stranger: Identity,
}

fn certificates() -> &'static Certificates {
    static MADE: OnceLock<Certificates> = OnceLock::new();
    MADE.get_or_init(|| {
        let ca = |name| {
            ClusterCa::generate(name, Validity::days(30))
                .expect("a CA")
                .0
        };
        let identity = |ca: &ClusterCa, role, name| {
            let issued = ca
                .issue(role, name, &[], Validity::days(1))
                .expect("a certificate");
            Identity::from_pem(
                ca.certificate_pem(),
                &issued.certificate_pem,
                &issued.key_pem,
                SystemTime::now(),
            )
            .expect("an identity")
        };
        let (ours, other) = (ca("simulated"), ca("another"));
        Certificates {
            server: identity(&ours, Role::Datanode, "dn1"),
            client: identity(&ours, Role::Client, "alice"),
            stranger: identity(&other, Role::Client, "mallory"),
        }
    })
}

/// Time-outs short enough that faults outlast them.
fn options() -> TransportOptions {
    TransportOptions {
        idle_timeout_ms: 3_000,
        keep_alive_ms: 1_000,
        handshake_timeout_ms: 2_000,
        stream_window: 64 << 10,
        connection_window: 128 << 10,
        ..TransportOptions::default()
    }
}

/// What came of one append stream.
#[derive(Default)]
struct Received {
    /// Payload bytes read in order.
    bytes: u64,
    finished: bool,
}

/// What the server saw, over all its lives.
#[derive(Default)]
struct Log {
    /// How often each call was carried out.
    executed: BTreeMap<u64, u32>,
    streams: BTreeMap<u64, Received>,
}

#[derive(Clone)]
struct Ctx {
    handle: Handle,
    net: Datagrams,
    log: Rc<RefCell<Log>>,
    planted: Option<String>,
}

impl Ctx {
    fn is_planted(&self, name: &str) -> bool {
        self.planted.as_deref() == Some(name)
    }
}

fn server_addr() -> SocketAddr {
    SocketAddr::from(([10, 0, 0, 1], 9866))
}

fn client_addr(index: usize) -> SocketAddr {
    SocketAddr::from(([10, 0, 1, index as u8 + 1], 40_000))
}

/// The byte at `offset` of stream or call `id`.
fn byte(id: u64, offset: u64) -> u8 {
    let mixed = (id ^ offset.rotate_left(17)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (mixed >> 56) as u8
}

fn pattern(id: u64, offset: u64, length: usize) -> Bytes {
    (offset..offset + length as u64)
        .map(|offset| byte(id, offset))
        .collect()
}

fn is_pattern(id: u64, offset: u64, bytes: &[u8]) -> bool {
    (offset..)
        .zip(bytes)
        .all(|(offset, found)| *found == byte(id, offset))
}

impl Scenario for QuicInTheLoop {
    fn name(&self) -> &'static str {
        "quic"
    }

    fn planted(&self) -> &'static [&'static str] {
        &PLANTED
    }

    fn floors(&self) -> &'static [&'static str] {
        &[
            "operations acknowledged",
            "bytes read back",
            "calls failed by name",
            "streams ended early",
            "strangers refused",
            "server killed",
            "server paused",
            "client moved",
            "path sized down",
            "cuts",
            "datagrams lost",
            "datagrams duplicated",
            "datagrams overtook",
            "datagrams too large",
        ]
    }

    fn run(&self, run: &mut Run<'_>) -> Result<Counters, Violation> {
        let world = run.world(|_| {});
        let ctx = Ctx {
            handle: world.handle(),
            net: Datagrams::new(&world),
            log: Rc::default(),
            planted: run.planted.map(str::to_owned),
        };
        let serving = ctx.clone();
        let server = world.add_node("dn1", Role::Datanode, server_addr(), move |env| {
            Box::pin(server::serve(serving.clone(), env))
        });
        let done = Rc::new(RefCell::new(0));
        let until = run.duration;
        for index in 0..=CLIENTS {
            let node = world.add_client(&format!("client{index}"));
            let (ctx, done) = (ctx.clone(), Rc::clone(&done));
            let env = world.env_of(node);
            world.spawn_on(node, "client", async move {
                if index == CLIENTS {
                    client::knock(ctx, env, client_addr(index), until).await;
                } else {
                    client::work(ctx, env, index, until).await;
                }
                *done.borrow_mut() += 1;
            });
        }
        world.spawn("faults", faults(ctx.clone(), server, until));
        let limit = until + client::LIMIT * 3;
        let all = world.run_until(limit, || *done.borrow() == CLIENTS + 1);
        if !all && world.violation().is_none() {
            let detail = format!("{} of {} clients ended", done.borrow(), CLIENTS + 1);
            world.violate(Promise::P7, detail);
        }
        let datagrams = ctx.net.counters();
        for (name, count) in [
            ("datagrams lost", datagrams.lost),
            ("datagrams duplicated", datagrams.duplicated),
            ("datagrams overtook", datagrams.overtook),
            ("datagrams too large", datagrams.too_large),
            ("datagrams sent", datagrams.sent),
        ] {
            world.count(name, count);
        }
        run.finish(&world)
    }
}

async fn faults(ctx: Ctx, server: NodeId, until: Duration) {
    let mut rng = ctx.handle.rng(Stream::Faults, 0);
    let handle = &ctx.handle;
    let wait = |rng: &mut Rng, low, high| handle.sleep(Duration::from_millis(rng.range(low, high)));
    let mut moved = 0u16;
    loop {
        wait(&mut rng, 200, 3_000).await;
        if handle.now() >= until {
            break;
        }
        let client = rng.below(CLIENTS as u64) as usize;
        let (near, far): (IpAddr, IpAddr) = (server_addr().ip(), client_addr(client).ip());
        match rng.below(9) {
            0..=2 => {
                let delay_min_us = rng.range(20, 2_000);
                ctx.net.set_faults(DatagramFaults {
                    loss_ppm: rng.below(80_000) as u32,
                    duplicate_ppm: rng.below(50_000) as u32,
                    delay_min_us,
                    delay_max_us: delay_min_us + rng.range(0, 20_000),
                    late_ppm: rng.below(5_000) as u32,
                });
            }
            3 => ctx.net.set_faults(DatagramFaults::default()),
            4 => {
                handle.count("cuts", 1);
                if rng.chance(1, 2) {
                    ctx.net.cut(near, far);
                } else if rng.chance(1, 2) {
                    ctx.net.cut_one_way(near, far);
                } else {
                    ctx.net.cut_one_way(far, near);
                }
                wait(&mut rng, 100, 6_000).await;
                ctx.net.heal();
            }
            5 => {
                handle.count("path sized down", 1);
                ctx.net.set_mtu(rng.range(1_452, 4_000) as usize);
                wait(&mut rng, 500, 8_000).await;
                ctx.net.set_mtu(8_972);
            }
            6 => {
                handle.count("client moved", 1);
                moved += 1;
                let seen = SocketAddr::new(far, 40_000 + moved);
                ctx.net.move_to(client_addr(client), seen);
            }
            7 => {
                handle.count("server killed", 1);
                handle.crash(server, Crash::Process);
                wait(&mut rng, 0, 2_000).await;
                handle.restart(server);
            }
            _ => {
                handle.count("server paused", 1);
                handle.pause(server);
                wait(&mut rng, 50, 5_000).await;
                handle.resume(server);
            }
        }
    }
    ctx.net.heal();
    ctx.net.set_mtu(8_972);
    ctx.net.set_faults(DatagramFaults::default());
}

/// An endpoint of the present life of a node.
fn endpoint(
    ctx: &Ctx,
    env: &crate::env::SimEnv,
    addr: SocketAddr,
    identity: &Identity,
    listen: bool,
) -> QuicEnv {
    ctx.net
        .env(env, addr, identity, &options(), listen)
        .expect("an endpoint")
}
