//! Block recovery (E-18..E-20, protocols.md section 5): the primary's work, and what it asks of each location.

use crate::error::fault_of;
use crate::node::Node;
use futures_util::future::{Either, join_all, select};
use hadal_blockpool::recovery::{Answer, Participant, RecoveryError, conclude, plan};
use hadal_env::{Env, Expect};
use hadal_proto::client::ReplicaTarget;
use hadal_proto::datanode::{self, ChangeKind, RecoveryWork};
use hadal_proto::transfer::{ReplicaInfo, Request, Response, TransferProtocol};
use hadal_proto::{Fault, FaultClass};
use hadal_quic::CallClient;
use hadal_types::{Block, BlockId, GenerationStamp, Role, StorageUuid};
use std::pin::pin;
use std::rc::Rc;

/// Recoveries this node leads at once; the NameNode orders those past it again.
const RECOVERIES_MAX: u32 = 64;

/// RECOVERBLOCK: leads the recovery of these blocks.
pub(crate) fn recover_all<E: Env>(node: &Rc<Node<E>>, work: Vec<RecoveryWork>) {
    for work in work {
        let running = node.recoveries.get();
        if running >= RECOVERIES_MAX {
            tracing::warn!("{}: {running} recoveries run here already", work.block);
            continue;
        }
        node.recoveries.set(running + 1);
        let lead = Rc::clone(node);
        node.env.spawn("datanode recovery", async move {
            match lead_recovery(&lead, &work).await {
                Ok(()) => lead.env.happened("block recoveries"),
                Err(Failure::Recovery(error @ RecoveryError::Preempted { .. })) => {
                    tracing::info!("{error}");
                }
                Err(Failure::Recovery(error)) => tracing::warn!("{error}"),
                Err(Failure::Commit(reason)) => tracing::warn!(
                    "recovery {} of {} is not committed: {reason}",
                    work.recovery_id,
                    work.block
                ),
            }
            lead.recoveries.set(lead.recoveries.get() - 1);
        });
    }
}

enum Failure {
    Recovery(RecoveryError),
    Commit(String),
}

async fn lead_recovery<E: Env>(node: &Rc<Node<E>>, work: &RecoveryWork) -> Result<(), Failure> {
    let asked = work
        .locations
        .iter()
        .map(|target| ask(node, target, work.block, work.recovery_id));
    let answers = join_all(asked).await;
    let plan = plan(work, &answers).map_err(Failure::Recovery)?;
    let updates = plan
        .participants
        .iter()
        .map(|participant| update(node, work, *participant, plan.length));
    let results = join_all(updates).await;
    for (participant, result) in plan.participants.iter().zip(&results) {
        if let Err(reason) = result {
            let name = &work.locations[participant.location].name;
            tracing::warn!("recovery of {}: {name}: {reason}", work.block);
        }
    }
    let done = conclude(work, &plan, &results).map_err(Failure::Recovery)?;
    let commit = datanode::Request::CommitBlockSynchronization {
        block: work.block.id,
        recovery_id: work.recovery_id,
        length: done.length,
        nodes: done.nodes,
        delete: done.delete,
    };
    // Through whoever is active now (E-20); it knows whether this is still the recovery it wants.
    let active = node.service.borrow().active();
    let client = node
        .slots()
        .into_iter()
        .find(|slot| Some(slot.index) == active)
        .and_then(|slot| slot.client.borrow().clone());
    let client = client
        .ok_or_else(|| Failure::Commit("no active NameNode is known and connected".into()))?;
    match timed(node, client.call(&commit)).await {
        Some(Ok(_)) => {
            tracing::info!(
                "recovered {} as {} bytes with stamp {}",
                work.block,
                done.length,
                work.recovery_id
            );
            Ok(())
        }
        Some(Err(error)) => Err(Failure::Commit(error.to_string())),
        None => Err(Failure::Commit("the NameNode does not answer".into())),
    }
}

/// The result of `call`, or `None` after the stream time-out (T-R8).
async fn timed<E: Env, T>(node: &Rc<Node<E>>, call: impl Future<Output = T>) -> Option<T> {
    node.within(node.config.stream_timeout_ms, call).await
}

/// One call to another DataNode.
async fn call<E: Env>(
    node: &Rc<Node<E>>,
    target: &ReplicaTarget,
    id: BlockId,
    request: &Request,
) -> Result<Response, Fault> {
    let lost = |reason: String| Fault::new(FaultClass::Retry, reason);
    let address = target
        .address_for(id)
        .ok_or_else(|| lost(format!("malformed address {}", target.address)))?;
    let expect = Expect::node(Role::Datanode, target.name.clone());
    let talk = async {
        let conn = node
            .peers
            .connect(address, &expect)
            .await
            .map_err(|error| lost(error.to_string()))?;
        let (client, driver) = CallClient::<TransferProtocol>::open(&conn)
            .await
            .map_err(|error| lost(error.to_string()))?;
        let called = client.call(request);
        match select(pin!(called), pin!(driver)).await {
            Either::Left((answer, _)) => answer,
            // The call knows why.
            Either::Right((_, called)) => called.await,
        }
        .map_err(|error| match error.fault() {
            Some(fault) => fault.clone(),
            None => lost(error.to_string()),
        })
    };
    timed(node, talk)
        .await
        .unwrap_or_else(|| Err(lost("no answer in time".into())))
}

fn pool_of<E: Env>(node: &Rc<Node<E>>) -> hadal_types::BlockPoolId {
    let service = node.service.borrow();
    service
        .info()
        .map(|info| info.block_pool_id.clone())
        .unwrap_or_default()
}

async fn ask<E: Env>(
    node: &Rc<Node<E>>,
    target: &ReplicaTarget,
    block: Block,
    recovery_id: GenerationStamp,
) -> Answer {
    let said = if target.datanode == node.uuid {
        // A writer stuck in the disk must not hold the others up.
        timed(node, init(node, block, recovery_id))
            .await
            .unwrap_or_else(|| Err(Fault::new(FaultClass::Retry, "the disk does not answer")))
    } else {
        let request = Request::InitReplicaRecovery {
            pool: pool_of(node),
            block,
            recovery_id,
        };
        match call(node, target, block.id, &request).await {
            Ok(Response::ReplicaInfo { info }) => Ok(info),
            Ok(other) => Err(Fault::new(
                FaultClass::BadRequest,
                format!("answered with {}", other.name()),
            )),
            Err(fault) => Err(fault),
        }
    };
    match said {
        Ok(Some(info)) => Answer::Replica(info),
        Ok(None) => Answer::Absent,
        Err(fault) if fault.class == FaultClass::RecoveryInProgress => Answer::Preempted,
        Err(fault) if fault.class == FaultClass::Retry => Answer::Silent(fault.message),
        Err(fault) => Answer::Failed(fault.message),
    }
}

async fn update<E: Env>(
    node: &Rc<Node<E>>,
    work: &RecoveryWork,
    participant: Participant,
    new_length: u64,
) -> Result<StorageUuid, String> {
    let target = &work.locations[participant.location];
    let block = Block {
        length: participant.old_length,
        ..work.block
    };
    if target.datanode == node.uuid {
        return finish(node, block, work.recovery_id, new_length)
            .await
            .map_err(|fault| fault.message);
    }
    let request = Request::UpdateReplica {
        pool: pool_of(node),
        block,
        recovery_id: work.recovery_id,
        new_id: block.id,
        new_length,
    };
    match call(node, target, block.id, &request).await {
        Ok(Response::Updated { storage }) => Ok(storage),
        Ok(other) => Err(format!("answered with {}", other.name())),
        Err(fault) => Err(fault.message),
    }
}

/// InitReplicaRecovery here: stops the writer and freezes the replica (T-R5, T-R6).
pub(crate) async fn init<E: Env>(
    node: &Rc<Node<E>>,
    block: Block,
    recovery_id: GenerationStamp,
) -> Result<Option<ReplicaInfo>, Fault> {
    let store = node.store()?;
    let found = store
        .init_recovery(block.id, block.generation_stamp, recovery_id)
        .await
        .map_err(|error| fault_of(&error))?;
    Ok(found.and_then(|found| {
        let info = store.get(block.id)?;
        Some(ReplicaInfo {
            block: found.block,
            state: found.original_state,
            storage: info.storage,
        })
    }))
}

/// UpdateReplica here: FINALIZED with the recovery's stamp and length, and the NameNodes are told (T-R7).
pub(crate) async fn finish<E: Env>(
    node: &Rc<Node<E>>,
    block: Block,
    recovery_id: GenerationStamp,
    new_length: u64,
) -> Result<StorageUuid, Fault> {
    let store = node.store()?;
    let done = store
        .update_recovered(block.id, recovery_id, block.length, new_length)
        .await
        .map_err(|error| fault_of(&error))?;
    let storage = store
        .get(block.id)
        .map(|info| info.storage)
        .unwrap_or_default();
    node.report_change(storage, done, ChangeKind::Received);
    Ok(storage)
}
