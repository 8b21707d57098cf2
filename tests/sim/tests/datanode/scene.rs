//! DataNodes in a simulated world, scripted NameNodes, and a writer that speaks the transfer protocol by hand.

use bytes::Bytes;
use futures_util::future::{Either, select};
use hadal_blockpool::ScannerConfig;
use hadal_datanode::{DatanodeConfig, NamenodeList, NamenodePeer};
use hadal_env::{Clock, Env, Expect, Net, Seam};
use hadal_proto::admin::{self, AdminProtocol, ReplicaStatus};
use hadal_proto::client::ReplicaTarget;
use hadal_proto::datanode::{
    Action, Claim, Command, DatanodeProtocol, DigestAsk, Registration, Request, Response,
};
use hadal_proto::frame::FrameKind;
use hadal_proto::transfer::{self, ReadBlock, ReadReply, TransferProtocol, WriteBlock, WriteStage};
use hadal_proto::{Fault, FaultClass, Protocol, decode};
use hadal_quic::{
    AckReceiver, AppendSender, CallClient, FrameReceiver, Incoming, accept, open_append, open_read,
};
use hadal_types::{
    Block, BlockId, BlockPoolId, ClientId, ClusterId, DatanodeUuid, Epoch, GenerationStamp,
    HaState, NamespaceInfo, Role, StorageUuid, TxId,
};
use sim::daemons::{
    datanode_address, datanode_config, datanode_name, namenode_address, namenode_name,
};
use sim::{NodeId, SimConn, SimEnv, Status, World, WorldConfig};
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::Future;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::time::Duration;
use store_record::checksum::crc32c;

/// Data bytes per checksum of every writer here.
pub(crate) const CHUNK: usize = 512;
/// Within this much virtual time things happen.
pub(crate) const SOON: Duration = Duration::from_secs(60);

/// What a reader gets.
pub(crate) type Frames = FrameReceiver<SimConn>;

type Task = Pin<Box<dyn Future<Output = ()>>>;

pub(crate) fn info(cluster: &str) -> NamespaceInfo {
    NamespaceInfo {
        namespace_id: 7,
        cluster_id: ClusterId(cluster.into()),
        block_pool_id: BlockPoolId("BP-test".into()),
        ..NamespaceInfo::default()
    }
}

pub(crate) fn claim(state: HaState, epoch: u64, txid: u64) -> Claim {
    Claim {
        state,
        epoch: Epoch(epoch),
        txid: TxId(txid),
    }
}

/// A NameNode as the test holds it.
#[derive(Clone)]
pub(crate) struct Namenode {
    pub(crate) info: Rc<RefCell<NamespaceInfo>>,
    pub(crate) claim: Rc<RefCell<Claim>>,
    /// What DataNodes said, with who.
    pub(crate) heard: Rc<RefCell<Vec<(String, Request)>>>,
    /// Orders for a DataNode, given with the answer to its next heartbeat.
    orders: Rc<RefCell<Vec<(String, Command)>>>,
    /// Faults for the next requests of these names.
    faults: Rc<RefCell<VecDeque<(&'static str, Fault)>>>,
    /// Answers to ReportBadBlocks and ErrorReport take this long.
    pub(crate) slow_ms: Rc<Cell<u64>>,
    /// Another identity in the answers to registrations.
    pub(crate) registered_as: Rc<RefCell<Option<NamespaceInfo>>>,
}

impl Namenode {
    fn new(claim: Claim) -> Self {
        Self {
            info: Rc::new(RefCell::new(info("CID-a"))),
            claim: Rc::new(RefCell::new(claim)),
            heard: Rc::default(),
            orders: Rc::default(),
            faults: Rc::default(),
            slow_ms: Rc::default(),
            registered_as: Rc::default(),
        }
    }

    pub(crate) fn order(&self, datanode: &str, epoch: u64, sequence: u64, action: Action) {
        let command = Command {
            epoch: Epoch(epoch),
            sequence,
            action,
        };
        self.orders.borrow_mut().push((datanode.into(), command));
    }

    pub(crate) fn has_orders(&self) -> bool {
        !self.orders.borrow().is_empty()
    }

    pub(crate) fn fail_next(&self, request: &'static str, class: FaultClass) {
        let fault = Fault::new(class, "by the test");
        self.faults.borrow_mut().push_back((request, fault));
    }

    /// Requests of this name from this DataNode.
    pub(crate) fn count(&self, datanode: &str, request: &str) -> usize {
        let heard = self.heard.borrow();
        heard
            .iter()
            .filter(|(from, heard)| from == datanode && heard.name() == request)
            .count()
    }

    pub(crate) fn registration(&self, datanode: &str) -> Option<Registration> {
        let heard = self.heard.borrow();
        heard
            .iter()
            .rev()
            .find_map(|(from, request)| match request {
                Request::Register { registration } if from == datanode => {
                    Some(registration.clone())
                }
                _ => None,
            })
    }

    /// Whether this DataNode reported a change of that kind of that block.
    pub(crate) fn told(
        &self,
        datanode: &str,
        block: Block,
        kind: hadal_proto::datanode::ChangeKind,
    ) -> bool {
        self.heard.borrow().iter().any(|(from, request)| {
            let Request::IncrementalReport { report } = request else {
                return false;
            };
            from == datanode
                && report
                    .changes
                    .iter()
                    .any(|change| change.block == block && change.kind == kind)
        })
    }

    fn answer(&self, from: &str, request: &Request) -> Result<Response, Fault> {
        let planned = self
            .faults
            .borrow()
            .iter()
            .position(|(name, _)| *name == request.name());
        if let Some(index) = planned {
            return Err(self.faults.borrow_mut().remove(index).expect("planned").1);
        }
        let claim = self.claim.borrow().clone();
        Ok(match request {
            Request::VersionRequest => Response::Version {
                info: self.info.borrow().clone(),
                software: "test".into(),
                claim,
            },
            Request::Register { .. } => {
                let other = self.registered_as.borrow().clone();
                Response::Registered {
                    info: other.unwrap_or_else(|| self.info.borrow().clone()),
                }
            }
            Request::Heartbeat { heartbeat } => {
                let mut orders = self.orders.borrow_mut();
                let mine = orders.extract_if(.., |(datanode, _)| datanode == from);
                Response::Heartbeat {
                    claim,
                    commands: mine.map(|(_, command)| command).collect(),
                    report_slot: heartbeat.wants_report.first().copied(),
                }
            }
            Request::IncrementalReport { report } => Response::Reported {
                sequence: report.sequence,
                claim,
                commands: Vec::new(),
            },
            Request::DigestReport { report } => Response::Digest {
                sequence: report.includes,
                claim,
                ask: Some(DigestAsk::Full),
            },
            Request::BlockReport { .. } => Response::Reported {
                sequence: 0,
                claim,
                commands: Vec::new(),
            },
            _ => Response::Done,
        })
    }

    async fn serve(self, env: SimEnv) {
        while let Some(conn) = env.net().accept().await {
            let (namenode, env) = (self.clone(), env.clone());
            let on = env.clone();
            env.spawn("connection", async move {
                while let Ok(incoming) = accept(&conn).await {
                    let Incoming::Call(_, stream) = incoming else {
                        incoming.refuse(FaultClass::Unsupported);
                        continue;
                    };
                    let from = hadal_env::Conn::peer(&conn).name.clone();
                    let (mut requests, answers) = stream.split::<DatanodeProtocol>();
                    on.spawn("answers", answers);
                    let (namenode, env) = (namenode.clone(), on.clone());
                    on.spawn("calls", async move {
                        while let Some((request, responder)) = requests.next().await {
                            let answer = namenode.answer(&from, &request);
                            let is_notice = matches!(
                                request,
                                Request::ReportBadBlocks { .. } | Request::ErrorReport { .. }
                            );
                            let slow_ms = if is_notice { namenode.slow_ms.get() } else { 0 };
                            namenode.heard.borrow_mut().push((from.clone(), request));
                            let later = env.clone();
                            env.spawn("answer", async move {
                                later.sleep_until(later.now().after_ms(slow_ms)).await;
                                responder.answer(answer);
                            });
                        }
                    });
                }
            });
        }
    }
}

pub(crate) struct Scene {
    pub(crate) world: World,
    pub(crate) namenodes: Vec<Namenode>,
    pub(crate) nodes: Vec<NodeId>,
    pub(crate) client: NodeId,
    /// The NameNodes in the DataNodes' configuration.
    pub(crate) list: Rc<RefCell<Vec<NamenodePeer>>>,
    admin: NodeId,
}

/// How a scene differs from the plain one.
#[derive(Clone)]
pub(crate) struct Plan {
    pub(crate) claims: Vec<Claim>,
    pub(crate) datanodes: usize,
    pub(crate) role: Role,
    pub(crate) dirs: usize,
    pub(crate) tolerated: u32,
    pub(crate) clusters: Vec<&'static str>,
    pub(crate) scanner: ScannerConfig,
    pub(crate) world: WorldConfig,
}

impl Plan {
    /// One active NameNode in epoch 1 and this many DataNodes.
    pub(crate) fn new(datanodes: usize) -> Self {
        Self {
            claims: vec![claim(HaState::Active, 1, 10)],
            datanodes,
            role: Role::Datanode,
            dirs: 1,
            tolerated: 0,
            clusters: Vec::new(),
            scanner: ScannerConfig::default(),
            world: WorldConfig::new(11),
        }
    }

    /// An active in epoch 1 and a standby.
    pub(crate) fn pair(datanodes: usize) -> Self {
        Self {
            claims: vec![claim(HaState::Active, 1, 10), claim(HaState::Standby, 0, 9)],
            ..Self::new(datanodes)
        }
    }
}

fn config(plan: &Plan, index: usize) -> DatanodeConfig {
    let mut config = datanode_config(index, plan.claims.len());
    config.dirs = (0..plan.dirs)
        .map(|dir| PathBuf::from(format!("/data{dir}")))
        .collect();
    config.actor.report_interval_ms = 3_600_000;
    config.actor.delete_report_interval_ms = 5_000;
    config.scanner = plan.scanner;
    config.failed_volumes_tolerated = plan.tolerated;
    config.stream_timeout_ms = 5_000;
    config
}

impl Scene {
    pub(crate) fn new(plan: &Plan) -> Self {
        let world = World::with_config(plan.world.clone());
        let namenodes: Vec<Namenode> = plan.claims.iter().cloned().map(Namenode::new).collect();
        for (index, namenode) in namenodes.iter().enumerate() {
            if let Some(cluster) = plan.clusters.get(index) {
                *namenode.info.borrow_mut() = info(cluster);
            }
            let namenode = namenode.clone();
            let name = namenode_name(index);
            world.add_node(&name, Role::Namenode, namenode_address(index), move |env| {
                Box::pin(namenode.clone().serve(env))
            });
        }
        let listed = Rc::new(RefCell::new(config(plan, 0).namenodes));
        let list = Rc::clone(&listed);
        let nodes = (0..plan.datanodes)
            .map(|index| {
                let plan = plan.clone();
                let role = plan.role;
                let listed = Rc::clone(&listed);
                let start = move |env: SimEnv| -> Task {
                    let mut config = config(&plan, index);
                    // The NameNodes that are on the list at a start.
                    config.namenodes = listed.borrow().clone();
                    let listed = Rc::clone(&listed);
                    let list: NamenodeList = Rc::new(move || Ok(listed.borrow().clone()));
                    Box::pin(async move {
                        let run = hadal_datanode::run_with(env.clone(), config, Some(list), None);
                        if let Err(error) = run.await {
                            env.stop(1, &error.to_string());
                        }
                    })
                };
                world.add_node(&datanode_name(index), role, datanode_address(index), start)
            })
            .collect();
        let client = world.add_client("alice");
        let admin = world.add_node(
            "hdfs",
            Role::Admin,
            SocketAddr::from(([10, 0, 3, 1], 40_000)),
            |_| Box::pin(std::future::pending()),
        );
        Self {
            world,
            namenodes,
            nodes,
            client,
            list,
            admin,
        }
    }

    /// A scene whose DataNodes have registered with every NameNode and sent their first reports.
    pub(crate) fn ready(plan: &Plan) -> Self {
        let scene = Self::new(plan);
        scene.until("all DataNodes registered and reported", |scene| {
            scene.namenodes.iter().all(|namenode| {
                (1..=plan.datanodes)
                    .all(|n| namenode.count(&format!("dn{n}"), "BlockReport") >= plan.dirs)
            })
        });
        scene
    }

    #[track_caller]
    pub(crate) fn until(&self, what: &str, done: impl Fn(&Self) -> bool) {
        assert!(
            self.world.run_until(SOON, || done(self)),
            "not within {SOON:?}: {what}"
        );
    }

    /// Exit code and last word of a DataNode that ends.
    #[track_caller]
    pub(crate) fn exit(&self, index: usize) -> (i32, String) {
        self.until("the DataNode ends", |scene| {
            matches!(
                scene.world.status(scene.nodes[index]),
                Status::Exited { .. }
            )
        });
        match self.world.status(self.nodes[index]) {
            Status::Exited { code, reason } => (code, reason),
            other => panic!("{other:?}"),
        }
    }

    /// A DataNode as pipelines and recoveries name it.
    pub(crate) fn target(&self, index: usize) -> ReplicaTarget {
        let name = datanode_name(index);
        let uuid = self.namenodes[0]
            .registration(&name)
            .map_or(DatanodeUuid(0), |registration| registration.uuid);
        ReplicaTarget {
            datanode: uuid,
            storage: StorageUuid(0),
            name,
            address: datanode_address(index).to_string(),
            shards: 1,
            rack: "/default-rack".into(),
        }
    }

    pub(crate) fn targets(&self, indices: &[usize]) -> Vec<ReplicaTarget> {
        indices.iter().map(|index| self.target(*index)).collect()
    }

    fn block_on<T: 'static>(&self, task: impl Future<Output = T> + 'static) -> T {
        self.world.block_on(self.client, task)
    }

    /// What a DataNode answers, or that it does not.
    fn answered<T: 'static>(
        &self,
        task: impl Future<Output = Result<T, Fault>> + 'static,
    ) -> Result<T, Fault> {
        let env = self.world.env_of(self.client);
        self.block_on(async move {
            let deadline = env.now().after_ms(SOON.as_millis() as u64);
            match select(pin!(task), pin!(env.sleep_until(deadline))).await {
                Either::Left((answer, _)) => answer,
                Either::Right(_) => Err(Fault::new(FaultClass::Retry, "no answer")),
            }
        })
    }

    /// Opens a pipeline and waits until it is set up.
    pub(crate) fn open(
        &self,
        block: Block,
        stage: WriteStage,
        pipeline: &[usize],
    ) -> Result<Writer, Fault> {
        let env = self.world.env_of(self.client);
        let mut targets = self.targets(pipeline);
        let first = targets.remove(0);
        self.block_on(async move {
            let conn = connect(&env, &first).await?;
            let header = WriteBlock {
                pool: info("").block_pool_id,
                block,
                stage,
                storage: first.storage,
                targets,
                bytes_per_checksum: CHUNK as u32,
                client: ClientId(5),
                sync_on_close: true,
                expected_length: 256 << 10,
                token: Default::default(),
            };
            let (sender, acks) = open_append(
                &conn,
                TransferProtocol::ID,
                TransferProtocol::VERSION,
                &header,
            )
            .await
            .map_err(|error| Fault::new(FaultClass::Retry, error.to_string()))?;
            let mut writer = Writer {
                sender,
                acks,
                frames: 0,
                _conn: conn,
            };
            writer.await_ack(u64::MAX).await?;
            Ok(writer)
        })
    }

    /// Sends `data[from..]` as a client does (packets start on a chunk boundary), then a frame of this kind, and
    /// waits for its acknowledgement.
    pub(crate) fn send(
        &self,
        mut writer: Writer,
        data: &[u8],
        from: usize,
        then: FrameKind,
    ) -> Result<Writer, Fault> {
        let data = Bytes::copy_from_slice(data);
        self.answered(async move {
            let mut at = from / CHUNK * CHUNK;
            while at < data.len() {
                let end = (at + 8 * CHUNK).min(data.len());
                let piece = data.slice(at..end);
                let aux: Vec<u8> = piece
                    .chunks(CHUNK)
                    .flat_map(|chunk| crc32c(chunk).to_le_bytes())
                    .collect();
                writer
                    .frame(FrameKind::Data, at as u64, aux.into(), piece)
                    .await?;
                at = end;
            }
            let last = writer
                .frame(then, data.len() as u64, Bytes::new(), Bytes::new())
                .await?;
            writer.await_ack(last).await?;
            Ok(writer)
        })
    }

    /// Sends one chunk that claims to begin at `offset`, and waits for its acknowledgement.
    pub(crate) fn send_at(
        &self,
        mut writer: Writer,
        offset: u64,
        chunk: &[u8],
    ) -> Result<Writer, Fault> {
        let chunk = Bytes::copy_from_slice(chunk);
        self.block_on(async move {
            let aux = Bytes::copy_from_slice(&crc32c(&chunk).to_le_bytes());
            let last = writer.frame(FrameKind::Data, offset, aux, chunk).await?;
            writer.await_ack(last).await?;
            Ok(writer)
        })
    }

    /// Begins a block in a pipeline with this data and, behind it, a frame of this kind.
    #[track_caller]
    pub(crate) fn begin(
        &self,
        block: Block,
        pipeline: &[usize],
        data: &[u8],
        then: FrameKind,
    ) -> Writer {
        let writer = self.open(block, WriteStage::Create, pipeline);
        let sent = self.send(writer.expect("set up"), data, 0, then);
        sent.unwrap_or_else(|fault| panic!("{then:?}: {fault}"))
    }

    /// Writes a whole block through a pipeline.
    #[track_caller]
    pub(crate) fn put(&self, block: Block, data: &[u8], pipeline: &[usize]) {
        drop(self.begin(block, pipeline, data, FrameKind::Finish));
    }

    /// Has a DataNode copy what it has of a block to another.
    pub(crate) fn copy(
        &self,
        from: usize,
        block: Block,
        to: usize,
    ) -> Result<transfer::Response, Fault> {
        let request = transfer::Request::TransferReplica {
            pool: BlockPoolId("BP-test".into()),
            block,
            targets: self.targets(&[to]),
            token: Default::default(),
        };
        self.call(from, request)
    }

    /// A call of the transfer protocol.
    pub(crate) fn call(
        &self,
        index: usize,
        request: transfer::Request,
    ) -> Result<transfer::Response, Fault> {
        let env = self.world.env_of(self.client);
        let target = self.target(index);
        self.block_on(async move { call::<TransferProtocol>(&env, &target, &request).await })
    }

    /// An operator's call.
    pub(crate) fn administer(
        &self,
        index: usize,
        request: admin::Request,
    ) -> Result<admin::Response, Fault> {
        let env = self.world.env_of(self.admin);
        let target = self.target(index);
        self.world.block_on(self.admin, async move {
            call::<AdminProtocol>(&env, &target, &request).await
        })
    }

    /// The replicas of a DataNode, as `debug dn-replicas` shows them.
    pub(crate) fn replicas(&self, index: usize) -> Vec<ReplicaStatus> {
        let request = admin::Request::Replicas {
            after: 0,
            limit: 1000,
        };
        let answer = self.administer(index, request);
        match answer {
            Ok(admin::Response::Replicas { replicas, .. }) => replicas,
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn replica(&self, index: usize, id: u64) -> Option<ReplicaStatus> {
        self.replicas(index)
            .into_iter()
            .find(|replica| replica.block.id == BlockId(id))
    }

    /// Begins to read a replica: its frames come from now on, and wait.
    pub(crate) fn open_reader(&self, index: usize, id: u64) -> Result<Frames, Fault> {
        let env = self.world.env_of(self.client);
        let target = self.target(index);
        self.answered(async move {
            let conn = connect(&env, &target).await?;
            let header = ReadBlock {
                pool: info("").block_pool_id,
                block: block(id, 0, 0),
                offset: 0,
                length: u64::MAX,
                token: Default::default(),
            };
            let (_reply, frames): (ReadReply, _) = open_read(
                &conn,
                TransferProtocol::ID,
                TransferProtocol::VERSION,
                &header,
            )
            .await
            .map_err(|error| match error.fault() {
                Some(fault) => fault.clone(),
                None => Fault::new(FaultClass::Retry, error.to_string()),
            })?;
            Ok(frames)
        })
    }

    /// All readable bytes of a replica, each chunk checked.
    pub(crate) fn read(&self, index: usize, id: u64) -> Result<Vec<u8>, Fault> {
        let mut frames = self.open_reader(index, id)?;
        self.answered(async move {
            let mut bytes = Vec::new();
            loop {
                let frame = frames
                    .next()
                    .await
                    .map_err(|error| Fault::new(FaultClass::Retry, error.to_string()))?
                    .ok_or_else(|| Fault::new(FaultClass::Retry, "ended early"))?;
                match frame.head.kind {
                    FrameKind::Data => {
                        let data = frame.payload.concat();
                        let found: Vec<u8> = data
                            .chunks(CHUNK)
                            .flat_map(|chunk| crc32c(chunk).to_le_bytes())
                            .collect();
                        if found != frame.aux {
                            return Err(Fault::new(FaultClass::Corrupt, "bad chunk"));
                        }
                        bytes.extend_from_slice(&data);
                    }
                    FrameKind::Finish => return Ok(bytes),
                    FrameKind::Abort => return Err(decode(frame.aux).expect("a fault")),
                    other => panic!("{other:?}"),
                }
            }
        })
    }
}

async fn connect(env: &SimEnv, target: &ReplicaTarget) -> Result<SimConn, Fault> {
    let address = target.address.parse().expect("an address");
    let expect = Expect::node(Role::Datanode, target.name.clone());
    env.net()
        .connect(address, &expect)
        .await
        .map_err(|error| Fault::new(FaultClass::Retry, error.to_string()))
}

async fn call<P: Protocol>(
    env: &SimEnv,
    target: &ReplicaTarget,
    request: &P::Request,
) -> Result<P::Response, Fault> {
    let conn = connect(env, target).await?;
    let (client, driver) = CallClient::<P>::open(&conn)
        .await
        .map_err(|error| Fault::new(FaultClass::Retry, error.to_string()))?;
    env.spawn("calls", async move {
        driver.await;
    });
    client
        .call(request)
        .await
        .map_err(|error| match error.fault() {
            Some(fault) => fault.clone(),
            None => Fault::new(FaultClass::Retry, error.to_string()),
        })
}

/// One open pipeline.
pub(crate) struct Writer {
    sender: AppendSender<SimConn>,
    acks: AckReceiver<SimConn>,
    frames: u64,
    _conn: SimConn,
}

impl Writer {
    async fn frame(
        &mut self,
        kind: FrameKind,
        offset: u64,
        aux: Bytes,
        payload: Bytes,
    ) -> Result<u64, Fault> {
        self.frames += 1;
        let sent = self
            .sender
            .send(kind, 0, offset, aux, &mut [payload])
            .await
            .map_err(|error| Fault::new(FaultClass::Retry, error.to_string()));
        if kind == FrameKind::Finish {
            self.sender.finish();
        }
        sent
    }

    async fn await_ack(&mut self, sequence: u64) -> Result<(), Fault> {
        loop {
            let ack = self
                .acks
                .next()
                .await
                .map_err(|error| Fault::new(FaultClass::Retry, error.to_string()))?
                .ok_or_else(|| Fault::new(FaultClass::Retry, "the pipeline ended the stream"))?;
            if let Some(fault) = ack.fault {
                return Err(fault);
            }
            let is_set_up = ack.sequence == u64::MAX;
            if is_set_up == (sequence == u64::MAX) && ack.sequence >= sequence {
                return Ok(());
            }
        }
    }
}

pub(crate) fn block(id: u64, stamp: u64, length: u64) -> Block {
    Block {
        id: BlockId(id),
        generation_stamp: GenerationStamp(stamp),
        length,
    }
}

/// Bytes that differ everywhere and between seeds.
pub(crate) fn content(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    (0..length)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 32) as u8
        })
        .collect()
}
