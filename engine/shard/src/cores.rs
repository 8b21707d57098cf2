//! Pure work on other cores than a shard's: on the runtime's blocking threads, which come with the work and go when there
//! is none for a while.

use crate::panic::ShardMark;
use hadal_env::Compute;
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::{Pid, getpid};
use std::future::Future;
use std::sync::LazyLock;

/// The processor cores of this process as a place for pure work. It takes a tokio runtime to hand work out.
///
/// A panic in the work ends the process, as one on a shard does.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Cores;

/// The processors this process may run on, as its first thread has them: a shard's may be one alone.
static PROCESSORS: LazyLock<Option<CpuSet>> = LazyLock::new(|| sched_getaffinity(getpid()).ok());

/// How many these are.
static LANES: LazyLock<usize> = LazyLock::new(|| {
    let allowed = PROCESSORS.as_ref().map(|set| {
        (0..CpuSet::count())
            .filter(|processor| set.is_set(*processor).unwrap_or(false))
            .count()
    });
    match allowed {
        Some(count) if count > 0 => count,
        _ => std::thread::available_parallelism().map_or(1, usize::from),
    }
});

thread_local! {
    /// Touched once per thread: begun by a pinned shard it would be pinned, too. Where that cannot be undone it stays so:
    /// slower, nothing worse.
    static UNPINNED: () = if let Some(processors) = PROCESSORS.as_ref() {
        let _ = sched_setaffinity(Pid::from_raw(0), processors);
    };
}

impl Compute for Cores {
    fn lanes(&self) -> usize {
        *LANES
    }

    fn compute<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> impl Future<Output = T> + 'static {
        let task = tokio::task::spawn_blocking(move || {
            let _mark = ShardMark::new();
            UNPINNED.with(|()| ());
            work()
        });
        async move { task.await.expect("a panic in the work ends the process") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::future::join_all;

    /// Each is done, on another thread than the one that waits.
    #[test]
    fn every_piece_is_done_elsewhere() {
        let runtime = tokio::runtime::Builder::new_current_thread().build();
        let pieces = async {
            let piece = |n: u64| Cores.compute(move || (n * n, std::thread::current().id()));
            join_all((0..100).map(piece)).await
        };
        let done = runtime.unwrap().block_on(pieces);
        let here = std::thread::current().id();
        assert!(
            (0..)
                .zip(&done)
                .all(|(n, (square, at))| *square == n * n && *at != here)
        );
        assert_eq!(done.len(), 100);
        assert!(Cores.lanes() > 0);
    }
}
