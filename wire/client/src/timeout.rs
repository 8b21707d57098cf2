//! A future with a deadline on the seam's clock.

use futures_util::future::{Either, select};
use hadal_env::Clock;
use hadal_types::Tick;
use std::pin::pin;

/// The future's value, or `None` when the deadline comes first (the future is dropped).
pub(crate) async fn until<C: Clock, T>(
    clock: &C,
    deadline: Tick,
    future: impl Future<Output = T>,
) -> Option<T> {
    match select(pin!(future), pin!(clock.sleep_until(deadline))).await {
        Either::Left((value, _)) => Some(value),
        Either::Right(_) => None,
    }
}
