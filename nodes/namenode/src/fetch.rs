//! Fetches of images: for a NameNode that is set up, and for operators.

use crate::config::NamenodePeer;
use crate::error::FetchError;
use crate::images::{Images, offer_of};
use crate::transfer::{self, SendError};
use bytes::Bytes;
use futures_util::future::{Either, select};
use hadal_env::{Conn, Disk, Env, Expect, Net};
use hadal_proto::frame::FrameKind;
use hadal_proto::image::{
    GetImage, ImageOffer, ImageProtocol, ImageReply, Request as Call, Response,
};
use hadal_proto::{Fault, FaultClass, Protocol, encode};
use hadal_quic::{CallClient, CallError, ReadResponder, open_read};
use hadal_types::{HaState, NamespaceInfo, Role, TxId};
use std::path::Path;
use std::pin::pin;
use std::rc::Rc;
use store_fsimage::{Image, ImageCopy, newest};

/// Fetches served at a time.
const SERVING_MAX: usize = 2;
/// When to come back.
const BUSY_MS: u64 = 5_000;
/// Tries to fetch an image; each goes on where the one before broke off.
const ATTEMPTS: u32 = 10;
/// Between two.
const RETRY_MS: u64 = 500;

/// Serves one fetch.
pub(crate) async fn serve<E: Env, C: Conn>(images: Rc<Images<E>>, stream: ReadResponder<C>) {
    if images.serving.get() >= SERVING_MAX {
        let reason = "other images are being fetched; try again";
        let busy = Fault::new(FaultClass::Busy, reason).with_value(BUSY_MS);
        return stream.refuse(busy).await;
    }
    images.serving.set(images.serving.get() + 1);
    serve_one(&images, stream).await;
    images.serving.set(images.serving.get() - 1);
}

async fn serve_one<E: Env, C: Conn>(images: &Rc<Images<E>>, stream: ReadResponder<C>) {
    let image = match choose(images, stream.header_bytes()).await {
        Ok(image) => image,
        Err(fault) => return stream.refuse(fault).await,
    };
    let reply = ImageReply {
        info: images.info.clone(),
        offer: image.as_ref().map(|(image, _)| offer_of(image.info())),
    };
    let Ok(mut sender) = stream.accept(&reply).await else {
        return;
    };
    let Some((image, offset)) = image else {
        return sender.finish();
    };
    let rate = images.bytes_per_second;
    let sent = transfer::send(&images.env, &image, &mut sender, offset, rate, &|| false).await;
    match sent {
        Ok(()) => {}
        Err(SendError::Image(error)) => {
            tracing::error!("image {} cannot be read: {error}", image.info().txid);
            let fault = encode(&Fault::new(FaultClass::Corrupt, error.to_string()));
            let abort = sender.send(FrameKind::Abort, 0, 0, fault, &mut []);
            if abort.await.is_ok() {
                sender.finish();
            }
        }
        Err(error) => tracing::debug!("an image was not fetched to its end: {error:?}"),
    }
}

type Chosen<E> = Option<(Image<<E as Env>::Disk>, u64)>;

/// The image asked for, verified, and where to start; `None` when there is none yet.
async fn choose<E: Env>(images: &Images<E>, header: Bytes) -> Result<Chosen<E>, Fault> {
    let asked: GetImage = hadal_proto::decode(header)
        .map_err(|error| Fault::new(FaultClass::BadRequest, error.to_string()))?;
    if !images.ready.get() {
        let reason = "the NameNode is starting; try again";
        return Err(Fault::new(FaultClass::Retry, reason));
    }
    let namespace_id = images.info.namespace_id;
    if asked.namespace_id != 0 && asked.namespace_id != namespace_id {
        return Err(Fault::new(
            FaultClass::IdentityMismatch,
            format!(
                "this is namespace {namespace_id}, not {}",
                asked.namespace_id
            ),
        ));
    }
    let disk = images.env.disk();
    let unreadable =
        |error: store_fsimage::ImageError| Fault::new(FaultClass::Corrupt, error.to_string());
    let image = if asked.txid == TxId(0) {
        newest(disk, &images.dir, namespace_id)
            .await
            .map_err(unreadable)?
            .map(|found| found.image)
    } else {
        let exists = store_fsimage::list(disk, &images.dir)
            .await
            .map_err(unreadable)?
            .iter()
            .any(|image| image.txid == asked.txid);
        if !exists {
            let reason = format!("there is no image {}", asked.txid);
            return Err(Fault::new(FaultClass::NotFound, reason));
        }
        let image = Image::open(disk, &images.dir, asked.txid, namespace_id)
            .await
            .map_err(unreadable)?;
        image.verify().await.map_err(unreadable)?;
        Some(image)
    };
    let Some(image) = image else { return Ok(None) };
    if asked.offset > image.info().length {
        return Err(Fault::new(
            FaultClass::InvalidArgument,
            format!(
                "image {} has {} bytes, not {}",
                image.info().txid,
                image.info().length,
                asked.offset
            ),
        ));
    }
    Ok(Some((image, asked.offset)))
}

/// What a NameNode says of itself.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Description {
    /// Whose namespace.
    pub info: NamespaceInfo,
    /// Its role.
    pub state: HaState,
    /// Last edit it knows committed.
    pub committed: TxId,
}

/// Asks a NameNode who it is.
///
/// # Errors
/// Its fault, or why it does not answer.
pub async fn describe<E: Env>(env: &E, peer: &NamenodePeer) -> Result<Description, CallError> {
    let expect = Expect::node(Role::Namenode, peer.name.clone());
    let conn = env.net().connect(peer.address, &expect).await?;
    let (client, driver) = CallClient::<ImageProtocol>::open(&conn).await?;
    let call = async { client.call(&Call::Describe).await };
    match select(pin!(call), pin!(driver)).await {
        Either::Left((answer, _)) => {
            let Response::Description {
                info,
                state,
                committed,
            } = answer?;
            Ok(Description {
                info,
                state,
                committed,
            })
        }
        Either::Right((error, _)) => Err(CallError::Net(error)),
    }
}

/// An image that was fetched and published.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Fetched {
    /// Whose namespace.
    pub info: NamespaceInfo,
    /// The image; `None` when that NameNode has none yet.
    pub image: Option<ImageOffer>,
}

/// Fetches the newest image of a NameNode into a directory, which must exist: verified, durable, published under its name
/// (`dfsadmin -fetchImage`, `namenode -bootstrapStandby`). `namespace_id` is what it must be of; 0 for whatever there is.
///
/// A connection that breaks is taken up where it broke.
///
/// # Errors
/// [`FetchError`].
pub async fn fetch_image<E: Env>(
    env: &E,
    dir: &Path,
    from: &NamenodePeer,
    namespace_id: u64,
) -> Result<Fetched, FetchError> {
    let mut partial: Option<(ImageOffer, ImageCopy<E::Disk>)> = None;
    let mut reason = String::new();
    for attempt in 0..ATTEMPTS {
        if attempt > 0 {
            env.sleep_until(env.now().after_ms(RETRY_MS)).await;
        }
        match attempt_fetch(env, dir, from, namespace_id, &mut partial).await {
            Ok(Some(fetched)) => return Ok(fetched),
            Ok(None) => reason = "the stream broke off".into(),
            Err(CallError::Fault(fault)) if !fault.is_retriable() => {
                if let Some((_, copy)) = partial.take() {
                    // The reason counts, not whether the rest could be removed.
                    let _ = copy.abort().await;
                }
                return Err(FetchError::Refused {
                    name: from.name.clone(),
                    fault,
                });
            }
            Err(error) => reason = error.to_string(),
        }
        tracing::warn!("fetching an image from {}: {reason}", from.name);
    }
    if let Some((_, copy)) = partial.take() {
        let _ = copy.abort().await;
    }
    Err(FetchError::Unreachable {
        name: from.name.clone(),
        address: from.address.to_string(),
        reason,
    })
}

/// `Ok(None)` when the stream broke off.
async fn attempt_fetch<E: Env>(
    env: &E,
    dir: &Path,
    from: &NamenodePeer,
    namespace_id: u64,
    partial: &mut Option<(ImageOffer, ImageCopy<E::Disk>)>,
) -> Result<Option<Fetched>, CallError> {
    let local = |error: store_fsimage::ImageError| {
        CallError::Fault(Fault::new(FaultClass::DiskFailed, error.to_string()))
    };
    let expect = Expect::node(Role::Namenode, from.name.clone());
    let conn = env.net().connect(from.address, &expect).await?;
    let begun = partial.as_ref();
    let asked = GetImage {
        namespace_id,
        txid: begun.map_or(TxId(0), |(offer, _)| offer.txid),
        offset: begun.map_or(0, |(_, copy)| copy.offset()),
    };
    let (protocol, version) = (ImageProtocol::ID, ImageProtocol::VERSION);
    let opened = open_read::<_, _, ImageReply>(&conn, protocol, version, &asked).await;
    let (reply, mut frames) = match opened {
        // It went to make room for a newer one: start over with that.
        Err(CallError::Fault(fault)) if fault.class == FaultClass::NotFound && begun.is_some() => {
            if let Some((_, copy)) = partial.take() {
                copy.abort().await.map_err(local)?;
            }
            return Ok(None);
        }
        opened => opened?,
    };
    let Some(offer) = reply.offer else {
        return Ok(Some(Fetched {
            info: reply.info,
            image: None,
        }));
    };
    transfer::check_offer(&offer).map_err(CallError::Fault)?;
    match partial {
        Some((begun, _)) if *begun == offer => {}
        Some(_) => {
            let reason = format!("image {} is another one now", offer.txid);
            return Err(CallError::Fault(Fault::new(FaultClass::Corrupt, reason)));
        }
        None => {
            let disk = env.disk();
            let copy = ImageCopy::create(disk, dir, offer.txid)
                .await
                .map_err(local)?;
            *partial = Some((offer.clone(), copy));
        }
    }
    let (_, copy) = partial.as_mut().expect("begun above");
    let taken = transfer::take(&mut frames, copy, &offer).await;
    if !taken.map_err(CallError::Fault)? {
        return Ok(None);
    }
    let (_, copy) = partial.take().expect("begun above");
    copy.finish(reply.info.namespace_id, offer.digest.to_le_bytes())
        .await
        .map_err(|error| {
            let class = match error {
                store_fsimage::ImageError::Disk(_) => FaultClass::DiskFailed,
                _ => FaultClass::Corrupt,
            };
            CallError::Fault(Fault::new(class, error.to_string()))
        })?;
    env.disk()
        .sync_dir(dir)
        .await
        .map_err(|error| local(error.into()))?;
    Ok(Some(Fetched {
        info: reply.info,
        image: Some(offer),
    }))
}
