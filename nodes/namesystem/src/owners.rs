//! Owner and group names, each pair kept once.

use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec::Vec;

/// The table of (owner, group) pairs. Pairs are never dropped: there are about as many as users.
#[derive(Clone, Default)]
pub(crate) struct Owners {
    pairs: Vec<(String, String)>,
    index: BTreeMap<String, BTreeMap<String, u32>>,
}

impl Owners {
    /// The number of a pair that is there.
    pub(crate) fn find(&self, owner: &str, group: &str) -> Option<u32> {
        self.index.get(owner)?.get(group).copied()
    }

    /// Adds a pair that is not there.
    pub(crate) fn add(&mut self, owner: &str, group: &str) -> u32 {
        let number = u32::try_from(self.pairs.len()).expect("fewer owners than 2^32");
        self.pairs.push((String::from(owner), String::from(group)));
        self.index
            .entry(String::from(owner))
            .or_default()
            .insert(String::from(group), number);
        number
    }

    /// Owner and group of that number.
    pub(crate) fn get(&self, number: u32) -> Option<(&str, &str)> {
        let (owner, group) = self.pairs.get(number as usize)?;
        Some((owner, group))
    }

    /// All pairs in the order of their numbers.
    pub(crate) fn pairs(&self) -> &[(String, String)] {
        &self.pairs
    }
}
