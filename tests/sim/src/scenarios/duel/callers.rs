//! Clients that speak to one NameNode each, whatever the others say.

use super::{Scene, WRITERS};
use crate::env::SimEnv;
use crate::report::Promise;
use crate::rng::Rng;
use crate::scenarios::cluster::nodes::{namenode_address, namenode_name};
use futures_util::future::{Either, select};
use hadal_env::{Clock, Expect, Net, Random, Seam};
use hadal_proto::client::{ClientCall, ClientProtocol, Reply, Request, Response};
use hadal_quic::CallClient;
use hadal_types::{CallId, ClientId, Role, TxId};
use std::cell::RefCell;
use std::collections::BTreeSet;
use std::pin::pin;
use std::rc::Rc;

/// A call that has no answer for so long is given up with its connection.
const CALL_MS: u64 = 2_000;
/// Between two tries to connect.
const REDIAL_MS: u64 = 20;
/// Between two mutations of a caller, at most.
const WRITE_PAUSE_MS: u64 = 80;
/// Between two reads, at most.
const READ_PAUSE_MS: u64 = 12;
/// Entries of a page of a listing.
const PAGE: u32 = 1000;

/// One caller: writes, or reads.
pub(super) struct Caller {
    scene: Scene,
    env: SimEnv,
    namenode: usize,
    number: usize,
    rng: Rng,
    client: ClientId,
    calls: u64,
}

impl Caller {
    /// The first callers of a NameNode write, those behind them read.
    pub(super) fn new(
        scene: &Scene,
        env: SimEnv,
        namenode: usize,
        number: usize,
        rng: Rng,
    ) -> Self {
        let client = ClientId(u128::from(env.random_u64()));
        Self {
            scene: scene.clone(),
            env,
            namenode,
            number,
            rng,
            client,
            calls: 0,
        }
    }

    async fn pause(&mut self, high_ms: u64) {
        let wait = self.rng.range(1, high_ms);
        self.env.sleep_until(self.env.now().after_ms(wait)).await;
    }

    /// Calls for ever.
    pub(super) async fn run(mut self) {
        loop {
            self.connected().await;
            self.pause(REDIAL_MS).await;
        }
    }

    /// Uses one connection for as long as it answers.
    async fn connected(&mut self) {
        let env = self.env.clone();
        let expect = Expect::node(Role::Namenode, namenode_name(self.namenode));
        let address = namenode_address(self.namenode);
        let Ok(conn) = env.net().connect(address, &expect).await else {
            return;
        };
        let Ok((client, driver)) = CallClient::<ClientProtocol>::open(&conn).await else {
            return;
        };
        let working = async {
            if self.number < WRITERS {
                self.write(&client).await;
            } else {
                self.read(&client).await;
            }
        };
        select(pin!(working), pin!(driver)).await;
    }

    /// `None` when no answer came: the connection is no good.
    async fn call(
        &mut self,
        client: &CallClient<ClientProtocol>,
        request: Request,
    ) -> Option<Result<Reply, ()>> {
        self.calls += 1;
        let call = ClientCall {
            client: self.client,
            call: CallId(self.calls),
            seen: TxId(0),
            from_standby: false,
            request,
        };
        let late = self.env.sleep_until(self.env.now().after_ms(CALL_MS));
        match select(pin!(client.call(&call)), pin!(late)).await {
            Either::Left((Ok(reply), _)) => Some(Ok(reply)),
            Either::Left((Err(error), _)) => error.fault().map(|_| Err(())),
            Either::Right(_) => None,
        }
    }

    async fn write(&mut self, client: &CallClient<ClientProtocol>) {
        loop {
            self.pause(WRITE_PAUSE_MS).await;
            if self.scene.writers[self.namenode].get() <= self.number {
                continue;
            }
            let name = format!("n{}c{}d{}", self.namenode + 1, self.number, self.calls);
            let before = self.scene.frontier.get();
            let request = Request::Mkdirs {
                path: format!("/{name}"),
                permission: 0o755,
                create_parent: false,
            };
            match self.call(client, request).await {
                Some(Ok(reply)) => {
                    let handle = &self.scene.handle;
                    handle.count("directories made", 1);
                    handle.trace_note("made at txid", reply.txid.0);
                    if reply.txid.0 <= before {
                        let detail = format!(
                            "{name} was made at txid {}, but {before} had been acknowledged before",
                            reply.txid
                        );
                        handle.violate(Promise::P1, detail);
                    }
                    self.scene.made.borrow_mut().insert(name);
                    let frontier = &self.scene.frontier;
                    frontier.set(frontier.get().max(reply.txid.0));
                    self.scene.acknowledged_by.set(self.namenode);
                }
                Some(Err(())) => {}
                None => return,
            }
        }
    }

    /// What a NameNode with a lease answers holds everything acknowledged before. One that was told that it is alone
    /// cannot know.
    async fn read(&mut self, client: &CallClient<ClientProtocol>) {
        loop {
            self.pause(READ_PAUSE_MS).await;
            if self.scene.namenodes.len() == super::CLAIMANTS {
                continue;
            }
            let before = self.scene.frontier.get();
            let request = Request::GetFileInfo { path: "/".into() };
            match self.call(client, request).await {
                Some(Ok(reply)) => {
                    let handle = &self.scene.handle;
                    handle.count("reads of a pair", 1);
                    if reply.txid.0 < before {
                        let detail = format!(
                            "{} answers a read as of txid {}, {before} had been acknowledged by {} before it was asked",
                            namenode_name(self.namenode),
                            reply.txid,
                            namenode_name(self.scene.acknowledged_by.get())
                        );
                        handle.violate(Promise::P1, detail);
                    }
                }
                Some(Err(())) => {}
                None => return,
            }
        }
    }

    /// One page of the root behind a name, from whoever is active.
    async fn page(&mut self, after: &str) -> Option<Vec<String>> {
        let env = self.env.clone();
        let expect = Expect::node(Role::Namenode, namenode_name(self.namenode));
        let address = namenode_address(self.namenode);
        let conn = env.net().connect(address, &expect).await.ok()?;
        let (client, driver) = CallClient::<ClientProtocol>::open(&conn).await.ok()?;
        let request = Request::GetListing {
            path: "/".into(),
            start_after: after.to_owned(),
            limit: PAGE,
        };
        let asked = self.call(&client, request);
        let Either::Left((Some(Ok(reply)), _)) = select(pin!(asked), pin!(driver)).await else {
            return None;
        };
        match reply.response {
            Response::Listing { entries, .. } => {
                Some(entries.into_iter().map(|entry| entry.name).collect())
            }
            _ => None,
        }
    }
}

/// The names in the root, as whoever is active tells.
pub(super) async fn list(scene: Scene, env: SimEnv, listed: Rc<RefCell<Option<BTreeSet<String>>>>) {
    let mut names: BTreeSet<String> = BTreeSet::new();
    let rng = Rng::new(0, crate::rng::Stream::Workload, 1);
    let mut asker = Caller::new(&scene, env, 0, WRITERS, rng);
    loop {
        let after = names.last().cloned().unwrap_or_default();
        match asker.page(&after).await {
            Some(page) if page.is_empty() => break,
            Some(page) => names.extend(page),
            None => {
                asker.namenode = (asker.namenode + 1) % scene.namenodes.len();
                asker.pause(REDIAL_MS).await;
            }
        }
    }
    *listed.borrow_mut() = Some(names);
}
