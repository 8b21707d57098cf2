//! The order of a failover that an operator carries out when the active one may not answer (F-13): demote, else fence
//! where that is required, else stop with an error; only then promote.
//!
//! `haadmin -failover` runs this. Between NameNodes that both answer it is one hand-over, which the target's promotion
//! only confirms; fencing stays unused (T-A6, T-A15). With a quorum journal, safety never rests on it: the lease and the
//! epoch keep an unreachable old active from serving and from writing.

use alloc::string::String;
use thiserror::Error;

/// How a fencing command ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum FenceOutcome {
    /// It exited with 0: the target cannot reach the shared edits, nor serve, any more.
    Fenced,
    /// It exited with another code, could not be started, or ran out of `fence.timeout` and was killed.
    Failed {
        /// What happened.
        reason: String,
    },
}

/// Settings and flags of one failover.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FailoverPlan {
    /// Who should give the role up.
    pub from: String,
    /// Who should get it.
    pub to: String,
    /// `fence.required`, or a shared-directory journal: without proof that `from` gave up there is no promotion.
    pub fence_required: bool,
    /// `fence.command` is set.
    pub fence_configured: bool,
    /// `--forcefence`: fence even when `from` gives up by itself.
    pub force_fence: bool,
    /// `--forceactive`: promote also a target that says it is not ready.
    pub force_active: bool,
}

/// What to do next; the answer goes to the method named after it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Step {
    /// Ask `to` whether it is ready: [`Failover::handle_ready`].
    CheckTarget,
    /// Ask `from` to become standby: [`Failover::handle_demoted`].
    Demote,
    /// Run `fence.command` with the target's environment, of `from`: [`Failover::handle_fenced`].
    Fence,
    /// Ask `to` to become active: [`Failover::handle_promoted`].
    Promote,
    /// `to` did not become active in time, and might still: ask it to become standby, [`Failover::handle_withdrawn`].
    Withdraw,
    /// Run `fence.command` with the environment of `to`, which did not say that it is standby:
    /// [`Failover::handle_target_fenced`].
    FenceTarget,
    /// Ask `from` to become active again: [`Failover::handle_restored`].
    Restore,
    /// Over.
    Done(Result<FailedOver, FailoverError>),
}

/// How the old active was got out of the way.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FailedOver {
    /// The fencing command ran.
    pub fenced: bool,
    /// It did not answer and was not fenced: its lease runs out by itself.
    pub left_to_lease: bool,
}

/// Why a failover ended without the target active.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum FailoverError {
    /// T-A2.
    #[error("{from} and {to} are the same NameNode")]
    Same {
        /// As given.
        from: String,
        /// As given.
        to: String,
    },
    /// T-A2, T-A17: refused before anything was done.
    #[error(
        "fencing is required (fence.required) or was asked for (--forcefence), but fence.command is not set"
    )]
    NoFencer,
    /// T-A5, T-A16: nothing was changed.
    #[error("{to} is not ready to become active: {reason}")]
    NotReady {
        /// Who.
        to: String,
        /// Why.
        reason: String,
    },
    /// The active one answered, and the role is where it was.
    #[error("{from} did not hand over to {to}: {reason}")]
    Refused {
        /// Who.
        from: String,
        /// Who was to follow.
        to: String,
        /// Its word.
        reason: String,
    },
    /// T-A16: the old active may still serve, so nobody was promoted.
    #[error("{from} could not be fenced, so {to} was not made active: {reason}")]
    FenceFailed {
        /// Who.
        from: String,
        /// Who was to follow.
        to: String,
        /// What the command said.
        reason: String,
    },
    /// T-A16: the old one is active again, unless `restored` says otherwise.
    #[error("{to} did not become active: {reason}; {}", back_at(.from, .restored.as_deref()))]
    PromotionFailed {
        /// The old active.
        from: String,
        /// Who was to follow.
        to: String,
        /// What it said.
        reason: String,
        /// Why the old one is not active again, when it is not.
        restored: Option<String>,
    },
}

fn back_at(from: &str, failed: Option<&str>) -> String {
    match failed {
        None => alloc::format!("{from} is active again"),
        Some(reason) => alloc::format!("{from} is not active either: {reason}"),
    }
}

/// One failover under way.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Failover {
    plan: FailoverPlan,
    step: Step,
    fenced: bool,
    left_to_lease: bool,
    promotion_failed: String,
}

impl Failover {
    /// Begins; flags that cannot be kept are refused at once.
    #[must_use]
    pub fn new(plan: FailoverPlan) -> Self {
        let refused = if plan.from == plan.to {
            let (from, to) = (plan.from.clone(), plan.to.clone());
            Some(FailoverError::Same { from, to })
        } else if (plan.fence_required || plan.force_fence) && !plan.fence_configured {
            Some(FailoverError::NoFencer)
        } else {
            None
        };
        let step = match refused {
            Some(error) => Step::Done(Err(error)),
            None if plan.force_active => Step::Demote,
            None => Step::CheckTarget,
        };
        Self {
            plan,
            step,
            fenced: false,
            left_to_lease: false,
            promotion_failed: String::new(),
        }
    }

    /// What to do now.
    #[must_use]
    pub fn step(&self) -> &Step {
        &self.step
    }

    /// The target's word about itself, or why it gave none.
    pub fn handle_ready(&mut self, outcome: Result<(), String>) {
        assert_eq!(self.step, Step::CheckTarget, "nobody asked");
        let to = self.plan.to.clone();
        self.step = match outcome {
            Ok(()) => Step::Demote,
            Err(reason) => Step::Done(Err(FailoverError::NotReady { to, reason })),
        };
    }

    /// The active one answered that the role stays, or came back, where it is: nobody is fenced for that.
    pub fn handle_refused(&mut self, reason: String) {
        assert_eq!(self.step, Step::Demote, "nobody asked");
        let (from, to) = (self.plan.from.clone(), self.plan.to.clone());
        self.step = Step::Done(Err(FailoverError::Refused { from, to, reason }));
    }

    /// Whether the old active gave up; an error when it could not be asked. One that was no active one did.
    pub fn handle_demoted(&mut self, outcome: Result<(), String>) {
        assert_eq!(self.step, Step::Demote, "nobody asked");
        self.step = match outcome {
            Ok(()) if !self.plan.force_fence => Step::Promote,
            Err(_) if !self.plan.fence_required && !self.plan.force_fence => {
                self.left_to_lease = true;
                Step::Promote
            }
            Ok(()) | Err(_) => Step::Fence,
        };
    }

    /// How the fencing command ended.
    pub fn handle_fenced(&mut self, outcome: FenceOutcome) {
        assert_eq!(self.step, Step::Fence, "nobody asked");
        self.step = match outcome {
            FenceOutcome::Fenced => {
                self.fenced = true;
                Step::Promote
            }
            FenceOutcome::Failed { reason } => {
                let (from, to) = (self.plan.from.clone(), self.plan.to.clone());
                Step::Done(Err(FailoverError::FenceFailed { from, to, reason }))
            }
        };
    }

    /// Whether the target became active.
    pub fn handle_promoted(&mut self, outcome: Result<(), String>) {
        assert_eq!(self.step, Step::Promote, "nobody asked");
        self.step = match outcome {
            Ok(()) => Step::Done(Ok(FailedOver {
                fenced: self.fenced,
                left_to_lease: self.left_to_lease,
            })),
            Err(reason) if self.fenced => {
                let why = String::from("it was fenced");
                self.promotion_failed = reason;
                self.failed(Some(why))
            }
            Err(reason) => {
                self.promotion_failed = reason;
                // Without a lease nothing but proof that it stays away keeps the two apart (D-03).
                match self.plan.fence_required {
                    true => Step::Withdraw,
                    false => Step::Restore,
                }
            }
        };
    }

    /// Whether the target said that it is standby.
    pub fn handle_withdrawn(&mut self, outcome: Result<(), String>) {
        assert_eq!(self.step, Step::Withdraw, "nobody asked");
        self.step = match outcome {
            Ok(()) => Step::Restore,
            Err(_) => Step::FenceTarget,
        };
    }

    /// How fencing the target ended; when it failed, nobody is made active, for the target may be.
    pub fn handle_target_fenced(&mut self, outcome: FenceOutcome) {
        assert_eq!(self.step, Step::FenceTarget, "nobody asked");
        self.step = match outcome {
            FenceOutcome::Fenced => Step::Restore,
            FenceOutcome::Failed { reason } => {
                let to = &self.plan.to;
                let why = alloc::format!(
                    "{to} did not become standby again and could not be fenced ({reason}): see that it is stopped, then use -transitionToActive"
                );
                self.failed(Some(why))
            }
        };
    }

    /// Whether the old one became active again.
    pub fn handle_restored(&mut self, outcome: Result<(), String>) {
        assert_eq!(self.step, Step::Restore, "nobody asked");
        self.step = self.failed(outcome.err());
    }

    fn failed(&self, restored: Option<String>) -> Step {
        Step::Done(Err(FailoverError::PromotionFailed {
            from: self.plan.from.clone(),
            to: self.plan.to.clone(),
            reason: self.promotion_failed.clone(),
            restored,
        }))
    }
}

/// The environment of a fencing command: what a script needs to know about whom it fences (T-A6).
#[must_use]
pub fn fence_environment(id: &str, host: &str, port: u16) -> [(&'static str, String); 3] {
    [
        ("HADAL_TARGET_ID", id.into()),
        ("HADAL_TARGET_HOST", host.into()),
        ("HADAL_TARGET_PORT", alloc::format!("{port}")),
    ]
}
