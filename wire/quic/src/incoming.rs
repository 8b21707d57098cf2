//! What a peer opened: prelude, version and role checked before anything else is looked at.

use crate::answers::CallStream;
use crate::append::{AppendReceiver, StreamError, read_prefixed};
use crate::code;
use crate::read::ReadResponder;
use crate::reader::Reader;
use bytes::Bytes;
use hadal_env::{Conn, NetError, RecvStream, SendStream};
use hadal_proto::codec::Wire;
use hadal_proto::frame::{Prelude, STREAM_HEADER_CAP, StreamKind};
use hadal_proto::{
    FaultClass, Protocol, ProtocolId, admin, client, datanode, election, ha, image, qjournal,
    transfer,
};
use std::sync::atomic::{AtomicU64, Ordering};

/// Streams refused by this process, for metrics. Nothing is published through it.
static REFUSED: AtomicU64 = AtomicU64::new(0);

/// How many streams [`accept`] refused in this process so far: malformed, another version, or not
/// for the caller's role.
#[must_use]
pub fn refused_streams() -> u64 {
    REFUSED.load(Ordering::Relaxed)
}

/// A stream a peer opened.
pub enum Incoming<C: Conn> {
    /// Calls.
    Call(ProtocolId, CallStream<C>),
    /// Frames to append.
    Append(ProtocolId, AppendReceiver<C>),
    /// A question to be answered with frames.
    Read(ProtocolId, ReadResponder<C>),
}

impl<C: Conn> Incoming<C> {
    /// The protocol it was opened for.
    #[must_use]
    pub fn protocol(&self) -> ProtocolId {
        match self {
            Self::Call(protocol, _) | Self::Append(protocol, _) | Self::Read(protocol, _) => {
                *protocol
            }
        }
    }

    /// Resets the stream with the code of `class`: for a protocol this node does not serve.
    pub fn refuse(self, class: FaultClass) {
        let (mut send, mut reader) = match self {
            Self::Call(_, stream) => (stream.send, stream.reader),
            Self::Append(_, stream) => (stream.send, stream.reader),
            Self::Read(_, stream) => (stream.send, stream.reader),
        };
        refuse(&mut send, &mut reader, class);
    }
}

/// The next stream the peer opened that passes: a prelude, a protocol its role may use
/// ([`ProtocolId::allows`], T-A2), the version spoken here. One that does not is reset with the code of
/// [`FaultClass::BadRequest`], [`FaultClass::Forbidden`] or [`FaultClass::IncorrectVersion`] and counted
/// ([`refused_streams`]); the connection goes on.
///
/// Not cancel-safe: dropped while it waits, it may reset the stream whose first bytes it was
/// reading. Give it a task of its own.
///
/// # Errors
/// Only when the connection has ended.
pub async fn accept<C: Conn>(conn: &C) -> Result<Incoming<C>, NetError> {
    loop {
        let (mut send, recv) = conn.accept().await?;
        let mut reader = Reader::new(recv);
        let (prelude, header) = match begin(conn, &mut reader).await {
            Ok(begun) => begun,
            Err(refusal) => {
                tracing::warn!(peer = %conn.peer(), reason = %refusal.reason, "stream refused");
                refuse(&mut send, &mut reader, refusal.class);
                continue;
            }
        };
        let Prelude {
            kind,
            protocol,
            version,
        } = prelude;
        return Ok(match kind {
            StreamKind::Call => Incoming::Call(
                protocol,
                CallStream {
                    version,
                    protocol,
                    send,
                    reader,
                },
            ),
            StreamKind::Append => Incoming::Append(
                protocol,
                AppendReceiver {
                    version,
                    header,
                    send,
                    reader,
                },
            ),
            StreamKind::Read => Incoming::Read(
                protocol,
                ReadResponder {
                    version,
                    header,
                    send,
                    reader,
                },
            ),
        });
    }
}

struct Refusal {
    class: FaultClass,
    reason: String,
}

impl Refusal {
    fn malformed(error: &StreamError) -> Self {
        Self {
            class: FaultClass::BadRequest,
            reason: error.to_string(),
        }
    }
}

async fn begin<C: Conn>(
    conn: &C,
    reader: &mut Reader<C::Recv>,
) -> Result<(Prelude, Bytes), Refusal> {
    match reader.fill(Prelude::MIN_LEN).await {
        Ok(true) => {}
        Ok(false) => {
            return Err(Refusal {
                class: FaultClass::BadRequest,
                reason: "it ended inside its prelude".into(),
            });
        }
        Err(error) => return Err(Refusal::malformed(&error.into())),
    }
    let prelude: Prelude = hadal_proto::decode(reader.take(Prelude::MIN_LEN))
        .map_err(|error| Refusal::malformed(&StreamError::Malformed(error)))?;
    let role = conn.peer().role;
    if !prelude.protocol.allows(role) {
        return Err(Refusal {
            class: FaultClass::Forbidden,
            reason: format!("role {role} may not use protocol {:?}", prelude.protocol),
        });
    }
    let version = spoken(prelude.protocol);
    if version != prelude.version {
        return Err(Refusal {
            class: FaultClass::IncorrectVersion,
            reason: format!(
                "it speaks version {} of protocol {:?}, this node speaks {version}: upgrade the older one",
                prelude.version, prelude.protocol
            ),
        });
    }
    if prelude.kind == StreamKind::Call {
        return Ok((prelude, Bytes::new()));
    }
    match read_prefixed(reader, "stream header", STREAM_HEADER_CAP).await {
        Ok(Some(header)) => Ok((prelude, header)),
        Ok(None) => Err(Refusal {
            class: FaultClass::BadRequest,
            reason: "it ended before its header".into(),
        }),
        Err(error) => Err(Refusal::malformed(&error)),
    }
}

/// The version spoken of a protocol.
fn spoken(protocol: ProtocolId) -> u16 {
    match protocol {
        ProtocolId::Client => client::ClientProtocol::VERSION,
        ProtocolId::Datanode => datanode::DatanodeProtocol::VERSION,
        ProtocolId::Qjournal => qjournal::QjournalProtocol::VERSION,
        ProtocolId::Transfer => transfer::TransferProtocol::VERSION,
        ProtocolId::Admin => admin::AdminProtocol::VERSION,
        ProtocolId::Election => election::ElectionProtocol::VERSION,
        ProtocolId::Ha => ha::HaProtocol::VERSION,
        ProtocolId::Image => image::ImageProtocol::VERSION,
    }
}

fn refuse<S: SendStream, R: RecvStream>(send: &mut S, reader: &mut Reader<R>, class: FaultClass) {
    REFUSED.fetch_add(1, Ordering::Relaxed);
    send.reset(code::of(class));
    reader.stop(code::of(class));
}
