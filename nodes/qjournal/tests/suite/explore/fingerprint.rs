//! Telling states apart.

use crate::world::Wire;
use hadal_proto::Fault;
use hadal_proto::qjournal::Response;
use std::hash::{Hash, Hasher};

/// A fast 128-bit hasher; its states collide by chance only.
pub(super) struct Wide(pub(super) u128);

impl Hasher for Wide {
    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.write_u64(u64::from_le_bytes(word) ^ ((chunk.len() as u64) << 56));
        }
    }

    fn write_u64(&mut self, word: u64) {
        let x = (self.0 ^ u128::from(word)).wrapping_mul(0x2360_ed05_1fc6_5da4_4385_df64_9fcc_f645);
        self.0 = x ^ (x >> 61);
    }

    fn finish(&self) -> u64 {
        self.0 as u64
    }
}

pub(super) fn hash_wire(wire: &Wire, hasher: &mut impl Hasher) {
    let outcome = |outcome: &Result<Response, Fault>, hasher: &mut _| match outcome {
        Ok(response) => response.hash(hasher),
        Err(fault) => (fault.class, fault.value).hash(hasher),
    };
    match wire {
        Wire::Call(id, request) => (0, id, request).hash(hasher),
        Wire::Reply(id, reply) => {
            (1, id).hash(hasher);
            outcome(reply, hasher);
        }
        Wire::Frame(stream, _, head, records) => (2, stream, head, records).hash(hasher),
        Wire::Ack(stream, ack) => {
            (3, stream, ack.offset, ack.fault.is_some()).hash(hasher);
        }
    }
}
