//! Reading the log from several JournalNodes, none of which needs to have all of it (T-Q2..T-Q4, T-Q13..T-Q18).
//!
//! One [`Reader`] is one pass: it asks all nodes what they have, and then fetches run after run from any node that has
//! the next txid. Every run is verified and must continue the digest of the run before, so a node with another log or
//! damaged records is found out and passed over. A pass ends at the last edit that may be read, or with an error that names
//! what is missing; it never ends silently short (Q19, Q21).
//!
//! How far there is to read only a majority can tell; an end that is given needs nobody to confirm it, and is read from
//! finalised segments alone: what they hold is decided, and recovery has finalised everything up to the end at a majority.

use crate::{DigestFn, majority};
use alloc::collections::VecDeque;
use alloc::string::{String, ToString};
use alloc::vec;
use alloc::vec::Vec;
use hadal_proto::Fault;
use hadal_proto::qjournal::{
    Call, CommitMark, Edits, LogDigest, Manifest, READ_CAP, Request, Response, SegmentState,
};
use hadal_types::TxId;
use thiserror::Error;

/// How far a pass reads.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Until {
    /// To the highest edit known to be committed: what a standby applies (Q20).
    Committed,
    /// Exactly to this end, as recovery decided it: what a new active applies.
    End(CommitMark),
    /// To the last edit any answering node holds. For tools: such edits may still vanish (T-Q16).
    Held,
}

/// One thing to do for a pass.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Output {
    /// Call a JournalNode and hand the outcome to [`Reader::handle_reply`].
    Call {
        /// Index in the list of nodes.
        jn: usize,
        /// What.
        request: Request,
    },
    /// The next records, verified, in order, each txid once.
    Edits(Edits),
    /// The pass is over; the log was read up to here (txid, digest).
    Done(CommitMark),
    /// The pass failed. What was handed out before is good.
    Failed(ReadError),
}

/// Why a pass failed.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum ReadError {
    /// Too few nodes answered.
    #[error("no majority of JournalNodes answers: {}", .reasons.join("; "))]
    NoMajority {
        /// Node and what it said.
        reasons: Vec<String>,
    },
    /// Edits that must exist could not be had from anybody.
    #[error("edits {from} to {upto} are missing; asked {}", .asked.join("; "))]
    Missing {
        /// First missing txid.
        from: TxId,
        /// Last one wanted.
        upto: TxId,
        /// Node and what it said.
        asked: Vec<String>,
    },
    /// The log read is not the one that was to be read.
    #[error("the log up to {at} has another digest than it must have")]
    DigestDiffers {
        /// Where they were compared.
        at: TxId,
    },
}

#[derive(Clone, Debug)]
enum Node {
    /// Asked for its manifest.
    Asked,
    /// What it has.
    Has(Manifest),
    /// It will not serve.
    Out(String),
}

/// One pass over the log.
#[derive(Clone, Debug)]
pub struct Reader {
    names: Vec<String>,
    namespace_id: u64,
    digest: DigestFn,
    until: Until,
    /// Read so far.
    at: CommitMark,
    /// `at.digest` is known; false at first when reading starts at a txid whose digest the caller lacks.
    digest_known: bool,
    nodes: Vec<Node>,
    /// Node asked for the next run.
    reading: Option<usize>,
    /// Nodes that could not serve what they were asked for, with why. They are asked again when nobody else serves, and there
    /// was progress since they were passed over last: a silent one is waited for once, not once for every run.
    passed_over: Vec<Option<String>>,
    progressed: bool,
    outputs: VecDeque<Output>,
    over: bool,
}

impl Reader {
    /// A pass behind `after` (txid and digest of the last edit the caller has; zeros for none). With `digest` unknown
    /// give `None`: then the first run is believed to continue it. `verify` is how records are verified.
    #[must_use]
    pub fn new(
        names: Vec<String>,
        namespace_id: u64,
        after: TxId,
        digest: Option<LogDigest>,
        until: Until,
        verify: DigestFn,
    ) -> Self {
        let count = names.len();
        let mut reader = Self {
            names,
            namespace_id,
            digest: verify,
            until,
            at: CommitMark {
                txid: after,
                digest: digest.unwrap_or_default(),
            },
            digest_known: digest.is_some() || after == TxId(0),
            nodes: vec![Node::Asked; count],
            reading: None,
            passed_over: vec![None; count],
            progressed: false,
            outputs: VecDeque::new(),
            over: false,
        };
        if let Until::End(end) = until
            && after >= end.txid
        {
            // Whoever is there already waits for nobody.
            reader.end_reached();
            return reader;
        }
        for jn in 0..count {
            let call = Call::GetManifest {
                from: after.next(),
                in_progress: !matches!(until, Until::End(_)),
            };
            reader.call(jn, call);
        }
        reader
    }

    /// The outcome of a call, at most one per node at a time; a node that cannot be reached, or does not answer in time, is
    /// a fault.
    pub fn handle_reply(&mut self, jn: usize, outcome: Result<Response, Fault>) {
        if self.over {
            return;
        }
        if self.reading == Some(jn) {
            self.reading = None;
            match outcome {
                Ok(Response::Edits { edits }) => self.take(jn, edits),
                Ok(other) => self.pass_over(jn, other.name().to_string()),
                Err(fault) => self.pass_over(jn, fault.message),
            }
        } else if matches!(self.nodes[jn], Node::Asked) {
            self.nodes[jn] = match outcome {
                Ok(Response::Manifest { manifest }) => Node::Has(manifest),
                Ok(other) => Node::Out(other.name().to_string()),
                Err(fault) => Node::Out(fault.message),
            };
        }
        self.advance();
    }

    /// The next thing to do.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// Read so far: txid and digest of the last edit handed out.
    #[must_use]
    pub fn position(&self) -> CommitMark {
        self.at
    }

    fn call(&mut self, jn: usize, call: Call) {
        let request = Request {
            namespace_id: self.namespace_id,
            call,
        };
        self.outputs.push_back(Output::Call { jn, request });
    }

    fn finish(&mut self, output: Output) {
        self.over = true;
        self.outputs.push_back(output);
    }

    fn manifests(&self) -> impl Iterator<Item = (usize, &Manifest)> {
        self.nodes
            .iter()
            .enumerate()
            .filter_map(|(jn, node)| match node {
                Node::Has(manifest) => Some((jn, manifest)),
                _ => None,
            })
    }

    /// The last txid this pass is to read, as far as is known yet.
    fn limit(&self) -> TxId {
        let known = match self.until {
            Until::End(end) => return end.txid,
            Until::Committed => self.manifests().map(|(_, m)| m.committed.txid).max(),
            Until::Held => self
                .manifests()
                .flat_map(|(_, manifest)| &manifest.segments)
                .map(|segment| segment.last)
                .max(),
        };
        known.unwrap_or_default()
    }

    fn advance(&mut self) {
        if self.over || self.reading.is_some() {
            return;
        }
        let waiting = self.nodes.iter().any(|node| matches!(node, Node::Asked));
        let enough = match self.until {
            Until::End(_) => 0,
            Until::Committed | Until::Held => majority(self.nodes.len()),
        };
        if self.manifests().count() < enough {
            let out = |node: &Node| matches!(node, Node::Out(_));
            if self.nodes.iter().filter(|node| out(node)).count() + enough > self.nodes.len() {
                let reasons = self.reasons();
                self.finish(Output::Failed(ReadError::NoMajority { reasons }));
            }
            return;
        }
        let (next, limit) = (self.at.txid.next(), self.limit());
        if next > limit {
            self.end_reached();
            return;
        }
        let mut chosen = self.choose(next);
        if chosen.is_none() && core::mem::take(&mut self.progressed) {
            self.passed_over.fill(None);
            chosen = self.choose(next);
        }
        match chosen {
            Some((jn, first)) => {
                self.reading = Some(jn);
                let call = match self.until {
                    Until::End(_) => Call::ReadSegment {
                        first,
                        from: next,
                        max_bytes: READ_CAP,
                    },
                    Until::Committed | Until::Held => Call::ReadEdits {
                        from: next,
                        max_bytes: READ_CAP,
                        durable: self.until == Until::Committed,
                    },
                };
                self.call(jn, call);
            }
            None if waiting => {}
            None => {
                let asked = self.reasons();
                self.finish(Output::Failed(ReadError::Missing {
                    from: next,
                    upto: limit,
                    asked,
                }));
            }
        }
    }

    fn end_reached(&mut self) {
        let output = match self.until {
            Until::End(end) if self.digest_known && end.digest != self.at.digest => {
                Output::Failed(ReadError::DigestDiffers { at: end.txid })
            }
            _ => Output::Done(self.at),
        };
        self.finish(output);
    }

    /// A node that should have `next`, and in which segment: finalised before in progress, newer epochs and longer segments
    /// first.
    fn choose(&self, next: TxId) -> Option<(usize, TxId)> {
        let worth = |segment: &SegmentState| {
            let SegmentState {
                finalized,
                epoch,
                last,
                first,
                ..
            } = *segment;
            (finalized, epoch, last, first)
        };
        self.manifests()
            .filter(|(jn, _)| self.passed_over[*jn].is_none())
            .filter_map(|(jn, manifest)| {
                let segments = manifest.segments.iter();
                let holding = segments
                    .filter(|segment| segment.first <= next && next <= segment.last)
                    .map(worth)
                    .max()?;
                Some((holding, jn))
            })
            .max_by_key(|(worth, jn)| (*worth, core::cmp::Reverse(*jn)))
            .map(|((.., first), jn)| (jn, first))
    }

    fn take(&mut self, jn: usize, edits: Edits) {
        let next = self.at.txid.next();
        if edits.count == 0 || edits.first != next {
            self.pass_over(jn, "it has no such edits after all".to_string());
            return;
        }
        if self.digest_known && edits.digest_before != self.at.digest {
            self.pass_over(jn, "it holds another log".to_string());
            return;
        }
        let last = TxId(edits.first.0 + u64::from(edits.count) - 1);
        let found = (self.digest)(edits.digest_before, next, &edits.records);
        if found != Some((last, edits.digest_end)) {
            self.pass_over(jn, "its records do not verify".to_string());
            return;
        }
        if let Until::End(end) = self.until
            && (last > end.txid || (last == end.txid && edits.digest_end != end.digest))
        {
            // A log that goes on behind the decided end, or ends differently, is not the decided one.
            self.pass_over(jn, "it holds another log".to_string());
            return;
        }
        self.at = CommitMark {
            txid: last,
            digest: edits.digest_end,
        };
        self.digest_known = true;
        self.progressed = true;
        self.outputs.push_back(Output::Edits(edits));
    }

    fn pass_over(&mut self, jn: usize, why: String) {
        self.passed_over[jn] = Some(why);
    }

    fn reasons(&self) -> Vec<String> {
        let nodes = self.nodes.iter().zip(&self.passed_over);
        self.names
            .iter()
            .zip(nodes)
            .map(|(name, (node, passed_over))| {
                let why = match (node, passed_over) {
                    (Node::Out(why), _) | (_, Some(why)) => why.as_str(),
                    (Node::Asked, _) => "no answer yet",
                    (Node::Has(_), None) => "does not have them",
                };
                alloc::format!("{name}: {why}")
            })
            .collect()
    }
}
