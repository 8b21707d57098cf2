//! A CA, identities and connected pairs.

use bytes::Bytes;
use hadal_env::{Expect, Net};
use hadal_proto::transfer::TransferProtocol;
use hadal_proto::{Protocol, ProtocolId};
use hadal_quic::{
    ClusterCa, Identity, IssuedCertificate, QuicConn, QuicNet, TransportOptions, Validity,
};
use hadal_types::Role;
use std::net::UdpSocket;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// A protocol whose messages are bytes.
pub(crate) struct Echo;

impl Protocol for Echo {
    const ID: ProtocolId = ProtocolId::Transfer;
    const VERSION: u16 = TransferProtocol::VERSION;
    type Request = Bytes;
    type Response = Bytes;
}

pub(crate) struct Cluster {
    pub(crate) ca: ClusterCa,
}

impl Cluster {
    pub(crate) fn new() -> Self {
        Self {
            ca: ClusterCa::generate("test cluster", Validity::days(30))
                .unwrap()
                .0,
        }
    }

    pub(crate) fn issue(&self, role: Role, name: &str) -> IssuedCertificate {
        self.ca.issue(role, name, &[], Validity::days(1)).unwrap()
    }

    pub(crate) fn identity(&self, role: Role, name: &str) -> Identity {
        let issued = self.issue(role, name);
        self.identity_at(&issued, SystemTime::now())
    }

    /// An identity as it was seen at `at`.
    pub(crate) fn identity_at(&self, issued: &IssuedCertificate, at: SystemTime) -> Identity {
        Identity::from_pem(
            self.ca.certificate_pem(),
            &issued.certificate_pem,
            &issued.key_pem,
            at,
        )
        .unwrap()
    }

    /// An identity whose time is over, or has not come.
    pub(crate) fn out_of_time(&self, role: Role, name: &str, over: bool) -> Identity {
        let (hour, now) = (Duration::from_secs(3600), SystemTime::now());
        let (not_before, not_after) = if over {
            (now - 2 * hour, now - hour)
        } else {
            (now + hour, now + 2 * hour)
        };
        let validity = Validity {
            not_before,
            not_after,
        };
        let issued = self.ca.issue(role, name, &[], validity).unwrap();
        self.identity_at(&issued, not_before + hour / 2)
    }
}

pub(crate) fn socket() -> UdpSocket {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_nonblocking(true).unwrap();
    socket
}

/// Options for a machine that is busy with other tests.
pub(crate) fn patient() -> TransportOptions {
    TransportOptions {
        handshake_timeout_ms: 60_000,
        idle_timeout_ms: 60_000,
        ..TransportOptions::default()
    }
}

pub(crate) fn endpoint(identity: &Identity, listen: bool) -> QuicNet {
    endpoint_with(identity, listen, &patient())
}

pub(crate) fn endpoint_with(
    identity: &Identity,
    listen: bool,
    options: &TransportOptions,
) -> QuicNet {
    QuicNet::new(
        socket(),
        Arc::new(quinn::TokioRuntime),
        identity,
        options,
        listen,
    )
    .unwrap()
}

/// A dialler and a listener, connected.
pub(crate) struct Pair {
    pub(crate) dialler: QuicConn,
    pub(crate) listener: QuicConn,
    _nets: [QuicNet; 2],
}

pub(crate) async fn pair() -> Pair {
    pair_with(Role::Datanode, &patient()).await
}

/// A dialler of this role and a DataNode, connected.
pub(crate) async fn pair_with(role: Role, options: &TransportOptions) -> Pair {
    let cluster = Cluster::new();
    let listening = endpoint_with(&cluster.identity(Role::Datanode, "dn1"), true, options);
    let dialling = endpoint_with(&cluster.identity(role, "it"), false, options);
    let expect = Expect::node(Role::Datanode, "dn1");
    let (dialler, listener) =
        futures_util::join!(dialling.connect(listening.local_addr(), &expect), async {
            listening.accept().await.unwrap()
        });
    Pair {
        dialler: dialler.unwrap(),
        listener,
        _nets: [dialling, listening],
    }
}
