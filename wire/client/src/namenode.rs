//! Calls to the NameNodes: who is active, retries, call ids (F-06).

use crate::background::Open;
use crate::error::{Attempt, ClientError};
use crate::options::ClientOptions;
use crate::peers::open;
use crate::timeout::until;
use futures_channel::mpsc;
use futures_util::lock::Mutex as AsyncMutex;
use hadal_datastream::{Failover, Verdict};
use hadal_env::{Expect, Net, Seam};
use hadal_proto::client::{ClientCall, ClientProtocol, Request, Response};
use hadal_quic::CallClient;
use hadal_types::{CallId, ClientId, Role, Tick, TxId};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// After a failed dial others fail with it for this long instead of dialling again one after the other.
const REDIAL_PAUSE_MS: u64 = 20;

#[derive(Default)]
struct Link {
    client: Option<CallClient<ClientProtocol>>,
    failed: Option<(Tick, String)>,
}

/// All NameNodes of the name service.
pub(crate) struct Namenodes<S: Seam> {
    seam: S,
    options: ClientOptions,
    client: ClientId,
    next_call: AtomicU64,
    seen: AtomicU64,
    current: AtomicUsize,
    links: Vec<AsyncMutex<Link>>,
    opens: mpsc::Sender<Open<<S::Net as Net>::Conn>>,
}

impl<S: Seam> Namenodes<S> {
    pub(crate) fn new(
        seam: S,
        options: ClientOptions,
        client: ClientId,
        opens: mpsc::Sender<Open<<S::Net as Net>::Conn>>,
    ) -> Self {
        let links = options
            .namenodes
            .iter()
            .map(|_| AsyncMutex::default())
            .collect();
        Self {
            seam,
            options,
            client,
            next_call: AtomicU64::new(1),
            seen: AtomicU64::new(0),
            current: AtomicUsize::new(0),
            links,
            opens,
        }
    }

    pub(crate) fn client_id(&self) -> ClientId {
        self.client
    }

    /// Highest txid this client has seen.
    pub(crate) fn seen(&self) -> TxId {
        TxId(self.seen.load(Ordering::Relaxed))
    }

    /// Asks the active NameNode, with retries and failover inside the window. All attempts carry one call id.
    pub(crate) async fn call(&self, request: Request) -> Result<Response, ClientError> {
        let call = ClientCall {
            client: self.client,
            call: CallId(self.next_call.fetch_add(1, Ordering::Relaxed)),
            seen: self.seen(),
            request,
        };
        let started = self.seam.now();
        let mut failover = Failover::new(
            self.options.failover.clone(),
            self.links.len(),
            self.current.load(Ordering::Relaxed),
            started,
        );
        // What a NameNode said last tells more than that time is up.
        let mut last_fault = None;
        loop {
            let asked = failover.current();
            let attempt = until(&self.seam, failover.deadline(), self.attempt(asked, &call)).await;
            let now = self.seam.now();
            let jitter = self.seam.random_u64();
            let (verdict, attempt) = match attempt {
                Some(Ok(reply)) => {
                    self.current.store(asked, Ordering::Relaxed);
                    self.seen.fetch_max(reply.txid.0, Ordering::Relaxed);
                    return Ok(reply.response);
                }
                Some(Err(Attempt::Fault(fault))) => {
                    let hinted = self
                        .options
                        .namenodes
                        .iter()
                        .position(|nn| nn.name == fault.hint);
                    last_fault = Some(fault.clone());
                    (
                        failover.handle_fault(now, &fault, hinted, jitter),
                        Attempt::Fault(fault),
                    )
                }
                Some(Err(attempt)) => (failover.handle_unreachable(now, jitter), attempt),
                None => {
                    let waited = now.ms_since(started);
                    let attempt = last_fault.take().map_or_else(
                        || Attempt::Net(format!("no answer within {waited} ms")),
                        Attempt::Fault,
                    );
                    (Verdict::Surface, attempt)
                }
            };
            match verdict {
                Verdict::Surface => return Err(self.surface(attempt)),
                Verdict::Retry { at, .. } => {
                    if at > now {
                        self.seam.sleep_until(at).await;
                    }
                }
            }
        }
    }

    fn surface(&self, attempt: Attempt) -> ClientError {
        match attempt {
            Attempt::Fault(fault) => ClientError::Fault(fault),
            Attempt::Net(reason) => {
                let namenodes: Vec<String> = self
                    .options
                    .namenodes
                    .iter()
                    .map(|nn| format!("{} at {}", nn.name, nn.address))
                    .collect();
                ClientError::Unreachable {
                    namenodes: namenodes.join(", "),
                    reason,
                }
            }
        }
    }

    async fn attempt(
        &self,
        index: usize,
        call: &ClientCall,
    ) -> Result<hadal_proto::client::Reply, Attempt> {
        let client = self.link(index).await?;
        Ok(client.call(call).await?)
    }

    async fn link(&self, index: usize) -> Result<CallClient<ClientProtocol>, Attempt> {
        let mut link = self.links[index].lock().await;
        if let Some(client) = link.client.as_ref().filter(|client| !client.is_closed()) {
            return Ok(client.clone());
        }
        link.client = None;
        if let Some((at, reason)) = &link.failed
            && self.seam.now().ms_since(*at) < REDIAL_PAUSE_MS
        {
            return Err(Attempt::Net(reason.clone()));
        }
        let namenode = &self.options.namenodes[index];
        let expect = Expect::node(Role::Namenode, namenode.name.clone());
        let dialled = match self.seam.net().connect(namenode.address, &expect).await {
            Ok(conn) => open(&self.opens, |reply| Open::Client(conn, reply)).await,
            Err(error) => Err(error.into()),
        };
        match dialled {
            Ok(client) => {
                link.failed = None;
                link.client = Some(client.clone());
                Ok(client)
            }
            Err(attempt) => {
                link.failed = Some((self.seam.now(), attempt.to_string()));
                Err(attempt)
            }
        }
    }
}
