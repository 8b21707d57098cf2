//! A standby: a tail, and what it has read.

use super::{Caller, World, framing, info, namenode};
use bytes::Bytes;
use hadal_proto::qjournal::{CommitMark, Response};
use hadal_proto::{Fault, FaultClass};
use hadal_qjournal::tail::{Output, Tail, TailCallId, TailConfig};
use hadal_types::TxId;
use std::collections::VecDeque;

pub struct Standby {
    pub tail: Tail,
    /// Records read, from the first on.
    pub read: Vec<Bytes>,
    /// How often edits were missing.
    pub missing: usize,
    /// Whom it asked.
    pub asked: Vec<usize>,
    pub(super) replies: VecDeque<(TailCallId, Result<Response, Fault>)>,
}

impl World {
    /// A standby that has applied nothing yet.
    pub fn follow(&mut self) {
        let config = TailConfig::new(self.names(), info().namespace_id, framing::digest);
        self.standby = Some(Standby {
            tail: Tail::new(config, CommitMark::default()),
            read: Vec::new(),
            missing: 0,
            asked: Vec::new(),
            replies: VecDeque::new(),
        });
    }

    /// Does what the standby asks for until it waits.
    pub(super) fn pump_standby(&mut self) {
        loop {
            let now = self.now;
            let Some(standby) = &mut self.standby else {
                return;
            };
            if let Some((id, outcome)) = standby.replies.pop_front() {
                standby.tail.handle_reply(now, id, outcome);
                continue;
            }
            match standby.tail.poll_output() {
                None => return,
                Some(Output::Call { jn, id, request }) => {
                    standby.asked.push(jn);
                    let node = &mut self.nodes[jn];
                    match node.acceptor.as_mut().filter(|_| node.up) {
                        Some(acceptor) => {
                            let ticket = acceptor.handle_call(now, &namenode(), request);
                            node.callers.insert(ticket, Caller::Tail(id));
                            self.settle(jn);
                        }
                        None => {
                            let fault = Fault::new(FaultClass::Retry, "not connected");
                            standby.tail.handle_reply(now, id, Err(fault));
                        }
                    }
                }
                Some(Output::Edits(edits)) => {
                    assert_eq!(edits.first.0, standby.read.len() as u64 + 1, "in order");
                    standby.read.extend(framing::split(&edits.records));
                    // P4: a standby applies committed edits only.
                    let last = TxId(standby.read.len() as u64);
                    let read = standby.read.clone();
                    self.check_committed(last, &read);
                }
                Some(Output::Missing { .. }) => standby.missing += 1,
            }
        }
    }

    /// Every one of these records stands on a majority, or some writer was told that it does, or a recovery kept it.
    fn check_committed(&self, last: TxId, read: &[Bytes]) {
        for (index, record) in read.iter().enumerate() {
            let txid = TxId(index as u64 + 1);
            let holders = self.nodes.iter().filter(|node| {
                let mut segments = node.disk.segments.values();
                segments.any(|segment| {
                    segment.first <= txid
                        && txid <= segment.last()
                        && segment.slice(txid, txid) == record[..]
                })
            });
            let known = self.acked.get(&txid) == Some(record)
                || self.decided.get(index) == Some(record)
                || holders.count() > self.nodes.len() / 2;
            assert!(
                known,
                "a standby read {txid} of {last}, which is not committed"
            );
        }
    }

    /// Runs until the standby has read up to `last`; false when it does not get there.
    pub fn followed(&mut self, last: u64) -> bool {
        self.run(|world| {
            let standby = world.standby.as_ref().expect("follows");
            standby.read.len() as u64 >= last
        })
    }
}
