//! One file: what programs see, what the medium holds, and the writes between the two.

use super::content::{Content, PAGE, SECTOR, WriteOp};
use crate::rng::Rng;
use std::collections::VecDeque;

/// A change that is not yet durable.
#[derive(Clone, Debug)]
enum Unsynced {
    Write(WriteOp),
    Length(u64),
}

/// What a power failure leaves of all that was unsynced on one disk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Loss {
    /// Nothing.
    All,
    /// Everything.
    None,
    /// The oldest changes of each file and directory.
    AllButPrefix,
    /// Any subset; writes torn at 512 B or 4 KiB.
    Any,
    /// Exactly those whose bit is set, counted over the whole disk; none torn.
    Chosen(u64),
}

/// Decides change by change what a power failure leaves.
pub(crate) struct Decision<'a> {
    loss: Loss,
    rng: &'a mut Rng,
    /// Changes decided so far, on the whole disk.
    decided: u32,
}

impl<'a> Decision<'a> {
    pub(crate) fn new(loss: Loss, rng: &'a mut Rng) -> Self {
        Self {
            loss,
            rng,
            decided: 0,
        }
    }

    /// Whether each of the `count` changes of one file or directory tree, oldest first, is kept.
    pub(crate) fn kept(&mut self, count: usize) -> Vec<bool> {
        let prefix = self.rng.below(count as u64 + 1) as usize;
        let keep = |place: usize, decided: u32, rng: &mut Rng| match self.loss {
            Loss::All => false,
            Loss::None => true,
            Loss::AllButPrefix => place < prefix,
            Loss::Any => rng.chance(1, 2),
            Loss::Chosen(bits) => decided < 64 && bits >> decided & 1 == 1,
        };
        (0..count)
            .map(|place| {
                let kept = keep(place, self.decided, self.rng);
                self.decided += 1;
                kept
            })
            .collect()
    }
}

impl Loss {
    pub(crate) fn draw(rng: &mut Rng) -> Self {
        match rng.below(8) {
            0 => Self::All,
            1 => Self::None,
            2 => Self::AllButPrefix,
            _ => Self::Any,
        }
    }
}

/// What became of unsynced writes in power failures.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct LossTally {
    pub(crate) lost: u64,
    pub(crate) kept: u64,
    pub(crate) torn: u64,
}

/// A file of the simulated disk.
#[derive(Clone, Default, Debug)]
pub(crate) struct Inode {
    /// What reads return.
    pub(crate) live: Content,
    /// What a power failure leaves at least.
    pub(crate) durable: Content,
    /// Oldest first.
    unsynced: VecDeque<Unsynced>,
    unsynced_bytes: u64,
    /// The medium lacks, or has besides, what no unsynced change accounts for: a write was lied about or a sync failed.
    apart: bool,
    /// Open handles.
    pub(crate) opens: u32,
    /// A live name points here.
    pub(crate) linked: bool,
    /// Its length counts against the disk's capacity.
    pub(crate) charged: bool,
}

/// Past so many unsynced changes or bytes of a file the kernel writes the oldest back by itself.
const WRITEBACK_OPS: usize = 512;
const WRITEBACK_BYTES: u64 = 4 << 20;

impl Inode {
    /// A new empty file under a live name.
    pub(crate) fn linked() -> Self {
        Self {
            linked: true,
            charged: true,
            ..Self::default()
        }
    }

    /// A file whose bytes are all on the medium.
    pub(crate) fn at_rest(content: &Content) -> Self {
        Self {
            live: content.clone(),
            durable: content.clone(),
            ..Self::default()
        }
    }

    pub(crate) fn write(&mut self, write: WriteOp) {
        self.live.apply(&write);
        self.unsynced_bytes += write.length;
        self.unsynced.push_back(Unsynced::Write(write));
        while self.unsynced.len() > WRITEBACK_OPS || self.unsynced_bytes > WRITEBACK_BYTES {
            self.write_back_oldest();
        }
    }

    /// A write that is durable when it returns: `O_DSYNC`.
    pub(crate) fn write_durably(&mut self, write: &WriteOp) {
        // Older unsynced bytes of the same range must not come back over it after a crash.
        let last = self.unsynced.iter().rposition(|older| match older {
            Unsynced::Write(older) => older.overlaps(write),
            Unsynced::Length(_) => true,
        });
        for _ in 0..last.map_or(0, |last| last + 1) {
            self.write_back_oldest();
        }
        self.live.apply(write);
        self.durable.apply(write);
    }

    /// A write the device confirmed but never did. Cached bytes still show it, the medium never will.
    pub(crate) fn write_lost(&mut self, write: &WriteOp, cached: bool) {
        if cached {
            self.live.apply(write);
            self.apart = true;
        }
    }

    /// A write that landed elsewhere on the medium.
    pub(crate) fn write_misdirected(&mut self, meant: &WriteOp, landed: &WriteOp, cached: bool) {
        self.apart = true;
        if cached {
            self.live.apply(meant);
        } else {
            self.live.apply(landed);
        }
        self.durable.apply(landed);
    }

    pub(crate) fn set_length(&mut self, length: u64) {
        self.live.set_length(length);
        self.unsynced.push_back(Unsynced::Length(length));
    }

    fn write_back_oldest(&mut self) {
        match self.unsynced.pop_front() {
            Some(Unsynced::Write(write)) => {
                self.unsynced_bytes -= write.length;
                self.durable.apply(&write);
            }
            Some(Unsynced::Length(length)) => self.durable.set_length(length),
            None => {}
        }
    }

    pub(crate) fn sync(&mut self) {
        while !self.unsynced.is_empty() {
            self.write_back_oldest();
        }
    }

    /// A sync that failed: some pages reached the medium, the others are marked clean all the same and
    /// will never be written. Sometimes they are evicted at once, so that reads show the old bytes.
    pub(crate) fn sync_failed(&mut self, rng: &mut Rng) {
        self.apart = true;
        for change in std::mem::take(&mut self.unsynced) {
            if rng.chance(1, 2) {
                match change {
                    Unsynced::Write(write) => self.durable.apply(&write),
                    Unsynced::Length(length) => self.durable.set_length(length),
                }
            }
        }
        self.unsynced_bytes = 0;
        if rng.chance(1, 4) {
            let length = self.live.length();
            self.live = self.durable.clone();
            self.live.set_length(length);
        }
    }

    pub(crate) fn power_failure(&mut self, decision: &mut Decision<'_>, tally: &mut LossTally) {
        let changes = std::mem::take(&mut self.unsynced);
        self.unsynced_bytes = 0;
        // Programs see what the medium has: the usual case, and a copy of the whole list of pages less.
        let is_same = changes.is_empty() && !self.apart;
        let kept = decision.kept(changes.len());
        for (change, kept) in changes.into_iter().zip(kept) {
            match change {
                Unsynced::Length(length) if kept => self.durable.set_length(length),
                Unsynced::Length(_) => {}
                Unsynced::Write(write)
                    if decision.loss == Loss::Any && decision.rng.chance(1, 3) =>
                {
                    self.tear(&write, decision.rng);
                    tally.torn += 1;
                }
                Unsynced::Write(write) if kept => {
                    self.durable.apply(&write);
                    tally.kept += 1;
                }
                Unsynced::Write(_) => tally.lost += 1,
            }
        }
        if !is_same {
            self.live = self.durable.clone();
            self.apart = false;
        }
        self.opens = 0;
    }

    fn tear(&mut self, write: &WriteOp, rng: &mut Rng) {
        let unit = if rng.chance(1, 2) { SECTOR } else { PAGE };
        let parts = write.torn(unit, || rng.chance(1, 2));
        let (before, end) = (self.durable.length(), write.end());
        for part in &parts {
            self.durable.apply(part);
        }
        // The new length can be on the medium before the bytes are.
        if end > before && rng.chance(1, 2) {
            self.durable.extend_to(end);
        }
    }

    /// Changes a power failure could take.
    pub(crate) fn unsynced_changes(&self) -> usize {
        self.unsynced.len()
    }

    /// Turns one bit on the medium, where the page cache does not cover it.
    pub(crate) fn flip(&mut self, bit: u64) -> bool {
        self.live.flip(bit);
        self.durable.flip(bit)
    }

    /// Nothing refers to it any more.
    pub(crate) fn is_open_or_linked(&self) -> bool {
        self.opens > 0 || self.linked
    }
}
