//! X4 on the real cores: random walks in bad weather, and what they find when a rule is switched off.

use crate::world::{MS, Weather, World};
use hadal_failover::{Command, Planted};

/// Walks through `storms` stretches of bad weather with crashes, restarts, pauses and hand-overs.
fn storm(world: &mut World, storms: u64) {
    for _ in 0..storms {
        world.weather = match world.rng.below(4) {
            0 => Weather::FINE,
            1 => Weather {
                loss: 0,
                repeat: 10,
                delay_ms: 300,
                long_delay_ms: 1_200,
            },
            _ => Weather::STORM,
        };
        let nn = world.rng.below(2) as usize;
        match world.rng.below(13) {
            0 | 1 => {
                let jn = world.rng.below(3) as usize;
                world.restart_journalnode(jn);
            }
            2 => {
                let ms = world.rng.below(1_500);
                world.pause(nn, ms);
            }
            3 => world.crash(nn),
            4 => {
                let peer = crate::world::names()[1 - nn].to_string();
                if world.is_up(nn) {
                    let force_active = world.rng.percent(50);
                    world.command(nn, Command::FailoverTo { peer, force_active });
                }
            }
            5 => {
                // Now and then a NameNode loses a minority, a majority or all of them, the other one nothing.
                for jn in 0..3 {
                    let reachable = world.rng.percent(50);
                    world.set_reachable(nn, jn, reachable);
                    world.set_reachable(1 - nn, jn, true);
                }
            }
            6 => world.healthy[nn] = world.rng.percent(70),
            7 if world.is_up(nn) => world.fence(nn),
            8 => {
                let slow = [0, 0, 100, 400, 800];
                world.slow_answers[nn] = slow[world.rng.below(5) as usize];
            }
            10 if world.is_up(nn) => {
                world.command(nn, Command::TransitionToStandby);
            }
            11 if world.is_up(nn) => world.stall(nn),
            9 => (0..3).for_each(|jn| world.set_reachable(nn, jn, true)),
            _ => {}
        }
        let ms = 50 + world.rng.below(900);
        world.run_for(ms);
        if world.violation.is_some() {
            return;
        }
        for nn in 0..2 {
            if world.rng.percent(50) {
                world.start(nn);
            }
        }
    }
}

fn heal(world: &mut World) {
    world.weather = Weather::FINE;
    world.healthy = [true; 2];
    world.slow_answers = [0; 2];
    for nn in 0..2 {
        (0..3).for_each(|jn| world.set_reachable(nn, jn, true));
        world.start(nn);
        world.resume(nn);
    }
}

/// Seeds that show a violation, out of `seeds`; stops at the first.
fn find(planted: Planted, seeds: u64) -> Option<(u64, String)> {
    (0..seeds).find_map(|seed| {
        let mut world = World::new(seed, planted, true);
        storm(&mut world, 60);
        world.violation.map(|violation| (seed, violation))
    })
}

/// X4: never two that may serve at the same instant, never an answer from before what is committed; and once the
/// weather is fine, somebody serves within 8 s and goes on.
#[test]
fn x4_at_most_one_serves_and_somebody_does() {
    let (mut elections, mut lapses, mut hand_overs) = (0, 0, 0);
    for seed in 0..600 {
        let mut world = World::new(seed, Planted::default(), true);
        storm(&mut world, 60);
        assert_eq!(world.violation, None, "seed {seed}");
        heal(&mut world);
        let served = world.run_until(8_000, |world| world.serving().len() == 1);
        assert_eq!(world.violation, None, "seed {seed}");
        assert!(
            served,
            "seed {seed}: nobody serves: {} / {}",
            world.controller(0).state_line(world.local(0)),
            world.controller(1).state_line(world.local(1))
        );
        // A hand-over may be under way; after it the role stays.
        world.run_for(25_000);
        let active = world.serving();
        let before = world.elections;
        world.run_for(5_000);
        assert_eq!(world.violation, None, "seed {seed}");
        assert_eq!(active.len(), 1, "seed {seed}");
        assert_eq!(
            world.serving(),
            active,
            "seed {seed}: the role moved in fine weather"
        );
        assert_eq!(
            world.elections, before,
            "seed {seed}: an election in fine weather"
        );
        elections += world.elections;
        lapses += world.lapses;
        hand_overs += world.hand_overs;
        assert!(world.now > 30_000 * MS);
    }
    // Not vacuous.
    assert!(elections > 4_000, "{elections} elections");
    assert!(lapses > 2_000, "{lapses} lapses");
    assert!(hand_overs > 200, "{hand_overs} hand-overs");
}

macro_rules! found {
    ($($(#[$doc:meta])* $name:ident: $($rule:ident),+;)*) => {$(
        $(#[$doc])*
        #[test]
        fn $name() {
            let planted = Planted { $($rule: true,)+ ..Planted::default() };
            let found = find(planted, 2_000);
            assert!(found.is_some(), "the walks do not notice {planted:?}");
        }
    )*};
}

found! {
    /// A grant while the other's lease runs.
    x4_finds_grants_over_a_running_lease: grant_over_lease;
    /// Counting from the answer (model-lease.md, weakened rules).
    x4_finds_a_lease_counted_from_the_answer: count_from_receive;
    /// Believing in the whole ttl with drifting clocks.
    x4_finds_a_lease_believed_to_its_end: whole_ttl;
    /// The newest acknowledgement instead of the (f+1)-th newest.
    x4_finds_one_acknowledgement_counted: newest_ack_counts;
    /// No silence after a restart.
    x4_finds_a_missing_silence: no_silence;
    /// Both, for each masks the other.
    x4_finds_resumption_with_old_renewals: resume_after_lapse, accept_old_renewals;
    /// Messages obeyed in any order: an old release gives a new lease away.
    x4_finds_messages_out_of_order: ignore_order;
    /// Serving while the lease is being given away.
    x4_finds_serving_while_releasing: serve_while_releasing;
}

/// Each of the two alone is covered by the other (model-lease.md, weakened rules): if one of these fails, the masking
/// is gone and the planted pair above can be split.
#[test]
fn x4_resumption_and_old_renewals_mask_each_other() {
    for planted in [
        Planted {
            resume_after_lapse: true,
            ..Planted::default()
        },
        Planted {
            accept_old_renewals: true,
            ..Planted::default()
        },
    ] {
        assert_eq!(find(planted, 150), None, "{planted:?}");
    }
}
