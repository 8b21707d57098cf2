//! Who may open what.

use crate::common::{pair_with, patient};
use bytes::Bytes;
use hadal_env::{Conn, NetErrorKind, RecvStream, SendStream};
use hadal_proto::codec::Wire;
use hadal_proto::frame::{Prelude, StreamKind};
use hadal_proto::{FaultClass, Protocol, ProtocolId};
use hadal_quic::{CallClient, CallError, accept, code, refused_streams};
use hadal_types::Role;

macro_rules! protocols {
    ($($name:ident = $id:ident),*) => {$(
        struct $name;
        impl Protocol for $name {
            const ID: ProtocolId = ProtocolId::$id;
            const VERSION: u16 = 1;
            type Request = u64;
            type Response = u64;
        }
    )*};
}
protocols!(ToNamenode = Client, ToJournal = Qjournal);

/// T-A2: of every role and protocol, exactly the pairs of the role table pass.
#[tokio::test]
async fn t_a2_the_role_table_decides_over_streams() {
    for role in Role::ALL {
        let pair = pair_with(role, &patient()).await;
        for protocol in ProtocolId::ALL {
            let (mut send, mut recv) = pair.dialler.open().await.unwrap();
            let mut prelude = Vec::new();
            Prelude {
                kind: StreamKind::Call,
                protocol,
                version: 1,
            }
            .encode(&mut prelude);
            send.write_chunk(Bytes::from(prelude)).await.unwrap();
            if protocol.allows(role) {
                let incoming = accept(&pair.listener).await.unwrap();
                assert_eq!(incoming.protocol(), protocol);
            } else {
                let before = refused_streams();
                let refused = tokio::select! {
                    _ = accept(&pair.listener) => panic!("{role} must not open {protocol:?}"),
                    read = recv.read_chunk(1) => read.unwrap_err(),
                };
                assert_eq!(
                    refused.kind,
                    NetErrorKind::Reset(code::of(FaultClass::Forbidden))
                );
                assert!(refused_streams() > before);
            }
        }
    }
}

#[tokio::test]
async fn a_refused_caller_learns_why() {
    let pair = pair_with(Role::Client, &patient()).await;
    let (client, driver) = CallClient::<ToJournal>::open(&pair.dialler).await.unwrap();
    let calling = async {
        tokio::select! {
            answer = client.call(&1) => answer.unwrap_err(),
            _ = async { driver.await; std::future::pending::<()>().await } => unreachable!(),
        }
    };
    let error = tokio::select! {
        error = calling => error,
        _ = accept(&pair.listener) => panic!("it must be refused"),
    };
    assert_eq!(error.fault().unwrap().class, FaultClass::Forbidden);
    assert!(!error.is_retriable());
    // The connection goes on.
    let (client, driver) = CallClient::<ToNamenode>::open(&pair.dialler).await.unwrap();
    tokio::spawn(driver);
    let serve = async {
        let hadal_quic::Incoming::Call(_, stream) = accept(&pair.listener).await.unwrap() else {
            panic!("expected calls")
        };
        let (mut requests, driver) = stream.split::<ToNamenode>();
        tokio::spawn(driver);
        let (request, responder) = requests.next().await.unwrap();
        responder.answer(Ok(request + 1));
        requests
    };
    let (answer, _requests) = futures_util::join!(client.call(&1), serve);
    assert_eq!(answer, Ok(2));
}

#[tokio::test]
async fn another_version_is_refused_by_name() {
    struct Newer;
    impl Protocol for Newer {
        const ID: ProtocolId = ProtocolId::Client;
        const VERSION: u16 = 99;
        type Request = u64;
        type Response = u64;
    }
    let pair = pair_with(Role::Client, &patient()).await;
    let (client, driver) = CallClient::<Newer>::open(&pair.dialler).await.unwrap();
    tokio::spawn(driver);
    let error = tokio::select! {
        answer = client.call(&1) => answer.unwrap_err(),
        _ = accept(&pair.listener) => panic!("it must be refused"),
    };
    assert!(
        matches!(&error, CallError::Fault(fault) if fault.class == FaultClass::IncorrectVersion)
    );
}

#[tokio::test]
async fn noise_on_a_stream_ends_only_the_stream() {
    let pair = pair_with(Role::Client, &patient()).await;
    for noise in [
        &b"GET / HTTP/1.1\r\n"[..],
        b"HADL\x09\x01\x01\x00",
        b"HADL\x01\x63\x01\x00",
        b"HAD",
    ] {
        let (mut send, mut recv) = pair.dialler.open().await.unwrap();
        send.write_chunk(Bytes::from_static(noise)).await.unwrap();
        send.finish();
        let error = tokio::select! {
            read = recv.read_chunk(1) => read.unwrap_err(),
            _ = accept(&pair.listener) => panic!("it must be refused"),
        };
        assert_eq!(
            error.kind,
            NetErrorKind::Reset(code::of(FaultClass::BadRequest))
        );
    }
    assert!(!pair.dialler.is_closed());
}
