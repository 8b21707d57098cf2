//! What a pipeline node may acknowledge: the lesser of its own progress and that of the nodes behind it (E-22).

use alloc::collections::VecDeque;
use hadal_types::Tick;

/// Frames received and not acknowledged upstream, with how far this node and the next are. Frames are forwarded
/// one to one, so a sequence number means the same frame along the whole pipeline.
#[derive(Clone, Debug)]
pub struct AckBook {
    /// (sequence, block offset at the end of the frame), in order.
    open: VecDeque<(u64, u64)>,
    local: Option<u64>,
    downstream: Option<u64>,
    has_downstream: bool,
    acked: Option<(u64, u64)>,
}

impl AckBook {
    /// For a node in mid-pipeline, or for the last one.
    #[must_use]
    pub fn new(has_downstream: bool) -> Self {
        Self {
            open: VecDeque::new(),
            local: None,
            downstream: None,
            has_downstream,
            acked: None,
        }
    }

    /// Frames not yet acknowledged upstream.
    #[must_use]
    pub fn open_frames(&self) -> usize {
        self.open.len()
    }

    /// A frame arrived that ends at `end` bytes of the block.
    pub fn handle_received(&mut self, sequence: u64, end: u64) {
        if let Some((last, _)) = self.open.back() {
            assert!(sequence > *last, "frames arrive in order");
        }
        self.open.push_back((sequence, end));
    }

    /// This node did what the frames up to `sequence` ask for (verified and taken; flushed; finalised).
    pub fn handle_local(&mut self, sequence: u64) {
        self.local = self.local.max(Some(sequence));
    }

    /// The next node acknowledged everything up to `sequence`.
    pub fn handle_downstream(&mut self, sequence: u64) {
        self.downstream = self.downstream.max(Some(sequence));
    }

    /// Whether the nodes behind have acknowledged everything up to `sequence`. A replica is finalised only then,
    /// so that one finalised replica proves that every node of the pipeline has the bytes.
    #[must_use]
    pub fn downstream_has(&self, sequence: u64) -> bool {
        !self.has_downstream || self.downstream >= Some(sequence)
    }

    /// Whether the nodes behind have acknowledged everything that was received: when the stream to them ends now, it
    /// ended well.
    #[must_use]
    pub fn downstream_is_complete(&self) -> bool {
        self.open
            .back()
            .is_none_or(|(sequence, _)| self.downstream_has(*sequence))
    }

    /// The newest acknowledgement due upstream: (sequence, bytes of the block every node from here on has).
    pub fn poll_ack(&mut self) -> Option<(u64, u64)> {
        let reach = if self.has_downstream {
            self.local.min(self.downstream)
        } else {
            self.local
        };
        let mut newest = None;
        while let Some(&(sequence, end)) = self.open.front() {
            if Some(sequence) > reach {
                break;
            }
            newest = Some((sequence, end));
            self.open.pop_front();
        }
        if newest.is_some() {
            self.acked = newest;
        }
        newest
    }

    /// Bytes acknowledged upstream: what a reader of the open replica may see.
    #[must_use]
    pub fn visible_length(&self) -> u64 {
        self.acked.map_or(0, |(_, end)| end)
    }
}

/// Since when the next node owes an acknowledgement. A writer may pause as long as it likes (T-P19), so the time counts from
/// the oldest frame that is not acknowledged, or from the last acknowledgement while more are owed; never from one before
/// the pause.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct AckDebt {
    since: Option<Tick>,
}

impl AckDebt {
    /// A frame went to the next node.
    #[must_use]
    pub fn sent(self, now: Tick) -> Self {
        Self {
            since: self.since.or(Some(now)),
        }
    }

    /// The next node acknowledged; `complete` when nothing is left to acknowledge.
    #[must_use]
    pub fn after_ack(now: Tick, complete: bool) -> Self {
        Self {
            since: (!complete).then_some(now),
        }
    }

    /// When the next node has failed unless it acknowledges; while nothing is owed, when to look again.
    #[must_use]
    pub fn deadline(self, now: Tick, timeout_ms: u64) -> Tick {
        self.since.unwrap_or(now).after_ms(timeout_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_acknowledged_before_both_sides_have_it_e22() {
        let mut book = AckBook::new(true);
        for sequence in 0..4 {
            book.handle_received(sequence, (sequence + 1) * 100);
        }
        assert_eq!(book.poll_ack(), None);
        book.handle_local(2);
        assert_eq!(book.poll_ack(), None, "the node behind has nothing");
        book.handle_downstream(0);
        assert_eq!(book.poll_ack(), Some((0, 100)));
        book.handle_downstream(3);
        assert_eq!(book.poll_ack(), Some((2, 300)));
        assert_eq!(book.visible_length(), 300);
        assert_eq!(book.poll_ack(), None);
        assert!(
            book.downstream_is_complete(),
            "the nodes behind may be done before this one"
        );
        book.handle_local(3);
        assert_eq!(book.poll_ack(), Some((3, 400)));
        assert_eq!(book.open_frames(), 0);
    }

    #[test]
    fn the_last_node_acknowledges_what_it_has() {
        let mut book = AckBook::new(false);
        book.handle_received(0, 10);
        book.handle_received(1, 20);
        assert!(book.downstream_has(7));
        book.handle_local(1);
        assert_eq!(book.poll_ack(), Some((1, 20)));
    }

    #[test]
    fn t_p19_a_pause_of_the_writer_is_not_the_next_nodes() {
        let at = Tick::from_ms;
        let debt = AckDebt::default().sent(at(0));
        assert_eq!(debt.deadline(at(5), 60), at(60));
        let paid = AckDebt::after_ack(at(10), true);
        assert!(paid.deadline(at(69), 60) > at(69), "nothing is owed");
        let after_pause = paid.sent(at(69)).sent(at(80));
        assert_eq!(
            after_pause.deadline(at(90), 60),
            at(129),
            "the oldest frame"
        );
        let more = AckDebt::after_ack(at(100), false);
        assert_eq!(more.deadline(at(110), 60), at(160));
    }
}
