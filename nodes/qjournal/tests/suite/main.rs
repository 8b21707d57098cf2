//! The quorum journal's scenarios on the real cores.
#![allow(
    unreachable_pub,
    reason = "modules of one test binary, seen by each other only"
)]

mod explore;
mod faults;
mod journal;
mod learner;
mod model;
mod quorum;
mod tail;
mod world;
