//! Where the demo plays: a directory, the bucket in this process, and two nodes as processes.
//!
//! ```text
//! bucket/   objects      certs/   of the cluster      a.toml  a/  a.log      b.toml  b/  b.log
//! ```
//! The nodes end with this process, however it ends: they are killed when the stage is dropped, and
//! end by themselves when their standard input does (`--while-stdin`), which is held here.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::net::{TcpListener, UdpSocket};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use celeriant_actors::admin::Order;
use celeriant_client::{Client, Options};
use celeriant_storage::bucket::embedded::{EmbeddedBucket, Faults, Settings};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tokio::time::sleep;

use super::super::cert;
use super::super::failure::Failure;
use super::{PATIENCE, failed};

const NAMES: [&str; 2] = ["a", "b"];
/// So that most transfers are over two of them.
pub(super) const SHARDS: u16 = 4;
const BUCKET: &str = "celeriant";
const ACCESS_KEY: &str = "celeriant";
const SECRET_KEY: &str = "try-it-out";
/// A node that says nothing for so long is asked again.
const ASK_TIMEOUT: Duration = Duration::from_secs(1);
/// Between looks at processes and their state.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Two nodes, their bucket and their files.
pub(super) struct Stage {
    dir: PathBuf,
    /// Nobody has asked for the files.
    remove: bool,
    bucket: EmbeddedBucket,
    nodes: [Node; 2],
}

struct Node {
    name: &'static str,
    address: String,
    child: Option<Child>,
}

impl Stage {
    /// Makes directory, certificates and configurations, and starts the bucket.
    pub(super) fn set(dir: Option<PathBuf>, keep: bool) -> Result<Self, Failure> {
        let remove = dir.is_none() && !keep;
        let dir = match dir {
            Some(dir) => given(&dir)?,
            None => fresh()?,
        };
        let settings = Settings::new(dir.join("bucket"), BUCKET, ACCESS_KEY, SECRET_KEY);
        let bucket = EmbeddedBucket::start(settings, Faults::default())?;
        let mut ports = Ports::new();
        let mut node = |name| {
            let address = format!("127.0.0.1:{}", ports.next()?);
            let replication = format!("127.0.0.1:{}", ports.next()?);
            let text = configuration(&dir, name, &address, &replication, &bucket.endpoint());
            fs::write(dir.join(format!("{name}.toml")), text)?;
            Ok::<_, Failure>(Node { name, address, child: None })
        };
        let nodes = [node(NAMES[0])?, node(NAMES[1])?];
        let stage = Self { dir, remove, bucket, nodes };
        cert::try_out(&stage.dir, &NAMES, SHARDS)?;
        Ok(stage)
    }

    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    /// The files stay.
    pub(super) fn keep(&mut self) {
        self.remove = false;
    }

    pub(super) fn name(&self, at: usize) -> &'static str {
        self.nodes[at].name
    }

    /// Of both nodes.
    pub(super) fn url(&self) -> String {
        self.url_to(&format!("{},{}", self.nodes[0].address, self.nodes[1].address))
    }

    /// Of one node.
    pub(super) fn url_of(&self, at: usize) -> String {
        self.url_to(&self.nodes[at].address)
    }

    /// Over TLS, with everything that is needed to connect.
    fn url_to(&self, addresses: &str) -> String {
        let file = |name: &str| celeriant_client::Url::escape(&self.dir.join("certs").join(name));
        let (ca, cert, key) = (file("ca.crt"), file("client.crt"), file("client.key"));
        format!("celeriant://{addresses}?ca={ca}&cert={cert}&key={key}")
    }

    pub(super) fn bucket_endpoint(&self) -> String {
        self.bucket.endpoint()
    }

    /// For a shell.
    pub(super) fn credentials(&self) -> String {
        let of = |(name, value)| format!("{name}={value}");
        variables().map(of).join(" ")
    }

    /// Starts a node as a process and waits until it answers.
    pub(super) async fn start(&mut self, at: usize) -> Result<(), Failure> {
        let name = self.nodes[at].name;
        let mut command = Command::new(std::env::current_exe()?);
        let config = self.dir.join(format!("{name}.toml"));
        command.args(["server", "--while-stdin", "--allow-buffered", "--config"]).arg(config);
        // What is in the file must hold: nothing of ours that happens to be around.
        let ours = std::env::vars_os().map(|(name, _)| name);
        for name in ours.filter(|name| name.to_string_lossy().starts_with("CELERIANT_")) {
            command.env_remove(name);
        }
        command.envs(variables()).stdin(Stdio::piped()).stdout(Stdio::null());
        command.stderr(log(&self.dir.join(format!("{name}.log")))?);
        // Ctrl-C is for this process, which knows what to do about its nodes.
        command.process_group(0);
        self.nodes[at].child = Some(command.spawn()?);
        let began = Instant::now();
        while self.status(at).await.is_none() {
            self.check(began, &format!("{name} to answer"))?;
            sleep(LOOK_EVERY).await;
        }
        Ok(())
    }

    /// `kill -9`.
    pub(super) fn kill(&mut self, at: usize) -> Result<(), Failure> {
        if let Some(mut child) = self.nodes[at].child.take() {
            child.kill()?;
            child.wait()?;
        }
        Ok(())
    }

    /// SIGTERM; the exit code.
    pub(super) async fn terminate(&mut self, at: usize) -> Result<i32, Failure> {
        let Some(mut child) = self.nodes[at].child.take() else {
            return Err(failed("there is no such process"));
        };
        let asked = Instant::now();
        let sent = kill_process(Pid::from_child(&child), Signal::TERM);
        sent.map_err(io::Error::from)?;
        loop {
            if let Some(status) = child.try_wait()? {
                return Ok(status.code().unwrap_or(-1));
            }
            if asked.elapsed() > PATIENCE {
                child.kill()?;
                return Err(failed(format!("{} does not end", self.nodes[at].name)));
            }
            sleep(LOOK_EVERY).await;
        }
    }

    /// Waits until one leads, and says which.
    pub(super) async fn leader(&mut self) -> Result<usize, Failure> {
        let began = Instant::now();
        loop {
            let statuses = [self.status(0).await, self.status(1).await];
            let leads = |status: &Option<Value>| {
                let status = status.as_ref().filter(|status| status["role"] == "leader");
                status.and_then(|status| status["epoch"].as_u64())
            };
            // One that was deposed may not know it yet.
            let newest = (0..2).filter_map(|at| Some((leads(&statuses[at])?, at))).max();
            if let Some((_, at)) = newest {
                return Ok(at);
            }
            self.check(began, "a leader")?;
            sleep(LOOK_EVERY).await;
        }
    }

    /// Waits until both nodes hold everything, and says which leads.
    pub(super) async fn whole(&mut self) -> Result<usize, Failure> {
        let began = Instant::now();
        loop {
            let statuses = [self.status(0).await, self.status(1).await];
            if let Some(leader) = whole(&statuses) {
                return Ok(leader);
            }
            self.check(began, "both nodes to be in sync")?;
            sleep(LOOK_EVERY).await;
        }
    }

    /// What a node says of itself; `None`: nothing.
    async fn status(&self, at: usize) -> Option<Value> {
        self.nodes[at].child.as_ref()?;
        let options =
            Options { timeout: ASK_TIMEOUT, connect_timeout: ASK_TIMEOUT, ..Options::default() };
        let client = Client::connect_with(&self.url_of(at), options).await.ok()?;
        let order = serde_json::to_string(&Order::Status).ok()?;
        serde_json::from_str(&client.admin(order).await.ok()?).ok()
    }

    /// Whether waiting still makes sense.
    fn check(&mut self, began: Instant, what: &str) -> Result<(), Failure> {
        for node in &mut self.nodes {
            let Some(child) = &mut node.child else { continue };
            if let Some(status) = child.try_wait()? {
                let name = node.name;
                return Err(failed(format!("{name} ended by itself ({status}): see {name}.log")));
            }
        }
        match began.elapsed() > PATIENCE {
            true => Err(failed(format!("waited {PATIENCE:?} for {what}"))),
            false => Ok(()),
        }
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        for at in 0..NAMES.len() {
            // It may have ended already.
            let _ = self.kill(at);
        }
        if self.remove {
            // What is left of it is in a directory for temporary files.
            let _ = fs::remove_dir_all(&self.dir);
        }
    }
}

/// The leader, if the set is both nodes and both know it.
fn whole(statuses: &[Option<Value>; 2]) -> Option<usize> {
    let [one, other] = statuses;
    let (one, other) = (one.as_ref()?, other.as_ref()?);
    let leader = [one, other].iter().position(|status| status["role"] == "leader")?;
    let follower = [one, other][1 - leader];
    let set = [one, other][leader]["in_sync"].as_array()?;
    let both = set.len() == 2 && !set.iter().any(|place| place == "bucket");
    let agree = follower["role"] == "follower" && one["epoch"] == other["epoch"];
    (both && agree).then_some(leader)
}

fn variables() -> [(&'static str, &'static str); 3] {
    [
        ("AWS_ACCESS_KEY_ID", ACCESS_KEY),
        ("AWS_SECRET_ACCESS_KEY", SECRET_KEY),
        ("AWS_REGION", "us-east-1"),
    ]
}

/// A directory that holds nothing, with an absolute path: configurations name it.
fn given(dir: &Path) -> Result<PathBuf, Failure> {
    let bad = |why: &str| Failure::usage(format!("--dir {}: {why}", dir.display()));
    fs::create_dir_all(dir).map_err(|error| bad(&error.to_string()))?;
    if fs::read_dir(dir)?.next().is_some() {
        return Err(bad("must be empty"));
    }
    let dir = fs::canonicalize(dir)?;
    match dir.to_str() {
        Some(_) => Ok(dir),
        None => Err(bad("must be UTF-8")),
    }
}

fn fresh() -> Result<PathBuf, Failure> {
    let parent = fs::canonicalize(std::env::temp_dir())?;
    for attempt in 0..100 {
        let dir = parent.join(format!("celeriant-demo-{}-{attempt}", std::process::id()));
        match fs::create_dir(&dir) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            made => return Ok(made.map(|()| dir)?),
        }
    }
    Err(Failure::usage(format!("no room for a directory in {}: give --dir", parent.display())))
}

fn log(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).open(path)
}

fn configuration(dir: &Path, name: &str, listen: &str, peer: &str, bucket: &str) -> String {
    let file = |name: &str| dir.join(name).display().to_string();
    let keys = [
        ("node_id", name.to_owned()),
        ("data_dir", file(name)),
        ("listen", listen.to_owned()),
        ("http", String::new()),
        ("replication", peer.to_owned()),
        ("bucket", format!("s3://{BUCKET}/demo")),
        ("bucket_endpoint", bucket.to_owned()),
        ("tls_ca", file("certs/ca.crt")),
        ("tls_cert", file(&format!("certs/{name}.crt"))),
        ("tls_key", file(&format!("certs/{name}.key"))),
        ("threads", String::from("1")),
        ("memory", String::from("256MiB")),
    ];
    let table = keys.map(|(key, value)| (key.to_owned(), toml::Value::String(value)));
    toml::Table::from_iter(table).to_string()
}

/// Ports that nobody uses, of TCP and UDP. Below those that the system deals out by itself, so that
/// they stay free while their node is away.
struct Ports(u32);

impl Ports {
    fn new() -> Self {
        Self(std::process::id() % 100 * 100)
    }

    fn next(&mut self) -> Result<u16, Failure> {
        for _ in 0..10_000 {
            self.0 += 1;
            let port = 20_000 + (self.0 % 10_000) as u16;
            let address = ("127.0.0.1", port);
            if TcpListener::bind(address).is_ok() && UdpSocket::bind(address).is_ok() {
                return Ok(port);
            }
        }
        Err(failed("no free port from 20000 to 29999"))
    }
}
