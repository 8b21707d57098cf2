//! The grantor's rules one by one.

use crate::world::{TTL, grantor_config, principal};
use hadal_failover::{Grantor, Planted, Voter};
use hadal_proto::FaultClass;
use hadal_proto::election::{ActiveView, Call, LeaseRequest, Refusal, Request, Response};
use hadal_types::{Epoch, Principal, Role, Tick};

/// One JournalNode, with a sequence number that rises by itself.
pub struct Table {
    pub grantor: Grantor,
    pub now: u64,
    pub promised: u64,
    seq: u64,
}

impl Table {
    /// Past its silence and the owner's turn.
    pub fn new() -> Self {
        let mut table = Self::started();
        table.now = 2 * u64::from(TTL);
        table
    }

    pub fn started() -> Self {
        Self {
            grantor: Grantor::new(grantor_config(0, Planted::default()), Tick(0)),
            now: 0,
            promised: 0,
            seq: 0,
        }
    }

    pub fn say(&mut self, nn: usize, call: Call) -> Response {
        let request = Request {
            namespace_id: 7,
            call,
        };
        let voter = Voter {
            namespace_id: Some(7),
            votes: true,
            promised: Epoch(self.promised),
        };
        let now = Tick::from_ms(self.now);
        self.grantor
            .handle_request(now, &principal(nn), &request, voter)
            .expect("no fault")
    }

    pub fn lease(&mut self, nn: usize, term: u64, epoch: u64) -> Result<(), Refusal> {
        self.lease_of(nn, term, epoch, 0)
    }

    pub fn lease_of(&mut self, nn: usize, term: u64, epoch: u64, last: u64) -> Result<(), Refusal> {
        self.seq += 1;
        let lease = LeaseRequest {
            term,
            seq: self.seq,
            ttl_ms: TTL,
            epoch: Epoch(epoch),
            last_epoch: Epoch(last),
            serving: false,
        };
        match self.say(nn, Call::Lease { lease }) {
            Response::Granted { .. } => Ok(()),
            Response::Refused { refusal, .. } => Err(refusal),
            Response::View { .. } => panic!("an answer to another question"),
        }
    }

    pub fn release(&mut self, nn: usize, term: u64) -> ActiveView {
        self.seq += 1;
        let seq = self.seq;
        view(self.say(nn, Call::Release { term, seq }))
    }

    pub fn reserve(&mut self, nn: usize, term: u64, to: usize) -> ActiveView {
        self.seq += 1;
        let call = Call::Reserve {
            term,
            seq: self.seq,
            to: principal(to).name,
        };
        view(self.say(nn, call))
    }
}

fn view(response: Response) -> ActiveView {
    match response {
        Response::View { view } => view,
        other => panic!("{}", other.name()),
    }
}

#[test]
fn one_lease_at_a_time_until_it_ends() {
    let mut table = Table::new();
    assert_eq!(table.lease(0, 1, 0), Ok(()));
    assert_eq!(table.lease(1, 1, 0), Err(Refusal::Held));
    table.now += u64::from(TTL) - 1;
    assert_eq!(table.lease(1, 1, 0), Err(Refusal::Held));
    table.now += 1;
    assert_eq!(table.lease(1, 1, 0), Ok(()));
    assert_eq!(table.lease(0, 1, 0), Err(Refusal::Held));
}

/// T-J-like restart: nothing for a ttl, then the owner of the last epoch, then anyone (T-A13).
#[test]
fn t_a13_a_restarted_node_is_silent_then_asks_the_owner_first() {
    let mut table = Table::started();
    table.promised = 4;
    assert_eq!(table.lease_of(0, 1, 0, 4), Err(Refusal::Silence));
    table.now = u64::from(TTL) - 1;
    assert_eq!(table.lease_of(0, 1, 0, 4), Err(Refusal::Silence));
    table.now += 1;
    assert_eq!(table.lease_of(1, 1, 0, 3), Err(Refusal::OwnerFirst));
    assert_eq!(table.lease_of(0, 1, 0, 4), Ok(()));
    table.release(0, 1);
    table.now = 2 * u64::from(TTL) - 1;
    assert_eq!(table.lease_of(1, 1, 0, 3), Err(Refusal::OwnerFirst));
    table.now += 1;
    assert_eq!(table.lease_of(1, 1, 0, 3), Ok(()));
    // A renewal in the promised epoch is the owner's, too; and where nothing was promised, nobody is.
    let mut table = Table::started();
    table.promised = 4;
    table.now = u64::from(TTL);
    assert_eq!(table.lease(0, 1, 4), Ok(()));
    let mut table = Table::started();
    table.now = u64::from(TTL);
    assert_eq!(table.lease(1, 1, 0), Ok(()));
}

#[test]
fn renewals_below_the_promise_are_refused_candidates_are_not() {
    let mut table = Table::new();
    table.promised = 5;
    assert_eq!(table.lease(0, 1, 4), Err(Refusal::BelowPromise));
    assert_eq!(table.lease(0, 1, 0), Ok(()));
    assert_eq!(table.lease(0, 1, 6), Ok(()));
    assert_eq!(table.lease(0, 1, 5), Ok(()));
}

#[test]
fn a_reservation_keeps_others_out_for_one_ttl() {
    let mut table = Table::new();
    assert_eq!(table.lease(0, 1, 3), Ok(()));
    let view = table.reserve(0, 1, 1);
    assert_eq!(
        (view.reserved_for.as_str(), view.holder.as_str()),
        ("nn2", "")
    );
    assert_eq!(table.lease(0, 2, 0), Err(Refusal::Reserved));
    assert_eq!(table.lease(1, 1, 0), Ok(()));
    // Used up.
    table.release(1, 1);
    assert_eq!(table.lease(0, 3, 0), Ok(()));
    table.reserve(0, 3, 1);
    table.now += u64::from(TTL);
    assert_eq!(table.lease(0, 4, 0), Ok(()));
}

#[test]
fn only_the_holder_reserves() {
    let mut table = Table::new();
    assert_eq!(table.lease(0, 1, 3), Ok(()));
    let view = table.reserve(1, 1, 1);
    assert_eq!(
        (view.reserved_for.as_str(), view.holder.as_str()),
        ("", "nn1")
    );
}

#[test]
fn late_and_repeated_messages_do_nothing() {
    let mut table = Table::new();
    assert_eq!(table.lease(0, 2, 0), Ok(()));
    let stale = Err(Refusal::Stale { term: 2, seq: 1 });
    assert_eq!(table.lease(0, 1, 0), stale);
    assert_eq!(table.release(0, 1).holder, "nn1");
    table.seq = 0;
    assert_eq!(table.lease(0, 2, 0), stale);
    assert_eq!(table.lease(1, 1, 0), Err(Refusal::Held));
    // A release counts, and what was sent before it does not come back.
    table.seq = 10;
    assert_eq!(table.release(0, 2).holder, "");
    table.seq = 5;
    assert_eq!(
        table.lease(0, 2, 0),
        Err(Refusal::Stale { term: 2, seq: 11 })
    );
    assert_eq!(table.lease(1, 1, 0), Ok(()));
}

#[test]
fn a_new_life_of_the_holder_takes_its_lease_along() {
    let mut table = Table::new();
    assert_eq!(table.lease(0, 1 << 32, 0), Ok(()));
    assert_eq!(table.lease(0, (2 << 32) + 1, 0), Ok(()));
    // The old life is not heard any more.
    assert!(matches!(
        table.lease(0, 1 << 32, 0),
        Err(Refusal::Stale { .. })
    ));
}

#[test]
fn who_may_ask_what() {
    let mut grantor = Grantor::new(grantor_config(0, Planted::default()), Tick(0));
    let voter = |votes, namespace_id| Voter {
        namespace_id,
        votes,
        promised: Epoch(3),
    };
    let lease = Call::Lease {
        lease: LeaseRequest {
            term: 1,
            seq: 1,
            ttl_ms: TTL,
            epoch: Epoch(0),
            last_epoch: Epoch(0),
            serving: false,
        },
    };
    let release = Call::Release { term: 1, seq: 1 };
    let later = Tick::from_ms(5_000);
    for role in Role::ALL {
        let from = Principal {
            role,
            name: "nn1".into(),
        };
        let mut ask = |call: &Call, voter| {
            let request = Request {
                namespace_id: 7,
                call: call.clone(),
            };
            let outcome = grantor.handle_request(later, &from, &request, voter);
            outcome.map_err(|fault| fault.class)
        };
        // Anybody may ask who is active, at a node in any standing.
        assert!(matches!(
            ask(&Call::Ask, voter(false, None)),
            Ok(Response::View { .. })
        ));
        for call in [&lease, &release] {
            let expected = match role {
                Role::Namenode => FaultClass::Learner,
                _ => FaultClass::Forbidden,
            };
            assert_eq!(ask(call, voter(false, Some(7))), Err(expected), "{from}");
            assert_eq!(ask(call, voter(true, None)), Err(expected), "{from}");
        }
        if role == Role::Namenode {
            let foreign = ask(&lease, voter(true, Some(8)));
            assert_eq!(foreign, Err(FaultClass::IdentityMismatch));
            assert!(matches!(
                ask(&lease, voter(true, Some(7))),
                Ok(Response::Granted { .. })
            ));
        }
    }
}

/// A NameNode that counts on longer leases than the JournalNode grants would believe in one that is over.
#[test]
fn longer_leases_than_granted_are_refused_by_name() {
    let mut grantor = Grantor::new(grantor_config(0, Planted::default()), Tick(0));
    let request = Request {
        namespace_id: 7,
        call: Call::Lease {
            lease: LeaseRequest {
                term: 1,
                seq: 1,
                ttl_ms: TTL + 1,
                epoch: Epoch(0),
                last_epoch: Epoch(0),
                serving: false,
            },
        },
    };
    let voter = Voter {
        namespace_id: Some(7),
        votes: true,
        promised: Epoch(0),
    };
    let fault = grantor
        .handle_request(Tick::from_ms(9_000), &principal(0), &request, voter)
        .expect_err("too long");
    assert_eq!(fault.class, FaultClass::InvalidArgument);
    assert!(fault.message.contains("ha.lease_ttl"), "{fault}");
}

#[test]
fn views_tell_who_and_how_long() {
    let mut table = Table::new();
    table.promised = 3;
    assert_eq!(table.lease(0, 1, 3), Ok(()));
    table.now += 100;
    let seen = view(table.say(1, Call::Ask));
    assert_eq!(seen.holder, "nn1");
    assert_eq!((seen.epoch, seen.promised), (Epoch(3), Epoch(3)));
    assert_eq!((seen.left_ms, seen.free_in_ms), (500, 500));
    assert_eq!(view(table.say(0, Call::Ask)).free_in_ms, 0);
    table.now += 500;
    let seen = view(table.say(1, Call::Ask));
    assert_eq!((seen.holder.as_str(), seen.free_in_ms), ("", 0));
}
