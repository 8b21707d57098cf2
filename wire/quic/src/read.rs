//! Read streams: one question, a reply, then frames back.

use crate::answers::put_outcome;
use crate::append::{AppendSender, FrameReceiver, StreamError, malformed, open, read_prefixed};
use crate::calls::CallError;
use crate::reader::Reader;
use bytes::Bytes;
use hadal_env::{Conn, NetError, NetErrorKind, SendStream};
use hadal_proto::codec::Wire;
use hadal_proto::frame::{Answer, STREAM_HEADER_CAP, StreamKind};
use hadal_proto::{Fault, FaultClass, ProtocolId};

/// Asks, and waits for the reply. The frames that follow it are read from the returned receiver;
/// dropping that tells the other side to stop.
///
/// # Errors
/// [`CallError::Fault`] when the other side refused.
///
/// # Panics
/// When the header is over [`STREAM_HEADER_CAP`].
pub async fn open_read<C: Conn, H: Wire, R: Wire>(
    conn: &C,
    protocol: ProtocolId,
    version: u16,
    header: &H,
) -> Result<(R, FrameReceiver<C>), CallError> {
    let (mut send, recv) = open(conn, StreamKind::Read, protocol, version, header).await?;
    send.finish();
    let mut reader = Reader::new(recv);
    let bytes = match read_prefixed(&mut reader, "reply", STREAM_HEADER_CAP).await {
        Ok(Some(bytes)) => bytes,
        Ok(None) => {
            return Err(CallError::Net(NetError::new(
                NetErrorKind::Closed,
                "the peer ended the stream without a reply",
            )));
        }
        Err(StreamError::Net(error)) => return Err(CallError::ended(error)),
        Err(StreamError::Malformed(error)) => return Err(CallError::BadAnswer(error)),
        Err(error) => return Err(CallError::Net(malformed("reply", &error))),
    };
    match hadal_proto::decode::<Answer<R>>(bytes) {
        Ok(Answer(Ok(reply))) => Ok((reply, FrameReceiver::new(reader))),
        Ok(Answer(Err(fault))) => Err(CallError::Fault(fault)),
        Err(error) => Err(CallError::BadAnswer(error)),
    }
}

/// A read stream a peer opened.
pub struct ReadResponder<C: Conn> {
    pub(crate) version: u16,
    pub(crate) header: Bytes,
    pub(crate) send: C::Send,
    pub(crate) reader: Reader<C::Recv>,
}

impl<C: Conn> ReadResponder<C> {
    /// The version the opener speaks.
    #[must_use]
    pub fn version(&self) -> u16 {
        self.version
    }

    /// The encoded header: decode it as the protocol's.
    #[must_use]
    pub fn header_bytes(&self) -> Bytes {
        self.header.clone()
    }

    /// Grants the read: sends the reply, then the caller sends the frames. A reader that has enough
    /// stops the stream: the sender's next write fails with [`NetErrorKind::Reset`].
    ///
    /// # Errors
    /// The stream's.
    ///
    /// # Panics
    /// When the reply is over [`STREAM_HEADER_CAP`].
    pub async fn accept<R: Wire>(mut self, reply: &R) -> Result<AppendSender<C>, NetError> {
        self.send.write_chunk(prefixed_outcome(Ok(reply))).await?;
        Ok(AppendSender::new(self.send))
    }

    /// Refuses the read.
    pub async fn refuse(mut self, fault: Fault) {
        let reply = prefixed_outcome::<bool>(Err(&fault));
        if let Err(error) = self.send.write_chunk(reply).await {
            tracing::debug!(%error, "refusal not sent");
            return;
        }
        self.send.finish();
    }

    /// Refuses the read by resetting the stream, which needs no waiting.
    pub fn reset(mut self, class: FaultClass) {
        let code = crate::code::of(class);
        self.reader.stop(code);
        self.send.reset(code);
    }
}

fn prefixed_outcome<R: Wire>(outcome: Result<&R, &Fault>) -> Bytes {
    let mut out = Vec::with_capacity(256);
    out.extend_from_slice(&[0; 4]);
    put_outcome(&mut out, outcome);
    let length = out.len() - 4;
    assert!(
        length <= STREAM_HEADER_CAP,
        "a reply is at most {STREAM_HEADER_CAP} bytes: {length}"
    );
    out[..4].copy_from_slice(&(length as u32).to_le_bytes());
    Bytes::from(out)
}
