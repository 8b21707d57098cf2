//! Copying a replica to other DataNodes on the NameNode's order (re-replication).

use crate::node::Node;
use bytes::Bytes;
use hadal_env::{Env, Expect};
use hadal_proto::Protocol;
use hadal_proto::datanode::TransferWork;
use hadal_proto::frame::FrameKind;
use hadal_proto::transfer::{TransferProtocol, WriteBlock, WriteStage};
use hadal_quic::open_append;
use hadal_types::{ClientId, Role};
use std::rc::Rc;
use store_replica::StoreError;

/// Copies at once (HDFS `dfs.namenode.replication.max-streams-hard-limit`).
const COPIES_MAX: u32 = 16;
/// Wait before looking for room again.
const COPY_WAIT_MS: u64 = 20;

pub(crate) async fn copy<E: Env>(node: Rc<Node<E>>, work: TransferWork) {
    while node.copies.get() >= COPIES_MAX {
        node.env
            .sleep_until(node.env.now().after_ms(COPY_WAIT_MS))
            .await;
    }
    node.copies.set(node.copies.get() + 1);
    if let Err(reason) = send(&node, &work).await {
        tracing::warn!("copying {}: {reason}", work.block);
    }
    node.copies.set(node.copies.get() - 1);
}

async fn send<E: Env>(node: &Rc<Node<E>>, work: &TransferWork) -> Result<(), String> {
    let store = node.store().map_err(|fault| fault.message)?;
    let id = work.block.id;
    let info = store.get(id).ok_or("no such replica here")?;
    let block = info.block;
    if block.generation_stamp != work.block.generation_stamp {
        return Err(format!("the replica here is {block}"));
    }
    let (first, rest) = work.targets.split_first().ok_or("no target")?;
    let address = first
        .address_for(id)
        .ok_or_else(|| format!("malformed address {}", first.address))?;
    let header = WriteBlock {
        pool: node
            .service
            .borrow()
            .info()
            .map(|info| info.block_pool_id.clone())
            .unwrap_or_default(),
        block: hadal_types::Block { length: 0, ..block },
        stage: WriteStage::Copy,
        storage: first.storage,
        targets: rest.to_vec(),
        bytes_per_checksum: info.bytes_per_checksum,
        client: ClientId(0),
        sync_on_close: true,
        expected_length: block.length,
        token: Default::default(),
    };
    let expect = Expect::node(Role::Datanode, first.name.clone());
    let conn = node
        .peer(address, &expect)
        .await
        .map_err(|error| error.to_string())?;
    let (mut sender, mut acks) = open_append(
        &conn,
        TransferProtocol::ID,
        TransferProtocol::VERSION,
        &header,
    )
    .await
    .map_err(|error| error.to_string())?;
    let mut reader = store
        .open_reader(id, block.generation_stamp, 0, block.length)
        .await
        .map_err(|error| error.to_string())?;
    loop {
        match reader.next().await {
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
                    .map_err(|error| error.to_string())?;
            }
            Ok(None) => break,
            Err(error) => {
                sender.reset(0);
                if matches!(error, StoreError::Corrupt { .. }) {
                    node.report_bad(block, info.storage);
                }
                return Err(error.to_string());
            }
        }
    }
    let last = sender
        .send(FrameKind::Finish, 0, block.length, Bytes::new(), &mut [])
        .await
        .map_err(|error| error.to_string())?;
    sender.finish();
    loop {
        match acks.next().await.map_err(|error| error.to_string())? {
            None => return Err("the target ended the stream".into()),
            Some(ack) => match ack.fault {
                Some(fault) => {
                    // The target found the bytes wrong: ours are.
                    if fault.class == hadal_proto::FaultClass::Corrupt {
                        node.report_bad(block, info.storage);
                    }
                    return Err(fault.message);
                }
                None if ack.sequence != u64::MAX && ack.sequence >= last => return Ok(()),
                None => {}
            },
        }
    }
}
