//! The simulated disk.
//!
//! # Fault model
//!
//! A file is what programs see of it (its page cache) and what the medium holds. The same is true of
//! each directory.
//!
//! * **Durable** are: bytes (and the length needed to read them) once `sync_data` of their file has
//!   returned, or once an `O_DSYNC` write has; names (created, renamed, removed) once `sync_dir` of
//!   their directory has; directories when `create_dir_all` returns. `O_DIRECT` alone makes nothing
//!   durable: the device's cache is volatile too.
//! * **Process crash** ([`Crash::Process`](crate::Crash)): what completed stays; each operation in flight happens,
//!   happens in part (writes, at 4 KiB) or does not.
//! * **Power failure** ([`Crash::Power`](crate::Crash)): of the unsynced changes, per failure by seed: all are
//!   lost, all kept, the oldest kept, or any subset kept in any order, with writes torn at 512 B or
//!   4 KiB sectors, and lengths that grew although the bytes did not arrive (they read as zero). An
//!   older write never comes back over a newer one of the same sector. Past 512 changes or 4 MiB of
//!   a file the kernel writes the oldest back by itself.
//! * **At rest**: bits flip ([`SimDisk::flip_bit`], [`SimDisk::rot`]); the disk is wiped
//!   ([`SimDisk::wipe`]) or an old image put back ([`SimDisk::put_back`]).
//! * **Per operation**, by plan ([`SimDisk::fail_op`]) or by rate ([`SimDisk::set_rates`]): I/O errors on
//!   read, write and sync; short writes; no space; a crash before, during or after it; lost writes (confirmed, never done); misdirected
//!   writes and reads (some pages off). A failed sync marks pages clean: part of their bytes never
//!   reaches the medium although a later sync succeeds, and sometimes reads show the old bytes at once.
//! * **Full** ([`SimDisk::set_capacity`]), **slow** ([`SimDisk::set_slow`]), **dead** ([`SimDisk::set_dead`]).
//!
//! An operation takes effect when it completes, after its seeded latency, also when nobody waits for
//! it any more. Concurrent operations complete in any order. Direct I/O that is not aligned is a bug
//! of the caller and panics.

mod buf;
mod content;
mod control;
mod faults;
mod inode;
mod names;
mod op;
mod state;
#[cfg(test)]
mod tests;
mod tree;

pub use buf::SimBuf;
pub use control::DiskImage;
pub use faults::{DiskConfig, DiskCounters, DiskFault, FaultRates, Omissions};
pub(crate) use op::OpKey;

use crate::node::NodeId;
use crate::report::Counters;
use crate::rng::{Rng, Stream};
use crate::trace::{Tag, hash_name};
use crate::world::{Fire, Handle, Shared};
use buf::Pool;
use content::WriteOp;
use hadal_env::{ALIGN, DirEntry, Disk, DiskError, File, OpenOptions, Space};
use op::{Reply, Request};
use state::DiskState;
use std::cell::{Cell, RefCell};
use std::future::Future;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};

/// One disk of the world, shared by all who use it.
#[derive(Debug)]
pub(crate) struct DiskCell {
    number: usize,
    state: RefCell<DiskState>,
    /// Operations that ended, and crashes: what the medium holds changes with them only.
    changes: Cell<u64>,
}

impl DiskCell {
    pub(crate) fn new(seed: u64, number: usize, config: DiskConfig) -> Rc<Self> {
        let rng = Rng::new(seed, Stream::Disk, number as u64);
        Rc::new(Self {
            number,
            state: RefCell::new(DiskState::new(config, rng)),
            changes: Cell::new(0),
        })
    }

    pub(crate) fn process_ended(&self, node: NodeId, incarnation: u32) {
        let bufs = self.state.borrow_mut().process_ended(node, incarnation);
        drop(bufs);
    }

    pub(crate) fn power_failure(&self) {
        self.changes.set(self.changes.get() + 1);
        self.state.borrow_mut().power_failure();
    }

    pub(crate) fn add_counters(&self, counters: &mut Counters) {
        let counts = self.state.borrow().counters;
        counters.add("disk operations", counts.operations);
        let hit = counts.errors + counts.full + counts.lies;
        counters.add("disk faults hit", hit);
        counters.add("disk errors injected", counts.errors);
        counters.add("disk full", counts.full);
        counters.add("disk lies", counts.lies);
        counters.add("disk bit flips", counts.bit_flips);
        counters.add("unsynced writes lost", counts.writes_lost);
        counters.add("unsynced writes torn", counts.writes_torn);
        counters.add("power failures", counts.power_failures);
    }
}

/// An operation's time has come.
pub(crate) fn complete(handle: &Handle, cell: &DiskCell, op: OpKey) {
    cell.changes.set(cell.changes.get() + 1);
    let done = cell.state.borrow_mut().complete(op);
    let Some(done) = done else { return };
    drop(done.buf);
    if let Some(waker) = done.waker {
        waker.wake();
    }
    if let Some((node, crash)) = done.crash {
        handle.crash(node, crash);
    }
}

/// A node's view of its disk; also the controls of the disk's faults.
#[derive(Clone)]
pub struct SimDisk {
    shared: Rc<Shared>,
    cell: Rc<DiskCell>,
    node: NodeId,
    incarnation: u32,
    pool: Arc<Pool>,
}

/// What an operation gives back: its outcome and the buffer it was lent.
type Outcome = (Result<Reply, DiskError>, Option<SimBuf>);

impl SimDisk {
    pub(crate) fn new(
        shared: Rc<Shared>,
        cell: Rc<DiskCell>,
        node: NodeId,
        incarnation: u32,
    ) -> Self {
        let pool = cell.state.borrow_mut().pool(node, incarnation);
        Self {
            shared,
            cell,
            node,
            incarnation,
            pool,
        }
    }

    /// Submits an operation. Never answers when that life of the node is over.
    async fn ask(&self, path: &Path, request: Request, buf: Option<SimBuf>) -> Outcome {
        if !self.shared.alive(self.node, self.incarnation) {
            return std::future::pending().await;
        }
        let kind = request.op() as u64;
        self.shared.note(
            Tag::DiskOp,
            (self.cell.number as u64) << 8 | kind,
            hash_name(path.as_os_str().as_encoded_bytes()),
            || {
                format!("disk {} {request:?}", self.cell.number)
                    .chars()
                    .take(160)
                    .collect()
            },
        );
        let (op, delay) = self.cell.state.borrow_mut().submit(
            self.node,
            self.incarnation,
            path.to_path_buf(),
            request,
            buf,
        );
        self.shared.arm_in(
            delay,
            Fire::Disk {
                cell: Rc::clone(&self.cell),
                op,
            },
        );
        Wait {
            cell: Rc::clone(&self.cell),
            op: Some(op),
        }
        .await
    }

    async fn done(&self, path: &Path, request: Request) -> Result<(), DiskError> {
        self.ask(path, request, None).await.0.map(|_| ())
    }
}

/// Waits for an operation. Dropped early, the operation goes on without it.
struct Wait {
    cell: Rc<DiskCell>,
    op: Option<OpKey>,
}

impl Future for Wait {
    type Output = Outcome;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Outcome> {
        let Some(op) = self.op else {
            return Poll::Pending;
        };
        let outcome = self.cell.state.borrow_mut().collect(op, cx.waker());
        match outcome {
            Some(outcome) => {
                self.op = None;
                Poll::Ready(outcome)
            }
            None => Poll::Pending,
        }
    }
}

impl Drop for Wait {
    fn drop(&mut self) {
        if let Some(op) = self.op.take() {
            let buf = self.cell.state.borrow_mut().abandon(op);
            drop(buf);
        }
    }
}

/// An answer of the wrong kind cannot come; if it did, that would be a bug of this module.
fn mismatch(reply: &Reply) -> ! {
    panic!("the simulated disk gave an answer of the wrong kind: {reply:?}")
}

impl Disk for SimDisk {
    type File = SimFile;
    type Buf = SimBuf;
    type Lock = SimLock;

    async fn buf(&self, capacity: usize) -> SimBuf {
        self.pool
            .take(capacity.max(1).next_multiple_of(ALIGN))
            .await
    }

    async fn open(&self, path: &Path, options: OpenOptions) -> Result<SimFile, DiskError> {
        let request = Request::Open {
            path: path.to_path_buf(),
            options,
        };
        match self.ask(path, request, None).await.0? {
            Reply::Opened(inode) => Ok(SimFile {
                disk: self.clone(),
                path: path.to_path_buf(),
                inode,
                options,
            }),
            other => mismatch(&other),
        }
    }

    async fn create_dir_all(&self, path: &Path) -> Result<(), DiskError> {
        self.done(
            path,
            Request::CreateDirAll {
                path: path.to_path_buf(),
            },
        )
        .await
    }

    async fn read_dir(&self, path: &Path) -> Result<Vec<DirEntry>, DiskError> {
        match self
            .ask(
                path,
                Request::ReadDir {
                    path: path.to_path_buf(),
                },
                None,
            )
            .await
            .0?
        {
            Reply::Entries(entries) => Ok(entries),
            other => mismatch(&other),
        }
    }

    async fn rename(&self, from: &Path, to: &Path) -> Result<(), DiskError> {
        self.done(
            from,
            Request::Rename {
                from: from.to_path_buf(),
                to: to.to_path_buf(),
            },
        )
        .await
    }

    async fn remove_file(&self, path: &Path) -> Result<(), DiskError> {
        self.done(
            path,
            Request::RemoveFile {
                path: path.to_path_buf(),
            },
        )
        .await
    }

    async fn remove_dir_all(&self, path: &Path) -> Result<(), DiskError> {
        self.done(
            path,
            Request::RemoveDirAll {
                path: path.to_path_buf(),
            },
        )
        .await
    }

    async fn sync_dir(&self, path: &Path) -> Result<(), DiskError> {
        self.done(
            path,
            Request::SyncDir {
                path: path.to_path_buf(),
            },
        )
        .await
    }

    async fn exists(&self, path: &Path) -> Result<bool, DiskError> {
        match self
            .ask(
                path,
                Request::Exists {
                    path: path.to_path_buf(),
                },
                None,
            )
            .await
            .0?
        {
            Reply::Exists(exists) => Ok(exists),
            other => mismatch(&other),
        }
    }

    async fn space(&self, path: &Path) -> Result<Space, DiskError> {
        match self.ask(path, Request::Space, None).await.0? {
            Reply::Space(space) => Ok(space),
            other => mismatch(&other),
        }
    }

    async fn lock(&self, path: &Path) -> Result<SimLock, DiskError> {
        match self
            .ask(
                path,
                Request::Lock {
                    path: path.to_path_buf(),
                },
                None,
            )
            .await
            .0?
        {
            Reply::Locked(path) => Ok(SimLock {
                cell: Rc::clone(&self.cell),
                path,
                by: (self.node, self.incarnation),
            }),
            other => mismatch(&other),
        }
    }
}

/// A held lock; free when dropped or when the process ends.
pub struct SimLock {
    cell: Rc<DiskCell>,
    path: PathBuf,
    by: (NodeId, u32),
}

impl Drop for SimLock {
    fn drop(&mut self) {
        self.cell.state.borrow_mut().unlock(&self.path, self.by);
    }
}

/// An open file of a simulated disk.
pub struct SimFile {
    disk: SimDisk,
    path: PathBuf,
    inode: u64,
    options: OpenOptions,
}

impl SimFile {
    fn check(&self, what: &str, buf: &SimBuf, range: &Range<usize>, offset: u64) {
        let size = buf.as_ref().len();
        assert!(
            range.start <= range.end && range.end <= size,
            "{what} of {}: range {range:?} is outside the buffer of {size} bytes",
            self.path.display()
        );
        let aligned = |value: u64| value.is_multiple_of(ALIGN as u64);
        assert!(
            !self.options.direct
                || (aligned(offset) && aligned(range.start as u64) && aligned(range.len() as u64)),
            "direct {what} of {}: offset {offset}, range {range:?} must be multiples of {ALIGN}",
            self.path.display()
        );
    }
}

impl Drop for SimFile {
    fn drop(&mut self) {
        self.disk.cell.state.borrow_mut().close(self.inode);
    }
}

/// The buffer lent to an operation comes back with its outcome.
fn returned(buf: Option<SimBuf>) -> SimBuf {
    buf.expect("an operation returns the buffer it was lent")
}

impl File for SimFile {
    type Buf = SimBuf;

    async fn read_at(
        &self,
        buf: SimBuf,
        range: Range<usize>,
        offset: u64,
    ) -> (Result<usize, DiskError>, SimBuf) {
        self.check("read", &buf, &range, offset);
        let request = Request::Read {
            inode: self.inode,
            range,
            offset,
        };
        let (outcome, buf) = self.disk.ask(&self.path, request, Some(buf)).await;
        let outcome = outcome.map(|reply| match reply {
            Reply::Read(count) => count,
            other => mismatch(&other),
        });
        (outcome, returned(buf))
    }

    async fn write_at(
        &self,
        buf: SimBuf,
        range: Range<usize>,
        offset: u64,
    ) -> (Result<(), DiskError>, SimBuf) {
        self.check("write", &buf, &range, offset);
        assert!(
            self.options.write,
            "write to {}: it was opened for reading only",
            self.path.display()
        );
        let write = WriteOp::new(offset, &buf.as_ref()[range]);
        let (direct, dsync) = (self.options.direct, self.options.dsync);
        let request = Request::Write {
            inode: self.inode,
            write,
            direct,
            dsync,
        };
        let (outcome, buf) = self.disk.ask(&self.path, request, Some(buf)).await;
        (outcome.map(|_| ()), returned(buf))
    }

    async fn sync_data(&self) -> Result<(), DiskError> {
        self.disk
            .done(&self.path, Request::SyncData { inode: self.inode })
            .await
    }

    async fn allocate(&self, offset: u64, length: u64) -> Result<(), DiskError> {
        self.disk
            .done(
                &self.path,
                Request::Allocate {
                    inode: self.inode,
                    end: offset + length,
                },
            )
            .await
    }

    async fn truncate(&self, length: u64) -> Result<(), DiskError> {
        self.disk
            .done(
                &self.path,
                Request::Truncate {
                    inode: self.inode,
                    length,
                },
            )
            .await
    }

    async fn length(&self) -> Result<u64, DiskError> {
        match self
            .disk
            .ask(&self.path, Request::Length { inode: self.inode }, None)
            .await
            .0?
        {
            Reply::Length(length) => Ok(length),
            other => mismatch(&other),
        }
    }
}
