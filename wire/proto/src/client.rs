//! ClientProtocol: what users ask of a NameNode.

use crate::protocol::{Protocol, ProtocolId};
use crate::{wire_enum, wire_struct};
use alloc::boxed::Box;
use alloc::string::String;
use alloc::vec::Vec;
use hadal_types::{
    Block, BlockId, BlockPoolId, CallId, ClientId, DatanodeUuid, GenerationStamp, HaState, InodeId,
    StorageUuid, TxId, shard_of,
};

/// Longest path in bytes (HDFS: 8000 characters).
pub const PATH_LEN_MAX: usize = 8000;
/// Longest path component in bytes (HDFS: `dfs.namenode.fs-limits.max-component-length`).
pub const NAME_LEN_MAX: usize = 255;
/// Most path components (HDFS: 1000).
pub const PATH_DEPTH_MAX: usize = 1000;

/// The protocol between clients and NameNodes.
pub struct ClientProtocol;

impl Protocol for ClientProtocol {
    const ID: ProtocolId = ProtocolId::Client;
    const VERSION: u16 = 1;
    type Request = ClientCall;
    type Response = Reply;
}

wire_struct! {
    /// One call. Mutating calls are executed at most once per (client, call): the outcome is kept in the
    /// journaled retry cache (F-06). The user is the name in the caller's certificate.
    pub struct ClientCall {
        /// Which client library instance.
        pub client: ClientId,
        /// Counts that client's calls; the same for every retry of a call.
        pub call: CallId,
        /// Highest txid this client has seen (session consistency on standby reads).
        pub seen: TxId,
        /// A standby or observer may answer, once it has applied `seen` ([`Request::is_standby_read`]); else only the
        /// active does.
        pub from_standby: bool,
        /// What is asked.
        pub request: Request,
    }
}

wire_struct! {
    /// One answer: the txid at which it took effect or was read (the simulator's witness, and the client's
    /// session state), and what it says.
    pub struct Reply {
        /// A mutation's own txid; for a read, the last txid applied when it was evaluated.
        pub txid: TxId,
        /// The answer.
        pub response: Response,
    }
}

wire_enum! {
    /// What a client may ask.
    pub enum Request {
        /// Status of a path; [`Response::FileInfo`] with `None` when there is nothing.
        0 => GetFileInfo { path: String },
        /// One page of a directory (or the file itself) after a name, in name order.
        1 => GetListing {
            path: String,
            /// Name after which to go on; empty for the first page.
            start_after: String,
            /// Most entries wanted; the NameNode caps it at 1000.
            limit: u32,
        },
        /// Counts and sizes below a path.
        2 => GetContentSummary { path: String },
        /// Creates a directory. `true` also when it is there already.
        3 => Mkdirs { path: String, permission: u16, create_parent: bool },
        /// Creates a file and takes its lease; answered by [`Response::Created`].
        4 => Create {
            path: String,
            permission: u16,
            /// Replaces an existing file.
            overwrite: bool,
            create_parent: bool,
            replication: u16,
            /// Bytes per block.
            block_size: u64,
            /// Asks for the first block in the answer, as AddBlock would give it: host name or address of the writer, empty
            /// when unknown. `None`: the file has no block. For writers whose data follow at once: an open block
            /// that was not written has no readable length, and block recovery must look for it.
            first_block: Option<String>,
        },
        /// Allocates the next block of an open file (E-14: commits `previous`).
        5 => AddBlock {
            path: String,
            inode: InodeId,
            /// The block before it with its final length.
            previous: Option<Block>,
            /// DataNodes that just failed this client.
            exclude: Vec<DatanodeUuid>,
            /// Host name or address of the writer, for writer-local placement; empty when unknown.
            writer_host: String,
        },
        /// Gives back a block that could not be written at all.
        6 => AbandonBlock { path: String, inode: InodeId, block: Block },
        /// Closes an open file; `false` means "not yet, ask again" (F-09).
        7 => Complete { path: String, inode: InodeId, last: Option<Block> },
        /// Records the length of the last block of an open file (hsync with update-length).
        8 => Fsync { path: String, inode: InodeId, last_block_length: u64 },
        /// A new generation stamp for a block whose pipeline failed (E-16).
        9 => UpdateBlockForPipeline { path: String, inode: InodeId, block: Block },
        /// The pipeline that goes on under that stamp.
        10 => UpdatePipeline {
            path: String,
            inode: InodeId,
            old: Block,
            /// Same id, new stamp, length acknowledged so far.
            new: Block,
            nodes: Vec<ReplicaTarget>,
        },
        /// A replacement for a failed pipeline node.
        11 => GetAdditionalDatanode {
            path: String,
            inode: InodeId,
            block: Block,
            existing: Vec<ReplicaTarget>,
            exclude: Vec<DatanodeUuid>,
            count: u8,
        },
        /// Blocks of a range of a file with their locations, nearest to the caller first.
        12 => GetBlockLocations { path: String, offset: u64, length: u64, reader_host: String },
        /// Renames as HDFS's rename2 (`overwrite`) or, without it, refuses an existing target.
        13 => Rename { from: String, to: String, overwrite: bool },
        /// Removes; `false` when there is nothing.
        14 => Delete { path: String, recursive: bool },
        /// Sets permission bits (07777).
        15 => SetPermission { path: String, permission: u16 },
        /// Sets owner and group; empty leaves it.
        16 => SetOwner { path: String, owner: String, group: String },
        /// Sets times in ms since 1970; `u64::MAX` leaves it.
        17 => SetTimes { path: String, modified_ms: u64, accessed_ms: u64 },
        /// Sets a file's replication; `false` for a directory.
        18 => SetReplication { path: String, replication: u16 },
        /// Renews the lease of all files this client has open (E-02).
        19 => RenewLease,
        /// Starts lease recovery; `true` once the file is closed (E-06).
        20 => RecoverLease { path: String },
        /// Replicas found corrupt.
        21 => ReportBadBlocks { blocks: Vec<BadReplica> },
        /// Defaults a client uses for new files.
        22 => GetServerDefaults,
        /// Capacity and block counts of the whole cluster.
        23 => GetFsStats,
        /// State of this NameNode and who is active.
        24 => GetServiceState,
        /// Reopens a closed file for append and takes its lease (F-10); answered by [`Response::Appended`].
        25 => Append {
            path: String,
            /// Begins a new block even when the last one is partial (HDFS's `CreateFlag.NEW_BLOCK`).
            new_block: bool,
            /// Host name or address of the writer, as of AddBlock; empty when unknown.
            writer_host: String,
        },
        /// Cuts a file to `length` bytes (F-10). [`Response::Flag`]: `true` when that is done, `false` when the last
        /// block is being recovered to its new length; then the file is open until IsFileClosed says otherwise.
        /// Asked again with the same length meanwhile the answer is `false` again.
        26 => Truncate { path: String, length: u64 },
        /// Moves the blocks of `sources`, in order, behind those of `target` and removes the sources: closed files of
        /// the target's directory.
        27 => Concat { target: String, sources: Vec<String> },
        /// Files open for write, a page after an inode.
        28 => ListOpenFiles { after: InodeId, path: String },
        /// Whether a file is closed.
        29 => IsFileClosed { path: String },
        /// The txid of the active's last edit, once it is committed: [`Reply::txid`]. Whoever reads from a standby
        /// afterwards reads nothing older than what was acknowledged to anybody before this call.
        30 => Msync,
        /// Files with no live replica of some block, a page.
        31 => ListCorruptFileBlocks { path: String, cookie: u64 },
        /// As ListOpenFiles, of the active only: those with a block that holds a decommission up.
        32 => ListFilesBlockingDecommission { after: InodeId, path: String },
    }
}

impl Request {
    /// Whether the call changes the namespace: journaled, retry-cached, refused in safe mode.
    #[must_use]
    pub fn is_mutation(&self) -> bool {
        matches!(
            self,
            Self::Mkdirs { .. }
                | Self::Create { .. }
                | Self::AddBlock { .. }
                | Self::AbandonBlock { .. }
                | Self::Complete { .. }
                | Self::Fsync { .. }
                | Self::UpdateBlockForPipeline { .. }
                | Self::UpdatePipeline { .. }
                | Self::Rename { .. }
                | Self::Delete { .. }
                | Self::SetPermission { .. }
                | Self::SetOwner { .. }
                | Self::SetTimes { .. }
                | Self::SetReplication { .. }
                | Self::RecoverLease { .. }
                | Self::Append { .. }
                | Self::Truncate { .. }
                | Self::Concat { .. }
        )
    }

    /// Whether a standby or observer may answer it: what depends on the namespace alone, and block locations.
    #[must_use]
    pub fn is_standby_read(&self) -> bool {
        matches!(
            self,
            Self::GetFileInfo { .. }
                | Self::GetListing { .. }
                | Self::GetContentSummary { .. }
                | Self::GetBlockLocations { .. }
                | Self::GetServerDefaults
                | Self::ListOpenFiles { .. }
                | Self::IsFileClosed { .. }
        )
    }
}

wire_enum! {
    /// What a NameNode answers.
    pub enum Response {
        /// Done; nothing to say.
        0 => Done,
        /// Yes or no, as the request's doc says.
        1 => Flag { value: bool },
        /// To GetFileInfo.
        2 => FileInfo { status: Option<FileStatus> },
        /// To GetListing.
        3 => Listing {
            entries: Vec<FileStatus>,
            /// Entries behind this page.
            remaining: u64,
        },
        /// To GetContentSummary.
        4 => ContentSummary { summary: ContentSummary },
        /// To AddBlock and GetAdditionalDatanode.
        5 => LocatedBlock { block: Option<LocatedBlock> },
        /// To UpdateBlockForPipeline.
        6 => NewStamp { generation_stamp: GenerationStamp, token: BlockToken },
        /// To GetBlockLocations.
        7 => Locations { locations: LocatedBlocks },
        /// To GetServerDefaults.
        8 => Defaults { defaults: ServerDefaults },
        /// To GetFsStats.
        9 => FsStats { stats: FsStats },
        /// To GetServiceState.
        10 => ServiceState {
            state: HaState,
            /// Node id of the active NameNode, empty when unknown.
            active: String,
        },
        /// To ListOpenFiles and ListFilesBlockingDecommission.
        11 => OpenFiles { files: Vec<OpenFile>, more: bool },
        /// To ListCorruptFileBlocks.
        12 => CorruptFiles { paths: Vec<String>, cookie: u64 },
        /// To Append.
        13 => Appended {
            /// The partial last block, open again under its old generation stamp and length, with its FINALIZED
            /// replicas as the pipeline to be: the writer asks for a new stamp (UpdateBlockForPipeline), sets the
            /// pipeline up for append under it, and tells (UpdatePipeline) before it writes. `None`: the writer begins
            /// with AddBlock.
            reopened: Option<LocatedBlock>,
            /// The file's last block, whether reopened or not: AddBlock's or Complete's `previous` or `last` as long as
            /// the writer has none of its own. `None` for an empty file.
            last: Option<Block>,
            /// The file as it is now, open.
            status: Box<FileStatus>,
        },
        /// To Create; again the same when the call comes again.
        14 => Created {
            /// The new file, open and empty.
            status: Box<FileStatus>,
            /// The first block, if it was asked for and there are DataNodes for it. `None`: the writer begins with AddBlock,
            /// which says why there is none. So does a writer whose block has no location: that is a repeated answer where no
            /// DataNode is known yet. A writer that has nothing to write gives the block back (AbandonBlock).
            block: Option<LocatedBlock>,
        },
    }
}

wire_struct! {
    /// What `stat` shows.
    pub struct FileStatus {
        /// Last component; empty for the root. For GetFileInfo the same.
        pub name: String,
        /// Number of the inode.
        pub inode: InodeId,
        /// A directory.
        pub is_dir: bool,
        /// Bytes, 0 for a directory. An open file counts its finished blocks and what was recorded of the last.
        pub length: u64,
        /// Copies wanted, 0 for a directory.
        pub replication: u16,
        /// Bytes per block, 0 for a directory.
        pub block_size: u64,
        /// Last change, ms since 1970.
        pub modified_ms: u64,
        /// Last access, ms since 1970.
        pub accessed_ms: u64,
        /// Bits 07777.
        pub permission: u16,
        /// Owner's name.
        pub owner: String,
        /// Group's name.
        pub group: String,
        /// Entries in a directory.
        pub children: u64,
        /// Open for write.
        pub under_construction: bool,
    }
}

wire_struct! {
    /// What `count` and `du` show.
    pub struct ContentSummary {
        /// Directories, the path itself included.
        pub directories: u64,
        /// Files.
        pub files: u64,
        /// Bytes in files.
        pub length: u64,
        /// Bytes times replication.
        pub space_consumed: u64,
        /// Namespace quota, `u64::MAX` without.
        pub quota: u64,
        /// Space quota in bytes, `u64::MAX` without.
        pub space_quota: u64,
    }
}

wire_struct! {
    /// One storage of one DataNode, with where to dial it.
    pub struct ReplicaTarget {
        /// Which DataNode.
        pub datanode: DatanodeUuid,
        /// Which of its storages.
        pub storage: StorageUuid,
        /// Its node id (`dn1`), the name in its certificate.
        pub name: String,
        /// Address of its first shard as `ip:port`; shard k listens on port + k.
        pub address: String,
        /// How many shards it has.
        pub shards: u16,
        /// Its rack (`/default-rack`).
        pub rack: String,
    }
}

impl ReplicaTarget {
    /// Where to dial for this block: the port of the shard that owns its partition (architecture.md, decision 5).
    /// `None` when the address is malformed.
    #[must_use]
    pub fn address_for(&self, block: BlockId) -> Option<core::net::SocketAddr> {
        let mut address: core::net::SocketAddr = self.address.parse().ok()?;
        address.set_port(address.port().checked_add(shard_of(block, self.shards))?);
        Some(address)
    }
}

wire_struct! {
    /// Proof for a DataNode that the NameNode allowed an operation (protocols.md section 5). Empty when
    /// block tokens are off.
    #[derive(Default)]
    pub struct BlockToken {
        /// Signed content with its HMAC; opaque to clients.
        pub bytes: bytes::Bytes,
    }
}

wire_struct! {
    /// A block of a file with its replicas.
    pub struct LocatedBlock {
        /// Id, stamp, length.
        pub block: Block,
        /// Where the block starts in the file.
        pub offset: u64,
        /// Good replicas (or pipeline targets), best first.
        pub locations: Vec<ReplicaTarget>,
        /// All known replicas are corrupt.
        pub corrupt: bool,
        /// Last block of an open file: its length is a lower bound.
        pub under_construction: bool,
        /// Corrupt replicas known of it.
        pub corrupt_replicas: u16,
        /// Right to access it.
        pub token: BlockToken,
    }
}

wire_struct! {
    /// A file's blocks in a range.
    pub struct LocatedBlocks {
        /// Which pool they are in.
        pub pool: BlockPoolId,
        /// The file's inode.
        pub inode: InodeId,
        /// Length of the file, as [`FileStatus::length`].
        pub file_length: u64,
        /// Open for write.
        pub under_construction: bool,
        /// The blocks that overlap the range, in order.
        pub blocks: Vec<LocatedBlock>,
    }
}

wire_struct! {
    /// A replica a reader or DataNode found corrupt.
    pub struct BadReplica {
        /// Which block.
        pub block: Block,
        /// On which DataNode.
        pub datanode: DatanodeUuid,
        /// In which storage; zero when unknown.
        pub storage: StorageUuid,
    }
}

wire_struct! {
    /// Defaults for new files.
    pub struct ServerDefaults {
        /// Bytes per block.
        pub block_size: u64,
        /// Data bytes per checksum.
        pub bytes_per_checksum: u32,
        /// Data bytes per packet.
        pub packet_size: u32,
        /// Copies.
        pub replication: u16,
        /// Which pool new blocks are in.
        pub pool: BlockPoolId,
        /// Lease soft limit in ms; clients renew at half of it.
        pub lease_soft_limit_ms: u64,
    }
}

wire_struct! {
    /// The whole cluster in numbers. Bytes unless said otherwise.
    #[derive(Default)]
    pub struct FsStats {
        /// On live DataNodes.
        pub capacity: u64,
        /// By the block pool.
        pub used: u64,
        /// Free for the block pool.
        pub remaining: u64,
        /// Blocks below their replication.
        pub under_replicated: u64,
        /// Blocks with a corrupt replica.
        pub corrupt_blocks: u64,
        /// Blocks without any good replica.
        pub missing_blocks: u64,
        /// Files and directories.
        pub inodes: u64,
        /// Blocks.
        pub blocks: u64,
        /// Memory of the NameNode that answers for files and directories, about.
        pub tree_bytes: u64,
        /// Memory of the NameNode that answers for blocks and their locations, about.
        pub map_bytes: u64,
    }
}

wire_struct! {
    /// A file open for write.
    pub struct OpenFile {
        /// Its inode.
        pub inode: InodeId,
        /// Its path.
        pub path: String,
        /// Who holds the lease.
        pub holder: ClientId,
    }
}
