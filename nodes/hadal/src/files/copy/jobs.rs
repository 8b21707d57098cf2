//! Files worked on side by side, a bounded number at a time.

use std::future::Future;
use tokio::task::JoinSet;

/// Tasks under way.
pub(super) struct Jobs {
    set: JoinSet<()>,
    limit: usize,
}

impl Jobs {
    /// At most `limit` at once.
    pub(super) fn new(limit: usize) -> Self {
        Self {
            set: JoinSet::new(),
            limit,
        }
    }

    /// Starts one, when there is room.
    pub(super) async fn start(&mut self, job: impl Future<Output = ()> + Send + 'static) {
        while self.set.len() >= self.limit {
            self.one_ends().await;
        }
        self.set.spawn(job);
    }

    /// Returns when all have ended.
    pub(super) async fn finish(mut self) {
        while !self.set.is_empty() {
            self.one_ends().await;
        }
    }

    async fn one_ends(&mut self) {
        if let Some(Err(error)) = self.set.join_next().await
            && let Ok(panic) = error.try_into_panic()
        {
            std::panic::resume_unwind(panic);
        }
    }
}
