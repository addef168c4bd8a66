//! What a node of a pair needs besides: a certificate that its peer will trust, and a bucket that
//! does what it must, also in a race.

use std::net::{IpAddr, ToSocketAddrs, UdpSocket};
use std::time::{Instant, SystemTime};

use celeriant_actors::settings::{Pair, Settings};
use celeriant_net::tls::{Credentials, Files, Material, Name};
use celeriant_schema::BootId;
use celeriant_storage::bucket::probe::{self, Check};
use celeriant_storage::bucket::s3::{self, S3Bucket};
use celeriant_storage::store::Superblock;

use super::super::pair_launch;
use super::Finding;

/// Everything about the pair.
pub(super) async fn look(pair: &Pair, settings: &Settings) -> Vec<Finding> {
    let Some(files) = &settings.certificates else {
        let said = "a pair needs tls_ca, tls_cert and tls_key".to_owned();
        return vec![finding("certificate", false, said)];
    };
    let credentials = match Credentials::load(files.clone()) {
        Ok(credentials) => credentials,
        Err(error) => return vec![finding("certificate", false, error.to_string())],
    };
    let mut findings = vec![certificate(&credentials.current(), files, settings)];
    let launch = match pair_launch(pair, credentials, settings) {
        Ok(launch) => launch,
        Err(failure) => {
            findings.push(finding("secret", false, failure.to_string()));
            return findings;
        }
    };
    findings.extend(endpoint(pair));
    findings.push(bucket(launch.bucket).await);
    findings
}

fn finding(what: &'static str, good: bool, said: String) -> Finding {
    Finding { what, good, said }
}

fn certificate(material: &Material, files: &Files, settings: &Settings) -> Finding {
    let told = |good, said| finding("certificate", good, said);
    let path = files.certificate.display();
    let name = match material.judge(SystemTime::now()) {
        Ok(name) => name,
        Err(why) => return told(false, format!("{path}: a peer would refuse it: {why}")),
    };
    match Superblock::of(&settings.data_dir) {
        Ok(superblock) => {
            let own = Name { cluster: superblock.cluster, store: superblock.store };
            let said = match own == name {
                true => format!("{path} is of this store and of the cluster's CA"),
                false => format!("{path} is for {name}, but the data directory is {own}"),
            };
            told(own == name, said)
        }
        Err(error) => told(false, format!("{path} is for {name}, but {error}")),
    }
}

/// A bucket on one of the nodes' own machines goes down with it.
fn endpoint(pair: &Pair) -> Option<Finding> {
    let endpoint = pair.bucket_endpoint.as_deref()?;
    let address = endpoint.split_once("://").map_or(endpoint, |(_, rest)| rest);
    let address = address.split('/').next().unwrap_or_default();
    let with_port = if address.contains(':') { address.into() } else { format!("{address}:443") };
    let is_here = |ip: IpAddr| ip.is_loopback() || UdpSocket::bind((ip, 0)).is_ok();
    let here = with_port.to_socket_addrs().ok()?.any(|address| is_here(address.ip()));
    here.then(|| {
        let said = format!("note: {endpoint} is on this machine: it is no second place");
        finding("bucket", true, said)
    })
}

/// Every check, with all the races that a start spares itself.
async fn bucket(settings: s3::Settings) -> Finding {
    let mut bucket = match S3Bucket::open(settings) {
        Ok(bucket) => bucket,
        Err(error) => return finding("bucket", false, error.to_string()),
    };
    let begin = Instant::now();
    let report = probe::probe(&mut bucket, BootId::new(random()), Default::default()).await;
    match report.refusal() {
        Some(refusal) => finding("bucket", false, refusal.to_string()),
        None => {
            let (checks, took) = (Check::ALL.len(), begin.elapsed());
            let said = format!("all {checks} checks hold, races included; took {took:.1?}");
            finding("bucket", true, said)
        }
    }
}

/// From the system.
#[allow(clippy::disallowed_methods)]
fn random() -> u64 {
    rand::random()
}
