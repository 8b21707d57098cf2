//! Every message two processes of Hadal exchange, and every edit, as plain values with one
//! hand-kept encoding.
//!
//! * [`codec`]: the encoding. Integers are little-endian and fixed; strings, byte strings and lists carry
//!   a `u32` count that is capped by what is left of the frame, so a decoder never allocates more than a
//!   small multiple of the bytes it was given.
//! * [`frame`]: what stands on a stream: prelude, call frames, append frames.
//! * one module per protocol: a request and a response enum, the roles that may call it, its version.
#![no_std]
#![forbid(unsafe_code)]
extern crate alloc;

pub mod admin;
pub mod client;
pub mod codec;
pub mod datanode;
pub mod edit;
pub mod election;
pub mod fault;
pub mod frame;
pub mod ha;
pub mod image;
mod primitives;
pub mod protocol;
pub mod qjournal;
pub mod transfer;

pub use codec::{DecodeError, Input, Wire, decode, encode};
pub use fault::{Fault, FaultClass};
pub use protocol::{Protocol, ProtocolId};
