//! Connections that outlive the process at their other end.
//!
//! A killed process says no good-bye. When its successor, on the same port, gets a packet of a connection it does not
//! know, it answers with a stateless reset (RFC 9000, 10.3), and the peer learns at once what it would else learn from a
//! time-out. The peer believes a token that the predecessor gave it beforehand, so both derive their tokens, and the
//! connection ids they are for, from the same secrets: the private key of the node's certificate and its UDP address.

use aws_lc_rs::hmac;
use quinn::crypto::{CryptoError, HmacKey};
use quinn::{ConnectionIdGenerator, EndpointConfig};
use quinn_proto::HashedConnectionIdGenerator;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

/// Between two resets an endpoint sends. A restarted NameNode has thousands of peers to tell; each costs it one small
/// datagram, smaller than the one it answers.
const RESET_INTERVAL: Duration = Duration::from_millis(1);

/// What the processes of one node have in common.
#[derive(Clone)]
pub(crate) struct Restarts(hmac::Key);

struct Tokens(hmac::Key);

impl Restarts {
    /// From the private key; nobody else can tell the tokens.
    pub(crate) fn new(private_key: &[u8]) -> Self {
        Self(hmac::Key::new(hmac::HMAC_SHA256, private_key))
    }

    fn derived(&self, purpose: &str, local: SocketAddr) -> hmac::Tag {
        hmac::sign(&self.0, format!("hadal {purpose} at {local}").as_bytes())
    }

    /// A configuration for an endpoint of this node that is bound to `local`. The address is part of the secret: the
    /// clients of one user share a certificate, and whoever sees a connection id of one process must not get the token
    /// for it out of another (RFC 9000, 21.11).
    pub(crate) fn endpoint_config(&self, local: SocketAddr) -> EndpointConfig {
        let tokens = self.derived("stateless reset", local);
        let ids = self.derived("connection ids", local);
        let (first, _) = ids.as_ref().split_first_chunk().expect("32 bytes");
        let key = u64::from_le_bytes(*first);
        let tokens = hmac::Key::new(hmac::HMAC_SHA256, tokens.as_ref());
        let mut config = EndpointConfig::new(Arc::new(Tokens(tokens)));
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_of_one_certificate_one_address_and_one_use() {
        let of = |key: &[u8], purpose: &str, local: &str| {
            let tag = Restarts::new(key).derived(purpose, local.parse().expect("an address"));
            tag.as_ref().to_vec()
        };
        let one = of(b"one", "tokens", "10.0.0.1:8020");
        assert_eq!(one, of(b"one", "tokens", "10.0.0.1:8020"));
        assert_ne!(one, of(b"other", "tokens", "10.0.0.1:8020"));
        assert_ne!(one, of(b"one", "ids", "10.0.0.1:8020"));
        assert_ne!(one, of(b"one", "tokens", "10.0.0.1:8021"));
    }
}
