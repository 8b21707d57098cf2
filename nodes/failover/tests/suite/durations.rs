//! How long nobody serves after the active died, on the virtual clock: it is the lease that is waited for, and nothing else.

use crate::world::{MS, TTL, World, names};
use hadal_failover::{Command, Planted};

/// Beyond the lease: its last renewal on the way, the slowest of the clocks, the claim's calls.
const BEYOND_LEASE_MS: u64 = 150;
const SEEDS: u64 = 300;

/// What came before the active dies.
#[derive(Clone, Copy, Debug)]
enum Before {
    /// Nothing but its election.
    Elected,
    /// The other one was active, died, and came back.
    TookOver,
    /// The other one was active and handed over by an operator's order, a moment ago.
    HandedOver,
    /// There and back again, so that both have given the role away.
    ThereAndBack,
    /// The other one was told to be standby.
    Ceded,
}

/// Milliseconds from the active's death until the other one serves.
fn nobody_serves(seed: u64, before: Before) -> u64 {
    let mut world = World::new(seed, Planted::default(), true);
    let alone = |world: &World| world.serving().len() == 1;
    assert!(world.run_until(8_000, alone), "seed {seed}: no election");
    let settled = 1_000 + world.rng.below(1_000);
    world.run_for(settled);
    match before {
        Before::Elected => {}
        Before::TookOver => {
            let active = world.serving()[0];
            world.crash(active);
            assert!(world.run_until(15_000, alone));
            world.start(active);
        }
        Before::HandedOver => hand_over(&mut world),
        Before::ThereAndBack => {
            hand_over(&mut world);
            hand_over(&mut world);
        }
        Before::Ceded => {
            let active = world.serving()[0];
            world.command(active, Command::TransitionToStandby);
            let moved = |world: &World| world.serving() == [1 - active];
            assert!(world.run_until(15_000, moved));
        }
    }
    // A moment of its own between two renewals.
    let then = 1_000 + world.rng.below(1_000);
    world.run_for(then);
    let active = world.serving()[0];
    world.crash(active);
    let died = world.now;
    assert!(
        world.run_until(15_000, |world| world.serving() == [1 - active]),
        "seed {seed}: nobody serves"
    );
    assert_eq!(world.violation, None, "seed {seed}");
    (world.now - died) / MS
}

fn hand_over(world: &mut World) {
    let active = world.serving()[0];
    let peer = names()[1 - active].to_string();
    let id = world.command(
        active,
        Command::FailoverTo {
            peer,
            force_active: false,
        },
    );
    assert!(world.run_until(15_000, |world| world.outcome(id).is_some()));
    assert_eq!(world.outcome(id), Some(&Ok(())));
    world.run_for(500);
}

fn within_the_lease(before: Before) {
    let mut took: Vec<u64> = (0..SEEDS).map(|seed| nobody_serves(seed, before)).collect();
    let worst = took.iter().max().copied();
    let seed = took.iter().position(|ms| Some(*ms) == worst);
    took.sort_unstable();
    let at = |percent: usize| took[(took.len() - 1) * percent / 100];
    let told = format!(
        "{before:?}: {} ms at best, half within {}, 95 of 100 within {}, worst {} (seed {seed:?})",
        at(0),
        at(50),
        at(95),
        at(100)
    );
    println!("{told}");
    assert!(at(100) <= u64::from(TTL) + BEYOND_LEASE_MS, "{told}");
}

/// Of a cluster that was left alone.
#[test]
fn t_h1_a_dead_active_is_replaced_when_its_lease_ends() {
    within_the_lease(Before::Elected);
}

/// Failover after failover.
#[test]
fn t_h1_the_next_failover_takes_no_longer() {
    within_the_lease(Before::TookOver);
}

/// Who handed the role over by order is as good a standby as any.
#[test]
fn t_a15_a_failover_soon_after_a_hand_over_takes_no_longer() {
    within_the_lease(Before::HandedOver);
    within_the_lease(Before::ThereAndBack);
}

/// The same of one that was told to be standby.
#[test]
fn t_a14_a_failover_soon_after_ceding_takes_no_longer() {
    within_the_lease(Before::Ceded);
}
