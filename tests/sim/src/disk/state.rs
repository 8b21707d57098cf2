//! The state of one disk and the effect of each operation on its bytes.

use super::buf::{Pool, SimBuf};
use super::content::{PAGE, WriteOp};
use super::faults::{DiskConfig, DiskCounters, DiskFault, FaultRates, Omissions};
use super::inode::{Decision, Inode, Loss, LossTally};
use super::names::{Names, clean};
use super::op::{Ops, Reply, Request};
use crate::node::NodeId;
use crate::rng::Rng;
use hadal_env::Space;
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// One disk.
#[derive(Debug)]
pub(super) struct DiskState {
    pub(super) config: DiskConfig,
    pub(super) rng: Rng,
    pub(super) names: Names,
    pub(super) inodes: BTreeMap<u64, Inode>,
    pub(super) next_inode: u64,
    pub(super) ops: Ops,
    pub(super) planned: BTreeMap<u64, DiskFault>,
    pub(super) rates: FaultRates,
    pub(super) omissions: Omissions,
    pub(super) counters: DiskCounters,
    pub(super) locks: BTreeMap<PathBuf, (NodeId, u32)>,
    /// Which unsynced changes the next power failure keeps; drawn when `None`.
    pub(super) chosen_loss: Option<u64>,
    /// Latencies are multiplied by this.
    pub(super) slow: u64,
    /// Every operation fails.
    pub(super) dead: bool,
    pub(super) used: u64,
    pub(super) removals: u32,
    pools: BTreeMap<NodeId, (u32, Arc<Pool>)>,
}

pub(super) fn fail(kind: io::ErrorKind, words: &str) -> io::Error {
    io::Error::new(kind, words)
}

pub(super) fn eio(words: &str) -> io::Error {
    io::Error::other(format!("input/output error (injected): {words}"))
}

pub(super) fn full() -> io::Error {
    fail(io::ErrorKind::StorageFull, "no space left on device")
}

pub(super) fn missing() -> io::Error {
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
            ops: Ops::default(),
            planned: BTreeMap::new(),
            rates: FaultRates::default(),
            omissions: Omissions::default(),
            counters: DiskCounters::default(),
            locks: BTreeMap::new(),
            chosen_loss: None,
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

    pub(super) fn perform(
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
                buf.fill(range, |out| self.read(inode, out, offset, fault))
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

    pub(super) fn write_plainly(
        &mut self,
        inode: u64,
        write: WriteOp,
        durably: bool,
    ) -> io::Result<()> {
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

    pub(super) fn power_failure(&mut self) {
        let drawn = Loss::draw(&mut self.rng);
        let loss = self.chosen_loss.take().map_or(drawn, Loss::Chosen);
        let mut rng = self.rng.fork();
        let mut decision = Decision::new(loss, &mut rng);
        let mut tally = LossTally::default();
        self.counters.power_failures += 1;
        self.names.power_failure(&mut decision);
        for entry in self.inodes.values_mut() {
            entry.power_failure(&mut decision, &mut tally);
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
