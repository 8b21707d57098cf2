//! A NameNode's life: load, claim, catch up, serve; and again when the role is lost.

use crate::catch_up::catch_up;
use crate::checkpoint;
use crate::config::NamenodeConfig;
use crate::error::RunError;
use crate::identity;
use crate::links;
use crate::node::Node;
use crate::serve;
use futures_util::future::{Either, select};
use hadal_env::Env;
use hadal_proto::qjournal::{CommitMark, LogDigest};
use hadal_qjournal::writer::{Event, Writer, WriterConfig};
use hadal_types::{Epoch, Tick};
use std::pin::pin;
use std::rc::Rc;

/// Between two claims.
const CLAIM_WAIT_MS: u64 = 500;

/// Runs a NameNode until the process ends.
///
/// # Errors
/// [`RunError`] when it cannot start or its journal cannot be read.
pub async fn run<E: Env>(env: E, mut config: NamenodeConfig) -> Result<(), RunError> {
    let disk = env.disk().clone();
    let _lock = identity::lock(&disk, &config.dir).await?;
    let info = identity::read(&disk, &config.dir)
        .await?
        .ok_or_else(|| RunError::NotFormatted {
            dir: config.dir.display().to_string(),
        })?;
    config.namesystem.info = info.clone();
    config.namesystem.name.clone_from(&config.name);
    config.namesystem.software.clone_from(&config.software);
    let names = config
        .journalnodes
        .iter()
        .map(|peer| peer.name.clone())
        .collect();
    let writer = Writer::new(WriterConfig::new(names), info, env.random_u64());
    let node = Rc::new(Node::new(env.clone(), config, writer));
    for jn in 0..node.links.len() {
        env.spawn("namenode journal link", links::run(Rc::clone(&node), jn));
    }
    env.spawn(
        "namenode accept",
        serve::accept_connections(Rc::clone(&node)),
    );
    loop {
        let digest = load(&node).await?;
        let (epoch, end) = claim(&node).await;
        drive(&node, catch_up(&node, digest, end)).await?;
        begin(&node, epoch, end);
        serve_until_lost(&node).await;
    }
}

/// Takes the newest image, or an empty namespace; returns the journal's digest at its end.
async fn load<E: Env>(node: &Rc<Node<E>>) -> Result<LogDigest, RunError> {
    let (mut namesystem, digest) = checkpoint::load(node).await?;
    namesystem.start(node.env.now());
    tracing::info!("namespace loaded at txid {}", namesystem.applied());
    *node.namesystem.borrow_mut() = Some(namesystem);
    Ok(digest)
}

/// Claims the journal until a claim holds.
async fn claim<E: Env>(node: &Rc<Node<E>>) -> (Epoch, CommitMark) {
    loop {
        node.events.borrow_mut().clear();
        node.writer.borrow_mut().start_claim(node.env.now());
        let outcome = drive(
            node,
            next_event(node, |event| match event {
                Event::Recovered { epoch, end } => Some(Ok((epoch, end))),
                Event::ClaimFailed { error } => Some(Err(error)),
                _ => None,
            }),
        )
        .await;
        match outcome {
            Ok(recovered) => return recovered,
            Err(error) => {
                tracing::warn!("claiming the journal: {error}");
                node.writer.borrow_mut().resign();
                let wait = CLAIM_WAIT_MS / 2 + node.env.random_u64() % CLAIM_WAIT_MS;
                drive(node, node.env.sleep_until(node.env.now().after_ms(wait))).await;
            }
        }
    }
}

fn begin<E: Env>(node: &Rc<Node<E>>, epoch: Epoch, end: CommitMark) {
    let now = node.env.now();
    node.start_log(end.digest);
    node.writer
        .borrow_mut()
        .begin(now)
        .expect("the claim just held");
    let mut slot = node.namesystem.borrow_mut();
    let namesystem = slot.as_mut().expect("loaded before it serves");
    namesystem.become_active(now, node.env.wall_ms(), epoch, end.txid.next());
    tracing::info!("active in epoch {epoch} from txid {}", end.txid.next());
}

/// Serves until a newer writer exists or the journal cannot go on. The tree is dropped: it may hold edits that
/// are not committed (protocols.md section 0).
async fn serve_until_lost<E: Env>(node: &Rc<Node<E>>) {
    node.kick();
    let reason = drive(
        node,
        next_event(node, |event| match event {
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
        }),
    )
    .await;
    tracing::error!("lost the active role: {reason}; loading the namespace again");
    *node.silent.borrow_mut() = None;
    node.writer.borrow_mut().resign();
    if let Some(namesystem) = node.namesystem.borrow_mut().as_mut() {
        // The tree is dropped and loaded again in any case.
        let _ = namesystem.become_standby(node.env.now());
    }
    node.turn();
    *node.namesystem.borrow_mut() = None;
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

/// Runs `future` while taking turns and keeping the timers of namesystem and writer.
async fn drive<E: Env, T>(node: &Rc<Node<E>>, future: impl Future<Output = T>) -> T {
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
        .and_then(hadal_namesystem::Namesystem::poll_timeout);
    let writer = node.writer.borrow().poll_timeout();
    // A minute bounds the sleep: a wall-clock jump or a missed wake-up never stops the life.
    [namesystem, writer]
        .into_iter()
        .flatten()
        .min()
        .unwrap_or(Tick::NEVER)
        .min(node.env.now().after_ms(60_000))
}

fn fire<E: Env>(node: &Rc<Node<E>>, now: Tick) {
    let wall_ms = node.env.wall_ms();
    if let Some(namesystem) = node.namesystem.borrow_mut().as_mut()
        && namesystem.poll_timeout().is_some_and(|at| at <= now)
    {
        namesystem.handle_timeout(now, wall_ms);
    }
    let mut writer = node.writer.borrow_mut();
    if writer.poll_timeout().is_some_and(|at| at <= now) {
        writer.handle_timeout(now);
    }
}
