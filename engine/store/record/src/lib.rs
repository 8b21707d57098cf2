//! Small durable records and the checksum everything durable uses.
#![forbid(unsafe_code)]
pub mod checksum;
