//! Skeleton of the public API.

use bytes::Bytes;
use hadal_env::{Disk, DiskError};
use hadal_types::{NamespaceInfo, TxId};
use std::marker::PhantomData;
use std::path::Path;

/// Number of a section; what it means is the namesystem's business.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct SectionId(pub u32);

/// A failed image operation.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// The disk failed.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// The image is damaged.
    #[error("image {txid} is unreadable: {what} at byte {offset}")]
    Damaged {
        /// Its txid.
        txid: TxId,
        /// What does not verify.
        what: &'static str,
        /// Where.
        offset: u64,
    },
    /// No image can be read.
    #[error("no readable image in the directory ({} tried)", .0.len())]
    NoneReadable(Vec<Skipped>),
    /// The image belongs to another namespace.
    #[error("image {txid} belongs to another namespace")]
    OtherNamespace {
        /// Its txid.
        txid: TxId,
    },
    /// The image has no such section.
    #[error("image {txid} has no section {section:?}")]
    NoSection {
        /// Its txid.
        txid: TxId,
        /// The section.
        section: SectionId,
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

/// A published image in a directory.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct ImageFile {
    /// Last transaction in it.
    pub txid: TxId,
    /// Bytes.
    pub length: u64,
}

/// One section.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SectionInfo {
    /// Which.
    pub id: SectionId,
    /// Outside of the digest two NameNodes compare (replica locations).
    pub side: bool,
    /// Bytes of content.
    pub length: u64,
}

/// What an image says of itself.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ImageInfo {
    /// Whose.
    pub namespace: NamespaceInfo,
    /// Last transaction in it.
    pub txid: TxId,
    /// Bytes of the file.
    pub length: u64,
    /// Digest of the file's bytes: what a transfer is checked with.
    pub file_digest: [u8; 16],
    /// Digest of the content of all sections that are not side sections: equal on two NameNodes at one txid (T-C2).
    pub content_digest: [u8; 16],
    /// Sections in order.
    pub sections: Vec<SectionInfo>,
}

/// Writes an image.
pub struct ImageWriter<D: Disk> {
    _disk: PhantomData<D>,
}

impl<D: Disk> ImageWriter<D> {
    /// Creates `fsimage.ckpt_<txid>`; one left behind by an earlier attempt is replaced.
    pub async fn create(_disk: &D, _dir: &Path, _namespace: &NamespaceInfo, txid: TxId) -> Result<Self, ImageError> {
        Err(pending(txid))
    }

    /// Ends the section before and starts the next.
    pub fn section(&mut self, _id: SectionId, _side: bool) {}

    /// Appends content to the section.
    pub async fn write(&mut self, _content: Bytes) -> Result<(), ImageError> {
        Err(pending(TxId(0)))
    }

    /// Writes the table, syncs, renames to `fsimage_<txid>`. Published and durable on return.
    pub async fn finish(self) -> Result<ImageInfo, ImageError> {
        Err(pending(TxId(0)))
    }

    /// Removes the unfinished file.
    pub async fn abort(self) -> Result<(), ImageError> {
        Ok(())
    }
}

/// Receives an image byte by byte from another NameNode.
pub struct ImageCopy<D: Disk> {
    _disk: PhantomData<D>,
}

impl<D: Disk> ImageCopy<D> {
    /// Creates `fsimage.ckpt_<txid>`.
    pub async fn create(_disk: &D, _dir: &Path, txid: TxId) -> Result<Self, ImageError> {
        Err(pending(txid))
    }

    /// Appends raw bytes of the file.
    pub async fn write(&mut self, _bytes: Bytes) -> Result<(), ImageError> {
        Err(pending(TxId(0)))
    }

    /// Syncs, verifies the whole file, renames.
    pub async fn finish(self, _namespace_id: u64, _file_digest: [u8; 16]) -> Result<ImageInfo, ImageError> {
        Err(pending(TxId(0)))
    }

    /// Removes the unfinished file.
    pub async fn abort(self) -> Result<(), ImageError> {
        Ok(())
    }
}

/// An open image.
pub struct Image<D: Disk> {
    info: ImageInfo,
    _disk: PhantomData<D>,
}

impl<D: Disk> Image<D> {
    /// Opens `fsimage_<txid>` and checks header, table and namespace, not the content.
    pub async fn open(_disk: &D, _dir: &Path, txid: TxId, _namespace_id: u64) -> Result<Self, ImageError> {
        Err(pending(txid))
    }

    /// What it says of itself.
    pub fn info(&self) -> &ImageInfo {
        &self.info
    }

    /// Reads everything and compares every checksum and digest.
    pub async fn verify(&self) -> Result<(), ImageError> {
        Err(pending(TxId(0)))
    }

    /// Streams one section, each chunk verified before it is handed out.
    pub fn section(&self, _id: SectionId) -> Result<SectionReader<'_, D>, ImageError> {
        Err(pending(TxId(0)))
    }

    /// Raw bytes of the file, for a transfer; fewer than asked only at its end.
    pub async fn read_raw(&self, _offset: u64, _length: usize) -> Result<Bytes, ImageError> {
        Err(pending(TxId(0)))
    }
}

/// Streams a section.
pub struct SectionReader<'a, D: Disk> {
    _image: &'a Image<D>,
}

impl<D: Disk> SectionReader<'_, D> {
    /// The next verified piece; `None` at the end.
    pub async fn next(&mut self) -> Result<Option<Bytes>, ImageError> {
        Ok(None)
    }
}

/// The image a NameNode starts from.
pub struct Loaded<D: Disk> {
    /// The newest readable one, verified.
    pub image: Image<D>,
    /// Newer ones that could not be read: to be reported (Q23).
    pub skipped: Vec<Skipped>,
}

/// Published images, newest first.
pub async fn list<D: Disk>(_disk: &D, _dir: &Path) -> Result<Vec<ImageFile>, ImageError> {
    Err(pending(TxId(0)))
}

/// The newest image that verifies, falling back to older ones (Q23). `None` when there is no image at all.
pub async fn newest<D: Disk>(_disk: &D, _dir: &Path, _namespace_id: u64) -> Result<Option<Loaded<D>>, ImageError> {
    Err(pending(TxId(0)))
}

/// Keeps the newest `keep` images, removes the older ones and unfinished files. Returns the txid of the oldest kept:
/// edits above it must not be purged (F-14).
pub async fn retain<D: Disk>(_disk: &D, _dir: &Path, _keep: usize) -> Result<Option<TxId>, ImageError> {
    Err(pending(TxId(0)))
}

fn pending(txid: TxId) -> ImageError {
    ImageError::Damaged { txid, what: "pending", offset: 0 }
}
