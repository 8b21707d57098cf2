//! A sparse array by id with copy-on-write pages: cloning it is a point-in-time view.
//!
//! Three levels of shared nodes over pages of [`PAGE_IDS`] ids. A clone copies a handful of pointers; a
//! later write copies only the nodes on its path, once per view (protocols.md section 3: a checkpoint reads
//! a view that never stops the writer).

use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;

/// Ids per page.
pub(crate) const PAGE_IDS: u64 = 64;
const PAGE_BITS: u32 = 6;
const MID_BITS: u32 = 8;
const TOP_BITS: u32 = 9;
const MID_LEN: usize = 1 << MID_BITS;
const TOP_LEN: usize = 1 << TOP_BITS;

/// A page: [`PAGE_IDS`] optional values.
pub(crate) trait Page: Clone + Default {
    /// Holds nothing and can be dropped.
    fn is_empty(&self) -> bool;
}

#[derive(Clone)]
struct Mid<P> {
    pages: [Option<Arc<P>>; MID_LEN],
    used: usize,
}

#[derive(Clone)]
struct Top<P> {
    mids: [Option<Arc<Mid<P>>>; TOP_LEN],
    used: usize,
}

/// The array.
pub(crate) struct Radix<P> {
    tops: BTreeMap<u64, Arc<Top<P>>>,
}

impl<P> Clone for Radix<P> {
    fn clone(&self) -> Self {
        Self {
            tops: self.tops.clone(),
        }
    }
}

impl<P> Default for Radix<P> {
    fn default() -> Self {
        Self {
            tops: BTreeMap::new(),
        }
    }
}

const fn split(id: u64) -> (u64, usize, usize) {
    let page = id >> PAGE_BITS;
    (
        page >> (MID_BITS + TOP_BITS),
        (page >> MID_BITS) as usize & (TOP_LEN - 1),
        page as usize & (MID_LEN - 1),
    )
}

impl<P: Page> Radix<P> {
    /// The page that holds `id`.
    pub(crate) fn page(&self, id: u64) -> Option<&P> {
        let (top, mid, page) = split(id);
        self.tops.get(&top)?.mids[mid].as_ref()?.pages[page].as_deref()
    }

    /// The page that holds `id`, to change; never creates one.
    pub(crate) fn page_mut(&mut self, id: u64) -> Option<&mut P> {
        let (top, mid, page) = split(id);
        let top = Arc::make_mut(self.tops.get_mut(&top)?);
        let mid = Arc::make_mut(top.mids[mid].as_mut()?);
        mid.pages[page].as_mut().map(Arc::make_mut)
    }

    /// The page that holds `id`, created when missing.
    pub(crate) fn page_or_default(&mut self, id: u64) -> &mut P {
        Arc::make_mut(self.place(id).get_or_insert_with(|| Arc::new(P::default())))
    }

    /// Puts a whole page at the place of `id`, where none is.
    pub(crate) fn set_page(&mut self, id: u64, page: Arc<P>) {
        *self.place(id) = Some(page);
    }

    /// The place of the page that holds `id`, where one will be.
    fn place(&mut self, id: u64) -> &mut Option<Arc<P>> {
        let (top, mid, page) = split(id);
        let top = Arc::make_mut(self.tops.entry(top).or_insert_with(|| {
            Arc::new(Top {
                mids: [const { None }; TOP_LEN],
                used: 0,
            })
        }));
        if top.mids[mid].is_none() {
            top.used += 1;
        }
        let mid = Arc::make_mut(top.mids[mid].get_or_insert_with(|| {
            Arc::new(Mid {
                pages: [const { None }; MID_LEN],
                used: 0,
            })
        }));
        if mid.pages[page].is_none() {
            mid.used += 1;
        }
        &mut mid.pages[page]
    }

    /// Gives back the page of `id` (and the nodes above it) when it has become empty.
    pub(crate) fn prune(&mut self, id: u64) {
        if !self.page(id).is_some_and(Page::is_empty) {
            return;
        }
        let (top_at, mid_at, page_at) = split(id);
        let Some(top) = self.tops.get_mut(&top_at) else {
            return;
        };
        let top = Arc::make_mut(top);
        let Some(mid) = top.mids[mid_at].as_mut() else {
            return;
        };
        let mid = Arc::make_mut(mid);
        mid.pages[page_at] = None;
        mid.used -= 1;
        if mid.used == 0 {
            top.mids[mid_at] = None;
            top.used -= 1;
        }
        if top.used == 0 {
            self.tops.remove(&top_at);
        }
    }

    /// The first page that holds an id of at least `id` (or contains `id`), with its first id.
    pub(crate) fn next_page(&self, id: u64) -> Option<(u64, &P)> {
        let (first_top, first_mid, first_page) = split(id);
        for (&top_at, top) in self.tops.range(first_top..) {
            let mid_from = if top_at == first_top { first_mid } else { 0 };
            for mid_at in mid_from..TOP_LEN {
                let Some(mid) = &top.mids[mid_at] else {
                    continue;
                };
                let page_from = if top_at == first_top && mid_at == first_mid {
                    first_page
                } else {
                    0
                };
                for page_at in page_from..MID_LEN {
                    if let Some(page) = &mid.pages[page_at] {
                        let number =
                            (((top_at << TOP_BITS) | mid_at as u64) << MID_BITS) | page_at as u64;
                        return Some((number << PAGE_BITS, page));
                    }
                }
            }
        }
        None
    }
}

/// A page of plain values: a bit per id and the values that are there, in order.
#[derive(Clone)]
pub(crate) struct Sparse<T> {
    present: u64,
    values: Vec<T>,
}

impl<T> Default for Sparse<T> {
    fn default() -> Self {
        Self {
            present: 0,
            values: Vec::new(),
        }
    }
}

impl<T: Clone> Page for Sparse<T> {
    fn is_empty(&self) -> bool {
        self.present == 0
    }
}

/// Where the value of `slot` stands among the present ones.
pub(crate) const fn rank(present: u64, slot: u32) -> usize {
    (present & ((1 << slot) - 1)).count_ones() as usize
}

/// The slot of an id in its page.
pub(crate) const fn slot(id: u64) -> u32 {
    (id % PAGE_IDS) as u32
}

impl<T: Clone> Radix<Sparse<T>> {
    /// The value of `id`.
    pub(crate) fn get(&self, id: u64) -> Option<&T> {
        let page = self.page(id)?;
        let slot = slot(id);
        (page.present >> slot & 1 == 1).then(|| &page.values[rank(page.present, slot)])
    }

    /// Sets the value of `id`, returning the one before.
    pub(crate) fn insert(&mut self, id: u64, value: T) -> Option<T> {
        let page = self.page_or_default(id);
        let slot = slot(id);
        let at = rank(page.present, slot);
        if page.present >> slot & 1 == 1 {
            return Some(core::mem::replace(&mut page.values[at], value));
        }
        page.present |= 1 << slot;
        page.values.insert(at, value);
        None
    }

    /// Removes the value of `id`.
    pub(crate) fn remove(&mut self, id: u64) -> Option<T> {
        let slot = slot(id);
        if self.page(id)?.present >> slot & 1 == 0 {
            return None;
        }
        let page = self.page_mut(id)?;
        let value = page.values.remove(rank(page.present, slot));
        page.present &= !(1 << slot);
        self.prune(id);
        Some(value)
    }

    /// All ids and values from `id` on, in order.
    pub(crate) fn range(&self, id: u64) -> impl Iterator<Item = (u64, &T)> {
        let mut next = Some(id);
        core::iter::from_fn(move || {
            loop {
                let from = next?;
                let Some((base, page)) = self.next_page(from) else {
                    next = None;
                    return None;
                };
                let first = from.saturating_sub(base);
                let rest = if first >= PAGE_IDS {
                    0
                } else {
                    page.present >> first << first
                };
                if rest == 0 {
                    next = base.checked_add(PAGE_IDS);
                    continue;
                }
                let slot = rest.trailing_zeros();
                let id = base + u64::from(slot);
                next = id.checked_add(1);
                return Some((id, &page.values[rank(page.present, slot)]));
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn behaves_like_a_map_and_a_clone_does_not_change() {
        let mut model = BTreeMap::new();
        let mut radix: Radix<Sparse<u64>> = Radix::default();
        let mut seed = 7u64;
        let mut views = Vec::new();
        for round in 0..20_000u64 {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let id = match seed >> 60 {
                0..8 => (seed >> 20) % 5_000,
                8..15 => (seed >> 20) % (1 << 30),
                _ => (seed >> 20) % (1 << 40),
            };
            if seed >> 33 & 3 == 0 {
                assert_eq!(radix.remove(id), model.remove(&id));
            } else {
                assert_eq!(radix.insert(id, round), model.insert(id, round));
            }
            if round % 4_000 == 0 {
                views.push((radix.clone(), model.clone()));
            }
        }
        views.push((radix, model));
        for (radix, model) in &views {
            assert!(
                radix
                    .range(0)
                    .eq(model.iter().map(|(id, value)| (*id, value)))
            );
            assert!(
                radix
                    .range(4_321)
                    .eq(model.range(4_321..).map(|(id, value)| (*id, value)))
            );
        }
    }

    #[test]
    fn empty_pages_are_given_back() {
        let mut radix: Radix<Sparse<u8>> = Radix::default();
        radix.insert(1 << 40, 1);
        radix.insert(3, 1);
        radix.remove(1 << 40);
        radix.remove(3);
        assert!(radix.tops.is_empty());
    }
}
