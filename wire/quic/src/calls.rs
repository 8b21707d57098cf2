//! The calling side: many calls in flight over one stream, answered in any order.

use crate::code;
use crate::reader::Reader;
use bytes::Bytes;
use futures_util::future::{Either, select};
use hadal_env::{Conn, NetError, NetErrorKind, RecvStream, SendStream};
use hadal_proto::codec::Wire;
use hadal_proto::frame::{Answer, CALL_FRAME_CAP, Prelude, StreamKind};
use hadal_proto::{DecodeError, Fault, FaultClass, Protocol};
use std::collections::BTreeMap;
use std::future::{Future, poll_fn};
use std::marker::PhantomData;
use std::mem;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use thiserror::Error;

/// Calls a stream carries unanswered, unless told otherwise. At either side the next one waits.
pub const CALLS_IN_FLIGHT: usize = 1024;

/// Bytes of encoded frames waiting for the stream; above it new ones wait.
pub(crate) const QUEUE_BYTES: usize = 4 << 20;

/// Bytes of a call frame's length and id.
pub(crate) const CALL_HEAD_LEN: usize = 12;

/// Why a call has no answer.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum CallError {
    /// The stream or connection ended; whether the call was carried out is unknown.
    #[error(transparent)]
    Net(#[from] NetError),
    /// The other side answered with a fault, or refused the stream with a code that stands for one.
    #[error("{name}: {0}", name = .0.class.hadoop_name())]
    Fault(Fault),
    /// The answer is not a message of the protocol.
    #[error("the answer cannot be decoded: {0}")]
    BadAnswer(DecodeError),
}

impl CallError {
    /// The other side's fault, if it is one.
    #[must_use]
    pub fn fault(&self) -> Option<&Fault> {
        match self {
            Self::Fault(fault) => Some(fault),
            Self::Net(_) | Self::BadAnswer(_) => None,
        }
    }

    /// Whether the same call may succeed a little later, at this or another node. A call that may
    /// have been carried out already must then be repeated under the same call id.
    #[must_use]
    pub fn is_retriable(&self) -> bool {
        match self {
            Self::Net(error) => error.kind != NetErrorKind::Untrusted,
            Self::Fault(fault) => fault.is_retriable(),
            Self::BadAnswer(_) => false,
        }
    }

    pub(crate) fn ended(error: NetError) -> Self {
        if let NetErrorKind::Reset(number) = error.kind
            && let Some(fault) = code::fault(number, &error.detail)
        {
            return Self::Fault(fault);
        }
        Self::Net(error)
    }
}

/// Makes calls of one protocol to one peer. Clones share the stream; it ends when the last is dropped.
pub struct CallClient<P> {
    handle: Arc<Handle>,
    protocol: PhantomData<fn() -> P>,
}

impl<P> Clone for CallClient<P> {
    fn clone(&self) -> Self {
        Self {
            handle: Arc::clone(&self.handle),
            protocol: PhantomData,
        }
    }
}

impl<P> std::fmt::Debug for CallClient<P> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CallClient").finish_non_exhaustive()
    }
}

impl<P: Protocol> CallClient<P> {
    /// Opens a call stream with [`CALLS_IN_FLIGHT`] calls at most. The second value moves the bytes: spawn it
    /// or poll it beside the calls. It ends, with the reason, when the stream or connection ends or
    /// the last clone is dropped; every pending call then fails with [`CallError::Net`] (or, when the
    /// peer refused the stream by a code, [`CallError::Fault`]). Dropping it ends the calls too.
    ///
    /// # Errors
    /// The connection's, when it has ended or has no room for a stream before it ends.
    pub async fn open<C: Conn>(
        conn: &C,
    ) -> Result<(Self, impl Future<Output = NetError> + use<P, C>), NetError> {
        Self::open_with(conn, CALLS_IN_FLIGHT).await
    }

    /// As [`CallClient::open`], with `in_flight` calls at most.
    ///
    /// # Errors
    /// As [`CallClient::open`].
    pub async fn open_with<C: Conn>(
        conn: &C,
        in_flight: usize,
    ) -> Result<(Self, impl Future<Output = NetError> + use<P, C>), NetError> {
        let (send, recv) = conn.open().await?;
        let mut queue = Vec::with_capacity(4096);
        Prelude {
            kind: StreamKind::Call,
            protocol: P::ID,
            version: P::VERSION,
        }
        .encode(&mut queue);
        let shared = Arc::new(Shared {
            in_flight,
            state: Mutex::new(State {
                queue,
                ..State::default()
            }),
        });
        let driver = drive(EndOnDrop(Arc::clone(&shared)), send, recv);
        let client = Self {
            handle: Arc::new(Handle { shared }),
            protocol: PhantomData,
        };
        Ok((client, driver))
    }

    /// Makes one call. Waits while the bound of calls in flight is reached. A dropped call keeps its
    /// place until its answer arrives, as the other side still works on it.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn call(&self, request: &P::Request) -> Result<P::Response, CallError> {
        let shared = &self.handle.shared;
        let mut admission = Admission {
            shared,
            ticket: None,
        };
        let id = poll_fn(|cx| admission.poll(cx, request)).await?;
        let mut pending = Pending {
            shared,
            id: Some(id),
        };
        let body = poll_fn(|cx| pending.poll(cx)).await?;
        match hadal_proto::decode::<Answer<P::Response>>(body) {
            Ok(Answer(Ok(response))) => Ok(response),
            Ok(Answer(Err(fault))) => Err(CallError::Fault(fault)),
            Err(error) => Err(CallError::BadAnswer(error)),
        }
    }

    /// Whether the stream has ended: every further call fails at once.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.handle.shared.lock().ended.is_some()
    }

    /// Calls sent and not answered yet, at this moment.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.handle.shared.lock().used
    }
}

struct Handle {
    shared: Arc<Shared>,
}

impl Drop for Handle {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.deserted = true;
        let writer = state.writer.take();
        drop(state);
        wake(writer);
    }
}

struct Shared {
    in_flight: usize,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    slots: Vec<Slot>,
    free: Vec<u32>,
    used: usize,
    /// Encoded frames the writer takes all at once.
    queue: Vec<u8>,
    writer: Option<Waker>,
    /// Calls waiting for room, by arrival.
    waiting: BTreeMap<u64, Waker>,
    next_ticket: u64,
    deserted: bool,
    ended: Option<NetError>,
}

/// One call in flight. Its id on the wire is generation and index, so an answer can only ever meet
/// the call it belongs to.
struct Slot {
    generation: u32,
    progress: Progress,
}

enum Progress {
    Free,
    Waiting(Option<Waker>),
    Answered(Bytes),
    Abandoned,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn poll_batch(&self, cx: &Context<'_>) -> Poll<Option<Bytes>> {
        let mut state = self.lock();
        if !state.queue.is_empty() {
            let room = state.queue.len().clamp(1024, 64 << 10);
            let batch = mem::replace(&mut state.queue, Vec::with_capacity(room));
            let next = state.next_admissible(self.in_flight);
            drop(state);
            wake(next);
            return Poll::Ready(Some(Bytes::from(batch)));
        }
        if state.deserted {
            return Poll::Ready(None);
        }
        state.writer = Some(cx.waker().clone());
        Poll::Pending
    }

    /// Hands an answer to its call. `false` for an id that is not in flight.
    fn answered(&self, id: u64, body: Bytes) -> bool {
        let index = id as u32;
        let generation = (id >> 32) as u32;
        let mut state = self.lock();
        let Some(slot) = state.slots.get_mut(index as usize) else {
            return false;
        };
        if slot.generation != generation {
            return false;
        }
        match mem::replace(&mut slot.progress, Progress::Free) {
            Progress::Waiting(waker) => {
                slot.progress = Progress::Answered(body);
                drop(state);
                wake(waker);
            }
            Progress::Abandoned => {
                let next = state.release(index);
                drop(state);
                wake(next);
            }
            other @ (Progress::Free | Progress::Answered(_)) => {
                slot.progress = other;
                return false;
            }
        }
        true
    }

    fn end(&self, error: NetError) {
        let mut state = self.lock();
        if state.ended.is_some() {
            return;
        }
        state.ended = Some(error);
        state.queue = Vec::new();
        let mut wakers: Vec<Waker> = mem::take(&mut state.waiting).into_values().collect();
        for slot in &mut state.slots {
            if let Progress::Waiting(waker) = &mut slot.progress {
                wakers.extend(waker.take());
            }
        }
        drop(state);
        wakers.into_iter().for_each(Waker::wake);
    }
}

impl State {
    /// Gives a slot back; returns who waits for it.
    fn release(&mut self, index: u32) -> Option<Waker> {
        let slot = &mut self.slots[index as usize];
        slot.progress = Progress::Free;
        slot.generation = slot.generation.wrapping_add(1);
        self.free.push(index);
        self.used -= 1;
        self.waiting.pop_first().map(|(_, waker)| waker)
    }

    fn has_room(&self, in_flight: usize) -> bool {
        self.used < in_flight && self.queue.len() < QUEUE_BYTES
    }

    /// The next waiting call, if there is room for it.
    fn next_admissible(&mut self, in_flight: usize) -> Option<Waker> {
        if !self.has_room(in_flight) {
            return None;
        }
        self.waiting.pop_first().map(|(_, waker)| waker)
    }

    fn admit(&mut self) -> u64 {
        self.used += 1;
        let index = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot {
                generation: 0,
                progress: Progress::Free,
            });
            u32::try_from(self.slots.len() - 1).expect("calls in flight are bounded")
        });
        let slot = &mut self.slots[index as usize];
        slot.progress = Progress::Waiting(None);
        u64::from(slot.generation) << 32 | u64::from(index)
    }
}

fn wake(waker: Option<Waker>) {
    if let Some(waker) = waker {
        waker.wake();
    }
}

/// A call waiting to be sent.
struct Admission<'a> {
    shared: &'a Shared,
    ticket: Option<u64>,
}

impl Admission<'_> {
    fn poll<T: Wire>(&mut self, cx: &Context<'_>, request: &T) -> Poll<Result<u64, CallError>> {
        let mut state = self.shared.lock();
        if let Some(error) = &state.ended {
            return Poll::Ready(Err(CallError::ended(error.clone())));
        }
        let first_in_line = match self.ticket {
            Some(ticket) => state
                .waiting
                .first_key_value()
                .is_none_or(|(first, _)| *first >= ticket),
            None => state.waiting.is_empty(),
        };
        if !state.has_room(self.shared.in_flight) || !first_in_line {
            let ticket = *self.ticket.get_or_insert_with(|| {
                state.next_ticket += 1;
                state.next_ticket
            });
            state.waiting.insert(ticket, cx.waker().clone());
            return Poll::Pending;
        }
        let id = state.admit();
        let start = state.queue.len();
        put_call_frame(&mut state.queue, id, |out| request.encode(out));
        let length = state.queue.len() - start - 4;
        if length > CALL_FRAME_CAP {
            state.queue.truncate(start);
            let next = state.release(id as u32);
            drop(state);
            wake(next);
            return Poll::Ready(Err(CallError::Fault(Fault::new(
                FaultClass::BadRequest,
                format!(
                    "the request takes {length} bytes, over the cap of {CALL_FRAME_CAP} for a call: split it"
                ),
            ))));
        }
        if let Some(ticket) = self.ticket.take() {
            state.waiting.remove(&ticket);
        }
        // Whoever is next may have room too: one batch taken makes room for many.
        let next = state.next_admissible(self.shared.in_flight);
        let writer = state.writer.take();
        drop(state);
        wake(writer);
        wake(next);
        Poll::Ready(Ok(id))
    }
}

impl Drop for Admission<'_> {
    fn drop(&mut self) {
        let Some(ticket) = self.ticket else { return };
        let mut state = self.shared.lock();
        // Not in the queue any more: it was woken for room it now leaves to the next.
        let next = if state.waiting.remove(&ticket).is_none() {
            state.waiting.pop_first().map(|(_, waker)| waker)
        } else {
            None
        };
        drop(state);
        wake(next);
    }
}

/// A call on its way.
struct Pending<'a> {
    shared: &'a Shared,
    id: Option<u64>,
}

impl Pending<'_> {
    fn poll(&mut self, cx: &Context<'_>) -> Poll<Result<Bytes, CallError>> {
        let index = self.id.expect("not polled after it was ready") as u32;
        let mut state = self.shared.lock();
        let slot = &mut state.slots[index as usize];
        if let Progress::Answered(body) = &mut slot.progress {
            let body = mem::take(body);
            let next = state.release(index);
            self.id = None;
            drop(state);
            wake(next);
            return Poll::Ready(Ok(body));
        }
        if let Some(error) = &state.ended {
            return Poll::Ready(Err(CallError::ended(error.clone())));
        }
        match &mut state.slots[index as usize].progress {
            Progress::Waiting(Some(waker)) => waker.clone_from(cx.waker()),
            progress => *progress = Progress::Waiting(Some(cx.waker().clone())),
        }
        Poll::Pending
    }
}

impl Drop for Pending<'_> {
    fn drop(&mut self) {
        let Some(id) = self.id else { return };
        let mut state = self.shared.lock();
        let slot = &mut state.slots[id as u32 as usize];
        let next = match slot.progress {
            Progress::Answered(_) => state.release(id as u32),
            _ => {
                slot.progress = Progress::Abandoned;
                None
            }
        };
        drop(state);
        wake(next);
    }
}

/// Appends `{length u32, id u64, body}`. A body over the cap is found by its length afterwards.
pub(crate) fn put_call_frame(out: &mut Vec<u8>, id: u64, body: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    out.extend_from_slice(&[0; 4]);
    id.encode(out);
    body(out);
    let length = u32::try_from(out.len() - start - 4).unwrap_or(u32::MAX);
    out[start..start + 4].copy_from_slice(&length.to_le_bytes());
}

/// Why a call frame could not be read.
pub(crate) enum FrameError {
    Net(NetError),
    Malformed(DecodeError),
}

/// The next call frame: id and body. `None` at the end of the stream. Cancel-safe.
pub(crate) async fn read_call_frame<R: RecvStream>(
    reader: &mut Reader<R>,
) -> Result<Option<(u64, Bytes)>, FrameError> {
    if !reader.fill(CALL_HEAD_LEN).await.map_err(FrameError::Net)? {
        if reader.buffered() == 0 {
            return Ok(None);
        }
        return Err(FrameError::Malformed(DecodeError::Truncated {
            what: "call frame",
        }));
    }
    let head = reader.peek::<CALL_HEAD_LEN>();
    let length = u32::from_le_bytes([head[0], head[1], head[2], head[3]]) as usize;
    if length > CALL_FRAME_CAP {
        return Err(FrameError::Malformed(DecodeError::TooLong {
            what: "call frame",
            length,
            cap: CALL_FRAME_CAP,
        }));
    }
    if length < CALL_HEAD_LEN - 4 {
        return Err(FrameError::Malformed(DecodeError::Invalid {
            what: "call frame length",
        }));
    }
    if !reader.fill(4 + length).await.map_err(FrameError::Net)? {
        return Err(FrameError::Malformed(DecodeError::Truncated {
            what: "call frame",
        }));
    }
    reader.skip(CALL_HEAD_LEN);
    let id = u64::from_le_bytes(head[4..].try_into().expect("eight bytes"));
    Ok(Some((id, reader.take(length + 4 - CALL_HEAD_LEN))))
}

/// Ends the calls when the driver is dropped instead of run to its end.
struct EndOnDrop(Arc<Shared>);

impl Drop for EndOnDrop {
    fn drop(&mut self) {
        self.0.end(NetError::new(
            NetErrorKind::Closed,
            "the task that drives this call stream was dropped",
        ));
    }
}

async fn drive<S: SendStream, R: RecvStream>(guard: EndOnDrop, mut send: S, recv: R) -> NetError {
    let shared = &guard.0;
    let mut reader = Reader::new(recv);
    let error = {
        let writing = pin!(write(shared, &mut send));
        let reading = pin!(read(shared, &mut reader));
        match select(writing, reading).await {
            Either::Left((error, _)) | Either::Right((error, _)) => error,
        }
    };
    shared.end(error.clone());
    error
}

async fn write<S: SendStream>(shared: &Shared, send: &mut S) -> NetError {
    while let Some(batch) = poll_fn(|cx| shared.poll_batch(cx)).await {
        if let Err(error) = send.write_chunk(batch).await {
            return error;
        }
    }
    send.finish();
    NetError::new(NetErrorKind::Closed, "every holder of this client is gone")
}

async fn read<R: RecvStream>(shared: &Shared, reader: &mut Reader<R>) -> NetError {
    loop {
        match read_call_frame(reader).await {
            Ok(Some((id, body))) => {
                if !shared.answered(id, body) {
                    reader.stop(code::of(FaultClass::BadRequest));
                    return NetError::new(
                        NetErrorKind::Lost,
                        format!("the peer answered call {id:#x}, which is not in flight"),
                    );
                }
            }
            Ok(None) => {
                return NetError::new(NetErrorKind::Closed, "the peer ended the call stream");
            }
            Err(FrameError::Net(error)) => return error,
            Err(FrameError::Malformed(error)) => {
                reader.stop(code::of(FaultClass::BadRequest));
                return NetError::new(
                    NetErrorKind::Lost,
                    format!("the peer sent a malformed answer: {error}"),
                );
            }
        }
    }
}
