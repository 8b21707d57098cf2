//! The transport over real loopback UDP, and what runs on it also over memory.

mod append;
mod calls;
mod common;
mod decode;
mod endpoint;
mod identity;
mod memory;
mod roles;
mod trust;
