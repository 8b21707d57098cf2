//! Reading a file: one replica after the other until one gives the right bytes.

use crate::checksum;
use crate::dfs::DistributedFileSystem;
use crate::error::{Attempt, ClientError};
use crate::local::LocalReads;
use crate::timeout::until;
use bytes::Bytes;
use hadal_datastream::{Doubts, ReplicaChoice};
use hadal_env::{Conn, Expect, Net, Seam};
use hadal_proto::client::{BadReplica, LocatedBlock, LocatedBlocks, ReplicaTarget, Request};
use hadal_proto::frame::FrameKind;
use hadal_proto::transfer::{ReadBlock, ReadReply, TransferProtocol};
use hadal_proto::{Fault, FaultClass, Protocol, decode, transfer};
use hadal_quic::{FrameReceiver, open_read};
use hadal_types::{BlockPoolId, InodeId, Role};
use std::collections::VecDeque;

/// Bytes of block locations asked for at once.
const LOCATIONS_SPAN: u64 = 10 << 30;

/// Longest wait for one DataNode to say how far an open block can be read.
const VISIBLE_LENGTH_MAX_MS: u64 = 3_000;

type NetConn<S> = <<S as Seam>::Net as Net>::Conn;

/// A stream from one replica.
struct Source<C: Conn> {
    frames: FrameReceiver<C>,
    node: ReplicaTarget,
    block: LocatedBlock,
    chunk: usize,
    /// Where in the block the next frame starts.
    next: u64,
    /// Where in the block the reader stops.
    end: u64,
}

/// An open file. Positions are bytes from the start of the file.
pub struct DfsInputStream<S: Seam> {
    dfs: DistributedFileSystem<S>,
    path: String,
    located: LocatedBlocks,
    length: u64,
    position: u64,
    ready: VecDeque<Bytes>,
    source: Option<Source<NetConn<S>>>,
    choice: ReplicaChoice,
    doubts: Doubts,
    /// Data bytes per checksum, as the last replica dialled said.
    chunk: Option<u32>,
    local: LocalReads,
}

enum ReadFailure {
    /// The chunk at this byte of the block does not match its checksum, as this reader sees it.
    Mismatch(u64),
    /// The DataNode says that its replica is corrupt.
    Corrupt(String),
    /// The node or the connection.
    Other(String),
}

impl<S: Seam> DfsInputStream<S> {
    pub(crate) async fn open(
        dfs: DistributedFileSystem<S>,
        path: &str,
    ) -> Result<Self, ClientError> {
        let located = dfs.locations(path, 0, LOCATIONS_SPAN).await?;
        let mut stream = Self::new(dfs, path, located);
        if stream.located.under_construction {
            stream.see_open_block().await?;
        }
        Ok(stream)
    }

    /// A reader of the bytes up to the end of this block, wherever the file ends.
    pub(crate) fn of_block(
        dfs: DistributedFileSystem<S>,
        path: &str,
        pool: BlockPoolId,
        block: LocatedBlock,
    ) -> Self {
        let end = block.offset + block.block.length;
        let located = LocatedBlocks {
            pool,
            inode: InodeId(0),
            file_length: end,
            under_construction: true,
            blocks: vec![block],
        };
        Self {
            position: end,
            ..Self::new(dfs, path, located)
        }
    }

    fn new(dfs: DistributedFileSystem<S>, path: &str, located: LocatedBlocks) -> Self {
        Self {
            length: located.file_length,
            dfs,
            path: path.to_owned(),
            located,
            position: 0,
            ready: VecDeque::new(),
            source: None,
            choice: ReplicaChoice::default(),
            doubts: Doubts::default(),
            chunk: None,
            local: LocalReads::default(),
        }
    }

    /// The chunk size of the last block, and what stands in it behind its last chunk boundary.
    pub(crate) async fn last_chunk(&mut self) -> Result<(Option<u32>, Bytes), ClientError> {
        let (start, end) = match self.located.blocks.last() {
            Some(last) if last.block.length > 0 => (last.offset, last.offset + last.block.length),
            _ => return Ok((None, Bytes::new())),
        };
        // Whoever serves the last byte says how long its chunks are.
        self.seek(end - 1);
        self.read_chunk().await?;
        let chunk = self.chunk.expect("bytes came from a replica");
        self.seek(end - (end - start) % u64::from(chunk));
        Ok((Some(chunk), self.read_to_end().await?.into()))
    }

    /// The file's length as known: what was there when it was opened, with the visible bytes of a block that is
    /// still being written (F-08).
    #[must_use]
    pub fn length(&self) -> u64 {
        self.length
    }

    /// Where the next read starts.
    #[must_use]
    pub fn position(&self) -> u64 {
        self.position
    }

    /// Bytes read so far from files of DataNodes on this host, not over the network (HDFS `ReadStatistics`).
    #[must_use]
    pub fn short_circuit_bytes(&self) -> u64 {
        self.local.bytes
    }

    /// Moves to a position; past the end reads give nothing.
    pub fn seek(&mut self, position: u64) {
        if position == self.position {
            return;
        }
        self.position = position;
        self.ready.clear();
        self.source = None;
    }

    /// Finds out how far an open last block can be read, over as many rounds as a read makes (F-08).
    ///
    /// # Errors
    /// [`ClientError::LengthUnknown`]: fewer bytes than were flushed are never shown.
    async fn see_open_block(&mut self) -> Result<(), ClientError> {
        loop {
            let Some(last) = self
                .located
                .blocks
                .last()
                .filter(|block| block.under_construction)
                .cloned()
            else {
                return Ok(());
            };
            let length = match self.visible_length(&last).await {
                Ok(length) => length,
                Err(_) if self.choice.next_round() => {
                    self.locate_again().await?;
                    self.length = self.located.file_length;
                    continue;
                }
                Err(reason) => {
                    return Err(ClientError::LengthUnknown {
                        block: last.block,
                        path: self.path.clone(),
                        reason,
                    });
                }
            };
            let block = self
                .located
                .blocks
                .last_mut()
                .expect("there is a last block");
            block.block.length = block.block.length.max(length);
            self.length = self.length.max(block.offset + block.block.length);
            self.choice.handle_progress();
            return Ok(());
        }
    }

    /// Asks the replicas of an open block; the first that answers counts (T-P22). That all that are known have none
    /// says nothing (HDFS takes it for an empty block): a NameNode that just took over may not know of those that have it.
    /// A pipeline that is being set up is there a moment later.
    async fn visible_length(&self, block: &LocatedBlock) -> Result<u64, String> {
        let shared = &self.dfs.shared;
        let mut reason = "no DataNode is known to have it".to_owned();
        for node in &block.locations {
            let Some(address) = node.address_for(block.block.id) else {
                continue;
            };
            let expect = Expect::node(Role::Datanode, node.name.clone());
            let request = transfer::Request::GetVisibleLength {
                pool: self.located.pool.clone(),
                block: block.block,
                token: block.token.clone(),
            };
            let asked = async {
                let client = shared.peers.transfer(address, &expect).await?;
                Ok::<_, Attempt>(client.call(&request).await?)
            };
            // One that does not answer holds nobody up: another is asked.
            let deadline = shared.seam.now().after_ms(VISIBLE_LENGTH_MAX_MS);
            let why = match until(&shared.seam, deadline, asked).await {
                Some(Ok(transfer::Response::VisibleLength { length })) => return Ok(length),
                Some(Ok(other)) => format!("answered with {}", other.name()),
                Some(Err(attempt)) => attempt.to_string(),
                None => "no answer".into(),
            };
            reason = format!("{}: {why}", node.name);
        }
        Err(reason)
    }

    /// The next bytes at the position, as they came from the network, or `None` at the end of the file.
    ///
    /// # Errors
    /// [`ClientError::BlockMissing`] when no replica gives the bytes.
    pub async fn read_chunk(&mut self) -> Result<Option<Bytes>, ClientError> {
        loop {
            if let Some(bytes) = self.ready.pop_front() {
                self.position += bytes.len() as u64;
                return Ok(Some(bytes));
            }
            if self.position >= self.length {
                return Ok(None);
            }
            self.fill().await?;
        }
    }

    /// Reads into `buffer`; 0 at the end of the file.
    ///
    /// # Errors
    /// As [`DfsInputStream::read_chunk`].
    pub async fn read(&mut self, buffer: &mut [u8]) -> Result<usize, ClientError> {
        if buffer.is_empty() {
            return Ok(0);
        }
        let Some(mut bytes) = self.read_chunk().await? else {
            return Ok(0);
        };
        let take = bytes.len().min(buffer.len());
        buffer[..take].copy_from_slice(&bytes.split_to(take));
        if !bytes.is_empty() {
            self.position -= bytes.len() as u64;
            self.ready.push_front(bytes);
        }
        Ok(take)
    }

    /// Everything from the position to the end, for files that fit into memory.
    ///
    /// # Errors
    /// As [`DfsInputStream::read_chunk`].
    pub async fn read_to_end(&mut self) -> Result<Vec<u8>, ClientError> {
        let room = usize::try_from(self.length.saturating_sub(self.position)).unwrap_or(0);
        let mut all = Vec::with_capacity(room.min(64 << 20));
        while let Some(bytes) = self.read_chunk().await? {
            all.extend_from_slice(&bytes);
        }
        Ok(all)
    }

    async fn fill(&mut self) -> Result<(), ClientError> {
        let block = self.block_at_position().await?;
        if self.source.is_none() {
            let (shared, pool) = (&self.dfs.shared, &self.located.pool);
            let read = self.local.read(shared, pool, &block, self.position).await;
            if let Some((bytes, chunk)) = read {
                self.ready.push_back(bytes);
                self.chunk = Some(chunk);
                self.choice.handle_progress();
                return Ok(());
            }
        }
        loop {
            let outcome = match self.source.take() {
                Some(source) if source.end > source.next => self.next_frame(source).await,
                _ => match self.local.doubted(&block).or_else(|| {
                    let nodes = block.locations.iter().map(|node| node.datanode);
                    self.choice.choose(nodes)
                }) {
                    Some(index) => self.dial(&block, block.locations[index].clone()).await,
                    None => {
                        self.another_round(&block, "every replica failed").await?;
                        return Ok(());
                    }
                },
            };
            match outcome {
                Ok(()) if self.ready.is_empty() => {}
                Ok(()) => {
                    self.choice.handle_progress();
                    return Ok(());
                }
                Err((node, failure)) => self.replica_failed(&block, &node, failure).await?,
            }
        }
    }

    async fn block_at_position(&mut self) -> Result<LocatedBlock, ClientError> {
        let position = self.position;
        let holds = |block: &&LocatedBlock| {
            block.offset <= position && position < block.offset + block.block.length
        };
        if let Some(block) = self.located.blocks.iter().find(holds) {
            return Ok(block.clone());
        }
        let located = self
            .dfs
            .locations(&self.path, position, LOCATIONS_SPAN)
            .await?;
        self.located = located;
        self.located
            .blocks
            .iter()
            .find(holds)
            .cloned()
            .ok_or_else(|| {
                ClientError::Fault(Fault::new(
                    FaultClass::NotFound,
                    format!(
                        "{} has no block at byte {position}: it was changed while it was read",
                        self.path
                    ),
                ))
            })
    }

    async fn dial(
        &mut self,
        block: &LocatedBlock,
        node: ReplicaTarget,
    ) -> Result<(), (ReplicaTarget, ReadFailure)> {
        let fail = |reason: String| (node.clone(), ReadFailure::Other(reason));
        let address = node.address_for(block.block.id).ok_or_else(|| {
            fail(format!(
                "{} has the malformed address {}",
                node.name, node.address
            ))
        })?;
        let offset = self.position - block.offset;
        let header = ReadBlock {
            pool: self.located.pool.clone(),
            block: block.block,
            offset,
            length: block.block.length - offset,
            token: block.token.clone(),
        };
        let shared = &self.dfs.shared;
        let expect = Expect::node(Role::Datanode, node.name.clone());
        let opened = async {
            let conn = shared
                .peers
                .connect(address, &expect)
                .await
                .map_err(|error| error.to_string())?;
            open_read::<_, _, ReadReply>(
                &conn,
                TransferProtocol::ID,
                TransferProtocol::VERSION,
                &header,
            )
            .await
            .map_err(|error| error.to_string())
        };
        let deadline = shared.seam.now().after_ms(shared.options.stream_timeout_ms);
        let (reply, frames) = match until(&shared.seam, deadline, opened).await {
            None => return Err(fail("no answer to a read".into())),
            Some(Err(reason)) => return Err(fail(reason)),
            Some(Ok(opened)) => opened,
        };
        let chunk = reply.bytes_per_checksum as usize;
        if chunk == 0 || reply.start > offset || reply.end <= offset {
            return Err(fail(format!(
                "read reply of {} does not cover byte {offset}",
                node.name
            )));
        }
        self.chunk = Some(reply.bytes_per_checksum);
        self.source = Some(Source {
            frames,
            node,
            block: block.clone(),
            chunk,
            next: reply.start,
            end: reply.end.min(block.block.length),
        });
        Ok(())
    }

    async fn next_frame(
        &mut self,
        mut source: Source<NetConn<S>>,
    ) -> Result<(), (ReplicaTarget, ReadFailure)> {
        let shared = &self.dfs.shared;
        let deadline = shared.seam.now().after_ms(shared.options.stream_timeout_ms);
        let frame = match until(&shared.seam, deadline, source.frames.next()).await {
            Some(Ok(Some(frame))) => frame,
            Some(Ok(None)) => {
                return Err((source.node, ReadFailure::Other("stream ended early".into())));
            }
            Some(Err(error)) => return Err((source.node, ReadFailure::Other(error.to_string()))),
            None => return Err((source.node, ReadFailure::Other("no data in time".into()))),
        };
        match frame.head.kind {
            FrameKind::Data if frame.head.offset == source.next => {}
            FrameKind::KeepAlive => {
                self.source = Some(source);
                return Ok(());
            }
            FrameKind::Abort => {
                let failure = match decode::<Fault>(frame.aux) {
                    Ok(fault) if fault.class == FaultClass::Corrupt => {
                        ReadFailure::Corrupt(fault.message)
                    }
                    Ok(fault) => ReadFailure::Other(fault.message),
                    Err(error) => ReadFailure::Other(error.to_string()),
                };
                return Err((source.node, failure));
            }
            _ => {
                return Err((
                    source.node,
                    ReadFailure::Other("a frame out of order".into()),
                ));
            }
        }
        if let Err(bad) = checksum::verify(&frame.payload, source.chunk, &frame.aux)
            && !shared.options.planted.skip_verify
        {
            // Without a checksum for each chunk none of them is right.
            let chunks = frame.payload.iter().map(Bytes::len).sum::<usize>() / source.chunk;
            let bad = if bad > chunks { 0 } else { bad };
            let at = source.next + (bad * source.chunk) as u64;
            return Err((source.node, ReadFailure::Mismatch(at)));
        }
        let mut at = source.next;
        for mut piece in frame.payload {
            let from = self
                .position
                .saturating_sub(source.block.offset)
                .saturating_sub(at);
            let length = piece.len() as u64;
            // A replica may hold more than the reader asked for: cut at both ends.
            let visible = length.min(source.end.saturating_sub(at));
            piece.truncate(usize::try_from(visible).expect("a piece fits into memory"));
            if from < piece.len() as u64 {
                self.ready
                    .push_back(piece.split_off(usize::try_from(from).expect("inside the piece")));
            }
            at += length;
        }
        let (block, verified) = (source.block.block.id, source.next..at);
        let bad = self
            .doubts
            .handle_verified(block, source.node.datanode, &verified);
        source.next = at;
        if source.next < source.end {
            self.source = Some(source);
        }
        self.report_bad(bad).await;
        Ok(())
    }

    /// Tells the NameNode of corrupt replicas.
    async fn report_bad(&mut self, blocks: Vec<BadReplica>) {
        if blocks.is_empty() {
            return;
        }
        for bad in &blocks {
            tracing::warn!(
                "the replica of {} on {} is corrupt",
                bad.block,
                bad.datanode
            );
        }
        let report = Request::ReportBadBlocks { blocks };
        if let Err(error) = self.dfs.call(report).await {
            tracing::warn!("corrupt replicas could not be reported: {error}");
        }
    }

    async fn replica_failed(
        &mut self,
        block: &LocatedBlock,
        node: &ReplicaTarget,
        failure: ReadFailure,
    ) -> Result<(), ClientError> {
        self.choice.handle_failure(node.datanode);
        self.source = None;
        let bad = BadReplica {
            block: block.block,
            datanode: node.datanode,
            storage: node.storage,
        };
        let (reason, is_bad) = match failure {
            ReadFailure::Mismatch(at) => {
                let locations = block.locations.len();
                let is_bad = self.doubts.handle_mismatch(&bad, at, locations);
                (format!("wrong checksum at byte {at}"), is_bad)
            }
            ReadFailure::Corrupt(reason) => (reason, true),
            ReadFailure::Other(reason) => (reason, false),
        };
        tracing::debug!("reading {} from {}: {reason}", block.block, node.name);
        if is_bad {
            self.report_bad(vec![bad]).await;
        }
        if self
            .choice
            .choose(block.locations.iter().map(|node| node.datanode))
            .is_none()
        {
            self.another_round(block, &format!("{}: {reason}", node.name))
                .await?;
        }
        Ok(())
    }

    /// All replicas failed: fresh locations and another try, a bounded number of times.
    async fn another_round(
        &mut self,
        block: &LocatedBlock,
        reason: &str,
    ) -> Result<(), ClientError> {
        if !self.choice.next_round() {
            return Err(ClientError::BlockMissing {
                block: block.block,
                path: self.path.clone(),
                reason: reason.to_owned(),
            });
        }
        self.locate_again().await
    }

    /// Fresh locations from the position on, after a wait.
    async fn locate_again(&mut self) -> Result<(), ClientError> {
        let shared = &self.dfs.shared;
        let wait = self.choice.wait_ms(shared.seam.random_u64());
        shared
            .seam
            .sleep_until(shared.seam.now().after_ms(wait))
            .await;
        let located = self
            .dfs
            .locations(&self.path, self.position, LOCATIONS_SPAN)
            .await?;
        self.located = located;
        Ok(())
    }
}
