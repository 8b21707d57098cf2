//! T-A1: every peer that must be refused is refused, at the dialler and at the listener, and told why.

use crate::common::{Cluster, endpoint, socket};
use futures_util::FutureExt;
use hadal_env::{Conn, Expect, Net, NetError, NetErrorKind};
use hadal_quic::{Identity, IssuedCertificate, QuicNet, Validity};
use hadal_types::Role;
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use rustls::crypto::aws_lc_rs::default_provider;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use std::net::SocketAddr;
use std::sync::Arc;

/// What the dialler learns of dialling `expect` at `addr` as `identity`.
async fn dial(identity: &Identity, addr: SocketAddr, expect: &Expect) -> NetError {
    match endpoint(identity, false).connect(addr, expect).await {
        Ok(conn) => panic!("{} must not be reached", conn.peer()),
        Err(error) => error,
    }
}

fn assert_untrusted(error: &NetError, words: &[&str]) {
    assert_eq!(error.kind, NetErrorKind::Untrusted, "{error}");
    for word in words {
        assert!(error.detail.contains(word), "{word:?} is not in: {error}");
    }
}

/// No connection was accepted of all those tried before, and an honest peer still is.
async fn assert_only_the_honest_get_in(cluster: &Cluster, listening: &QuicNet) {
    let honest = endpoint(&cluster.identity(Role::Client, "honest"), false);
    let expect = Expect::role(listening_role());
    let conn = honest.connect(listening.local_addr(), &expect).await;
    assert_eq!(listening.accept().await.unwrap().peer().name, "honest");
    assert!(listening.accept().now_or_never().is_none());
    drop(conn.unwrap());
}

fn listening_role() -> Role {
    Role::Namenode
}

fn listen(cluster: &Cluster) -> QuicNet {
    endpoint(&cluster.identity(listening_role(), "nn1"), true)
}

fn key_and_chain(
    issued: &IssuedCertificate,
) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
    (
        vec![CertificateDer::from_pem_slice(issued.certificate_pem.as_bytes()).unwrap()],
        PrivateKeyDer::from_pem_slice(issued.key_pem.as_bytes()).unwrap(),
    )
}

fn raw_client(
    cluster: &Cluster,
    issued: Option<&IssuedCertificate>,
    alpn: &[u8],
) -> rustls::ClientConfig {
    let mut roots = rustls::RootCertStore::empty();
    let ca = CertificateDer::from_pem_slice(cluster.ca.certificate_pem().as_bytes()).unwrap();
    roots.add(ca).unwrap();
    let builder = rustls::ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots);
    let mut config = match issued {
        Some(issued) => {
            let (chain, key) = key_and_chain(issued);
            builder.with_client_auth_cert(chain, key).unwrap()
        }
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![alpn.to_vec()];
    config
}

/// A dialler that is not ours: connects as far as it gets and returns how it ended.
async fn raw_dial(config: rustls::ClientConfig, addr: SocketAddr) -> quinn::ConnectionError {
    let endpoint = quinn::Endpoint::client("127.0.0.1:0".parse().unwrap()).unwrap();
    let config = QuicClientConfig::try_from(config).unwrap();
    let connecting = endpoint
        .connect_with(
            quinn::ClientConfig::new(Arc::new(config)),
            addr,
            "namenode.hadal",
        )
        .unwrap();
    match connecting.await {
        Err(error) => error,
        Ok(conn) => match conn.accept_uni().await {
            Ok(_) => panic!("the listener must not greet it"),
            Err(error) => error,
        },
    }
}

#[tokio::test]
async fn t_a1_the_listener_refuses_a_dialler_without_a_certificate() {
    let cluster = Cluster::new();
    let listening = listen(&cluster);
    let error = raw_dial(
        raw_client(&cluster, None, b"hadal/1"),
        listening.local_addr(),
    )
    .await;
    assert!(matches!(error, quinn::ConnectionError::ConnectionClosed(_)));
    assert_only_the_honest_get_in(&cluster, &listening).await;
}

#[tokio::test]
async fn t_a1_the_listener_refuses_another_alpn() {
    let cluster = Cluster::new();
    let listening = listen(&cluster);
    let issued = cluster.issue(Role::Client, "alice");
    let config = raw_client(&cluster, Some(&issued), b"h3");
    let error = raw_dial(config, listening.local_addr()).await;
    assert!(matches!(error, quinn::ConnectionError::ConnectionClosed(_)));
    assert_only_the_honest_get_in(&cluster, &listening).await;
}

#[tokio::test]
async fn t_a1_the_listener_refuses_a_certificate_that_names_no_role() {
    let cluster = Cluster::new();
    let listening = listen(&cluster);
    // Issued by the right key, but by hand: no organizational unit.
    let (ca, ca_key) = hadal_quic::ClusterCa::generate("test cluster", Validity::days(1)).unwrap();
    let by_hand = {
        let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
        let issuer_key = rcgen::KeyPair::from_pem(&ca_key).unwrap();
        let issuer = rcgen::Issuer::from_ca_cert_pem(ca.certificate_pem(), issuer_key).unwrap();
        let mut params = rcgen::CertificateParams::new(vec!["namenode.hadal".to_owned()]).unwrap();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params
            .distinguished_name
            .push(rcgen::DnType::CommonName, "nn1");
        IssuedCertificate {
            certificate_pem: params.signed_by(&key, &issuer).unwrap().pem(),
            key_pem: key.serialize_pem(),
        }
    };
    let hand_made = Cluster { ca };
    let listening_there = listen(&hand_made);
    let config = raw_client(&hand_made, Some(&by_hand), b"hadal/1");
    let error = raw_dial(config, listening_there.local_addr()).await;
    let quinn::ConnectionError::ApplicationClosed(close) = error else {
        panic!("it must be refused after the chain was verified: {error}")
    };
    let reason = String::from_utf8_lossy(&close.reason).into_owned();
    assert!(reason.contains("organizational unit"), "{reason}");
    assert_only_the_honest_get_in(&hand_made, &listening_there).await;
    assert_only_the_honest_get_in(&cluster, &listening).await;
}

#[tokio::test]
async fn t_a1_the_listener_refuses_out_of_time_and_foreign_diallers_and_says_why() {
    let (cluster, other) = (Cluster::new(), Cluster::new());
    let listening = listen(&cluster);
    let addr = listening.local_addr();
    let expect = Expect::role(listening_role());
    let expired = cluster.out_of_time(Role::Client, "alice", true);
    assert_untrusted(
        &dial(&expired, addr, &expect).await,
        &["our certificate is expired", "hadal tls issue"],
    );
    let early = cluster.out_of_time(Role::Client, "alice", false);
    assert_untrusted(
        &dial(&early, addr, &expect).await,
        &["our certificate is not yet valid", "clocks"],
    );
    // A dialler that trusts our CA, but holds a certificate of another one.
    let foreign = other.issue(Role::Client, "mallory");
    let config = raw_client(&cluster, Some(&foreign), b"hadal/1");
    let error = raw_dial(config, addr).await;
    let quinn::ConnectionError::ConnectionClosed(close) = error else {
        panic!("TLS must refuse it: {error}")
    };
    let reason = String::from_utf8_lossy(&close.reason).into_owned();
    assert!(
        reason.contains("UnknownIssuer") || reason.contains("Signature"),
        "{reason}"
    );
    assert_only_the_honest_get_in(&cluster, &listening).await;
}

#[tokio::test]
async fn t_a1_the_dialler_refuses_wrong_listeners_and_says_why() {
    let (cluster, other) = (Cluster::new(), Cluster::new());
    let alice = cluster.identity(Role::Client, "alice");
    let expect = Expect::node(Role::Namenode, "nn1");
    let refused = async |identity: Identity, words: &[&str]| {
        let listening = endpoint(&identity, true);
        let error = dial(&alice, listening.local_addr(), &expect).await;
        assert_untrusted(&error, words);
        assert!(listening.accept().now_or_never().is_none());
    };
    refused(
        cluster.out_of_time(Role::Namenode, "nn1", true),
        &[
            "the peer's certificate is expired",
            "namenode/nn1 at 127.0.0.1",
        ],
    )
    .await;
    refused(
        cluster.out_of_time(Role::Namenode, "nn1", false),
        &["the peer's certificate is not yet valid"],
    )
    .await;
    refused(
        other.identity(Role::Namenode, "nn1"),
        &["the peer's certificate was issued by a foreign CA"],
    )
    .await;
    refused(
        cluster.identity(Role::Datanode, "nn1"),
        &[
            "the peer's certificate has the wrong role",
            "datanode.hadal",
        ],
    )
    .await;
}

/// The name is checked after TLS: the listener has the role, but is another node.
#[tokio::test]
async fn t_a1_the_dialler_refuses_another_name() {
    let cluster = Cluster::new();
    let alice = cluster.identity(Role::Client, "alice");
    let listening = endpoint(&cluster.identity(Role::Namenode, "nn2"), true);
    let expect = Expect::node(Role::Namenode, "nn1");
    let error = dial(&alice, listening.local_addr(), &expect).await;
    assert_untrusted(&error, &["namenode/nn2 answers instead", "namenode/nn1 at"]);
}

#[tokio::test]
async fn t_a1_the_dialler_refuses_another_alpn() {
    let cluster = Cluster::new();
    let (chain, key) = key_and_chain(&cluster.issue(Role::Namenode, "nn1"));
    let mut config = rustls::ServerConfig::builder_with_provider(Arc::new(default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap();
    config.alpn_protocols = vec![b"h3".to_vec()];
    let config = QuicServerConfig::try_from(config).unwrap();
    let foreign = quinn::Endpoint::new(
        quinn::EndpointConfig::default(),
        Some(quinn::ServerConfig::with_crypto(Arc::new(config))),
        socket(),
        Arc::new(quinn::TokioRuntime),
    )
    .unwrap();
    let addr = foreign.local_addr().unwrap();
    let serving = tokio::spawn(async move {
        let incoming = foreign.accept().await.unwrap();
        match incoming.accept() {
            Ok(connecting) => connecting.await.err(),
            Err(error) => Some(error),
        }
    });
    let alice = cluster.identity(Role::Client, "alice");
    let error = dial(&alice, addr, &Expect::role(Role::Namenode)).await;
    assert_untrusted(&error, &["does not speak `hadal/1`"]);
    assert!(serving.await.unwrap().is_some());
}

#[tokio::test]
async fn both_sides_know_each_other() {
    let cluster = Cluster::new();
    let listening = listen(&cluster);
    let dialling = endpoint(&cluster.identity(Role::Datanode, "dn3"), false);
    let expect = Expect::node(Role::Namenode, "nn1");
    let conn = dialling
        .connect(listening.local_addr(), &expect)
        .await
        .unwrap();
    let accepted = listening.accept().await.unwrap();
    assert_eq!(conn.peer().to_string(), "namenode/nn1");
    assert_eq!(accepted.peer().to_string(), "datanode/dn3");
    assert_eq!(conn.remote_addr(), listening.local_addr());
    assert_eq!(accepted.remote_addr(), dialling.local_addr());
}

/// T-A3: a client that asks for 0-RTT with a session of its own is never given any.
#[tokio::test]
async fn t_a3_no_early_data_is_accepted() {
    let cluster = Cluster::new();
    let listening = listen(&cluster);
    let issued = cluster.issue(Role::Client, "alice");
    let mut config = raw_client(&cluster, Some(&issued), b"hadal/1");
    config.enable_early_data = true;
    let config = QuicClientConfig::try_from(config).unwrap();
    let config = quinn::ClientConfig::new(Arc::new(config));
    let endpoint = quinn::Endpoint::client("127.0.0.1:0".parse().unwrap()).unwrap();
    for _ in 0..3 {
        let connecting = endpoint
            .connect_with(config.clone(), listening.local_addr(), "namenode.hadal")
            .unwrap();
        let Err(connecting) = connecting.into_0rtt() else {
            panic!("the client was given a session that allows 0-RTT")
        };
        let conn = connecting.await.unwrap();
        conn.accept_uni().await.unwrap();
        assert!(listening.accept().await.is_some());
    }
}

/// A renewed certificate is used for new connections; the old ones stand.
#[tokio::test]
async fn an_identity_can_be_replaced() {
    let cluster = Cluster::new();
    let listening = endpoint(&cluster.identity(Role::Namenode, "nn1"), true);
    let dialling = endpoint(&cluster.identity(Role::Client, "alice"), false);
    let addr = listening.local_addr();
    let first = dialling
        .connect(addr, &Expect::node(Role::Namenode, "nn1"))
        .await
        .unwrap();
    listening
        .set_identity(&cluster.identity(Role::Namenode, "nn9"))
        .unwrap();
    let second = dialling
        .connect(addr, &Expect::node(Role::Namenode, "nn9"))
        .await
        .unwrap();
    assert!(!first.is_closed() && !second.is_closed());
}
