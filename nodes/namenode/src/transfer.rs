//! Bytes of images on the wire, both ways; the format is [`hadal_proto::image`]'s.

use bytes::Bytes;
use futures_util::future::{Either, select};
use hadal_env::{ALIGN, Conn, Disk, Env};
use hadal_proto::frame::{Ack, FrameKind};
use hadal_proto::image::{IMAGE_FRAME_BYTES, ImageOffer};
use hadal_proto::{Fault, FaultClass, Wire};
use hadal_quic::{AppendSender, Frame, FrameReceiver};
use hadal_types::Tick;
use std::pin::{Pin, pin};
use store_fsimage::{Image, ImageCopy};
use store_record::checksum::{crc32c, crc32c_append};

/// Longest image accepted: far more than any namespace, far less than what makes arithmetic wrap.
const IMAGE_BYTES_MAX: u64 = 1 << 44;
/// How soon a cancelled transfer notices.
const STOP_CHECK_MS: u64 = 100;
/// Least bytes of a throttled frame.
const FRAME_BYTES_MIN: u64 = ALIGN as u64;
/// Frames of a throttled transfer in a second: what arrives at once is what the receiver's callers wait for.
const FRAMES_PER_SECOND: u64 = 128;
/// Pieces of work of a throttled image in a second, however few bytes come of them.
const PIECES_PER_SECOND: u64 = 256;
/// A checkpoint is in no hurry: its image takes this part of the checkpoint period to be written, and as much to be sent ...
const SPREAD: u64 = 120;
/// ... but goes no slower than this, unless that is forbidden.
const GENTLE_BYTES_PER_SECOND: u64 = 8 << 20;
/// Reading an image back costs so much less than sending it.
const READ_BACK: u64 = 8;

/// Why the sending of an image ended early.
#[derive(Debug)]
pub(crate) enum SendError {
    /// The image cannot be read.
    Image(store_fsimage::ImageError),
    /// The other side or the way to it.
    Net(hadal_env::NetError),
    /// It was given up.
    Stopped,
}

/// Resolves once `stop` says so.
pub(crate) async fn stopped<E: Env>(env: &E, stop: &dyn Fn() -> bool) {
    while !stop() {
        env.sleep_until(env.now().after_ms(STOP_CHECK_MS)).await;
    }
}

/// The future's value, unless `stopped` comes first; then the future is dropped.
pub(crate) async fn unless<T>(
    stopped: &mut Pin<&mut impl Future<Output = ()>>,
    future: impl Future<Output = T>,
) -> Option<T> {
    match select(pin!(future), stopped).await {
        Either::Left((value, _)) => Some(value),
        Either::Right(_) => None,
    }
}

/// Bytes per second for a checkpoint's image of `length` bytes, at most `most`: spread over a small part of the checkpoint
/// period, so that the callers of the active, and whoever shares a machine with the standby, do not feel it. 0 is no limit.
pub(crate) fn gentle_rate(length: u64, period_ms: u64, most: u64) -> u64 {
    let spread_ms = (period_ms / SPREAD).max(1);
    let even = length.saturating_mul(1_000) / spread_ms;
    even.max(GENTLE_BYTES_PER_SECOND).min(most)
}

/// Keeps a transfer, or the writing of an image on a standby, below its rate.
pub(crate) struct Pace {
    start: Tick,
    sent: u64,
    bytes_per_second: u64,
}

impl Pace {
    /// From `start` on; 0 is no limit.
    pub(crate) fn new(start: Tick, bytes_per_second: u64) -> Self {
        Self {
            start,
            sent: 0,
            bytes_per_second,
        }
    }

    /// Of reading back, from `start` on, what is transferred at this rate. Never so slow that somebody waits for it in vain.
    pub(crate) fn reading_back(start: Tick, bytes_per_second: u64) -> Self {
        let rate = match bytes_per_second {
            0 => 0,
            rate => rate.max(GENTLE_BYTES_PER_SECOND).saturating_mul(READ_BACK),
        };
        Self::new(start, rate)
    }

    /// Counts what was sent, and waits until more may follow.
    pub(crate) async fn wait<E: Env>(&mut self, env: &E, bytes: u64) {
        self.sent += bytes;
        if self.due() > env.now() {
            env.sleep_until(self.due()).await;
        }
    }

    /// As [`Self::wait`]; `None` when `stopped` came first.
    pub(crate) async fn after<E: Env>(
        &mut self,
        env: &E,
        bytes: u64,
        stopped: &mut Pin<&mut impl Future<Output = ()>>,
    ) -> Option<()> {
        unless(stopped, self.wait(env, bytes)).await
    }

    /// What a piece of work counts at least, though fewer bytes come of it.
    pub(crate) fn piece_bytes(&self) -> u64 {
        self.bytes_per_second / PIECES_PER_SECOND
    }

    fn due(&self) -> Tick {
        match self
            .sent
            .saturating_mul(1_000)
            .checked_div(self.bytes_per_second)
        {
            Some(ms) => self.start.after_ms(ms),
            None => self.start,
        }
    }

    /// Bytes per frame: many a second, so that a transfer is even.
    fn frame_bytes(&self) -> u64 {
        match self.bytes_per_second {
            0 => IMAGE_FRAME_BYTES as u64,
            rate => (rate / FRAMES_PER_SECOND).clamp(FRAME_BYTES_MIN, IMAGE_FRAME_BYTES as u64),
        }
    }
}

/// Sends the image from `offset` on, and Finish. It was verified before.
pub(crate) async fn send<E: Env, C: Conn>(
    env: &E,
    image: &Image<impl Disk>,
    sender: &mut AppendSender<C>,
    offset: u64,
    bytes_per_second: u64,
    stop: &dyn Fn() -> bool,
) -> Result<(), SendError> {
    let length = image.info().length;
    let mut stopped = pin!(stopped(env, stop));
    let mut pace = Pace::new(env.now(), bytes_per_second);
    let mut at = offset;
    while at < length {
        let wanted = usize::try_from((length - at).min(pace.frame_bytes())).expect("bounded");
        let bytes = image.read_raw(at, wanted).await.map_err(SendError::Image)?;
        let count = bytes.len() as u64;
        let mut aux = Vec::with_capacity(4);
        crc32c(&bytes).encode(&mut aux);
        let mut payload = [bytes];
        let sending = sender.send(FrameKind::Data, 0, at, aux.into(), &mut payload);
        unless(&mut stopped, sending)
            .await
            .ok_or(SendError::Stopped)?
            .map_err(SendError::Net)?;
        if count == 0 {
            // Shorter than it says: somebody cut the file.
            return Err(SendError::Image(store_fsimage::ImageError::Damaged {
                txid: image.info().txid,
                what: "length",
                offset: at,
            }));
        }
        at += count;
        pace.after(env, count, &mut stopped)
            .await
            .ok_or(SendError::Stopped)?;
    }
    let finish = sender.send(FrameKind::Finish, 0, length, Bytes::new(), &mut []);
    unless(&mut stopped, finish)
        .await
        .ok_or(SendError::Stopped)?
        .map_err(SendError::Net)?;
    sender.finish();
    Ok(())
}

/// Whether an offer can be an image at all.
pub(crate) fn check_offer(offer: &ImageOffer) -> Result<(), Fault> {
    let length = offer.length;
    let fits = length >= 2 * ALIGN as u64
        && length.is_multiple_of(ALIGN as u64)
        && length <= IMAGE_BYTES_MAX
        && offer.txid.0 > 0;
    match fits {
        true => Ok(()),
        false => Err(Fault::new(
            FaultClass::BadRequest,
            format!(
                "an image of txid {} and {length} bytes cannot be",
                offer.txid
            ),
        )),
    }
}

/// Takes frames into `copy` until Finish; `Ok(true)` then, `Ok(false)` when the stream broke off and can go on.
///
/// # Errors
/// A fault of the sender or of the disk.
pub(crate) async fn take<C: Conn, D: Disk>(
    frames: &mut FrameReceiver<C>,
    copy: &mut ImageCopy<D>,
    offer: &ImageOffer,
) -> Result<bool, Fault> {
    loop {
        let frame = match frames.next().await {
            Ok(Some(frame)) => frame,
            Ok(None) => return Ok(false),
            Err(error) => {
                tracing::debug!("image {} broke off: {error}", offer.txid);
                return Ok(false);
            }
        };
        let head = &frame.head;
        match head.kind {
            FrameKind::KeepAlive => {}
            FrameKind::Data => take_data(frame, copy, offer).await?,
            FrameKind::Finish if head.offset == offer.length && copy.offset() == offer.length => {
                return Ok(true);
            }
            FrameKind::Abort => {
                let fault = hadal_proto::decode(frame.aux)
                    .unwrap_or_else(|_| Fault::new(FaultClass::Retry, "the sender gave up"));
                return Err(fault);
            }
            FrameKind::Finish | FrameKind::Flush | FrameKind::Sync => {
                return Err(Fault::new(
                    FaultClass::BadRequest,
                    format!(
                        "{:?} at {} does not end an image of {} bytes of which {} arrived",
                        head.kind,
                        head.offset,
                        offer.length,
                        copy.offset()
                    ),
                ));
            }
        }
    }
}

async fn take_data<D: Disk>(
    frame: Frame,
    copy: &mut ImageCopy<D>,
    offer: &ImageOffer,
) -> Result<(), Fault> {
    let length = u64::from(frame.head.payload_length);
    if frame.head.offset != copy.offset() || copy.offset() + length > offer.length {
        return Err(Fault::new(
            FaultClass::BadRequest,
            format!(
                "{length} bytes at {} do not follow {} of {}",
                frame.head.offset,
                copy.offset(),
                offer.length
            ),
        ));
    }
    let crc = frame
        .payload
        .iter()
        .fold(crc32c(&[]), |crc, piece| crc32c_append(crc, piece));
    if frame.aux[..] != crc.to_le_bytes() {
        return Err(Fault::new(
            FaultClass::Corrupt,
            format!(
                "image {} arrived damaged at byte {}",
                offer.txid, frame.head.offset
            ),
        ));
    }
    for piece in frame.payload {
        copy.write(piece)
            .await
            .map_err(|error| Fault::new(FaultClass::DiskFailed, error.to_string()))?;
    }
    Ok(())
}

/// An answer on an append stream.
pub(crate) fn ack(sequence: u64, offset: u64, fault: Option<Fault>) -> Ack {
    Ack {
        sequence,
        offset,
        fault,
        bad_node: u8::MAX,
        slow_nodes: 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Gently where the time does not matter, as fast as is allowed where it does.
    #[test]
    fn a_checkpoint_goes_as_fast_as_it_must() {
        const MIB: u64 = 1 << 20;
        const HOUR_MS: u64 = 3_600_000;
        let rate = |length| gentle_rate(length, HOUR_MS, 64 * MIB);
        assert_eq!(rate(0), 8 * MIB);
        assert_eq!(rate(54 * MIB), 8 * MIB);
        // Half a minute of an hour.
        assert_eq!(rate(600 * MIB), 20 * MIB);
        assert_eq!(rate(54 << 30), 64 * MIB);
        // Less may be allowed, and no limit is none.
        assert_eq!(gentle_rate(54 * MIB, HOUR_MS, MIB), MIB);
        assert_eq!(gentle_rate(54 * MIB, HOUR_MS, 0), 0);
        // Who wants an image every second gets it.
        assert_eq!(gentle_rate(54 * MIB, 1_000, 64 * MIB), 64 * MIB);
    }

    /// What arrives at once is small, whatever the rate.
    #[test]
    fn frames_are_small() {
        let frame = |rate| Pace::new(Tick(0), rate).frame_bytes();
        assert_eq!(frame(100), FRAME_BYTES_MIN);
        assert_eq!(frame(8 << 20), 64 << 10);
        assert_eq!(frame(64 << 20), IMAGE_FRAME_BYTES as u64);
        assert_eq!(frame(0), IMAGE_FRAME_BYTES as u64);
    }
}
