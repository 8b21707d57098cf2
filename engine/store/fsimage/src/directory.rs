//! The images of a directory: names, choice, retention.

use crate::reader::Image;
use crate::{ImageError, Skipped};
use hadal_env::Disk;
use hadal_types::TxId;
use std::path::Path;

/// Name of the published image at this txid.
#[must_use]
pub fn image_name(txid: TxId) -> String {
    format!("fsimage_{:020}", txid.0)
}

pub(crate) fn ckpt_name(txid: TxId) -> String {
    format!("fsimage.ckpt_{:020}", txid.0)
}

pub(crate) fn recv_name(txid: TxId) -> String {
    format!("fsimage.ckpt_{:020}.recv", txid.0)
}

fn txid(digits: &str) -> Option<TxId> {
    let known = digits.len() == 20 && digits.bytes().all(|b| b.is_ascii_digit());
    known.then(|| digits.parse().ok().map(TxId)).flatten()
}

fn unfinished(name: &str) -> Option<TxId> {
    let rest = name.strip_prefix("fsimage.ckpt_")?;
    txid(rest.strip_suffix(".recv").unwrap_or(rest))
}

/// A published image in a directory.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct ImageFile {
    /// Last transaction in it.
    pub txid: TxId,
    /// Bytes.
    pub length: u64,
}

/// The image a NameNode starts from.
pub struct Loaded<T> {
    /// The newest readable one, verified, or what was made of it.
    pub image: T,
    /// Newer ones that could not be read: to be reported (Q23).
    pub skipped: Vec<Skipped>,
}

/// Published images, newest first. What is listed stays listed after a power cut.
///
/// # Errors
/// When the disk fails.
pub async fn list<D: Disk>(disk: &D, directory: &Path) -> Result<Vec<ImageFile>, ImageError> {
    // A killed process may have renamed without having synced the directory.
    disk.sync_dir(directory).await?;
    let entries = disk.read_dir(directory).await?;
    let image = |entry: hadal_env::DirEntry| {
        let txid = entry.name.strip_prefix("fsimage_").and_then(txid)?;
        Some(ImageFile {
            txid,
            length: entry.length,
        })
    };
    let mut images: Vec<_> = entries.into_iter().filter_map(image).collect();
    images.sort_by(|a, b| b.cmp(a));
    Ok(images)
}

/// The newest image that verifies, falling back to older ones (Q23): the edits since the older one are still there,
/// since nothing above the oldest retained image is purged (F-14). `None` when there is no image at all.
///
/// # Errors
/// [`ImageError::NoneReadable`]; [`ImageError::OtherNamespace`] and [`ImageError::UnknownLayout`] of the newest image at
/// once, since falling back would hide an operator's mistake; or the disk fails.
pub async fn newest<D: Disk>(
    disk: &D,
    directory: &Path,
    namespace_id: u64,
) -> Result<Option<Loaded<Image<D>>>, ImageError> {
    let verified = async |image: Image<D>| image.verify().await.map(|()| image);
    newest_read(disk, directory, namespace_id, verified).await
}

/// As [`newest`], read in one pass: `read` makes of an image what is wanted, and verifies all of it on the way
/// ([`Image::contents`]). An error of its means the image cannot be read, and the next older one is tried.
///
/// # Errors
/// As [`newest`].
pub async fn newest_read<D: Disk, T>(
    disk: &D,
    directory: &Path,
    namespace_id: u64,
    mut read: impl AsyncFnMut(Image<D>) -> Result<T, ImageError>,
) -> Result<Option<Loaded<T>>, ImageError> {
    let mut skipped = Vec::new();
    for ImageFile { txid, .. } in list(disk, directory).await? {
        let error = match Image::open(disk, directory, txid, namespace_id).await {
            Ok(image) => match read(image).await {
                Ok(image) => return Ok(Some(Loaded { image, skipped })),
                Err(error) => error,
            },
            Err(error @ (ImageError::OtherNamespace { .. } | ImageError::UnknownLayout { .. })) => {
                return Err(error);
            }
            Err(error) => error,
        };
        skipped.push(Skipped {
            txid,
            error: Box::new(error),
        });
    }
    if skipped.is_empty() {
        Ok(None)
    } else {
        Err(ImageError::NoneReadable(skipped))
    }
}

/// Keeps the newest `keep` images (HDFS keeps 2), removes older ones and what was left unfinished at or below the
/// newest. Returns the txid of the oldest kept: edits above it must not be purged (F-14).
///
/// # Errors
/// When the disk fails.
pub async fn retain<D: Disk>(
    disk: &D,
    directory: &Path,
    keep: usize,
) -> Result<Option<TxId>, ImageError> {
    assert!(keep > 0, "a NameNode cannot do without an image");
    let images = list(disk, directory).await?;
    let Some(newest) = images.first() else {
        return Ok(None);
    };
    let mut doomed: Vec<_> = images
        .iter()
        .skip(keep)
        .map(|image| image_name(image.txid))
        .collect();
    for entry in disk.read_dir(directory).await? {
        if unfinished(&entry.name).is_some_and(|txid| txid <= newest.txid) {
            doomed.push(entry.name);
        }
    }
    for name in &doomed {
        disk.remove_file(&directory.join(name)).await?;
    }
    if !doomed.is_empty() {
        disk.sync_dir(directory).await?;
    }
    Ok(images
        .get(keep.min(images.len()) - 1)
        .map(|image| image.txid))
}
