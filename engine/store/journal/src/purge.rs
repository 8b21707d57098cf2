//! Removing what an image has made superfluous.

use crate::header::{Name, SPARE_NAME};
use crate::journal::Journal;
use crate::scan::zero;
use crate::{JournalError, Purged};
use hadal_env::{Disk, DiskError, File, OpenOptions};
use hadal_types::TxId;
use std::path::Path;

impl<D: Disk> Journal<D> {
    /// Removes segments whose records all lie below `below`, acceptance records and copies of segments below it that
    /// are not here or finalised (T-Q13), but for copies that somebody is fetching. Oldest first, so that a crash leaves no gap. The open segment stays. The caller
    /// keeps `below` at or under the oldest image anybody may start from (F-14, Q19). One removed segment becomes the
    /// spare for the next start.
    ///
    /// # Errors
    /// When the disk fails.
    pub async fn purge(&self, below: TxId) -> Result<Purged, JournalError> {
        let mut guard = self.acquire().await?;
        let mut purged = Purged::default();
        let doomed = self.doomed(below);
        guard.arm("purge");
        for first in doomed {
            let (path, finalised) = {
                let inner = self.inner.borrow();
                let info = &inner.segment(first)?.info;
                (self.path(info), info.finalised)
            };
            self.inner.borrow_mut().segments.remove(&first);
            if finalised && !self.inner.borrow().spare {
                self.make_spare(&path).await?;
            } else {
                self.disk.remove_file(&path).await?;
            }
            purged.segments.push(first);
        }
        for entry in self.disk.read_dir(&self.directory).await? {
            let stale = match Name::parse(&entry.name) {
                Name::Accepted(first) if first < below && self.settled(first) => {
                    purged.accepted.push(first);
                    true
                }
                // One that is being fetched is waited for; a later purge takes it.
                Name::Copy(first) => {
                    let copied = self.inner.borrow().is_copied(first);
                    first < below && self.settled(first) && !copied
                }
                // Also the new half of an acceptance record that a crash cut short; nothing else is under way.
                Name::Temporary => true,
                _ => false,
            };
            if stale {
                self.disk
                    .remove_file(&self.directory.join(&entry.name))
                    .await?;
            }
        }
        self.disk.sync_dir(&self.directory).await?;
        guard.disarm();
        Ok(purged)
    }

    /// Nothing is left to recover of a segment.
    fn settled(&self, first: TxId) -> bool {
        self.inner
            .borrow()
            .segments
            .get(&first)
            .is_none_or(|segment| segment.info.finalised)
    }

    fn doomed(&self, below: TxId) -> Vec<TxId> {
        let inner = self.inner.borrow();
        let mut doomed = Vec::new();
        for (&first, segment) in &inner.segments {
            // A later segment that starts at or under `below` takes over what an unfinished one would hold from there.
            let superseded = inner
                .segments
                .range(first.next()..=below.max(first.next()))
                .next()
                .is_some_and(|(&next, _)| next <= below);
            let over = if segment.info.finalised {
                segment.last() < below
            } else {
                superseded
            };
            if !over || inner.is_open(first) {
                break;
            }
            doomed.push(first);
        }
        doomed
    }

    /// Turns a segment's file into the spare: taken out of sight first, so that no half-zeroed file has a name that
    /// means anything.
    async fn make_spare(&self, path: &Path) -> Result<(), DiskError> {
        let spare = self.directory.join(SPARE_NAME);
        let temporary = spare.with_added_extension("tmp");
        self.disk.rename(path, &temporary).await?;
        self.disk.sync_dir(&self.directory).await?;
        let file = self
            .disk
            .open(&temporary, OpenOptions::write().direct().dsync())
            .await?;
        let length = self.initial_length();
        file.truncate(length).await?;
        file.allocate(0, length).await?;
        zero(&self.disk, &file, 0, length).await?;
        file.sync_data().await?;
        self.disk.rename(&temporary, &spare).await?;
        self.disk.sync_dir(&self.directory).await?;
        self.inner.borrow_mut().spare = true;
        Ok(())
    }
}
