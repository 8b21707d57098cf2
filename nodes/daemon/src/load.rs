//! Reading the configuration: file, then environment, then flags; later ones win.

use crate::config::Config;
use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use thiserror::Error;
use toml::{Table, Value};

/// Environment variables that override keys: `HADAL_SECTION__KEY`.
const ENV_PREFIX: &str = "HADAL_";

/// The configuration cannot be used.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read configuration {path}: {source}")]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is not TOML.
    #[error("configuration {path} is not valid TOML: {message}")]
    Syntax {
        /// Which file.
        path: PathBuf,
        /// Where and why.
        message: String,
    },
    /// No such key.
    #[error("unknown key `{key}' in {origin}{}", .nearest.as_ref().map_or(String::new(), |nearest| format!("; did you mean `{nearest}'?")))]
    UnknownKey {
        /// The key as written.
        key: String,
        /// The nearest key there is.
        nearest: Option<String>,
        /// Where it stands.
        origin: Origin,
    },
    /// A value does not fit its key.
    #[error("{0}")]
    Value(String),
}

/// Where a value came from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Origin {
    /// Built in.
    Default,
    /// The configuration file.
    File(PathBuf),
    /// An environment variable.
    Environment(String),
    /// A command-line flag.
    Flag,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File(path) => write!(f, "{}", path.display()),
            Self::Environment(name) => write!(f, "environment variable {name}"),
            Self::Flag => f.write_str("command line"),
        }
    }
}

/// A configuration and where its values came from.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The values in force.
    pub config: Config,
    /// Origin of every key that is not a default, by `section.key`.
    pub origins: BTreeMap<String, Origin>,
}

impl Loaded {
    /// The value in force of `section.key` as text, and its origin; `None` when there is no such key.
    #[must_use]
    pub fn value(&self, key: &str) -> Option<(String, Origin)> {
        let table = Table::try_from(&self.config).ok()?;
        let (section, name) = key.split_once('.')?;
        let value = table.get(section)?.get(name)?;
        let text = value
            .as_str()
            .map_or_else(|| value.to_string(), str::to_owned);
        Some((
            text,
            self.origins.get(key).cloned().unwrap_or(Origin::Default),
        ))
    }
}

/// Loads `file` (none: defaults only), the environment variables `environment` and `flags` (`section.key`, value).
///
/// # Errors
/// [`ConfigError`], naming key, value and place.
pub fn load(
    file: Option<&Path>,
    environment: impl IntoIterator<Item = (String, String)>,
    flags: &[(String, String)],
) -> Result<Loaded, ConfigError> {
    let mut origins = BTreeMap::new();
    let mut table = Table::new();
    if let Some(path) = file {
        let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Read {
            path: path.to_owned(),
            source,
        })?;
        table = text
            .parse()
            .map_err(|error: toml::de::Error| ConfigError::Syntax {
                path: path.to_owned(),
                message: error.to_string(),
            })?;
        let origin = Origin::File(path.to_owned());
        check_keys(&table, &origin)?;
        for (section, values) in &table {
            for name in values.as_table().into_iter().flat_map(Table::keys) {
                origins.insert(format!("{section}.{name}"), origin.clone());
            }
        }
    }
    for (variable, value) in environment {
        let Some(rest) = variable.strip_prefix(ENV_PREFIX) else {
            continue;
        };
        let Some((section, name)) = rest.split_once("__") else {
            continue;
        };
        let key = format!("{}.{}", section.to_lowercase(), name.to_lowercase());
        set(
            &mut table,
            &key,
            &value,
            Origin::Environment(variable),
            &mut origins,
        )?;
    }
    for (key, value) in flags {
        set(&mut table, key, value, Origin::Flag, &mut origins)?;
    }
    // Section by section, so that the message can name the key and where it was set.
    let mut config = Config::default();
    macro_rules! section {
        ($($name:ident),*) => {$(
            if let Some(values) = table.remove(stringify!($name)) {
                config.$name = values.clone().try_into().map_err(|error: toml::de::Error| {
                    describe(stringify!($name), &values, &origins, &error)
                })?;
            }
        )*};
    }
    section!(
        cluster,
        namenode,
        journalnode,
        datanode,
        client,
        balancer,
        tls,
        ha,
        fence
    );
    assert!(
        table.is_empty(),
        "a section is known and not taken: {table}"
    );
    Ok(Loaded { config, origins })
}

fn describe(
    section: &str,
    values: &Value,
    origins: &BTreeMap<String, Origin>,
    error: &toml::de::Error,
) -> ConfigError {
    // The deserialiser does not say which key failed: try them one by one.
    let culprit = values
        .as_table()
        .into_iter()
        .flatten()
        .find(|(name, value)| {
            let mut single = Table::new();
            single.insert((*name).clone(), (*value).clone());
            let mut whole = Table::new();
            whole.insert(section.to_owned(), Value::Table(single));
            whole.try_into::<Config>().is_err()
        });
    let message = error.message();
    ConfigError::Value(match culprit {
        Some((name, value)) => {
            let key = format!("{section}.{name}");
            let origin = origins.get(&key).cloned().unwrap_or(Origin::Default);
            format!("bad value for `{key}' in {origin}: {value}: {message}")
        }
        None => format!("bad value in section [{section}]: {message}"),
    })
}

fn known_keys() -> Table {
    Table::try_from(Config::default()).expect("the default configuration is a table")
}

fn check_keys(table: &Table, origin: &Origin) -> Result<(), ConfigError> {
    let known = known_keys();
    for (section, values) in table {
        let Some(names) = known.get(section).and_then(Value::as_table) else {
            return Err(unknown(section, known.keys().map(String::as_str), origin));
        };
        for name in values.as_table().into_iter().flat_map(Table::keys) {
            if !names.contains_key(name) {
                let all: Vec<String> = names
                    .keys()
                    .map(|name| format!("{section}.{name}"))
                    .collect();
                return Err(unknown(
                    &format!("{section}.{name}"),
                    all.iter().map(String::as_str),
                    origin,
                ));
            }
        }
    }
    Ok(())
}

fn unknown<'a>(key: &str, known: impl Iterator<Item = &'a str>, origin: &Origin) -> ConfigError {
    let nearest = known
        .map(|candidate| {
            (
                strsim::normalized_damerau_levenshtein(key, candidate),
                candidate,
            )
        })
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .filter(|(likeness, _)| *likeness > 0.4)
        .map(|(_, candidate)| candidate.to_owned());
    ConfigError::UnknownKey {
        key: key.to_owned(),
        nearest,
        origin: origin.clone(),
    }
}

fn set(
    table: &mut Table,
    key: &str,
    text: &str,
    origin: Origin,
    origins: &mut BTreeMap<String, Origin>,
) -> Result<(), ConfigError> {
    let known = known_keys();
    let default = key
        .split_once('.')
        .and_then(|(section, name)| known.get(section)?.get(name));
    let Some((section, name)) = key.split_once('.').filter(|_| default.is_some()) else {
        let all: Vec<String> = known
            .iter()
            .flat_map(|(section, names)| {
                names
                    .as_table()
                    .into_iter()
                    .flat_map(Table::keys)
                    .map(move |name| format!("{section}.{name}"))
            })
            .collect();
        return Err(unknown(key, all.iter().map(String::as_str), &origin));
    };
    let bad = |what: &str| {
        ConfigError::Value(format!(
            "bad value for `{key}' in {origin}: `{text}' is not {what}"
        ))
    };
    let value = match default.expect("checked above") {
        Value::Integer(_) => Value::Integer(text.parse().map_err(|_| bad("a number"))?),
        Value::Float(_) => Value::Float(text.parse().map_err(|_| bad("a number"))?),
        Value::Boolean(_) => Value::Boolean(text.parse().map_err(|_| bad("true or false"))?),
        Value::Array(_) => {
            let parsed: Table = format!("value = {text}")
                .parse()
                .map_err(|_| bad("a TOML list"))?;
            parsed["value"].clone()
        }
        _ => Value::String(text.to_owned()),
    };
    origins.insert(key.to_owned(), origin);
    let entry = table
        .entry(section)
        .or_insert_with(|| Value::Table(Table::new()));
    if let Some(values) = entry.as_table_mut() {
        values.insert(name.to_owned(), value);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::{Duration, Size};

    fn load_text(text: &str) -> Result<Loaded, ConfigError> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("hadal.toml");
        std::fs::write(&path, text).unwrap();
        load(Some(&path), [], &[])
    }

    #[test]
    fn file_environment_and_flags_override_in_that_order() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("hadal.toml");
        std::fs::write(
            &path,
            "[namenode]\nblock_size = \"1MiB\"\nreplication = 2\n",
        )
        .unwrap();
        let environment = [("HADAL_NAMENODE__REPLICATION".to_owned(), "4".to_owned())];
        let flags = [("datanode.heartbeat_interval".to_owned(), "1s".to_owned())];
        let loaded = load(Some(&path), environment, &flags).unwrap();
        assert_eq!(loaded.config.namenode.block_size, Size(1 << 20));
        assert_eq!(loaded.config.namenode.replication, 4);
        assert_eq!(loaded.config.datanode.heartbeat_interval, Duration(1000));
        assert_eq!(
            loaded.value("namenode.block_size"),
            Some(("1MiB".into(), Origin::File(path)))
        );
        assert_eq!(
            loaded.value("datanode.heartbeat_interval"),
            Some(("1s".into(), Origin::Flag))
        );
        assert_eq!(
            loaded.value("namenode.min_replication"),
            Some(("1".into(), Origin::Default))
        );
        assert_eq!(loaded.value("namenode.nonsense"), None);
    }

    #[test]
    fn an_unknown_key_names_the_nearest() {
        let error = load_text("[datanode]\nheartbeat_intervall = \"3s\"\n")
            .unwrap_err()
            .to_string();
        assert!(error.contains("`datanode.heartbeat_intervall'"), "{error}");
        assert!(
            error.contains("did you mean `datanode.heartbeat_interval'?"),
            "{error}"
        );
        let error = load_text("[namenodes]\n").unwrap_err().to_string();
        assert!(error.contains("did you mean `namenode'?"), "{error}");
        let flags = [("namenode.blocksize".to_owned(), "1".to_owned())];
        let error = load(None, [], &flags).unwrap_err().to_string();
        assert!(
            error.contains("did you mean `namenode.block_size'?"),
            "{error}"
        );
    }

    #[test]
    fn a_bad_value_names_key_and_form() {
        let error = load_text("[namenode]\nreplication = 3\nblock_size = \"many\"\n")
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("namenode.block_size") && error.contains("as in \"128MiB\""),
            "{error}"
        );
        let error = load_text("[datanode]\nheartbeat_interval = 3\n")
            .unwrap_err()
            .to_string();
        assert!(error.contains("datanode.heartbeat_interval"), "{error}");
        let environment = [("HADAL_NAMENODE__REPLICATION".to_owned(), "three".to_owned())];
        let error = load(None, environment, &[]).unwrap_err().to_string();
        assert!(
            error.contains("HADAL_NAMENODE__REPLICATION") && error.contains("a number"),
            "{error}"
        );
    }

    #[test]
    fn a_missing_file_and_bad_syntax_are_told_apart() {
        let error = load(Some(Path::new("/nowhere/hadal.toml")), [], &[]).unwrap_err();
        assert!(matches!(error, ConfigError::Read { .. }));
        assert!(matches!(
            load_text("[namenode\n").unwrap_err(),
            ConfigError::Syntax { .. }
        ));
    }
}
