//! How long a block stream waits for what may never come: a buffer, or a peer that takes its bytes.

use crate::node::Node;
use futures_util::future::{Either, select};
use hadal_env::Env;
use hadal_proto::{Fault, FaultClass};
use std::fmt;
use std::future::Future;
use std::pin::pin;

/// A writer of which nothing came for so long gives its buffers back; what it goes on with reads them again.
pub(crate) const IDLE_MS: u64 = 1_000;

impl<E: Env> Node<E> {
    /// What this node may take to find a buffer, and to use it: less than its peers wait for an answer.
    pub(crate) fn work_timeout_ms(&self) -> u64 {
        (self.config.stream_timeout_ms / 2).max(1)
    }

    /// How long a reader may take for one part of what it asked for. Longer than others have, since a program may stop
    /// reading for a while; but what waits for it occupies buffers.
    pub(crate) fn send_timeout_ms(&self) -> u64 {
        self.config.stream_timeout_ms.saturating_mul(8)
    }

    /// The outcome of `work`, `None` when it has none after this long.
    pub(crate) async fn within<T>(&self, ms: u64, work: impl Future<Output = T>) -> Option<T> {
        let deadline = self.env.now().after_ms(ms);
        match select(pin!(work), pin!(self.env.sleep_until(deadline))).await {
            Either::Left((outcome, _)) => Some(outcome),
            Either::Right(_) => None,
        }
    }

    /// Says that there was no buffer in time for work on this block.
    pub(crate) fn busy(&self, block: impl fmt::Display) -> Fault {
        let message = format!(
            "{} found no buffer, or its disk no time, for {block} within {} ms; \
             datanode.buffer_pool bounds the buffers of all streams",
            self.config.name,
            self.work_timeout_ms()
        );
        Fault::new(FaultClass::Busy, message).with_value(100)
    }
}
