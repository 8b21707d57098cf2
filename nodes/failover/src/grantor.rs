//! A JournalNode's side of the active lease.

use crate::planted::Planted;
use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::String;
use hadal_proto::election::{ActiveView, Call, LeaseRequest, Refusal, Request, Response};
use hadal_proto::{Fault, FaultClass};
use hadal_types::{Epoch, Principal, Role, Tick};

/// Most NameNodes whose message order is remembered; certificates name them, so that nobody can fill this up.
const HOLDERS_CAP: usize = 16;

/// Settings of a [`Grantor`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct GrantorConfig {
    /// Node id of the JournalNode, for messages.
    pub name: String,
    /// How long a lease or a reservation lasts, in milliseconds; also the silence after the start. Raise it on all
    /// JournalNodes before the NameNodes, lower it on the NameNodes first.
    pub ttl_ms: u32,
    /// Switched-off rules.
    pub planted: Planted,
}

/// What the grantor must know of the acceptor beside it at each request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Voter {
    /// `NamespaceInfo::namespace_id`; `None`: unformatted.
    pub namespace_id: Option<u64>,
    /// Whether it votes: a learner grants nothing, nor does a node whose count is not confirmed.
    pub votes: bool,
    /// Highest epoch promised.
    pub promised: Epoch,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct Lease {
    holder: String,
    term: u64,
    epoch: Epoch,
    serving: bool,
    expires: Tick,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct Reservation {
    to: String,
    expires: Tick,
}

/// A JournalNode's side of the active lease. Everything is in memory: what a restart forgets, the silence covers.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Grantor {
    config: GrantorConfig,
    /// Nothing is granted before.
    silent_until: Tick,
    /// Between the silence and this, only the owner of the last epoch is granted (T-A13).
    owner_until: Tick,
    lease: Option<Lease>,
    reservation: Option<Reservation>,
    /// Highest (term, seq) seen per NameNode.
    newest: BTreeMap<String, (u64, u64)>,
}

impl Grantor {
    /// A grantor of a process that starts now.
    #[must_use]
    pub fn new(config: GrantorConfig, now: Tick) -> Self {
        let ttl = u64::from(config.ttl_ms);
        let (silent_until, owner_until) = if config.planted.no_silence {
            (now, now)
        } else {
            (now.after_ms(ttl), now.after_ms(2 * ttl))
        };
        Self {
            config,
            silent_until,
            owner_until,
            lease: None,
            reservation: None,
            newest: BTreeMap::new(),
        }
    }

    /// Answers a request of `from`, on the JournalNode's own monotonic clock. Nothing has to be durable before the
    /// answer leaves.
    ///
    /// # Errors
    /// The fault to answer with; nothing was changed.
    pub fn handle_request(
        &mut self,
        now: Tick,
        from: &Principal,
        request: &Request,
        voter: Voter,
    ) -> Result<Response, Fault> {
        self.forget_expired(now);
        if let Call::Ask = request.call {
            let view = self.view(now, from, voter.promised);
            return Ok(Response::View { view });
        }
        self.admit(from, request, voter)?;
        match &request.call {
            Call::Lease { lease } => {
                if lease.ttl_ms > self.config.ttl_ms {
                    return Err(self.longer_lease(lease.ttl_ms));
                }
                let refusal = self.lease(now, &from.name, lease, voter.promised);
                let view = self.view(now, from, voter.promised);
                Ok(match refusal {
                    None => Response::Granted { view },
                    Some(refusal) => Response::Refused { refusal, view },
                })
            }
            Call::Release { term, seq } => {
                self.release(now, &from.name, (*term, *seq), None);
                let view = self.view(now, from, voter.promised);
                Ok(Response::View { view })
            }
            Call::Reserve { term, seq, to } => {
                self.release(now, &from.name, (*term, *seq), Some(to));
                let view = self.view(now, from, voter.promised);
                Ok(Response::View { view })
            }
            Call::Ask => unreachable!("answered above"),
        }
    }

    /// What this JournalNode knows about who is active, as the caller sees it. A hint.
    #[must_use]
    pub fn view(&self, now: Tick, caller: &Principal, promised: Epoch) -> ActiveView {
        let lease = self.lease.as_ref().filter(|lease| lease.expires > now);
        let reservation = self.reservation.as_ref().filter(|it| it.expires > now);
        let candidate = (caller.role == Role::Namenode).then_some(caller.name.as_str());
        let mut free = self.silent_until.max(now);
        if let Some(lease) = lease.filter(|lease| Some(lease.holder.as_str()) != candidate) {
            free = free.max(lease.expires);
        }
        if let Some(held) = reservation.filter(|it| Some(it.to.as_str()) != candidate) {
            free = free.max(held.expires);
        }
        ActiveView {
            holder: lease.map(|lease| lease.holder.clone()).unwrap_or_default(),
            epoch: lease.map(|lease| lease.epoch).unwrap_or_default(),
            serving: lease.is_some_and(|lease| lease.serving),
            left_ms: lease.map_or(0, |lease| ms_until(now, lease.expires)),
            reserved_for: reservation.map(|it| it.to.clone()).unwrap_or_default(),
            free_in_ms: ms_until(now, free),
            owner_first_ms: ms_until(now, self.owner_until),
            promised,
        }
    }

    /// Who may make this call, of whom.
    fn admit(&self, from: &Principal, request: &Request, voter: Voter) -> Result<(), Fault> {
        let name = &self.config.name;
        if from.role != Role::Namenode {
            let message = format!("{from} may not {} at a JournalNode", request.call.name());
            return Err(Fault::new(FaultClass::Forbidden, message));
        }
        match voter.namespace_id {
            Some(id) if id == request.namespace_id => {}
            Some(id) => {
                let message = format!(
                    "JournalNode {name} holds the journal of namespace {id}, not {}",
                    request.namespace_id
                );
                return Err(Fault::new(FaultClass::IdentityMismatch, message));
            }
            None => {
                let message =
                    format!("JournalNode {name} is not formatted; format it from a NameNode");
                return Err(Fault::new(FaultClass::Learner, message));
            }
        }
        if !voter.votes {
            let message = format!(
                "JournalNode {name} does not vote, so it grants no lease: it may have forgotten promises, or waits for its peers to confirm that it has not"
            );
            return Err(Fault::new(FaultClass::Learner, message));
        }
        if !self.newest.contains_key(&from.name) && self.newest.len() >= HOLDERS_CAP {
            let message = format!(
                "JournalNode {name} knows {HOLDERS_CAP} NameNodes already and refuses {}; restart it if they were renamed",
                from.name
            );
            return Err(Fault::new(FaultClass::Busy, message));
        }
        Ok(())
    }

    fn longer_lease(&self, asked: u32) -> Fault {
        let (name, ttl) = (&self.config.name, self.config.ttl_ms);
        Fault::new(
            FaultClass::InvalidArgument,
            format!(
                "JournalNode {name} grants leases of {ttl} ms, the NameNode reckons with {asked} ms: give ha.lease_ttl the same value on all hosts"
            ),
        )
        .with_value(u64::from(ttl))
    }

    /// Whether this message is the newest of its sender; notes it if so.
    fn in_order(&mut self, from: &str, number: (u64, u64)) -> Result<(), Refusal> {
        if self.config.planted.ignore_order {
            return Ok(());
        }
        match self.newest.get_mut(from) {
            Some(newest) if number <= *newest => Err(Refusal::Stale {
                term: newest.0,
                seq: newest.1,
            }),
            Some(newest) => {
                *newest = number;
                Ok(())
            }
            None => {
                self.newest.insert(String::from(from), number);
                Ok(())
            }
        }
    }

    fn lease(
        &mut self,
        now: Tick,
        from: &str,
        asked: &LeaseRequest,
        promised: Epoch,
    ) -> Option<Refusal> {
        if let Err(stale) = self.in_order(from, (asked.term, asked.seq)) {
            return Some(stale);
        }
        let planted = self.config.planted;
        if now < self.silent_until {
            return Some(Refusal::Silence);
        }
        // Epoch 0 is a candidate's: after the death of the last claimant nobody could ask otherwise (M-L4).
        if asked.epoch > Epoch(0) && asked.epoch < promised && !planted.accept_old_renewals {
            return Some(Refusal::BelowPromise);
        }
        if !planted.grant_over_lease {
            if self.lease.as_ref().is_some_and(|it| it.holder != from) {
                return Some(Refusal::Held);
            }
            if self.reservation.as_ref().is_some_and(|it| it.to != from) {
                return Some(Refusal::Reserved);
            }
        }
        let owner = asked.last_epoch.max(asked.epoch) >= promised;
        let reserved = self.reservation.is_some();
        if now < self.owner_until && !owner && !reserved {
            return Some(Refusal::OwnerFirst);
        }
        self.reservation = None;
        self.lease = Some(Lease {
            holder: String::from(from),
            term: asked.term,
            epoch: asked.epoch,
            serving: asked.serving,
            expires: now.after_ms(u64::from(self.config.ttl_ms)),
        });
        None
    }

    fn release(&mut self, now: Tick, from: &str, number: (u64, u64), to: Option<&String>) {
        if self.in_order(from, number).is_err() {
            return;
        }
        let any = self.config.planted.ignore_order;
        let held = |lease: &Lease| lease.holder == from && (any || lease.term <= number.0);
        if self.lease.as_ref().is_some_and(held) {
            self.lease = None;
            if let Some(to) = to {
                self.reservation = Some(Reservation {
                    to: to.clone(),
                    expires: now.after_ms(u64::from(self.config.ttl_ms)),
                });
            }
        }
    }

    fn forget_expired(&mut self, now: Tick) {
        self.lease.take_if(|lease| lease.expires <= now);
        self.reservation.take_if(|it| it.expires <= now);
    }
}

/// Whole milliseconds until `then`, rounded up.
fn ms_until(now: Tick, then: Tick) -> u32 {
    let nanos = then.0.saturating_sub(now.0);
    u32::try_from(nanos.div_ceil(1_000_000)).unwrap_or(u32::MAX)
}
