//! What the store counts.

use crate::StoreCounters;
use std::cell::Cell;

/// The live form of [`StoreCounters`].
#[derive(Debug, Default)]
pub(crate) struct Counters(Cell<StoreCounters>);

impl Counters {
    pub(crate) fn update(&self, change: impl FnOnce(&mut StoreCounters)) {
        let mut counters = self.0.get();
        change(&mut counters);
        self.0.set(counters);
    }

    pub(crate) fn get(&self) -> StoreCounters {
        self.0.get()
    }
}
