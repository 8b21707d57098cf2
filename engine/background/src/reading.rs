//! Reading a file in order, ahead of whoever consumes it.

use crate::budget::{Budget, Chunk};
use crate::source::{Devices, Source};
use async_channel::{Receiver, Sender};
use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::FuturesOrdered;
use hadal_env::{ALIGN, DiskError, DiskOp};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Chunks of one file being read at once.
const READ_AHEAD: usize = 4;

/// Chunks read and waiting for the consumer, beside those being read.
pub(crate) const MAILBOX_CHUNKS: usize = 2;

/// A file being read. Chunks come in order; dropping this stops the reading.
#[derive(Debug)]
pub struct Reading {
    pub(crate) chunks: Receiver<Result<Bytes, DiskError>>,
}

impl Reading {
    /// The next chunk; `None` at the end of the range or file, or after an error. Never an empty one.
    /// A dropped call has taken nothing.
    ///
    /// A chunk counts against its class's budget until its last `Bytes` is dropped. Who gathers more
    /// of them than the budget holds waits for ever: copy out what must be kept.
    pub async fn next(&mut self) -> Option<Result<Bytes, DiskError>> {
        self.chunks.recv().await.ok()
    }
}

/// What to read.
pub(crate) struct Request {
    pub(crate) path: PathBuf,
    pub(crate) range: Range<u64>,
    pub(crate) chunk_bytes: usize,
}

/// Reads and hands over until the end, an error, or nobody wants more.
pub(crate) async fn read(
    devices: &Devices,
    budget: &Arc<Budget>,
    request: Request,
    consumer: Sender<Result<Bytes, DiskError>>,
) {
    let source = match devices.open(&request.path).await {
        Ok(source) => source,
        Err(error) => {
            // Nobody there to hear of it: then nobody misses it.
            drop(consumer.send(Err(error)).await);
            return;
        }
    };
    if let Err(error) = pump(&source, budget, &request, &consumer).await {
        drop(consumer.send(Err(error)).await);
    }
    source.close().await;
}

async fn pump(
    source: &Source,
    budget: &Arc<Budget>,
    request: &Request,
    consumer: &Sender<Result<Bytes, DiskError>>,
) -> Result<(), DiskError> {
    let end = request.range.end.min(source.length);
    let mut position = request.range.start;
    let most = budget.total() / ALIGN * ALIGN;
    let size = request
        .chunk_bytes
        .clamp(ALIGN, most)
        .next_multiple_of(ALIGN)
        .min(most);
    let mut reads = FuturesOrdered::new();
    loop {
        while position < end && reads.len() < READ_AHEAD {
            let stop = end.min(next_cut(position, size as u64));
            let bytes = usize::try_from(stop - position)
                .map_or(size, |bytes| bytes.next_multiple_of(ALIGN));
            // Waits for room only when nothing of its own is under way: what it holds must get
            // through, or it would wait for itself.
            let chunk = if reads.is_empty() {
                Some(budget.chunk(bytes).await)
            } else {
                budget.try_chunk(bytes)
            };
            let Some(chunk) = chunk else { break };
            reads.push_back(read_chunk(source, &request.path, position..stop, chunk));
            position = stop;
        }
        let Some(read) = reads.next().await else {
            return Ok(());
        };
        let (chunk, whole) = read?;
        if !chunk.data.is_empty() && consumer.send(Ok(chunk.freeze())).await.is_err() || !whole {
            return Ok(());
        }
    }
}

/// Chunks end at multiples of their size, so that all but the first are aligned.
fn next_cut(position: u64, size: u64) -> u64 {
    (position / size + 1).saturating_mul(size)
}

/// Reads one chunk, and says whether the file still reached its end.
async fn read_chunk(
    source: &Source,
    path: &Path,
    range: Range<u64>,
    mut chunk: Chunk,
) -> Result<(Chunk, bool), DiskError> {
    chunk.data.reserve_exact(chunk.capacity());
    source
        .read(range.start, range.end, &mut chunk.data)
        .await
        .map_err(|error| DiskError::new(DiskOp::Read, path, error))?;
    let whole = chunk.data.len() as u64 == range.end - range.start;
    Ok((chunk, whole))
}
