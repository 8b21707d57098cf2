//! Small calls: lengths and checksums for readers, and what operators ask.

use crate::copy;
use crate::error::fault_of;
use crate::local;
use crate::node::Node;
use crate::read::check_pool;
use crate::recovery;
use hadal_env::{Conn, Env};
use hadal_proto::admin::{self, AdminProtocol, NodeStatus, ReplicaStatus};
use hadal_proto::transfer::{Request, Response, TransferProtocol, WriteStage};
use hadal_proto::{Fault, FaultClass};
use hadal_quic::CallRequests;
use hadal_types::{Block, HaState, Role, mix};
use std::rc::Rc;
use store_record::checksum::crc32c_append;

/// Replicas in one page of `debug dn-replicas`.
const REPLICAS_PAGE: usize = 10_000;

pub(crate) async fn serve_transfer<E: Env, C: Conn>(
    node: Rc<Node<E>>,
    caller: Role,
    mut requests: CallRequests<TransferProtocol, C>,
) {
    while let Some((request, responder)) = requests.next().await {
        let node = Rc::clone(&node);
        let env = node.env.clone();
        env.spawn("datanode call", async move {
            responder.answer(transfer(&node, caller, request).await)
        });
    }
}

/// What operators do, and nobody else.
fn only_operators(caller: Role, what: &str) -> Result<(), Fault> {
    if caller == Role::Admin {
        return Ok(());
    }
    let message = format!("{what} is for operators; the caller's certificate says {caller}");
    Err(Fault::new(FaultClass::Forbidden, message))
}

/// Block recovery and copies are between DataNodes: nobody else may stop a writer, or bring what replaces a replica.
pub(crate) fn only_datanodes(caller: Role, what: &str) -> Result<(), Fault> {
    if caller == Role::Datanode {
        return Ok(());
    }
    Err(Fault::new(
        FaultClass::Forbidden,
        format!("{what} is for DataNodes; the caller's certificate says {caller}"),
    ))
}

async fn transfer<E: Env>(
    node: &Rc<Node<E>>,
    caller: Role,
    request: Request,
) -> Result<Response, Fault> {
    let store = node.store()?;
    match request {
        Request::GetVisibleLength { pool, block, .. } => {
            check_pool(node, &pool)?;
            let length = store
                .visible_length(block.id, block.generation_stamp)
                .map_err(|error| fault_of(&error))?;
            Ok(Response::VisibleLength { length })
        }
        Request::GetBlockChecksum { pool, block, .. } => {
            check_pool(node, &pool)?;
            let info = store.get(block.id).ok_or_else(|| {
                Fault::new(
                    FaultClass::NotFound,
                    format!("{}: no replica of it here", block.id),
                )
            })?;
            let mut reader = store
                .open_reader(block.id, block.generation_stamp, 0, info.visible_length)
                .await
                .map_err(|error| fault_of(&error))?;
            let mut crc = 0;
            while let Some(part) = reader.next().await.map_err(|error| fault_of(&error))? {
                crc = crc32c_append(crc, &part.checksums);
            }
            let length = info.visible_length;
            Ok(Response::Checksum {
                crc,
                bytes_per_checksum: info.bytes_per_checksum,
                length,
            })
        }
        Request::InitReplicaRecovery {
            pool,
            block,
            recovery_id,
        } => {
            only_datanodes(caller, "InitReplicaRecovery")?;
            check_pool(node, &pool)?;
            let info = recovery::init(node, block, recovery_id).await?;
            Ok(Response::ReplicaInfo { info })
        }
        Request::UpdateReplica {
            pool,
            block,
            recovery_id,
            new_id,
            new_length,
        } => {
            only_datanodes(caller, "UpdateReplica")?;
            check_pool(node, &pool)?;
            if new_id != block.id {
                let message = format!(
                    "copy-on-truncate of {} to {new_id} is not supported in this version",
                    block.id
                );
                return Err(Fault::new(FaultClass::Unsupported, message));
            }
            let storage = recovery::finish(node, block, recovery_id, new_length).await?;
            Ok(Response::Updated { storage })
        }
        Request::OpenLocal { pool, block, .. } => {
            check_pool(node, &pool)?;
            let local = local::open_local(node, block)?;
            Ok(Response::Local { local })
        }
        Request::TransferReplica {
            pool,
            block,
            targets,
            ..
        } => {
            check_pool(node, &pool)?;
            let _count = node.count_stream()?;
            let stamp = block.generation_stamp;
            copy::copy_block(node, block.id, stamp, WriteStage::TransferRbw, &targets)
                .await
                .map_err(|error| error.fault)?;
            Ok(Response::Done)
        }
        Request::ReplaceBlock {
            pool,
            block,
            target,
            delete_hint,
            ..
        } => {
            only_operators(caller, "ReplaceBlock")?;
            check_pool(node, &pool)?;
            let _stream = node.count_stream()?;
            let _move = node.begin_move()?;
            let (stamp, stage) = (block.generation_stamp, WriteStage::Replace { delete_hint });
            copy::copy_block(node, block.id, stamp, stage, &[target])
                .await
                .map_err(|error| error.fault)?;
            Ok(Response::Done)
        }
    }
}

pub(crate) async fn serve_admin<E: Env, C: Conn>(
    node: Rc<Node<E>>,
    mut requests: CallRequests<AdminProtocol, C>,
) {
    while let Some((request, responder)) = requests.next().await {
        responder.answer(admin(&node, request));
    }
}

fn admin<E: Env>(node: &Rc<Node<E>>, request: admin::Request) -> Result<admin::Response, Fault> {
    let now = node.env.now();
    match request {
        admin::Request::GetStatus => Ok(admin::Response::Status {
            status: NodeStatus {
                name: node.config.name.clone(),
                role: "datanode".into(),
                state: HaState::Initializing,
                safe_mode: node.store.borrow().is_none(),
                info: node.service.borrow().info().cloned().unwrap_or_default(),
                software: node.config.software.clone(),
            },
        }),
        admin::Request::Replicas { after, limit } => {
            let store = node.store()?;
            let mut all: Vec<ReplicaStatus> = Vec::new();
            for volume in store.volumes() {
                let finalized = store.finalized(volume.storage).into_iter();
                let open = store.open_replicas(volume.storage).into_iter();
                let ids = finalized
                    .map(|block| block.id)
                    .chain(open.map(|replica| replica.block.id));
                for info in ids.filter_map(|id| store.get(id)) {
                    let (file, file_offset) = store.locate(info.block.id).unwrap_or_default();
                    all.push(ReplicaStatus {
                        block: Block {
                            length: info.visible_length,
                            ..info.block
                        },
                        state: info.state,
                        storage: info.storage,
                        file: file.display().to_string(),
                        file_offset,
                    });
                }
            }
            all.sort_unstable_by_key(|replica| mix(replica.block.id));
            all.retain(|replica| after == 0 || mix(replica.block.id) > after);
            let limit = (limit as usize).clamp(1, REPLICAS_PAGE);
            let more = all.len() > limit;
            all.truncate(limit);
            Ok(admin::Response::Replicas {
                replicas: all,
                more,
            })
        }
        admin::Request::TriggerBlockReport => {
            for slot in node.slots() {
                slot.core.borrow_mut().full_report_now(now);
                slot.wake.notify();
            }
            Ok(admin::Response::Done)
        }
        admin::Request::RefreshNamenodes => {
            node.refresh_namenodes()?;
            Ok(admin::Response::Done)
        }
        admin::Request::ShutdownDatanode { for_upgrade } => {
            node.shut_down(for_upgrade)?;
            Ok(admin::Response::Done)
        }
        admin::Request::EvictWriters => {
            node.farewell.evict();
            Ok(admin::Response::Done)
        }
        admin::Request::GetBalancerBandwidth => Ok(admin::Response::BalancerBandwidth {
            bytes_per_s: node.balance.bytes_per_s(),
        }),
        admin::Request::TriggerHeartbeat => {
            for slot in node.slots() {
                slot.core.borrow_mut().heartbeat_now(now);
                slot.wake.notify();
            }
            Ok(admin::Response::Done)
        }
        other => Err(Fault::new(
            FaultClass::Unsupported,
            format!("{} is not something a DataNode answers", other.name()),
        )),
    }
}
