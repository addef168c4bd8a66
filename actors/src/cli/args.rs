//! Words of the command line, as values.

mod audit;
mod bench;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use celeriant_actors::settings::KEYS;
use celeriant_client::{AggregateKey, ClientId, EventId, Expect, Selector, Tls};
use celeriant_net::json::{Begin, parse_begin};
use celeriant_schema::{Credential, Refusal};
use clap::{ArgMatches, FromArgMatches, Parser, Subcommand, ValueEnum};

use super::cert::CertAction;
use super::failure::Failure;
use super::key::{KeyAction, Secret};
use super::schema::SchemaAction;
use super::token::TokenAction;

pub(super) use audit::{AuditAction, Inspect, Verify};
pub(super) use bench::{Bench, Work};

/// An event store: append, retry, read; lose nothing.
#[derive(Debug, Parser)]
#[command(name = "celeriant", version, max_term_width = 100)]
pub(super) struct Args {
    #[command(flatten)]
    pub(super) global: Global,
    #[command(subcommand)]
    pub(super) command: Command,
}

/// Flags that stand before or after the subcommand.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct Global {
    /// Where the store is: celeriant://host:port,host:port[?tls=on|off&ca=FILE&cert=FILE&key=FILE]
    #[arg(
        long,
        global = true,
        env = "CELERIANT_URL",
        default_value = "celeriant://127.0.0.1:7440"
    )]
    pub(super) url: String,
    /// How to print: table on a terminal, json (one object a line) otherwise
    #[arg(long, global = true, value_enum)]
    pub(super) format: Option<Format>,
    /// Longest time for one call, with all its retries, like 2s or 150ms
    #[arg(long, global = true, value_name = "DURATION")]
    pub(super) timeout: Option<Span>,
    /// Connect over TLS to nodes of this certificate authority
    #[arg(long, global = true, env = "CELERIANT_CA", value_name = "FILE")]
    ca: Option<PathBuf>,
    /// Show nodes this certificate
    #[arg(long, global = true, env = "CELERIANT_CERT", value_name = "FILE")]
    cert: Option<PathBuf>,
    /// Private key of --cert
    // Not `key`: that is what aggregates have.
    #[arg(
        id = "client_key",
        long = "key",
        global = true,
        env = "CELERIANT_KEY",
        value_name = "FILE"
    )]
    key: Option<PathBuf>,
    /// Show nodes this API key, or a token of one, over TLS or on this machine
    #[arg(
        long,
        global = true,
        env = "CELERIANT_API_KEY",
        hide_env_values = true,
        value_name = "KEY"
    )]
    api_key: Option<Secret>,
}

impl Global {
    /// The API key, or token of one, if a flag or variable holds it.
    pub(super) fn credential(&self) -> Result<Option<Credential>, Failure> {
        self.api_key.as_ref().map_or(Ok(None), Secret::credential)
    }

    /// Certificates of clients, if flags or variables name some.
    pub(super) fn tls(&self) -> Result<Option<Tls>, Failure> {
        let identity = match (&self.cert, &self.key) {
            (Some(cert), Some(key)) => Some((cert.clone(), key.clone())),
            (None, None) => None,
            _ => return Err(Failure::usage("--cert and --key belong together")),
        };
        match &self.ca {
            Some(ca) => Ok(Some(Tls::from_files(ca, identity)?)),
            None if identity.is_some() => Err(Failure::usage("--cert needs --ca, too")),
            None => Ok(None),
        }
    }
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub(super) enum Format {
    /// For people
    Table,
    /// One object a line
    Json,
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Run one node for trying things out: loopback, no TLS, data in ./celeriant-data
    Dev(Dev),
    /// Watch two nodes and a bucket on this machine lose their leader and nothing else
    Demo(Demo),
    /// Run a node as configured
    Server(Server),
    /// Append one event to an aggregate
    Append(Append),
    /// Delete an aggregate: its events never show again, its version stays
    Delete(Delete),
    /// Take away an aggregate's events below a version
    Trim(Trim),
    /// One atomic write over many aggregates, from a JSON file
    Write(WriteFile),
    /// Read an aggregate's events
    Read(Read),
    /// Show an aggregate's version, hash and times
    Head(Head),
    /// List orgs, an org's types, or a type's aggregates
    Ls(Ls),
    /// Print events as they happen
    Watch(Watch),
    /// Take all events that a selector covers out into one file, verified on the way
    Export(super::export::Export),
    /// Compute all hashes anew: of a cluster's histories, as each node that --url names delivers
    /// them, of a data directory's files, or of an export. Names the first place that does not
    /// match
    Verify(Verify),
    /// Prove that history was not changed: export what the store is, hold it against that later
    Audit {
        #[command(subcommand)]
        action: AuditAction,
    },
    /// Print what segment files hold: offline, read-only
    Inspect(Inspect),
    /// What payloads must conform to: register, list, show, check, demand
    Schema {
        #[command(subcommand)]
        action: SchemaAction,
    },
    /// See and order about the nodes of a pair
    Cluster {
        #[command(subcommand)]
        action: ClusterAction,
    },
    /// Let what was deleted leave the disk of every node that --url names, and pack the log
    Compact(super::compact::Compact),
    /// Serve an S3 bucket from a directory, to try a pair out: it is no second place
    Bucket(Bucket),
    /// API keys: what clients show instead of a certificate
    Key {
        #[command(subcommand)]
        action: KeyAction,
    },
    /// Tokens: what a backend gives to a browser in place of its API key
    Token {
        #[command(subcommand)]
        action: TokenAction,
    },
    /// Make certificates: a cluster's own authority, and what it signs
    Cert {
        #[command(subcommand)]
        action: CertAction,
    },
    /// Put load on a store and measure
    Bench(Bench),
    /// Print a completion script
    Completions {
        /// For which shell
        shell: clap_complete::Shell,
    },
}

#[derive(Debug, Subcommand)]
pub(super) enum ClusterAction {
    /// What every node that --url names says of itself
    Status,
    /// Let the other node lead
    Handover,
    /// What went wrong around a node, as a scenario for `simulation replay`
    Record,
    /// Put a new node into the place of one that is lost for good
    Replace {
        /// Store of the lost node, as `cluster status` shows it
        lost: String,
        /// The new node: celeriant://host:port
        #[arg(long, value_name = "URL")]
        with: String,
    },
    /// The bucket is lost for good: make the cluster's register in a new one
    ///
    /// Stop both nodes, name the new bucket in both configurations, start them, then call this with
    /// both in --url. The node whose log has everything makes the register; the other one joins.
    Recover {
        /// Store of a node that is lost, too: whatever only it holds is given up
        #[arg(long, value_name = "STORE")]
        give_up: Option<String>,
    },
}

#[derive(Debug, clap::Args)]
pub(super) struct Bucket {
    /// Where its objects are
    #[arg(long, default_value = "celeriant-bucket", value_name = "DIR")]
    pub(super) dir: PathBuf,
    /// Where nodes connect; port 0 picks a free one
    #[arg(long, default_value = "127.0.0.1:9000", value_name = "ADDR")]
    pub(super) listen: SocketAddr,
    /// Its name
    #[arg(long, default_value = "celeriant")]
    pub(super) name: String,
    /// Public half of the credentials
    #[arg(long, default_value = "celeriant", env = "AWS_ACCESS_KEY_ID")]
    pub(super) access_key: String,
    /// Secret half
    #[arg(long, default_value = "try-it-out", env = "AWS_SECRET_ACCESS_KEY")]
    pub(super) secret_key: String,
}

#[derive(Debug, clap::Args)]
pub(super) struct Dev {
    /// Where the data is
    #[arg(long, default_value = "celeriant-data", value_name = "DIR")]
    pub(super) data_dir: PathBuf,
    /// Where clients connect; port 0 picks a free one
    #[arg(long, default_value = "127.0.0.1:7440", value_name = "ADDR")]
    pub(super) listen: String,
    /// Shards of a new store [default: as many as cores]
    #[arg(long)]
    pub(super) shards: Option<u16>,
    /// Threads that serve [default: as many as cores]
    #[arg(long)]
    pub(super) threads: Option<u16>,
    /// Where HTTP is served; "" = off [default: as --listen, with port 7442]
    #[arg(long, value_name = "ADDR")]
    pub(super) http: Option<String>,
    /// Origins whose pages may use HTTP, with commas between
    #[arg(long, value_name = "ORIGINS")]
    pub(super) http_cors: Option<String>,
}

#[derive(Debug, clap::Args)]
pub(super) struct Demo {
    /// Where its files are; must be empty [default: a new one for temporary files, removed again]
    #[arg(long, value_name = "DIR")]
    pub(super) dir: Option<PathBuf>,
    /// Leave it running afterwards, until Ctrl-C, and keep its files
    #[arg(long)]
    pub(super) keep: bool,
}

#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = false)]
pub(super) struct Server {
    #[command(subcommand)]
    pub(super) action: Option<ServerAction>,
    /// Configuration file (TOML)
    #[arg(long, global = true, value_name = "FILE", env = "CELERIANT_CONFIG")]
    pub(super) config: Option<PathBuf>,
    /// Show the resulting configuration and where each value came from, then stop
    #[arg(long)]
    pub(super) print_config: bool,
    /// Use a file system that may lose acknowledged writes in a power cut
    #[arg(long)]
    pub(super) allow_buffered: bool,
    /// End at once when standard input ends: a program that starts a node and dies leaves none
    #[arg(long, hide = true)]
    pub(super) while_stdin: bool,
    #[command(flatten)]
    pub(super) keys: KeyFlags,
}

#[derive(Debug, Subcommand)]
pub(super) enum ServerAction {
    /// Check configuration, disk and clock without starting; exit code 2 and reasons if not usable
    Check,
}

/// A flag for every configuration key, by key.
#[derive(Clone, Debug, Default)]
pub(super) struct KeyFlags(pub(super) BTreeMap<String, String>);

impl clap::Args for KeyFlags {
    fn augment_args(command: clap::Command) -> clap::Command {
        KEYS.iter().fold(command, |command, key| {
            let flag = clap::Arg::new(key.name)
                .long(key.name.replace('_', "-"))
                .help(key.help)
                .value_name(key.takes.to_ascii_uppercase().replace(' ', "_"))
                .help_heading("Configuration, over CELERIANT_… variables, over the file")
                .global(true);
            command.arg(flag)
        })
    }

    fn augment_args_for_update(command: clap::Command) -> clap::Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for KeyFlags {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let given = KEYS.iter().filter_map(|key| {
            let value = matches.get_one::<String>(key.name)?;
            Some((key.name.to_owned(), value.clone()))
        });
        Ok(Self(given.collect()))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

#[derive(Debug, clap::Args)]
pub(super) struct Append {
    /// org/type/id
    pub(super) key: AggregateKey,
    /// Event type, with the version of its schema if it is not 1.0
    #[arg(long = "type", value_name = "NAME[@MAJOR.MINOR]")]
    pub(super) event_type: String,
    /// Payload: the JSON itself, @FILE, or - for standard input
    #[arg(long, value_name = "JSON|@FILE|-", allow_hyphen_values = true)]
    pub(super) data: String,
    /// How the payload is to be understood: json, avro, protobuf or bytes
    #[arg(long, default_value = "json")]
    pub(super) content_type: String,
    #[command(flatten)]
    pub(super) on: Condition,
    /// Your identity for the event
    #[arg(long, value_name = "UUID")]
    pub(super) event_id: Option<EventId>,
    /// Metadata, as often as you like
    #[arg(long, value_name = "KEY=VALUE", value_parser = pair)]
    pub(super) meta: Vec<(String, String)>,
}

#[derive(Debug, clap::Args)]
pub(super) struct Delete {
    /// org/type/id
    pub(super) key: AggregateKey,
    #[command(flatten)]
    pub(super) on: Condition,
    /// It takes no events ever again
    #[arg(long)]
    pub(super) never_recreate: bool,
    /// What is remembered of its writers' sequences goes, too: they begin at 1 again
    #[arg(long)]
    pub(super) forget_sequences: bool,
}

#[derive(Debug, clap::Args)]
pub(super) struct Trim {
    /// org/type/id
    pub(super) key: AggregateKey,
    /// Lowest version that stays
    #[arg(long, value_name = "VERSION")]
    pub(super) keep_from: u64,
    #[command(flatten)]
    pub(super) on: Condition,
}

/// On what condition, and how often.
#[derive(Debug, clap::Args)]
pub(super) struct Condition {
    /// What must hold: a version, none, exists or any
    #[arg(long, default_value = "any", value_parser = expect, value_name = "N|none|exists|any")]
    pub(super) expect: Expect,
    /// Who writes, for exactly-once
    #[arg(long, value_name = "UUID", requires = "sequence")]
    pub(super) client_id: Option<ClientId>,
    /// Number of this write by this client to this aggregate: the last one + 1
    #[arg(long, value_name = "N", requires = "client_id")]
    pub(super) sequence: Option<u64>,
}

#[derive(Debug, clap::Args)]
pub(super) struct WriteFile {
    /// JSON: {"client_id","writes":[{"key","expect","sequence","events":[{"type","data"}]}]};
    /// "delete" or "trim" instead of events; - for standard input
    pub(super) file: PathBuf,
}

#[derive(Debug, clap::Args)]
pub(super) struct Read {
    /// org/type/id
    pub(super) key: AggregateKey,
    /// Lowest version
    #[arg(long, value_name = "VERSION")]
    pub(super) from: Option<u64>,
    /// Highest version
    #[arg(long, value_name = "VERSION")]
    pub(super) to: Option<u64>,
    /// Newest first
    #[arg(long)]
    pub(super) backwards: bool,
    /// At most this many events
    #[arg(long, value_name = "N")]
    pub(super) limit: Option<u64>,
    /// Only these event types
    #[arg(long, value_delimiter = ',', value_name = "A,B")]
    pub(super) types: Vec<String>,
    /// Only events of this client
    #[arg(long, value_name = "UUID")]
    pub(super) client_id: Option<ClientId>,
    /// A follower may answer, possibly behind
    #[arg(long)]
    pub(super) any: bool,
}

#[derive(Debug, clap::Args)]
pub(super) struct Head {
    /// org/type/id
    pub(super) key: AggregateKey,
    /// Also show the last sequence of this client
    #[arg(long, value_name = "UUID")]
    pub(super) client_id: Option<ClientId>,
}

#[derive(Debug, clap::Args)]
pub(super) struct Ls {
    /// Nothing: orgs; an org: its types; org/type: its aggregates
    #[arg(value_name = "ORG[/TYPE]")]
    pub(super) of: Option<String>,
    /// Only names that start with this
    #[arg(long, default_value = "")]
    pub(super) prefix: String,
}

#[derive(Debug, clap::Args)]
pub(super) struct Watch {
    /// org/type/id, org/type, org, or '*'; several make one feed
    #[arg(required = true, value_name = "SELECTOR")]
    pub(super) selectors: Vec<Selector>,
    /// Where to begin: start, now, a stamp, or a time (RFC 3339)
    #[arg(long, default_value = "now", value_parser = parse_begin)]
    #[arg(value_name = "start|now|STAMP|TIME")]
    pub(super) from: Begin,
    /// Where to end: with what is there when it begins [default: never]
    #[arg(long, value_parser = ["now"], value_name = "now")]
    pub(super) until: Option<String>,
    /// Only these event types
    #[arg(long, value_delimiter = ',', value_name = "A,B")]
    pub(super) types: Vec<String>,
    /// Leave the payloads out
    #[arg(long)]
    pub(super) headers_only: bool,
    /// A follower may answer
    #[arg(long)]
    pub(super) any: bool,
    /// Also print how far it has got: where to go on (JSON only)
    #[arg(long)]
    pub(super) checkpoints: bool,
}

/// A time span, written with its unit: `2s`, `150ms`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Span(pub(super) Duration);

impl FromStr for Span {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        let number: Option<u64> = text[..digits].parse().ok();
        let micros = number.and_then(|number| match text[digits..].trim() {
            "us" => Some(number),
            "ms" => number.checked_mul(1_000),
            "s" => number.checked_mul(1_000_000),
            "m" => number.checked_mul(60_000_000),
            _ => None,
        });
        let micros = micros.ok_or("write a number with its unit, like 2s, 150ms or 1m")?;
        Ok(Self(Duration::from_micros(micros)))
    }
}

/// Seconds, or a time span with its unit.
fn seconds(text: &str) -> Result<Duration, String> {
    match text.parse::<f64>() {
        Ok(seconds) if seconds >= 0.0 => {
            Duration::try_from_secs_f64(seconds).map_err(|error| error.to_string())
        }
        _ => text.parse::<Span>().map(|span| span.0),
    }
}

/// What must hold for an aggregate.
pub(super) fn expect(text: &str) -> Result<Expect, String> {
    match celeriant_net::json::parse_guard(text) {
        Ok(guard) => Ok(guard.into()),
        Err(Refusal::InvalidArgument { reason, .. }) => Err(reason),
        Err(other) => Err(other.to_string()),
    }
}

fn pair(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("must be KEY=VALUE")?;
    Ok((key.to_owned(), value.to_owned()))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_definition_is_consistent() {
        Args::command().debug_assert();
    }

    #[test]
    fn global_flags_stand_before_or_after_the_subcommand() {
        for line in ["celeriant --format json head a/b/c", "celeriant head a/b/c --format json"] {
            let args = Args::try_parse_from(line.split(' ')).expect("valid");
            assert_eq!(args.global.format, Some(Format::Json));
        }
    }

    #[test]
    fn every_configuration_key_is_a_flag_of_server_before_and_after_check() {
        for line in [
            "celeriant server --data-dir /d --threads 2 check",
            "celeriant server check --data-dir /d --threads 2",
        ] {
            let args = Args::try_parse_from(line.split(' ')).expect("valid");
            let Command::Server(server) = args.command else { panic!("{line}") };
            assert_eq!(server.keys.0["data_dir"], "/d", "{line}");
            assert_eq!(server.keys.0["threads"], "2", "{line}");
            assert!(server.action.is_some());
        }
    }

    #[test]
    fn time_spans_carry_a_unit() {
        assert_eq!("150ms".parse::<Span>().expect("valid").0, Duration::from_millis(150));
        assert!("150".parse::<Span>().is_err());
        assert!("fast".parse::<Span>().is_err());
        assert_eq!(seconds("1.5"), Ok(Duration::from_millis(1500)));
        assert_eq!(seconds("2s"), Ok(Duration::from_secs(2)));
        assert!(seconds("-1").is_err());
    }

    #[test]
    fn expectations_are_versions_or_words() {
        assert_eq!(expect("7"), Ok(Expect::from(7)));
        assert_eq!(expect("none"), Ok(Expect::NoStream));
        assert!(expect("-1").is_err());
        assert!(expect("nothing").is_err());
    }

    #[test]
    fn a_client_id_needs_a_sequence_and_the_other_way_round() {
        let line = "celeriant append a/b/c --type T --data 1 --sequence 1";
        assert!(Args::try_parse_from(line.split(' ')).is_err());
    }
}
