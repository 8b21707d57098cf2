//! What the balancer moves: from which DataNodes to which, how much, and which blocks (HDFS's `Balancer` and
//! `Dispatcher`), without a clock, a disk or a network.
//!
//! * [`plan`]: one iteration's tasks from how full the DataNodes are.
//! * [`Dispatch`]: the blocks for those tasks, so many at once, never two replicas of a block on one DataNode, never a
//!   block on fewer racks than before.
//!
//! Nothing here deletes a replica. A move is a copy with a hint; the NameNode hears of the copy and decides which replica
//! is the one too many, so that a block never has fewer good replicas than before, whatever happens meanwhile.
#![no_std]
#![forbid(unsafe_code)]
extern crate alloc;

mod dispatch;
mod plan;

pub use dispatch::{Candidate, Dispatch, Limits, Move};
pub use plan::{NodeUsage, Plan, PlanOptions, Policy, Task, plan};
