//! The connection side of one block stream: set-up, sending, acknowledgements, recovery (E-21). What to do is
//! decided by [`BlockStream`]; here it is done.

use crate::checksum;
use crate::dfs::{DistributedFileSystem, unexpected};
use crate::error::ClientError;
use crate::timeout::until;
use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::{Either, select};
use hadal_datastream::{BlockStream, Recovery};
use hadal_env::{Expect, Net, NetError, Seam};
use hadal_proto::client::{
    BlockToken, FileStatus, LocatedBlock, ReplicaTarget, Request, Response, ServerDefaults,
};
use hadal_proto::frame::{Ack, FLAG_HSYNC, FrameKind};
use hadal_proto::transfer::{TransferProtocol, WriteBlock, WriteStage, ack_timeout_ms};
use hadal_proto::{FaultClass, Protocol};
use hadal_quic::{AckReceiver, AppendSender, open_append};
use hadal_types::{Block, BlockPoolId, DatanodeUuid, GenerationStamp, InodeId, Role, Tick};
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;

/// A node that restarts is tried so often, and each time for so long.
const RESTART_PAUSE_MS: u64 = 500;
const RESTART_TRY_MS: u64 = 2_000;
/// What a node said before it stopped taking frames is waited for this long.
const LAST_WORD_MS: u64 = 500;

type NetConn<S> = <<S as Seam>::Net as Net>::Conn;

/// The file a block belongs to, as calls about it need it.
#[derive(Clone)]
pub(crate) struct FileHandle {
    pub(crate) path: String,
    pub(crate) inode: InodeId,
    pub(crate) pool: BlockPoolId,
    pub(crate) block_size: u64,
    pub(crate) bytes_per_checksum: u32,
    pub(crate) replication: u16,
}

impl FileHandle {
    pub(crate) fn new(path: &str, status: &FileStatus, defaults: ServerDefaults) -> Self {
        Self {
            path: path.to_owned(),
            inode: status.inode,
            pool: defaults.pool,
            block_size: status.block_size,
            bytes_per_checksum: defaults.bytes_per_checksum,
            replication: status.replication,
        }
    }
}

/// What the caller waits for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Goal {
    /// Everything pushed is sent and the window is not full.
    Room,
    /// Everything pushed is acknowledged, and completed by every node's kernel (`sync`: device).
    Flushed { sync: bool },
    /// The end of the block is acknowledged.
    Finished,
}

/// Why the stream failed: the pipeline index at fault, when known, and words.
struct Failure {
    bad_node: Option<usize>,
    reason: String,
    /// That node announced its restart.
    restarting: bool,
    /// The connection broke, and nobody said a word.
    lost: bool,
}

impl Failure {
    fn unknown(reason: String) -> Self {
        Self {
            bad_node: None,
            reason,
            restarting: false,
            lost: false,
        }
    }

    fn net(error: &NetError) -> Self {
        Self {
            lost: true,
            ..Self::unknown(error.to_string())
        }
    }

    fn silence(timeout_ms: u64) -> Self {
        Self::unknown(format!("nothing sent or acknowledged for {timeout_ms} ms"))
    }
}

struct Wire<C: hadal_env::Conn> {
    sender: AppendSender<C>,
    acks: AckReceiver<C>,
    finish_sequence: Option<u64>,
    flush_sequence: Option<u64>,
    acked_sequence: Option<u64>,
    /// Frames sent: the sequence of the next one.
    frames: u64,
}

/// One block being written.
pub(crate) struct Pipeline<S: Seam> {
    pub(crate) dfs: DistributedFileSystem<S>,
    pub(crate) file: FileHandle,
    previous: Option<Block>,
    token: BlockToken,
    /// Nodes that failed in earlier blocks: not asked for while there are others.
    pub(crate) avoid: Vec<DatanodeUuid>,
    pub(crate) state: BlockStream,
    /// A call is at work; still so at the next one, it was dropped in the middle.
    busy: bool,
    /// Its end is to be durable even when `client.sync_on_close` is off: the caller relies on hsync.
    pub(crate) durable: bool,
    wire: Option<Wire<NetConn<S>>>,
    /// When a node that restarts is waited for no more.
    restart_deadline: Option<Tick>,
}

impl<S: Seam> Pipeline<S> {
    /// Asks for a block and starts its pipeline. `previous` is committed by the same call. Of the nodes to `avoid` only
    /// the last is left out when there are too few others: a short pipeline is worse than asking a node in vain.
    pub(crate) async fn create(
        dfs: DistributedFileSystem<S>,
        file: FileHandle,
        previous: Option<Block>,
        mut avoid: Vec<DatanodeUuid>,
    ) -> Result<Self, ClientError> {
        let mut allocated = allocate(&dfs, &file, previous, &avoid, &[]).await?;
        if allocated.1.len() < usize::from(file.replication) && avoid.len() > 1 {
            abandon(&dfs, &file, allocated.0).await?;
            avoid.drain(..avoid.len() - 1);
            allocated = allocate(&dfs, &file, previous, &avoid, &[]).await?;
        }
        let mut pipeline = Self::of(dfs, file, allocated);
        pipeline.previous = previous;
        pipeline.avoid = avoid;
        Ok(pipeline)
    }

    /// The pipeline of a file's first block, which came with the file.
    pub(crate) fn of_first(
        dfs: DistributedFileSystem<S>,
        file: FileHandle,
        first: LocatedBlock,
    ) -> Self {
        Self::of(dfs, file, (first.block, first.locations, first.token))
    }

    fn of(
        dfs: DistributedFileSystem<S>,
        file: FileHandle,
        (block, nodes, token): (Block, Vec<ReplicaTarget>, BlockToken),
    ) -> Self {
        let options = dfs.shared.options.replacement.clone();
        Self {
            dfs,
            file,
            previous: None,
            token,
            avoid: Vec::new(),
            state: BlockStream::new(block, nodes).with_options(options),
            busy: false,
            durable: false,
            wire: None,
            restart_deadline: None,
        }
    }

    /// Opens the last block of a file again for append (F-10): a new stamp, the nodes set up under it, the NameNode told.
    pub(crate) async fn reopen(
        dfs: DistributedFileSystem<S>,
        file: FileHandle,
        located: LocatedBlock,
    ) -> Result<Self, ClientError> {
        let options = dfs.shared.options.replacement.clone();
        let state = BlockStream::reopen(located.block, located.locations).with_options(options);
        let mut pipeline = Self {
            dfs,
            file,
            previous: None,
            token: located.token,
            avoid: Vec::new(),
            state,
            busy: false,
            durable: false,
            wire: None,
            restart_deadline: None,
        };
        if let Some(failure) = pipeline.go_on().await? {
            pipeline.recover(failure).await?;
        }
        Ok(pipeline)
    }

    /// Works until the goal is reached, through failures. When the caller drops this in the middle, the next call first
    /// sets the stream up again, as what is on it is not known (T-P20).
    pub(crate) async fn drive(&mut self, goal: Goal) -> Result<(), ClientError> {
        if std::mem::replace(&mut self.busy, true) {
            self.abort();
            let next = self.state.handle_interrupted();
            self.recover_by(next).await?;
        }
        self.drive_on(goal).await?;
        self.busy = false;
        let first = self.state.nodes().first();
        if goal != Goal::Room
            && let Some(address) = first.and_then(|it| it.address_for(self.state.block().id))
        {
            self.dfs.shared.peers.heard(address).await;
        }
        Ok(())
    }

    async fn drive_on(&mut self, goal: Goal) -> Result<(), ClientError> {
        loop {
            if self.wire.is_none()
                && let Err(failure) = self.set_up(WriteStage::Create, false).await
            {
                self.recover(failure).await?;
                continue;
            }
            match self.advance(goal).await {
                Ok(true) => return Ok(()),
                Ok(false) => {}
                Err(failure) => self.recover(failure).await?,
            }
        }
    }

    /// Gives the block up without finishing it.
    pub(crate) fn abort(&mut self) {
        if let Some(wire) = &mut self.wire {
            wire.sender.reset(0);
        }
        self.wire = None;
    }

    /// One step; `true` when the goal is reached.
    async fn advance(&mut self, goal: Goal) -> Result<bool, Failure> {
        let options = &self.dfs.shared.options;
        let wire = self
            .wire
            .as_mut()
            .expect("a pipeline that is driven is set up");
        // Acknowledgements that are there already cost no wait.
        while !self.state.is_finished()
            && let Some(ack) = wire.acks.next().now_or_never()
        {
            handle_ack(&mut self.state, wire, ack)?;
        }
        let seam = &self.dfs.shared.seam;
        let timeout_ms = ack_timeout_ms(options.stream_timeout_ms, self.state.nodes().len());
        if let Some(packet) = self.state.poll_send() {
            let chunk = self.file.bytes_per_checksum as usize;
            let frame = OutFrame {
                kind: FrameKind::Data,
                flags: packet.flags,
                offset: packet.offset,
                aux: checksum::compute(&packet.pieces, chunk),
                pieces: packet.pieces.clone(),
            };
            send(seam, timeout_ms, &mut self.state, wire, frame).await?;
            return Ok(false);
        }
        if wire.finish_sequence.is_none()
            && let Some(length) = self.state.poll_finish()
        {
            // Known beforehand: its acknowledgement may come while it is being sent.
            wire.finish_sequence = Some(wire.frames);
            let end = OutFrame {
                flags: if self.durable { FLAG_HSYNC } else { 0 },
                ..OutFrame::bare(FrameKind::Finish, length)
            };
            send(seam, timeout_ms, &mut self.state, wire, end).await?;
            wire.sender.finish();
            return Ok(false);
        }
        let reached = match goal {
            Goal::Room => self.state.in_flight() <= options.write_window_bytes,
            Goal::Finished => self.state.is_finished(),
            Goal::Flushed { sync } => match wire.flush_sequence {
                None => {
                    let kind = if sync {
                        FrameKind::Sync
                    } else {
                        FrameKind::Flush
                    };
                    let flush = OutFrame::bare(kind, 0);
                    let sent = send(seam, timeout_ms, &mut self.state, wire, flush).await?;
                    wire.flush_sequence = Some(sent);
                    return Ok(false);
                }
                Some(sequence) if wire.acked_sequence.is_some_and(|acked| acked >= sequence) => {
                    wire.flush_sequence = None;
                    self.state.handle_flushed();
                    true
                }
                Some(_) => false,
            },
        };
        if reached {
            return Ok(true);
        }
        let deadline = seam.now().after_ms(timeout_ms);
        match until(seam, deadline, wire.acks.next()).await {
            Some(ack) => handle_ack(&mut self.state, wire, ack)?,
            None => return Err(Failure::silence(timeout_ms)),
        }
        Ok(false)
    }

    /// Opens the append stream to the first node. With `wait` the whole pipeline must report itself set up.
    ///
    /// A kept connection may lead to a process that was killed, and whose successor resets it. That is no fault of the
    /// node: over a connection that was silent for a while nothing is sent before the answer, and one that breaks until
    /// then is made anew.
    async fn set_up(&mut self, stage: WriteStage, wait: bool) -> Result<(), Failure> {
        let fail = |reason: String| Failure {
            bad_node: Some(0),
            ..Failure::unknown(reason)
        };
        let Some(first) = self.state.nodes().first().cloned() else {
            return Err(fail("no DataNode in the pipeline".into()));
        };
        let block = self.state.block();
        let header = WriteBlock {
            pool: self.file.pool.clone(),
            block,
            stage,
            storage: first.storage,
            targets: self.state.nodes()[1..].to_vec(),
            bytes_per_checksum: self.file.bytes_per_checksum,
            client: self.dfs.client_id(),
            sync_on_close: self.dfs.shared.options.sync_on_close,
            expected_length: self.file.block_size,
            token: self.token.clone(),
        };
        let address = first.address_for(block.id).ok_or_else(|| {
            fail(format!(
                "{} has the malformed address {}",
                first.name, first.address
            ))
        })?;
        let shared = Arc::clone(&self.dfs.shared);
        let expect = Expect::node(Role::Datanode, first.name.clone());
        // The nearer a node is to the one that is at fault, the sooner it says so.
        let nodes = self.state.nodes().len();
        let mut timeout_ms = ack_timeout_ms(shared.options.stream_timeout_ms, nodes);
        if self.state.awaits_restart() {
            timeout_ms = timeout_ms.min(RESTART_TRY_MS);
        }
        let deadline = shared.seam.now().after_ms(timeout_ms);
        let open = async {
            let doubted = shared.peers.doubts(address).await;
            let wait_first = wait || doubted;
            match self.dial(&header, address, &expect, wait_first).await {
                Err(failure) if doubted && failure.lost && !shared.peers.keeps(address).await => {
                    tracing::debug!("{}: {}; connecting anew", first.name, failure.reason);
                    self.dial(&header, address, &expect, wait).await
                }
                outcome => outcome,
            }
        };
        let wire = until(&shared.seam, deadline, open)
            .await
            .unwrap_or_else(|| Err(fail(format!("{} does not answer", first.name))))?;
        self.wire = Some(wire);
        Ok(())
    }

    /// One try to open the stream; `wait`: until the whole pipeline is set up.
    async fn dial(
        &mut self,
        header: &WriteBlock,
        address: SocketAddr,
        expect: &Expect,
        wait: bool,
    ) -> Result<Wire<NetConn<S>>, Failure> {
        let shared = &self.dfs.shared;
        let conn = shared.peers.connect(address, expect).await;
        let conn = conn.map_err(|error| Failure::unknown(error.to_string()))?;
        let (protocol, version) = (TransferProtocol::ID, TransferProtocol::VERSION);
        let opened = open_append(&conn, protocol, version, header).await;
        let (sender, acks) = opened.map_err(|error| Failure::net(&error))?;
        let mut wire = Wire {
            sender,
            acks,
            finish_sequence: None,
            flush_sequence: None,
            acked_sequence: None,
            frames: 0,
        };
        if wait {
            let ack = wire.acks.next().await;
            handle_ack(&mut self.state, &mut wire, ack)?;
            self.dfs.shared.peers.heard(address).await;
        }
        Ok(wire)
    }

    /// After a failure: drops the bad node and goes on with the others, or with another block.
    async fn recover(&mut self, failure: Failure) -> Result<(), ClientError> {
        self.abort();
        tracing::debug!("pipeline of {}: {}", self.state.block(), failure.reason);
        let next = match self.restarting(&failure) {
            Some(next) => next,
            None => self.state.handle_failure(failure.bad_node)?,
        };
        self.recover_by(next).await
    }

    async fn recover_by(&mut self, mut next: Recovery) -> Result<(), ClientError> {
        loop {
            let again = match next {
                Recovery::Abandon => self.start_over().await?,
                Recovery::Continue => self.go_on().await?,
            };
            let Some(failure) = again else {
                self.restart_deadline = None;
                return Ok(());
            };
            tracing::debug!("recovery of {}: {}", self.state.block(), failure.reason);
            self.abort();
            next = match next {
                Recovery::Abandon => self.state.handle_failure(failure.bad_node)?,
                Recovery::Continue => self.handle_recovery_failure(&failure).await?,
            };
        }
    }

    /// What becomes of the stream when the node at fault announced its restart (T-P5).
    fn restarting(&mut self, failure: &Failure) -> Option<Recovery> {
        if !failure.restarting {
            return None;
        }
        let options = &self.dfs.shared.options;
        let next = self
            .state
            .handle_restarting(failure.bad_node, &options.host)?;
        if self.state.awaits_restart() && self.restart_deadline.is_none() {
            let timeout_ms = options.datanode_restart_timeout_ms;
            self.restart_deadline = Some(self.dfs.shared.seam.now().after_ms(timeout_ms));
        }
        Some(next)
    }

    /// The pipeline could not be set up again. While a node restarts that is what is to be expected: a little later it is
    /// tried again, as long as there is time.
    async fn handle_recovery_failure(
        &mut self,
        failure: &Failure,
    ) -> Result<Recovery, ClientError> {
        if let Some(next) = self.restarting(failure)
            && !self.state.awaits_restart()
        {
            return Ok(next);
        }
        if !self.state.awaits_restart() {
            return Ok(self.state.handle_recovery_failure(failure.bad_node)?);
        }
        let seam = &self.dfs.shared.seam;
        let now = seam.now();
        if self.restart_deadline.is_some_and(|deadline| now < deadline) {
            seam.sleep_until(now.after_ms(RESTART_PAUSE_MS)).await;
            return Ok(self.state.handle_interrupted());
        }
        let overdue = self.state.handle_restart_overdue();
        self.restart_deadline = None;
        Ok(self.state.handle_recovery_failure(overdue)?)
    }

    async fn start_over(&mut self) -> Result<Option<Failure>, ClientError> {
        abandon(&self.dfs, &self.file, self.state.block()).await?;
        let bad = self.state.bad_nodes().to_vec();
        let (avoid, previous) = (&self.avoid, self.previous);
        let (block, nodes, token) = allocate(&self.dfs, &self.file, previous, avoid, &bad).await?;
        self.token = token;
        self.state.handle_replaced(block, nodes);
        Ok(self.set_up(WriteStage::Create, true).await.err())
    }

    async fn go_on(&mut self) -> Result<Option<Failure>, ClientError> {
        self.replace_failed().await?;
        let old = self.state.settled_block();
        let (path, inode) = (self.file.path.clone(), self.file.inode);
        let request = Request::UpdateBlockForPipeline {
            path: path.clone(),
            inode,
            block: old,
        };
        let stamp: GenerationStamp = match self.dfs.call(request).await? {
            Response::NewStamp {
                generation_stamp,
                token,
            } => {
                self.token = token;
                generation_stamp
            }
            other => return Err(unexpected(&other)),
        };
        self.state.handle_new_stamp(stamp);
        let stage = self.state.recovery_stage();
        if let Err(failure) = self.set_up(stage, true).await {
            return Ok(Some(failure));
        }
        let nodes = self.state.nodes().to_vec();
        let update = Request::UpdatePipeline {
            path,
            inode,
            old,
            new: self.state.block(),
            nodes,
        };
        self.dfs.call(update).await?;
        self.state.handle_recovered();
        self.dfs.shared.seam.happened("pipeline recoveries");
        Ok(None)
    }
}

/// A frame to send.
struct OutFrame {
    kind: FrameKind,
    flags: u8,
    offset: u64,
    aux: Bytes,
    pieces: Vec<Bytes>,
}

impl OutFrame {
    fn bare(kind: FrameKind, offset: u64) -> Self {
        Self {
            kind,
            flags: 0,
            offset,
            aux: Bytes::new(),
            pieces: Vec::new(),
        }
    }
}

/// Sends one frame while acknowledgements keep being read, so that a stream that failed is noticed even when
/// nobody takes its bytes any more; so is one on which nothing moves either way.
async fn send<S: Seam, C: hadal_env::Conn>(
    seam: &S,
    timeout_ms: u64,
    state: &mut BlockStream,
    wire: &mut Wire<C>,
    mut frame: OutFrame,
) -> Result<u64, Failure> {
    let Wire {
        sender,
        acks,
        finish_sequence,
        acked_sequence,
        frames,
        ..
    } = wire;
    *frames += 1;
    let pieces = &mut frame.pieces;
    let mut sending = pin!(sender.send(frame.kind, frame.flags, frame.offset, frame.aux, pieces));
    loop {
        let deadline = seam.now().after_ms(timeout_ms);
        let ack = {
            let next = pin!(acks.next());
            match until(seam, deadline, select(sending.as_mut(), next)).await {
                Some(Either::Left((Ok(sent), _))) => return Ok(sent),
                Some(Either::Left((Err(error), _))) => Err(Failure::net(&error)),
                Some(Either::Right((ack, _))) => Ok(ack),
                None => return Err(Failure::silence(timeout_ms)),
            }
        };
        let ack = match ack {
            Ok(ack) => ack,
            Err(failure) => {
                let finish = *finish_sequence;
                return Err(last_word(seam, state, finish, acked_sequence, acks, failure).await);
            }
        };
        take_ack(state, *finish_sequence, acked_sequence, ack)?;
        if state.is_finished() {
            return sending.await.map_err(|error| Failure::net(&error));
        }
    }
}

/// The node that stopped taking frames may have said why, and who is to blame, before it did.
async fn last_word<S: Seam, C: hadal_env::Conn>(
    seam: &S,
    state: &mut BlockStream,
    finish_sequence: Option<u64>,
    acked_sequence: &mut Option<u64>,
    acks: &mut AckReceiver<C>,
    failure: Failure,
) -> Failure {
    let deadline = seam.now().after_ms(LAST_WORD_MS);
    while !state.is_finished()
        && let Some(ack) = until(seam, deadline, acks.next()).await
    {
        match take_ack(state, finish_sequence, acked_sequence, ack) {
            Ok(()) => {}
            Err(said) if said.bad_node.is_some() => return said,
            Err(_) => break,
        }
    }
    failure
}

fn handle_ack<C: hadal_env::Conn>(
    state: &mut BlockStream,
    wire: &mut Wire<C>,
    ack: Result<Option<Ack>, NetError>,
) -> Result<(), Failure> {
    take_ack(state, wire.finish_sequence, &mut wire.acked_sequence, ack)
}

fn take_ack(
    state: &mut BlockStream,
    finish_sequence: Option<u64>,
    acked_sequence: &mut Option<u64>,
    ack: Result<Option<Ack>, NetError>,
) -> Result<(), Failure> {
    let ack = match ack {
        Ok(Some(ack)) => ack,
        Ok(None) => {
            return Err(Failure::unknown("the pipeline ended the stream".into()));
        }
        Err(error) => return Err(Failure::net(&error)),
    };
    if let Some(fault) = ack.fault {
        let bad_node = (ack.bad_node != u8::MAX).then_some(usize::from(ack.bad_node));
        return Err(Failure {
            bad_node,
            restarting: fault.class == FaultClass::Restarting,
            reason: fault.message,
            lost: false,
        });
    }
    if ack.sequence == u64::MAX {
        state.handle_established();
        return Ok(());
    }
    if let Some(slow) = state.handle_slow(ack.slow_nodes) {
        return Err(Failure {
            bad_node: Some(slow),
            ..Failure::unknown("the node calls itself slow".into())
        });
    }
    *acked_sequence = Some(ack.sequence);
    let finished = finish_sequence.is_some_and(|finish| ack.sequence >= finish);
    match state.handle_ack(ack.offset, finished) {
        true => Ok(()),
        false => Err(Failure::unknown(format!(
            "byte {} is acknowledged, which was not sent, or is not the end",
            ack.offset
        ))),
    }
}

/// Gives a block back that holds nothing.
pub(crate) async fn abandon<S: Seam>(
    dfs: &DistributedFileSystem<S>,
    file: &FileHandle,
    block: Block,
) -> Result<(), ClientError> {
    let (path, inode) = (file.path.clone(), file.inode);
    let request = Request::AbandonBlock { path, inode, block };
    dfs.call(request).await.map(|_| ())
}

/// A block on none of the `bad` nodes, and on none to `avoid` if there are others.
async fn allocate<S: Seam>(
    dfs: &DistributedFileSystem<S>,
    file: &FileHandle,
    previous: Option<Block>,
    avoid: &[DatanodeUuid],
    bad: &[DatanodeUuid],
) -> Result<(Block, Vec<ReplicaTarget>, BlockToken), ClientError> {
    let mut exclude = [avoid, bad].concat();
    loop {
        let request = Request::AddBlock {
            path: file.path.clone(),
            inode: file.inode,
            previous,
            exclude: exclude.clone(),
            writer_host: dfs.shared.options.host.clone(),
        };
        match dfs.call(request).await {
            Ok(Response::LocatedBlock {
                block: Some(located),
            }) => return Ok((located.block, located.locations, located.token)),
            Ok(other) => return Err(unexpected(&other)),
            Err(ClientError::Fault(fault))
                if fault.class == FaultClass::NoDatanodes && exclude.len() > bad.len() =>
            {
                exclude = bad.to_vec();
            }
            Err(error) => return Err(error),
        }
    }
}
