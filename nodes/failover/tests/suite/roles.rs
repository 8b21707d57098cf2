//! Roles and how they move: the scenarios of behaviour.md 6.7 on two real controllers and three real grantors.

use crate::world::{MS, TTL, World};
use hadal_failover::{Command, CommandId, Controller, ControllerConfig, Output, Planted};
use hadal_types::{Epoch, HaState, Tick};

fn world(seed: u64) -> World {
    World::new(seed, Planted::default(), true)
}

fn manual(seed: u64) -> World {
    World::new(seed, Planted::default(), false)
}

/// Runs until this one serves.
fn serves(world: &mut World, nn: usize) {
    let served = world.run_until(15_000, |world| world.serving() == [nn]);
    assert_eq!(world.violation, None);
    let lines = [0, 1].map(|nn| {
        world
            .is_up(nn)
            .then(|| world.controller(nn).state_line(world.local(nn)))
    });
    assert!(served, "{lines:?}");
}

/// Whoever is elected first.
fn first(world: &mut World) -> usize {
    assert!(world.run_until(8_000, |world| !world.serving().is_empty()));
    world.run_for(1_000);
    world.serving()[0]
}

fn order(world: &mut World, nn: usize, command: Command) -> Result<(), String> {
    let id = world.command(nn, command);
    assert!(world.run_until(30_000, |world| world.outcome(id).is_some()));
    assert_eq!(world.violation, None);
    world.outcome(id).expect("just seen").clone()
}

fn failover(world: &mut World, from: usize, to: usize) -> Result<(), String> {
    let peer = crate::world::names()[to].to_string();
    order(
        world,
        from,
        Command::FailoverTo {
            peer,
            force_active: false,
        },
    )
}

const ACTIVE: Command = Command::TransitionToActive { force: false };

/// Cuts a NameNode off from every JournalNode, or joins it again.
fn cut(world: &mut World, nn: usize, cut: bool) {
    (0..3).for_each(|jn| world.set_reachable(nn, jn, !cut));
}

/// T-H9: an active that does not reach the JournalNodes stops within the lease, before another one may serve.
#[test]
fn t_h9_a_partitioned_active_stops_within_the_lease() {
    for seed in 0..30 {
        let mut world = world(seed);
        let old = first(&mut world);
        cut(&mut world, old, true);
        world.run_for(u64::from(TTL));
        assert_eq!(world.violation, None, "seed {seed}");
        assert!(!world.serving().contains(&old), "seed {seed}");
        serves(&mut world, 1 - old);
        let hint = world.controller(1 - old).active_hint(world.local(1 - old));
        assert_eq!(hint.expect("itself").name, crate::world::names()[1 - old]);
        // The old one learns who is active when it is back.
        cut(&mut world, old, false);
        world.run_for(1_000);
        let hint = world
            .controller(old)
            .active_hint(world.local(old))
            .expect("told");
        assert_eq!(
            (hint.name.as_str(), hint.serving),
            (crate::world::names()[1 - old], true)
        );
        assert_eq!(world.controller(old).state(), HaState::Standby);
    }
}

/// T-A10: the lease lost twice each way; T-A9: a driver that lost the role by itself.
#[test]
fn t_a10_t_a9_a_lost_lease_is_a_failover() {
    let mut world = world(3);
    let mut active = first(&mut world);
    for _ in 0..4 {
        cut(&mut world, active, true);
        serves(&mut world, 1 - active);
        cut(&mut world, active, false);
        world.run_for(2_000);
        active = 1 - active;
        assert_eq!(world.serving(), [active]);
    }
    let elections = world.elections;
    world.fence(active);
    assert!(world.serving().is_empty());
    assert!(world.run_until(5_000, |world| !world.serving().is_empty()));
    assert_eq!(world.elections, elections + 1);
    assert_eq!(world.violation, None);
}

/// T-A13: a majority of JournalNodes, or all, away for long: the same one is active afterwards, with one election; also
/// when they were restarted.
#[test]
fn t_a13_no_role_change_through_an_outage() {
    for seed in 0..40 {
        for restart in [false, true] {
            for gone in [2, 3] {
                let mut world = world(seed);
                let active = first(&mut world);
                let elections = world.elections;
                for jn in 0..gone {
                    (0..2).for_each(|nn| world.set_reachable(nn, jn, false));
                }
                // Probes that look at the journal are bad now, and for up to a second after the outage.
                world.healthy = [false; 2];
                world.run_for(7_000);
                world.healthy = [true; 2];
                assert!(world.serving().is_empty());
                assert!(!world.controller(0).journal_reachable(world.local(0)));
                assert_eq!(
                    world
                        .controller(0)
                        .silent_journalnodes(world.local(0))
                        .len(),
                    gone
                );
                for jn in 0..gone {
                    if restart {
                        world.restart_journalnode(jn);
                    }
                    (0..2).for_each(|nn| world.set_reachable(nn, jn, true));
                }
                serves(&mut world, active);
                world.run_for(5_000);
                assert_eq!(world.serving(), [active], "seed {seed}");
                assert_eq!(
                    world.elections,
                    elections + 1,
                    "seed {seed}: extra failovers"
                );
            }
        }
    }
}

/// T-A8: the active falls ill, the other takes over; that one goes away and the first is well again: it takes over.
#[test]
fn t_a8_ill_health_moves_the_role_and_back() {
    let mut world = world(5);
    let ill = first(&mut world);
    world.healthy[ill] = false;
    serves(&mut world, 1 - ill);
    assert_eq!(world.hand_overs, 1);
    world.run_for(20_000);
    assert_eq!(world.serving(), [1 - ill], "an ill one does not stand");
    world.crash(1 - ill);
    world.run_for(5_000);
    assert!(world.serving().is_empty());
    world.healthy[ill] = true;
    serves(&mut world, ill);
}

/// Q30: three bad probes in a row, and a peer that is well and caught up; else the role stays.
#[test]
fn q30_hysteresis() {
    let mut world = world(6);
    let active = first(&mut world);
    for _ in 0..5 {
        world.healthy[active] = false;
        world.run_for(2_000);
        world.healthy[active] = true;
        world.run_for(1_500);
    }
    assert_eq!((world.hand_overs, world.serving()), (0, vec![active]));
    // Nobody to hand over to.
    world.ready[1 - active] = Err("in safe mode");
    world.healthy[active] = false;
    world.run_for(10_000);
    assert_eq!((world.hand_overs, world.serving()), (0, vec![active]));
    world.ready[1 - active] = Ok(());
    serves(&mut world, 1 - active);
}

/// Q30: who flaps stays away longer each time, but not while nobody serves.
#[test]
fn q30_flapping_waits_longer_each_time_unless_nobody_serves() {
    let mut world = world(7);
    let active = first(&mut world);
    assert_eq!(
        order(&mut world, active, Command::TransitionToStandby),
        Ok(())
    );
    serves(&mut world, 1 - active);
    // The other one goes away for good: the wait of 10 s is not kept.
    world.crash(1 - active);
    let before = world.now;
    serves(&mut world, active);
    assert!(world.now - before < 6_000 * MS);
}

/// T-A11: the standby is ill, the active loses its lease: nobody takes over, the active regains.
#[test]
fn t_a11_an_ill_standby_does_not_take_over() {
    let mut world = world(8);
    let active = first(&mut world);
    world.healthy[1 - active] = false;
    world.run_for(4_000);
    cut(&mut world, active, true);
    world.run_for(5_000);
    assert!(world.serving().is_empty());
    cut(&mut world, active, false);
    serves(&mut world, active);
}

/// T-A12: a standby that cannot become active returns the lease, and the old one resumes.
#[test]
fn t_a12_a_failed_promotion_returns_the_lease() {
    let mut world = world(9);
    let active = first(&mut world);
    world.claims_fail[1 - active] = true;
    world.crash(active);
    world.run_for(6_000);
    assert!(world.serving().is_empty());
    world.start(active);
    serves(&mut world, active);
}

/// T-A14: ceding returns within a second; the other takes over, this one is its standby.
#[test]
fn t_a14_ceding_the_role() {
    let mut world = world(10);
    let active = first(&mut world);
    let before = world.now;
    assert_eq!(
        order(&mut world, active, Command::TransitionToStandby),
        Ok(())
    );
    assert!(world.now - before < 1_000 * MS);
    serves(&mut world, 1 - active);
    world.run_for(15_000);
    assert_eq!(world.states()[active], Some(HaState::Standby));
    world.crash(1 - active);
    serves(&mut world, active);
}

/// T-A15: graceful failovers there and back, both in automatic and in manual mode.
#[test]
fn t_a15_graceful_failover_there_and_back() {
    for automatic in [true, false] {
        let mut world = World::new(11, Planted::default(), automatic);
        if !automatic {
            assert_eq!(order(&mut world, 0, ACTIVE), Ok(()));
        }
        let active = first(&mut world);
        let elections = world.elections;
        world.run_for(2_000);
        assert_eq!(failover(&mut world, active, 1 - active), Ok(()));
        serves(&mut world, 1 - active);
        world.run_for(2_000);
        assert_eq!(failover(&mut world, 1 - active, active), Ok(()));
        serves(&mut world, active);
        world.run_for(30_000);
        assert_eq!(world.serving(), [active]);
        assert_eq!((world.elections - elections, world.hand_overs), (2, 2));
        assert_eq!(world.lapses, 0, "a lease lapsed on the way");
    }
}

/// T-A5, T-A16: a target that is not ready changes nothing; one that fails gives the role back.
#[test]
fn t_a5_t_a16_hand_over_to_one_that_cannot() {
    let mut world = world(12);
    let active = first(&mut world);
    world.ready[1 - active] = Err("in safe mode");
    let error = failover(&mut world, active, 1 - active).expect_err("refused");
    assert!(
        error.ends_with("is not ready to become active: in safe mode"),
        "{error}"
    );
    assert_eq!(world.serving(), [active]);
    world.ready[1 - active] = Ok(());
    world.claims_fail[1 - active] = true;
    let id = world.command(
        active,
        Command::FailoverTo {
            peer: crate::world::names()[1 - active].into(),
            force_active: false,
        },
    );
    assert!(world.run_until(30_000, |world| world.outcome(id).is_some()));
    let error = world
        .outcome(id)
        .expect("seen")
        .clone()
        .expect_err("failed");
    assert!(error.contains("did not become active"), "{error}");
    world.claims_fail[1 - active] = false;
    assert!(world.run_until(15_000, |world| !world.serving().is_empty()));
    // Manual: the old one, for nobody else may stand.
    let mut world = manual(12);
    assert_eq!(order(&mut world, 0, ACTIVE), Ok(()));
    world.claims_fail[1] = true;
    assert!(failover(&mut world, 0, 1).is_err());
    serves(&mut world, 0);
}

/// The target dies between the reservation and its claim: the old one stands again at once.
#[test]
fn t_a16_the_target_dies_on_the_way() {
    for seed in 0..20 {
        let mut world = world(seed);
        let active = first(&mut world);
        let id = world.command(
            active,
            Command::FailoverTo {
                peer: crate::world::names()[1 - active].into(),
                force_active: false,
            },
        );
        assert!(world.run_until(5_000, |world| world.serving().is_empty()));
        world.run_for(seed * 10);
        world.crash(1 - active);
        serves(&mut world, active);
        assert!(world.run_until(25_000, |world| world.outcome(id).is_some()));
    }
}

/// The last edits of a hand-over are never committed: it ends with a reason, and somebody serves again.
#[test]
fn t_a16_a_hand_over_that_does_not_end_is_given_up() {
    for automatic in [true, false] {
        let mut world = World::new(21, Planted::default(), automatic);
        if !automatic {
            assert_eq!(order(&mut world, 0, ACTIVE), Ok(()));
        }
        let active = first(&mut world);
        world.run_for(2_000);
        world.hand_overs_hang[active] = true;
        let error = failover(&mut world, active, 1 - active).expect_err("given up");
        assert!(error.contains("not committed in time"), "{error}");
        assert!(world.run_until(5_000, |world| !world.serving().is_empty()));
        assert_eq!(world.violation, None);
        if !automatic {
            assert_eq!(world.serving(), [active]);
        }
    }
}

/// An activation that was reported as failed does not take the role afterwards.
#[test]
fn t_a16_an_activation_that_timed_out_is_not_carried_on() {
    let mut world = manual(22);
    world.run_for(2_000);
    world.claims_hang[0] = true;
    let error = order(&mut world, 0, ACTIVE).expect_err("timed out");
    assert!(error.starts_with("not done within 13000 ms"), "{error}");
    world.run_for(1_000);
    assert!(world.resigned(0));
    let now = world.local(0);
    assert!(!world.controller(0).holds_lease(now), "it holds on to it");
    assert!(!world.controller(0).is_standing());
    world.claims_hang[0] = false;
    world.run_for(10_000);
    assert!(world.serving().is_empty(), "nobody ordered it");
    assert_eq!(order(&mut world, 1, ACTIVE), Ok(()));
    assert_eq!(world.serving(), [1]);
}

/// Q11 beside an operator's order: the journal stalls while the peer is asked how it is.
#[test]
fn q11_a_stall_during_an_operators_check_is_not_lost() {
    let mut world = world(23);
    let active = first(&mut world);
    world.run_for(2_000);
    let id = world.command(
        active,
        Command::FailoverTo {
            peer: crate::world::names()[1 - active].into(),
            force_active: false,
        },
    );
    world.stall(active);
    assert!(world.serving().is_empty(), "it goes on as if nothing were");
    let error = world.outcome(id).expect("answered").clone();
    assert!(error.expect_err("busy").contains("under way"));
    serves(&mut world, 1 - active);
}

/// T-A4: standby and observer change into each other, active and observer do not; repeating is no-op (T-H12).
#[test]
fn t_a4_t_h12_transitions() {
    let mut world = manual(13);
    world.run_for(2_000);
    assert_eq!(world.states(), [Some(HaState::Standby); 2]);
    for (command, state) in [
        (Command::TransitionToStandby, HaState::Standby),
        (Command::TransitionToObserver, HaState::Observer),
        (Command::TransitionToObserver, HaState::Observer),
    ] {
        assert_eq!(order(&mut world, 0, command), Ok(()));
        assert_eq!(world.states()[0], Some(state));
    }
    let error = order(&mut world, 0, ACTIVE).expect_err("refused");
    assert!(error.contains("observer cannot become active"), "{error}");
    assert_eq!(order(&mut world, 0, Command::TransitionToStandby), Ok(()));
    for _ in 0..2 {
        assert_eq!(order(&mut world, 0, ACTIVE), Ok(()));
        assert_eq!(world.states()[0], Some(HaState::Active));
    }
    let error = order(&mut world, 0, Command::TransitionToObserver).expect_err("refused");
    assert!(error.contains("active cannot become observer"), "{error}");
    assert_eq!(world.states()[0], Some(HaState::Active));
    assert_eq!(world.elections, 1);
}

/// T-A7: never both active; with the peer down the other may.
#[test]
fn t_a7_transition_to_active_takes_nothing_over() {
    let mut world = manual(14);
    assert_eq!(order(&mut world, 0, ACTIVE), Ok(()));
    let error =
        order(&mut world, 1, Command::TransitionToActive { force: true }).expect_err("held");
    assert!(error.starts_with("nn1 is active"), "{error}");
    assert_eq!(world.serving(), [0]);
    world.crash(0);
    assert_eq!(
        order(&mut world, 1, Command::TransitionToActive { force: true }),
        Ok(())
    );
    world.start(0);
    world.run_for(10_000);
    assert_eq!(world.serving(), [1]);
    // Automatic: roles are not moved by transitions without force.
    let mut world = self::world(14);
    let active = first(&mut world);
    let error = order(&mut world, 1 - active, ACTIVE).expect_err("automatic");
    assert!(error.contains("ha.automatic"), "{error}");
}

/// Manual mode: nobody stands by itself, and the ordered one comes back after an outage (T-A13).
#[test]
fn t_a13_manual_mode_keeps_what_was_ordered() {
    let mut world = manual(15);
    world.run_for(10_000);
    assert!(world.serving().is_empty());
    assert_eq!(order(&mut world, 1, ACTIVE), Ok(()));
    cut(&mut world, 1, true);
    world.run_for(5_000);
    assert!(world.serving().is_empty(), "the other one was not ordered");
    cut(&mut world, 1, false);
    serves(&mut world, 1);
    // Roles were changed while it was away: it stays standby.
    cut(&mut world, 1, true);
    world.run_for(2_000);
    assert_eq!(order(&mut world, 0, ACTIVE), Ok(()));
    cut(&mut world, 1, false);
    world.run_for(2_000);
    world.crash(0);
    world.run_for(10_000);
    assert!(world.serving().is_empty());
}

#[test]
fn a_failover_is_asked_of_the_active_one() {
    let mut world = world(16);
    let active = first(&mut world);
    let error = failover(&mut world, 1 - active, active).expect_err("standby");
    assert!(error.contains("is not active, nn"), "{error}");
    let error = order(
        &mut world,
        active,
        Command::FailoverTo {
            peer: "nn7".into(),
            force_active: true,
        },
    );
    assert!(error.expect_err("unknown").contains("nn7"));
}

/// A start count that went back: the terms are raised above what the JournalNodes remember.
#[test]
fn a_lost_start_count_heals() {
    let mut world = world(17);
    let active = first(&mut world);
    world.crash(1 - active);
    world.crash(active);
    world.forget_starts(active);
    world.start(active);
    serves(&mut world, active);
}

/// With one configured NameNode the claim comes at once and no lease is asked for.
#[test]
fn alone_it_claims_at_once_and_needs_no_lease() {
    let config = ControllerConfig::new("nn1".into(), vec![], vec!["jn1".into()]);
    assert!(config.alone);
    let now = Tick::from_ms(5);
    let mut alone = Controller::new(config, 1, now);
    assert_eq!(alone.poll_output(), Some(Output::StartClaim));
    assert_eq!(alone.poll_output(), None);
    alone.handle_claiming(now, Epoch(3));
    alone.handle_claim_failed(now, "no majority");
    let again = alone.poll_timeout();
    assert!(again > now && again <= now.after_ms(u64::from(TTL) + 1));
    alone.handle_timeout(again);
    assert_eq!(alone.poll_output(), Some(Output::StartClaim));
    alone.handle_claiming(again, Epoch(4));
    alone.handle_claimed(again, Epoch(4));
    assert!(alone.handle_serving(again, Epoch(4)));
    let late = again.after_ms(86_400_000);
    assert!(alone.may_serve(late, Epoch(4)) && !alone.may_serve(late, Epoch(3)));
    assert!(alone.holds_lease(late));
    assert_eq!(alone.state(), HaState::Active);
    // Fenced: it claims again.
    alone.handle_resigned(late);
    assert!(!alone.may_serve(late, Epoch(4)));
    alone.handle_timeout(alone.poll_timeout());
    assert_eq!(alone.poll_output(), Some(Output::StartClaim));
    alone.handle_command(late, CommandId(1), Command::TransitionToObserver);
    assert!(matches!(
        alone.poll_output(),
        Some(Output::CommandDone {
            outcome: Err(_),
            ..
        })
    ));
}

/// Q11: JournalNodes that renew the lease but acknowledge no edit: the role goes to the peer at once, without a
/// segment to finalise; without a fit peer the same one stands again.
#[test]
fn q11_a_stalled_journal_moves_the_role_to_a_fit_peer() {
    let mut world = world(18);
    let active = first(&mut world);
    world.run_for(2_000);
    world.stall(active);
    assert!(world.serving().is_empty());
    assert_eq!(world.hand_overs, 0);
    serves(&mut world, 1 - active);
    world.run_for(2_000);
    world.ready[active] = Err("in safe mode");
    world.run_for(2_000);
    world.stall(1 - active);
    world.crash(active);
    serves(&mut world, 1 - active);
    // Manual mode: only an operator moves the role.
    let mut world = manual(18);
    assert_eq!(order(&mut world, 1, ACTIVE), Ok(()));
    world.run_for(3_000);
    world.stall(1);
    serves(&mut world, 1);
    world.healthy[1] = false;
    world.run_for(10_000);
    assert_eq!(world.serving(), [1]);
}

/// A hand-over takes tens of milliseconds, not a lease's time.
#[test]
fn a_hand_over_does_not_wait_for_the_lease_to_end() {
    for seed in 0..20 {
        let mut world = world(seed);
        let active = first(&mut world);
        world.run_for(2_000);
        let peer = crate::world::names()[1 - active].to_string();
        let command = Command::FailoverTo {
            peer,
            force_active: false,
        };
        world.command(active, command);
        assert!(world.run_until(5_000, |world| world.serving().is_empty()));
        assert!(world.run_until(5_000, |world| world.resigned(active)));
        let before = world.now;
        serves(&mut world, 1 - active);
        let took = (world.now - before) / MS;
        assert!(took < 150, "seed {seed}: {took} ms");
    }
}

/// Who loads a namespace leaves the lease to one that could use it, even an ordered one.
#[test]
fn a_loading_namenode_does_not_stand() {
    let mut world = world(19);
    let active = first(&mut world);
    world.set_loaded(active, false);
    world.run_for(2_000);
    assert_eq!(world.serving(), [active], "it keeps what it has");
    world.fence(active);
    serves(&mut world, 1 - active);
    world.crash(1 - active);
    world.run_for(10_000);
    assert!(world.serving().is_empty());
    world.set_loaded(active, true);
    serves(&mut world, active);
    let mut world = manual(19);
    world.set_loaded(0, false);
    let id = world.command(0, ACTIVE);
    world.run_for(5_000);
    assert_eq!(world.outcome(id), None);
    world.set_loaded(0, true);
    serves(&mut world, 0);
    assert_eq!(world.outcome(id), Some(&Ok(())));
}

/// T-H23: who must not become active is not made so by anybody, whatever is forced; nothing changes by the attempt, and the
/// role it has stays with it.
#[test]
fn t_h23_who_is_barred_does_not_become_active() {
    let mut world = world(20);
    let active = first(&mut world);
    let other = 1 - active;
    world.run_for(2_000);
    world.set_barred(other, Some("in safe mode"));
    let elections = world.elections;
    let forced = Command::TransitionToActive { force: true };
    let error = order(&mut world, other, forced.clone()).expect_err("barred");
    assert!(error.contains("in safe mode"), "{error}");
    let peer = crate::world::names()[other].to_string();
    let hand_over = Command::FailoverTo {
        peer,
        force_active: true,
    };
    let error = order(&mut world, active, hand_over).expect_err("barred");
    assert!(error.contains("in safe mode"), "{error}");
    serves(&mut world, active);
    world.crash(active);
    world.run_for(10_000);
    assert!(world.serving().is_empty(), "it does not stand either");
    assert_eq!(world.states()[other], Some(HaState::Standby));
    world.set_barred(other, None);
    serves(&mut world, other);
    assert!(world.elections <= elections + 2);
    // Too late.
    world.set_barred(other, Some("in safe mode"));
    world.run_for(5_000);
    assert_eq!(world.serving(), [other]);
}
