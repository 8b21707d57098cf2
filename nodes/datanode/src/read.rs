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
        let sent = match reader.next().await {
            Ok(Some(part)) => {
                sender
                    .send(
                        FrameKind::Data,
                        0,
                        part.offset,
                        part.checksums,
                        &mut [part.data],
                    )
                    .await
            }
            Ok(None) => {
                let end = sender
                    .send(FrameKind::Finish, 0, reply.end, Bytes::new(), &mut [])
                    .await;
                sender.finish();
                if let Err(error) = end {
                    tracing::debug!("reader of {} left: {error}", header.block);
                }
                return;
            }
            Err(error) => {
                tracing::warn!("reading {}: {error}", header.block);
                let fault = fault_of(&error);
                let sent = sender
                    .send(FrameKind::Abort, 0, 0, encode(&fault), &mut [])
                    .await;
                sender.finish();
                drop(sent);
                if matches!(error, StoreError::Corrupt { .. } | StoreError::Disk(_)) {
                    scanner::suspect(&node, header.block.id);
                }
                return;
            }
        };
        if let Err(error) = sent {
            tracing::debug!("reader of {} left: {error}", header.block);
            return;
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
