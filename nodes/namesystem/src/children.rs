//! The entries of one directory: inode ids in the order of their names.

use alloc::sync::Arc;
use alloc::vec::Vec;

/// Most entries in one chunk of a large directory.
const CHUNK_MAX: usize = 256;
const ID_BITS: u32 = 48;
const ID_MASK: u64 = (1 << ID_BITS) - 1;
/// Names of one fingerprint that are looked at before a look-up searches by name: honest ones in a chunk are one or two,
/// whoever makes names can make all of them alike.
const ALIKE_MAX: usize = 4;

/// An inode id with 16 bits of its name's hash above it: looking a name up scans these and then looks at one
/// inode, where a binary search would look at eight or more, each a handful of cache misses.
pub(crate) fn entry(id: u64, name: &[u8]) -> u64 {
    fingerprint(name) | id & ID_MASK
}

/// The id of an [`entry`].
pub(crate) const fn id_of(entry: u64) -> u64 {
    entry & ID_MASK
}

/// A hash in the bits above an id: eight bytes of the name at a time, the last eight of a longer name together. It is of
/// this process only, nothing is written with it.
fn fingerprint(name: &[u8]) -> u64 {
    const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;
    // A product carries upwards only, so what is above comes down before the next one.
    let mix = |hash: u64, word: u64| {
        let hash = (hash ^ word).wrapping_mul(FACTOR);
        hash ^ hash >> 32
    };
    let (words, _) = name.as_chunks::<8>();
    let last = name.last_chunk::<8>().map_or_else(
        || {
            let bytes = name.iter();
            bytes.fold(0, |word, byte| word << 8 | u64::from(*byte))
        },
        |last| u64::from_le_bytes(*last),
    );
    let words = words.iter().map(|word| u64::from_le_bytes(*word));
    let hash = words.chain([last]).fold(name.len() as u64, mix);
    hash.wrapping_mul(FACTOR) & !ID_MASK
}

/// Entries sorted by name. Small directories are one vector; large ones a vector of shared chunks, so that an
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
    pub(crate) fn one(id: u64, name: &[u8]) -> Self {
        let mut ids = Vec::with_capacity(2);
        ids.push(entry(id, name));
        Self::Few(ids)
    }

    /// Takes [`entry`]s that are sorted by name already (image load).
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

    /// The chunk in which `name` stands or would stand.
    fn chunk_of<'a>(&self, name: &[u8], name_of: &impl Fn(u64) -> &'a [u8]) -> usize {
        let Self::Many { chunks, .. } = self else {
            return 0;
        };
        let first = |chunk: &Arc<Vec<u64>>| name_of(chunk[0] & ID_MASK);
        let last = chunks.len() - 1;
        if first(&chunks[last]) <= name {
            return last;
        }
        chunks[..last]
            .partition_point(|chunk| first(chunk) <= name)
            .saturating_sub(1)
    }

    /// The id of the entry of that name.
    pub(crate) fn get<'a>(&self, name: &[u8], name_of: impl Fn(u64) -> &'a [u8]) -> Option<u64> {
        let wanted = fingerprint(name);
        let entries = self.chunk(self.chunk_of(name, &name_of)).iter();
        let mut alike = entries
            .filter(|entry| **entry & !ID_MASK == wanted)
            .map(|entry| entry & ID_MASK);
        let found = alike
            .by_ref()
            .take(ALIKE_MAX)
            .find(|id| name_of(*id) == name);
        if found.is_some() || alike.next().is_none() {
            return found;
        }
        self.find(name, name_of).ok().map(|(_, id)| id)
    }

    /// Looks for `name`: `Ok` is the place of the entry, `Err` the place where it would stand. `name_of`
    /// tells the name of an entry.
    pub(crate) fn find<'a>(
        &self,
        name: &[u8],
        name_of: impl Fn(u64) -> &'a [u8],
    ) -> Result<(Place, u64), Place> {
        let chunk = self.chunk_of(name, &name_of);
        let ids = self.chunk(chunk);
        // Names mostly come in order.
        if ids.last().is_some_and(|id| name_of(id & ID_MASK) < name) {
            return Err(Place {
                chunk,
                at: ids.len(),
            });
        }
        match ids.binary_search_by(|id| name_of(id & ID_MASK).cmp(name)) {
            Ok(at) => Ok((Place { chunk, at }, ids[at] & ID_MASK)),
            Err(at) => Err(Place { chunk, at }),
        }
    }

    /// Puts `id` at a place [`Self::find`] gave as free.
    pub(crate) fn insert(&mut self, place: Place, id: u64, name: &[u8]) {
        let id = entry(id, name);
        match self {
            Self::Few(ids) => {
                make_room(ids);
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
                make_room(ids);
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
                id & ID_MASK
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
                id & ID_MASK
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
                .map(|entry| entry & ID_MASK)
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
        match self {
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

/// Room for one more entry: a quarter more instead of doubling, since entries are a seventh of the tree's memory.
fn make_room(ids: &mut Vec<u64>) {
    if ids.len() == ids.capacity() {
        ids.reserve_exact((ids.len() / 4).clamp(2, 32));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fingerprints_of_like_names_differ() {
        for width in [1, 5, 8, 11, 16, 40] {
            let names = (0..4_096u64)
                .map(|n| alloc::format!("{:0width$}", n % 10u64.pow(width.min(9) as u32)));
            let names: alloc::collections::BTreeSet<String> = names.collect();
            let prints: alloc::collections::BTreeSet<u64> = names
                .iter()
                .map(|name| fingerprint(name.as_bytes()))
                .collect();
            // Of 4 096 random ones among 65 536 about 4 000 differ.
            assert!(
                prints.len() * 100 >= names.len() * 95,
                "{} of {}",
                prints.len(),
                names.len()
            );
            assert!(prints.iter().all(|print| print & ID_MASK == 0));
        }
    }
    use alloc::collections::BTreeMap;
    use alloc::string::String;

    /// Names made to have one fingerprint are all found, and none of them by a look at all the others.
    #[test]
    fn names_of_one_fingerprint_are_found_by_a_search() {
        let mut names: Vec<[u8; 4]> = (0..3_000_000u32)
            .map(u32::to_be_bytes)
            .filter(|name| fingerprint(name) == fingerprint(b"name"))
            .collect();
        let missing = names.remove(names.len() / 2);
        assert!((32..CHUNK_MAX).contains(&names.len()));
        let entries = (0u64..).zip(&names);
        let entries = entries.map(|(id, name)| entry(id, name));
        let children = Children::from_sorted(entries.collect());
        let looks = core::cell::Cell::new(0);
        let name_of = |id: u64| {
            looks.set(looks.get() + 1);
            &names[id as usize][..]
        };
        let look_up = |name: &[u8]| {
            looks.set(0);
            let found = children.get(name, name_of);
            // The greatest name, the ones looked at first, and the halvings of a chunk.
            assert!(looks.get() <= ALIKE_MAX + 11, "{} looks", looks.get());
            found
        };
        for (id, name) in (0u64..).zip(&names) {
            assert_eq!(look_up(name), Some(id));
        }
        assert_eq!(look_up(&missing), None);
    }

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
                None => children = Some(Children::one(id, name.as_bytes())),
                Some(children) => {
                    let place = children.find(name.as_bytes(), name_of).unwrap_err();
                    assert_eq!(
                        children.before(place),
                        model.range(..name.as_bytes()).count()
                    );
                    children.insert(place, id, name.as_bytes());
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
            assert_eq!(children.get(name.as_bytes(), name_of), Some(id));
            assert_eq!(children.remove(place), id);
            model.remove(name.as_bytes());
            assert_eq!(children.get(name.as_bytes(), name_of), None);
        }
        check(&children, &model);
        assert!(matches!(children, Some(Children::Few(_))));
    }

    #[test]
    fn ascending_names_fill_their_chunks() {
        let names: Vec<String> = (0..10_000u64).map(|id| alloc::format!("{id:06}")).collect();
        let name_of = |id: u64| names[id as usize].as_bytes();
        let mut children = Children::one(0, names[0].as_bytes());
        for (id, name) in (0u64..).zip(&names).skip(1) {
            let place = children.find(name.as_bytes(), name_of).unwrap_err();
            children.insert(place, id, name.as_bytes());
        }
        let Children::Many { chunks, .. } = &children else {
            panic!("large directories are chunked");
        };
        assert!(
            chunks.len() <= 10_000 / CHUNK_MAX + 2,
            "{} chunks",
            chunks.len()
        );
        let sorted = Children::from_sorted((0..10_000).map(|id| entry(id, name_of(id))).collect());
        assert!(sorted.iter().eq(children.iter()));
    }
}
