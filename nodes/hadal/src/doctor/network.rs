//! UDP buffers, ports, and whether the NameNodes answer.

use super::{Finding, Verdict};
use crate::session;
use anyhow::Result;
use hadal_daemon::Config;
use hadal_shard::udp;
use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::time::Duration;

/// How long the NameNodes may take to answer.
const ANSWER: Duration = Duration::from_secs(3);

/// Whether a socket gets the buffers it asks for.
pub(super) fn buffers() -> Vec<Finding> {
    let check = "UDP buffers";
    let bound = match udp::bind((Ipv4Addr::LOCALHOST, 0).into(), udp::BUFFER_BYTES) {
        Ok(bound) => bound,
        Err(error) => {
            return vec![Finding::new(
                check,
                Verdict::Bad,
                error.to_string(),
                "check that this process may use UDP sockets",
            )];
        }
    };
    let detail = format!(
        "receive {} bytes, send {} bytes",
        bound.recv_buffer_bytes, bound.send_buffer_bytes
    );
    vec![match bound.has_buffers_of(udp::BUFFER_BYTES) {
        true => Finding::good(check, detail),
        false => Finding::new(
            check,
            Verdict::Poor,
            format!("{detail}, {} are better", udp::BUFFER_BYTES),
            format!(
                "smaller ones lose packets under load: `sysctl -w net.core.rmem_max={0} net.core.wmem_max={0}', or give the daemons CAP_NET_ADMIN",
                udp::BUFFER_BYTES
            ),
        ),
    }]
}

/// Whether the configured ports of this host can be had.
pub(super) fn ports(config: &Config) -> Vec<Finding> {
    let cluster = &config.cluster;
    let members = cluster.namenodes.iter().chain(&cluster.journalnodes);
    let mut wanted: Vec<(String, SocketAddr)> = members
        .map(|member| (member.id.clone(), member.address))
        .collect();
    wanted.push(("DataNode".into(), config.datanode.address));
    wanted
        .iter()
        .map(|(who, address)| port(who, *address))
        .collect()
}

fn port(who: &str, address: SocketAddr) -> Finding {
    let check = format!("port {address} (UDP, {who})");
    match UdpSocket::bind(address) {
        Ok(_) => Finding::good(check, "free"),
        Err(error) if error.kind() == ErrorKind::AddrInUse => Finding::new(
            check,
            Verdict::Poor,
            "in use",
            "fine if it is the node itself that runs; else see `ss -ulpn' and stop the other program, or configure another port",
        ),
        Err(error) if error.kind() == ErrorKind::AddrNotAvailable => {
            Finding::skipped(check, "not an address of this host")
        }
        Err(error) => Finding::new(
            check,
            Verdict::Bad,
            error.to_string(),
            "ports below 1024 need root or CAP_NET_BIND_SERVICE",
        ),
    }
}

/// Whether a NameNode answers.
pub(super) fn namenodes(config: &Config) -> Result<Vec<Finding>> {
    let check = "NameNode";
    if config.cluster.namenodes.is_empty() {
        return Ok(vec![Finding::skipped(
            check,
            "none is configured (cluster.namenodes)",
        )]);
    }
    let runtime = session::runtime()?;
    let finding = runtime.block_on(async {
        let dfs = match session::connect(config) {
            Ok(dfs) => dfs,
            // The certificates' own check says what is wrong with them.
            Err(error) => return Finding::skipped(check, format!("{error:#}")),
        };
        let answer = tokio::time::timeout(ANSWER, dfs.service_state()).await;
        dfs.close().await;
        match answer {
            Ok(Ok((state, _))) => Finding::good(check, format!("one answers, and is {state}")),
            Ok(Err(error)) => Finding::new(check, Verdict::Poor, error.to_string(), ""),
            Err(_) => Finding::new(
                check,
                Verdict::Poor,
                format!("none answers within {} s", ANSWER.as_secs()),
                "start it, or check cluster.namenodes and that UDP gets through the firewall",
            ),
        }
    });
    runtime.shutdown_background();
    Ok(vec![finding])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_in_use_is_told() {
        let is_free_again = || {
            let held = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
            let address = held.local_addr().unwrap();
            assert_eq!(port("nn1", address).verdict, Verdict::Poor);
            drop(held);
            port("nn1", address).verdict == Verdict::Good
        };
        // The system may give it to another process at once, but not time after time.
        assert!((0..10).any(|_| is_free_again()));
    }

    #[test]
    fn addresses_of_other_hosts_are_skipped() {
        // TEST-NET-1 (RFC 5737): nobody's address.
        let finding = port("nn1", ([192, 0, 2, 1], 8020).into());
        assert_eq!(finding.verdict, Verdict::Skipped);
    }
}
