//! From a data directory to a running node: the real parts, joined.

use std::net::SocketAddr;
use std::num::NonZeroU16;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use celeriant_net::link::quic::{self, QuicLink};
use celeriant_net::tls;
use celeriant_schema::peer::{Features, Hello};
use celeriant_schema::{BootId, ClusterId, Epoch, ShardId, StoreId};
use celeriant_storage::DirectoryBudget;
use celeriant_storage::bucket::probe;
use celeriant_storage::bucket::s3::{self, S3Bucket};
use celeriant_storage::disk::{self, FileDisk};
use celeriant_storage::store::{self, DataDir, Format};

use crate::bucket_log::{self, BucketLogs};
use crate::clock::SystemClock;
use crate::election::register::{Member, Seal};
use crate::election::vocabulary::May;
use crate::election::{self, Keeper};
use crate::node::pair::{AnyPair, Pair};
use crate::node::{Components, Error, Membership, Node, Placement, Settings, TakeEpoch};
use crate::quotas::Quotas;
use crate::replicator;

/// What a node on this machine is made from.
#[derive(Clone, Debug)]
pub struct Launch {
    /// Where its data is; formatted if it is empty.
    pub data_dir: PathBuf,
    /// This node's name.
    pub node_id: String,
    /// Shards of a new store; an existing one keeps its count, and another number here is refused.
    pub shards: Option<NonZeroU16>,
    /// Threads that shards, connections and coordinators are dealt to.
    pub threads: usize,
    /// Bytes of memory that the node may use for data.
    pub memory_bytes: usize,
    /// Gone through in a second, at most, to erase what was deleted or trimmed, in bytes.
    pub compaction_bytes: u64,
    /// What the writers of orgs may take.
    pub quotas: Quotas,
    /// Use a file system that may lose acknowledged writes in a power cut.
    pub allow_buffered: bool,
    /// The other node, and the bucket. `None`: a node on its own.
    pub pair: Option<PairLaunch>,
}

/// What this version reads and writes.
const FEATURE_LEVEL: u16 = 1;
/// Races of the probe at each start: `server check` makes more.
const PROBE_ROUNDS: u64 = 3;

/// How `memory` is divided, in sixteenths. What is left is for frames in flight, connections and
/// the program itself.
mod share {
    /// Requests that are not answered yet.
    pub(super) const ADMISSION: usize = 2;
    /// Frames of the log, for reads.
    pub(super) const FRAMES: usize = 4;
    /// Pages of the directories: filters and indexes of the runs, and the rows looked at lately.
    pub(super) const PAGES: usize = 4;
    /// Rows that the directories have not written out.
    pub(super) const MEMTABLES: usize = 2;
}

/// What makes a node one of a pair.
#[derive(Clone, Debug)]
pub struct PairLaunch {
    /// Where the other node connects.
    pub replication: SocketAddr,
    /// Host and port that clients are told; empty = where it listens.
    pub advertise: String,
    /// Host and port that the other node is told.
    pub advertise_replication: String,
    /// The bucket that both nodes share.
    pub bucket: s3::Settings,
    /// The cluster's CA, and this node's certificate with its key.
    pub credentials: tls::Credentials,
    /// Content of the cluster's secret file: hashes of bucket objects are made with it.
    pub secret: Option<Vec<u8>>,
    /// Times of the election.
    pub election: election::Settings,
}

impl Launch {
    /// Opens the data directory and starts a node on it. It does not listen yet.
    ///
    /// # Errors
    /// When the directory cannot be used, is damaged, or a thread cannot be started.
    pub async fn start(self) -> Result<Node, Error> {
        let shards_of_new = self.shards.map_or(self.threads.max(1) as u16, NonZeroU16::get);
        let format = Format {
            store: StoreId::new(random()),
            cluster: ClusterId::new(random()),
            shard_count: shards_of_new,
        };
        let options = store::Options {
            // A certificate names the store, so that of a pair is made with it (`cert node`).
            format: self.pair.is_none().then_some(format),
            shard_count: self.shards.map(NonZeroU16::get),
            allow_buffered: self.allow_buffered,
        };
        let data = DataDir::open(&self.data_dir, &options)?;
        let (cluster, shards) = (data.superblock().cluster, data.superblock().shard_count);
        let settings = self.settings(cluster, shards);
        let kind = data.file_system().disk_kind();
        let paths: Vec<PathBuf> =
            (0..shards).map(|shard| data.shard_path(ShardId::new(shard))).collect();
        let disks = move |shard: ShardId| disk::open(&paths[usize::from(shard.value())], kind);
        let boot = BootId::new(random() as u64);
        let membership = match self.pair {
            None => Membership::Alone(take_epoch(data)),
            Some(pair) => Membership::Pair(pair.join(data, self.node_id, boot).await?),
        };
        let components: Components<FileDisk> = Components {
            cluster,
            boot,
            clock: Arc::new(SystemClock),
            disks: Arc::new(disks),
            placement: Placement::Threads,
            membership,
            random: Arc::new(|bytes| rand::fill(bytes)),
        };
        Node::start(settings, components).await
    }

    fn settings(&self, cluster: ClusterId, shards: u16) -> Settings {
        let part = |sixteenths: usize| self.memory_bytes / 16 * sixteenths;
        let of_shard = |sixteenths| part(sixteenths) / usize::from(shards.max(1));
        Settings {
            shards,
            threads: self.threads,
            admission_bytes: part(share::ADMISSION),
            quotas: self.quotas.clone(),
            cache_bytes: part(share::FRAMES),
            log: celeriant_storage::Settings {
                directory: DirectoryBudget {
                    memtable_bytes: of_shard(share::MEMTABLES),
                    cache_bytes: of_shard(share::PAGES),
                },
                compaction_bytes: self.compaction_bytes / u64::from(shards.max(1)),
                ..celeriant_storage::Settings::default()
            },
            net: Arc::new(celeriant_net::Settings {
                cluster_id: cluster,
                node_id: self.node_id.clone(),
                shards,
                ..celeriant_net::Settings::default()
            }),
        }
    }
}

impl PairLaunch {
    /// Joins the real link and the real bucket.
    async fn join(self, data: DataDir, node: String, boot: BootId) -> Result<AnyPair, Error> {
        let superblock = *data.superblock();
        let features = Features { min: FEATURE_LEVEL, max: FEATURE_LEVEL };
        let hello = Hello {
            cluster: superblock.cluster,
            store: superblock.store,
            boot,
            format: celeriant_storage::FORMAT,
            shards: superblock.shard_count,
            features,
            address: self.advertise_replication.clone(),
        };
        let seed = random() as u64;
        let link = quic::Settings { seed, ..quic::Settings::default() };
        let link = QuicLink::bind(self.replication, hello, self.credentials, link)?;
        let open = || S3Bucket::open(self.bucket.clone()).map_err(Error::Thread);
        let (mut register, logs) = (open()?, open()?);
        try_out(&mut register, boot).await?;
        let secret = self.secret.as_deref();
        let seal = bucket_log::Seal::new(secret);
        let log = bucket_log::Settings::default();
        let log = BucketLogs::new(superblock.cluster, seal, log, random());
        let pair = Pair {
            member: Member {
                store: superblock.store,
                node,
                clients: self.advertise,
                replication: self.advertise_replication,
                features,
            },
            link,
            buckets: (register, logs),
            log: Box::new(log),
            epochs: (superblock.epoch_promised, superblock.epoch_seen),
            keeper: Box::new(data),
            may: May { create: Some(FEATURE_LEVEL), join: true },
            seal: Seal::new(secret),
            election: self.election,
            replicator: replicator::core::Settings::default(),
            seed,
        };
        Ok(pair.into())
    }
}

/// A bucket that lies is refused. One that is out of reach is not: a healthy pair goes on without.
async fn try_out(bucket: &mut S3Bucket, boot: BootId) -> Result<(), Error> {
    let settings = probe::Settings { rounds: PROBE_ROUNDS, ..probe::Settings::default() };
    match probe::probe(bucket, boot, settings).await.refusal() {
        Some(refusal @ probe::Refusal::Unproven { .. }) => {
            tracing::warn!("{refusal}. Starting all the same");
            Ok(())
        }
        Some(refusal) => Err(Error::Bucket(refusal)),
        None => Ok(()),
    }
}

impl Keeper for DataDir {
    fn raise(&mut self, promised: Epoch, seen: Epoch) -> Result<(), store::Error> {
        // Whoever promises an epoch has heard of a register that has it.
        self.raise_epochs(promised, seen.max(promised))
    }
}

/// The data directory moves into the closure: it stays locked as long as the node lives.
fn take_epoch(data: DataDir) -> TakeEpoch {
    let data = Mutex::new(data);
    Arc::new(move |found| {
        // Poisoned: a thread panicked while it wrote the superblock; what it holds is still
        // checked.
        let mut data = data.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        data.take_epoch(found)
    })
}

/// 128 random bits from the system: this module makes the real components.
#[allow(clippy::disallowed_methods)]
fn random() -> u128 {
    rand::random()
}
