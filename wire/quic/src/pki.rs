//! The cluster's certificate authority: Ed25519 keys in a directory, one certificate per node or user.
//!
//! Files: `ca.pem` and `ca-key.pem` (0600), and per holder `NAME.pem` and `NAME-key.pem` (0600).
//! A certificate says who its holder is in its subject: the role is the organizational unit, the
//! name the common name; the DNS name `ROLE.hadal` lets a dialler check the role by TLS itself.

use crate::certificate::role_name;
use hadal_types::Role;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PKCS_ED25519, SanType,
};
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use thiserror::Error;

/// Name of the CA certificate's file.
pub const CA_FILE: &str = "ca.pem";
/// Name of the CA key's file.
pub const CA_KEY_FILE: &str = "ca-key.pem";
/// How long a CA is valid unless told otherwise, in days.
pub const CA_VALIDITY_DAYS: u32 = 3650;
/// How long a certificate is valid unless told otherwise, in days.
pub const CERTIFICATE_VALIDITY_DAYS: u32 = 365;
/// How far validity reaches back, so that a machine whose clock is behind accepts a new certificate.
const BACKDATE_S: u64 = 3600;
/// Longest name: what a common name holds (RFC 5280, ub-common-name).
const NAME_CAP: usize = 64;

/// Why the CA did not do it.
#[derive(Debug, Error)]
pub enum PkiError {
    /// A file could not be read, created or made durable.
    #[error("cannot {action} {path}: {source}")]
    File {
        /// What was being done.
        action: &'static str,
        /// To which file.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// The directory holds a CA or this certificate already.
    #[error("{path} exists: nothing was overwritten; use another directory or name, or remove it")]
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// A file does not hold what its name says.
    #[error("{path} is no {what}: {detail}; restore it, or make a new CA with `hadal tls init`")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What it should hold.
        what: &'static str,
        /// What the parser said.
        detail: String,
    },
    /// A name that can be no file name or common name.
    #[error(
        "{name:?} is no name for a certificate: use 1 to 64 of letters, digits, '-', '_' and '.', starting with a letter or digit, other than `ca` and `ca-key`"
    )]
    Name {
        /// The name.
        name: String,
    },
    /// An alternative name that is neither an address nor a DNS name.
    #[error("{name:?} is neither an IP address nor a DNS name")]
    AlternativeName {
        /// The name.
        name: String,
    },
    /// The key or certificate could not be made.
    #[error("cannot make the {what}: {detail}")]
    Generate {
        /// What was being made.
        what: &'static str,
        /// What the library said.
        detail: String,
    },
}

/// From when to when a certificate is valid.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Validity {
    /// First instant.
    pub not_before: SystemTime,
    /// Last instant.
    pub not_after: SystemTime,
}

impl Validity {
    /// From an hour ago (clocks differ) for `days` days from now.
    #[must_use]
    pub fn days(days: u32) -> Self {
        let now = SystemTime::now();
        Self {
            not_before: now - Duration::from_secs(BACKDATE_S),
            not_after: now + Duration::from_secs(u64::from(days) * 24 * 3600),
        }
    }
}

/// A certificate and its private key, both as PEM.
#[derive(Clone, PartialEq, Eq)]
pub struct IssuedCertificate {
    /// The certificate.
    pub certificate_pem: String,
    /// The private key: a secret.
    pub key_pem: String,
}

impl std::fmt::Debug for IssuedCertificate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("IssuedCertificate")
            .field("certificate_pem", &self.certificate_pem)
            .field("key_pem", &"(secret)")
            .finish()
    }
}

/// The cluster's certificate authority with its private key.
pub struct ClusterCa {
    certificate_pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl std::fmt::Debug for ClusterCa {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ClusterCa").finish_non_exhaustive()
    }
}

impl ClusterCa {
    /// Makes a CA in memory only (`dev`, tests). `cluster` is its name for people.
    ///
    /// # Errors
    /// [`PkiError::Generate`].
    pub fn generate(cluster: &str, validity: Validity) -> Result<(Self, String), PkiError> {
        let key = new_key("CA key")?;
        let key_pem = key.serialize_pem();
        let mut params = CertificateParams::default();
        params
            .distinguished_name
            .push(DnType::CommonName, cluster.to_owned());
        params
            .distinguished_name
            .push(DnType::OrganizationalUnitName, "ca");
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        set_validity(&mut params, validity);
        let certificate = params
            .self_signed(&key)
            .map_err(|error| generate("CA certificate", &error))?;
        let ca = Self {
            certificate_pem: certificate.pem(),
            issuer: Issuer::new(params, key),
        };
        Ok((ca, key_pem))
    }

    /// Makes a CA in `dir` (created when missing) and writes `ca.pem` and `ca-key.pem` durably. Never
    /// overwrites one.
    ///
    /// # Errors
    /// [`PkiError`].
    pub fn init(dir: &Path, cluster: &str) -> Result<Self, PkiError> {
        std::fs::create_dir_all(dir).map_err(|source| file("create", dir, source))?;
        for name in [CA_FILE, CA_KEY_FILE] {
            let path = dir.join(name);
            if path.exists() {
                return Err(PkiError::Exists { path });
            }
        }
        let (ca, key_pem) = Self::generate(cluster, Validity::days(CA_VALIDITY_DAYS))?;
        write_new(&dir.join(CA_KEY_FILE), &key_pem, true)?;
        write_new(&dir.join(CA_FILE), &ca.certificate_pem, false)?;
        sync_dir(dir)?;
        Ok(ca)
    }

    /// Loads the CA of `dir`.
    ///
    /// # Errors
    /// [`PkiError`].
    pub fn load(dir: &Path) -> Result<Self, PkiError> {
        let (path, key_path) = (dir.join(CA_FILE), dir.join(CA_KEY_FILE));
        let certificate_pem = read(&path)?;
        let key_pem = read(&key_path)?;
        let key = KeyPair::from_pem(&key_pem)
            .map_err(|error| damaged(&key_path, "private key", &error))?;
        let issuer = Issuer::from_ca_cert_pem(&certificate_pem, key)
            .map_err(|error| damaged(&path, "CA certificate", &error))?;
        Ok(Self {
            certificate_pem,
            issuer,
        })
    }

    /// The CA's own certificate as PEM: what every node and client must have.
    #[must_use]
    pub fn certificate_pem(&self) -> &str {
        &self.certificate_pem
    }

    /// Issues a certificate for `name` in `role`. `sans` are further DNS names or IP addresses, for tools
    /// that look at them; Hadal itself goes by role and name.
    ///
    /// # Errors
    /// [`PkiError::Name`], [`PkiError::AlternativeName`], [`PkiError::Generate`].
    pub fn issue(
        &self,
        role: Role,
        name: &str,
        sans: &[String],
        validity: Validity,
    ) -> Result<IssuedCertificate, PkiError> {
        check_name(name)?;
        let mut params = CertificateParams::default();
        params
            .distinguished_name
            .push(DnType::OrganizationalUnitName, role.as_str());
        params
            .distinguished_name
            .push(DnType::CommonName, name.to_owned());
        params.subject_alt_names = vec![dns_name(&role_name(role))?];
        for san in sans {
            let name = match san.parse::<IpAddr>() {
                Ok(address) => SanType::IpAddress(address),
                Err(_) => dns_name(san)?,
            };
            params.subject_alt_names.push(name);
        }
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        params.use_authority_key_identifier_extension = true;
        set_validity(&mut params, validity);
        let key = new_key("private key")?;
        let certificate = params
            .signed_by(&key, &self.issuer)
            .map_err(|error| generate("certificate", &error))?;
        Ok(IssuedCertificate {
            certificate_pem: certificate.pem(),
            key_pem: key.serialize_pem(),
        })
    }

    /// Issues a certificate and writes `NAME.pem` and `NAME-key.pem` into `dir` durably; returns their
    /// paths, certificate first. Never overwrites one.
    ///
    /// # Errors
    /// [`PkiError`].
    pub fn issue_to(
        &self,
        dir: &Path,
        role: Role,
        name: &str,
        sans: &[String],
        validity: Validity,
    ) -> Result<(PathBuf, PathBuf), PkiError> {
        let issued = self.issue(role, name, sans, validity)?;
        let path = dir.join(format!("{name}.pem"));
        let key_path = dir.join(format!("{name}-key.pem"));
        for path in [&path, &key_path] {
            if path.exists() {
                return Err(PkiError::Exists { path: path.clone() });
            }
        }
        write_new(&key_path, &issued.key_pem, true)?;
        write_new(&path, &issued.certificate_pem, false)?;
        sync_dir(dir)?;
        Ok((path, key_path))
    }
}

fn check_name(name: &str) -> Result<(), PkiError> {
    let good = (1..=NAME_CAP).contains(&name.len())
        && name.starts_with(|first: char| first.is_ascii_alphanumeric())
        && name
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'))
        && name != "ca"
        && name != "ca-key";
    if good {
        Ok(())
    } else {
        Err(PkiError::Name {
            name: name.to_owned(),
        })
    }
}

fn new_key(what: &'static str) -> Result<KeyPair, PkiError> {
    KeyPair::generate_for(&PKCS_ED25519).map_err(|error| generate(what, &error))
}

fn set_validity(params: &mut CertificateParams, validity: Validity) {
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    let since = |at: SystemTime| at.duration_since(UNIX_EPOCH).unwrap_or_default();
    params.not_before = epoch + since(validity.not_before);
    params.not_after = epoch + since(validity.not_after);
}

fn dns_name(name: &str) -> Result<SanType, PkiError> {
    let bad = || PkiError::AlternativeName {
        name: name.to_owned(),
    };
    rustls_pki_types::DnsName::try_from(name).map_err(|_| bad())?;
    Ok(SanType::DnsName(name.try_into().map_err(|_| bad())?))
}

fn generate(what: &'static str, error: &rcgen::Error) -> PkiError {
    PkiError::Generate {
        what,
        detail: error.to_string(),
    }
}

fn damaged(path: &Path, what: &'static str, error: &rcgen::Error) -> PkiError {
    PkiError::Damaged {
        path: path.to_owned(),
        what,
        detail: error.to_string(),
    }
}

fn file(action: &'static str, path: &Path, source: io::Error) -> PkiError {
    PkiError::File {
        action,
        path: path.to_owned(),
        source,
    }
}

fn read(path: &Path) -> Result<String, PkiError> {
    std::fs::read_to_string(path).map_err(|source| file("read", path, source))
}

/// Creates the file with its final mode, so that a key is at no moment readable by others.
fn write_new(path: &Path, content: &str, secret: bool) -> Result<(), PkiError> {
    let mode = if secret { 0o600 } else { 0o644 };
    let mut out = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(path)
        .map_err(|source| match source.kind() {
            io::ErrorKind::AlreadyExists => PkiError::Exists {
                path: path.to_owned(),
            },
            _ => file("create", path, source),
        })?;
    out.write_all(content.as_bytes())
        .and_then(|()| out.sync_all())
        .map_err(|source| file("write", path, source))
}

fn sync_dir(dir: &Path) -> Result<(), PkiError> {
    File::open(dir)
        .and_then(|opened| opened.sync_all())
        .map_err(|source| file("make durable", dir, source))
}
