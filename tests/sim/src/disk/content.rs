//! Bytes of a file as sparse shared pages, and writes as lists of pieces of pages.

use std::collections::BTreeMap;
use std::fmt;
use std::rc::Rc;

/// Bytes of a page.
pub(crate) const PAGE: usize = 4096;

/// Bytes the medium writes atomically.
pub(crate) const SECTOR: usize = 512;

/// Part of a write that falls into one page. Full pages are shared with the contents they are applied to.
#[derive(Clone, Debug)]
struct Piece {
    page: u64,
    from: usize,
    data: Rc<[u8]>,
}

/// One write of a file.
#[derive(Clone)]
pub(crate) struct WriteOp {
    pub(crate) offset: u64,
    pub(crate) length: u64,
    pieces: Vec<Piece>,
}

impl fmt::Debug for WriteOp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}+{}", self.offset, self.length)
    }
}

impl WriteOp {
    pub(crate) fn new(offset: u64, data: &[u8]) -> Self {
        let mut pieces = Vec::with_capacity(data.len() / PAGE + 2);
        let (mut at, mut rest) = (offset, data);
        while !rest.is_empty() {
            let from = (at % PAGE as u64) as usize;
            let (now, later) = rest.split_at(rest.len().min(PAGE - from));
            pieces.push(Piece {
                page: at / PAGE as u64,
                from,
                data: shared(now),
            });
            at += now.len() as u64;
            rest = later;
        }
        Self {
            offset,
            length: data.len() as u64,
            pieces,
        }
    }

    pub(crate) fn end(&self) -> u64 {
        self.offset + self.length
    }

    pub(crate) fn overlaps(&self, other: &Self) -> bool {
        self.offset < other.end() && other.offset < self.end()
    }

    /// The same bytes, somewhere else by whole pages.
    pub(crate) fn moved_by_pages(&self, pages: u64) -> Self {
        let mut moved = self.clone();
        moved.offset += pages * PAGE as u64;
        for piece in &mut moved.pieces {
            piece.page += pages;
        }
        moved
    }

    /// What is left when of each aligned unit of `unit` bytes only those are written that `keep` says.
    pub(crate) fn torn(&self, unit: usize, mut keep: impl FnMut() -> bool) -> Vec<Self> {
        let mut parts = Vec::new();
        for piece in &self.pieces {
            let mut from = piece.from;
            let end = piece.from + piece.data.len();
            while from < end {
                let to = ((from / unit + 1) * unit).min(end);
                if keep() {
                    let data = &piece.data[from - piece.from..to - piece.from];
                    parts.push(Self::new(piece.page * PAGE as u64 + from as u64, data));
                }
                from = to;
            }
        }
        parts
    }
}

/// The bytes of a file. Pages that were never written read as zero.
#[derive(Clone, Default, Debug)]
pub(crate) struct Content {
    length: u64,
    pages: BTreeMap<u64, Rc<[u8]>>,
    version: u64,
}

/// The bytes as a piece. Whole pages of zeros, of which preallocation makes many, are one and the same.
fn shared(bytes: &[u8]) -> Rc<[u8]> {
    let is_zero = bytes.len() == PAGE
        && bytes
            .chunks(256)
            .all(|part| part.iter().fold(0, |all, byte| all | byte) == 0);
    if is_zero {
        zero_page()
    } else {
        Rc::from(bytes)
    }
}

fn zero_page() -> Rc<[u8]> {
    thread_local! {
        static ZERO: Rc<[u8]> = Rc::from(vec![0; PAGE]);
    }
    ZERO.with(Rc::clone)
}

impl Content {
    pub(crate) fn length(&self) -> u64 {
        self.length
    }

    /// Where the hole at the end begins: what was allocated and never written.
    pub(crate) fn written_end(&self) -> u64 {
        let last = self.pages.keys().next_back();
        last.map_or(0, |last| ((last + 1) * PAGE as u64).min(self.length))
    }

    /// Counts changes.
    pub(crate) fn version(&self) -> u64 {
        self.version
    }

    pub(crate) fn apply(&mut self, write: &WriteOp) {
        self.version += 1;
        for piece in &write.pieces {
            if piece.data.len() == PAGE {
                self.pages.insert(piece.page, Rc::clone(&piece.data));
            } else {
                let page = self.pages.entry(piece.page).or_insert_with(zero_page);
                Rc::make_mut(page)[piece.from..piece.from + piece.data.len()]
                    .copy_from_slice(&piece.data);
            }
        }
        if write.length > 0 {
            self.length = self.length.max(write.end());
        }
    }

    pub(crate) fn set_length(&mut self, length: u64) {
        self.version += 1;
        if length < self.length {
            let keep = length.div_ceil(PAGE as u64);
            self.pages.split_off(&keep);
            let tail = (length % PAGE as u64) as usize;
            if tail > 0
                && let Some(page) = self.pages.get_mut(&(length / PAGE as u64))
            {
                Rc::make_mut(page)[tail..].fill(0);
            }
        }
        self.length = length;
    }

    pub(crate) fn extend_to(&mut self, length: u64) {
        self.version += 1;
        self.length = self.length.max(length);
    }

    /// All of it.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut bytes = vec![0; self.length() as usize];
        self.read(0, &mut bytes);
        bytes
    }

    /// Fills `out` from `offset`; how many bytes there were.
    pub(crate) fn read(&self, offset: u64, out: &mut [u8]) -> usize {
        let count = self.length.saturating_sub(offset).min(out.len() as u64) as usize;
        let (mut at, mut rest) = (offset, &mut out[..count]);
        while !rest.is_empty() {
            let from = (at % PAGE as u64) as usize;
            let length = rest.len().min(PAGE - from);
            let (now, later) = rest.split_at_mut(length);
            match self.pages.get(&(at / PAGE as u64)) {
                Some(page) => now.copy_from_slice(&page[from..from + length]),
                None => now.fill(0),
            }
            at += length as u64;
            rest = later;
        }
        count
    }

    /// Turns one bit; false when the file is shorter.
    pub(crate) fn flip(&mut self, bit: u64) -> bool {
        let byte = bit / 8;
        if byte >= self.length {
            return false;
        }
        self.version += 1;
        let page = self
            .pages
            .entry(byte / PAGE as u64)
            .or_insert_with(zero_page);
        Rc::make_mut(page)[(byte % PAGE as u64) as usize] ^= 1 << (bit % 8);
        true
    }
}
