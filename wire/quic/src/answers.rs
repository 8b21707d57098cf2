//! The answering side of a call stream.

use crate::calls::{CALLS_IN_FLIGHT, FrameError, QUEUE_BYTES, put_call_frame, read_call_frame};
use crate::code;
use crate::reader::Reader;
use bytes::Bytes;
use hadal_env::{Conn, SendStream};
use hadal_proto::codec::Wire;
use hadal_proto::frame::CALL_FRAME_CAP;
use hadal_proto::{Fault, FaultClass, Protocol};
use std::future::{Future, poll_fn};
use std::marker::PhantomData;
use std::mem;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

/// A call stream a peer opened, whose protocol is not fixed as a type yet.
pub struct CallStream<C: Conn> {
    pub(crate) version: u16,
    pub(crate) protocol: hadal_proto::ProtocolId,
    pub(crate) send: C::Send,
    pub(crate) reader: Reader<C::Recv>,
}

impl<C: Conn> CallStream<C> {
    /// The version the caller speaks.
    #[must_use]
    pub fn version(&self) -> u16 {
        self.version
    }

    /// Requests one way, and the future that sends the answers: spawn it. It ends once the caller
    /// has ended the stream (or it broke) and every [`Responder`] is gone. With another version than
    /// `P`'s the stream is reset ([`FaultClass::IncorrectVersion`]) and gives no request.
    /// At most [`CALLS_IN_FLIGHT`] requests are unanswered at a time.
    ///
    /// # Panics
    /// When `P` is not the protocol the stream was opened for.
    pub fn split<P: Protocol>(self) -> (CallRequests<P, C>, impl Future<Output = ()> + use<P, C>) {
        self.split_with(CALLS_IN_FLIGHT)
    }

    /// As [`CallStream::split`], with at most `unanswered` requests unanswered.
    ///
    /// # Panics
    /// As [`CallStream::split`].
    pub fn split_with<P: Protocol>(
        self,
        unanswered: usize,
    ) -> (CallRequests<P, C>, impl Future<Output = ()> + use<P, C>) {
        assert_eq!(
            self.protocol,
            P::ID,
            "a call stream is split as the protocol it was opened for"
        );
        let shared = Arc::new(Shared {
            bound: unanswered,
            state: Mutex::new(State {
                reading: true,
                ..State::default()
            }),
        });
        let mut requests = CallRequests {
            shared: Arc::clone(&shared),
            reader: self.reader,
            protocol: PhantomData,
        };
        if self.version != P::VERSION {
            requests.refuse(FaultClass::IncorrectVersion);
        }
        (requests, write(DeadOnDrop(shared), self.send))
    }
}

/// The requests of one call stream, in the order they were made.
pub struct CallRequests<P: Protocol, C: Conn> {
    shared: Arc<Shared>,
    reader: Reader<C::Recv>,
    protocol: PhantomData<fn() -> P>,
}

impl<P: Protocol, C: Conn> CallRequests<P, C> {
    /// The next request and what answers it; `None` once the stream has ended, broke or was refused
    /// for a malformed frame ([`FaultClass::BadRequest`]). Waits while too many are unanswered.
    /// A request of this length whose body does not decode is answered `BadRequest` here and does
    /// not end the stream. Cancel-safe.
    pub async fn next(&mut self) -> Option<(P::Request, Responder<P>)> {
        loop {
            if !poll_fn(|cx| self.shared.poll_room(cx)).await {
                return None;
            }
            let (id, body) = match read_call_frame(&mut self.reader).await {
                Ok(Some(frame)) => frame,
                Ok(None) | Err(FrameError::Net(_)) => {
                    self.shared.end_reading(None);
                    return None;
                }
                Err(FrameError::Malformed(error)) => {
                    tracing::debug!(%error, protocol = ?P::ID, "malformed call frame");
                    self.refuse(FaultClass::BadRequest);
                    return None;
                }
            };
            self.shared.lock().unanswered += 1;
            let responder = Responder {
                shared: Some(Arc::clone(&self.shared)),
                id,
                protocol: PhantomData,
            };
            match hadal_proto::decode(body) {
                Ok(request) => return Some((request, responder)),
                Err(error) => responder.answer(Err(Fault::new(
                    FaultClass::BadRequest,
                    format!(
                        "the request is not one of protocol {:?} version {}: {error}",
                        P::ID,
                        P::VERSION
                    ),
                ))),
            }
        }
    }

    fn refuse(&mut self, class: FaultClass) {
        self.reader.stop(code::of(class));
        self.shared.end_reading(Some(code::of(class)));
    }
}

impl<P: Protocol, C: Conn> Drop for CallRequests<P, C> {
    fn drop(&mut self) {
        self.shared.end_reading(None);
    }
}

/// Answers one request, now or later, from wherever the answer comes to be. Dropped unanswered, it
/// answers [`FaultClass::Retry`].
pub struct Responder<P: Protocol> {
    shared: Option<Arc<Shared>>,
    id: u64,
    protocol: PhantomData<fn() -> P>,
}

impl<P: Protocol> Responder<P> {
    /// Queues the answer; it leaves with the others queued since the last write. An answer over the
    /// cap of a call frame becomes a fault, as the caller could not read it.
    pub fn answer(mut self, outcome: Result<P::Response, Fault>) {
        self.put(&outcome);
    }

    /// The caller's number of this call on its stream, for logs.
    #[must_use]
    pub fn id(&self) -> u64 {
        self.id
    }

    fn put(&mut self, outcome: &Result<P::Response, Fault>) {
        let Some(shared) = self.shared.take() else {
            return;
        };
        let mut state = shared.lock();
        state.unanswered -= 1;
        if !state.dead {
            let start = state.out.len();
            put_answer(&mut state.out, self.id, outcome);
            let length = state.out.len() - start - 4;
            if length > CALL_FRAME_CAP {
                state.out.truncate(start);
                put_answer(
                    &mut state.out,
                    self.id,
                    &Err::<P::Response, _>(Fault::new(
                        FaultClass::Internal,
                        format!(
                            "the answer takes {length} bytes, over the cap of {CALL_FRAME_CAP} for a call: ask for less"
                        ),
                    )),
                );
            }
        }
        let writer = state.writer.take();
        let reader = state.reader.take();
        drop(state);
        [writer, reader].into_iter().flatten().for_each(Waker::wake);
    }
}

impl<P: Protocol> Drop for Responder<P> {
    fn drop(&mut self) {
        if self.shared.is_some() {
            self.put(&Err(Fault::new(
                FaultClass::Retry,
                "the node gave the call up before its outcome was known; try again",
            )));
        }
    }
}

impl<P: Protocol> std::fmt::Debug for Responder<P> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Responder")
            .field("protocol", &P::ID)
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

fn put_answer<T: Wire>(out: &mut Vec<u8>, id: u64, outcome: &Result<T, Fault>) {
    put_call_frame(out, id, |out| put_outcome(out, outcome.as_ref()));
}

/// Appends an [`hadal_proto::frame::Answer`] without owning its value.
pub(crate) fn put_outcome<T: Wire>(out: &mut Vec<u8>, outcome: Result<&T, &Fault>) {
    match outcome {
        Ok(value) => {
            out.push(0);
            value.encode(out);
        }
        Err(fault) => {
            out.push(1);
            fault.encode(out);
        }
    }
}

struct Shared {
    bound: usize,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Encoded answers the writer takes all at once.
    out: Vec<u8>,
    unanswered: usize,
    writer: Option<Waker>,
    reader: Option<Waker>,
    /// More requests may come.
    reading: bool,
    /// Reset the answers with this code.
    refused: Option<u64>,
    /// Nobody sends answers any more.
    dead: bool,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the next request may be read; `false` when there will be none.
    fn poll_room(&self, cx: &Context<'_>) -> Poll<bool> {
        let mut state = self.lock();
        if state.dead || !state.reading {
            return Poll::Ready(false);
        }
        if state.unanswered < self.bound && state.out.len() < QUEUE_BYTES {
            return Poll::Ready(true);
        }
        state.reader = Some(cx.waker().clone());
        Poll::Pending
    }

    fn end_reading(&self, refused: Option<u64>) {
        let mut state = self.lock();
        if !state.reading {
            return;
        }
        state.reading = false;
        state.refused = refused;
        let writer = state.writer.take();
        drop(state);
        writer.into_iter().for_each(Waker::wake);
    }

    fn poll_batch(&self, cx: &Context<'_>) -> Poll<Batch> {
        let mut state = self.lock();
        if let Some(code) = state.refused {
            return Poll::Ready(Batch::Refuse(code));
        }
        if !state.out.is_empty() {
            let room = state.out.len().clamp(1024, 64 << 10);
            let batch = mem::replace(&mut state.out, Vec::with_capacity(room));
            let reader = state.reader.take();
            drop(state);
            reader.into_iter().for_each(Waker::wake);
            return Poll::Ready(Batch::Answers(Bytes::from(batch)));
        }
        if !state.reading && state.unanswered == 0 {
            return Poll::Ready(Batch::End);
        }
        state.writer = Some(cx.waker().clone());
        Poll::Pending
    }
}

enum Batch {
    Answers(Bytes),
    End,
    Refuse(u64),
}

struct DeadOnDrop(Arc<Shared>);

impl Drop for DeadOnDrop {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.dead = true;
        state.out = Vec::new();
        let reader = state.reader.take();
        drop(state);
        reader.into_iter().for_each(Waker::wake);
    }
}

async fn write<S: SendStream>(guard: DeadOnDrop, mut send: S) {
    loop {
        match poll_fn(|cx| guard.0.poll_batch(cx)).await {
            Batch::Answers(batch) => {
                if let Err(error) = send.write_chunk(batch).await {
                    tracing::debug!(%error, "answers not sent");
                    return;
                }
            }
            Batch::End => {
                send.finish();
                return;
            }
            Batch::Refuse(code) => {
                send.reset(code);
                return;
            }
        }
    }
}
