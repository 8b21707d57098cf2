//! The state of one disk and the effect of each operation on it.

use super::buf::{Pool, SimBuf};
use super::content::{PAGE, WriteOp};
use super::faults::{DiskConfig, DiskCounters, DiskFault, FaultRates, Omissions, rolls};
use super::inode::{Inode, Loss, LossTally};
use super::names::{Entry, Names, clean};
use crate::node::NodeId;
use crate::rng::Rng;
use hadal_env::{Create, DirEntry, DiskError, DiskOp, OpenOptions, Space};
use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::task::Waker;

/// Names one operation in flight.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct OpKey {
    pub(super) slot: u32,
    pub(super) generation: u32,
}

/// What is asked of the disk.
#[derive(Debug)]
pub(super) enum Request {
    Open {
        path: PathBuf,
        options: OpenOptions,
    },
    CreateDirAll {
        path: PathBuf,
    },
    ReadDir {
        path: PathBuf,
    },
    Rename {
        from: PathBuf,
        to: PathBuf,
    },
    RemoveFile {
        path: PathBuf,
    },
    RemoveDirAll {
        path: PathBuf,
    },
    SyncDir {
        path: PathBuf,
    },
    Exists {
        path: PathBuf,
    },
    Space,
    Lock {
        path: PathBuf,
    },
    Read {
        inode: u64,
        range: Range<usize>,
        offset: u64,
    },
    Write {
        inode: u64,
        write: WriteOp,
        direct: bool,
        dsync: bool,
    },
    SyncData {
        inode: u64,
    },
    Allocate {
        inode: u64,
        end: u64,
    },
    Truncate {
        inode: u64,
        length: u64,
    },
    Length {
        inode: u64,
    },
}

impl Request {
    pub(super) fn op(&self) -> DiskOp {
        match self {
            Self::Open { .. } => DiskOp::Open,
            Self::CreateDirAll { .. }
            | Self::ReadDir { .. }
            | Self::Exists { .. }
            | Self::Space
            | Self::Length { .. } => DiskOp::Directory,
            Self::Rename { .. } => DiskOp::Rename,
            Self::RemoveFile { .. } | Self::RemoveDirAll { .. } => DiskOp::Remove,
            Self::SyncDir { .. } | Self::SyncData { .. } => DiskOp::Sync,
            Self::Lock { .. } => DiskOp::Lock,
            Self::Read { .. } => DiskOp::Read,
            Self::Write { .. } => DiskOp::Write,
            Self::Allocate { .. } => DiskOp::Allocate,
            Self::Truncate { .. } => DiskOp::Truncate,
        }
    }

    /// Whether faults strike it and it is counted: everything but questions that touch no medium.
    fn counts(&self) -> bool {
        !matches!(
            self,
            Self::Exists { .. } | Self::Space | Self::Length { .. } | Self::Lock { .. }
        )
    }
}

/// What the disk answers.
#[derive(Debug)]
pub(super) enum Reply {
    Done,
    Opened(u64),
    Entries(Vec<DirEntry>),
    Exists(bool),
    Space(Space),
    Read(usize),
    Length(u64),
    Locked(PathBuf),
}

/// An operation in flight, or done and not yet collected.
#[derive(Debug)]
struct Op {
    node: NodeId,
    incarnation: u32,
    path: PathBuf,
    request: Option<Request>,
    fault: Option<DiskFault>,
    buf: Option<SimBuf>,
    reply: Option<Result<Reply, DiskError>>,
    waker: Option<Waker>,
    abandoned: bool,
}

#[derive(Debug)]
struct Slot {
    generation: u32,
    op: Option<Op>,
}

/// What to do once the state is no longer borrowed.
pub(super) struct Completed {
    pub(super) waker: Option<Waker>,
    pub(super) crash: Option<(NodeId, crate::Crash)>,
    pub(super) buf: Option<SimBuf>,
}

/// One disk.
#[derive(Debug)]
pub(super) struct DiskState {
    pub(super) config: DiskConfig,
    pub(super) rng: Rng,
    pub(super) names: Names,
    pub(super) inodes: BTreeMap<u64, Inode>,
    next_inode: u64,
    slots: Vec<Slot>,
    free: Vec<u32>,
    pub(super) planned: BTreeMap<u64, DiskFault>,
    pub(super) rates: FaultRates,
    pub(super) omissions: Omissions,
    pub(super) counters: DiskCounters,
    locks: BTreeMap<PathBuf, (NodeId, u32)>,
    /// Latencies are multiplied by this.
    pub(super) slow: u64,
    /// Every operation fails.
    pub(super) dead: bool,
    pub(super) used: u64,
    removals: u32,
    pools: BTreeMap<NodeId, (u32, Arc<Pool>)>,
}

fn fail(kind: io::ErrorKind, words: &str) -> io::Error {
    io::Error::new(kind, words)
}

fn eio(words: &str) -> io::Error {
    io::Error::other(format!("input/output error (injected): {words}"))
}

fn full() -> io::Error {
    fail(io::ErrorKind::StorageFull, "no space left on device")
}

fn missing() -> io::Error {
    fail(io::ErrorKind::NotFound, "no such file or directory")
}

impl DiskState {
    pub(super) fn new(config: DiskConfig, rng: Rng) -> Self {
        Self {
            config,
            rng,
            names: Names::default(),
            inodes: BTreeMap::new(),
            next_inode: 1,
            slots: Vec::new(),
            free: Vec::new(),
            planned: BTreeMap::new(),
            rates: FaultRates::default(),
            omissions: Omissions::default(),
            counters: DiskCounters::default(),
            locks: BTreeMap::new(),
            slow: 1,
            dead: false,
            used: 0,
            removals: 0,
            pools: BTreeMap::new(),
        }
    }

    pub(super) fn pool(&mut self, node: NodeId, incarnation: u32) -> Arc<Pool> {
        let bound = self.config.pool_bytes;
        let entry = self
            .pools
            .entry(node)
            .or_insert_with(|| (incarnation, Pool::new(bound)));
        if entry.0 != incarnation {
            *entry = (incarnation, Pool::new(bound));
        }
        Arc::clone(&entry.1)
    }

    /// Takes an operation in; the key and after how many nanoseconds it completes.
    pub(super) fn submit(
        &mut self,
        node: NodeId,
        incarnation: u32,
        path: PathBuf,
        request: Request,
        buf: Option<SimBuf>,
    ) -> (OpKey, u64) {
        let fault = if request.counts() {
            self.draw_fault(request.op())
        } else {
            None
        };
        let delay = self.latency(&request);
        let op = Op {
            node,
            incarnation,
            path,
            request: Some(request),
            fault,
            buf,
            reply: None,
            waker: None,
            abandoned: false,
        };
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot {
                generation: 0,
                op: None,
            });
            (self.slots.len() - 1) as u32
        });
        let entry = &mut self.slots[slot as usize];
        entry.op = Some(op);
        (
            OpKey {
                slot,
                generation: entry.generation,
            },
            delay,
        )
    }

    fn draw_fault(&mut self, op: DiskOp) -> Option<DiskFault> {
        let number = self.counters.operations;
        self.counters.operations += 1;
        if let Some(fault) = self.planned.remove(&number) {
            return Some(fault);
        }
        if self.dead {
            return Some(DiskFault::Eio);
        }
        for (rate, fault) in rolls(&self.rates, op) {
            if rate > 0 && self.rng.chance(u64::from(rate), 1_000_000) {
                return Some(fault);
            }
        }
        None
    }

    fn latency(&mut self, request: &Request) -> u64 {
        let config = &self.config;
        let ((low, high), bytes) = match request {
            Request::Read { range, .. } => (config.read_us, range.len() as u64),
            Request::Write {
                write, dsync: true, ..
            } => (config.dsync_us, write.length),
            Request::Write { write, .. } => (config.write_us, write.length),
            Request::SyncData { .. } | Request::SyncDir { .. } => (config.sync_us, 0),
            _ => (config.metadata_us, 0),
        };
        let mut delay =
            self.rng.range(low * 1000, high * 1000) + bytes * 1000 / config.bytes_per_us.max(1);
        if config.hiccup_one_in > 0 && self.rng.chance(1, config.hiccup_one_in) {
            delay += self.rng.range(10_000_000, 50_000_000);
        }
        delay.saturating_mul(self.slow)
    }

    fn op(&mut self, key: OpKey) -> Option<&mut Op> {
        let slot = &mut self.slots[key.slot as usize];
        if slot.generation == key.generation {
            slot.op.as_mut()
        } else {
            None
        }
    }

    fn release(&mut self, slot: u32) -> Option<Op> {
        let entry = &mut self.slots[slot as usize];
        entry.generation = entry.generation.wrapping_add(1);
        self.free.push(slot);
        entry.op.take()
    }

    /// The answer and the buffer, if the operation is done; else its waker is kept.
    pub(super) fn collect(
        &mut self,
        key: OpKey,
        waker: &Waker,
    ) -> Option<(Result<Reply, DiskError>, Option<SimBuf>)> {
        let op = self.op(key)?;
        match op.reply.take() {
            Some(reply) => {
                let buf = op.buf.take();
                self.release(key.slot);
                Some((reply, buf))
            }
            None => {
                op.waker = Some(waker.clone());
                None
            }
        }
    }

    /// Nobody waits any more; the operation still takes effect.
    pub(super) fn abandon(&mut self, key: OpKey) -> Option<SimBuf> {
        let op = self.op(key)?;
        op.waker = None;
        if op.reply.is_none() {
            op.abandoned = true;
            return None;
        }
        let by = (op.node, op.incarnation);
        let op = self.release(key.slot)?;
        self.undo_unwanted(op.reply.as_ref().and_then(|reply| reply.as_ref().ok()), by);
        op.buf
    }

    /// A lock or an open file that nobody took delivery of is given back.
    fn undo_unwanted(&mut self, reply: Option<&Reply>, by: (NodeId, u32)) {
        match reply {
            Some(Reply::Locked(path)) => {
                let path = path.clone();
                self.unlock(&path, by);
            }
            Some(Reply::Opened(inode)) => self.close(*inode),
            _ => {}
        }
    }

    /// The operation's time has come.
    pub(super) fn complete(&mut self, key: OpKey) -> Option<Completed> {
        let op = self.op(key)?;
        let request = op.request.take()?;
        let (fault, node, incarnation) = (op.fault, op.node, op.incarnation);
        let mut buf = op.buf.take();
        if let Some(DiskFault::CrashBefore(crash)) = fault {
            let buf = self.release(key.slot).and_then(|op| op.buf).or(buf);
            return Some(Completed {
                waker: None,
                crash: Some((node, crash)),
                buf,
            });
        }
        let kind = request.op();
        let result = self.perform(request, buf.as_mut(), fault, (node, incarnation));
        if let Err(error) = &result {
            match error.kind() {
                io::ErrorKind::StorageFull => self.counters.full += 1,
                io::ErrorKind::Other => self.counters.errors += 1,
                _ => {}
            }
        }
        let crash = match fault {
            Some(DiskFault::CrashAfter(crash)) => Some((node, crash)),
            _ => None,
        };
        let op = self.op(key)?;
        if op.abandoned || crash.is_some() {
            self.undo_unwanted(result.as_ref().ok(), (node, incarnation));
            let buf = self.release(key.slot).and_then(|op| op.buf).or(buf);
            return Some(Completed {
                waker: None,
                crash,
                buf,
            });
        }
        op.reply = Some(result.map_err(|error| DiskError::new(kind, op.path.clone(), error)));
        op.buf = buf;
        Some(Completed {
            waker: op.waker.take(),
            crash,
            buf: None,
        })
    }

    fn perform(
        &mut self,
        request: Request,
        buf: Option<&mut SimBuf>,
        fault: Option<DiskFault>,
        by: (NodeId, u32),
    ) -> io::Result<Reply> {
        match request {
            Request::Read {
                inode,
                range,
                offset,
            } => {
                let buf = buf.ok_or_else(|| eio("the buffer is gone"))?;
                self.read(inode, &mut buf.as_mut()[range], offset, fault)
                    .map(Reply::Read)
            }
            Request::Write {
                inode,
                write,
                direct,
                dsync,
            } => {
                let result = self.write(inode, write, direct, dsync, fault);
                if self.omissions.write_errors {
                    Ok(Reply::Done)
                } else {
                    result.map(|()| Reply::Done)
                }
            }
            Request::SyncData { inode } => {
                let result = self.sync_data(inode, fault);
                if self.omissions.write_errors {
                    Ok(Reply::Done)
                } else {
                    result.map(|()| Reply::Done)
                }
            }
            Request::SyncDir { path } => self.sync_dir(&path, fault).map(|()| Reply::Done),
            Request::Exists { path } => Ok(Reply::Exists(self.names.get(&clean(&path)).is_some())),
            Request::Space => {
                let capacity = self.config.capacity;
                Ok(Reply::Space(Space {
                    capacity,
                    available: capacity.saturating_sub(self.used),
                }))
            }
            Request::Lock { path } => self.lock(&clean(&path), by),
            Request::Length { inode } => Ok(Reply::Length(self.inode(inode)?.live.length())),
            other => {
                match fault {
                    Some(DiskFault::Eio | DiskFault::Short) => {
                        return Err(eio("the operation failed"));
                    }
                    Some(DiskFault::Full) => return Err(full()),
                    _ => {}
                }
                self.change(other)
            }
        }
    }

    /// Operations that a fault fails as a whole.
    fn change(&mut self, request: Request) -> io::Result<Reply> {
        match request {
            Request::Open { path, options } => self.open(&clean(&path), options).map(Reply::Opened),
            Request::CreateDirAll { path } => self.create_dir_all(&clean(&path)),
            Request::ReadDir { path } => self.read_dir(&clean(&path)).map(Reply::Entries),
            Request::Rename { from, to } => self.rename(&clean(&from), &clean(&to)),
            Request::RemoveFile { path } => self.remove_file(&clean(&path)),
            Request::RemoveDirAll { path } => self.remove_dir_all(&clean(&path)),
            Request::Allocate { inode, end } => {
                let length = self.inode(inode)?.live.length();
                if end > length {
                    self.charge(inode, end)?;
                    self.inode(inode)?.set_length(end);
                }
                Ok(Reply::Done)
            }
            Request::Truncate { inode, length } => {
                self.charge(inode, length)?;
                self.inode(inode)?.set_length(length);
                Ok(Reply::Done)
            }
            other => unreachable!("{other:?} is performed elsewhere"),
        }
    }

    pub(super) fn inode(&mut self, inode: u64) -> io::Result<&mut Inode> {
        self.inodes
            .get_mut(&inode)
            .ok_or_else(|| eio("the file is gone from the medium"))
    }

    /// Accounts for the file having `length` bytes, if there is room.
    fn charge(&mut self, inode: u64, length: u64) -> io::Result<()> {
        let capacity = self.config.capacity;
        let used = self.used;
        let entry = self.inode(inode)?;
        let old = entry.live.length();
        if !entry.charged {
            return Ok(());
        }
        if length > old && used + (length - old) > capacity {
            return Err(full());
        }
        self.used = used + length - old;
        Ok(())
    }

    fn read(
        &mut self,
        inode: u64,
        out: &mut [u8],
        offset: u64,
        fault: Option<DiskFault>,
    ) -> io::Result<usize> {
        match fault {
            Some(DiskFault::Eio | DiskFault::Short | DiskFault::Full) => {
                return Err(eio("the read failed"));
            }
            Some(DiskFault::Misdirected) => {
                self.counters.lies += 1;
                let entry = self.inode(inode)?;
                let count = entry.live.read(offset, out);
                let elsewhere = if offset >= PAGE as u64 {
                    offset - PAGE as u64
                } else {
                    offset + PAGE as u64
                };
                entry.live.read(elsewhere, &mut out[..count]);
                return Ok(count);
            }
            _ => {}
        }
        let count = self.inode(inode)?.live.read(offset, out);
        self.counters.bytes_read += count as u64;
        Ok(count)
    }

    fn write(
        &mut self,
        inode: u64,
        write: WriteOp,
        direct: bool,
        dsync: bool,
        fault: Option<DiskFault>,
    ) -> io::Result<()> {
        let durably = dsync && !self.omissions.dsync;
        match fault {
            Some(DiskFault::Eio) => return Err(eio("the write failed")),
            Some(DiskFault::Full | DiskFault::Short) => {
                let mut sectors = self.rng.below(write.length / 512 + 1);
                let parts = write.torn(512, || {
                    let take = sectors > 0;
                    sectors = sectors.saturating_sub(1);
                    take
                });
                for part in parts {
                    let _ = self.write_plainly(inode, part, durably);
                }
                return Err(if fault == Some(DiskFault::Full) {
                    full()
                } else {
                    eio("the write did a part")
                });
            }
            Some(DiskFault::LostWrite) => {
                self.counters.lies += 1;
                if !direct {
                    self.charge_write(inode, &write)?;
                }
                self.inode(inode)?.write_lost(&write, !direct);
                return Ok(());
            }
            Some(DiskFault::Misdirected) => {
                self.counters.lies += 1;
                let pages = self.rng.range(1, 8);
                let landed = write.moved_by_pages(pages);
                self.charge_write(inode, &landed)?;
                self.inode(inode)?
                    .write_misdirected(&write, &landed, !direct);
                return Ok(());
            }
            _ => {}
        }
        self.write_plainly(inode, write, durably)
    }

    fn charge_write(&mut self, inode: u64, write: &WriteOp) -> io::Result<()> {
        if write.end() > self.inode(inode)?.live.length() {
            self.charge(inode, write.end())
        } else {
            Ok(())
        }
    }

    fn write_plainly(&mut self, inode: u64, write: WriteOp, durably: bool) -> io::Result<()> {
        if write.length == 0 {
            return Ok(());
        }
        self.charge_write(inode, &write)?;
        self.counters.bytes_written += write.length;
        let entry = self.inode(inode)?;
        if durably {
            entry.write_durably(&write);
        } else {
            entry.write(write);
        }
        Ok(())
    }

    fn sync_data(&mut self, inode: u64, fault: Option<DiskFault>) -> io::Result<()> {
        let mut rng = self.rng.fork();
        let omitted = self.omissions.file_sync;
        let entry = self.inode(inode)?;
        if matches!(
            fault,
            Some(DiskFault::Eio | DiskFault::Short | DiskFault::Full)
        ) {
            entry.sync_failed(&mut rng);
            return Err(eio("the sync failed"));
        }
        if !omitted {
            entry.sync();
        }
        self.counters.syncs += 1;
        Ok(())
    }

    fn sync_dir(&mut self, path: &Path, fault: Option<DiskFault>) -> io::Result<()> {
        let path = clean(path);
        if !self.names.is_dir(&path) {
            return Err(missing());
        }
        if matches!(
            fault,
            Some(DiskFault::Eio | DiskFault::Short | DiskFault::Full)
        ) {
            let mut rng = self.rng.fork();
            self.names.sync_dir_failed(&path, &mut rng);
            return if self.omissions.write_errors {
                Ok(())
            } else {
                Err(eio("the sync failed"))
            };
        }
        if !self.omissions.dir_sync {
            self.names.sync_dir(&path);
        }
        self.counters.syncs += 1;
        Ok(())
    }

    fn open(&mut self, path: &Path, options: OpenOptions) -> io::Result<u64> {
        match self.names.get(path) {
            Some(Entry::Dir) => Err(fail(io::ErrorKind::IsADirectory, "is a directory")),
            Some(Entry::File(_)) if options.create == Create::New => {
                Err(fail(io::ErrorKind::AlreadyExists, "file exists"))
            }
            Some(Entry::File(inode)) => {
                self.inode(inode)?.opens += 1;
                Ok(inode)
            }
            None if options.create == Create::No => Err(missing()),
            None => {
                let inode = self.create_file(path)?;
                self.inode(inode)?.opens += 1;
                Ok(inode)
            }
        }
    }

    fn create_file(&mut self, path: &Path) -> io::Result<u64> {
        if !path
            .parent()
            .is_some_and(|parent| self.names.is_dir(parent))
        {
            return Err(missing());
        }
        if self.used >= self.config.capacity {
            return Err(full());
        }
        let inode = self.next_inode;
        self.next_inode += 1;
        self.inodes.insert(inode, Inode::linked());
        self.names
            .change(vec![(path.to_path_buf(), Some(Entry::File(inode)))]);
        Ok(inode)
    }

    fn create_dir_all(&mut self, path: &Path) -> io::Result<Reply> {
        let mut above: Vec<_> = path.ancestors().collect();
        above.reverse();
        for directory in above {
            match self.names.get(directory) {
                Some(Entry::Dir) => {}
                Some(Entry::File(_)) => {
                    return Err(fail(io::ErrorKind::NotADirectory, "not a directory"));
                }
                None => self.names.create_dir_durably(directory),
            }
        }
        Ok(Reply::Done)
    }

    fn read_dir(&mut self, path: &Path) -> io::Result<Vec<DirEntry>> {
        if !self.names.is_dir(path) {
            return Err(missing());
        }
        let mut entries = Vec::new();
        for (child, entry) in self.names.children(path) {
            let name = child
                .file_name()
                .and_then(|name| name.to_str())
                .unwrap_or_default()
                .to_owned();
            let (is_dir, length) = match entry {
                Entry::Dir => (true, 0),
                Entry::File(inode) => (false, self.inode(inode)?.live.length()),
            };
            entries.push(DirEntry {
                name,
                is_dir,
                length,
            });
        }
        entries.sort();
        Ok(entries)
    }

    fn rename(&mut self, from: &Path, to: &Path) -> io::Result<Reply> {
        let entry = self.names.get(from).ok_or_else(missing)?;
        if !to.parent().is_some_and(|parent| self.names.is_dir(parent)) {
            return Err(missing());
        }
        if from == to {
            return Ok(Reply::Done);
        }
        if self.names.is_dir(to) {
            return Err(fail(io::ErrorKind::IsADirectory, "is a directory"));
        }
        let mut sets = vec![(from.to_path_buf(), None), (to.to_path_buf(), Some(entry))];
        if entry == Entry::Dir {
            if to.starts_with(from) {
                return Err(fail(
                    io::ErrorKind::InvalidInput,
                    "a directory cannot move below itself",
                ));
            }
            for (path, entry) in self.names.below(from) {
                let Ok(rest) = path.strip_prefix(from) else {
                    continue;
                };
                sets.push((to.join(rest), Some(entry)));
                sets.push((path, None));
            }
        }
        if let Some(Entry::File(replaced)) = self.names.get(to) {
            self.unlink(replaced);
        }
        self.names.change(sets);
        Ok(Reply::Done)
    }

    fn remove_file(&mut self, path: &Path) -> io::Result<Reply> {
        match self.names.get(path) {
            None => Err(missing()),
            Some(Entry::Dir) => Err(fail(io::ErrorKind::IsADirectory, "is a directory")),
            Some(Entry::File(inode)) => {
                self.names.change(vec![(path.to_path_buf(), None)]);
                self.unlink(inode);
                Ok(Reply::Done)
            }
        }
    }

    fn remove_dir_all(&mut self, path: &Path) -> io::Result<Reply> {
        if !self.names.is_dir(path) || path == Path::new("/") {
            return Err(missing());
        }
        // Each name goes by itself: a crash can leave any part of the tree.
        for (path, entry) in self.names.below(path).into_iter().rev() {
            self.names.change(vec![(path, None)]);
            if let Entry::File(inode) = entry {
                self.unlink(inode);
            }
        }
        self.names.change(vec![(path.to_path_buf(), None)]);
        Ok(Reply::Done)
    }

    fn unlink(&mut self, inode: u64) {
        if let Some(entry) = self.inodes.get_mut(&inode) {
            entry.linked = false;
        }
        self.discharge(inode);
        self.removals += 1;
        if self.removals >= 256 {
            self.sweep();
        }
    }

    fn discharge(&mut self, inode: u64) {
        if let Some(entry) = self.inodes.get_mut(&inode)
            && entry.charged
            && !entry.is_open_or_linked()
        {
            entry.charged = false;
            self.used -= entry.live.length();
        }
    }

    pub(super) fn close(&mut self, inode: u64) {
        if let Some(entry) = self.inodes.get_mut(&inode) {
            entry.opens = entry.opens.saturating_sub(1);
        }
        self.discharge(inode);
    }

    /// Forgets files nothing refers to.
    fn sweep(&mut self) {
        self.removals = 0;
        let referenced = self.names.referenced();
        self.inodes
            .retain(|inode, entry| entry.is_open_or_linked() || referenced.contains(inode));
    }

    fn lock(&mut self, path: &Path, by: (NodeId, u32)) -> io::Result<Reply> {
        if self.dead {
            return Err(eio("the disk is dead"));
        }
        if self.names.get(path).is_none() {
            self.create_file(path)?;
        }
        if self.locks.contains_key(path) && !self.omissions.lock {
            return Err(fail(
                io::ErrorKind::WouldBlock,
                "another process holds the lock",
            ));
        }
        self.locks.insert(path.to_path_buf(), by);
        Ok(Reply::Locked(path.to_path_buf()))
    }

    pub(super) fn unlock(&mut self, path: &Path, by: (NodeId, u32)) {
        if self.locks.get(path) == Some(&by) {
            self.locks.remove(path);
        }
    }

    /// That life of the node is over: its locks are free, and each operation it had in flight happens,
    /// happens in part, or does not, by seed. Hands out buffers to be dropped.
    pub(super) fn process_ended(&mut self, node: NodeId, incarnation: u32) -> Vec<SimBuf> {
        self.locks
            .retain(|_, holder| *holder != (node, incarnation));
        let mut bufs = Vec::new();
        for slot in 0..self.slots.len() {
            let Some(op) = &self.slots[slot].op else {
                continue;
            };
            if (op.node, op.incarnation) != (node, incarnation) {
                continue;
            }
            let Some(op) = self.release(slot as u32) else {
                continue;
            };
            bufs.extend(op.buf);
            match op.request {
                Some(Request::Write { inode, write, .. }) => {
                    let parts = match self.rng.below(3) {
                        0 => Vec::new(),
                        1 => vec![write],
                        _ => {
                            let mut rng = self.rng.fork();
                            write.torn(PAGE, || rng.chance(1, 2))
                        }
                    };
                    for part in parts {
                        let _ = self.write_plainly(inode, part, false);
                    }
                }
                Some(Request::Read { .. } | Request::Open { .. } | Request::Lock { .. }) | None => {
                }
                Some(request) => {
                    if self.rng.chance(1, 2) {
                        let _ = self.perform(request, None, None, (node, incarnation));
                    }
                }
            }
        }
        bufs
    }

    pub(super) fn power_failure(&mut self) {
        let loss = Loss::draw(&mut self.rng);
        let mut rng = self.rng.fork();
        let mut tally = LossTally::default();
        self.counters.power_failures += 1;
        self.names.power_failure(loss, &mut rng);
        for entry in self.inodes.values_mut() {
            entry.power_failure(loss, &mut rng, &mut tally);
        }
        self.counters.writes_lost += tally.lost;
        self.counters.writes_kept += tally.kept;
        self.counters.writes_torn += tally.torn;
        self.recount();
    }

    /// Works links and used space out anew.
    pub(super) fn recount(&mut self) {
        for entry in self.inodes.values_mut() {
            (entry.linked, entry.charged) = (false, false);
        }
        let linked: Vec<u64> = self.names.files().map(|(_, inode)| inode).collect();
        self.used = 0;
        for inode in linked {
            if let Some(entry) = self.inodes.get_mut(&inode) {
                (entry.linked, entry.charged) = (true, true);
                self.used += entry.live.length();
            }
        }
        self.sweep();
    }
}
