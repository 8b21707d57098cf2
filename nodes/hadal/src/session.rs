//! A client's side of every command: configuration, certificate, connection.

use anyhow::{Context, Result, bail};
use hadal_client::{ClientOptions, CreateOptions, Dfs, Identity, ReadFrom, ReplacePolicy};
use hadal_daemon::{Config, Loaded};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};

/// Threads of a client's runtime at most: the QUIC driver, packets and their ciphers.
const WORKERS_MAX: usize = 4;
/// Threads for local files at most.
const BLOCKING_THREADS_MAX: usize = 128;

/// Hadoop's names of the settings users give on command lines.
pub(crate) const HADOOP_KEYS: [(&str, &str); 10] = [
    ("dfs.replication", "client.replication"),
    ("dfs.blocksize", "client.block_size"),
    ("dfs.block.size", "client.block_size"),
    ("fs.permissions.umask-mode", "client.umask"),
    ("dfs.permissions.enabled", "namenode.permissions_enabled"),
    ("dfs.permissions.superusergroup", "cluster.supergroup"),
    ("dfs.namenode.name.dir", "namenode.dir"),
    ("dfs.datanode.data.dir", "datanode.dirs"),
    ("dfs.journalnode.edits.dir", "journalnode.dir"),
    ("dfs.heartbeat.interval", "datanode.heartbeat_interval"),
];

/// Hadal's name of a key that may be Hadoop's.
pub(crate) fn own_key(key: &str) -> &str {
    let found = HADOOP_KEYS.iter().find(|(hadoop, _)| *hadoop == key);
    found.map_or(key, |(_, own)| own)
}

/// Where a client looks for its configuration when `--config` and `HADAL_CONFIG` are not given, first match wins.
fn places() -> Vec<PathBuf> {
    let mut places = vec![PathBuf::from("hadal-dev/client.toml")];
    if let Some(home) = std::env::home_dir() {
        places.push(home.join(".config/hadal/client.toml"));
    }
    places.push("/etc/hadal/client.toml".into());
    places
}

/// The configuration file in force: `explicit`, `HADAL_CONFIG`, then the usual places.
pub(crate) fn config_path(explicit: Option<&Path>) -> Option<PathBuf> {
    let named = explicit
        .map(Path::to_owned)
        .or_else(|| std::env::var_os("HADAL_CONFIG").map(PathBuf::from));
    named.or_else(|| places().into_iter().find(|place| place.is_file()))
}

/// Loads the configuration (cli.md section 2) with the environment's overrides.
pub(crate) fn load_config(explicit: Option<&Path>) -> Result<Loaded> {
    load_config_with(explicit, &[])
}

/// As [`load_config`], with `flags` (`section.key`, value) on top.
pub(crate) fn load_config_with(
    explicit: Option<&Path>,
    flags: &[(String, String)],
) -> Result<Loaded> {
    let environment = std::env::vars_os().filter_map(|(name, value)| {
        // Variables that are not text are nobody's setting.
        Some((name.into_string().ok()?, value.into_string().ok()?))
    });
    let path = config_path(explicit);
    Ok(hadal_daemon::load(path.as_deref(), environment, flags)?)
}

/// The certificate of the user of `config`: `tls.dir/ca.pem`, `tls.dir/NAME.pem`, `tls.dir/NAME-key.pem`.
pub(crate) fn identity(config: &Config) -> Result<Identity> {
    let (dir, name) = (&config.tls.dir, &config.tls.name);
    Identity::load(
        &dir.join("ca.pem"),
        &dir.join(format!("{name}.pem")),
        &dir.join(format!("{name}-key.pem")),
    )
    .with_context(|| {
        format!(
            "no certificate to present (tls.dir = {}, tls.name = {name})",
            dir.display()
        )
    })
}

/// The runtime of client commands.
pub(crate) fn runtime() -> Result<tokio::runtime::Runtime> {
    let processors = std::thread::available_parallelism().map_or(2, usize::from);
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(processors.clamp(2, WORKERS_MAX))
        .max_blocking_threads(BLOCKING_THREADS_MAX)
        .enable_all()
        .build()
        .context("cannot start the client's threads; check `ulimit -u' and `ulimit -n'")
}

/// A file system with the settings of `config`. Call it inside a [`runtime`].
pub(crate) fn connect(config: &Config) -> Result<Dfs> {
    Ok(hadal_client::connect(options(config)?, &identity(config)?)?)
}

/// As [`connect`], with the user's name, which its certificate says.
pub(crate) fn connect_as(config: &Config) -> Result<(Dfs, String)> {
    let options = options(config)?;
    let identity = identity(config)?;
    let dfs = hadal_client::connect(options, &identity)?;
    Ok((dfs, identity.principal().name.clone()))
}

fn options(config: &Config) -> Result<ClientOptions> {
    let Some(first) = config.cluster.namenodes.first() else {
        let places: Vec<String> = places()
            .iter()
            .map(|place| place.display().to_string())
            .collect();
        bail!(
            "no NameNode is configured (cluster.namenodes is empty): give --config FILE, set HADAL_CONFIG, or put the configuration at {}",
            places.join(" or ")
        );
    };
    let namenodes = config
        .cluster
        .namenodes
        .iter()
        .map(|member| (member.id.clone(), member.address));
    let client = &config.client;
    let mut options = ClientOptions::new(namenodes);
    options.failover.window_ms = client.retry_window.0;
    options.read_from = match &*client.read_from {
        "active" => ReadFrom::Active,
        "observer" => ReadFrom::Observer,
        "standby" => ReadFrom::Standby,
        other => bail!("client.read_from = `{other}' is none of active, observer, standby"),
    };
    options.auto_msync_ms = match &*client.auto_msync_period {
        "never" => None,
        period => match period.parse::<hadal_daemon::Duration>() {
            Ok(period) => Some(period.0),
            Err(reason) => bail!("client.auto_msync_period: {reason}, or `never'"),
        },
    };
    options.packet_bytes = u32::try_from(client.packet_size.0)
        .ok()
        .filter(|bytes| (1..=1 << 20).contains(bytes))
        .context("client.packet_size must be between 1 byte and 1 MiB")?;
    options.write_window_bytes =
        usize::try_from(client.write_window.0).context("client.write_window is out of range")?;
    options.stream_timeout_ms = client.stream_timeout.0;
    options.datanode_restart_timeout_ms = client.datanode_restart_timeout.0;
    options.close_timeout_ms = client.close_timeout.0;
    options.sync_on_close = client.sync_on_close;
    options.replacement.policy = match &*client.replace_datanode_policy {
        "never" => ReplacePolicy::Never,
        "default" => ReplacePolicy::Default,
        "always" => ReplacePolicy::Always,
        other => {
            bail!("client.replace_datanode_policy = `{other}' is none of never, default, always")
        }
    };
    options.replacement.best_effort = client.replace_datanode_best_effort;
    options.local_reads = client.local_reads;
    options.connection_timeout_ms = u32::try_from(config.cluster.connection_timeout.0)
        .unwrap_or(u32::MAX)
        .max(300);
    options.mtu = (config.cluster.mtu > 0).then_some(config.cluster.mtu);
    options.host = own_address(first.address).map_or_else(String::new, |ip| ip.to_string());
    Ok(options)
}

/// The address by which this host reaches `peer`, as DataNodes on this host are known by it too.
fn own_address(peer: SocketAddr) -> Option<IpAddr> {
    let any: IpAddr = match peer.is_ipv6() {
        true => Ipv6Addr::UNSPECIFIED.into(),
        false => Ipv4Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0)).ok()?;
    // Connecting a UDP socket only picks the route: nothing is sent.
    socket.connect(peer).ok()?;
    Some(socket.local_addr().ok()?.ip())
}

/// The bits `client.umask` takes away.
pub(crate) fn umask(config: &Config) -> Result<u16> {
    u16::from_str_radix(&config.client.umask, 8)
        .ok()
        .filter(|bits| *bits <= 0o777)
        .with_context(|| {
            format!(
                "client.umask = `{}' is not an octal number from 000 to 777, as in \"022\"",
                config.client.umask
            )
        })
}

/// How new files are made: `permission` before the umask, and the client's replication and block size.
pub(crate) fn create_options(config: &Config, permission: u16) -> CreateOptions {
    let client = &config.client;
    CreateOptions {
        permission,
        overwrite: false,
        create_parent: false,
        replication: (client.replication > 0).then_some(client.replication),
        block_size: (client.block_size.0 > 0).then_some(client.block_size.0),
        first_block: false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bad_umask_is_refused_by_name() {
        let mut config = Config::default();
        assert_eq!(umask(&config).unwrap(), 0o022);
        for bad in ["9", "1000", "", "rwx"] {
            config.client.umask = bad.into();
            let error = umask(&config).unwrap_err().to_string();
            assert!(error.contains("client.umask"), "{error}");
        }
    }

    #[test]
    fn without_namenodes_the_places_looked_at_are_named() {
        let error = options(&Config::default()).unwrap_err().to_string();
        assert!(
            error.contains("hadal-dev/client.toml") && error.contains("HADAL_CONFIG"),
            "{error}"
        );
    }

    #[test]
    fn hadoop_s_key_names_are_understood() {
        assert_eq!(own_key("dfs.blocksize"), "client.block_size");
        assert_eq!(own_key("tls.dir"), "tls.dir");
    }
}
