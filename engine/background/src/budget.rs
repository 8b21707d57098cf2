//! Bytes in flight of one class, and the memory they live in.

use bytes::Bytes;
use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

/// What may be in flight at once. Bytes count from before they are read until the last `Bytes` of
/// their chunk is dropped, on whatever thread. First come, first served.
pub(crate) struct Budget {
    total: usize,
    state: Mutex<State>,
}

struct State {
    free: usize,
    next_ticket: u64,
    /// Those waiting, by ticket: how much each wants.
    waiting: BTreeMap<u64, (usize, Waker)>,
    /// Memory to use again: fresh pages cost more than the copy into them. Together never more than
    /// what is free of the budget.
    spare: Vec<Vec<u8>>,
}

impl Budget {
    pub(crate) fn new(total: usize) -> Arc<Self> {
        let state = State {
            free: total,
            next_ticket: 0,
            waiting: BTreeMap::new(),
            spare: Vec::new(),
        };
        Arc::new(Self {
            total,
            state: Mutex::new(state),
        })
    }

    pub(crate) fn total(&self) -> usize {
        self.total
    }

    pub(crate) fn in_flight(&self) -> usize {
        self.total - self.state().free
    }

    /// Waits for room for a chunk of `bytes`, which is no more than the total.
    pub(crate) fn chunk(self: &Arc<Self>, bytes: usize) -> Acquire {
        assert!(bytes <= self.total, "a chunk fits into the budget");
        Acquire {
            budget: Arc::clone(self),
            bytes,
            ticket: None,
        }
    }

    /// A chunk at once, if there is room and nobody waits.
    pub(crate) fn try_chunk(self: &Arc<Self>, bytes: usize) -> Option<Chunk> {
        let mut state = self.state();
        (state.waiting.is_empty() && state.free >= bytes).then(|| self.grant(&mut state, bytes))
    }

    fn grant(self: &Arc<Self>, state: &mut State, bytes: usize) -> Chunk {
        state.free -= bytes;
        // Of just this size, so that what a chunk holds is what it counts.
        let fitting = state
            .spare
            .iter()
            .rposition(|data| data.capacity() == bytes);
        let mut data = fitting.map_or_else(Vec::new, |index| state.spare.swap_remove(index));
        data.clear();
        state.trim();
        Chunk {
            data,
            bytes,
            budget: Arc::clone(self),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Lets the first in line look again.
    fn wake_first(&self) {
        if let Some((_, (bytes, waker))) = self.waiting.first_key_value()
            && *bytes <= self.free
        {
            waker.wake_by_ref();
        }
    }

    fn trim(&mut self) {
        let mut spare: usize = self.spare.iter().map(Vec::capacity).sum();
        while spare > self.free {
            spare -= self.spare.pop().map_or(spare, |data| data.capacity());
        }
    }
}

/// Waiting for room.
pub(crate) struct Acquire {
    budget: Arc<Budget>,
    bytes: usize,
    ticket: Option<u64>,
}

impl Future for Acquire {
    type Output = Chunk;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Chunk> {
        let budget = Arc::clone(&self.budget);
        let mut state = budget.state();
        let first = state.waiting.keys().next().copied();
        let my_turn = first.is_none() || first == self.ticket;
        if my_turn && state.free >= self.bytes {
            if let Some(ticket) = self.ticket.take() {
                state.waiting.remove(&ticket);
            }
            let chunk = budget.grant(&mut state, self.bytes);
            state.wake_first();
            return Poll::Ready(chunk);
        }
        let ticket = self.ticket.unwrap_or(state.next_ticket);
        if self.ticket.replace(ticket).is_none() {
            state.next_ticket += 1;
        }
        state
            .waiting
            .insert(ticket, (self.bytes, cx.waker().clone()));
        Poll::Pending
    }
}

impl Drop for Acquire {
    fn drop(&mut self) {
        if let Some(ticket) = self.ticket.take() {
            let mut state = self.budget.state();
            state.waiting.remove(&ticket);
            state.wake_first();
        }
    }
}

/// Room for a chunk and its memory. Gives both back when dropped.
pub(crate) struct Chunk {
    pub(crate) data: Vec<u8>,
    bytes: usize,
    budget: Arc<Budget>,
}

impl Chunk {
    /// How much it may hold.
    pub(crate) fn capacity(&self) -> usize {
        self.bytes
    }

    /// Hands it on; room and memory come back with the last reference.
    pub(crate) fn freeze(self) -> Bytes {
        assert!(
            self.data.len() <= self.bytes,
            "a chunk holds no more than it was given room for"
        );
        Bytes::from_owner(self)
    }
}

impl AsRef<[u8]> for Chunk {
    fn as_ref(&self) -> &[u8] {
        &self.data
    }
}

impl Drop for Chunk {
    fn drop(&mut self) {
        let mut state = self.budget.state();
        state.free += self.bytes;
        if self.data.capacity() > 0 {
            state.spare.push(std::mem::take(&mut self.data));
            state.trim();
        }
        state.wake_first();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;

    #[test]
    fn chunks_wait_in_line_and_come_back_with_their_bytes() {
        let budget = Budget::new(100);
        let mut first = budget.chunk(60).now_or_never().unwrap();
        first.data.extend_from_slice(b"hello");
        let (bytes, mut large, mut small) = (first.freeze(), budget.chunk(70), budget.chunk(10));
        assert!((&mut large).now_or_never().is_none());
        assert!((&mut small).now_or_never().is_none(), "nobody overtakes");
        assert!(budget.try_chunk(1).is_none(), "nobody overtakes");
        let part = bytes.slice(1..3);
        drop(bytes);
        assert_eq!(budget.in_flight(), 60);
        assert_eq!(part.as_ref(), b"el");
        drop(part);
        let large = (&mut large).now_or_never().unwrap();
        assert!((&mut small).now_or_never().is_some());
        assert_eq!(budget.in_flight(), 70);
        drop(large);
        assert_eq!(budget.in_flight(), 0);
    }

    #[test]
    fn who_gives_up_waiting_lets_the_next_in() {
        let budget = Budget::new(100);
        let held = budget.try_chunk(50).unwrap();
        let (mut large, mut small) = (budget.chunk(80), budget.chunk(20));
        assert!((&mut large).now_or_never().is_none());
        assert!((&mut small).now_or_never().is_none());
        drop(large);
        assert!((&mut small).now_or_never().is_some());
        drop(held);
        assert_eq!(budget.in_flight(), 0);
    }

    #[test]
    fn memory_is_used_again_and_never_exceeds_the_budget() {
        let budget = Budget::new(1000);
        let mut one = budget.try_chunk(400).unwrap();
        one.data.reserve_exact(400);
        let address = one.data.as_ptr();
        drop(one);
        let two = budget.try_chunk(400).unwrap();
        assert!(two.data.is_empty() && two.data.as_ptr() == address);
        drop(two);
        let rest = budget.try_chunk(900).unwrap();
        let spare: usize = budget.state().spare.iter().map(Vec::capacity).sum();
        assert!(spare <= 100, "{spare} bytes kept beside the 900 handed out");
        drop(rest);
    }
}
