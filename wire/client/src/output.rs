//! Writing a file: bytes in order, flushes, close.

use crate::dfs::{DistributedFileSystem, unexpected};
use crate::error::ClientError;
use crate::input::DfsInputStream;
use crate::options::{AppendOptions, CreateOptions, SyncOptions};
use crate::pipeline::{FileHandle, Goal, Pipeline, abandon};
use bytes::Bytes;
use hadal_datastream::{AvoidedNodes, Packetizer};
use hadal_env::Seam;
use hadal_proto::client::{LocatedBlock, Request, Response};
use hadal_types::Block;

/// First wait between two tries to close a file (HDFS: 400 ms; here replicas are reported at once).
const CLOSE_WAIT_MIN_MS: u64 = 2;
/// Longest wait between two tries.
const CLOSE_WAIT_MAX_MS: u64 = 400;

/// The first block, allocated with the file, as long as nothing was written to it.
enum Granted {
    /// To be written to.
    Fresh(LocatedBlock),
    /// To be given back, or nobody is known to have it: perhaps it is in the file no more. The NameNode is asked for a
    /// block before anything is written.
    Returning(Block),
}

/// An append-only output stream. Bytes are on their way once a write returns, at the DataNodes' kernels after
/// [`hflush`](Self::hflush), on their disks after [`hsync`](Self::hsync) or [`close`](Self::close). Dropping it
/// without closing leaves the file open until its lease expires.
pub struct DfsOutputStream<S: Seam> {
    dfs: DistributedFileSystem<S>,
    file: FileHandle,
    cutter: Packetizer,
    packet_bytes: u32,
    pipeline: Option<Pipeline<S>>,
    granted: Option<Granted>,
    last: Option<Block>,
    /// Bytes of finished blocks.
    finished: u64,
    avoided: AvoidedNodes,
    /// hsync was called: the ends of later blocks are durable, too.
    syncing: bool,
    open: bool,
}

impl<S: Seam> DfsOutputStream<S> {
    pub(crate) async fn create(
        dfs: DistributedFileSystem<S>,
        path: &str,
        options: &CreateOptions,
    ) -> Result<Self, ClientError> {
        let defaults = dfs.server_defaults().await?;
        let block_size = options.block_size.unwrap_or(defaults.block_size);
        let request = Request::Create {
            path: path.into(),
            permission: options.permission,
            overwrite: options.overwrite,
            create_parent: options.create_parent,
            replication: options.replication.unwrap_or(defaults.replication),
            block_size,
            first_block: options.first_block.then(|| dfs.shared.options.host.clone()),
        };
        let (status, block) = match dfs.call(request).await? {
            Response::Created { status, block } => (status, block),
            other => return Err(unexpected(&other)),
        };
        let file = FileHandle::new(path, &status, defaults);
        let mut stream = Self::opened(dfs, file, None, 0);
        stream.granted = block.map(|first| match first.locations.is_empty() {
            true => Granted::Returning(first.block),
            false => Granted::Fresh(first),
        });
        Ok(stream)
    }

    /// The file is open at the NameNode; `finished` bytes of it precede what is written from now on.
    fn opened(
        dfs: DistributedFileSystem<S>,
        file: FileHandle,
        last: Option<Block>,
        finished: u64,
    ) -> Self {
        dfs.shared.file_opened();
        let packet_bytes = dfs.shared.options.packet_bytes;
        Self {
            cutter: Packetizer::new(file.bytes_per_checksum, packet_bytes),
            dfs,
            file,
            packet_bytes,
            pipeline: None,
            granted: None,
            last,
            finished,
            avoided: AvoidedNodes::default(),
            syncing: false,
            open: true,
        }
    }

    pub(crate) async fn append(
        dfs: DistributedFileSystem<S>,
        path: &str,
        options: &AppendOptions,
    ) -> Result<Self, ClientError> {
        let defaults = dfs.server_defaults().await?;
        let request = Request::Append {
            path: path.into(),
            new_block: options.new_block,
            writer_host: dfs.shared.options.host.clone(),
        };
        let (reopened, last, status) = match dfs.call(request).await? {
            Response::Appended {
                reopened,
                last,
                status,
            } => (reopened, last, status),
            other => return Err(unexpected(&other)),
        };
        let file = FileHandle::new(path, &status, defaults);
        let finished = reopened
            .as_ref()
            .map_or(status.length, |block| block.offset);
        let mut stream = Self::opened(dfs, file, last, finished);
        if let Some(block) = reopened {
            let outcome = stream.reopen(block).await;
            stream.settle(outcome)?;
        }
        Ok(stream)
    }

    /// Goes on in a partial block. Its last chunk is sent again with what follows, as every chunk has one checksum.
    async fn reopen(&mut self, located: LocatedBlock) -> Result<(), ClientError> {
        let length = located.block.length;
        let mut file = self.file.clone();
        let pool = file.pool.clone();
        let mut reader =
            DfsInputStream::of_block(self.dfs.clone(), &file.path, pool, located.clone());
        let (chunk, tail) = reader.last_chunk().await?;
        if let Some(chunk) = chunk {
            // The chunk size it was written with.
            file.bytes_per_checksum = chunk;
        }
        self.cutter = Packetizer::resume(file.bytes_per_checksum, self.packet_bytes, length, tail);
        let pipeline = Pipeline::reopen(self.dfs.clone(), file, located).await?;
        self.pipeline = Some(pipeline);
        Ok(())
    }

    /// Bytes written so far.
    #[must_use]
    pub fn position(&self) -> u64 {
        self.finished + self.cutter.position()
    }

    /// Writes all of `data`, handing its memory on without a copy.
    ///
    /// Like the flushes, it may be dropped before it is done: [`position`](Self::position) then says how much was taken,
    /// and whatever is called next goes on from there (T-P20).
    ///
    /// # Errors
    /// [`ClientError`]; after one the stream is closed, and what was flushed stays readable.
    pub async fn write_bytes(&mut self, data: Bytes) -> Result<(), ClientError> {
        self.check_open()?;
        let outcome = self.write_inner(data).await;
        self.settle(outcome)
    }

    /// Writes all of `data`, copying it.
    ///
    /// # Errors
    /// As [`DfsOutputStream::write_bytes`].
    pub async fn write_all(&mut self, data: &[u8]) -> Result<(), ClientError> {
        self.write_bytes(Bytes::copy_from_slice(data)).await
    }

    /// Returns when the kernels of all nodes of the pipeline have what was written: new readers see it, and it
    /// survives the death of the DataNode processes (F-08).
    ///
    /// # Errors
    /// As [`DfsOutputStream::write_bytes`].
    pub async fn hflush(&mut self) -> Result<(), ClientError> {
        self.check_open()?;
        let outcome = self.flush_inner(false).await;
        self.settle(outcome)
    }

    /// As [`hflush`](Self::hflush), and on the devices. With `client.sync_on_close` off, blocks that ended before the first
    /// call are left out, as in HDFS (HDFS-744): their ends were not to be durable.
    ///
    /// # Errors
    /// As [`DfsOutputStream::write_bytes`].
    pub async fn hsync(&mut self) -> Result<(), ClientError> {
        self.check_open()?;
        let outcome = self.flush_inner(true).await;
        self.settle(outcome)
    }

    /// As [`hsync`](Self::hsync), with more (F-08).
    ///
    /// # Errors
    /// As [`DfsOutputStream::write_bytes`].
    pub async fn hsync_with(&mut self, options: SyncOptions) -> Result<(), ClientError> {
        self.check_open()?;
        let outcome = async {
            self.flush_inner(true).await?;
            if options.update_length {
                self.record_length().await?;
            }
            if options.end_block {
                self.end_block().await?;
            }
            Ok(())
        }
        .await;
        self.settle(outcome)
    }

    /// Ends the file. Returns when its blocks are durable and minimally replicated (F-09).
    ///
    /// # Errors
    /// As [`DfsOutputStream::write_bytes`]; [`ClientError::NotClosed`] when the replicas are not reported in time.
    pub async fn close(&mut self) -> Result<(), ClientError> {
        self.check_open()?;
        let outcome = async {
            self.end_block().await?;
            self.give_back().await?;
            self.complete().await
        }
        .await;
        self.settle(outcome)?;
        self.shut();
        Ok(())
    }

    fn check_open(&self) -> Result<(), ClientError> {
        if self.open {
            Ok(())
        } else {
            Err(ClientError::StreamClosed {
                path: self.file.path.clone(),
            })
        }
    }

    fn settle(&mut self, outcome: Result<(), ClientError>) -> Result<(), ClientError> {
        if outcome.is_err() {
            self.shut();
        }
        outcome
    }

    fn shut(&mut self) {
        if std::mem::replace(&mut self.open, false) {
            self.dfs.shared.file_closed();
            if let Some(pipeline) = &mut self.pipeline {
                pipeline.abort();
            }
            self.pipeline = None;
        }
    }

    /// An end of the block that was dropped in the middle comes first.
    async fn settle_block(&mut self) -> Result<(), ClientError> {
        match &self.pipeline {
            Some(pipeline) if pipeline.state.is_ending() => self.end_block().await,
            _ => Ok(()),
        }
    }

    fn block_is_full(&self) -> bool {
        self.cutter.position() == self.file.block_size
    }

    async fn write_inner(&mut self, mut data: Bytes) -> Result<(), ClientError> {
        self.settle_block().await?;
        while !data.is_empty() {
            if self.block_is_full() {
                self.end_block().await?;
            }
            let room = self.file.block_size - self.cutter.position();
            let mut part =
                data.split_to(data.len().min(usize::try_from(room).unwrap_or(usize::MAX)));
            while !part.is_empty() {
                self.cutter.fill(&mut part);
                if self.cutter.is_full() {
                    self.pipeline().await?;
                    let packet = self.cutter.take_full();
                    let pipeline = self.pipeline.as_mut().expect("made just now");
                    packet
                        .into_iter()
                        .for_each(|full| pipeline.state.push(full));
                    pipeline.drive(Goal::Room).await?;
                }
            }
            // An end that is not durable waits for what follows: an hsync may still come for this block (F-08).
            if self.block_is_full() && (self.syncing || self.dfs.shared.options.sync_on_close) {
                self.end_block().await?;
            }
        }
        Ok(())
    }

    /// Names of the DataNodes that the block being written goes to; none between two blocks. After a flush these are
    /// the nodes that have it (HDFS `getCurrentBlockReplication`).
    #[must_use]
    pub fn pipeline_nodes(&self) -> Vec<String> {
        let nodes = self.pipeline.iter().flat_map(|live| live.state.nodes());
        nodes.map(|node| node.name.clone()).collect()
    }

    async fn pipeline(&mut self) -> Result<&mut Pipeline<S>, ClientError> {
        if self.pipeline.is_none() {
            let (dfs, file) = (self.dfs.clone(), self.file.clone());
            let mut fresh = match self.granted.take() {
                Some(Granted::Fresh(first)) => Pipeline::of_first(dfs, file, first),
                Some(Granted::Returning(_)) | None => {
                    let avoid = self.avoided.list(self.dfs.shared.seam.now());
                    let avoided = avoid.len();
                    let fresh = Pipeline::create(dfs, file, self.last, avoid).await?;
                    if fresh.avoid.len() < avoided {
                        self.avoided.keep_newest();
                    }
                    fresh
                }
            };
            fresh.durable = self.syncing;
            self.pipeline = Some(fresh);
        }
        Ok(self.pipeline.as_mut().expect("made above"))
    }

    async fn flush_inner(&mut self, sync: bool) -> Result<(), ClientError> {
        if sync {
            self.syncing = true;
            if let Some(pipeline) = &mut self.pipeline {
                pipeline.durable = true;
            }
        }
        self.settle_block().await?;
        self.push_rest().await?;
        match &mut self.pipeline {
            Some(pipeline) => pipeline.drive(Goal::Flushed { sync }).await,
            // Nobody could tell the length of a block that no DataNode has.
            None => self.give_back().await,
        }
    }

    /// What was written and is in no packet yet. The packet is cut only when there is a pipeline for it: a caller that
    /// drops this while it is being made loses nothing.
    async fn push_rest(&mut self) -> Result<(), ClientError> {
        if self.cutter.unsent() > 0 {
            self.pipeline().await?;
            let rest = self.cutter.flush(0);
            let pipeline = self.pipeline.as_mut().expect("made just now");
            rest.into_iter().for_each(|rest| pipeline.state.push(rest));
        }
        Ok(())
    }

    /// Tells the NameNode how long the last block is by now.
    async fn record_length(&mut self) -> Result<(), ClientError> {
        let last_block_length = match (&self.pipeline, self.last) {
            (Some(_), _) => self.cutter.position(),
            (None, Some(last)) => last.length,
            (None, None) => return Ok(()),
        };
        let request = Request::Fsync {
            path: self.file.path.clone(),
            inode: self.file.inode,
            last_block_length,
        };
        match self.dfs.call(request).await? {
            Response::Done => Ok(()),
            other => Err(unexpected(&other)),
        }
    }

    /// Finishes the current block, if there is one.
    async fn end_block(&mut self) -> Result<(), ClientError> {
        let length = self.cutter.position();
        if length == 0 && self.pipeline.is_none() {
            return Ok(());
        }
        self.push_rest().await?;
        let pipeline = self.pipeline().await?;
        pipeline.state.finish(length);
        pipeline.drive(Goal::Finished).await?;
        let (block, failed) = (pipeline.state.block(), pipeline.state.bad_nodes().to_vec());
        self.last = Some(block);
        let now = self.dfs.shared.seam.now();
        self.avoided.handle_failed(now, &failed);
        self.pipeline = None;
        self.finished += length;
        self.cutter = Packetizer::new(self.file.bytes_per_checksum, self.packet_bytes);
        Ok(())
    }

    /// A file without a byte has no block: one that came with it goes back. From here on it is not written to, as a caller
    /// may drop this before it is known whether the block is gone (T-P20).
    async fn give_back(&mut self) -> Result<(), ClientError> {
        let block = match &self.granted {
            None => return Ok(()),
            Some(Granted::Fresh(first)) => first.block,
            Some(Granted::Returning(block)) => *block,
        };
        self.granted = Some(Granted::Returning(block));
        abandon(&self.dfs, &self.file, block).await?;
        self.granted = None;
        Ok(())
    }

    async fn complete(&mut self) -> Result<(), ClientError> {
        let shared = &self.dfs.shared;
        let started = shared.seam.now();
        let mut wait_ms = CLOSE_WAIT_MIN_MS;
        loop {
            let request = Request::Complete {
                path: self.file.path.clone(),
                inode: self.file.inode,
                last: self.last,
            };
            match self.dfs.call(request).await? {
                Response::Flag { value: true } => return Ok(()),
                Response::Flag { value: false } => {}
                other => return Err(unexpected(&other)),
            }
            let now = shared.seam.now();
            let waited_ms = now.ms_since(started);
            if waited_ms >= shared.options.close_timeout_ms {
                return Err(ClientError::NotClosed {
                    path: self.file.path.clone(),
                    waited_ms,
                });
            }
            shared.seam.sleep_until(now.after_ms(wait_ms)).await;
            wait_ms = (wait_ms * 2).min(CLOSE_WAIT_MAX_MS);
        }
    }
}

impl<S: Seam> Drop for DfsOutputStream<S> {
    fn drop(&mut self) {
        self.shut();
    }
}
