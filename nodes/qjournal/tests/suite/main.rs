//! The quorum journal's scenarios on the real cores.
#![allow(
    unreachable_pub,
    reason = "modules of one test binary, seen by each other only"
)]

mod quorum;
mod world;
