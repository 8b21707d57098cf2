//! Reading an image.

use crate::directory::image_name;
use crate::format::{BLOCK_LEN, CHUNK_HEAD_LEN, Footer, Header, chunk_head, content_digest};
use crate::{CHUNK_LEN, ImageError, ImageInfo, SectionId, SectionInfo};
use bytes::Bytes;
use hadal_env::{ALIGN, Disk, File, OpenOptions};
use hadal_types::{CURRENT_LAYOUT, TxId};
use std::path::Path;
use xxhash_rust::xxh3::Xxh3;

/// Read at a time when everything is read.
const READ_LEN: usize = 1 << 20;
/// The same when others on the shard are not to wait for it.
const SMALL_READ_LEN: usize = 256 << 10;

/// An open image.
pub struct Image<D: Disk> {
    disk: D,
    file: D::File,
    info: ImageInfo,
}

impl<D: Disk> Image<D> {
    /// Opens `fsimage_<txid>` of `directory` and checks header, footer, table and namespace. The content is checked
    /// when it is read ([`Image::section`]) or all at once ([`Image::verify`]).
    ///
    /// # Errors
    /// [`ImageError::Damaged`], [`ImageError::OtherNamespace`], [`ImageError::UnknownLayout`], or the disk fails.
    pub async fn open(
        disk: &D,
        directory: &Path,
        txid: TxId,
        namespace_id: u64,
    ) -> Result<Self, ImageError> {
        Self::open_path(disk, &directory.join(image_name(txid)), txid, namespace_id).await
    }

    /// Opens an image file by any name, whatever its namespace and txid; else as [`Image::open`].
    ///
    /// # Errors
    /// As [`Image::open`]; where not even the header can be read, the txid is 0.
    pub async fn open_file(disk: &D, path: &Path) -> Result<Self, ImageError> {
        let file = disk.open(path, OpenOptions::read().direct()).await?;
        let block = read_block(disk, &file, 0).await?;
        let header = Header::decode(&block).ok_or(ImageError::Damaged {
            txid: TxId(0),
            what: "header",
            offset: 0,
        })?;
        Self::open_path(disk, path, header.txid, header.namespace.namespace_id).await
    }

    pub(crate) async fn open_path(
        disk: &D,
        path: &Path,
        txid: TxId,
        namespace_id: u64,
    ) -> Result<Self, ImageError> {
        let file = disk.open(path, OpenOptions::read().direct()).await?;
        let length = file.length().await?;
        let damaged = |what, offset| ImageError::Damaged { txid, what, offset };
        let block = read_block(disk, &file, 0).await?;
        let header = Header::decode(&block).ok_or(damaged("header", 0))?;
        if header.layout != CURRENT_LAYOUT {
            return Err(ImageError::UnknownLayout {
                txid,
                found: header.layout.0,
                known: CURRENT_LAYOUT.0,
            });
        }
        if header.txid != txid {
            return Err(damaged("txid of the header", 16));
        }
        if header.namespace.namespace_id != namespace_id {
            return Err(ImageError::OtherNamespace {
                txid,
                found: header.namespace.namespace_id,
                expected: namespace_id,
            });
        }
        if length < 2 * BLOCK_LEN as u64 || !length.is_multiple_of(ALIGN as u64) {
            return Err(damaged("length", length));
        }
        let footer_offset = length - BLOCK_LEN as u64;
        let block = read_block(disk, &file, footer_offset).await?;
        let footer = Footer::decode(&block).ok_or(damaged("footer", footer_offset))?;
        if footer.txid != txid || footer.length != length {
            return Err(damaged("footer", footer_offset));
        }
        let table_len = footer.table_len();
        let table_end = footer.table_offset.checked_add(table_len as u64);
        if footer.table_offset < BLOCK_LEN as u64 || table_end.is_none_or(|end| end > footer_offset)
        {
            return Err(damaged("place of the table", footer_offset + 32));
        }
        let table = read_range(disk, &file, footer.table_offset, table_len).await?;
        let sections = footer
            .sections(&table)
            .ok_or(damaged("table", footer.table_offset))?;
        if content_digest(&sections) != footer.content_digest {
            return Err(damaged("content digest", footer_offset + 64));
        }
        let info = ImageInfo {
            namespace: header.namespace,
            txid,
            length,
            file_digest: footer.file_digest,
            content_digest: footer.content_digest,
            sections,
        };
        Ok(Self {
            disk: disk.clone(),
            file,
            info,
        })
    }

    /// What it says of itself.
    #[must_use]
    pub fn info(&self) -> &ImageInfo {
        &self.info
    }

    /// Reads everything and compares the digest of the file.
    ///
    /// # Errors
    /// [`ImageError::Damaged`], or the disk fails.
    pub async fn verify(&self) -> Result<(), ImageError> {
        self.verify_by(READ_LEN, async |_| {}).await
    }

    /// As [`Image::verify`], in small pieces: after each, `pace` is told its bytes, and the next one waits for it.
    ///
    /// # Errors
    /// As [`Image::verify`].
    pub async fn verify_paced(&self, pace: impl AsyncFnMut(u64)) -> Result<(), ImageError> {
        self.verify_by(SMALL_READ_LEN, pace).await
    }

    async fn verify_by(
        &self,
        read_len: usize,
        mut pace: impl AsyncFnMut(u64),
    ) -> Result<(), ImageError> {
        let end = self.info.length - BLOCK_LEN as u64;
        let mut digest = Xxh3::new();
        let mut at = 0;
        while at < end {
            let length = usize::try_from((end - at).min(read_len as u64)).expect("bounded");
            let bytes = self.read_raw(at, length).await?;
            if bytes.len() < length {
                return Err(self.damaged("length", at + bytes.len() as u64));
            }
            digest.update(&bytes);
            at += length as u64;
            pace(length as u64).await;
        }
        if digest.digest128().to_le_bytes() != self.info.file_digest {
            return Err(self.damaged("file digest", end + 48));
        }
        Ok(())
    }

    /// Streams all sections, in the order in which they were written, and verifies the whole file on the way: what
    /// [`Image::verify`] and [`Image::section`] do in two passes. What came is to be believed when the end has come.
    #[must_use]
    pub fn contents(&self) -> Contents<'_, D> {
        Contents {
            image: self,
            digest: Xxh3::new(),
            hashed: 0,
            sections: self.info.sections.iter(),
            section: None,
        }
    }

    /// Streams one section. Several may be read side by side.
    ///
    /// # Errors
    /// [`ImageError::NoSection`].
    pub fn section(&self, id: SectionId) -> Result<SectionReader<'_, D>, ImageError> {
        let info = self.info.sections.iter().find(|section| section.id == id);
        let info = *info.ok_or(ImageError::NoSection {
            txid: self.info.txid,
            section: id,
        })?;
        Ok(SectionReader::new(self, info))
    }

    /// Bytes of the file for a transfer, not verified; fewer than asked only at its end.
    ///
    /// # Errors
    /// When the disk fails.
    pub async fn read_raw(&self, offset: u64, length: usize) -> Result<Bytes, ImageError> {
        Ok(read_range(&self.disk, &self.file, offset, length).await?)
    }

    fn damaged(&self, what: &'static str, offset: u64) -> ImageError {
        ImageError::Damaged {
            txid: self.info.txid,
            what,
            offset,
        }
    }
}

async fn read_block<D: Disk>(disk: &D, file: &D::File, offset: u64) -> Result<Bytes, ImageError> {
    Ok(read_range(disk, file, offset, BLOCK_LEN).await?)
}

/// Any range, through whole blocks, without a copy.
async fn read_range<D: Disk>(
    disk: &D,
    file: &D::File,
    offset: u64,
    length: usize,
) -> Result<Bytes, hadal_env::DiskError> {
    let base = offset / ALIGN as u64 * ALIGN as u64;
    let skip = usize::try_from(offset - base).expect("within a block");
    let wanted = (skip + length).next_multiple_of(ALIGN);
    if length == 0 {
        return Ok(Bytes::new());
    }
    let buf = disk.buf(wanted).await;
    let (read, buf) = file.read_at(buf, 0..wanted, base).await;
    let end = read?.min(skip + length);
    Ok(Bytes::from_owner(buf).slice(skip.min(end)..end))
}

/// Streams a section.
pub struct SectionReader<'a, D: Disk> {
    image: &'a Image<D>,
    info: SectionInfo,
    offset: u64,
    left: u64,
    ordinal: u32,
}

impl<'a, D: Disk> SectionReader<'a, D> {
    fn new(image: &'a Image<D>, info: SectionInfo) -> Self {
        Self {
            image,
            info,
            offset: info.offset,
            left: info.length,
            ordinal: 0,
        }
    }

    /// The section.
    #[must_use]
    pub fn info(&self) -> &SectionInfo {
        &self.info
    }

    /// The next piece, verified, at most [`CHUNK_LEN`] bytes; `None` at the end.
    ///
    /// # Errors
    /// [`ImageError::Damaged`], or the disk fails. Nothing more comes after that.
    pub async fn next(&mut self) -> Result<Option<Bytes>, ImageError> {
        let chunk = self.next_chunk().await?;
        Ok(chunk.map(|chunk| chunk.slice(CHUNK_HEAD_LEN..)))
    }

    /// The same, with its head.
    async fn next_chunk(&mut self) -> Result<Option<Bytes>, ImageError> {
        let length = usize::try_from(self.left.min(CHUNK_LEN as u64)).expect("bounded");
        if length == 0 {
            return Ok(None);
        }
        let chunk = self
            .image
            .read_raw(self.offset, CHUNK_HEAD_LEN + length)
            .await?;
        let whole = chunk.len() == CHUNK_HEAD_LEN + length;
        let verifies = whole
            && chunk[..CHUNK_HEAD_LEN]
                == chunk_head(self.info.id, self.ordinal, &chunk[CHUNK_HEAD_LEN..]);
        if !verifies {
            return Err(self.image.damaged("chunk", self.offset));
        }
        self.offset += chunk.len() as u64;
        self.left -= length as u64;
        self.ordinal += 1;
        Ok(Some(chunk))
    }
}

/// Streams a whole image.
pub struct Contents<'a, D: Disk> {
    image: &'a Image<D>,
    digest: Xxh3,
    /// Bytes of the file the digest has seen.
    hashed: u64,
    sections: core::slice::Iter<'a, SectionInfo>,
    section: Option<SectionReader<'a, D>>,
}

impl<D: Disk> Contents<'_, D> {
    /// The next piece of a section, verified, at most [`CHUNK_LEN`] bytes; `None` at the end, when the whole file has
    /// verified.
    ///
    /// # Errors
    /// [`ImageError::Damaged`], or the disk fails. Nothing more comes after that.
    pub async fn next(&mut self) -> Result<Option<(SectionId, Bytes)>, ImageError> {
        loop {
            if let Some(section) = &mut self.section
                && let Some(chunk) = section.next_chunk().await?
            {
                self.digest.update(&chunk);
                self.hashed += chunk.len() as u64;
                return Ok(Some((section.info.id, chunk.slice(CHUNK_HEAD_LEN..))));
            }
            let Some(info) = self.sections.next() else {
                break;
            };
            self.hash_to(info.offset).await?;
            self.section = Some(SectionReader::new(self.image, *info));
        }
        let end = self.image.info.length - BLOCK_LEN as u64;
        self.hash_to(end).await?;
        self.section = None;
        if self.digest.digest128().to_le_bytes() != self.image.info.file_digest {
            return Err(self.image.damaged("file digest", end + 48));
        }
        Ok(None)
    }

    /// Reads what belongs to no section: header, table.
    async fn hash_to(&mut self, end: u64) -> Result<(), ImageError> {
        if end < self.hashed {
            return Err(self.image.damaged("table", end));
        }
        while self.hashed < end {
            let length = usize::try_from((end - self.hashed).min(READ_LEN as u64));
            let length = length.expect("bounded");
            let bytes = self.image.read_raw(self.hashed, length).await?;
            self.hashed += bytes.len() as u64;
            if bytes.len() < length {
                return Err(self.image.damaged("length", self.hashed));
            }
            self.digest.update(&bytes);
        }
        Ok(())
    }
}
