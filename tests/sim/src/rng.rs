//! Seeded randomness: one independent stream per purpose.

/// What a stream of random numbers is for. Streams are independent, so that one more draw for the
/// network does not change what the disk does under the same seed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stream {
    /// Which ready task runs next.
    Schedule,
    /// Delays and failures of messages.
    Network,
    /// Latencies of disk operations and what a crash leaves.
    Disk,
    /// What clients do.
    Workload,
    /// When which fault strikes.
    Faults,
    /// What [`hadal_env::Random`] hands to the code under test.
    Env,
    /// Clock bases and rates.
    Clock,
}

impl Stream {
    const fn salt(self) -> u64 {
        match self {
            Self::Schedule => 0x5343_4845_4455_4c45,
            Self::Network => 0x4e45_5457_4f52_4b21,
            Self::Disk => 0x4449_534b_2144_4953,
            Self::Workload => 0x574f_524b_4c4f_4144,
            Self::Faults => 0x4641_554c_5453_2121,
            Self::Env => 0x454e_5645_4e56_2121,
            Self::Clock => 0x434c_4f43_4b43_4c4f,
        }
    }
}

/// A small, fast, seeded generator (splitmix64). Not for secrets.
#[derive(Clone, Debug)]
pub struct Rng {
    state: u64,
}

/// Mixes 64 bits so that close inputs give unrelated outputs.
pub(crate) const fn scramble(value: u64) -> u64 {
    let mut z = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

impl Rng {
    /// The stream for `purpose` number `index` (node, disk, client) under `seed`.
    #[must_use]
    pub const fn new(seed: u64, purpose: Stream, index: u64) -> Self {
        Self {
            state: scramble(scramble(seed ^ purpose.salt()) ^ scramble(index.wrapping_add(1))),
        }
    }

    /// Sixty-four random bits.
    #[inline]
    pub fn next_u64(&mut self) -> u64 {
        let out = scramble(self.state);
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        out
    }

    /// A number in `0..bound`; 0 when `bound` is 0.
    #[inline]
    pub fn below(&mut self, bound: u64) -> u64 {
        ((u128::from(self.next_u64()) * u128::from(bound)) >> 64) as u64
    }

    /// A number in `low..=high`.
    ///
    /// # Panics
    /// When `low > high`.
    #[inline]
    pub fn range(&mut self, low: u64, high: u64) -> u64 {
        assert!(low <= high, "empty range {low}..={high}");
        low + self.below((high - low).saturating_add(1))
    }

    /// True `numerator` times in `denominator`.
    #[inline]
    pub fn chance(&mut self, numerator: u64, denominator: u64) -> bool {
        self.below(denominator) < numerator
    }

    /// One of the items; `None` when there are none.
    pub fn pick<'a, T>(&mut self, items: &'a [T]) -> Option<&'a T> {
        if items.is_empty() {
            None
        } else {
            items.get(self.below(items.len() as u64) as usize)
        }
    }

    /// Brings the items into random order.
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            let other = self.below(last as u64 + 1) as usize;
            items.swap(last, other);
        }
    }

    /// An independent generator drawn from this one.
    #[must_use]
    pub fn fork(&mut self) -> Self {
        Self {
            state: self.next_u64(),
        }
    }
}
