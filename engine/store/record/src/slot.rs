//! One slot as bytes, and the decision over two of them.

use crate::checksum::{crc32c, crc32c_append};

/// Bytes of a slot: one block of direct I/O.
pub const SLOT_LEN: usize = hadal_env::ALIGN;
/// Bytes before the payload.
const HEAD_LEN: usize = 40;
/// Largest payload of a record, in bytes.
pub const PAYLOAD_MAX: usize = SLOT_LEN - HEAD_LEN;

const MAGIC: [u8; 8] = *b"HADALREC";
const LAYOUT: u32 = 1;

/// A readable slot.
///
/// On disk, little-endian, [`SLOT_LEN`] bytes:
///
/// | offset | field |
/// |---|---|
/// | 0 | magic `HADALREC` |
/// | 8 | layout u32 = 1 |
/// | 12 | CRC32C u32 over the whole slot except these four bytes |
/// | 16 | sequence u64: 0 = created and never stored, then 1, 2, ... |
/// | 24 | CRC32C u32 of the file name: a slot that strayed in from another record is not believed |
/// | 28 | index u32 of the slot in its file: nor one from the other slot's place |
/// | 32 | payload length u32 |
/// | 36 | zero u32 |
/// | 40 | payload, then zeros |
///
/// The checksum stands early and covers the padding too, so that no bit of the block can change unnoticed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Slot {
    pub(crate) sequence: u64,
    pub(crate) payload: Vec<u8>,
}

fn slot_crc(bytes: &[u8]) -> u32 {
    crc32c_append(crc32c(&bytes[..12]), &bytes[16..SLOT_LEN])
}

impl Slot {
    /// Writes the slot into the first [`SLOT_LEN`] bytes of `out`.
    pub(crate) fn encode(&self, name_crc: u32, index: u32, out: &mut [u8]) {
        assert!(
            self.payload.len() <= PAYLOAD_MAX,
            "payload was checked against the cap"
        );
        let out = &mut out[..SLOT_LEN];
        out.fill(0);
        out[..8].copy_from_slice(&MAGIC);
        out[8..12].copy_from_slice(&LAYOUT.to_le_bytes());
        out[16..24].copy_from_slice(&self.sequence.to_le_bytes());
        out[24..28].copy_from_slice(&name_crc.to_le_bytes());
        out[28..32].copy_from_slice(&index.to_le_bytes());
        let length = u32::try_from(self.payload.len()).expect("capped");
        out[32..36].copy_from_slice(&length.to_le_bytes());
        out[HEAD_LEN..HEAD_LEN + self.payload.len()].copy_from_slice(&self.payload);
        let crc = slot_crc(out);
        out[12..16].copy_from_slice(&crc.to_le_bytes());
    }

    /// Reads a slot; `None` when it is anything but a whole slot of this file and place.
    pub(crate) fn decode(bytes: &[u8], name_crc: u32, index: u32) -> Option<Self> {
        let bytes = bytes.get(..SLOT_LEN)?;
        let u32_at =
            |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"));
        if bytes[..8] != MAGIC || u32_at(12) != slot_crc(bytes) || u32_at(8) != LAYOUT {
            return None;
        }
        if u32_at(24) != name_crc || u32_at(28) != index {
            return None;
        }
        let length = u32_at(32) as usize;
        let payload = bytes.get(HEAD_LEN..HEAD_LEN + length)?.to_vec();
        Some(Self {
            sequence: u64::from_le_bytes(bytes[16..24].try_into().expect("eight bytes")),
            payload,
        })
    }
}

/// What the two slots look like, the whole input of the decision.
///
/// Field order is the order of writing: slot A is written and durable before slot B is touched, and a store is
/// acknowledged only when both carry it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Pair {
    /// Slot A verifies.
    pub a_good: bool,
    /// Slot B verifies.
    pub b_good: bool,
    /// Order of A's sequence against B's; meaningful when both are good.
    pub order: core::cmp::Ordering,
    /// The payloads are equal; meaningful when both are good.
    pub same: bool,
}

/// Which slot to believe.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Take {
    /// Slot A; slot B is rewritten from it before the content is handed out, unless they agree.
    A,
    /// Slot B; slot A is rewritten from it before the content is handed out.
    B,
    /// Neither.
    Nothing,
}

/// How the two slots came to look that way.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Why {
    /// The last store was completed.
    Settled,
    /// Crash after A was durable and before B was: not acknowledged, and handed out only once B has it too.
    StoreCutShort,
    /// Crash while A was written (B holds the version before, A's was never acknowledged), or A rotted (B holds the
    /// same version: a store that ended, or an open that handed it out, left both alike).
    AUnreadable,
    /// Crash while B was written, or B rotted; A has the newest version in both cases.
    BUnreadable,
    /// The disk lost a write to A that it had called durable; B was written after it and has the newest.
    ALost,
    /// Two versions claim one sequence: no order of writes and crashes leads here.
    Conflict,
    /// Both slots are damaged. Whatever was promised here is lost, which is not the same as "nothing was promised".
    BothUnreadable,
}

/// What to do with a [`Pair`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Decision {
    /// Which slot to believe.
    pub take: Take,
    /// The other slot must be rewritten first.
    pub heal: bool,
    /// How it came about.
    pub why: Why,
}

/// One row of the table: a field that is `None` matches anything.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    a_good: bool,
    b_good: bool,
    order: Option<core::cmp::Ordering>,
    same: Option<bool>,
    decision: Decision,
}

impl Row {
    /// The input belongs to this row.
    #[must_use]
    pub fn matches(&self, pair: &Pair) -> bool {
        self.a_good == pair.a_good
            && self.b_good == pair.b_good
            && self.order.is_none_or(|order| order == pair.order)
            && self.same.is_none_or(|same| same == pair.same)
    }
}

const fn row(
    a_good: bool,
    b_good: bool,
    order: Option<core::cmp::Ordering>,
    same: Option<bool>,
    take: Take,
    heal: bool,
    why: Why,
) -> Row {
    Row {
        a_good,
        b_good,
        order,
        same,
        decision: Decision { take, heal, why },
    }
}

/// The decision table. Every [`Pair`] matches exactly one row (tested over all of them).
///
/// Why one readable slot is always enough: before a store is acknowledged, and before an open hands out what it
/// found, both slots carry that version. So a single damaged slot never was the only holder of anything that
/// anybody has seen, and a torn, unacknowledged write damages only the slot being written, while the other holds
/// the last acknowledged version (A being written) or the new one (B being written).
pub const RECOVERY: [Row; 7] = {
    use core::cmp::Ordering::{Equal, Greater, Less};
    [
        row(
            true,
            true,
            Some(Equal),
            Some(true),
            Take::A,
            false,
            Why::Settled,
        ),
        row(
            true,
            true,
            Some(Equal),
            Some(false),
            Take::Nothing,
            false,
            Why::Conflict,
        ),
        row(
            true,
            true,
            Some(Greater),
            None,
            Take::A,
            true,
            Why::StoreCutShort,
        ),
        row(true, true, Some(Less), None, Take::B, true, Why::ALost),
        row(true, false, None, None, Take::A, true, Why::BUnreadable),
        row(false, true, None, None, Take::B, true, Why::AUnreadable),
        row(
            false,
            false,
            None,
            None,
            Take::Nothing,
            false,
            Why::BothUnreadable,
        ),
    ]
};

impl Pair {
    pub(crate) fn of(a: Option<&Slot>, b: Option<&Slot>) -> Self {
        let order = match (a, b) {
            (Some(a), Some(b)) => a.sequence.cmp(&b.sequence),
            _ => core::cmp::Ordering::Equal,
        };
        let same = matches!((a, b), (Some(a), Some(b)) if a.payload == b.payload);
        Self {
            a_good: a.is_some(),
            b_good: b.is_some(),
            order,
            same,
        }
    }

    /// The decision of the one row this matches.
    ///
    /// # Panics
    /// When no row matches: the table is not total.
    #[must_use]
    pub fn decide(&self) -> Decision {
        RECOVERY
            .iter()
            .find(|row| row.matches(self))
            .expect("the recovery table covers every pair")
            .decision
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::cmp::Ordering;

    /// X7: every input matches exactly one row, and every row is reached.
    #[test]
    fn x7_every_pair_matches_exactly_one_row() {
        let mut reached = [false; RECOVERY.len()];
        for bits in 0..24u32 {
            let order = [Ordering::Less, Ordering::Equal, Ordering::Greater][bits as usize / 8];
            let pair = Pair {
                a_good: bits & 1 != 0,
                b_good: bits & 2 != 0,
                order,
                same: bits & 4 != 0,
            };
            let rows: Vec<_> = RECOVERY
                .iter()
                .enumerate()
                .filter(|(_, row)| row.matches(&pair))
                .collect();
            assert_eq!(rows.len(), 1, "{pair:?} matches {rows:?}");
            reached[rows[0].0] = true;
            let decision = pair.decide();
            match decision.take {
                Take::A => assert!(pair.a_good),
                Take::B => assert!(pair.b_good),
                Take::Nothing => assert!(!decision.heal && (pair.a_good == pair.b_good)),
            }
        }
        assert!(reached.iter().all(|r| *r), "unreachable row: {reached:?}");
    }

    #[test]
    fn slot_is_bound_to_file_and_place() {
        let slot = Slot {
            sequence: 7,
            payload: b"promise".to_vec(),
        };
        let mut bytes = vec![0xff; SLOT_LEN];
        slot.encode(11, 0, &mut bytes);
        assert_eq!(Slot::decode(&bytes, 11, 0), Some(slot));
        assert_eq!(Slot::decode(&bytes, 12, 0), None, "another file's slot");
        assert_eq!(Slot::decode(&bytes, 11, 1), None, "the other place's slot");
        assert_eq!(
            Slot::decode(&bytes[..SLOT_LEN - 1], 11, 0),
            None,
            "cut short"
        );
    }

    /// C4: a length that lies, under a checksum that matches, is refused.
    #[test]
    fn c4_a_sealed_length_that_lies_is_refused() {
        let slot = Slot {
            sequence: 3,
            payload: vec![7; 100],
        };
        for length in [0, 99, PAYLOAD_MAX + 1, SLOT_LEN, u32::MAX as usize] {
            let mut bytes = vec![0; SLOT_LEN];
            slot.encode(11, 0, &mut bytes);
            bytes[32..36].copy_from_slice(&(length as u32).to_le_bytes());
            let crc = slot_crc(&bytes);
            bytes[12..16].copy_from_slice(&crc.to_le_bytes());
            let read = Slot::decode(&bytes, 11, 0).map(|slot| slot.payload.len());
            assert_eq!(read, (length <= PAYLOAD_MAX).then_some(length));
        }
    }
}
