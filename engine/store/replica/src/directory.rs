//! The directory scanner's hook: what is on the disk against the replica map (HDFS `DirectoryScanner`).

use crate::extent::extent_path;
use crate::map::{Location, Replica};
use crate::volume::{EXTENTS, Volume};
use crate::{ReplicaStore, StoreError};
use hadal_env::{DirEntry, Disk};
use hadal_types::{Block, BlockId, ReplicaState, StorageUuid, mix};
use std::path::{Path, PathBuf};
use std::rc::Rc;

/// Names or replicas looked at without a pause.
const STEP: usize = 256;

/// What one comparison found.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct DirectoryFindings {
    /// FINALIZED replicas looked at.
    pub compared: u64,
    /// Their file is gone: they were taken out of the map and are to be reported as deleted.
    pub missing: Vec<Block>,
    /// Their file, or the extent they lie in, ends before they do: to be verified, and reported when bad.
    pub short: Vec<BlockId>,
    /// Files of replicas the map does not know. Left alone: the next start decides by their headers what they are.
    pub extra: Vec<PathBuf>,
    /// Extent files that are gone. What is written into them from now on would not survive the process: the
    /// volume is to be taken out of use.
    pub lost_extents: Vec<PathBuf>,
}

impl<D: Disk> ReplicaStore<D> {
    /// Compares the directories of a storage with the FINALIZED replicas of the map; reads no replica. A
    /// difference counts only if it is still there when looked at again: replicas come and go meanwhile. `pace` is told
    /// how many names or replicas were looked at, and awaited before the next.
    ///
    /// # Errors
    /// When the volume fails, or there is no such storage.
    pub async fn compare_directories(
        &self,
        storage: StorageUuid,
        mut pace: impl AsyncFnMut(usize),
    ) -> Result<DirectoryFindings, StoreError> {
        let mut volumes = self.inner.volumes.iter();
        let volume = volumes
            .find(|volume| volume.storage == storage)
            .cloned()
            .ok_or(StoreError::NoStorage(storage))?;
        volume.alive()?;
        let mut findings = DirectoryFindings::default();
        let extents = volume.pools.borrow().all();
        let (dir, extents_dir) = (volume.replicas_dir(), volume.dir.join(EXTENTS));
        let files = volume.check(volume.disk.read_dir(&dir).await)?;
        let extent_files = volume.check(volume.disk.read_dir(&extents_dir).await)?;
        for extent in extents {
            let path = extent_path(&volume, extent.class, extent.number);
            if length_of(&extent_files, &path).is_none() && !exists(&volume, &path).await? {
                findings.lost_extents.push(path);
            }
        }
        let mut after = None;
        loop {
            let page: Vec<Rc<Replica<D>>> = {
                let map = self.inner.map.borrow();
                map.iter_after(after).take(STEP).cloned().collect()
            };
            let Some(last) = page.last() else { break };
            after = Some(mix(last.id));
            pace(page.len()).await;
            for replica in page {
                if Rc::ptr_eq(&replica.volume, &volume)
                    && replica.state() == ReplicaState::Finalized
                {
                    findings.compared += 1;
                    self.compare(&replica, &files, &extent_files, &mut findings)
                        .await?;
                }
            }
        }
        for some in files.chunks(STEP) {
            pace(some.len()).await;
            for entry in some.iter().filter(|entry| !entry.is_dir) {
                let Some(id) = block_of(&entry.name) else {
                    continue;
                };
                // Deletion renames before the replica leaves the map, creation enters the map first.
                let path = dir.join(&entry.name);
                if self.find(id).is_err() && exists(&volume, &path).await? && self.find(id).is_err()
                {
                    findings.extra.push(path);
                }
            }
        }
        volume.alive()?;
        Ok(findings)
    }

    async fn compare(
        &self,
        replica: &Rc<Replica<D>>,
        files: &[DirEntry],
        extents: &[DirEntry],
        findings: &mut DirectoryFindings,
    ) -> Result<(), StoreError> {
        let volume = &replica.volume;
        let location = replica.meta.borrow().location.clone();
        let (there, wanted) = match &location {
            Location::Memory => return Ok(()),
            Location::Slot(lease) => {
                let path = extent_path(volume, lease.extent.class, lease.extent.number);
                let end = lease.offset() + lease.extent.class.slot();
                // An extent made since the listing, or lost as a whole.
                (Some(length_of(extents, &path).unwrap_or(end)), end)
            }
            Location::File(file) => {
                let wanted = file.geometry.file_end(replica.block().length);
                let there = match length_of(files, &file.path) {
                    None if exists(volume, &file.path).await? => Some(wanted),
                    other => other,
                };
                (there, wanted)
            }
        };
        if there.is_some_and(|length| length >= wanted) || !self.is_as_it_was(replica, &location) {
            return Ok(());
        }
        match (there, &location) {
            (None, Location::File(file)) => {
                findings.missing.push(replica.block());
                replica.take_over();
                volume.free_bytes(file.allocated.get());
                self.inner.map.borrow_mut().remove(replica);
            }
            _ => findings.short.push(replica.id),
        }
        Ok(())
    }

    /// Whether it is still the FINALIZED replica of its block, in the same place, with nobody at it.
    fn is_as_it_was(&self, replica: &Rc<Replica<D>>, location: &Location<D>) -> bool {
        let here = self.inner.map.borrow().get(replica.id);
        here.is_some_and(|here| Rc::ptr_eq(&here, replica))
            && replica.state() == ReplicaState::Finalized
            && replica.body.try_lock().is_some_and(|body| body.is_none())
            && match (&replica.meta.borrow().location, location) {
                (Location::Slot(here), Location::Slot(there)) => Rc::ptr_eq(here, there),
                (Location::File(here), Location::File(there)) => Rc::ptr_eq(here, there),
                _ => false,
            }
    }
}

/// The length of the file of that name in a listing, which is sorted.
fn length_of(listing: &[DirEntry], path: &Path) -> Option<u64> {
    let name = path.file_name()?.to_str()?;
    let index = listing.binary_search_by(|entry| entry.name.as_str().cmp(name));
    index.ok().map(|index| listing[index].length)
}

async fn exists<D: Disk>(volume: &Rc<Volume<D>>, path: &Path) -> Result<bool, StoreError> {
    volume.check(volume.disk.exists(path).await)
}

/// The block a file is named after.
fn block_of(name: &str) -> Option<BlockId> {
    let id = name.strip_prefix("blk_")?.parse().ok()?;
    (name == format!("blk_{id}")).then_some(BlockId(id))
}
