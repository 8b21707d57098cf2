//! Two NameNodes and three JournalNodes with clocks of their own, on a network that delays, loses and repeats. The
//! controllers and grantors are the real ones; the journal is reduced to promises and one counter.

mod claim;
mod event;

use claim::Claim;
use event::Event;
use hadal_failover::controller::{CallTag, Jn};
use hadal_failover::{
    Command, CommandId, Controller, ControllerConfig, Grantor, GrantorConfig, Output, Planted,
    Voter,
};
use hadal_proto::ha;
use hadal_types::{Epoch, HaState, Principal, Role, Tick};
use std::collections::{BTreeMap, VecDeque};

pub const MS: u64 = 1_000_000;
pub const TTL: u32 = 600;

pub fn names() -> [&'static str; 2] {
    ["nn1", "nn2"]
}

pub fn principal(nn: usize) -> Principal {
    Principal {
        role: Role::Namenode,
        name: names()[nn].into(),
    }
}

/// xorshift64*, seeded.
#[derive(Clone)]
pub struct Rng(u64);

impl Rng {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 11
    }

    pub fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    pub fn percent(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }
}

/// A clock that runs at its own rate from its own start.
#[derive(Clone, Copy)]
struct Clock {
    offset: u64,
    /// Per thousand.
    rate: u64,
}

impl Clock {
    fn local(self, real: u64) -> Tick {
        Tick(self.offset + real / 1000 * self.rate)
    }

    /// The first real time at which the clock shows `local`.
    fn real(self, local: Tick) -> u64 {
        let passed = local.0.saturating_sub(self.offset);
        (passed.div_ceil(self.rate)).saturating_mul(1000)
    }
}

/// What the driver of a NameNode is doing.
#[derive(Clone, Default)]
struct Driver {
    /// A claim under way.
    claim: Option<Claim>,
    claims: u64,
    /// Told to stop, and has not said yet that it did.
    resigning: bool,
    /// The counter as its tree has it.
    applied: u64,
    /// Writes are answered in this epoch.
    writes: Option<Epoch>,
}

struct Namenode {
    clock: Clock,
    controller: Option<Controller>,
    driver: Driver,
    life: u64,
    starts: u64,
    paused_until: u64,
    parked: VecDeque<Event>,
    /// The earliest timer event queued, so that there is one at a time.
    timer: u64,
}

struct Journalnode {
    clock: Clock,
    grantor: Grantor,
    promised: u64,
    promised_to: (usize, u64, u64),
    /// From which NameNodes.
    reachable: [bool; 2],
}

/// How bad the world is at present.
#[derive(Clone, Copy)]
pub struct Weather {
    /// Per cent of messages lost and repeated.
    pub loss: u64,
    pub repeat: u64,
    /// Longest delays, in milliseconds: of most messages, and of one in eight.
    pub delay_ms: u64,
    pub long_delay_ms: u64,
}

impl Weather {
    pub const FINE: Self = Self {
        loss: 0,
        repeat: 0,
        delay_ms: 4,
        long_delay_ms: 4,
    };
    pub const STORM: Self = Self {
        loss: 6,
        repeat: 6,
        delay_ms: 40,
        long_delay_ms: 900,
    };
}

pub struct World {
    pub now: u64,
    pub rng: Rng,
    pub weather: Weather,
    planted: Planted,
    automatic: bool,
    namenodes: Vec<Namenode>,
    journalnodes: Vec<Journalnode>,
    events: BTreeMap<(u64, u64), Event>,
    next_event: u64,
    /// What is committed.
    pub committed: u64,
    pub violation: Option<String>,
    /// How often somebody became active, and who was the last one.
    pub elections: u64,
    pub last_active: Option<usize>,
    pub lapses: u64,
    pub hand_overs: u64,
    pub outcomes: Vec<(CommandId, Result<(), String>)>,
    pub ready: [Result<(), &'static str>; 2],
    pub healthy: [bool; 2],
    pub claims_fail: [bool; 2],
    /// Nobody promises anything to this NameNode, and its driver waits for ever.
    pub claims_hang: [bool; 2],
    /// Its driver waits for its last edits for ever when it hands over.
    pub hand_overs_hang: [bool; 2],
    /// Answers about the lease reach this NameNode later by so many milliseconds.
    pub slow_answers: [u64; 2],
    next_command: u64,
}

impl World {
    pub fn new(seed: u64, planted: Planted, automatic: bool) -> Self {
        let mut rng = Rng::new(seed);
        let mut clock = || Clock {
            offset: rng.below(1 << 40),
            rate: [950, 1000, 1050][rng.below(3) as usize],
        };
        let namenodes = (0..2)
            .map(|_| Namenode {
                clock: clock(),
                controller: None,
                driver: Driver::default(),
                life: 0,
                starts: 0,
                paused_until: 0,
                parked: VecDeque::new(),
                timer: u64::MAX,
            })
            .collect();
        let journalnodes = (0..3)
            .map(|jn| {
                let clock = clock();
                Journalnode {
                    grantor: Grantor::new(grantor_config(jn, planted), clock.local(0)),
                    clock,
                    promised: 0,
                    promised_to: (0, 0, 0),
                    reachable: [true; 2],
                }
            })
            .collect();
        let mut world = Self {
            now: 0,
            rng,
            weather: Weather::FINE,
            planted,
            automatic,
            namenodes,
            journalnodes,
            events: BTreeMap::new(),
            next_event: 0,
            committed: 0,
            violation: None,
            elections: 0,
            last_active: None,
            lapses: 0,
            hand_overs: 0,
            outcomes: Vec::new(),
            ready: [Ok(()); 2],
            healthy: [true; 2],
            claims_fail: [false; 2],
            claims_hang: [false; 2],
            hand_overs_hang: [false; 2],
            slow_answers: [0; 2],
            next_command: 0,
        };
        for nn in 0..2 {
            world.start(nn);
            let phase = world.rng.below(1_000) * MS;
            world.at(phase, Event::Probe { nn });
            world.at(MS, Event::Write { nn });
        }
        world
    }

    pub fn controller(&self, nn: usize) -> &Controller {
        self.namenodes[nn].controller.as_ref().expect("it is up")
    }

    pub fn local(&self, nn: usize) -> Tick {
        self.namenodes[nn].clock.local(self.now)
    }

    /// Who serves now, by its own lease and clock.
    pub fn serving(&self) -> Vec<usize> {
        let serves = |nn: &usize| {
            let it = &self.namenodes[*nn];
            let Some(controller) = &it.controller else {
                return false;
            };
            // Any epoch it may have: what a driver would ask with.
            let epochs = [it.driver.writes, controller.serving_epoch()];
            let now = it.clock.local(self.now);
            epochs
                .into_iter()
                .flatten()
                .any(|epoch| controller.may_serve(now, epoch))
        };
        (0..2).filter(serves).collect()
    }

    pub fn start(&mut self, nn: usize) {
        let other = 1 - nn;
        let it = &mut self.namenodes[nn];
        if it.controller.is_some() {
            return;
        }
        it.life += 1;
        it.starts += 1;
        it.driver = Driver::default();
        it.timer = u64::MAX;
        let mut config = ControllerConfig::new(
            names()[nn].into(),
            vec![names()[other].into()],
            (0..3).map(|jn| format!("jn{jn}")).collect(),
        );
        config.starts = it.starts;
        config.automatic = self.automatic;
        config.planted = self.planted;
        let seed = self.rng.next();
        let now = it.clock.local(self.now);
        it.controller = Some(Controller::new(config, seed, now));
        self.pump(nn);
    }

    pub fn crash(&mut self, nn: usize) {
        let it = &mut self.namenodes[nn];
        it.controller = None;
        it.driver = Driver::default();
        it.parked.clear();
        it.paused_until = 0;
    }

    /// Its disk is made anew: it counts its starts from 1 again.
    pub fn forget_starts(&mut self, nn: usize) {
        self.namenodes[nn].starts = 0;
    }

    pub fn is_up(&self, nn: usize) -> bool {
        self.namenodes[nn].controller.is_some()
    }

    pub fn pause(&mut self, nn: usize, ms: u64) {
        self.namenodes[nn].paused_until = self.now + ms * MS;
    }

    pub fn resume(&mut self, nn: usize) {
        self.namenodes[nn].paused_until = 0;
        while let Some(event) = self.namenodes[nn].parked.pop_front() {
            self.at(0, event);
        }
    }

    pub fn restart_journalnode(&mut self, jn: Jn) {
        let now = self.journalnodes[jn].clock.local(self.now);
        self.journalnodes[jn].grantor = Grantor::new(grantor_config(jn, self.planted), now);
    }

    pub fn set_reachable(&mut self, nn: usize, jn: Jn, reachable: bool) {
        self.journalnodes[jn].reachable[nn] = reachable;
    }

    pub fn command(&mut self, nn: usize, command: Command) -> CommandId {
        self.next_command += 1;
        let id = CommandId(self.next_command);
        self.with(nn, |controller, now| {
            controller.handle_command(now, id, command)
        });
        id
    }

    pub fn outcome(&self, id: CommandId) -> Option<&Result<(), String>> {
        self.outcomes
            .iter()
            .find(|(it, _)| *it == id)
            .map(|(_, outcome)| outcome)
    }

    /// Its driver loads a namespace, or is done with that.
    pub fn set_loaded(&mut self, nn: usize, loaded: bool) {
        self.with(nn, |controller, now| controller.handle_ready(now, loaded));
    }

    /// Why this NameNode must not become active.
    pub fn set_barred(&mut self, nn: usize, reason: Option<&str>) {
        let reason = reason.map(String::from);
        self.with(nn, |controller, now| controller.handle_barred(now, reason));
    }

    /// No majority acknowledges edits any more.
    pub fn stall(&mut self, nn: usize) {
        self.with(nn, |controller, now| controller.handle_journal_stalled(now));
    }

    /// Whether the driver is done with leaving the role.
    pub fn resigned(&self, nn: usize) -> bool {
        !self.namenodes[nn].driver.resigning
    }

    /// The driver lost the role by itself.
    pub fn fence(&mut self, nn: usize) {
        let driver = &mut self.namenodes[nn].driver;
        driver.claim = None;
        driver.writes = None;
        driver.resigning = false;
        self.with(nn, |controller, now| controller.handle_resigned(now));
    }

    fn at(&mut self, after: u64, event: Event) {
        self.next_event += 1;
        self.events
            .insert((self.now + after, self.next_event), event);
    }

    /// Sends something, in the present weather.
    fn send(&mut self, event: Event) {
        let slow = match &event {
            Event::Reply { nn, .. } => self.slow_answers[*nn] * MS,
            _ => 0,
        };
        let weather = self.weather;
        let copies = 1 + u64::from(self.rng.percent(weather.repeat));
        for _ in 0..copies {
            if self.rng.percent(weather.loss) {
                continue;
            }
            let longest = match self.rng.below(8) {
                0 => weather.long_delay_ms,
                _ => weather.delay_ms,
            };
            let delay = self.rng.below(longest * 1000 + 1) * 1000;
            self.at(slow + delay, event.clone());
        }
    }

    fn with(&mut self, nn: usize, act: impl FnOnce(&mut Controller, Tick)) {
        let it = &mut self.namenodes[nn];
        let now = it.clock.local(self.now);
        if let Some(controller) = &mut it.controller {
            act(controller, now);
        }
        self.pump(nn);
    }

    fn pump(&mut self, nn: usize) {
        loop {
            let it = &mut self.namenodes[nn];
            let Some(controller) = &mut it.controller else {
                return;
            };
            let life = it.life;
            let Some(output) = controller.poll_output() else {
                break;
            };
            match output {
                Output::Call { jn, id, request } => {
                    if self.journalnodes[jn].reachable[nn] {
                        self.send(Event::AtJournal {
                            nn,
                            life,
                            jn,
                            id,
                            request,
                        });
                    } else if self.rng.percent(50) {
                        self.at(MS, Event::CallFailed { nn, life, jn, id });
                    }
                }
                Output::CallPeer { id, request, .. } => self.send(Event::AtPeer {
                    from: nn,
                    life,
                    id,
                    request,
                }),
                Output::StartClaim => {
                    it.driver.claims += 1;
                    let number = it.driver.claims;
                    it.driver.claim = Some(Claim::numbered(number));
                    if self.claims_hang[nn] {
                        continue;
                    }
                    for jn in 0..3 {
                        let ask = Event::AskState {
                            nn,
                            life,
                            number,
                            jn,
                        };
                        self.send(ask);
                    }
                    self.at(3000 * MS, Event::ClaimTimeout { nn, life, number });
                }
                Output::StepDown { .. } => {
                    self.lapses += 1;
                    it.driver.claim = None;
                    it.driver.writes = None;
                    it.driver.resigning = true;
                    let after = self.rng.below(200) * MS;
                    self.at(after, Event::Resigned { nn, life });
                }
                Output::HandOver { .. } => {
                    self.hand_overs += 1;
                    it.driver.resigning = true;
                    if self.hand_overs_hang[nn] {
                        continue;
                    }
                    let after = self.rng.below(200) * MS;
                    self.at(after, Event::Resigned { nn, life });
                }
                Output::Follow { .. } => {}
                Output::CommandDone { command, outcome } => {
                    let outcome = outcome.map_err(|error| error.to_string());
                    self.outcomes.push((command, outcome));
                }
            }
        }
        let it = &mut self.namenodes[nn];
        let controller = it.controller.as_ref().expect("just seen");
        let due = it.clock.real(controller.poll_timeout());
        if due < it.timer {
            it.timer = due.max(self.now);
            let after = it.timer - self.now;
            self.at(after, Event::Timer { nn });
        }
    }

    /// Lets `ms` milliseconds pass; stops at a violation.
    pub fn run_for(&mut self, ms: u64) {
        let end = self.now + ms * MS;
        while self.violation.is_none() {
            let Some(entry) = self.events.first_entry() else {
                break;
            };
            let (at, _) = *entry.key();
            if at > end {
                break;
            }
            let event = entry.remove();
            self.now = at;
            self.step(event);
            self.check();
        }
        if self.violation.is_none() {
            self.now = end;
            self.check();
        }
    }

    /// Runs until `wanted`, for at most `ms`; whether it came.
    pub fn run_until(&mut self, ms: u64, wanted: impl Fn(&Self) -> bool) -> bool {
        for _ in 0..ms {
            if wanted(self) {
                return true;
            }
            self.run_for(1);
        }
        wanted(self)
    }

    fn check(&mut self) {
        let serving = self.serving();
        if serving.len() > 1 {
            self.violation = Some(format!(
                "{} ms: two may serve: {}; {}",
                self.now / MS,
                self.controller(0).state_line(self.local(0)),
                self.controller(1).state_line(self.local(1)),
            ));
        }
        for nn in serving {
            let applied = self.namenodes[nn].driver.applied;
            if applied != self.committed {
                self.violation = Some(format!(
                    "{} ms: {} would answer with {applied}, {} is committed",
                    self.now / MS,
                    names()[nn],
                    self.committed
                ));
            }
        }
    }

    fn step(&mut self, event: Event) {
        if let Some((nn, life)) = event.owner() {
            let it = &mut self.namenodes[nn];
            if life.is_some_and(|life| life != it.life) {
                return;
            }
            if it.paused_until > self.now {
                if it.parked.is_empty() {
                    let wake = it.paused_until - self.now;
                    it.parked.push_back(event);
                    self.at(wake, Event::Start { nn });
                } else {
                    it.parked.push_back(event);
                }
                return;
            }
        }
        match event {
            Event::Start { nn } => self.resume(nn),
            Event::Timer { nn } => {
                let it = &mut self.namenodes[nn];
                it.timer = u64::MAX;
                let Some(controller) = &mut it.controller else {
                    return;
                };
                let now = it.clock.local(self.now);
                if controller.poll_timeout() <= now {
                    controller.handle_timeout(now);
                    assert!(
                        controller.poll_timeout() > now,
                        "the timer spins: {}",
                        controller.state_line(now)
                    );
                }
                self.pump(nn);
            }
            Event::AtJournal {
                nn,
                life,
                jn,
                id,
                request,
            } => {
                let it = &mut self.journalnodes[jn];
                if !it.reachable[nn] {
                    return;
                }
                let voter = Voter {
                    namespace_id: Some(0),
                    votes: true,
                    promised: Epoch(it.promised),
                };
                let now = it.clock.local(self.now);
                let outcome = it
                    .grantor
                    .handle_request(now, &principal(nn), &request, voter);
                self.send(Event::Reply {
                    nn,
                    life,
                    jn,
                    id,
                    outcome,
                });
            }
            Event::Reply {
                nn,
                jn,
                id,
                outcome,
                ..
            } => self.with(nn, |it, now| it.handle_reply(now, jn, id, outcome)),
            Event::CallFailed { nn, jn, id, .. } => {
                self.with(nn, |it, now| it.handle_call_failed(now, jn, id, "no way"));
            }
            Event::Resigned { nn, .. } => {
                let driver = &mut self.namenodes[nn].driver;
                driver.writes = None;
                if std::mem::take(&mut driver.resigning) {
                    self.with(nn, |it, now| it.handle_resigned(now));
                }
            }
            Event::AtPeer {
                from,
                life,
                id,
                request,
            } => self.at_peer(from, life, id, request),
            Event::FromPeer {
                nn, id, outcome, ..
            } => {
                let peer = names()[1 - nn];
                self.with(nn, |it, now| it.handle_peer_reply(now, peer, id, outcome));
            }
            Event::Probe { nn } => {
                let healthy = self.healthy[nn];
                self.with(nn, |it, now| {
                    it.handle_health(now, healthy.then_some(()).ok_or("disk full".into()));
                });
                self.at(1000 * MS, Event::Probe { nn });
            }
            Event::Write { nn } => {
                self.write(nn);
                let after = (20 + self.rng.below(200)) * MS;
                self.at(after, Event::Write { nn });
            }
            claim => self.claim_step(claim),
        }
    }

    fn at_peer(&mut self, from: usize, life: u64, id: CallTag, request: ha::Request) {
        let nn = 1 - from;
        let it = &mut self.namenodes[nn];
        let now = it.clock.local(self.now);
        let Some(controller) = &mut it.controller else {
            return;
        };
        let outcome = match request {
            ha::Request::GetHealth => Ok(ha::Response::Health {
                health: ha::Health {
                    state: controller.state(),
                    healthy: controller.is_healthy(),
                    reason: controller.health_reason().into(),
                    ready: self.ready[nn].is_ok(),
                    not_ready: self.ready[nn].err().unwrap_or_default().into(),
                    ..ha::Health::default()
                },
            }),
            ha::Request::Stand { from } => controller
                .handle_stand(now, &from)
                .map(|()| ha::Response::Done),
            ha::Request::Yield { .. } => unreachable!("controllers do not send it"),
        };
        self.pump(nn);
        self.send(Event::FromPeer {
            nn: from,
            life,
            id,
            outcome,
        });
    }

    /// One write of whoever thinks that it writes: atomic, and checked by epoch (protocols.md section 1).
    fn write(&mut self, nn: usize) {
        let driver = &mut self.namenodes[nn].driver;
        let Some(epoch) = driver.writes else { return };
        let takes = |it: &&Journalnode| it.reachable[nn] && it.promised == epoch.0;
        if self.journalnodes.iter().filter(takes).count() >= 2 {
            self.committed += 1;
            driver.applied = self.committed;
        }
    }

    pub fn states(&self) -> [Option<HaState>; 2] {
        [0, 1].map(|nn| {
            self.namenodes[nn]
                .controller
                .as_ref()
                .map(Controller::state)
        })
    }
}

pub fn grantor_config(jn: Jn, planted: Planted) -> GrantorConfig {
    GrantorConfig {
        name: format!("jn{jn}"),
        ttl_ms: TTL,
        planted,
    }
}
