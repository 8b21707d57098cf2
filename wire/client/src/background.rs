//! The one future that must run beside a client: it drives the call streams and renews leases.

use crate::dfs::Shared;
use crate::error::Attempt;
use futures_channel::{mpsc, oneshot};
use futures_util::future::{Either, select};
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt, StreamExt, select_biased};
use hadal_env::{Net, Seam};
use hadal_proto::admin::AdminProtocol;
use hadal_proto::client::{ClientProtocol, Request};
use hadal_proto::transfer::TransferProtocol;
use hadal_quic::CallClient;
use std::pin::pin;
use std::sync::{Arc, Weak};

/// Requests for call streams that may wait; beyond it callers wait.
pub(crate) const OPEN_QUEUE: usize = 256;

/// A wish for a call stream on a connection.
pub(crate) enum Open<C> {
    Client(
        C,
        oneshot::Sender<Result<CallClient<ClientProtocol>, Attempt>>,
    ),
    Transfer(
        C,
        oneshot::Sender<Result<CallClient<TransferProtocol>, Attempt>>,
    ),
    Admin(
        C,
        oneshot::Sender<Result<CallClient<AdminProtocol>, Attempt>>,
    ),
}

/// What runs beside a client; poll [`Background::run`] for as long as the client is used.
pub struct Background<S: Seam> {
    pub(crate) seam: S,
    pub(crate) shared: Weak<Shared<S>>,
    pub(crate) opens: mpsc::Receiver<Open<<S::Net as Net>::Conn>>,
}

impl<S: Seam> Background<S> {
    /// Runs until every handle of the client is gone.
    pub async fn run(self) {
        let renewal = renew_leases(self.seam.clone(), self.shared);
        let streams = drive_streams::<S>(self.opens);
        match select(pin!(streams), pin!(renewal)).await {
            Either::Left(_) | Either::Right(_) => {}
        }
    }
}

async fn drive_streams<S: Seam>(mut opens: mpsc::Receiver<Open<<S::Net as Net>::Conn>>) {
    let mut clients = FuturesUnordered::new();
    let mut transfers = FuturesUnordered::new();
    let mut admins = FuturesUnordered::new();
    loop {
        select_biased! {
            open = opens.next() => match open {
                None => return,
                Some(Open::Client(conn, reply)) => match CallClient::open(&conn).await {
                    Ok((client, driver)) => {
                        clients.push(driver);
                        drop(reply.send(Ok(client)));
                    }
                    Err(error) => drop(reply.send(Err(error.into()))),
                },
                Some(Open::Transfer(conn, reply)) => match CallClient::open(&conn).await {
                    Ok((client, driver)) => {
                        transfers.push(driver);
                        drop(reply.send(Ok(client)));
                    }
                    Err(error) => drop(reply.send(Err(error.into()))),
                },
                Some(Open::Admin(conn, reply)) => match CallClient::open(&conn).await {
                    Ok((client, driver)) => {
                        admins.push(driver);
                        drop(reply.send(Ok(client)));
                    }
                    Err(error) => drop(reply.send(Err(error.into()))),
                },
            },
            _ = clients.select_next_some() => {}
            _ = transfers.select_next_some() => {}
            _ = admins.select_next_some() => {}
        }
    }
}

/// One call renews the lease of all open files (E-02), at half the soft limit and never less than once a minute.
async fn renew_leases<S: Seam>(seam: S, shared: Weak<Shared<S>>) {
    loop {
        let Some(period_ms) = Weak::upgrade(&shared).map(|shared| shared.renewal_period_ms())
        else {
            return;
        };
        seam.sleep_until(seam.now().after_ms(period_ms))
            .fuse()
            .await;
        let Some(shared) = Weak::upgrade(&shared) else {
            return;
        };
        if shared.open_files() > 0
            && let Err(error) = Arc::clone(&shared)
                .namenodes
                .call(Request::RenewLease)
                .await
        {
            tracing::warn!("lease renewal failed: {error}");
        }
    }
}
