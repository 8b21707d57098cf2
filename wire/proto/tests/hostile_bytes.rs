//! C4: no bytes make a decoder panic, and what decodes encodes to the bytes it came from: every message has one
//! encoding.

use bytes::Bytes;
use hadal_proto::frame::{Ack, Answer, AppendFrame, Prelude};
use hadal_proto::{
    Fault, Wire, admin, client, codec::Input, datanode, edit, election, encode, ha, qjournal,
    transfer,
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

/// Feeds `count` inputs; returns how many decoded.
fn feed<T: Wire + PartialEq + std::fmt::Debug>(seed: u64, count: u32) -> u32 {
    let mut rng = Rng(seed);
    let mut decoded = 0;
    for _ in 0..count {
        let bytes = Bytes::from(rng.bytes());
        let mut input = Input::new(bytes.clone());
        if let Ok(value) = T::decode(&mut input) {
            let used = bytes.len() - input.left();
            assert_eq!(encode(&value), bytes[..used], "{value:?}");
            assert!(
                used >= T::MIN_LEN,
                "{value:?} took {used} bytes, MIN_LEN is {}",
                T::MIN_LEN
            );
            decoded += 1;
        }
    }
    decoded
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
