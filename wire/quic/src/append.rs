//! Append streams: an ordered stream of checksummed frames one way, acknowledgements the other.
//!
//! Payload is not copied here: the pieces a receiver gets are the ones the transport delivered, and handing them to an
//! [`AppendSender`] forwards the same memory. Only pieces of small datagrams are joined before they go on, as that is
//! cheaper. Credit is the
//! transport's: a receiver that does not read stops the sender after one stream window.

use crate::reader::Reader;
use bytes::{BufMut, Bytes, BytesMut};
use hadal_env::{Conn, NetError, RecvStream, SendStream};
use hadal_proto::codec::Wire;
use hadal_proto::frame::{
    APPEND_AUX_CAP, APPEND_HEAD_LEN, APPEND_PAYLOAD_CAP, Ack, AppendFrame, FrameKind, Prelude,
    STREAM_HEADER_CAP, StreamKind, prefixed,
};
use hadal_proto::{DecodeError, ProtocolId};
use std::mem;
use thiserror::Error;

/// Offset of the checksum in an encoded head.
const CRC_AT: usize = 12;

/// Pieces whose average is below this, as those of datagrams of 1 452 bytes, are joined before they go on. The transport
/// looks the bytes of each datagram up by going along all pieces that are not acknowledged yet: with 1 500 of them that
/// cost more than the copy.
const SMALL_PIECE: usize = 4096;

/// So many pieces are never too many.
const FEW_PIECES: usize = 16;

/// Bytes of a buffer that pieces are joined into.
const JOINED: usize = 64 << 10;

/// Copies small pieces into larger ones; their slots are left empty.
fn joined(payload: &mut [Bytes], mut left: usize, out: &mut Vec<Bytes>) {
    let mut buffer = BytesMut::with_capacity(left.min(JOINED));
    for piece in payload {
        let mut piece = mem::take(piece);
        while !piece.is_empty() {
            let part = piece.split_to(piece.len().min(JOINED - buffer.len()));
            buffer.extend_from_slice(&part);
            left -= part.len();
            if buffer.len() == JOINED || left == 0 {
                out.push(buffer.freeze());
                buffer = BytesMut::with_capacity(left.min(JOINED));
            }
        }
    }
}

/// Why a stream gives no further frame.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum StreamError {
    /// The stream or connection ended.
    #[error(transparent)]
    Net(#[from] NetError),
    /// The bytes are not a frame, or one over its caps.
    #[error("malformed frame: {0}")]
    Malformed(DecodeError),
    /// Head and `aux` do not have the checksum they carry.
    #[error("frame {sequence}: head and aux have CRC32C {found:#010x}, but carry {carried:#010x}")]
    Checksum {
        /// The frame's number, as it carries it.
        sequence: u64,
        /// The checksum computed.
        found: u32,
        /// The checksum carried.
        carried: u32,
    },
    /// A frame is missing or repeated.
    #[error("frame {found} came where frame {expected} was due")]
    Sequence {
        /// The number due.
        expected: u64,
        /// The number found.
        found: u64,
    },
    /// The stream was ended inside a frame.
    #[error("the stream ended inside frame {sequence}")]
    Truncated {
        /// The frame's number.
        sequence: u64,
    },
}

/// Opens an append stream: prelude and header go out with the first write.
///
/// # Errors
/// The connection's or the stream's.
///
/// # Panics
/// When the header is over [`STREAM_HEADER_CAP`].
pub async fn open_append<C: Conn, H: Wire>(
    conn: &C,
    protocol: ProtocolId,
    version: u16,
    header: &H,
) -> Result<(AppendSender<C>, AckReceiver<C>), NetError> {
    let (send, recv) = open(conn, StreamKind::Append, protocol, version, header).await?;
    Ok((
        AppendSender::new(send),
        AckReceiver {
            reader: Reader::new(recv),
        },
    ))
}

pub(crate) async fn open<C: Conn, H: Wire>(
    conn: &C,
    kind: StreamKind,
    protocol: ProtocolId,
    version: u16,
    header: &H,
) -> Result<(C::Send, C::Recv), NetError> {
    let mut first = Vec::with_capacity(256);
    Prelude {
        kind,
        protocol,
        version,
    }
    .encode(&mut first);
    let header = prefixed(header);
    assert!(
        header.len() - 4 <= STREAM_HEADER_CAP,
        "a stream header is at most {STREAM_HEADER_CAP} bytes"
    );
    first.extend_from_slice(&header);
    let (mut send, recv) = conn.open().await?;
    send.write_chunk(Bytes::from(first)).await?;
    Ok((send, recv))
}

/// Sends frames. Dropped without [`AppendSender::finish`], it resets the stream.
pub struct AppendSender<C: Conn> {
    send: C::Send,
    next_sequence: u64,
    chunks: Vec<Bytes>,
    payload_bytes: u64,
    payload_bytes_copied: u64,
}

impl<C: Conn> AppendSender<C> {
    pub(crate) fn new(send: C::Send) -> Self {
        Self {
            send,
            next_sequence: 0,
            chunks: Vec::new(),
            payload_bytes: 0,
            payload_bytes_copied: 0,
        }
    }

    /// Sends one frame and returns its sequence number. Head and `aux` go into one small buffer, the
    /// payload chunks go on as they are, unless they are so small that a copy costs less (`joined`); their slots are
    /// left empty. Waits for the receiver's credit.
    /// Not cancel-safe: dropped midway, the stream is unusable.
    ///
    /// # Errors
    /// [`hadal_env::NetErrorKind::Reset`] when the receiver stopped the stream (the code tells why, see
    /// [`crate::code`]); else the connection's.
    ///
    /// # Panics
    /// When `aux` or the payload is over its cap.
    pub async fn send(
        &mut self,
        kind: FrameKind,
        flags: u8,
        offset: u64,
        aux: Bytes,
        payload: &mut [Bytes],
    ) -> Result<u64, NetError> {
        let payload_length: usize = payload.iter().map(Bytes::len).sum();
        assert!(
            aux.len() <= APPEND_AUX_CAP && payload_length <= APPEND_PAYLOAD_CAP,
            "a frame's aux is at most {APPEND_AUX_CAP} bytes and its payload {APPEND_PAYLOAD_CAP}: {} and {payload_length}",
            aux.len()
        );
        let sequence = self.next_sequence;
        self.next_sequence += 1;
        let frame = AppendFrame {
            kind,
            flags,
            aux_length: aux.len() as u32,
            payload_length: payload_length as u32,
            crc: 0,
            sequence,
            offset,
        };
        let mut first = Vec::with_capacity(APPEND_HEAD_LEN + aux.len());
        frame.encode(&mut first);
        first.extend_from_slice(&aux);
        let crc = crc32c::crc32c(&first);
        first[CRC_AT..CRC_AT + 4].copy_from_slice(&crc.to_le_bytes());
        self.payload_bytes += payload_length as u64;
        self.payload_bytes_copied += (first.len() - APPEND_HEAD_LEN - aux.len()) as u64;
        self.chunks.clear();
        self.chunks.push(Bytes::from(first));
        if payload.len() > FEW_PIECES && payload_length / payload.len() < SMALL_PIECE {
            self.payload_bytes_copied += payload_length as u64;
            joined(payload, payload_length, &mut self.chunks);
        } else {
            self.chunks.extend(payload.iter_mut().map(mem::take));
        }
        self.send.write_chunks(&mut self.chunks).await?;
        Ok(sequence)
    }

    /// No frame follows. What was sent is still delivered.
    pub fn finish(&mut self) {
        self.send.finish();
    }

    /// Gives the stream up; what is not delivered yet is discarded.
    pub fn reset(&mut self, code: u64) {
        self.send.reset(code);
    }

    /// Payload bytes sent.
    #[must_use]
    pub fn payload_bytes(&self) -> u64 {
        self.payload_bytes
    }

    /// Payload bytes copied into buffers of our own on the way to the transport: none but pieces of small datagrams.
    #[must_use]
    pub fn payload_bytes_copied(&self) -> u64 {
        self.payload_bytes_copied
    }
}

/// Reads acknowledgements.
pub struct AckReceiver<C: Conn> {
    reader: Reader<C::Recv>,
}

impl<C: Conn> AckReceiver<C> {
    /// The next acknowledgement; `None` when the receiver ended them. Cancel-safe.
    ///
    /// # Errors
    /// The stream's; [`hadal_env::NetErrorKind::Lost`] for bytes that are no acknowledgement.
    pub async fn next(&mut self) -> Result<Option<Ack>, NetError> {
        match read_prefixed(&mut self.reader, "ack", STREAM_HEADER_CAP).await {
            Ok(None) => Ok(None),
            Ok(Some(bytes)) => match hadal_proto::decode(bytes) {
                Ok(ack) => Ok(Some(ack)),
                Err(error) => Err(malformed("acknowledgement", &error)),
            },
            Err(StreamError::Net(error)) => Err(error),
            Err(error) => Err(malformed("acknowledgement", &error)),
        }
    }
}

pub(crate) fn malformed(what: &str, error: &dyn std::error::Error) -> NetError {
    NetError::new(
        hadal_env::NetErrorKind::Lost,
        format!("the peer sent a malformed {what}: {error}"),
    )
}

/// An append stream a peer opened.
pub struct AppendReceiver<C: Conn> {
    pub(crate) version: u16,
    pub(crate) header: Bytes,
    pub(crate) send: C::Send,
    pub(crate) reader: Reader<C::Recv>,
}

impl<C: Conn> AppendReceiver<C> {
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

    /// Frames in, acknowledgements out.
    #[must_use]
    pub fn into_parts(self) -> (FrameReceiver<C>, AckSender<C>) {
        (
            FrameReceiver::new(self.reader),
            AckSender {
                send: self.send,
                scratch: BytesMut::new(),
            },
        )
    }

    /// Refuses the stream at once: the opener sees the code at its next write and on its acks.
    pub fn refuse(mut self, class: hadal_proto::FaultClass) {
        let code = crate::code::of(class);
        self.reader.stop(code);
        self.send.reset(code);
    }
}

/// One frame: its head, its `aux`, and the payload in the pieces the transport delivered. The
/// pieces are slices of datagram batches: copy them out soon, do not collect them.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Frame {
    /// The head, its checksum verified.
    pub head: AppendFrame,
    /// What guards the payload, or the head of a batch.
    pub aux: Bytes,
    /// The payload, unaligned, in order.
    pub payload: Vec<Bytes>,
}

/// Reads frames. Dropped before the end, it stops the sender.
pub struct FrameReceiver<C: Conn> {
    reader: Reader<C::Recv>,
    next_sequence: u64,
}

impl<C: Conn> FrameReceiver<C> {
    pub(crate) fn new(reader: Reader<C::Recv>) -> Self {
        Self {
            reader,
            next_sequence: 0,
        }
    }

    /// The next frame; `None` at the end of the stream (which is orderly only after a
    /// [`FrameKind::Finish`]). Caps, checksum and sequence are verified; after an error the stream gives
    /// nothing more of use. Cancel-safe.
    ///
    /// # Errors
    /// [`StreamError`].
    pub async fn next(&mut self) -> Result<Option<Frame>, StreamError> {
        let reader = &mut self.reader;
        if !reader.fill(APPEND_HEAD_LEN).await? {
            if reader.buffered() == 0 {
                return Ok(None);
            }
            return Err(StreamError::Truncated {
                sequence: self.next_sequence,
            });
        }
        let encoded = reader.peek::<APPEND_HEAD_LEN>();
        let head: AppendFrame = hadal_proto::decode(Bytes::copy_from_slice(&encoded))
            .map_err(StreamError::Malformed)?;
        let (aux_length, payload_length) = (head.aux_length as usize, head.payload_length as usize);
        if !reader
            .fill(APPEND_HEAD_LEN + aux_length + payload_length)
            .await?
        {
            return Err(StreamError::Truncated {
                sequence: head.sequence,
            });
        }
        reader.skip(APPEND_HEAD_LEN);
        let aux = reader.take(aux_length);
        let mut zeroed = encoded;
        zeroed[CRC_AT..CRC_AT + 4].fill(0);
        let found = crc32c::crc32c_append(crc32c::crc32c(&zeroed), &aux);
        if found != head.crc {
            return Err(StreamError::Checksum {
                sequence: head.sequence,
                found,
                carried: head.crc,
            });
        }
        if head.sequence != self.next_sequence {
            return Err(StreamError::Sequence {
                expected: self.next_sequence,
                found: head.sequence,
            });
        }
        self.next_sequence += 1;
        Ok(Some(Frame {
            head,
            aux,
            payload: reader.take_pieces(payload_length),
        }))
    }

    /// Tells the sender to stop: its next write fails with `code`.
    pub fn stop(&mut self, code: u64) {
        self.reader.stop(code);
    }

    /// Bytes joined because the sender's pieces were too small to hold one by one: none from an
    /// honest sender.
    #[must_use]
    pub fn payload_bytes_copied(&self) -> u64 {
        self.reader.joined()
    }
}

/// Sends acknowledgements. Dropped without [`AckSender::finish`], it resets them.
pub struct AckSender<C: Conn> {
    send: C::Send,
    scratch: BytesMut,
}

impl<C: Conn> AckSender<C> {
    /// Sends one. Not cancel-safe.
    ///
    /// # Errors
    /// The stream's.
    pub async fn send(&mut self, ack: &Ack) -> Result<(), NetError> {
        let mut value = Vec::with_capacity(64);
        ack.encode(&mut value);
        self.scratch.reserve(4 + value.len());
        self.scratch.put_u32_le(value.len() as u32);
        self.scratch.put_slice(&value);
        self.send.write_chunk(self.scratch.split().freeze()).await
    }

    /// No acknowledgement follows.
    pub fn finish(&mut self) {
        self.send.finish();
    }

    /// Gives the acknowledgements up with a code.
    pub fn reset(&mut self, code: u64) {
        self.send.reset(code);
    }
}

/// Reads `{length u32, value}`. `None` at the end of the stream. Cancel-safe.
pub(crate) async fn read_prefixed<R: RecvStream>(
    reader: &mut Reader<R>,
    what: &'static str,
    cap: usize,
) -> Result<Option<Bytes>, StreamError> {
    let truncated = StreamError::Malformed(DecodeError::Truncated { what });
    if !reader.fill(4).await? {
        if reader.buffered() == 0 {
            return Ok(None);
        }
        return Err(truncated);
    }
    let length = u32::from_le_bytes(reader.peek()) as usize;
    if length > cap {
        return Err(StreamError::Malformed(DecodeError::TooLong {
            what,
            length,
            cap,
        }));
    }
    if !reader.fill(4 + length).await? {
        return Err(truncated);
    }
    reader.skip(4);
    Ok(Some(reader.take(length)))
}
