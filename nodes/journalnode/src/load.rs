//! Opening the data directory.

use crate::config::{JournalnodeConfig, RunError};
use crate::directory::Directory;
use bytes::Bytes;
use hadal_env::{Disk, Env};
use hadal_proto::qjournal::{LogDigest, SegmentState};
use hadal_proto::{Wire, codec::Input};
use hadal_qjournal::acceptor::{AcceptorRecord, Loaded, LoadedSegment};
use hadal_types::{CURRENT_LAYOUT, Epoch, LayoutVersion, TxId};
use std::path::{Path, PathBuf};
use store_journal::{End, Journal, Options, SegmentInfo};
use store_record::{Contents, Record};

/// The data directory, opened.
pub struct Opened<D: Disk> {
    /// Promises and segments.
    pub directory: Directory<D>,
    /// What the core starts from.
    pub loaded: Loaded,
}

/// Where the segments are.
#[must_use]
pub fn edits_dir(dir: &Path) -> PathBuf {
    dir.join("edits")
}

/// The file of the promises.
#[must_use]
pub fn promises_path(dir: &Path) -> PathBuf {
    dir.join("promises")
}

/// The promises in what the file holds; `None` when nothing was ever stored.
///
/// # Errors
/// [`RunError::Damaged`], [`RunError::Layout`].
pub fn promises(dir: &Path, contents: Contents) -> Result<Option<AcceptorRecord>, RunError> {
    let damaged = |what: String| RunError::Damaged {
        path: promises_path(dir),
        what,
    };
    let payload = match contents {
        Contents::Empty => return Ok(None),
        Contents::Present { payload, .. } => Bytes::from(payload),
        Contents::Unreadable => return Err(damaged("both copies are unreadable".into())),
    };
    // The layout stands first, so that a newer one is refused by name and not as damage.
    let layout = Option::<LayoutVersion>::decode(&mut Input::new(payload.clone()))
        .map_err(|error| damaged(error.to_string()))?;
    if let Some(found) = layout.filter(|found| *found != CURRENT_LAYOUT) {
        return Err(RunError::Layout {
            dir: dir.to_owned(),
            found: found.0,
            known: CURRENT_LAYOUT.0,
        });
    }
    let record = hadal_proto::decode::<AcceptorRecord>(payload);
    record.map(Some).map_err(|error| damaged(error.to_string()))
}

/// T-J7.
pub(crate) async fn lock<E: Env>(
    env: &E,
    config: &JournalnodeConfig,
) -> Result<<E::Disk as Disk>::Lock, RunError> {
    env.disk().create_dir_all(&config.dir).await?;
    let path = config.dir.join("in_use.lock");
    env.disk().lock(&path).await.map_err(|error| {
        if error.is_locked() {
            RunError::Locked {
                dir: config.dir.clone(),
            }
        } else {
            RunError::Disk(error)
        }
    })
}

pub(crate) async fn open<E: Env>(
    env: &E,
    config: &JournalnodeConfig,
) -> Result<Opened<E::Disk>, RunError> {
    open_directory(env.disk(), &config.dir, config.segment_bytes).await
}

/// Room of four first lengths is kept written ahead: 4 MiB behind the usual 1 MiB.
const RUNWAY_SEGMENTS: u64 = 4;

/// How the journal of a JournalNode lays out its files.
pub(crate) fn options(namespace_id: u64, segment_bytes: u64) -> Options {
    Options {
        initial_bytes: segment_bytes,
        zero_ahead_bytes: RUNWAY_SEGMENTS * segment_bytes,
        ..Options::new(namespace_id)
    }
}

/// Opens a data directory that the caller has locked: a JournalNode's own, or one that NameNodes share.
///
/// # Errors
/// [`RunError`].
pub async fn open_directory<D: Disk>(
    disk: &D,
    dir: &Path,
    segment_bytes: u64,
) -> Result<Opened<D>, RunError> {
    let (record, contents) = Record::open(disk, &promises_path(dir)).await?;
    let promises = promises(dir, contents)?;
    let edits = edits_dir(dir);
    let info = promises.as_ref().and_then(|record| record.info.as_ref());
    let Some(info) = info else {
        let removed = promises.is_none()
            && disk.exists(&edits).await?
            && !disk.read_dir(&edits).await?.is_empty();
        if removed {
            return Err(RunError::PromisesMissing {
                dir: dir.to_owned(),
            });
        }
        return Ok(Opened {
            directory: Directory::new(disk, dir, segment_bytes, record, None),
            loaded: Loaded {
                record: promises,
                segments: Vec::new(),
            },
        });
    };
    let committed = promises.as_ref().map_or(TxId(0), |record| record.mark.txid);
    let options = options(info.namespace_id, segment_bytes);
    let journal = Journal::open(disk, &edits, options, committed).await?;
    let mut segments = Vec::new();
    for mut segment in journal.segments() {
        if segment.end.is_none() {
            // Also finds what rotted in old segments, before anybody asks for it.
            segment = journal.scan(segment.first).await?;
        }
        if let Some(gap) = segment.closed_gap {
            tracing::warn!(
                "segment {}: closed a gap at txid {gap} that a crash left",
                segment.first
            );
        }
        segments.push(loaded(&segment));
    }
    Ok(Opened {
        directory: Directory::new(disk, dir, segment_bytes, record, Some(journal)),
        loaded: Loaded {
            record: promises,
            segments,
        },
    })
}

/// A segment as the core wants it.
#[must_use]
pub fn loaded(info: &SegmentInfo) -> LoadedSegment {
    let (doubtful_from, damaged) = match info.end {
        Some(End::Doubtful(from)) => (Some(from), false),
        Some(End::Damaged(from)) => (Some(from), true),
        Some(End::Clean | End::Gap(_)) | None => (None, false),
    };
    let written = info.last.unwrap_or(TxId(info.first.0 - 1));
    // A finalised segment's name says more than can be read of it.
    let last = doubtful_from.map_or(written, |from| written.min(TxId(from.0 - 1)));
    LoadedSegment {
        state: SegmentState {
            first: info.first,
            last,
            epoch: info.writer_epoch.unwrap_or(Epoch(0)),
            finalized: info.finalised,
            digest_before: LogDigest(info.digest_before.unwrap_or_default()),
            digest_end: LogDigest(info.digest.unwrap_or_default()),
            doubtful_from,
            bytes: info.bytes.unwrap_or(0),
            doubtful_bytes: info.doubtful_bytes,
        },
        header_readable: info.writer_epoch.is_some(),
        damaged,
    }
}
