//! AdminProtocol: what operators and black-box tests ask of any node (cli.md sections 1 and 4).

use crate::client::{FsStats, ReplicaTarget};
use crate::datanode::StorageReport;
use crate::protocol::{Protocol, ProtocolId};
use crate::{wire_enum, wire_struct};
use alloc::string::String;
use alloc::vec::Vec;
use hadal_types::{
    Block, DatanodeUuid, Epoch, HaState, NamespaceInfo, ReplicaState, StorageUuid, TxId,
};

/// The protocol between operators and nodes.
pub struct AdminProtocol;

impl Protocol for AdminProtocol {
    const ID: ProtocolId = ProtocolId::Admin;
    const VERSION: u16 = 1;
    type Request = Request;
    type Response = Response;
}

wire_enum! {
    /// What an operator may ask. Which node answers which is said per variant; others answer `Unsupported`.
    pub enum Request {
        /// Any node: is it up, and in which role and state.
        0 => GetStatus,
        /// NameNode: safe mode.
        1 => SafeMode { action: SafeModeAction },
        /// NameNode: write an image now (in safe mode only).
        2 => SaveNamespace,
        /// NameNode: finish the segment and start another.
        3 => RollEdits,
        /// NameNode: DataNodes in detail.
        4 => DatanodeReport,
        /// NameNode: read include and exclude files again.
        5 => RefreshNodes,
        /// NameNode: numbers for tests.
        6 => NamenodeStats,
        /// NameNode: digest of the tree and the txid it is at.
        7 => NamespaceDigest,
        /// JournalNode: segments and epochs.
        8 => JournalStats,
        /// DataNode: its replicas, a page after a block id.
        9 => Replicas { after: u64, limit: u32 },
        /// DataNode: full report to all NameNodes now.
        10 => TriggerBlockReport,
        /// DataNode: heartbeat now.
        11 => TriggerHeartbeat,
        /// NameNode: become active or standby (manual mode).
        12 => Transition { to: HaState, force: bool },
        /// NameNode: hand over to a peer.
        13 => Failover { to: String, force_fence: bool, force_active: bool },
        /// NameNode: health, with the reason when it is bad.
        14 => CheckHealth,
        /// DataNode: read the list of NameNodes again, serve new ones and leave those that are gone (A-03, T-D10).
        15 => RefreshNamenodes,
        /// NameNode: every live DataNode spends at most so many bytes per second on balancing, until it is restarted.
        16 => SetBalancerBandwidth { bytes_per_s: u64 },
        /// DataNode: what it may spend.
        17 => GetBalancerBandwidth,
        /// NameNode: blocks the balancer may move away from a DataNode, a page.
        18 => GetBlocks {
            datanode: DatanodeUuid,
            /// Where the page before ended; `None` for the first.
            after: Option<u64>,
            /// No smaller ones.
            min_bytes: u64,
            /// Most blocks wanted; the NameNode caps it at 1000.
            limit: u32,
        },
        /// DataNode: end. With `for_upgrade` writers are told that it comes back, and what it has of open blocks goes on
        /// as it was when it does so soon.
        19 => ShutdownDatanode { for_upgrade: bool },
        /// DataNode: have all who write through it go on without it.
        20 => EvictWriters,
    }
}

wire_enum! {
    /// What to do about safe mode.
    #[derive(Copy)]
    pub enum SafeModeAction {
        /// Ask.
        0 => Get,
        /// Enter by hand; only a manual leave ends it.
        1 => Enter,
        /// Leave.
        2 => Leave,
    }
}

wire_enum! {
    /// Answers to operators.
    pub enum Response {
        /// Done.
        0 => Done,
        /// To GetStatus.
        1 => Status { status: NodeStatus },
        /// To SafeMode: on or off, and why.
        2 => SafeMode { on: bool, message: String },
        /// To SaveNamespace and RollEdits: the image's or the new segment's txid.
        3 => AtTxid { txid: TxId },
        /// To DatanodeReport.
        4 => Datanodes { stats: FsStats, nodes: Vec<DatanodeStatus> },
        /// To NamenodeStats.
        5 => NamenodeStats { stats: NamenodeStats },
        /// To NamespaceDigest.
        6 => Digest { txid: TxId, digest: [u8; 16] },
        /// To JournalStats.
        7 => JournalStats { stats: JournalStats },
        /// To Replicas.
        8 => Replicas { replicas: Vec<ReplicaStatus>, more: bool },
        /// To CheckHealth.
        9 => Health { healthy: bool, reason: String },
        /// To GetBalancerBandwidth.
        10 => BalancerBandwidth { bytes_per_s: u64 },
        /// To GetBlocks.
        11 => Blocks { page: BlocksPage },
    }
}

wire_struct! {
    /// A node in one line.
    pub struct NodeStatus {
        /// Node id.
        pub name: String,
        /// Role word.
        pub role: String,
        /// For NameNodes.
        pub state: HaState,
        /// Start-up or safe mode still on.
        pub safe_mode: bool,
        /// Whose data it holds.
        pub info: NamespaceInfo,
        /// Software version.
        pub software: String,
    }
}

wire_struct! {
    /// Blocks with a good replica on one DataNode that have just as many as they want, all of them known for sure.
    #[derive(Default)]
    pub struct BlocksPage {
        /// Everywhere the blocks below are.
        pub holders: Vec<ReplicaTarget>,
        /// The blocks.
        pub blocks: Vec<HeldBy>,
        /// Where the next page goes on; `None` behind the last.
        pub next: Option<u64>,
    }
}

wire_struct! {
    /// A block and who has it.
    pub struct HeldBy {
        /// Which.
        pub block: Block,
        /// Indices into the page's holders.
        pub holders: Vec<u32>,
    }
}

wire_struct! {
    /// A DataNode as its NameNode sees it.
    pub struct DatanodeStatus {
        /// Identity.
        pub uuid: DatanodeUuid,
        /// Node id.
        pub name: String,
        /// Address of shard 0.
        pub address: String,
        /// HTTP door.
        pub http_address: String,
        /// Rack.
        pub rack: String,
        /// Live, stale or dead, decommissioning, ...
        pub state: String,
        /// Milliseconds since its last heartbeat.
        pub last_contact_ms: u64,
        /// Open block streams.
        pub streams: u32,
        /// Lost volumes.
        pub failed_volumes: u32,
        /// Storages.
        pub storages: Vec<StorageReport>,
        /// Software version.
        pub software: String,
        /// Of one that leaves and cannot yet: examples of what holds it up, one line each.
        pub held_up: Vec<String>,
        /// How many shards it has.
        pub shards: u16,
    }
}

wire_struct! {
    /// `debug nn-stats`.
    #[derive(Default)]
    pub struct NamenodeStats {
        /// Active, standby ... as a word.
        pub state: String,
        /// Epoch it writes in.
        pub epoch: Epoch,
        /// In safe mode.
        pub safe_mode: bool,
        /// Blocks counted safe.
        pub safe_blocks: u64,
        /// Complete blocks.
        pub total_blocks: u64,
        /// Below their replication.
        pub under_replicated: u64,
        /// With a corrupt replica.
        pub corrupt: u64,
        /// Without a good replica.
        pub missing: u64,
        /// Copies under way.
        pub pending_replication: u64,
        /// Over-replicated but held back until reports are fresh.
        pub postponed: u64,
        /// Replicas to delete.
        pub pending_deletion: u64,
        /// DataNode messages waiting for edits.
        pub pending_datanode_messages: u64,
        /// Files and directories.
        pub inodes: u64,
        /// Open files.
        pub open_files: u64,
        /// Last edit handed to the journal.
        pub last_written: TxId,
        /// Last edit applied.
        pub last_applied: TxId,
        /// Last edit known durable at a majority.
        pub committed: TxId,
        /// Txid of the newest image.
        pub last_checkpoint: TxId,
        /// Live DataNodes.
        pub live_datanodes: u64,
        /// Per JournalNode: id and how many txids behind; `u64::MAX` for "never written" (T-N4).
        pub journal_lag: Vec<JournalLag>,
        /// Of a standby or observer: edits it knows to be committed and has not applied.
        pub behind_txids: u64,
        /// For how long it has been behind what it knows to be committed, in milliseconds; 0 when it is not.
        pub behind_ms: u64,
        /// Images and uploads of this process that were given up because it became active (C-06, T-C4).
        pub checkpoints_cancelled: u64,
    }
}

wire_struct! {
    /// How far a JournalNode is behind the writer.
    pub struct JournalLag {
        /// Node id.
        pub name: String,
        /// Edits it has not acknowledged; `u64::MAX`: never written.
        pub behind: u64,
    }
}

wire_struct! {
    /// `debug jn-stats`.
    pub struct JournalStats {
        /// Promised epoch.
        pub promised: Epoch,
        /// Epoch of the last segment started.
        pub writer: Epoch,
        /// Highest committed txid known.
        pub committed: TxId,
        /// Does it vote.
        pub learner: bool,
        /// Its segments.
        pub segments: Vec<SegmentStatus>,
    }
}

wire_struct! {
    /// One segment on one JournalNode.
    pub struct SegmentStatus {
        /// First txid.
        pub first: TxId,
        /// Last txid on disk; before `first` when empty.
        pub last: TxId,
        /// Finalised.
        pub finalized: bool,
    }
}

wire_struct! {
    /// `debug dn-replicas`.
    pub struct ReplicaStatus {
        /// Id, stamp, length.
        pub block: Block,
        /// State.
        pub state: ReplicaState,
        /// Where.
        pub storage: StorageUuid,
        /// File that holds it, and where in it, for people and for tests that break things.
        pub file: String,
        /// Byte offset of its data in that file.
        pub file_offset: u64,
    }
}
