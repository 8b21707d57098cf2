//! Reading a journal that another process writes: a standby on a shared directory.
//!
//! Nothing in the directory is touched. The writer may finalise, restart or purge segments at any moment, so every read
//! opens its file anew (which is also what network file systems need to show another host's writes) and verifies each
//! record.

use crate::header::{HEADER_LEN, Name, finalised_name, in_progress_name};
use crate::read::next_record;
use crate::records::chain_framed;
use crate::scan::{Entry, Stream, read_header};
use crate::{Batch, JournalError};
use bytes::{Bytes, BytesMut};
use hadal_env::{Disk, DiskError, OpenOptions};
use hadal_types::TxId;
use std::path::{Path, PathBuf};

/// Bytes of records a read hands out at most, beside one record that is larger.
const READ_BYTES_MAX: usize = 1 << 20;

/// A segment as its file name tells.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Listed {
    /// First txid.
    pub first: TxId,
    /// Last txid of a finalised one; `None` for one in progress.
    pub last: Option<TxId>,
}

/// The segments of a directory, by first txid, without touching it. Empty when there is no directory.
///
/// # Errors
/// When the disk fails.
pub async fn list<D: Disk>(disk: &D, directory: &Path) -> Result<Vec<Listed>, DiskError> {
    if !disk.exists(directory).await? {
        return Ok(Vec::new());
    }
    let mut segments: Vec<Listed> = Vec::new();
    for entry in disk.read_dir(directory).await? {
        let listed = match Name::parse(&entry.name) {
            Name::Finalised(first, last) => Listed {
                first,
                last: Some(last),
            },
            Name::InProgress(first) => Listed { first, last: None },
            _ => continue,
        };
        // A finalised one counts, should the other name still be there.
        match segments
            .iter_mut()
            .find(|known| known.first == listed.first)
        {
            Some(known) => known.last = known.last.or(listed.last),
            None => segments.push(listed),
        }
    }
    segments.sort_by_key(|listed| listed.first);
    Ok(segments)
}

/// Reads a journal of another process from one record on. See the module's documentation.
pub struct Follower<D: Disk> {
    disk: D,
    directory: PathBuf,
    namespace_id: u64,
    /// The segment read last, and the place in it.
    place: Option<(Listed, Entry)>,
}

impl<D: Disk> Follower<D> {
    /// A follower of the journal in `directory`.
    pub fn new(disk: D, directory: PathBuf, namespace_id: u64) -> Self {
        Self {
            disk,
            directory,
            namespace_id,
            place: None,
        }
    }

    /// Records from `from` on, up to `upto` at most, of one segment. The caller knows that the log is durable up to
    /// `upto`, for nothing here tells. `None`: not to be seen yet.
    ///
    /// # Errors
    /// [`JournalError::NotHere`] when the records were purged, [`JournalError::Unreadable`] when a finalised segment is
    /// damaged, [`JournalError::OtherNamespace`], or the disk fails.
    pub async fn read(&mut self, from: TxId, upto: TxId) -> Result<Option<Batch>, JournalError> {
        if upto < from {
            return Ok(None);
        }
        if let Some((listed, place)) = self.place.take()
            && place.txid == from
            && listed.last.is_none_or(|last| from <= last)
            && let Some(batch) = self.read_at(listed, place, from, upto).await?
        {
            return Ok(Some(batch));
        }
        let segments = list(&self.disk, &self.directory).await?;
        let Some(listed) = segments.iter().rfind(|listed| listed.first <= from) else {
            return match segments.first() {
                None => Ok(None),
                Some(oldest) => Err(JournalError::NotHere {
                    txid: from,
                    oldest: Some(oldest.first),
                }),
            };
        };
        if listed.last.is_some_and(|last| last < from) {
            return match segments.iter().any(|listed| listed.first > from) {
                true => Err(JournalError::NotHere {
                    txid: from,
                    oldest: Some(segments[0].first),
                }),
                false => Ok(None),
            };
        }
        let Some(file) = self.open(*listed).await? else {
            return Ok(None);
        };
        let header = read_header(&self.disk, &file, listed.first, self.namespace_id).await?;
        let Some(header) = header else {
            return self.unreadable(*listed, listed.first);
        };
        let place = Entry {
            txid: listed.first,
            offset: HEADER_LEN as u64,
            digest: header.digest_before,
        };
        self.read_at(*listed, place, from, upto).await
    }

    /// `None` when the file went away or has no such record yet.
    async fn open(&self, listed: Listed) -> Result<Option<D::File>, JournalError> {
        let name = match listed.last {
            Some(last) => finalised_name(listed.first, last),
            None => in_progress_name(listed.first),
        };
        let path = self.directory.join(name);
        match self.disk.open(&path, OpenOptions::read().direct()).await {
            Ok(file) => Ok(Some(file)),
            // Finalised, replaced or purged since it was listed.
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Walks from a known place to `from`, then takes records.
    async fn read_at(
        &mut self,
        listed: Listed,
        mut place: Entry,
        from: TxId,
        upto: TxId,
    ) -> Result<Option<Batch>, JournalError> {
        let Some(file) = self.open(listed).await? else {
            return Ok(None);
        };
        let upto = listed.last.map_or(upto, |last| upto.min(last));
        let mut stream = Stream::at(&self.disk, &file, place.offset).await?;
        let mut taken = BytesMut::new();
        let mut begin = place;
        while place.txid <= upto && taken.len() < READ_BYTES_MAX {
            let Some(length) = next_record(&mut stream, place.txid).await? else {
                break;
            };
            let record = &stream.rest()[..length];
            let digest = chain_framed(&place.digest, record);
            if place.txid >= from {
                taken.extend_from_slice(record);
            }
            stream.consume(length);
            place = Entry {
                txid: place.txid.next(),
                offset: stream.offset(),
                digest,
            };
            if place.txid == from {
                begin = place;
            }
        }
        if taken.is_empty() {
            return self.unreadable(listed, place.txid);
        }
        self.place = Some((listed, place));
        let last = TxId(place.txid.0 - 1);
        let records = Bytes::from(taken);
        Ok(Some(Batch::verified(
            records,
            begin.txid,
            begin.digest,
            last,
            place.digest,
        )))
    }

    /// What is not there in a segment in progress may come; in a finalised one it is damage.
    fn unreadable(&self, listed: Listed, from: TxId) -> Result<Option<Batch>, JournalError> {
        match listed.last {
            None => Ok(None),
            Some(_) => Err(JournalError::Unreadable {
                first: listed.first,
                from,
            }),
        }
    }
}
