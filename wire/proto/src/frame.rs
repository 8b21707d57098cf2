//! What stands on a stream.
//!
//! Every stream starts with a [`Prelude`] from the side that opened it. Then, by kind:
//!
//! * **call stream**: call frames `{length u32, id u64, body}` in both directions, any number in flight,
//!   answered in any order. `length` counts id and body. A request's body is the protocol's request; a
//!   response's body is a tag (0 answer, 1 [`crate::Fault`]) and the value.
//! * **append stream**: `{length u32, header}` saying what follows, then [`AppendFrame`]s one way and
//!   [`Ack`]s the other.
//! * **read stream**: `{length u32, header}`, then [`AppendFrame`]s back.

use crate::codec::{DecodeError, Input, Wire};
use crate::protocol::ProtocolId;
use alloc::vec::Vec;
use bytes::Bytes;

/// First bytes of every stream.
pub const MAGIC: u32 = u32::from_le_bytes(*b"HADL");
/// Largest call frame: id and body.
pub const CALL_FRAME_CAP: usize = 8 << 20;
/// Largest header of an append or read stream.
pub const STREAM_HEADER_CAP: usize = 64 << 10;
/// Largest payload of one append frame.
pub const APPEND_PAYLOAD_CAP: usize = 4 << 20;
/// Largest `aux` part of one append frame (checksums of a packet, head of a batch).
pub const APPEND_AUX_CAP: usize = 64 << 10;

/// What a stream is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum StreamKind {
    /// Calls, multiplexed and pipelined.
    Call = 1,
    /// An ordered stream of checksummed frames appended to a log at the other side.
    Append = 2,
    /// One request, frames back.
    Read = 3,
}

/// The first 8 bytes of a stream: magic, kind, protocol, version.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Prelude {
    /// What the stream is for.
    pub kind: StreamKind,
    /// Which protocol is spoken.
    pub protocol: ProtocolId,
    /// Its version.
    pub version: u16,
}

impl Wire for Prelude {
    const MIN_LEN: usize = 8;

    fn encode(&self, out: &mut Vec<u8>) {
        MAGIC.encode(out);
        out.push(self.kind as u8);
        out.push(self.protocol as u8);
        self.version.encode(out);
    }

    fn decode(input: &mut Input) -> Result<Self, DecodeError> {
        if u32::decode(input)? != MAGIC {
            return Err(DecodeError::Invalid {
                what: "stream magic",
            });
        }
        let kind = match u8::decode(input)? {
            1 => StreamKind::Call,
            2 => StreamKind::Append,
            3 => StreamKind::Read,
            tag => {
                return Err(DecodeError::UnknownTag {
                    what: "StreamKind",
                    tag,
                });
            }
        };
        let tag = u8::decode(input)?;
        let protocol = ProtocolId::from_u8(tag).ok_or(DecodeError::UnknownTag {
            what: "ProtocolId",
            tag,
        })?;
        Ok(Self {
            kind,
            protocol,
            version: u16::decode(input)?,
        })
    }
}

/// What an append frame carries.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum FrameKind {
    /// Payload to append at `offset`; `aux` holds its chunk checksums (blocks) or its head (journal).
    Data = 1,
    /// No payload: everything so far must have been completed by the kernel (hflush).
    Flush = 2,
    /// No payload: everything so far must be on the device (hsync).
    Sync = 3,
    /// The stream is complete; `offset` is its final length. With [`FLAG_HSYNC`] the finished replica is durable, whatever
    /// the header of the stream says.
    Finish = 4,
    /// Keeps the stream alive.
    KeepAlive = 5,
    /// The sender gives up; `aux` holds an encoded [`crate::Fault`].
    Abort = 6,
}

/// Head of an append frame, 32 bytes: `{kind u8, flags u8, 0 u16, aux_length u32, payload_length u32, crc u32,
/// sequence u64, offset u64}`, followed by `aux` and the payload. `crc` is the CRC32C of the head (with `crc`
/// zero) and `aux`; what guards the payload is in `aux`. The fixed head lets a receiver find the payload
/// without touching it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct AppendFrame {
    /// What it carries.
    pub kind: FrameKind,
    /// Kind-specific bits: bit 0 on `Data` asks for hflush, bit 1 for hsync, after this frame.
    pub flags: u8,
    /// Bytes of `aux`.
    pub aux_length: u32,
    /// Bytes of payload.
    pub payload_length: u32,
    /// CRC32C over head and aux.
    pub crc: u32,
    /// Counts frames from 0 without gaps.
    pub sequence: u64,
    /// Where in the log the payload goes, in bytes.
    pub offset: u64,
}

/// Flag: complete up to here in the kernel before acknowledging.
pub const FLAG_HFLUSH: u8 = 1;
/// Flag: durable up to here before acknowledging.
pub const FLAG_HSYNC: u8 = 2;
/// Bytes of an encoded [`AppendFrame`] head.
pub const APPEND_HEAD_LEN: usize = 32;

impl Wire for AppendFrame {
    const MIN_LEN: usize = APPEND_HEAD_LEN;

    fn encode(&self, out: &mut Vec<u8>) {
        out.push(self.kind as u8);
        out.push(self.flags);
        0u16.encode(out);
        self.aux_length.encode(out);
        self.payload_length.encode(out);
        self.crc.encode(out);
        self.sequence.encode(out);
        self.offset.encode(out);
    }

    fn decode(input: &mut Input) -> Result<Self, DecodeError> {
        let kind = match u8::decode(input)? {
            1 => FrameKind::Data,
            2 => FrameKind::Flush,
            3 => FrameKind::Sync,
            4 => FrameKind::Finish,
            5 => FrameKind::KeepAlive,
            6 => FrameKind::Abort,
            tag => {
                return Err(DecodeError::UnknownTag {
                    what: "FrameKind",
                    tag,
                });
            }
        };
        let flags = u8::decode(input)?;
        if u16::decode(input)? != 0 {
            return Err(DecodeError::Invalid {
                what: "append frame padding",
            });
        }
        let frame = Self {
            kind,
            flags,
            aux_length: u32::decode(input)?,
            payload_length: u32::decode(input)?,
            crc: u32::decode(input)?,
            sequence: u64::decode(input)?,
            offset: u64::decode(input)?,
        };
        for (what, length, cap) in [
            (
                "append frame aux",
                frame.aux_length as usize,
                APPEND_AUX_CAP,
            ),
            (
                "append frame payload",
                frame.payload_length as usize,
                APPEND_PAYLOAD_CAP,
            ),
        ] {
            if length > cap {
                return Err(DecodeError::TooLong { what, length, cap });
            }
        }
        Ok(frame)
    }
}

crate::wire_struct! {
    /// The answer on an append stream: everything up to `sequence` and `offset` is acknowledged. Cumulative.
    /// On the wire `{length u32, ack}`.
    pub struct Ack {
        /// Last frame acknowledged.
        pub sequence: u64,
        /// Bytes (blocks) or txid (journal) acknowledged.
        pub offset: u64,
        /// Set when the stream failed: nothing behind `sequence` is acknowledged and nothing more will be.
        pub fault: Option<crate::Fault>,
        /// On a failed pipeline: index of the node at fault, 0 for the one that answers. `u8::MAX` when unknown.
        pub bad_node: u8,
        /// Nodes that flagged themselves slow, as a bit set by index (T-P12).
        pub slow_nodes: u64,
    }
}

/// A call frame's bytes: head and body in one buffer.
#[must_use]
pub fn call_frame<T: Wire>(id: u64, body: &T) -> Bytes {
    let mut out = Vec::with_capacity(128);
    out.extend_from_slice(&[0; 4]);
    id.encode(&mut out);
    body.encode(&mut out);
    let length = u32::try_from(out.len() - 4).expect("call frames are capped");
    out[..4].copy_from_slice(&length.to_le_bytes());
    Bytes::from(out)
}

/// A length-prefixed value, as headers of append and read streams and acks travel.
#[must_use]
pub fn prefixed<T: Wire>(value: &T) -> Bytes {
    let mut out = Vec::with_capacity(128);
    out.extend_from_slice(&[0; 4]);
    value.encode(&mut out);
    let length = u32::try_from(out.len() - 4).expect("headers are capped");
    out[..4].copy_from_slice(&length.to_le_bytes());
    Bytes::from(out)
}

/// The body of a response frame: an answer or a fault.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Answer<T>(pub Result<T, crate::Fault>);

impl<T: Wire> Wire for Answer<T> {
    const MIN_LEN: usize = 1;

    fn encode(&self, out: &mut Vec<u8>) {
        match &self.0 {
            Ok(value) => {
                out.push(0);
                value.encode(out);
            }
            Err(fault) => {
                out.push(1);
                fault.encode(out);
            }
        }
    }

    fn decode(input: &mut Input) -> Result<Self, DecodeError> {
        match u8::decode(input)? {
            0 => Ok(Self(Ok(T::decode(input)?))),
            1 => Ok(Self(Err(crate::Fault::decode(input)?))),
            tag => Err(DecodeError::UnknownTag {
                what: "Answer",
                tag,
            }),
        }
    }
}
