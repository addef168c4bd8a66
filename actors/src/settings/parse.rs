//! From texts to checked settings. Every problem is collected, none stops the others.

use std::net::SocketAddr;
use std::path::PathBuf;

use celeriant_net::tls::{ClientAuth, Files, Grant};
use celeriant_schema::limits::SHARDS_MAX;
use celeriant_storage::bucket::Location;

use super::keys::KEYS;
use super::{ConfigError, Given, Loaded, LogFormat, Pair, Settings, Shown};
use crate::quotas::{Quotas, QuotasError};

const LISTEN: &str = "127.0.0.1:7440";
const HTTP_PORT: u16 = 7442;
const REPLICATION: &str = "127.0.0.1:7441";
const HEARTBEAT_MS: u64 = 100;
const REJOIN_AFTER_MS: u64 = 5_000;
const CLIENT_AUTH: ClientAuth = ClientAuth::Required;
const MEMORY: &str = "1GiB";
const COMPACTION: &str = "8MiB";
const MEMORY_MIN: u64 = 64 << 20;
const THREADS_MAX: usize = 1024;

/// Understands and checks what was given.
pub(super) fn settings(mut given: Given) -> Result<Loaded, ConfigError> {
    let node_id = given.get("node_id").unwrap_or("node").to_owned();
    if node_id.is_empty() || node_id.len() > 64 || node_id.chars().any(char::is_control) {
        given.refuse("node_id", "must be 1 to 64 bytes without control characters");
    }
    let data_dir = PathBuf::from(given.get("data_dir").unwrap_or_default());
    if data_dir.as_os_str().is_empty() {
        given.refuse("data_dir", "missing: say where this node keeps its files");
    }
    let plaintext = switch(&mut given, "insecure_plaintext", false);
    let listen = address(&mut given, "listen", LISTEN);
    let certificates = certificates(&mut given);
    let clients = clients(&mut given, certificates.is_some() && !plaintext);
    let anonymous = anonymous(&mut given, clients);
    let quotas: Result<Quotas, QuotasError> = given.get("quotas").unwrap_or_default().parse();
    let quotas = quotas.unwrap_or_else(|why| {
        given.refuse("quotas", why);
        Quotas::default()
    });
    let may_be_exposed = certificates.is_some() || plaintext;
    check_exposure(&mut given, "listen", listen, may_be_exposed);
    let http = http(&mut given, listen);
    if given.get("http").is_some() {
        check_exposure(&mut given, "http", http, may_be_exposed);
    }
    let http_cors = origins(&mut given);
    let shards = number(&mut given, "shards", 1, u64::from(SHARDS_MAX));
    let threads = number(&mut given, "threads", 1, THREADS_MAX as u64);
    let memory = memory(&mut given);
    let compaction = size(given.get("compaction").unwrap_or(COMPACTION)).unwrap_or_else(|| {
        given.refuse("compaction", "must be a size, like 8MiB, or 0");
        0
    });
    let log = given.get("log").unwrap_or("info").to_owned();
    if log.trim().is_empty() {
        given.refuse("log", "must be a level: error, warn, info, debug or trace");
    }
    let log_format = log_format(&mut given);
    let (pair, mut notes) = pair(&mut given, certificates.is_some());
    if certificates.is_some() && clients.is_none() {
        notes.push("clients are served without TLS: insecure_plaintext is set".to_owned());
    }
    let settings = Settings {
        node_id,
        data_dir,
        listen: listen.unwrap_or_else(|| SocketAddr::from(([127, 0, 0, 1], 0))),
        http,
        http_cors,
        shards: shards.map(|shards| shards as u16),
        threads: threads.map_or_else(cores, |threads| threads as usize),
        memory,
        compaction,
        log,
        log_format,
        certificates,
        clients,
        anonymous,
        quotas,
        pair,
    };
    if !given.reasons.is_empty() {
        return Err(ConfigError { reasons: given.reasons });
    }
    let shown = show(&given, &settings, plaintext);
    Ok(Loaded { settings, shown, notes })
}

/// Without TLS everybody who reaches an address could read and write.
fn check_exposure(given: &mut Given, name: &str, address: Option<SocketAddr>, may: bool) {
    let Some(address) = address.filter(|address| !address.ip().is_loopback() && !may) else {
        return;
    };
    let why = format!(
        "{} is not loopback, and without TLS everybody who reaches it could read and write: give \
         tls_ca, tls_cert and tls_key (`celeriant cert` makes them), or set insecure_plaintext = \
         true to do it all the same",
        address.ip()
    );
    given.refuse(name, why);
}

/// Where the gateway listens: if nothing is said, where clients connect, at its own port. Where any
/// port will do for clients, any will do for the gateway.
fn http(given: &mut Given, listen: Option<SocketAddr>) -> Option<SocketAddr> {
    let http = match given.get("http") {
        Some("") => None,
        Some(_) => address(given, "http", ""),
        None => listen.map(|listen| {
            SocketAddr::new(listen.ip(), if listen.port() == 0 { 0 } else { HTTP_PORT })
        }),
    };
    if http.is_some_and(|http| http.port() != 0) && http == listen {
        given.refuse("http", "is where clients connect: say another address, or \"\" for none");
    }
    http
}

/// Origins as browsers say them: scheme, host, port, nothing else.
fn origins(given: &mut Given) -> Vec<String> {
    let text = given.get("http_cors").unwrap_or_default();
    let origins: Vec<String> = text
        .split(',')
        .map(|origin| origin.trim().to_owned())
        .filter(|origin| !origin.is_empty())
        .collect();
    let is_origin = |origin: &String| {
        let host = origin.strip_prefix("https://").or_else(|| origin.strip_prefix("http://"));
        let allowed = |c: char| c.is_ascii_graphic() && !"/*?#@".contains(c);
        host.is_some_and(|host| !host.is_empty() && host.chars().all(allowed))
    };
    if let Some(bad) = origins.iter().find(|origin| !is_origin(origin)).cloned() {
        given.refuse("http_cors", format!("{bad} is not an origin, like https://app.example.com"));
    }
    origins
}

/// Keys that only a node of a pair has.
const OF_A_PAIR: [&str; 7] = [
    "replication",
    "advertise",
    "advertise_replication",
    "bucket_endpoint",
    "heartbeat_ms",
    "rejoin_after_ms",
    "cluster_secret_file",
];

/// What makes the node one of a pair, and what has no effect because it is none.
fn pair(given: &mut Given, has_certificates: bool) -> (Option<Pair>, Vec<String>) {
    let Some(bucket) = given.get("bucket").filter(|bucket| !bucket.is_empty()) else {
        let idle = OF_A_PAIR.iter().filter(|name| given.get(name).is_some());
        let note =
            |name: &&str| format!("{name} has no effect: without bucket this is a single node");
        return (None, idle.map(note).collect());
    };
    let bucket = match bucket.parse::<Location>() {
        Ok(bucket) => Some(bucket),
        Err(error) => {
            given.refuse("bucket", error);
            None
        }
    };
    let replication = address(given, "replication", REPLICATION);
    let heartbeat_ms = number(given, "heartbeat_ms", 10, 10_000).unwrap_or(HEARTBEAT_MS);
    let rejoin_after_ms = number(given, "rejoin_after_ms", 0, 300_000).unwrap_or(REJOIN_AFTER_MS);
    if !has_certificates && TLS_FILES.iter().all(|name| given.get(name).is_none()) {
        let why = "missing: two nodes talk only with certificates (`celeriant cert`)";
        TLS_FILES.iter().for_each(|name| given.refuse(name, why));
    }
    let text = |name: &str| given.get(name).map(str::to_owned);
    let advertise_replication = text("advertise_replication");
    let any = replication.is_some_and(|address| address.ip().is_unspecified());
    if any && advertise_replication.is_none() {
        let why = "missing: the other node cannot connect to an address that means all of them";
        given.refuse("advertise_replication", why);
    }
    let text = |name: &str| given.get(name).map(str::to_owned);
    let (Some(bucket), Some(replication)) = (bucket, replication) else { return (None, vec![]) };
    let pair = Pair {
        bucket,
        bucket_endpoint: text("bucket_endpoint"),
        replication,
        advertise: text("advertise"),
        advertise_replication,
        heartbeat_ms: heartbeat_ms as u32,
        rejoin_after_ms: rejoin_after_ms as u32,
        secret_file: text("cluster_secret_file").map(PathBuf::from),
    };
    (Some(pair), vec![])
}

const TLS_FILES: [&str; 3] = ["tls_ca", "tls_cert", "tls_key"];

/// All of them, or none.
fn certificates(given: &mut Given) -> Option<Files> {
    let path = |name: &str| PathBuf::from(given.get(name).unwrap_or_default());
    let paths = TLS_FILES.map(path);
    let missing = |path: &PathBuf| path.as_os_str().is_empty();
    if paths.iter().any(missing) && !paths.iter().all(missing) {
        for (name, _) in TLS_FILES.iter().zip(&paths).filter(|(_, path)| missing(path)) {
            given.refuse(name, "missing: authority, certificate and key belong together");
        }
    }
    let [authority, certificate, key] = paths;
    let revoked = given.get("tls_crl").map(PathBuf::from).filter(|path| !missing(path));
    if revoked.is_some() && missing(&authority) {
        given.refuse("tls_crl", "there is no tls_ca that could have revoked anything");
    }
    (!missing(&authority)).then_some(Files { authority, certificate, key, revoked })
}

/// What clients must show, if they come over TLS.
fn clients(given: &mut Given, over_tls: bool) -> Option<ClientAuth> {
    let auth = match given.get("tls_client_auth").unwrap_or(CLIENT_AUTH.name()).parse() {
        Ok(auth) => auth,
        Err(why) => {
            given.refuse("tls_client_auth", why);
            return None;
        }
    };
    if !over_tls && auth != ClientAuth::None && given.get("tls_client_auth").is_some() {
        let why = "clients are served without TLS, where nobody can show a certificate";
        given.refuse("tls_client_auth", why);
    }
    over_tls.then_some(auth)
}

/// What those may do who show nothing.
fn anonymous(given: &mut Given, clients: Option<ClientAuth>) -> Vec<Grant> {
    let text = given.get("anonymous").unwrap_or_default();
    let grants: Result<Vec<Grant>, _> = text.split_whitespace().map(str::parse).collect();
    let grants = match grants {
        Ok(grants) => grants,
        Err(why) => {
            given.refuse("anonymous", why);
            return Vec::new();
        }
    };
    let why = match clients {
        _ if grants.is_empty() => return grants,
        Some(ClientAuth::Required) => "tls_client_auth is required: everybody shows a certificate",
        None => "without TLS everybody may do everything",
        Some(ClientAuth::Optional | ClientAuth::None) => return grants,
    };
    given.refuse("anonymous", why);
    grants
}

fn switch(given: &mut Given, name: &str, default: bool) -> bool {
    match given.get(name) {
        None => default,
        Some("true") => true,
        Some("false") => false,
        Some(_) => {
            given.refuse(name, "must be true or false");
            default
        }
    }
}

fn number(given: &mut Given, name: &str, min: u64, max: u64) -> Option<u64> {
    let number = given.get(name)?.parse().ok().filter(|number| (min..=max).contains(number));
    if number.is_none() {
        given.refuse(name, format!("must be a number from {min} to {max}"));
    }
    number
}

fn address(given: &mut Given, name: &str, default: &str) -> Option<SocketAddr> {
    let text = given.get(name).unwrap_or(default);
    let text = text.replace("localhost", "127.0.0.1");
    let address = text.parse().ok();
    if address.is_none() {
        given.refuse(name, "must be an IP address and a port, like 127.0.0.1:7440");
    }
    address
}

fn memory(given: &mut Given) -> u64 {
    match size(given.get("memory").unwrap_or(MEMORY)) {
        Some(bytes) if bytes >= MEMORY_MIN => bytes,
        Some(_) => {
            given.refuse("memory", "must be at least 64MiB");
            0
        }
        None => {
            given.refuse("memory", "must be a size, like 512MiB or 8GiB");
            0
        }
    }
}

/// Bytes, with an optional unit: `4096`, `512MiB`, `8GiB`.
pub(crate) fn size(text: &str) -> Option<u64> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let number: u64 = text[..digits].parse().ok()?;
    let unit = match text[digits..].trim() {
        "" | "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        "TiB" => 1u64 << 40,
        _ => return None,
    };
    number.checked_mul(unit)
}

fn log_format(given: &mut Given) -> LogFormat {
    match given.get("log_format") {
        None | Some("text") => LogFormat::Text,
        Some("json") => LogFormat::Json,
        Some(_) => {
            given.refuse("log_format", "must be text or json");
            LogFormat::Text
        }
    }
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

fn show(given: &Given, settings: &Settings, plaintext: bool) -> Vec<Shown> {
    let default = |name: &str| match name {
        "node_id" => settings.node_id.clone(),
        "listen" => settings.listen.to_string(),
        "http" => settings.http.map(|http| http.to_string()).unwrap_or_default(),
        "replication" if settings.pair.is_some() => REPLICATION.to_owned(),
        "heartbeat_ms" if settings.pair.is_some() => HEARTBEAT_MS.to_string(),
        "rejoin_after_ms" if settings.pair.is_some() => REJOIN_AFTER_MS.to_string(),
        "shards" => format!("{} if the store is new", cores()),
        "threads" => settings.threads.to_string(),
        "memory" => MEMORY.to_owned(),
        "compaction" => COMPACTION.to_owned(),
        "tls_client_auth" => settings.clients.unwrap_or(ClientAuth::None).to_string(),
        "insecure_plaintext" => plaintext.to_string(),
        "log" => settings.log.clone(),
        "log_format" => "text".to_owned(),
        _ => String::new(),
    };
    let shown = KEYS.iter().map(|key| Shown {
        key: key.name,
        value: given.get(key.name).map_or_else(|| default(key.name), str::to_owned),
        source: given.source(key.name),
    });
    shown.collect()
}
