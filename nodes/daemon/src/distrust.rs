//! Peers that cannot be reached for a certificate: theirs, or this node's, which is read at its start only.

use hadal_env::{NetError, NetErrorKind};

/// So many tries in a row end for a certificate before it is taken for wrong.
const TRIES: u32 = 4;

/// How the last tries to reach one peer ended, as far as certificates go.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Distrust {
    tries: u32,
    reason: String,
}

impl Distrust {
    /// There is a connection: they trust each other.
    pub fn reached(&mut self) {
        *self = Self::default();
    }

    /// There is none.
    pub fn failed(&mut self, error: &NetError) {
        self.tries = match error.kind {
            NetErrorKind::Untrusted => self.tries.saturating_add(1),
            _ => 0,
        };
        self.reason = error.to_string();
    }

    /// What was said of the certificate last, when it is no chance any more.
    #[must_use]
    pub fn reason(&self) -> Option<String> {
        (self.tries >= TRIES).then(|| self.reason.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_row_of_refused_certificates_counts() {
        let mut distrust = Distrust::default();
        let refused = NetError::new(NetErrorKind::Untrusted, "of a foreign CA");
        let away = NetError::new(NetErrorKind::Unreachable, "nobody there");
        for _ in 1..TRIES {
            distrust.failed(&refused);
            assert_eq!(distrust.reason(), None);
        }
        distrust.failed(&away);
        distrust.failed(&refused);
        assert_eq!(distrust.reason(), None, "it was away in between");
        for _ in 1..TRIES {
            distrust.failed(&refused);
        }
        let reason = distrust.reason().expect("often enough");
        assert!(reason.contains("of a foreign CA"), "{reason}");
        distrust.reached();
        assert_eq!(distrust.reason(), None);
    }
}
