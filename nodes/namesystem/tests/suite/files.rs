//! Writing files, leases and their recovery (behaviour 1E, F-07, F-09).

use crate::support::{World, config, create, delete, overwrite, rename, root};
use hadal_namesystem::{Answer, Event, NAMENODE_HOLDER};
use hadal_proto::FaultClass::{
    AlreadyBeingCreated, AlreadyExists, InvalidArgument, LeaseExpired, NoDatanodes, NotFound,
    NotReplicatedYet, RecoveryInProgress, StaleReplica, Standby,
};
use hadal_proto::client::{LocatedBlock, LocatedBlocks, ReplicaTarget, Request, Response};
use hadal_proto::datanode::{
    Action, ChangeKind, Command, Heartbeat, IncrementalReport, Registration, ReplicaChange,
    Request as FromNode, Response as ToNode, StorageReport,
};
use hadal_proto::{Fault, admin};
use hadal_types::{
    Block, CURRENT_LAYOUT, DatanodeUuid, Epoch, GenerationStamp, InodeId, Principal, Role,
    StorageUuid,
};

const YES: Response = Response::Flag { value: true };
const NO: Response = Response::Flag { value: false };

/// A DataNode as its NameNode sees it.
struct Node {
    id: u128,
    sequence: u64,
}

impl Node {
    fn ask(&self, world: &mut World, request: FromNode) -> Result<ToNode, Fault> {
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

    fn storages(&self) -> Vec<StorageReport> {
        vec![StorageReport {
            storage: StorageUuid(self.id),
            capacity: 1 << 40,
            remaining: 1 << 40,
            ..StorageReport::default()
        }]
    }

    fn register(id: u128, world: &mut World) -> Self {
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

    fn beat(&self, world: &mut World) -> Vec<Command> {
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

    fn report_empty(&self, world: &mut World) {
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

    fn says(&mut self, world: &mut World, kind: ChangeKind, block: Block) {
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
fn cluster() -> (World, Vec<Node>) {
    let mut world = World::new();
    let nodes = (1..=3).map(|id| Node::register(id, &mut world)).collect();
    (world, nodes)
}

fn add(path: &str, inode: InodeId, previous: Option<Block>) -> Request {
    Request::AddBlock {
        path: path.into(),
        inode,
        previous,
        exclude: Vec::new(),
        writer_host: String::new(),
    }
}

fn complete(path: &str, inode: InodeId, last: Option<Block>) -> Request {
    Request::Complete {
        path: path.into(),
        inode,
        last,
    }
}

fn added(response: Response) -> LocatedBlock {
    match response {
        Response::LocatedBlock { block: Some(block) } => block,
        other => panic!("not a block: {other:?}"),
    }
}

fn locate(world: &mut World, path: &str, offset: u64, length: u64) -> LocatedBlocks {
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

fn of_length(block: Block, length: u64) -> Block {
    Block { length, ..block }
}

/// F-09: complete() is false until a replica of that stamp and length is reported FINALIZED, then true, and
/// true again when repeated.
#[test]
fn f09_complete_waits_for_minimal_replication() {
    let (mut world, mut nodes) = cluster();
    let inode = world.open("/f");
    let found = added(world.ok(add("/f", inode, None)));
    assert_eq!((found.offset, found.locations.len()), (0, 1));
    let block = of_length(found.block, 700);
    assert_eq!(world.ok(complete("/f", inode, Some(block))), NO);
    let by = found.locations[0].datanode.0 as usize - 1;
    nodes[by].says(&mut world, ChangeKind::Receiving, found.block);
    assert_eq!(world.ok(complete("/f", inode, Some(block))), NO);
    nodes[by].says(&mut world, ChangeKind::Received, block);
    assert_eq!(world.ok(complete("/f", inode, Some(block))), YES);
    assert_eq!(world.ok(complete("/f", inode, Some(block))), YES);
    let status = world.stat("/f").unwrap();
    assert_eq!((status.length, status.under_construction), (700, false));
    let located = locate(&mut world, "/f", 0, 10);
    assert_eq!((located.file_length, located.blocks.len()), (700, 1));
    assert_eq!(
        located.blocks[0].locations[0].datanode,
        DatanodeUuid(by as u128 + 1)
    );
    assert!(locate(&mut world, "/f", 700, 10).blocks.is_empty());
    let closed = world.call(add("/f", inode, Some(block))).unwrap_err();
    assert_eq!(closed.class, LeaseExpired);
}

/// E-14: the next block commits the one before; a third block wants the first complete.
#[test]
fn e14_the_next_block_commits_the_one_before() {
    let (mut world, mut nodes) = cluster();
    let inode = world.open("/f");
    let first = added(world.ok(add("/f", inode, None)));
    let first_block = of_length(first.block, 1 << 20);
    let second = added(world.ok(add("/f", inode, Some(first_block))));
    assert_eq!(second.offset, 1 << 20);
    assert!(second.block.id > first.block.id);
    assert!(second.block.generation_stamp > first.block.generation_stamp);
    let second_block = of_length(second.block, 1 << 20);
    let third = world.fails(add("/f", inode, Some(second_block)));
    assert_eq!(third.0, NotReplicatedYet);
    nodes[first.locations[0].datanode.0 as usize - 1].says(
        &mut world,
        ChangeKind::Received,
        first_block,
    );
    let third = added(world.ok(add("/f", inode, Some(second_block))));
    assert_eq!(third.offset, 2 << 20);
    let located = locate(&mut world, "/f", (1 << 20) + 5, 1);
    assert_eq!(located.blocks.len(), 1);
    assert_eq!(located.blocks[0].offset, 1 << 20);
    assert_eq!(world.replayed().view().digest(), world.ns.view().digest());
}

#[test]
fn add_block_checks_what_the_client_says() {
    let (mut world, _nodes) = cluster();
    let inode = world.open("/f");
    let found = added(world.ok(add("/f", inode, None)));
    let wrong_stamp = Block {
        generation_stamp: GenerationStamp(1),
        ..found.block
    };
    let other = Block {
        id: hadal_types::BlockId(7),
        ..found.block
    };
    for previous in [wrong_stamp, other, of_length(found.block, (1 << 20) + 1)] {
        let (class, message) = world.fails(add("/f", inode, Some(previous)));
        assert_eq!(class, InvalidArgument, "{message}");
    }
    assert_eq!(world.fails(add("/f", InodeId(999), None)).0, NotFound);
    let mut lonely = World::new();
    let inode = lonely.open("/f");
    let (class, message) = lonely.fails(add("/f", inode, None));
    assert_eq!(class, NoDatanodes);
    assert!(message.contains("could only be written to 0"), "{message}");
    assert_eq!(world.stat("/f").unwrap().length, 0);
}

/// A lost answer to addBlock must not leave a hole: the same question gets the same block, under the same or
/// a new call id, here or at the next active (F-06).
#[test]
fn f06_add_block_asked_again_gives_the_same_block() {
    let (mut world, _nodes) = cluster();
    let inode = world.open("/f");
    let ticket = world.send(&root(), 1, 500, add("/f", inode, None));
    let first = world.answer(ticket).unwrap().unwrap();
    let block = added(first.response.clone());
    let ticket = world.send(&root(), 1, 500, add("/f", inode, None));
    assert_eq!(world.answer(ticket).unwrap().unwrap(), first);
    let other = added(world.ok(add("/f", inode, None)));
    assert_eq!(other, block);

    let mut next = World::standby(world.replayed());
    next.activate(2);
    Node::register(9, &mut next);
    let ticket = next.send(&root(), 1, 500, add("/f", inode, None));
    let again = added(next.answer(ticket).unwrap().unwrap().response);
    assert_eq!(again.block, block.block);
    assert_eq!(again.locations[0].datanode, DatanodeUuid(9));
}

/// E-01: only the holder of the lease writes; readers are never blocked.
#[test]
fn e01_only_the_lease_holder_writes() {
    let (mut world, _nodes) = cluster();
    let inode = world.open("/f");
    let block = added(world.ok(add("/f", inode, None))).block;
    let new = Block {
        generation_stamp: block.generation_stamp.next(),
        ..block
    };
    for request in [
        add("/f", inode, Some(block)),
        complete("/f", inode, Some(block)),
        Request::AbandonBlock {
            path: "/f".into(),
            inode,
            block,
        },
        Request::Fsync {
            path: "/f".into(),
            inode,
            last_block_length: 5,
        },
        Request::UpdateBlockForPipeline {
            path: "/f".into(),
            inode,
            block,
        },
        Request::UpdatePipeline {
            path: "/f".into(),
            inode,
            old: block,
            new,
            nodes: Vec::new(),
        },
        Request::GetAdditionalDatanode {
            path: "/f".into(),
            inode,
            block,
            existing: Vec::new(),
            exclude: Vec::new(),
            count: 1,
        },
    ] {
        let name = request.name();
        let fault = world.call_as(&root(), 2, request).unwrap_err();
        assert_eq!(fault.class, LeaseExpired, "{name}");
        assert!(fault.message.contains("is not the lease owner"), "{name}");
    }
    let read = world.call_as(
        &root(),
        2,
        Request::GetBlockLocations {
            path: "/f".into(),
            offset: 0,
            length: u64::MAX,
            reader_host: String::new(),
        },
    );
    assert!(read.is_ok());
}

/// A writer's calls name the inode, so a rename or a new file of the same name does not confuse them.
#[test]
fn writers_follow_their_file_through_a_rename() {
    let (mut world, mut nodes) = cluster();
    let inode = world.open("/f");
    let found = added(world.ok(add("/f", inode, None)));
    world.ok(rename("/f", "/g", false));
    world.touch("/f");
    let block = of_length(found.block, 10);
    nodes[found.locations[0].datanode.0 as usize - 1].says(&mut world, ChangeKind::Received, block);
    assert_eq!(world.ok(complete("/f", inode, Some(block))), YES);
    assert_eq!(world.stat("/g").unwrap().length, 10);
    assert_eq!(world.stat("/f").unwrap().length, 0);
}

#[test]
fn abandon_fsync_and_pipeline_updates() {
    let (mut world, _nodes) = cluster();
    let inode = world.open("/f");
    let first = added(world.ok(add("/f", inode, None))).block;
    let abandon = Request::AbandonBlock {
        path: "/f".into(),
        inode,
        block: first,
    };
    assert_eq!(world.ok(abandon.clone()), Response::Done);
    assert_eq!(world.ok(abandon), Response::Done);
    let block = added(world.ok(add("/f", inode, None))).block;
    assert!(block.id > first.id);
    let fsync = |length| Request::Fsync {
        path: "/f".into(),
        inode,
        last_block_length: length,
    };
    world.ok(fsync(4_000));
    world.ok(fsync(u64::MAX));
    assert_eq!(world.stat("/f").unwrap().length, 4_000);
    assert_eq!(world.fails(fsync(2 << 20)).0, InvalidArgument);
    let Response::NewStamp {
        generation_stamp, ..
    } = world.ok(Request::UpdateBlockForPipeline {
        path: "/f".into(),
        inode,
        block,
    })
    else {
        panic!("a stamp");
    };
    let update = |stamp, length| Request::UpdatePipeline {
        path: "/f".into(),
        inode,
        old: block,
        new: Block {
            generation_stamp: stamp,
            length,
            ..block
        },
        nodes: Vec::new(),
    };
    for (stamp, length) in [
        (block.generation_stamp, 5_000),
        (generation_stamp.next(), 5_000),
        (generation_stamp, 3_999),
    ] {
        assert_eq!(world.fails(update(stamp, length)).0, InvalidArgument);
    }
    world.ok(update(generation_stamp, 5_000));
    let located = locate(&mut world, "/f", 0, u64::MAX);
    assert_eq!(located.file_length, 5_000);
    assert!(located.under_construction && located.blocks[0].under_construction);
    assert_eq!(located.blocks[0].block.generation_stamp, generation_stamp);
    let existing = vec![ReplicaTarget {
        datanode: DatanodeUuid(1),
        storage: StorageUuid(1),
        name: "dn1".into(),
        address: "10.0.0.1:9866".into(),
        shards: 1,
        rack: "/default-rack".into(),
    }];
    let more = added(world.ok(Request::GetAdditionalDatanode {
        path: "/f".into(),
        inode,
        block,
        existing,
        exclude: vec![DatanodeUuid(2)],
        count: 1,
    }));
    let ids: Vec<_> = more.locations.iter().map(|node| node.datanode.0).collect();
    assert_eq!(ids, [1, 3]);
    assert_eq!(world.replayed().view().digest(), world.ns.view().digest());
}

/// protocols.md section 0: no INVALIDATE before the delete that caused it is committed.
#[test]
fn c01_no_deletion_command_before_its_delete_is_committed() {
    let (mut world, mut nodes) = cluster();
    let inode = world.open("/f");
    let found = added(world.ok(add("/f", inode, None)));
    let by = found.locations[0].datanode.0 as usize - 1;
    let block = of_length(found.block, 9);
    nodes[by].says(&mut world, ChangeKind::Received, block);
    assert_eq!(world.ok(complete("/f", inode, Some(block))), YES);
    world.auto_commit = false;
    world.send(&root(), 1, 900, delete("/f", false));
    world.pass(10_000);
    let deletes = |commands: &[Command]| {
        commands
            .iter()
            .any(|command| matches!(command.action, Action::Invalidate { .. }))
    };
    assert!(!deletes(&nodes[by].beat(&mut world)));
    world.ns.handle_committed(world.now, world.ns.applied());
    world.pass(10_000);
    assert!(deletes(&nodes[by].beat(&mut world)));
}

/// T-L14, E-04: another client takes a name over once the holder is past its soft limit, not before.
#[test]
fn t_l14_create_over_an_open_file() {
    let mut world = World::new();
    world.open("/f");
    let (class, message) = world.fails(create("/f"));
    assert_eq!(class, AlreadyBeingCreated);
    assert!(
        message.contains("already the current lease holder"),
        "{message}"
    );
    let theirs = |world: &mut World| world.call_as(&root(), 2, create("/f")).unwrap_err();
    let fault = theirs(&mut world);
    assert_eq!(fault.class, AlreadyBeingCreated);
    assert!(fault.message.contains("currently owned by"), "{fault:?}");
    world.pass(59_000);
    world.ok(Request::RenewLease);
    world.pass(59_000);
    assert_eq!(theirs(&mut world).class, AlreadyBeingCreated, "renewed");
    world.pass(2_000);
    assert_eq!(theirs(&mut world).class, AlreadyExists, "closed, but there");
    assert!(!world.stat("/f").unwrap().under_construction);
    let taken = world.call_as(&root(), 2, overwrite("/f"));
    assert!(taken.is_ok());
    assert_eq!(world.replayed().view().digest(), world.ns.view().digest());
}

/// E-02, E-05, T-L16: the monitor closes what is past the hard limit; renewing keeps all files of a client.
#[test]
fn e05_t_l16_the_monitor_closes_after_the_hard_limit() {
    let mut world = World::new();
    let one = world.open("/one");
    let two = world.open("/two");
    let theirs = world.call_as(&root(), 2, create("/theirs"));
    assert!(theirs.is_ok());
    world.pass(3_599_000);
    world.ok(Request::RenewLease);
    world.pass(10_000);
    assert!(world.stat("/one").unwrap().under_construction);
    assert!(world.stat("/two").unwrap().under_construction);
    assert!(!world.stat("/theirs").unwrap().under_construction);
    world.pass(3_700_000);
    for (path, inode) in [("/one", one), ("/two", two)] {
        assert!(!world.stat(path).unwrap().under_construction);
        assert_eq!(world.fails(add(path, inode, None)).0, LeaseExpired);
    }
    let recovered = world
        .events
        .iter()
        .filter(|event| matches!(event, Event::LeaseRecovered { .. }));
    assert_eq!(recovered.count(), 3);
    assert_eq!(world.replayed().view().digest(), world.ns.view().digest());
}

/// F-07: a promotion gives every writer a fresh lease.
#[test]
fn f07_leases_are_renewed_at_promotion() {
    let mut world = World::new();
    world.open("/f");
    world.pass(3_000_000);
    let mut next = World::standby(world.replayed());
    next.now = world.now.after_ms(3_000_000);
    next.activate(2);
    next.pass(3_000_000);
    assert!(next.stat("/f").unwrap().under_construction);
    next.pass(700_000);
    assert!(!next.stat("/f").unwrap().under_construction);
}

/// T-L19: in safe mode no lease is recovered.
#[test]
fn t_l19_no_recovery_in_safe_mode() {
    let mut world = World::new();
    world.open("/f");
    let safe_mode = |world: &mut World, action| {
        let request = admin::Request::SafeMode { action };
        world.ns.handle_admin(world.now, 0, 1 << 41, request);
        world.pump();
        world.answers.remove(&(1 << 41));
    };
    safe_mode(&mut world, admin::SafeModeAction::Enter);
    world.pass(4_000_000);
    assert!(world.stat("/f").unwrap().under_construction);
    safe_mode(&mut world, admin::SafeModeAction::Leave);
    world.pass(3_000);
    assert!(!world.stat("/f").unwrap().under_construction);
}

/// T-L23: a block its writer committed without writing does not keep its file open.
#[test]
fn t_l23_an_unwritten_block_is_dropped_by_recovery() {
    let (mut world, _nodes) = cluster();
    let inode = world.open("/f");
    let found = added(world.ok(add("/f", inode, None)));
    assert_eq!(world.ok(complete("/f", inode, Some(found.block))), NO);
    assert_eq!(world.ok(Request::RecoverLease { path: "/f".into() }), YES);
    assert!(locate(&mut world, "/f", 0, 1).blocks.is_empty());
    assert_eq!(world.replayed().view().digest(), world.ns.view().digest());
}

/// A block that no live DataNode has is dropped only when all of them have reported.
#[test]
fn a_block_nobody_has_is_dropped_once_all_have_reported() {
    let (mut world, nodes) = cluster();
    let inode = world.open("/f");
    added(world.ok(add("/f", inode, None)));
    drop(nodes);
    world.pass(700_000);
    Node::register(4, &mut world);
    assert_eq!(world.ok(Request::RecoverLease { path: "/f".into() }), YES);
    assert_eq!(world.stat("/f").unwrap().length, 0);
    assert_eq!(world.replayed().view().digest(), world.ns.view().digest());
}

/// E-06, E-16, E-18, E-20: recoverLease on a file with a block in flight starts block recovery under a new stamp;
/// its result closes the file, at the active only, and only the latest recovery counts.
#[test]
fn e06_e18_lease_recovery_goes_through_block_recovery() {
    let (mut world, mut nodes) = cluster();
    let inode = world.open("/f");
    let found = added(world.ok(add("/f", inode, None)));
    let by = found.locations[0].datanode.0 as usize - 1;
    nodes[by].says(&mut world, ChangeKind::Receiving, found.block);

    let recover = || Request::RecoverLease { path: "/f".into() };
    world.auto_commit = false;
    let ticket = world.send(&root(), 2, 1, recover());
    assert!(world.answer(ticket).is_none(), "behind the barrier");
    let work = |commands: Vec<Command>| {
        commands
            .into_iter()
            .find_map(|command| match command.action {
                Action::RecoverBlock { work } => Some(work),
                _ => None,
            })
    };
    assert!(work(nodes[by].beat(&mut world)).is_none(), "not committed");
    world.auto_commit = true;
    world.pump();
    assert_eq!(world.answer(ticket).unwrap().unwrap().response, NO);
    let work = work(nodes[by].beat(&mut world)).expect("an order to recover");
    assert_eq!(work[0].block.id, found.block.id);
    let recovery_id = work[0].recovery_id;
    assert!(recovery_id > found.block.generation_stamp);

    // The writer is out, and the NameNode holds the lease; asking again does not start another recovery.
    let fault = world.call(add("/f", inode, Some(found.block))).unwrap_err();
    assert_eq!(fault.class, LeaseExpired);
    let Response::OpenFiles { files, .. } = world.ok(Request::ListOpenFiles {
        after: InodeId(0),
        path: String::new(),
    }) else {
        panic!("open files");
    };
    assert_eq!(files[0].holder, NAMENODE_HOLDER);
    let stamp = world.ns.applied();
    assert_eq!(world.ok(recover()), NO);
    assert_eq!(world.ns.applied(), stamp);
    let fault = world.call_as(&root(), 3, create("/f")).unwrap_err();
    assert_eq!(fault.class, RecoveryInProgress);

    let commit = |recovery_id, delete| FromNode::CommitBlockSynchronization {
        block: found.block.id,
        recovery_id,
        length: 321,
        nodes: found.locations.clone(),
        delete,
    };
    let mut standby = World::standby(world.replayed());
    let refused = nodes[by].ask(&mut standby, commit(recovery_id, false));
    assert_eq!(refused.unwrap_err().class, Standby);
    let refused = nodes[by].ask(
        &mut world,
        commit(GenerationStamp(recovery_id.0 - 1), false),
    );
    assert_eq!(refused.unwrap_err().class, StaleReplica);
    let done = nodes[by].ask(&mut world, commit(recovery_id, false));
    assert_eq!(done, Ok(ToNode::Done));
    let again = nodes[by].ask(&mut world, commit(recovery_id, false));
    assert_eq!(again, Ok(ToNode::Done));
    let status = world.stat("/f").unwrap();
    assert_eq!((status.length, status.under_construction), (321, false));
    assert_eq!(world.ok(recover()), YES);
    let located = locate(&mut world, "/f", 0, 1);
    assert_eq!(located.blocks[0].block.generation_stamp, recovery_id);
    assert_eq!(world.replayed().view().digest(), world.ns.view().digest());
}

/// E-18 with nothing recoverable: the block goes, the file closes (Q41: both as edits).
#[test]
fn q41_a_recovery_that_deletes_is_journaled() {
    let (mut world, mut nodes) = cluster();
    let inode = world.open("/f");
    let found = added(world.ok(add("/f", inode, None)));
    let by = found.locations[0].datanode.0 as usize - 1;
    nodes[by].says(&mut world, ChangeKind::Receiving, found.block);
    assert_eq!(world.ok(Request::RecoverLease { path: "/f".into() }), NO);
    let commands = nodes[by].beat(&mut world);
    let Some(Action::RecoverBlock { work }) =
        commands.into_iter().map(|command| command.action).next()
    else {
        panic!("an order to recover");
    };
    let done = nodes[by].ask(
        &mut world,
        FromNode::CommitBlockSynchronization {
            block: found.block.id,
            recovery_id: work[0].recovery_id,
            length: 0,
            nodes: Vec::new(),
            delete: true,
        },
    );
    assert_eq!(done, Ok(ToNode::Done));
    assert!(!world.stat("/f").unwrap().under_construction);
    assert!(locate(&mut world, "/f", 0, 1).blocks.is_empty());
    assert_eq!(world.replayed().view().digest(), world.ns.view().digest());
}

/// Deleting or overwriting an open file ends its lease.
#[test]
fn deleting_an_open_file_ends_its_lease() {
    let (mut world, _nodes) = cluster();
    let inode = world.open("/d/f");
    let block = added(world.ok(add("/d/f", inode, None))).block;
    world.ok(delete("/d", true));
    assert_eq!(world.fails(add("/d/f", inode, Some(block))).0, NotFound);
    let other = world.open("/g");
    world.ok(overwrite("/g"));
    assert_eq!(world.fails(add("/g", other, None)).0, NotFound);
    world.pass(4_000_000);
    assert_eq!(world.ns.namenode_stats().open_files, 0);
    assert_eq!(world.replayed().view().digest(), world.ns.view().digest());
}

/// The bound on blocks per file.
#[test]
fn a_file_has_a_bounded_number_of_blocks() {
    let mut world = World::with(hadal_namesystem::NamesystemConfig {
        max_blocks_per_file: 2,
        ..config()
    });
    let mut node = Node::register(1, &mut world);
    let inode = world.open("/f");
    let mut previous = None;
    for _ in 0..2 {
        let block = of_length(added(world.ok(add("/f", inode, previous))).block, 100);
        node.says(&mut world, ChangeKind::Received, block);
        previous = Some(block);
    }
    let (class, message) = world.fails(add("/f", inode, previous));
    assert_eq!(class, InvalidArgument);
    assert!(message.contains("2 >= 2"), "{message}");
    assert_eq!(world.ns.epoch(), Epoch(1));
}
