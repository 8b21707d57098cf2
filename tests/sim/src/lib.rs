//! A deterministic world: nodes running the real drivers and stores over a simulated clock, disk and
//! network, under one seed.
//!
//! ```
//! use hadal_env::{Clock, Disk, Env, File, OpenOptions};
//! use sim::{Crash, World};
//! use std::path::Path;
//!
//! let world = World::new(42);
//! let addr = "10.0.0.1:8485".parse().unwrap();
//! let node = world.add_node("jn1", hadal_types::Role::Journalnode, addr, |_env| Box::pin(async {}));
//! let env = world.env_of(node);
//! world.block_on(node, async move {
//!     let file = env.disk().open(Path::new("/log"), OpenOptions::create()).await.unwrap();
//!     env.disk().sync_dir(Path::new("/")).await.unwrap();
//!     let mut buf = env.disk().buf(4096).await;
//!     buf.as_mut()[..5].copy_from_slice(b"hello");
//!     let (written, _buf) = file.write_at(buf, 0..5, 0).await;
//!     written.unwrap();
//!     file.sync_data().await.unwrap();
//! });
//! world.crash(node, Crash::Power);
//! world.restart(node);
//! assert_eq!(world.disk_of(node).peek(Path::new("/log")).unwrap(), b"hello");
//! ```
//!
//! # Rules for code that runs here
//!
//! * No clock, thread, randomness, file or socket but those of the seam; no `HashMap` whose order shows.
//! * `futures_util::select!` draws its order from a generator of its own: use `select_biased!` or
//!   `future::select`.
//! * A task may not wait by yielding: time moves only when nothing is ready.
#![forbid(unsafe_code)]

mod control;
pub mod daemons;
mod disk;
mod env;
mod executor;
pub mod figures;
pub mod nemesis;
mod network;
mod node;
pub mod quic;
mod report;
mod rng;
pub mod runner;
pub mod scenario;
mod scenarios;
mod timers;
mod trace;
mod world;

pub use disk::{
    DiskConfig, DiskCounters, DiskFault, DiskImage, FaultRates, Omissions, SimBuf, SimDisk,
    SimFile, SimLock,
};
pub use env::SimEnv;
pub use network::{NetConfig, SimConn, SimNet, SimRecv, SimSend};
pub use node::{Crash, NodeId, NodeSpec, Status};
pub use report::{Counters, Promise, Violation};
pub use rng::{Rng, Stream};
pub use world::{Handle, World, WorldConfig};
