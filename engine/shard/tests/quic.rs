//! quinn and the ring on one thread.

mod common;

use common::{dir, on_shard};
use hadal_env::{Disk, File, OpenOptions};
use hadal_shard::udp;
use quinn::{
    ClientConfig, Endpoint, EndpointConfig, MtuDiscoveryConfig, ServerConfig, TransportConfig,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

/// Largest datagram of these tests: ten of them, the most quinn sends at once, fit into one segmented send.
const MTU: u16 = 6000;

fn transport() -> Arc<TransportConfig> {
    let mut transport = TransportConfig::default();
    transport
        .initial_mtu(MTU)
        .min_mtu(MTU)
        .mtu_discovery_config(None::<MtuDiscoveryConfig>);
    Arc::new(transport)
}

fn endpoint(server: Option<ServerConfig>) -> Endpoint {
    let bound = udp::bind(
        SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
        udp::BUFFER_BYTES,
    )
    .unwrap();
    assert!(bound.has_buffers_of(1 << 16));
    let mut config = EndpointConfig::default();
    config.max_udp_payload_size(MTU).unwrap();
    Endpoint::new(config, server, bound.socket, udp::runtime()).unwrap()
}

#[test]
fn bytes_that_came_over_quic_are_written_through_the_ring_of_the_same_thread() {
    let dir = dir();
    let key = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let certificate: CertificateDer<'static> = key.cert.into();
    let secret = PrivateKeyDer::try_from(key.signing_key.serialize_der()).unwrap();
    on_shard(async |shard| {
        let mut server = ServerConfig::with_single_cert(vec![certificate.clone()], secret).unwrap();
        server.transport_config(transport());
        let server = endpoint(Some(server));
        let mut roots = rustls::RootCertStore::empty();
        roots.add(certificate).unwrap();
        let mut trusting = ClientConfig::with_root_certificates(Arc::new(roots)).unwrap();
        trusting.transport_config(transport());

        let client = endpoint(None);
        let address = server.local_addr().unwrap();
        let sender = tokio::task::spawn_local(async move {
            let connection = client
                .connect_with(trusting, address, "localhost")
                .unwrap()
                .await
                .unwrap();
            let mut stream = connection.open_uni().await.unwrap();
            for number in 0..64u8 {
                stream
                    .write_chunk(vec![number; 1 << 16].into())
                    .await
                    .unwrap();
            }
            stream.finish().unwrap();
            stream.stopped().await.unwrap();
            connection.stats().path
        });

        let connection = server.accept().await.unwrap().await.unwrap();
        let mut stream = connection.accept_uni().await.unwrap();
        let disk = shard.disk();
        let file = disk
            .open(&dir.path().join("data"), OpenOptions::create().direct())
            .await
            .unwrap();
        for number in 0..64u8 {
            let mut buf = disk.buf(1 << 16).await;
            stream.read_exact(buf.as_mut()).await.unwrap();
            assert!(buf.as_ref().iter().all(|byte| *byte == number));
            file.write_at(buf, 0..1 << 16, u64::from(number) << 16)
                .await
                .0
                .unwrap();
        }
        assert_eq!(
            stream
                .read_chunk(1, true)
                .await
                .unwrap()
                .map(|chunk| chunk.bytes),
            None
        );
        let path = sender.await.unwrap();
        // Refused sends would have been taken for lost large datagrams, and the MTU cut to 1200.
        assert_eq!((path.current_mtu, path.black_holes_detected), (MTU, 0));
        assert_eq!(file.length().await.unwrap(), 64 << 16);
    });
}
