//! `dev`, `server` and `server check`: a node as a process.
//!
//! SIGTERM and SIGINT stop accepting, answer what was accepted, and end with exit code 0.
//! Everything that was acknowledged is durable already, so a second signal, or `kill -9`, loses
//! nothing either. SIGHUP reads certificates and the log's level again; certificates are also read
//! when their files change.

mod check;
mod leader;
mod running;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::num::NonZeroU16;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use celeriant_actors::election;
use celeriant_actors::launch::{Launch, PairLaunch};
use celeriant_actors::node::{Error, Node};
use celeriant_actors::settings::{Loaded, Pair, Settings};
use celeriant_net::tls::{Acceptor, Credentials};
use celeriant_net::{Door, Elsewhere, http};
use celeriant_storage::bucket::embedded::{self, EmbeddedBucket, Faults};
use celeriant_storage::bucket::s3;
use celeriant_storage::store;
use serde_json::json;

use self::leader::Leader;
use self::running::{Exchangeable, Log, serve};
use super::args::{Bucket, Dev, Server, ServerAction};
use super::failure::Failure;
use super::output::Output;

pub(super) use self::running::Signals;

/// One node for trying things out.
pub(super) async fn dev(dev: Dev, output: &Output) -> Result<(), Failure> {
    let mut flags = BTreeMap::from([
        ("data_dir".to_owned(), dev.data_dir.display().to_string()),
        ("listen".to_owned(), dev.listen),
        ("node_id".to_owned(), "dev".to_owned()),
        ("memory".to_owned(), "512MiB".to_owned()),
        ("log".to_owned(), "warn".to_owned()),
    ]);
    flags.extend(dev.http.map(|http| ("http".to_owned(), http)));
    flags.extend(dev.http_cors.map(|origins| ("http_cors".to_owned(), origins)));
    flags.extend(dev.shards.map(|shards| ("shards".to_owned(), shards.to_string())));
    flags.extend(dev.threads.map(|threads| ("threads".to_owned(), threads.to_string())));
    let settings = Settings::load(None, [], &flags)?.settings;
    let log = Log::to_stderr(&settings)?;
    let (node, addresses) = start(&settings, None, true).await?;
    // Before anybody is told that it runs: from then on a signal is a wish to stop in good order.
    let signals = Signals::catch()?;
    greet(&settings, addresses, output)?;
    let exchangeable = Exchangeable { log, credentials: None, configured: None };
    serve(node, signals, &exchangeable).await
}

/// A node as configured, or what is asked about its configuration.
pub(super) async fn server(server: Server, output: &Output) -> Result<(), Failure> {
    let loaded = load(&server)?;
    if server.print_config {
        return print_config(&loaded, output);
    }
    if let Some(ServerAction::Check) = server.action {
        return check::run(&loaded, output).await;
    }
    let log = Log::to_stderr(&loaded.settings)?;
    if server.while_stdin {
        end_with_stdin()?;
    }
    for note in &loaded.notes {
        tracing::warn!("{note}");
    }
    let credentials = credentials(&loaded.settings)?;
    let (node, addresses) =
        start(&loaded.settings, credentials.clone(), server.allow_buffered).await?;
    let signals = Signals::catch()?;
    let (address, data_dir) = (addresses.clients, loaded.settings.data_dir.display());
    tracing::info!(%address, http = ?addresses.http, %data_dir, "ready");
    if output.is_json() {
        output.json(&ready(&loaded.settings, addresses))?;
    }
    let exchangeable = Exchangeable { log, credentials, configured: Some(server) };
    serve(node, signals, &exchangeable).await
}

/// The node's certificates, if it has some.
fn credentials(settings: &Settings) -> Result<Option<Credentials>, Failure> {
    let load = |files: &celeriant_net::tls::Files| Credentials::load(files.clone());
    let credentials = settings.certificates.as_ref().map(load).transpose();
    credentials.map_err(|error| Failure::usage(error.to_string()))
}

/// How clients come in.
fn door(settings: &Settings, credentials: Option<Credentials>) -> Result<Door, Failure> {
    let Some((auth, credentials)) = settings.clients.zip(credentials) else {
        return Ok(Door::default());
    };
    let acceptor = Acceptor::new(credentials, auth, settings.anonymous.clone());
    acceptor.map(Door::with_tls).map_err(|error| Failure::usage(error.to_string()))
}

/// An S3 bucket in this process.
pub(super) async fn bucket(args: Bucket, output: &Output) -> Result<(), Failure> {
    let Bucket { dir, listen, name, access_key, secret_key } = args;
    let settings = embedded::Settings {
        listen,
        ..embedded::Settings::new(&dir, &name, &access_key, &secret_key)
    };
    let mut signals = Signals::catch()?;
    let bucket = EmbeddedBucket::start(settings, Faults::default())?;
    if output.is_json() {
        output.json(&json!({"ready": true, "endpoint": bucket.endpoint(), "bucket": name}))?;
    } else {
        output.line(&format!(
            "An S3 bucket to try a pair out: it stands or falls with this machine.\n\
             \n  bucket = \"s3://{name}/prefix\"\n  bucket_endpoint = \"{}\"\n\
             \n  AWS_ACCESS_KEY_ID={access_key} AWS_SECRET_ACCESS_KEY={secret_key}",
            bucket.endpoint()
        ))?;
    }
    signals.end().await;
    Ok(())
}

fn load(server: &Server) -> Result<Loaded, Failure> {
    let text = match &server.config {
        Some(path) => match std::fs::read_to_string(path) {
            Ok(text) => Some(text),
            Err(error) => {
                return Err(Failure::usage(format!("--config {}: {error}", path.display())));
            }
        },
        None => None,
    };
    let variables = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
    Ok(Settings::load(text.as_deref(), variables, &server.keys.0)?)
}

fn print_config(loaded: &Loaded, output: &Output) -> Result<(), Failure> {
    if output.is_json() {
        for shown in &loaded.shown {
            let source = shown.source.name();
            output.json(&json!({"key": shown.key, "value": shown.value, "source": source}))?;
        }
        return Ok(());
    }
    let row = |shown: &celeriant_actors::settings::Shown| {
        vec![shown.key.to_owned(), shown.value.clone(), shown.source.name().to_owned()]
    };
    let rows: Vec<Vec<String>> = loaded.shown.iter().map(row).collect();
    output.table(&["KEY", "VALUE", "FROM"], &rows)?;
    loaded.notes.iter().try_for_each(|note| output.line(&format!("note: {note}")))
}

async fn start(
    settings: &Settings,
    credentials: Option<Credentials>,
    allow_buffered: bool,
) -> Result<(Node, Addresses), Failure> {
    let settings = &with_ports(settings)?;
    let door = || door(settings, credentials.clone());
    let (clients_door, http_door) = (door()?, door()?);
    let pair = settings.pair.as_ref().zip(credentials.clone());
    let launch = Launch {
        data_dir: settings.data_dir.clone(),
        node_id: settings.node_id.clone(),
        shards: settings.shards.and_then(NonZeroU16::new),
        threads: settings.threads,
        memory_bytes: usize::try_from(settings.memory).unwrap_or(usize::MAX),
        compaction_bytes: settings.compaction,
        quotas: settings.quotas.clone(),
        allow_buffered,
        pair: pair.map(|(pair, own)| pair_launch(pair, own, settings)).transpose()?,
    };
    let leader = settings.pair.as_ref().map(|_| Leader::new(settings)).transpose()?;
    let leader = leader.map(|leader| Arc::new(leader) as Arc<dyn Elsewhere>);
    let mut node = launch.start().await.map_err(why_not)?;
    match listen(&mut node, settings, clients_door, http_door, leader).await {
        Ok(addresses) => Ok((node, addresses)),
        Err(error) => {
            node.stop().await;
            Err(why_not(error))
        }
    }
}

/// Where a node listens.
#[derive(Clone, Copy, Debug)]
struct Addresses {
    clients: SocketAddr,
    http: Option<SocketAddr>,
}

async fn listen(
    node: &mut Node,
    settings: &Settings,
    clients_door: Door,
    http_door: Door,
    leader: Option<Arc<dyn Elsewhere>>,
) -> Result<Addresses, Error> {
    let clients = node.listen(settings.listen, clients_door).await?;
    let Some(http) = settings.http else { return Ok(Addresses { clients, http: None }) };
    let gateway = http::Settings {
        cors: settings.http_cors.clone(),
        is_local: http.ip().is_loopback() && settings.clients.is_none(),
        ..http::Settings::default()
    };
    let http = node.serve_http(http, http_door, leader, gateway).await?;
    Ok(Addresses { clients, http: Some(http) })
}

/// A pair's register says where its nodes are found, before they listen: where any port will do,
/// it is one that is free now.
fn with_ports(settings: &Settings) -> Result<Settings, Failure> {
    let mut settings = settings.clone();
    let Some(pair) = &mut settings.pair else { return Ok(settings) };
    if settings.listen.port() == 0 {
        settings.listen = std::net::TcpListener::bind(settings.listen)?.local_addr()?;
    }
    if pair.replication.port() == 0 {
        pair.replication = std::net::UdpSocket::bind(pair.replication)?.local_addr()?;
    }
    Ok(settings)
}

/// What makes the node one of a pair, from its settings.
fn pair_launch(
    pair: &Pair,
    credentials: Credentials,
    settings: &Settings,
) -> Result<PairLaunch, Failure> {
    let secret = match &pair.secret_file {
        None => None,
        Some(path) => match std::fs::read(path) {
            Ok(secret) if secret.is_empty() => {
                let why = format!("cluster_secret_file {}: empty", path.display());
                return Err(Failure::usage(why));
            }
            Ok(secret) => Some(secret),
            Err(error) => {
                let why = format!("cluster_secret_file {}: {error}", path.display());
                return Err(Failure::usage(why));
            }
        },
    };
    let told = |told: &Option<String>, listen: SocketAddr| {
        told.clone().unwrap_or_else(|| listen.to_string())
    };
    let heartbeat = u64::from(pair.heartbeat_ms) * 1_000;
    let rejoin = u64::from(pair.rejoin_after_ms) * 1_000;
    let defaults = election::Settings::default();
    Ok(PairLaunch {
        replication: pair.replication,
        advertise: told(&pair.advertise, settings.listen),
        advertise_replication: told(&pair.advertise_replication, pair.replication),
        bucket: s3::Settings {
            endpoint: pair.bucket_endpoint.clone(),
            ..s3::Settings::new(pair.bucket.clone())
        },
        credentials,
        secret,
        election: election::Settings {
            heartbeat,
            rejoin: (rejoin.min(defaults.rejoin.1), defaults.rejoin.1),
            ..defaults
        },
    })
}

/// Directories and addresses that cannot be used are wrong configuration; damage and failing disks
/// are not.
fn why_not(error: Error) -> Failure {
    match error {
        Error::Listen { .. } => Failure::usage(error.to_string()),
        Error::Link(_) | Error::Bucket(_) => Failure::usage(error.to_string()),
        Error::Store(store::Error::NotAStore { .. }) => Failure::usage(format!(
            "{error}: make it with its certificate, by `celeriant cert node NAME --data-dir DIR`"
        )),
        Error::Store(store::Error::Io { .. } | store::Error::Poisoned) => {
            Failure::Node(error.to_string())
        }
        Error::Store(refused) => Failure::usage(refused.to_string()),
        Error::Storage { shard, source: celeriant_storage::Error::Damage(damage) } => {
            Failure::Node(format!(
                "shard {shard}: {damage}. Nothing was cut, and this store takes no part. One of a \
                 pair: make another data directory with `celeriant cert node`, start on that, and \
                 put it in the place of this one with `celeriant cluster replace`"
            ))
        }
        other => Failure::Node(other.to_string()),
    }
}

/// Ends the process once nobody holds the other end of its standard input, as `kill -9` would: what
/// was acknowledged is durable, and whoever wanted more is gone.
fn end_with_stdin() -> Result<(), Failure> {
    let wait = || {
        let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
        std::process::exit(1);
    };
    std::thread::Builder::new().name("while-stdin".to_owned()).spawn(wait)?;
    Ok(())
}

fn ready(settings: &Settings, addresses: Addresses) -> serde_json::Value {
    let tls = if settings.clients.is_some() { "?tls=on" } else { "" };
    json!({
        "ready": true,
        "url": format!("celeriant://{}{tls}", addresses.clients),
        "http": addresses.http.map(|http| http_url(settings, http)),
        "data_dir": settings.data_dir.display().to_string(),
        "pid": std::process::id(),
    })
}

fn http_url(settings: &Settings, address: SocketAddr) -> String {
    let scheme = if settings.clients.is_some() { "https" } else { "http" };
    format!("{scheme}://{address}")
}

/// Says what to try next. Every line can be pasted into a shell as it is.
fn greet(settings: &Settings, addresses: Addresses, output: &Output) -> Result<(), Failure> {
    if output.is_json() {
        return output.json(&ready(settings, addresses));
    }
    let (program, address) = (program(), addresses.clients);
    let http = addresses.http.map(|http| http_url(settings, http));
    let curl = http.as_ref().map_or_else(String::new, |http| {
        format!("\n  curl {http}/v1/aggregates/acme/account/alice/events")
    });
    let http = http.unwrap_or_else(|| "off".to_owned());
    let url = match address.to_string().as_str() {
        "127.0.0.1:7440" => String::new(),
        other => format!(" --url celeriant://{other}"),
    };
    let run = format!("{program}{url}");
    output.line(&format!(
        "Celeriant {version}: one node, for trying things out\n\
         \n  clients   celeriant://{address}   (loopback, no TLS)\n  HTTP      {http}\
         \n  data      {data}\n\
         \nTry in another terminal:\n\
         \n  {run} append acme/account/alice --type Opened --data '{{\"owner\":\"Alice\"}}' \
         --expect none\
         \n  {run} append acme/account/alice --type Deposited --data '{{\"amount\":100}}' \
         --expect 1\
         \n  {run} read acme/account/alice\
         \n  {run} ls acme/account\
         \n  {run} bench write --connections 64 --duration 5{curl}\n\
         \nOpening alice twice is refused: that is the guard. \
         Stop with Ctrl-C, or try kill -9 {pid}:\n\
         what was answered is there after the next start.",
        version = env!("CARGO_PKG_VERSION"),
        data = settings.data_dir.display(),
        pid = std::process::id(),
    ))
}

/// How this program can be called from where we are, quoted for a shell.
fn program() -> String {
    let called = std::env::args_os().next().map(PathBuf::from).unwrap_or_default();
    let by_name = called.components().count() == 1;
    let path = match std::env::current_exe() {
        Ok(path) if !by_name => path,
        _ => PathBuf::from("celeriant"),
    };
    let here = std::env::current_dir().unwrap_or_default();
    let path = path.strip_prefix(&here).map(Path::to_path_buf).unwrap_or(path);
    shell_word(&path)
}

/// A path as a shell takes it.
pub(super) fn shell_word(path: &Path) -> String {
    let text = path.display().to_string();
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-".contains(c);
    if text.chars().all(plain) { text } else { format!("'{}'", text.replace('\'', r"'\''")) }
}
