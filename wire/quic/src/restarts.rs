//! Connections that outlive the process at their other end.
//!
//! A killed process says no good-bye. When its successor, on the same port, gets a packet of a connection it does not
//! know, it answers with a stateless reset (RFC 9000, 10.3), and the peer learns at once what it would else learn from a
//! time-out. The peer believes a token that the predecessor gave it beforehand, so both derive their tokens, and the
//! connection ids they are for, from the same secret: the private key of the node's certificate.

use aws_lc_rs::hmac;
use quinn::crypto::{CryptoError, HmacKey};
use quinn::{ConnectionIdGenerator, EndpointConfig};
use quinn_proto::HashedConnectionIdGenerator;
use std::sync::Arc;
use std::time::Duration;

/// Between two resets an endpoint sends. A restarted NameNode has thousands of peers to tell; each costs it one small
/// datagram, smaller than the one it answers.
const RESET_INTERVAL: Duration = Duration::from_millis(1);

/// What the processes of one node have in common.
#[derive(Clone)]
pub(crate) struct Restarts {
    tokens: hmac::Key,
    connection_ids: u64,
}

struct Tokens(hmac::Key);

impl Restarts {
    /// From the private key; nobody else can tell the tokens.
    pub(crate) fn new(private_key: &[u8]) -> Self {
        let secret = hmac::Key::new(hmac::HMAC_SHA256, private_key);
        let derived = |purpose: &[u8]| hmac::sign(&secret, purpose);
        let ids = derived(b"hadal connection ids");
        let (first, _) = ids.as_ref().split_first_chunk().expect("32 bytes");
        Self {
            tokens: hmac::Key::new(
                hmac::HMAC_SHA256,
                derived(b"hadal stateless reset").as_ref(),
            ),
            connection_ids: u64::from_le_bytes(*first),
        }
    }

    /// A configuration for an endpoint of this node.
    pub(crate) fn endpoint_config(&self) -> EndpointConfig {
        let mut config = EndpointConfig::new(Arc::new(Tokens(self.tokens.clone())));
        let key = self.connection_ids;
        config
            .cid_generator(move || -> Box<dyn ConnectionIdGenerator> {
                Box::new(HashedConnectionIdGenerator::from_key(key))
            })
            .min_reset_interval(RESET_INTERVAL);
        config
    }
}

impl HmacKey for Tokens {
    fn sign(&self, data: &[u8], out: &mut [u8]) {
        out.copy_from_slice(hmac::sign(&self.0, data).as_ref());
    }

    fn signature_len(&self) -> usize {
        32
    }

    fn verify(&self, data: &[u8], signature: &[u8]) -> Result<(), CryptoError> {
        hmac::verify(&self.0, data, signature).map_err(|_| CryptoError)
    }
}
