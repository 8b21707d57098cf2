//! Calls over real loopback UDP.

use crate::common::{Echo, Pair, pair};
use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::join_all;
use hadal_env::{Conn, NetError, NetErrorKind, RecvStream, SendStream};
use hadal_proto::codec::Wire;
use hadal_proto::frame::{CALL_FRAME_CAP, Prelude, StreamKind};
use hadal_proto::{Fault, FaultClass, Protocol, ProtocolId};
use hadal_quic::{
    CallClient, CallError, CallRequests, CallStream, Incoming, QuicConn, accept, code,
};

async fn client(pair: &Pair) -> CallClient<Echo> {
    client_with(pair, 1024).await
}

async fn client_with(pair: &Pair, in_flight: usize) -> CallClient<Echo> {
    let (client, driver) = CallClient::open_with(&pair.dialler, in_flight)
        .await
        .unwrap();
    tokio::spawn(driver);
    client
}

async fn stream(pair: &Pair) -> CallStream<QuicConn> {
    match accept(&pair.listener).await.unwrap() {
        Incoming::Call(ProtocolId::Transfer, stream) => stream,
        other => panic!("expected calls, got a stream of {:?}", other.protocol()),
    }
}

async fn requests(pair: &Pair, unanswered: usize) -> CallRequests<Echo, QuicConn> {
    let (requests, driver) = stream(pair).await.split_with(unanswered);
    tokio::spawn(driver);
    requests
}

fn number(n: u64) -> Bytes {
    Bytes::copy_from_slice(&n.to_le_bytes())
}

#[tokio::test]
async fn pipelined_calls_are_answered_out_of_order() {
    let pair = pair().await;
    let client = client(&pair).await;
    let serve = async {
        let mut requests = requests(&pair, 1024).await;
        let mut held = Vec::new();
        while held.len() < 64 {
            held.push(requests.next().await.unwrap());
        }
        // All are in flight at once: none was answered yet. The last asked is answered first.
        for (request, responder) in held.into_iter().rev() {
            responder.answer(Ok(request));
        }
        requests
    };
    let calls = join_all((0..64).map(|n| {
        let client = client.clone();
        async move { client.call(&number(n)).await }
    }));
    let (answers, _requests) = futures_util::join!(calls, serve);
    for (n, answer) in answers.into_iter().enumerate() {
        assert_eq!(answer.unwrap(), number(n as u64));
    }
    assert_eq!(client.in_flight(), 0);
}

#[tokio::test]
async fn a_dropped_responder_answers_retry() {
    let pair = pair().await;
    let client = client(&pair).await;
    let serve = async {
        let mut requests = requests(&pair, 1024).await;
        drop(requests.next().await.unwrap());
        requests
    };
    let request = number(1);
    let (answer, _requests) = futures_util::join!(client.call(&request), serve);
    let error = answer.unwrap_err();
    assert_eq!(error.fault().unwrap().class, FaultClass::Retry);
    assert!(error.is_retriable());
}

#[tokio::test]
async fn a_fault_is_answered_as_given() {
    let pair = pair().await;
    let client = client(&pair).await;
    let fault = Fault::new(FaultClass::Standby, "nn2 is standby").with_hint("nn1");
    let serve = async {
        let mut requests = requests(&pair, 1024).await;
        let (_, responder) = requests.next().await.unwrap();
        responder.answer(Err(fault.clone()));
        requests
    };
    let request = number(1);
    let (answer, _requests) = futures_util::join!(client.call(&request), serve);
    assert_eq!(answer, Err(CallError::Fault(fault.clone())));
}

#[tokio::test]
async fn large_calls_pass_and_larger_ones_are_refused_here() {
    let pair = pair().await;
    let client = client(&pair).await;
    let serve = async {
        let mut requests = requests(&pair, 1024).await;
        while let Some((request, responder)) = requests.next().await {
            responder.answer(Ok(request));
        }
    };
    let ask = async {
        let large = Bytes::from(vec![7; CALL_FRAME_CAP - 64]);
        assert_eq!(client.call(&large).await.unwrap(), large);
        let larger = Bytes::from(vec![7; CALL_FRAME_CAP]);
        let error = client.call(&larger).await.unwrap_err();
        assert_eq!(error.fault().unwrap().class, FaultClass::BadRequest);
        assert_eq!(client.call(&number(3)).await.unwrap(), number(3));
        drop(client);
    };
    futures_util::join!(ask, serve);
}

#[tokio::test]
async fn an_oversized_answer_becomes_a_fault() {
    let pair = pair().await;
    let client = client(&pair).await;
    let serve = async {
        let mut requests = requests(&pair, 1024).await;
        let (_, responder) = requests.next().await.unwrap();
        responder.answer(Ok(Bytes::from(vec![0; CALL_FRAME_CAP])));
        requests
    };
    let request = number(1);
    let (answer, _requests) = futures_util::join!(client.call(&request), serve);
    assert_eq!(
        answer.unwrap_err().fault().unwrap().class,
        FaultClass::Internal
    );
}

/// The stream is closed with the code of `BadRequest`, in both directions; the connection goes on.
#[tokio::test]
async fn malformed_call_frames_close_the_stream() {
    let pair = pair().await;
    for length in [CALL_FRAME_CAP as u32 + 1, u32::MAX, 7, 0] {
        let (mut send, mut recv) = pair.dialler.open().await.unwrap();
        let mut bytes = Vec::new();
        Prelude {
            kind: StreamKind::Call,
            protocol: Echo::ID,
            version: Echo::VERSION,
        }
        .encode(&mut bytes);
        length.encode(&mut bytes);
        bytes.extend_from_slice(&[0; 64]);
        send.write_chunk(Bytes::from(bytes)).await.unwrap();
        let mut requests = requests(&pair, 1024).await;
        assert!(requests.next().await.is_none());
        let error = recv.read_chunk(1).await.unwrap_err();
        assert_eq!(
            error.kind,
            NetErrorKind::Reset(code::of(FaultClass::BadRequest))
        );
        let stopped = async {
            loop {
                if let Err(error) = send.write_chunk(Bytes::from_static(&[0; 1024])).await {
                    return error;
                }
            }
        };
        assert_eq!(
            stopped.await.kind,
            NetErrorKind::Reset(code::of(FaultClass::BadRequest))
        );
    }
    assert!(!pair.dialler.is_closed());
}

#[tokio::test]
async fn a_body_that_does_not_decode_is_answered_and_the_stream_goes_on() {
    struct Numbers;
    impl Protocol for Numbers {
        const ID: ProtocolId = Echo::ID;
        const VERSION: u16 = Echo::VERSION;
        type Request = u64;
        type Response = Bytes;
    }
    let pair = pair().await;
    let client = client(&pair).await;
    let serve = async {
        let (mut requests, driver) = stream(&pair).await.split::<Numbers>();
        tokio::spawn(driver);
        let (request, responder) = requests.next().await.unwrap();
        responder.answer(Ok(number(request)));
        requests
    };
    let ask = async {
        let error = client
            .call(&Bytes::from_static(b"no number"))
            .await
            .unwrap_err();
        assert_eq!(error.fault().unwrap().class, FaultClass::BadRequest);
        // Four bytes of length and four of text are a number to the other side.
        client.call(&Bytes::from_static(b"good")).await.unwrap()
    };
    let (answer, _requests) = futures_util::join!(ask, serve);
    assert_eq!(answer.len(), 8);
}

#[tokio::test]
async fn calls_wait_for_the_bound_in_flight() {
    let pair = pair().await;
    let client = client_with(&pair, 4).await;
    let calls: Vec<_> = (0..10)
        .map(|n| {
            let client = client.clone();
            tokio::spawn(async move { client.call(&number(n)).await })
        })
        .collect();
    let mut requests = requests(&pair, 1024).await;
    let mut held = Vec::new();
    for _ in 0..4 {
        held.push(requests.next().await.unwrap());
    }
    assert_eq!(client.in_flight(), 4);
    for next in 4..10 {
        assert!(requests.next().now_or_never().is_none());
        let (request, responder) = held.remove(0);
        responder.answer(Ok(request));
        held.push(requests.next().await.unwrap());
        // First come, first served.
        assert_eq!(held.last().unwrap().0, number(next));
        assert_eq!(client.in_flight(), 4);
    }
    for (request, responder) in held {
        responder.answer(Ok(request));
    }
    for (n, call) in calls.into_iter().enumerate() {
        assert_eq!(call.await.unwrap().unwrap(), number(n as u64));
    }
}

#[tokio::test]
async fn requests_wait_for_the_bound_of_unanswered_ones() {
    let pair = pair().await;
    let client = client(&pair).await;
    let calls: Vec<_> = (0..5)
        .map(|n| {
            let client = client.clone();
            tokio::spawn(async move { client.call(&number(n)).await })
        })
        .collect();
    let mut requests = requests(&pair, 2).await;
    let mut held = vec![
        requests.next().await.unwrap(),
        requests.next().await.unwrap(),
    ];
    for _ in 2..5 {
        assert!(requests.next().now_or_never().is_none());
        let (request, responder) = held.remove(0);
        responder.answer(Ok(request));
        held.push(requests.next().await.unwrap());
    }
    for (request, responder) in held {
        responder.answer(Ok(request));
    }
    for (n, call) in calls.into_iter().enumerate() {
        assert_eq!(call.await.unwrap().unwrap(), number(n as u64));
    }
}

#[tokio::test]
async fn a_dropped_call_keeps_its_place_until_it_is_answered() {
    let pair = pair().await;
    let client = client_with(&pair, 1).await;
    let mut requests = {
        let request = number(1);
        let call = client.call(&request);
        let serving = requests(&pair, 1024);
        // Started, and dropped before its answer.
        futures_util::pin_mut!(call);
        assert!(call.as_mut().now_or_never().is_none());
        serving.await
    };
    let (_, responder) = requests.next().await.unwrap();
    let second = number(2);
    let next = client.call(&second);
    futures_util::pin_mut!(next);
    assert!(next.as_mut().now_or_never().is_none());
    assert_eq!(client.in_flight(), 1);
    responder.answer(Ok(number(77)));
    let serve = async {
        let (request, responder) = requests.next().await.unwrap();
        responder.answer(Ok(request));
        requests
    };
    let (answer, _requests) = futures_util::join!(next, serve);
    assert_eq!(answer.unwrap(), number(2));
}

#[tokio::test]
async fn pending_calls_fail_when_the_connection_ends() {
    let pair = pair().await;
    let client = client(&pair).await;
    let serve = async {
        let mut requests = requests(&pair, 1024).await;
        let held = requests.next().await.unwrap();
        pair.listener.close(9, "going away");
        assert!(requests.next().await.is_none());
        held
    };
    let request = number(1);
    let (answer, _held) = futures_util::join!(client.call(&request), serve);
    let Err(CallError::Net(error)) = answer else {
        panic!("the call must fail with the connection")
    };
    assert_eq!(error.kind, NetErrorKind::Closed);
    assert!(error.detail.contains("going away"), "{error}");
    assert!(client.is_closed());
    assert!(matches!(
        client.call(&request).await,
        Err(CallError::Net(_))
    ));
}

#[tokio::test]
async fn a_dropped_driver_ends_the_calls() {
    let pair = pair().await;
    for polled in [false, true] {
        let (client, driver) = CallClient::<Echo>::open(&pair.dialler).await.unwrap();
        let request = number(1);
        let call = client.call(&request);
        futures_util::pin_mut!(call);
        assert!(call.as_mut().now_or_never().is_none());
        if polled {
            assert!(driver.now_or_never().is_none());
        } else {
            drop(driver);
        }
        assert!(matches!(call.await, Err(CallError::Net(_))));
        assert!(client.is_closed());
    }
}

#[tokio::test]
async fn the_stream_ends_in_order_when_the_last_client_is_dropped() {
    let pair = pair().await;
    let (client, driver) = CallClient::<Echo>::open(&pair.dialler).await.unwrap();
    let driver = tokio::spawn(driver);
    let serving = async {
        let (mut requests, writer) = stream(&pair).await.split::<Echo>();
        let writer = tokio::spawn(writer);
        while let Some((request, responder)) = requests.next().await {
            responder.answer(Ok(request));
        }
        writer.await.unwrap();
    };
    let asking = async {
        client.call(&number(1)).await.unwrap();
        drop(client);
        driver.await.unwrap()
    };
    let (ended, ()) = futures_util::join!(asking, serving);
    assert_eq!(ended.kind, NetErrorKind::Closed);
}

/// A parked reply outlives the reader of requests and is delivered all the same.
#[tokio::test]
async fn parked_answers_are_delivered_after_the_requests_were_dropped() {
    let pair = pair().await;
    let client = client(&pair).await;
    let serve = async {
        let (mut requests, driver) = stream(&pair).await.split::<Echo>();
        let driver = tokio::spawn(driver);
        let (request, responder) = requests.next().await.unwrap();
        drop(requests);
        tokio::task::yield_now().await;
        responder.answer(Ok(request));
        driver.await.unwrap();
    };
    let request = number(5);
    let (answer, ()) = futures_util::join!(client.call(&request), serve);
    assert_eq!(answer.unwrap(), request);
}

/// An answer to a call that is not in flight is a broken peer: the stream ends.
#[tokio::test]
async fn an_answer_to_no_call_ends_the_stream() {
    let pair = pair().await;
    let client = client(&pair).await;
    let serve = async {
        let (mut send, _recv) = pair.listener.accept().await.unwrap();
        let frame = hadal_proto::frame::call_frame(99 << 32, &number(1));
        send.write_chunk(frame).await.unwrap();
        send
    };
    let request = number(1);
    let (answer, _send) = futures_util::join!(client.call(&request), serve);
    assert!(matches!(answer, Err(CallError::Net(_))));
}

#[tokio::test]
async fn futures_are_send() {
    fn is_send<T: Send>(value: T) -> T {
        value
    }
    let pair = pair().await;
    let opened: Result<_, NetError> = is_send(CallClient::<Echo>::open(&pair.dialler)).await;
    let (client, driver) = opened.unwrap();
    drop(is_send(driver));
    let request = number(1);
    drop(is_send(client.call(&request)));
    drop(is_send(accept(&pair.listener)));
}
