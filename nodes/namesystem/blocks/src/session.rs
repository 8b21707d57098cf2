//! What a full report in progress needs to remember, and who may send one (Q1-Q4, Q10).

use alloc::collections::{BTreeSet, VecDeque};
use alloc::vec::Vec;
use bytes::Bytes;
use hadal_types::{Epoch, Tick};

/// Incremental changes remembered while a full report may be under way; past it that report is asked for again.
const TOUCHED_MAX: usize = 16_384;

/// A full report of one storage, part by part.
#[derive(Debug)]
pub(crate) struct ReportSession {
    pub(crate) report_id: u64,
    pub(crate) parts: u32,
    pub(crate) next_part: u32,
    /// Incremental report sequence it includes.
    pub(crate) includes: u64,
    /// Lowest epoch acknowledged by any part.
    pub(crate) acknowledged: Epoch,
    /// First partition not merged yet, and its entries from earlier parts.
    pub(crate) partition: usize,
    pub(crate) carry: Vec<Bytes>,
    pub(crate) tally: MergeTally,
}

/// A digest report of one storage, round by round.
#[derive(Debug)]
pub(crate) struct DigestSession {
    pub(crate) report_id: u64,
    /// Lowest epoch acknowledged by any round.
    pub(crate) acknowledged: Epoch,
    /// Leaves that differ and whose replicas have not come yet.
    pub(crate) awaited: BTreeSet<u16>,
    /// Leaves that differed and were merged.
    pub(crate) merged: BTreeSet<u16>,
    pub(crate) tally: MergeTally,
}

/// What a report brought.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct MergeTally {
    pub(crate) replicas: u64,
    pub(crate) added: u64,
    pub(crate) removed: u64,
    pub(crate) unknown: u64,
}

impl MergeTally {
    pub(crate) fn add(&mut self, other: Self) {
        self.replicas += other.replicas;
        self.added += other.added;
        self.removed += other.removed;
        self.unknown += other.unknown;
    }
}

/// Replicas changed by incremental reports since a full report may have been made: what that report says of them is
/// older than what is known.
#[derive(Debug, Default)]
pub(crate) struct Touched {
    on: bool,
    /// Changes of this sequence and later are all in the log.
    from: u64,
    log: VecDeque<(u64, u32, u64)>,
}

impl Touched {
    /// Remembers changes from now on; `applied` is the last sequence applied.
    pub(crate) fn start(&mut self, applied: u64) {
        if !self.on {
            self.on = true;
            self.from = applied + 1;
        }
    }

    pub(crate) fn stop(&mut self) {
        *self = Self::default();
    }

    pub(crate) fn record(&mut self, sequence: u64, storage: u32, key: u64) {
        if !self.on {
            return;
        }
        if self.log.len() >= TOUCHED_MAX
            && let Some((dropped, ..)) = self.log.pop_front()
        {
            self.from = dropped + 1;
        }
        self.log.push_back((sequence, storage, key));
    }

    /// Whether every change behind `includes` is known.
    pub(crate) fn covers(&self, includes: u64, applied: u64) -> bool {
        includes == applied || (self.on && includes < applied && includes + 1 >= self.from)
    }

    /// Keys of a storage changed behind `includes`, sorted.
    pub(crate) fn keys(&self, storage: u32, includes: u64) -> Vec<u64> {
        let mut keys: Vec<u64> = self
            .log
            .iter()
            .filter(|(sequence, of, _)| *sequence > includes && *of == storage)
            .map(|(.., key)| *key)
            .collect();
        keys.sort_unstable();
        keys
    }
}

/// Who may send a full report now: at most so many storages at a time.
#[derive(Debug, Default)]
pub(crate) struct Admission {
    granted: Vec<(u32, Tick)>,
}

impl Admission {
    /// Grants or renews a slot.
    pub(crate) fn grant(&mut self, now: Tick, storage: u32, slots: usize, length_ms: u64) -> bool {
        self.granted
            .retain(|(_, since)| now.ms_since(*since) < length_ms);
        if let Some(slot) = self.granted.iter_mut().find(|(of, _)| *of == storage) {
            slot.1 = now;
            return true;
        }
        if self.granted.len() >= slots.max(1) {
            return false;
        }
        self.granted.push((storage, now));
        true
    }

    pub(crate) fn has(&self, storage: u32) -> bool {
        self.granted.iter().any(|(of, _)| *of == storage)
    }

    pub(crate) fn release(&mut self, storage: u32) {
        self.granted.retain(|(of, _)| *of != storage);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn t_q10_slots_are_bounded_and_come_back() {
        let mut admission = Admission::default();
        let now = Tick::from_ms(0);
        assert!(admission.grant(now, 1, 2, 100));
        assert!(admission.grant(now, 2, 2, 100));
        assert!(!admission.grant(now, 3, 2, 100));
        assert!(admission.grant(now.after_ms(60), 1, 2, 100), "renewed");
        assert!(admission.grant(now.after_ms(100), 3, 2, 100), "2 expired");
        admission.release(1);
        assert!(!admission.has(1) && admission.has(3));
    }

    #[test]
    fn touched_knows_how_far_back_it_reaches() {
        let mut touched = Touched::default();
        assert!(touched.covers(5, 5) && !touched.covers(4, 5));
        touched.start(5);
        for sequence in 6..6 + TOUCHED_MAX as u64 {
            touched.record(sequence, 1, sequence * 7);
        }
        let applied = 5 + TOUCHED_MAX as u64;
        assert!(touched.covers(5, applied));
        touched.record(applied + 1, 2, 3);
        assert!(!touched.covers(5, applied + 1) && touched.covers(6, applied + 1));
        assert_eq!(touched.keys(1, applied - 1), [applied * 7]);
    }
}
