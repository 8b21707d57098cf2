//! The way to the next node of a pipeline, and who is to blame when it breaks.

use crate::node::{NetConn, Node};
use hadal_env::{Env, Expect, NetError};
use hadal_proto::frame::Ack;
use hadal_proto::transfer::{TransferProtocol, WriteBlock, ack_timeout_ms};
use hadal_proto::{Fault, FaultClass, Protocol};
use hadal_quic::{AckReceiver, AppendSender, open_append};
use hadal_types::Role;
use std::net::SocketAddr;
use std::rc::Rc;

/// Why a pipeline broke, and which node is to blame counted from here (0 is this one).
pub(crate) struct Broken {
    pub(crate) bad_node: u8,
    pub(crate) fault: Fault,
}

impl Broken {
    pub(crate) fn here(fault: Fault) -> Self {
        Self { bad_node: 0, fault }
    }

    pub(crate) fn next(reason: impl Into<String>) -> Self {
        Self {
            bad_node: 1,
            fault: Fault::new(FaultClass::Retry, reason),
        }
    }

    /// The peer that writes to us is gone: nobody to blame, nobody to tell.
    pub(crate) fn upstream(reason: impl Into<String>) -> Self {
        Self {
            bad_node: u8::MAX,
            fault: Fault::new(FaultClass::Retry, reason),
        }
    }

    /// What the next node said, if its acknowledgement tells of a fault. One that blames nobody is to blame itself.
    pub(crate) fn behind(ack: &Ack) -> Option<Self> {
        let bad_node = match ack.bad_node {
            u8::MAX => 1,
            behind => behind.saturating_add(1),
        };
        let fault = ack.fault.clone()?;
        Some(Self { bad_node, fault })
    }
}

/// The stream to the next node.
pub(crate) struct Downstream<E: Env> {
    pub(crate) sender: AppendSender<NetConn<E>>,
    pub(crate) acks: AckReceiver<NetConn<E>>,
    /// Where it goes.
    pub(crate) address: SocketAddr,
    /// All nodes behind have said already that they are set up.
    pub(crate) established: bool,
}

/// Why there is no stream to the next node.
enum Failed {
    /// The connection broke, and nobody said a word.
    Lost(NetError),
    /// The next node, or one behind it, said why not; or none of them said anything in time.
    Broken(Broken),
}

/// Opens the stream to the next node, if there is one.
///
/// A kept connection may lead to a process that was killed, and whose successor resets it. That is no fault of the node:
/// over a connection that was silent for a while nothing is sent before the answer, and one that breaks until then is
/// made anew.
pub(crate) async fn open_downstream<E: Env>(
    node: &Rc<Node<E>>,
    header: &WriteBlock,
) -> Result<Option<Downstream<E>>, Broken> {
    let Some((next, rest)) = header.targets.split_first() else {
        return Ok(None);
    };
    let address = next.address_for(header.block.id).ok_or_else(|| {
        Broken::next(format!(
            "{} has the malformed address {}",
            next.name, next.address
        ))
    })?;
    let forwarded = WriteBlock {
        storage: next.storage,
        targets: rest.to_vec(),
        ..header.clone()
    };
    let expect = Expect::node(Role::Datanode, next.name.clone());
    let open = async {
        let doubted = node.peers.doubts(address);
        match dial(node, &forwarded, address, &expect, doubted).await {
            Err(Failed::Lost(error)) if doubted && !node.peers.keeps(address) => {
                tracing::debug!("{}: {error}; connecting anew", next.name);
                dial(node, &forwarded, address, &expect, false).await
            }
            outcome => outcome,
        }
    };
    let timeout_ms = ack_timeout_ms(node.config.stream_timeout_ms, header.targets.len());
    match node.within(timeout_ms, open).await {
        Some(Ok(opened)) => Ok(Some(opened)),
        Some(Err(Failed::Lost(error))) => Err(Broken::next(format!("{}: {error}", next.name))),
        Some(Err(Failed::Broken(broken))) => Err(broken),
        None => Err(Broken::next(format!("{} does not answer", next.name))),
    }
}

/// One try; `wait`: until the nodes behind are set up.
async fn dial<E: Env>(
    node: &Rc<Node<E>>,
    forwarded: &WriteBlock,
    address: SocketAddr,
    expect: &Expect,
    wait: bool,
) -> Result<Downstream<E>, Failed> {
    let conn = node.peers.connect(address, expect).await;
    let conn = conn.map_err(Failed::Lost)?;
    let (protocol, version) = (TransferProtocol::ID, TransferProtocol::VERSION);
    let opened = open_append(&conn, protocol, version, forwarded);
    let (sender, mut acks) = opened.await.map_err(Failed::Lost)?;
    if wait {
        match acks.next().await.map_err(Failed::Lost)? {
            Some(ack) => {
                if let Some(broken) = Broken::behind(&ack) {
                    return Err(Failed::Broken(broken));
                }
            }
            None => {
                let broken = Broken::next("the next node ended the stream");
                return Err(Failed::Broken(broken));
            }
        }
        node.peers.heard(address);
    }
    Ok(Downstream {
        sender,
        acks,
        address,
        established: wait,
    })
}
