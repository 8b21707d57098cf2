//! Reads of clients that take them from a standby or observer (protocols.md section 2): never older than what the
//! client has seen, for they wait until its last seen txid is applied here; linearizable behind an msync. What this
//! NameNode cannot answer as well as the active goes there: the fault is the standby's, with the active as its hint.

use crate::caller::Caller;
use crate::namesystem::{Context, Namesystem};
use crate::output::Answer;
use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::String;
use hadal_proto::client::{ClientCall, Reply, Response};
use hadal_proto::{Fault, FaultClass, encode};
use hadal_types::{HaState, Tick, TxId};

/// Most bytes of calls that wait, encoded: a single one may have the size of a frame.
const WAITING_BYTES_MAX: usize = 64 << 20;

struct WaitingRead {
    caller: Caller,
    call: ClientCall,
    bytes: usize,
}

/// Reads that wait for edits to arrive.
#[derive(Default)]
pub(crate) struct StandbyReads {
    waiting: BTreeMap<(TxId, u64), WaitingRead>,
    /// By ticket, which is the order of their arrival and so of their ends: until when each waits, and for which txid.
    ends: BTreeMap<u64, (Tick, TxId)>,
    bytes: usize,
}

impl StandbyReads {
    pub(crate) fn poll_timeout(&self) -> Option<Tick> {
        self.ends.values().next().map(|(until, _)| *until)
    }

    fn insert(&mut self, until: Tick, ticket: u64, read: WaitingRead) {
        let seen = read.call.seen;
        self.bytes += read.bytes;
        self.ends.insert(ticket, (until, seen));
        self.waiting.insert((seen, ticket), read);
    }

    /// The next one whose edits are there.
    fn pop_ready(&mut self, applied: TxId) -> Option<(u64, WaitingRead)> {
        let first = self.waiting.first_entry()?;
        if first.key().0 > applied {
            return None;
        }
        let ((_, ticket), read) = first.remove_entry();
        self.ends.remove(&ticket);
        self.bytes -= read.bytes;
        Some((ticket, read))
    }

    /// The next one that has waited long enough.
    fn pop_expired(&mut self, now: Tick) -> Option<(u64, TxId)> {
        let first = self.ends.first_entry()?;
        if first.get().0 > now {
            return None;
        }
        let (ticket, (_, seen)) = first.remove_entry();
        let read = self.waiting.remove(&(seen, ticket));
        self.bytes -= read.map_or(0, |read| read.bytes);
        Some((ticket, seen))
    }
}

impl Namesystem {
    /// Reads that wait until edits their clients have seen are applied here.
    #[must_use]
    pub fn waiting_reads(&self) -> usize {
        self.standby_reads.waiting.len()
    }

    pub(crate) fn may_read_here(&self, call: &ClientCall) -> bool {
        call.from_standby
            && call.request.is_standby_read()
            && matches!(self.ha, HaState::Standby | HaState::Observer)
    }

    pub(crate) fn standby_read(
        &mut self,
        now: Tick,
        caller: &Caller,
        ticket: u64,
        call: ClientCall,
    ) {
        if call.seen <= self.applied() || self.config.planted.stale_standby_reads {
            return self.answer_standby_read(now, caller, ticket, call);
        }
        let bytes = encode(&call).len();
        let held = self.standby_reads.bytes;
        if self.waiting_reads() >= self.config.standby_reads_max || held + bytes > WAITING_BYTES_MAX
        {
            let fault = self.ask_active(format!(
                "{} reads of {held} bytes wait for edits already (standby_reads_max)",
                self.waiting_reads()
            ));
            return self.barrier.send(ticket, Answer::Client(Err(fault)));
        }
        let until = now.after_ms(self.config.standby_read_wait_ms);
        let caller = caller.clone();
        let read = WaitingRead {
            caller,
            call,
            bytes,
        };
        self.standby_reads.insert(until, ticket, read);
    }

    /// An edit was applied.
    pub(crate) fn answer_standby_reads(&mut self, now: Tick) {
        while let Some((ticket, read)) = self.standby_reads.pop_ready(self.applied()) {
            self.answer_standby_read(now, &read.caller, ticket, read.call);
        }
    }

    pub(crate) fn expire_standby_reads(&mut self, now: Tick) {
        while let Some((ticket, seen)) = self.standby_reads.pop_expired(now) {
            let fault = self.ask_active(format!(
                "the client has seen txid {seen}, {} is applied here",
                self.applied()
            ));
            self.barrier.send(ticket, Answer::Client(Err(fault)));
        }
    }

    /// The role is taken: those that wait come back, or ask elsewhere.
    pub(crate) fn end_standby_reads(&mut self) {
        for ((_, ticket), _) in core::mem::take(&mut self.standby_reads).waiting {
            let fault = Fault::new(
                FaultClass::Retry,
                format!("{} becomes active; try again", self.config.name),
            );
            self.barrier.send(ticket, Answer::Client(Err(fault)));
        }
    }

    /// Only committed edits are applied here, so the answer needs no barrier.
    fn answer_standby_read(&mut self, now: Tick, caller: &Caller, ticket: u64, call: ClientCall) {
        let context = Context {
            now,
            wall_ms: 0,
            caller,
            client: call.client,
            call: call.call,
        };
        let mut outcome = self.dispatch(context, call.request);
        if let Ok(Response::Locations { locations }) = &outcome
            && let Some(block) = locations
                .blocks
                .iter()
                .find(|block| block.locations.is_empty() || block.corrupt)
            && !self.config.planted.stale_standby_reads
        {
            // Reports may not have come here yet, and pipelines of open blocks are known to the active alone
            // (HDFS-13924).
            let id = block.block.id;
            outcome = Err(self.ask_active(format!("no good replica of {id} is known here")));
        }
        let txid = self.applied();
        let answer = outcome.map(|response| Reply { txid, response });
        self.barrier.send(ticket, Answer::Client(answer));
    }

    fn ask_active(&self, why: String) -> Fault {
        let message = format!(
            "{} is {}: {why}; ask the active NameNode",
            self.config.name, self.ha
        );
        Fault::new(FaultClass::Standby, message).with_hint(self.active_hint.clone())
    }
}
