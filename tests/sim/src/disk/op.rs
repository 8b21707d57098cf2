//! Operations in flight: taken in, struck by faults, completed, collected.

use super::buf::SimBuf;
use super::content::{PAGE, WriteOp};
use super::faults::{DiskFault, rolls};
use super::state::DiskState;
use crate::node::NodeId;
use hadal_env::{DirEntry, DiskError, DiskOp, OpenOptions, Space};
use std::io;
use std::ops::Range;
use std::path::PathBuf;
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

/// The operations of a disk that are in flight or not yet collected.
#[derive(Debug, Default)]
pub(super) struct Ops {
    slots: Vec<Slot>,
    free: Vec<u32>,
}

impl Ops {
    fn get(&mut self, key: OpKey) -> Option<&mut Op> {
        let slot = &mut self.slots[key.slot as usize];
        if slot.generation == key.generation {
            slot.op.as_mut()
        } else {
            None
        }
    }

    fn add(&mut self, op: Op) -> OpKey {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot {
                generation: 0,
                op: None,
            });
            (self.slots.len() - 1) as u32
        });
        let entry = &mut self.slots[slot as usize];
        entry.op = Some(op);
        OpKey {
            slot,
            generation: entry.generation,
        }
    }

    fn release(&mut self, slot: u32) -> Option<Op> {
        let entry = &mut self.slots[slot as usize];
        entry.generation = entry.generation.wrapping_add(1);
        self.free.push(slot);
        entry.op.take()
    }
}

impl DiskState {
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
        (self.ops.add(op), delay)
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

    /// The answer and the buffer, if the operation is done; else its waker is kept.
    pub(super) fn collect(
        &mut self,
        key: OpKey,
        waker: &Waker,
    ) -> Option<(Result<Reply, DiskError>, Option<SimBuf>)> {
        let op = self.ops.get(key)?;
        match op.reply.take() {
            Some(reply) => {
                let buf = op.buf.take();
                self.ops.release(key.slot);
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
        let op = self.ops.get(key)?;
        op.waker = None;
        if op.reply.is_none() {
            op.abandoned = true;
            return None;
        }
        let by = (op.node, op.incarnation);
        let op = self.ops.release(key.slot)?;
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
        let op = self.ops.get(key)?;
        let request = op.request.take()?;
        let (fault, node, incarnation) = (op.fault, op.node, op.incarnation);
        let mut buf = op.buf.take();
        if let Some(DiskFault::CrashDuring(crash)) = fault {
            // Still in flight when the process ends: that decides what becomes of it.
            (op.request, op.buf) = (Some(request), buf);
            return Some(Completed {
                waker: None,
                crash: Some((node, crash)),
                buf: None,
            });
        }
        if let Some(DiskFault::CrashBefore(crash)) = fault {
            let buf = self.ops.release(key.slot).and_then(|op| op.buf).or(buf);
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
        let op = self.ops.get(key)?;
        if op.abandoned || crash.is_some() {
            self.undo_unwanted(result.as_ref().ok(), (node, incarnation));
            let buf = self.ops.release(key.slot).and_then(|op| op.buf).or(buf);
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

    /// That life of the node is over: its locks are free, and each operation it had in flight happens,
    /// happens in part, or does not, by seed. Hands out buffers to be dropped.
    pub(super) fn process_ended(&mut self, node: NodeId, incarnation: u32) -> Vec<SimBuf> {
        self.locks
            .retain(|_, holder| *holder != (node, incarnation));
        let mut bufs = Vec::new();
        for slot in 0..self.ops.slots.len() {
            let Some(op) = &self.ops.slots[slot].op else {
                continue;
            };
            if (op.node, op.incarnation) != (node, incarnation) {
                continue;
            }
            let Some(op) = self.ops.release(slot as u32) else {
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
}
