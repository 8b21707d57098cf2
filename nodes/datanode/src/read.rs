//! Serving a read: checksums and data as they lie on the disk, verified by the reader.

use crate::error::fault_of;
use crate::node::Node;
use crate::scanner;
use bytes::Bytes;
use hadal_env::{Conn, Env};
use hadal_proto::frame::FrameKind;
use hadal_proto::transfer::{ReadBlock, ReadReply};
use hadal_proto::{Fault, FaultClass, decode, encode};
use hadal_quic::ReadResponder;
use std::rc::Rc;
use store_replica::{ReplicaReader, StoreError};

pub(crate) async fn serve_read<E: Env, C: Conn>(node: Rc<Node<E>>, stream: ReadResponder<C>) {
    let header: ReadBlock = match decode(stream.header_bytes()) {
        Ok(header) => header,
        Err(error) => {
            stream
                .refuse(Fault::new(FaultClass::BadRequest, error.to_string()))
                .await;
            return;
        }
    };
    let opened = match node.count_stream() {
        Ok(count) => open(&node, &header).await.map(|opened| (opened, count)),
        Err(fault) => Err(fault),
    };
    let ((reply, mut reader), _count) = match opened {
        Ok(opened) => opened,
        Err(fault) => {
            stream.refuse(fault).await;
            return;
        }
    };
    let mut sender = match stream.accept(&reply).await {
        Ok(sender) => sender,
        Err(error) => {
            tracing::debug!("reader of {} left: {error}", header.block);
            return;
        }
    };
    loop {
        let part = node.within(node.work_timeout_ms(), reader.next()).await;
        let (kind, offset, aux, data) = match part {
            Some(Ok(Some(part))) => (FrameKind::Data, part.offset, part.checksums, part.data),
            Some(Ok(None)) => (FrameKind::Finish, reply.end, Bytes::new(), Bytes::new()),
            Some(Err(error)) => {
                tracing::warn!("reading {}: {error}", header.block);
                if matches!(error, StoreError::Corrupt { .. } | StoreError::Disk(_)) {
                    scanner::suspect(&node, header.block.id);
                }
                let fault = encode(&fault_of(&error));
                (FrameKind::Abort, 0, fault, Bytes::new())
            }
            None => {
                let fault = encode(&node.busy(header.block));
                (FrameKind::Abort, 0, fault, Bytes::new())
            }
        };
        let mut data = [data];
        let payload = match kind {
            FrameKind::Data => &mut data[..],
            _ => &mut [],
        };
        let sent = sender.send(kind, 0, offset, aux, payload);
        match node.within(node.send_timeout_ms(), sent).await {
            Some(Ok(_)) if kind == FrameKind::Data => {}
            Some(Ok(_)) => return sender.finish(),
            Some(Err(error)) => {
                tracing::debug!("reader of {} left: {error}", header.block);
                return;
            }
            // It is reset with that, and what it did not take is free.
            None => {
                let waited_ms = node.send_timeout_ms();
                tracing::info!(
                    "a reader of {} took nothing for {waited_ms} ms: given up",
                    header.block
                );
                return;
            }
        }
    }
}

type Opened<E> = (ReadReply, ReplicaReader<<E as Env>::Disk>);

async fn open<E: Env>(node: &Rc<Node<E>>, header: &ReadBlock) -> Result<Opened<E>, Fault> {
    let store = node.store()?;
    check_pool(node, &header.pool)?;
    let id = header.block.id;
    let info = store.get(id).ok_or_else(|| {
        Fault::new(
            FaultClass::NotFound,
            format!("{id}: no replica of it on {}", node.config.name),
        )
    })?;
    let visible = info.visible_length;
    let length = header.length.min(visible.saturating_sub(header.offset));
    let reader = store
        .open_reader(id, header.block.generation_stamp, header.offset, length)
        .await
        .map_err(|error| fault_of(&error))?;
    let chunk = u64::from(info.bytes_per_checksum);
    let reply = ReadReply {
        bytes_per_checksum: info.bytes_per_checksum,
        start: header.offset / chunk * chunk,
        end: (header.offset + length)
            .next_multiple_of(chunk)
            .min(visible),
        visible_length: visible,
    };
    Ok((reply, reader))
}

/// A request must name the pool this DataNode serves (F-15).
pub(crate) fn check_pool<E: Env>(
    node: &Rc<Node<E>>,
    pool: &hadal_types::BlockPoolId,
) -> Result<(), Fault> {
    let service = node.service.borrow();
    match service.info() {
        Some(info) if info.block_pool_id == *pool => Ok(()),
        Some(info) => Err(Fault::new(
            FaultClass::IdentityMismatch,
            format!(
                "block belongs to BP {pool} instead of BP {}",
                info.block_pool_id
            ),
        )),
        None => Err(Fault::new(
            FaultClass::Retry,
            "this DataNode has not met its NameNode yet; try again",
        )),
    }
}
