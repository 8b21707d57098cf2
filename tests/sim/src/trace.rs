//! The trace: a hash over everything that happened, and optionally the events in words.

use std::io::Write;

/// What kind of event is folded in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u64)]
pub(crate) enum Tag {
    Poll = 1,
    Node = 3,
    DiskOp = 4,
    Message = 5,
    Link = 6,
    Note = 7,
}

/// Folded over every scheduled task, message and disk operation. Equal seeds give equal hashes in any process.
pub(crate) struct Trace {
    hash: u64,
    events: u64,
    log: Option<Box<dyn Write>>,
}

impl Trace {
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            hash: crate::rng::scramble(seed),
            events: 0,
            log: None,
        }
    }

    #[inline]
    fn fold(&mut self, value: u64) {
        self.hash = (self.hash.rotate_left(5) ^ value).wrapping_mul(0x517c_c1b7_2722_0a95);
    }

    /// Folds one event in; `words` is called only when a log is written.
    #[inline]
    pub(crate) fn event(
        &mut self,
        now: u64,
        tag: Tag,
        a: u64,
        b: u64,
        words: impl FnOnce() -> String,
    ) {
        self.events += 1;
        self.fold(now);
        self.fold((tag as u64) << 56 ^ a);
        self.fold(b);
        if let Some(log) = &mut self.log {
            // A log that cannot be written does not change the run.
            let _ = writeln!(log, "{:>15.6} {:?} {}", now as f64 / 1e9, tag, words());
        }
    }

    pub(crate) fn hash(&self) -> u64 {
        crate::rng::scramble(self.hash ^ self.events)
    }

    pub(crate) fn events(&self) -> u64 {
        self.events
    }

    pub(crate) fn log_to(&mut self, log: Option<Box<dyn Write>>) {
        if let Some(mut old) = std::mem::replace(&mut self.log, log) {
            let _ = old.flush();
        }
    }
}

impl Drop for Trace {
    fn drop(&mut self) {
        self.log_to(None);
    }
}

/// A stable hash of a name (FNV-1a).
pub(crate) fn hash_name(name: &[u8]) -> u64 {
    name.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}
