//! Controls of a simulated disk: faults planned or by rate, wear at rest, images, and a look inside.

use super::SimDisk;
use super::faults::{DiskCounters, DiskFault, FaultRates, Omissions};
use super::inode::Inode;
use super::names::{Entry, Names, clean};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// What a disk's medium held at some time.
#[derive(Clone, Debug)]
pub struct DiskImage {
    names: Names,
    inodes: BTreeMap<u64, Inode>,
}

impl SimDisk {
    /// How many operations that faults can strike were begun so far: the number of the next one.
    #[must_use]
    pub fn operations(&self) -> u64 {
        self.cell.state.borrow().counters.operations
    }

    /// Another number means that the medium may hold something else than before: for checkers that look at each step.
    #[must_use]
    pub fn changes(&self) -> u64 {
        self.cell.changes.get()
    }

    /// Makes operation number `k` (counted from 0 since the disk was new, see [`Self::operations`]) suffer `fault`.
    pub fn fail_op(&self, k: u64, fault: DiskFault) {
        self.cell.state.borrow_mut().planned.insert(k, fault);
    }

    /// Forgets planned faults that have not struck yet; how many there were.
    pub fn forget_planned(&self) -> usize {
        std::mem::take(&mut self.cell.state.borrow_mut().planned).len()
    }

    /// How many changes (names first, then file by file) the next power failure could take.
    #[must_use]
    pub fn unsynced_changes(&self) -> usize {
        let state = self.cell.state.borrow();
        let files: usize = state.inodes.values().map(Inode::unsynced_changes).sum();
        state.names.unsynced_changes() + files
    }

    /// The next power failure (also a planned one) keeps exactly those unsynced changes whose bit is
    /// set, in the order of [`Self::unsynced_changes`], and tears none: for enumerating all subsets
    /// (reliability.md X6). Changes past the 64th are lost.
    pub fn choose_loss(&self, kept: u64) {
        self.cell.state.borrow_mut().chosen_loss = Some(kept);
    }

    /// How often operations fail by themselves from now on.
    pub fn set_rates(&self, rates: FaultRates) {
        self.cell.state.borrow_mut().rates = rates;
    }

    /// Plants bugs below the seam.
    pub fn set_omissions(&self, omissions: Omissions) {
        self.cell.state.borrow_mut().omissions = omissions;
    }

    /// Bytes the disk holds from now on; may be less than it has.
    pub fn set_capacity(&self, capacity: u64) {
        self.cell.state.borrow_mut().config.capacity = capacity;
    }

    /// Bytes of files.
    #[must_use]
    pub fn used(&self) -> u64 {
        self.cell.state.borrow().used
    }

    /// Multiplies all latencies; 1 is normal.
    pub fn set_slow(&self, factor: u64) {
        self.cell.state.borrow_mut().slow = factor.max(1);
    }

    /// Makes every operation fail (true), or no longer.
    pub fn set_dead(&self, dead: bool) {
        self.cell.state.borrow_mut().dead = dead;
    }

    /// What the disk did and suffered.
    #[must_use]
    pub fn disk_counters(&self) -> DiskCounters {
        self.cell.state.borrow().counters
    }

    /// Turns bit number `bit` of a file, at rest. False when the file or the bit does not exist.
    pub fn flip_bit(&self, path: &Path, bit: u64) -> bool {
        let mut state = self.cell.state.borrow_mut();
        let Some(Entry::File(inode)) = state.names.get(&clean(path)) else {
            return false;
        };
        let flipped = state
            .inodes
            .get_mut(&inode)
            .is_some_and(|entry| entry.flip(bit));
        state.counters.bit_flips += u64::from(flipped);
        flipped
    }

    /// Turns one random bit of one random file that is not empty; which file.
    pub fn rot(&self) -> Option<PathBuf> {
        let mut state = self.cell.state.borrow_mut();
        let files: Vec<(PathBuf, u64)> = state
            .names
            .files()
            .filter_map(|(path, inode)| {
                let length = state.inodes.get(&inode)?.durable.length();
                (length > 0).then(|| (path.to_path_buf(), length))
            })
            .collect();
        let (path, length) = state.rng.pick(&files)?.clone();
        let bit = state.rng.below(length * 8);
        drop(state);
        self.flip_bit(&path, bit).then_some(path)
    }

    /// Empties the disk, as if replaced by a new one. The node should be down.
    pub fn wipe(&self) {
        let mut state = self.cell.state.borrow_mut();
        state.names = Names::default();
        state.inodes.clear();
        state.used = 0;
    }

    /// What the medium holds now (only what is durable).
    #[must_use]
    pub fn image(&self) -> DiskImage {
        let state = self.cell.state.borrow();
        let names = state.names.durable_only();
        let mut inodes = BTreeMap::new();
        for (_, inode) in names.files() {
            if let Some(entry) = state.inodes.get(&inode) {
                inodes.insert(inode, Inode::at_rest(&entry.durable));
            }
        }
        DiskImage { names, inodes }
    }

    /// Puts an old image back. The node should be down.
    pub fn put_back(&self, image: &DiskImage) {
        let mut state = self.cell.state.borrow_mut();
        state.names = image.names.clone();
        state.inodes = image.inodes.clone();
        state.recount();
    }

    /// All files with their lengths as programs see them; for checkers.
    #[must_use]
    pub fn files(&self) -> Vec<(PathBuf, u64)> {
        let state = self.cell.state.borrow();
        state
            .names
            .files()
            .map(|(path, inode)| {
                (
                    path.to_path_buf(),
                    state
                        .inodes
                        .get(&inode)
                        .map_or(0, |entry| entry.live.length()),
                )
            })
            .collect()
    }

    /// A mark that is another one when the synced bytes of the file of this name changed; `None` when there is none. For
    /// checkers that look at each step.
    #[must_use]
    pub fn mark(&self, path: &Path) -> Option<(u64, u64)> {
        let state = self.cell.state.borrow();
        let Some(Entry::File(inode)) = state.names.get(path) else {
            return None;
        };
        let entry = state.inodes.get(&inode)?;
        Some((inode, entry.durable.version()))
    }

    /// Another number means that files may have other names than before.
    #[must_use]
    pub fn names_version(&self) -> u64 {
        self.cell.state.borrow().names.version()
    }

    /// A file's bytes as programs see them, without an operation; for checkers.
    #[must_use]
    pub fn peek(&self, path: &Path) -> Option<Vec<u8>> {
        let state = self.cell.state.borrow();
        let Some(Entry::File(inode)) = state.names.get(&clean(path)) else {
            return None;
        };
        Some(state.inodes.get(&inode)?.live.bytes())
    }

    /// The synced bytes of the file that has this name now, whatever name it would have after a power failure, without
    /// the hole at its end; for checkers.
    #[must_use]
    pub fn peek_synced(&self, path: &Path) -> Option<Vec<u8>> {
        let state = self.cell.state.borrow();
        let Some(Entry::File(inode)) = state.names.get(&clean(path)) else {
            return None;
        };
        let content = &state.inodes.get(&inode)?.durable;
        let mut bytes = vec![0; content.written_end() as usize];
        content.read(0, &mut bytes);
        Some(bytes)
    }

    /// A file's bytes as a power failure that loses everything unsynced would leave them; for checkers
    /// that look at each step. `None` when not even its name is durable.
    #[must_use]
    pub fn peek_durable(&self, path: &Path) -> Option<Vec<u8>> {
        let state = self.cell.state.borrow();
        let Some(Entry::File(inode)) = state.names.get_durable(&clean(path)) else {
            return None;
        };
        Some(state.inodes.get(&inode)?.durable.bytes())
    }
}
