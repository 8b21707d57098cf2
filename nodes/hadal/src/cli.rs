//! The command line: what clap knows, and which module runs it.

use crate::admin::debug::Debug;
use crate::admin::dfsadmin::Dfsadmin;
use crate::admin::haadmin::Haadmin;
use crate::balancer::{self, BalancerArgs};
use crate::console::Console;
use crate::daemons::{self, DaemonArgs, FormatArgs};
use crate::demo::{self, DemoArgs};
use crate::dev::{self, UpArgs};
use crate::doctor::DoctorArgs;
use crate::files::verbs::DfsArgs;
use crate::fsck::FsckArgs;
use crate::getconf::GetconfArgs;
use crate::oev::OevArgs;
use crate::oiv::OivArgs;
use crate::tls::Tls;
use crate::{admin, doctor, files, fsck, getconf, oev, oiv, pages, session, tls};
use anyhow::{Result, bail};
use clap::{Args, Parser, Subcommand};
use std::path::PathBuf;
use std::sync::Arc;

/// Exit code of a command line that makes no sense (Hadoop's).
pub(crate) const USAGE: i32 = 255;

/// HDFS with high availability, rebuilt.
#[derive(Parser, Debug)]
#[command(
    name = "hadal",
    version,
    about = "A distributed file system with HDFS's semantics and commands",
    long_about = "A distributed file system with HDFS's semantics and commands.\n\n\
        `alias hdfs=hadal' runs existing scripts: `hadal dfs -ls /', `hadal dfsadmin -report', `hadal fsck / -files'.\n\
        `hadal dev' starts a cluster on this machine, `hadal demo' shows what it can do, `hadal doctor' checks the machine."
)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Options of every command.
#[derive(Args, Clone, Debug, Default)]
pub(crate) struct Global {
    /// Configuration file [otherwise HADAL_CONFIG, ./hadal-dev/client.toml, ~/.config/hadal/client.toml, /etc/hadal/client.toml]
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Set a configuration key for this command, as in -D client.replication=2
    #[arg(short = 'D', global = true, value_name = "KEY=VALUE")]
    pub(crate) set: Vec<String>,
    /// Print results as JSON
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// No progress bars, no remarks
    #[arg(long, global = true)]
    pub(crate) quiet: bool,
    /// No colours
    #[arg(long, global = true)]
    pub(crate) no_color: bool,
}

impl Global {
    /// The keys set by `-D`, in Hadal's names.
    pub(crate) fn settings(&self) -> Result<Vec<(String, String)>> {
        self.set
            .iter()
            .map(|setting| match setting.split_once('=') {
                Some((key, value)) => Ok((session::own_key(key).to_owned(), value.to_owned())),
                None => bail!("-D takes KEY=VALUE, as in -D client.replication=2, not `{setting}'"),
            })
            .collect()
    }

    fn console(&self) -> Arc<Console> {
        Arc::new(Console::new(self.json, self.quiet, self.no_color))
    }

    fn daemon(&self, id: Option<String>) -> Result<DaemonArgs> {
        let config = self
            .config
            .clone()
            .or_else(|| std::env::var_os("HADAL_CONFIG").map(PathBuf::from));
        Ok(DaemonArgs {
            config,
            id,
            set: self.settings()?,
        })
    }
}

/// All commands.
#[derive(Subcommand, Debug)]
pub(crate) enum Command {
    /// Files and directories, with the verbs of `hdfs dfs`
    #[command(visible_alias = "fs")]
    Dfs(DfsArgs),
    /// Administer the cluster
    #[command(subcommand)]
    Dfsadmin(Dfsadmin),
    /// Administer high availability
    #[command(subcommand)]
    Haadmin(Haadmin),
    /// Check which files are whole
    Fsck(FsckArgs),
    /// Look into nodes; for tests and emergencies
    #[command(subcommand)]
    Debug(Debug),
    /// Print the configuration in force and where it came from
    Getconf(GetconfArgs),
    /// Make certificates
    #[command(subcommand)]
    Tls(Tls),
    /// Check this machine and say how to mend it
    Doctor(DoctorArgs),
    /// A cluster on this machine
    Dev(DevArgs),
    /// Show a cluster at work, and crash it
    Demo(DemoCommand),
    /// Run or format a NameNode
    Namenode(NamenodeArgs),
    /// Run a JournalNode
    Journalnode(NodeArgs),
    /// Run a DataNode
    Datanode(NodeArgs),
    /// Print a completion script
    Completions {
        /// For this shell
        shell: clap_complete::Shell,
    },
    /// Print the manual page
    Man {
        /// Write one page per command into this directory instead
        #[arg(long, value_name = "DIR")]
        dir: Option<PathBuf>,
    },
    /// Print the version
    Version,
    /// Configuration for Hadoop's clients (not in this version)
    #[command(hide = true)]
    ClientConfig(Rest),
    /// Move blocks from full DataNodes to empty ones
    Balancer(BalancerArgs),
    /// Show the namespace in an image file
    Oiv(OivArgs),
    /// Show the edits of a segment file
    Oev(OevArgs),
}

/// Arguments of something that is not there.
#[derive(Args, Debug)]
pub(crate) struct Rest {
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, hide = true)]
    rest: Vec<String>,
}

/// Which node to run.
#[derive(Args, Debug)]
pub(crate) struct NodeArgs {
    /// Node id; may be left out when the configuration names one node of the role
    #[arg(long)]
    id: Option<String>,
    /// What Hadoop has besides
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, hide = true)]
    rest: Vec<String>,
}

/// Start-up options Hadoop's daemons have, and these have not.
const DAEMON_OPTIONS: [&str; 10] = [
    "backup",
    "checkpoint",
    "genclusterid",
    "importCheckpoint",
    "metadataVersion",
    "regular",
    "rollback",
    "rollingUpgrade",
    "upgrade",
    "upgradeOnly",
];

impl NodeArgs {
    /// The exit code when something was asked for that is not there.
    fn refusal(&self, console: &Console, command: &str) -> Option<i32> {
        let word = self.rest.first()?;
        let bare = word.trim_start_matches('-');
        if DAEMON_OPTIONS.contains(&bare) {
            return Some(admin::missing(console, &format!("{command} -{bare}")));
        }
        console.error(format!(
            "{command}: Illegal option {word}\n`hadal {command} --help' lists the options"
        ));
        Some(USAGE)
    }
}

/// A NameNode's start-up options.
#[derive(Args, Debug)]
pub(crate) struct NamenodeArgs {
    /// Make a new namespace
    #[arg(long)]
    format: bool,
    /// Join the namespace that another NameNode of the configuration serves
    #[arg(
        long = "bootstrapStandby",
        alias = "bootstrap-standby",
        conflicts_with = "format"
    )]
    bootstrap_standby: bool,
    /// Begin a new journal behind the newest image here, on the JournalNodes or in the shared directory configured
    #[arg(
        long = "initializeSharedEdits",
        alias = "initialize-shared-edits",
        conflicts_with_all = ["format", "bootstrap_standby"]
    )]
    initialize_shared_edits: bool,
    /// Read a damaged journal up to the damage, and begin a new one there; says what is lost, and asks
    #[arg(
        long,
        conflicts_with_all = ["format", "bootstrap_standby", "initialize_shared_edits"]
    )]
    recover: bool,
    /// Name of the cluster to format
    #[arg(long = "clusterid", alias = "cluster-id", value_name = "NAME")]
    cluster_id: Option<String>,
    /// Format or join although there is a namespace in the directory: all its data there is lost. With -recover: do not ask
    #[arg(long)]
    force: bool,
    /// Never ask: fail where a question would be
    #[arg(long = "nonInteractive", alias = "non-interactive")]
    non_interactive: bool,
    #[command(flatten)]
    node: NodeArgs,
}

/// `hadal dev`.
#[derive(Args, Debug)]
#[command(args_conflicts_with_subcommands = false)]
pub(crate) struct DevArgs {
    /// Where the cluster lives
    #[arg(long, default_value = "hadal-dev", global = true)]
    dir: PathBuf,
    /// NameNodes
    #[arg(long, default_value_t = 2)]
    namenodes: u16,
    /// JournalNodes
    #[arg(long, default_value_t = 3)]
    journalnodes: u16,
    /// DataNodes
    #[arg(long, default_value_t = 3)]
    datanodes: u16,
    /// Threads per node
    #[arg(long, default_value_t = 1)]
    shards: u16,
    /// First port
    #[arg(long, default_value_t = 18000)]
    port_base: u16,
    /// Throw away what is in the directory
    #[arg(long)]
    fresh: bool,
    /// Return once the cluster is ready; it runs on
    #[arg(long)]
    detach: bool,
    #[command(subcommand)]
    verb: Option<DevVerb>,
}

/// What to do with a development cluster.
#[derive(Subcommand, Debug)]
pub(crate) enum DevVerb {
    /// Show its processes
    Status,
    /// SIGKILL one process
    Kill {
        /// Node id
        id: String,
    },
    /// SIGTERM one process
    Stop {
        /// Node id
        id: String,
    },
    /// Start one process again
    Start {
        /// Node id
        id: String,
    },
    /// Stop all
    Down,
}

/// `hadal demo`.
#[derive(Args, Debug)]
pub(crate) struct DemoCommand {
    /// The tree to write [default: the Rust toolchain's directory or the cargo registry]
    #[arg(long, value_name = "PATH")]
    tree: Option<PathBuf>,
    /// All of it, not only 5 000 files and 600 MB
    #[arg(long)]
    full: bool,
    /// Leave the cluster's directory behind
    #[arg(long)]
    keep: bool,
}

/// Runs a command line and returns its exit code.
pub(crate) fn run(cli: Cli) -> Result<i32> {
    let Cli { global, command } = cli;
    let console = global.console();
    let is_daemon = matches!(
        command,
        Command::Namenode(_) | Command::Journalnode(_) | Command::Datanode(_)
    );
    // What a command has to say it says itself; HADAL_LOG asks for more.
    hadal_daemon::init_logging(if is_daemon { "info" } else { "error" });
    match command {
        Command::Dfs(args) => files::run(&global, console, args),
        Command::Dfsadmin(verb) => admin::dfsadmin::run(&global, console, verb),
        Command::Haadmin(verb) => admin::haadmin::run(&global, console, verb),
        Command::Debug(verb) => admin::debug::run(&global, console, verb),
        Command::Fsck(args) => fsck::run(&global, console, args),
        Command::Getconf(args) => getconf::run(&global, &console, &args),
        Command::Tls(verb) => tls::run(&console, &verb),
        Command::Doctor(args) => doctor::run(&global, console, &args),
        Command::Dev(args) => run_dev(&global, args),
        Command::Demo(args) => demo::run(&DemoArgs {
            tree: args.tree,
            full: args.full,
            keep: args.keep,
        }),
        Command::Namenode(args) => run_namenode(&global, &console, args),
        Command::Journalnode(args) => match args.refusal(&console, "journalnode") {
            Some(code) => Ok(code),
            None => daemons::journalnode(&global.daemon(args.id)?),
        },
        Command::Datanode(args) => match args.refusal(&console, "datanode") {
            Some(code) => Ok(code),
            None => daemons::datanode(&global.daemon(args.id)?),
        },
        Command::Completions { shell } => pages::completions(&console, shell),
        Command::Man { dir } => pages::manual(&console, dir.as_deref()),
        Command::Version => {
            console.line(format!("Hadal {}", env!("CARGO_PKG_VERSION")));
            console.flush();
            Ok(0)
        }
        Command::ClientConfig(_) => Ok(admin::missing(&console, "client-config")),
        Command::Balancer(args) => balancer::run(&global, console, args),
        Command::Oiv(args) => oiv::run(&console, args),
        Command::Oev(args) => oev::run(&console, &args),
    }
}

fn run_namenode(global: &Global, console: &Console, args: NamenodeArgs) -> Result<i32> {
    if let Some(code) = args.node.refusal(console, "namenode") {
        return Ok(code);
    }
    let daemon = global.daemon(args.node.id)?;
    if args.bootstrap_standby {
        return daemons::bootstrap_standby(&daemon, args.force, args.non_interactive);
    }
    if args.initialize_shared_edits {
        return daemons::initialize_shared_edits(&daemon, args.force);
    }
    if args.recover {
        return daemons::recover(&daemon, args.force, args.non_interactive);
    }
    match args.format {
        true => daemons::format(
            &daemon,
            &FormatArgs {
                cluster_id: args.cluster_id,
                force: args.force,
                non_interactive: args.non_interactive,
            },
        ),
        false => daemons::namenode(&daemon),
    }
}

fn run_dev(global: &Global, args: DevArgs) -> Result<i32> {
    let dir = &args.dir;
    match args.verb {
        None => dev::up(&UpArgs {
            dir: args.dir,
            namenodes: args.namenodes,
            journalnodes: args.journalnodes,
            datanodes: args.datanodes,
            shards: args.shards,
            port_base: args.port_base,
            fresh: args.fresh,
            detach: args.detach,
        }),
        Some(DevVerb::Status) => dev::status(dir, global.json),
        Some(DevVerb::Kill { id }) => dev::kill(dir, &id),
        Some(DevVerb::Stop { id }) => dev::stop(dir, &id),
        Some(DevVerb::Start { id }) => dev::start(dir, &id),
        Some(DevVerb::Down) => dev::down(dir),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_tree_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn settings_are_keys_and_values() {
        let global = Global {
            set: vec!["dfs.replication=2".into(), "tls.name=a=b".into()],
            ..Global::default()
        };
        assert_eq!(
            global.settings().unwrap(),
            [
                ("client.replication".into(), "2".into()),
                ("tls.name".into(), "a=b".into())
            ]
        );
        let global = Global {
            set: vec!["nonsense".into()],
            ..Global::default()
        };
        assert!(global.settings().is_err());
    }
}
