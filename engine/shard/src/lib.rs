//! The real machine behind `hadal_env`: a shard is one thread on which a tokio current-thread
//! runtime, an io_uring and (through [`udp::runtime`]) quinn run side by side.
//!
//! Start one with [`Shard::spawn`] or [`run_on_this_thread`]; the [`ShardHandle`] it hands over
//! becomes a [`ShardEnv`] together with a network. Files go through [`ShardDisk`], whose buffers
//! come from a bounded, huge-page backed [`Pool`]. [`mailbox`] carries values between shards. Pure work that is long runs
//! on the other [`Cores`].
//!
//! A panic on a shard's thread, in whatever task, ends the process with [`PANIC_EXIT_CODE`]: half a
//! node never goes on serving.
//!
//! This is the only crate of the house that names tokio-uring and the only one with `unsafe`.

mod clock;
mod cores;
mod directory;
mod disk;
mod env;
mod file;
pub mod mailbox;
mod panic;
mod pool;
mod region;
mod ring;
mod start;
mod thread;
pub mod udp;

pub use clock::ShardClock;
pub use cores::Cores;
pub use disk::{DirLock, ShardDisk};
pub use env::ShardEnv;
pub use file::ShardFile;
pub use panic::PANIC_EXIT_CODE;
pub use pool::{Pool, ShardBuf, pool_bytes_for};
pub use start::StartError;
pub use thread::{
    DEFAULT_BUFFER_POOL_BYTES, Shard, ShardHandle, ShardOptions, machine_memory_bytes,
    run_on_this_thread,
};
