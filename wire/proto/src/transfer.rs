//! What is said to DataNodes: headers of block streams, and the small calls beside them.

use crate::client::{BlockToken, ReplicaTarget};
use crate::protocol::{Protocol, ProtocolId};
use crate::{wire_enum, wire_struct};
use alloc::string::String;
use alloc::vec::Vec;
use hadal_types::{
    Block, BlockId, BlockPoolId, ClientId, DatanodeUuid, GenerationStamp, ReplicaState, StorageUuid,
};

/// The protocol towards DataNodes.
pub struct TransferProtocol;

impl Protocol for TransferProtocol {
    const ID: ProtocolId = ProtocolId::Transfer;
    const VERSION: u16 = 1;
    type Request = Request;
    type Response = Response;
}

/// A kept connection over which nothing was heard for so long may lead to a process that is gone: one that was killed and
/// started again answers it, but not before it is used. Whoever sets a pipeline up over it waits for the answer first.
pub const CONNECTION_TRUSTED_MS: u64 = 1_000;

/// How long one side of a pipeline waits for the next acknowledgement of `nodes_behind` nodes: the nearer a node is to
/// the one that stalls, the sooner it gives up, so that the right one is blamed (HDFS: 5 s more per node on 60 s).
#[must_use]
pub fn ack_timeout_ms(stream_timeout_ms: u64, nodes_behind: usize) -> u64 {
    let more = (stream_timeout_ms / 12).saturating_mul(nodes_behind as u64);
    stream_timeout_ms.saturating_add(more)
}

wire_struct! {
    /// Header of an append stream to a DataNode: a block is coming. Frames are
    /// [`crate::frame::AppendFrame`]s whose `aux` is one little-endian CRC32C per chunk and whose payload is the
    /// data; every node verifies, stores, and forwards the same bytes to the next target. The first
    /// [`crate::frame::Ack`] (sequence `u64::MAX`, before any frame is acknowledged) says that the whole pipeline
    /// is set up, or which node is at fault. The next acks are cumulative over the whole pipeline.
    pub struct WriteBlock {
        /// Which pool.
        pub pool: BlockPoolId,
        /// Id and stamp; `length` is the bytes the replica holds already (recovery stages), else 0.
        pub block: Block,
        /// What kind of set-up.
        pub stage: WriteStage,
        /// Storage to use at the receiver.
        pub storage: StorageUuid,
        /// The rest of the pipeline, next first.
        pub targets: Vec<ReplicaTarget>,
        /// Data bytes per checksum.
        pub bytes_per_checksum: u32,
        /// Who writes; zero for DataNode copies.
        pub client: ClientId,
        /// Finished replicas must be durable before the last ack (default true; HDFS `synconclose`).
        pub sync_on_close: bool,
        /// Block size of the file: room to reserve.
        pub expected_length: u64,
        /// Right to write.
        pub token: BlockToken,
    }
}

wire_enum! {
    /// Why a pipeline is set up.
    #[derive(Copy)]
    pub enum WriteStage {
        /// A new block.
        0 => Create,
        /// A finalised block reopened (append); the stamp is the new one, `old` the one on disk, `block.length` the
        /// length on disk. Frames go on from there; the first may repeat bytes from a chunk's start.
        1 => Append { old: GenerationStamp },
        /// A pipeline that failed while streaming goes on: replicas are RBW under `old`, all hold at least
        /// `acked` bytes and are cut back to it.
        2 => StreamingRecovery { old: GenerationStamp, acked: u64 },
        /// A pipeline that failed while closing: finalise under the new stamp at this length. No frame follows; the
        /// first acknowledgement says that every node has done it.
        3 => CloseRecovery { old: GenerationStamp, length: u64 },
        /// A copy between DataNodes: the replica is TEMPORARY until finished.
        4 => Copy,
        /// Bytes for a node that joins a running pipeline: the replica becomes RBW when finished.
        5 => TransferRbw,
        /// An append whose set-up failed is set up again with a newer stamp: replicas are FINALIZED under `old`, or
        /// RBW under a stamp since then, all of `block.length` bytes.
        6 => AppendRecovery { old: GenerationStamp },
        /// A copy that the balancer asked for, at the rate of the balancing bandwidth: once it is there, the replica of
        /// `delete_hint` is the one too many.
        7 => Replace { delete_hint: DatanodeUuid },
    }
}

wire_struct! {
    /// Header of a read stream. The answer is `{length u32, ReadReply}`, then Data frames (`aux` = checksums) and
    /// a Finish or Abort frame.
    pub struct ReadBlock {
        /// Which pool.
        pub pool: BlockPoolId,
        /// Id and the lowest stamp accepted.
        pub block: Block,
        /// First byte wanted.
        pub offset: u64,
        /// How many.
        pub length: u64,
        /// Right to read.
        pub token: BlockToken,
    }
}

wire_struct! {
    /// What precedes the data of a read.
    pub struct ReadReply {
        /// Data bytes per checksum.
        pub bytes_per_checksum: u32,
        /// Where the first frame starts: the chunk boundary at or below the offset asked.
        pub start: u64,
        /// Where the last frame ends: past the range asked up to a chunk boundary or the end of the replica.
        pub end: u64,
        /// Visible length of the replica.
        pub visible_length: u64,
    }
}

wire_enum! {
    /// Small calls to a DataNode.
    pub enum Request {
        /// Bytes of a replica a reader may see (F-08).
        0 => GetVisibleLength { pool: BlockPoolId, block: Block, token: BlockToken },
        /// Joins a block recovery (E-18): freezes the replica under a recovery id.
        1 => InitReplicaRecovery { pool: BlockPoolId, block: Block, recovery_id: GenerationStamp },
        /// Ends it: new stamp and length.
        2 => UpdateReplica {
            pool: BlockPoolId,
            block: Block,
            recovery_id: GenerationStamp,
            new_id: BlockId,
            new_length: u64,
        },
        /// Checksum over a replica's chunk checksums, for `-checksum`.
        3 => GetBlockChecksum { pool: BlockPoolId, block: Block, token: BlockToken },
        /// Copy the bytes of an open replica to a node that joins its pipeline.
        4 => TransferReplica { pool: BlockPoolId, block: Block, targets: Vec<ReplicaTarget>, token: BlockToken },
        /// The balancer: give `target` a copy of a FINALIZED replica, which takes the place of the one of `delete_hint`
        /// (HDFS's replaceBlock and copyBlock in one). Answered when the target has it. Nothing is deleted by this: the
        /// NameNode hears of the copy and the hint, and decides. `Busy` when the balancer has too many copies running.
        5 => ReplaceBlock {
            pool: BlockPoolId,
            block: Block,
            target: ReplicaTarget,
            delete_hint: DatanodeUuid,
            token: BlockToken,
        },
        /// A way to the file of a finished replica, for a reader on the DataNode's own host (protocols.md section 5).
        6 => OpenLocal { pool: BlockPoolId, block: Block, token: BlockToken },
    }
}

wire_enum! {
    /// Answers of a DataNode.
    pub enum Response {
        /// To GetVisibleLength.
        0 => VisibleLength { length: u64 },
        /// To InitReplicaRecovery; `None` when there is no such replica.
        1 => ReplicaInfo { info: Option<ReplicaInfo> },
        /// To UpdateReplica.
        2 => Updated { storage: StorageUuid },
        /// To GetBlockChecksum: CRC32C over the little-endian chunk checksums.
        3 => Checksum { crc: u32, bytes_per_checksum: u32, length: u64 },
        /// To TransferReplica and ReplaceBlock.
        4 => Done,
        /// To OpenLocal.
        5 => Local { local: LocalReplica },
    }
}

wire_struct! {
    /// How a reader on the DataNode's own host gets at a finished replica in a file of its own, and how that file is
    /// laid out.
    ///
    /// The reader connects to the Unix socket `socket` (a name in Linux's abstract namespace), writes `ticket`
    /// (sixteen bytes, little-endian) and receives one byte with a read-only descriptor; a ticket is good for one
    /// descriptor and some seconds. The right to read was checked when it was asked for.
    ///
    /// The first `whole` bytes of the block lie in groups of `group` bytes (the last may be shorter), group `g` at
    /// `first_group + g * (head + group)`: a head of `head` bytes that begins with a little-endian CRC32C per chunk,
    /// then the data. What is behind them is a tail record of its own at `tail`: a page of 4096 bytes with the
    /// checksums from byte 64 on, then the data. A stored checksum is xored with [`hadal_types::chunk_salt`].
    pub struct LocalReplica {
        /// Name of the socket.
        pub socket: String,
        /// What to show there.
        pub ticket: u128,
        /// Length and stamp of the replica.
        pub block: Block,
        /// Data bytes per checksum.
        pub bytes_per_checksum: u32,
        /// Bytes of the block in groups.
        pub whole: u64,
        /// File offset of the first group.
        pub first_group: u64,
        /// Bytes of a group's head.
        pub head: u32,
        /// Data bytes of a group.
        pub group: u32,
        /// File offset of the tail record; unused when `whole` is all.
        pub tail: u64,
        /// Whether to read through the page cache: readers opened this replica lately, so its bytes are worth keeping in
        /// memory. Otherwise they are read past it (`O_DIRECT`), where the file system can. Advice: the bytes are the
        /// same either way. All offsets above are multiples of 4096 for that.
        pub cached: bool,
    }
}

wire_struct! {
    /// A replica as block recovery sees it.
    pub struct ReplicaInfo {
        /// Id, stamp, length on disk.
        pub block: Block,
        /// State before recovery began.
        pub state: ReplicaState,
        /// Where.
        pub storage: StorageUuid,
    }
}
