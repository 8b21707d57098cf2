//! The standby's live tail: committed edits, in order, as soon as some JournalNode knows that they are (Q20,
//! protocols.md section 3).
//!
//! A [`Tail`] has one [`Call::AwaitCommitted`] under way, at one JournalNode, which answers the moment it has something
//! new. Every run must continue the digest of the one before and its records are verified, so a node with another log
//! is found out and passed over. A node that refuses, is silent, or lags behind what was already read is left alone
//! for a while and the next one is asked; with nothing new for [`TailConfig::wait_ms`] the next one is asked, too, so
//! that a node cut off from the writer cannot hide what the others have.
//!
//! # How a driver uses it
//!
//! ```text
//! let mut tail = Tail::new(TailConfig::new(names, namespace_id, digest_fn), position);   // position: applied txid, digest there
//! loop {
//!     while let Some(output) = tail.poll_output() {
//!         match output {
//!             Output::Call { jn, id, request } => spawn: ask(jn, request).await, then tail.handle_reply(now, id, outcome),
//!             Output::Edits(edits) => for record in Records::new(edits.records) { apply record.op as record.txid },
//!             Output::Missing { .. } => the log begins later on every node: load a newer image and make a new Tail,
//!         }
//!     }
//!     wait for a reply or for tail.poll_timeout(); in the latter case tail.handle_timeout(now)
//! }
//! ```
//!
//! Edits are handed out before the next call is, so a driver that applies what it takes is never ahead of itself by
//! more than one answer. A call whose connection cannot be had is answered with a fault at once (class `Retry`); one
//! that hangs is given up by the tail itself and its late answer ignored.
//!
//! Before this NameNode claims the journal it drops the tail. What is left, from [`Tail::position`] to the recovered
//! end, a [`crate::reader::Reader`] reads.

use crate::DigestFn;
use alloc::collections::VecDeque;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec;
use alloc::vec::Vec;
use hadal_proto::qjournal::{AWAIT_CAP_MS, Call, CommitMark, Edits, READ_CAP, Request, Response};
use hadal_proto::{Fault, FaultClass};
use hadal_types::{Tick, TxId};

/// Settings of a [`Tail`].
#[derive(Clone, Debug)]
pub struct TailConfig {
    /// Node ids of the JournalNodes. Not empty.
    pub journalnodes: Vec<String>,
    /// `NamespaceInfo::namespace_id`.
    pub namespace_id: u64,
    /// How records are verified.
    pub digest: DigestFn,
    /// How long a JournalNode is asked to wait for news; then the next one is asked.
    pub wait_ms: u64,
    /// How much longer than that an answer may take before the JournalNode is passed over.
    pub grace_ms: u64,
    /// A JournalNode that was passed over is not asked again for this long; twice as long each time, up to
    /// [`RETRY_DOUBLINGS`] times, while another one serves.
    pub retry_ms: u64,
}

/// How often [`TailConfig::retry_ms`] doubles for a JournalNode that is passed over again and again.
pub const RETRY_DOUBLINGS: u32 = 3;

impl TailConfig {
    /// Defaults for these JournalNodes.
    #[must_use]
    pub fn new(journalnodes: Vec<String>, namespace_id: u64, digest: DigestFn) -> Self {
        Self {
            journalnodes,
            namespace_id,
            digest,
            wait_ms: 250,
            grace_ms: 1_000,
            retry_ms: 500,
        }
    }
}

/// Pairs a call of a tail with its outcome. Never reused by one tail.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct TailCallId(pub u64);

/// One thing to do for a tail.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Output {
    /// Call a JournalNode and hand the outcome to [`Tail::handle_reply`].
    Call {
        /// Index in the list of nodes.
        jn: usize,
        /// Under which id.
        id: TailCallId,
        /// What.
        request: Request,
    },
    /// The next records, verified, in order, each txid once. They are committed.
    Edits(Edits),
    /// No JournalNode can serve `from`, and the log begins later on at least one that answered: those edits were
    /// purged, or the nodes that have them are away. Said once, until there is progress; the tail goes on asking. A
    /// driver that finds a newer image loads it and makes a new tail.
    Missing {
        /// The txid that is wanted.
        from: TxId,
        /// Node and what it said.
        asked: Vec<String>,
    },
}

/// What is known of one JournalNode.
#[derive(Clone, Debug, Default)]
struct Node {
    /// Not to be asked before.
    not_before: Option<Tick>,
    /// How often in a row it was passed over.
    failures: u32,
    /// Why it was passed over, since the last progress.
    why: Option<String>,
    /// Its log begins behind the wanted txid.
    begins_later: bool,
}

/// A live tail of the committed log. See the module's page.
#[derive(Clone, Debug)]
pub struct Tail {
    config: TailConfig,
    nodes: Vec<Node>,
    at: CommitMark,
    /// Highest mark any answer carried.
    committed: CommitMark,
    /// The call under way: its name, whom, and when it is given up.
    asked: Option<(TailCallId, usize, Tick)>,
    /// Whom to ask next.
    turn: usize,
    next_id: u64,
    missing_told: bool,
    outputs: VecDeque<Output>,
}

impl Tail {
    /// A tail behind `at`: the last edit applied and the running digest there (zeros for none). The first call leaves
    /// with the first [`Tail::handle_timeout`], which is due at once.
    ///
    /// # Panics
    /// When no JournalNode is named.
    #[must_use]
    pub fn new(config: TailConfig, at: CommitMark) -> Self {
        assert!(!config.journalnodes.is_empty(), "no JournalNode is named");
        let nodes = vec![Node::default(); config.journalnodes.len()];
        Self {
            config,
            nodes,
            at,
            committed: at,
            asked: None,
            turn: 0,
            next_id: 0,
            missing_told: false,
            outputs: VecDeque::new(),
        }
    }

    /// The outcome of a call; a JournalNode that cannot be reached is a fault. Outcomes of calls that were given up are
    /// ignored.
    pub fn handle_reply(&mut self, now: Tick, id: TailCallId, outcome: Result<Response, Fault>) {
        let Some((expected, jn, _)) = self.asked else {
            return;
        };
        if expected != id {
            return;
        }
        self.asked = None;
        match outcome {
            Ok(Response::Edits { edits }) => self.take(now, jn, edits),
            Ok(other) => {
                let why = format!("answered with {}", other.name());
                self.pass_over(now, jn, why);
            }
            Err(fault) => {
                let oldest = TxId(fault.value);
                let begins_later =
                    fault.class == FaultClass::NotFound && oldest > self.at.txid.next();
                self.nodes[jn].begins_later = begins_later;
                self.pass_over(now, jn, fault.message);
            }
        }
        self.ask(now);
    }

    /// Time has passed.
    pub fn handle_timeout(&mut self, now: Tick) {
        if let Some((_, jn, deadline)) = self.asked {
            if deadline > now {
                return;
            }
            self.asked = None;
            self.pass_over(now, jn, "no answer in time".to_string());
        }
        self.ask(now);
    }

    /// When [`Tail::handle_timeout`] must be called.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Tick> {
        match self.asked {
            Some((_, _, deadline)) => Some(deadline),
            // Nobody is asked: at the start, or when all were passed over.
            None => Some(
                self.nodes
                    .iter()
                    .map(|node| node.not_before)
                    .min()?
                    .unwrap_or_default(),
            ),
        }
    }

    /// The next thing to do.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// The last edit handed out, with the running digest there.
    #[must_use]
    pub fn position(&self) -> CommitMark {
        self.at
    }

    /// The highest edit known to be committed: its distance from [`Tail::position`] is the lag in txids.
    #[must_use]
    pub fn committed(&self) -> TxId {
        self.committed.txid.max(self.at.txid)
    }

    fn take(&mut self, now: Tick, jn: usize, edits: Edits) {
        let next = self.at.txid.next();
        self.committed = self.committed.max(edits.committed);
        if edits.first != next {
            let why = format!("answered from txid {}, asked for {next}", edits.first);
            return self.pass_over(now, jn, why);
        }
        if edits.count == 0 {
            if edits.committed.txid < self.at.txid {
                let why = format!("knows only of commits up to {}", edits.committed.txid);
                return self.pass_over(now, jn, why);
            }
            // Nothing new here: has another one more?
            self.nodes[jn] = Node::default();
            self.turn = (jn + 1) % self.nodes.len();
            return;
        }
        let last = TxId(edits.first.0 + u64::from(edits.count) - 1);
        let found = (self.config.digest)(self.at.digest, next, &edits.records);
        if edits.digest_before != self.at.digest || found != Some((last, edits.digest_end)) {
            let why = format!("holds another log or damaged records from txid {next} on");
            return self.pass_over(now, jn, why);
        }
        self.at = CommitMark {
            txid: last,
            digest: edits.digest_end,
        };
        self.missing_told = false;
        for node in &mut self.nodes {
            (node.why, node.begins_later) = (None, false);
        }
        self.nodes[jn].failures = 0;
        self.turn = jn;
        self.outputs.push_back(Output::Edits(edits));
    }

    fn pass_over(&mut self, now: Tick, jn: usize, why: String) {
        let retry_ms = self.config.retry_ms;
        let node = &mut self.nodes[jn];
        node.not_before = Some(now.after_ms(retry_ms << node.failures.min(RETRY_DOUBLINGS)));
        node.failures = node.failures.saturating_add(1);
        node.why = Some(why);
        self.turn = (jn + 1) % self.nodes.len();
        if self.nodes.iter().any(|node| node.why.is_none()) {
            return;
        }
        // Nobody serves: whoever comes back first is to be found soon.
        let soon = now.after_ms(retry_ms);
        for node in &mut self.nodes {
            node.not_before = node.not_before.map(|at| at.min(soon));
        }
        if self.nodes.iter().any(|node| node.begins_later) && !self.missing_told {
            self.missing_told = true;
            let asked = self.config.journalnodes.iter().zip(&self.nodes);
            let asked = asked
                .map(|(name, node)| format!("{name}: {}", node.why.as_deref().unwrap_or_default()))
                .collect();
            self.outputs.push_back(Output::Missing {
                from: self.at.txid.next(),
                asked,
            });
        }
    }

    /// Asks the next node in turn that may be asked.
    fn ask(&mut self, now: Tick) {
        if self.asked.is_some() {
            return;
        }
        let count = self.nodes.len();
        let free = |jn: &usize| self.nodes[*jn].not_before.is_none_or(|at| at <= now);
        let Some(jn) = (0..count).map(|n| (self.turn + n) % count).find(free) else {
            return;
        };
        self.nodes[jn].not_before = None;
        let id = TailCallId(self.next_id);
        self.next_id += 1;
        let wait_ms = self.config.wait_ms.min(u64::from(AWAIT_CAP_MS));
        let deadline = now.after_ms(wait_ms + self.config.grace_ms);
        self.asked = Some((id, jn, deadline));
        let call = Call::AwaitCommitted {
            after: self.at.txid,
            wait_ms: u32::try_from(wait_ms).expect("capped"),
            max_bytes: READ_CAP,
        };
        let request = Request {
            namespace_id: self.config.namespace_id,
            call,
        };
        self.outputs.push_back(Output::Call { jn, id, request });
    }
}
