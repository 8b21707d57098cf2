//! Removing what an image has made superfluous, and what else nobody waits for: room given back, the next spare.

use crate::header::{Name, SPARE_NAME, retired_name};
use crate::journal::Journal;
use crate::scan::zero;
use crate::{JournalError, Purged};
use hadal_env::{Disk, DiskError, File, OpenOptions};
use hadal_types::TxId;
use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::rc::Rc;

/// What [`Journal::sweep`] has to do. Bounded by the segments of the journal.
pub(crate) struct Leftovers<D: Disk> {
    /// Purged files under their meaningless names, oldest first, and whether they were finalised.
    retired: VecDeque<(PathBuf, bool)>,
    /// Finalised segments with room behind their ends.
    pub(crate) long: VecDeque<(Rc<D::File>, u64)>,
    /// Meaningless names given out so far.
    names: u64,
    /// Somebody sweeps.
    busy: bool,
    /// There was no room for a spare, and none was given back since: it is not tried at every batch.
    no_room: bool,
}

impl<D: Disk> Default for Leftovers<D> {
    fn default() -> Self {
        Self {
            retired: VecDeque::new(),
            long: VecDeque::new(),
            names: 0,
            busy: false,
            no_room: false,
        }
    }
}

/// One piece of work for a sweep.
enum Leftover<D: Disk> {
    Long(Rc<D::File>, u64),
    Retired(PathBuf, bool),
}

/// The right to sweep.
struct Sweeping<'a, D: Disk>(&'a Journal<D>);

impl<D: Disk> Drop for Sweeping<'_, D> {
    fn drop(&mut self) {
        self.0.inner.borrow_mut().leftovers.busy = false;
    }
}

impl<D: Disk> Journal<D> {
    /// Drops segments whose records all lie below `below`, acceptance records and copies of segments below it that
    /// are not here or finalised (T-Q13), but for copies that somebody is fetching. Oldest first, so that a crash leaves
    /// no gap. The open segment stays. The caller keeps `below` at or under the oldest image anybody may start from
    /// (F-14, Q19).
    ///
    /// Appends wait only until the files have other names: [`Journal::sweep`] removes them. Until then a power cut may
    /// bring the newest of the segments back.
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
            let retired = self.meaningless_path();
            self.disk.rename(&path, &retired).await?;
            let mut inner = self.inner.borrow_mut();
            inner.leftovers.retired.push_back((retired, finalised));
            purged.segments.push(first);
        }
        let mut removed = false;
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
                removed = true;
            }
        }
        if removed {
            self.disk.sync_dir(&self.directory).await?;
        }
        guard.disarm();
        Ok(purged)
    }

    /// Removes what was purged, gives back the room behind finalised segments, and sees to it that there is a spare for
    /// the next segment: what takes long and what appending need not wait for. Returns at once when another sweep is
    /// under way: that one does it.
    ///
    /// # Errors
    /// [`JournalError::Poisoned`], or the disk fails; the caller stops writing then.
    pub async fn sweep(&self) -> Result<(), JournalError> {
        if std::mem::replace(&mut self.inner.borrow_mut().leftovers.busy, true) {
            return Ok(());
        }
        let _sweeping = Sweeping(self);
        let mut removed = false;
        loop {
            self.inner.borrow().check_poison()?;
            let leftover = self.next_leftover();
            match leftover {
                Some(Leftover::Long(file, length)) => file.truncate(length).await?,
                Some(Leftover::Retired(path, true)) if !self.inner.borrow().spare => {
                    self.make_spare(&path).await?;
                }
                Some(Leftover::Retired(path, _)) => {
                    self.disk.remove_file(&path).await?;
                    removed = true;
                }
                None if std::mem::take(&mut removed) => self.disk.sync_dir(&self.directory).await?,
                None if self.wants_spare() => {
                    let made = self.new_spare().await?;
                    self.inner.borrow_mut().leftovers.no_room = !made;
                    if !made {
                        return Ok(());
                    }
                }
                None => return Ok(()),
            }
        }
    }

    /// There is something for [`Journal::sweep`] to do, and it may succeed: on a full disk a spare is not tried for again
    /// before room was given back.
    #[must_use]
    pub fn has_leftovers(&self) -> bool {
        let inner = self.inner.borrow();
        let leftovers = &inner.leftovers;
        let nothing = leftovers.long.is_empty() && leftovers.retired.is_empty();
        !leftovers.busy && (!nothing || (self.wants_spare() && !leftovers.no_room))
    }

    /// Who writes a segment will want another one.
    fn wants_spare(&self) -> bool {
        let inner = self.inner.borrow();
        !inner.spare && inner.open.is_some()
    }

    /// Makes a spare of nothing; `false` when there is no room for one.
    async fn new_spare(&self) -> Result<bool, DiskError> {
        let path = self.meaningless_path();
        let file = match self.zeroed_file(&path).await {
            Ok(file) => file,
            Err(error) if error.is_full() => {
                // Perhaps it could not even be created.
                return match self.disk.remove_file(&path).await {
                    Err(error) if !error.is_not_found() => Err(error),
                    Ok(()) | Err(_) => Ok(false),
                };
            }
            Err(error) => return Err(error),
        };
        file.sync_data().await?;
        drop(file);
        self.keep_as_spare(&path).await?;
        Ok(true)
    }

    fn next_leftover(&self) -> Option<Leftover<D>> {
        let leftovers = &mut self.inner.borrow_mut().leftovers;
        if let Some((file, length)) = leftovers.long.pop_front() {
            leftovers.no_room = false;
            return Some(Leftover::Long(file, length));
        }
        let (path, finalised) = leftovers.retired.pop_front()?;
        leftovers.no_room = false;
        Some(Leftover::Retired(path, finalised))
    }

    fn meaningless_path(&self) -> PathBuf {
        let leftovers = &mut self.inner.borrow_mut().leftovers;
        leftovers.names += 1;
        self.directory.join(retired_name(leftovers.names))
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

    /// Turns a purged segment's file into the spare. Its name is durable first, so that no half-zeroed file has one that
    /// means anything.
    async fn make_spare(&self, path: &Path) -> Result<(), DiskError> {
        self.disk.sync_dir(&self.directory).await?;
        let file = self
            .disk
            .open(path, OpenOptions::write().direct().dsync())
            .await?;
        let length = self.initial_length();
        file.truncate(length).await?;
        file.allocate(0, length).await?;
        zero(&self.disk, &file, 0, length).await?;
        file.sync_data().await?;
        drop(file);
        self.keep_as_spare(path).await
    }

    /// A file of zeros, durable, becomes the spare.
    async fn keep_as_spare(&self, path: &Path) -> Result<(), DiskError> {
        self.disk
            .rename(path, &self.directory.join(SPARE_NAME))
            .await?;
        self.disk.sync_dir(&self.directory).await?;
        self.inner.borrow_mut().spare = true;
        Ok(())
    }
}
