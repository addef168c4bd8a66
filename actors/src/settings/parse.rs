//! From texts to checked settings. Every problem is collected, none stops the others.

use std::net::SocketAddr;
use std::path::PathBuf;

use celeriant_net::tls::{ClientAuth, Files};
use celeriant_schema::limits::SHARDS_MAX;
use celeriant_storage::bucket::Location;

use super::keys::{KEYS, Support};
use super::{ConfigError, Given, Loaded, LogFormat, Pair, Settings, Shown};

const LISTEN: &str = "127.0.0.1:7440";
const REPLICATION: &str = "127.0.0.1:7441";
const HEARTBEAT_MS: u64 = 100;
const REJOIN_AFTER_MS: u64 = 5_000;
const CLIENT_AUTH: ClientAuth = ClientAuth::Required;
const MEMORY: &str = "1GiB";
const MEMORY_MIN: u64 = 64 << 20;
const THREADS_MAX: usize = 1024;

/// Understands and checks what was given.
pub(super) fn settings(mut given: Given) -> Result<Loaded, ConfigError> {
    check_support(&mut given);
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
    let exposed = listen.filter(|listen| !listen.ip().is_loopback());
    if let Some(listen) = exposed.filter(|_| certificates.is_none() && !plaintext) {
        let why = format!(
            "{} is not loopback, and without TLS everybody who reaches it could read and write: \
             give tls_ca, tls_cert and tls_key (`celeriant cert` makes them), or set \
             insecure_plaintext = true to do it all the same",
            listen.ip()
        );
        given.refuse("listen", why);
    }
    let shards = number(&mut given, "shards", 1, u64::from(SHARDS_MAX));
    let threads = number(&mut given, "threads", 1, THREADS_MAX as u64);
    let memory = memory(&mut given);
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
        shards: shards.map(|shards| shards as u16),
        threads: threads.map_or_else(cores, |threads| threads as usize),
        memory,
        log,
        log_format,
        certificates,
        clients,
        pair,
    };
    if !given.reasons.is_empty() {
        return Err(ConfigError { reasons: given.reasons });
    }
    let shown = show(&given, &settings, plaintext);
    Ok(Loaded { settings, shown, notes })
}

/// Refuses keys of what this version lacks.
fn check_support(given: &mut Given) {
    for key in KEYS {
        let Some(text) = given.get(key.name).map(str::to_owned) else { continue };
        if let Support::OnlyOff(off, why) = key.support
            && text != off
        {
            given.refuse(key.name, format!("not in this version yet: {why}; only {off:?} works"));
        }
    }
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
    (!missing(&authority)).then_some(Files { authority, certificate, key })
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
fn size(text: &str) -> Option<u64> {
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
        "replication" if settings.pair.is_some() => REPLICATION.to_owned(),
        "heartbeat_ms" if settings.pair.is_some() => HEARTBEAT_MS.to_string(),
        "rejoin_after_ms" if settings.pair.is_some() => REJOIN_AFTER_MS.to_string(),
        "shards" => format!("{} if the store is new", cores()),
        "threads" => settings.threads.to_string(),
        "memory" => MEMORY.to_owned(),
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
