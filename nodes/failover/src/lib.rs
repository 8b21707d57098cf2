//! Who is active: the lease, who stands for it, and the order of a failover, without a clock, a disk or a network
//! (protocols.md section 2).
//!
//! * [`Grantor`]: a JournalNode's side: one lease, one reservation, a silence after the start.
//! * [`controller`]: a NameNode's side: candidate, holder, hand-over, health, operators' commands.
//! * [`fence`]: the order of a failover carried out by an operator: demote, else fence, else stop.
//!
//! The lease keeps two NameNodes from serving at the same time; the epoch of the quorum journal keeps the log whole
//! even if the lease were wrong. Neither replaces the other.
#![no_std]
#![forbid(unsafe_code)]
extern crate alloc;

pub mod controller;
pub mod fence;
mod grantor;
mod planted;

pub use controller::{
    ActiveHint, Command, CommandError, CommandId, Controller, ControllerConfig, Output,
    StepDownReason,
};
pub use grantor::{Grantor, GrantorConfig, Voter};
pub use planted::Planted;

/// SplitMix64: enough to spread back-offs.
pub(crate) fn next_random(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let x = *state;
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}
