//! Files as the store sees them: owned buffers, positional I/O, explicit durability.

use core::future::Future;
use core::ops::Range;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

/// Alignment in bytes of offsets, lengths and addresses of direct I/O.
pub const ALIGN: usize = 4096;

/// What was being done when the disk failed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DiskOp {
    /// Opening or creating a file.
    Open,
    /// Reading.
    Read,
    /// Writing.
    Write,
    /// Making written bytes durable. Final: a failed sync is never retried into success.
    Sync,
    /// Reserving space.
    Allocate,
    /// Changing a file's length.
    Truncate,
    /// Renaming.
    Rename,
    /// Removing.
    Remove,
    /// Creating or listing a directory, or reading metadata.
    Directory,
    /// Taking the directory lock.
    Lock,
}

/// A failed disk operation, with everything an operator needs to find it.
#[derive(Debug)]
pub struct DiskError {
    /// What was being done.
    pub op: DiskOp,
    /// To which file or directory.
    pub path: PathBuf,
    /// What the operating system said.
    pub source: io::Error,
}

impl DiskError {
    /// Wraps what the operating system said.
    #[must_use]
    pub fn new(op: DiskOp, path: impl Into<PathBuf>, source: io::Error) -> Self {
        Self {
            op,
            path: path.into(),
            source,
        }
    }

    /// The file or directory does not exist.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        self.source.kind() == io::ErrorKind::NotFound
    }

    /// The file system (or quota) is full.
    #[must_use]
    pub fn is_full(&self) -> bool {
        matches!(
            self.source.kind(),
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
        )
    }

    /// Another process holds the lock.
    #[must_use]
    pub fn is_locked(&self) -> bool {
        self.op == DiskOp::Lock && self.source.kind() == io::ErrorKind::WouldBlock
    }
}

impl fmt::Display for DiskError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verb = match self.op {
            DiskOp::Open => "open",
            DiskOp::Read => "read",
            DiskOp::Write => "write",
            DiskOp::Sync => "sync",
            DiskOp::Allocate => "reserve space for",
            DiskOp::Truncate => "change the length of",
            DiskOp::Rename => "rename",
            DiskOp::Remove => "remove",
            DiskOp::Directory => "use directory",
            DiskOp::Lock => "lock",
        };
        write!(f, "cannot {verb} {}: {}", self.path.display(), self.source)
    }
}

impl std::error::Error for DiskError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.source)
    }
}

/// When opening creates a file.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Create {
    /// The file must exist.
    #[default]
    No,
    /// Created when missing.
    IfMissing,
    /// Must not exist yet.
    New,
}

/// How to open a file. Files are always readable.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct OpenOptions {
    /// Also writable.
    pub write: bool,
    /// Whether it is created.
    pub create: Create,
    /// Bypass the page cache (`O_DIRECT`): offsets, lengths and buffers must be multiples of [`ALIGN`].
    pub direct: bool,
    /// Every write returns durable (`O_DSYNC`).
    pub dsync: bool,
}

impl OpenOptions {
    /// Read only.
    #[must_use]
    pub fn read() -> Self {
        Self::default()
    }

    /// Read and write an existing file.
    #[must_use]
    pub fn write() -> Self {
        Self {
            write: true,
            ..Self::default()
        }
    }

    /// Read and write; created when missing.
    #[must_use]
    pub fn create() -> Self {
        Self {
            write: true,
            create: Create::IfMissing,
            ..Self::default()
        }
    }

    /// Read and write; must not exist yet.
    #[must_use]
    pub fn create_new() -> Self {
        Self {
            write: true,
            create: Create::New,
            ..Self::default()
        }
    }

    /// With `O_DIRECT`.
    #[must_use]
    pub fn direct(self) -> Self {
        Self {
            direct: true,
            ..self
        }
    }

    /// With `O_DSYNC`.
    #[must_use]
    pub fn dsync(self) -> Self {
        Self {
            dsync: true,
            ..self
        }
    }
}

/// One entry of a directory.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct DirEntry {
    /// File name without its directory. Entries whose names are not UTF-8 are not listed.
    pub name: String,
    /// It is a directory.
    pub is_dir: bool,
    /// Bytes, for a file.
    pub length: u64,
}

/// Room on a file system, in bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Space {
    /// In all.
    pub capacity: u64,
    /// Usable by us.
    pub available: u64,
}

/// An owned I/O buffer, aligned to [`ALIGN`]. `as_ref` and `as_mut` give its whole capacity.
/// `Bytes::from_owner(buf).slice(range)` hands its content on without a copy; the buffer goes back
/// to its pool when the last `Bytes` is dropped.
pub trait DiskBuf: AsRef<[u8]> + AsMut<[u8]> + Send + Sync + 'static {}

/// A disk: files under paths.
pub trait Disk: Clone + 'static {
    /// An open file.
    type File: File<Buf = Self::Buf>;
    /// Its buffers.
    type Buf: DiskBuf;
    /// Held as long as a directory is locked.
    type Lock: 'static;

    /// A buffer of at least `capacity` bytes, rounded up to [`ALIGN`]. Its content is unspecified.
    /// Waits while the shard's pool is at its bound; a holder of a buffer must therefore not wait for
    /// another shard-local task that needs one.
    fn buf(&self, capacity: usize) -> impl Future<Output = Self::Buf>;

    /// Opens a file. A created file is durable only after [`Disk::sync_dir`] of its directory.
    fn open(
        &self,
        path: &Path,
        options: OpenOptions,
    ) -> impl Future<Output = Result<Self::File, DiskError>>;

    /// Creates a directory and those above it, and makes their names durable.
    fn create_dir_all(&self, path: &Path) -> impl Future<Output = Result<(), DiskError>>;

    /// Lists a directory, sorted by name.
    fn read_dir(&self, path: &Path) -> impl Future<Output = Result<Vec<DirEntry>, DiskError>>;

    /// Renames a file, replacing the target. Durable after [`Disk::sync_dir`].
    fn rename(&self, from: &Path, to: &Path) -> impl Future<Output = Result<(), DiskError>>;

    /// Removes a file. Durable after [`Disk::sync_dir`].
    fn remove_file(&self, path: &Path) -> impl Future<Output = Result<(), DiskError>>;

    /// Removes a directory and all below it.
    fn remove_dir_all(&self, path: &Path) -> impl Future<Output = Result<(), DiskError>>;

    /// Makes creations, renames and removals in a directory durable.
    fn sync_dir(&self, path: &Path) -> impl Future<Output = Result<(), DiskError>>;

    /// Whether something exists at the path.
    fn exists(&self, path: &Path) -> impl Future<Output = Result<bool, DiskError>>;

    /// Room on the file system that holds `path`.
    fn space(&self, path: &Path) -> impl Future<Output = Result<Space, DiskError>>;

    /// Takes an exclusive lock on a file (created when missing) against other processes, until the
    /// returned value is dropped or the process ends. Fails at once ([`DiskError::is_locked`]) when
    /// another holds it.
    fn lock(&self, path: &Path) -> impl Future<Output = Result<Self::Lock, DiskError>>;
}

/// An open file. Operations may run concurrently; their order on disk is then unspecified.
/// A dropped (cancelled) operation may still take effect later.
pub trait File: 'static {
    /// Its buffers.
    type Buf: DiskBuf;

    /// Reads into `buf[range]` from `offset`. Returns the buffer and how many bytes were read: fewer
    /// than asked only at the end of the file.
    fn read_at(
        &self,
        buf: Self::Buf,
        range: Range<usize>,
        offset: u64,
    ) -> impl Future<Output = (Result<usize, DiskError>, Self::Buf)>;

    /// Writes all of `buf[range]` at `offset`.
    fn write_at(
        &self,
        buf: Self::Buf,
        range: Range<usize>,
        offset: u64,
    ) -> impl Future<Output = (Result<(), DiskError>, Self::Buf)>;

    /// Makes written bytes (and the length needed to read them) durable.
    fn sync_data(&self) -> impl Future<Output = Result<(), DiskError>>;

    /// Reserves space and extends the file; new bytes read as zero.
    fn allocate(&self, offset: u64, length: u64) -> impl Future<Output = Result<(), DiskError>>;

    /// Sets the length.
    fn truncate(&self, length: u64) -> impl Future<Output = Result<(), DiskError>>;

    /// The length in bytes.
    fn length(&self) -> impl Future<Output = Result<u64, DiskError>>;
}
