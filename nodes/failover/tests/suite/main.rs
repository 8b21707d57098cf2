//! The failover core: the model's counterexamples, the rules one by one, and random walks of the real cores.
#![allow(
    unreachable_pub,
    reason = "modules of one test binary, seen by each other only"
)]

mod durations;
mod explore;
mod fencing;
mod model;
mod roles;
mod table;
mod world;
