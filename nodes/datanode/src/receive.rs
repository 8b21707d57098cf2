//! Receiving a block: verify, store, forward, acknowledge (E-22).

use crate::calls::only_datanodes;
use crate::downstream::{Broken, open_downstream};
use crate::error::fault_of;
use crate::node::{NetConn, Node};
use crate::patience::IDLE_MS;
use crate::read::check_pool;
use futures_util::future::{Either, select};
use futures_util::{FutureExt, select_biased};
use hadal_blockpool::{AckBook, AckDebt};
use hadal_daemon::Notify;
use hadal_env::{Conn, Env};
use hadal_proto::datanode::ChangeKind;
use hadal_proto::frame::{Ack, FLAG_HFLUSH, FLAG_HSYNC, FrameKind};
use hadal_proto::transfer::{WriteBlock, WriteStage, ack_timeout_ms};
use hadal_proto::{Fault, FaultClass, decode};
use hadal_quic::{AckReceiver, AckSender, AppendReceiver, AppendSender, FrameReceiver};
use hadal_types::{Block, BlockId, DatanodeUuid, GenerationStamp, ReplicaState, Role};
use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;
use store_replica::{CreateSpec, ReplicaWriter, StoreError};

/// What the frame loop and the reader of downstream acknowledgements share.
struct Progress {
    book: RefCell<AckBook>,
    /// Since when the next node owes an acknowledgement.
    debt: Cell<AckDebt>,
    changed: Notify,
    established: RefCell<bool>,
    /// Nodes behind this one that call themselves slow, a bit each, the next one's the lowest.
    slow_behind: Cell<u64>,
    /// This node's last write or flush took too long.
    slow_here: Cell<bool>,
    /// The end of the block is to be on the device, whatever its header says.
    durable_end: Cell<bool>,
}

pub(crate) async fn receive<E: Env, C: Conn>(
    node: Rc<Node<E>>,
    caller: Role,
    stream: AppendReceiver<C>,
) {
    let header: Result<WriteBlock, _> = decode(stream.header_bytes());
    let (frames, mut acks) = stream.into_parts();
    let _writer = node.count_writer();
    let outcome = match header {
        Ok(header) => receive_block(&node, caller, &header, frames, &mut acks)
            .await
            .inspect_err(|broken| {
                tracing::debug!("write of {}: {}", header.block, broken.fault);
            }),
        Err(error) => Err(Broken::here(Fault::new(
            FaultClass::BadRequest,
            error.to_string(),
        ))),
    };
    if let Err(Broken { bad_node, fault }) = outcome {
        if fault.class == FaultClass::DiskFailed {
            node.alarm.notify();
        }
        let ack = Ack {
            sequence: u64::MAX,
            offset: 0,
            fault: Some(fault),
            bad_node,
            slow_nodes: 0,
        };
        // The writer may be gone already; then there is nobody to tell.
        drop(acks.send(&ack).await);
    }
    acks.finish();
}

async fn receive_block<E: Env, C: Conn>(
    node: &Rc<Node<E>>,
    caller: Role,
    header: &WriteBlock,
    mut frames: FrameReceiver<C>,
    acks: &mut AckSender<C>,
) -> Result<(), Broken> {
    let _count = node.count_stream().map_err(Broken::here)?;
    let mark = node.farewell.mark();
    check_pool(node, &header.pool).map_err(Broken::here)?;
    if is_copy(header) {
        only_datanodes(caller, "a copy of a replica").map_err(Broken::here)?;
    }
    let _move = match header.stage {
        WriteStage::Replace { .. } => Some(node.begin_move().map_err(Broken::here)?),
        _ => None,
    };
    if let WriteStage::CloseRecovery { old, length } = header.stage {
        return close_recovery(node, header, old, length, acks).await;
    }
    let (writer, downstream) = {
        // Both at once: the disk of this node and the way to the next.
        let open = pin!(open_in_time(node, header));
        let dial = pin!(open_downstream(node, header));
        match select(open, dial).await {
            Either::Left((writer, dial)) => (writer?, dial.await),
            Either::Right((downstream, open)) => (open.await?, downstream),
        }
    };
    let downstream = match downstream {
        Ok(downstream) => downstream,
        Err(broken) => {
            park(node, header, writer).await;
            return Err(broken);
        }
    };
    if !is_copy(header) {
        let info = writer.info();
        node.report_change(info.storage, info.block, ChangeKind::Receiving);
    }
    let established = downstream.as_ref().is_none_or(|next| next.established);
    let progress = Progress {
        book: RefCell::new(AckBook::new(
            downstream.is_some() && !node.config.actor.planted.ack_before_downstream,
        )),
        debt: Cell::default(),
        changed: Notify::new(),
        established: RefCell::new(established),
        slow_behind: Cell::new(0),
        slow_here: Cell::new(false),
        durable_end: Cell::new(header.sync_on_close),
    };
    let next = downstream.as_ref().map(|next| next.address);
    let (mut sender, acks_behind) = downstream.map(|next| (next.sender, next.acks)).unzip();
    let mut next_acks = acks_behind.zip(next);
    let timeout_ms = ack_timeout_ms(node.config.stream_timeout_ms, header.targets.len());
    let mut writer = Some(writer);
    let streamed = {
        let frame_loop = pin!(frame_loop(
            node,
            header,
            &mut frames,
            acks,
            &mut sender,
            &mut writer,
            &progress
        ));
        let ack_loop = pin!(ack_loop(node, timeout_ms, &mut next_acks, &progress));
        let asked_to_go = pin!(asked_to_go(node, header, mark));
        match select(select(frame_loop, ack_loop), asked_to_go).await {
            Either::Left((Either::Left((outcome, _)), _)) => outcome,
            Either::Left((Either::Right((broken, _)), _)) | Either::Right((broken, _)) => {
                Err(broken)
            }
        }
    };
    let finish = match streamed {
        Ok(finish) => finish,
        Err(broken) => {
            if let Some(sender) = &mut sender {
                sender.reset(0);
            }
            if let Some(writer) = writer {
                park(node, header, writer).await;
            }
            return Err(broken);
        }
    };
    // Every node behind has the bytes: finalising here and there goes on side by side.
    let writer = writer.expect("the frame loop leaves the writer");
    let storage = writer.info().storage;
    let durably = progress.durable_end.get() && !node.config.actor.planted.skip_sync;
    let (finished, kind) = if header.stage == WriteStage::TransferRbw {
        (
            join_pipeline(node, header, writer).await,
            ChangeKind::Receiving,
        )
    } else {
        let finished = writer.finish(durably).await;
        (finished, ChangeKind::Received)
    };
    let block = match finished {
        Ok(block) => block,
        Err(error) => {
            tracing::warn!("finalising {}: {error}", header.block);
            if is_copy(header) {
                discard_copy(node, header).await;
            }
            return Err(Broken::here(fault_of(&error)));
        }
    };
    let delete_hint = match header.stage {
        WriteStage::Replace { delete_hint } => delete_hint,
        _ => DatanodeUuid(0),
    };
    node.report_with_hint(storage, block, kind, delete_hint);
    progress.book.borrow_mut().handle_local(finish);
    loop {
        let mark = progress.changed.mark();
        send_acks(node, acks, &progress, None).await?;
        if progress.book.borrow().open_frames() == 0 {
            return Ok(());
        }
        let ack_loop = pin!(ack_loop(node, timeout_ms, &mut next_acks, &progress));
        match select(pin!(progress.changed.changed(mark)), ack_loop).await {
            Either::Left(_) => {}
            Either::Right((broken, _)) => return Err(broken),
        }
    }
}

/// Returns only when a writer that began before `mark` must go on without this node (T-P5, T-P7). Copies are nobody's
/// pipeline, and are left to their end.
async fn asked_to_go<E: Env>(node: &Node<E>, header: &WriteBlock, mark: u64) -> Broken {
    if is_copy(header) {
        return std::future::pending().await;
    }
    node.farewell.said(mark).await;
    Broken::here(node.farewell.fault(&node.config.name))
}

/// Whether the stream brings a copy, TEMPORARY until its end.
fn is_copy(header: &WriteBlock) -> bool {
    matches!(
        header.stage,
        WriteStage::Copy | WriteStage::TransferRbw | WriteStage::Replace { .. }
    )
}

/// The bytes of an open replica are all here: RBW, waiting for the pipeline that this node joins (E-21).
async fn join_pipeline<E: Env>(
    node: &Rc<Node<E>>,
    header: &WriteBlock,
    writer: ReplicaWriter<E::Disk>,
) -> Result<Block, StoreError> {
    let Block {
        id,
        generation_stamp: stamp,
        ..
    } = header.block;
    let length = writer.info().block.length;
    let store = node.store().map_err(|_| StoreError::NotFound { id })?;
    let writer = store.convert_temporary(id, stamp, length).await?;
    let block = writer.info().block;
    writer.park().await?;
    Ok(block)
}

/// A close that failed at some node is done again at all (E-21): FINALIZED under the new stamp.
async fn close_recovery<E: Env, C: Conn>(
    node: &Rc<Node<E>>,
    header: &WriteBlock,
    old: GenerationStamp,
    length: u64,
    acks: &mut AckSender<C>,
) -> Result<(), Broken> {
    let store = node.store().map_err(Broken::here)?;
    let Block {
        id,
        generation_stamp: stamp,
        ..
    } = header.block;
    let known = Block {
        id,
        generation_stamp: old,
        length,
    };
    let finish = async {
        let block = store
            .recover_close(known, stamp)
            .await
            .map_err(|error| Broken::here(fault_of(&error)))?;
        let storage = store.get(id).map(|info| info.storage).unwrap_or_default();
        node.report_change(storage, block, ChangeKind::Received);
        Ok::<_, Broken>(())
    };
    let behind = async {
        let Some(mut next) = open_downstream(node, header).await? else {
            return Ok(());
        };
        if next.established {
            return Ok(());
        }
        let timeout_ms = ack_timeout_ms(node.config.stream_timeout_ms, header.targets.len());
        let deadline = node.env.now().after_ms(timeout_ms);
        let ack = next.acks.next();
        match select(pin!(ack), pin!(node.env.sleep_until(deadline))).await {
            Either::Left((Ok(Some(ack)), _)) => Broken::behind(&ack).map_or(Ok(()), Err),
            Either::Left((Ok(None), _)) => Err(Broken::next("the next node ended the stream")),
            Either::Left((Err(error), _)) => Err(Broken::next(error.to_string())),
            Either::Right(_) => Err(Broken::next("the next node does not acknowledge")),
        }
    };
    let (here, behind) = futures_util::future::join(finish, behind).await;
    here.and(behind)?;
    acks.send(&established())
        .await
        .map_err(|error| Broken::upstream(error.to_string()))
}

/// The acknowledgement that says that the pipeline from here on is set up.
fn established() -> Ack {
    Ack {
        sequence: u64::MAX,
        offset: 0,
        fault: None,
        bad_node: u8::MAX,
        slow_nodes: 0,
    }
}

async fn park<E: Env>(node: &Node<E>, header: &WriteBlock, writer: ReplicaWriter<E::Disk>) {
    // The writer is told of what went wrong after this, and in time.
    match node.within(node.work_timeout_ms() / 2, writer.park()).await {
        Some(Ok(())) => {}
        Some(Err(error)) => tracing::warn!("parking {}: {error}", header.block),
        None => tracing::warn!("parking {}: {}", header.block, node.busy(header.block)),
    }
}

/// A node that had left the pipeline (it died, and has what it had then as RWR) may join again: its outdated replica goes
/// (E-17; HDFS's createTemporary for a transfer). Only the pipeline's own copy may replace it: it has every byte that was
/// acknowledged.
async fn give_way<E: Env>(node: &Rc<Node<E>>, id: BlockId, stamp: GenerationStamp) {
    let Ok(store) = node.store() else { return };
    let outdated = store.get(id).filter(|info| {
        matches!(info.state, ReplicaState::Rwr | ReplicaState::Finalized)
            && info.block.generation_stamp < stamp
    });
    let Some(outdated) = outdated else { return };
    let gone = match store.delete(id, outdated.block.generation_stamp).await {
        Ok(deleted) => {
            node.report_change(deleted.storage, deleted.block, ChangeKind::Deleted);
            store.collect(deleted).await
        }
        Err(error) => Err(error),
    };
    if let Err(error) = gone {
        tracing::warn!("removing the outdated {}: {error}", outdated.block);
    }
}

/// Removes a copy that could not be finalised: left here, it would refuse every later one (E-12).
async fn discard_copy<E: Env>(node: &Rc<Node<E>>, header: &WriteBlock) {
    let Ok(store) = node.store() else { return };
    let block = header.block;
    let is_copy = store.get(block.id).is_some_and(|info| {
        info.state == ReplicaState::Temporary
            && info.block.generation_stamp == block.generation_stamp
    });
    if !is_copy {
        return;
    }
    let outcome = match store.delete(block.id, block.generation_stamp).await {
        Ok(deleted) => store.collect(deleted).await,
        Err(error) => Err(error),
    };
    if let Err(error) = outcome {
        tracing::warn!("removing the copy of {block}: {error}");
    }
}

async fn open_in_time<E: Env>(
    node: &Rc<Node<E>>,
    header: &WriteBlock,
) -> Result<ReplicaWriter<E::Disk>, Broken> {
    let opened = node.within(node.work_timeout_ms(), open_writer(node, header));
    let busy = || Err(Broken::here(node.busy(header.block)));
    opened.await.unwrap_or_else(busy)
}

async fn open_writer<E: Env>(
    node: &Rc<Node<E>>,
    header: &WriteBlock,
) -> Result<ReplicaWriter<E::Disk>, Broken> {
    let store = node.store().map_err(Broken::here)?;
    let spec = CreateSpec {
        bytes_per_checksum: header.bytes_per_checksum,
        expected_length: header.expected_length,
        storage: None,
    };
    let Block {
        id,
        generation_stamp: stamp,
        length,
    } = header.block;
    if let Some(info) = store.get(id)
        && !is_copy(header)
        && info.bytes_per_checksum != header.bytes_per_checksum
    {
        let message = format!(
            "{id} has {} bytes per checksum, the writer has {}",
            info.bytes_per_checksum, header.bytes_per_checksum
        );
        return Err(Broken::here(Fault::new(
            FaultClass::InvalidArgument,
            message,
        )));
    }
    let on_disk = |generation_stamp: GenerationStamp| Block {
        id,
        generation_stamp,
        length,
    };
    let opened = match &header.stage {
        WriteStage::Create => store.create_rbw(id, stamp, spec).await,
        WriteStage::Copy | WriteStage::Replace { .. } => {
            store.create_temporary(id, stamp, spec).await
        }
        WriteStage::TransferRbw => {
            give_way(node, id, stamp).await;
            store.create_temporary(id, stamp, spec).await
        }
        WriteStage::Append { old } => {
            store
                .append(on_disk(*old), stamp, header.expected_length)
                .await
        }
        WriteStage::AppendRecovery { old } => {
            store
                .recover_append(on_disk(*old), stamp, header.expected_length)
                .await
        }
        WriteStage::StreamingRecovery { old, acked } => {
            // A recovery that failed half way may have raised the stamp here already: anything between the settled
            // stamp and the new one is this writer's.
            let here = store
                .get(id)
                .map(|info| info.block)
                .filter(|block| (*old..stamp).contains(&block.generation_stamp));
            let from = here.map_or(*old, |block| block.generation_stamp);
            match store.recover_rbw(id, from, stamp, *acked, u64::MAX).await {
                // It had finished before the pipeline broke elsewhere: reopened, the bytes are all here.
                Err(StoreError::NotRbw {
                    state: ReplicaState::Finalized,
                    ..
                }) => {
                    let known = Block {
                        id,
                        generation_stamp: from,
                        length: here.map_or(0, |block| block.length),
                    };
                    store
                        .recover_append(known, stamp, header.expected_length)
                        .await
                }
                other => other,
            }
        }
        WriteStage::CloseRecovery { .. } => unreachable!("a close recovery has no writer"),
    };
    opened.map_err(|error| Broken::here(fault_of(&error)))
}

/// Takes frames until the end of the block; returns the sequence of its last frame. Acknowledgements due are sent
/// in between.
async fn frame_loop<E: Env, C: Conn>(
    node: &Rc<Node<E>>,
    header: &WriteBlock,
    frames: &mut FrameReceiver<C>,
    acks: &mut AckSender<C>,
    downstream: &mut Option<AppendSender<NetConn<E>>>,
    writer: &mut Option<ReplicaWriter<E::Disk>>,
    progress: &Progress,
) -> Result<u64, Broken> {
    let writer = writer.as_mut().expect("the writer was just opened");
    let mut told_established = false;
    let mut rested = false;
    // Frames before the last: what must be acknowledged downstream before the replica is finalised.
    let mut before_finish = None;
    let mut finishing = None;
    loop {
        let mark = progress.changed.mark();
        if !told_established && *progress.established.borrow() {
            told_established = true;
            acks.send(&established())
                .await
                .map_err(|error| Broken::upstream(error.to_string()))?;
        }
        send_acks(node, acks, progress, Some(writer)).await?;
        if let Some(finish) = finishing {
            if before_finish.is_none_or(|sequence| progress.book.borrow().downstream_has(sequence))
            {
                return Ok(finish);
            }
            progress.changed.changed(mark).await;
            continue;
        }
        let patience_ms = match rested {
            true => node.config.stream_timeout_ms,
            false => IDLE_MS.min(node.config.stream_timeout_ms),
        };
        let deadline = node.env.now().after_ms(patience_ms);
        let frame = {
            let mut timeout = pin!(node.env.sleep_until(deadline).fuse());
            let mut changed = pin!(progress.changed.changed(mark).fuse());
            let mut next = pin!(frames.next().fuse());
            select_biased! {
                () = changed => continue,
                frame = next => frame,
                () = timeout => match writer.is_current() {
                    // A program may pause as long as it likes (T-P19): that the writer lives, and every node between,
                    // the connections' own keep-alives say, both ways and at a third of their time-out; one that is
                    // gone ends the stream. Only a replica that is another's by now need not be waited for. Meanwhile
                    // its buffers are others'.
                    true => {
                        if !rested && !node.config.actor.planted.skip_hflush {
                            let rest = node.within(node.work_timeout_ms(), writer.rest());
                            let rest = rest.await.unwrap_or(Ok(()));
                            rest.map_err(|error| Broken::here(fault_of(&error)))?;
                        }
                        rested = true;
                        continue;
                    }
                    false => return Err(Broken::upstream("another took the replica over")),
                },
            }
        };
        let frame = match frame {
            Ok(Some(frame)) => frame,
            Ok(None) => {
                return Err(Broken::upstream(
                    "the writer ended the stream before the end of the block",
                ));
            }
            Err(error) => return Err(Broken::upstream(error.to_string())),
        };
        rested = false;
        let head = frame.head;
        let end = match head.kind {
            FrameKind::Data => head
                .offset
                .checked_add(u64::from(head.payload_length))
                .ok_or_else(|| {
                    let message = format!("a frame at byte {} of {}", head.offset, header.block);
                    Broken::here(Fault::new(FaultClass::BadRequest, message))
                })?,
            FrameKind::Finish => head.offset,
            _ => writer.info().block.length,
        };
        progress
            .book
            .borrow_mut()
            .handle_received(head.sequence, end);
        if !progress.book.borrow().downstream_is_complete() {
            let debt = progress.debt.get().sent(node.env.now());
            progress.debt.set(debt);
        }
        if let Some(downstream) = downstream {
            let mut pieces = frame.payload.clone();
            downstream
                .send(
                    head.kind,
                    head.flags,
                    head.offset,
                    frame.aux.clone(),
                    &mut pieces,
                )
                .await
                .map_err(|error| Broken::next(error.to_string()))?;
        }
        let mut flags = head.flags;
        let began = node.env.now();
        match head.kind {
            FrameKind::Data => {
                let write = writer.write(head.offset, &frame.payload, &frame.aux);
                let written = node.within(node.work_timeout_ms(), write).await;
                written
                    .ok_or_else(|| Broken::here(node.busy(header.block)))?
                    .map_err(|error| Broken::here(fault_of(&error)))?;
                if matches!(header.stage, WriteStage::Replace { .. }) {
                    node.pay(u64::from(head.payload_length)).await;
                }
            }
            FrameKind::Flush => flags |= FLAG_HFLUSH,
            FrameKind::Sync => flags |= FLAG_HSYNC,
            FrameKind::KeepAlive => {}
            FrameKind::Abort => return Err(Broken::upstream("the writer gave the block up")),
            FrameKind::Finish => {
                let length = writer.info().block.length;
                if length != head.offset {
                    let message = format!(
                        "{} ends at {} but {length} bytes came",
                        header.block, head.offset
                    );
                    return Err(Broken::here(Fault::new(FaultClass::BadRequest, message)));
                }
                if let Some(downstream) = downstream {
                    downstream.finish();
                }
                if flags & FLAG_HSYNC != 0 {
                    progress.durable_end.set(true);
                }
                finishing = Some(head.sequence);
                continue;
            }
        }
        let planted = &node.config.actor.planted;
        let durably = flags & FLAG_HSYNC != 0 && !planted.skip_sync && !planted.skip_hsync;
        let flushed = if durably {
            writer.sync().await.map(|_| ())
        } else if flags & (FLAG_HFLUSH | FLAG_HSYNC) != 0 && !planted.skip_hflush {
            writer.flush().await.map(|_| ())
        } else {
            Ok(())
        };
        flushed.map_err(|error| Broken::here(fault_of(&error)))?;
        let (took_ms, limit_ms) = (node.env.now().ms_since(began), node.config.slow_write_ms);
        progress.slow_here.set(limit_ms > 0 && took_ms >= limit_ms);
        if planted.show_unacked {
            writer.set_visible_length(u64::MAX);
        }
        before_finish = Some(head.sequence);
        progress.book.borrow_mut().handle_local(head.sequence);
    }
}

/// Sends what may be acknowledged now. Readers may see the bytes before the writer hears of them, never after.
async fn send_acks<E: Env, C: Conn>(
    node: &Rc<Node<E>>,
    acks: &mut AckSender<C>,
    progress: &Progress,
    writer: Option<&ReplicaWriter<E::Disk>>,
) -> Result<(), Broken> {
    let due = progress.book.borrow_mut().poll_ack();
    let Some((sequence, offset)) = due else {
        return Ok(());
    };
    if let Some(writer) = writer {
        let chunk = u64::from(writer.info().bytes_per_checksum);
        writer.set_visible_length(match node.config.actor.planted.hide_tail {
            true => offset / chunk * chunk,
            false => offset,
        });
    }
    let ack = Ack {
        sequence,
        offset,
        fault: None,
        bad_node: u8::MAX,
        slow_nodes: progress.slow_behind.get() << 1 | u64::from(progress.slow_here.get()),
    };
    acks.send(&ack)
        .await
        .map_err(|error| Broken::upstream(error.to_string()))
}

/// Reads the next node's acknowledgements for as long as the stream lives; returns only when it breaks.
async fn ack_loop<E: Env>(
    node: &Rc<Node<E>>,
    timeout_ms: u64,
    acks: &mut Option<(AckReceiver<NetConn<E>>, SocketAddr)>,
    progress: &Progress,
) -> Broken {
    let Some((acks, address)) = acks else {
        return std::future::pending().await;
    };
    loop {
        let deadline = progress.debt.get().deadline(node.env.now(), timeout_ms);
        let ack = match select(pin!(acks.next()), pin!(node.env.sleep_until(deadline))).await {
            Either::Left((ack, _)) => ack,
            // Nothing was owed when the wait began, or not for so long.
            Either::Right(_)
                if progress.debt.get().deadline(node.env.now(), timeout_ms) > node.env.now() =>
            {
                continue;
            }
            Either::Right(_) => return Broken::next("the next node does not acknowledge"),
        };
        match ack {
            Ok(Some(ack)) => {
                if let Some(broken) = Broken::behind(&ack) {
                    return broken;
                }
                node.peers.heard(*address);
                *progress.established.borrow_mut() = true;
                if ack.sequence != u64::MAX {
                    progress.slow_behind.set(ack.slow_nodes);
                    progress.book.borrow_mut().handle_downstream(ack.sequence);
                    let complete = progress.book.borrow().downstream_is_complete();
                    progress
                        .debt
                        .set(AckDebt::after_ack(node.env.now(), complete));
                }
                progress.changed.notify();
            }
            Ok(None) if progress.book.borrow().downstream_is_complete() => {
                return std::future::pending().await;
            }
            Ok(None) => return Broken::next("the next node ended the stream"),
            Err(error) => return Broken::next(error.to_string()),
        }
    }
}
