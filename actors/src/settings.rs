//! Configuration of a node: one table of keys, three places a value may come from.
//!
//! ```text
//! defaults ◄─ file (TOML) ◄─ CELERIANT_… variables ◄─ flags        the later wins
//!                   └── text per key, with its source ──► parsed and checked ──► Settings
//! ```
//! Every problem is reported at once, each with the key, where the value came from, and why it
//! cannot be used. Clients come over TLS as soon as there are certificates; without TLS a node
//! listens on loopback only, unless told so.
//!
//! Deliberately absent: reading files, variables or the command line. Those are arguments.

mod keys;
mod parse;

#[cfg(test)]
mod settings_test;

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;

use celeriant_net::tls::{ClientAuth, Files, Grant};
use celeriant_storage::bucket::Location;

pub use keys::{KEYS, Key, nearest};
pub(crate) use parse::size;

use crate::quotas::Quotas;

/// What a node is told, checked. Plain data.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Settings {
    /// Name of this node, unique in its cluster.
    pub node_id: String,
    /// Where its files lie.
    pub data_dir: PathBuf,
    /// Where clients connect.
    pub listen: SocketAddr,
    /// Where the HTTP gateway listens; `None`: nowhere.
    pub http: Option<SocketAddr>,
    /// Origins whose pages may use the gateway.
    pub http_cors: Vec<String>,
    /// Shards of a store that is made now; `None`: as many as cores, or as the store has.
    pub shards: Option<u16>,
    /// Threads that serve.
    pub threads: usize,
    /// Budget for caches and requests in flight, in bytes.
    pub memory: u64,
    /// Gone through in a second, at most, to erase what was deleted or trimmed, in bytes; 0: only
    /// when that is ordered.
    pub compaction: u64,
    /// Least severe level that is logged, or a filter like `info,celeriant_net=debug`.
    pub log: String,
    /// How log lines look.
    pub log_format: LogFormat,
    /// Certificates of this node; one of a pair has some.
    pub certificates: Option<Files>,
    /// What clients must show, over TLS. `None`: they are served in the clear.
    pub clients: Option<ClientAuth>,
    /// What clients may do that show no certificate.
    pub anonymous: Vec<Grant>,
    /// What the writers of orgs may take.
    pub quotas: Quotas,
    /// The other node, and the bucket. `None`: a node on its own.
    pub pair: Option<Pair>,
}

/// What only a node of a pair is told.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Pair {
    /// The bucket that both nodes share: the same bucket is the same cluster.
    pub bucket: Location,
    /// Of an S3-compatible store.
    pub bucket_endpoint: Option<String>,
    /// Where the other node connects.
    pub replication: SocketAddr,
    /// What clients are told; `None`: where it listens.
    pub advertise: Option<String>,
    /// What the other node is told; `None`: where it listens for it.
    pub advertise_replication: Option<String>,
    /// Between signs of life of a leader.
    pub heartbeat_ms: u32,
    /// Least pause between a follower's loss and its return to the set.
    pub rejoin_after_ms: u32,
    /// Holds the secret for hashes of bucket objects.
    pub secret_file: Option<PathBuf>,
}

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One object a line.
    Json,
}

/// Where a value came from.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Source {
    /// Nobody said anything.
    Default,
    /// The configuration file.
    File,
    /// A `CELERIANT_…` variable.
    Variable,
    /// A flag of the command line.
    Flag,
}

/// One key's value, as `--print-config` shows it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Shown {
    /// The key.
    pub key: &'static str,
    /// Its value.
    pub value: String,
    /// Where it came from.
    pub source: Source,
}

/// The result of loading.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Loaded {
    /// Checked values.
    pub settings: Settings,
    /// All keys, in the order of the documentation.
    pub shown: Vec<Shown>,
    /// What has no effect, and why.
    pub notes: Vec<String>,
}

/// Everything that is wrong with a configuration.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ConfigError {
    /// One sentence each: what and why.
    pub reasons: Vec<String>,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.reasons.join("\n"))
    }
}

impl std::error::Error for ConfigError {}

impl Source {
    /// Its name in `--print-config`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Default => "default",
            Self::File => "file",
            Self::Variable => "variable",
            Self::Flag => "flag",
        }
    }
}

/// Values by key, before they are understood.
pub(crate) struct Given {
    values: BTreeMap<&'static str, (String, Source)>,
    reasons: Vec<String>,
}

impl Settings {
    /// Joins a file's text, variables and flags (by key, with `_`), and checks the result.
    /// Variables that no key has are left alone: systems set some of their own with our prefix.
    ///
    /// # Errors
    /// Every problem found.
    pub fn load(
        file: Option<&str>,
        variables: impl IntoIterator<Item = (String, String)>,
        flags: &BTreeMap<String, String>,
    ) -> Result<Loaded, ConfigError> {
        let mut given = Given { values: BTreeMap::new(), reasons: Vec::new() };
        if let Some(text) = file {
            given.take_file(text);
        }
        for (name, value) in variables {
            let key = name.strip_prefix("CELERIANT_").map(str::to_ascii_lowercase);
            if let Some(key) = key.and_then(|key| keys::find(&key)) {
                given.values.insert(key.name, (value, Source::Variable));
            }
        }
        for (name, value) in flags {
            match keys::find(name) {
                Some(key) => {
                    given.values.insert(key.name, (value.clone(), Source::Flag));
                }
                None => given.reasons.push(unknown(name)),
            }
        }
        parse::settings(given)
    }
}

impl Given {
    fn take_file(&mut self, text: &str) {
        let table: toml::Table = match text.parse() {
            Ok(table) => table,
            Err(error) => {
                self.reasons.push(format!("the file is not valid TOML: {error}"));
                return;
            }
        };
        for (name, value) in table {
            let Some(key) = keys::find(&name) else {
                self.reasons.push(unknown(&name));
                continue;
            };
            let text = match value {
                toml::Value::String(text) => text,
                toml::Value::Integer(number) => number.to_string(),
                toml::Value::Boolean(switch) => switch.to_string(),
                other => {
                    let kind = other.type_str();
                    self.reasons.push(format!("{name}: takes {}, got: {kind}", key.takes));
                    continue;
                }
            };
            self.values.insert(key.name, (text, Source::File));
        }
    }

    /// The key's text, if somebody gave one.
    fn get(&self, name: &str) -> Option<&str> {
        self.values.get(name).map(|(text, _)| text.as_str())
    }

    fn source(&self, name: &str) -> Source {
        self.values.get(name).map_or(Source::Default, |(_, source)| *source)
    }

    /// Notes why the value of `name` cannot be used.
    fn refuse(&mut self, name: &str, why: impl fmt::Display) {
        let from = match self.values.get(name) {
            Some((text, source)) => format!(" = {text:?} (from {})", source.name()),
            None => String::new(),
        };
        self.reasons.push(format!("{name}{from}: {why}"));
    }
}

fn unknown(name: &str) -> String {
    match nearest(name) {
        Some(near) => format!("{name}: no such key; did you mean {near}?"),
        None => format!("{name}: no such key"),
    }
}
