//! Opening files for glommio without stepping on its traps.

use crate::supervise::unsupervised;
use futures_util::FutureExt;
use glommio::io::{BufferedFile, DmaFile, ReadResult};
use hadal_env::{ALIGN, DiskError, DiskOp};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs::File;
use std::future::poll_fn;
use std::io;
use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::panic::AssertUnwindSafe;
use std::path::Path;
use std::pin::pin;

/// Name of the file that tells how a data directory's device is to be read. Written and removed at the start.
const PROBE_NAME: &str = ".background-probe";

/// Which devices (`st_dev`) take direct reads through glommio.
#[derive(Default)]
pub(crate) struct Devices {
    direct: RefCell<BTreeMap<u64, bool>>,
}

/// A file open for reading.
pub(crate) struct Source {
    reader: Reader,
    pub(crate) length: u64,
    /// Keeps the path `/proc/self/fd/N`, by which glommio opened it, alive.
    _pinned: File,
}

enum Reader {
    Direct(DmaFile),
    Buffered(BufferedFile),
    /// Nothing in it. Never opened: glommio tries its polled ring on the first file of a device, an
    /// empty one makes that look as if it worked, and every read would spin.
    Empty,
}

impl Devices {
    /// Finds out about the device of a data directory with a file that is surely not empty.
    pub(crate) async fn probe(&self, directory: &Path) -> Result<(), DiskError> {
        let path = directory.join(PROBE_NAME);
        let failed = |op| {
            let path = &path;
            move |source| DiskError::new(op, path, source)
        };
        let mut file = File::create(&path).map_err(failed(DiskOp::Open))?;
        file.write_all(&[0x5A; ALIGN])
            .map_err(failed(DiskOp::Write))?;
        file.sync_all().map_err(failed(DiskOp::Sync))?;
        let source = self.open(&path).await?;
        let read = source
            .read_aligned(0, ALIGN)
            .await
            .map(|result| result.iter().all(|byte| *byte == 0x5A))
            .map_err(failed(DiskOp::Read))?;
        source.close().await;
        std::fs::remove_file(&path).map_err(failed(DiskOp::Remove))?;
        if !read {
            return Err(failed(DiskOp::Read)(io::Error::new(
                io::ErrorKind::InvalidData,
                "what was written did not read back",
            )));
        }
        Ok(())
    }

    /// Opens a file. It is opened twice, the second time by its descriptor: glommio panics when a
    /// file is removed while it looks at the path.
    pub(crate) async fn open(&self, path: &Path) -> Result<Source, DiskError> {
        let failed = |source| DiskError::new(DiskOp::Open, path, source);
        let pinned = File::open(path).map_err(failed)?;
        let found = pinned.metadata().map_err(failed)?;
        if !found.is_file() {
            return Err(failed(io::Error::new(
                io::ErrorKind::InvalidInput,
                "it is not a regular file",
            )));
        }
        let by_descriptor = format!("/proc/self/fd/{}", pinned.as_raw_fd());
        let (device, length) = (found.dev(), found.len());
        if length == 0 {
            return Ok(Source {
                reader: Reader::Empty,
                length,
                _pinned: pinned,
            });
        }
        let known = self.direct.borrow().get(&device).copied();
        let direct = match known {
            Some(false) => None,
            Some(true) => Some(
                DmaFile::open(&by_descriptor)
                    .await
                    .map_err(|error| failed(error.into()))?,
            ),
            None => {
                let opened = open_first(&by_descriptor).await;
                if let Err(reason) = &opened {
                    tracing::warn!(path = %path.display(), reason, "background reads of this device go through the page cache");
                }
                self.direct.borrow_mut().insert(device, opened.is_ok());
                opened.ok()
            }
        };
        let reader = match direct {
            Some(file) => Reader::Direct(file),
            None => Reader::Buffered(
                BufferedFile::open(&by_descriptor)
                    .await
                    .map_err(|error| failed(error.into()))?,
            ),
        };
        Ok(Source {
            reader,
            length,
            _pinned: pinned,
        })
    }
}

/// Opens the first file of a device. glommio then reads the device's properties from `/sys`, and
/// panics where it does not find them (some partitions and containers).
async fn open_first(path: &str) -> Result<DmaFile, String> {
    let mut opening = pin!(AssertUnwindSafe(DmaFile::open(path)).catch_unwind());
    match poll_fn(|cx| unsupervised(|| opening.as_mut().poll(cx))).await {
        Ok(Ok(file)) => Ok(file),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err("the properties of its device cannot be read from /sys".to_owned()),
    }
}

impl Source {
    /// Reads from an aligned position; fewer bytes than asked at the end of the file.
    pub(crate) async fn read_aligned(&self, position: u64, bytes: usize) -> io::Result<ReadResult> {
        match &self.reader {
            Reader::Direct(file) => Ok(file.read_at_aligned(position, bytes).await?),
            Reader::Buffered(file) => Ok(file.read_at(position, bytes).await?),
            Reader::Empty => Ok(ReadResult::default()),
        }
    }

    /// Appends bytes `position..end` to `data`; fewer if the file ends before. Not by glommio's
    /// `read_at`, which at the end of a file returns bytes that were never read.
    pub(crate) async fn read(
        &self,
        mut position: u64,
        end: u64,
        data: &mut Vec<u8>,
    ) -> io::Result<()> {
        let unit = ALIGN as u64;
        while position < end {
            let start = position / unit * unit;
            let wanted =
                usize::try_from((end - start).next_multiple_of(unit)).map_err(io::Error::other)?;
            let skip = usize::try_from(position - start).map_err(io::Error::other)?;
            let result = self.read_aligned(start, wanted).await?;
            let Some(found) = result.get(skip..).filter(|found| !found.is_empty()) else {
                return Ok(());
            };
            let found = match usize::try_from(end - position) {
                Ok(left) => &found[..found.len().min(left)],
                Err(_) => found,
            };
            data.extend_from_slice(found);
            position += found.len() as u64;
        }
        Ok(())
    }

    /// Closes it.
    pub(crate) async fn close(self) {
        // Nothing was written: a failed close loses nothing.
        match self.reader {
            Reader::Direct(file) => drop(file.close().await),
            Reader::Buffered(file) => drop(file.close().await),
            Reader::Empty => {}
        }
    }
}
