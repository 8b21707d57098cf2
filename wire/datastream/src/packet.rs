//! Cutting a writer's bytes into packets that start on a chunk boundary.

use alloc::vec::Vec;
use bytes::Bytes;

/// A piece of a block on its way: whole chunks, but for the last one of the block or before a flush.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Packet {
    /// Where its first byte goes in the block; a multiple of the chunk size.
    pub offset: u64,
    /// The data in order; slices of what the writer handed in.
    pub pieces: Vec<Bytes>,
    /// Bytes in `pieces`.
    pub length: usize,
    /// Append-frame flags: hflush or hsync after this packet.
    pub flags: u8,
}

impl Packet {
    /// Where its last byte ends in the block.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.offset + self.length as u64
    }
}

/// Collects bytes of one block and hands out packets.
///
/// A flush inside a chunk sends the partial chunk; its bytes are kept and sent again at the head of the next
/// packet, so that every packet starts on a chunk boundary and every stored chunk has one checksum (as in HDFS).
#[derive(Debug)]
pub struct Packetizer {
    chunk: usize,
    packet: usize,
    offset: u64,
    pieces: Vec<Bytes>,
    length: usize,
    /// How many of the collected bytes were sent before by a flush inside a chunk.
    resent: usize,
}

impl Packetizer {
    /// Packets of at most `packet_bytes`, rounded down to whole chunks of `chunk_bytes` but at least one.
    #[must_use]
    pub fn new(chunk_bytes: u32, packet_bytes: u32) -> Self {
        assert!(chunk_bytes > 0, "a chunk has at least one byte");
        let chunk = chunk_bytes as usize;
        let packet = (packet_bytes as usize / chunk).max(1) * chunk;
        Self {
            chunk,
            packet,
            offset: 0,
            pieces: Vec::new(),
            length: 0,
            resent: 0,
        }
    }

    /// Goes on in a block of `length` bytes, of which `tail` are those behind the last chunk boundary: they are sent
    /// again with what follows.
    ///
    /// # Panics
    /// When `tail` is not what stands behind the last chunk boundary.
    #[must_use]
    pub fn resume(chunk_bytes: u32, packet_bytes: u32, length: u64, tail: Bytes) -> Self {
        let mut cutter = Self::new(chunk_bytes, packet_bytes);
        assert_eq!(
            tail.len() as u64,
            length % u64::from(chunk_bytes),
            "a chunk that goes on is known from its start"
        );
        cutter.offset = length - tail.len() as u64;
        cutter.length = tail.len();
        cutter.resent = tail.len();
        if !tail.is_empty() {
            cutter.pieces.push(tail);
        }
        cutter
    }

    /// Bytes of the block handed in so far.
    #[must_use]
    pub fn position(&self) -> u64 {
        self.offset + self.length as u64
    }

    /// Bytes handed in and in no packet yet.
    #[must_use]
    pub fn unsent(&self) -> usize {
        self.length - self.resent
    }

    /// Takes bytes from the front of `data`, as many as fit into the current packet.
    pub fn fill(&mut self, data: &mut Bytes) {
        let take = (self.packet - self.length).min(data.len());
        if take > 0 {
            self.pieces.push(data.split_to(take));
            self.length += take;
        }
    }

    /// Whether the current packet is full.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.length == self.packet
    }

    /// The current packet, once it is full.
    pub fn take_full(&mut self) -> Option<Packet> {
        self.is_full().then(|| self.take(0, false))
    }

    /// Everything collected, as the end of the block or because the writer flushes. `None` when nothing new was
    /// collected.
    pub fn flush(&mut self, flags: u8) -> Option<Packet> {
        (self.unsent() > 0).then(|| self.take(flags, true))
    }

    fn take(&mut self, flags: u8, keep_tail: bool) -> Packet {
        let pieces = core::mem::take(&mut self.pieces);
        let packet = Packet {
            offset: self.offset,
            pieces,
            length: self.length,
            flags,
        };
        let tail = self.length % self.chunk;
        self.offset = packet.end();
        self.length = 0;
        self.resent = 0;
        if keep_tail && tail > 0 {
            self.offset -= tail as u64;
            self.pieces = last_bytes(&packet.pieces, tail);
            self.length = tail;
            self.resent = tail;
        }
        packet
    }
}

fn last_bytes(pieces: &[Bytes], count: usize) -> Vec<Bytes> {
    let mut kept = Vec::new();
    let mut left = count;
    for piece in pieces.iter().rev() {
        let take = piece.len().min(left);
        kept.push(piece.slice(piece.len() - take..));
        left -= take;
        if left == 0 {
            break;
        }
    }
    kept.reverse();
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    fn joined(packet: &Packet) -> Vec<u8> {
        packet
            .pieces
            .iter()
            .flat_map(|piece| piece.iter().copied())
            .collect()
    }

    #[test]
    fn packets_start_on_chunk_boundaries_and_cover_the_block_e22() {
        let data: Vec<u8> = (0..10_000u32).map(|n| n as u8).collect();
        for step in [1, 7, 511, 512, 513, 4096, 10_000] {
            let mut cutter = Packetizer::new(512, 2048);
            let mut packets = Vec::new();
            for piece in data.chunks(step) {
                let mut piece = Bytes::copy_from_slice(piece);
                while !piece.is_empty() {
                    cutter.fill(&mut piece);
                    packets.extend(cutter.take_full());
                }
            }
            packets.extend(cutter.flush(0));
            assert!(cutter.flush(0).is_none());
            let mut all = Vec::new();
            for packet in &packets {
                assert_eq!(packet.offset % 512, 0);
                assert_eq!(packet.offset, all.len() as u64);
                all.extend(joined(packet));
            }
            assert_eq!(all, data);
        }
    }

    #[test]
    fn an_append_goes_on_inside_the_last_chunk_f10() {
        let mut cutter = Packetizer::resume(4, 8, 6, Bytes::from_static(b"ef"));
        assert_eq!((cutter.position(), cutter.unsent()), (6, 0));
        assert!(cutter.flush(0).is_none(), "nothing new");
        cutter.fill(&mut Bytes::from_static(b"ghijkl"));
        let packet = cutter.take_full().unwrap();
        assert_eq!(
            (packet.offset, joined(&packet).as_slice()),
            (4, b"efghijkl".as_slice())
        );
        let mut aligned = Packetizer::resume(4, 8, 8, Bytes::new());
        aligned.fill(&mut Bytes::from_static(b"x"));
        assert_eq!(aligned.flush(0).unwrap().offset, 8);
    }

    #[test]
    fn a_flush_inside_a_chunk_is_sent_again_with_what_follows_t_p17() {
        let mut cutter = Packetizer::new(4, 8);
        cutter.fill(&mut Bytes::from_static(b"abcdef"));
        let first = cutter.flush(1).unwrap();
        assert_eq!(
            (first.offset, joined(&first).as_slice()),
            (0, b"abcdef".as_slice())
        );
        assert!(cutter.flush(1).is_none(), "nothing new to flush");
        assert_eq!(cutter.position(), 6);
        cutter.fill(&mut Bytes::from_static(b"gh"));
        let second = cutter.flush(0).unwrap();
        assert_eq!(
            (second.offset, joined(&second).as_slice()),
            (4, b"efgh".as_slice())
        );
        assert_eq!(cutter.position(), 8);
    }
}
