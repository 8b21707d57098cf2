//! One direction of a stream: what is on its way, what arrived, and the credit between the two ends.

use bytes::Bytes;
use std::collections::VecDeque;
use std::task::Waker;

/// What travels on a pipe.
#[derive(Clone, Debug)]
pub(super) enum Item {
    Data(Bytes),
    Fin,
    Reset(u64),
}

impl Item {
    pub(super) fn len(&self) -> usize {
        if let Self::Data(bytes) = self {
            bytes.len()
        } else {
            0
        }
    }
}

/// One direction of a stream.
#[derive(Default)]
pub(super) struct Pipe {
    /// On the way, with times of arrival that never fall.
    flying: VecDeque<(u64, Item)>,
    last_at: u64,
    /// A delivery is armed.
    pub(super) scheduled: bool,
    /// Waits for a cut link to be mended.
    pub(super) stalled: bool,
    /// Arrived and not yet read.
    arrived: VecDeque<Bytes>,
    fin_arrived: bool,
    reset_arrived: Option<u64>,
    /// Bytes sent whose credit has not come back.
    outstanding: usize,
    /// Credit that could not travel because the way back is cut.
    pub(super) held_credit: usize,
    /// The sender finished or reset.
    pub(super) sender_done: bool,
    /// The reader's stop, once it arrived at the sender.
    pub(super) stopped: Option<u64>,
    /// The reader wants no more.
    pub(super) reader_done: bool,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

/// What a read finds.
pub(super) enum Found {
    Bytes(Bytes),
    End,
    Reset(u64),
    Nothing,
}

impl Pipe {
    /// Takes an item on its way; when the delivery has to be armed, for when.
    pub(super) fn push(&mut self, at: u64, item: Item) -> Option<u64> {
        self.outstanding += item.len();
        self.last_at = self.last_at.max(at);
        self.flying.push_back((self.last_at, item));
        if self.scheduled || self.stalled {
            return None;
        }
        self.scheduled = true;
        Some(self.last_at)
    }

    /// Takes in what is due; how many bytes, and when the next item is due.
    pub(super) fn arrive(&mut self, now: u64) -> (usize, Option<u64>) {
        let mut bytes = 0;
        while let Some((at, _)) = self.flying.front() {
            if *at > now {
                self.scheduled = true;
                return (bytes, Some(*at));
            }
            match self.flying.pop_front() {
                Some((_, Item::Data(data))) => {
                    bytes += data.len();
                    if self.reader_done {
                        self.credit(data.len());
                    } else {
                        self.arrived.push_back(data);
                    }
                }
                Some((_, Item::Fin)) => self.fin_arrived = true,
                Some((_, Item::Reset(code))) => {
                    self.arrived.clear();
                    self.reset_arrived = Some(code);
                }
                None => {}
            }
        }
        (bytes, None)
    }

    pub(super) fn room(&self, window: usize) -> usize {
        window.saturating_sub(self.outstanding)
    }

    pub(super) fn outstanding(&self) -> usize {
        self.outstanding
    }

    pub(super) fn credit(&mut self, bytes: usize) {
        self.outstanding = self.outstanding.saturating_sub(bytes);
        self.wake_writer();
    }

    /// The reader takes at most `max` bytes.
    pub(super) fn take(&mut self, max: usize) -> Found {
        if let Some(code) = self.reset_arrived {
            return Found::Reset(code);
        }
        match self.arrived.front_mut() {
            Some(front) if front.len() > max => Found::Bytes(front.split_to(max)),
            Some(_) => self
                .arrived
                .pop_front()
                .map_or(Found::Nothing, Found::Bytes),
            None if self.fin_arrived => Found::End,
            None => Found::Nothing,
        }
    }

    /// What was not delivered is discarded.
    pub(super) fn discard_flying(&mut self) {
        self.flying.clear();
    }

    /// The reader wants no more: what arrived is discarded. How many bytes.
    pub(super) fn discard_arrived(&mut self) -> usize {
        self.reader_done = true;
        self.arrived.drain(..).map(|bytes| bytes.len()).sum()
    }

    /// Everything there was has been read.
    pub(super) fn is_read_out(&self) -> bool {
        self.reset_arrived.is_some() || (self.fin_arrived && self.arrived.is_empty())
    }

    pub(super) fn has_writer_waiting(&self) -> bool {
        self.writer.is_some()
    }

    pub(super) fn reader_waits(&mut self, waker: &Waker) {
        self.reader = Some(waker.clone());
    }

    pub(super) fn writer_waits(&mut self, waker: &Waker) {
        self.writer = Some(waker.clone());
    }

    pub(super) fn wake_reader(&mut self) {
        if let Some(waker) = self.reader.take() {
            waker.wake();
        }
    }

    pub(super) fn wake_writer(&mut self) {
        if let Some(waker) = self.writer.take() {
            waker.wake();
        }
    }
}
