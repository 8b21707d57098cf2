//! Reads from a standby or observer (protocols.md section 2): a client that has seen a txid never reads anything older,
//! what is not known well enough here goes to the active, and everyone else gets StandbyException (T-H21).

use crate::datanode::{Node, add, added, complete, of_length};
use crate::support::{World, config, create, delete, fresh, info, locations, mkdirs, root};
use hadal_namesystem::{Caller, NamesystemConfig};
use hadal_proto::client::{ClientCall, Reply, Request, Response};
use hadal_proto::datanode::ChangeKind;
use hadal_proto::{Fault, FaultClass};
use hadal_types::{CallId, ClientId, HaState, Tick, TxId};

/// An active with its journal, and a follower that has applied `upto` of it.
struct Pair {
    active: World,
    follower: World,
    ticket: u64,
}

impl Pair {
    fn new(active: World, config: NamesystemConfig) -> Self {
        let mut ns = fresh(config);
        ns.start(Tick::from_ms(1));
        ns.set_active_hint("nn1");
        Self {
            active,
            follower: World::standby(ns),
            ticket: 1 << 20,
        }
    }

    fn tail(&mut self, upto: TxId) {
        let (now, from) = (self.follower.now, self.follower.ns.applied());
        for (txid, edit) in &self.active.journal {
            if *txid > from && *txid <= upto {
                self.follower.ns.replay(now, *txid, edit);
            }
        }
        self.follower.pump();
    }

    fn tail_all(&mut self) {
        self.tail(self.active.ns.applied());
    }

    fn ask(&mut self, caller: &Caller, seen: TxId, from_standby: bool, request: Request) -> u64 {
        self.ticket += 1;
        let call = ClientCall {
            client: ClientId(9),
            call: CallId(self.ticket),
            seen,
            from_standby,
            request,
        };
        let follower = &mut self.follower;
        follower
            .ns
            .handle_client(follower.now, follower.wall_ms, caller, self.ticket, call);
        follower.pump();
        self.ticket
    }

    fn read(&mut self, seen: TxId, request: Request) -> Option<Result<Reply, Fault>> {
        let ticket = self.ask(&root(), seen, true, request);
        self.follower.answer(ticket)
    }
}

fn exists(outcome: &Result<Reply, Fault>) -> bool {
    match outcome {
        Ok(Reply {
            response: Response::FileInfo { status },
            ..
        }) => status.is_some(),
        other => panic!("not a status: {other:?}"),
    }
}

fn redirected(outcome: Result<Reply, Fault>) -> Fault {
    let fault = outcome.expect_err("the active is asked");
    assert_eq!(fault.class, FaultClass::Standby, "{fault:?}");
    assert_eq!(fault.hint, "nn1");
    fault
}

/// The answer waits for what the client has seen, and tells the txid it was read at.
fn a_read_waits(config: NamesystemConfig) -> Option<TxId> {
    let mut world = World::new();
    world.mkdirs("/old");
    let old = world.ns.applied();
    world.mkdirs("/new");
    world.ok(delete("/old", true));
    let seen = world.ns.applied();
    let mut pair = Pair::new(world, config);
    pair.tail(old);
    let ticket = pair.ask(&root(), seen, true, info("/old"));
    pair.tail(TxId(seen.0 - 1));
    if let Some(early) = pair.follower.answer(ticket) {
        return Some(early.expect("an answer").txid);
    }
    assert_eq!(pair.follower.ns.waiting_reads(), 1);
    pair.tail_all();
    let answer = pair.follower.answer(ticket).expect("now it is there");
    assert!(!exists(&answer), "deleted before the client's last call");
    assert_eq!(answer.expect("an answer").txid, seen);
    assert_eq!(pair.follower.ns.waiting_reads(), 0);
    None
}

#[test]
fn no_read_is_older_than_what_its_client_has_seen() {
    assert_eq!(a_read_waits(config()), None);
}

/// The rule above, taken out.
#[test]
fn planted_a_standby_that_does_not_wait_is_noticed() {
    let mut config = config();
    config.planted.stale_standby_reads = true;
    assert!(a_read_waits(config).is_some_and(|txid| txid > TxId(0)));
}

#[test]
fn a_client_that_has_seen_nothing_reads_what_is_there() {
    let mut world = World::new();
    world.mkdirs("/a");
    let mut pair = Pair::new(world, config());
    pair.tail_all();
    let answer = pair.read(TxId(0), info("/a")).expect("at once");
    assert!(exists(&answer));
    let missing = pair.read(TxId(0), info("/b")).expect("at once");
    assert!(!exists(&missing));
    let fault = pair.read(TxId(0), locations("/b")).expect("at once");
    assert_eq!(fault.expect_err("no file").class, FaultClass::NotFound);
}

/// An msync at the active, then a read: nothing acknowledged before it is missed, by whomever it was done.
#[test]
fn an_msync_tells_the_txid_of_everything_acknowledged_before_it() {
    let mut world = World::new();
    world.auto_commit = false;
    let made = world.send(&root(), 1, 1, mkdirs("/by-another"));
    let synced = world.send(&root(), 2, 1, Request::Msync);
    assert!(world.answer(synced).is_none(), "nothing is committed yet");
    world.ns.handle_committed(world.now, world.ns.applied());
    world.pump();
    let made = world.answer(made).expect("committed").expect("made");
    let synced = world.answer(synced).expect("committed").expect("synced");
    assert!(synced.txid >= made.txid);
    let mut pair = Pair::new(world, config());
    assert!(pair.read(synced.txid, info("/by-another")).is_none());
    pair.tail_all();
}

/// T-H21, T-C5: who did not ask for it is sent to the active at once, and so is everything but reads.
#[test]
fn t_h21_t_c5_others_and_other_calls_get_standby_at_once() {
    let mut world = World::new();
    world.mkdirs("/a");
    let mut pair = Pair::new(world, config());
    pair.tail_all();
    let ticket = pair.ask(&root(), TxId(0), false, info("/a"));
    redirected(pair.follower.answer(ticket).expect("at once"));
    for request in [
        Request::Msync,
        mkdirs("/b"),
        create("/c"),
        Request::RenewLease,
        Request::GetFsStats,
    ] {
        redirected(pair.read(TxId(0), request).expect("at once"));
    }
    assert_eq!(pair.active.ns.applied(), pair.follower.ns.applied());
}

/// A follower that lags keeps nobody waiting for ever.
#[test]
fn a_read_whose_edits_do_not_come_goes_to_the_active() {
    let mut world = World::new();
    world.mkdirs("/a");
    let seen = world.ns.applied();
    let few = NamesystemConfig {
        standby_reads_max: 1,
        ..config()
    };
    let mut pair = Pair::new(world, few);
    let ticket = pair.ask(&root(), seen, true, info("/a"));
    let full = pair.read(seen, info("/a")).expect("one too many");
    redirected(full);
    let until = pair
        .follower
        .ns
        .poll_timeout()
        .expect("it does not wait for ever");
    assert!(until <= pair.follower.now.after_ms(500));
    let wall_ms = pair.follower.wall_ms;
    pair.follower.ns.handle_timeout(until, wall_ms);
    pair.follower.pump();
    let fault = redirected(pair.follower.answer(ticket).expect("given up"));
    assert!(fault.message.contains(&format!("txid {seen}")), "{fault}");
    // The edits come too late for it, and do no harm.
    pair.tail_all();
    assert_eq!(pair.follower.ns.waiting_reads(), 0);
}

/// Reads as large as frames may be do not fill the memory of who waits for edits; what has ended counts no more.
#[test]
fn waiting_reads_are_bounded_by_bytes_too() {
    let mut world = World::new();
    world.mkdirs("/a");
    let seen = world.ns.applied();
    let mut pair = Pair::new(world, config());
    let large = format!("/{}", "x".repeat(7 << 20));
    for _ in 0..2 {
        for _ in 0..9 {
            pair.ask(&root(), seen, true, info(&large));
        }
        assert_eq!(pair.follower.ns.waiting_reads(), 9);
        redirected(pair.read(seen, info(&large)).expect("one too many"));
        pair.ask(&root(), seen, true, info("/a"));
        assert_eq!(pair.follower.ns.waiting_reads(), 10);
        let until = pair.follower.ns.poll_timeout().expect("they wait");
        let wall_ms = pair.follower.wall_ms;
        pair.follower.ns.handle_timeout(until, wall_ms);
        pair.follower.pump();
        assert_eq!(pair.follower.ns.waiting_reads(), 0);
    }
}

/// Whoever waits while the role comes here comes back.
#[test]
fn a_promotion_ends_the_waiting() {
    let world = World::new();
    let mut pair = Pair::new(world, config());
    pair.tail_all();
    let far = TxId(pair.follower.ns.applied().0 + 7);
    let ticket = pair.ask(&root(), far, true, info("/"));
    pair.follower.activate(2);
    let fault = pair.follower.answer(ticket).expect("ended");
    assert_eq!(fault.expect_err("ended").class, FaultClass::Retry);
    assert_eq!(pair.follower.ns.waiting_reads(), 0);
}

/// HDFS-13924: blocks whose replicas were not reported here are the active's matter.
#[test]
fn blocks_without_a_known_replica_are_located_by_the_active() {
    let mut world = World::new();
    let mut node = Node::register(1, &mut world);
    let inode = world.open("/f");
    let block = added(world.ok(add("/f", inode, None))).block;
    let mut pair = Pair::new(world, config());
    pair.tail_all();
    // Open: the pipeline is known to the active alone.
    redirected(pair.read(TxId(0), locations("/f")).expect("at once"));
    let block = of_length(block, 10);
    node.says(&mut pair.active, ChangeKind::Received, block);
    pair.active.ok(complete("/f", inode, Some(block)));
    pair.tail_all();
    redirected(pair.read(TxId(0), locations("/f")).expect("at once"));
    assert!(exists(&pair.read(TxId(0), info("/f")).expect("at once")));
    let mut here = Node::register(1, &mut pair.follower);
    here.says(&mut pair.follower, ChangeKind::Received, block);
    let answer = pair.read(TxId(0), locations("/f")).expect("at once");
    let Response::Locations { locations } = answer.expect("located").response else {
        panic!("not locations");
    };
    assert_eq!(locations.blocks[0].locations.len(), 1);
}

/// T-A4, C-03: an observer is a follower that answers reads, and is called by its name.
#[test]
fn t_a4_an_observer_reads_and_becomes_standby_again() {
    let mut world = World::new();
    world.mkdirs("/a");
    let mut pair = Pair::new(world, config());
    let now = pair.follower.now;
    pair.follower.ns.follow_as(now, HaState::Observer);
    assert_eq!(pair.follower.ns.state(), HaState::Observer);
    pair.tail_all();
    assert!(exists(&pair.read(TxId(0), info("/a")).expect("at once")));
    let ticket = pair.ask(&root(), TxId(0), false, Request::GetServiceState);
    let state = pair
        .follower
        .answer(ticket)
        .expect("at once")
        .expect("told");
    assert_eq!(
        state.response,
        Response::ServiceState {
            state: HaState::Observer,
            active: "nn1".into()
        }
    );
    pair.follower.ns.follow_as(now, HaState::Standby);
    assert_eq!(pair.follower.ns.state(), HaState::Standby);
    pair.follower.activate(2);
    assert_eq!(pair.follower.ns.state(), HaState::Active);
}
