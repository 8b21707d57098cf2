//! C4: no bytes make a decoder panic, and what decodes encodes to the bytes it came from: every message has one
//! encoding.

use bytes::Bytes;
use hadal_proto::frame::{Ack, Answer, AppendFrame, Prelude};
use hadal_proto::{
    Fault, Wire, admin, client, codec::Input, datanode, edit, election, encode, ha, image,
    qjournal, transfer,
};

/// A small seeded generator: the same inputs in every run.
struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// Bytes that look like messages more often than noise does: small numbers, zero runs, now and then anything.
    fn bytes(&mut self) -> Vec<u8> {
        let length = self.next() % 200;
        (0..length)
            .map(|_| match self.next() % 8 {
                0..=3 => 0,
                4 | 5 => (self.next() % 4) as u8,
                6 => (self.next() % 40) as u8,
                _ => self.next() as u8,
            })
            .collect()
    }
}

/// What came of `bytes`: whether they begin with a value. One that does has one encoding.
fn try_one<T: Wire + PartialEq + std::fmt::Debug>(bytes: &Bytes) -> Option<T> {
    let mut input = Input::new(bytes.clone());
    let value = T::decode(&mut input).ok()?;
    let used = bytes.len() - input.left();
    assert_eq!(encode(&value), bytes[..used], "{value:?}");
    assert!(
        used >= T::MIN_LEN,
        "{value:?} took {used} bytes, MIN_LEN is {}",
        T::MIN_LEN
    );
    Some(value)
}

/// Feeds `count` inputs; returns how many decoded.
fn feed<T: Wire + PartialEq + std::fmt::Debug>(seed: u64, count: u32) -> u32 {
    let mut rng = Rng(seed);
    let inputs = (0..count).map(|_| Bytes::from(rng.bytes()));
    let decoded = inputs.filter_map(|bytes| try_one::<T>(&bytes));
    decoded.count() as u32
}

/// Reaches every variant, and then every bit of a value of it: flipped, and cut at every byte.
fn feed_variants<T: Wire + PartialEq + std::fmt::Debug>(variants: &[(u8, &str)]) {
    let mut rng = Rng(0x9e37_79b9_7f4a_7c15);
    for (tag, name) in variants {
        let mut decoded = 0;
        for _ in 0..200_000 {
            let mut bytes = vec![*tag];
            bytes.extend(rng.bytes());
            // Long messages need many bytes that fit: mostly zeros.
            bytes.extend((0..rng.next() % 300).map(|_| match rng.next() % 32 {
                0 => 1,
                _ => 0,
            }));
            let Some(value) = try_one::<T>(&Bytes::from(bytes)) else {
                continue;
            };
            let good = encode(&value);
            for at in 0..good.len() {
                assert!(
                    hadal_proto::decode::<T>(good.slice(..at)).is_err(),
                    "{name} cut at {at} of {} is whole",
                    good.len()
                );
                for bit in 0..8 {
                    let mut flipped = good.to_vec();
                    flipped[at] ^= 1 << bit;
                    let other = try_one::<T>(&Bytes::from(flipped));
                    assert_ne!(other.as_ref(), Some(&value), "a bit of {name} says nothing");
                }
            }
            decoded += 1;
            if decoded == 20 {
                break;
            }
        }
        assert!(decoded > 0, "the generator does not reach {name}");
    }
}

macro_rules! every_variant {
    ($($name:ident: $ty:ty),* $(,)?) => {$(
        #[test]
        fn $name() {
            feed_variants::<$ty>(<$ty>::VARIANTS);
        }
    )*};
}

every_variant! {
    c4_variants_of_client_requests: client::Request,
    c4_variants_of_client_responses: client::Response,
    c4_variants_of_datanode_requests: datanode::Request,
    c4_variants_of_datanode_responses: datanode::Response,
    c4_variants_of_digest_rounds: datanode::DigestRound,
    c4_variants_of_digest_asks: datanode::DigestAsk,
    c4_variants_of_datanode_actions: datanode::Action,
    c4_variants_of_journal_calls: qjournal::Call,
    c4_variants_of_journal_responses: qjournal::Response,
    c4_variants_of_transfer_requests: transfer::Request,
    c4_variants_of_transfer_responses: transfer::Response,
    c4_variants_of_write_stages: transfer::WriteStage,
    c4_variants_of_admin_requests: admin::Request,
    c4_variants_of_admin_responses: admin::Response,
    c4_variants_of_election_calls: election::Call,
    c4_variants_of_election_responses: election::Response,
    c4_variants_of_election_refusals: election::Refusal,
    c4_variants_of_ha_requests: ha::Request,
    c4_variants_of_ha_responses: ha::Response,
    c4_variants_of_image_requests: image::Request,
    c4_variants_of_image_responses: image::Response,
    c4_variants_of_edit_operations: edit::EditOp,
}

macro_rules! hostile {
    ($($name:ident: $ty:ty),* $(,)?) => {$(
        #[test]
        fn $name() {
            let decoded = feed::<$ty>(0x9e37_79b9_7f4a_7c15, 60_000);
            assert!(decoded > 20, "only {decoded} inputs decoded: the generator does not reach this type");
        }
    )*};
}

hostile! {
    c4_append_frame: AppendFrame,
    c4_ack: Ack,
    c4_fault: Fault,
    c4_client_call: client::ClientCall,
    c4_client_reply: Answer<client::Reply>,
    c4_datanode_request: datanode::Request,
    c4_datanode_response: Answer<datanode::Response>,
    c4_qjournal_request: qjournal::Request,
    c4_qjournal_response: Answer<qjournal::Response>,
    c4_qjournal_batch_head: qjournal::BatchHead,
    c4_transfer_request: transfer::Request,
    c4_transfer_response: transfer::Response,
    c4_read_block: transfer::ReadBlock,
    c4_admin_request: admin::Request,
    c4_admin_response: admin::Response,
    c4_election_request: election::Request,
    c4_election_response: Answer<election::Response>,
    c4_ha_request: ha::Request,
    c4_ha_response: Answer<ha::Response>,
    c4_edit: edit::Edit,
    c4_digest_report: datanode::DigestReport,
    c4_write_block: transfer::WriteBlock,
    c4_read_reply: transfer::ReadReply,
    c4_journal_stream: qjournal::JournalStream,
    c4_segment_state: qjournal::SegmentState,
    c4_put_image: image::PutImage,
    c4_get_image: image::GetImage,
    c4_image_reply: image::ImageReply,
}

/// Records inside a batch: lengths that lie end the walk, they do not go past the batch.
#[test]
fn c4_records_of_a_batch() {
    let mut rng = Rng(0x9e37_79b9_7f4a_7c15);
    let mut walked = 0;
    for _ in 0..60_000 {
        let bytes = Bytes::from(rng.bytes());
        let mut left = bytes.len();
        let mut walk = qjournal::Records::new(bytes);
        while let Some(Ok(_)) = walk.next() {
            assert!(walk.left() < left, "every record takes something");
            left = walk.left();
            walked += 1;
        }
    }
    assert!(walked > 100, "{walked} records");
}

#[test]
fn c4_prelude_needs_its_magic() {
    assert_eq!(feed::<Prelude>(7, 60_000), 0);
}

#[test]
fn a_count_buys_no_memory_before_its_elements_arrive() {
    // A list that claims four billion entries in a message of a few bytes.
    let mut bytes = Vec::new();
    client::Request::ReportBadBlocks { blocks: Vec::new() }.encode(&mut bytes);
    let at = bytes.len() - 4;
    bytes[at..].copy_from_slice(&u32::MAX.to_le_bytes());
    let error = hadal_proto::decode::<client::Request>(Bytes::from(bytes)).unwrap_err();
    assert!(error.to_string().contains("over its cap"), "{error}");
}

#[test]
fn c7_golden_bytes_of_an_edit_do_not_change() {
    let edit = edit::Edit {
        time_ms: 1_700_000_000_000,
        client: hadal_types::ClientId(0x0102_0304),
        call: hadal_types::CallId(9),
        op: edit::EditOp::Mkdir {
            parent: hadal_types::InodeId(1),
            inode: hadal_types::InodeId(2),
            name: "logs".into(),
            permission: 0o755,
            owner: "ada".into(),
            group: "staff".into(),
        },
    };
    let golden = "0068e5cf8b010000040302010000000000000000000000000900000000000000020100000000000000020000000000000004000000\
                  6c6f6773ed0103000000616461050000007374616666";
    let hex: String = encode(&edit)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    assert_eq!(hex, golden.replace(char::is_whitespace, ""));
}
