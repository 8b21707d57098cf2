//! Copies that failed: who is not asked again before others were.

use crate::partition::Partition;
use crate::view::{Effect, View};
use alloc::vec::Vec;
use smallvec::SmallVec;

/// DataNodes remembered per block and kind; the longest ago goes first.
const REMEMBERED_MAX: usize = 16;

/// What went wrong with copies of one block, kept until it needs none.
#[derive(Clone, Debug, Default)]
pub(crate) struct FailedCopies {
    /// DataNodes whose copies failed or did not arrive in time, the longest ago first: a rotten replica nobody has
    /// read yet looks as good as any until it is the source.
    sources: SmallVec<[u32; 2]>,
    /// DataNodes that could not be reached or refused.
    targets: SmallVec<[u32; 2]>,
}

fn note(list: &mut SmallVec<[u32; 2]>, node: u32) {
    list.retain(|other| *other != node);
    if list.len() == REMEMBERED_MAX {
        list.remove(0);
    }
    list.push(node);
}

impl FailedCopies {
    pub(crate) fn note_source(&mut self, node: u32) {
        note(&mut self.sources, node);
    }

    fn note_target(&mut self, node: u32) {
        note(&mut self.targets, node);
    }

    /// Of these sources those that have not failed; when all have, the one that failed longest ago.
    pub(crate) fn best(&self, sources: &[u32]) -> Vec<u32> {
        let age = |node: &u32| self.sources.iter().position(|other| other == node);
        let fresh: Vec<u32> = sources
            .iter()
            .copied()
            .filter(|node| age(node).is_none())
            .collect();
        if fresh.is_empty() {
            sources
                .iter()
                .copied()
                .min_by_key(age)
                .into_iter()
                .collect()
        } else {
            fresh
        }
    }

    /// DataNodes to place no copy on while there are others.
    pub(crate) fn targets(&self) -> &[u32] {
        &self.targets
    }
}

impl Partition {
    /// DataNode `source` could not make the copies it was told to make, because of `target` or, without one, because
    /// of its own replica. What it was to do is decided anew.
    pub(crate) fn copy_failed(
        &mut self,
        key: u64,
        source: u32,
        target: Option<u32>,
        view: &View<'_>,
        out: &mut Vec<Effect>,
    ) {
        let pending = self.pending.get(&key);
        if pending.is_none_or(|pending| pending.source != Some(source)) {
            return;
        }
        let failed = self.failed.entry(key).or_default();
        match target {
            Some(target) => failed.note_target(target),
            None => failed.note_source(source),
        }
        self.drop_pending(key, out);
        if view.populated {
            self.evaluate(key, view, out);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_that_failed_come_last_in_turn() {
        let mut failed = FailedCopies::default();
        assert_eq!(failed.best(&[1, 2, 3]), [1, 2, 3]);
        failed.note_source(2);
        assert_eq!(failed.best(&[1, 2, 3]), [1, 3]);
        failed.note_source(1);
        failed.note_source(3);
        assert_eq!(failed.best(&[1, 2, 3]), [2]);
        failed.note_source(2);
        assert_eq!(failed.best(&[1, 2, 3]), [1]);
        assert_eq!(failed.best(&[]), []);
        for node in 0..100 {
            failed.note_source(node);
        }
        assert_eq!(failed.sources.len(), REMEMBERED_MAX);
    }
}
