//! `hadal tls`: the cluster's certificate authority and its certificates.

use crate::console::Console;
use anyhow::{Context, Result};
use clap::Subcommand;
use hadal_quic::{ClusterCa, Validity, pki};
use hadal_types::Role;
use serde_json::json;
use std::path::PathBuf;

/// Verbs of `tls`.
#[derive(Subcommand, Clone, Debug)]
pub(crate) enum Tls {
    /// Make a certificate authority: ca.pem for everyone, ca-key.pem to be kept away from the nodes
    #[command(name = "init-ca")]
    InitCa {
        /// Where to put it
        dir: PathBuf,
        /// Name of the cluster, for people
        #[arg(long, default_value = "hadal")]
        cluster: String,
    },
    /// Issue a certificate: NAME.pem and NAME-key.pem
    Issue {
        /// What its holder is: namenode, journalnode, datanode, client or admin
        #[arg(long, value_parser = parse_role)]
        role: Role,
        /// Node id, or the user's name
        #[arg(long)]
        name: String,
        /// Directory of the certificate authority
        dir: PathBuf,
        /// Where to put the certificate instead of the authority's directory
        #[arg(long, value_name = "DIR")]
        out: Option<PathBuf>,
        /// How long it is valid
        #[arg(long, default_value_t = pki::CERTIFICATE_VALIDITY_DAYS, value_parser = clap::value_parser!(u32).range(1..=36500))]
        days: u32,
        /// Further DNS names or addresses in it
        #[arg(long = "san", value_name = "NAME")]
        sans: Vec<String>,
    },
}

fn parse_role(word: &str) -> Result<Role, String> {
    Role::parse(word).ok_or_else(|| {
        let all: Vec<&str> = Role::ALL.into_iter().map(Role::as_str).collect();
        format!("the roles are {}", all.join(", "))
    })
}

/// Runs a verb.
pub(crate) fn run(console: &Console, verb: &Tls) -> Result<i32> {
    match verb {
        Tls::InitCa { dir, cluster } => {
            ClusterCa::init(dir, cluster)?;
            let (ca, key) = (dir.join(pki::CA_FILE), dir.join(pki::CA_KEY_FILE));
            match console.json {
                true => console.json(&json!({ "ca": ca, "key": key })),
                false => {
                    console.line(format!("{}: for every node and client", ca.display()));
                    console.line(format!(
                        "{}: keep it secret, no node needs it",
                        key.display()
                    ));
                }
            }
        }
        Tls::Issue {
            role,
            name,
            dir,
            out,
            days,
            sans,
        } => {
            let authority = ClusterCa::load(dir).with_context(|| {
                format!(
                    "no certificate authority in {}; make one with `hadal tls init-ca {}'",
                    dir.display(),
                    dir.display()
                )
            })?;
            let out = out.as_ref().unwrap_or(dir);
            std::fs::create_dir_all(out)
                .with_context(|| format!("cannot make {}", out.display()))?;
            let validity = Validity::days(*days);
            let (certificate, key) = authority.issue_to(out, *role, name, sans, validity)?;
            match console.json {
                true => console.json(&json!({
                    "role": role.as_str(),
                    "name": name,
                    "days": days,
                    "certificate": certificate,
                    "key": key,
                })),
                false => {
                    console.line(certificate.display().to_string());
                    console.line(key.display().to_string());
                }
            }
        }
    }
    console.flush();
    Ok(0)
}
