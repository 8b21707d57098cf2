//! When a NameNode makes an image, whom it gets uploaded to, and whose it accepts (C-03..C-13).
//!
//! Pure policy; the driver saves, sends and receives. Where HDFS's bookkeeping went wrong (Q25, Q26), the rules here are:
//!
//! * Every clock starts at completion, so that an image that took longer than the period is not followed by another at
//!   once.
//! * Saving and uploading are apart. An upload that failed is tried again with the image there is, by a back-off of its
//!   target's own; it never causes another image, and a NameNode that is down costs the others nothing.
//! * A refusal is an answer, not a failure: who has an image as new needs none.
//!
//! With two NameNodes the standby uploads what it saves. With more, one is the *primary checkpointer* (C-07): a
//! successful upload makes it so, any other result ends it. The others save as well, but upload only when nobody did for
//! the quiet period: since their own last upload, or since an image arrived here.

use alloc::vec::Vec;
use hadal_types::{Tick, TxId};

/// Shortest time between two looks.
const CHECK_MIN_MS: u64 = 1_000;
/// Doublings after which the back-off grows no more.
const BACKOFF_MAX: u32 = 10;

/// Settings, with HDFS's defaults.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CheckpointConfig {
    /// An image is due after so many edits (`dfs.namenode.checkpoint.txns`).
    pub txns: u64,
    /// An image is due after so many milliseconds, if there was any edit (`dfs.namenode.checkpoint.period`).
    pub period_ms: u64,
    /// How often to look, in milliseconds; never less often than the period (`dfs.namenode.checkpoint.check.period`).
    pub check_ms: u64,
    /// The quiet period in percent of the period (`dfs.namenode.checkpoint.check.quiet-multiplier` 1.5).
    pub quiet_percent: u64,
}

impl Default for CheckpointConfig {
    fn default() -> Self {
        Self {
            txns: 1_000_000,
            period_ms: 3_600_000,
            check_ms: 60_000,
            quiet_percent: 150,
        }
    }
}

/// What the driver is to do next.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum CheckpointOrder {
    /// Save an image of everything applied: [`Checkpointer::handle_saved`] or [`Checkpointer::handle_save_failed`].
    Save,
    /// Send image `txid` to these NameNodes, all at a time: [`Checkpointer::handle_uploaded`] for each.
    Upload {
        /// The newest image here.
        txid: TxId,
        /// Numbers of NameNodes.
        targets: Vec<usize>,
    },
}

/// How an upload to one NameNode ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum UploadOutcome {
    /// It is durable and published there.
    Published,
    /// It has one that is as new: this txid.
    HasOne(TxId),
    /// It wants none for now; ask again after so many milliseconds.
    Later(u64),
    /// It did not answer, or something broke.
    Failed,
    /// We gave up: the role changed.
    Cancelled,
}

/// Why an image that another NameNode offers is not wanted (C-12). None of these is fatal to the sender.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Unwanted {
    /// There is one that is as new.
    HasOne(TxId),
    /// The last one that arrived is too fresh; worth asking again after so many milliseconds.
    TooFresh(u64),
}

/// Another NameNode, as far as images go.
#[derive(Clone, Debug)]
struct Target {
    /// Newest image it is known or taken to have.
    has: TxId,
    not_before: Tick,
    failures: u32,
}

#[derive(Clone, PartialEq, Eq, Debug)]
enum Work {
    Saving,
    /// Uploads not answered yet.
    Uploading(Vec<usize>),
}

/// The policy of one NameNode.
#[derive(Clone, Debug)]
pub struct Checkpointer {
    config: CheckpointConfig,
    /// Newest image here.
    image: TxId,
    /// When it was saved or arrived, or when the role began.
    image_at: Tick,
    /// When an upload of ours succeeded last, another's image arrived last, or the role began.
    upload_at: Tick,
    /// When an image arrived.
    received_at: Option<Tick>,
    primary: bool,
    targets: Vec<Target>,
    work: Option<Work>,
    next_check: Tick,
    save_failures: u32,
    prevented_until: Tick,
    cancelled: u64,
}

impl Checkpointer {
    /// A policy that orders nothing before [`Self::handle_standby`]; `targets` is how many other NameNodes there are.
    #[must_use]
    pub fn new(config: CheckpointConfig, targets: usize) -> Self {
        let target = Target {
            has: TxId(0),
            not_before: Tick::default(),
            failures: 0,
        };
        Self {
            config,
            image: TxId(0),
            image_at: Tick::default(),
            upload_at: Tick::default(),
            received_at: None,
            primary: false,
            targets: alloc::vec![target; targets],
            work: None,
            next_check: Tick::NEVER,
            save_failures: 0,
            prevented_until: Tick::default(),
            cancelled: 0,
        }
    }

    /// Standby from now on, with `image` the newest on disk. All clocks start, so that nothing is due at once (C-03).
    pub fn handle_standby(&mut self, now: Tick, image: TxId) {
        self.image = self.image.max(image);
        self.image_at = now;
        self.upload_at = now;
        self.primary = false;
        self.work = None;
        self.save_failures = 0;
        for target in &mut self.targets {
            target.has = target.has.max(self.image);
            target.not_before = now;
            target.failures = 0;
        }
        self.look_again(now);
    }

    /// Standby no more: nothing is ordered, and what is under way is to be given up (C-06).
    pub fn handle_role_ended(&mut self) {
        self.next_check = Tick::NEVER;
    }

    /// A failover is near: no image is started before `until` (C-06).
    pub fn prevent(&mut self, until: Tick) {
        self.prevented_until = self.prevented_until.max(until);
    }

    /// The next thing to do. `applied` is the last edit applied here.
    pub fn poll_order(&mut self, now: Tick, applied: TxId) -> Option<CheckpointOrder> {
        if self.work.is_some() || self.next_check == Tick::NEVER || now < self.prevented_until {
            return None;
        }
        if let Some(targets) = self.due_uploads(now) {
            self.work = Some(Work::Uploading(targets.clone()));
            return Some(CheckpointOrder::Upload {
                txid: self.image,
                targets,
            });
        }
        if now < self.next_check {
            return None;
        }
        self.look_again(now);
        let edits = applied.0.saturating_sub(self.image.0);
        let due = edits >= self.config.txns || now.ms_since(self.image_at) >= self.config.period_ms;
        // C-08: nothing new, nothing to save.
        if edits == 0 || !due {
            return None;
        }
        self.work = Some(Work::Saving);
        Some(CheckpointOrder::Save)
    }

    /// When [`Self::poll_order`] may have something, if nothing else happens.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Tick> {
        if self.work.is_some() || self.next_check == Tick::NEVER {
            return None;
        }
        Some(self.next_check.max(self.prevented_until))
    }

    fn check_ms(&self) -> u64 {
        let check = self.config.check_ms.min(self.config.period_ms);
        check.max(CHECK_MIN_MS)
    }

    fn look_again(&mut self, now: Tick) {
        self.next_check = now.after_ms(self.check_ms());
    }

    fn backoff_ms(&self, failures: u32) -> u64 {
        let check = self.check_ms();
        let backoff = check.saturating_mul(1 << failures.min(BACKOFF_MAX));
        backoff.min(self.config.period_ms.max(check))
    }

    fn quiet_ms(&self) -> u64 {
        self.config
            .period_ms
            .saturating_mul(self.config.quiet_percent)
            / 100
    }

    /// Whether this NameNode is the one that uploads (C-07).
    #[must_use]
    pub fn is_primary(&self) -> bool {
        self.primary || self.targets.len() == 1
    }

    fn due_uploads(&self, now: Tick) -> Option<Vec<usize>> {
        if !self.is_primary() && now.ms_since(self.upload_at) < self.quiet_ms() {
            return None;
        }
        let due: Vec<usize> = (0..self.targets.len())
            .filter(|at| {
                let target = &self.targets[*at];
                target.has < self.image && target.not_before <= now
            })
            .collect();
        (!due.is_empty()).then_some(due)
    }

    /// The image ordered is published here.
    pub fn handle_saved(&mut self, now: Tick, txid: TxId) {
        self.work = None;
        self.save_failures = 0;
        self.note_image(now, txid);
        self.look_again(now);
    }

    /// An image was made here by somebody's order, not by the policy (`-saveNamespace`).
    pub fn note_image(&mut self, now: Tick, txid: TxId) {
        self.image = self.image.max(txid);
        self.image_at = now;
    }

    /// It could not be saved.
    pub fn handle_save_failed(&mut self, now: Tick) {
        self.work = None;
        self.next_check = now.after_ms(self.backoff_ms(self.save_failures));
        self.save_failures += 1;
    }

    /// What was under way was given up. The next is not held back by it (C-06).
    pub fn handle_cancelled(&mut self) {
        self.cancelled += 1;
        self.work = None;
    }

    /// An upload ended.
    pub fn handle_uploaded(
        &mut self,
        now: Tick,
        number: usize,
        txid: TxId,
        outcome: UploadOutcome,
    ) {
        if let Some(Work::Uploading(left)) = &mut self.work {
            left.retain(|other| *other != number);
            if left.is_empty() {
                self.work = None;
                // Nobody waits a whole check for an image that became due meanwhile. When the role has ended nothing is
                // due: an upload ordered then is given up at once, and ordered again.
                if self.next_check != Tick::NEVER {
                    self.next_check = self.next_check.min(now.after_ms(self.check_ms()));
                }
            }
        }
        let backoff = self.backoff_ms(self.targets[number].failures);
        let check = self.check_ms();
        let target = &mut self.targets[number];
        match outcome {
            UploadOutcome::Published => {
                target.has = target.has.max(txid);
                target.failures = 0;
                self.primary = true;
                self.upload_at = now;
            }
            UploadOutcome::HasOne(has) => {
                target.has = target.has.max(has).max(txid);
                target.failures = 0;
                self.primary = false;
            }
            UploadOutcome::Later(wait_ms) => {
                target.not_before = now.after_ms(wait_ms.max(check));
                target.failures = 0;
                self.primary = false;
            }
            UploadOutcome::Failed => {
                target.not_before = now.after_ms(backoff);
                target.failures += 1;
            }
            UploadOutcome::Cancelled => {}
        }
    }

    /// Another NameNode offers image `txid`: decided before any byte of it is sent (Q27).
    ///
    /// # Errors
    /// [`Unwanted`].
    pub fn judge(&self, now: Tick, txid: TxId) -> Result<(), Unwanted> {
        if txid <= self.image {
            return Err(Unwanted::HasOne(self.image));
        }
        // As HDFS: not before three quarters of the period, unless it is worth it.
        let fresh_ms = self.config.period_ms / 4 * 3;
        if let Some(received) = self.received_at
            && now.ms_since(received) < fresh_ms
            && txid.0 - self.image.0 < self.config.txns
        {
            return Err(Unwanted::TooFresh(fresh_ms - now.ms_since(received)));
        }
        Ok(())
    }

    /// Another NameNode's image was published here. It saves us our own, and its sender takes care of the others.
    pub fn handle_received(&mut self, now: Tick, txid: TxId) {
        self.note_image(now, txid);
        self.received_at = Some(now);
        self.upload_at = now;
        self.primary = false;
        for target in &mut self.targets {
            target.has = target.has.max(txid);
        }
    }

    /// The newest image here.
    #[must_use]
    pub fn image(&self) -> TxId {
        self.image
    }

    /// How often work was given up for a role change (T-C4).
    #[must_use]
    pub fn cancelled(&self) -> u64 {
        self.cancelled
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;

    const MINUTE: u64 = 60_000;
    const HOUR: u64 = 60 * MINUTE;

    fn at(ms: u64) -> Tick {
        Tick::from_ms(ms)
    }

    fn policy(targets: usize) -> Checkpointer {
        let mut policy = Checkpointer::new(CheckpointConfig::default(), targets);
        policy.handle_standby(at(0), TxId(0));
        policy
    }

    fn upload(txid: u64, targets: &[usize]) -> Option<CheckpointOrder> {
        Some(CheckpointOrder::Upload {
            txid: TxId(txid),
            targets: targets.to_vec(),
        })
    }

    /// Runs from one time to another with one edit per second, saving in no time and answering uploads with `answer`;
    /// returns when images were saved and when which uploads were tried.
    fn live(
        policy: &mut Checkpointer,
        from: u64,
        to: u64,
        answer: impl Fn(usize) -> UploadOutcome,
    ) -> (Vec<u64>, Vec<(u64, usize)>) {
        let (mut saved, mut tried) = (Vec::new(), Vec::new());
        let mut now = from;
        loop {
            while let Some(order) = policy.poll_order(at(now), TxId(now / 1_000)) {
                match order {
                    CheckpointOrder::Save => {
                        saved.push(now);
                        policy.handle_saved(at(now), TxId(now / 1_000));
                    }
                    CheckpointOrder::Upload { txid, targets } => {
                        for target in targets {
                            tried.push((now, target));
                            policy.handle_uploaded(at(now), target, txid, answer(target));
                        }
                    }
                }
            }
            let next = policy.poll_timeout().expect("standby");
            assert!(next > at(now), "polled without end at {now}");
            now = next.as_ms();
            if now > to {
                return (saved, tried);
            }
        }
    }

    /// C-03, C-04: nothing at start-up; by transactions; by time; looked at every check period.
    #[test]
    fn c03_c04_triggers() {
        let mut policy = policy(1);
        assert_eq!(policy.poll_order(at(0), TxId(5_000_000)), None);
        assert_eq!(policy.poll_timeout(), Some(at(MINUTE)));
        assert_eq!(policy.poll_order(at(MINUTE), TxId(999_999)), None);
        assert_eq!(
            policy.poll_order(at(2 * MINUTE), TxId(1_000_000)),
            Some(CheckpointOrder::Save)
        );
        assert_eq!(policy.poll_timeout(), None, "one at a time");
        policy.handle_saved(at(3 * MINUTE), TxId(1_000_000));
        assert_eq!(
            policy.poll_order(at(3 * MINUTE), TxId(1_000_000)),
            upload(1_000_000, &[0])
        );
        policy.handle_uploaded(at(3 * MINUTE), 0, TxId(1_000_000), UploadOutcome::Published);
        assert_eq!(policy.poll_order(at(62 * MINUTE), TxId(1_000_001)), None);
        assert_eq!(
            policy.poll_order(at(63 * MINUTE), TxId(1_000_001)),
            Some(CheckpointOrder::Save)
        );
    }

    /// C-08, T-C3: no image without transactions, though the period is 0; exactly one after a roll.
    #[test]
    fn c08_t_c3_nothing_new_nothing_saved() {
        let config = CheckpointConfig {
            period_ms: 0,
            ..CheckpointConfig::default()
        };
        let mut policy = Checkpointer::new(config, 1);
        policy.handle_standby(at(0), TxId(0));
        let mut saved = 0;
        for second in 0..100 {
            let applied = TxId(if second < 50 { 0 } else { 2 });
            let now = at(second * 1_000);
            while let Some(order) = policy.poll_order(now, applied) {
                match order {
                    CheckpointOrder::Save => {
                        assert!(second >= 50);
                        saved += 1;
                        policy.handle_saved(now, applied);
                    }
                    CheckpointOrder::Upload { txid, .. } => {
                        policy.handle_uploaded(now, 0, txid, UploadOutcome::Published);
                    }
                }
            }
        }
        assert_eq!(saved, 1);
    }

    /// Q25: the clock runs from completion.
    #[test]
    fn q25_a_long_checkpoint_is_not_followed_by_another() {
        let mut policy = policy(1);
        assert_eq!(
            policy.poll_order(at(HOUR), TxId(10)),
            Some(CheckpointOrder::Save)
        );
        let done = 3 * HOUR;
        policy.handle_saved(at(done), TxId(10));
        assert_eq!(policy.poll_order(at(done), TxId(20)), upload(10, &[0]));
        policy.handle_uploaded(at(done + HOUR / 2), 0, TxId(10), UploadOutcome::Published);
        let (saved, _) = live(&mut policy, done + HOUR / 2, done + 3 * HOUR, |_| {
            UploadOutcome::Published
        });
        assert_eq!(saved, [done + HOUR, done + 2 * HOUR, done + 3 * HOUR]);
    }

    /// Q26, T-C9: one of three NameNodes is down for ten periods. One image per period, each uploaded once to the other,
    /// and few tries to the one that is down; when it is back it gets the newest without a new image.
    #[test]
    fn q26_t_c9_a_namenode_that_is_down_causes_no_loop() {
        let mut policy = policy(2);
        let down = |target| match target {
            0 => UploadOutcome::Published,
            _ => UploadOutcome::Failed,
        };
        let (saved, tried) = live(&mut policy, 0, 10 * HOUR, down);
        assert!((9..=10).contains(&saved.len()), "{saved:?}");
        let to = |number| tried.iter().filter(|(_, target)| *target == number).count();
        // Not primary before the quiet period is over, so the first image goes with the second.
        assert_eq!(to(0), saved.len() - usize::from(to(0) < saved.len()));
        assert!(to(1) <= 2 * saved.len() + 8, "{} tries", to(1));
        let (saved, tried) = live(&mut policy, 10 * HOUR, 12 * HOUR, |_| {
            UploadOutcome::Published
        });
        assert!(saved.len() <= 2);
        assert!(tried.iter().any(|(_, target)| *target == 1));
    }

    /// All other NameNodes down: images go on once per period.
    #[test]
    fn q26_all_targets_down() {
        let mut policy = policy(2);
        let (saved, tried) = live(&mut policy, 0, 10 * HOUR, |_| UploadOutcome::Failed);
        assert!((9..=10).contains(&saved.len()), "{saved:?}");
        assert!(tried.len() <= 60, "{} tries", tried.len());
    }

    /// C-07: of two standbys with an active one uploads; the other does when the first has been silent for the quiet
    /// period.
    #[test]
    fn c07_one_primary_checkpointer() {
        let mut first = policy(2);
        let (_, tried) = live(&mut first, 0, 89 * MINUTE, |_| UploadOutcome::Published);
        assert!(tried.is_empty(), "quiet for 90 minutes");
        let (_, tried) = live(&mut first, 89 * MINUTE, 2 * HOUR, |_| {
            UploadOutcome::Published
        });
        assert!(tried.len() >= 2 && first.is_primary());
        // The other one gets them and keeps quiet.
        let mut second = policy(2);
        for hour in 1..20 {
            let (saved, tried) = live(&mut second, (hour - 1) * HOUR + 1, hour * HOUR - 1, |_| {
                UploadOutcome::Published
            });
            assert_eq!((saved.len(), tried.len()), (0, 0), "hour {hour}");
            second.handle_received(at(hour * HOUR), TxId(hour * 3_600));
        }
        assert!(!second.is_primary());
        let (saved, tried) = live(&mut second, 19 * HOUR, 22 * HOUR, |_| {
            UploadOutcome::Published
        });
        assert!(!saved.is_empty() && !tried.is_empty() && second.is_primary());
        // A refusal ends it.
        second.handle_uploaded(
            at(23 * HOUR),
            0,
            TxId(1),
            UploadOutcome::HasOne(TxId(90_000)),
        );
        assert!(!second.is_primary());
    }

    /// C-12, Q27: what is refused, and with what.
    #[test]
    fn c12_q27_unwanted_images_are_refused() {
        let mut policy = policy(1);
        assert_eq!(policy.judge(at(0), TxId(0)), Err(Unwanted::HasOne(TxId(0))));
        assert_eq!(
            policy.judge(at(0), TxId(12)),
            Ok(()),
            "the first is welcome"
        );
        policy.handle_received(at(HOUR), TxId(12));
        assert_eq!(
            policy.judge(at(2 * HOUR), TxId(12)),
            Err(Unwanted::HasOne(TxId(12)))
        );
        let too_fresh = policy.judge(at(HOUR + MINUTE), TxId(13));
        assert_eq!(too_fresh, Err(Unwanted::TooFresh(44 * MINUTE)));
        assert_eq!(policy.judge(at(HOUR + MINUTE), TxId(1_000_012)), Ok(()));
        assert_eq!(policy.judge(at(HOUR + 45 * MINUTE), TxId(13)), Ok(()));
    }

    /// A target that is told "later" is asked later, with the newest image.
    #[test]
    fn c13_a_refusal_is_no_failure() {
        let mut policy = policy(1);
        policy.handle_saved(at(HOUR), TxId(10));
        assert_eq!(policy.poll_order(at(HOUR), TxId(10)), upload(10, &[0]));
        policy.handle_uploaded(at(HOUR), 0, TxId(10), UploadOutcome::Later(5 * MINUTE));
        assert_eq!(policy.poll_order(at(HOUR + 4 * MINUTE), TxId(10)), None);
        assert_eq!(
            policy.poll_order(at(HOUR + 5 * MINUTE), TxId(10)),
            upload(10, &[0])
        );
        policy.handle_uploaded(at(HOUR), 0, TxId(10), UploadOutcome::HasOne(TxId(11)));
        assert_eq!(policy.poll_order(at(90 * MINUTE), TxId(10)), None);
    }

    /// C-06, T-C4: a failover cancels; the next image is not held back by it, and none starts while a failover is near.
    #[test]
    fn c06_t_c4_cancellation() {
        let mut policy = policy(1);
        let now = at(HOUR);
        assert_eq!(
            policy.poll_order(now, TxId(10)),
            Some(CheckpointOrder::Save)
        );
        policy.handle_role_ended();
        policy.handle_cancelled();
        assert_eq!(policy.cancelled(), 1);
        assert_eq!(policy.poll_timeout(), None);
        assert_eq!(policy.poll_order(at(9 * HOUR), TxId(10)), None, "active");
        policy.handle_standby(at(10 * HOUR), TxId(0));
        policy.prevent(at(12 * HOUR));
        assert_eq!(policy.poll_order(at(11 * HOUR), TxId(10)), None);
        assert_eq!(policy.poll_timeout(), Some(at(12 * HOUR)));
        assert_eq!(
            policy.poll_order(at(12 * HOUR), TxId(10)),
            Some(CheckpointOrder::Save)
        );
        policy.handle_saved(at(12 * HOUR), TxId(10));
        assert_eq!(policy.poll_order(at(12 * HOUR), TxId(10)), upload(10, &[0]));
        policy.handle_uploaded(at(12 * HOUR), 0, TxId(10), UploadOutcome::Cancelled);
        policy.handle_cancelled();
        assert_eq!(policy.poll_order(at(12 * HOUR), TxId(10)), upload(10, &[0]));
    }

    /// The role ends during an upload: nothing is ordered when that has ended, too (seeds 344 and 853 of `cluster`, ten
    /// minutes: an active NameNode ordered uploads without end).
    #[test]
    fn an_upload_that_ends_after_the_role_orders_nothing() {
        for outcome in [UploadOutcome::Cancelled, UploadOutcome::Failed] {
            let mut policy = policy(1);
            let now = at(HOUR);
            assert_eq!(
                policy.poll_order(now, TxId(10)),
                Some(CheckpointOrder::Save)
            );
            policy.handle_saved(now, TxId(10));
            assert_eq!(policy.poll_order(now, TxId(10)), upload(10, &[0]));
            policy.handle_role_ended();
            policy.handle_uploaded(now, 0, TxId(10), outcome);
            assert_eq!(policy.poll_timeout(), None);
            assert_eq!(policy.poll_order(at(9 * HOUR), TxId(10)), None);
        }
    }

    /// A disk that refuses images is asked less and less often, at least once per period.
    #[test]
    fn a_failed_save_backs_off() {
        let mut policy = policy(1);
        let mut times = vec![];
        let mut now = HOUR;
        while now < 20 * HOUR {
            if policy.poll_order(at(now), TxId(5)).is_some() {
                times.push(now);
                policy.handle_save_failed(at(now));
            }
            now = policy.poll_timeout().unwrap().as_ms();
        }
        assert!(times.len() > 15 && times.len() < 40, "{}", times.len());
    }
}
