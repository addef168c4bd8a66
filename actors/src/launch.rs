//! From a data directory to a running node: the real parts, joined.

use std::num::NonZeroU16;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use celeriant_schema::{BootId, ClusterId, ShardId, StoreId};
use celeriant_storage::DirectoryBudget;
use celeriant_storage::disk::{self, FileDisk};
use celeriant_storage::store::{self, DataDir, Format};

use crate::clock::SystemClock;
use crate::node::{Components, Error, Membership, Node, Placement, Settings, TakeEpoch};

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
    /// Use a file system that may lose acknowledged writes in a power cut.
    pub allow_buffered: bool,
}

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

impl Launch {
    /// Opens the data directory and starts a node on it. It does not listen yet.
    ///
    /// # Errors
    /// When the directory cannot be used, is damaged, or a thread cannot be started.
    pub async fn start(self) -> Result<Node, Error> {
        let shards_of_new = self.shards.map_or(self.threads.max(1) as u16, NonZeroU16::get);
        let options = store::Options {
            format: Some(Format {
                store: StoreId::new(random()),
                cluster: ClusterId::new(random()),
                shard_count: shards_of_new,
            }),
            shard_count: self.shards.map(NonZeroU16::get),
            allow_buffered: self.allow_buffered,
        };
        let data = DataDir::open(&self.data_dir, &options)?;
        let (cluster, shards) = (data.superblock().cluster, data.superblock().shard_count);
        let part = |sixteenths: usize| self.memory_bytes / 16 * sixteenths;
        let of_shard = |sixteenths| part(sixteenths) / usize::from(shards.max(1));
        let settings = Settings {
            shards,
            threads: self.threads,
            admission_bytes: part(share::ADMISSION),
            cache_bytes: part(share::FRAMES),
            log: celeriant_storage::Settings {
                directory: DirectoryBudget {
                    memtable_bytes: of_shard(share::MEMTABLES),
                    cache_bytes: of_shard(share::PAGES),
                },
                ..celeriant_storage::Settings::default()
            },
            net: Arc::new(celeriant_net::Settings {
                cluster_id: cluster,
                node_id: self.node_id,
                shards,
                ..celeriant_net::Settings::default()
            }),
        };
        let kind = data.file_system().disk_kind();
        let paths: Vec<PathBuf> =
            (0..shards).map(|shard| data.shard_path(ShardId::new(shard))).collect();
        let disks = move |shard: ShardId| disk::open(&paths[usize::from(shard.value())], kind);
        let components: Components<FileDisk> = Components {
            cluster,
            boot: BootId::new(random() as u64),
            clock: Arc::new(SystemClock),
            disks: Arc::new(disks),
            placement: Placement::Threads,
            membership: Membership::Alone(take_epoch(data)),
        };
        Node::start(settings, components).await
    }
}

/// The data directory moves into the closure: it stays locked as long as the node lives.
fn take_epoch(data: DataDir) -> TakeEpoch {
    let data = Mutex::new(data);
    Box::new(move |found| {
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
