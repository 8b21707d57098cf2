//! A disk in memory for tests: loses, keeps and tears unsynced writes in a crash; fails or crashes at any operation.

use hadal_env::{Create, DirEntry, Disk, DiskBuf, DiskError, DiskOp, File, OpenOptions, Space};
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::future::{Future, poll_fn};
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};

const SECTOR: usize = 512;

struct Flag(AtomicBool);

impl Wake for Flag {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Runs one future to its end; a future nobody will wake is a failure.
pub(crate) fn block_on<T>(future: impl Future<Output = T>) -> T {
    let flag = Arc::new(Flag(AtomicBool::new(true)));
    let waker = Waker::from(flag.clone());
    let mut future = pin!(future);
    loop {
        if let Poll::Ready(value) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            return value;
        }
        assert!(
            flag.0.swap(false, Ordering::Relaxed),
            "stuck: nobody will wake this future"
        );
    }
}

/// Polls a future this often, then drops it.
pub(crate) fn poll_and_drop<T>(future: impl Future<Output = T>, polls: usize) -> Option<T> {
    let waker = Waker::from(Arc::new(Flag(AtomicBool::new(true))));
    let mut future = pin!(future);
    for _ in 0..polls {
        if let Poll::Ready(value) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            return Some(value);
        }
    }
    None
}

/// Small deterministic random numbers.
#[derive(Clone)]
pub(crate) struct Rng(pub(crate) u64);

impl Rng {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }
}

/// What happens at the chosen operation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Fault {
    /// This one operation fails; a write may have been done in part.
    Error,
    /// This one operation finds no space (only those that can).
    Full,
    /// This one operation, if it is a flush, finds no space.
    FullFlush,
    /// The machine stops: this and every later operation fails.
    Crash,
}

#[derive(Clone)]
enum Change {
    Write(usize, Vec<u8>),
    Truncate(usize),
    Extend(usize),
}

#[derive(Clone, Default)]
struct Inode {
    now: Vec<u8>,
    durable: Vec<u8>,
    pending: Vec<Change>,
}

#[derive(Clone)]
enum NameChange {
    Link(PathBuf, u64),
    Unlink(PathBuf),
    Rename(PathBuf, PathBuf),
}

#[derive(Clone, Default)]
struct World {
    inodes: BTreeMap<u64, Inode>,
    names: BTreeMap<PathBuf, u64>,
    durable_names: BTreeMap<PathBuf, u64>,
    pending_names: Vec<NameChange>,
    dirs: BTreeSet<PathBuf>,
    next_inode: u64,
}

#[derive(Default)]
struct Shared {
    world: RefCell<World>,
    locks: RefCell<BTreeSet<PathBuf>>,
    operations: Cell<u64>,
    fault: Cell<Option<(u64, Fault)>>,
    crashed: Cell<bool>,
    room: Cell<Option<u64>>,
    rng: Cell<u64>,
    bad_paths: RefCell<Vec<PathBuf>>,
    /// Bytes of files that the device does not give.
    unreadable: RefCell<Vec<(PathBuf, Range<u64>)>>,
}

/// The disk. Clones share it.
#[derive(Clone, Default)]
pub(crate) struct TestDisk(Rc<Shared>);

/// What of the unsynced changes a crash keeps.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Keep {
    /// The n-th change if bit n is set.
    Mask(u64),
    /// Random sectors of random changes.
    Torn(u64),
    /// All: the process died, the machine did not.
    All,
    /// All, and unsynced it stays: the machine may still lose power.
    Cached,
}

fn apply_write(content: &mut Vec<u8>, offset: usize, data: &[u8]) {
    if content.len() < offset + data.len() {
        content.resize(offset + data.len(), 0);
    }
    content[offset..offset + data.len()].copy_from_slice(data);
}

fn apply(content: &mut Vec<u8>, change: &Change) {
    match change {
        Change::Write(offset, data) => apply_write(content, *offset, data),
        Change::Truncate(length) => content.resize(*length, 0),
        Change::Extend(length) => content.resize(content.len().max(*length), 0),
    }
}

fn apply_name(names: &mut BTreeMap<PathBuf, u64>, change: &NameChange) {
    match change {
        NameChange::Link(path, inode) => {
            names.insert(path.clone(), *inode);
        }
        NameChange::Unlink(path) => {
            names.remove(path);
        }
        NameChange::Rename(from, to) => {
            if let Some(inode) = names.remove(from) {
                names.insert(to.clone(), inode);
            }
        }
    }
}

fn directory_of(change: &NameChange) -> &Path {
    let (NameChange::Link(path, _) | NameChange::Unlink(path) | NameChange::Rename(path, _)) =
        change;
    path.parent().expect("absolute")
}

impl TestDisk {
    /// Operations so far.
    pub(crate) fn operations(&self) -> u64 {
        self.0.operations.get()
    }

    /// Makes the operation after `after` more fail like this.
    pub(crate) fn inject(&self, after: u64, fault: Fault) {
        self.0.fault.set(Some((self.operations() + after, fault)));
    }

    /// Everything on this path prefix fails from now on.
    pub(crate) fn break_path(&self, prefix: &Path) {
        self.0.bad_paths.borrow_mut().push(prefix.to_owned());
    }

    /// Every read of any of these bytes fails from now on.
    pub(crate) fn break_sector(&self, path: &Path, bytes: Range<u64>) {
        self.0
            .unreadable
            .borrow_mut()
            .push((path.to_owned(), bytes));
    }

    pub(crate) fn set_room(&self, bytes: u64) {
        self.0.room.set(Some(bytes));
    }

    /// Unsynced changes, of files and names.
    pub(crate) fn unsynced(&self) -> usize {
        let world = self.0.world.borrow();
        world
            .inodes
            .values()
            .map(|inode| inode.pending.len())
            .sum::<usize>()
            + world.pending_names.len()
    }

    /// The disk as found after a crash now. This one stays as it is.
    pub(crate) fn after_crash(&self, keep: Keep) -> Self {
        let mut world = self.0.world.borrow().clone();
        if matches!(keep, Keep::Cached) {
            return Self::found(world);
        }
        let mut index = 0;
        let mut rng = Rng(match keep {
            Keep::Torn(seed) => seed,
            _ => 0,
        });
        let mut kept = |rng: &mut Rng| {
            let bit = index;
            index += 1;
            match keep {
                Keep::All | Keep::Cached => true,
                Keep::Mask(mask) => mask >> (bit % 64) & 1 == 1,
                Keep::Torn(_) => rng.below(4) > 0,
            }
        };
        for inode in world.inodes.values_mut() {
            for change in std::mem::take(&mut inode.pending) {
                if !kept(&mut rng) {
                    continue;
                }
                match (&change, keep) {
                    (Change::Write(offset, data), Keep::Torn(_)) if rng.below(2) == 0 => {
                        for (sector, bytes) in data.chunks(SECTOR).enumerate() {
                            if rng.below(2) == 0 {
                                apply_write(&mut inode.durable, offset + sector * SECTOR, bytes);
                            }
                        }
                    }
                    _ => apply(&mut inode.durable, &change),
                }
            }
            inode.now = inode.durable.clone();
        }
        // Names are journaled in order: a prefix survives.
        for change in std::mem::take(&mut world.pending_names) {
            if !kept(&mut rng) {
                break;
            }
            apply_name(&mut world.durable_names, &change);
        }
        world.names = world.durable_names.clone();
        Self::found(world)
    }

    fn found(world: World) -> Self {
        Self(Rc::new(Shared {
            world: RefCell::new(world),
            ..Shared::default()
        }))
    }

    /// Names of all files.
    pub(crate) fn files(&self) -> Vec<PathBuf> {
        self.0.world.borrow().names.keys().cloned().collect()
    }

    /// Changes the content of a file behind everybody's back.
    pub(crate) fn edit<T>(&self, path: &Path, change: impl FnOnce(&mut Vec<u8>) -> T) -> T {
        let mut world = self.0.world.borrow_mut();
        let inode = world.names[path];
        let inode = world.inodes.get_mut(&inode).expect("named inodes exist");
        assert!(inode.pending.is_empty(), "edit after a crash or sync");
        let result = change(&mut inode.durable);
        inode.now = inode.durable.clone();
        result
    }

    /// Removes a file behind everybody's back. Who has it open still reads it.
    pub(crate) fn remove(&self, path: &Path) {
        let mut world = self.0.world.borrow_mut();
        world.names.remove(path).expect("such a file");
        world.durable_names.remove(path);
    }

    /// Puts a file there behind everybody's back.
    pub(crate) fn put(&self, path: &Path, content: Vec<u8>) {
        let mut world = self.0.world.borrow_mut();
        let number = world.next_inode;
        world.next_inode += 1;
        let inode = Inode {
            now: content.clone(),
            durable: content,
            pending: Vec::new(),
        };
        world.inodes.insert(number, inode);
        world.names.insert(path.to_owned(), number);
        world.durable_names.insert(path.to_owned(), number);
    }

    /// Changes one byte where it is read from, without copying the file.
    pub(crate) fn flip(&self, path: &Path, byte: usize, mask: u8) {
        let mut world = self.0.world.borrow_mut();
        let inode = world.names[path];
        world
            .inodes
            .get_mut(&inode)
            .expect("named inodes exist")
            .now[byte] ^= mask;
    }

    fn error(&self, op: DiskOp, path: &Path, kind: io::ErrorKind) -> DiskError {
        DiskError::new(op, path, io::Error::from(kind))
    }

    /// Counts an operation and says how it fails, after a few turns of other tasks.
    async fn operate(&self, op: DiskOp, path: &Path) -> Result<(), DiskError> {
        let mut rng = Rng(self.0.rng.get());
        let mut turns = rng.below(4);
        self.0.rng.set(rng.0);
        poll_fn(|cx| {
            if turns == 0 {
                return Poll::Ready(());
            }
            turns -= 1;
            cx.waker().wake_by_ref();
            Poll::Pending
        })
        .await;
        let number = self.0.operations.get();
        self.0.operations.set(number + 1);
        if self.0.crashed.get()
            || self
                .0
                .bad_paths
                .borrow()
                .iter()
                .any(|bad| path.starts_with(bad))
        {
            return Err(self.error(op, path, io::ErrorKind::Other));
        }
        match self.0.fault.get() {
            Some((at, fault)) if at == number => match fault {
                Fault::Error => Err(self.error(op, path, io::ErrorKind::Other)),
                Fault::Full if matches!(op, DiskOp::Write | DiskOp::Allocate | DiskOp::Open) => {
                    Err(self.error(op, path, io::ErrorKind::StorageFull))
                }
                Fault::FullFlush if op == DiskOp::Sync => {
                    Err(self.error(op, path, io::ErrorKind::StorageFull))
                }
                Fault::Full | Fault::FullFlush => Ok(()),
                Fault::Crash => {
                    self.0.crashed.set(true);
                    Err(self.error(op, path, io::ErrorKind::Other))
                }
            },
            _ => Ok(()),
        }
    }

    fn name_change(&self, change: NameChange) {
        let mut world = self.0.world.borrow_mut();
        apply_name(&mut world.names, &change);
        world.pending_names.push(change);
    }

    fn used(&self) -> u64 {
        let world = self.0.world.borrow();
        world
            .names
            .values()
            .map(|inode| world.inodes[inode].now.len() as u64)
            .sum()
    }
}

/// A buffer with old bytes in it.
pub(crate) struct TestBuf(Vec<u8>);

impl AsRef<[u8]> for TestBuf {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl AsMut<[u8]> for TestBuf {
    fn as_mut(&mut self) -> &mut [u8] {
        &mut self.0
    }
}

impl DiskBuf for TestBuf {}

pub(crate) struct TestFile {
    disk: TestDisk,
    path: PathBuf,
    inode: u64,
    direct: bool,
}

pub(crate) struct TestLock(TestDisk, PathBuf);

impl Drop for TestLock {
    fn drop(&mut self) {
        self.0.0.locks.borrow_mut().remove(&self.1);
    }
}

impl Disk for TestDisk {
    type File = TestFile;
    type Buf = TestBuf;
    type Lock = TestLock;

    async fn buf(&self, capacity: usize) -> TestBuf {
        TestBuf(vec![0xee; capacity.next_multiple_of(4096)])
    }

    async fn open(&self, path: &Path, options: OpenOptions) -> Result<TestFile, DiskError> {
        self.operate(DiskOp::Open, path).await?;
        let known = self.0.world.borrow().names.get(path).copied();
        let inode = match (known, options.create) {
            (Some(_), Create::New) => {
                return Err(self.error(DiskOp::Open, path, io::ErrorKind::AlreadyExists));
            }
            (Some(inode), _) => inode,
            (None, Create::No) => {
                return Err(self.error(DiskOp::Open, path, io::ErrorKind::NotFound));
            }
            (None, _) => {
                let inode = {
                    let mut world = self.0.world.borrow_mut();
                    world.next_inode += 1;
                    let inode = world.next_inode;
                    world.inodes.insert(inode, Inode::default());
                    inode
                };
                self.name_change(NameChange::Link(path.to_owned(), inode));
                inode
            }
        };
        Ok(TestFile {
            disk: self.clone(),
            path: path.to_owned(),
            inode,
            direct: options.direct,
        })
    }

    async fn create_dir_all(&self, path: &Path) -> Result<(), DiskError> {
        self.operate(DiskOp::Directory, path).await?;
        self.0.world.borrow_mut().dirs.insert(path.to_owned());
        Ok(())
    }

    async fn read_dir(&self, path: &Path) -> Result<Vec<DirEntry>, DiskError> {
        self.operate(DiskOp::Directory, path).await?;
        let world = self.0.world.borrow();
        let files = world
            .names
            .iter()
            .filter(|(name, _)| name.parent() == Some(path));
        Ok(files
            .map(|(name, inode)| DirEntry {
                name: name.file_name().unwrap().to_str().unwrap().to_owned(),
                is_dir: false,
                length: world.inodes[inode].now.len() as u64,
            })
            .collect())
    }

    async fn rename(&self, from: &Path, to: &Path) -> Result<(), DiskError> {
        self.operate(DiskOp::Rename, from).await?;
        if !self.0.world.borrow().names.contains_key(from) {
            return Err(self.error(DiskOp::Rename, from, io::ErrorKind::NotFound));
        }
        self.name_change(NameChange::Rename(from.to_owned(), to.to_owned()));
        Ok(())
    }

    async fn remove_file(&self, path: &Path) -> Result<(), DiskError> {
        self.operate(DiskOp::Remove, path).await?;
        if !self.0.world.borrow().names.contains_key(path) {
            return Err(self.error(DiskOp::Remove, path, io::ErrorKind::NotFound));
        }
        self.name_change(NameChange::Unlink(path.to_owned()));
        Ok(())
    }

    async fn remove_dir_all(&self, path: &Path) -> Result<(), DiskError> {
        self.operate(DiskOp::Remove, path).await
    }

    async fn sync_dir(&self, path: &Path) -> Result<(), DiskError> {
        self.operate(DiskOp::Sync, path).await?;
        let mut world = self.0.world.borrow_mut();
        let (done, rest): (Vec<_>, Vec<_>) = std::mem::take(&mut world.pending_names)
            .into_iter()
            .partition(|change| directory_of(change) == path);
        world.pending_names = rest;
        for change in done {
            apply_name(&mut world.durable_names, &change);
        }
        Ok(())
    }

    async fn exists(&self, path: &Path) -> Result<bool, DiskError> {
        self.operate(DiskOp::Directory, path).await?;
        Ok(self.0.world.borrow().names.contains_key(path))
    }

    async fn space(&self, path: &Path) -> Result<Space, DiskError> {
        self.operate(DiskOp::Directory, path).await?;
        let capacity = self.0.room.get().unwrap_or(1 << 40);
        Ok(Space {
            capacity,
            available: capacity.saturating_sub(self.used()),
        })
    }

    async fn lock(&self, path: &Path) -> Result<TestLock, DiskError> {
        self.operate(DiskOp::Lock, path).await?;
        if !self.0.locks.borrow_mut().insert(path.to_owned()) {
            return Err(self.error(DiskOp::Lock, path, io::ErrorKind::WouldBlock));
        }
        Ok(TestLock(self.clone(), path.to_owned()))
    }
}

impl TestFile {
    fn check_aligned(&self, range: &Range<usize>, offset: u64) {
        if self.direct {
            let aligned = [range.start, range.len(), offset as usize]
                .iter()
                .all(|value| value % 4096 == 0);
            assert!(
                aligned,
                "unaligned direct I/O: {range:?} at {offset} of {}",
                self.path.display()
            );
        }
    }

    fn change(&self, change: Change) {
        let mut world = self.disk.0.world.borrow_mut();
        let inode = world.inodes.get_mut(&self.inode).expect("open files exist");
        apply(&mut inode.now, &change);
        inode.pending.push(change);
    }
}

impl File for TestFile {
    type Buf = TestBuf;

    async fn read_at(
        &self,
        mut buf: TestBuf,
        range: Range<usize>,
        offset: u64,
    ) -> (Result<usize, DiskError>, TestBuf) {
        self.check_aligned(&range, offset);
        if let Err(error) = self.disk.operate(DiskOp::Read, &self.path).await {
            return (Err(error), buf);
        }
        let end = offset + range.len() as u64;
        let unreadable = self
            .disk
            .0
            .unreadable
            .borrow()
            .iter()
            .any(|(path, bytes)| *path == self.path && bytes.start < end && offset < bytes.end);
        if unreadable {
            let source = io::Error::from_raw_os_error(5);
            return (Err(DiskError::new(DiskOp::Read, &self.path, source)), buf);
        }
        let world = self.disk.0.world.borrow();
        let content = &world.inodes[&self.inode].now;
        let start = (offset as usize).min(content.len());
        let count = range.len().min(content.len() - start);
        buf.0[range.start..range.start + count].copy_from_slice(&content[start..start + count]);
        (Ok(count), buf)
    }

    async fn write_at(
        &self,
        buf: TestBuf,
        range: Range<usize>,
        offset: u64,
    ) -> (Result<(), DiskError>, TestBuf) {
        self.check_aligned(&range, offset);
        let data = buf.0[range].to_vec();
        let outcome = self.disk.operate(DiskOp::Write, &self.path).await;
        match &outcome {
            Ok(()) => self.change(Change::Write(offset as usize, data)),
            Err(_) => {
                // The write was under way: sectors of it may be there.
                let mut rng = Rng(self.disk.operations());
                for (sector, bytes) in data.chunks(SECTOR).enumerate() {
                    if rng.below(2) == 0 {
                        self.change(Change::Write(
                            offset as usize + sector * SECTOR,
                            bytes.to_vec(),
                        ));
                    }
                }
            }
        }
        (outcome, buf)
    }

    async fn sync_data(&self) -> Result<(), DiskError> {
        self.disk.operate(DiskOp::Sync, &self.path).await?;
        let mut world = self.disk.0.world.borrow_mut();
        let inode = world.inodes.get_mut(&self.inode).expect("open files exist");
        inode.durable = inode.now.clone();
        inode.pending.clear();
        Ok(())
    }

    async fn allocate(&self, offset: u64, length: u64) -> Result<(), DiskError> {
        self.disk.operate(DiskOp::Allocate, &self.path).await?;
        let room = self.disk.0.room.get().unwrap_or(1 << 40);
        if self.disk.used() + length > room {
            return Err(self
                .disk
                .error(DiskOp::Allocate, &self.path, io::ErrorKind::StorageFull));
        }
        self.change(Change::Extend((offset + length) as usize));
        Ok(())
    }

    async fn truncate(&self, length: u64) -> Result<(), DiskError> {
        self.disk.operate(DiskOp::Truncate, &self.path).await?;
        self.change(Change::Truncate(length as usize));
        Ok(())
    }

    async fn length(&self) -> Result<u64, DiskError> {
        self.disk.operate(DiskOp::Directory, &self.path).await?;
        Ok(self.disk.0.world.borrow().inodes[&self.inode].now.len() as u64)
    }
}
