//! What a run reports: counters, violated promises, panics.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::fmt;

/// The promises of reliability.md section 3.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Promise {
    /// Namespace operations are linearizable.
    P1,
    /// No acknowledged edit is lost.
    P2,
    /// One writer per epoch.
    P3,
    /// Acknowledged bytes survive.
    P4,
    /// Reads are never wrong.
    P5,
    /// A replica never resurrects.
    P6,
    /// Progress once faults stop.
    P7,
    /// Nothing unauthenticated is obeyed.
    P8,
    /// Memory, queues and open files stay bounded.
    P9,
    /// Errors are loud. Also what a panic breaks.
    P10,
}

impl fmt::Display for Promise {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// A broken promise.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Violation {
    /// Which.
    pub promise: Promise,
    /// What was seen, for people.
    pub detail: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.promise, self.detail)
    }
}

impl std::error::Error for Violation {}

/// Named counts, ordered by name: what a run exercised (reliability.md S11).
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Counters {
    counts: BTreeMap<&'static str, u64>,
}

impl Counters {
    /// Adds to one count, which begins at zero. Adding zero makes it appear in the print.
    pub fn add(&mut self, name: &'static str, by: u64) {
        *self.counts.entry(name).or_default() += by;
    }

    /// One count.
    #[must_use]
    pub fn get(&self, name: &str) -> u64 {
        self.counts.get(name).copied().unwrap_or(0)
    }

    /// Adds all counts of another.
    pub fn merge(&mut self, other: &Self) {
        for (name, count) in &other.counts {
            self.add(name, *count);
        }
    }

    /// All counts by name.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        self.counts.iter().map(|(name, count)| (*name, *count))
    }
}

impl fmt::Display for Counters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, (name, count)) in self.iter().enumerate() {
            write!(f, "{}{name} {count}", if place == 0 { "" } else { ", " })?;
        }
        Ok(())
    }
}

thread_local! {
    static CAUGHT: Cell<bool> = const { Cell::new(false) };
    static WORDS: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
}

/// A task panicked: says which, under which seed, and how to repeat it.
pub(crate) fn panicked(words: &str) {
    if CAUGHT.get() {
        WORDS.with_borrow_mut(|all| all.push(words.to_owned()));
    } else {
        eprintln!("{words}");
    }
}

/// Runs `work`; a panic in it becomes the words it would have printed.
pub(crate) fn catch<T>(work: impl FnOnce() -> T) -> Result<T, String> {
    install_hook();
    CAUGHT.set(true);
    WORDS.with_borrow_mut(Vec::clear);
    let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
    CAUGHT.set(false);
    result.map_err(|_| WORDS.with_borrow_mut(|all| std::mem::take(all).join("; ")))
}

/// Panics inside [`catch`] are kept, all others printed as ever.
fn install_hook() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        let usual = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if CAUGHT.get() {
                WORDS.with_borrow_mut(|all| all.push(info.to_string()));
            } else {
                usual(info);
            }
        }));
    });
}
