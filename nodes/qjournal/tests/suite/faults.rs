//! T-F1, T-F2, X1, X2: faults at every message and every disk operation.

use crate::world::{Cut, Fate, Message, World};
use std::collections::BTreeMap;

/// Become writer, write 1-3, roll, write 4-6, roll. Goes as far as it gets.
fn workload(world: &mut World) -> bool {
    let w = world.writer();
    world.recover(w).is_ok()
        && world.begin(w)
        && world.write(w, 3)
        && world.roll(w)
        && world.write(w, 3)
        && world.roll(w)
}

/// Whatever happened: nothing acknowledged is lost, and the next writer goes on.
fn aftermath(world: &mut World) {
    world.fate = None;
    for node in &mut world.nodes {
        node.cut = None;
    }
    for w in 0..world.writers.len() {
        world.kill_writer(w);
    }
    world.auto_restart = true;
    world.catch_up = true;
    world.run(|world| world.nodes.iter().all(|node| node.acceptor.is_some()));
    let w = world.writer();
    // A node may have promised a higher epoch to a claim that died: then the next claim goes above it.
    let recovered = (0..3).any(|_| world.recover(w).is_ok());
    assert!(recovered, "a new writer recovers: {:?}", world.claim(w));
    let goes_on = world.begin(w) && world.write(w, 3) && world.roll(w);
    assert!(
        goes_on,
        "and goes on: {:?} {:?}",
        world.log.last(),
        world.writers[w].lags()
    );
}

/// How many messages go each way in a run without faults.
fn message_counts() -> BTreeMap<(usize, bool), usize> {
    let mut world = World::new(3);
    assert!(workload(&mut world));
    world.quiesce();
    world.counts.clone()
}

/// T-F1, X1: every pair (a, b): the a-th message of JN0 and the b-th of JN1 are lost with their connections, or
/// refused; requests or replies; with catch-up and without.
#[test]
fn t_f1_x1_every_pair_of_lost_messages() {
    let counts = message_counts();
    let mut runs = 0;
    for (requests, catch_up, fate) in [
        (true, true, Fate::Break),
        (false, true, Fate::Break),
        (true, false, Fate::Break),
        (false, false, Fate::Break),
        (true, true, Fate::Refuse),
        (false, false, Fate::Refuse),
    ] {
        for a in 0..counts[&(0, requests)] {
            for b in 0..counts[&(1, requests)] {
                let mut world = World::new(3);
                world.catch_up = catch_up;
                world.fate = Some(Box::new(move |message: &Message, index| {
                    let hit = message.wire.is_request() == requests
                        && ((message.jn, index) == (0, a) || (message.jn, index) == (1, b));
                    if hit { fate } else { Fate::Deliver }
                }));
                let through = workload(&mut world);
                if catch_up && fate == Fate::Break {
                    assert!(through, "lost messages heal: {requests} {a} {b}");
                }
                aftermath(&mut world);
                runs += 1;
            }
        }
    }
    assert!(runs > 400, "{runs} pairs");
}

/// Disk operations of each JournalNode in a run without faults, since its format.
fn operations() -> (usize, usize) {
    let mut world = World::new(3);
    let before = world.nodes[0].operations;
    assert!(workload(&mut world));
    world.quiesce();
    (before, world.nodes[0].operations)
}

/// X2: every JournalNode loses power at every disk operation, and comes back at once or later.
#[test]
fn x2_crash_of_a_node_at_every_effect() {
    let (first, end) = operations();
    let mut hit = 0;
    for jn in 0..3 {
        for at in first..end {
            for cut in [Cut::Before, Cut::Torn, Cut::After] {
                for auto_restart in [true, false] {
                    let mut world = World::new(3);
                    world.auto_restart = auto_restart;
                    world.nodes[jn].cut = Some((at, cut));
                    assert!(workload(&mut world), "one node is no majority");
                    hit += usize::from(world.nodes[jn].cut.is_none());
                    aftermath(&mut world);
                }
            }
        }
    }
    assert_eq!(hit, (end - first) * 18, "every cut was reached");
}

/// X2, pairs: the writer dies after any number of messages, and a JournalNode at any disk operation; and two
/// JournalNodes at any pair of operations.
#[test]
fn x2_crash_of_pairs() {
    let (first, end) = operations();
    let messages = {
        let mut world = World::new(3);
        assert!(workload(&mut world));
        world.counts.values().sum::<usize>()
    };
    for at in first..end {
        for cut in [Cut::Before, Cut::Torn, Cut::After] {
            for died in (0..messages).step_by(2) {
                let mut world = World::new(3);
                world.nodes[0].cut = Some((at, cut));
                let mut seen = 0;
                world.fate = Some(Box::new(move |_: &Message, _| {
                    seen += 1;
                    if seen > died {
                        Fate::Swallow
                    } else {
                        Fate::Deliver
                    }
                }));
                workload(&mut world);
                aftermath(&mut world);
            }
            for other in first..end {
                for cut_other in [Cut::Before, Cut::Torn, Cut::After] {
                    let mut world = World::new(3);
                    world.nodes[0].cut = Some((at, cut));
                    world.nodes[1].cut = Some((other, cut_other));
                    workload(&mut world);
                    aftermath(&mut world);
                }
            }
        }
    }
}

struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % n
    }
}

/// T-F2: successive writers, connections that break, nodes that come, go and lose power, purges. What a run did,
/// as one number.
pub fn randomised(seed: u64, writers: u64, mut world: World) -> u64 {
    let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    world.catch_up = random.below(2) == 0;
    let mut of_fate = Random(seed.wrapping_mul(0xbf58_476d_1ce4_e5b9) | 1);
    world.fate = Some(Box::new(move |_: &Message, _| match of_fate.below(60) {
        0..=2 => Fate::Break,
        3 => Fate::Refuse,
        _ => Fate::Deliver,
    }));
    let (mut trace, mut through) = (0u64, 0);
    for turn in 0..writers {
        for jn in 0..3 {
            match random.below(10) {
                0 => world.set_up(jn, false),
                1..=3 => world.set_up(jn, true),
                4 => {
                    let at = world.nodes[jn].operations + random.below(12) as usize;
                    let cut = [Cut::Before, Cut::Torn, Cut::After][random.below(3) as usize];
                    world.nodes[jn].cut = Some((at, cut));
                }
                _ => {}
            }
        }
        let w = world.writer();
        let done = world.claim(w).is_ok()
            && world.begin(w)
            && world.write(w, 4)
            && world.roll(w)
            && world.write(w, 4)
            && (random.below(2) == 0 || world.roll(w));
        through += u64::from(done);
        if done && turn % 10 == 9 {
            let _ = world.writers[w].purge(hadal_types::TxId(1));
            world.drain_writer(w);
        }
        // Half of them live on as zombies until the next but one.
        if random.below(2) == 0 || w == 0 {
            world.kill_writer(w);
        } else {
            world.kill_writer(w - 1);
        }
        trace = trace
            .wrapping_mul(31)
            .wrapping_add(world.ends().iter().sum::<u64>() + u64::from(done));
    }
    assert!(through > 0, "{through} of {writers} writers got through");
    world.only(&[0, 1, 2]);
    aftermath(&mut world);
    trace
}

/// T-F2.
#[test]
fn t_f2_randomised() {
    let seeds: u64 = std::env::var("HADAL_QJM_SEEDS").map_or(20, |n| n.parse().expect("a number"));
    for seed in 1..=seeds {
        let trace = randomised(seed, 50, World::new(3));
        if seed <= 2 {
            assert_eq!(trace, randomised(seed, 50, World::new(3)), "deterministic");
        }
    }
    randomised(99, 500, World::new(3));
    randomised(7, 50, World::new(5));
}
