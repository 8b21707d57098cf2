//! Who this process is, and whom it believes: its certificate, its key, the cluster's CA.

use crate::certificate::{NoPrincipal, holder};
use crate::restarts::Restarts;
use crate::tls;
use hadal_types::Principal;
use rustls::RootCertStore;
use rustls::server::WebPkiClientVerifier;
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use thiserror::Error;

/// Largest file read: a few certificates.
const FILE_CAP: u64 = 1 << 20;

/// Why an identity cannot be used. Each names the file and the remedy.
#[derive(Debug, Error)]
pub enum IdentityError {
    /// A file could not be read.
    #[error("cannot read {path}: {source}; check the path and that this user may read it")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// A file does not hold what it should.
    #[error("{path} holds no {what} in PEM: {detail}")]
    Pem {
        /// The file.
        path: PathBuf,
        /// What it should hold.
        what: &'static str,
        /// What the parser said.
        detail: String,
    },
    /// The certificate's time is over.
    #[error("{path} expired {expired_s} s ago: issue a new certificate with `hadal tls issue`")]
    Expired {
        /// The certificate's file.
        path: PathBuf,
        /// Seconds since it expired.
        expired_s: u64,
    },
    /// The certificate's time has not come.
    #[error(
        "{path} is not valid for another {wait_s} s: set this machine's clock, or issue a certificate that begins earlier"
    )]
    NotYetValid {
        /// The certificate's file.
        path: PathBuf,
        /// Seconds until it is valid.
        wait_s: u64,
    },
    /// Another CA issued the certificate.
    #[error(
        "{path} was not issued by the CA in {ca_path}: use the CA of this cluster, or issue the certificate again with it"
    )]
    ForeignCa {
        /// The certificate's file.
        path: PathBuf,
        /// The CA's file.
        ca_path: PathBuf,
    },
    /// The certificate names no role and name.
    #[error("{path} says not who its holder is: {detail}; issue it with `hadal tls issue`")]
    NoPrincipal {
        /// The certificate's file.
        path: PathBuf,
        /// What is missing.
        detail: String,
    },
    /// The key is another one than the certificate's.
    #[error("{key_path} is not the private key of {path}: the files were mixed up")]
    KeyMismatch {
        /// The certificate's file.
        path: PathBuf,
        /// The key's file.
        key_path: PathBuf,
    },
    /// Something else TLS does not accept.
    #[error("{path} cannot be used: {detail}")]
    Refused {
        /// The file.
        path: PathBuf,
        /// What TLS said.
        detail: String,
    },
}

/// The certificates of this process, checked against each other. Clones share them.
#[derive(Clone)]
pub struct Identity {
    principal: Principal,
    certified: Arc<CertifiedKey>,
    roots: Arc<RootCertStore>,
    not_after_s: i64,
    restarts: Restarts,
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Identity")
            .field("principal", &self.principal)
            .field("not_after_s", &self.not_after_s)
            .finish_non_exhaustive()
    }
}

impl Identity {
    /// Loads and checks the three files: parseable, issued by this CA, valid now, key and certificate
    /// belonging together, role and name present. Blocks on the disk: call it at start.
    ///
    /// # Errors
    /// [`IdentityError`], telling these apart.
    pub fn load(ca_path: &Path, path: &Path, key_path: &Path) -> Result<Self, IdentityError> {
        let (ca, certificate, key) = (read(ca_path)?, read(path)?, read(key_path)?);
        Self::check(
            Source {
                ca_path,
                path,
                key_path,
            },
            &ca,
            &certificate,
            &key,
            SystemTime::now(),
        )
    }

    /// As [`Identity::load`] from PEM texts, and as seen at the wall-clock time `now`.
    ///
    /// # Errors
    /// [`IdentityError`], with made-up file names.
    pub fn from_pem(
        ca: &str,
        certificate: &str,
        key: &str,
        now: SystemTime,
    ) -> Result<Self, IdentityError> {
        Self::check(
            Source {
                ca_path: Path::new("(CA certificate)"),
                path: Path::new("(certificate)"),
                key_path: Path::new("(private key)"),
            },
            ca.as_bytes(),
            certificate.as_bytes(),
            key.as_bytes(),
            now,
        )
    }

    /// Who this process is.
    #[must_use]
    pub fn principal(&self) -> &Principal {
        &self.principal
    }

    /// When the certificate expires, in seconds since 1970; for a warning ahead of time.
    #[must_use]
    pub fn not_after_s(&self) -> i64 {
        self.not_after_s
    }

    pub(crate) fn certified(&self) -> Arc<CertifiedKey> {
        Arc::clone(&self.certified)
    }

    /// The keys by which this process disowns connections of the one before it.
    pub(crate) fn restarts(&self) -> &Restarts {
        &self.restarts
    }

    pub(crate) fn roots(&self) -> Arc<RootCertStore> {
        Arc::clone(&self.roots)
    }

    fn check(
        source: Source<'_>,
        ca: &[u8],
        certificate: &[u8],
        key: &[u8],
        now: SystemTime,
    ) -> Result<Self, IdentityError> {
        let mut roots = RootCertStore::empty();
        for root in certificates(source.ca_path, ca)? {
            roots
                .add(root)
                .map_err(|error| refused(source.ca_path, &error))?;
        }
        let roots = Arc::new(roots);
        let chain = certificates(source.path, certificate)?;
        let key = PrivateKeyDer::from_pem_slice(key).map_err(|error| IdentityError::Pem {
            path: source.key_path.to_owned(),
            what: "private key",
            detail: error.to_string(),
        })?;
        let holder =
            holder(&chain[0]).map_err(|error: NoPrincipal| IdentityError::NoPrincipal {
                path: source.path.to_owned(),
                detail: error.to_string(),
            })?;
        let since_epoch = now
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or(Duration::ZERO);
        let now_s = i64::try_from(since_epoch.as_secs()).unwrap_or(i64::MAX);
        if now_s > holder.not_after_s {
            return Err(IdentityError::Expired {
                path: source.path.to_owned(),
                expired_s: now_s.abs_diff(holder.not_after_s),
            });
        }
        if now_s < holder.not_before_s {
            return Err(IdentityError::NotYetValid {
                path: source.path.to_owned(),
                wait_s: holder.not_before_s.abs_diff(now_s),
            });
        }
        source.check_chain(&roots, &chain, UnixTime::since_unix_epoch(since_epoch))?;
        let restarts = Restarts::new(key.secret_der());
        let signer = tls::provider()
            .key_provider
            .load_private_key(key)
            .map_err(|error| refused(source.key_path, &error))?;
        let certified = CertifiedKey::new(chain, signer);
        certified.keys_match().map_err(|error| match error {
            rustls::Error::InconsistentKeys(_) => IdentityError::KeyMismatch {
                path: source.path.to_owned(),
                key_path: source.key_path.to_owned(),
            },
            other => refused(source.key_path, &other),
        })?;
        Ok(Self {
            principal: holder.principal,
            certified: Arc::new(certified),
            roots,
            not_after_s: holder.not_after_s,
            restarts,
        })
    }
}

/// Where the texts came from.
#[derive(Clone, Copy)]
struct Source<'a> {
    ca_path: &'a Path,
    path: &'a Path,
    key_path: &'a Path,
}

impl Source<'_> {
    fn check_chain(
        self,
        roots: &Arc<RootCertStore>,
        chain: &[CertificateDer<'static>],
        now: UnixTime,
    ) -> Result<(), IdentityError> {
        let verifier = WebPkiClientVerifier::builder_with_provider(
            Arc::clone(roots),
            Arc::new(tls::provider()),
        )
        .build()
        .map_err(|error| IdentityError::Pem {
            path: self.ca_path.to_owned(),
            what: "CA certificate",
            detail: error.to_string(),
        })?;
        let Err(refusal) = verifier.verify_client_cert(&chain[0], &chain[1..], now) else {
            return Ok(());
        };
        let rustls::Error::InvalidCertificate(reason) = &refusal else {
            return Err(refused(self.path, &refusal));
        };
        Err(match tls::CertificateFault::of(reason) {
            tls::CertificateFault::ForeignCa => IdentityError::ForeignCa {
                path: self.path.to_owned(),
                ca_path: self.ca_path.to_owned(),
            },
            // The end certificate is valid now: it is the CA's own time that is over.
            tls::CertificateFault::Expired => IdentityError::Expired {
                path: self.ca_path.to_owned(),
                expired_s: 0,
            },
            tls::CertificateFault::NotYetValid => IdentityError::NotYetValid {
                path: self.ca_path.to_owned(),
                wait_s: 0,
            },
            tls::CertificateFault::WrongRole | tls::CertificateFault::Other => {
                refused(self.path, &refusal)
            }
        })
    }
}

fn certificates(path: &Path, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, IdentityError> {
    let bad = |detail: String| IdentityError::Pem {
        path: path.to_owned(),
        what: "certificate",
        detail,
    };
    let found = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| bad(error.to_string()))?;
    if found.is_empty() {
        return Err(bad("no CERTIFICATE section in it".into()));
    }
    Ok(found)
}

fn refused(path: &Path, error: &rustls::Error) -> IdentityError {
    IdentityError::Refused {
        path: path.to_owned(),
        detail: error.to_string(),
    }
}

fn read(path: &Path) -> Result<Vec<u8>, IdentityError> {
    use std::io::Read;
    let failed = |source| IdentityError::Read {
        path: path.to_owned(),
        source,
    };
    let mut out = Vec::new();
    std::fs::File::open(path)
        .map_err(failed)?
        .take(FILE_CAP)
        .read_to_end(&mut out)
        .map_err(failed)?;
    Ok(out)
}
