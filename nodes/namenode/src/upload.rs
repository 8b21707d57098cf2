//! Uploads of images: to another NameNode, and from one (C-11, C-12).

use crate::config::NamenodePeer;
use crate::images::{Images, Partial, offer_of};
use crate::transfer::{self, Pace, SendError, ack, stopped, unless};
use hadal_env::{Conn, Env, Expect, Net};
use hadal_namesystem::{Unwanted, UploadOutcome};
use hadal_proto::frame::Ack;
use hadal_proto::image::{ImageProtocol, PutImage};
use hadal_proto::{Fault, FaultClass, Protocol};
use hadal_quic::{AppendReceiver, open_append};
use hadal_types::{Role, TxId};
use std::pin::pin;
use std::rc::Rc;
use store_fsimage::{Image, ImageCopy, ImageError, retain};

type DiskOf<E> = <E as Env>::Disk;

/// The first answer comes at once.
const ANSWER_WAIT_MS: u64 = 30_000;
/// The last one when the receiver has read the image back and synced it.
const PUBLISH_WAIT_MS: u64 = 600_000;
/// When to come back to a NameNode that is busy with another image.
const BUSY_MS: u64 = 1_000;

/// Sends image `txid` to another NameNode, until `stop` says to give up (C-06).
pub(crate) async fn upload<E: Env>(
    images: &Images<E>,
    peer: &NamenodePeer,
    txid: TxId,
    stop: &dyn Fn() -> bool,
) -> UploadOutcome {
    let mut cancelled = pin!(stopped(&images.env, stop));
    let sent = try_upload(images, peer, txid, stop);
    match unless(&mut cancelled, sent).await {
        None | Some(Err(Failure::Stopped)) => UploadOutcome::Cancelled,
        Some(Ok(())) => UploadOutcome::Published,
        Some(Err(Failure::Refused(fault))) => match fault.class {
            FaultClass::AlreadyExists => UploadOutcome::HasOne(TxId(fault.value)),
            FaultClass::Busy => UploadOutcome::Later(fault.value),
            _ => {
                tracing::warn!("{} refuses image {txid}: {fault}", peer.name);
                UploadOutcome::Failed
            }
        },
        Some(Err(Failure::Broken(reason))) => {
            tracing::warn!("image {txid} could not be sent to {}: {reason}", peer.name);
            UploadOutcome::Failed
        }
    }
}

enum Failure {
    Refused(Fault),
    Broken(String),
    Stopped,
}

fn broken(error: impl ToString) -> Failure {
    Failure::Broken(error.to_string())
}

async fn try_upload<E: Env>(
    images: &Images<E>,
    peer: &NamenodePeer,
    txid: TxId,
    stop: &dyn Fn() -> bool,
) -> Result<(), Failure> {
    let env = &images.env;
    let image = Image::open(env.disk(), &images.dir, txid, images.info.namespace_id)
        .await
        .map_err(broken)?;
    let offer = offer_of(image.info());
    let length = offer.length;
    let expect = Expect::node(Role::Namenode, peer.name.clone());
    let conn = env.net().connect(peer.address, &expect).await;
    let conn = conn.map_err(broken)?;
    let header = PutImage {
        info: images.info.clone(),
        offer,
    };
    let (protocol, version) = (ImageProtocol::ID, ImageProtocol::VERSION);
    let opened = open_append(&conn, protocol, version, &header).await;
    let (mut sender, mut acks) = opened.map_err(broken)?;
    let mut next_ack = async |limit_ms: u64| -> Result<Ack, Failure> {
        let mut late = pin!(env.sleep_until(env.now().after_ms(limit_ms)));
        match unless(&mut late, acks.next()).await {
            None => Err(Failure::Broken(format!("no answer within {limit_ms} ms"))),
            Some(Err(error)) => Err(broken(error)),
            Some(Ok(None)) => Err(broken("it ended the stream")),
            Some(Ok(Some(Ack {
                fault: Some(fault), ..
            }))) => Err(Failure::Refused(fault)),
            Some(Ok(Some(ack))) => Ok(ack),
        }
    };
    // Nothing is read or sent before the receiver wants it (Q27).
    let start = next_ack(ANSWER_WAIT_MS).await?;
    if start.sequence != u64::MAX || start.offset > length {
        return Err(broken(
            "it answered with something else than where to start",
        ));
    }
    let rate = images.gentle_rate(length);
    let mut pace = Pace::reading_back(env.now(), rate);
    let verified = image.verify_paced(async |bytes| pace.wait(env, bytes).await);
    verified.await.map_err(broken)?;
    let sent = transfer::send(env, &image, &mut sender, start.offset, rate, stop).await;
    match sent {
        Ok(()) => {}
        Err(SendError::Stopped) => return Err(Failure::Stopped),
        Err(SendError::Image(error)) => return Err(broken(error)),
        // A receiver that stops the stream says why on its acks.
        Err(SendError::Net(error)) => {
            return Err(match next_ack(ANSWER_WAIT_MS).await {
                Err(refused @ Failure::Refused(_)) => refused,
                _ => broken(error),
            });
        }
    }
    let published = next_ack(PUBLISH_WAIT_MS).await?;
    if published.offset != length {
        return Err(broken("it published something shorter"));
    }
    tracing::info!("image {txid} is at {}: {length} bytes", peer.name);
    Ok(())
}

/// Takes an upload; the txid when it was published here.
pub(crate) async fn receive<E: Env, C: Conn>(
    images: Rc<Images<E>>,
    stream: AppendReceiver<C>,
    role: Role,
) -> Option<TxId> {
    let header = stream.header_bytes();
    let (mut frames, mut acks) = stream.into_parts();
    let admitted = match hadal_proto::decode::<PutImage>(header) {
        Ok(header) => admit(&images, &header, role).await,
        Err(error) => Err(Fault::new(FaultClass::BadRequest, error.to_string())),
    };
    let mut arriving = match admitted {
        Ok(arriving) => arriving,
        Err(fault) => {
            tracing::debug!("an image is refused: {fault}");
            frames.stop(hadal_quic::code::of(fault.class));
            if acks.send(&ack(u64::MAX, 0, Some(fault))).await.is_ok() {
                acks.finish();
            }
            return None;
        }
    };
    let start = arriving.partial().copy.offset();
    if acks.send(&ack(u64::MAX, start, None)).await.is_err() {
        return None;
    }
    let outcome = arriving.take(&mut frames).await;
    let answer = match &outcome {
        Ok(None) => return None,
        Ok(Some(offer)) => ack(u64::MAX, offer.length, None),
        Err(fault) => {
            tracing::warn!("an image could not be taken: {fault}");
            frames.stop(hadal_quic::code::of(fault.class));
            ack(u64::MAX, 0, Some(fault.clone()))
        }
    };
    let published = outcome.ok().flatten().map(|offer| offer.txid);
    if acks.send(&answer).await.is_ok() {
        acks.finish();
    }
    published
}

/// Whether the image is wanted; the right to take it.
async fn admit<E: Env>(
    images: &Rc<Images<E>>,
    header: &PutImage,
    role: Role,
) -> Result<Arriving<E>, Fault> {
    if role != Role::Namenode {
        return Err(Fault::new(
            FaultClass::Forbidden,
            format!("only NameNodes upload images, not a {role}"),
        ));
    }
    if !images.ready.get() {
        let reason = "the NameNode is starting; try again";
        return Err(Fault::new(FaultClass::Retry, reason));
    }
    if header.info != images.info {
        return Err(Fault::new(
            FaultClass::IdentityMismatch,
            format!(
                "the image is of cluster {}, namespace {}; this is {}, {}",
                header.info.cluster_id,
                header.info.namespace_id,
                images.info.cluster_id,
                images.info.namespace_id
            ),
        ));
    }
    let offer = &header.offer;
    transfer::check_offer(offer)?;
    let judged = images.policy.borrow().judge(images.env.now(), offer.txid);
    match judged {
        Ok(()) => {}
        Err(Unwanted::HasOne(txid)) => {
            let reason = format!("there is image {txid} already");
            return Err(Fault::new(FaultClass::AlreadyExists, reason).with_value(txid.0));
        }
        Err(Unwanted::TooFresh(ms)) => {
            let reason = "the last image arrived a short while ago";
            return Err(Fault::new(FaultClass::Busy, reason).with_value(ms));
        }
    }
    if images.receiving.replace(true) {
        let reason = "another image is arriving";
        return Err(Fault::new(FaultClass::Busy, reason).with_value(BUSY_MS));
    }
    let mut arriving = Arriving {
        images: Rc::clone(images),
        partial: images.partial.borrow_mut().take(),
    };
    if arriving
        .partial
        .as_ref()
        .is_some_and(|partial| partial.offer != *offer)
    {
        arriving.abort().await;
    }
    if arriving.partial.is_none() {
        let copy = ImageCopy::create(images.env.disk(), &images.dir, offer.txid)
            .await
            .map_err(|error| Fault::new(FaultClass::DiskFailed, error.to_string()))?;
        arriving.partial = Some(Partial {
            offer: offer.clone(),
            copy,
        });
    }
    Ok(arriving)
}

/// The one upload that is arriving. Dropped before its end, it leaves what arrived for the next try.
struct Arriving<E: Env> {
    images: Rc<Images<E>>,
    partial: Option<Partial<E>>,
}

impl<E: Env> Arriving<E> {
    fn partial(&mut self) -> &mut Partial<E> {
        self.partial.as_mut().expect("until it is finished")
    }

    async fn abort(&mut self) {
        if let Some(partial) = self.partial.take()
            && let Err(error) = partial.copy.abort().await
        {
            tracing::debug!("what was received of an image stays: {error}");
        }
    }

    /// `None` when the stream broke off.
    async fn take<C: Conn>(
        &mut self,
        frames: &mut hadal_quic::FrameReceiver<C>,
    ) -> Result<Option<hadal_proto::image::ImageOffer>, Fault> {
        let partial = self.partial();
        let offer = partial.offer.clone();
        match transfer::take(frames, &mut partial.copy, &offer).await {
            Ok(true) => {}
            Ok(false) => return Ok(None),
            Err(fault) => {
                // Damage on the way does not make the rest bad; everything else is not worth keeping.
                if fault.class != FaultClass::Corrupt {
                    self.abort().await;
                }
                return Err(fault);
            }
        }
        let images = Rc::clone(&self.images);
        // An image of our own may have come first, and removed what was received.
        if offer.txid <= images.policy.borrow().image() {
            self.abort().await;
            let newest = images.policy.borrow().image();
            let reason = format!("there is image {newest} already");
            return Err(Fault::new(FaultClass::AlreadyExists, reason).with_value(newest.0));
        }
        let partial = self.partial.take().expect("taken above");
        publish(&images, partial.copy, &offer)
            .await
            .map_err(|error| {
                let class = match error {
                    ImageError::Disk(_) => FaultClass::DiskFailed,
                    ImageError::OtherNamespace { .. } => FaultClass::IdentityMismatch,
                    _ => FaultClass::Corrupt,
                };
                Fault::new(class, error.to_string())
            })?;
        let now = images.env.now();
        images.policy.borrow_mut().handle_received(now, offer.txid);
        images.wake.notify();
        tracing::info!("image {} arrived: {} bytes", offer.txid, offer.length);
        Ok(Some(offer))
    }
}

async fn publish<E: Env>(
    images: &Images<E>,
    copy: ImageCopy<DiskOf<E>>,
    offer: &hadal_proto::image::ImageOffer,
) -> Result<(), ImageError> {
    let digest = offer.digest.to_le_bytes();
    // The active's callers wait for none of it.
    let env = &images.env;
    let mut pace = Pace::reading_back(env.now(), images.gentle_rate(offer.length));
    let wait = async |bytes| pace.wait(env, bytes).await;
    copy.finish_paced(images.info.namespace_id, digest, wait)
        .await?;
    let oldest = retain(images.env.disk(), &images.dir, images.retained).await?;
    images.oldest_kept.set(oldest);
    Ok(())
}

impl<E: Env> Drop for Arriving<E> {
    fn drop(&mut self) {
        *self.images.partial.borrow_mut() = self.partial.take();
        self.images.receiving.set(false);
    }
}
