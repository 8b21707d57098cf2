//! An in-memory disk with faults and crashes, for the tests of the store crates.
//!
//! # Fault model
//!
//! * A write, a change of length and a change of a directory is durable only after its sync (or with `dsync`). At a
//!   crash each unsynced write is lost, kept, or torn into 512-byte sectors that are lost or kept each on its own;
//!   unsynced changes of a directory are kept up to some point and lost from there.
//! * An operation can fail: then it had no effect, except that a failed write may have reached any of its bytes.
//! * Bytes at rest change only when a test changes them ([`MemDisk::set_content`]).
//!
//! Every operation is pending once before it takes effect, so concurrent operations interleave.

use hadal_env::{
    ALIGN, Create, DirEntry, Disk, DiskBuf, DiskError, DiskOp, File, OpenOptions, Space,
};
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::future::{Future, pending, poll_fn};
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

/// What is written at once or not at all.
pub const SECTOR: usize = 512;

#[derive(Clone, Debug)]
enum Change {
    Write { offset: usize, data: Vec<u8> },
    Extend(usize),
    Truncate(usize),
}

impl Change {
    fn apply(&self, content: &mut Vec<u8>, mut keep_sector: impl FnMut() -> bool) {
        match self {
            Self::Write { offset, data } => {
                let mut at = 0;
                while at < data.len() {
                    let end = ((offset + at) / SECTOR * SECTOR + SECTOR - offset).min(data.len());
                    if keep_sector() {
                        if content.len() < offset + end {
                            content.resize(offset + end, 0);
                        }
                        content[offset + at..offset + end].copy_from_slice(&data[at..end]);
                    }
                    at = end;
                }
            }
            Self::Extend(length) => content.resize(content.len().max(*length), 0),
            Self::Truncate(length) => content.resize(*length, 0),
        }
    }
}

#[derive(Clone, Default)]
struct Node {
    visible: Vec<u8>,
    durable: Vec<u8>,
    /// Since `durable`, in order; the flag says "durable whatever happens".
    changes: Vec<(Change, bool)>,
}

impl Node {
    fn change(&mut self, change: Change, durable: bool) {
        change.apply(&mut self.visible, || true);
        self.changes.push((change, durable));
        if self.changes.iter().all(|(_, durable)| *durable) {
            self.sync();
        }
    }

    fn sync(&mut self) {
        self.durable.clone_from(&self.visible);
        self.changes.clear();
    }
}

#[derive(Clone, Debug)]
enum NameChange {
    Set(PathBuf, usize),
    Rename(PathBuf, PathBuf),
    Remove(PathBuf),
}

impl NameChange {
    fn directory(&self) -> &Path {
        let (Self::Set(path, _) | Self::Rename(path, _) | Self::Remove(path)) = self;
        path.parent().expect("files live in directories")
    }

    fn apply(&self, names: &mut BTreeMap<PathBuf, usize>) {
        match self {
            Self::Set(path, node) => {
                names.insert(path.clone(), *node);
            }
            Self::Rename(from, to) => {
                if let Some(node) = names.remove(from) {
                    names.insert(to.clone(), node);
                }
            }
            Self::Remove(path) => {
                names.remove(path);
            }
        }
    }
}

#[derive(Clone, Default)]
struct State {
    nodes: Vec<Node>,
    names: BTreeMap<PathBuf, usize>,
    durable_names: BTreeMap<PathBuf, usize>,
    name_changes: Vec<NameChange>,
    directories: BTreeSet<PathBuf>,
    locked: BTreeSet<PathBuf>,
    operations: u64,
    bytes_read: u64,
    fail_at: Option<(u64, io::ErrorKind)>,
    crash_at: Option<u64>,
    crashed: bool,
    failed: Option<DiskOp>,
}

/// The disk; a clone is another handle on the same one.
#[derive(Clone, Default)]
pub struct MemDisk(Rc<RefCell<State>>);

/// An open file.
pub struct MemFile {
    disk: MemDisk,
    path: PathBuf,
    node: usize,
    options: OpenOptions,
}

/// A buffer, filled with rubbish when handed out.
pub struct MemBuf(Vec<u8>);

impl AsRef<[u8]> for MemBuf {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl AsMut<[u8]> for MemBuf {
    fn as_mut(&mut self) -> &mut [u8] {
        &mut self.0
    }
}

impl DiskBuf for MemBuf {}

/// A held lock.
pub struct MemLock(MemDisk, PathBuf);

impl Drop for MemLock {
    fn drop(&mut self) {
        self.0.0.borrow_mut().locked.remove(&self.1);
    }
}

enum Turn {
    Go,
    Crash,
    Fail(io::ErrorKind),
}

impl MemDisk {
    /// An empty disk.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Runs a future to its end; `None` when the disk crashed under it.
    ///
    /// # Panics
    /// When the future neither ends nor crashes.
    pub fn run<T>(&self, future: impl Future<Output = T>) -> Option<T> {
        let mut future = pin!(future);
        let mut context = Context::from_waker(Waker::noop());
        for _ in 0..5_000_000 {
            if let Poll::Ready(value) = future.as_mut().poll(&mut context) {
                return Some(value);
            }
            if self.0.borrow().crashed {
                return None;
            }
        }
        panic!("the future waits for something that never comes");
    }

    /// Operations so far.
    #[must_use]
    pub fn operations(&self) -> u64 {
        self.0.borrow().operations
    }

    /// Bytes read so far.
    #[must_use]
    pub fn bytes_read(&self) -> u64 {
        self.0.borrow().bytes_read
    }

    /// The `k`-th operation from now (counting from 0) fails with `kind`.
    pub fn fail_in(&self, k: u64, kind: io::ErrorKind) {
        let mut state = self.0.borrow_mut();
        state.fail_at = Some((state.operations + k, kind));
        state.failed = None;
    }

    /// The machine stops in the middle of the `k`-th operation from now (counting from 0).
    pub fn crash_in(&self, k: u64) {
        let mut state = self.0.borrow_mut();
        state.crash_at = Some(state.operations + k);
    }

    /// Which operation failed, when one did.
    #[must_use]
    pub fn failed(&self) -> Option<DiskOp> {
        self.0.borrow().failed
    }

    /// No more faults.
    pub fn heal(&self) {
        let mut state = self.0.borrow_mut();
        state.fail_at = None;
        state.crash_at = None;
    }

    /// A disk of its own with the same state.
    #[must_use]
    pub fn fork(&self) -> Self {
        let disk = Self(Rc::new(RefCell::new(self.0.borrow().clone())));
        disk.0.borrow_mut().locked.clear();
        disk
    }

    /// The disk after its process was killed: everything written is visible, and as durable as before.
    #[must_use]
    pub fn killed(&self) -> Self {
        let disk = self.fork();
        let mut state = disk.0.borrow_mut();
        (state.crashed, state.crash_at, state.fail_at) = (false, None, None);
        drop(state);
        disk
    }

    /// How many changes a crash could lose.
    #[must_use]
    pub fn unsynced(&self) -> usize {
        let state = self.0.borrow();
        let changes = state
            .nodes
            .iter()
            .flat_map(|node| &node.changes)
            .filter(|(_, durable)| !durable)
            .count();
        changes + state.name_changes.len()
    }

    /// The disk after a crash that kept exactly the unsynced changes whose bit in `mask` is set (of directory
    /// changes: those before the first that is not set).
    #[must_use]
    pub fn crashed_keeping(&self, mask: u64) -> Self {
        let mut index = 0;
        self.after_crash(|sector| {
            if sector == 0 {
                index += 1;
            }
            mask >> ((index - 1).min(63)) & 1 == 1
        })
    }

    /// The disk after a crash that kept each unsynced sector or change by the toss of a coin.
    #[must_use]
    pub fn crashed_torn(&self, seed: u64) -> Self {
        let mut random = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x2545_f491_4f6c_dd1d;
        self.after_crash(|_| {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            random.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 63 == 1
        })
    }

    /// Runs `check` on what is left after crashes here: every subset of unsynced changes (when there are at most
    /// eight, else some), and `torn` random ones torn into sectors.
    pub fn each_crash(&self, torn: u64, mut check: impl FnMut(Self)) {
        let count = self.unsynced().min(8);
        for mask in 0..1u64 << count {
            check(self.crashed_keeping(mask));
        }
        for seed in 0..torn {
            check(self.crashed_torn(seed));
        }
    }

    fn after_crash(&self, mut keep: impl FnMut(usize) -> bool) -> Self {
        let disk = self.killed();
        let mut guard = disk.0.borrow_mut();
        let state = &mut *guard;
        for node in &mut state.nodes {
            for (change, durable) in std::mem::take(&mut node.changes) {
                let mut sector = 0;
                let mut keep = || {
                    let kept = durable || keep(sector);
                    sector += 1;
                    kept
                };
                match &change {
                    Change::Write { .. } => change.apply(&mut node.durable, keep),
                    Change::Extend(_) | Change::Truncate(_) if keep() => {
                        change.apply(&mut node.durable, || true)
                    }
                    Change::Extend(_) | Change::Truncate(_) => {}
                }
            }
            node.visible.clone_from(&node.durable);
        }
        for change in std::mem::take(&mut state.name_changes) {
            if !keep(0) {
                break;
            }
            change.apply(&mut state.durable_names);
        }
        state.names.clone_from(&state.durable_names);
        drop(guard);
        disk
    }

    /// The bytes of a file.
    ///
    /// # Panics
    /// When it does not exist.
    #[must_use]
    pub fn content(&self, path: impl AsRef<Path>) -> Vec<u8> {
        let state = self.0.borrow();
        let node = state
            .names
            .get(path.as_ref())
            .unwrap_or_else(|| panic!("no file {}", path.as_ref().display()));
        state.nodes[*node].visible.clone()
    }

    /// Replaces (or creates) a file, durably.
    pub fn set_content(&self, path: impl AsRef<Path>, content: Vec<u8>) {
        let mut state = self.0.borrow_mut();
        let path = path.as_ref().to_owned();
        let node = Node {
            visible: content.clone(),
            durable: content,
            changes: Vec::new(),
        };
        if let Some(&index) = state.names.get(&path) {
            state.nodes[index] = node;
        } else {
            state.nodes.push(node);
            let index = state.nodes.len() - 1;
            state.names.insert(path.clone(), index);
            state.durable_names.insert(path, index);
        }
    }

    /// Names of the files in a directory.
    #[must_use]
    pub fn names(&self, directory: impl AsRef<Path>) -> Vec<String> {
        let state = self.0.borrow();
        let in_directory = state
            .names
            .keys()
            .filter(|path| path.parent() == Some(directory.as_ref()));
        in_directory
            .map(|path| {
                path.file_name()
                    .unwrap_or_default()
                    .to_string_lossy()
                    .into_owned()
            })
            .collect()
    }

    async fn turn(&self) -> Turn {
        let mut first = true;
        poll_fn(|context| {
            if std::mem::take(&mut first) {
                context.waker().wake_by_ref();
                return Poll::Pending;
            }
            Poll::Ready(())
        })
        .await;
        if self.0.borrow().crashed {
            pending::<()>().await;
        }
        let mut state = self.0.borrow_mut();
        let now = state.operations;
        state.operations += 1;
        if state.crash_at == Some(now) {
            state.crashed = true;
            return Turn::Crash;
        }
        match state.fail_at {
            Some((at, kind)) if at == now => Turn::Fail(kind),
            _ => Turn::Go,
        }
    }

    /// Runs `act` in its turn; a crash comes after it took (unsynced) effect.
    async fn operate<T>(
        &self,
        op: DiskOp,
        path: &Path,
        act: impl FnOnce(&mut State) -> io::Result<T>,
    ) -> Result<T, DiskError> {
        match self.turn().await {
            Turn::Go => {
                act(&mut self.0.borrow_mut()).map_err(|error| DiskError::new(op, path, error))
            }
            Turn::Crash => {
                // A sync cut short promises nothing; everything else may have been under way.
                if op != DiskOp::Sync {
                    let _ = act(&mut self.0.borrow_mut());
                }
                pending().await
            }
            Turn::Fail(kind) => {
                self.0.borrow_mut().failed = Some(op);
                Err(DiskError::new(op, path, kind.into()))
            }
        }
    }
}

fn not_found() -> io::Error {
    io::ErrorKind::NotFound.into()
}

impl Disk for MemDisk {
    type File = MemFile;
    type Buf = MemBuf;
    type Lock = MemLock;

    async fn buf(&self, capacity: usize) -> MemBuf {
        MemBuf(vec![0xa5; capacity.next_multiple_of(ALIGN)])
    }

    async fn open(&self, path: &Path, options: OpenOptions) -> Result<MemFile, DiskError> {
        let node = self
            .operate(DiskOp::Open, path, |state| {
                let found = state.names.get(path).copied();
                match (found, options.create) {
                    (Some(_), Create::New) => Err(io::ErrorKind::AlreadyExists.into()),
                    (Some(node), _) => Ok(node),
                    (None, Create::No) => Err(not_found()),
                    (None, _)
                        if !state
                            .directories
                            .contains(path.parent().unwrap_or(Path::new("."))) =>
                    {
                        Err(not_found())
                    }
                    (None, _) => {
                        state.nodes.push(Node::default());
                        let node = state.nodes.len() - 1;
                        state.names.insert(path.to_owned(), node);
                        state
                            .name_changes
                            .push(NameChange::Set(path.to_owned(), node));
                        Ok(node)
                    }
                }
            })
            .await?;
        Ok(MemFile {
            disk: self.clone(),
            path: path.to_owned(),
            node,
            options,
        })
    }

    async fn create_dir_all(&self, path: &Path) -> Result<(), DiskError> {
        self.operate(DiskOp::Directory, path, |state| {
            state
                .directories
                .extend(path.ancestors().map(Path::to_owned));
            Ok(())
        })
        .await
    }

    async fn read_dir(&self, path: &Path) -> Result<Vec<DirEntry>, DiskError> {
        self.operate(DiskOp::Directory, path, |state| {
            if !state.directories.contains(path) {
                return Err(not_found());
            }
            let name = |path: &Path| {
                path.file_name()
                    .unwrap_or_default()
                    .to_string_lossy()
                    .into_owned()
            };
            let files = state
                .names
                .iter()
                .filter(|(file, _)| file.parent() == Some(path));
            let files = files.map(|(file, node)| DirEntry {
                name: name(file),
                is_dir: false,
                length: state.nodes[*node].visible.len() as u64,
            });
            let below = state
                .directories
                .iter()
                .filter(|directory| directory.parent() == Some(path));
            let below = below.map(|directory| DirEntry {
                name: name(directory),
                is_dir: true,
                length: 0,
            });
            let mut entries: Vec<_> = files.chain(below).collect();
            entries.sort();
            Ok(entries)
        })
        .await
    }

    async fn rename(&self, from: &Path, to: &Path) -> Result<(), DiskError> {
        assert_eq!(
            from.parent(),
            to.parent(),
            "renames stay inside a directory"
        );
        self.operate(DiskOp::Rename, from, |state| {
            if !state.names.contains_key(from) {
                return Err(not_found());
            }
            let change = NameChange::Rename(from.to_owned(), to.to_owned());
            change.apply(&mut state.names);
            state.name_changes.push(change);
            Ok(())
        })
        .await
    }

    async fn remove_file(&self, path: &Path) -> Result<(), DiskError> {
        self.operate(DiskOp::Remove, path, |state| {
            if state.names.remove(path).is_none() {
                return Err(not_found());
            }
            state.name_changes.push(NameChange::Remove(path.to_owned()));
            Ok(())
        })
        .await
    }

    async fn remove_dir_all(&self, path: &Path) -> Result<(), DiskError> {
        self.operate(DiskOp::Remove, path, |state| {
            state.names.retain(|file, _| !file.starts_with(path));
            state
                .durable_names
                .retain(|file, _| !file.starts_with(path));
            state
                .name_changes
                .retain(|change| !change.directory().starts_with(path));
            state
                .directories
                .retain(|directory| !directory.starts_with(path));
            Ok(())
        })
        .await
    }

    async fn sync_dir(&self, path: &Path) -> Result<(), DiskError> {
        self.operate(DiskOp::Sync, path, |state| {
            let changes = std::mem::take(&mut state.name_changes);
            for change in changes {
                if change.directory() == path {
                    change.apply(&mut state.durable_names);
                } else {
                    state.name_changes.push(change);
                }
            }
            Ok(())
        })
        .await
    }

    async fn exists(&self, path: &Path) -> Result<bool, DiskError> {
        self.operate(DiskOp::Directory, path, |state| {
            Ok(state.names.contains_key(path) || state.directories.contains(path))
        })
        .await
    }

    async fn space(&self, path: &Path) -> Result<Space, DiskError> {
        self.operate(DiskOp::Directory, path, |_| {
            Ok(Space {
                capacity: 1 << 40,
                available: 1 << 39,
            })
        })
        .await
    }

    async fn lock(&self, path: &Path) -> Result<MemLock, DiskError> {
        self.operate(DiskOp::Lock, path, |state| {
            if state.locked.insert(path.to_owned()) {
                Ok(())
            } else {
                Err(io::ErrorKind::WouldBlock.into())
            }
        })
        .await?;
        Ok(MemLock(self.clone(), path.to_owned()))
    }
}

impl MemFile {
    fn check(&self, range: &Range<usize>, offset: u64) {
        if self.options.direct {
            let aligned = |n: usize| n.is_multiple_of(ALIGN);
            assert!(
                aligned(range.start) && aligned(range.end) && offset.is_multiple_of(ALIGN as u64),
                "direct I/O of {range:?} at {offset} is not aligned"
            );
        }
    }
}

impl File for MemFile {
    type Buf = MemBuf;

    async fn read_at(
        &self,
        mut buf: MemBuf,
        range: Range<usize>,
        offset: u64,
    ) -> (Result<usize, DiskError>, MemBuf) {
        self.check(&range, offset);
        let read = self
            .disk
            .operate(DiskOp::Read, &self.path, |state| {
                let content = &state.nodes[self.node].visible;
                let offset = usize::try_from(offset).expect("small").min(content.len());
                let length = range.len().min(content.len() - offset);
                buf.0[range.start..range.start + length]
                    .copy_from_slice(&content[offset..offset + length]);
                state.bytes_read += length as u64;
                Ok(length)
            })
            .await;
        (read, buf)
    }

    async fn write_at(
        &self,
        buf: MemBuf,
        range: Range<usize>,
        offset: u64,
    ) -> (Result<(), DiskError>, MemBuf) {
        assert!(
            self.options.write,
            "{} is open for reading",
            self.path.display()
        );
        self.check(&range, offset);
        let change = Change::Write {
            offset: usize::try_from(offset).expect("small"),
            data: buf.0[range].to_vec(),
        };
        let node = self.node;
        let written = match self.disk.turn().await {
            Turn::Go => {
                self.disk.0.borrow_mut().nodes[node].change(change, self.options.dsync);
                Ok(())
            }
            Turn::Crash => {
                self.disk.0.borrow_mut().nodes[node].change(change, false);
                pending().await
            }
            Turn::Fail(kind) => {
                let mut state = self.disk.0.borrow_mut();
                state.failed = Some(DiskOp::Write);
                let Change::Write { offset, mut data } = change else {
                    unreachable!("built above")
                };
                data.truncate((data.len() / 2).next_multiple_of(SECTOR).min(data.len()));
                state.nodes[node].change(Change::Write { offset, data }, false);
                Err(DiskError::new(DiskOp::Write, &self.path, kind.into()))
            }
        };
        (written, buf)
    }

    async fn sync_data(&self) -> Result<(), DiskError> {
        let node = self.node;
        self.disk
            .operate(DiskOp::Sync, &self.path, |state| {
                state.nodes[node].sync();
                Ok(())
            })
            .await
    }

    async fn allocate(&self, offset: u64, length: u64) -> Result<(), DiskError> {
        let (node, end) = (self.node, usize::try_from(offset + length).expect("small"));
        self.disk
            .operate(DiskOp::Allocate, &self.path, |state| {
                if state.nodes[node].visible.len() < end {
                    state.nodes[node].change(Change::Extend(end), false);
                }
                Ok(())
            })
            .await
    }

    async fn truncate(&self, length: u64) -> Result<(), DiskError> {
        let (node, length) = (self.node, usize::try_from(length).expect("small"));
        self.disk
            .operate(DiskOp::Truncate, &self.path, |state| {
                state.nodes[node].change(Change::Truncate(length), false);
                Ok(())
            })
            .await
    }

    async fn length(&self) -> Result<u64, DiskError> {
        let node = self.node;
        self.disk
            .operate(DiskOp::Directory, &self.path, |state| {
                Ok(state.nodes[node].visible.len() as u64)
            })
            .await
    }
}
