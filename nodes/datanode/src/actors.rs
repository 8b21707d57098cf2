//! One task per NameNode: connects, and does what the actor's mind asks for.

use crate::commands;
use crate::error::RunError;
use crate::node::{ActorSlot, Node};
use crate::reports::{self, Round};
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt, StreamExt, select_biased};
use hadal_blockpool::{ActorOutput, ClaimOutcome, Failure};
use hadal_env::{Env, Expect, Net};
use hadal_proto::Fault;
use hadal_proto::FaultClass;
use hadal_proto::datanode::{
    Claim, DatanodeProtocol, DigestAsk, Heartbeat, IncrementalReport, Registration, Request,
    Response, StorageReport,
};
use hadal_quic::{CallClient, CallError};
use hadal_types::{CURRENT_LAYOUT, Role, StorageUuid, Tick};
use std::rc::Rc;
use store_replica::StoreError;

/// Between two tries to reach a NameNode.
const REDIAL_MS: u64 = 500;

/// What a call came to.
enum Outcome {
    Version(Result<Response, CallError>),
    Registered(Result<Response, CallError>),
    Heartbeat(Result<Response, CallError>),
    Incremental(Result<Response, CallError>),
    Report(StorageUuid, Result<(), CallError>),
    Digest(
        StorageUuid,
        Result<Option<DigestAsk>, CallError>,
        Option<Claim>,
    ),
    BadBlocks(Result<Response, CallError>),
    ErrorReport(Result<Response, CallError>),
    TransferFailed(Result<Response, CallError>),
}

/// Talks to a NameNode until it refuses this DataNode for good or is taken off the list.
pub(crate) async fn run<E: Env>(node: Rc<Node<E>>, slot: Rc<ActorSlot>) {
    let peer = slot.peer.clone();
    let expect = Expect::node(Role::Namenode, peer.name.clone());
    let mut quiet = false;
    while !is_over(&slot) {
        let dialled = node.env.net().connect(peer.address, &expect).await;
        let opened = match dialled {
            Ok(conn) => CallClient::<DatanodeProtocol>::open(&conn)
                .await
                .map(|opened| (conn, opened)),
            Err(error) => Err(error),
        };
        match opened {
            Ok((conn, (client, driver))) => {
                quiet = false;
                slot.distrust.borrow_mut().reached();
                *slot.client.borrow_mut() = Some(client.clone());
                serve(&node, &slot, client, driver).await;
                *slot.client.borrow_mut() = None;
                drop(conn);
            }
            Err(error) => {
                if !quiet {
                    tracing::warn!(
                        "NameNode {} at {} cannot be reached: {error}",
                        peer.name,
                        peer.address
                    );
                    quiet = true;
                }
                slot.distrust.borrow_mut().failed(&error);
                node.check_trusted();
            }
        }
        slot.core.borrow_mut().handle_disconnected(node.env.now());
        node.answered.notify();
        if is_over(&slot) {
            break;
        }
        let jitter = node.env.random_u64() % REDIAL_MS;
        node.env
            .sleep_until(node.env.now().after_ms(REDIAL_MS / 2 + jitter))
            .await;
    }
    if let Some(reason) = slot.core.borrow().refusal() {
        tracing::error!("NameNode {} is not served any more: {reason}", peer.name);
    }
    node.handle_actor_gone(&slot);
}

fn is_over(slot: &ActorSlot) -> bool {
    slot.removed.get() || slot.core.borrow().refusal().is_some()
}

async fn serve<E: Env>(
    node: &Rc<Node<E>>,
    slot: &Rc<ActorSlot>,
    client: CallClient<DatanodeProtocol>,
    driver: impl Future<Output = hadal_env::NetError>,
) {
    let driver = driver.fuse();
    let mut driver = std::pin::pin!(driver);
    let mut calls = FuturesUnordered::new();
    loop {
        if is_over(slot) {
            return;
        }
        let now = node.env.now();
        let mark = slot.wake.mark();
        loop {
            let output = slot.core.borrow_mut().poll_output(now);
            let Some(output) = output else { break };
            // A digest is of the replicas as they are now, so it is taken before anything else happens.
            let digest = match &output {
                ActorOutput::SendDigest {
                    storage,
                    report_id,
                    includes,
                    ask,
                } => Some(reports::round(
                    node,
                    *storage,
                    *report_id,
                    *includes,
                    ask.as_ref(),
                )),
                _ => None,
            };
            calls.push(perform(Rc::clone(node), client.clone(), output, digest).boxed_local());
        }
        let due = slot.core.borrow().poll_timeout().unwrap_or(Tick::NEVER);
        let deadline = due.min(now.after_ms(60_000));
        let sleep = node.env.sleep_until(deadline).fuse();
        let woken = slot.wake.changed(mark).fuse();
        let (mut sleep, mut woken) = (std::pin::pin!(sleep), std::pin::pin!(woken));
        select_biased! {
            error = driver => {
                tracing::warn!("lost NameNode {}: {error}", slot.peer.name);
                break;
            }
            outcome = calls.select_next_some() => {
                handle(node, slot, outcome).await;
                node.answered.notify();
            }
            () = woken => {}
            () = sleep => {}
        }
    }
    // Why the stream ended may stand in the answers: a refusal must not be taken for a lost connection.
    while let Some(outcome) = calls.next().await {
        handle(node, slot, outcome).await;
    }
}

async fn perform<E: Env>(
    node: Rc<Node<E>>,
    client: CallClient<DatanodeProtocol>,
    output: ActorOutput,
    digest: Option<Result<Round, Fault>>,
) -> Outcome {
    match output {
        ActorOutput::SendVersionRequest => {
            Outcome::Version(client.call(&Request::VersionRequest).await)
        }
        ActorOutput::SendRegister => {
            let registration = registration(&node);
            Outcome::Registered(client.call(&Request::Register { registration }).await)
        }
        ActorOutput::SendHeartbeat { wants_report } => {
            let heartbeat = heartbeat(&node, wants_report).await;
            Outcome::Heartbeat(client.call(&Request::Heartbeat { heartbeat }).await)
        }
        ActorOutput::SendIncremental { sequence, changes } => {
            let report = IncrementalReport {
                uuid: node.uuid,
                sequence,
                changes,
            };
            Outcome::Incremental(client.call(&Request::IncrementalReport { report }).await)
        }
        ActorOutput::SendReport {
            storage,
            report_id,
            includes,
        } => {
            let sent = reports::full(&node, &client, storage, report_id, includes).await;
            Outcome::Report(storage, sent)
        }
        ActorOutput::SendDigest { storage, .. } => {
            let answer = match digest.expect("taken with the order to send it") {
                Ok(Round::Tell(report)) => client.call(&Request::DigestReport { report }).await,
                Ok(Round::Full) => {
                    return Outcome::Digest(storage, Ok(Some(DigestAsk::Full)), None);
                }
                Err(fault) => Err(CallError::Fault(fault)),
            };
            match answer {
                Ok(Response::Digest { claim, ask, .. }) => {
                    Outcome::Digest(storage, Ok(ask), Some(claim))
                }
                Ok(other) => {
                    let what = format!("a digest report was answered with {}", other.name());
                    let fault = Fault::new(FaultClass::BadRequest, what);
                    Outcome::Digest(storage, Err(CallError::Fault(fault)), None)
                }
                Err(error) => Outcome::Digest(storage, Err(error), None),
            }
        }
        ActorOutput::SendBadBlocks { blocks } => {
            Outcome::BadBlocks(client.call(&Request::ReportBadBlocks { blocks }).await)
        }
        ActorOutput::SendTransferFailed { block, target } => {
            let request = Request::TransferFailed {
                uuid: node.uuid,
                block,
                target,
            };
            Outcome::TransferFailed(client.call(&request).await)
        }
        ActorOutput::SendErrorReport { code, message } => {
            Outcome::ErrorReport(client.call(&Request::ErrorReport { code, message }).await)
        }
    }
}

fn registration<E: Env>(node: &Node<E>) -> Registration {
    let config = &node.config;
    Registration {
        uuid: node.uuid,
        name: config.name.clone(),
        address: config.address.clone(),
        http_address: config.http_address.clone(),
        shards: 1,
        rack: config.rack.clone(),
        layout: CURRENT_LAYOUT,
        info: node
            .service
            .borrow()
            .info()
            .cloned()
            .expect("phase 1 came before (A-11)"),
        software: config.software.clone(),
        storages: storages(node),
    }
}

fn storages<E: Env>(node: &Node<E>) -> Vec<StorageReport> {
    let Ok(store) = node.store() else {
        return Vec::new();
    };
    let report = |volume: store_replica::VolumeStatus| StorageReport {
        storage: volume.storage,
        failed: volume.failed.is_some(),
        capacity: volume.capacity,
        used: volume.used,
        remaining: volume.remaining,
        pool_used: volume.used,
        blocks: volume.replicas as u64,
    };
    store.volumes().into_iter().map(report).collect()
}

async fn heartbeat<E: Env>(node: &Node<E>, wants_report: Vec<StorageUuid>) -> Heartbeat {
    if let Ok(store) = node.store() {
        store.refresh_space().await;
    }
    let storages = storages(node);
    let failed_volumes = u32::try_from(node.failed_volumes().len()).unwrap_or(u32::MAX);
    let service = node.service.borrow();
    let acknowledged = service.acknowledged();
    Heartbeat {
        uuid: node.uuid,
        failed_volumes,
        storages,
        transfers: node.copies.get(),
        streams: node.streams.get(),
        acknowledged,
        wants_report,
        executed: service.executed(acknowledged),
    }
}

async fn handle<E: Env>(node: &Rc<Node<E>>, slot: &Rc<ActorSlot>, outcome: Outcome) {
    let now = node.env.now();
    match outcome {
        Outcome::Version(Ok(Response::Version {
            info,
            claim,
            software,
        })) => {
            let known = node.service.borrow_mut().handle_info(&info);
            if let Err(error) = known {
                // this actor only; another NameNode may be the right one.
                let reason = format!("{error}; {}", node.whose_data());
                slot.core.borrow_mut().handle_refused(reason);
                return;
            }
            let outcome = node.open_store(&info).await;
            let now = node.env.now();
            match outcome {
                Ok(()) if node.store.borrow().is_some() => {
                    slot.core.borrow_mut().handle_version(now);
                    apply_claim(node, slot, &claim).await;
                    tracing::info!(
                        "NameNode {} runs {software}, namespace {}",
                        slot.peer.name,
                        info.namespace_id
                    );
                }
                // Another actor is opening the volumes.
                Ok(()) => slot.core.borrow_mut().handle_version_failed(now),
                Err(error) => {
                    let code = match &error {
                        RunError::VolumesFailed { .. } => crate::EXIT_VOLUMES_FAILED,
                        RunError::Store(StoreError::Disk(_) | StoreError::NoVolume) => {
                            crate::EXIT_VOLUMES_FAILED
                        }
                        _ => crate::EXIT_REFUSED,
                    };
                    node.env.stop(code, &error.to_string());
                }
            }
        }
        Outcome::Registered(Ok(Response::Registered { info })) => {
            // it may be another process by now than the one that phase 1 was with.
            let known = node.service.borrow_mut().handle_info(&info);
            if let Err(error) = known {
                let reason = format!("{error}; {}", node.whose_data());
                slot.core.borrow_mut().handle_refused(reason);
                return;
            }
            slot.core.borrow_mut().handle_registered(now);
            tracing::info!("registered with NameNode {}", slot.peer.name);
        }
        Outcome::Heartbeat(Ok(Response::Heartbeat {
            claim,
            commands,
            report_slot,
        })) => {
            apply_claim(node, slot, &claim).await;
            slot.core.borrow_mut().handle_heartbeat(report_slot);
            commands::run_all(node, slot, commands);
        }
        Outcome::Incremental(Ok(Response::Reported {
            sequence,
            claim,
            commands,
        })) => {
            apply_claim(node, slot, &claim).await;
            slot.core.borrow_mut().handle_incremental(sequence);
            commands::run_all(node, slot, commands);
        }
        Outcome::Digest(storage, Ok(ask), claim) => {
            if let Some(claim) = claim {
                apply_claim(node, slot, &claim).await;
            }
            let now = node.env.now();
            slot.core.borrow_mut().handle_digest(now, storage, ask);
        }
        Outcome::Report(storage, Ok(())) => slot.core.borrow_mut().handle_report_done(now, storage),
        Outcome::BadBlocks(result) => {
            let error = notice_error(slot, "report of bad blocks", result);
            let failure = error.as_ref().map(failure_of);
            slot.core
                .borrow_mut()
                .handle_bad_blocks(now, failure.as_ref());
        }
        Outcome::ErrorReport(result) => {
            let error = notice_error(slot, "error report", result);
            let failure = error.as_ref().map(failure_of);
            slot.core
                .borrow_mut()
                .handle_error_report(now, failure.as_ref());
        }
        Outcome::TransferFailed(result) => {
            let error = notice_error(slot, "word of a failed copy", result);
            let failure = error.as_ref().map(failure_of);
            slot.core
                .borrow_mut()
                .handle_transfer_failed(now, failure.as_ref());
        }
        Outcome::Version(result) => {
            let error = result.err();
            log_failure(slot, "version request", error.as_ref());
            match error.as_ref().and_then(CallError::fault) {
                Some(fault) if is_refusal(fault) => {
                    slot.core.borrow_mut().handle_refused(fault.message.clone());
                }
                _ => slot.core.borrow_mut().handle_version_failed(now),
            }
        }
        Outcome::Registered(result) => {
            let error = result.err();
            log_failure(slot, "registration", error.as_ref());
            match error.as_ref().and_then(CallError::fault) {
                Some(fault) => slot.core.borrow_mut().handle_fault(now, fault),
                None => slot.core.borrow_mut().handle_register_failed(now),
            }
        }
        Outcome::Heartbeat(result) | Outcome::Incremental(result) => {
            failed(slot, "report", now, result.err());
        }
        Outcome::Report(_, Err(error)) | Outcome::Digest(_, Err(error), _) => {
            let fault = error.fault().cloned();
            log_failure(slot, "block report", Some(&error));
            slot.core
                .borrow_mut()
                .handle_report_failed(now, fault.as_ref());
        }
    }
}

/// Whether no further try changes a fault of the handshake.
fn is_refusal(fault: &Fault) -> bool {
    matches!(
        fault.class,
        FaultClass::IncorrectVersion | FaultClass::IdentityMismatch | FaultClass::Forbidden
    )
}

fn notice_error(
    slot: &ActorSlot,
    what: &str,
    result: Result<Response, CallError>,
) -> Option<CallError> {
    let error = result.err()?;
    log_failure(slot, what, Some(&error));
    Some(error)
}

fn failure_of(error: &CallError) -> Failure<'_> {
    match error {
        CallError::Fault(fault) => Failure::Fault(fault),
        CallError::Net(_) | CallError::BadAnswer(_) => Failure::Lost,
    }
}

fn failed(slot: &ActorSlot, what: &str, now: Tick, error: Option<CallError>) {
    log_failure(slot, what, error.as_ref());
    let fault = match error {
        Some(CallError::Fault(fault)) => fault,
        _ => Fault::new(FaultClass::Retry, "the connection was lost"),
    };
    slot.core.borrow_mut().handle_fault(now, &fault);
}

fn log_failure(slot: &ActorSlot, what: &str, error: Option<&CallError>) {
    let name = &slot.peer.name;
    match error {
        Some(error) => tracing::warn!("{what} to NameNode {name} failed: {error}"),
        None => tracing::warn!("{what} to NameNode {name} got an answer that does not fit"),
    }
}

/// Applies a claim and makes a newly acknowledged epoch durable before any of its commands runs (M-L7).
async fn apply_claim<E: Env>(node: &Rc<Node<E>>, slot: &ActorSlot, claim: &Claim) {
    let outcome = node.service.borrow_mut().handle_claim(slot.index, claim);
    let name = &slot.peer.name;
    match outcome {
        ClaimOutcome::Unchanged => {}
        ClaimOutcome::Acknowledged { taken_over: false } => {
            tracing::info!(
                "acknowledging {name} as active in epoch {} at txid {}",
                claim.epoch,
                claim.txid
            );
        }
        ClaimOutcome::Acknowledged { taken_over: true } => {
            tracing::warn!(
                "{name} takes over as active in epoch {} at txid {}",
                claim.epoch,
                claim.txid
            );
        }
        ClaimOutcome::Ignored => {
            tracing::warn!(
                "{name} claims to be active in epoch {} at txid {}: older",
                claim.epoch,
                claim.txid
            );
        }
        ClaimOutcome::Lost => tracing::warn!("{name} is active no more"),
    }
    let Some(epoch) = node.service.borrow().poll_persist() else {
        return;
    };
    // One writer at a time: who finds the record taken leaves it to the next heartbeat.
    let Some(mut record) = node.epoch_record.borrow_mut().take() else {
        return;
    };
    match record.store(epoch).await {
        Ok(failed) => {
            for (dir, reason) in failed {
                node.fail_volume(&dir, &reason);
            }
            node.service.borrow_mut().handle_persisted(epoch);
        }
        Err(error) => {
            node.env.stop(crate::EXIT_EPOCH_RECORD, &error);
            return;
        }
    }
    *node.epoch_record.borrow_mut() = Some(record);
}
