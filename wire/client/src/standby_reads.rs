//! Reads that a standby or observer answers. Whatever keeps one from answering sends the read to the next, in the end to
//! the active NameNode.

use crate::error::{Attempt, ClientError};
use crate::namenode::Namenodes;
use crate::timeout::until;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use hadal_datastream::Observers;
use hadal_env::Seam;
use hadal_proto::client::{Request, Response};
use std::sync::atomic::AtomicU64;

impl<S: Seam> Namenodes<S> {
    /// Learns the txid of the active's last committed edit.
    pub(crate) async fn msync(&self) -> Result<(), ClientError> {
        let began = self.seam.now();
        // The reply's txid is taken over like any other's.
        self.call_active(Request::Msync).await?;
        self.with_observers(|observers| observers.handle_synced(began));
        Ok(())
    }

    /// The answer of a NameNode that is not the active; `None` when none can give one.
    pub(crate) async fn read_elsewhere(
        &self,
        request: &Request,
    ) -> Option<Result<Response, ClientError>> {
        let now = self.seam.now();
        if self.with_observers(|observers| observers.wants_msync(now))
            && let Err(error) = self.msync().await
        {
            return Some(Err(error));
        }
        self.ask_for_states().await;
        let now = self.seam.now();
        for namenode in self.with_observers(|observers| observers.candidates(now)) {
            let mut call = self.numbered(request.clone());
            call.from_standby = true;
            let (began, connected) = (self.seam.now(), AtomicU64::new(0));
            let attempt = self.attempt(namenode, &call, began, &connected);
            // It waits for edits itself for about as long as a connection may be silent.
            let deadline = began.after_ms(2 * self.options.failover.silence_ms);
            match until(&self.seam, deadline, attempt).await {
                Some(Ok(reply)) => {
                    self.saw(reply.txid);
                    self.with_observers(|observers| observers.handle_answered(namenode));
                    return Some(Ok(reply.response));
                }
                Some(Err(Attempt::Fault(fault))) if !fault.is_retriable() => {
                    self.with_observers(|observers| observers.handle_answered(namenode));
                    return Some(Err(ClientError::Fault(fault)));
                }
                Some(Err(Attempt::Fault(_))) => {
                    self.with_observers(|observers| observers.handle_refused(namenode));
                }
                Some(Err(Attempt::Net(_))) | None => {
                    let now = self.seam.now();
                    self.with_observers(|observers| observers.handle_failed(now, namenode));
                }
            }
        }
        None
    }

    /// Asks the NameNodes whose role is not known for it; those that take long are left out.
    async fn ask_for_states(&self) {
        let now = self.seam.now();
        let unknown = self.with_observers(|observers| observers.take_unknown(now));
        let mut answers: FuturesUnordered<_> = unknown
            .into_iter()
            .map(|namenode| async move {
                let call = self.numbered(Request::GetServiceState);
                let reply = self.attempt(namenode, &call, now, &AtomicU64::new(0)).await;
                (namenode, reply.map(|reply| reply.response))
            })
            .collect();
        if answers.is_empty() {
            return;
        }
        let deadline = now.after_ms(self.options.failover.head_start_ms);
        let all = async {
            while let Some((namenode, answer)) = answers.next().await {
                let now = self.seam.now();
                self.with_observers(|observers| match answer {
                    Ok(Response::ServiceState { state, .. }) => {
                        observers.handle_state(now, namenode, state);
                    }
                    _ => observers.handle_failed(now, namenode),
                });
            }
        };
        // Whoever is not in time is asked again at the next read but the first after STATE_MS.
        let _ = until(&self.seam, deadline, all).await;
    }

    fn with_observers<R>(&self, f: impl FnOnce(&mut Observers) -> R) -> R {
        let mut observers = self.observers.lock().expect("no holder of it panics");
        f(&mut observers)
    }
}
