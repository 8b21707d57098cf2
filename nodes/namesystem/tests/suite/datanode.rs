//! DataNodes as their NameNode sees them, and the calls of a writer.

use crate::support::{World, reload};
use hadal_namesystem::Answer;
use hadal_proto::Fault;
use hadal_proto::client::{LocatedBlock, LocatedBlocks, ReplicaTarget, Request, Response};
use hadal_proto::datanode::{
    Action, ChangeKind, Command, Heartbeat, IncrementalReport, RecoveryWork, Registration,
    ReplicaChange, Request as FromNode, Response as ToNode, StorageReport,
};
use hadal_types::{
    Block, BlockId, CURRENT_LAYOUT, DatanodeUuid, GenerationStamp, InodeId, Principal, Role,
    StorageUuid,
};
use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;

pub(crate) const YES: Response = Response::Flag { value: true };
pub(crate) const NO: Response = Response::Flag { value: false };

/// A DataNode as its NameNode sees it.
pub(crate) struct Node {
    pub(crate) id: u128,
    sequence: u64,
    /// Last command received; the next heartbeat says it is executed.
    executed: Cell<u64>,
    /// Blocks it was told to delete.
    pub(crate) deleted: RefCell<BTreeSet<BlockId>>,
}

impl Node {
    pub(crate) fn ask(&self, world: &mut World, request: FromNode) -> Result<ToNode, Fault> {
        let peer = Principal {
            role: Role::Datanode,
            name: format!("dn{}", self.id),
        };
        let ticket = 1 << 40;
        world
            .ns
            .handle_datanode(world.now, world.wall_ms, &peer, ticket, request);
        world.pump();
        match world.answers.remove(&ticket) {
            Some(Answer::Datanode(answer)) => answer,
            other => panic!("not answered: {other:?}"),
        }
    }

    pub(crate) fn storages(&self) -> Vec<StorageReport> {
        vec![StorageReport {
            storage: StorageUuid(self.id),
            capacity: 1 << 40,
            remaining: 1 << 40,
            ..StorageReport::default()
        }]
    }

    /// One that has said nothing yet.
    pub(crate) fn silent(id: u128) -> Self {
        Self {
            id,
            sequence: 0,
            executed: Cell::new(0),
            deleted: RefCell::default(),
        }
    }

    pub(crate) fn register(id: u128, world: &mut World) -> Self {
        let node = Self::register_silent(id, world);
        node.report_empty(world);
        node
    }

    /// Registers, and reports nothing.
    pub(crate) fn register_silent(id: u128, world: &mut World) -> Self {
        let node = Self::silent(id);
        let registration = Registration {
            uuid: DatanodeUuid(id),
            name: format!("dn{id}"),
            address: format!("10.0.0.{id}:9866"),
            http_address: String::new(),
            shards: 1,
            rack: "/default-rack".into(),
            layout: CURRENT_LAYOUT,
            info: world.ns.config().info.clone(),
            software: String::new(),
            storages: node.storages(),
        };
        let answer = node.ask(world, FromNode::Register { registration });
        assert!(
            matches!(answer, Ok(ToNode::Registered { .. })),
            "{answer:?}"
        );
        node
    }

    pub(crate) fn beat(&self, world: &mut World) -> Vec<Command> {
        let heartbeat = Heartbeat {
            uuid: DatanodeUuid(self.id),
            storages: self.storages(),
            transfers: 0,
            streams: 0,
            failed_volumes: 0,
            acknowledged: world.ns.epoch(),
            wants_report: vec![StorageUuid(self.id)],
            executed: self.executed.get(),
        };
        match self.ask(world, FromNode::Heartbeat { heartbeat }) {
            Ok(ToNode::Heartbeat { commands, .. }) => {
                if let Some(last) = commands.last() {
                    self.executed.set(last.sequence);
                }
                for command in &commands {
                    if let Action::Invalidate { blocks } = &command.action {
                        let ids = blocks.iter().map(|block| block.id);
                        self.deleted.borrow_mut().extend(ids);
                    }
                }
                commands
            }
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn report_empty(&self, world: &mut World) {
        self.report_empty_as(1, world);
    }

    /// A report of that id, which no earlier one of this storage has.
    pub(crate) fn report_empty_as(&self, report_id: u64, world: &mut World) {
        self.beat(world);
        let report = hadal_proto::datanode::BlockReport {
            uuid: DatanodeUuid(self.id),
            storage: StorageUuid(self.id),
            report_id,
            part: 0,
            parts: 1,
            includes: 0,
            acknowledged: world.ns.epoch(),
            finalized: bytes::Bytes::new(),
            open: Vec::new(),
        };
        let answer = self.ask(world, FromNode::BlockReport { report });
        assert!(answer.is_ok(), "{answer:?}");
    }

    pub(crate) fn says(&mut self, world: &mut World, kind: ChangeKind, block: Block) {
        self.sequence += 1;
        let report = IncrementalReport {
            uuid: DatanodeUuid(self.id),
            sequence: self.sequence,
            changes: vec![ReplicaChange {
                storage: StorageUuid(self.id),
                block,
                kind,
                delete_hint: DatanodeUuid(0),
            }],
        };
        let answer = self.ask(world, FromNode::IncrementalReport { report });
        assert!(matches!(answer, Ok(ToNode::Reported { .. })), "{answer:?}");
    }
}

/// A world of three DataNodes.
pub(crate) fn cluster() -> (World, Vec<Node>) {
    let mut world = World::new();
    let nodes = (1..=3).map(|id| Node::register(id, &mut world)).collect();
    (world, nodes)
}

pub(crate) fn add(path: &str, inode: InodeId, previous: Option<Block>) -> Request {
    Request::AddBlock {
        path: path.into(),
        inode,
        previous,
        exclude: Vec::new(),
        writer_host: String::new(),
    }
}

pub(crate) fn complete(path: &str, inode: InodeId, last: Option<Block>) -> Request {
    Request::Complete {
        path: path.into(),
        inode,
        last,
    }
}

pub(crate) fn added(response: Response) -> LocatedBlock {
    match response {
        Response::LocatedBlock { block: Some(block) } => block,
        other => panic!("not a block: {other:?}"),
    }
}

/// A new generation stamp for the block an open file is written to.
pub(crate) fn new_stamp(
    world: &mut World,
    path: &str,
    inode: InodeId,
    block: Block,
) -> GenerationStamp {
    let request = Request::UpdateBlockForPipeline {
        path: path.into(),
        inode,
        block,
    };
    match world.ok(request) {
        Response::NewStamp {
            generation_stamp, ..
        } => generation_stamp,
        other => panic!("not a stamp: {other:?}"),
    }
}

/// A block goes on in these nodes, under a new stamp.
pub(crate) fn update_pipeline(
    world: &mut World,
    path: &str,
    inode: InodeId,
    block: Block,
    nodes: Vec<ReplicaTarget>,
) -> Block {
    let new = Block {
        generation_stamp: new_stamp(world, path, inode, block),
        ..block
    };
    let request = Request::UpdatePipeline {
        path: path.into(),
        inode,
        old: block,
        new,
        nodes,
    };
    assert_eq!(world.ok(request), Response::Done);
    new
}

pub(crate) fn locate(world: &mut World, path: &str, offset: u64, length: u64) -> LocatedBlocks {
    let response = world.ok(Request::GetBlockLocations {
        path: path.into(),
        offset,
        length,
        reader_host: String::new(),
    });
    match response {
        Response::Locations { locations } => locations,
        other => panic!("not locations: {other:?}"),
    }
}

pub(crate) fn of_length(block: Block, length: u64) -> Block {
    Block { length, ..block }
}

/// The block size of [`written`] files.
pub(crate) const BLOCK: u64 = 1024;

/// A file of blocks of [`BLOCK`] bytes with three copies, open for client 1.
pub(crate) fn open_wide(world: &mut World, path: &str) -> InodeId {
    let request = Request::Create {
        path: path.into(),
        permission: 0o644,
        overwrite: false,
        create_parent: true,
        replication: 3,
        block_size: BLOCK,
        first_block: None,
    };
    match world.ok(request) {
        Response::Created { status, .. } => status.inode,
        other => panic!("not a new file: {other:?}"),
    }
}

/// A closed file with blocks of these lengths, each on all three DataNodes.
pub(crate) fn written(
    world: &mut World,
    nodes: &mut [Node],
    path: &str,
    lengths: &[u64],
) -> (InodeId, Vec<Block>) {
    let inode = open_wide(world, path);
    let mut blocks: Vec<Block> = Vec::new();
    for length in lengths {
        let block = added(world.ok(add(path, inode, blocks.last().copied()))).block;
        let block = of_length(block, *length);
        received(world, nodes, block);
        blocks.push(block);
    }
    let last = blocks.last().copied();
    assert_eq!(world.ok(complete(path, inode, last)), YES);
    (inode, blocks)
}

/// All DataNodes report this replica finished.
pub(crate) fn received(world: &mut World, nodes: &mut [Node], block: Block) {
    for node in nodes {
        node.says(world, ChangeKind::Received, block);
    }
}

/// The block recoveries these DataNodes are told to make, with the place of who is told.
pub(crate) fn recoveries(world: &mut World, nodes: &[Node]) -> Vec<(usize, RecoveryWork)> {
    let mut all = Vec::new();
    for (at, node) in nodes.iter().enumerate() {
        for command in node.beat(world) {
            if let Action::RecoverBlock { work } = command.action {
                all.extend(work.into_iter().map(|work| (at, work)));
            }
        }
    }
    all
}

/// The result of a block recovery all locations took part in.
pub(crate) fn synchronized(work: &RecoveryWork, length: u64) -> FromNode {
    FromNode::CommitBlockSynchronization {
        block: work.block.id,
        recovery_id: work.recovery_id,
        length,
        nodes: work.locations.clone(),
        delete: false,
    }
}

pub(crate) fn append(path: &str, new_block: bool) -> Request {
    Request::Append {
        path: path.into(),
        new_block,
        writer_host: String::new(),
    }
}

pub(crate) fn truncate(path: &str, length: u64) -> Request {
    Request::Truncate {
        path: path.into(),
        length,
    }
}

/// Every byte of the namespace is the same after replay and after a start from an image.
pub(crate) fn assert_replays(world: &World) {
    let digest = world.ns.view().digest();
    assert_eq!(world.replayed().view().digest(), digest, "by replay");
    assert_eq!(reload(&world.ns).view().digest(), digest, "by image");
}
