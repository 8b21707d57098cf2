//! The I/O buffers of a shard: aligned, huge-page backed, bounded, recycled.
//!
//! Memory comes in regions of one huge page, each cut into buffers of one size class. A region
//! whose buffers are all free can be cut anew for another class, or goes back to the kernel when
//! more is mapped than the bound.

use crate::region::{HUGE_BYTES, Region};
use futures_util::future::{Either, select};
use hadal_env::{ALIGN, DiskBuf};
use std::collections::BTreeSet;
use std::fmt;
use std::pin::pin;
use std::ptr::NonNull;
use std::slice;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::Semaphore;
use tokio_uring::buf::{IoBuf, IoBufMut};

/// Pages beyond the bound, for buffers of one page: headers and records. Who holds large buffers often needs a page to get
/// rid of them, and must not wait for others to do so first.
const RESERVED_PAGES: usize = 64;
/// What an open block stream holds at most while it waits for its peer: one buffer of the 1 MiB class.
const STREAM_BYTES: usize = 1 << 20;

/// A bound for a node that may have so many block streams open, on a machine with so much memory: a buffer for each of
/// them, as far as a quarter of the memory goes. At least `least_bytes`.
#[must_use]
pub fn pool_bytes_for(streams: usize, memory_bytes: usize, least_bytes: usize) -> usize {
    let wanted = streams.saturating_mul(STREAM_BYTES);
    wanted.min(memory_bytes / 4).max(least_bytes)
}

/// Size classes in bytes. What is larger gets a mapping of its own size.
const CLASSES: [usize; 5] = [ALIGN, 64 << 10, 256 << 10, 1 << 20, HUGE_BYTES];

/// Where buffers come from. Clones share it; each shard has one.
///
/// Bounded by what is in use: a buffer counts with the size of its class. The memory mapped exceeds
/// that only while free buffers of one class share regions with used ones and another class needs more.
#[derive(Clone)]
pub struct Pool {
    shared: Arc<Shared>,
}

struct Shared {
    bound_bytes: usize,
    /// One permit per page ([`ALIGN`] bytes) not in use; fair, so a large request is not overtaken for ever.
    pages: Semaphore,
    /// As `pages`, for single pages only.
    reserved: Semaphore,
    shelves: Mutex<Shelves>,
}

/// One region cut into buffers of one class.
struct Shelf {
    region: Region,
    class: usize,
    free: Vec<usize>,
}

impl Shelf {
    fn new(region: Region, class: usize) -> Self {
        let free = (0..HUGE_BYTES / CLASSES[class]).rev().collect();
        Self {
            region,
            class,
            free,
        }
    }

    fn is_unused(&self) -> bool {
        self.free.len() == HUGE_BYTES / CLASSES[self.class]
    }
}

#[derive(Default)]
struct Shelves {
    /// By number; a gap where one was given back.
    shelves: Vec<Option<Shelf>>,
    gaps: Vec<usize>,
    /// Numbers of those with a free buffer, by class. The lowest is used first, so that high ones fall empty.
    roomy: [BTreeSet<usize>; CLASSES.len()],
    /// Numbers of those with nothing but free buffers.
    unused: BTreeSet<usize>,
    mapped_bytes: usize,
}

impl Shelves {
    fn take(&mut self, class: usize, bound_bytes: usize) -> (usize, usize, NonNull<u8>) {
        let number = match self.roomy[class].first() {
            Some(number) => *number,
            None => self.cut(class, bound_bytes),
        };
        let shelf = self.shelves[number].as_mut().expect("roomy shelves exist");
        let slot = shelf.free.pop().expect("roomy shelves have a free buffer");
        if shelf.free.is_empty() {
            self.roomy[class].remove(&number);
        }
        self.unused.remove(&number);
        (number, slot, shelf.region.at(slot * CLASSES[class]))
    }

    /// A new shelf for this class: an unused one of another class once the bound is mapped, or fresh memory.
    fn cut(&mut self, class: usize, bound_bytes: usize) -> usize {
        let full = self.mapped_bytes + HUGE_BYTES > bound_bytes;
        let number = match self.unused.first() {
            Some(number) if full => {
                let number = *number;
                let old = self.shelves[number].take().expect("unused shelves exist");
                self.roomy[old.class].remove(&number);
                self.shelves[number] = Some(Shelf::new(old.region, class));
                number
            }
            _ => {
                self.mapped_bytes += HUGE_BYTES;
                let shelf = Some(Shelf::new(Region::map(HUGE_BYTES), class));
                if let Some(number) = self.gaps.pop() {
                    self.shelves[number] = shelf;
                    number
                } else {
                    self.shelves.push(shelf);
                    self.shelves.len() - 1
                }
            }
        };
        self.roomy[class].insert(number);
        self.unused.insert(number);
        number
    }

    fn give_back(&mut self, number: usize, slot: usize, bound_bytes: usize) {
        let shelf = self.shelves[number]
            .as_mut()
            .expect("a shelf outlives its buffers");
        shelf.free.push(slot);
        let (class, unused) = (shelf.class, shelf.is_unused());
        self.roomy[class].insert(number);
        if unused {
            self.unused.insert(number);
            if self.mapped_bytes > bound_bytes {
                self.roomy[class].remove(&number);
                self.unused.remove(&number);
                self.shelves[number] = None;
                self.gaps.push(number);
                self.mapped_bytes -= HUGE_BYTES;
            }
        }
    }
}

impl Pool {
    /// A pool that hands out at most `bound_bytes` at once (at least one huge page, 2 MiB).
    #[must_use]
    pub fn new(bound_bytes: usize) -> Self {
        let bound_bytes = bound_bytes.max(HUGE_BYTES) / ALIGN * ALIGN;
        let shared = Shared {
            bound_bytes,
            pages: Semaphore::new(bound_bytes / ALIGN),
            reserved: Semaphore::new(RESERVED_PAGES),
            shelves: Mutex::default(),
        };
        Self {
            shared: Arc::new(shared),
        }
    }

    /// A buffer of `capacity` bytes rounded up to [`ALIGN`] (at least one unit); waits while the
    /// bound is reached. First come, first served, but for single pages, of which a few are always left over. A dropped
    /// call has taken nothing.
    ///
    /// # Panics
    /// When `capacity` is more than the whole bound: it could never be had.
    pub async fn buf(&self, capacity: usize) -> ShardBuf {
        let bound_bytes = self.shared.bound_bytes;
        let bytes = capacity
            .max(1)
            .checked_next_multiple_of(ALIGN)
            .filter(|bytes| *bytes <= bound_bytes);
        let Some(bytes) = bytes else {
            panic!(
                "a buffer of {capacity} bytes was asked of a pool bounded at {bound_bytes}: raise the shard's buffer pool"
            );
        };
        let class = CLASSES.iter().position(|size| *size >= bytes);
        let charged = class.map_or(bytes, |class| CLASSES[class]);
        let pages = u32::try_from(charged / ALIGN).expect("a buffer is less than 16 TiB");
        let (permit, reserved) = if pages == 1 {
            let any = pin!(self.shared.pages.acquire());
            match select(any, pin!(self.shared.reserved.acquire())).await {
                Either::Left((permit, _)) => (permit, false),
                Either::Right((permit, _)) => (permit, true),
            }
        } else {
            (self.shared.pages.acquire_many(pages).await, false)
        };
        permit.expect("the semaphore is never closed").forget();
        let (start, home) = match class {
            Some(class) => {
                let (shelf, slot, start) = self.shared.shelves().take(class, bound_bytes);
                (start, Home::Shelf { shelf, slot })
            }
            None => {
                let region = Region::map(bytes);
                (region.at(0), Home::Own(region))
            }
        };
        ShardBuf {
            start,
            bytes,
            charged,
            reserved,
            home,
            pool: Arc::clone(&self.shared),
        }
    }

    /// Most bytes in use at once.
    #[must_use]
    pub fn bound_bytes(&self) -> usize {
        self.shared.bound_bytes
    }

    /// Bytes in use now.
    #[must_use]
    pub fn used_bytes(&self) -> usize {
        let reserved = RESERVED_PAGES - self.shared.reserved.available_permits();
        let others = self.shared.pages.available_permits() * ALIGN;
        self.shared.bound_bytes - others + reserved * ALIGN
    }

    /// Bytes mapped for size classes, used and free. Larger buffers are mapped while they are used.
    #[must_use]
    pub fn mapped_bytes(&self) -> usize {
        self.shared.shelves().mapped_bytes
    }
}

impl Shared {
    fn shelves(&self) -> MutexGuard<'_, Shelves> {
        self.shelves.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool")
            .field("used_bytes", &self.used_bytes())
            .field("bound_bytes", &self.bound_bytes())
            .finish_non_exhaustive()
    }
}

/// Where a buffer's memory goes when it is dropped.
enum Home {
    Shelf { shelf: usize, slot: usize },
    Own(Region),
    Gone,
}

/// A buffer of a [`Pool`], for direct I/O. May be dropped on any thread.
pub struct ShardBuf {
    start: NonNull<u8>,
    bytes: usize,
    charged: usize,
    /// It is one of the reserved pages.
    reserved: bool,
    home: Home,
    pool: Arc<Shared>,
}

// SAFETY: a buffer is the only owner of its bytes: the pool hands a slot out once until it is given
// back, and what giving back touches is behind a mutex.
unsafe impl Send for ShardBuf {}
// SAFETY: a shared reference can only read the bytes; writing needs an exclusive one.
unsafe impl Sync for ShardBuf {}

impl AsRef<[u8]> for ShardBuf {
    fn as_ref(&self) -> &[u8] {
        // SAFETY: the bytes lie in a live region (the pool is held), were zeroed by the kernel when
        // mapped and so are initialised, and are ours alone.
        unsafe { slice::from_raw_parts(self.start.as_ptr(), self.bytes) }
    }
}

impl AsMut<[u8]> for ShardBuf {
    fn as_mut(&mut self) -> &mut [u8] {
        // SAFETY: as for reading, and the exclusive reference rules out other readers.
        unsafe { slice::from_raw_parts_mut(self.start.as_ptr(), self.bytes) }
    }
}

impl DiskBuf for ShardBuf {}

// SAFETY: the address is that of mapped memory: it does not move with the value, and stays mapped
// until the value is dropped.
unsafe impl IoBuf for ShardBuf {
    fn stable_ptr(&self) -> *const u8 {
        self.start.as_ptr()
    }

    fn bytes_init(&self) -> usize {
        self.bytes
    }

    fn bytes_total(&self) -> usize {
        self.bytes
    }
}

// SAFETY: as above; the value owns its bytes alone, so the kernel may write them.
unsafe impl IoBufMut for ShardBuf {
    fn stable_mut_ptr(&mut self) -> *mut u8 {
        self.start.as_ptr()
    }

    unsafe fn set_init(&mut self, _: usize) {
        // All bytes always are.
    }
}

impl Drop for ShardBuf {
    fn drop(&mut self) {
        // The memory goes first: whoever the permits let in may need it.
        match std::mem::replace(&mut self.home, Home::Gone) {
            Home::Shelf { shelf, slot } => {
                self.pool
                    .shelves()
                    .give_back(shelf, slot, self.pool.bound_bytes)
            }
            Home::Own(region) => drop(region),
            Home::Gone => {}
        }
        match self.reserved {
            true => self.pool.reserved.add_permits(1),
            false => self.pool.pages.add_permits(self.charged / ALIGN),
        }
    }
}

impl fmt::Debug for ShardBuf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ShardBuf")
            .field("bytes", &self.bytes)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;

    fn now(pool: &Pool, bytes: usize) -> ShardBuf {
        pool.buf(bytes).now_or_never().expect("the pool has room")
    }

    #[test]
    fn buffers_are_aligned_and_as_long_as_asked_rounded_up() {
        let pool = Pool::new(64 << 20);
        for (asked, got) in [
            (0, 4096),
            (1, 4096),
            (4096, 4096),
            (4097, 8192),
            (70_000, 73_728),
            (1 << 20, 1 << 20),
            (5 << 20, 5 << 20),
        ] {
            let mut buf = now(&pool, asked);
            assert_eq!(buf.as_ref().len(), got);
            assert_eq!(buf.as_ref().as_ptr().align_offset(ALIGN), 0);
            buf.as_mut().fill(0xA5);
            assert!(buf.as_ref().iter().all(|byte| *byte == 0xA5));
        }
        assert_eq!(pool.used_bytes(), 0);
    }

    #[test]
    fn buffers_in_use_never_overlap() {
        let pool = Pool::new(16 << 20);
        let sizes = [4096, 65536, 4096, 1 << 20, 8192, 3 << 20, 200_000];
        let mut bufs: Vec<_> = sizes
            .iter()
            .cycle()
            .take(21)
            .map_while(|bytes| pool.buf(*bytes).now_or_never())
            .collect();
        for (number, buf) in bufs.iter_mut().enumerate() {
            buf.as_mut().fill(u8::try_from(number).unwrap());
        }
        for (number, buf) in bufs.iter().enumerate() {
            assert!(
                buf.as_ref().iter().all(|byte| usize::from(*byte) == number),
                "buffer {number} was overwritten"
            );
        }
    }

    #[test]
    fn a_freed_buffer_is_used_again() {
        let pool = Pool::new(8 << 20);
        let first = now(&pool, 65536).as_ref().as_ptr();
        assert_eq!(now(&pool, 65536).as_ref().as_ptr(), first);
        assert_eq!(pool.mapped_bytes(), HUGE_BYTES);
    }

    #[test]
    fn memory_of_one_class_serves_another_at_the_bound() {
        let pool = Pool::new(4 << 20);
        let small: Vec<_> = (0..1024).map(|_| now(&pool, 4096)).collect();
        assert_eq!(pool.used_bytes(), pool.bound_bytes());
        drop(small);
        let large: Vec<_> = (0..4).map(|_| now(&pool, 1 << 20)).collect();
        assert_eq!(pool.mapped_bytes(), 4 << 20);
        drop(large);
        assert_eq!(pool.used_bytes(), 0);
    }

    #[test]
    fn memory_above_the_bound_goes_back_to_the_kernel() {
        let pool = Pool::new(4 << 20);
        // One small buffer keeps each region busy, so a large one needs a third.
        let mut small: Vec<_> = (0..1024).map(|_| now(&pool, 4096)).collect();
        let kept = (small.remove(0), small.pop());
        drop(small);
        let large = now(&pool, 1 << 20);
        assert_eq!(pool.mapped_bytes(), 6 << 20);
        drop((kept, large));
        assert_eq!(pool.mapped_bytes(), 4 << 20);
    }

    #[test]
    fn the_bound_holds_and_a_large_request_is_not_overtaken() {
        let pool = Pool::new(4 << 20);
        let held = (now(&pool, 2 << 20), now(&pool, 2 << 20));
        let mut large = Box::pin(pool.buf(2 << 20));
        let mut small = Box::pin(pool.buf(8192));
        assert!((&mut large).now_or_never().is_none());
        assert!((&mut small).now_or_never().is_none());
        drop(held.0);
        let large = (&mut large)
            .now_or_never()
            .expect("room for the first in line");
        assert!((&mut small).now_or_never().is_none());
        drop(large);
        assert!((&mut small).now_or_never().is_some());
        drop(held.1);
        assert_eq!(pool.used_bytes(), 0);
    }

    /// Who holds a large buffer gets the page it needs to write it out, whoever waits for large ones.
    #[test]
    fn single_pages_are_left_when_the_bound_is_reached() {
        let pool = Pool::new(4 << 20);
        let held: Vec<_> = (0..4).map(|_| now(&pool, 1 << 20)).collect();
        let mut large = Box::pin(pool.buf(1 << 20));
        assert!((&mut large).now_or_never().is_none());
        let pages: Vec<_> = (0..RESERVED_PAGES).map(|_| now(&pool, 100)).collect();
        assert!(pool.buf(100).now_or_never().is_none(), "only so many");
        assert_eq!(pool.used_bytes(), (4 << 20) + RESERVED_PAGES * ALIGN);
        drop(pages);
        assert_eq!(pool.used_bytes(), 4 << 20);
        drop(now(&pool, 4096));
        drop(held);
        assert!((&mut large).now_or_never().is_some());
        assert_eq!(pool.used_bytes(), 0);
    }

    #[test]
    fn the_bound_follows_from_the_streams_that_may_be_open_d9() {
        let (least, gib) = (256 << 20, 1 << 30);
        assert_eq!(pool_bytes_for(64, 16 * gib, least), least);
        assert_eq!(pool_bytes_for(1024, 16 * gib, least), gib);
        assert_eq!(pool_bytes_for(4096, 8 * gib, least), 2 * gib, "a quarter");
        assert_eq!(pool_bytes_for(4096, 0, least), least, "not known");
    }

    #[test]
    #[should_panic(expected = "raise the shard's buffer pool")]
    fn a_buffer_that_can_never_be_had_is_refused() {
        drop(Pool::new(4 << 20).buf(5 << 20).now_or_never());
    }
}
