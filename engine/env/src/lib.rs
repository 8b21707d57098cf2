//! The seam between Hadal's drivers and the machine: clock, randomness, tasks, disk and network
//! as traits.
//!
//! There are two sides to it. `engine/shard` (with `wire/quic`) is the real machine; `tests/sim`
//! is a deterministic world that runs the same drivers and the same store. The traits put no
//! `Send` bound on anything: a shard is one thread. Code that must also run on a
//! multi-threaded runtime (the client library) simply holds nothing thread-bound across an await,
//! and the compiler infers the rest.
#![forbid(unsafe_code)]

mod compute;
mod disk;
mod net;

pub use compute::Compute;
pub use disk::{
    ALIGN, Create, DirEntry, Disk, DiskBuf, DiskError, DiskOp, File, OpenOptions, Space,
};
pub use net::{Conn, Expect, Net, NetError, NetErrorKind, RecvStream, SendStream};

use bytes::Bytes;
use core::future::{Future, poll_fn, ready};
use core::net::IpAddr;
use core::pin::Pin;
use core::task::Poll;
use hadal_types::Tick;
use std::sync::Arc;

/// Time. Cores never see this; drivers read it and hand the values in.
pub trait Clock {
    /// Monotonic time (`CLOCK_BOOTTIME`: goes on through a suspend).
    fn now(&self) -> Tick;

    /// Wall time in milliseconds since 1970. Only for what people read and for inode times;
    /// no decision of a protocol rests on it.
    fn wall_ms(&self) -> u64;

    /// Resolves at `deadline` or as soon after it as the runtime gets to it.
    fn sleep_until(&self, deadline: Tick) -> impl Future<Output = ()>;
}

/// Randomness. In the simulator a seeded stream.
pub trait Random {
    /// Sixty-four random bits, of cryptographic quality in production.
    fn random_u64(&self) -> u64;
}

/// What a client needs: time, randomness, network.
pub trait Seam: Clock + Random + Clone + 'static {
    /// The network.
    type Net: Net;

    /// This node's endpoint.
    fn net(&self) -> &Self::Net;

    /// Whether this address belongs to the machine this runs on, whose files can be read directly. The simulator's
    /// machines hand out no files.
    fn is_here(&self, address: IpAddr) -> bool {
        let _ = address;
        false
    }

    /// Something happened that is rare and matters: `what` is its name. Simulated runs count it, and prove little about what
    /// they never saw (reliability.md S11); a real machine has logs for it.
    fn happened(&self, what: &'static str) {
        let _ = what;
    }

    /// Shows `ticket` at the Unix socket `socket` (a name in the abstract namespace) and takes the file it stands for.
    fn open_local(&self, socket: &str, ticket: u128) -> Opening {
        let error = format!("{socket}: ticket {ticket:x}: there are no local files here");
        Box::pin(ready(Err(error)))
    }
}

/// A file on its way; the error is for a log.
pub type Opening = Pin<Box<dyn Future<Output = Result<Arc<dyn LocalFile>, String>> + Send + Sync>>;
/// Bytes on their way; the error is for a log.
pub type Reading = Pin<Box<dyn Future<Output = Result<Bytes, String>> + Send + Sync>>;

/// Somebody else's file on this machine, open for reading.
pub trait LocalFile: Send + Sync {
    /// Begins at once to read `length` bytes at `offset`; fewer come at the end of the file.
    fn read(&self, offset: u64, length: usize) -> Reading;

    /// Whether reads that begin from now on go past the page cache, which they do not at first. Advice: a file system
    /// that cannot goes on through the cache.
    fn pass_cache(&self, past: bool);
}

/// What a daemon's shard needs: a [`Seam`], tasks, other cores for pure work, and a disk.
pub trait Env: Seam + Compute {
    /// The disk.
    type Disk: Disk;

    /// The disk of this shard.
    fn disk(&self) -> &Self::Disk;

    /// Runs `task` on this shard. A panic in it stops the whole process with an exit code: it
    /// never leaves half a node serving. `name` is for logs and the simulator's trace.
    fn spawn(&self, name: &'static str, task: impl Future<Output = ()> + 'static);

    /// Lets all other tasks of this shard that are ready run, and what has arrived be noticed: for a task that could go
    /// on for long without waiting for anything.
    fn give_way(&self) -> impl Future<Output = ()> {
        let mut gave = false;
        poll_fn(move |cx| {
            if core::mem::replace(&mut gave, true) {
                return Poll::Ready(());
            }
            cx.waker().wake_by_ref();
            Poll::Pending
        })
    }

    /// Stops the process at once with this exit code, after logging the reason. In the simulator
    /// it crashes the node. Never returns control to the caller's task: callers `return` after it.
    fn stop(&self, exit_code: i32, reason: &str);

    /// Tells the length of a queue that no push can refuse, because something else bounds it: `most` is what that comes
    /// to. The simulator takes a longer one for a violated promise (reliability.md P9, O4).
    fn queue_length(&self, _queue: &'static str, _length: usize, _most: usize) {}
}
