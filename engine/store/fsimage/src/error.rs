//! What can go wrong with an image.

use hadal_env::DiskError;
use hadal_types::TxId;

use crate::SectionId;

/// A failed image operation.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// The disk failed. A writer that met this is to be dropped or aborted; nothing was published.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// The image is damaged.
    #[error("image {txid} is unreadable: {what} does not verify at byte {offset}")]
    Damaged {
        /// Its txid.
        txid: TxId,
        /// What does not verify.
        what: &'static str,
        /// Where in the file.
        offset: u64,
    },
    /// There are images, and none of them can be read.
    #[error("none of {} images can be read, the newest because: {}", .0.len(), .0[0].error)]
    NoneReadable(Vec<Skipped>),
    /// The image belongs to another namespace (F-15).
    #[error("image {txid} belongs to namespace {found}, expected {expected}")]
    OtherNamespace {
        /// Its txid.
        txid: TxId,
        /// Namespace id in it.
        found: u64,
        /// Ours.
        expected: u64,
    },
    /// Written by a layout this build does not know.
    #[error("image {txid} has layout {found}, this build knows {known}")]
    UnknownLayout {
        /// Its txid.
        txid: TxId,
        /// Layout in it.
        found: u32,
        /// Ours.
        known: u32,
    },
    /// The image has no such section.
    #[error("image {txid} has no section {}", .section.0)]
    NoSection {
        /// Its txid.
        txid: TxId,
        /// The section.
        section: SectionId,
    },
    /// A received image verifies, but is not the one announced.
    #[error("image {txid} was received whole, but its digest is not the one announced")]
    OtherImage {
        /// Its txid.
        txid: TxId,
    },
}

/// An image that was passed over, and why (Q23).
#[derive(Debug)]
pub struct Skipped {
    /// Its txid.
    pub txid: TxId,
    /// Why.
    pub error: Box<ImageError>,
}
