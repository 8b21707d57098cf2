//! A segmented log, straight over the seam: what a store has to do right.

use super::Bugs;
use super::wire::Record;
use hadal_env::{Disk, DiskError, File, OpenOptions};
use std::fmt;
use std::path::{Path, PathBuf};

/// Records per segment.
const SEGMENT_RECORDS: usize = 48;

/// Segments kept; older ones are removed.
const SEGMENTS_KEPT: usize = 6;

/// Why the log cannot go on.
#[derive(Debug)]
pub(super) enum LogError {
    /// The disk said so.
    Disk(DiskError),
    /// A record that was finished once is bad.
    Rotten(PathBuf),
}

impl From<DiskError> for LogError {
    fn from(error: DiskError) -> Self {
        Self::Disk(error)
    }
}

impl fmt::Display for LogError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Disk(error) => write!(f, "{error}"),
            Self::Rotten(path) => {
                write!(f, "bad record in the finished segment {}", path.display())
            }
        }
    }
}

/// A segment: its number and the records in it.
struct Segment {
    number: u64,
    records: Vec<(u32, u64)>,
}

/// An open log.
pub(super) struct Log<D: Disk> {
    disk: D,
    dir: PathBuf,
    bugs: Bugs,
    /// Writes are durable when they return, or need a sync.
    dsync: bool,
    file: D::File,
    end: u64,
    segments: Vec<Segment>,
    /// Told which records go, before they go.
    on_remove: OnRemove,
}

/// Hears the ids of records whose segment is about to be removed.
pub(super) type OnRemove = Box<dyn Fn(&[(u32, u64)])>;

fn segment_path(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("segment-{number:08}"))
}

async fn read_all<D: Disk>(disk: &D, path: &Path) -> Result<Vec<u8>, DiskError> {
    let file = disk.open(path, OpenOptions::read()).await?;
    let length = file.length().await? as usize;
    let buf = disk.buf(length).await;
    let (count, buf) = file.read_at(buf, 0..length, 0).await;
    Ok(buf.as_ref()[..count?].to_vec())
}

async fn write_durably<D: Disk>(
    disk: &D,
    file: &D::File,
    bytes: &[u8],
    offset: u64,
    sync: bool,
) -> Result<(), DiskError> {
    let mut buf = disk.buf(bytes.len()).await;
    buf.as_mut()[..bytes.len()].copy_from_slice(bytes);
    let (written, buf) = file.write_at(buf, 0..bytes.len(), offset).await;
    drop(buf);
    written?;
    if sync { file.sync_data().await } else { Ok(()) }
}

impl<D: Disk> Log<D> {
    fn options(dsync: bool, options: OpenOptions) -> OpenOptions {
        if dsync { options.dsync() } else { options }
    }

    /// Opens the log in a directory and hands out what is in it.
    pub(super) async fn open(
        disk: D,
        dir: &Path,
        dsync: bool,
        bugs: Bugs,
        on_remove: OnRemove,
    ) -> Result<(Self, Vec<Record>), LogError> {
        disk.create_dir_all(dir).await?;
        let mut numbers = Vec::new();
        for entry in disk.read_dir(dir).await? {
            if let Some(number) = entry
                .name
                .strip_prefix("segment-")
                .and_then(|number| number.parse::<u64>().ok())
            {
                numbers.push(number);
            }
        }
        let mut all = Vec::new();
        let mut segments = Vec::new();
        let mut tail = (Vec::new(), 0);
        let last = numbers.last().copied().unwrap_or(1);
        for number in numbers {
            let path = segment_path(dir, number);
            let bytes = read_all(&disk, &path).await?;
            let (records, good) = Record::parse_all(&bytes, !bugs.trust_torn_tail);
            if good < bytes.len() && number != last {
                return Err(LogError::Rotten(path));
            }
            segments.push(Segment {
                number,
                records: records.iter().map(Record::id).collect(),
            });
            all.extend(records);
            tail = (bytes, good);
        }
        if segments.is_empty() {
            segments.push(Segment {
                number: last,
                records: Vec::new(),
            });
        }
        let (file, end) = Self::restore_tail(&disk, dir, last, tail, dsync, bugs).await?;
        let log = Self {
            disk,
            dir: dir.to_path_buf(),
            bugs,
            dsync,
            file,
            end,
            segments,
            on_remove,
        };
        Ok((log, all))
    }

    /// Makes the last segment one that can be appended to.
    async fn restore_tail(
        disk: &D,
        dir: &Path,
        number: u64,
        (bytes, good): (Vec<u8>, usize),
        dsync: bool,
        bugs: Bugs,
    ) -> Result<(D::File, u64), DiskError> {
        let path = segment_path(dir, number);
        if bugs.keep_torn_tail || bugs.reuse_unsynced_tail {
            let file = disk
                .open(&path, Self::options(dsync, OpenOptions::create()))
                .await?;
            disk.sync_dir(dir).await?;
            if bugs.keep_torn_tail {
                return Ok((file, bytes.len() as u64));
            }
            file.truncate(good as u64).await?;
            file.sync_data().await?;
            return Ok((file, good as u64));
        }
        // What was read may be in the page cache only, marked clean by a sync that failed before the
        // last start: no sync of this file can be trusted to bring it to the medium. So it is written anew.
        let new = dir.join("tail.new");
        let file = disk.open(&new, OpenOptions::create()).await?;
        file.truncate(0).await?;
        write_durably(disk, &file, &bytes[..good], 0, true).await?;
        drop(file);
        disk.rename(&new, &path).await?;
        disk.sync_dir(dir).await?;
        let file = disk
            .open(&path, Self::options(dsync, OpenOptions::write()))
            .await?;
        Ok((file, good as u64))
    }

    /// Appends records; they are durable when it returns.
    pub(super) async fn append(&mut self, records: &[Record]) -> Result<(), LogError> {
        if self.current().records.len() >= SEGMENT_RECORDS {
            self.roll().await?;
        }
        let mut bytes = Vec::new();
        for record in records {
            record.encode(&mut bytes);
        }
        let sync = !self.dsync && !self.bugs.ack_before_sync;
        if let Err(error) = write_durably(&self.disk, &self.file, &bytes, self.end, sync).await {
            if !self.bugs.retry_failed_sync {
                return Err(error.into());
            }
            self.file.sync_data().await?;
        }
        self.end += bytes.len() as u64;
        self.current()
            .records
            .extend(records.iter().map(Record::id));
        Ok(())
    }

    /// Syncs what was acknowledged too early (planted bug).
    pub(super) async fn sync_late(&self) -> Result<(), DiskError> {
        self.file.sync_data().await
    }

    fn current(&mut self) -> &mut Segment {
        self.segments
            .last_mut()
            .expect("a log has at least one segment")
    }

    /// Starts the next segment; the oldest goes.
    async fn roll(&mut self) -> Result<(), LogError> {
        let number = self.current().number + 1;
        let path = segment_path(&self.dir, number);
        self.file = self
            .disk
            .open(&path, Self::options(self.dsync, OpenOptions::create_new()))
            .await?;
        // Before anything in it is acknowledged its name must be durable.
        self.disk.sync_dir(&self.dir).await?;
        self.end = 0;
        self.segments.push(Segment {
            number,
            records: Vec::new(),
        });
        while self.segments.len() > SEGMENTS_KEPT {
            let oldest = self.segments.remove(0);
            (self.on_remove)(&oldest.records);
            self.disk
                .remove_file(&segment_path(&self.dir, oldest.number))
                .await?;
        }
        Ok(())
    }
}
