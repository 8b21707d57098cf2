//! The small durable record beside the segments.

use alloc::string::String;
use alloc::vec::Vec;
use hadal_proto::qjournal::{CommitMark, Incarnation, LogDigest, PeerCount};
use hadal_proto::wire_struct;
use hadal_types::{Epoch, NamespaceInfo, TxId};

/// Most accepted recoveries remembered. More than one un-finalised segment is rare, and each entry goes when its
/// segment is finalised, started anew or purged.
pub(super) const ACCEPTED_CAP: usize = 16;
/// Most peers whose counts are remembered.
pub(super) const KNOWN_CAP: usize = 16;

wire_struct! {
    /// Everything a JournalNode must not forget besides its segments. Stored whole, in one atomic record, with the
    /// encoding of `hadal_proto::codec`: fields in order, little-endian.
    ///
    /// One record and not several, so that no crash can leave a new promise beside an old acceptance. It is written
    /// before the answer that depends on it leaves; before a segment is started anew and after a recovered
    /// one is in place, so that an acceptance never speaks for content that is not there.
    #[derive(Default, Hash)]
    pub struct AcceptorRecord {
        /// Whose journal; `None`: unformatted (also while a format is under way).
        pub info: Option<NamespaceInfo>,
        /// Identity, made at format: a wiped node has another.
        pub uuid: u128,
        /// Rises at start, before each promise and segment start, and every second while acknowledging.
        pub count: u64,
        /// It may have forgotten promises.
        pub learner: bool,
        /// Highest epoch promised.
        pub promised: Epoch,
        /// The claim it was promised to.
        pub promised_to: u64,
        /// Epoch of the last segment started.
        pub writer: Epoch,
        /// Highest commit mark heard of when the record was last written.
        pub mark: CommitMark,
        /// Recoveries accepted for segments that are not finalised, by first txid.
        pub accepted: Vec<Accepted>,
        /// Newest incarnations of peers, by name.
        pub known: Vec<PeerCount>,
    }
}

wire_struct! {
    /// "In `epoch` I made my segment at `first` end at `last` with this digest."
    #[derive(Hash)]
    pub struct Accepted {
        /// First txid of the segment.
        pub first: TxId,
        /// Epoch of the recovery.
        pub epoch: Epoch,
        /// Where the content ends.
        pub last: TxId,
        /// Running digest there.
        pub digest: LogDigest,
    }
}

impl AcceptorRecord {
    /// Which life speaks.
    #[must_use]
    pub fn incarnation(&self) -> Incarnation {
        Incarnation {
            count: self.count,
            uuid: self.uuid,
        }
    }

    pub(super) fn accepted_for(&self, first: TxId) -> Option<&Accepted> {
        self.accepted.iter().find(|entry| entry.first == first)
    }

    pub(super) fn accept(&mut self, accepted: Accepted) {
        self.forget_accepted(accepted.first);
        if self.accepted.len() >= ACCEPTED_CAP {
            // The oldest segment is long decided by now.
            self.accepted.remove(0);
        }
        let at = self
            .accepted
            .partition_point(|entry| entry.first < accepted.first);
        self.accepted.insert(at, accepted);
    }

    pub(super) fn forget_accepted(&mut self, first: TxId) {
        self.accepted.retain(|entry| entry.first != first);
    }

    pub(super) fn known_of(&self, name: &str) -> Option<Incarnation> {
        let entry = self.known.iter().find(|known| known.name == name)?;
        Some(entry.incarnation)
    }

    /// Remembers a newer incarnation; whether that changed anything.
    pub(super) fn learn(&mut self, name: &str, incarnation: Incarnation) -> bool {
        let at = self
            .known
            .partition_point(|known| known.name.as_str() < name);
        let full = self.known.len() >= KNOWN_CAP;
        match self.known.get_mut(at) {
            Some(known) if known.name == name => {
                let newer = incarnation > known.incarnation;
                known.incarnation = known.incarnation.max(incarnation);
                newer
            }
            _ if full => false,
            _ => {
                let name = String::from(name);
                self.known.insert(at, PeerCount { name, incarnation });
                true
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;
    use hadal_proto::codec::Input;
    use hadal_proto::{decode, encode};
    use hadal_types::{BlockPoolId, CURRENT_LAYOUT, ClusterId};

    /// C1, C2, C4: the record of a JournalNode, cut anywhere, with any bit flipped, and rubbish: refused, or another
    /// record that is written as it was read.
    #[test]
    fn c1_c2_c4_damaged_records() {
        let record = AcceptorRecord {
            info: Some(NamespaceInfo {
                layout: CURRENT_LAYOUT,
                namespace_id: 7,
                cluster_id: ClusterId("CID-test".into()),
                block_pool_id: BlockPoolId("BP-test".into()),
                created_ms: 1,
            }),
            uuid: 5,
            count: 9,
            learner: true,
            promised: Epoch(3),
            promised_to: 2,
            writer: Epoch(2),
            mark: CommitMark::default(),
            accepted: vec![Accepted {
                first: TxId(1),
                epoch: Epoch(2),
                last: TxId(4),
                digest: LogDigest([1; 16]),
            }],
            known: vec![PeerCount {
                name: "jn2".into(),
                incarnation: Incarnation { count: 4, uuid: 6 },
            }],
        };
        let good = encode(&record);
        assert_eq!(decode::<AcceptorRecord>(good.clone()), Ok(record.clone()));
        let one_encoding = |bytes: Vec<u8>| {
            let bytes = bytes::Bytes::from(bytes);
            let mut input = Input::new(bytes.clone());
            let read = <AcceptorRecord as hadal_proto::Wire>::decode(&mut input).ok()?;
            assert_eq!(encode(&read), bytes[..bytes.len() - input.left()]);
            Some(read)
        };
        for at in 0..good.len() {
            assert!(decode::<AcceptorRecord>(good.slice(..at)).is_err(), "{at}");
            for bit in 0..8 {
                let mut flipped = good.to_vec();
                flipped[at] ^= 1 << bit;
                assert_ne!(one_encoding(flipped).as_ref(), Some(&record), "{at} {bit}");
            }
        }
        let mut state = 1;
        let mut read = 0;
        for _ in 0..20_000 {
            let bytes = (0..150).map(|_| match crate::next_random(&mut state) % 8 {
                0..=5 => 0,
                6 => (crate::next_random(&mut state) % 3) as u8,
                _ => crate::next_random(&mut state) as u8,
            });
            read += u32::from(one_encoding(bytes.collect()).is_some());
        }
        assert!(read > 50, "{read}");
    }
}
