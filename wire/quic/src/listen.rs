//! The listener: hand-shakes of many peers side by side.

use crate::code;
use crate::conn::{QuicConn, classify, var_int};
use crate::options::TransportOptions;
use crate::transport::{GREETING, Shared, is_loopback, verified};
use hadal_env::NetErrorKind;
use quinn::Endpoint;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Poll;

/// Counts one unfinished hand-shake.
struct HalfOpen(Arc<Shared>);

impl HalfOpen {
    fn new(shared: &Arc<Shared>) -> Self {
        shared.half_open.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(shared))
    }
}

impl Drop for HalfOpen {
    fn drop(&mut self) {
        self.0.half_open.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The listener: admits hand-shakes, each in a task of its own, until the endpoint closes or its last
/// holder is gone.
pub(crate) async fn accept_all(
    endpoint: Endpoint,
    shared: Arc<Shared>,
    options: TransportOptions,
    accepting: async_channel::Sender<QuicConn>,
) {
    loop {
        let incoming = {
            let mut next = pin!(endpoint.accept());
            let mut gone = pin!(accepting.closed());
            poll_fn(|cx| {
                if gone.as_mut().poll(cx).is_ready() {
                    return Poll::Ready(None);
                }
                next.as_mut().poll(cx)
            })
            .await
        };
        let Some(incoming) = incoming else { return };
        let half_open = shared.half_open.load(Ordering::Relaxed);
        if half_open >= options.refuse_above {
            incoming.refuse();
            continue;
        }
        if half_open >= options.retry_above && !incoming.remote_address_validated() {
            // A peer that lies about its address never comes back with the token.
            incoming.retry().ok();
            continue;
        }
        let counted = HalfOpen::new(&shared);
        let accepting = accepting.clone();
        shared.runtime.spawn(Box::pin(async move {
            if let Some(conn) = receive(incoming, &counted.0).await {
                // Fails only when nobody will ever accept again; the connection then closes.
                accepting.send(conn).await.ok();
            }
        }));
    }
}

async fn receive(incoming: quinn::Incoming, shared: &Shared) -> Option<QuicConn> {
    let addr = incoming.remote_address();
    let configs = shared.configs();
    let config = if is_loopback(addr) {
        &configs.server_loopback
    } else {
        &configs.server
    };
    let handshake = async {
        let connecting = incoming.accept_with(Arc::clone(config))?;
        let quinn = connecting.await?;
        let principal = match verified(&quinn) {
            Ok(principal) => principal,
            Err(reason) => {
                tracing::warn!(%addr, %reason, "peer refused");
                quinn.close(var_int(code::REFUSED), reason.as_bytes());
                return Ok(None);
            }
        };
        greet(&quinn).await?;
        Ok(Some(QuicConn::new(quinn, principal)))
    };
    match shared.in_time(handshake).await {
        Some(Ok(conn)) => conn,
        Some(Err(error)) => {
            let (_, reason) = classify(&error, NetErrorKind::Unreachable);
            tracing::warn!(%addr, %reason, "hand-shake failed");
            None
        }
        None => {
            tracing::warn!(%addr, "hand-shake not done in time");
            None
        }
    }
}

async fn greet(quinn: &quinn::Connection) -> Result<(), quinn::ConnectionError> {
    let mut greeting = quinn.open_uni().await?;
    // A failing write means an ended connection, which whoever uses it next learns.
    greeting.write_all(&[GREETING]).await.ok();
    greeting.finish().ok();
    Ok(())
}
