//! Certificates: there, valid, and for how long.

use super::{Finding, Verdict};
use hadal_client::Identity;
use hadal_daemon::Config;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

/// Days before its end at which a certificate is complained of.
const EXPIRES_SOON_DAYS: i64 = 30;
const DAY_S: i64 = 86_400;

/// The client's certificate, and those of nodes that have one here.
pub(super) fn check(config: &Config) -> Vec<Finding> {
    let dir = &config.tls.dir;
    let mut names = vec![config.tls.name.as_str()];
    let cluster = &config.cluster;
    for member in cluster.namenodes.iter().chain(&cluster.journalnodes) {
        if dir.join(format!("{}.pem", member.id)).exists() {
            names.push(&member.id);
        }
    }
    names.iter().map(|name| certificate(dir, name)).collect()
}

fn certificate(dir: &Path, name: &str) -> Finding {
    let path = dir.join(format!("{name}.pem"));
    let key = dir.join(format!("{name}-key.pem"));
    let check = format!("certificate {}", path.display());
    match Identity::load(&dir.join("ca.pem"), &path, &key) {
        Ok(identity) => {
            let now = SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .map_or(0, |since| {
                    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
                });
            let days = (identity.not_after_s() - now) / DAY_S;
            judge(check, &identity.principal().to_string(), days)
        }
        Err(error) => Finding::new(
            check,
            Verdict::Bad,
            error.to_string(),
            format!(
                "set tls.dir and tls.name, or issue one: `hadal tls issue --role client --name {name} {}'",
                dir.display()
            ),
        ),
    }
}

fn judge(check: String, principal: &str, days: i64) -> Finding {
    let detail = format!("{principal}, valid for {days} more days");
    match days > EXPIRES_SOON_DAYS {
        true => Finding::good(check, detail),
        false => Finding::new(
            check,
            Verdict::Poor,
            detail,
            "issue a new one in time with `hadal tls issue'",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hadal_quic::{ClusterCa, Validity};
    use hadal_types::Role;

    #[test]
    fn certificates_are_judged_by_what_is_left_of_them() {
        let dir = tempfile::tempdir().unwrap();
        let mut config = Config::default();
        config.tls.dir = dir.path().into();
        config.tls.name = "me".into();
        let missing = check(&config);
        assert_eq!(missing[0].verdict, Verdict::Bad);
        assert!(missing[0].remedy.contains("hadal tls issue"));
        let authority = ClusterCa::init(dir.path(), "test").unwrap();
        for (name, days, verdict) in [("me", 100, Verdict::Good), ("soon", 3, Verdict::Poor)] {
            authority
                .issue_to(dir.path(), Role::Client, name, &[], Validity::days(days))
                .unwrap();
            config.tls.name = name.into();
            assert_eq!(check(&config)[0].verdict, verdict, "{name}");
        }
    }
}
