//! Receiving an image.

use crate::directory::recv_name;
use crate::reader::Image;
use crate::writer::Sink;
use crate::{Digest, ImageError, ImageInfo};
use bytes::Bytes;
use hadal_env::{ALIGN, Disk, File};
use hadal_types::TxId;
use std::path::Path;

/// Receives an image, byte by byte as [`Image::read_raw`] of another NameNode gave it (C-12).
///
/// As long as this is kept, a transfer that broke off goes on at [`ImageCopy::offset`].
pub struct ImageCopy<D: Disk> {
    disk: D,
    sink: Sink<D>,
    txid: TxId,
}

impl<D: Disk> ImageCopy<D> {
    /// Starts to receive image `txid` into `directory`, which must exist.
    ///
    /// # Errors
    /// When the disk fails.
    pub async fn create(disk: &D, directory: &Path, txid: TxId) -> Result<Self, ImageError> {
        let sink = Sink::create(disk, directory.join(recv_name(txid))).await?;
        Ok(Self {
            disk: disk.clone(),
            sink,
            txid,
        })
    }

    /// How many bytes arrived: where the transfer goes on.
    #[must_use]
    pub fn offset(&self) -> u64 {
        self.sink.length()
    }

    /// Appends bytes of the file.
    ///
    /// # Errors
    /// When the disk fails.
    pub async fn write(&mut self, bytes: Bytes) -> Result<(), ImageError> {
        self.sink.put(&bytes);
        self.sink.flush_most(0).await?;
        Ok(())
    }

    /// Syncs, reads the whole file back and compares every checksum, and publishes it. It must be of this namespace
    /// and txid, and have the digest announced.
    ///
    /// # Errors
    /// As [`Image::open`] and [`Image::verify`]; [`ImageError::OtherImage`]. Nothing is published then, and what was
    /// received is removed.
    pub async fn finish(
        self,
        namespace_id: u64,
        file_digest: Digest,
    ) -> Result<ImageInfo, ImageError> {
        self.finish_paced(namespace_id, file_digest, async |_| {})
            .await
    }

    /// As [`ImageCopy::finish`]; the file is read back as by [`Image::verify_paced`].
    ///
    /// # Errors
    /// As [`ImageCopy::finish`].
    pub async fn finish_paced(
        mut self,
        namespace_id: u64,
        file_digest: Digest,
        pace: impl AsyncFnMut(u64),
    ) -> Result<ImageInfo, ImageError> {
        match self.check(namespace_id, file_digest, pace).await {
            Ok(info) => {
                self.sink.publish(self.txid).await?;
                Ok(info)
            }
            Err(error) => {
                // The reason counts, not whether the rubbish could be removed.
                let _ = self.sink.abort().await;
                Err(error)
            }
        }
    }

    async fn check(
        &mut self,
        namespace_id: u64,
        file_digest: Digest,
        pace: impl AsyncFnMut(u64),
    ) -> Result<ImageInfo, ImageError> {
        if !self.sink.length().is_multiple_of(ALIGN as u64) {
            return Err(ImageError::Damaged {
                txid: self.txid,
                what: "length",
                offset: self.sink.length(),
            });
        }
        self.sink.flush_all().await?;
        self.sink.file.sync_data().await?;
        let image = Image::open_path(&self.disk, &self.sink.path, self.txid, namespace_id).await?;
        image.verify_paced(pace).await?;
        if image.info().file_digest != file_digest {
            return Err(ImageError::OtherImage { txid: self.txid });
        }
        Ok(image.info().clone())
    }

    /// Gives up and removes what was received.
    ///
    /// # Errors
    /// When the disk fails; nobody reads what is left.
    pub async fn abort(self) -> Result<(), ImageError> {
        Ok(self.sink.abort().await?)
    }
}
