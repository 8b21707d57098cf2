//! Orders to one DataNode: held until their cause is committed, numbered, repeated until executed.

use alloc::collections::{BTreeMap, VecDeque};
use alloc::vec::Vec;
use hadal_proto::datanode::{Action, Command};
use hadal_types::{Block, Epoch, Tick, TxId};

/// Orders waiting for the barrier; what does not fit is decided again after its time-out.
const WAITING_MAX: usize = 4_096;
/// Copies of one order.
const COPIES_MAX: usize = 64;
/// Orders sent and not yet executed; more are not sent.
const SENT_MAX: usize = 16;

/// The command stream to one DataNode: one count per epoch (protocols.md section 2).
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    epoch: Epoch,
    sequence: u64,
    /// In order of cause, since causes only rise.
    waiting: VecDeque<(TxId, Action)>,
    sent: VecDeque<Command>,
}

impl Outbox {
    /// A new epoch: everything of the old one is void.
    pub(crate) fn restart(&mut self, epoch: Epoch) {
        *self = Self {
            epoch,
            ..Self::default()
        };
    }

    /// Numbers go on above this one. A DataNode that was forgotten and comes back within the epoch remembers the
    /// numbers it had, and would take lower ones for repetitions.
    pub(crate) fn number_above(&mut self, sequence: u64) {
        self.sequence = self.sequence.max(sequence);
    }

    /// The highest number given.
    pub(crate) fn last_number(&self) -> u64 {
        self.sequence
    }

    pub(crate) fn push(&mut self, cause: TxId, mut action: Action) {
        // Copies of one round are one order: only so many are under way at once.
        if let Action::Transfer { work } = &mut action
            && let Some((last, Action::Transfer { work: before })) = self.waiting.back_mut()
            && *last == cause
            && before.len() + work.len() <= COPIES_MAX
        {
            before.append(work);
            return;
        }
        if self.waiting.len() < WAITING_MAX {
            self.waiting.push_back((cause, action));
        }
    }

    /// The DataNode executed up to `executed` of `epoch`.
    pub(crate) fn acknowledge(&mut self, epoch: Epoch, executed: u64) {
        if epoch == self.epoch {
            while self
                .sent
                .front()
                .is_some_and(|command| command.sequence <= executed)
            {
                self.sent.pop_front();
            }
        }
    }

    pub(crate) fn has_room(&self) -> bool {
        self.sent.len() < SENT_MAX
    }

    /// Numbers an order whose cause is committed; it goes out with the next [`Self::take`].
    pub(crate) fn send(&mut self, action: Action) {
        self.sequence += 1;
        self.sent.push_back(Command {
            epoch: self.epoch,
            sequence: self.sequence,
            action,
        });
    }

    /// Everything that may go out now: what was sent and not executed, and what `committed` covers.
    pub(crate) fn take(&mut self, committed: TxId) -> Vec<Command> {
        while self.has_room()
            && self
                .waiting
                .front()
                .is_some_and(|(cause, _)| *cause <= committed)
            && let Some((_, action)) = self.waiting.pop_front()
        {
            self.send(action);
        }
        self.sent.iter().cloned().collect()
    }
}

/// One replica to delete.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Deletion {
    pub(crate) block: Block,
    pub(crate) storage: u32,
    cause: TxId,
    /// When it was sent last, unless it is to be sent (again).
    sent: Option<Tick>,
    /// The DataNode may know of it.
    told: bool,
}

/// Replicas one DataNode has to delete: listed until it reports them gone, sent again after a time-out (Q7).
#[derive(Debug, Default)]
pub(crate) struct Deletions {
    listed: BTreeMap<u64, Deletion>,
    unsent: VecDeque<u64>,
    sent: VecDeque<(Tick, u64)>,
}

impl Deletions {
    pub(crate) fn len(&self) -> usize {
        self.listed.len()
    }

    pub(crate) fn clear(&mut self) {
        *self = Self::default();
    }

    /// Lists a replica; one of the same block and stamp stays as it is.
    pub(crate) fn add(&mut self, key: u64, block: Block, storage: u32, cause: TxId) {
        if self
            .listed
            .get(&key)
            .is_some_and(|old| old.block.generation_stamp == block.generation_stamp)
        {
            return;
        }
        let deletion = Deletion {
            block,
            storage,
            cause,
            sent: None,
            told: false,
        };
        self.listed.insert(key, deletion);
        self.unsent.push_back(key);
    }

    pub(crate) fn get(&self, key: u64) -> Option<&Deletion> {
        self.listed.get(&key)
    }

    /// Takes back a deletion that was never sent; `false` when it was, or is not listed.
    pub(crate) fn revoke(&mut self, key: u64) -> bool {
        let unsent = self.listed.get(&key).is_some_and(|it| !it.told);
        if unsent {
            self.listed.remove(&key);
        }
        unsent
    }

    /// The replica is gone.
    pub(crate) fn done(&mut self, key: u64) {
        self.listed.remove(&key);
    }

    /// Keys in a range listed for a storage.
    pub(crate) fn between(&self, (first, last): (u64, u64), storage: u32) -> Vec<u64> {
        self.listed
            .range(first..=last)
            .filter(|(_, deletion)| deletion.storage == storage)
            .map(|(key, _)| *key)
            .collect()
    }

    /// Everything listed for a storage, in order of key.
    pub(crate) fn of(&self, storage: u32) -> impl Iterator<Item = (u64, &Block)> {
        self.listed
            .iter()
            .filter(move |(_, deletion)| deletion.storage == storage)
            .map(|(key, deletion)| (*key, &deletion.block))
    }

    /// After a reconnect everything sent is sent again: the DataNode may have forgotten it (Q7).
    pub(crate) fn resend_all(&mut self) {
        while let Some((_, key)) = self.sent.pop_front() {
            self.again(key);
        }
    }

    fn again(&mut self, key: u64) {
        if let Some(deletion) = self.listed.get_mut(&key)
            && deletion.sent.take().is_some()
        {
            self.unsent.push_back(key);
        }
    }

    /// Replicas to delete now: cause committed, at most `limit`; those sent before `now - timeout` and still listed
    /// are sent again.
    pub(crate) fn take(
        &mut self,
        now: Tick,
        committed: TxId,
        timeout_ms: u64,
        limit: usize,
    ) -> Vec<Block> {
        while let Some((sent, key)) = self.sent.front().copied()
            && now.ms_since(sent) >= timeout_ms
        {
            self.sent.pop_front();
            if self
                .listed
                .get(&key)
                .is_some_and(|deletion| deletion.sent == Some(sent))
            {
                self.again(key);
            }
        }
        let mut blocks = Vec::new();
        let mut held = Vec::new();
        while blocks.len() < limit
            && let Some(key) = self.unsent.pop_front()
        {
            let Some(deletion) = self.listed.get_mut(&key) else {
                continue;
            };
            if deletion.sent.is_some() {
                continue;
            }
            if deletion.cause > committed {
                // Causes rise along the queue, but for the few that are sent again.
                held.push(key);
                break;
            }
            deletion.sent = Some(now);
            deletion.told = true;
            blocks.push(deletion.block);
            self.sent.push_back((now, key));
        }
        for key in held {
            self.unsent.push_front(key);
        }
        blocks
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hadal_types::{BlockId, GenerationStamp};

    fn block(id: u64) -> Block {
        Block {
            id: BlockId(id),
            generation_stamp: GenerationStamp(1),
            length: 1,
        }
    }

    #[test]
    fn commands_wait_for_their_cause_and_repeat_until_executed() {
        let mut outbox = Outbox::default();
        outbox.restart(Epoch(4));
        outbox.push(TxId(5), Action::ReportNow);
        outbox.push(TxId(7), Action::ReportNow);
        assert!(outbox.take(TxId(4)).is_empty(), "not committed");
        assert_eq!(outbox.take(TxId(6)).len(), 1);
        let both = outbox.take(TxId(7));
        assert_eq!(
            both.iter().map(|c| c.sequence).collect::<Vec<_>>(),
            [1, 2],
            "the first is repeated"
        );
        outbox.acknowledge(Epoch(3), 2);
        assert_eq!(outbox.take(TxId(7)).len(), 2, "another epoch's count");
        outbox.acknowledge(Epoch(4), 1);
        assert_eq!(outbox.take(TxId(7))[0].sequence, 2);
        outbox.acknowledge(Epoch(4), 2);
        assert!(outbox.take(TxId(9)).is_empty());
    }

    #[test]
    fn t_q7_deletions_stay_listed_until_done_and_are_sent_again() {
        let mut deletions = Deletions::default();
        let now = Tick::from_ms(10);
        for id in 1..=3 {
            deletions.add(id, block(id), 0, TxId(id));
        }
        assert_eq!(deletions.take(now, TxId(2), 100, 10), [block(1), block(2)]);
        assert!(deletions.take(now, TxId(2), 100, 10).is_empty());
        deletions.done(1);
        assert_eq!(
            deletions.take(now.after_ms(50), TxId(3), 100, 10),
            [block(3)]
        );
        assert_eq!(
            deletions.take(now.after_ms(100), TxId(3), 100, 10),
            [block(2)],
            "time-out"
        );
        deletions.resend_all();
        assert_eq!(deletions.take(now.after_ms(101), TxId(3), 100, 1).len(), 1);
        assert_eq!(deletions.len(), 2);
        assert!(!deletions.revoke(2), "the DataNode may know of it");
        deletions.add(4, block(4), 0, TxId(4));
        assert!(deletions.revoke(4) && !deletions.revoke(4));
    }
}
