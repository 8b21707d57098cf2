//! From the disk to the acceptor's mind.

use crate::error::RunError;
use hadal_env::Disk;
use hadal_proto::decode;
use hadal_proto::qjournal::{LogDigest, SegmentState};
use hadal_qjournal::acceptor::{AcceptorRecord, Loaded, LoadedSegment};
use hadal_types::{Epoch, TxId};
use std::path::{Path, PathBuf};
use store_journal::{End, Journal, Options, SegmentInfo};
use store_record::{Contents, Record};

/// Where segments are.
pub(crate) fn segments_dir(dir: &Path) -> PathBuf {
    dir.join("current")
}

/// What was found in a directory.
pub(crate) struct Found<D: Disk> {
    pub(crate) record: Record<D>,
    pub(crate) journal: Option<Journal<D>>,
    pub(crate) loaded: Loaded,
}

/// Reads record and segments.
pub(crate) async fn load<D: Disk>(disk: &D, dir: &Path) -> Result<Found<D>, RunError> {
    let path = dir.join("acceptor");
    let (record, contents) = Record::open(disk, &path).await?;
    let damaged = |what: String| RunError::Damaged {
        path: path.display().to_string(),
        what,
    };
    let known: Option<AcceptorRecord> = match contents {
        Contents::Empty => None,
        Contents::Present { payload, .. } => {
            let bytes = bytes::Bytes::copy_from_slice(payload.as_ref());
            Some(decode(bytes).map_err(|error| damaged(error.to_string()))?)
        }
        Contents::Unreadable { .. } => return Err(damaged("both copies are unreadable".into())),
    };
    let formatted = known
        .as_ref()
        .and_then(|known| Some((known.info.as_ref()?.namespace_id, known.mark.txid)));
    let Some((namespace_id, committed)) = formatted else {
        return Ok(Found {
            record,
            journal: None,
            loaded: Loaded {
                record: known,
                segments: Vec::new(),
            },
        });
    };
    let journal = Journal::open(
        disk,
        &segments_dir(dir),
        Options::new(namespace_id),
        committed,
    )
    .await?;
    let mut segments = Vec::new();
    for info in journal.segments() {
        // Digests of older finalised segments are known only once they were read.
        let info = if info.end.is_none() {
            journal.scan(info.first).await?
        } else {
            info
        };
        if let Some(gap) = info.closed_gap {
            tracing::warn!(
                "segment {}: closed a gap at txid {gap} that a crash left",
                info.first
            );
        }
        segments.push(loaded_segment(&info));
    }
    Ok(Found {
        record,
        journal: Some(journal),
        loaded: Loaded {
            record: known,
            segments,
        },
    })
}

fn loaded_segment(info: &SegmentInfo) -> LoadedSegment {
    let (doubtful_from, damaged) = match info.end {
        Some(End::Doubtful(from)) => (Some(from), false),
        Some(End::Damaged(from)) => (Some(from), true),
        Some(End::Clean | End::Gap(_)) | None => (None, false),
    };
    let before = LogDigest(info.digest_before.unwrap_or_default());
    LoadedSegment {
        state: SegmentState {
            first: info.first,
            last: info.last.unwrap_or(TxId(info.first.0 - 1)),
            epoch: info.writer_epoch.unwrap_or(Epoch(0)),
            finalized: info.finalised,
            digest_before: before,
            digest_end: info.digest.map_or(before, LogDigest),
            doubtful_from,
        },
        header_readable: info.writer_epoch.is_some(),
        damaged,
    }
}
