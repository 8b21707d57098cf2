//! Whole pages of a file in buffers that direct I/O takes, which are used again.

use bytes::Bytes;
use hadal_env::ALIGN;
use rustix::io::Errno;
use std::sync::{Arc, Mutex, PoisonError};

/// Bytes of a buffer that is kept: a group of a replica with its head.
const KEPT_BYTES: usize = 1 << 20;
/// Reads below this take memory of their own: a buffer that is kept would be held for little.
const SMALL_BYTES: usize = 64 << 10;
/// Buffers that are kept while nobody uses them: those of two streams that read ahead as far as they may. Fresh memory is not
/// free, every page of it is cleared by the kernel when it is first written.
const IDLE_MAX: usize = 16;

/// Where buffers come from and go back to. Clones share them.
#[derive(Clone, Default)]
pub(crate) struct Buffers(Arc<Mutex<Vec<Vec<u8>>>>);

impl Buffers {
    /// Up to `length` bytes at `offset` of a file, fewer at its end, by `read`, a `pread`: it is given whole pages at
    /// offsets that are multiples of [`ALIGN`], which direct I/O asks for.
    ///
    /// # Errors
    /// What `read` says, but for interruptions.
    pub(crate) fn fill(
        &self,
        offset: u64,
        length: usize,
        mut read: impl FnMut(&mut [u8], u64) -> Result<usize, Errno>,
    ) -> Result<Bytes, Errno> {
        let skip = (offset % ALIGN as u64) as usize;
        let first = offset - skip as u64;
        let mut pages = self.take((skip + length).next_multiple_of(ALIGN));
        let into = pages.as_mut();
        let mut filled = 0;
        while filled < skip + length {
            // From a page's start, whatever was read of it: only at the end of the file are bytes left over.
            let at = filled / ALIGN * ALIGN;
            match read(&mut into[at..], first + at as u64) {
                Ok(read) if at + read <= filled => break,
                Ok(read) => filled = at + read,
                Err(Errno::INTR) => {}
                Err(error) => return Err(error),
            }
        }
        let end = filled.min(skip + length);
        Ok(Bytes::from_owner(pages).slice(skip.min(end)..end))
    }

    /// `length` bytes that begin at a multiple of [`ALIGN`]; their content is unspecified.
    fn take(&self, length: usize) -> Pages {
        let kept = (SMALL_BYTES..=KEPT_BYTES).contains(&length);
        let size = ALIGN + if kept { KEPT_BYTES } else { length };
        let idle = match kept {
            true => self.0.lock().unwrap_or_else(PoisonError::into_inner).pop(),
            false => None,
        };
        let memory = idle.unwrap_or_else(|| vec![0; size]);
        let start = memory.as_ptr().align_offset(ALIGN);
        Pages {
            memory,
            start,
            length,
            home: kept.then(|| self.clone()),
        }
    }
}

/// A run of pages in memory; the memory goes back where it came from.
struct Pages {
    memory: Vec<u8>,
    start: usize,
    length: usize,
    home: Option<Buffers>,
}

impl AsRef<[u8]> for Pages {
    fn as_ref(&self) -> &[u8] {
        &self.memory[self.start..self.start + self.length]
    }
}

impl AsMut<[u8]> for Pages {
    fn as_mut(&mut self) -> &mut [u8] {
        &mut self.memory[self.start..self.start + self.length]
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        let Some(home) = &self.home else { return };
        let mut idle = home.0.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < IDLE_MAX {
            idle.push(std::mem::take(&mut self.memory));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file that gives at most `step` bytes at once and takes nothing that is not aligned, as direct I/O does.
    fn strict(
        content: &[u8],
        step: usize,
    ) -> impl FnMut(&mut [u8], u64) -> Result<usize, Errno> + '_ {
        move |into, at| {
            let aligned = |value: usize| value.is_multiple_of(ALIGN);
            if !aligned(into.as_ptr().addr()) || !aligned(into.len()) || !aligned(at as usize) {
                return Err(Errno::INVAL);
            }
            let from = content.get(at as usize..).unwrap_or_default();
            let read = from.len().min(into.len()).min(step);
            into[..read].copy_from_slice(&from[..read]);
            Ok(read)
        }
    }

    fn content(length: usize) -> Vec<u8> {
        let byte = |at: usize| (at.wrapping_mul(0x9e37_79b9) >> 16) as u8;
        (0..length).map(byte).collect()
    }

    #[test]
    fn every_offset_and_length_gives_the_files_bytes() {
        let buffers = Buffers::default();
        let near = |at: usize| [at - 1, at, at + 1];
        let edges = [near(1), near(4096), near(8192), near(69_632), near(81_920)].concat();
        for length in [0, 1, 4095, 4096, 4097, 80_000, 81_920] {
            let content = content(length);
            for step in [4096, 12_288, usize::MAX] {
                for &from in &edges {
                    for &wanted in &edges {
                        let found = buffers
                            .fill(from as u64, wanted, strict(&content, step))
                            .unwrap();
                        let end = (from + wanted).min(length);
                        let expected = content.get(from..end).unwrap_or_default();
                        assert!(
                            found == expected,
                            "{wanted} bytes at {from} of {length}, {step} at once"
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn interruptions_are_passed_over_and_errors_are_told() {
        let buffers = Buffers::default();
        let content = content(10_000);
        let mut inner = strict(&content, 4096);
        let mut calls = 0;
        let found = buffers.fill(100, 9_000, |into, at| {
            calls += 1;
            if calls % 2 == 1 {
                Err(Errno::INTR)
            } else {
                inner(into, at)
            }
        });
        assert!(found.unwrap() == content[100..9_100]);
        let failed = buffers.fill(0, 10, |_, _| Err(Errno::IO));
        assert_eq!(failed, Err(Errno::IO));
    }

    #[test]
    fn buffers_are_used_again_once_nobody_reads_them_and_few_are_kept() {
        let buffers = Buffers::default();
        let content = content(200_000);
        let read = || {
            buffers
                .fill(0, 200_000, strict(&content, usize::MAX))
                .unwrap()
        };
        let idle = || buffers.0.lock().unwrap().len();
        let all = read();
        let part = all.slice(5..10);
        drop(all);
        assert_eq!(idle(), 0, "a reader still holds a part of it");
        drop(part);
        assert_eq!(idle(), 1);
        let again = read();
        assert_eq!(idle(), 0);
        let many: Vec<_> = (0..2 * IDLE_MAX).map(|_| read()).collect();
        drop((again, many));
        assert_eq!(idle(), IDLE_MAX);
        let small = buffers.fill(0, 100, strict(&content, usize::MAX)).unwrap();
        assert_eq!(idle(), IDLE_MAX, "a small read takes none of them");
        drop(small);
        assert_eq!(idle(), IDLE_MAX);
    }
}
