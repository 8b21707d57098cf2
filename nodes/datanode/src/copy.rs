//! Copying a replica to other DataNodes: on the NameNode's order (re-replication), or a client's (a node that joins a
//! running pipeline).

use crate::error::fault_of;
use crate::node::Node;
use bytes::Bytes;
use hadal_env::{Conn, Env, Expect};
use hadal_proto::client::ReplicaTarget;
use hadal_proto::datanode::TransferWork;
use hadal_proto::frame::{Ack, FrameKind};
use hadal_proto::transfer::{TransferProtocol, WriteBlock, WriteStage};
use hadal_proto::{Fault, FaultClass, Protocol};
use hadal_quic::{AckReceiver, AppendSender, open_append};
use hadal_types::{Block, BlockId, ClientId, DatanodeUuid, GenerationStamp, ReplicaState, Role};
use std::rc::Rc;
use store_replica::{ReplicaReader, StoreError};

/// Copies at once (HDFS `dfs.namenode.replication.max-streams-hard-limit`).
const COPIES_MAX: u32 = 16;
/// Wait before looking for room again.
const COPY_WAIT_MS: u64 = 20;

/// Why a copy did not arrive.
enum Broken {
    /// Our bytes are bad, or cannot be read.
    Source(StoreError),
    /// A target found bytes wrong that were right when they left: ours are looked at again.
    Refused(Fault),
    /// The target of this index failed or cannot be reached.
    Target(usize, Fault),
    /// Nobody else is to blame.
    Here(Fault),
}

impl Broken {
    /// The first target was lost.
    fn lost(reason: impl Into<String>) -> Self {
        Self::Target(0, Fault::new(FaultClass::Retry, reason))
    }
}

/// A copy that failed: why, and the target to blame, if it is one.
pub(crate) struct CopyError {
    pub(crate) fault: Fault,
    pub(crate) target: Option<usize>,
}

impl From<Fault> for CopyError {
    fn from(fault: Fault) -> Self {
        Self {
            fault,
            target: None,
        }
    }
}

/// Re-replication: copies a FINALIZED replica.
pub(crate) async fn copy<E: Env>(node: Rc<Node<E>>, work: TransferWork) {
    while node.copies.get() >= COPIES_MAX {
        node.env
            .sleep_until(node.env.now().after_ms(COPY_WAIT_MS))
            .await;
    }
    node.copies.set(node.copies.get() + 1);
    let Block {
        id,
        generation_stamp: stamp,
        ..
    } = work.block;
    if let Err(error) = copy_block(&node, id, stamp, WriteStage::Copy, &work.targets).await {
        tracing::warn!("copying {}: {}", work.block, error.fault);
        let target = error.target.and_then(|index| work.targets.get(index));
        let target = target.map_or(DatanodeUuid(0), |target| target.datanode);
        node.report_failed_copy(work.block, target);
    }
    node.copies.set(node.copies.get() - 1);
}

/// Brings the readable bytes of a replica to the targets: as a TEMPORARY copy of a FINALIZED one of exactly this stamp
/// (`Copy`), or to a node that joins the pipeline of an open one (`TransferRbw`, E-21). An RBW has at least the stamp: a
/// recovery that failed half way has raised it at some nodes already, and the pipeline takes any since the settled one.
///
/// A replica whose bytes do not match their checksums is reported to the NameNodes, so that another becomes the source
///
pub(crate) async fn copy_block<E: Env>(
    node: &Rc<Node<E>>,
    id: BlockId,
    stamp: GenerationStamp,
    stage: WriteStage,
    targets: &[ReplicaTarget],
) -> Result<(), CopyError> {
    let store = node.store()?;
    if stage == WriteStage::TransferRbw {
        // The node that joins gets all that was acknowledged, flushed or not.
        store
            .flush_open(id)
            .await
            .map_err(|error| fault_of(&error))?;
    }
    let info = store
        .get(id)
        .ok_or_else(|| fault_of(&StoreError::NotFound { id }))?;
    let here = info.block.generation_stamp;
    let raised = stage == WriteStage::TransferRbw && info.state == ReplicaState::Rbw;
    if here < stamp || here > stamp && !raised {
        let message = format!(
            "the replica here is {}, stamp {stamp} was asked for",
            info.block
        );
        return Err(Fault::new(FaultClass::StaleReplica, message).into());
    }
    let fits = match stage {
        WriteStage::Copy | WriteStage::Replace { .. } => info.state == ReplicaState::Finalized,
        _ => matches!(info.state, ReplicaState::Finalized | ReplicaState::Rbw),
    };
    if !fits {
        let error = StoreError::NotReadable {
            id,
            state: info.state,
        };
        return Err(fault_of(&error).into());
    }
    let block = Block {
        length: info.visible_length,
        ..info.block
    };
    match send(node, block, info.bytes_per_checksum, stage, targets).await {
        Ok(()) => Ok(()),
        Err(Broken::Source(error)) => {
            if matches!(error, StoreError::Corrupt { .. }) {
                node.report_bad(info.block, info.storage);
            } else {
                node.check_replica(id).await;
            }
            Err(fault_of(&error).into())
        }
        Err(Broken::Refused(fault)) => {
            node.check_replica(id).await;
            let target = Some(0);
            Err(CopyError { fault, target })
        }
        Err(Broken::Target(index, fault)) => Err(CopyError {
            fault,
            target: Some(index),
        }),
        Err(Broken::Here(fault)) => Err(fault.into()),
    }
}

/// Sends a replica along. A kept connection may lead to a process that is gone, its successor resets it: what breaks with
/// it is tried once more on a connection of its own.
async fn send<E: Env>(
    node: &Rc<Node<E>>,
    block: Block,
    bytes_per_checksum: u32,
    stage: WriteStage,
    targets: &[ReplicaTarget],
) -> Result<(), Broken> {
    let first = targets.first().and_then(|it| it.address_for(block.id));
    let kept = |node: &Node<E>| first.is_some_and(|address| node.peers.keeps(address));
    let was_kept = kept(node);
    match send_once(node, block, bytes_per_checksum, stage, targets).await {
        Err(Broken::Target(0, fault))
            if was_kept && !kept(node) && fault.class == FaultClass::Retry =>
        {
            tracing::debug!("copying {block} once more: {}", fault.message);
            send_once(node, block, bytes_per_checksum, stage, targets).await
        }
        outcome => outcome,
    }
}

async fn send_once<E: Env>(
    node: &Rc<Node<E>>,
    block: Block,
    bytes_per_checksum: u32,
    stage: WriteStage,
    targets: &[ReplicaTarget],
) -> Result<(), Broken> {
    let lost = |error: hadal_env::NetError| Broken::lost(error.to_string());
    let (first, rest) = targets
        .split_first()
        .ok_or_else(|| Broken::Here(Fault::new(FaultClass::BadRequest, "a copy needs a target")))?;
    let address = first.address_for(block.id).ok_or_else(|| {
        let message = format!("{} has the malformed address {}", first.name, first.address);
        Broken::Target(0, Fault::new(FaultClass::BadRequest, message))
    })?;
    let pool = node
        .service
        .borrow()
        .info()
        .map(|info| info.block_pool_id.clone());
    let header = WriteBlock {
        pool: pool.unwrap_or_default(),
        block: Block { length: 0, ..block },
        stage,
        storage: first.storage,
        targets: rest.to_vec(),
        bytes_per_checksum,
        client: ClientId(0),
        sync_on_close: true,
        expected_length: block.length,
        token: Default::default(),
    };
    let expect = Expect::node(Role::Datanode, first.name.clone());
    let dial = async {
        let conn = node.peers.connect(address, &expect).await?;
        open_append(
            &conn,
            TransferProtocol::ID,
            TransferProtocol::VERSION,
            &header,
        )
        .await
    };
    let timeout_ms = node.config.stream_timeout_ms;
    let opened = node.within(timeout_ms, dial).await;
    let silent = || Broken::lost(format!("{} does not answer", first.name));
    let (mut sender, mut acks) = opened.ok_or_else(silent)?.map_err(lost)?;
    let mut reader = node
        .store()
        .map_err(Broken::Here)?
        .open_reader(block.id, block.generation_stamp, 0, block.length)
        .await
        .map_err(Broken::Source)?;
    let last = match stream(node, stage, &mut sender, &mut reader, block.length).await {
        Ok(last) => last,
        Err(Broken::Source(error)) => {
            sender.reset(0);
            return Err(Broken::Source(error));
        }
        // The target may have said why before it closed.
        Err(broken) => return Err(last_word(node, &mut acks).await.unwrap_or(broken)),
    };
    loop {
        let ack = node.within(timeout_ms, acks.next()).await;
        let silent = || Broken::lost(format!("{} does not acknowledge", first.name));
        match ack.ok_or_else(silent)?.map_err(lost)? {
            None => return Err(Broken::lost("the target ended the stream")),
            Some(ack) => {
                if let Some(broken) = refusal(&ack) {
                    return Err(broken);
                }
                if ack.sequence != u64::MAX && ack.sequence >= last {
                    return Ok(());
                }
            }
        }
    }
}

/// Sends all bytes; the sequence of the last frame.
async fn stream<E: Env, C: Conn>(
    node: &Node<E>,
    stage: WriteStage,
    sender: &mut AppendSender<C>,
    reader: &mut ReplicaReader<E::Disk>,
    length: u64,
) -> Result<u64, Broken> {
    let lost = |error: hadal_env::NetError| Broken::lost(error.to_string());
    loop {
        let part = node.within(node.work_timeout_ms(), reader.next_verified());
        let part = part
            .await
            .ok_or_else(|| Broken::Here(node.busy("a copy")))?;
        let Some(part) = part.map_err(Broken::Source)? else {
            break;
        };
        if matches!(stage, WriteStage::Replace { .. }) {
            node.pay(part.data.len() as u64).await;
        }
        let mut data = [part.data];
        let sent = sender.send(FrameKind::Data, 0, part.offset, part.checksums, &mut data);
        match node.within(node.send_timeout_ms(), sent).await {
            Some(sent) => sent.map_err(lost)?,
            None => return Err(Broken::lost("the target takes nothing")),
        };
    }
    let last = sender
        .send(FrameKind::Finish, 0, length, Bytes::new(), &mut [])
        .await
        .map_err(lost)?;
    sender.finish();
    Ok(last)
}

/// What an acknowledgement says against the copy. The first node's verdict on the bytes is about ours; what nodes
/// behind it say is about theirs.
fn refusal(ack: &Ack) -> Option<Broken> {
    let fault = ack.fault.clone()?;
    if fault.class == FaultClass::Corrupt && ack.bad_node == 0 {
        return Some(Broken::Refused(fault));
    }
    let index = usize::from(ack.bad_node);
    Some(Broken::Target(index, fault))
}

/// The fault the target sent before the stream broke, if it did.
async fn last_word<E: Env, C: Conn>(
    node: &Rc<Node<E>>,
    acks: &mut AckReceiver<C>,
) -> Option<Broken> {
    let read = async {
        while let Ok(Some(ack)) = acks.next().await {
            if let Some(broken) = refusal(&ack) {
                return Some(broken);
            }
        }
        None
    };
    node.within(node.config.stream_timeout_ms, read)
        .await
        .flatten()
}
