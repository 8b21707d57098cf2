//! An open file on the shard's ring.

use crate::ShardBuf;
use crate::directory::blocking;
use crate::ring::submitted;
use hadal_env::{ALIGN, DiskError, DiskOp, File};
use nix::sys::stat::fstat;
use std::cell::Cell;
use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::path::PathBuf;
use tokio_uring::buf::BoundedBuf;

/// An open file. Reads, writes, syncs and reservations go through the ring.
#[derive(Debug)]
pub struct ShardFile {
    file: tokio_uring::fs::File,
    path: PathBuf,
    direct: bool,
    /// `errno` of the first failed sync. The kernel reports a lost write only once; the next sync
    /// would succeed without having saved anything, so the failure is kept and repeated.
    sync_failed: Cell<Option<i32>>,
}

impl ShardFile {
    pub(crate) fn new(file: tokio_uring::fs::File, path: PathBuf, direct: bool) -> Self {
        Self {
            file,
            path,
            direct,
            sync_failed: Cell::new(None),
        }
    }

    fn error(&self, op: DiskOp, source: io::Error) -> DiskError {
        DiskError::new(op, &self.path, source)
    }

    /// Refuses what the kernel would answer with a bare `EINVAL`, by name.
    fn check(
        &self,
        op: DiskOp,
        buf: &ShardBuf,
        range: &Range<usize>,
        offset: u64,
    ) -> Result<(), DiskError> {
        let refuse =
            |text: String| Err(self.error(op, io::Error::new(io::ErrorKind::InvalidInput, text)));
        let capacity = buf.as_ref().len();
        if range.start > range.end || range.end > capacity {
            return refuse(format!(
                "range {range:?} does not lie within the buffer of {capacity} bytes"
            ));
        }
        let end = u64::try_from(range.len())
            .ok()
            .and_then(|length| offset.checked_add(length));
        if end.is_none_or(|end| i64::try_from(end).is_err()) {
            return refuse(format!("offset {offset} is past the largest file"));
        }
        let aligned = range.start.is_multiple_of(ALIGN)
            && range.end.is_multiple_of(ALIGN)
            && offset.is_multiple_of(ALIGN as u64);
        if self.direct && !aligned {
            return refuse(format!(
                "range {range:?} at offset {offset} is not aligned to {ALIGN} bytes, as direct I/O must be"
            ));
        }
        Ok(())
    }

    fn fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the descriptor stays open as long as `self.file`, which the result borrows.
        unsafe { BorrowedFd::borrow_raw(self.file.as_raw_fd()) }
    }

    async fn read_loop(
        &self,
        mut buf: ShardBuf,
        range: Range<usize>,
        offset: u64,
    ) -> (io::Result<usize>, ShardBuf) {
        let mut done = 0;
        while done < range.len() {
            let slice = buf.slice(range.start + done..range.end);
            let (result, slice) = submitted(self.file.read_at(slice, offset + done as u64)).await;
            buf = slice.into_inner();
            match result {
                Ok(0) => break,
                Ok(bytes) => done += bytes,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return (Err(error), buf),
            }
            // A direct read stops between two units only at the end of the file, and could not go on there.
            if self.direct && !done.is_multiple_of(ALIGN) {
                break;
            }
        }
        (Ok(done), buf)
    }

    async fn write_loop(
        &self,
        mut buf: ShardBuf,
        range: Range<usize>,
        offset: u64,
    ) -> (io::Result<()>, ShardBuf) {
        let mut done = 0;
        while done < range.len() {
            let slice = buf.slice(range.start + done..range.end);
            let (result, slice) =
                submitted(self.file.write_at(slice, offset + done as u64).submit()).await;
            buf = slice.into_inner();
            let before = done;
            match result {
                Ok(bytes) => done += bytes,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return (Err(error), buf),
            }
            if self.direct {
                done = done / ALIGN * ALIGN;
            }
            if done == before {
                return (Err(io::Error::from(io::ErrorKind::WriteZero)), buf);
            }
        }
        (Ok(()), buf)
    }
}

impl File for ShardFile {
    type Buf = ShardBuf;

    async fn read_at(
        &self,
        buf: ShardBuf,
        range: Range<usize>,
        offset: u64,
    ) -> (Result<usize, DiskError>, ShardBuf) {
        if let Err(error) = self.check(DiskOp::Read, &buf, &range, offset) {
            return (Err(error), buf);
        }
        let (result, buf) = self.read_loop(buf, range, offset).await;
        (
            result.map_err(|source| self.error(DiskOp::Read, source)),
            buf,
        )
    }

    async fn write_at(
        &self,
        buf: ShardBuf,
        range: Range<usize>,
        offset: u64,
    ) -> (Result<(), DiskError>, ShardBuf) {
        if let Err(error) = self.check(DiskOp::Write, &buf, &range, offset) {
            return (Err(error), buf);
        }
        let (result, buf) = self.write_loop(buf, range, offset).await;
        (
            result.map_err(|source| self.error(DiskOp::Write, source)),
            buf,
        )
    }

    async fn sync_data(&self) -> Result<(), DiskError> {
        let result = match self.sync_failed.get() {
            None => submitted(self.file.sync_data()).await,
            Some(errno) => Err(io::Error::from_raw_os_error(errno)),
        };
        result.map_err(|source| {
            self.sync_failed
                .set(Some(source.raw_os_error().unwrap_or(libc::EIO)));
            self.error(DiskOp::Sync, source)
        })
    }

    async fn allocate(&self, offset: u64, length: u64) -> Result<(), DiskError> {
        if length == 0 {
            return Ok(());
        }
        submitted(self.file.fallocate(offset, length, 0))
            .await
            .map_err(|source| self.error(DiskOp::Allocate, source))
    }

    async fn truncate(&self, length: u64) -> Result<(), DiskError> {
        // The ring has no such operation, and freeing a large file's extents takes a while.
        let result = match self.fd().try_clone_to_owned() {
            Ok(fd) => blocking(move || std::fs::File::from(fd).set_len(length)).await,
            Err(error) => Err(error),
        };
        result.map_err(|source| self.error(DiskOp::Truncate, source))
    }

    async fn length(&self) -> Result<u64, DiskError> {
        let stat = fstat(self.fd().as_fd())
            .map_err(|errno| self.error(DiskOp::Directory, errno.into()))?;
        Ok(u64::try_from(stat.st_size).unwrap_or(0))
    }
}
