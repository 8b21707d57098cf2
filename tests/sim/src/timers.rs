//! Timers of the world: a binary heap over virtual nanoseconds; cancelled ones are swept later.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// Names one armed timer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct TimerKey {
    slot: u32,
    generation: u32,
}

struct Slot<T> {
    generation: u32,
    fire: Option<T>,
}

/// Timers that carry a `T`. Those due at the same instant fire in the order in which they were armed.
pub(crate) struct Timers<T> {
    heap: BinaryHeap<Reverse<(u64, u64, u32, u32)>>,
    slots: Vec<Slot<T>>,
    free: Vec<u32>,
    sequence: u64,
    dead: usize,
}

impl<T> Timers<T> {
    pub(crate) fn new() -> Self {
        Self {
            heap: BinaryHeap::new(),
            slots: Vec::new(),
            free: Vec::new(),
            sequence: 0,
            dead: 0,
        }
    }

    pub(crate) fn arm(&mut self, at: u64, fire: T) -> TimerKey {
        let slot = if let Some(slot) = self.free.pop() {
            self.slots[slot as usize].fire = Some(fire);
            slot
        } else {
            self.slots.push(Slot {
                generation: 0,
                fire: Some(fire),
            });
            (self.slots.len() - 1) as u32
        };
        let generation = self.slots[slot as usize].generation;
        self.heap
            .push(Reverse((at, self.sequence, slot, generation)));
        self.sequence += 1;
        TimerKey { slot, generation }
    }

    fn release(&mut self, slot: u32) -> Option<T> {
        let entry = &mut self.slots[slot as usize];
        entry.generation = entry.generation.wrapping_add(1);
        self.free.push(slot);
        entry.fire.take()
    }

    /// Takes the timer back; `None` when it has fired already.
    pub(crate) fn cancel(&mut self, key: TimerKey) -> Option<T> {
        if self.slots[key.slot as usize].generation != key.generation {
            return None;
        }
        let fire = self.release(key.slot);
        self.dead += 1;
        if self.dead > 1024 && self.dead * 2 > self.heap.len() {
            let slots = &self.slots;
            self.heap.retain(|Reverse((_, _, slot, generation))| {
                slots[*slot as usize].generation == *generation
            });
            self.dead = 0;
        }
        fire
    }

    /// Changes what fires, keeping the time. False when it has fired already.
    pub(crate) fn replace(&mut self, key: TimerKey, fire: T) -> bool {
        let entry = &mut self.slots[key.slot as usize];
        if entry.generation != key.generation {
            return false;
        }
        entry.fire = Some(fire);
        true
    }

    /// When the next live timer fires.
    pub(crate) fn next_at(&mut self) -> Option<u64> {
        while let Some(Reverse((at, _, slot, generation))) = self.heap.peek() {
            if self.slots[*slot as usize].generation == *generation {
                return Some(*at);
            }
            self.heap.pop();
            self.dead = self.dead.saturating_sub(1);
        }
        None
    }

    /// The next timer due at or before `now`.
    pub(crate) fn pop_due(&mut self, now: u64) -> Option<T> {
        if self.next_at()? > now {
            return None;
        }
        let Reverse((_, _, slot, _)) = self.heap.pop()?;
        self.release(slot)
    }

    /// Drops all timers, handing out what they carried.
    pub(crate) fn drain(&mut self) -> Vec<T> {
        self.heap.clear();
        self.dead = 0;
        self.free.clear();
        std::mem::take(&mut self.slots)
            .into_iter()
            .filter_map(|slot| slot.fire)
            .collect()
    }
}
