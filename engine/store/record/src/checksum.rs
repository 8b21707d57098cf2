//! The one function behind which every CRC32C of Hadal is computed (architecture.md, decision 10).

/// CRC32C (Castagnoli) of `data`.
#[must_use]
pub fn crc32c(data: &[u8]) -> u32 {
    crc32c::crc32c(data)
}

/// CRC32C of the bytes so far, whose checksum is `crc`, followed by `data`.
#[must_use]
pub fn crc32c_append(crc: u32, data: &[u8]) -> u32 {
    crc32c::crc32c_append(crc, data)
}
