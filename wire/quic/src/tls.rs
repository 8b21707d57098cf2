//! TLS as Hadal uses it: 1.3 only, both sides with certificates of the cluster's CA, never 0-RTT.

use crate::identity::Identity;
use hadal_env::NetErrorKind;
use rustls::client::Resumption;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::server::WebPkiClientVerifier;
use rustls::sign::SingleCertAndKey;
use rustls::{CertificateError, ClientConfig, ServerConfig};
use std::sync::Arc;

/// The protocol offered and demanded in the hand-shake.
pub(crate) const ALPN: &[u8] = b"hadal/1";

/// aws-lc-rs with AES-128-GCM first. ChaCha20 is not offered: twice the CPU, and every machine a
/// cluster runs on has AES instructions.
pub(crate) fn provider() -> CryptoProvider {
    CryptoProvider {
        cipher_suites: vec![
            aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256,
            aws_lc_rs::cipher_suite::TLS13_AES_256_GCM_SHA384,
        ],
        kx_groups: vec![aws_lc_rs::kx_group::X25519, aws_lc_rs::kx_group::SECP256R1],
        ..aws_lc_rs::default_provider()
    }
}

/// The listening side. Client certificates are demanded, and there are no session tickets: a resumed
/// session would skip the check of a certificate that expired meanwhile.
pub(crate) fn server(identity: &Identity) -> Result<ServerConfig, rustls::Error> {
    let provider = Arc::new(provider());
    let verifier =
        WebPkiClientVerifier::builder_with_provider(identity.roots(), Arc::clone(&provider))
            .build()
            .map_err(|error| rustls::Error::General(error.to_string()))?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(identity.certified())));
    config.alpn_protocols = vec![ALPN.to_vec()];
    // A3: quinn's own constructors set u32::MAX here and so accept 0-RTT, which can be replayed.
    config.max_early_data_size = 0;
    config.send_tls13_tickets = 0;
    Ok(config)
}

/// The dialling side.
pub(crate) fn client(identity: &Identity) -> Result<ClientConfig, rustls::Error> {
    let mut config = ClientConfig::builder_with_provider(Arc::new(provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_root_certificates(identity.roots())
        .with_client_cert_resolver(Arc::new(SingleCertAndKey::from(identity.certified())));
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.enable_early_data = false;
    config.resumption = Resumption::disabled();
    Ok(config)
}

/// What is wrong with a certificate, as far as the remedy depends on it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum CertificateFault {
    Expired,
    NotYetValid,
    ForeignCa,
    WrongRole,
    Other,
}

impl CertificateFault {
    pub(crate) fn of(error: &CertificateError) -> Self {
        match error {
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => Self::Expired,
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                Self::NotYetValid
            }
            // A CA of the same name and another key shows as a bad signature.
            CertificateError::UnknownIssuer | CertificateError::BadSignature => Self::ForeignCa,
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                Self::WrongRole
            }
            _ => Self::Other,
        }
    }
}

/// TLS alerts, by number (RFC 8446, 6.2).
mod alert {
    pub(super) const BAD_CERTIFICATE: u8 = 42;
    pub(super) const CERTIFICATE_EXPIRED: u8 = 45;
    pub(super) const UNKNOWN_CA: u8 = 48;
    pub(super) const DECRYPT_ERROR: u8 = 51;
    pub(super) const CERTIFICATE_REQUIRED: u8 = 116;
    pub(super) const NO_APPLICATION_PROTOCOL: u8 = 120;
}

/// A TLS failure in words, with the remedy. `alert` is the TLS alert, `said` what the library that sent it
/// said (here, or at the peer: QUIC carries it), `ours` whether the peer refused us.
pub(crate) fn explain(alert: u8, said: &str, ours: bool) -> (NetErrorKind, String) {
    let (whose, where_) = if ours {
        ("our certificate", "at this node")
    } else {
        ("the peer's certificate", "at the peer")
    };
    let text = match alert {
        alert::CERTIFICATE_EXPIRED
            if said.contains("not valid yet") || said.contains("NotValidYet") =>
        {
            format!(
                "{whose} is not yet valid: check the clocks of both machines, or issue a certificate that begins earlier ({said})"
            )
        }
        alert::CERTIFICATE_EXPIRED => {
            format!("{whose} is expired: issue a new one with `hadal tls issue` {where_} ({said})")
        }
        alert::UNKNOWN_CA | alert::DECRYPT_ERROR => format!(
            "{whose} was issued by a foreign CA: both nodes need certificates of the same cluster CA ({said})"
        ),
        alert::BAD_CERTIFICATE
            if said.contains("not valid for name") || said.contains("NotValidForName") =>
        {
            format!(
                "{whose} has the wrong role: check that the address is that of such a node, and its certificate ({said})"
            )
        }
        alert::CERTIFICATE_REQUIRED => format!(
            "no certificate was presented: every peer needs one issued by the cluster CA ({said})"
        ),
        alert::NO_APPLICATION_PROTOCOL => format!(
            "the peer does not speak `hadal/1`: another program or version answers at this address ({said})"
        ),
        _ => format!("TLS hand-shake failed with alert {alert} ({said})"),
    };
    (NetErrorKind::Untrusted, text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pki::{ClusterCa, Validity};
    use hadal_types::Role;
    use std::time::SystemTime;

    /// T-A3: neither side offers early data, tickets or resumption; TLS 1.3 with AES-128-GCM first.
    #[test]
    fn t_a3_zero_rtt_is_off_in_both_configurations() {
        let (ca, _) = ClusterCa::generate("test", Validity::days(1)).unwrap();
        let issued = ca
            .issue(Role::Namenode, "nn1", &[], Validity::days(1))
            .unwrap();
        let identity = Identity::from_pem(
            ca.certificate_pem(),
            &issued.certificate_pem,
            &issued.key_pem,
            SystemTime::now(),
        )
        .unwrap();
        let server = server(&identity).unwrap();
        assert_eq!(server.max_early_data_size, 0);
        assert_eq!(server.send_tls13_tickets, 0);
        assert_eq!(server.alpn_protocols, [ALPN]);
        let client = client(&identity).unwrap();
        assert!(!client.enable_early_data);
        assert_eq!(client.alpn_protocols, [ALPN]);
        for suites in [
            &server.crypto_provider().cipher_suites,
            &client.crypto_provider().cipher_suites,
        ] {
            assert_eq!(
                suites[0].suite(),
                rustls::CipherSuite::TLS13_AES_128_GCM_SHA256
            );
            assert!(suites.iter().all(|suite| suite.tls13().is_some()));
        }
    }
}
