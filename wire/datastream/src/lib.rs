//! The pure mind of a client: how a block stream survives its DataNodes, which replica to read next, which
//! NameNode to ask next, and how long to go on trying.
//!
//! No clock, no socket, no checksum: the driver (`wire/client`) brings time, bytes and connections.
#![no_std]
#![forbid(unsafe_code)]
extern crate alloc;

pub mod avoided;
pub mod block_stream;
pub mod doubts;
pub mod failover;
pub mod local_pace;
pub mod observers;
pub mod packet;
pub mod replacement;
pub mod replica_choice;

pub use avoided::AvoidedNodes;
pub use block_stream::{BlockStream, PipelineError, Recovery};
pub use doubts::Doubts;
pub use failover::{Failover, FailoverOptions, LastWord, Verdict};
pub use local_pace::LocalPace;
pub use observers::{Observers, ReadFrom};
pub use packet::{Packet, Packetizer};
pub use replacement::{REPLACEMENT_TRIES_MAX, ReplaceOptions, ReplacePolicy, SlowNodes};
pub use replica_choice::ReplicaChoice;
