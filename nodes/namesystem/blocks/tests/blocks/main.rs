//! The block manager from outside: what a namesystem and DataNodes would see.

mod balance;
mod barrier;
mod datanodes;
mod decommission;
mod digest;
mod failed_copies;
mod maintenance;
mod placement;
mod recovery;
mod redundancy;
mod reports;
mod restart;
mod safe_mode;
mod states;
mod world;
