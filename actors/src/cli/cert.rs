//! `cert`: a usable set of certificates in one command each.
//!
//! A node's certificate names its store, so the data directory is made with it: a wiped disk is
//! another store, and needs another certificate.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::num::NonZeroU16;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use celeriant_net::tls::{Authority, Grant, Issued, Name, Serial, Subject, Validity, client_uri};
use celeriant_schema::{ClientId, ClusterId, StoreId};
use celeriant_storage::store::{DataDir, Format, Options};
use clap::Subcommand;
use serde_json::{Value, json};

use super::failure::Failure;
use super::output::Output;

const AUTHORITY: &str = "ca";
const CLUSTER: &str = "cluster-id";
/// Serial numbers and names of what was taken back.
const REVOKED: &str = "ca.revoked";
/// A list says when the next one comes; nobody holds it against it when that is late.
const LIST_DAYS: u32 = 365;
/// What is only tried out may be left running, but not forgotten.
const TRY_OUT_DAYS: u32 = 30;
/// Name of the client that tries it out.
pub(super) const TRY_OUT_CLIENT: &str = "client";
/// By which clients on the same machine reach a node.
const LOCAL: [&str; 3] = ["localhost", "127.0.0.1", "::1"];
const DAY: Duration = Duration::from_secs(24 * 60 * 60);
/// Clocks may be behind.
const BEFORE: Duration = Duration::from_secs(60 * 60);

#[derive(Debug, Subcommand)]
pub(super) enum CertAction {
    /// Make a certificate authority: ca.crt, ca.key and cluster-id
    Ca {
        /// Where to
        #[arg(long, default_value = ".", value_name = "DIR")]
        out: PathBuf,
        /// The cluster that it is for, to adopt the data of a single node [default: a new one]
        #[arg(long, value_name = "UUID")]
        cluster: Option<ClusterId>,
        /// Days that it is valid
        #[arg(long, default_value_t = 3650)]
        days: u32,
    },
    /// Make a node's data directory and the certificate that names it: NAME.crt and NAME.key
    Node {
        /// Name of the node
        name: String,
        /// The node's data directory; made if it is empty
        #[arg(long, value_name = "DIR")]
        data_dir: PathBuf,
        /// Shards of a new store: the same for both nodes [default: as many as cores]
        #[arg(long)]
        shards: Option<u16>,
        /// Where ca.crt, ca.key and cluster-id are, and where to put the certificate
        #[arg(long, default_value = ".", value_name = "DIR")]
        out: PathBuf,
        /// Names and addresses by which clients reach it [default: this machine's own]
        #[arg(long = "host", value_name = "HOST")]
        hosts: Vec<String>,
        /// Days that it is valid
        #[arg(long, default_value_t = 365)]
        days: u32,
        /// Use a file system that may lose acknowledged writes in a power cut
        #[arg(long)]
        allow_buffered: bool,
    },
    /// Take certificates back: writes ca.crl, for tls_crl of the nodes
    Revoke {
        /// Name of the certificate: NAME.crt
        name: String,
        /// Where ca.crt, ca.key and the certificate are
        #[arg(long, default_value = ".", value_name = "DIR")]
        out: PathBuf,
    },
    /// Make a client's certificate: NAME.crt and NAME.key
    Client {
        /// Name of the client
        name: String,
        /// What it may do; * is any org or type, all any operation. Without one it may do nothing
        #[arg(long = "grant", value_name = "ORG:TYPE:read,append,watch,retain,schema,admin|all")]
        grants: Vec<Grant>,
        /// It writes under this client id only
        #[arg(long, value_name = "UUID")]
        client_id: Option<ClientId>,
        /// Where ca.crt, ca.key and cluster-id are, and where to put the certificate
        #[arg(long, default_value = ".", value_name = "DIR")]
        out: PathBuf,
        /// Days that it is valid
        #[arg(long, default_value_t = 365)]
        days: u32,
    },
}

pub(super) fn run(action: CertAction, output: &Output) -> Result<(), Failure> {
    match action {
        CertAction::Ca { out, cluster, days } => said(output, &authority(&out, cluster, days)?),
        CertAction::Node { name, data_dir, shards, out, hosts, days, allow_buffered } => {
            let store = store(&out, &data_dir, shards, allow_buffered)?;
            said(output, &node(&out, &name, store, hosts, days)?)
        }
        CertAction::Revoke { name, out } => said(output, &revoke(&out, &name)?),
        CertAction::Client { name, grants, client_id, out, days } => {
            said(output, &client(&out, &name, &grants, client_id, days)?)
        }
    }
}

/// Everything that two nodes on this machine need, which is tried out: an authority, and for each
/// of `names` a data directory of that name in `dir` with a certificate for it; and one for a
/// client that may do everything. Returns where.
pub(super) fn try_out(dir: &Path, names: &[&str], shards: u16) -> Result<PathBuf, Failure> {
    let out = dir.join("certs");
    authority(&out, None, TRY_OUT_DAYS)?;
    for name in names {
        let store = store(&out, &dir.join(name), Some(shards), true)?;
        node(&out, name, store, Vec::new(), TRY_OUT_DAYS)?;
    }
    let everything = "*:*:all".parse().map_err(wrong)?;
    client(&out, TRY_OUT_CLIENT, &[everything], None, TRY_OUT_DAYS)?;
    Ok(out)
}

fn authority(out: &Path, cluster: Option<ClusterId>, days: u32) -> Result<Value, Failure> {
    let cluster = cluster.unwrap_or_else(|| ClusterId::new(random()));
    let name = format!("Celeriant cluster {cluster}");
    let authority = Authority::new(&name, valid(days)).map_err(wrong)?;
    fs::create_dir_all(out)?;
    put(&out.join(CLUSTER), &format!("{cluster}\n"), 0o644)?;
    put_both(out, AUTHORITY, authority.issued())?;
    Ok(json!({"cluster": cluster.to_string(), "authority": out.join("ca.crt")}))
}

/// The store of the data directory, which is made if it is empty.
fn store(
    out: &Path,
    data_dir: &Path,
    shards: Option<u16>,
    allow_buffered: bool,
) -> Result<Name, Failure> {
    let cluster = cluster(out)?;
    let cores = std::thread::available_parallelism().map_or(1, |cores| cores.get() as u16);
    let shard_count = shards.and_then(NonZeroU16::new).map_or(cores, NonZeroU16::get);
    let format = Format { store: StoreId::new(random()), cluster, shard_count };
    let options = Options { format: Some(format), shard_count: shards, allow_buffered };
    let data = DataDir::open(data_dir, &options).map_err(wrong)?;
    let superblock = data.superblock();
    if superblock.cluster != cluster {
        return Err(Failure::usage(format!(
            "{} is of cluster {}, the authority is of {cluster}: to adopt the data of a single \
             node, make the authority with --cluster {1}",
            data_dir.display(),
            superblock.cluster,
        )));
    }
    Ok(Name { cluster, store: superblock.store })
}

fn node(
    out: &Path,
    name: &str,
    store: Name,
    hosts: Vec<String>,
    days: u32,
) -> Result<Value, Failure> {
    let hosts = if hosts.is_empty() { LOCAL.map(String::from).into() } else { hosts };
    let subject = Subject { name: name.to_owned(), node: Some(store), hosts, uris: Vec::new() };
    let certificate = issue(out, &subject, days)?;
    Ok(json!({"store": store.store.to_string(), "certificate": certificate}))
}

fn client(
    out: &Path,
    name: &str,
    grants: &[Grant],
    client_id: Option<ClientId>,
    days: u32,
) -> Result<Value, Failure> {
    let cluster = cluster(out)?;
    let bound = client_id.map(|client| client_uri(cluster, client));
    let uris = grants.iter().map(|grant| grant.uri(cluster)).chain(bound).collect();
    let subject = Subject { name: name.to_owned(), uris, ..Subject::default() };
    let certificate = issue(out, &subject, days)?;
    let grants: Vec<String> = grants.iter().map(Grant::to_string).collect();
    Ok(json!({"client": name, "certificate": certificate, "grants": grants.join(" ")}))
}

/// Takes a certificate back. What was revoked stays revoked: the list is made of a file that only
/// grows.
fn revoke(out: &Path, name: &str) -> Result<Value, Failure> {
    let serial = Serial::of(&read(&out.join(format!("{name}.crt")))?).map_err(wrong)?;
    let path = out.join(REVOKED);
    let before = match fs::read_to_string(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
        before => before?,
    };
    let line = format!("{serial} {name}\n");
    let all = if before.contains(&line) { before } else { before + &line };
    let serials = all.lines().filter_map(|line| line.split(' ').next()).map(str::parse);
    let serials: Vec<Serial> = serials.collect::<Result<_, _>>().map_err(wrong)?;
    let authority = Authority::from_pem(&read(&out.join("ca.crt"))?, &read(&out.join("ca.key"))?);
    let list = authority.map_err(wrong)?.revoke(&serials, serials.len() as u64, valid(LIST_DAYS));
    let crl = out.join("ca.crl");
    replace(&path, &all)?;
    replace(&crl, &list.map_err(wrong)?)?;
    Ok(json!({"revoked": name, "serial": serial.to_string(), "list": crl}))
}

/// Puts a file into the place of another, whole.
fn replace(path: &Path, content: &str) -> io::Result<()> {
    let new = path.with_extension("new");
    fs::write(&new, content)?;
    fs::rename(&new, path)
}

/// Signs a certificate and puts it beside the authority. Returns where.
fn issue(out: &Path, subject: &Subject, days: u32) -> Result<PathBuf, Failure> {
    let name = &subject.name;
    if name.is_empty() || name == AUTHORITY || name.contains(['/', '\0']) {
        return Err(Failure::usage(format!("{name:?} cannot be the name of a certificate")));
    }
    let (certificate, key) = (read(&out.join("ca.crt"))?, read(&out.join("ca.key"))?);
    let authority = Authority::from_pem(&certificate, &key).map_err(wrong)?;
    let issued = authority.issue(subject, valid(days)).map_err(wrong)?;
    put_both(out, name, &issued)?;
    Ok(out.join(format!("{name}.crt")))
}

/// That the authority in `out` is for.
fn cluster(out: &Path) -> Result<ClusterId, Failure> {
    let path = out.join(CLUSTER);
    let not_one = |_| Failure::usage(format!("{}: not a UUID", path.display()));
    read(&path)?.trim().parse().map_err(not_one)
}

fn said(output: &Output, what: &Value) -> Result<(), Failure> {
    if output.is_json() {
        return output.json(what);
    }
    let words = what.as_object().into_iter().flatten().map(|(name, value)| {
        let value = value.as_str().unwrap_or_default();
        format!("{name} {value}")
    });
    output.line(&words.collect::<Vec<_>>().join("\n"))
}

fn valid(days: u32) -> Validity {
    Validity { from: SystemTime::now() - BEFORE, lasts: BEFORE + DAY * days }
}

fn wrong(error: impl std::fmt::Display) -> Failure {
    Failure::usage(error.to_string())
}

fn read(path: &Path) -> Result<String, Failure> {
    let missing = "make it with `celeriant cert ca`";
    fs::read_to_string(path)
        .map_err(|error| Failure::usage(format!("{}: {error}: {missing}", path.display())))
}

fn put_both(out: &Path, name: &str, issued: &Issued) -> Result<(), Failure> {
    put(&out.join(format!("{name}.key")), &issued.key, 0o600)?;
    put(&out.join(format!("{name}.crt")), &issued.certificate, 0o644)
}

/// Writes a new file: what is there is never replaced.
fn put(path: &Path, content: &str, mode: u32) -> Result<(), Failure> {
    let file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path);
    match file.and_then(|mut file| file.write_all(content.as_bytes())) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            Err(Failure::usage(format!("{} is there already: left as it is", path.display())))
        }
        Err(error) => Err(error.into()),
    }
}

/// 128 random bits from the system.
#[allow(clippy::disallowed_methods)]
fn random() -> u128 {
    rand::random()
}
