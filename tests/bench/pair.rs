//! Ours as a pair: two server processes and the bucket's process on loopback, TLS with certificates
//! of both ends between the nodes and with clients. And one node under the same TLS, which shows
//! what TLS costs by itself.
//!
//! Everything is made anew for every sample by the program itself: certificates, data directories,
//! bucket. The bucket idles in a healthy pair.

#![allow(clippy::disallowed_methods)] // A benchmark reads the clock.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::Failure;
use crate::celeriant;
use crate::plan::{Plan, Point, Work};
use crate::process::{Server, free_port, output};
use crate::summary::Sample;

const NAMES: [&str; 2] = ["a", "b"];
/// How long two nodes may take to be in sync, both empty.
const PATIENCE: Duration = Duration::from_secs(60);
const KEYS: [(&str, &str); 3] = [
    ("AWS_ACCESS_KEY_ID", "celeriant"),
    ("AWS_SECRET_ACCESS_KEY", "try-it-out"),
    ("AWS_REGION", "us-east-1"),
];

/// One sample of writes to a pair.
pub(crate) fn sample(plan: &Plan, point: &Point) -> Result<Sample, Failure> {
    with_folder(plan, |folder| {
        let bucket = Bucket::start(plan, folder)?;
        let nodes = NAMES.map(|name| start(plan, folder, name, Some(&bucket)));
        let [a, b] = nodes;
        let nodes = [a?, b?];
        let leader = in_sync(plan, folder, &nodes)?;
        let (server, address) = &nodes[leader];
        celeriant::load(plan, point, Work::Write, &url(folder, address), server.pid())
    })
}

/// One sample of writes to a node on its own, over TLS.
pub(crate) fn sample_alone(plan: &Plan, point: &Point) -> Result<Sample, Failure> {
    with_folder(plan, |folder| {
        let (server, address) = start(plan, folder, NAMES[0], None)?;
        celeriant::load(plan, point, Work::Write, &url(folder, &address), server.pid())
    })
}

/// A folder with certificates and data directories, which is removed afterwards.
fn with_folder(
    plan: &Plan,
    run: impl FnOnce(&Path) -> Result<Sample, Failure>,
) -> Result<Sample, Failure> {
    let folder = plan.work_dir.join("pair");
    fs::create_dir_all(&folder)?;
    let cert = |arguments: &[&str]| {
        let mut command = Command::new(&plan.celeriant);
        output(command.arg("cert").args(arguments).arg("--out").arg(folder.join("certs")))
    };
    cert(&["ca"])?;
    cert(&["client", "client", "--grant", "*:*:all"])?;
    let shards = plan.shards.to_string();
    for name in NAMES {
        let data = folder.join(name).display().to_string();
        cert(&["node", name, "--data-dir", &data, "--shards", &shards])?;
    }
    let sample = run(&folder);
    fs::remove_dir_all(&folder)?;
    sample
}

struct Bucket {
    _server: Server,
    endpoint: String,
}

impl Bucket {
    fn start(plan: &Plan, folder: &Path) -> Result<Self, Failure> {
        let mut command = Command::new(&plan.celeriant);
        command.args(["--format", "json", "bucket", "--listen", "127.0.0.1:0", "--dir"]);
        command.arg(folder.join("bucket")).envs(KEYS);
        let (server, line) = Server::start(&mut command, &folder.join("bucket.log"), true)?;
        let ready: Value = serde_json::from_str(&line)?;
        let endpoint = ready["endpoint"].as_str().ok_or("the bucket did not say where it is")?;
        Ok(Self { _server: server, endpoint: endpoint.to_owned() })
    }
}

/// A node that listens, and where.
fn start(
    plan: &Plan,
    folder: &Path,
    name: &str,
    bucket: Option<&Bucket>,
) -> Result<(Server, String), Failure> {
    let address = format!("127.0.0.1:{}", free_port()?);
    let certificate = |what: &str| folder.join("certs").join(what);
    let mut command = Command::new(&plan.celeriant);
    command.args(["--format", "json", "server", "--node-id", name, "--listen", &address]);
    command.args(["--http", ""]);
    command.args(["--threads", &plan.threads.to_string(), "--log", "warn"]);
    command.arg("--data-dir").arg(folder.join(name)).envs(KEYS);
    command.arg("--tls-ca").arg(certificate("ca.crt"));
    command.arg("--tls-cert").arg(certificate(&format!("{name}.crt")));
    command.arg("--tls-key").arg(certificate(&format!("{name}.key")));
    if let Some(bucket) = bucket {
        command.args(["--replication", &format!("127.0.0.1:{}", free_port()?)]);
        command.args(["--bucket", "s3://celeriant/bench", "--bucket-endpoint", &bucket.endpoint]);
    }
    let log = folder.join(format!("{name}.log"));
    let (server, _) = Server::start(&mut command, &log, true)?;
    Ok((server, address))
}

fn url(folder: &Path, address: &str) -> String {
    let file = |name: &str| -> PathBuf { folder.join("certs").join(name) };
    let (ca, cert, key) = (file("ca.crt"), file("client.crt"), file("client.key"));
    let (ca, cert, key) = (ca.display(), cert.display(), key.display());
    format!("celeriant://{address}?ca={ca}&cert={cert}&key={key}")
}

/// Waits until both nodes are in the set, and says which leads.
fn in_sync(plan: &Plan, folder: &Path, nodes: &[(Server, String); 2]) -> Result<usize, Failure> {
    let began = Instant::now();
    loop {
        let leads = |at: usize| -> Option<bool> {
            let mut command = Command::new(&plan.celeriant);
            command.args(["--format", "json", "--timeout", "1s", "cluster", "status", "--url"]);
            let line = output(command.arg(url(folder, &nodes[at].1))).ok()?;
            let status: Value = serde_json::from_str(line.lines().next()?).ok()?;
            let set = status["in_sync"].as_array()?;
            let both = set.len() == 2 && !set.iter().any(|place| place == "bucket");
            Some(both && status["role"] == "leader")
        };
        if let Some(leader) = (0..nodes.len()).find(|at| leads(*at) == Some(true)) {
            return Ok(leader);
        }
        if began.elapsed() > PATIENCE {
            return Err("the two nodes did not get in sync".into());
        }
        // Each look takes a process and a round trip: there is nothing to wait for in between.
    }
}
