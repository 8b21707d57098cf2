//! The thread of a shard.

use crate::panic::ShardMark;
use crate::ring::{COMPLETION_ENTRIES, SUBMISSION_ENTRIES};
use crate::{Pool, ShardClock, ShardDisk, ShardEnv, StartError};
use hadal_env::Net;
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::{Pid, SysconfVar, sysconf};
use std::future::Future;
use std::sync::mpsc;
use std::thread::JoinHandle;

/// Bytes of I/O buffers a shard may have in use at once, unless told otherwise.
pub const DEFAULT_BUFFER_POOL_BYTES: usize = 256 << 20;

/// Bytes of memory this machine has; 0 when the kernel does not say.
#[must_use]
pub fn machine_memory_bytes() -> usize {
    let of = |name| sysconf(name).ok().flatten().unwrap_or(0);
    let (pages, page) = (of(SysconfVar::_PHYS_PAGES), of(SysconfVar::PAGE_SIZE));
    usize::try_from(pages.saturating_mul(page)).unwrap_or(0)
}

/// How to start a shard.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ShardOptions {
    /// Name of its thread (the kernel shows the first 15 bytes) and in logs.
    pub name: String,
    /// Processor to pin its thread to; unpinned when absent. Only heeded for a thread of its own.
    pub pin: Option<usize>,
    /// Bound in bytes of the I/O buffers in use at once. Nothing is allocated beforehand.
    pub buffer_pool_bytes: usize,
}

impl ShardOptions {
    /// An unpinned shard with the default buffer pool.
    #[must_use]
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            pin: None,
            buffer_pool_bytes: DEFAULT_BUFFER_POOL_BYTES,
        }
    }

    /// Pinned to this processor.
    #[must_use]
    pub fn pinned(self, processor: usize) -> Self {
        Self {
            pin: Some(processor),
            ..self
        }
    }

    /// With this bound on its buffers.
    #[must_use]
    pub fn buffer_pool_bytes(self, bytes: usize) -> Self {
        Self {
            buffer_pool_bytes: bytes,
            ..self
        }
    }
}

/// What a shard's main future gets: its name, clock and disk. Bound to its thread.
#[derive(Clone, Debug)]
pub struct ShardHandle {
    name: String,
    disk: ShardDisk,
}

impl ShardHandle {
    /// Name of the shard.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its clock and random numbers.
    #[must_use]
    pub fn clock(&self) -> ShardClock {
        ShardClock::new()
    }

    /// Its disk.
    #[must_use]
    pub fn disk(&self) -> &ShardDisk {
        &self.disk
    }

    /// The seam for drivers on this shard, over `net`.
    pub fn env<N: Net>(&self, net: N) -> ShardEnv<N> {
        ShardEnv::new(self.disk.clone(), net)
    }
}

/// A running shard on a thread of its own.
#[derive(Debug)]
pub struct Shard<T> {
    name: String,
    thread: JoinHandle<Option<T>>,
}

impl<T: Send + 'static> Shard<T> {
    /// Starts a thread and runs `main`'s future on it; returns once its ring is up, or why it is not.
    /// When that future ends, every other task of the shard is dropped and the thread ends.
    pub fn spawn<F>(
        options: ShardOptions,
        main: impl FnOnce(ShardHandle) -> F + Send + 'static,
    ) -> Result<Self, StartError>
    where
        F: Future<Output = T> + 'static,
    {
        let name = options.name.clone();
        let (started, outcome) = mpsc::sync_channel(1);
        let body = move || {
            let prepared = pin_thread(&options).and_then(|()| runtime());
            match prepared {
                Ok(runtime) => {
                    // The spawner waits for this very message.
                    drop(started.send(Ok(())));
                    Some(run(&runtime, options, main))
                }
                Err(error) => {
                    drop(started.send(Err(error)));
                    None
                }
            }
        };
        let thread = std::thread::Builder::new().name(name.clone()).spawn(body);
        let thread = thread.map_err(|source| StartError::Thread {
            name: name.clone(),
            source,
        })?;
        outcome.recv().expect("a starting shard says how it went")?;
        Ok(Self { name, thread })
    }

    /// Name of the shard.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether its main future has ended.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.thread.is_finished()
    }

    /// Blocks until its main future has ended, and returns its value.
    pub fn join(self) -> T {
        let ended = self
            .thread
            .join()
            .expect("a panic on a shard ends the process");
        ended.expect("a shard that did not start is not handed out")
    }
}

/// Runs a shard on the calling thread until `main`'s future ends, which need not be `Send`.
/// Must not be called from within an asynchronous runtime.
pub fn run_on_this_thread<F: Future>(
    options: ShardOptions,
    main: impl FnOnce(ShardHandle) -> F,
) -> Result<F::Output, StartError> {
    let runtime = runtime()?;
    Ok(run(&runtime, options, main))
}

fn run<F: Future>(
    runtime: &tokio_uring::Runtime,
    options: ShardOptions,
    main: impl FnOnce(ShardHandle) -> F,
) -> F::Output {
    let _mark = ShardMark::new();
    let disk = ShardDisk::new(Pool::new(options.buffer_pool_bytes));
    let handle = ShardHandle {
        name: options.name,
        disk,
    };
    runtime.block_on(async move { main(handle).await })
}

fn pin_thread(options: &ShardOptions) -> Result<(), StartError> {
    let Some(processor) = options.pin else {
        return Ok(());
    };
    let mut set = CpuSet::new();
    let pinned = set
        .set(processor)
        .and_then(|()| sched_setaffinity(Pid::from_raw(0), &set));
    pinned.map_err(|errno| StartError::Pin {
        name: options.name.clone(),
        processor,
        source: errno.into(),
    })
}

/// The runtime: tokio current-thread with I/O and time drivers, a `LocalSet`, and the ring.
fn runtime() -> Result<tokio_uring::Runtime, StartError> {
    StartError::check_kernel()?;
    let mut ring = tokio_uring::uring_builder();
    ring.setup_cqsize(COMPLETION_ENTRIES);
    let mut builder = tokio_uring::builder();
    builder.entries(SUBMISSION_ENTRIES).uring_builder(&ring);
    tokio_uring::Runtime::new(&builder).map_err(StartError::from_ring)
}
