//! A minimal driver of [`hadal_qjournal::writer::Writer`]: what a NameNode does towards its JournalNodes, without the
//! NameNode. Runs on one shard.

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use hadal_daemon::Notify;
use hadal_env::{Clock, Expect, Net, Random};
use hadal_proto::frame::FrameKind;
use hadal_proto::qjournal::{
    BatchHead, Call, JournalStream, LogDigest, QjournalProtocol, Request, Response,
};
use hadal_proto::{Fault, FaultClass, Protocol, encode};
use hadal_qjournal::writer::{
    EditBatch, Event, Jn, Output, RequestId, StreamId, Writer, WriterConfig,
};
use hadal_quic::{
    AckReceiver, AppendSender, CallClient, CallError, QuicConn, QuicNet, open_append,
};
use hadal_shard::ShardClock;
use hadal_types::{NamespaceInfo, Role, TxId};
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};
use store_journal::Batch;

/// Between two tries to reach a JournalNode that is starting, and how long it may take.
const RETRY: Duration = Duration::from_millis(50);
const START_WAIT: Duration = Duration::from_secs(20);

/// Batches on their way to one append stream.
#[derive(Default)]
struct Queue {
    batches: RefCell<VecDeque<(BatchHead, Bytes)>>,
    wake: Notify,
    closed: Cell<bool>,
}

impl Queue {
    fn close(&self) {
        self.closed.set(true);
        self.wake.notify();
    }
}

struct Link {
    conn: QuicConn,
    client: CallClient<QjournalProtocol>,
    stream: RefCell<Option<(StreamId, Rc<Queue>)>>,
}

/// A writer with connections to all its JournalNodes.
pub struct JournalDriver {
    clock: ShardClock,
    writer: RefCell<Writer>,
    links: Vec<Link>,
    events: RefCell<VecDeque<Event>>,
    wake: Notify,
    digest: Cell<LogDigest>,
    next: Cell<TxId>,
}

impl JournalDriver {
    /// Connects to freshly started JournalNodes, gives them a new namespace, claims the first epoch and starts writing.
    ///
    /// # Errors
    /// When one of them does not answer in time or refuses.
    pub async fn start(
        clock: ShardClock,
        net: &QuicNet,
        nodes: &[(String, SocketAddr)],
    ) -> Result<Rc<Self>> {
        let info = NamespaceInfo {
            namespace_id: clock.random_u64().max(1),
            ..NamespaceInfo::default()
        };
        let info = NamespaceInfo {
            layout: hadal_types::CURRENT_LAYOUT,
            created_ms: clock.wall_ms(),
            ..info
        };
        let mut links = Vec::new();
        for (name, address) in nodes {
            links.push(connect(net, name, *address).await?);
        }
        for (link, (name, _)) in links.iter().zip(nodes) {
            let call = Call::Format {
                info: info.clone(),
                initial: true,
                force: false,
            };
            let request = Request {
                namespace_id: info.namespace_id,
                call,
            };
            link.client
                .call(&request)
                .await
                .with_context(|| format!("formatting {name}"))?;
        }
        let names = nodes.iter().map(|(name, _)| name.clone()).collect();
        let writer = Writer::new(WriterConfig::new(names), info, clock.random_u64());
        let driver = Rc::new(Self {
            clock,
            writer: RefCell::new(writer),
            links,
            events: RefCell::default(),
            wake: Notify::new(),
            digest: Cell::default(),
            next: Cell::new(TxId(1)),
        });
        tokio::task::spawn_local(keep_time(Rc::clone(&driver)));
        for jn in 0..nodes.len() {
            driver.with(|writer, driver| writer.handle_connected(driver.clock.now(), jn));
        }
        driver.with(|writer, driver| writer.start_claim(driver.clock.now()));
        loop {
            match driver.event().await {
                Event::Recovered { end, .. } => {
                    driver.digest.set(end.digest);
                    driver.next.set(end.txid.next());
                    break;
                }
                Event::ClaimFailed { error } => return Err(error.into()),
                _ => {}
            }
        }
        driver.with(|writer, driver| writer.begin(driver.clock.now()))?;
        Ok(driver)
    }

    /// Does something with the writer and then whatever it asks for.
    fn with<T>(self: &Rc<Self>, act: impl FnOnce(&mut Writer, &Self) -> T) -> T {
        let done = act(&mut self.writer.borrow_mut(), self);
        loop {
            let output = self.writer.borrow_mut().poll_output();
            let Some(output) = output else { break };
            self.carry_out(output);
        }
        self.wake.notify();
        done
    }

    fn carry_out(self: &Rc<Self>, output: Output) {
        match output {
            Output::Call { jn, id, request } => {
                tokio::task::spawn_local(call(Rc::clone(self), jn, id, request));
            }
            Output::OpenStream { jn, stream, header } => {
                let queue = Rc::new(Queue::default());
                let fresh = Some((stream, Rc::clone(&queue)));
                if let Some((_, old)) = self.links[jn].stream.replace(fresh) {
                    old.close();
                }
                tokio::task::spawn_local(feed(Rc::clone(self), jn, stream, header, queue));
            }
            Output::Batch {
                jn,
                stream,
                head,
                records,
            } => {
                if let Some((current, queue)) = &*self.links[jn].stream.borrow()
                    && *current == stream
                {
                    queue.batches.borrow_mut().push_back((head, records));
                    queue.wake.notify();
                }
            }
            Output::CloseStream { jn, stream } => {
                let mut slot = self.links[jn].stream.borrow_mut();
                if let Some((_, queue)) = slot.take_if(|(current, _)| *current == stream) {
                    queue.close();
                }
            }
            Output::Event(event) => self.events.borrow_mut().push_back(event),
        }
    }

    /// The next thing the writer says.
    async fn event(&self) -> Event {
        loop {
            let mark = self.wake.mark();
            let next = self.events.borrow_mut().pop_front();
            if let Some(event) = next {
                return event;
            }
            self.wake.changed(mark).await;
        }
    }

    /// Frames the next edits and hands them in; answers with the last one's number.
    ///
    /// # Errors
    /// When the writer does not take them: it lost its role, or its window is full.
    pub fn append<P: AsRef<[u8]>>(
        self: &Rc<Self>,
        payloads: impl IntoIterator<Item = P>,
    ) -> Result<TxId> {
        let (first, epoch) = (self.next.get(), self.writer.borrow().epoch());
        let batch = Batch::frame(epoch, first, self.digest.get().0, payloads)?;
        let edits = EditBatch {
            first,
            count: u32::try_from(batch.last().0 + 1 - first.0)?,
            records: batch.bytes().clone(),
            digest_end: LogDigest(batch.digest()),
        };
        self.with(|writer, driver| writer.append(driver.clock.now(), edits))?;
        self.digest.set(LogDigest(batch.digest()));
        self.next.set(batch.last().next());
        Ok(batch.last())
    }

    /// Waits until more is durable on a majority; answers up to which edit.
    ///
    /// # Errors
    /// When this writer is fenced or no majority is left.
    pub async fn committed(&self) -> Result<TxId> {
        loop {
            match self.event().await {
                Event::Committed { mark } => return Ok(mark.txid),
                Event::Fenced { by } => bail!("fenced by epoch {by}"),
                Event::QuorumFailed { reasons } => bail!("no majority is left: {reasons:?}"),
                _ => {}
            }
        }
    }

    /// Ends the segment, starts the next one and lets the JournalNodes drop what is before it. Nothing may be in flight.
    ///
    /// # Errors
    /// As [`JournalDriver::committed`].
    pub async fn roll_and_purge(self: &Rc<Self>) -> Result<()> {
        self.with(|writer, driver| writer.roll(driver.clock.now()))?;
        loop {
            match self.event().await {
                Event::SegmentStarted { first } if first == self.next.get() => {
                    self.with(|writer, _| writer.purge(first))?;
                    return Ok(());
                }
                Event::Fenced { by } => bail!("fenced by epoch {by}"),
                Event::QuorumFailed { reasons } => bail!("no majority is left: {reasons:?}"),
                _ => {}
            }
        }
    }
}

async fn connect(net: &QuicNet, name: &str, address: SocketAddr) -> Result<Link> {
    let expect = Expect::node(Role::Journalnode, name);
    let deadline = Instant::now() + START_WAIT;
    let conn = loop {
        match net.connect(address, &expect).await {
            Ok(conn) => break conn,
            Err(error) if Instant::now() > deadline => {
                return Err(error).with_context(|| format!("{name} at {address} does not come up"));
            }
            Err(_) => tokio::time::sleep(RETRY).await,
        }
    };
    let (client, driver) = CallClient::open(&conn).await?;
    tokio::task::spawn_local(driver);
    Ok(Link {
        conn,
        client,
        stream: RefCell::default(),
    })
}

/// Tells the writer when its time has come.
async fn keep_time(driver: Rc<JournalDriver>) {
    loop {
        let mark = driver.wake.mark();
        let at = driver.writer.borrow().poll_timeout();
        match at {
            None => driver.wake.changed(mark).await,
            Some(at) => {
                let timer = driver.clock.sleep_until(at);
                tokio::select! {
                    () = timer => driver.with(|writer, driver| writer.handle_timeout(driver.clock.now())),
                    () = driver.wake.changed(mark) => {}
                }
            }
        }
    }
}

async fn call(driver: Rc<JournalDriver>, jn: Jn, id: RequestId, request: Request) {
    let outcome: Result<Response, Fault> = match driver.links[jn].client.call(&request).await {
        Ok(response) => Ok(response),
        Err(CallError::Fault(fault)) => Err(fault),
        Err(error) => Err(Fault::new(FaultClass::Retry, error.to_string())),
    };
    driver.with(|writer, driver| writer.handle_reply(driver.clock.now(), jn, id, outcome));
}

/// Opens an append stream and feeds it until it ends.
async fn feed(
    driver: Rc<JournalDriver>,
    jn: Jn,
    stream: StreamId,
    header: JournalStream,
    queue: Rc<Queue>,
) {
    let conn = &driver.links[jn].conn;
    if let Ok((mut sender, mut acks)) = open_append(
        conn,
        QjournalProtocol::ID,
        QjournalProtocol::VERSION,
        &header,
    )
    .await
    {
        tokio::select! {
            () = send(&queue, &mut sender) => {}
            () = acknowledge(&driver, jn, stream, &mut acks) => {}
        }
    }
    driver.with(|writer, driver| writer.handle_stream_closed(driver.clock.now(), jn, stream));
}

async fn send(queue: &Queue, sender: &mut AppendSender<QuicConn>) {
    loop {
        let mark = queue.wake.mark();
        if queue.closed.get() {
            return sender.reset(0);
        }
        let next = queue.batches.borrow_mut().pop_front();
        let Some((head, records)) = next else {
            queue.wake.changed(mark).await;
            continue;
        };
        let sent = sender
            .send(
                FrameKind::Data,
                0,
                head.first.0,
                encode(&head),
                &mut [records],
            )
            .await;
        if sent.is_err() {
            return;
        }
    }
}

async fn acknowledge(
    driver: &Rc<JournalDriver>,
    jn: Jn,
    stream: StreamId,
    acks: &mut AckReceiver<QuicConn>,
) {
    while let Ok(Some(ack)) = acks.next().await {
        driver.with(|writer, driver| writer.handle_ack(driver.clock.now(), jn, stream, &ack));
    }
}
