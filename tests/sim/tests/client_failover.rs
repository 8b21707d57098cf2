//! A client and several NameNodes (protocols.md section 2, F-06): the real client and its connections, NameNodes that
//! say what the test tells them to.

use hadal_client::{ClientError, ClientOptions, DistributedFileSystem, FaultClass};
use hadal_env::{Clock, Net, Seam};
use hadal_proto::Fault;
use hadal_proto::client::{ClientCall, ClientProtocol, Reply, Request, Response};
use hadal_quic::{Incoming, Responder, accept};
use hadal_types::{CallId, HaState, Role, TxId};
use sim::{Crash, NodeId, SimEnv, World};
use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

type Dfs = DistributedFileSystem<SimEnv>;

/// What a NameNode answers.
#[derive(Clone)]
enum Mood {
    Active,
    Standby(&'static str),
    /// Active and failing with this.
    Failing(FaultClass),
    /// Takes calls and never answers.
    Mute,
}

/// A NameNode as the test holds it.
#[derive(Clone)]
struct Fake {
    mood: Rc<RefCell<Mood>>,
    /// Calls that arrived, without questions for its state.
    calls: Rc<RefCell<Vec<CallId>>>,
    connections: Rc<Cell<usize>>,
}

impl Fake {
    fn new(mood: Mood) -> Self {
        Self {
            mood: Rc::new(RefCell::new(mood)),
            calls: Rc::default(),
            connections: Rc::default(),
        }
    }

    fn set(&self, mood: Mood) {
        *self.mood.borrow_mut() = mood;
    }

    fn answer(
        &self,
        call: &ClientCall,
        responder: Responder<ClientProtocol>,
        kept: &mut Vec<Responder<ClientProtocol>>,
    ) {
        let asks_state = matches!(call.request, Request::GetServiceState);
        if !asks_state {
            self.calls.borrow_mut().push(call.call);
        }
        let reply = |response| {
            Ok(Reply {
                txid: TxId(1),
                response,
            })
        };
        let mood = self.mood.borrow().clone();
        let state = |state, active: &str| Response::ServiceState {
            state,
            active: active.into(),
        };
        let answer = match mood {
            Mood::Mute => return kept.push(responder),
            Mood::Standby(active) if asks_state => reply(state(HaState::Standby, active)),
            Mood::Standby(active) => {
                Err(Fault::new(FaultClass::Standby, "not active").with_hint(active))
            }
            _ if asks_state => reply(state(HaState::Active, "")),
            Mood::Failing(class) => Err(Fault::new(class, "jn2 and jn3 do not answer")),
            Mood::Active => reply(Response::Flag { value: true }),
        };
        responder.answer(answer);
    }

    async fn serve(self, env: SimEnv) {
        while let Some(conn) = env.net().accept().await {
            let (fake, env) = (self.clone(), env.clone());
            let serving = env.clone();
            hadal_env::Env::spawn(&env, "connection", async move {
                fake.connections.set(fake.connections.get() + 1);
                while let Ok(Incoming::Call(_, stream)) = accept(&conn).await {
                    let (mut requests, answers) = stream.split::<ClientProtocol>();
                    hadal_env::Env::spawn(&serving, "answers", answers);
                    let fake = fake.clone();
                    hadal_env::Env::spawn(&serving, "calls", async move {
                        let mut kept = Vec::new();
                        while let Some((call, responder)) = requests.next().await {
                            fake.answer(&call, responder, &mut kept);
                        }
                    });
                }
                fake.connections.set(fake.connections.get() - 1);
            });
        }
    }
}

struct Scene {
    world: World,
    nodes: Vec<NodeId>,
    fakes: Vec<Fake>,
    client: NodeId,
    dfs: Dfs,
}

fn scene(moods: &[Mood]) -> Scene {
    let world = World::new(7);
    let fakes: Vec<Fake> = moods.iter().cloned().map(Fake::new).collect();
    let address = |index: usize| SocketAddr::from(([10, 0, 1, index as u8 + 1], 8020));
    let name = |index: usize| format!("nn{}", index + 1);
    let nodes = fakes
        .iter()
        .enumerate()
        .map(|(index, fake)| {
            let fake = fake.clone();
            world.add_node(&name(index), Role::Namenode, address(index), move |env| {
                Box::pin(fake.clone().serve(env))
            })
        })
        .collect();
    let client = world.add_client("alice");
    let options = ClientOptions::new((0..moods.len()).map(|index| (name(index), address(index))));
    let (dfs, background) = Dfs::new(world.env_of(client), options);
    world.spawn_on(client, "background", background.run());
    Scene {
        world,
        nodes,
        fakes,
        client,
        dfs,
    }
}

impl Scene {
    /// Makes a directory; the outcome and how long it took, in virtual ms.
    fn mkdirs(&self) -> (Result<bool, ClientError>, u64) {
        let (dfs, env) = (self.dfs.clone(), self.world.env_of(self.client));
        self.world.block_on(self.client, async move {
            let began = env.now();
            let outcome = dfs.mkdirs("/a", 0o755, true).await;
            (outcome, env.now().ms_since(began))
        })
    }

    fn succeeds_within(&self, ms: u64) {
        let (outcome, took) = self.mkdirs();
        assert!(outcome.expect("a NameNode is active"));
        assert!(took <= ms, "took {took} ms");
    }
}

#[test]
fn the_hint_of_a_standby_is_followed_and_remembered() {
    let scene = scene(&[Mood::Standby("nn2"), Mood::Active]);
    scene.succeeds_within(20);
    scene.succeeds_within(20);
    assert_eq!(scene.fakes[0].calls.borrow().len(), 1);
    assert_eq!(scene.fakes[1].calls.borrow().len(), 2);
    assert_eq!(
        scene.fakes[0].calls.borrow()[0],
        scene.fakes[1].calls.borrow()[0],
        "the same call id on retry"
    );
}

#[test]
fn a_dead_namenode_does_not_hold_up_the_question_to_the_other() {
    let scene = scene(&[Mood::Active, Mood::Active]);
    scene.world.crash(scene.nodes[0], Crash::Process);
    // Dialling the dead one takes 3 s to fail; the other gets its chance after the head start.
    scene.succeeds_within(400);
}

#[test]
fn a_stopped_active_is_left_once_another_is_active() {
    let scene = scene(&[Mood::Active, Mood::Standby("nn1")]);
    scene.succeeds_within(20);
    scene.world.pause(scene.nodes[0]);
    let promoted = scene.fakes[1].clone();
    let promotion = Duration::from_millis(2_000);
    scene
        .world
        .at(promotion, move |_| promoted.set(Mood::Active));
    scene.succeeds_within(2_600);
    // Known from now on.
    scene.succeeds_within(20);
}

#[test]
fn a_call_an_active_took_and_never_answered_goes_to_the_next_under_its_id_f06() {
    let scene = scene(&[Mood::Mute, Mood::Active]);
    scene.succeeds_within(600);
    assert_eq!(
        *scene.fakes[0].calls.borrow(),
        *scene.fakes[1].calls.borrow()
    );
}

#[test]
fn a_slow_active_is_waited_for_while_no_other_is_active() {
    let scene = scene(&[Mood::Active, Mood::Standby("nn1")]);
    scene.succeeds_within(20);
    scene.world.pause(scene.nodes[0]);
    let (world, node) = (scene.world.handle(), scene.nodes[0]);
    scene
        .world
        .at(Duration::from_millis(3_000), move |_| world.resume(node));
    let (outcome, took) = scene.mkdirs();
    assert!(outcome.expect("the slow one answers"));
    assert!((2_900..3_300).contains(&took), "took {took} ms");
    assert!(
        scene.fakes[1].calls.borrow().is_empty(),
        "a standby is asked for its state only"
    );
}

#[test]
fn a_lost_connection_sends_the_call_to_the_other_at_once() {
    let scene = scene(&[Mood::Active, Mood::Standby("nn1")]);
    scene.succeeds_within(20);
    scene.fakes[0].set(Mood::Standby("nn2"));
    scene.fakes[1].set(Mood::Active);
    scene.world.reset_connections(scene.client, scene.nodes[0]);
    scene.succeeds_within(20);
}

#[test]
fn both_standby_is_told_when_the_window_closes() {
    let scene = scene(&[Mood::Standby(""), Mood::Standby("")]);
    let (outcome, took) = scene.mkdirs();
    assert_eq!(
        outcome.expect_err("nobody is active").class(),
        Some(FaultClass::Standby)
    );
    assert!((14_000..=15_100).contains(&took), "gave up after {took} ms");
    let asked: usize = scene
        .fakes
        .iter()
        .map(|fake| fake.calls.borrow().len())
        .sum();
    assert!((20..200).contains(&asked), "asked {asked} times");
}

#[test]
fn the_last_fault_is_told_when_the_window_closes_in_silence() {
    for namenodes in [1, 2] {
        let moods = [
            Mood::Failing(FaultClass::JournalUnavailable),
            Mood::Standby("nn1"),
        ];
        let scene = scene(&moods[..namenodes]);
        let mute = scene.fakes[0].clone();
        scene
            .world
            .at(Duration::from_secs(5), move |_| mute.set(Mood::Mute));
        let (outcome, took) = scene.mkdirs();
        let error = outcome.expect_err("no majority of JournalNodes");
        assert_eq!(error.class(), Some(FaultClass::JournalUnavailable));
        assert_eq!(error.to_string(), "jn2 and jn3 do not answer");
        assert!((14_900..=15_100).contains(&took), "gave up after {took} ms");
    }
}

#[test]
fn when_nobody_can_be_reached_each_is_named() {
    let scene = scene(&[Mood::Active, Mood::Active]);
    for node in &scene.nodes {
        scene.world.crash(*node, Crash::Process);
    }
    let error = scene.mkdirs().0.expect_err("all are dead").to_string();
    for part in [
        "nn1 at 10.0.1.1:8020",
        "nn2 at 10.0.1.2:8020",
        "nn1: ",
        "nn2: ",
    ] {
        assert!(error.contains(part), "{error}");
    }
}

#[test]
fn a_closed_client_leaves_no_connection_behind() {
    let scene = scene(&[Mood::Standby("nn2"), Mood::Active]);
    scene.succeeds_within(20);
    assert_eq!(scene.fakes[1].connections.get(), 1);
    scene.dfs.disconnect();
    scene.world.run_for(Duration::from_millis(50));
    let left: Vec<usize> = scene
        .fakes
        .iter()
        .map(|fake| fake.connections.get())
        .collect();
    assert_eq!(left, [0, 0]);
    // It can be used on.
    scene.succeeds_within(20);
}

#[test]
fn a_dropped_client_leaves_no_connection_behind() {
    let Scene {
        world,
        fakes,
        dfs,
        client,
        ..
    } = scene(&[Mood::Active]);
    let using = dfs.clone();
    let made = world.block_on(client, async move { using.mkdirs("/a", 0o755, true).await });
    assert!(made.expect("it is active"));
    assert_eq!(fakes[0].connections.get(), 1);
    drop(dfs);
    world.run_for(Duration::from_millis(50));
    assert_eq!(fakes[0].connections.get(), 0);
}
