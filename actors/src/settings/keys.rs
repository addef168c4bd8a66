//! The table of configuration keys: name, what it takes, what it is for.

/// One key: in the file as it is, as a flag with `-` for `_`, as a variable in capitals after
/// `CELERIANT_`.
#[derive(Clone, Copy, Debug)]
pub struct Key {
    /// Its name in the file.
    pub name: &'static str,
    /// What kind of value.
    pub takes: &'static str,
    /// What it is for.
    pub help: &'static str,
}

const fn key(name: &'static str, takes: &'static str, help: &'static str) -> Key {
    Key { name, takes, help }
}

/// All of them, in the order of the documentation.
pub const KEYS: &[Key] = &[
    key("node_id", "a name", "Name of this node, unique in its cluster"),
    key("data_dir", "a path", "Directory of this node's files"),
    key("listen", "host:port", "Where clients connect; loopback unless allowed"),
    key("replication", "host:port", "Where the other node connects (QUIC)"),
    key("http", "host:port", "Where the HTTP gateway listens; \"\" = off"),
    key("http_cors", "origins", "Origins whose pages may use the gateway, with commas between"),
    key("advertise", "host:port", "What clients are told to connect to"),
    key("advertise_replication", "host:port", "What the other node is told to connect to"),
    key("bucket", "a URL", "The bucket that both nodes share; none = a node on its own"),
    key("bucket_endpoint", "a URL", "Of an S3-compatible store"),
    key("shards", "a number", "Shards of a new store; fixed once it is made"),
    key("threads", "a number", "Threads that serve"),
    key("memory", "a size", "Budget for caches and requests in flight"),
    key("compaction", "a size", "Gone through per second for what was deleted; 0 = when ordered"),
    key("tls_ca", "a path", "Certificate authority of the nodes and of clients"),
    key("tls_cert", "a path", "This node's certificate"),
    key("tls_key", "a path", "This node's private key"),
    key("tls_crl", "a path", "Certificates that tls_ca has revoked (`cert revoke`)"),
    key(
        "tls_client_auth",
        "required, optional or none",
        "Whether clients must show a certificate of tls_ca",
    ),
    key(
        "anonymous",
        "grants",
        "What clients may do that show no certificate, with spaces between; \"\" = nothing",
    ),
    key(
        "quotas",
        "quotas",
        "What an org may take: ORG:writes=N,bytes=SIZE,reads=N,read_bytes=SIZE (per second),\
         connections=N,watchers=N; * for others",
    ),
    key(
        "insecure_plaintext",
        "true or false",
        "Serve clients without TLS, also on anything but loopback",
    ),
    key("log", "a level or filter", "error, warn, info, debug or trace"),
    key("log_format", "text or json", "How log lines look"),
    key("heartbeat_ms", "a number", "Between the nodes of a pair"),
    key(
        "rejoin_after_ms",
        "a number",
        "Pause before a follower that was lost counts again; doubles when it is lost again soon",
    ),
    key("cluster_secret_file", "a path", "Secret for hashes on bucket objects"),
];

/// The key of this name.
pub(super) fn find(name: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.name == name)
}

/// The known key that `name` most probably means, if one is near enough.
pub fn nearest(name: &str) -> Option<&'static str> {
    let distances = KEYS.iter().map(|key| (distance(name, key.name), key.name));
    let (distance, near) = distances.min()?;
    (distance <= 1 + near.len() / 3).then_some(near)
}

/// Insertions, deletions and replacements between two texts (Levenshtein).
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}
