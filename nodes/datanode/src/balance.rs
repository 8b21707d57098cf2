//! Copies for the balancer: as many at once as allowed, and no faster (HDFS's `DataTransferThrottler`).

use crate::node::Node;
use hadal_env::Env;
use hadal_proto::{Fault, FaultClass};
use hadal_types::Tick;
use std::cell::Cell;
use std::rc::Rc;

/// A piece is paid for in steps of this long, so that a new rate is felt soon.
const STEP_MS: u64 = 100;

/// What a DataNode may spend on balancing: one budget for all copies, sent and received.
pub(crate) struct BalanceBudget {
    bytes_per_s: Cell<u64>,
    /// Everything charged so far is paid by then.
    paid_at: Cell<Tick>,
    moves: Cell<u32>,
}

impl BalanceBudget {
    pub(crate) fn new(bytes_per_s: u64) -> Self {
        Self {
            bytes_per_s: Cell::new(bytes_per_s.max(1)),
            paid_at: Cell::new(Tick(0)),
            moves: Cell::new(0),
        }
    }

    pub(crate) fn bytes_per_s(&self) -> u64 {
        self.bytes_per_s.get()
    }

    pub(crate) fn set_bytes_per_s(&self, bytes_per_s: u64) {
        self.bytes_per_s.set(bytes_per_s.max(1));
    }

    /// Charges up to `bytes`, no more than one step is worth: how many, and when they are paid.
    fn charge(&self, now: Tick, bytes: u64) -> (u64, Tick) {
        let rate = self.bytes_per_s.get();
        let part = bytes.min((rate.saturating_mul(STEP_MS) / 1_000).max(1));
        let nanos = u128::from(part) * 1_000_000_000 / u128::from(rate);
        let nanos = u64::try_from(nanos).unwrap_or(u64::MAX);
        let from = self.paid_at.get().max(now);
        let paid_at = Tick(from.0.saturating_add(nanos));
        self.paid_at.set(paid_at);
        (part, paid_at)
    }
}

/// Counts one copy for the balancer for as long as it lives.
pub(crate) struct BalanceMove<E: Env>(Rc<Node<E>>);

impl<E: Env> Drop for BalanceMove<E> {
    fn drop(&mut self) {
        let moves = &self.0.balance.moves;
        moves.set(moves.get() - 1);
    }
}

impl<E: Env> Node<E> {
    /// Room for one more copy for the balancer.
    pub(crate) fn begin_move(self: &Rc<Self>) -> Result<BalanceMove<E>, Fault> {
        let (moves, most) = (&self.balance.moves, self.config.balance_moves_max);
        if moves.get() >= most {
            let message = format!(
                "{} makes {most} copies for the balancer, the limit of datanode.balance_moves_max",
                self.config.name
            );
            return Err(Fault::new(FaultClass::Busy, message).with_value(1_000));
        }
        moves.set(moves.get() + 1);
        Ok(BalanceMove(Rc::clone(self)))
    }

    /// Waits until the budget has room for what a copy for the balancer moved.
    pub(crate) async fn pay(&self, bytes: u64) {
        let mut left = bytes;
        while left > 0 {
            let (part, paid_at) = self.balance.charge(self.env.now(), left);
            left -= part;
            self.env.sleep_until(paid_at).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_paid_for_one_after_the_other_in_steps() {
        let budget = BalanceBudget::new(1_000_000);
        let now = Tick::from_ms(5_000);
        assert_eq!(
            budget.charge(now, 250_000),
            (100_000, Tick::from_ms(5_100)),
            "no more than a step"
        );
        assert_eq!(
            budget.charge(now, 50_000),
            (50_000, Tick::from_ms(5_150)),
            "behind the first"
        );
        // What was not used is not saved up.
        let later = Tick::from_ms(9_000);
        assert_eq!(budget.charge(later, 1_000), (1_000, Tick::from_ms(9_001)));
        budget.set_bytes_per_s(10_000_000);
        assert_eq!(
            budget.charge(later, u64::MAX),
            (1_000_000, Tick::from_ms(9_101))
        );
        budget.set_bytes_per_s(0);
        assert_eq!(budget.bytes_per_s(), 1);
        assert_eq!(budget.charge(later, 5).0, 1);
    }
}
