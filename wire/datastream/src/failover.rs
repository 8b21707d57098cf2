//! Which NameNode to ask, how long to wait in between, and when to give up.

use hadal_proto::{Fault, FaultClass};
use hadal_types::Tick;

/// How a client retries.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FailoverOptions {
    /// Surface the last error after trying this long.
    pub window_ms: u64,
    /// First wait between rounds over all NameNodes.
    pub base_ms: u64,
    /// Longest wait.
    pub max_ms: u64,
}

impl Default for FailoverOptions {
    fn default() -> Self {
        Self {
            window_ms: 15_000,
            base_ms: 20,
            max_ms: 1_000,
        }
    }
}

/// What to do after a failed attempt.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// Try this NameNode (index into the configured list), not before then.
    Retry {
        /// Which one.
        namenode: usize,
        /// When.
        at: Tick,
    },
    /// The error goes to the caller.
    Surface,
}

/// The retry state of one call. The call keeps its id over all attempts, so that the NameNodes execute it at
/// most once (F-06).
#[derive(Clone, Debug)]
pub struct Failover {
    options: FailoverOptions,
    namenodes: usize,
    current: usize,
    started: Tick,
    attempts: u32,
}

impl Failover {
    /// A call that starts now with NameNode `current` of `namenodes`.
    #[must_use]
    pub fn new(options: FailoverOptions, namenodes: usize, current: usize, now: Tick) -> Self {
        assert!(namenodes > 0, "a client knows at least one NameNode");
        Self {
            options,
            namenodes,
            current: current % namenodes,
            started: now,
            attempts: 0,
        }
    }

    /// The NameNode to ask now.
    #[must_use]
    pub fn current(&self) -> usize {
        self.current
    }

    /// Until when attempts may last.
    #[must_use]
    pub fn deadline(&self) -> Tick {
        self.started.after_ms(self.options.window_ms)
    }

    /// The NameNode answered with an error. `hinted` is the index its hint names.
    pub fn handle_fault(
        &mut self,
        now: Tick,
        fault: &Fault,
        hinted: Option<usize>,
        jitter: u64,
    ) -> Verdict {
        if !fault.is_retriable() {
            return Verdict::Surface;
        }
        match (fault.class, hinted) {
            (FaultClass::Standby, Some(active)) if active != self.current => {
                // A fresh hint is followed at once, but not round and round in a circle.
                let at = if self.attempts < self.namenodes as u32 {
                    now
                } else {
                    self.later(now, jitter)
                };
                self.attempts += 1;
                self.current = active;
                self.bounded(now, at)
            }
            (FaultClass::Standby, _) => self.next(now, jitter),
            _ => {
                self.attempts += 1;
                let at = match fault.class {
                    FaultClass::Busy => now.after_ms(fault.value.clamp(1, self.options.max_ms)),
                    _ => self.later(now, jitter),
                };
                self.bounded(now, at)
            }
        }
    }

    /// The NameNode could not be reached, or the connection was lost before the answer.
    pub fn handle_unreachable(&mut self, now: Tick, jitter: u64) -> Verdict {
        self.next(now, jitter)
    }

    fn next(&mut self, now: Tick, jitter: u64) -> Verdict {
        self.attempts += 1;
        self.current = (self.current + 1) % self.namenodes;
        // The others are tried at once; a whole round without success waits.
        let at = if (self.attempts as usize).is_multiple_of(self.namenodes) {
            self.later(now, jitter)
        } else {
            now
        };
        self.bounded(now, at)
    }

    fn later(&self, now: Tick, jitter: u64) -> Tick {
        let rounds = (self.attempts / self.namenodes as u32).min(10);
        let wait = (self.options.base_ms << rounds)
            .min(self.options.max_ms)
            .max(1);
        now.after_ms(wait / 2 + jitter % (wait / 2 + 1))
    }

    fn bounded(&self, now: Tick, at: Tick) -> Verdict {
        if now >= self.deadline() || at > self.deadline() {
            Verdict::Surface
        } else {
            Verdict::Retry {
                namenode: self.current,
                at,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_standby_hint_is_followed_at_once() {
        let mut call = Failover::new(FailoverOptions::default(), 2, 0, Tick(0));
        let fault = Fault::new(FaultClass::Standby, "standby");
        let verdict = call.handle_fault(Tick(5), &fault, Some(1), 0);
        assert_eq!(
            verdict,
            Verdict::Retry {
                namenode: 1,
                at: Tick(5)
            }
        );
    }

    #[test]
    fn final_errors_surface_at_once() {
        let mut call = Failover::new(FailoverOptions::default(), 2, 0, Tick(0));
        let fault = Fault::new(FaultClass::NotFound, "no such file");
        assert_eq!(
            call.handle_fault(Tick(0), &fault, None, 0),
            Verdict::Surface
        );
    }

    #[test]
    fn unreachable_namenodes_are_tried_in_turn_until_the_window_closes() {
        let mut call = Failover::new(FailoverOptions::default(), 3, 0, Tick(0));
        let (mut now, mut asked) = (Tick(0), [0u32; 3]);
        while let Verdict::Retry { namenode, at } = call.handle_unreachable(now, 17) {
            asked[namenode] += 1;
            assert!(at >= now);
            now = at.after_ms(1);
        }
        assert!(asked.iter().all(|count| *count > 3), "{asked:?}");
        assert!(
            now.as_ms() > 13_000 && now.as_ms() < 16_000,
            "gave up at {now:?}"
        );
    }
}
