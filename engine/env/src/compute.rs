//! Pure work beside a shard.

use core::future::Future;

/// Runs pure work (no clock, socket, file or task in it) on other cores than the shard's, so that a long computation
/// neither holds the shard up nor is bound to one core. A driver cuts the work into pieces that share nothing, begins a
/// few at a time and puts the results together. As it stands here everything runs where it is waited for, which is
/// what the simulator wants: one order of events.
pub trait Compute {
    /// How many pieces run at a time. Twice as many under way keep all of them busy; more only take memory.
    fn lanes(&self) -> usize {
        1
    }

    /// Begins `work`; the future gives its result. Who drops the future does without the result: the work may still
    /// run to its end. A panic in it is one of the shard's.
    fn compute<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> impl Future<Output = T> + 'static {
        async move { work() }
    }
}
