//! Aligned I/O buffers and the bound on them.

use hadal_env::{ALIGN, DiskBuf};
use std::cell::RefCell;
use std::fmt;
use std::future::poll_fn;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Poll, Waker};

/// How many bytes of buffers one process holds. Buffers carry it into any thread with their `Bytes`.
#[derive(Debug)]
pub(crate) struct Pool {
    bound: usize,
    used: AtomicUsize,
    waiting: Mutex<Vec<Waker>>,
}

impl Pool {
    pub(crate) fn new(bound: usize) -> Arc<Self> {
        Arc::new(Self {
            bound,
            used: AtomicUsize::new(0),
            waiting: Mutex::default(),
        })
    }

    /// Waits until `size` bytes fit below the bound. A single buffer above it is given when it is the only one.
    pub(crate) async fn take(self: &Arc<Self>, size: usize) -> SimBuf {
        poll_fn(|cx| {
            let used = self.used.load(Ordering::Relaxed);
            if used == 0 || used + size <= self.bound {
                self.used.store(used + size, Ordering::Relaxed);
                return Poll::Ready(());
            }
            let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
            waiting.retain(|other| !other.will_wake(cx.waker()));
            waiting.push(cx.waker().clone());
            Poll::Pending
        })
        .await;
        SimBuf::new(size, Arc::clone(self))
    }

    fn give_back(&self, size: usize) {
        self.used.fetch_sub(size, Ordering::Relaxed);
        let waiting =
            std::mem::take(&mut *self.waiting.lock().unwrap_or_else(PoisonError::into_inner));
        for waker in waiting {
            waker.wake();
        }
    }
}

thread_local! {
    /// Memory of dropped buffers, filled with the pattern anew, to spare the allocator.
    static SPARE: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
}

const SPARE_MAX: usize = 64;
const PATTERN: u8 = 0xa5;

/// A buffer aligned to [`ALIGN`]. A fresh one is filled with a pattern: code that relies on its content
/// fails, and fails the same way each time.
pub struct SimBuf {
    memory: Vec<u8>,
    start: usize,
    size: usize,
    /// What may differ from the pattern.
    dirty: Range<usize>,
    pool: Arc<Pool>,
}

impl SimBuf {
    fn new(size: usize, pool: Arc<Pool>) -> Self {
        let need = size + ALIGN;
        let spare = SPARE.with_borrow_mut(|spare| {
            let place = spare
                .iter()
                .position(|memory| memory.len() >= need && memory.len() <= need * 2)?;
            Some(spare.swap_remove(place))
        });
        let memory = spare.unwrap_or_else(|| vec![PATTERN; need]);
        let start = memory.as_ptr().align_offset(ALIGN);
        Self {
            memory,
            start,
            size,
            dirty: 0..0,
            pool,
        }
    }

    /// Lets `read` fill a range from its start on; it says how many bytes it filled.
    pub(super) fn fill<E>(
        &mut self,
        range: Range<usize>,
        read: impl FnOnce(&mut [u8]) -> Result<usize, E>,
    ) -> Result<usize, E> {
        let (start, size) = (self.start, self.size);
        let from = range.start;
        let count = read(&mut self.memory[start..start + size][range])?;
        self.taint(from..from + count);
        Ok(count)
    }

    fn taint(&mut self, range: Range<usize>) {
        self.dirty = if self.dirty.is_empty() {
            range
        } else {
            self.dirty.start.min(range.start)..self.dirty.end.max(range.end)
        };
    }
}

impl Drop for SimBuf {
    fn drop(&mut self) {
        let mut memory = std::mem::take(&mut self.memory);
        memory[self.start..][self.dirty.clone()].fill(PATTERN);
        // The thread may be ending; then the memory is simply freed.
        let _ = SPARE.try_with(|spare| {
            if let Ok(mut spare) = spare.try_borrow_mut() {
                // Large ones cost the most to get anew: the smallest goes.
                if spare.len() >= SPARE_MAX
                    && let Some(smallest) = (0..spare.len()).min_by_key(|at| spare[*at].len())
                {
                    spare.swap_remove(smallest);
                }
                spare.push(memory);
            }
        });
        self.pool.give_back(self.size);
    }
}

impl fmt::Debug for SimBuf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SimBuf({})", self.size)
    }
}

impl AsRef<[u8]> for SimBuf {
    fn as_ref(&self) -> &[u8] {
        &self.memory[self.start..self.start + self.size]
    }
}

impl AsMut<[u8]> for SimBuf {
    fn as_mut(&mut self) -> &mut [u8] {
        self.taint(0..self.size);
        &mut self.memory[self.start..self.start + self.size]
    }
}

impl DiskBuf for SimBuf {}
