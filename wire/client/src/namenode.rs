//! Calls to the NameNodes: who is active, retries, call ids (F-06).

use crate::background::Open;
use crate::error::{Attempt, ClientError};
use crate::options::ClientOptions;
use crate::peers::open;
use crate::timeout::until;
use futures_channel::mpsc;
use futures_util::StreamExt;
use futures_util::future::{Either, select};
use futures_util::lock::Mutex as AsyncMutex;
use futures_util::stream::FuturesUnordered;
use hadal_datastream::{Failover, LastWord, Observers, ReadFrom, Verdict};
use hadal_env::{Conn, Expect, Net, Seam};
use hadal_proto::client::{ClientCall, ClientProtocol, Reply, Request, Response};
use hadal_quic::CallClient;
use hadal_types::{CallId, ClientId, HaState, Role, Tick, TxId};
use std::pin::pin;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// After a failed dial others fail with it for this long instead of dialling again one after the other.
const REDIAL_PAUSE_MS: u64 = 20;
/// Code of a connection a client closes because it is done.
pub(crate) const CLOSED: u64 = 0;
/// What one call learned about who is active serves others for this long.
const LOOK_SHARED_MS: u64 = 40;
/// Longest wait for the others to say who is active.
const LOOK_MAX_MS: u64 = 1_000;

struct Link<C> {
    open: Option<(C, CallClient<ClientProtocol>)>,
    failed: Option<(Tick, String)>,
}

impl<C> Default for Link<C> {
    fn default() -> Self {
        Self {
            open: None,
            failed: None,
        }
    }
}

/// All NameNodes of the name service.
pub(crate) struct Namenodes<S: Seam> {
    pub(crate) seam: S,
    pub(crate) options: ClientOptions,
    client: ClientId,
    next_call: AtomicU64,
    seen: AtomicU64,
    current: AtomicUsize,
    links: Vec<AsyncMutex<Link<<S::Net as Net>::Conn>>>,
    /// When the other NameNodes were last asked, and who of them was active.
    looked: AsyncMutex<Option<(Tick, Option<usize>)>>,
    /// For reads that others than the active answer.
    pub(crate) observers: Mutex<Observers>,
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
        let observers = Observers::new(
            options.read_from,
            options.auto_msync_ms,
            options.namenodes.len(),
        );
        Self {
            seam,
            options,
            client,
            next_call: AtomicU64::new(1),
            seen: AtomicU64::new(0),
            current: AtomicUsize::new(0),
            links,
            looked: AsyncMutex::new(None),
            observers: Mutex::new(observers),
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

    /// Asks a NameNode that may answer: the active, or for reads the one the options name.
    pub(crate) async fn call(&self, request: Request) -> Result<Response, ClientError> {
        if self.options.read_from != ReadFrom::Active
            && request.is_standby_read()
            && let Some(outcome) = self.read_elsewhere(&request).await
        {
            return outcome;
        }
        self.call_active(request).await
    }

    /// Asks the active NameNode, with retries and failover inside the window. All attempts carry one call id.
    pub(crate) async fn call_active(&self, request: Request) -> Result<Response, ClientError> {
        let mutation = request.is_mutation();
        let call = self.numbered(request);
        let mut began = self.seam.now();
        let mut failover = Failover::new(
            self.options.failover.clone(),
            self.links.len(),
            self.current.load(Ordering::Relaxed),
            mutation,
            began,
        );
        loop {
            let asked = failover.current();
            let outcome = self.one_try(&call, &mut failover, began).await;
            // A system call each: for the calls that went wrong only.
            let now_and_jitter = || (self.seam.now(), self.seam.random_u64());
            let verdict = match outcome {
                Some(Either::Left(Ok(reply))) => {
                    self.current.store(asked, Ordering::Relaxed);
                    self.saw(reply.txid);
                    return Ok(reply.response);
                }
                Some(Either::Left(Err(Attempt::Fault(fault)))) => {
                    if !fault.is_retriable() {
                        return Err(ClientError::Fault(fault));
                    }
                    let hinted = self.index_of(&fault.hint);
                    let (now, jitter) = now_and_jitter();
                    failover.handle_fault(now, &fault, hinted, jitter)
                }
                Some(Either::Left(Err(Attempt::Net(reason)))) => {
                    let (now, jitter) = now_and_jitter();
                    failover.handle_unreachable(now, reason, jitter)
                }
                Some(Either::Right(active)) => {
                    self.current.store(active, Ordering::Relaxed);
                    failover.handle_active(active);
                    began = self.seam.now();
                    continue;
                }
                None => Verdict::Surface,
            };
            match verdict {
                Verdict::Surface => return Err(self.surface(&failover, self.seam.now())),
                Verdict::Retry { at, .. } if at > self.seam.now() => {
                    self.seam.sleep_until(at).await;
                }
                Verdict::Retry { .. } => {}
            }
            began = self.seam.now();
        }
    }

    /// Asks the current NameNode: its answer, or who is active instead of it, or `None` when time is up.
    async fn one_try(
        &self,
        call: &ClientCall,
        failover: &mut Failover,
        began: Tick,
    ) -> Option<Either<Result<Reply, Attempt>, usize>> {
        let asked = failover.current();
        let connected = AtomicU64::new(0);
        let attempt = pin!(self.attempt(asked, call, began, &connected));
        let watch = pin!(self.watch(failover, began, &connected));
        match select(attempt, watch).await {
            Either::Left((answer, _)) => Some(Either::Left(answer)),
            Either::Right((active, _)) => active.map(Either::Right),
        }
    }

    /// Closes the connections that stand. One that is being made goes on.
    pub(crate) fn disconnect(&self) {
        for link in &self.links {
            if let Some((conn, _)) = link.try_lock().and_then(|mut link| link.open.take()) {
                conn.close(CLOSED, "the client is closed");
            }
        }
    }

    pub(crate) fn numbered(&self, request: Request) -> ClientCall {
        ClientCall {
            client: self.client,
            call: CallId(self.next_call.fetch_add(1, Ordering::Relaxed)),
            seen: self.seen(),
            from_standby: false,
            request,
        }
    }

    fn index_of(&self, name: &str) -> Option<usize> {
        let mut namenodes = self.options.namenodes.iter();
        namenodes.position(|namenode| namenode.name == name)
    }

    fn surface(&self, failover: &Failover, now: Tick) -> ClientError {
        let reasons = match failover.last_word() {
            LastWord::Fault(fault) => return ClientError::Fault(fault),
            LastWord::Unreachable(reasons) => reasons,
        };
        let namenodes = &self.options.namenodes;
        let told: Vec<String> = match &reasons[..] {
            [] => vec![format!(
                "no answer within {} ms",
                now.ms_since(failover.started())
            )],
            [(_, reason)] if namenodes.len() == 1 => vec![reason.clone()],
            several => several
                .iter()
                .map(|(index, reason)| format!("{}: {reason}", namenodes[*index].name))
                .collect(),
        };
        let namenodes: Vec<String> = namenodes
            .iter()
            .map(|nn| format!("{} at {}", nn.name, nn.address))
            .collect();
        ClientError::Unreachable {
            namenodes: namenodes.join(", "),
            reason: told.join("; "),
        }
    }

    /// A NameNode told its txid: this client reads nothing older from here on.
    pub(crate) fn saw(&self, txid: TxId) {
        self.seen.fetch_max(txid.0, Ordering::Relaxed);
    }

    /// `connected` is set to the time at which the NameNode could be asked; `began` is now.
    pub(crate) async fn attempt(
        &self,
        index: usize,
        call: &ClientCall,
        began: Tick,
        connected: &AtomicU64,
    ) -> Result<Reply, Attempt> {
        let (client, since) = match self.open_link(index) {
            Some(client) => (client, began),
            None => (self.link(index).await?, self.seam.now()),
        };
        connected.store(since.0.max(1), Ordering::Relaxed);
        Ok(client.call(call).await?)
    }

    /// While an attempt takes longer than it should: the other NameNode that is active. A NameNode that died or
    /// stopped closes no connection, and its death must not be waited for until the transport notices. `None` when the
    /// call's time is up: one timer serves both, as every call sets it.
    async fn watch(
        &self,
        failover: &mut Failover,
        began: Tick,
        connected: &AtomicU64,
    ) -> Option<usize> {
        let (asked, deadline) = (failover.current(), failover.deadline());
        let mut now = began;
        loop {
            let connected = match connected.load(Ordering::Relaxed) {
                0 => None,
                since => Some(Tick(since)),
            };
            let at = failover
                .look_at(began, connected)
                .map_or(deadline, |at| at.min(deadline));
            if at > now {
                self.seam.sleep_until(at).await;
                now = self.seam.now();
                continue;
            }
            if now >= deadline {
                return None;
            }
            if let Some(active) = until(&self.seam, deadline, self.look(asked)).await? {
                return Some(active);
            }
            now = self.seam.now();
            failover.handle_looked(now, self.seam.random_u64());
        }
    }

    /// Asks all NameNodes but this one who is active. Calls that look at the same time share one look.
    async fn look(&self, asked: usize) -> Option<usize> {
        let mut looked = self.looked.lock().await;
        let fresh = looked.filter(|(at, _)| self.seam.now().ms_since(*at) < LOOK_SHARED_MS);
        if let Some((_, active)) = fresh {
            return active.filter(|active| *active != asked);
        }
        let deadline = self.seam.now().after_ms(LOOK_MAX_MS);
        let others = (0..self.links.len()).filter(|index| *index != asked);
        let mut answers: FuturesUnordered<_> = others
            .map(|index| async move { self.is_active(index).await.then_some(index) })
            .collect();
        let first = async {
            while let Some(answer) = answers.next().await {
                if answer.is_some() {
                    return answer;
                }
            }
            None
        };
        let active = until(&self.seam, deadline, first).await.flatten();
        *looked = Some((self.seam.now(), active));
        active
    }

    async fn is_active(&self, index: usize) -> bool {
        let call = self.numbered(Request::GetServiceState);
        let began = self.seam.now();
        let answer = self.attempt(index, &call, began, &AtomicU64::new(0)).await;
        let response = answer.map(|reply| reply.response);
        matches!(
            response,
            Ok(Response::ServiceState {
                state: HaState::Active,
                ..
            })
        )
    }

    /// The connection that stands, if no other call is at making one.
    fn open_link(&self, index: usize) -> Option<CallClient<ClientProtocol>> {
        let link = self.links[index].try_lock()?;
        let (_, client) = link.open.as_ref().filter(|(_, open)| !open.is_closed())?;
        Some(client.clone())
    }

    async fn link(&self, index: usize) -> Result<CallClient<ClientProtocol>, Attempt> {
        let mut link = self.links[index].lock().await;
        if let Some((_, client)) = link.open.as_ref().filter(|(_, open)| !open.is_closed()) {
            return Ok(client.clone());
        }
        link.open = None;
        if let Some((at, reason)) = &link.failed
            && self.seam.now().ms_since(*at) < REDIAL_PAUSE_MS
        {
            return Err(Attempt::Net(reason.clone()));
        }
        let namenode = &self.options.namenodes[index];
        let expect = Expect::node(Role::Namenode, namenode.name.clone());
        let dialled = match self.seam.net().connect(namenode.address, &expect).await {
            Ok(conn) => open(&self.opens, |reply| Open::Client(conn.clone(), reply))
                .await
                .map(|client| (conn, client)),
            Err(error) => Err(error.into()),
        };
        match dialled {
            Ok((conn, client)) => {
                link.failed = None;
                link.open = Some((conn, client.clone()));
                Ok(client)
            }
            Err(attempt) => {
                link.failed = Some((self.seam.now(), attempt.to_string()));
                Err(attempt)
            }
        }
    }
}
