//! Records and frames of the ledger, and a small bounded queue.

use crate::rng::scramble;
use crate::trace::hash_name;
use bytes::{Buf, Bytes, BytesMut};
use hadal_env::{NetError, RecvStream};
use std::cell::RefCell;
use std::collections::VecDeque;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Poll, Waker};

/// What a client puts into the ledger.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Record {
    pub(super) client: u32,
    pub(super) sequence: u64,
    pub(super) payload: Vec<u8>,
}

/// On disk and on the wire: length of what follows the hash, hash of it, client, sequence, payload.
const HEADER: usize = 4 + 8;
const IDS: usize = 4 + 8;
const BODY_MAX: usize = 4096;

impl Record {
    /// The record a client makes under that number: its bytes follow from the ids.
    pub(super) fn make(client: u32, sequence: u64) -> Self {
        let seed = scramble(u64::from(client) << 40 ^ sequence);
        let payload = (0..seed % 900)
            .map(|place| scramble(seed ^ (place / 8)).to_le_bytes()[place as usize % 8])
            .collect();
        Self {
            client,
            sequence,
            payload,
        }
    }

    pub(super) fn id(&self) -> (u32, u64) {
        (self.client, self.sequence)
    }

    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        let mut body = Vec::with_capacity(IDS + self.payload.len());
        body.extend_from_slice(&self.client.to_le_bytes());
        body.extend_from_slice(&self.sequence.to_le_bytes());
        body.extend_from_slice(&self.payload);
        out.extend_from_slice(&(body.len() as u32).to_le_bytes());
        out.extend_from_slice(&hash_name(&body).to_le_bytes());
        out.extend_from_slice(&body);
    }

    /// The first record and its length in bytes; `None` when there is no good one.
    pub(super) fn parse(bytes: &[u8], check: bool) -> Option<(Self, usize)> {
        let mut rest = bytes;
        if rest.len() < HEADER + IDS {
            return None;
        }
        let length = rest.get_u32_le() as usize;
        let hash = rest.get_u64_le();
        if !(IDS..=BODY_MAX).contains(&length) || rest.len() < length {
            return None;
        }
        let mut body = &rest[..length];
        if check && hash_name(body) != hash {
            return None;
        }
        let (client, sequence) = (body.get_u32_le(), body.get_u64_le());
        Some((
            Self {
                client,
                sequence,
                payload: body.to_vec(),
            },
            HEADER + length,
        ))
    }

    /// All good records from the front, and how many bytes they take.
    pub(super) fn parse_all(bytes: &[u8], check: bool) -> (Vec<Self>, usize) {
        let (mut records, mut at) = (Vec::new(), 0);
        while let Some((record, length)) = Self::parse(&bytes[at..], check) {
            records.push(record);
            at += length;
        }
        (records, at)
    }
}

/// Reads records off a stream.
pub(super) struct Reader<R> {
    stream: R,
    held: BytesMut,
}

impl<R: RecvStream> Reader<R> {
    pub(super) fn new(stream: R) -> Self {
        Self {
            stream,
            held: BytesMut::new(),
        }
    }

    /// The next record; `None` at the end of the stream.
    pub(super) async fn next(&mut self) -> Result<Option<Record>, NetError> {
        loop {
            if let Some((record, length)) = Record::parse(&self.held, true) {
                self.held.advance(length);
                return Ok(Some(record));
            }
            match self.stream.read_chunk(64 << 10).await? {
                Some(chunk) => self.held.extend_from_slice(&chunk),
                None => return Ok(None),
            }
        }
    }
}

/// An acknowledgement is a record without payload.
pub(super) fn ack((client, sequence): (u32, u64)) -> Bytes {
    let mut out = Vec::new();
    Record {
        client,
        sequence,
        payload: Vec::new(),
    }
    .encode(&mut out);
    out.into()
}

/// A queue between tasks of one node.
pub(super) struct Queue<T> {
    state: Rc<RefCell<(VecDeque<T>, Vec<Waker>)>>,
}

impl<T> Clone for Queue<T> {
    fn clone(&self) -> Self {
        Self {
            state: Rc::clone(&self.state),
        }
    }
}

/// Clients wait for their acknowledgements, so no queue holds more.
const QUEUE_MAX: usize = 1024;

impl<T> Queue<T> {
    pub(super) fn new() -> Self {
        Self {
            state: Rc::default(),
        }
    }

    pub(super) fn push(&self, item: T) {
        let mut state = self.state.borrow_mut();
        assert!(
            state.0.len() < QUEUE_MAX,
            "a queue of the ledger outgrew its bound of {QUEUE_MAX}"
        );
        state.0.push_back(item);
        state.1.drain(..).for_each(Waker::wake);
    }

    /// Waits for at least one item and takes at most `max`.
    pub(super) async fn take(&self, max: usize) -> Vec<T> {
        poll_fn(|cx| {
            let mut state = self.state.borrow_mut();
            if state.0.is_empty() {
                state.1.push(cx.waker().clone());
                return Poll::Pending;
            }
            let count = state.0.len().min(max);
            Poll::Ready(state.0.drain(..count).collect())
        })
        .await
    }
}
