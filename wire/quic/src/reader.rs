//! Reads lengths and values off a stream of chunks, without joining payload.

use bytes::{Bytes, BytesMut};
use hadal_env::{NetError, RecvStream};
use std::collections::VecDeque;

/// Most bytes asked of the transport at once; also the most that is read past what was asked for.
const READ_MAX: usize = 64 << 10;

/// Pieces held before small ones are joined. A frame of 4 MiB over the smallest MTU comes in about
/// 3 500; more means a peer that sends crumbs.
const PIECES_MAX: usize = 8192;

/// Pieces below this are crumbs; runs of them are joined up to twice this size.
const CRUMB: usize = 4096;

/// Most pieces read at once where they are small.
const PIECES_AT_ONCE: usize = READ_MAX / CRUMB;

/// A receiving half and what was read of it but not taken yet.
pub(crate) struct Reader<R> {
    recv: R,
    pieces: VecDeque<Bytes>,
    buffered: usize,
    ended: bool,
    joined: u64,
    /// The last piece was a crumb: the path's datagrams are small.
    small: bool,
}

impl<R: RecvStream> Reader<R> {
    pub(crate) fn new(recv: R) -> Self {
        Self {
            recv,
            pieces: VecDeque::new(),
            buffered: 0,
            ended: false,
            joined: 0,
            small: false,
        }
    }

    /// Reads until `length` bytes are held. `false` when the stream ended before. Cancel-safe.
    pub(crate) async fn fill(&mut self, length: usize) -> Result<bool, NetError> {
        while self.buffered < length {
            if self.ended {
                return Ok(false);
            }
            // As many as are needed for certain: what is taken early gives the sender credit for more (P9).
            let needed = ((length - self.buffered) / CRUMB).min(PIECES_AT_ONCE);
            if self.small && needed > 1 {
                let mut pieces = [const { Bytes::new() }; PIECES_AT_ONCE];
                match self.recv.read_pieces(&mut pieces[..needed]).await? {
                    Some(read) => pieces.into_iter().take(read).for_each(|it| self.push(it)),
                    None => self.ended = true,
                }
                continue;
            }
            match self.recv.read_chunk(READ_MAX).await? {
                Some(piece) => self.push(piece),
                None => self.ended = true,
            }
        }
        Ok(true)
    }

    /// Bytes held.
    pub(crate) fn buffered(&self) -> usize {
        self.buffered
    }

    /// Bytes joined because the peer sent crumbs.
    pub(crate) fn joined(&self) -> u64 {
        self.joined
    }

    /// The first `N` bytes held, left in place.
    pub(crate) fn peek<const N: usize>(&self) -> [u8; N] {
        let mut out = [0; N];
        let mut have = 0;
        for piece in &self.pieces {
            let take = piece.len().min(N - have);
            out[have..have + take].copy_from_slice(&piece[..take]);
            have += take;
            if have == N {
                return out;
            }
        }
        panic!("peek of {N} bytes with {have} held: fill first");
    }

    /// Takes `length` held bytes as one buffer: a slice where they lie in one piece, else a copy.
    /// For heads and messages, not for payload.
    pub(crate) fn take(&mut self, length: usize) -> Bytes {
        assert!(length <= self.buffered, "take of more than is held");
        if length == 0 {
            return Bytes::new();
        }
        self.buffered -= length;
        let first = self.pieces.front_mut().expect("bytes are held");
        if first.len() > length {
            return first.split_to(length);
        }
        if first.len() == length {
            return self.pieces.pop_front().expect("bytes are held");
        }
        let mut out = BytesMut::with_capacity(length);
        self.buffered += length;
        self.each(length, |piece| out.extend_from_slice(&piece));
        out.freeze()
    }

    /// Takes `length` held bytes as the pieces they came in.
    pub(crate) fn take_pieces(&mut self, length: usize) -> Vec<Bytes> {
        assert!(length <= self.buffered, "take of more than is held");
        let mut out = Vec::new();
        self.each(length, |piece| out.push(piece));
        out
    }

    /// Forgets `length` held bytes.
    pub(crate) fn skip(&mut self, length: usize) {
        assert!(length <= self.buffered, "skip of more than is held");
        self.each(length, drop);
    }

    /// Tells the sender to stop.
    pub(crate) fn stop(&mut self, code: u64) {
        self.recv.stop(code);
    }

    fn each(&mut self, mut length: usize, mut give: impl FnMut(Bytes)) {
        self.buffered -= length;
        while length > 0 {
            let first = self.pieces.front_mut().expect("bytes are held");
            if first.len() > length {
                give(first.split_to(length));
                return;
            }
            length -= first.len();
            give(self.pieces.pop_front().expect("bytes are held"));
        }
    }

    fn push(&mut self, piece: Bytes) {
        if piece.is_empty() {
            return;
        }
        self.small = piece.len() < CRUMB;
        self.buffered += piece.len();
        self.pieces.push_back(piece);
        if self.pieces.len() > PIECES_MAX {
            self.join_crumbs();
        }
    }

    /// Joins runs of small pieces, so that a peer sending byte by byte cannot make us hold a
    /// datagram for each. A byte is copied at most twice.
    fn join_crumbs(&mut self) {
        let mut run = BytesMut::new();
        let mut out = VecDeque::with_capacity(self.pieces.len());
        for piece in self.pieces.drain(..) {
            if piece.len() < CRUMB {
                self.joined += piece.len() as u64;
                run.extend_from_slice(&piece);
                if run.len() < CRUMB {
                    continue;
                }
                out.push_back(run.split().freeze());
            } else {
                if !run.is_empty() {
                    out.push_back(run.split().freeze());
                }
                out.push_back(piece);
            }
        }
        if !run.is_empty() {
            out.push_back(run.freeze());
        }
        self.pieces = out;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Crumbs(Vec<Bytes>);

    impl RecvStream for Crumbs {
        async fn read_chunk(&mut self, _max: usize) -> Result<Option<Bytes>, NetError> {
            Ok(self.0.pop())
        }

        async fn read_pieces(&mut self, pieces: &mut [Bytes]) -> Result<Option<usize>, NetError> {
            let read = self.0.len().min(pieces.len());
            for piece in &mut pieces[..read] {
                *piece = self.0.pop().expect("counted");
            }
            Ok((read > 0).then_some(read))
        }

        fn stop(&mut self, _code: u64) {}
    }

    fn run<T>(future: impl Future<Output = T>) -> T {
        futures_util::FutureExt::now_or_never(future).expect("crumbs are ready")
    }

    #[test]
    fn takes_slices_where_it_can_and_pieces_as_they_came() {
        let first = Bytes::from_static(b"abcdef");
        let second = Bytes::from_static(b"ghij");
        let mut reader = Reader::new(Crumbs(vec![second.clone(), first.clone()]));
        assert_eq!(run(reader.fill(10)), Ok(true));
        assert_eq!(reader.peek::<8>(), *b"abcdefgh");
        let head = reader.take(2);
        assert_eq!(head.as_ptr(), first.as_ptr());
        let pieces = reader.take_pieces(6);
        assert_eq!(pieces, [&b"cdef"[..], b"gh"]);
        assert_eq!(pieces[1].as_ptr(), second.as_ptr());
        assert_eq!(reader.joined(), 0);
        assert_eq!(reader.take(2), &b"ij"[..]);
        assert_eq!(run(reader.fill(1)), Ok(false));
    }

    #[test]
    fn joins_what_spans_pieces() {
        let mut reader = Reader::new(Crumbs(vec![
            Bytes::from_static(b"cd"),
            Bytes::from_static(b"b"),
            Bytes::from_static(b"a"),
        ]));
        assert_eq!(run(reader.fill(4)), Ok(true));
        assert_eq!(reader.take(3), &b"abc"[..]);
        assert_eq!(reader.buffered(), 1);
        reader.skip(1);
        assert_eq!(reader.buffered(), 0);
    }

    #[test]
    fn small_pieces_that_are_read_at_once_keep_their_order_and_their_end() {
        let lengths = [1400, 1400, 3, 60_000, 1400, 1, 1400, 700, 5000, 1400];
        let bytes: Vec<u8> = (0..300_000u32).map(|at| (at % 251) as u8).collect();
        let mut all = Bytes::from(bytes.clone());
        let mut pieces = Vec::new();
        for length in lengths.iter().cycle() {
            if all.is_empty() {
                break;
            }
            pieces.push(all.split_to(all.len().min(*length)));
        }
        pieces.reverse();
        let mut reader = Reader::new(Crumbs(pieces));
        for asked in [4, 20_000, 1, 100_000, 150_000] {
            assert_eq!(run(reader.fill(asked)), Ok(true));
            let at =
                300_000 - reader.buffered() - reader.recv.0.iter().map(Bytes::len).sum::<usize>();
            assert_eq!(reader.take(asked), &bytes[at..at + asked]);
        }
        assert_eq!(run(reader.fill(300_000 - 270_005)), Ok(true));
        assert_eq!(run(reader.fill(300_000 - 270_004)), Ok(false));
    }

    #[test]
    fn crumbs_stay_bounded() {
        let bytes = 100_000;
        let mut reader = Reader::new(Crumbs(
            (0..bytes)
                .rev()
                .map(|i| Bytes::copy_from_slice(&[i as u8]))
                .collect(),
        ));
        assert_eq!(run(reader.fill(bytes)), Ok(true));
        assert!(reader.pieces.len() <= PIECES_MAX);
        assert!(reader.joined() <= 2 * bytes as u64);
        let all = reader.take(bytes);
        assert!(all.iter().enumerate().all(|(i, byte)| *byte == i as u8));
    }
}
