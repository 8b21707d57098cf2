//! The order of an operator's failover.

use hadal_failover::fence::{
    FailedOver, Failover, FailoverError, FailoverPlan, FenceOutcome, Step, fence_environment,
};

fn plan() -> FailoverPlan {
    FailoverPlan {
        from: "nn1".into(),
        to: "nn2".into(),
        fence_required: false,
        fence_configured: true,
        force_fence: false,
        force_active: false,
    }
}

/// What the NameNodes and the fencing command say in a run.
struct Answers {
    ready: bool,
    demotes: bool,
    fences: bool,
    promotes: bool,
    restores: bool,
    withdraws: bool,
    fences_target: bool,
}

const GOOD: Answers = Answers {
    ready: true,
    demotes: true,
    fences: true,
    promotes: true,
    restores: true,
    withdraws: true,
    fences_target: true,
};

/// Runs to the end; the steps taken, and how it ended.
fn run(plan: FailoverPlan, answers: &Answers) -> (String, Result<FailedOver, FailoverError>) {
    let mut failover = Failover::new(plan);
    let mut steps = Vec::new();
    let fenced = |good: bool| match good {
        true => FenceOutcome::Fenced,
        false => FenceOutcome::Failed {
            reason: "exit code 1".into(),
        },
    };
    let say = |good: bool, what: &str| good.then_some(()).ok_or_else(|| what.to_string());
    loop {
        let name = match failover.step().clone() {
            Step::CheckTarget => {
                failover.handle_ready(say(answers.ready, "in safe mode"));
                "check"
            }
            Step::Demote => {
                failover.handle_demoted(say(answers.demotes, "no route"));
                "demote"
            }
            Step::Fence => {
                failover.handle_fenced(fenced(answers.fences));
                "fence"
            }
            Step::Promote => {
                failover.handle_promoted(say(answers.promotes, "edits are missing"));
                "promote"
            }
            Step::Withdraw => {
                failover.handle_withdrawn(say(answers.withdraws, "no answer"));
                "withdraw"
            }
            Step::FenceTarget => {
                failover.handle_target_fenced(fenced(answers.fences_target));
                "fence-target"
            }
            Step::Restore => {
                failover.handle_restored(say(answers.restores, "no majority"));
                "restore"
            }
            Step::Done(outcome) => return (steps.join(" "), outcome),
        };
        steps.push(name);
    }
}

#[test]
fn t_a6_t_a15_a_graceful_failover_fences_nobody() {
    let (steps, outcome) = run(plan(), &GOOD);
    assert_eq!(steps, "check demote promote");
    let over = FailedOver {
        fenced: false,
        left_to_lease: false,
    };
    assert_eq!(outcome, Ok(over));
    let required = FailoverPlan {
        fence_required: true,
        ..plan()
    };
    assert_eq!(run(required, &GOOD).0, "check demote promote");
}

#[test]
fn t_a6_forced_fencing_runs_with_the_targets_environment() {
    let forced = FailoverPlan {
        force_fence: true,
        ..plan()
    };
    let (steps, outcome) = run(forced, &GOOD);
    assert_eq!(steps, "check demote fence promote");
    assert!(outcome.is_ok_and(|over| over.fenced));
    let environment = fence_environment("nn1", "10.0.0.1", 8020);
    let expected = [
        ("HADAL_TARGET_ID", "nn1"),
        ("HADAL_TARGET_HOST", "10.0.0.1"),
        ("HADAL_TARGET_PORT", "8020"),
    ];
    assert_eq!(
        environment.map(|(key, value)| (key, value)),
        expected.map(|(k, v)| (k, v.to_string()))
    );
}

#[test]
fn t_a2_t_a17_missing_fencers_are_refused_before_anything_is_done() {
    for (required, forced) in [(true, false), (false, true), (true, true)] {
        let plan = FailoverPlan {
            fence_required: required,
            force_fence: forced,
            fence_configured: false,
            ..plan()
        };
        assert_eq!(
            run(plan, &GOOD),
            (String::new(), Err(FailoverError::NoFencer))
        );
    }
    // A quorum journal needs none.
    let bare = FailoverPlan {
        fence_configured: false,
        ..plan()
    };
    assert!(run(bare, &GOOD).1.is_ok());
}

#[test]
fn t_a5_t_a16_a_target_that_is_not_ready_changes_nothing() {
    let answers = Answers {
        ready: false,
        ..GOOD
    };
    let (steps, outcome) = run(plan(), &answers);
    assert_eq!(steps, "check");
    let message = outcome.expect_err("refused").to_string();
    assert_eq!(message, "nn2 is not ready to become active: in safe mode");
    let forced = FailoverPlan {
        force_active: true,
        ..plan()
    };
    assert_eq!(run(forced, &answers).0, "demote promote");
}

#[test]
fn t_a16_an_unreachable_active_is_fenced_once_where_that_is_required() {
    let answers = Answers {
        demotes: false,
        ..GOOD
    };
    let required = FailoverPlan {
        fence_required: true,
        ..plan()
    };
    let (steps, outcome) = run(required, &answers);
    assert_eq!(steps, "check demote fence promote");
    assert!(outcome.is_ok_and(|over| over.fenced && !over.left_to_lease));
    // Else the lease and the epoch see to it.
    let (steps, outcome) = run(plan(), &answers);
    assert_eq!(steps, "check demote promote");
    assert!(outcome.is_ok_and(|over| !over.fenced && over.left_to_lease));
}

#[test]
fn t_a16_failed_fencing_promotes_nobody() {
    let answers = Answers {
        demotes: false,
        fences: false,
        ..GOOD
    };
    let required = FailoverPlan {
        fence_required: true,
        ..plan()
    };
    let (steps, outcome) = run(required, &answers);
    assert_eq!(steps, "check demote fence");
    let message = outcome.expect_err("stops").to_string();
    assert!(
        message.contains("nn1 could not be fenced") && message.contains("exit code 1"),
        "{message}"
    );
}

#[test]
fn t_a16_the_old_active_is_restored_when_the_target_fails() {
    let mut answers = Answers {
        promotes: false,
        ..GOOD
    };
    let (steps, outcome) = run(plan(), &answers);
    assert_eq!(steps, "check demote promote restore");
    assert!(
        outcome
            .expect_err("failed")
            .to_string()
            .ends_with("nn1 is active again")
    );
    answers.restores = false;
    let message = run(plan(), &answers).1.expect_err("failed").to_string();
    assert!(
        message.ends_with("nn1 is not active either: no majority"),
        "{message}"
    );
    // One that was fenced is not asked.
    let forced = FailoverPlan {
        force_fence: true,
        ..plan()
    };
    assert_eq!(run(forced, &answers).0, "check demote fence promote");
}

/// Without a lease the target that failed must be standby, or fenced, before the old active serves again (D-03).
#[test]
fn t_a16_the_failed_target_is_out_of_the_way_before_the_old_active_is_restored() {
    let required = || FailoverPlan {
        fence_required: true,
        ..plan()
    };
    let mut answers = Answers {
        promotes: false,
        ..GOOD
    };
    let (steps, outcome) = run(required(), &answers);
    assert_eq!(steps, "check demote promote withdraw restore");
    let message = outcome.expect_err("failed").to_string();
    assert!(message.ends_with("nn1 is active again"), "{message}");
    answers.withdraws = false;
    let (steps, outcome) = run(required(), &answers);
    assert_eq!(steps, "check demote promote withdraw fence-target restore");
    let message = outcome.expect_err("failed").to_string();
    assert!(message.ends_with("nn1 is active again"), "{message}");
    answers.fences_target = false;
    let (steps, outcome) = run(required(), &answers);
    assert_eq!(steps, "check demote promote withdraw fence-target");
    let message = outcome.expect_err("failed").to_string();
    assert!(
        message.contains("nn1 is not active either: nn2 did not become standby again")
            && message.contains("exit code 1"),
        "{message}"
    );
}

#[test]
fn the_same_node_twice_is_refused() {
    let same = FailoverPlan {
        to: "nn1".into(),
        ..plan()
    };
    assert!(matches!(
        run(same, &GOOD).1,
        Err(FailoverError::Same { .. })
    ));
}

/// An active one that answers is not fenced: the role is where it was.
#[test]
fn t_a16_an_answer_of_the_active_ends_it() {
    let mut failover = Failover::new(FailoverPlan {
        fence_required: true,
        ..plan()
    });
    failover.handle_ready(Ok(()));
    failover.handle_refused("nn2 did not become active".into());
    let Step::Done(Err(error)) = failover.step() else {
        panic!("{:?}", failover.step());
    };
    assert!(
        error
            .to_string()
            .starts_with("nn1 did not hand over to nn2")
    );
}
