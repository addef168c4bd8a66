//! Two nodes as real processes, on loopback or wherever they are put; their bucket in this one.
//!
//! ```text
//! bucket/   objects        certs/   of the cluster, made by the program
//! a.toml  a/  a.log        b.toml  b/  b.log
//! ```
//! Everything is in one directory, which is kept when a test fails.
//!
//! Deliberately absent: what is done to them, which is up to tests.

use std::fs::{self, OpenOptions};
use std::net::{IpAddr, TcpListener, UdpSocket};
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use celeriant_client::{Client, Options, Url};
use celeriant_storage::bucket::embedded::{EmbeddedBucket, Fault, Faults, Rule, Settings};
use serde_json::Value;

use super::node::Node;
use super::program::{call, program};

const NAMES: [&str; 2] = ["a", "b"];
const CLIENT: &str = "client";
const BUCKET: &str = "celeriant";
const ACCESS_KEY: &str = "celeriant";
const SECRET_KEY: &str = "try-it-out";
/// How long a node may take to say how it is: one that is stopped says nothing.
const ASK_TIMEOUT: Duration = Duration::from_secs(1);

/// Two places for nodes and a bucket. Nothing runs but the bucket until it is started.
pub(crate) struct Pair {
    dir: Option<tempfile::TempDir>,
    bucket: Option<EmbeddedBucket>,
    /// `None`: the bucket is none of ours.
    at: Option<Settings>,
    shards: u16,
    members: [Member; 2],
}

struct Member {
    place: Place,
    address: String,
    node: Option<Node>,
}

/// Where a node is.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    /// Its address.
    pub(crate) ip: String,
    /// What its command line starts with.
    pub(crate) prefix: Vec<String>,
    /// Its data directory; `None`: beside the rest.
    pub(crate) data: Option<PathBuf>,
}

impl Place {
    /// This machine.
    pub(crate) fn loopback() -> Self {
        Self { ip: "127.0.0.1".to_owned(), prefix: Vec::new(), data: None }
    }
}

impl Pair {
    /// Makes certificates, data directories and configurations, and starts the bucket.
    pub(crate) fn new(shards: u16) -> Self {
        let places = [Place::loopback(), Place::loopback()];
        Self::at(shards, "127.0.0.1", places)
    }

    /// The same with the bucket at an address of this machine, and the nodes at these places.
    pub(crate) fn at(shards: u16, bucket: &str, places: [Place; 2]) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let mut at = Settings::new(dir.path().join("bucket"), BUCKET, ACCESS_KEY, SECRET_KEY);
        at.listen = (bucket.parse::<IpAddr>().expect("an address"), 0).into();
        let bucket = EmbeddedBucket::start(at.clone(), faults()).expect("a bucket");
        // It comes back where it was.
        at.listen = bucket.address();
        let location = (bucket.endpoint(), BUCKET.to_owned());
        let mut pair = Self::with(dir, shards, location, places);
        (pair.bucket, pair.at) = (Some(bucket), Some(at));
        pair
    }

    /// The same on loopback with a bucket that somebody else runs.
    pub(crate) fn with_bucket(shards: u16, endpoint: String, name: &str) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let places = [Place::loopback(), Place::loopback()];
        Self::with(dir, shards, (endpoint, name.to_owned()), places)
    }

    fn with(
        dir: tempfile::TempDir,
        shards: u16,
        (endpoint, bucket): (String, String),
        places: [Place; 2],
    ) -> Self {
        let certs = dir.path().join("certs").display().to_string();
        call(&["cert", "ca", "--out", &certs], "").line();
        call(&["cert", "client", CLIENT, "--grant", "*:*:all", "--out", &certs], "").line();
        let members = places.map(|place| {
            let address = format!("{}:{}", place.ip, free_port());
            Member { place, address, node: None }
        });
        let pair = Self { dir: Some(dir), bucket: None, at: None, shards, members };
        for at in 0..NAMES.len() {
            pair.format(at);
            pair.configure(at, &endpoint, &bucket);
        }
        pair
    }

    /// Makes a node's data directory, and a certificate that names its store.
    fn format(&self, at: usize) {
        let (certs, data) = (self.path("certs"), self.data(at));
        let (certs, data) = (certs.display().to_string(), data.display().to_string());
        let (shards, host) = (self.shards.to_string(), &self.members[at].place.ip);
        let store = ["cert", "node", NAMES[at], "--data-dir", &data, "--shards", &shards];
        call(&[&store[..], &["--host", host, "--out", &certs]].concat(), "").line();
    }

    /// Where a node's data is.
    pub(crate) fn data(&self, at: usize) -> PathBuf {
        let given = self.members[at].place.data.clone();
        given.unwrap_or_else(|| self.path(NAMES[at]))
    }

    /// Where the bucket listens.
    pub(crate) fn bucket_port(&self) -> u16 {
        self.at.as_ref().expect("a bucket of ours").listen.port()
    }

    /// A node that does not run loses its data directory and gets a new one.
    pub(crate) fn wipe(&self, at: usize) {
        fs::remove_dir_all(self.data(at)).expect("it was there");
        for what in ["crt", "key"] {
            let file = self.path("certs").join(format!("{}.{what}", NAMES[at]));
            fs::remove_file(file).expect("it was there");
        }
        self.format(at);
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.as_ref().expect("kept until the end").path().join(name)
    }

    /// Authority, certificate and key of a client, as files.
    pub(crate) fn certificate(&self) -> [String; 3] {
        let files = ["ca.crt".into(), format!("{CLIENT}.crt"), format!("{CLIENT}.key")];
        files.map(|name: String| self.path("certs").join(name).display().to_string())
    }

    /// Of one node.
    pub(crate) fn url_of(&self, at: usize) -> String {
        self.url_to(&self.members[at].address)
    }

    /// Over TLS, with what a client needs.
    fn url_to(&self, addresses: &str) -> String {
        let file = |name: String| Url::escape(&self.path("certs").join(name));
        let (ca, cert) = (file("ca.crt".into()), file(format!("{CLIENT}.crt")));
        let key = file(format!("{CLIENT}.key"));
        format!("celeriant://{addresses}?ca={ca}&cert={cert}&key={key}")
    }

    /// Of both.
    pub(crate) fn url(&self) -> String {
        self.url_to(&format!("{},{}", self.members[0].address, self.members[1].address))
    }

    fn configure(&self, at: usize, endpoint: &str, bucket: &str) {
        let (name, place) = (NAMES[at], &self.members[at].place);
        let file = |name: &str| self.path(name).display().to_string();
        let mut table = toml::Table::new();
        for (key, value) in [
            ("node_id", name.to_owned()),
            ("data_dir", self.data(at).display().to_string()),
            ("listen", self.members[at].address.clone()),
            ("http", format!("{}:0", place.ip)),
            ("replication", format!("{}:{}", place.ip, free_port())),
            ("bucket", format!("s3://{bucket}/pair")),
            ("bucket_endpoint", endpoint.to_owned()),
            ("tls_ca", file("certs/ca.crt")),
            ("tls_cert", file(&format!("certs/{name}.crt"))),
            ("tls_key", file(&format!("certs/{name}.key"))),
            ("memory", "128MiB".to_owned()),
            ("threads", "1".to_owned()),
            // Rounds end sooner.
            ("rejoin_after_ms", "300".to_owned()),
        ] {
            table.insert(key.to_owned(), toml::Value::String(value));
        }
        fs::write(self.path(&format!("{name}.toml")), table.to_string()).expect("a file");
    }

    /// Starts a node and waits until it listens.
    pub(crate) fn start(&mut self, at: usize) {
        let log = self.path(&format!("{}.log", NAMES[at]));
        let log = OpenOptions::new().create(true).append(true).open(log).expect("a log");
        let prefix = self.members[at].place.prefix.iter().map(String::as_str);
        let mut words = prefix.chain([program().to_str().expect("UTF-8")]);
        let mut command = Command::new(words.next().expect("the program"));
        command.args(words);
        command.args(["server", "--config"]).arg(self.path(&format!("{}.toml", NAMES[at])));
        command.env("AWS_ACCESS_KEY_ID", ACCESS_KEY).env("AWS_SECRET_ACCESS_KEY", SECRET_KEY);
        command.env("AWS_REGION", "us-east-1").stderr(log);
        self.members[at].node = Some(Node::run(command));
    }

    /// Starts a node as one on its own, where it will be found later, too.
    pub(crate) fn start_alone(&mut self, at: usize) {
        let file = |name: String| self.path("certs").join(name);
        let (certificate, key) = (format!("{}.crt", NAMES[at]), format!("{}.key", NAMES[at]));
        let mut command = Command::new(program());
        command.args(["server", "--http", "", "--threads", "1", "--memory", "128MiB"]);
        command.args(["--listen", &self.members[at].address]);
        command.arg("--data-dir").arg(self.data(at));
        command.arg("--tls-ca").arg(file("ca.crt".into()));
        command.arg("--tls-cert").arg(file(certificate)).arg("--tls-key").arg(file(key));
        self.members[at].node = Some(Node::run(command));
    }

    /// `kill -9`.
    pub(crate) fn kill(&mut self, at: usize) {
        self.members[at].node.take().expect("it runs").kill();
    }

    /// SIGTERM, and the exit code.
    pub(crate) fn terminate(&mut self, at: usize) -> Option<i32> {
        self.members[at].node.take().expect("it runs").terminate()
    }

    /// A node that ends by itself: its exit code.
    pub(crate) fn ended(&mut self, at: usize) -> Option<i32> {
        self.members[at].node.take().expect("it ran").ended()
    }

    /// A running node.
    pub(crate) fn node(&self, at: usize) -> &Node {
        self.members[at].node.as_ref().expect("it runs")
    }

    /// Closes the bucket, and all connections to it.
    pub(crate) fn stop_bucket(&mut self) {
        self.bucket = None;
    }

    /// Opens it again, at the same address and with what was in it.
    pub(crate) fn start_bucket(&mut self) {
        let at = self.at.clone().expect("a bucket of ours");
        let bucket = EmbeddedBucket::start(at, faults());
        self.bucket = Some(bucket.expect("its address is free again"));
    }

    /// What a node says of itself; `None`: nothing.
    pub(crate) fn status(&self, at: usize) -> Option<Value> {
        self.members[at].node.as_ref()?;
        let options =
            Options { timeout: ASK_TIMEOUT, connect_timeout: ASK_TIMEOUT, ..Options::default() };
        let url = self.url_of(at);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let report = runtime.expect("a runtime").block_on(async {
            let client = Client::connect_with(&url, options).await.ok()?;
            client.admin(r#"{"order":"status"}"#).await.ok()
        });
        serde_json::from_str(&report?).ok()
    }

    /// The node that says that it leads. One that was deposed may not know it yet.
    pub(crate) fn leader(&self) -> Option<usize> {
        (0..2).find(|at| self.status(*at).is_some_and(|status| status["role"] == "leader"))
    }

    /// The leader, if the set is both nodes and both know it.
    pub(crate) fn whole(&self) -> Option<usize> {
        let statuses = [self.status(0)?, self.status(1)?];
        let leader = statuses.iter().position(|status| status["role"] == "leader")?;
        let (leads, follows) = (&statuses[leader], &statuses[1 - leader]);
        let set = leads["in_sync"].as_array()?;
        let both = set.len() == 2 && !set.iter().any(|place| place == "bucket");
        let agree = leads["epoch"] == follows["epoch"] && follows["role"] == "follower";
        (both && agree).then_some(leader)
    }

    /// Both statuses, to say what is wrong.
    pub(crate) fn describe(&self) -> String {
        let status = |at| self.status(at).map_or("nothing".into(), |status| status.to_string());
        format!("a says {}\nb says {}", status(0), status(1))
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        if std::thread::panicking()
            && let Some(dir) = self.dir.take()
        {
            println!("logs and data are kept in {}", dir.keep().display());
        }
    }
}

/// How long each request to the bucket takes at least, in ms: to measure with.
const BUCKET_MS: &str = "CELERIANT_TEST_BUCKET_MS";

fn faults() -> Faults {
    let faults = Faults::default();
    if let Some(ms) = std::env::var(BUCKET_MS).ok().and_then(|text| text.parse().ok()) {
        faults.add(Rule::for_all(Fault::Slow(Duration::from_millis(ms)), u64::MAX));
    }
    faults
}

/// A port that nobody uses, of TCP and UDP. Below those that the system deals out by itself, so
/// that it stays free until a node takes it, and whenever the node is away.
fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let first = (std::process::id() % 100) as u16 * 100;
    for _ in 0..10_000 {
        let port = 20_000 + (first + NEXT.fetch_add(1, Ordering::Relaxed)) % 10_000;
        let address = ("127.0.0.1", port);
        if TcpListener::bind(address).is_ok() && UdpSocket::bind(address).is_ok() {
            return port;
        }
    }
    panic!("no free port");
}
