//! The record over a disk.

use crate::checksum::crc32c;
use crate::slot::{PAYLOAD_MAX, Pair, SLOT_LEN, Slot, Take, Why};
use hadal_env::{Disk, DiskError, File, OpenOptions};
use std::path::{Path, PathBuf};

/// What was found when a record was opened.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Contents {
    /// Never stored to.
    Empty,
    /// The last stored payload. Durable: both slots carry it by the time it is handed out.
    Present {
        /// What was stored.
        payload: Vec<u8>,
        /// Counts stores from 1.
        sequence: u64,
    },
    /// Something was stored and cannot be read any more. Never to be treated as [`Contents::Empty`]: a promise may
    /// have been made that nobody here remembers.
    Unreadable,
}

/// A failed record operation.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// The disk failed. After a failed store the record is poisoned.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// The payload exceeds [`PAYLOAD_MAX`]. Nothing was written.
    #[error("payload of {length} bytes for record {path} exceeds the cap of {cap} bytes", path = .path.display(), cap = PAYLOAD_MAX)]
    TooLong {
        /// The record.
        path: PathBuf,
        /// Bytes handed in.
        length: usize,
    },
    /// An earlier store failed or was abandoned half way: which version is on disk is known only after a new open.
    #[error("record {path} takes no more stores: an earlier one failed; restart the node after the disk has been seen to", path = .path.display())]
    Poisoned {
        /// The record.
        path: PathBuf,
    },
    /// The record was unreadable when it was opened; storing would hide that. [`Record::recreate`] replaces it.
    #[error("record {path} is unreadable and must be recreated on purpose before it can be stored to", path = .path.display())]
    Unreadable {
        /// The record.
        path: PathBuf,
    },
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    Ready,
    Poisoned,
    Unreadable,
}

/// A small durable record: two slots of one block each in one file, replaced as a whole.
///
/// The file is `{slot A, slot B}`, each [`SLOT_LEN`] bytes (format: [`crate::Pair`] and the slot's own doc in the
/// source). A store writes slot A, then, once that is durable, slot B, and only then is acknowledged. A file is
/// created under a temporary name with both slots valid and "never stored", and renamed into place: under its final
/// name a file always held two valid slots, so damage is never taken for newness. What each pair of slots means is
/// the table [`crate::RECOVERY`].
pub struct Record<D: Disk> {
    path: PathBuf,
    name_crc: u32,
    file: D::File,
    disk: D,
    sequence: u64,
    why: Why,
    state: State,
}

/// What the record at `path` holds, read without touching it: for those who watch a record that another process stores
/// to. [`Contents::Empty`] when there is no file. While the other one stores, either the old or the new payload is read.
///
/// # Errors
/// [`RecordError::Disk`].
pub async fn peek<D: Disk>(disk: &D, path: &Path) -> Result<Contents, RecordError> {
    let file = match disk.open(path, OpenOptions::read().direct()).await {
        Ok(file) => file,
        Err(error) if error.is_not_found() => return Ok(Contents::Empty),
        Err(error) => return Err(error.into()),
    };
    let name_crc = name_crc(path);
    let mut slots = [None, None];
    for (index, slot) in slots.iter_mut().enumerate() {
        let buf = disk.buf(SLOT_LEN).await;
        let (read, buf) = file
            .read_at(buf, 0..SLOT_LEN, (index * SLOT_LEN) as u64)
            .await;
        *slot = Slot::decode(&buf.as_ref()[..read?], name_crc, index_u32(index));
    }
    let decision = Pair::of(slots[0].as_ref(), slots[1].as_ref()).decide();
    let [a, b] = slots;
    let slot = match decision.take {
        Take::A => a,
        Take::B => b,
        Take::Nothing => None,
    };
    Ok(match slot {
        None => Contents::Unreadable,
        Some(slot) if slot.sequence == 0 => Contents::Empty,
        Some(slot) => Contents::Present {
            payload: slot.payload,
            sequence: slot.sequence,
        },
    })
}

impl<D: Disk> Record<D> {
    /// Opens the record, created when the file does not exist (its directory must), repairs a single damaged slot
    /// from the other, and returns what it holds.
    ///
    /// # Errors
    /// When the disk fails. Damage is not an error but [`Contents::Unreadable`].
    pub async fn open(disk: &D, path: &Path) -> Result<(Self, Contents), RecordError> {
        if !disk.exists(path).await? {
            let record = Self::create(disk, path).await?;
            return Ok((record, Contents::Empty));
        }
        // The name may be newer than the last sync of its directory (killed in between).
        disk.sync_dir(directory(path)).await?;
        let file = disk
            .open(path, OpenOptions::write().direct().dsync())
            .await?;
        let name_crc = name_crc(path);
        let mut slots = [None, None];
        let mut failed = None;
        for (index, slot) in slots.iter_mut().enumerate() {
            let buf = disk.buf(SLOT_LEN).await;
            let (read, buf) = file
                .read_at(buf, 0..SLOT_LEN, (index * SLOT_LEN) as u64)
                .await;
            match read {
                Ok(length) => {
                    *slot = Slot::decode(&buf.as_ref()[..length], name_crc, index_u32(index))
                }
                // A sector the device cannot read counts as damaged; both is the device's failure.
                Err(error) if failed.is_none() => failed = Some(error),
                Err(error) => return Err(error.into()),
            }
        }
        let decision = Pair::of(slots[0].as_ref(), slots[1].as_ref()).decide();
        if let (Take::Nothing, Some(error)) = (decision.take, failed) {
            return Err(error.into());
        }
        let [a, b] = slots;
        let (good, other) = match decision.take {
            Take::A => (a, 1),
            Take::B => (b, 0),
            Take::Nothing => (None, 0),
        };
        let mut record = Self {
            path: path.to_owned(),
            name_crc,
            file,
            disk: disk.clone(),
            sequence: 0,
            why: decision.why,
            state: State::Ready,
        };
        let Some(slot) = good else {
            record.state = State::Unreadable;
            return Ok((record, Contents::Unreadable));
        };
        record.sequence = slot.sequence;
        if decision.heal {
            record.write_slot(&slot, other).await?;
        }
        let contents = match slot.sequence {
            0 => Contents::Empty,
            sequence => Contents::Present {
                payload: slot.payload,
                sequence,
            },
        };
        Ok((record, contents))
    }

    /// Replaces whatever is at `path` by a record never stored to. For format, and on purpose for an unreadable one.
    ///
    /// # Errors
    /// When the disk fails; then the old record is still there, or the new one.
    pub async fn recreate(disk: &D, path: &Path) -> Result<Self, RecordError> {
        Self::create(disk, path).await
    }

    async fn create(disk: &D, path: &Path) -> Result<Self, RecordError> {
        let temporary = path.with_added_extension("tmp");
        match disk.remove_file(&temporary).await {
            Ok(()) => {}
            Err(error) if error.is_not_found() => {}
            Err(error) => return Err(error.into()),
        }
        let name_crc = name_crc(path);
        let file = disk
            .open(&temporary, OpenOptions::create_new().direct().dsync())
            .await?;
        file.allocate(0, 2 * SLOT_LEN as u64).await?;
        let record = Self {
            path: path.to_owned(),
            name_crc,
            file,
            disk: disk.clone(),
            sequence: 0,
            why: Why::Settled,
            state: State::Ready,
        };
        let empty = Slot {
            sequence: 0,
            payload: Vec::new(),
        };
        record.write_slot(&empty, 0).await?;
        record.write_slot(&empty, 1).await?;
        // The content must be durable before the name is, or a crash leaves a file that looks damaged.
        record.file.sync_data().await?;
        disk.rename(&temporary, path).await?;
        disk.sync_dir(directory(path)).await?;
        Ok(record)
    }

    /// Replaces the payload. Durable in both slots when this returns.
    ///
    /// # Errors
    /// [`RecordError::TooLong`] changes nothing. After a failed write, or when the future was dropped before it
    /// ended, the record is poisoned: either version may be on disk, and only a new open can tell.
    pub async fn store(&mut self, payload: &[u8]) -> Result<(), RecordError> {
        match self.state {
            State::Ready => {}
            State::Poisoned => {
                return Err(RecordError::Poisoned {
                    path: self.path.clone(),
                });
            }
            State::Unreadable => {
                return Err(RecordError::Unreadable {
                    path: self.path.clone(),
                });
            }
        }
        if payload.len() > PAYLOAD_MAX {
            return Err(RecordError::TooLong {
                path: self.path.clone(),
                length: payload.len(),
            });
        }
        let slot = Slot {
            sequence: self.sequence + 1,
            payload: payload.to_vec(),
        };
        self.state = State::Poisoned;
        // A before B, never both at once: a crash must leave one of them whole.
        self.write_slot(&slot, 0).await?;
        self.write_slot(&slot, 1).await?;
        self.sequence = slot.sequence;
        self.state = State::Ready;
        Ok(())
    }

    async fn write_slot(&self, slot: &Slot, index: usize) -> Result<(), DiskError> {
        let mut buf = self.disk.buf(SLOT_LEN).await;
        slot.encode(self.name_crc, index_u32(index), buf.as_mut());
        let (written, _buf) = self
            .file
            .write_at(buf, 0..SLOT_LEN, (index * SLOT_LEN) as u64)
            .await;
        written
    }

    /// How many stores the record has seen.
    #[must_use]
    pub fn sequence(&self) -> u64 {
        self.sequence
    }

    /// What the last open found. Anything but [`Why::Settled`] is worth a line in the log.
    #[must_use]
    pub fn why(&self) -> Why {
        self.why
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

fn directory(path: &Path) -> &Path {
    path.parent()
        .filter(|parent| !parent.as_os_str().is_empty())
        .unwrap_or(Path::new("."))
}

fn name_crc(path: &Path) -> u32 {
    crc32c(path.file_name().unwrap_or_default().as_encoded_bytes())
}

fn index_u32(index: usize) -> u32 {
    u32::try_from(index).expect("two slots")
}
