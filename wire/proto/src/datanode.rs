//! DatanodeProtocol: registration, heartbeats, reports and the commands that come back (seed A).

use crate::client::{BadReplica, ReplicaTarget};
use crate::protocol::{Protocol, ProtocolId};
use crate::{wire_enum, wire_struct};
use alloc::string::String;
use alloc::vec::Vec;
use bytes::Bytes;
use hadal_types::{
    Block, BlockId, DatanodeUuid, Digest, Epoch, GenerationStamp, HaState, LayoutVersion,
    NamespaceInfo, ReplicaState, StorageUuid, TxId,
};

/// Most replicas in one block report call; a larger storage sends several parts.
pub const REPORT_PART_MAX: usize = 250_000;

/// The protocol between DataNodes and NameNodes.
pub struct DatanodeProtocol;

impl Protocol for DatanodeProtocol {
    const ID: ProtocolId = ProtocolId::Datanode;
    const VERSION: u16 = 1;
    type Request = Request;
    type Response = Response;
}

wire_enum! {
    /// What a DataNode says.
    pub enum Request {
        /// Phase 1 of the handshake.
        0 => VersionRequest,
        /// Phase 2.
        1 => Register { registration: Registration },
        /// Alive, and how full.
        2 => Heartbeat { heartbeat: Heartbeat },
        /// A part of a full report of one storage.
        3 => BlockReport { report: BlockReport },
        /// What changed since the last one; acknowledged by its sequence.
        4 => IncrementalReport { report: IncrementalReport },
        /// Corrupt replicas.
        5 => ReportBadBlocks { blocks: Vec<BadReplica> },
        /// Something an operator should see.
        6 => ErrorReport { code: u16, message: String },
        /// Result of a block recovery (E-18).
        7 => CommitBlockSynchronization {
            block: BlockId,
            /// Stamp of the recovery.
            recovery_id: GenerationStamp,
            length: u64,
            /// The replicas that took part and agree.
            nodes: Vec<ReplicaTarget>,
            /// Nothing was recoverable: drop the block.
            delete: bool,
        },
        /// A copy ordered by [`Action::Transfer`] failed and is not tried again here: another source or other targets
        /// are chosen now instead of after a time-out. A replica whose own bytes are bad is told by `ReportBadBlocks`,
        /// before this.
        8 => TransferFailed {
            /// Who was to copy.
            uuid: DatanodeUuid,
            /// Which replica.
            block: Block,
            /// The first target of the pipeline that could not be reached or refused; zero when the source itself is
            /// to blame (no such replica, unreadable, bad checksum).
            target: DatanodeUuid,
        },
        /// One round of a digest report of one storage (protocols.md section 4).
        9 => DigestReport { report: DigestReport },
    }
}

wire_enum! {
    /// What a NameNode answers to a DataNode.
    pub enum Response {
        /// To VersionRequest (the HA state too: T-D9).
        0 => Version { info: NamespaceInfo, software: String, claim: Claim },
        /// To Register.
        1 => Registered { info: NamespaceInfo },
        /// To Heartbeat.
        2 => Heartbeat {
            claim: Claim,
            /// Each runs only if its epoch equals the acknowledged one.
            commands: Vec<Command>,
            /// A full report of this storage may be sent now.
            report_slot: Option<StorageUuid>,
        },
        /// To reports.
        3 => Reported {
            /// Sequence of the incremental report now applied or queued.
            sequence: u64,
            claim: Claim,
            commands: Vec<Command>,
        },
        /// To the rest.
        4 => Done,
        /// To DigestReport.
        5 => Digest {
            /// Sequence of the incremental report now applied or queued.
            sequence: u64,
            claim: Claim,
            /// What to send next in the slot this report has; nothing: the report is complete.
            ask: Option<DigestAsk>,
        },
    }
}

wire_struct! {
    /// What a NameNode claims to be: DataNodes follow (epoch, txid), epoch first (protocols.md section 2).
    pub struct Claim {
        /// Its role.
        pub state: HaState,
        /// The epoch it writes in; zero for a standby.
        pub epoch: Epoch,
        /// Last committed txid it knows.
        pub txid: TxId,
    }
}

wire_struct! {
    /// A DataNode introduces itself.
    pub struct Registration {
        /// Lasting identity.
        pub uuid: DatanodeUuid,
        /// Node id, as in its certificate.
        pub name: String,
        /// Address of shard 0 as `ip:port`.
        pub address: String,
        /// Address of its HTTP door.
        pub http_address: String,
        /// How many shards, on consecutive ports.
        pub shards: u16,
        /// Rack, `/default-rack` unless configured.
        pub rack: String,
        /// Layout of its data.
        pub layout: LayoutVersion,
        /// What phase 1 returned.
        pub info: NamespaceInfo,
        /// Software version, for `-report`.
        pub software: String,
        /// Its storages.
        pub storages: Vec<StorageReport>,
    }
}

wire_struct! {
    /// One storage in numbers; bytes.
    #[derive(Default)]
    pub struct StorageReport {
        /// Which.
        pub storage: StorageUuid,
        /// Its disk failed.
        pub failed: bool,
        /// Of its file system.
        pub capacity: u64,
        /// By Hadal.
        pub used: u64,
        /// Usable.
        pub remaining: u64,
        /// By this block pool.
        pub pool_used: u64,
        /// Replicas in it.
        pub blocks: u64,
    }
}

wire_struct! {
    /// A heartbeat.
    pub struct Heartbeat {
        /// Who.
        pub uuid: DatanodeUuid,
        /// Per storage.
        pub storages: Vec<StorageReport>,
        /// Transfers in progress.
        pub transfers: u32,
        /// Open block streams.
        pub streams: u32,
        /// Volumes lost since start.
        pub failed_volumes: u32,
        /// The epoch this DataNode acknowledges, zero for none.
        pub acknowledged: Epoch,
        /// Wants to send a full report of these storages.
        pub wants_report: Vec<StorageUuid>,
        /// Highest command sequence executed of that epoch.
        pub executed: u64,
    }
}

wire_struct! {
    /// A part of a full report of one storage, sorted by `mix(block id)`; FINALIZED replicas as packed entries,
    /// open ones listed.
    pub struct BlockReport {
        /// Who.
        pub uuid: DatanodeUuid,
        /// Which storage.
        pub storage: StorageUuid,
        /// Counts this DataNode's full reports; all parts of one share it.
        pub report_id: u64,
        /// This part, from 0.
        pub part: u32,
        /// Parts in all.
        pub parts: u32,
        /// Incremental report sequence this report includes.
        pub includes: u64,
        /// Epoch acknowledged when it was made (ends content-stale only if it is the receiver's).
        pub acknowledged: Epoch,
        /// FINALIZED replicas: 24 bytes each, little-endian `{id u64, generation stamp u64, length u64}`, read in
        /// place ([`ReportEntries`]).
        pub finalized: Bytes,
        /// RBW and RWR replicas; only in the last part.
        pub open: Vec<OpenReplica>,
    }
}

wire_struct! {
    /// One round of a digest report: what the NameNode asked for, made when every change before it had been sent, and sent
    /// behind those changes on the same stream. The digests are those of [`hadal_types::DigestTree`].
    pub struct DigestReport {
        /// Who.
        pub uuid: DatanodeUuid,
        /// Which storage.
        pub storage: StorageUuid,
        /// Counts this DataNode's reports, full and digest ones; all rounds of one share it.
        pub report_id: u64,
        /// Incremental report sequence this round includes.
        pub includes: u64,
        /// Epoch acknowledged when this round was made.
        pub acknowledged: Epoch,
        /// What is told.
        pub round: DigestRound,
        /// Every replica of the storage that is RBW, RWR or RUR; in the first round and with the last replicas.
        pub open: Vec<OpenReplica>,
    }
}

wire_enum! {
    /// What a round tells of the tree over a storage's FINALIZED replicas.
    pub enum DigestRound {
        /// How many there are, and the root: the first round.
        0 => Root { replicas: u64, digest: Digest },
        /// The [`hadal_types::DIGEST_FAN_OUT`] children of the root.
        1 => Nodes { digests: Vec<Digest> },
        /// The leaves below the children asked for: [`hadal_types::DIGEST_FAN_OUT`] each, in order.
        2 => Leaves { of: Vec<u16>, digests: Vec<Digest> },
        /// The replicas in some of the leaves asked for, which rise: packed and sorted as in a full report.
        3 => Replicas { leaves: Vec<u16>, finalized: Bytes },
    }
}

wire_enum! {
    /// What a NameNode wants to know of a storage whose digest is not the one it has itself.
    pub enum DigestAsk {
        /// The children of the root.
        0 => Nodes,
        /// The leaves below these children of the root, which rise.
        1 => Leaves { of: Vec<u16> },
        /// The replicas in these leaves, which rise.
        2 => Replicas { leaves: Vec<u16> },
        /// Everything: too much differs, or nothing is known. A full report, in the same slot.
        3 => Full,
    }
}

wire_struct! {
    /// A replica that is not FINALIZED.
    pub struct OpenReplica {
        /// Id, stamp and length on disk.
        pub block: Block,
        /// RBW, RWR or RUR.
        pub state: ReplicaState,
    }
}

wire_struct! {
    /// What changed on this DataNode, batched per turn of its loop.
    pub struct IncrementalReport {
        /// Who.
        pub uuid: DatanodeUuid,
        /// Counts from 1 per registration; acknowledged cumulatively.
        pub sequence: u64,
        /// In order.
        pub changes: Vec<ReplicaChange>,
    }
}

wire_struct! {
    /// One change of one replica.
    pub struct ReplicaChange {
        /// Where.
        pub storage: StorageUuid,
        /// Id, stamp, length.
        pub block: Block,
        /// What happened.
        pub kind: ChangeKind,
        /// DataNode whose replica goes first if the block is now over-replicated; zero for none.
        pub delete_hint: DatanodeUuid,
    }
}

wire_enum! {
    /// The kinds of incremental change.
    #[derive(Copy)]
    pub enum ChangeKind {
        /// RBW opened.
        0 => Receiving,
        /// FINALIZED.
        1 => Received,
        /// Gone.
        2 => Deleted,
    }
}

wire_struct! {
    /// An order to a DataNode. It runs only if `epoch` is the one the DataNode acknowledges, at most once and in
    /// order of `sequence` (one count per epoch and DataNode).
    pub struct Command {
        /// Epoch of the NameNode that sends it.
        pub epoch: Epoch,
        /// Counts from 1.
        pub sequence: u64,
        /// What to do.
        pub action: Action,
    }
}

wire_enum! {
    /// What a DataNode can be told.
    pub enum Action {
        /// Copy these replicas to other DataNodes.
        0 => Transfer { work: Vec<TransferWork> },
        /// Delete these replicas.
        1 => Invalidate { blocks: Vec<Block> },
        /// Recover these blocks as primary (E-18).
        2 => RecoverBlock { work: Vec<RecoveryWork> },
        /// Register again; obeyed from any NameNode.
        3 => Register,
        /// Send a full report.
        4 => ReportNow,
        /// New block token keys.
        5 => AccessKeyUpdate { keys: Bytes },
        /// Bytes per second for balancing.
        6 => BalancerBandwidth { bytes_per_s: u64 },
        /// Unsupported, as in HDFS.
        7 => Shutdown,
    }
}

wire_struct! {
    /// One replica to copy.
    pub struct TransferWork {
        /// Which.
        pub block: Block,
        /// To whom, as a pipeline.
        pub targets: Vec<ReplicaTarget>,
    }
}

wire_struct! {
    /// One block to recover (E-18, E-19). The primary asks every location for its replica, decides the length, brings
    /// all participants to (`recovery_id`, length) and reports CommitBlockSynchronization.
    pub struct RecoveryWork {
        /// The block as the NameNode knows it: replicas of an older stamp do not take part; its length is a lower
        /// bound (for truncate: the length wanted).
        pub block: Block,
        /// Its new stamp. A replica under recovery by a lower id is taken over, one under a higher id refuses.
        pub recovery_id: GenerationStamp,
        /// DataNodes that may have a replica, the primary itself among them.
        pub locations: Vec<ReplicaTarget>,
        /// For truncate: the length every participant is cut to, in place. Replicas shorter than this do not take
        /// part. CommitBlockSynchronization must carry exactly this length.
        pub truncate_to: Option<u64>,
    }
}

/// Packed FINALIZED entries of a report, read in place.
#[derive(Clone, Debug)]
pub struct ReportEntries(Bytes);

impl ReportEntries {
    /// Bytes per entry.
    pub const ENTRY_LEN: usize = 24;

    /// Checks that the bytes are whole entries.
    #[must_use]
    pub fn new(bytes: Bytes) -> Option<Self> {
        bytes
            .len()
            .is_multiple_of(Self::ENTRY_LEN)
            .then_some(Self(bytes))
    }

    /// How many entries.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len() / Self::ENTRY_LEN
    }

    /// None at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The entries in order.
    pub fn iter(&self) -> impl Iterator<Item = Block> + '_ {
        self.0.chunks_exact(Self::ENTRY_LEN).map(|entry| {
            let word = |at: usize| {
                u64::from_le_bytes(
                    entry[at..at + 8]
                        .try_into()
                        .expect("a slice of eight bytes"),
                )
            };
            Block {
                id: BlockId(word(0)),
                generation_stamp: GenerationStamp(word(8)),
                length: word(16),
            }
        })
    }

    /// Packs one entry.
    pub fn push(out: &mut Vec<u8>, block: &Block) {
        out.extend_from_slice(&block.id.0.to_le_bytes());
        out.extend_from_slice(&block.generation_stamp.0.to_le_bytes());
        out.extend_from_slice(&block.length.to_le_bytes());
    }
}
