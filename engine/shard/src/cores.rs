//! Pure work on other cores than a shard's: a few threads per process that come with the work and go when there is none
//! for a while. (An allocator with a heap per thread gives the memory of a finished thread to the others.)

use crate::panic::ShardMark;
use hadal_env::Compute;
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::{Pid, getpid};
use std::collections::VecDeque;
use std::future::Future;
use std::sync::{Condvar, LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::oneshot;

/// Pieces of work that wait for a thread, in the whole process; whoever brings more does them itself.
const WAITING_MAX: usize = 256;
/// A thread without work ends after this.
const IDLE: Duration = Duration::from_secs(1);

/// The processor cores of this process as a place for pure work. What threads all shards of the process share.
///
/// A panic on one of the threads ends the process, as one on a shard does.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Cores;

type Piece = Box<dyn FnOnce() + Send>;

struct Workshop {
    waiting: VecDeque<Piece>,
    threads: usize,
    /// Threads that wait for work.
    idle: usize,
}

static WORKSHOP: Mutex<Workshop> = Mutex::new(Workshop {
    waiting: VecDeque::new(),
    threads: 0,
    idle: 0,
});
static CAME: Condvar = Condvar::new();

/// The processors this process may run on, as its first thread has them: a shard's may be one alone.
static PROCESSORS: LazyLock<Option<CpuSet>> = LazyLock::new(|| sched_getaffinity(getpid()).ok());

/// As many threads as there are processors.
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

impl Compute for Cores {
    fn lanes(&self) -> usize {
        *LANES
    }

    fn compute<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> impl Future<Output = T> + 'static {
        let (done, result) = oneshot::channel();
        give(Box::new(move || {
            // Nobody waits for it any more: then nobody misses it.
            drop(done.send(work()));
        }));
        async move { result.await.expect("a panic in a piece ends the process") }
    }
}

fn workshop() -> MutexGuard<'static, Workshop> {
    // Nothing panics while it is held.
    WORKSHOP.lock().unwrap_or_else(PoisonError::into_inner)
}

fn give(piece: Piece) {
    let mut shop = workshop();
    if shop.waiting.len() >= WAITING_MAX {
        drop(shop);
        return piece();
    }
    shop.waiting.push_back(piece);
    if shop.waiting.len() <= shop.idle {
        CAME.notify_one();
        return;
    }
    if shop.threads >= *LANES {
        return;
    }
    shop.threads += 1;
    let first = shop.threads == 1;
    drop(shop);
    let thread = std::thread::Builder::new().name("cores".to_owned());
    if thread.spawn(work).is_err() {
        let mut shop = workshop();
        shop.threads -= 1;
        if first {
            // No thread can be had at all.
            let waiting = std::mem::take(&mut shop.waiting);
            drop(shop);
            waiting.into_iter().for_each(|piece| piece());
        }
    }
}

/// A thread's life.
fn work() {
    let _mark = ShardMark::new();
    if let Some(processors) = PROCESSORS.as_ref() {
        // Begun by a pinned shard it would be pinned, too. Where this is forbidden it stays so: slower, nothing worse.
        let _ = sched_setaffinity(Pid::from_raw(0), processors);
    }
    let mut shop = workshop();
    loop {
        if let Some(piece) = shop.waiting.pop_front() {
            drop(shop);
            piece();
            shop = workshop();
            continue;
        }
        shop.idle += 1;
        let (woken, timeout) = CAME
            .wait_timeout(shop, IDLE)
            .unwrap_or_else(PoisonError::into_inner);
        shop = woken;
        shop.idle -= 1;
        if timeout.timed_out() && shop.waiting.is_empty() {
            shop.threads -= 1;
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::future::join_all;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    /// More than fit are all done, and never more at a time than there are lanes and the one who brings them.
    #[test]
    fn every_piece_is_done_and_few_at_a_time() {
        let (running, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let pieces: Vec<_> = (0..3 * WAITING_MAX as u64)
            .map(|number| {
                let (running, most) = (Arc::clone(&running), Arc::clone(&most));
                Cores.compute(move || {
                    most.fetch_max(running.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                    let sum: u64 = (0..=number).sum();
                    running.fetch_sub(1, Ordering::SeqCst);
                    sum
                })
            })
            .collect();
        let runtime = tokio::runtime::Builder::new_current_thread().build();
        let sums = runtime.unwrap().block_on(join_all(pieces));
        assert!((0u64..).zip(&sums).all(|(n, sum)| *sum == n * (n + 1) / 2));
        assert_eq!(sums.len(), 3 * WAITING_MAX);
        assert!(most.load(Ordering::SeqCst) <= Cores.lanes() + 1);
    }
}
