//! DataNodes as their NameNode sees them, and the calls of a writer.

use crate::support::World;
use hadal_namesystem::Answer;
use hadal_proto::Fault;
use hadal_proto::client::{LocatedBlock, LocatedBlocks, Request, Response};
use hadal_proto::datanode::{
    ChangeKind, Command, Heartbeat, IncrementalReport, Registration, ReplicaChange,
    Request as FromNode, Response as ToNode, StorageReport,
};
use hadal_types::{Block, CURRENT_LAYOUT, DatanodeUuid, InodeId, Principal, Role, StorageUuid};

pub(crate) const YES: Response = Response::Flag { value: true };
pub(crate) const NO: Response = Response::Flag { value: false };

/// A DataNode as its NameNode sees it.
pub(crate) struct Node {
    pub(crate) id: u128,
    sequence: u64,
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

    pub(crate) fn register(id: u128, world: &mut World) -> Self {
        let node = Self { id, sequence: 0 };
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
        node.report_empty(world);
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
            executed: 0,
        };
        match self.ask(world, FromNode::Heartbeat { heartbeat }) {
            Ok(ToNode::Heartbeat { commands, .. }) => commands,
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn report_empty(&self, world: &mut World) {
        self.beat(world);
        let report = hadal_proto::datanode::BlockReport {
            uuid: DatanodeUuid(self.id),
            storage: StorageUuid(self.id),
            report_id: 1,
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
