//! Where a bucket can be had from.

use std::cell::Cell;

use celeriant_storage::bucket::embedded::{EmbeddedBucket, Faults, Settings};
use celeriant_storage::bucket::s3::{self, Credentials, S3Bucket};
use celeriant_storage::bucket::{Bucket, Location};
use simulation::bucket::{Cloud, NodeId, SimBucket};
use tempfile::TempDir;

/// One bucket that several processes talk to.
pub(crate) trait Site {
    /// A process' way to it.
    type Bucket: Bucket;

    /// A new way to it.
    fn open(&self) -> Self::Bucket;
}

/// In memory, without a world.
pub(crate) struct Simulated {
    cloud: Cloud,
    nodes: Cell<NodeId>,
}

impl Simulated {
    pub(crate) fn new(seed: u64) -> Self {
        Self { cloud: Cloud::alone(seed), nodes: Cell::new(0) }
    }
}

impl Site for Simulated {
    type Bucket = SimBucket;

    fn open(&self) -> SimBucket {
        self.nodes.set(self.nodes.get() + 1);
        self.cloud.attach(self.nodes.get())
    }
}

pub(crate) const ACCESS_KEY: &str = "access";
pub(crate) const SECRET_KEY: &str = "secret";

/// Settings of the production client for a bucket called `contract` at `endpoint`.
pub(crate) fn client_settings(endpoint: String) -> s3::Settings {
    let location: Location = "s3://contract/a/prefix".parse().expect("a location");
    let credentials =
        Credentials::Static { access_key: ACCESS_KEY.into(), secret_key: SECRET_KEY.into() };
    s3::Settings { endpoint: Some(endpoint), credentials, ..s3::Settings::new(location) }
}

/// The embedded bucket over HTTP.
pub(crate) struct Embedded {
    pub(crate) server: EmbeddedBucket,
    pub(crate) faults: Faults,
    _dir: TempDir,
}

impl Embedded {
    pub(crate) fn start() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let faults = Faults::default();
        let settings = Settings::new(dir.path(), "contract", ACCESS_KEY, SECRET_KEY);
        let server = EmbeddedBucket::start(settings, faults.clone()).expect("starts");
        Self { server, faults, _dir: dir }
    }
}

impl Site for Embedded {
    type Bucket = S3Bucket;

    fn open(&self) -> S3Bucket {
        S3Bucket::open(client_settings(self.server.endpoint())).expect("opens")
    }
}
