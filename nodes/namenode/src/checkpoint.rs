//! Images: loading the newest at start, saving on request.
//!
//! A section of the container holds the namesystem's chunks, each behind its length (`u32`, little-endian), since the
//! container cuts content at places of its own. Section 0 is the driver's: the journal's running digest at the image's
//! txid, so that the log read behind it is known to continue the one the image was made from.

use crate::error::RunError;
use crate::images::images_dir;
use crate::loading::{ImageLoading, namesystem_of};
use crate::node::Node;
use crate::saving::ImageSaving;
use crate::transfer::{Pace, stopped};
use bytes::{Buf, BytesMut};
use hadal_env::{Compute, Disk, Env};
use hadal_namesystem::{
    ImageSource, Loaded, LocationSource, Namesystem, NamesystemConfig, Section, View,
};
use hadal_proto::qjournal::LogDigest;
use hadal_proto::{Fault, FaultClass};
use hadal_types::{NamespaceInfo, TxId};
use std::path::Path;
use std::pin::pin;
use std::rc::Rc;
use store_fsimage::{Image, ImageError, ImageWriter, SectionId, newest_read, retain};

/// The driver's own section.
const LOG_SECTION: SectionId = SectionId(0);
/// Longest chunk accepted; the namesystem makes them of about 256 KiB.
const CHUNK_MAX: usize = 64 << 20;

/// The newest readable image, or an empty namespace; with the journal's digest at its txid.
pub(crate) async fn load<E: Env>(node: &Rc<Node<E>>) -> Result<(Namesystem, LogDigest), RunError> {
    let config = &node.config;
    let dir = images_dir(&config.dir);
    let disk = node.env.disk();
    disk_ready(node, &dir).await?;
    let namespace_id = config.namesystem.info.namespace_id;
    let (env, namesystem) = (&node.env, &config.namesystem);
    let found = newest_read(disk, &dir, namespace_id, async |image: Image<E::Disk>| {
        match read(&image, env, namesystem).await {
            Err(RunError::Image(error)) if !matches!(error, ImageError::NoSection { .. }) => {
                Err(error)
            }
            // Where it makes no sense it may be damaged, too, in a way that only the digest of the whole shows.
            Err(error) => image.verify().await.map(|()| Err(error)),
            Ok(read) => Ok(Ok(read)),
        }
    });
    let found = found.await?;
    let seed = node.env.random_u64();
    let Some(found) = found else {
        let empty = Namesystem::format(config.namesystem.clone(), config.blocks.clone(), seed);
        node.start_log(LogDigest::default());
        node.images.loaded(TxId(0));
        return Ok((empty, LogDigest::default()));
    };
    for skipped in &found.skipped {
        tracing::error!("image {} is passed over: {}", skipped.txid, skipped.error);
    }
    let (loaded, digest) = found.image?;
    tracing::info!("image {} loaded", loaded.txid());
    node.start_log(digest);
    node.images.loaded(loaded.txid());
    let (namesystem, blocks) = (config.namesystem.clone(), config.blocks.clone());
    let namesystem = namesystem_of(&node.env, namesystem, blocks, seed, loaded).await;
    Ok((namesystem, digest))
}

/// An image file as it is shown to whoever looks into it.
pub struct ImageContents {
    /// Whose namespace.
    pub namespace: NamespaceInfo,
    /// The namespace, at the image's txid.
    pub view: View,
}

/// Reads and verifies a whole image file, of whatever namespace and by whatever name; no cluster is needed.
///
/// # Errors
/// [`RunError::Image`], [`RunError::BrokenImage`], or the disk fails.
pub async fn read_image<D: Disk>(
    disk: &D,
    compute: &(impl Compute + Clone),
    path: &Path,
) -> Result<ImageContents, RunError> {
    let image = Image::open_file(disk, path).await?;
    let (loaded, _) = read(&image, compute, &NamesystemConfig::default()).await?;
    Ok(ImageContents {
        namespace: image.info().namespace.clone(),
        view: loaded.view(),
    })
}

async fn disk_ready<E: Env>(node: &Rc<Node<E>>, dir: &Path) -> Result<(), RunError> {
    node.env.disk().create_dir_all(dir).await?;
    Ok(())
}

async fn read<D: Disk>(
    image: &Image<D>,
    compute: &(impl Compute + Clone),
    config: &NamesystemConfig,
) -> Result<(Loaded, LogDigest), RunError> {
    let txid = image.info().txid;
    let broken = |what: String| RunError::BrokenImage { txid: txid.0, what };
    let mut log: Option<BytesMut> = None;
    let mut loading = ImageLoading::new(compute.clone(), config);
    let (mut at, mut pending) = (None, BytesMut::new());
    let mut contents = image.contents();
    loop {
        let piece = contents.next().await?;
        let of = piece.as_ref().map(|(id, _)| *id);
        if of != at && !pending.is_empty() {
            let section = at.and_then(section_of);
            return Err(broken(format!("section {section:?} ends inside a chunk")));
        }
        at = of;
        let Some((id, piece)) = piece else { break };
        if id == LOG_SECTION {
            log.get_or_insert_default().extend_from_slice(&piece);
            continue;
        }
        let Some(section) = section_of(id) else {
            continue;
        };
        pending.extend_from_slice(&piece);
        while pending.len() >= 4 {
            let length = u32::from_le_bytes(pending[..4].try_into().expect("four bytes")) as usize;
            if length > CHUNK_MAX {
                return Err(broken(format!(
                    "a chunk of {length} bytes is over the cap of {CHUNK_MAX}"
                )));
            }
            if pending.len() < 4 + length {
                break;
            }
            pending.advance(4);
            let chunk = pending.split_to(length).freeze();
            let fed = loading.feed(section, chunk).await;
            fed.map_err(|error| broken(error.to_string()))?;
        }
    }
    let log = log.ok_or(ImageError::NoSection {
        txid,
        section: LOG_SECTION,
    })?;
    let digest: [u8; 16] = log
        .as_ref()
        .try_into()
        .map_err(|_| broken("the journal's digest is not 16 bytes".into()))?;
    let loaded = loading.finish().await;
    let loaded = loaded.map_err(|error| broken(error.to_string()))?;
    Ok((loaded, LogDigest(digest)))
}

/// The namesystem's section in a section of the container, if it is one.
fn section_of(id: SectionId) -> Option<Section> {
    let number = u8::try_from(id.0).ok();
    number.and_then(Section::from_u8)
}

/// `-saveNamespace`: an image of everything applied now, once it is committed (protocols.md section 0).
///
/// The namespace goes on meanwhile: the view is a point in time.
pub(crate) async fn save_namespace<E: Env>(node: Rc<Node<E>>) -> Result<TxId, Fault> {
    if node.saving.replace(true) {
        return Err(
            Fault::new(FaultClass::Busy, "an image is being saved already").with_value(1000),
        );
    }
    let saved = save(&node).await;
    node.saving.set(false);
    saved
}

async fn save<E: Env>(node: &Rc<Node<E>>) -> Result<TxId, Fault> {
    let refused = {
        let slot = node.namesystem.borrow();
        match slot.as_ref() {
            None => Some(Fault::new(
                FaultClass::Retry,
                "the NameNode is starting; try again",
            )),
            Some(namesystem) if !namesystem.in_safe_mode() => Some(Fault::new(
                FaultClass::InvalidArgument,
                "Safe mode should be turned ON in order to create namespace image.",
            )),
            Some(_) => None,
        }
    };
    if let Some(fault) = refused {
        return Err(fault);
    }
    let (view, digest) = node.view_with_digest().ok_or_else(|| {
        Fault::new(FaultClass::Retry, "edits wait for the journal; try again").with_value(100)
    })?;
    let txid = view.txid();
    let loads = node.loads.get();
    // Nothing leaves before what it shows is committed: in this tree, for the numbers of edits that were discarded with
    // another one are given to others.
    loop {
        let mark = node.committed.mark();
        if node.loads.get() != loads {
            return Err(Fault::new(
                FaultClass::Retry,
                "the edits it would hold were discarded with the active role; try again",
            ));
        }
        let reached = node
            .namesystem
            .borrow()
            .as_ref()
            .map(|namesystem| namesystem.committed() >= txid);
        match reached {
            Some(true) => break,
            Some(false) => node.committed.changed(mark).await,
            None => {
                return Err(Fault::new(
                    FaultClass::Retry,
                    "the NameNode lost the active role; try again",
                ));
            }
        }
    }
    match write(node, view, digest, 0, &|| false).await? {
        Saved::Published(txid) => Ok(txid),
        Saved::Cancelled => unreachable!("nobody cancels it"),
    }
}

/// How the saving of an image ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Saved {
    /// It is durable and published.
    Published(TxId),
    /// It was given up, and what there was of it is removed.
    Cancelled,
}

/// A checkpoint on a standby: an image of everything applied, which is all committed, until `stop` says to give up (C-06).
/// It is asked between chunks: a write is never interrupted (Q28). In small pieces, no faster than images are sent, so that
/// the nodes beside it keep the processor and the disk (`namenode.image_transfer_rate`).
pub(crate) async fn save_standby<E: Env>(
    node: &Rc<Node<E>>,
    stop: &dyn Fn() -> bool,
) -> Result<Saved, Fault> {
    if node.saving.replace(true) {
        return Err(Fault::new(
            FaultClass::Busy,
            "an image is being saved already",
        ));
    }
    let saved = match node.view_with_digest() {
        Some((view, digest)) if !stop() => {
            let rate = node.images.gentle_rate(view.image_bytes());
            write(node, view, digest, rate, stop).await
        }
        _ => Ok(Saved::Cancelled),
    };
    node.saving.set(false);
    saved
}

async fn write<E: Env>(
    node: &Rc<Node<E>>,
    view: View,
    digest: LogDigest,
    bytes_per_second: u64,
    stop: &dyn Fn() -> bool,
) -> Result<Saved, Fault> {
    let txid = view.txid();
    let written = write_image(node, view, digest, bytes_per_second, stop)
        .await
        .map_err(|error| Fault::new(FaultClass::DiskFailed, error.to_string()))?;
    if matches!(written, Saved::Published(_)) {
        node.images.saved(txid);
        if let Some(namesystem) = node.namesystem.borrow_mut().as_mut() {
            namesystem.set_last_checkpoint(txid);
        }
    }
    Ok(written)
}

async fn write_image<E: Env>(
    node: &Rc<Node<E>>,
    view: View,
    digest: LogDigest,
    bytes_per_second: u64,
    stop: &dyn Fn() -> bool,
) -> Result<Saved, ImageError> {
    let env = &node.env;
    let dir = images_dir(&node.config.dir);
    let disk = node.env.disk();
    let txid = view.txid();
    let mut writer = ImageWriter::create(disk, &dir, &node.config.namesystem.info, txid).await?;
    writer.section(LOG_SECTION, false);
    writer
        .write(bytes::Bytes::copy_from_slice(&digest.0))
        .await?;
    let mut chunks = Chunks {
        saving: ImageSaving::new(env.clone(), ImageSource::new(view.clone())),
        locations: None,
        view,
    };
    let mut stopped = pin!(stopped(env, stop));
    let mut pace = Pace::new(env.now(), bytes_per_second);
    let mut current = None;
    while let Some((section, chunk)) = chunks.next(node).await {
        let counts = pace.piece_bytes().max(chunk.len() as u64);
        let paced = pace.after(env, counts, &mut stopped).await;
        if paced.is_none() || stop() {
            writer.abort().await?;
            return Ok(Saved::Cancelled);
        }
        if current != Some(section) {
            writer.section(SectionId(u32::from(section as u8)), section.is_side());
            current = Some(section);
        }
        if section.is_side() || !chunk.is_empty() {
            let length = u32::try_from(chunk.len()).expect("chunks are far below 4 GiB");
            writer
                .write(bytes::Bytes::copy_from_slice(&length.to_le_bytes()))
                .await?;
            writer.write(chunk).await?;
        }
        // Not every chunk waits for its turn or for the disk.
        env.give_way().await;
    }
    let Some(info) = writer.finish_unless(stop).await? else {
        return Ok(Saved::Cancelled);
    };
    tracing::info!("image {txid} saved: {} bytes", info.length);
    let oldest = retain(disk, &dir, node.config.images_retained).await?;
    node.images.oldest_kept.set(oldest);
    Ok(Saved::Published(txid))
}

/// Everything that goes into an image: the namespace from a view, then where its blocks are, looked up as it is now.
struct Chunks<E: Env> {
    saving: ImageSaving<E>,
    locations: Option<LocationSource>,
    view: View,
}

impl<E: Env> Chunks<E> {
    async fn next(&mut self, node: &Node<E>) -> Option<(Section, bytes::Bytes)> {
        if let Some(chunk) = self.saving.next().await {
            return Some(chunk);
        }
        // Without a namespace (it is loaded again) the image is good, and remembers less.
        let slot = node.namesystem.borrow();
        let namesystem = slot.as_ref()?;
        let view = &self.view;
        self.locations
            .get_or_insert_with(|| LocationSource::new(view.clone(), namesystem))
            .next_chunk(namesystem)
    }
}
