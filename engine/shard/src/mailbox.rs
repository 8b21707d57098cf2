//! Bounded channels between shards (and from other threads to a shard).
//!
//! Waking a sleeping thread costs some 30 us by any means, so what goes through here is coarse:
//! a chunk of a file, a command, not a packet.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// A channel that holds up to `capacity` values.
///
/// # Panics
/// When `capacity` is zero.
#[must_use]
pub fn mailbox<T>(capacity: usize) -> (Sender<T>, Receiver<T>) {
    let (sender, receiver) = async_channel::bounded(capacity);
    let high_water = Arc::new(AtomicUsize::new(0));
    (
        Sender {
            channel: sender,
            high_water: Arc::clone(&high_water),
        },
        Receiver {
            channel: receiver,
            high_water,
        },
    )
}

/// Why a value was not taken. It comes back with the error.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum TrySendError<T> {
    /// The mailbox is at its capacity.
    #[error("the mailbox is full")]
    Full(T),
    /// The receiver is gone.
    #[error("the mailbox's receiver is gone")]
    Closed(T),
}

/// The receiver is gone; the value comes back.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the mailbox's receiver is gone")]
pub struct SendError<T>(pub T);

/// Sending side: any thread, any number of clones.
#[derive(Debug)]
pub struct Sender<T> {
    channel: async_channel::Sender<T>,
    high_water: Arc<AtomicUsize>,
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        Self {
            channel: self.channel.clone(),
            high_water: Arc::clone(&self.high_water),
        }
    }
}

impl<T> Sender<T> {
    /// Puts a value in at once or gives it back.
    pub fn try_send(&self, value: T) -> Result<(), TrySendError<T>> {
        match self.channel.try_send(value) {
            Ok(()) => {
                self.note();
                Ok(())
            }
            Err(async_channel::TrySendError::Full(value)) => Err(TrySendError::Full(value)),
            Err(async_channel::TrySendError::Closed(value)) => Err(TrySendError::Closed(value)),
        }
    }

    /// Waits for room. A dropped call has not sent.
    pub async fn send(&self, value: T) -> Result<(), SendError<T>> {
        self.channel
            .send(value)
            .await
            .map_err(|error| SendError(error.0))?;
        self.note();
        Ok(())
    }

    /// Whether the receiver is gone.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.channel.is_closed()
    }

    /// The most values it ever held at once, as far as senders saw; for metrics.
    #[must_use]
    pub fn high_water(&self) -> usize {
        self.high_water.load(Ordering::Relaxed)
    }

    fn note(&self) {
        // The receiver may have taken values since: what counts is never above what was held.
        self.high_water
            .fetch_max(self.channel.len(), Ordering::Relaxed);
    }
}

/// Receiving side: one per mailbox.
#[derive(Debug)]
pub struct Receiver<T> {
    channel: async_channel::Receiver<T>,
    high_water: Arc<AtomicUsize>,
}

impl<T> Receiver<T> {
    /// The next value; `None` once every sender is gone and the mailbox is empty. A dropped call
    /// has taken nothing.
    pub async fn recv(&mut self) -> Option<T> {
        self.channel.recv().await.ok()
    }

    /// The next value if there is one now.
    pub fn try_recv(&mut self) -> Option<T> {
        self.channel.try_recv().ok()
    }

    /// Values waiting now.
    #[must_use]
    pub fn len(&self) -> usize {
        self.channel.len()
    }

    /// Whether nothing waits now.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.channel.is_empty()
    }

    /// See [`Sender::high_water`].
    #[must_use]
    pub fn high_water(&self) -> usize {
        self.high_water.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;

    #[test]
    fn a_full_mailbox_gives_the_value_back_and_remembers_how_full_it_was() {
        let (sender, mut receiver) = mailbox(2);
        assert_eq!(sender.high_water(), 0);
        sender.try_send(1).unwrap();
        sender.try_send(2).unwrap();
        assert_eq!(sender.try_send(3), Err(TrySendError::Full(3)));
        assert!(sender.send(3).now_or_never().is_none());
        assert_eq!(receiver.try_recv(), Some(1));
        assert_eq!(sender.send(3).now_or_never(), Some(Ok(())));
        assert_eq!(
            (
                receiver.try_recv(),
                receiver.try_recv(),
                receiver.try_recv()
            ),
            (Some(2), Some(3), None)
        );
        assert_eq!(receiver.high_water(), 2);
    }

    #[test]
    fn both_sides_see_the_other_go() {
        let (sender, mut receiver) = mailbox(1);
        sender.try_send(7).unwrap();
        drop(sender);
        assert_eq!(receiver.recv().now_or_never(), Some(Some(7)));
        assert_eq!(receiver.recv().now_or_never(), Some(None));
        let (sender, receiver) = mailbox(1);
        drop(receiver);
        assert!(sender.is_closed());
        assert_eq!(sender.try_send(1), Err(TrySendError::Closed(1)));
        assert_eq!(sender.send(2).now_or_never(), Some(Err(SendError(2))));
    }
}
