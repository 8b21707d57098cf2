//! Images from one NameNode to another: the checkpoints a standby uploads, and what a new NameNode starts from.
//!
//! Bytes of the image's file travel as they stand on disk, so its own checksums and digest guard them end to end;
//! every frame carries a CRC32C besides.
//!
//! * **Upload** (C-11, C-12): an append stream with [`PutImage`] as header. The receiver answers at once, before any byte is
//!   sent (Q27): an ack of sequence `u64::MAX` whose `offset` says where to start (not 0 when an earlier transfer of the same
//!   image broke off), or whose fault says why not. Frames of [`crate::frame::FrameKind::Data`] follow, `offset` in the
//!   file, `aux` the payload's CRC32C (`u32`, little-endian); then Finish with `offset` = length. The last ack, with `offset` =
//!   length, says that the image is verified, durable and published.
//! * **Fetch**: a read stream with [`GetImage`] as header and [`ImageReply`] as reply, then the same frames back, ended
//!   by Finish or Abort.

use crate::protocol::{Protocol, ProtocolId};
use crate::{wire_enum, wire_struct};
use hadal_types::{HaState, NamespaceInfo, TxId};

/// The protocol between NameNodes about images.
pub struct ImageProtocol;

impl Protocol for ImageProtocol {
    const ID: ProtocolId = ProtocolId::Image;
    const VERSION: u16 = 1;
    type Request = Request;
    type Response = Response;
}

/// Most payload of one frame.
pub const IMAGE_FRAME_BYTES: usize = 256 << 10;

wire_struct! {
    /// An image there is.
    pub struct ImageOffer {
        /// Last transaction in it.
        pub txid: TxId,
        /// Bytes of its file.
        pub length: u64,
        /// Digest of its file, the 16 bytes as a little-endian number.
        pub digest: u128,
    }
}

wire_struct! {
    /// Header of an upload. Refusals, none of them fatal to the sender (C-12): `AlreadyExists` with `value` the
    /// newest txid there; `Busy` with `value` the milliseconds after which to come back, while another image arrives or the
    /// last one is too fresh; `Retry` from a node that is starting; `IdentityMismatch`.
    pub struct PutImage {
        /// Whose image.
        pub info: NamespaceInfo,
        /// Which.
        pub offer: ImageOffer,
    }
}

wire_struct! {
    /// Header of a fetch.
    pub struct GetImage {
        /// Namespace it must be of; 0 for whatever there is.
        pub namespace_id: u64,
        /// Which image; 0 for the newest.
        pub txid: TxId,
        /// First byte wanted.
        pub offset: u64,
    }
}

wire_struct! {
    /// What precedes the bytes of a fetch.
    pub struct ImageReply {
        /// Whose image.
        pub info: NamespaceInfo,
        /// The image; `None` when there is none yet, and nothing follows.
        pub offer: Option<ImageOffer>,
    }
}

wire_enum! {
    /// Small calls beside the streams.
    pub enum Request {
        /// Who are you?
        0 => Describe,
    }
}

wire_enum! {
    /// Their answers.
    pub enum Response {
        /// To Describe: identity, role, last edit known committed.
        0 => Description {
            info: NamespaceInfo,
            state: HaState,
            committed: TxId,
        },
    }
}
