//! The disk of a shard.

use crate::directory::{blocking, create_all, list};
use crate::ring::submitted;
use crate::{Pool, ShardBuf, ShardFile};
use hadal_env::{Create, DirEntry, Disk, DiskError, DiskOp, OpenOptions, Space};
use nix::fcntl::{Flock, FlockArg};
use std::future::Future;
use std::io;
use std::marker::PhantomData;
use std::os::unix::fs::OpenOptionsExt;
use std::panic::resume_unwind;
use std::path::Path;
use std::rc::Rc;

/// Files of this machine through the shard's ring. Bound to the shard's thread.
///
/// Opening, renaming, removing and all work on file contents go through the ring. Listing, creating
/// and removing directories run on blocking threads. Asking for existence, space, a length or a lock
/// calls the kernel directly: those are short.
#[derive(Clone, Debug)]
pub struct ShardDisk {
    pool: Pool,
    on_its_thread: PhantomData<Rc<()>>,
}

impl ShardDisk {
    pub(crate) fn new(pool: Pool) -> Self {
        Self {
            pool,
            on_its_thread: PhantomData,
        }
    }

    /// Where its buffers come from, for metrics and for code that fills buffers elsewhere.
    #[must_use]
    pub fn pool(&self) -> &Pool {
        &self.pool
    }
}

/// An exclusive lock on a file (`flock`) against every other opening of it, in this process or
/// another. Given up when dropped or when the process ends.
#[derive(Debug)]
pub struct DirLock {
    _held: Flock<std::fs::File>,
}

impl Disk for ShardDisk {
    type File = ShardFile;
    type Buf = ShardBuf;
    type Lock = DirLock;

    fn buf(&self, capacity: usize) -> impl Future<Output = ShardBuf> {
        self.pool.buf(capacity)
    }

    async fn open(&self, path: &Path, options: OpenOptions) -> Result<ShardFile, DiskError> {
        let mut ring_options = tokio_uring::fs::OpenOptions::new();
        ring_options.read(true).write(options.write);
        let mut flags = 0;
        match options.create {
            Create::No => {}
            // As flags, since the library refuses to create what is then only read.
            Create::IfMissing => flags |= libc::O_CREAT,
            Create::New => flags |= libc::O_CREAT | libc::O_EXCL,
        }
        if options.direct {
            flags |= libc::O_DIRECT;
        }
        if options.dsync {
            flags |= libc::O_DSYNC;
        }
        ring_options.custom_flags(flags);
        let file = open_detached(path, ring_options)
            .await
            .map_err(|source| DiskError::new(DiskOp::Open, path, explain(source, options)))?;
        Ok(ShardFile::new(file, path.to_owned(), options.direct))
    }

    async fn create_dir_all(&self, path: &Path) -> Result<(), DiskError> {
        let path = path.to_owned();
        blocking(move || create_all(&path)).await
    }

    async fn read_dir(&self, path: &Path) -> Result<Vec<DirEntry>, DiskError> {
        let path = path.to_owned();
        blocking(move || list(&path)).await
    }

    async fn rename(&self, from: &Path, to: &Path) -> Result<(), DiskError> {
        submitted(tokio_uring::fs::rename(from, to))
            .await
            .map_err(|source| DiskError::new(DiskOp::Rename, from, source))
    }

    async fn remove_file(&self, path: &Path) -> Result<(), DiskError> {
        submitted(tokio_uring::fs::remove_file(path))
            .await
            .map_err(|source| DiskError::new(DiskOp::Remove, path, source))
    }

    async fn remove_dir_all(&self, path: &Path) -> Result<(), DiskError> {
        let owned = path.to_owned();
        let removed = blocking(move || std::fs::remove_dir_all(owned)).await;
        removed.map_err(|source| DiskError::new(DiskOp::Remove, path, source))
    }

    async fn sync_dir(&self, path: &Path) -> Result<(), DiskError> {
        let mut options = tokio_uring::fs::OpenOptions::new();
        options.read(true).custom_flags(libc::O_DIRECTORY);
        let directory = open_detached(path, options)
            .await
            .map_err(|source| DiskError::new(DiskOp::Directory, path, source))?;
        submitted(directory.sync_all())
            .await
            .map_err(|source| DiskError::new(DiskOp::Sync, path, source))
    }

    async fn exists(&self, path: &Path) -> Result<bool, DiskError> {
        path.try_exists()
            .map_err(|source| DiskError::new(DiskOp::Directory, path, source))
    }

    async fn space(&self, path: &Path) -> Result<Space, DiskError> {
        let stat = nix::sys::statvfs::statvfs(path)
            .map_err(|errno| DiskError::new(DiskOp::Directory, path, errno.into()))?;
        let bytes = |blocks: u64| blocks.saturating_mul(stat.fragment_size());
        Ok(Space {
            capacity: bytes(stat.blocks()),
            available: bytes(stat.blocks_available()),
        })
    }

    async fn lock(&self, path: &Path) -> Result<DirLock, DiskError> {
        let failed = |source| DiskError::new(DiskOp::Lock, path, source);
        let file = std::fs::OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)
            .map_err(failed)?;
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(held) => Ok(DirLock { _held: held }),
            Err((_, errno)) => Err(failed(errno.into())),
        }
    }
}

/// Opens in a task of its own: an opening dropped half-way would leak the descriptor the kernel
/// hands out later, this way it is closed.
async fn open_detached(
    path: &Path,
    options: tokio_uring::fs::OpenOptions,
) -> io::Result<tokio_uring::fs::File> {
    let path = path.to_owned();
    match tokio::task::spawn_local(async move { submitted(options.open(&path)).await }).await {
        Ok(opened) => opened,
        Err(error) => resume_unwind(error.into_panic()),
    }
}

/// A file system without direct I/O answers `EINVAL`, which tells nobody anything.
fn explain(source: io::Error, options: OpenOptions) -> io::Error {
    if options.direct && source.raw_os_error() == Some(libc::EINVAL) {
        return io::Error::new(
            io::ErrorKind::Unsupported,
            "the file system refuses direct I/O (O_DIRECT); use ext4 or xfs on a block device",
        );
    }
    source
}
