//! The entries of one directory: inode ids in the order of their names.

use alloc::sync::Arc;
use alloc::vec::Vec;

/// Most ids in one chunk of a large directory.
const CHUNK_MAX: usize = 512;

/// Ids sorted by name. Small directories are one vector; large ones a vector of shared chunks, so that an
/// insertion moves a few KiB at most, whatever the size, and a view shares what is not written.
#[derive(Clone)]
pub(crate) enum Children {
    /// Up to [`CHUNK_MAX`] entries.
    Few(Vec<u64>),
    /// More; no chunk is empty.
    Many {
        /// Entries in all chunks.
        count: usize,
        /// The entries.
        chunks: Vec<Arc<Vec<u64>>>,
    },
}

/// A place among the children.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Place {
    chunk: usize,
    at: usize,
}

impl Children {
    /// One entry.
    pub(crate) fn one(id: u64) -> Self {
        let mut ids = Vec::with_capacity(2);
        ids.push(id);
        Self::Few(ids)
    }

    /// Takes ids that are sorted by name already (image load).
    pub(crate) fn from_sorted(ids: Vec<u64>) -> Self {
        if ids.len() <= CHUNK_MAX {
            return Self::Few(ids);
        }
        Self::Many {
            count: ids.len(),
            chunks: ids
                .chunks(CHUNK_MAX * 3 / 4)
                .map(|chunk| Arc::new(chunk.to_vec()))
                .collect(),
        }
    }

    /// How many.
    pub(crate) fn len(&self) -> usize {
        match self {
            Self::Few(ids) => ids.len(),
            Self::Many { count, .. } => *count,
        }
    }

    fn chunk(&self, chunk: usize) -> &[u64] {
        match self {
            Self::Few(ids) if chunk == 0 => ids,
            Self::Few(_) => &[],
            Self::Many { chunks, .. } => chunks.get(chunk).map_or(&[], |chunk| chunk),
        }
    }

    /// Looks for `name`: `Ok` is the place of the entry, `Err` the place where it would stand. `name_of`
    /// tells the name of an entry.
    pub(crate) fn find<'a>(
        &self,
        name: &[u8],
        name_of: impl Fn(u64) -> &'a [u8],
    ) -> Result<(Place, u64), Place> {
        let chunk = match self {
            Self::Few(_) => 0,
            Self::Many { chunks, .. } => chunks
                .partition_point(|chunk| name_of(chunk[0]) <= name)
                .saturating_sub(1),
        };
        let ids = self.chunk(chunk);
        match ids.binary_search_by(|id| name_of(*id).cmp(name)) {
            Ok(at) => Ok((Place { chunk, at }, ids[at])),
            Err(at) => Err(Place { chunk, at }),
        }
    }

    /// Puts `id` at a place [`Self::find`] gave as free.
    pub(crate) fn insert(&mut self, place: Place, id: u64) {
        match self {
            Self::Few(ids) => {
                ids.insert(place.at, id);
                if ids.len() > CHUNK_MAX {
                    let back = ids.split_off(CHUNK_MAX / 2);
                    let front = core::mem::take(ids);
                    *self = Self::Many {
                        count: front.len() + back.len(),
                        chunks: alloc::vec![Arc::new(front), Arc::new(back)],
                    };
                }
            }
            Self::Many { count, chunks } => {
                *count += 1;
                let last = chunks.len() - 1;
                let full = chunks[place.chunk].len() >= CHUNK_MAX;
                if full && place.chunk == last && place.at == CHUNK_MAX {
                    // Names that come in order fill their chunks instead of leaving half of each empty.
                    chunks.push(Arc::new(alloc::vec![id]));
                    return;
                }
                let ids = Arc::make_mut(&mut chunks[place.chunk]);
                ids.insert(place.at, id);
                if full {
                    let back = ids.split_off(ids.len() / 2);
                    chunks.insert(place.chunk + 1, Arc::new(back));
                }
            }
        }
    }

    /// Takes out the entry at a place [`Self::find`] gave.
    pub(crate) fn remove(&mut self, place: Place) -> u64 {
        match self {
            Self::Few(ids) => {
                let id = ids.remove(place.at);
                if ids.len() * 4 < ids.capacity() {
                    ids.shrink_to(ids.len() * 2);
                }
                id
            }
            Self::Many { count, chunks } => {
                *count -= 1;
                let ids = Arc::make_mut(&mut chunks[place.chunk]);
                let id = ids.remove(place.at);
                if ids.is_empty() {
                    chunks.remove(place.chunk);
                }
                if *count <= CHUNK_MAX / 2 {
                    let ids = chunks.iter().flat_map(|chunk| chunk.iter().copied());
                    *self = Self::Few(ids.collect());
                }
                id
            }
        }
    }

    /// The ids from a place on, in name order.
    pub(crate) fn from(&self, place: Place) -> impl Iterator<Item = u64> + '_ {
        let chunks = match self {
            Self::Few(_) => 1,
            Self::Many { chunks, .. } => chunks.len(),
        };
        (place.chunk..chunks).flat_map(move |chunk| {
            let from = if chunk == place.chunk { place.at } else { 0 };
            self.chunk(chunk)[from.min(self.chunk(chunk).len())..]
                .iter()
                .copied()
        })
    }

    /// All ids in name order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = u64> + '_ {
        self.from(Place { chunk: 0, at: 0 })
    }

    /// Entries before a place.
    pub(crate) fn before(&self, place: Place) -> usize {
        (0..place.chunk)
            .map(|chunk| self.chunk(chunk).len())
            .sum::<usize>()
            + place.at
    }

    /// Bytes it takes on the heap.
    pub(crate) fn heap_bytes(&self) -> usize {
        size_of::<Self>()
            + match self {
                Self::Few(ids) => ids.capacity() * 8,
                Self::Many { chunks, .. } => {
                    chunks.capacity() * 8
                        + chunks
                            .iter()
                            .map(|chunk| chunk.capacity() * 8 + 40)
                            .sum::<usize>()
                }
            }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::collections::BTreeMap;
    use alloc::string::String;

    #[test]
    fn stays_sorted_and_complete_through_growth_and_shrinking() {
        let names: Vec<String> = (0..6_000u64)
            .map(|id| alloc::format!("{:05}", id.wrapping_mul(2_654_435_761) % 99_991))
            .collect();
        let name_of = |id: u64| names[id as usize].as_bytes();
        let mut children: Option<Children> = None;
        let mut model: BTreeMap<&[u8], u64> = BTreeMap::new();
        let check = |children: &Option<Children>, model: &BTreeMap<&[u8], u64>| {
            let children = children.as_ref().unwrap();
            assert_eq!(children.len(), model.len());
            assert!(children.iter().eq(model.values().copied()));
        };
        for (id, name) in (0u64..).zip(&names) {
            match &mut children {
                None => children = Some(Children::one(id)),
                Some(children) => {
                    let place = children.find(name.as_bytes(), name_of).unwrap_err();
                    assert_eq!(
                        children.before(place),
                        model.range(..name.as_bytes()).count()
                    );
                    children.insert(place, id);
                }
            }
            model.insert(name.as_bytes(), id);
            if id % 500 == 0 {
                check(&children, &model);
            }
        }
        for (id, name) in (0u64..).zip(&names).take(5_900) {
            let children = children.as_mut().unwrap();
            let (place, found) = children.find(name.as_bytes(), name_of).unwrap();
            assert_eq!(found, id);
            assert_eq!(children.remove(place), id);
            model.remove(name.as_bytes());
        }
        check(&children, &model);
        assert!(matches!(children, Some(Children::Few(_))));
    }

    #[test]
    fn ascending_names_fill_their_chunks() {
        let names: Vec<String> = (0..10_000u64).map(|id| alloc::format!("{id:06}")).collect();
        let name_of = |id: u64| names[id as usize].as_bytes();
        let mut children = Children::one(0);
        for (id, name) in (0u64..).zip(&names).skip(1) {
            let place = children.find(name.as_bytes(), name_of).unwrap_err();
            children.insert(place, id);
        }
        let Children::Many { chunks, .. } = &children else {
            panic!("large directories are chunked");
        };
        assert!(
            chunks.len() <= 10_000 / CHUNK_MAX + 2,
            "{} chunks",
            chunks.len()
        );
        let sorted = Children::from_sorted((0..10_000).collect());
        assert!(sorted.iter().eq(children.iter()));
    }
}
