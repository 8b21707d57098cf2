//! How two processes of Hadal talk.
//!
//! Generic over [`hadal_env::Net`], so the same lines run over QUIC and in the simulator:
//! * [`calls`] and [`answers`]: calls, multiplexed and pipelined over one long-lived stream.
//! * [`append`]: ordered streams of checksummed frames one way, acknowledgements the other.
//! * [`read`]: one question, frames back.
//! * [`incoming`]: what a peer opened, after its prelude, version and role were checked.
//!
//! The real network:
//! * [`transport`]: [`hadal_env::Net`] over quinn, mutual TLS 1.3 always, 0-RTT never.
//! * [`identity`]: the certificates of this process; [`pki`]: the cluster CA that issues them.
//!
//! Shared code holds nothing bound to a thread across an await: with a transport whose streams are
//! `Send`, every future here is `Send`.
#![forbid(unsafe_code)]

pub mod answers;
pub mod append;
pub mod calls;
mod certificate;
pub mod code;
mod conn;
pub mod identity;
pub mod incoming;
mod listen;
mod options;
pub mod pki;
pub mod read;
mod reader;
mod restarts;
mod socket;
mod tls;
pub mod transport;

pub use answers::{CallRequests, CallStream, Responder};
pub use append::{
    AckReceiver, AckSender, AppendReceiver, AppendSender, Frame, FrameReceiver, StreamError,
    open_append,
};
pub use calls::{CallClient, CallError};
pub use conn::{QuicConn, QuicRecv, QuicSend};
pub use identity::{Identity, IdentityError};
pub use incoming::{Incoming, accept, refused_streams};
pub use pki::{ClusterCa, IssuedCertificate, PkiError, Validity};
pub use read::{ReadResponder, open_read};
pub use transport::{QuicNet, TransportError, TransportOptions};
