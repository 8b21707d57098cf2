//! Streams of the simulated network.

use super::conn::{ConnHandle, release_half};
use super::events::send;
use super::pipe::{Found, Item};
use super::state::{NetEvent, NetState, StreamKey};
use crate::world::Fire;
use bytes::Bytes;
use hadal_env::{NetError, NetErrorKind, RecvStream, SendStream};
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll};

fn gone() -> NetError {
    NetError::new(NetErrorKind::Closed, "the connection is forgotten")
}

/// Sending half.
pub struct SimSend {
    handle: Rc<ConnHandle>,
    stream: StreamKey,
    done: bool,
}

impl SimSend {
    pub(super) fn new(handle: Rc<ConnHandle>, stream: StreamKey) -> Self {
        Self {
            handle,
            stream,
            done: false,
        }
    }

    /// Bytes sent that the peer has not read yet, as far as this side knows; at most the window.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        let mut net = self.handle.shared.net.borrow_mut();
        net.pipe(self.handle.key, self.stream, self.handle.side)
            .map_or(0, |pipe| pipe.outstanding())
    }

    fn poll_write(&self, chunks: &mut [Bytes], cx: &Context<'_>) -> Poll<Result<(), NetError>> {
        let handle = &self.handle;
        if !handle.alive() {
            return Poll::Pending;
        }
        let mut net = handle.shared.net.borrow_mut();
        let window = net.config.stream_window;
        for chunk in chunks {
            loop {
                let Some(conn) = net.conn(handle.key) else {
                    return Poll::Ready(Err(gone()));
                };
                if let Some(error) = &conn.sides[handle.side].ended {
                    return Poll::Ready(Err(error.clone()));
                }
                let Some(pipe) = net.pipe(handle.key, self.stream, handle.side) else {
                    return Poll::Ready(Err(gone()));
                };
                if let Some(code) = pipe.stopped {
                    return Poll::Ready(Err(NetError::new(
                        NetErrorKind::Reset(code),
                        "stopped by the peer",
                    )));
                }
                if pipe.sender_done {
                    return Poll::Ready(Err(NetError::new(
                        NetErrorKind::Closed,
                        "the stream was finished or reset by this side",
                    )));
                }
                if chunk.is_empty() {
                    break;
                }
                let room = pipe.room(window);
                if room == 0 {
                    pipe.writer_waits(cx.waker());
                    return Poll::Pending;
                }
                let part = if chunk.len() <= room {
                    std::mem::take(chunk)
                } else {
                    chunk.split_to(room)
                };
                send(
                    &handle.shared,
                    &mut net,
                    handle.key,
                    self.stream,
                    handle.side,
                    Item::Data(part),
                );
            }
        }
        Poll::Ready(Ok(()))
    }

    fn end(&mut self, item: Item) {
        if self.done || !self.handle.alive() {
            return;
        }
        self.done = true;
        let handle = &self.handle;
        let mut net = handle.shared.net.borrow_mut();
        let Some(pipe) = net.pipe(handle.key, self.stream, handle.side) else {
            return;
        };
        pipe.sender_done = true;
        if matches!(item, Item::Reset(_)) {
            pipe.discard_flying();
        }
        send(
            &handle.shared,
            &mut net,
            handle.key,
            self.stream,
            handle.side,
            item,
        );
    }
}

impl SendStream for SimSend {
    async fn write_chunk(&mut self, chunk: Bytes) -> Result<(), NetError> {
        let mut chunks = [chunk];
        poll_fn(|cx| self.poll_write(&mut chunks, cx)).await
    }

    async fn write_chunks(&mut self, chunks: &mut [Bytes]) -> Result<(), NetError> {
        poll_fn(|cx| self.poll_write(chunks, cx)).await
    }

    fn finish(&mut self) {
        self.end(Item::Fin);
    }

    fn reset(&mut self, code: u64) {
        self.end(Item::Reset(code));
    }
}

impl Drop for SimSend {
    fn drop(&mut self) {
        if self.handle.alive() {
            self.end(Item::Reset(0));
            release_half(&self.handle, self.stream);
        }
    }
}

/// Receiving half.
pub struct SimRecv {
    handle: Rc<ConnHandle>,
    stream: StreamKey,
}

impl SimRecv {
    pub(super) fn new(handle: Rc<ConnHandle>, stream: StreamKey) -> Self {
        Self { handle, stream }
    }

    fn poll_read(&self, max: usize, cx: &Context<'_>) -> Poll<Result<Option<Bytes>, NetError>> {
        let handle = &self.handle;
        if !handle.alive() {
            return Poll::Pending;
        }
        let from = 1 - handle.side;
        let mut net = handle.shared.net.borrow_mut();
        let Some(conn) = net.conn(handle.key) else {
            return Poll::Ready(Err(gone()));
        };
        let ended = conn.sides[handle.side].ended.clone();
        let Some(pipe) = net.pipe(handle.key, self.stream, from) else {
            return Poll::Ready(Err(gone()));
        };
        if pipe.reader_done {
            return Poll::Ready(Err(NetError::new(
                NetErrorKind::Closed,
                "the stream was stopped by this side",
            )));
        }
        match pipe.take(max) {
            Found::Bytes(bytes) => {
                self.give_credit(&mut net, bytes.len());
                Poll::Ready(Ok(Some(bytes)))
            }
            Found::End => Poll::Ready(Ok(None)),
            Found::Reset(code) => Poll::Ready(Err(NetError::new(
                NetErrorKind::Reset(code),
                "reset by the peer",
            ))),
            Found::Nothing => match ended {
                Some(error) => Poll::Ready(Err(error)),
                None => {
                    pipe.reader_waits(cx.waker());
                    Poll::Pending
                }
            },
        }
    }

    /// Credit travels back. When nobody waits for it the journey shows to nobody and is left out.
    fn give_credit(&self, net: &mut NetState, bytes: usize) {
        let handle = &self.handle;
        let side = 1 - handle.side;
        let Some(conn) = net.conn(handle.key) else {
            return;
        };
        let (from, to) = (conn.sides[handle.side].node, conn.sides[side].node);
        let cut = net.is_cut(from, to);
        let Some(pipe) = net.pipe(handle.key, self.stream, side) else {
            return;
        };
        if cut {
            pipe.held_credit += bytes;
        } else if pipe.has_writer_waiting() {
            let delay = net.delay(from, to, 0);
            let event = NetEvent::Credit {
                conn: handle.key,
                stream: self.stream,
                side,
                bytes,
            };
            handle.shared.arm_in(delay, Fire::Net(event));
        } else {
            pipe.credit(bytes);
        }
    }

    fn refuse(&self, code: u64) {
        let handle = &self.handle;
        if !handle.alive() {
            return;
        }
        let side = 1 - handle.side;
        let mut net = handle.shared.net.borrow_mut();
        let Some(conn) = net.conn(handle.key) else {
            return;
        };
        let (from, to) = (conn.sides[handle.side].node, conn.sides[side].node);
        let Some(pipe) = net.pipe(handle.key, self.stream, side) else {
            return;
        };
        if pipe.reader_done || pipe.is_read_out() {
            pipe.reader_done = true;
            return;
        }
        let bytes = pipe.discard_arrived();
        self.give_credit(&mut net, bytes);
        let delay = net.delay(from, to, 0);
        let event = NetEvent::Stop {
            conn: handle.key,
            stream: self.stream,
            side,
            code,
        };
        handle.shared.arm_in(delay, Fire::Net(event));
    }
}

impl RecvStream for SimRecv {
    async fn read_chunk(&mut self, max: usize) -> Result<Option<Bytes>, NetError> {
        poll_fn(|cx| self.poll_read(max, cx)).await
    }

    fn stop(&mut self, code: u64) {
        self.refuse(code);
    }
}

impl Drop for SimRecv {
    fn drop(&mut self) {
        if self.handle.alive() {
            self.refuse(0);
            release_half(&self.handle, self.stream);
        }
    }
}
