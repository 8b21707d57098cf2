//! As much of a NameNode as a journal needs: the writer's core over the simulated network, one thing at a time.

use bytes::Bytes;
use hadal_env::{Clock, Conn, Env, Expect, Net, Seam};
use hadal_proto::frame::FrameKind;
use hadal_proto::qjournal::{Call, CommitMark, LogDigest, QjournalProtocol, Request, Response};
use hadal_proto::{Fault, FaultClass, Protocol, encode};
use hadal_qjournal::reader::{self, ReadError, Reader, Until};
use hadal_qjournal::writer::{
    ClaimError, EditBatch, Event, Output, StreamId, Writer, WriterConfig,
};
use hadal_quic::{AckReceiver, AppendSender, CallClient, CallError, open_append};
use hadal_types::{BlockPoolId, CURRENT_LAYOUT, ClusterId, NamespaceInfo, Role, TxId};
use sim::{SimConn, SimEnv};
use std::net::SocketAddr;
use store_journal::Batch;

struct Stream {
    id: StreamId,
    sender: AppendSender<SimConn>,
    acks: AckReceiver<SimConn>,
    sent: u64,
    acked: u64,
}

pub struct Namenode {
    env: SimEnv,
    addresses: Vec<(String, SocketAddr)>,
    pub writer: Writer,
    clients: Vec<Option<(SimConn, CallClient<QjournalProtocol>)>>,
    streams: Vec<Option<Stream>>,
    events: Vec<Event>,
}

pub fn info() -> NamespaceInfo {
    NamespaceInfo {
        layout: CURRENT_LAYOUT,
        namespace_id: 7,
        cluster_id: ClusterId("CID-test".into()),
        block_pool_id: BlockPoolId("BP-test".into()),
        created_ms: 1,
    }
}

impl Namenode {
    pub async fn new(env: SimEnv, addresses: Vec<(String, SocketAddr)>, seed: u64) -> Self {
        let names = addresses.iter().map(|(name, _)| name.clone()).collect();
        let mut namenode = Self {
            env,
            writer: Writer::new(WriterConfig::new(names), info(), seed),
            clients: addresses.iter().map(|_| None).collect(),
            streams: addresses.iter().map(|_| None).collect(),
            addresses,
            events: Vec::new(),
        };
        namenode.connect_all().await;
        namenode
    }

    async fn connect_all(&mut self) {
        for jn in 0..self.addresses.len() {
            if self.clients[jn]
                .as_ref()
                .is_some_and(|(conn, client)| !conn.is_closed() && !client.is_closed())
            {
                continue;
            }
            if self.clients[jn].take().is_some() {
                self.lost(jn);
            }
            let (name, address) = &self.addresses[jn];
            let expect = Expect::node(Role::Journalnode, name.clone());
            let Ok(conn) = self.env.net().connect(*address, &expect).await else {
                continue;
            };
            let Ok((client, driver)) = CallClient::open(&conn).await else {
                continue;
            };
            self.env.spawn("test calls", async move {
                driver.await;
            });
            self.clients[jn] = Some((conn, client));
            self.writer.handle_connected(self.env.now(), jn);
        }
    }

    fn lost(&mut self, jn: usize) {
        self.clients[jn] = None;
        self.streams[jn] = None;
        self.writer.handle_disconnected(self.env.now(), jn);
    }

    pub async fn call(&mut self, jn: usize, call: Call) -> Result<Response, Fault> {
        let request = Request {
            namespace_id: info().namespace_id,
            call,
        };
        self.ask(jn, &request).await
    }

    async fn ask(&mut self, jn: usize, request: &Request) -> Result<Response, Fault> {
        let lost = || Fault::new(FaultClass::Retry, "not connected");
        let (_, client) = self.clients[jn].clone().ok_or_else(lost)?;
        match client.call(request).await {
            Ok(response) => Ok(response),
            Err(CallError::Fault(fault)) => Err(fault),
            Err(_) => Err(lost()),
        }
    }

    async fn carry_out(&mut self, output: Output) {
        match output {
            Output::Call { jn, id, request } => {
                let outcome = self.ask(jn, &request).await;
                self.writer.handle_reply(self.env.now(), jn, id, outcome);
            }
            Output::OpenStream { jn, stream, header } => {
                self.streams[jn] = None;
                let Some((conn, _)) = &self.clients[jn] else {
                    return;
                };
                let (protocol, version) = (QjournalProtocol::ID, QjournalProtocol::VERSION);
                match open_append(conn, protocol, version, &header).await {
                    Ok((sender, acks)) => {
                        self.streams[jn] = Some(Stream {
                            id: stream,
                            sender,
                            acks,
                            sent: 0,
                            acked: 0,
                        });
                    }
                    Err(_) => self.writer.handle_stream_closed(self.env.now(), jn, stream),
                }
            }
            Output::Batch {
                jn,
                stream,
                head,
                records,
            } => {
                let Some(open) = self.streams[jn].as_mut().filter(|s| s.id == stream) else {
                    return;
                };
                if head.count > 0 {
                    open.sent = head.last().0;
                }
                let kind = FrameKind::Data;
                let aux = encode(&head);
                let mut payload = [records];
                let sent = open.sender.send(kind, 0, head.first.0, aux, &mut payload);
                if sent.await.is_err() {
                    self.streams[jn] = None;
                    self.writer.handle_stream_closed(self.env.now(), jn, stream);
                }
            }
            Output::CloseStream { jn, stream } => {
                if self.streams[jn].as_ref().is_some_and(|s| s.id == stream) {
                    self.streams[jn] = None;
                }
            }
            Output::Event(event) => self.events.push(event),
        }
    }

    /// Waits for an ack that is due; false when none is.
    async fn read_ack(&mut self) -> bool {
        for jn in 0..self.streams.len() {
            let Some(open) = &mut self.streams[jn] else {
                continue;
            };
            if open.acked >= open.sent {
                continue;
            }
            let id = open.id;
            match open.acks.next().await {
                Ok(Some(ack)) => {
                    open.acked = open.acked.max(ack.offset);
                    if ack.fault.is_some() {
                        self.streams[jn] = None;
                    }
                    self.writer.handle_ack(self.env.now(), jn, id, &ack);
                }
                _ => {
                    self.streams[jn] = None;
                    self.writer.handle_stream_closed(self.env.now(), jn, id);
                }
            }
            return true;
        }
        false
    }

    /// Goes on until `wanted` happens; false when the writer ended before.
    pub async fn wait<T>(&mut self, wanted: impl Fn(&Event) -> Option<T>) -> Option<T> {
        let end = self.env.now().after_ms(60_000);
        loop {
            while let Some(output) = self.writer.poll_output() {
                self.carry_out(output).await;
            }
            while !self.events.is_empty() {
                let event = self.events.remove(0);
                if let Some(found) = wanted(&event) {
                    return Some(found);
                }
                if matches!(event, Event::Fenced { .. } | Event::QuorumFailed { .. }) {
                    return None;
                }
            }
            if self.read_ack().await {
                continue;
            }
            let now = self.env.now();
            if now > end {
                return None;
            }
            self.env.sleep_until(now.after_ms(20)).await;
            self.connect_all().await;
            self.writer.handle_timeout(self.env.now());
        }
    }

    /// Goes on for a while.
    pub async fn pause(&mut self, ms: u64) {
        let end = self.env.now().after_ms(ms);
        while self.env.now() < end {
            self.env.sleep_until(self.env.now().after_ms(20)).await;
            self.connect_all().await;
            self.writer.handle_timeout(self.env.now());
            while let Some(output) = self.writer.poll_output() {
                self.carry_out(output).await;
            }
            self.read_ack().await;
        }
    }

    pub async fn claim(&mut self) -> Result<CommitMark, ClaimError> {
        self.writer.start_claim(self.env.now());
        let outcome = self.wait(|event| match event {
            Event::Recovered { end, .. } => Some(Ok(*end)),
            Event::ClaimFailed { error } => Some(Err(error.clone())),
            _ => None,
        });
        outcome.await.expect("a claim ends")
    }

    pub async fn begin(&mut self) -> bool {
        self.writer.begin(self.env.now()).expect("recovered");
        self.started().await
    }

    async fn started(&mut self) -> bool {
        let started = |event: &Event| matches!(event, Event::SegmentStarted { .. }).then_some(());
        self.wait(started).await.is_some()
    }

    pub async fn roll(&mut self) -> bool {
        self.writer.roll(self.env.now()).expect("writes");
        self.started().await
    }

    /// Appends edits and waits until they are committed.
    pub async fn write(&mut self, count: u64) -> bool {
        let before = self.writer.appended().expect("writes");
        let first = before.txid.next();
        let ops =
            (0..count).map(|n| format!("edit {} {}", first.0 + n, "x".repeat(n as usize * 700)));
        let epoch = self.writer.epoch();
        let batch = Batch::frame(epoch, first, before.digest.0, ops).expect("a batch");
        let last = batch.last();
        let edits = EditBatch {
            first,
            count: count as u32,
            records: batch.bytes().clone(),
            digest_end: LogDigest(batch.digest()),
        };
        self.writer.append(self.env.now(), edits).expect("room");
        let committed = |event: &Event| match event {
            Event::Committed { mark } if mark.txid >= last => Some(()),
            _ => None,
        };
        self.wait(committed).await.is_some()
    }

    /// Reads the whole log.
    pub async fn read(&mut self, until: Until) -> Result<(Vec<Bytes>, CommitMark), ReadError> {
        let names = self
            .addresses
            .iter()
            .map(|(name, _)| name.clone())
            .collect();
        let zero = Some(LogDigest::default());
        let (namespace_id, verify) = (info().namespace_id, hadal_journalnode::log_digest);
        let mut pass = Reader::new(names, namespace_id, TxId(0), zero, until, verify);
        let mut ops = Vec::new();
        loop {
            match pass.poll_output().expect("a pass has an end") {
                reader::Output::Call { jn, request } => {
                    let outcome = self.ask(jn, &request).await;
                    pass.handle_reply(jn, outcome);
                }
                reader::Output::Edits(edits) => {
                    let before = edits.digest_before.0;
                    let batch = Batch::verify(edits.records, edits.first, before).expect("good");
                    ops.extend(batch.records().map(|record| record.payload));
                }
                reader::Output::Done(end) => return Ok((ops, end)),
                reader::Output::Failed(error) => return Err(error),
            }
        }
    }
}
