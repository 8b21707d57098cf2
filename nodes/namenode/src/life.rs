//! A NameNode's life: load, stand by, claim, catch up, serve; and again when the role is lost.

use crate::catch_up::catch_up;
use crate::checkpoint;
use crate::checkpointer;
use crate::config::NamenodeConfig;
use crate::election::{self, Order};
use crate::error::RunError;
use crate::identity;
use crate::links;
use crate::node::Node;
use crate::peers;
use crate::serve;
use crate::tail;
use futures_util::future::{Either, select};
use hadal_env::Env;
use hadal_failover::{Controller, ControllerConfig};
use hadal_namesystem::Namesystem;
use hadal_proto::qjournal::{CommitMark, LogDigest};
use hadal_qjournal::writer::{Event, Writer, WriterConfig};
use hadal_types::{Epoch, NamespaceInfo, Tick};
use std::pin::pin;
use std::rc::Rc;

/// A hand-over is hinted at for so long; by then the election knows more.
const HINT_MS: u64 = 2_000;

/// How a term of office ended.
enum Left {
    /// The tree is what the journal says: the NameNode goes on as a standby from here.
    Clean,
    /// The tree may hold edits that are not committed: it is dropped and loaded again (protocols.md section 0).
    Dirty,
}

/// Runs a NameNode until the process ends.
///
/// # Errors
/// [`RunError`] when it cannot start or its journal cannot be read.
pub async fn run<E: Env>(env: E, config: NamenodeConfig) -> Result<(), RunError> {
    let disk = env.disk().clone();
    let _lock = identity::lock(&disk, &config.dir).await?;
    let info = identity::read(&disk, &config.dir)
        .await?
        .ok_or_else(|| RunError::NotFormatted {
            dir: config.dir.display().to_string(),
        })?;
    let starts = identity::count_start(&disk, &config.dir, env.wall_ms()).await?;
    let node = assemble(env.clone(), config, info, starts);
    for peer in 0..node.peers.len() {
        env.spawn("namenode peer link", peers::run(Rc::clone(&node), peer));
    }
    env.spawn("namenode checkpoints", checkpointer::run(Rc::clone(&node)));
    env.spawn("namenode health", election::probe(Rc::clone(&node)));
    let accepting = pin!(serve::accept_connections(Rc::clone(&node)));
    let living = pin!(live(&node));
    match select(living, accepting).await {
        Either::Left((ended, _)) => ended,
        // Nobody could reach it, and it would keep the lease.
        Either::Right(((), _)) => Err(RunError::Deaf),
    }
}

async fn live<E: Env>(node: &Rc<Node<E>>) -> Result<(), RunError> {
    loop {
        // Who loads does not stand for election.
        let ready = |ready| {
            let mut controller = node.controller.borrow_mut();
            controller.handle_ready(node.env.now(), ready);
        };
        ready(false);
        let mut digest = load(node).await?;
        ready(true);
        while let Left::Clean = term(node, &mut digest).await? {}
        node.drop_tree();
    }
}

/// The node with its ways to the journal.
pub(crate) fn assemble<E: Env>(
    env: E,
    mut config: NamenodeConfig,
    info: NamespaceInfo,
    starts: u64,
) -> Rc<Node<E>> {
    config.namesystem.info = info.clone();
    config.namesystem.name.clone_from(&config.name);
    config.namesystem.software.clone_from(&config.software);
    if let Some(dir) = &config.shared_edits_dir {
        tracing::info!("edits are shared in {}", dir.display());
        config.journalnodes = vec![links::shared_edits()];
    }
    let controller = controller(&env, &config, &info, starts);
    let mut journal = WriterConfig::new(journalnode_names(&config));
    journal.planted = config.planted;
    let writer = Writer::new(journal, info, env.random_u64());
    let node = Rc::new(Node::new(env.clone(), config, writer, controller));
    for jn in 0..node.links.len() {
        env.spawn("namenode journal link", links::run(Rc::clone(&node), jn));
    }
    node
}

fn journalnode_names(config: &NamenodeConfig) -> Vec<String> {
    let names = config.journalnodes.iter();
    names.map(|peer| peer.name.clone()).collect()
}

fn controller<E: Env>(
    env: &E,
    config: &NamenodeConfig,
    info: &NamespaceInfo,
    starts: u64,
) -> Controller {
    let peers = config.peers.iter().map(|peer| peer.name.clone()).collect();
    let settings = ControllerConfig {
        namespace_id: info.namespace_id,
        starts,
        shared_directory: config.shared_edits_dir.is_some(),
        automatic: config.ha.automatic,
        lease_ttl_ms: config.ha.lease_ttl_ms,
        renew_interval_ms: config.ha.renew_interval_ms,
        planted: config.election_planted,
        ..ControllerConfig::new(config.name.clone(), peers, journalnode_names(config))
    };
    Controller::new(settings, env.random_u64(), env.now())
}

/// Takes the newest image, or an empty namespace; returns the journal's digest at its end.
pub(crate) async fn load<E: Env>(node: &Rc<Node<E>>) -> Result<LogDigest, RunError> {
    let (mut namesystem, digest) = checkpoint::load(node).await?;
    namesystem.start(node.env.now());
    match (node.config.hosts)() {
        Ok(hosts) => namesystem.set_hosts(node.env.now(), hosts),
        Err(why) => tracing::error!("include and exclude lists are not read: {why}"),
    }
    tracing::info!("namespace loaded at txid {}", namesystem.applied());
    *node.namesystem.borrow_mut() = Some(namesystem);
    Ok(digest)
}

/// One stretch as a standby and, when the lease is won, the term of office that follows.
async fn term<E: Env>(node: &Rc<Node<E>>, digest: &mut LogDigest) -> Result<Left, RunError> {
    stand_by(node, digest).await?;
    let lease_won = node.env.now();
    let Some((epoch, end)) = claim(node).await else {
        return Ok(Left::Clean);
    };
    let claimed = node.env.now();
    let caught_up = {
        let catching_up = pin!(catch_up(node, digest, end));
        let ordered = pin!(stop_order(node));
        match drive(node, select(catching_up, ordered)).await {
            Either::Left((Ok(()), _)) => None,
            // Another NameNode may have what is missing here (T-H26); for one alone there is nothing to go on with.
            Either::Left((Err(gap @ RunError::Gap { .. }), _)) if !node.peers.is_empty() => {
                tracing::error!("not active in epoch {epoch}: {gap}");
                claim_failed(node, &gap.to_string());
                return Ok(Left::Clean);
            }
            Either::Left((Err(error), _)) => return Err(error),
            Either::Right((reason, _)) => Some(reason),
        }
    };
    if let Some(reason) = caught_up {
        tracing::warn!("claim of epoch {epoch} given up while catching up: {reason}");
        give_up_claim(node);
        return Ok(Left::Clean);
    }
    if !begin(node, epoch, end) {
        return Ok(leave(node));
    }
    log_split(node, epoch, lease_won, claimed);
    let left = serve_until_left(node).await;
    if let Left::Clean = left {
        *digest = node.digest();
    }
    Ok(left)
}

/// Follows the journal until the controller wants the role taken.
async fn stand_by<E: Env>(node: &Rc<Node<E>>, digest: &mut LogDigest) -> Result<(), RunError> {
    loop {
        let order = {
            let following = pin!(tail::follow(node, digest));
            let ordered = pin!(next_order(node));
            match drive(node, select(following, ordered)).await {
                Either::Left((error, _)) => return Err(error),
                Either::Right((order, _)) => order,
            }
        };
        match order {
            Order::Claim => {
                node.behind_since.set(None);
                node.behind_txids.set(0);
                return Ok(());
            }
            // Nothing is given up: it did not serve.
            Order::StepDown(_) | Order::HandOver { .. } => {
                let mut controller = node.controller.borrow_mut();
                controller.handle_resigned(node.env.now());
            }
            Order::Follow(state) => {
                let mut slot = node.namesystem.borrow_mut();
                let namesystem = slot.as_mut().expect("loaded before it follows");
                namesystem.follow_as(node.env.now(), state);
                tracing::info!("{state} from now on");
                node.images.wake.notify();
            }
        }
    }
}

/// Claims the journal; `None` when the claim failed or the lease was lost meanwhile.
pub(crate) async fn claim<E: Env>(node: &Rc<Node<E>>) -> Option<(Epoch, CommitMark)> {
    node.events.borrow_mut().clear();
    node.writer.borrow_mut().start_claim(node.env.now());
    let outcome = {
        let claimed = pin!(next_event(node, |event| match event {
            Event::Recovered { epoch, end } => Some(Ok((epoch, end))),
            Event::ClaimFailed { error } => Some(Err(error)),
            _ => None,
        }));
        let ordered = pin!(stop_order(node));
        match drive(node, select(claimed, ordered)).await {
            Either::Left((outcome, _)) => Ok(outcome),
            Either::Right((reason, _)) => Err(reason),
        }
    };
    match outcome {
        Ok(Ok((epoch, end))) => {
            let mut controller = node.controller.borrow_mut();
            controller.handle_claimed(node.env.now(), epoch);
            Some((epoch, end))
        }
        Ok(Err(error)) => {
            tracing::warn!("claiming the journal: {error}");
            claim_failed(node, &error.to_string());
            None
        }
        Err(reason) => {
            tracing::warn!("claim given up: {reason}");
            give_up_claim(node);
            None
        }
    }
}

/// Writes no more.
pub(crate) fn resign<E: Env>(node: &Rc<Node<E>>) {
    node.writer.borrow_mut().resign();
    if let Some(shared) = &node.shared {
        shared.close();
    }
}

fn claim_failed<E: Env>(node: &Rc<Node<E>>, reason: &str) {
    resign(node);
    let mut controller = node.controller.borrow_mut();
    controller.handle_claim_failed(node.env.now(), reason);
}

fn give_up_claim<E: Env>(node: &Rc<Node<E>>) {
    resign(node);
    let mut controller = node.controller.borrow_mut();
    controller.handle_resigned(node.env.now());
}

/// Takes the role; `false` when the lease lapsed in the last moment.
fn begin<E: Env>(node: &Rc<Node<E>>, epoch: Epoch, end: CommitMark) -> bool {
    let now = node.env.now();
    if !node.controller.borrow_mut().handle_serving(now, epoch) {
        return false;
    }
    node.start_log(end.digest);
    node.writer
        .borrow_mut()
        .begin(now)
        .expect("the claim just held");
    let mut slot = node.namesystem.borrow_mut();
    let namesystem = slot.as_mut().expect("loaded before it serves");
    namesystem.become_active(now, node.env.wall_ms(), epoch, end.txid.next());
    node.segment.set(end.txid.next());
    if !node.peers.is_empty() {
        node.env.happened("elections");
    }
    tracing::info!("active in epoch {epoch} from txid {}", end.txid.next());
    true
}

/// Where the time of a failover went.
fn log_split<E: Env>(node: &Rc<Node<E>>, epoch: Epoch, lease_won: Tick, claimed: Tick) {
    let renewed = node.controller.borrow().other_renewed();
    let lease = match renewed {
        Some(renewed) => format!(
            "{} ms after the last renewal of another NameNode",
            lease_won.ms_since(renewed)
        ),
        None => "with no other NameNode heard of".into(),
    };
    tracing::info!(
        "active in epoch {epoch}: lease {lease}, claim {} ms, catch-up {} ms",
        claimed.ms_since(lease_won),
        node.env.now().ms_since(claimed)
    );
}

/// Why a term of office ends.
enum End {
    /// The journal or the lease is lost.
    Lost(String),
    /// The role is handed over.
    HandOver { to: String, reason: String },
}

/// Serves until a newer writer exists, the journal cannot go on, the lease is lost or the role is handed over.
async fn serve_until_left<E: Env>(node: &Rc<Node<E>>) -> Left {
    node.kick();
    let end = serve_until_ordered(node).await;
    if let End::HandOver { to, reason } = &end {
        tracing::info!("handing the active role over to {to}: {reason}");
        node.handing_over.set(true);
        let until = node.env.now().after_ms(HINT_MS);
        *node.successor.borrow_mut() = Some((to.clone(), until));
        let cut_short = {
            let finished = pin!(finish(node));
            let stopped = pin!(stop_order(node));
            match drive(node, select(finished, stopped)).await {
                Either::Left((outcome, _)) => outcome.err(),
                Either::Right((reason, _)) => Some(reason),
            }
        };
        if let Some(reason) = cut_short {
            tracing::error!("the hand-over to {to} was cut short: {reason}");
        }
    }
    if let End::Lost(reason) = &end {
        tracing::error!("lost the active role: {reason}");
    }
    leave(node)
}

async fn serve_until_ordered<E: Env>(node: &Rc<Node<E>>) -> End {
    loop {
        let next = {
            let lost = pin!(journal_lost(node));
            let ordered = pin!(next_order(node));
            match drive(node, select(lost, ordered)).await {
                Either::Left((reason, _)) => return End::Lost(reason),
                Either::Right((order, _)) => order,
            }
        };
        match next {
            Order::StepDown(reason) => return End::Lost(reason.to_string()),
            Order::HandOver { to, reason } => return End::HandOver { to, reason },
            // It has the role already, or is asked to follow before it left it.
            Order::Claim | Order::Follow(_) => {}
        }
    }
}

/// Resolves with the reason when the journal takes no more edits from this writer.
async fn journal_lost<E: Env>(node: &Rc<Node<E>>) -> String {
    next_event(node, |event| lost_by(node, event)).await
}

/// What an event of the journal means for an active NameNode: the reason when the role is lost by it.
fn lost_by<E: Env>(node: &Rc<Node<E>>, event: Event) -> Option<String> {
    match event {
        Event::Fenced { by } => Some(format!("a newer writer holds epoch {by}")),
        Event::QuorumFailed { reasons } => {
            let reasons: Vec<String> = reasons
                .into_iter()
                .map(|(name, reason)| format!("{name}: {reason}"))
                .collect();
            Some(format!(
                "too many JournalNodes refuse: {}",
                reasons.join("; ")
            ))
        }
        Event::QuorumSlow { silent } => {
            tracing::error!(
                "no majority of JournalNodes answers, waiting for {}",
                silent.join(", ")
            );
            *node.silent.borrow_mut() = Some(silent);
            node.fail_waiting_calls();
            let mut controller = node.controller.borrow_mut();
            controller.handle_journal_stalled(node.env.now());
            None
        }
        Event::QuorumBack => {
            tracing::info!("a majority of JournalNodes answers again");
            *node.silent.borrow_mut() = None;
            None
        }
        Event::SegmentStarted { first } => {
            tracing::info!("journal segment {first} started");
            None
        }
        Event::Recovered { .. }
        | Event::ClaimFailed { .. }
        | Event::Committed { .. }
        | Event::Finished { .. } => None,
    }
}

/// Ends the log behind everything that was accepted, so that the next writer has nothing to recover.
pub(crate) async fn finish<E: Env>(node: &Rc<Node<E>>) -> Result<(), String> {
    {
        let committed = pin!(all_committed(node));
        let lost = pin!(journal_lost(node));
        if let Either::Right((reason, _)) = select(committed, lost).await {
            return Err(reason);
        }
    }
    let finishing = node.writer.borrow_mut().finish(node.env.now());
    finishing.map_err(|error| error.to_string())?;
    node.kick();
    next_event(node, |event| match event {
        Event::Finished { .. } => Some(Ok(())),
        other => lost_by(node, other).map(Err),
    })
    .await
}

/// Resolves once everything accepted is committed.
async fn all_committed<E: Env>(node: &Rc<Node<E>>) {
    loop {
        let mark = node.committed.mark();
        let done = node
            .namesystem
            .borrow()
            .as_ref()
            .is_none_or(|namesystem| namesystem.committed() >= namesystem.applied());
        if done {
            return;
        }
        node.committed.changed(mark).await;
    }
}

/// Leaves the active role.
fn leave<E: Env>(node: &Rc<Node<E>>) -> Left {
    *node.silent.borrow_mut() = None;
    resign(node);
    let dirty = node
        .namesystem
        .borrow_mut()
        .as_mut()
        .is_some_and(|namesystem| namesystem.become_standby(node.env.now()));
    let now = node.env.now();
    let mut controller = node.controller.borrow_mut();
    controller.handle_ready(now, !dirty);
    controller.handle_resigned(now);
    drop(controller);
    node.handing_over.set(false);
    node.turn();
    if dirty {
        tracing::warn!("edits were applied that may not be committed: loading the namespace again");
        Left::Dirty
    } else {
        Left::Clean
    }
}

/// Waits for an order of the controller.
async fn next_order<E: Env>(node: &Rc<Node<E>>) -> Order {
    loop {
        let mark = node.wake.mark();
        let order = node.orders.borrow_mut().pop_front();
        if let Some(order) = order {
            return order;
        }
        node.wake.changed(mark).await;
    }
}

/// Waits for an order that ends a claim or a hand-over, and says why.
async fn stop_order<E: Env>(node: &Rc<Node<E>>) -> String {
    loop {
        match next_order(node).await {
            Order::StepDown(reason) => return reason.to_string(),
            Order::HandOver { to, .. } => return format!("the role goes to {to}"),
            Order::Claim | Order::Follow(_) => {}
        }
    }
}

/// Waits for an event that `choose` takes.
async fn next_event<E: Env, T>(
    node: &Rc<Node<E>>,
    mut choose: impl FnMut(Event) -> Option<T>,
) -> T {
    loop {
        let mark = node.wake.mark();
        loop {
            let event = node.events.borrow_mut().pop_front();
            let Some(event) = event else { break };
            if let Some(chosen) = choose(event) {
                return chosen;
            }
        }
        node.wake.changed(mark).await;
    }
}

/// Runs `future` while taking turns and keeping the timers of namesystem, writer and controller.
pub(crate) async fn drive<E: Env, T>(node: &Rc<Node<E>>, future: impl Future<Output = T>) -> T {
    let mut future = pin!(future);
    loop {
        let mark = node.wake.mark();
        node.turn();
        let now = node.env.now();
        let due = timeout(node);
        if due <= now {
            fire(node, now);
            node.turn();
        }
        let sleep = pin!(node.env.sleep_until(timeout(node).max(now.after_ms(0))));
        let woken = pin!(node.wake.changed(mark));
        match select(future.as_mut(), select(woken, sleep)).await {
            Either::Left((value, _)) => {
                node.turn();
                return value;
            }
            Either::Right(_) => {}
        }
    }
}

fn timeout<E: Env>(node: &Rc<Node<E>>) -> Tick {
    let namesystem = node
        .namesystem
        .borrow()
        .as_ref()
        .and_then(|namesystem| edit_timeout(node, namesystem));
    let writer = node.writer.borrow().poll_timeout();
    let controller = Some(node.controller.borrow().poll_timeout());
    // A minute bounds the sleep: a wall-clock jump or a missed wake-up never stops the life.
    [namesystem, writer, controller]
        .into_iter()
        .flatten()
        .min()
        .unwrap_or(Tick::NEVER)
        .min(node.env.now().after_ms(60_000))
}

/// When the namesystem wants to act by itself; it makes edits then, so not while none may be made.
fn edit_timeout<E: Env>(node: &Node<E>, namesystem: &Namesystem) -> Option<Tick> {
    let due = namesystem.poll_timeout();
    due.filter(|_| node.may_edit(namesystem))
}

fn fire<E: Env>(node: &Rc<Node<E>>, now: Tick) {
    let wall_ms = node.env.wall_ms();
    // The lease first: whoever lost it must not act on its other timers.
    let mut controller = node.controller.borrow_mut();
    if controller.poll_timeout() <= now {
        controller.handle_timeout(now);
    }
    drop(controller);
    if let Some(namesystem) = node.namesystem.borrow_mut().as_mut()
        && edit_timeout(node, namesystem).is_some_and(|at| at <= now)
    {
        namesystem.handle_timeout(now, wall_ms);
    }
    let mut writer = node.writer.borrow_mut();
    if writer.poll_timeout().is_some_and(|at| at <= now) {
        writer.handle_timeout(now);
    }
}
