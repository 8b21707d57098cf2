//! X3 with nodes that forget: a disk is lost, or an old image of it is put back, and the node returns as a learner
//! (protocols.md section 1, "How a learner returns").
//!
//! JournalNodes that can reach each other exchange counts and promises at once; two of them may be apart for a while.
//! What a learner and its peers do among themselves is one step ([`Action::Meet`]), which a power cut may end anywhere.
//! Explorations begin in states that a run of the same cores leads to, so that short ways lead to the rare ones.

use super::{Budget, Explorer, Fuse, NOW, State};
use crate::world::disk::Disk;
use hadal_proto::qjournal::Standing;
use hadal_qjournal::Planted;
use hadal_types::{Tick, TxId};
use std::hash::{DefaultHasher, Hasher};
use std::rc::Rc;

/// Past every pause of a node.
const NODE_PAUSE_MS: u64 = 10_000;
/// Past the pauses of a writer, before its claim times out.
const WRITER_PAUSE_MS: u64 = 1_000;

#[derive(Clone, Copy, Debug)]
pub(super) enum Action {
    /// The disk is lost.
    Wipe(u8),
    /// A copy of the disk is kept.
    Image(u8),
    /// The copy takes the place of the disk.
    Restore,
    /// The timers of a node go off, until it has nothing more to do.
    Meet(u8),
    /// As Meet; it loses power after so many disk operations.
    MeetAndCut(u8, usize),
    /// The pauses of a writer end.
    Tick(u8),
    /// Two nodes cannot talk to each other.
    Part(u8, u8),
    /// They can again.
    Heal,
}

fn forgetting(state: &State, jn: u8) -> bool {
    let standing = state.nodes[usize::from(jn)].acceptor.standing();
    matches!(standing, Standing::Unformatted | Standing::Learner)
}

impl Explorer {
    pub(super) fn forgetful_actions(&self, state: &State, actions: &mut Vec<super::Action>) {
        let budget = &state.budget;
        let mut add = |action| actions.push(super::Action::Forget(action));
        for jn in 0..3 {
            // One disk of three may be lost at a time.
            let may_forget = (0..3).all(|other| other == jn || !forgetting(state, other));
            if budget.wipes > 0 && may_forget {
                add(Action::Wipe(jn));
            }
            if budget.images > 0 && state.image.is_none() && !forgetting(state, jn) {
                add(Action::Image(jn));
            }
            if let Some((of, image)) = &state.image
                && *of == jn
                && may_forget
                && is_older_than_known(state, jn, image)
            {
                add(Action::Restore);
            }
            if state.nodes[usize::from(jn)].acceptor.standing() != Standing::Voter {
                add(Action::Meet(jn));
                if budget.crashes > 0 {
                    (0..6).for_each(|left| add(Action::MeetAndCut(jn, left)));
                }
            } else if budget.raises > 0 {
                add(Action::Meet(jn));
            }
            if budget.partitions > 0 && state.parted.is_none() {
                (jn + 1..3).for_each(|other| add(Action::Part(jn, other)));
            }
        }
        if state.parted.is_some() {
            add(Action::Heal);
        }
        for (w, writer) in state.writers.iter().enumerate() {
            let due = writer.poll_timeout().is_some_and(|at| at <= pause());
            if budget.ticks > 0 && due {
                add(Action::Tick(w as u8));
            }
        }
    }

    /// False when nothing came of it.
    pub(super) fn forget(&self, state: &mut State, action: Action) -> Result<bool, String> {
        match action {
            Action::Wipe(jn) => {
                state.budget.wipes -= 1;
                Rc::make_mut(&mut state.nodes[usize::from(jn)]).disk = Disk::default();
                self.start_again(state, jn)?;
            }
            Action::Image(jn) => {
                state.budget.images -= 1;
                let mut image = state.nodes[usize::from(jn)].disk.clone();
                image.fetched.clear();
                state.image = Some((jn, Rc::new(image)));
            }
            Action::Restore => {
                let (jn, image) = state.image.take().expect("there is one");
                Rc::make_mut(&mut state.nodes[usize::from(jn)]).disk = (*image).clone();
                self.start_again(state, jn)?;
            }
            Action::Meet(jn) => {
                let votes = state.nodes[usize::from(jn)].acceptor.standing() == Standing::Voter;
                state.budget.raises -= u8::from(votes);
                meet(state, jn)?;
            }
            Action::MeetAndCut(jn, left) => {
                state.budget.crashes -= 1;
                let fuse = Fuse::After { left, torn: false };
                Rc::make_mut(&mut state.nodes[usize::from(jn)]).fuse = fuse;
                meet(state, jn)?;
                return self.blown(state, jn);
            }
            Action::Tick(w) => {
                state.budget.ticks -= 1;
                let writer = Rc::make_mut(&mut state.writers[usize::from(w)]);
                writer.handle_timeout(pause());
                state.drain(w)?;
            }
            Action::Part(a, b) => {
                state.budget.partitions -= 1;
                state.parted = Some((a, b));
            }
            Action::Heal => state.parted = None,
        }
        Ok(true)
    }

    /// Delivers what is on its way to these nodes, and what comes of it.
    fn deliver_all(&self, state: &mut State, w: u8, to: &[u8]) {
        while let Some(jn) = to
            .iter()
            .find(|jn| state.wires.contains_key(&(w, **jn, true)))
        {
            let action = super::Action::Deliver(w, *jn, true);
            *state = self
                .apply(state, action)
                .expect("no violation")
                .expect("a step");
        }
    }

    fn step(&self, state: &mut State, action: super::Action) {
        *state = self
            .apply(state, action)
            .expect("no violation")
            .expect("a step");
    }

    /// Delivers this many requests to one node.
    fn deliver_some(&self, state: &mut State, w: u8, jn: u8, count: usize) {
        for _ in 0..count {
            self.step(state, super::Action::Deliver(w, jn, true));
        }
    }

    /// A writer in its first segment, at all nodes, with so many edits everywhere.
    pub(super) fn writing(&self, edits: u8) -> State {
        let mut state = self.initial(Budget {
            writers: 1,
            edits,
            ..Budget::default()
        });
        self.step(&mut state, super::Action::Claim);
        self.deliver_all(&mut state, 0, &[0, 1, 2]);
        for _ in 0..edits {
            self.step(&mut state, super::Action::Append(0));
            self.deliver_all(&mut state, 0, &[0, 1, 2]);
        }
        assert!(state.writers[0].is_writing());
        state
    }

    /// The last node is wiped under the writer, meets its peers, and refuses the next edit: the writer now tells it that
    /// it knows it for a learner.
    fn teach_the_last(&self, state: &mut State) {
        state.budget = Budget {
            wipes: 1,
            edits: 1,
            ticks: 1,
            ..Budget::default()
        };
        self.step(state, super::Action::Forget(Action::Wipe(2)));
        self.step(state, super::Action::Forget(Action::Meet(2)));
        self.step(state, super::Action::Append(0));
        self.deliver_some(state, 0, 2, 1);
        self.step(state, super::Action::Forget(Action::Tick(0)));
        assert_eq!(state.nodes[2].acceptor.standing(), Standing::Learner);
    }

    /// As [`Self::accepting`], further on: both have accepted, the second has finalised, the third is asked to. What was
    /// on its way to the first is lost.
    pub(super) fn finalizing(&self) -> State {
        let mut state = self.accepting();
        state.wires.remove(&(1, 0, true));
        for jn in [1, 2, 1] {
            self.deliver_some(&mut state, 1, jn, 1);
        }
        assert!(state.wires.contains_key(&(1, 2, true)));
        state
    }

    /// The second and third node acknowledged one edit that the first lacks (`committed`), or all have it; the third cannot
    /// read the one before the last, the second is a learner.
    fn in_doubt(&self, committed: bool) -> State {
        let mut state = self.writing(2);
        state.budget.edits = 1;
        self.step(&mut state, super::Action::Append(0));
        let to: &[u8] = if committed { &[1, 2] } else { &[0, 1, 2] };
        self.deliver_all(&mut state, 0, to);
        assert!(state.settled.contains_key(&TxId(3)));
        let segments = &mut Rc::make_mut(&mut state.nodes[2]).disk.segments;
        segments.get_mut(&TxId(1)).expect("started").bad = Some(TxId(2));
        self.start_again(&mut state, 2).expect("starts");
        state.budget.wipes = 1;
        self.step(&mut state, super::Action::Forget(Action::Wipe(1)));
        self.step(&mut state, super::Action::Forget(Action::Meet(1)));
        assert_eq!(state.nodes[1].acceptor.standing(), Standing::Learner);
        state
    }

    /// An edit everywhere, and the second node a learner: power cuts tear the next ones on one of the two others.
    fn writing_beside_a_learner(&self) -> State {
        let mut state = self.writing(1);
        state.budget.wipes = 1;
        self.step(&mut state, super::Action::Forget(Action::Wipe(1)));
        self.step(&mut state, super::Action::Forget(Action::Meet(1)));
        state
    }

    /// A learner is being taught by a writer that has an edit everywhere else.
    fn teaching(&self) -> State {
        let mut state = self.writing(1);
        self.teach_the_last(&mut state);
        state
    }

    /// A learner is being taught, while a claimant holds a promise from before it forgot.
    fn rivals(&self) -> State {
        let mut state = self.writing(0);
        state.budget.writers = 1;
        self.step(&mut state, super::Action::Claim);
        for jn in [0, 1, 2, 2] {
            self.deliver_some(&mut state, 1, jn, 1);
        }
        self.teach_the_last(&mut state);
        state
    }

    /// A writer left three edits on the first node and one on the second; the next one has the promises of the second and
    /// third and is about to make them accept the one edit.
    fn accepting(&self) -> State {
        let mut state = self.writing(0);
        state.budget = Budget {
            writers: 1,
            edits: 3,
            ..Budget::default()
        };
        for _ in 0..3 {
            self.step(&mut state, super::Action::Append(0));
        }
        self.deliver_all(&mut state, 0, &[0]);
        self.deliver_some(&mut state, 0, 1, 1);
        state.wires.remove(&(0, 1, true));
        state.wires.remove(&(0, 2, true));
        self.step(&mut state, super::Action::Claim);
        // States, promises, what there is of the segment.
        for _ in 0..3 {
            self.deliver_some(&mut state, 1, 1, 1);
            self.deliver_some(&mut state, 1, 2, 1);
        }
        state
    }
}

fn pause() -> Tick {
    NOW.after_ms(WRITER_PAUSE_MS)
}

/// Images newer than the last raise of the count that the peers know are outside the guarantee.
fn is_older_than_known(state: &State, jn: u8, image: &Disk) -> bool {
    let count = |disk: &Disk| disk.record.as_ref().map_or(0, |record| record.count);
    let name = super::name(usize::from(jn));
    let peers = (0..3).filter(|other| *other != usize::from(jn));
    peers
        .filter_map(|other| state.nodes[other].disk.record.as_ref())
        .all(|record| {
            let known = record.known.iter().find(|known| known.name == name);
            known.is_some_and(|known| known.incarnation.count > count(image))
        })
}

/// A node's timers go off until nothing changes any more, here or at its peers.
fn meet(state: &mut State, jn: u8) -> Result<(), String> {
    let all = |state: &State| {
        let mut hasher = DefaultHasher::new();
        for node in &state.nodes {
            node.acceptor.fingerprint(&mut hasher);
        }
        hasher.finish()
    };
    let (mut before, mut still) = (all(state), 0);
    for _ in 0..40 {
        let node = Rc::make_mut(&mut state.nodes[usize::from(jn)]);
        node.now = node.now.after_ms(NODE_PAUSE_MS);
        node.acceptor.handle_timeout(node.now);
        state.settle(jn)?;
        if state.nodes[usize::from(jn)].fuse == Fuse::Blown {
            return Ok(());
        }
        let after = all(state);
        still = if after == before { still + 1 } else { 0 };
        // Both peers had their turn.
        if still == 2 {
            return Ok(());
        }
        before = after;
    }
    Err(format!("jn{jn} finds no rest"))
}

fn explorer(planted: Planted) -> Explorer {
    Explorer {
        planted,
        peers: true,
    }
}

/// X3 with wipes, old images, partitions between JournalNodes and power cuts of learners.
#[test]
fn x3_no_violation_with_nodes_that_forget() {
    let limit = std::env::var("HADAL_X3_STATES").map_or(8_000, |n| n.parse().expect("a number"));
    let explorer = explorer(Planted::default());
    let base = Budget {
        writers: 1,
        edits: 1,
        ticks: 2,
        ..Budget::default()
    };
    let bounds = [
        ("wipe", explorer.writing(0), Budget { wipes: 1, ..base }),
        (
            "two wipes",
            explorer.writing(1),
            Budget {
                wipes: 2,
                ticks: 4,
                ..base
            },
        ),
        (
            "image",
            explorer.writing(1),
            Budget {
                images: 1,
                raises: 1,
                ..base
            },
        ),
        (
            "wipe and partition",
            explorer.writing(0),
            Budget {
                wipes: 1,
                partitions: 1,
                ..base
            },
        ),
        (
            "taught, with power cuts",
            explorer.teaching(),
            Budget { crashes: 1, ..base },
        ),
        (
            "taught, and a break",
            explorer.teaching(),
            Budget { breaks: 1, ..base },
        ),
        (
            "accepting, with power cuts",
            explorer.accepting(),
            Budget {
                crashes: 1,
                edits: 0,
                ..base
            },
        ),
        (
            "taught, with a rival",
            explorer.rivals(),
            Budget { writers: 0, ..base },
        ),
        (
            "finalising, with power cuts",
            explorer.finalizing(),
            Budget {
                crashes: 1,
                edits: 0,
                ..base
            },
        ),
        (
            "in doubt, with power cuts",
            explorer.in_doubt(true),
            Budget {
                crashes: 1,
                edits: 0,
                ..base
            },
        ),
        (
            "in doubt, bounded, with power cuts",
            explorer.in_doubt(false),
            Budget { crashes: 1, ..base },
        ),
        (
            "writing beside a learner, with power cuts",
            explorer.writing_beside_a_learner(),
            Budget {
                crashes: 1,
                edits: 2,
                ..base
            },
        ),
        (
            "accepting, and a wipe",
            explorer.accepting(),
            Budget {
                wipes: 1,
                edits: 0,
                ..base
            },
        ),
    ];
    for (name, mut state, budget) in bounds {
        state.budget = budget;
        let (states, all) = explorer
            .explore(state, limit)
            .unwrap_or_else(|what| panic!("{name}: {what}"));
        println!(
            "{name}: {states} states{}",
            if all { ", exhausted" } else { "" }
        );
        assert!(all || states >= limit);
    }
}

/// The exploration is not vacuous: with a rule off it finds the violation.
#[test]
fn x3_finds_planted_bugs_of_nodes_that_forget() {
    let base = Budget {
        writers: 1,
        ..Budget::default()
    };
    type Case = (
        &'static str,
        fn(&mut Planted),
        fn(&Explorer) -> State,
        Budget,
    );
    let cases: [Case; 3] = [
        (
            "bound_doubt_early",
            |p| p.bound_doubt_early = true,
            |e| e.in_doubt(true),
            base,
        ),
        (
            "count_old_incarnations",
            |p| p.count_old_incarnations = true,
            Explorer::rivals,
            Budget {
                ticks: 1,
                ..Budget::default()
            },
        ),
        (
            "learner_votes",
            |p| p.learner_votes = true,
            |e| e.writing(0),
            Budget {
                wipes: 1,
                edits: 1,
                ..base
            },
        ),
    ];
    for (name, set, start, budget) in cases {
        let mut planted = Planted::default();
        set(&mut planted);
        let explorer = explorer(planted);
        let mut state = start(&explorer);
        state.budget = budget;
        let violation = explorer.explore(state, 200_000);
        println!("{name}: {violation:?}");
        violation.expect_err(name);
    }
}
