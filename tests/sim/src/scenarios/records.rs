//! Small durable records (`engine/store/record`, the real code) on a disk that fails: nothing that was
//! stored, or once handed out, is ever forgotten, half remembered or called unreadable.

use crate::env::SimEnv;
use crate::nemesis::{Fault, Nemesis, make_whole};
use crate::report::{Counters, Promise, Violation};
use crate::rng::{Rng, Stream};
use crate::scenario::{Run, Scenario};
use crate::world::Handle;
use hadal_env::{Clock, Disk, Env};
use hadal_types::Role;
use std::cell::RefCell;
use std::net::SocketAddr;
use std::path::Path;
use std::pin::Pin;
use std::rc::Rc;
use std::time::Duration;
use store_record::{Contents, PAYLOAD_MAX, Record, RecordError};

/// The scenario.
pub(crate) struct Records;

/// What may be on the disk: the newest version known to be durable, and the newest attempted.
struct Model {
    durable: u64,
    attempted: u64,
    rng: Rng,
}

/// The payload of a version follows from its number.
fn payload(version: u64) -> Vec<u8> {
    let mut rng = Rng::new(version, Stream::Workload, version);
    let length = 8 + rng.below(PAYLOAD_MAX as u64 - 7) as usize;
    let mut bytes = version.to_le_bytes().to_vec();
    bytes.resize_with(length, || rng.next_u64() as u8);
    bytes
}

fn check(world: &Handle, model: &mut Model, contents: &Contents) {
    world.count("records opened", 1);
    let found = match contents {
        Contents::Empty => 0,
        Contents::Unreadable => {
            world.violate(
                Promise::P2,
                format!(
                    "the record is unreadable; version {} was durable",
                    model.durable
                ),
            );
            return;
        }
        Contents::Present { payload: bytes, .. } => {
            let version = bytes
                .first_chunk()
                .map_or(0, |head| u64::from_le_bytes(*head));
            if *bytes != payload(version) {
                world.violate(
                    Promise::P5,
                    format!(
                        "the record holds bytes nobody stored ({} of them)",
                        bytes.len()
                    ),
                );
            }
            version
        }
    };
    if found < model.durable || found > model.attempted {
        let detail = format!(
            "found version {found}; {} was durable, {} attempted",
            model.durable, model.attempted
        );
        world.violate(Promise::P2, detail);
    }
    // What was handed out once must stay.
    model.durable = model.durable.max(found);
}

async fn live(env: &SimEnv, model: &RefCell<Model>) -> Result<(), RecordError> {
    let (world, disk) = (env.world(), env.disk());
    disk.create_dir_all(Path::new("/current")).await?;
    let (mut record, contents) = Record::open(disk, Path::new("/current/promise")).await?;
    check(&world, &mut model.borrow_mut(), &contents);
    loop {
        let (version, wait_ms) = {
            let mut model = model.borrow_mut();
            model.attempted = model.attempted.max(model.durable) + 1;
            (model.attempted, model.rng.below(150))
        };
        record.store(&payload(version)).await?;
        world.count("records stored", 1);
        model.borrow_mut().durable = version;
        env.sleep_until(env.now().after_ms(wait_ms)).await;
    }
}

impl Scenario for Records {
    fn name(&self) -> &'static str {
        "records"
    }

    fn planted(&self) -> &'static [&'static str] {
        &[]
    }

    fn finds_seam_bugs(&self) -> &'static [&'static str] {
        &["skip-dir-sync", "skip-dsync", "swallow-write-errors"]
    }

    fn floors(&self) -> &'static [&'static str] {
        &[
            "records stored",
            "records opened",
            "power failures",
            "disk errors injected",
        ]
    }

    fn run(&self, run: &mut Run<'_>) -> Result<Counters, Violation> {
        let world = run.world(|_| {});
        let rng = world.rng(Stream::Workload, 0);
        let model = Rc::new(RefCell::new(Model {
            durable: 0,
            attempted: 0,
            rng,
        }));
        let kept = Rc::clone(&model);
        let start = move |env: SimEnv| -> Pin<Box<dyn Future<Output = ()>>> {
            let model = Rc::clone(&kept);
            Box::pin(async move {
                if let Err(error) = live(&env, &model).await {
                    env.stop(74, &error.to_string());
                }
            })
        };
        let node = world.add_node(
            "jn1",
            Role::Journalnode,
            SocketAddr::from(([10, 0, 0, 1], 8485)),
            start,
        );
        world.plant(run.planted, &[node]);
        // The disk is what matters here; the peer is there to be cut off from.
        let bystander = world.add_client("user");
        let faults = [
            Fault::Kill,
            Fault::PowerFailure,
            Fault::PowerFailure,
            Fault::Pause,
            Fault::SlowDisk,
            Fault::DiskErrors,
            Fault::DiskFull,
        ];
        let nemesis = Nemesis::swarm(&world, &[node], &[bystander], &faults);
        world.spawn("nemesis", nemesis.run(world.now() + run.duration));
        world.run_for(run.duration + Duration::from_secs(1));
        let reached = model.borrow().durable;
        for _ in 0..60 {
            make_whole(&world, &[node]);
            if world.run_until(Duration::from_secs(1), || model.borrow().durable > reached) {
                break;
            }
        }
        if model.borrow().durable <= reached {
            world.violate(
                Promise::P7,
                "nothing was stored for a minute after the last fault",
            );
        }
        run.finish(&world)
    }
}
