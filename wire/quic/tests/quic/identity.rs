//! The CA's files and the checks at load.

use crate::common::Cluster;
use hadal_quic::{ClusterCa, Identity, IdentityError, PkiError, Validity};
use hadal_types::{Principal, Role};
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, SystemTime};

#[test]
fn a_ca_is_made_once_and_issues_after_a_reload() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path().join("tls");
    ClusterCa::init(&dir, "prod").unwrap();
    assert!(matches!(
        ClusterCa::init(&dir, "prod"),
        Err(PkiError::Exists { .. })
    ));
    let mode = |name: &str| {
        let meta = std::fs::metadata(dir.join(name)).unwrap();
        meta.permissions().mode() & 0o777
    };
    assert_eq!(mode("ca-key.pem"), 0o600);
    let ca = ClusterCa::load(&dir).unwrap();
    let sans = ["dn7.example.com".to_owned(), "10.0.0.7".to_owned()];
    let (cert, key) = ca
        .issue_to(&dir, Role::Datanode, "dn7", &sans, Validity::days(2))
        .unwrap();
    assert_eq!(mode("dn7-key.pem"), 0o600);
    assert!(matches!(
        ca.issue_to(&dir, Role::Datanode, "dn7", &sans, Validity::days(2)),
        Err(PkiError::Exists { .. })
    ));
    let identity = Identity::load(&dir.join("ca.pem"), &cert, &key).unwrap();
    let principal = Principal {
        role: Role::Datanode,
        name: "dn7".into(),
    };
    assert_eq!(*identity.principal(), principal);
    let now = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap();
    let left = identity.not_after_s() - now.as_secs() as i64;
    assert!((2 * 86_400 - 60..=2 * 86_400).contains(&left));
    std::fs::write(dir.join("ca.pem"), "no certificate").unwrap();
    assert!(matches!(
        ClusterCa::load(&dir),
        Err(PkiError::Damaged { .. })
    ));
}

#[test]
fn names_that_are_no_file_names_are_refused() {
    let cluster = Cluster::new();
    for name in [
        "",
        "../nn1",
        "a/b",
        "ca",
        "ca-key",
        ".hidden",
        "a b",
        &"x".repeat(65),
    ] {
        let refused = cluster.ca.issue(Role::Client, name, &[], Validity::days(1));
        assert!(matches!(refused, Err(PkiError::Name { .. })), "{name}");
    }
    let san = ["not a name".to_owned()];
    let refused = cluster
        .ca
        .issue(Role::Client, "alice", &san, Validity::days(1));
    assert!(matches!(refused, Err(PkiError::AlternativeName { .. })));
}

fn load(ca: &str, cert: &str, key: &str, at: SystemTime) -> IdentityError {
    Identity::from_pem(ca, cert, key, at).unwrap_err()
}

#[test]
fn every_unusable_identity_is_told_apart() {
    let (cluster, other) = (Cluster::new(), Cluster::new());
    let now = SystemTime::now();
    let ca = cluster.ca.certificate_pem();
    let good = cluster.issue(Role::Namenode, "nn1");
    let (cert, key) = (&good.certificate_pem, &good.key_pem);
    Identity::from_pem(ca, cert, key, now).unwrap();

    let later = now + Duration::from_secs(2 * 86_400);
    assert!(
        matches!(load(ca, cert, key, later), IdentityError::Expired { expired_s, .. } if expired_s >= 86_000)
    );
    let earlier = now - Duration::from_secs(86_400);
    assert!(matches!(
        load(ca, cert, key, earlier),
        IdentityError::NotYetValid { .. }
    ));
    let foreign_ca = other.ca.certificate_pem();
    assert!(matches!(
        load(foreign_ca, cert, key, now),
        IdentityError::ForeignCa { .. }
    ));
    let other_key = &cluster.issue(Role::Namenode, "nn2").key_pem;
    assert!(matches!(
        load(ca, cert, other_key, now),
        IdentityError::KeyMismatch { .. }
    ));
    assert!(matches!(
        load(ca, "", key, now),
        IdentityError::Pem {
            what: "certificate",
            ..
        }
    ));
    assert!(matches!(
        load(ca, cert, cert, now),
        IdentityError::Pem {
            what: "private key",
            ..
        }
    ));
    // The CA's own certificate has no role.
    assert!(matches!(
        load(ca, ca, key, now),
        IdentityError::NoPrincipal { .. }
    ));
    let absent = std::path::Path::new("/nonexistent/ca.pem");
    let error = Identity::load(absent, absent, absent).unwrap_err();
    assert!(matches!(&error, IdentityError::Read { path, .. } if path == absent));
    assert!(error.to_string().contains("/nonexistent/ca.pem"));
}

#[test]
fn the_secret_is_not_printed() {
    let issued = Cluster::new().issue(Role::Client, "alice");
    let shown = format!("{issued:?}");
    assert!(!shown.contains("PRIVATE KEY"));
    assert!(shown.contains("BEGIN CERTIFICATE"));
}
