//! Which NameNode answers a read when it need not be the active one, and when an msync goes before (HDFS's
//! ObserverReadProxyProvider).

use alloc::vec::Vec;
use hadal_types::{HaState, Tick};

/// Whose state is known is not asked for it again for so long.
const STATE_MS: u64 = 10_000;
/// Who failed is left alone for so long.
const SHUN_MS: u64 = 5_000;

/// Who answers reads of the namespace.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum ReadFrom {
    /// The active NameNode: every read is linearizable.
    #[default]
    Active,
    /// Observers; the active when there is none.
    Observer,
    /// Observers, else standbys; the active when there is neither.
    Standby,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Known {
    /// When it was last asked for its state, and what that was.
    state: Option<(Tick, Option<HaState>)>,
    shunned_until: Tick,
}

/// What a client knows of the NameNodes it may read from.
#[derive(Clone, Debug)]
pub struct Observers {
    from: ReadFrom,
    auto_msync_ms: Option<u64>,
    synced: Option<Tick>,
    known: Vec<Known>,
    /// Who answered last.
    current: usize,
}

impl Observers {
    /// Of so many NameNodes nothing is known yet.
    #[must_use]
    pub fn new(from: ReadFrom, auto_msync_ms: Option<u64>, namenodes: usize) -> Self {
        Self {
            from,
            auto_msync_ms,
            synced: None,
            known: (0..namenodes).map(|_| Known::default()).collect(),
            current: 0,
        }
    }

    /// Whether an msync goes before a read that begins now.
    #[must_use]
    pub fn wants_msync(&self, now: Tick) -> bool {
        match (self.synced, self.auto_msync_ms) {
            (None, _) => true,
            (Some(_), None) => false,
            (Some(at), Some(period)) => at.after_ms(period) <= now,
        }
    }

    /// An msync that began at `began` succeeded.
    pub fn handle_synced(&mut self, began: Tick) {
        self.synced = self.synced.max(Some(began));
    }

    /// The NameNodes whose state is not known well enough; they count as asked from now on.
    pub fn take_unknown(&mut self, now: Tick) -> Vec<usize> {
        let mut unknown = Vec::new();
        for (index, known) in self.known.iter_mut().enumerate() {
            let fresh = known
                .state
                .is_some_and(|(at, _)| now < at.after_ms(STATE_MS));
            if !fresh && known.shunned_until <= now {
                let before = known.state.and_then(|(_, state)| state);
                known.state = Some((now, before));
                unknown.push(index);
            }
        }
        unknown
    }

    /// A NameNode told its state.
    pub fn handle_state(&mut self, now: Tick, namenode: usize, state: HaState) {
        self.known[namenode].state = Some((now, Some(state)));
    }

    /// Whom to ask, best first: observers before standbys, who answered last before others.
    #[must_use]
    pub fn candidates(&self, now: Tick) -> Vec<usize> {
        let count = self.known.len();
        let of = |wanted: HaState| {
            let in_turn = (0..count).map(move |at| (self.current + at) % count);
            in_turn.filter(move |index| {
                let known = &self.known[*index];
                let is = known.state.is_some_and(|(_, state)| state == Some(wanted));
                is && known.shunned_until <= now
            })
        };
        match self.from {
            ReadFrom::Active => Vec::new(),
            ReadFrom::Observer => of(HaState::Observer).collect(),
            ReadFrom::Standby => of(HaState::Observer).chain(of(HaState::Standby)).collect(),
        }
    }

    /// It answered.
    pub fn handle_answered(&mut self, namenode: usize) {
        self.current = namenode;
    }

    /// It could not answer this read: it is behind, or knows too little. Its state is asked for before the next.
    pub fn handle_refused(&mut self, namenode: usize) {
        self.known[namenode].state = None;
    }

    /// It is not to be reached, or silent.
    pub fn handle_failed(&mut self, now: Tick, namenode: usize) {
        self.known[namenode] = Known {
            state: None,
            shunned_until: now.after_ms(SHUN_MS),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at_ms(ms: u64) -> Tick {
        Tick(0).after_ms(ms)
    }

    fn three(from: ReadFrom) -> Observers {
        let mut observers = Observers::new(from, None, 3);
        assert_eq!(observers.take_unknown(at_ms(1)), [0, 1, 2]);
        observers.handle_state(at_ms(1), 0, HaState::Active);
        observers.handle_state(at_ms(1), 1, HaState::Standby);
        observers.handle_state(at_ms(1), 2, HaState::Observer);
        observers
    }

    #[test]
    fn observers_come_before_standbys_and_the_active_is_no_candidate() {
        assert_eq!(three(ReadFrom::Standby).candidates(at_ms(2)), [2, 1]);
        assert_eq!(three(ReadFrom::Observer).candidates(at_ms(2)), [2]);
        assert!(three(ReadFrom::Active).candidates(at_ms(2)).is_empty());
    }

    #[test]
    fn states_are_asked_for_again_after_a_while_a_refusal_or_a_failure() {
        let mut observers = three(ReadFrom::Observer);
        assert!(observers.take_unknown(at_ms(9_000)).is_empty());
        observers.handle_refused(2);
        assert_eq!(observers.take_unknown(at_ms(9_000)), [2]);
        assert!(observers.candidates(at_ms(9_000)).is_empty());
        observers.handle_failed(at_ms(9_000), 1);
        assert!(observers.take_unknown(at_ms(9_001)).is_empty());
        assert_eq!(observers.take_unknown(at_ms(14_000)), [0, 1]);
    }

    #[test]
    fn a_failed_observer_is_left_alone_for_a_while() {
        let mut observers = three(ReadFrom::Standby);
        observers.handle_failed(at_ms(10), 2);
        assert_eq!(observers.candidates(at_ms(11)), [1]);
        observers.handle_answered(1);
        let later = at_ms(6_000);
        assert_eq!(observers.take_unknown(later), [2]);
        observers.handle_state(later, 2, HaState::Observer);
        assert_eq!(observers.candidates(later), [2, 1]);
    }

    #[test]
    fn an_msync_goes_before_the_first_read_and_then_as_the_period_says() {
        let never = |auto| {
            let mut observers = Observers::new(ReadFrom::Observer, auto, 1);
            assert!(observers.wants_msync(at_ms(5)));
            observers.handle_synced(at_ms(5));
            observers
        };
        assert!(!never(None).wants_msync(at_ms(1 << 40)));
        assert!(never(Some(0)).wants_msync(at_ms(5)));
        let period = never(Some(1_000));
        assert!(!period.wants_msync(at_ms(1_004)) && period.wants_msync(at_ms(1_005)));
    }
}
