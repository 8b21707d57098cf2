//! Memory straight from the kernel, aligned for huge pages.

use nix::sys::mman::{MapFlags, MmapAdvise, ProtFlags, madvise, mmap_anonymous, munmap};
use std::num::NonZeroUsize;
use std::ptr::NonNull;

/// Size and alignment in bytes of a huge page.
pub(crate) const HUGE_BYTES: usize = 2 << 20;

/// Private anonymous memory of a multiple of the page size, aligned to [`HUGE_BYTES`], zero at
/// first. Unmapped when dropped.
#[derive(Debug)]
pub(crate) struct Region {
    base: NonNull<u8>,
    bytes: usize,
}

// SAFETY: a region is the only owner of its memory and gives out nothing but its address.
unsafe impl Send for Region {}
// SAFETY: as above; through a shared reference only the address and the size can be read.
unsafe impl Sync for Region {}

impl Region {
    /// Maps `bytes`, a multiple of the page size.
    ///
    /// # Panics
    /// When the kernel has no memory: like any failed allocation, that ends the process.
    pub(crate) fn map(bytes: usize) -> Self {
        let padded = bytes
            .checked_add(HUGE_BYTES)
            .and_then(NonZeroUsize::new)
            .expect("size of a buffer is within reason");
        let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: a fresh anonymous mapping at an address of the kernel's choice touches no memory in use.
        let mapped = unsafe { mmap_anonymous(None, padded, protection, MapFlags::MAP_PRIVATE) };
        let mapped = mapped
            .unwrap_or_else(|errno| panic!("cannot map {bytes} bytes for I/O buffers: {errno}"));
        let start: NonNull<u8> = mapped.cast();
        let before = start.as_ptr().align_offset(HUGE_BYTES);
        let after = HUGE_BYTES - before;
        // SAFETY: `before` is less than HUGE_BYTES, so this stays within the mapping of bytes + HUGE_BYTES.
        let base = unsafe { start.add(before) };
        if before > 0 {
            // SAFETY: the head up to `base` belongs to this mapping and nobody was given its address.
            unsafe { unmap(start, before) };
        }
        if after > 0 {
            // SAFETY: the mapping ends HUGE_BYTES - before past base + bytes; nobody was given that tail.
            unsafe { unmap(base.add(bytes), after) };
        }
        // SAFETY: advice about our own, still unused mapping. Kernels without huge pages refuse it,
        // which costs speed and nothing else.
        let _ = unsafe { madvise(base.cast(), bytes, MmapAdvise::MADV_HUGEPAGE) };
        Self { base, bytes }
    }

    /// Address of the byte at `offset`, which must lie within.
    pub(crate) fn at(&self, offset: usize) -> NonNull<u8> {
        assert!(offset < self.bytes);
        // SAFETY: offset is within the mapping, as asserted.
        unsafe { self.base.add(offset) }
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        // SAFETY: maps exactly this range, and the pool drops a region only when no buffer lies in it.
        unsafe { unmap(self.base, self.bytes) };
    }
}

/// # Safety
/// The range must be mapped, page-aligned, and not be used by anyone any more.
unsafe fn unmap(start: NonNull<u8>, bytes: usize) {
    // It can only fail for want of another mapping when it splits one (vm.max_map_count); then the
    // range stays mapped and unused.
    // SAFETY: what the caller promises is what munmap demands.
    let _ = unsafe { munmap(start.cast(), bytes) };
}
