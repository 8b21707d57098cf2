//! Chunk checksums of a packet, over data that lies in several pieces.

use bytes::{BufMut, Bytes, BytesMut};

/// One little-endian CRC32C per `chunk` bytes of the pieces taken as one run.
pub(crate) fn compute(pieces: &[Bytes], chunk: usize) -> Bytes {
    let length: usize = pieces.iter().map(Bytes::len).sum();
    let mut out = BytesMut::with_capacity(length.div_ceil(chunk) * 4);
    for_each_chunk(pieces, chunk, |_, crc| out.put_u32_le(crc));
    out.freeze()
}

/// Compares the pieces with their checksums; the first bad chunk's index, if any.
///
/// `Err(usize::MAX)` when there are too many or too few checksums.
pub(crate) fn verify(pieces: &[Bytes], chunk: usize, checksums: &[u8]) -> Result<(), usize> {
    let length: usize = pieces.iter().map(Bytes::len).sum();
    if checksums.len() != length.div_ceil(chunk) * 4 {
        return Err(usize::MAX);
    }
    let mut bad = None;
    for_each_chunk(pieces, chunk, |index, crc| {
        if checksums[index * 4..index * 4 + 4] != crc.to_le_bytes() && bad.is_none() {
            bad = Some(index);
        }
    });
    bad.map_or(Ok(()), Err)
}

fn for_each_chunk(pieces: &[Bytes], chunk: usize, mut each: impl FnMut(usize, u32)) {
    let (mut crc, mut filled, mut index) = (0, 0, 0);
    for piece in pieces {
        let mut rest: &[u8] = piece;
        while !rest.is_empty() {
            let take = rest.len().min(chunk - filled);
            crc = crc32c::crc32c_append(crc, &rest[..take]);
            rest = &rest[take..];
            filled += take;
            if filled == chunk {
                each(index, crc);
                (crc, filled, index) = (0, 0, index + 1);
            }
        }
    }
    if filled > 0 {
        each(index, crc);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksums_do_not_depend_on_how_data_is_cut() {
        let data: Bytes = (0..5000u32).map(|n| (n * 7) as u8).collect();
        let whole = compute(std::slice::from_ref(&data), 512);
        assert_eq!(whole.len(), 10 * 4);
        let mut pieces = Vec::new();
        let mut rest = data.clone();
        while !rest.is_empty() {
            pieces.push(rest.split_to(rest.len().min(333)));
        }
        assert_eq!(compute(&pieces, 512), whole);
        assert_eq!(verify(&pieces, 512, &whole), Ok(()));
        let mut wrong = data.to_vec();
        wrong[1030] ^= 1;
        assert_eq!(verify(&[Bytes::from(wrong)], 512, &whole), Err(2));
        assert_eq!(verify(&pieces, 512, &whole[4..]), Err(usize::MAX));
    }
}
