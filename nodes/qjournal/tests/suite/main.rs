//! The quorum journal's scenarios on the real cores.
#![allow(
    unreachable_pub,
    reason = "modules of one test binary, seen by each other only"
)]

mod faults;
mod journal;
mod quorum;
mod world;
