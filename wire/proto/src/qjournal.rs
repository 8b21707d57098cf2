//! QJournalProtocol: NameNodes to JournalNodes, and JournalNodes to each other (protocols.md section 1).
//!
//! Claims, recovery, rolls and reads are calls. Edits travel on one **append stream** per writer and
//! JournalNode: header [`JournalStream`], then Data frames whose `aux` is a [`BatchHead`] and whose payload is
//! [`Record`]s back to back, and [`crate::frame::Ack`]s back whose `offset` is the last txid that is durable
//! there. Acks are cumulative. An ack with a fault ends the stream.
//!
//! The **running digest** of the log at txid n is a 16-byte hash over all records up to n. Two logs with the
//! same digest at n hold the same records up to n; everything that compares logs compares digests, never
//! lengths (model-journal.md R7).

use crate::codec::{DecodeError, Input, Wire};
use crate::protocol::{Protocol, ProtocolId};
use crate::{wire_enum, wire_struct};
use alloc::string::String;
use alloc::vec::Vec;
use bytes::Bytes;
use hadal_types::{Epoch, NamespaceInfo, TxId};

/// The protocol towards JournalNodes.
pub struct QjournalProtocol;

impl Protocol for QjournalProtocol {
    const ID: ProtocolId = ProtocolId::Qjournal;
    const VERSION: u16 = 1;
    type Request = Request;
    type Response = Response;
}

/// Largest op of one record, in bytes.
pub const RECORD_CAP: usize = 1 << 20;
/// Bytes in front of a record's op.
pub const RECORD_HEAD_LEN: usize = 24;
/// Most payload a [`Call::ReadEdits`] or [`Call::ReadSegment`] answers at once, whatever was asked.
pub const READ_CAP: u32 = 4 << 20;
/// Longest wait of a [`Call::AwaitCommitted`], in milliseconds, whatever was asked.
pub const AWAIT_CAP_MS: u32 = 10_000;

/// Running digest of the log up to a txid. The digest before txid 1 is all zeros.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct LogDigest(pub [u8; 16]);

impl Wire for LogDigest {
    const MIN_LEN: usize = 16;

    fn encode(&self, out: &mut Vec<u8>) {
        self.0.encode(out);
    }

    fn decode(input: &mut Input) -> Result<Self, DecodeError> {
        Ok(Self(Wire::decode(input)?))
    }
}

impl core::fmt::Debug for LogDigest {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "{:032x}", u128::from_be_bytes(self.0))
    }
}

impl core::fmt::Display for LogDigest {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        core::fmt::Debug::fmt(self, f)
    }
}

wire_struct! {
    /// The log up to `txid` is committed, and its running digest there is `digest`. A JournalNode serves
    /// records as committed only up to a mark that its own digest agrees with.
    #[derive(Copy, Default, PartialOrd, Ord, Hash)]
    pub struct CommitMark {
        /// Last committed edit; 0 when none is known.
        pub txid: TxId,
        /// Running digest there.
        pub digest: LogDigest,
    }
}

wire_struct! {
    /// Which life of a JournalNode speaks. `count` only ever grows for a node's name, also across wipes; a
    /// wiped node has a new `uuid` (protocols.md section 1, model-journal.md R1, R2).
    #[derive(Copy, Default, PartialOrd, Ord, Hash)]
    pub struct Incarnation {
        /// Rises at every start, before every promise and segment start, and while acknowledging.
        pub count: u64,
        /// Made at format.
        pub uuid: u128,
    }
}

wire_struct! {
    /// What a node durably knows of a peer's incarnation.
    #[derive(PartialOrd, Ord, Hash)]
    pub struct PeerCount {
        /// The peer's node id.
        pub name: String,
        /// Newest incarnation heard of.
        pub incarnation: Incarnation,
    }
}

wire_enum! {
    /// What a JournalNode's word is worth.
    #[derive(Copy, Default, Hash, PartialOrd, Ord)]
    pub enum Standing {
        /// Has no namespace yet.
        #[default]
        0 => Unformatted,
        /// Started, but its peers have not confirmed yet that its disk is not an old copy.
        1 => Unconfirmed,
        /// Promises, acknowledges and counts.
        2 => Voter,
        /// May have forgotten promises: answers reads and counts only.
        3 => Learner,
    }
}

wire_struct! {
    /// One segment as a JournalNode holds it.
    #[derive(PartialOrd, Ord, Hash, Copy)]
    pub struct SegmentState {
        /// First txid.
        pub first: TxId,
        /// Last readable txid; `first - 1` when there is none.
        pub last: TxId,
        /// Epoch of the writer that started it.
        pub epoch: Epoch,
        /// Complete and never to change.
        pub finalized: bool,
        /// Running digest before `first`.
        pub digest_before: LogDigest,
        /// Running digest at `last`.
        pub digest_end: LogDigest,
        /// A record behind `last` is there but unreadable: this node may have acknowledged it and any
        /// number behind it. `None`: nothing stands behind `last`.
        pub doubtful_from: Option<TxId>,
        /// Bytes of the records up to `last`, heads included. Records stand back to back, so that equal logs have equal
        /// lengths, and a record begins at the same byte in each of them.
        pub bytes: u64,
        /// With `doubtful_from`: no record that this node ever had durable begins at or behind so many bytes from where the
        /// first record begins. Whoever has the same log up to there has everything this node can have acknowledged.
        /// `None`: how far the doubt goes is not known.
        pub doubtful_bytes: Option<u64>,
    }
}

wire_struct! {
    /// Header of the append stream on which a writer sends its batches.
    pub struct JournalStream {
        /// The namespace written.
        pub namespace_id: u64,
        /// The writer's epoch.
        pub epoch: Epoch,
    }
}

wire_struct! {
    /// Head of one batch, in a Data frame's `aux`. A head with `count` 0 and no payload only carries the
    /// commit mark.
    #[derive(Copy, Hash)]
    pub struct BatchHead {
        /// The writer's epoch.
        pub epoch: Epoch,
        /// First txid of the segment it belongs to.
        pub segment: TxId,
        /// First txid of the batch.
        pub first: TxId,
        /// Records in it.
        pub count: u32,
        /// What the writer knows to be committed.
        pub committed: CommitMark,
        /// Running digest at the batch's end; the receiver computes it from the payload and compares. Beyond
        /// that, every record carries its own CRC32C.
        pub digest_end: LogDigest,
    }
}

impl BatchHead {
    /// Last txid of the batch; `first - 1` for a mere mark.
    #[must_use]
    pub fn last(&self) -> TxId {
        TxId((self.first.0 + u64::from(self.count)).saturating_sub(1))
    }
}

wire_struct! {
    /// Every call names the namespace it is about (F-15); [`Call::GetState`] and [`Call::Format`] also reach
    /// a JournalNode that has none.
    #[derive(Hash)]
    pub struct Request {
        /// `NamespaceInfo::namespace_id`.
        pub namespace_id: u64,
        /// What is asked.
        pub call: Call,
    }
}

wire_enum! {
    /// The calls.
    pub enum Call {
        /// Who are you, what have you promised. Answered in any standing.
        0 => GetState,
        /// Gives an unformatted node its namespace. `initial`: the cluster is being made, the node may vote
        /// at once; else it replaces a lost disk and becomes a learner. `force` wipes what is there (T-J5).
        1 => Format { info: NamespaceInfo, initial: bool, force: bool },
        /// Promise to obey no writer below `epoch` (T-J1, T-J12). `claim` is random per claim: the same claimant may
        /// ask again when the answer was lost, another one is refused.
        2 => NewEpoch { info: NamespaceInfo, epoch: Epoch, claim: u64 },
        /// Open a segment (T-J10, T-J11). `digest_before` lets a node without the older ones serve it.
        3 => StartSegment { epoch: Epoch, first: TxId, digest_before: LogDigest },
        /// The segment ends at `last` with this digest (T-J8, T-J9).
        4 => FinalizeSegment { epoch: Epoch, first: TxId, last: TxId, digest: LogDigest },
        /// What do you hold of the segment that starts at `first`.
        5 => PrepareRecovery { epoch: Epoch, first: TxId },
        /// Make your segment equal to `segment`, copying from JournalNode `source` unless the digests agree,
        /// and remember that you did so in `epoch`.
        6 => AcceptRecovery { epoch: Epoch, segment: SegmentState, source: String },
        /// Segments that end at or behind `from`.
        7 => GetManifest { from: TxId, in_progress: bool },
        /// Records from `from` on, up to `max_bytes` of payload (at least one). `durable`: committed ones only.
        8 => ReadEdits { from: TxId, max_bytes: u32, durable: bool },
        /// As ReadEdits, but from the segment that starts at `first`, whatever its state: how nodes copy.
        9 => ReadSegment { first: TxId, from: TxId, max_bytes: u32 },
        /// Segments that end below `below` may go (T-Q13).
        10 => Purge { epoch: Epoch, below: TxId },
        /// The log is committed up to here.
        11 => CommitMark { epoch: Epoch, mark: CommitMark },
        /// Between JournalNodes: my incarnation, and what I know of others. Recorded durably before it is
        /// answered.
        12 => ExchangeCounts { name: String, incarnation: Incarnation, standing: Standing, known: Vec<PeerCount> },
        /// Committed records behind `after`: at once when there are any, else as soon as there are, and after `wait_ms`
        /// (at most [`AWAIT_CAP_MS`]) an empty run. Refused with `NotFound` by a node that lacks them and will not get
        /// them by waiting, or that knows of more than it has: ask another one (protocols.md section 3).
        13 => AwaitCommitted { after: TxId, wait_ms: u32, max_bytes: u32 },
        /// From the writer of `epoch` to a learner that takes its stream: you have the segment that starts at `segment` up
        /// to `upto`, everything that was sent when I first saw you; if the rest of your log is whole, vote again. Done
        /// once that is durable, also by a node that votes already; refused as `Learner` with what is missing.
        14 => EndLearning { epoch: Epoch, segment: TxId, upto: TxId },
    }
}

impl core::hash::Hash for Call {
    fn hash<H: core::hash::Hasher>(&self, state: &mut H) {
        let mut out = Vec::new();
        self.encode(&mut out);
        out.hash(state);
    }
}

wire_enum! {
    /// Answers; refusals are [`crate::Fault`]s (`Fenced`, `OutOfSync`, `IdentityMismatch`, `Learner`, `Corrupt` ...).
    pub enum Response {
        /// Done, and durable.
        0 => Done,
        /// To GetState.
        1 => State { state: JournalState },
        /// To NewEpoch.
        2 => Promised { promise: Promise },
        /// To PrepareRecovery.
        3 => Prepared { prepared: Prepared },
        /// To GetManifest.
        4 => Manifest { manifest: Manifest },
        /// To ReadEdits, ReadSegment and AwaitCommitted.
        5 => Edits { edits: Edits },
        /// To ExchangeCounts.
        6 => Counts { counts: Counts },
    }
}

impl core::hash::Hash for Response {
    fn hash<H: core::hash::Hasher>(&self, state: &mut H) {
        let mut out = Vec::new();
        self.encode(&mut out);
        out.hash(state);
    }
}

wire_struct! {
    /// A JournalNode in short.
    #[derive(Hash)]
    pub struct JournalState {
        /// Node id.
        pub name: String,
        /// Whose journal; `None` when unformatted.
        pub info: Option<NamespaceInfo>,
        /// Whether it votes.
        pub standing: Standing,
        /// Highest epoch promised.
        pub promised: Epoch,
        /// Epoch of the last segment started.
        pub writer: Epoch,
        /// Highest commit mark known.
        pub committed: CommitMark,
        /// Last txid on its disk.
        pub last: TxId,
        /// Its life.
        pub incarnation: Incarnation,
    }
}

wire_struct! {
    /// A promise.
    #[derive(Hash)]
    pub struct Promise {
        /// The promised epoch.
        pub epoch: Epoch,
        /// First txid of the newest segment that is not empty (T-J4, T-J6).
        pub last_segment: Option<TxId>,
        /// Highest commit mark known.
        pub committed: CommitMark,
        /// Who promises.
        pub incarnation: Incarnation,
        /// What it knows of its peers.
        pub known: Vec<PeerCount>,
    }
}

wire_struct! {
    /// What a node holds of the segment being recovered.
    #[derive(Hash)]
    pub struct Prepared {
        /// The segment asked about.
        pub first: TxId,
        /// The segment, if there is one; an empty one counts for nothing but its `digest_before`.
        pub segment: Option<SegmentState>,
        /// Epoch of the recovery it last accepted for that segment; 0 when none, or the segment is finalised.
        pub accepted_in: Epoch,
        /// Highest commit mark known.
        pub committed: CommitMark,
        /// Where its log ends below the segment: the last finalised txid below `first`, with its digest.
        pub before: Option<CommitMark>,
        /// Who answers.
        pub incarnation: Incarnation,
        /// What it knows of its peers.
        pub known: Vec<PeerCount>,
    }
}

wire_struct! {
    /// The segments a node can serve.
    pub struct Manifest {
        /// By first txid.
        pub segments: Vec<SegmentState>,
        /// Highest mark that agrees with its own log.
        pub committed: CommitMark,
        /// Segments it has but cannot read in full: rot, waiting for repair.
        pub damaged: Vec<TxId>,
    }
}

wire_struct! {
    /// A run of records.
    pub struct Edits {
        /// First txid of the run: the one asked for.
        pub first: TxId,
        /// How many; 0 only when the node has nothing newer that may be served.
        pub count: u32,
        /// [`Record`]s back to back.
        pub records: Bytes,
        /// Running digest before the run.
        pub digest_before: LogDigest,
        /// Running digest at its end.
        pub digest_end: LogDigest,
        /// Highest mark that agrees with this node's own log.
        pub committed: CommitMark,
    }
}

wire_struct! {
    /// The answer between JournalNodes.
    pub struct Counts {
        /// Who answers.
        pub incarnation: Incarnation,
        /// Whether it votes.
        pub standing: Standing,
        /// What it knew of the caller before this call; `None`: nothing.
        pub known_of_you: Option<Incarnation>,
        /// What it knows of all.
        pub known: Vec<PeerCount>,
        /// Its promise.
        pub promised: Epoch,
    }
}

/// One record of a batch: `{length u32, crc32c u32, epoch u64, txid u64, op}`, little-endian; `length` counts the op
/// only, `crc32c` covers everything else in the record. The store keeps the same bytes, so a record is framed
/// once, by its writer, and verified wherever it arrives; this module only finds where records begin.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Record {
    /// CRC32C as found; not checked here.
    pub crc: u32,
    /// Epoch of the writer that made it.
    pub epoch: Epoch,
    /// Its number.
    pub txid: TxId,
    /// The encoded edit.
    pub op: Bytes,
}

/// Walks a batch payload without copying. Ends after the first error.
#[derive(Clone, Debug)]
pub struct Records(Input);

impl Records {
    /// The records in `payload`.
    #[must_use]
    pub fn new(payload: Bytes) -> Self {
        Self(Input::new(payload))
    }

    /// Bytes not walked yet.
    #[must_use]
    pub fn left(&self) -> usize {
        self.0.left()
    }

    fn read(&mut self) -> Result<Record, DecodeError> {
        let length = u32::decode(&mut self.0)? as usize;
        if length > RECORD_CAP {
            return Err(DecodeError::TooLong {
                what: "record",
                length,
                cap: RECORD_CAP,
            });
        }
        Ok(Record {
            crc: u32::decode(&mut self.0)?,
            epoch: Epoch::decode(&mut self.0)?,
            txid: TxId::decode(&mut self.0)?,
            op: self.0.take(length, "record")?,
        })
    }
}

impl Iterator for Records {
    type Item = Result<Record, DecodeError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.left() == 0 {
            return None;
        }
        let read = self.read();
        if read.is_err() {
            self.0 = Input::new(Bytes::new());
        }
        Some(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{decode, encode};

    fn head() -> BatchHead {
        BatchHead {
            epoch: Epoch(3),
            segment: TxId(101),
            first: TxId(105),
            count: 4,
            committed: CommitMark {
                txid: TxId(104),
                digest: LogDigest([7; 16]),
            },
            digest_end: LogDigest([9; 16]),
        }
    }

    #[test]
    fn batch_heads_travel() {
        let bytes = encode(&head());
        assert_eq!(bytes.len(), BatchHead::MIN_LEN);
        assert_eq!(decode::<BatchHead>(bytes.clone()), Ok(head()));
        assert_eq!(head().last(), TxId(108));
        for length in 0..bytes.len() {
            assert!(decode::<BatchHead>(bytes.slice(..length)).is_err());
        }
    }

    #[test]
    fn records_are_walked_without_a_copy() {
        let mut payload = Vec::new();
        for (txid, op) in [(5u64, &b"mkdir"[..]), (6, b""), (7, b"delete")] {
            (op.len() as u32).encode(&mut payload);
            0xabcd_u32.encode(&mut payload);
            2u64.encode(&mut payload);
            txid.encode(&mut payload);
            payload.extend_from_slice(op);
        }
        let payload = Bytes::from(payload);
        let mut walk = Records::new(payload.clone());
        let first = walk.next().expect("three").expect("whole");
        assert_eq!(
            (first.txid, first.epoch, first.crc),
            (TxId(5), Epoch(2), 0xabcd)
        );
        assert_eq!(first.op.as_ptr(), payload[RECORD_HEAD_LEN..].as_ptr());
        assert_eq!(walk.left(), payload.len() - RECORD_HEAD_LEN - 5);
        assert_eq!(walk.filter(Result::is_ok).count(), 2);
        // Cut anywhere, the walk ends with one error, or cleanly between two records.
        for length in 0..payload.len() {
            let walked: Vec<_> = Records::new(payload.slice(..length)).collect();
            let errors = walked.iter().filter(|record| record.is_err()).count();
            assert!(errors <= 1 && walked.len() <= 3);
            assert!(errors == 0 || walked.last().is_some_and(Result::is_err));
        }
    }

    #[test]
    fn oversized_records_are_refused() {
        let mut payload = Vec::new();
        (RECORD_CAP as u32 + 1).encode(&mut payload);
        payload.resize(64, 0);
        let walked: Vec<_> = Records::new(Bytes::from(payload)).collect();
        assert!(matches!(walked[..], [Err(DecodeError::TooLong { .. })]));
    }
}
