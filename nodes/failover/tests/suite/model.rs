//! The counterexamples of model-lease.md that are the lease's business, by hand: M-L1 to M-L4. (M-L5 is about counts,
//! M-L6 to M-L9 about DataNodes.)

use crate::table::Table;
use crate::world::{TTL, grantor_config, names, principal};
use hadal_failover::{Controller, ControllerConfig, Grantor, Output, Planted, Voter};
use hadal_proto::election::Refusal;
use hadal_types::{Epoch, Tick};

/// Two controllers and three grantors on one clock, everything delivered at once or not at all.
struct Hand {
    now: u64,
    planted: Planted,
    nns: Vec<Controller>,
    jns: Vec<Grantor>,
    promised: [u64; 3],
    /// Whether the NameNode reaches the JournalNodes.
    reach: [bool; 2],
    claims: [u32; 2],
    steps_down: [u32; 2],
}

impl Hand {
    fn new(planted: Planted) -> Self {
        let controller = |nn: usize| {
            let mut config = ControllerConfig::new(
                names()[nn].into(),
                vec![names()[1 - nn].into()],
                (0..3).map(|jn| format!("jn{jn}")).collect(),
            );
            config.planted = planted;
            Controller::new(config, nn as u64, Tick(0))
        };
        Self {
            now: 0,
            planted,
            nns: vec![controller(0), controller(1)],
            jns: (0..3)
                .map(|jn| Grantor::new(grantor_config(jn, planted), Tick(0)))
                .collect(),
            promised: [0; 3],
            reach: [true, false],
            claims: [0; 2],
            steps_down: [0; 2],
        }
    }

    fn tick(&self) -> Tick {
        Tick::from_ms(self.now)
    }

    fn turn(&mut self, nn: usize) {
        let now = self.tick();
        while let Some(output) = self.nns[nn].poll_output() {
            match output {
                Output::Call { jn, id, request } if self.reach[nn] => {
                    let voter = Voter {
                        namespace_id: Some(0),
                        votes: true,
                        promised: Epoch(self.promised[jn]),
                    };
                    let from = principal(nn);
                    let outcome = self.jns[jn].handle_request(now, &from, &request, voter);
                    self.nns[nn].handle_reply(now, jn, id, outcome);
                }
                Output::StartClaim => self.claims[nn] += 1,
                Output::StepDown { .. } => self.steps_down[nn] += 1,
                _ => {}
            }
        }
    }

    fn pass(&mut self, ms: u64) {
        let end = self.now + ms;
        while self.now < end {
            self.now += 5;
            for nn in 0..2 {
                let now = self.tick();
                self.nns[nn].handle_timeout(now);
                self.turn(nn);
            }
        }
    }

    /// Until this NameNode is asked to claim.
    fn elected(&mut self, nn: usize) {
        let before = self.claims[nn];
        while self.claims[nn] == before {
            self.pass(5);
            assert!(self.now < 60_000, "never elected");
        }
    }

    fn claim_message(&mut self, nn: usize, epoch: u64) {
        let now = self.tick();
        self.nns[nn].handle_claiming(now, Epoch(epoch));
        self.turn(nn);
    }

    fn claim(&mut self, nn: usize, epoch: u64) {
        (0..3).for_each(|_| self.claim_message(nn, epoch));
        let now = self.tick();
        self.promised = [epoch; 3];
        self.nns[nn].handle_claimed(now, Epoch(epoch));
        self.turn(nn);
    }

    fn serve(&mut self, nn: usize, epoch: u64) -> bool {
        let now = self.tick();
        let serves = self.nns[nn].handle_serving(now, Epoch(epoch));
        self.turn(nn);
        serves && self.nns[nn].may_serve(now, Epoch(epoch))
    }
}

/// nn1 has lease and promises for epoch 1, its lease lapses in mid-claim, nn2 is elected, claims 2, writes and dies.
/// Whether nn1 then serves by its old promises.
fn old_promises_serve(planted: Planted) -> (bool, Hand) {
    let mut hand = Hand::new(planted);
    hand.elected(0);
    hand.claim(0, 1);
    hand.reach = [false, true];
    hand.elected(1);
    hand.claim(1, 2);
    assert!(hand.serve(1, 2));
    hand.reach = [false, false];
    hand.pass(u64::from(TTL));
    hand.reach = [true, false];
    hand.pass(2 * u64::from(TTL));
    let serves = hand.serve(0, 1);
    (serves, hand)
}

#[test]
fn m_l1_a_lapsed_claim_serves_nothing() {
    let (serves, mut hand) = old_promises_serve(Planted::default());
    assert!(!serves);
    assert_eq!(hand.steps_down[0], 1);
    // It starts all over, under a new epoch.
    let now = hand.tick();
    hand.nns[0].handle_resigned(now);
    hand.elected(0);
    hand.claim(0, 3);
    assert!(hand.serve(0, 3));
    assert_eq!(hand.steps_down[0], 1);
    assert!(!hand.planted.resume_after_lapse);
}

#[test]
fn m_l1_each_rule_covers_for_the_other_and_both_off_serve_old_data() {
    let resume = Planted {
        resume_after_lapse: true,
        ..Planted::default()
    };
    let renew = Planted {
        accept_old_renewals: true,
        ..Planted::default()
    };
    assert!(!old_promises_serve(resume).0);
    assert!(!old_promises_serve(renew).0);
    let both = Planted {
        accept_old_renewals: true,
        ..resume
    };
    assert!(old_promises_serve(both).0);
}

/// A promise hands over no lease: neither a higher promise nor a restart makes a JournalNode grant over another's.
#[test]
fn m_l2_a_promise_takes_no_lease_over() {
    let mut table = Table::new();
    table.promised = 1;
    assert_eq!(table.lease(0, 1, 1), Ok(()));
    table.promised = 9;
    assert_eq!(table.lease(1, 1, 9), Err(Refusal::Held));
    // The forced claimant's promise is given by a restarted node that knows no lease.
    let mut table = Table::started();
    table.promised = 9;
    assert_eq!(table.lease(1, 1, 9), Err(Refusal::Silence));
    // The time left that it states is a hint when to ask.
    let view = table.grantor.view(Tick(0), &principal(1), Epoch(9));
    assert_eq!((view.left_ms, view.free_in_ms), (0, TTL));
}

/// The judgement is of one serving epoch: what was evaluated in an earlier one is not answered.
#[test]
fn m_l3_an_answer_of_an_earlier_epoch_is_not_given() {
    let mut hand = Hand::new(Planted::default());
    hand.elected(0);
    hand.claim(0, 1);
    assert!(hand.serve(0, 1));
    hand.reach[0] = false;
    hand.pass(u64::from(TTL));
    assert_eq!(hand.steps_down[0], 1);
    let now = hand.tick();
    assert!(!hand.nns[0].may_serve(now, Epoch(1)));
    hand.nns[0].handle_resigned(now);
    hand.reach[0] = true;
    hand.elected(0);
    hand.claim(0, 2);
    let now = hand.tick();
    assert!(!hand.nns[0].may_serve(now, Epoch(2)), "not past recovery");
    assert!(hand.serve(0, 2));
    assert!(!hand.nns[0].may_serve(now, Epoch(1)));
    // Before its promises were asked for, or in another epoch, nothing serves either.
    assert!(!hand.nns[0].may_serve(now, Epoch(0)));
    assert!(!hand.nns[0].may_serve(now, Epoch(3)));
}

/// After the death of the last claimant a candidate, who has no epoch, is granted.
#[test]
fn m_l4_candidates_are_not_refused_for_an_epoch() {
    let mut hand = Hand::new(Planted::default());
    hand.elected(0);
    hand.claim(0, 7);
    hand.reach = [false, true];
    hand.elected(1);
    assert!(hand.now < 10 * u64::from(TTL));
    hand.claim(1, 8);
    assert!(hand.serve(1, 8));
}

/// The journal's writer asks each JournalNode for its promise, and one that was away after the claim is through.
#[test]
fn late_promises_do_not_undo_a_claim() {
    let mut hand = Hand::new(Planted::default());
    hand.elected(0);
    hand.claim(0, 1);
    hand.claim_message(0, 1);
    assert!(hand.serve(0, 1));
    hand.claim_message(0, 1);
    assert!(hand.nns[0].may_serve(hand.tick(), Epoch(1)));
}

/// The lease counts 0.90 of the ttl from the (f+1)-th newest acknowledged send.
#[test]
fn the_lease_counts_from_the_second_newest_acknowledged_send() {
    let mut hand = Hand::new(Planted::default());
    hand.elected(0);
    hand.claim(0, 1);
    assert!(hand.serve(0, 1));
    let last_sent = hand.now;
    hand.reach[0] = false;
    let end = hand.nns[0].lease_end().expect("it holds");
    assert!(end <= Tick::from_ms(last_sent + u64::from(TTL) * 9 / 10));
    let before = Tick(end.0 - 1);
    assert!(hand.nns[0].may_serve(before, Epoch(1)));
    assert!(!hand.nns[0].may_serve(end, Epoch(1)));
    // An answer that comes after the end does not bring it back.
    let mut late = hand.nns[0].clone();
    late.handle_timeout(end);
    assert!(!late.may_serve(before, Epoch(1)));
}
