//! `hadal getconf`: the configuration in force, and where every value came from.

use crate::cli::Global;
use crate::console::Console;
use crate::session;
use anyhow::{Result, anyhow};
use clap::Args;
use hadal_daemon::Loaded;
use hadal_daemon::config::Member;
use serde_json::json;

/// What to print.
#[derive(Args, Clone, Debug)]
#[group(multiple = false)]
pub(crate) struct GetconfArgs {
    /// The value of one key: section.key, or Hadoop's name of it
    #[arg(long = "confKey", alias = "conf-key", value_name = "KEY")]
    conf_key: Option<String>,
    /// Hosts of the NameNodes
    #[arg(long = "namenodes", alias = "nnRpcAddresses")]
    namenodes: bool,
    /// Hosts of the JournalNodes
    #[arg(long = "journalNodes", alias = "journalnodes")]
    journalnodes: bool,
}

/// Keys whose Hadoop names mean something else on a command line than in a question.
const ASKED_OF_NAMENODE: [(&str, &str); 3] = [
    ("dfs.replication", "namenode.replication"),
    ("dfs.blocksize", "namenode.block_size"),
    ("dfs.block.size", "namenode.block_size"),
];

/// Runs the command.
pub(crate) fn run(global: &Global, console: &Console, args: &GetconfArgs) -> Result<i32> {
    let loaded = session::load_config_with(global.config.as_deref(), &global.settings()?)?;
    let cluster = &loaded.config.cluster;
    match &args.conf_key {
        Some(key) => one(console, &loaded, key)?,
        None if args.namenodes => members(console, &cluster.namenodes),
        None if args.journalnodes => members(console, &cluster.journalnodes),
        None => all(console, &loaded)?,
    }
    console.flush();
    Ok(0)
}

fn one(console: &Console, loaded: &Loaded, asked: &str) -> Result<()> {
    let hadoop = ASKED_OF_NAMENODE.iter().find(|(name, _)| *name == asked);
    let key = hadoop.map_or_else(|| session::own_key(asked), |(_, own)| own);
    let Some((value, origin)) = loaded.value(key) else {
        // Setting it tells which key is nearest.
        let nearest = hadal_daemon::load(None, [], &[(key.to_owned(), String::new())]);
        let hint = nearest.err().map_or_else(String::new, |error| {
            let text = error.to_string();
            text.split_once("; ")
                .map_or_else(String::new, |(_, hint)| format!(" {hint}"))
        });
        return Err(anyhow!("Configuration {asked} is missing.{hint}"));
    };
    if console.json {
        console.json(&json!({ "key": key, "value": value, "origin": origin.to_string() }));
    } else {
        console.line(value);
        console.remark(format!("{key}: {origin}"));
    }
    Ok(())
}

fn members(console: &Console, members: &[Member]) {
    if console.json {
        let rows: Vec<_> = members
            .iter()
            .map(|member| json!({ "id": member.id, "address": member.address.to_string() }))
            .collect();
        console.json(&json!(rows));
        return;
    }
    let hosts: Vec<String> = members
        .iter()
        .map(|member| member.address.to_string())
        .collect();
    console.line(hosts.join(" "));
}

fn all(console: &Console, loaded: &Loaded) -> Result<()> {
    let table = toml::Table::try_from(&loaded.config)?;
    let keys = table.iter().flat_map(|(section, values)| {
        let names = values.as_table().into_iter().flat_map(toml::Table::keys);
        names.map(move |name| format!("{section}.{name}"))
    });
    let mut rows = Vec::new();
    for key in keys {
        let Some((value, origin)) = loaded.value(&key) else {
            continue;
        };
        match console.json {
            true => {
                rows.push(json!({ "key": key, "value": value, "origin": origin.to_string() }));
            }
            false => console.line(format!("{key} = {value}  # {origin}")),
        }
    }
    if console.json {
        console.json(&json!(rows));
    }
    Ok(())
}
