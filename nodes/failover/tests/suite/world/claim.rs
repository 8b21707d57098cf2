//! A claim of the reduced journal: ask for promises, promise, apply.

use super::event::Event;
use super::{MS, World};
use hadal_failover::controller::Jn;
use hadal_types::Epoch;
use std::collections::BTreeMap;

/// A claim under way.
#[derive(Clone, Default)]
pub(super) struct Claim {
    number: u64,
    states: BTreeMap<Jn, u64>,
    epoch: u64,
    promises: Vec<Jn>,
}

impl Claim {
    pub(super) fn numbered(number: u64) -> Self {
        Self {
            number,
            ..Self::default()
        }
    }
}

impl World {
    pub(super) fn claim_step(&mut self, event: Event) {
        match event {
            Event::AskState {
                nn,
                life,
                number,
                jn,
            } => {
                if self.journalnodes[jn].reachable[nn] {
                    let promised = self.journalnodes[jn].promised;
                    self.send(Event::State {
                        nn,
                        life,
                        number,
                        jn,
                        promised,
                    });
                }
            }
            Event::State {
                nn,
                life,
                number,
                jn,
                promised,
            } => {
                let Some(claim) = self.claim_of(nn, number) else {
                    return;
                };
                claim.states.insert(jn, promised);
                if claim.states.len() != 2 || claim.epoch > 0 {
                    return;
                }
                let epoch = claim.states.values().max().expect("two") + 1;
                claim.epoch = epoch;
                self.with(nn, |it, now| it.handle_claiming(now, Epoch(epoch)));
                for jn in 0..3 {
                    self.send(Event::NewEpoch {
                        nn,
                        life,
                        number,
                        jn,
                        epoch,
                    });
                }
            }
            Event::NewEpoch {
                nn,
                life,
                number,
                jn,
                epoch,
            } => {
                let it = &mut self.journalnodes[jn];
                if !it.reachable[nn] {
                    return;
                }
                let who = (nn, life, number);
                let ok = epoch > it.promised || (epoch == it.promised && it.promised_to == who);
                if ok {
                    it.promised = epoch;
                    it.promised_to = who;
                }
                self.send(Event::Promised {
                    nn,
                    life,
                    number,
                    jn,
                    epoch,
                    ok,
                });
            }
            Event::Promised {
                nn,
                life,
                number,
                jn,
                epoch,
                ok,
            } => {
                let fail = self.claims_fail[nn];
                let Some(claim) = self.claim_of(nn, number) else {
                    return;
                };
                if !ok {
                    self.end_claim(nn, "fenced");
                    return;
                }
                if claim.promises.contains(&jn) {
                    return;
                }
                claim.promises.push(jn);
                if claim.promises.len() == 2 {
                    if fail {
                        self.end_claim(nn, "the image is damaged");
                        return;
                    }
                    // A majority promised: nothing older commits any more, and this is where the log ends.
                    self.namenodes[nn].driver.applied = self.committed;
                    self.with(nn, |it, now| it.handle_claimed(now, Epoch(epoch)));
                    let longest = self.weather.long_delay_ms + 1;
                    let after = self.rng.below(longest) * MS;
                    self.at(
                        after,
                        Event::Applied {
                            nn,
                            life,
                            number,
                            epoch,
                        },
                    );
                }
            }
            Event::ClaimTimeout { nn, number, .. } => {
                if self.claim_of(nn, number).is_some() {
                    self.end_claim(nn, "no majority answered in time");
                }
            }
            Event::Applied {
                nn, number, epoch, ..
            } => {
                if self.claim_of(nn, number).is_none() {
                    return;
                }
                self.namenodes[nn].driver.claim = None;
                let mut serves = false;
                self.with(nn, |it, now| serves = it.handle_serving(now, Epoch(epoch)));
                if serves {
                    self.namenodes[nn].driver.writes = Some(Epoch(epoch));
                    self.elections += 1;
                    self.last_active = Some(nn);
                }
            }
            _ => unreachable!("not a step of a claim"),
        }
    }

    fn end_claim(&mut self, nn: usize, reason: &str) {
        self.namenodes[nn].driver.claim = None;
        self.with(nn, |it, now| it.handle_claim_failed(now, reason));
    }

    fn claim_of(&mut self, nn: usize, number: u64) -> Option<&mut Claim> {
        let claim = self.namenodes[nn].driver.claim.as_mut()?;
        (claim.number == number).then_some(claim)
    }
}
