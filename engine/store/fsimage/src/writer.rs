//! Writing an image.

use crate::directory::{ckpt_name, image_name};
use crate::format::{
    BLOCK_LEN, CHUNK_HEAD_LEN, Footer, Header, chunk_head, content_digest, encode_table,
};
use crate::{CHUNK_LEN, Digest, ImageError, ImageInfo, SECTIONS_MAX, SectionId, SectionInfo};
use bytes::Bytes;
use hadal_env::{ALIGN, Disk, DiskError, File, OpenOptions};
use hadal_types::{CURRENT_LAYOUT, NamespaceInfo, TxId};
use std::path::{Path, PathBuf};
use store_record::checksum::crc32c;
use xxhash_rust::xxh3::Xxh3;

/// Bytes collected before a write: what others on the shard wait for while it is copied and its digest taken.
const STAGE_LEN: usize = 256 << 10;

/// A file that only grows, written in whole blocks, with the digest of what went in.
pub(crate) struct Sink<D: Disk> {
    disk: D,
    pub(crate) file: D::File,
    pub(crate) path: PathBuf,
    stage: Vec<u8>,
    /// File offset of the stage.
    offset: u64,
    digest: Xxh3,
}

impl<D: Disk> Sink<D> {
    /// A new file; one left behind under that name is replaced.
    pub(crate) async fn create(disk: &D, path: PathBuf) -> Result<Self, DiskError> {
        match disk.remove_file(&path).await {
            Ok(()) => {}
            Err(error) if error.is_not_found() => {}
            Err(error) => return Err(error),
        }
        let file = disk.open(&path, OpenOptions::create_new().direct()).await?;
        Ok(Self {
            disk: disk.clone(),
            file,
            path,
            stage: Vec::new(),
            offset: 0,
            digest: Xxh3::new(),
        })
    }

    /// Bytes so far.
    pub(crate) fn length(&self) -> u64 {
        self.offset + self.stage.len() as u64
    }

    pub(crate) fn put(&mut self, bytes: &[u8]) {
        self.stage.extend_from_slice(bytes);
    }

    /// Digest of everything flushed.
    pub(crate) fn digest(&self) -> Digest {
        self.digest.digest128().to_le_bytes()
    }

    /// Writes what is collected but for the last `keep` bytes, in whole blocks, when it is worth it.
    pub(crate) async fn flush_most(&mut self, keep: usize) -> Result<(), DiskError> {
        let bytes = self.stage.len().saturating_sub(keep) / ALIGN * ALIGN;
        if bytes >= STAGE_LEN {
            self.flush(bytes).await
        } else {
            Ok(())
        }
    }

    /// Writes everything, which must be whole blocks by now.
    pub(crate) async fn flush_all(&mut self) -> Result<(), DiskError> {
        assert!(
            self.stage.len().is_multiple_of(ALIGN),
            "images end at a whole block"
        );
        self.flush(self.stage.len()).await
    }

    async fn flush(&mut self, bytes: usize) -> Result<(), DiskError> {
        let mut done = 0;
        while done < bytes {
            let length = (bytes - done).min(STAGE_LEN);
            let part = &self.stage[done..done + length];
            self.digest.update(part);
            let mut buf = self.disk.buf(length).await;
            buf.as_mut()[..length].copy_from_slice(part);
            self.file.write_at(buf, 0..length, self.offset).await.0?;
            self.offset += length as u64;
            done += length;
        }
        self.stage.drain(..bytes);
        Ok(())
    }

    /// Makes the content durable, then the published name (F-14).
    pub(crate) async fn publish(&self, txid: TxId) -> Result<(), DiskError> {
        let directory = self.path.parent().expect("images live in a directory");
        self.file.sync_data().await?;
        self.disk
            .rename(&self.path, &directory.join(image_name(txid)))
            .await?;
        self.disk.sync_dir(directory).await
    }

    /// Removes the file.
    pub(crate) async fn abort(self) -> Result<(), DiskError> {
        self.disk.remove_file(&self.path).await
    }
}

/// The section being written.
struct Current {
    info: SectionInfo,
    digest: Xxh3,
    chunks: u32,
    /// Content of the chunk not yet sealed.
    chunk: Vec<u8>,
}

/// Writes an image, section by section, into `fsimage.ckpt_<txid>` (C-09).
///
/// Dropping it leaves the unfinished file, which nobody reads and which the next writer or [`crate::retain`] removes;
/// [`ImageWriter::abort`] removes it at once (C-06).
pub struct ImageWriter<D: Disk> {
    sink: Sink<D>,
    namespace: NamespaceInfo,
    txid: TxId,
    sections: Vec<SectionInfo>,
    current: Option<Current>,
}

impl<D: Disk> ImageWriter<D> {
    /// Starts the image of `namespace` up to `txid` in `directory`, which must exist.
    ///
    /// # Errors
    /// When the disk fails.
    pub async fn create(
        disk: &D,
        directory: &Path,
        namespace: &NamespaceInfo,
        txid: TxId,
    ) -> Result<Self, ImageError> {
        let mut sink = Sink::create(disk, directory.join(ckpt_name(txid))).await?;
        sink.put(&Header::encode(txid, namespace));
        let namespace = NamespaceInfo {
            layout: CURRENT_LAYOUT,
            ..namespace.clone()
        };
        Ok(Self {
            sink,
            namespace,
            txid,
            sections: Vec::new(),
            current: None,
        })
    }

    /// Ends the section before and starts the next. A `side` section is outside of the digest that two NameNodes
    /// compare.
    ///
    /// # Panics
    /// On a second section of that id, or more than [`SECTIONS_MAX`].
    pub fn section(&mut self, id: SectionId, side: bool) {
        self.end_section();
        assert!(
            self.sections.iter().all(|section| section.id != id),
            "section {} was written already",
            id.0
        );
        assert!(
            self.sections.len() < SECTIONS_MAX,
            "an image has at most {SECTIONS_MAX} sections"
        );
        let info = SectionInfo {
            id,
            side,
            length: 0,
            digest: [0; 16],
            offset: self.sink.length(),
        };
        self.current = Some(Current {
            info,
            digest: Xxh3::new(),
            chunks: 0,
            chunk: Vec::new(),
        });
    }

    /// Appends content to the section started last.
    ///
    /// # Errors
    /// When the disk fails.
    ///
    /// # Panics
    /// Before the first section.
    pub async fn write(&mut self, content: Bytes) -> Result<(), ImageError> {
        let mut rest = &content[..];
        while !rest.is_empty() {
            let current = self.current.as_mut().expect("a section was started");
            let (taken, behind) = rest.split_at(rest.len().min(CHUNK_LEN - current.chunk.len()));
            current.chunk.extend_from_slice(taken);
            rest = behind;
            if current.chunk.len() == CHUNK_LEN {
                self.seal_chunk();
                self.sink.flush_most(0).await?;
            }
        }
        Ok(())
    }

    /// Moves the chunk to the sink.
    fn seal_chunk(&mut self) {
        let Some(current) = self.current.as_mut() else {
            return;
        };
        if current.chunk.is_empty() {
            return;
        }
        let head = chunk_head(current.info.id, current.chunks, &current.chunk);
        self.sink.put(&head);
        self.sink.put(&current.chunk);
        current.digest.update(&current.chunk);
        current.info.length += current.chunk.len() as u64;
        current.chunks = current
            .chunks
            .checked_add(1)
            .expect("fewer than 2^32 chunks, 1 PiB");
        current.chunk.clear();
    }

    fn end_section(&mut self) {
        self.seal_chunk();
        if let Some(current) = self.current.take() {
            self.sections.push(SectionInfo {
                digest: current.digest.digest128().to_le_bytes(),
                ..current.info
            });
        }
    }

    /// Content bytes so far, for throttling and progress.
    #[must_use]
    pub fn content_bytes(&self) -> u64 {
        let open = self.current.as_ref().map_or(0, |current| {
            current.info.length + current.chunk.len() as u64
        });
        self.sections
            .iter()
            .map(|section| section.length)
            .sum::<u64>()
            + open
    }

    /// Writes table and footer, syncs, renames to `fsimage_<txid>`. Published and durable when this returns.
    ///
    /// # Errors
    /// When the disk fails; whether the image was published is then known from the directory only.
    pub async fn finish(self) -> Result<ImageInfo, ImageError> {
        let finished = self.finish_unless(&|| false).await?;
        Ok(finished.expect("nobody gives it up"))
    }

    /// As [`ImageWriter::finish`], unless `stop` says to give up before it is published: asked between two writes, since most
    /// images are smaller than what is written at a time (C-06). `None`: nothing is left of it.
    ///
    /// # Errors
    /// As [`ImageWriter::finish`].
    pub async fn finish_unless(
        mut self,
        stop: &dyn Fn() -> bool,
    ) -> Result<Option<ImageInfo>, ImageError> {
        self.end_section();
        let table = encode_table(&self.sections);
        let table_offset = self.sink.length();
        self.sink.put(&table);
        let padding = self.sink.length().next_multiple_of(ALIGN as u64) - self.sink.length();
        self.sink.put(&vec![
            0;
            usize::try_from(padding).expect("less than a block")
        ]);
        self.sink.flush_all().await?;
        if stop() {
            self.sink.abort().await?;
            return Ok(None);
        }
        let footer = Footer {
            txid: self.txid,
            length: self.sink.length() + BLOCK_LEN as u64,
            table_offset,
            sections: self.sections.len(),
            table_crc: crc32c(&table),
            file_digest: self.sink.digest(),
            content_digest: content_digest(&self.sections),
        };
        self.sink.put(&footer.encode());
        self.sink.flush_all().await?;
        if stop() {
            self.sink.abort().await?;
            return Ok(None);
        }
        self.sink.publish(self.txid).await?;
        Ok(Some(ImageInfo {
            namespace: self.namespace,
            txid: self.txid,
            length: footer.length,
            file_digest: footer.file_digest,
            content_digest: footer.content_digest,
            sections: self.sections,
        }))
    }

    /// Gives up and removes the unfinished file (C-06).
    ///
    /// # Errors
    /// When the disk fails; nobody reads what is left.
    pub async fn abort(self) -> Result<(), ImageError> {
        Ok(self.sink.abort().await?)
    }
}

const _: () = assert!(
    CHUNK_LEN.is_multiple_of(ALIGN) && CHUNK_HEAD_LEN < ALIGN,
    "a chunk fits a stage"
);
