//! Which NameNode to ask, how long to wait in between, when to look at the others, and when to give up.

use alloc::string::String;
use alloc::vec::Vec;
use hadal_proto::{Fault, FaultClass};
use hadal_types::Tick;

/// How a client retries. Times in ms.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FailoverOptions {
    /// Surface the last error after trying this long.
    pub window_ms: u64,
    /// A call that changes something is not repeated after this long, whatever the window: the NameNode's retry
    /// cache must still know its outcome then (F-06; HDFS keeps outcomes for 600 s).
    pub mutation_window_ms: u64,
    /// First wait between rounds over all NameNodes.
    pub base_ms: u64,
    /// Longest wait.
    pub max_ms: u64,
    /// A NameNode that is not connected by then is dialled on, but the others are looked at.
    pub head_start_ms: u64,
    /// A connected NameNode that has not answered by then is waited for, but the others are looked at: a stopped
    /// or killed process closes nothing.
    pub silence_ms: u64,
}

impl Default for FailoverOptions {
    fn default() -> Self {
        Self {
            window_ms: 15_000,
            mutation_window_ms: 300_000,
            base_ms: 50,
            max_ms: 500,
            head_start_ms: 250,
            silence_ms: 500,
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

/// What a NameNode said last in this call.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Word {
    Fault(Fault),
    Unreachable(String),
}

/// What a call that is given up tells its caller.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum LastWord {
    /// What a NameNode answered. One that cannot serve says more than one that is only standby, and that says more
    /// than that time is up.
    Fault(Fault),
    /// Per NameNode that was asked (index), why there was no answer of use.
    Unreachable(Vec<(usize, String)>),
}

/// The retry state of one call. The call keeps its id over all attempts, so that the NameNodes execute it at
/// most once (F-06).
#[derive(Clone, Debug)]
pub struct Failover {
    options: FailoverOptions,
    current: usize,
    started: Tick,
    deadline: Tick,
    attempts: u32,
    /// Looks at the others during the present attempt, and the earliest time of the next.
    looks: u32,
    next_look: Tick,
    words: Vec<Option<Word>>,
    /// Whose word is the newest.
    newest: usize,
}

impl Failover {
    /// A call that starts now with NameNode `current` of `namenodes`.
    #[must_use]
    pub fn new(
        options: FailoverOptions,
        namenodes: usize,
        current: usize,
        mutation: bool,
        now: Tick,
    ) -> Self {
        assert!(namenodes > 0, "a client knows at least one NameNode");
        let window = match mutation {
            true => options.window_ms.min(options.mutation_window_ms),
            false => options.window_ms,
        };
        Self {
            options,
            current: current % namenodes,
            started: now,
            deadline: now.after_ms(window),
            attempts: 0,
            looks: 0,
            next_look: now,
            words: (0..namenodes).map(|_| None).collect(),
            newest: 0,
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
        self.deadline
    }

    /// When the call started.
    #[must_use]
    pub fn started(&self) -> Tick {
        self.started
    }

    /// When to look whether another NameNode is active, while the present attempt, under way since `began` and
    /// connected since `connected`, goes on. `None` when there is no other.
    #[must_use]
    pub fn look_at(&self, began: Tick, connected: Option<Tick>) -> Option<Tick> {
        let patience = match connected {
            None => began.after_ms(self.options.head_start_ms),
            Some(since) => since.after_ms(self.options.silence_ms),
        };
        (self.words.len() > 1).then(|| patience.max(self.next_look))
    }

    /// No other NameNode is active: the attempt goes on, and the others are looked at again later.
    pub fn handle_looked(&mut self, now: Tick, jitter: u64) {
        let wait = (self.options.base_ms << self.looks.min(10))
            .min(self.options.max_ms)
            .max(1);
        self.looks += 1;
        self.next_look = now.after_ms(wait / 2 + jitter % (wait / 2 + 1));
    }

    /// Another NameNode says that it is active: it is asked instead, at once. The attempt under way is dropped; as
    /// the call keeps its id, no harm is done when it was carried out.
    pub fn handle_active(&mut self, namenode: usize) {
        self.set_word(Word::Unreachable("no answer".into()));
        self.turn_to(namenode % self.words.len());
    }

    /// The NameNode answered with an error. `hinted` is the index its hint names.
    pub fn handle_fault(
        &mut self,
        now: Tick,
        fault: &Fault,
        hinted: Option<usize>,
        jitter: u64,
    ) -> Verdict {
        self.set_word(Word::Fault(fault.clone()));
        if !fault.is_retriable() {
            return Verdict::Surface;
        }
        match (fault.class, hinted) {
            (FaultClass::Standby, Some(active)) if active != self.current => {
                // A fresh hint is followed at once, but not round and round in a circle.
                let at = if (self.attempts as usize) < self.words.len() {
                    now
                } else {
                    self.later(now, jitter)
                };
                self.attempts += 1;
                self.turn_to(active);
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
    pub fn handle_unreachable(
        &mut self,
        now: Tick,
        reason: impl Into<String>,
        jitter: u64,
    ) -> Verdict {
        self.set_word(Word::Unreachable(reason.into()));
        self.next(now, jitter)
    }

    /// What the caller is told when the call is given up. What a NameNode answered counts until the same one is
    /// found unreachable.
    #[must_use]
    pub fn last_word(&self) -> LastWord {
        let order = core::iter::once(self.newest).chain(0..self.words.len());
        let fault = |wanted: fn(&Fault) -> bool| {
            order.clone().find_map(|index| match &self.words[index] {
                Some(Word::Fault(fault)) if wanted(fault) => Some(fault.clone()),
                _ => None,
            })
        };
        let all_standby = || {
            self.words
                .iter()
                .all(|word| matches!(word, Some(Word::Fault(_))))
        };
        if let Some(fault) = fault(|fault| fault.class != FaultClass::Standby) {
            return LastWord::Fault(fault);
        }
        if all_standby()
            && let Some(fault) = fault(|_| true)
        {
            return LastWord::Fault(fault);
        }
        let reason = |(index, word): (usize, &Option<Word>)| {
            let reason = match word.as_ref()? {
                Word::Fault(fault) => fault.message.clone(),
                Word::Unreachable(reason) => reason.clone(),
            };
            Some((index, reason))
        };
        LastWord::Unreachable(self.words.iter().enumerate().filter_map(reason).collect())
    }

    fn set_word(&mut self, word: Word) {
        self.newest = self.current;
        self.words[self.current] = Some(word);
    }

    fn turn_to(&mut self, namenode: usize) {
        self.current = namenode;
        self.looks = 0;
    }

    fn next(&mut self, now: Tick, jitter: u64) -> Verdict {
        self.attempts += 1;
        let namenodes = self.words.len();
        self.turn_to((self.current + 1) % namenodes);
        // The others are tried at once; a whole round without success waits.
        let at = if (self.attempts as usize).is_multiple_of(namenodes) {
            self.later(now, jitter)
        } else {
            now
        };
        self.bounded(now, at)
    }

    fn later(&self, now: Tick, jitter: u64) -> Tick {
        let rounds = (self.attempts / self.words.len() as u32).min(10);
        let wait = (self.options.base_ms << rounds)
            .min(self.options.max_ms)
            .max(1);
        now.after_ms(wait / 2 + jitter % (wait / 2 + 1))
    }

    fn bounded(&self, now: Tick, at: Tick) -> Verdict {
        if now >= self.deadline || at > self.deadline {
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

    fn call(namenodes: usize) -> Failover {
        Failover::new(FailoverOptions::default(), namenodes, 0, false, Tick(0))
    }

    fn at_ms(ms: u64) -> Tick {
        Tick(0).after_ms(ms)
    }

    #[test]
    fn a_standby_hint_is_followed_at_once() {
        let mut call = call(2);
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
    fn two_standbys_that_name_each_other_are_asked_with_pauses() {
        let mut call = call(2);
        let fault = Fault::new(FaultClass::Standby, "standby");
        let (mut now, mut asked) = (Tick(0), 0);
        while let Verdict::Retry { namenode, at } =
            call.handle_fault(now, &fault, Some(1 - call.current()), 3)
        {
            assert_eq!(namenode, call.current());
            now = at.after_ms(1);
            asked += 1;
        }
        assert!(asked < 100, "asked {asked} times within 15 s");
        assert_eq!(call.last_word(), LastWord::Fault(fault));
    }

    #[test]
    fn final_errors_surface_at_once() {
        let mut call = call(2);
        let fault = Fault::new(FaultClass::NotFound, "no such file");
        assert_eq!(
            call.handle_fault(Tick(0), &fault, None, 0),
            Verdict::Surface
        );
        assert_eq!(call.last_word(), LastWord::Fault(fault));
    }

    #[test]
    fn unreachable_namenodes_are_tried_in_turn_until_the_window_closes() {
        let mut call = call(3);
        let (mut now, mut asked) = (Tick(0), [0u32; 3]);
        while let Verdict::Retry { namenode, at } = call.handle_unreachable(now, "refused", 17) {
            asked[namenode] += 1;
            assert!(at >= now);
            now = at.after_ms(1);
        }
        assert!(asked.iter().all(|count| *count > 3), "{asked:?}");
        assert!(
            now.as_ms() > 13_000 && now.as_ms() < 16_000,
            "gave up at {now:?}"
        );
        let LastWord::Unreachable(reasons) = call.last_word() else {
            panic!("nobody answered");
        };
        assert_eq!(reasons.len(), 3);
    }

    #[test]
    fn on_connection_loss_the_other_is_asked_at_once() {
        let mut call = call(2);
        assert_eq!(
            call.handle_unreachable(at_ms(3), "lost", 99),
            Verdict::Retry {
                namenode: 1,
                at: at_ms(3)
            }
        );
    }

    #[test]
    fn a_fault_is_told_until_its_namenode_is_found_unreachable() {
        let mut call = call(2);
        let journal = Fault::new(FaultClass::JournalUnavailable, "jn2 and jn3 do not answer");
        call.handle_fault(Tick(0), &journal, None, 0);
        assert_eq!(call.last_word(), LastWord::Fault(journal.clone()));
        call.handle_active(1);
        let standby = Fault::new(FaultClass::Standby, "nn2 is standby");
        call.handle_fault(Tick(0), &standby, None, 0);
        // One fault of use would be told; the first NameNode's silence replaced it.
        assert_eq!(
            call.last_word(),
            LastWord::Unreachable(alloc::vec![
                (0, "no answer".into()),
                (1, "nn2 is standby".into())
            ])
        );
        call.handle_fault(Tick(0), &journal, None, 0);
        assert_eq!(call.last_word(), LastWord::Fault(journal));
    }

    #[test]
    fn a_mutation_is_not_repeated_once_the_retry_cache_may_have_forgotten_it_f06() {
        let options = FailoverOptions {
            window_ms: 900_000,
            ..FailoverOptions::default()
        };
        let read = Failover::new(options.clone(), 2, 0, false, Tick(0));
        assert_eq!(read.deadline(), at_ms(900_000));
        let mut write = Failover::new(options, 2, 0, true, Tick(0));
        assert_eq!(write.deadline(), at_ms(300_000));
        assert_eq!(
            write.handle_unreachable(at_ms(300_000), "lost", 0),
            Verdict::Surface
        );
    }

    /// F-03: a call waits for the end of start-up safe mode within its window; one entered by hand is told at once.
    #[test]
    fn start_up_safe_mode_is_waited_for() {
        let mut call = Failover::new(FailoverOptions::default(), 1, 0, true, Tick(0));
        let by_itself = Fault::new(FaultClass::SafeMode, "starting").with_value(1);
        let verdict = call.handle_fault(Tick(0), &by_itself, None, 0);
        assert!(matches!(verdict, Verdict::Retry { namenode: 0, .. }));
        let by_hand = Fault::new(FaultClass::SafeMode, "by hand");
        let verdict = call.handle_fault(Tick(60), &by_hand, None, 0);
        assert_eq!(verdict, Verdict::Surface);
    }

    #[test]
    fn the_others_are_looked_at_after_a_head_start_or_a_silence_then_with_pauses() {
        let mut call = call(2);
        assert_eq!(call.look_at(at_ms(10), None), Some(at_ms(260)));
        assert_eq!(
            call.look_at(at_ms(10), Some(at_ms(100))),
            Some(at_ms(600)),
            "a connection that stands has its own patience"
        );
        let mut looked = at_ms(260);
        for _ in 0..20 {
            call.handle_looked(looked, 1 << 20);
            let next = call.look_at(at_ms(10), None).unwrap();
            assert!(next > looked && next <= looked.after_ms(500));
            looked = next;
        }
        call.handle_active(1);
        assert_eq!(call.current(), 1);
        let mut alone = Failover::new(FailoverOptions::default(), 1, 0, false, Tick(0));
        assert_eq!(alone.look_at(Tick(0), None), None);
        alone.handle_looked(Tick(0), 0);
    }
}
