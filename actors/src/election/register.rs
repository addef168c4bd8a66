//! The register: the object `config` of the bucket, the only thing that decides who leads.
//!
//! ```text
//! {"hash":"<64 hex>","config":{"format":1,"cluster":…,"ver":7,"epoch":3,"phase":"active",…}}
//!      └── keyed BLAKE3 ──▶ └───────────── exactly these bytes ─────────────┘
//! ```
//! What it says is replication.md §1. Two facts of that page are not written twice: `base` is the
//! base of the chain's first link, and the leader's addresses are those of its entry in `members`.
//!
//! Bytes that are read were written by whoever may write to the bucket, so nothing is believed
//! before the hash agrees; with a cluster secret only a node of the cluster can make one. Every
//! refusal says what an operator can do about it.
//! Deliberately absent: what a change of the register means ([`super::core`]), and how it is made.

mod json;

#[cfg(test)]
mod register_test;

use std::fmt;

use bytes::Bytes;
use celeriant_schema::limits::{NAME_BYTES_MAX, SHARDS_MAX};
use celeriant_schema::peer::{ADDRESS_BYTES_MAX, Features, Position};
use celeriant_schema::{BootId, ClusterId, Epoch, StoreId};

/// Version of the register's content. A node refuses every other.
pub const FORMAT: u16 = 1;
/// Name of the object, below the cluster's prefix.
pub const CONFIG_KEY: &str = "config";
/// Most bucket logs that one configuration rests on. Whoever takes over beyond that uploads
/// everything above the first base into its own log instead, which begins a new chain.
pub const CHAIN_LINKS_MAX: usize = 16;
/// Largest register, in bytes.
pub const CONFIG_BYTES_MAX: usize = 2 << 20;
/// Longest lease, in ms: a leader that died keeps its successor waiting for so long.
pub const LEASE_MS_MAX: u32 = 600_000;

const _: () = {
    // A position is `[lsn,"hash"],`: at most 20 digits, 64 of the hash, 6 more.
    assert!(CHAIN_LINKS_MAX * SHARDS_MAX as usize * 90 + (16 << 10) <= CONFIG_BYTES_MAX);
    assert!(CONFIG_BYTES_MAX <= celeriant_storage::bucket::BODY_BYTES_MAX);
};

/// What the register says.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Config {
    /// Whose it is.
    pub cluster: ClusterId,
    /// Shards of the cluster.
    pub shards: u16,
    /// Grows by one with every change.
    pub ver: u64,
    /// Grows by one whenever the leader or the set changes, never otherwise.
    pub epoch: Epoch,
    /// Whether the epoch is led, or only claimed.
    pub phase: Phase,
    /// Who leads or claims the epoch.
    pub leader: Process,
    /// The configuration that was activated last; while a claim is open it still rules.
    pub active: Active,
    /// With the bucket only.
    pub lease: Option<Lease>,
    /// The one or two stores that belong to the cluster.
    pub members: Vec<Member>,
    /// Every member can read and write what is written at this level.
    pub feature_level: u16,
    /// Fresh in every body, so that who wrote it finds out (R15), and so that no two bodies (and
    /// therefore no two ETags) are ever equal.
    pub nonce: u128,
}

/// How far the epoch has come.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Phase {
    /// Somebody prepares to lead it.
    Claimed,
    /// Somebody leads it.
    Active,
}

/// One process of one store.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Process {
    /// Its data directory.
    pub store: StoreId,
    /// Its start.
    pub boot: BootId,
}

/// An activated configuration.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Active {
    /// Its epoch.
    pub epoch: Epoch,
    /// Who leads it.
    pub leader: Process,
    /// The two places of everything that is acknowledged.
    pub set: Set,
    /// The bucket logs that in order hold everything above the first base; none for a pair.
    pub chain: Vec<Link>,
}

/// Two places.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Set {
    /// Two stores, the smaller first: [`Set::pair`].
    Pair(StoreId, StoreId),
    /// One store and the bucket.
    Bucket(StoreId),
}

/// The bucket log of one epoch.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Link {
    /// Which.
    pub epoch: Epoch,
    /// Per shard: what lies below its first slot. Of the first link: what both nodes held durably
    /// when the chain began.
    pub base: Vec<Position>,
}

/// The leader's lease in the register. No time of day: a challenger measures by its own clock how
/// long `seq` stays the same.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Lease {
    /// Grows with every renewal; begins anew in every epoch.
    pub seq: u64,
    /// How long it lasts, in ms.
    pub ttl_ms: u32,
}

/// A store of the cluster and where it is found.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Member {
    /// Its data directory.
    pub store: StoreId,
    /// The node's name, for people.
    pub node: String,
    /// Host and port for clients.
    pub clients: String,
    /// Host and port for its peer.
    pub replication: String,
    /// Feature levels that it can read and write.
    pub features: Features,
}

/// Why a register is not believed.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum RegisterError {
    /// Larger than any that is written.
    #[error("`config` has {bytes} bytes, at most {CONFIG_BYTES_MAX} are possible: not a register")]
    TooLarge {
        /// Its size.
        bytes: usize,
    },
    /// Not even the outer form.
    #[error("`config` is not a register ({0}): restore it, or point `bucket` to the right prefix")]
    NotRegister(String),
    /// The hash does not agree: cut short, changed by hand, forged, or another secret.
    #[error(
        "the hash of `config` does not agree: it was changed by something that does not know \
         `cluster_secret_file`, or this node's secret is not the cluster's"
    )]
    Forged,
    /// A node with a secret found one that anybody could have written.
    #[error(
        "`config` was written without a cluster secret and this node has one: \
         configure `cluster_secret_file` on both nodes or on none"
    )]
    Unsealed,
    /// Of another version of this program.
    #[error("`config` has format {found}, this version knows {FORMAT}: start the newer version")]
    Format {
        /// Its format.
        found: u16,
    },
    /// Sealed, but not what this program writes: a bug.
    #[error("`config` is sealed, but {0}: report this, and keep the object")]
    Invalid(String),
    /// Of another cluster.
    #[error("`config` belongs to cluster {found}, this store to {own}: wrong bucket or prefix?")]
    Foreign {
        /// The register's.
        found: ClusterId,
        /// The store's.
        own: ClusterId,
    },
    /// Of a cluster of another shape.
    #[error("`config` is of a cluster of {found} shards, this store has {own}")]
    Shards {
        /// The register's.
        found: u16,
        /// The store's.
        own: u16,
    },
}

/// What the register is sealed with.
#[derive(Clone)]
pub struct Seal {
    key: [u8; 32],
    secret: bool,
}

/// Key of registers of clusters without a secret: finds damage, keeps nobody out.
const PLAIN_KEY: &[u8; 32] = b"celeriant register v1, no secret";
/// Tells this use of a cluster's secret from every other.
const SECRET_CONTEXT: &str = "celeriant 2026-11 register v1 sealed with the cluster secret";

impl Seal {
    /// Made from the content of `cluster_secret_file`, or `None` where there is none.
    pub fn new(secret: Option<&[u8]>) -> Self {
        match secret {
            Some(secret) => Self { key: blake3::derive_key(SECRET_CONTEXT, secret), secret: true },
            None => Self { key: *PLAIN_KEY, secret: false },
        }
    }

    pub(crate) fn hash(&self, bytes: &[u8]) -> blake3::Hash {
        blake3::keyed_hash(&self.key, bytes)
    }
}

/// Without the key.
impl fmt::Debug for Seal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Seal").field("secret", &self.secret).finish_non_exhaustive()
    }
}

impl Set {
    /// Of two stores, in either order.
    pub fn pair(one: StoreId, other: StoreId) -> Self {
        Self::Pair(one.min(other), one.max(other))
    }

    /// Whether `store` is one of its places.
    pub fn has(&self, store: StoreId) -> bool {
        match *self {
            Self::Pair(one, other) => one == store || other == store,
            Self::Bucket(one) => one == store,
        }
    }

    /// The other store of a pair.
    pub fn other(&self, store: StoreId) -> Option<StoreId> {
        match *self {
            Self::Pair(one, other) if one == store => Some(other),
            Self::Pair(one, other) if other == store => Some(one),
            _ => None,
        }
    }
}

impl Config {
    /// As it is written, sealed.
    pub fn encode(&self, seal: &Seal) -> Bytes {
        json::encode(self, seal)
    }

    /// Reads what [`Config::encode`] wrote with the same seal. Whose it is, is another question:
    /// [`Config::belongs_to`].
    ///
    /// # Errors
    /// When it is anything else. Nothing of it may be used then.
    pub fn decode(bytes: &[u8], seal: &Seal) -> Result<Self, RegisterError> {
        json::decode(bytes, seal)
    }

    /// Refuses the register of another cluster.
    ///
    /// # Errors
    /// When it is one.
    pub fn belongs_to(&self, cluster: ClusterId, shards: u16) -> Result<(), RegisterError> {
        if self.cluster != cluster {
            return Err(RegisterError::Foreign { found: self.cluster, own: cluster });
        }
        if self.shards != shards {
            return Err(RegisterError::Shards { found: self.shards, own: shards });
        }
        Ok(())
    }

    /// The member with that store.
    pub fn member(&self, store: StoreId) -> Option<&Member> {
        self.members.iter().find(|member| member.store == store)
    }

    /// The member that is not `store`.
    pub fn other_member(&self, store: StoreId) -> Option<&Member> {
        self.members.iter().find(|member| member.store != store)
    }

    /// What both nodes hold durably below the chain; `None` for a pair.
    pub fn base(&self) -> Option<&Link> {
        self.active.chain.first()
    }

    /// Same epoch, process, phase and set: apart from lease and members it is the same
    /// configuration, so nobody is deposed by the difference.
    pub fn rules_as(&self, other: &Self) -> bool {
        let key = |c: &Self| (c.epoch, c.leader, c.phase, c.active.set);
        key(self) == key(other)
    }

    /// The body that activates `epoch` under `leader` over `set`. The nonce is still the old one.
    #[must_use]
    pub fn activated(&self, epoch: Epoch, leader: Process, set: Set, chain: Vec<Link>) -> Self {
        let active = Active { epoch, leader, set, chain };
        Self { ver: self.ver + 1, epoch, phase: Phase::Active, leader, active, ..self.clone() }
    }

    /// What every register fulfils, so that nothing behind it asks again.
    pub(super) fn check(&self) -> Result<(), String> {
        let active = &self.active;
        let claimed = self.phase == Phase::Claimed;
        let rules: [(bool, &str); 12] = [
            ((1..=SHARDS_MAX).contains(&self.shards), "has an impossible number of shards"),
            (self.ver > 0 && self.active.epoch.value() > 0, "has a version or epoch of 0"),
            ((1..=2).contains(&self.members.len()), "has not one or two members"),
            (self.members.iter().all(Member::is_valid), "has an impossible member"),
            (!same_store_twice(&self.members), "names a store twice"),
            (self.member(self.leader.store).is_some(), "is led by a store that is no member"),
            (active.set.has(active.leader.store), "has an active leader outside its set"),
            (claimed == (active.epoch < self.epoch), "has an epoch that is not its phase's"),
            (claimed || active.leader == self.leader, "has two leaders"),
            (active.epoch <= self.epoch, "has an active epoch above its epoch"),
            (self.lease.is_none_or(Lease::is_valid), "has an impossible lease"),
            (self.places_agree(), "has a set, a chain and a lease that don't fit together"),
        ];
        rules.iter().find(|(holds, _)| !holds).map_or(Ok(()), |(_, what)| Err((*what).into()))
    }

    /// A pair rests on no bucket log; the bucket on one that the active epoch writes.
    fn places_agree(&self) -> bool {
        let chain = &self.active.chain;
        match self.active.set {
            Set::Pair(one, other) => one < other && chain.is_empty() && self.lease.is_none(),
            Set::Bucket(_) => {
                let ascending = chain.windows(2).all(|pair| {
                    pair[0].epoch < pair[1].epoch
                        && pair[0].base.iter().zip(&pair[1].base).all(|(a, b)| a.lsn <= b.lsn)
                });
                let whole = chain.iter().all(|link| link.base.len() == usize::from(self.shards));
                chain.len() <= CHAIN_LINKS_MAX
                    && ascending
                    && whole
                    && chain.last().is_some_and(|link| link.epoch == self.active.epoch)
                    && self.lease.is_some()
            }
        }
    }
}

impl Member {
    /// Whether it can read and write what is written at that level.
    pub fn speaks(&self, feature_level: u16) -> bool {
        (self.features.min..=self.features.max).contains(&feature_level)
    }

    /// Within its bounds.
    fn is_valid(&self) -> bool {
        (1..=NAME_BYTES_MAX).contains(&self.node.len())
            && self.clients.len() <= ADDRESS_BYTES_MAX
            && self.replication.len() <= ADDRESS_BYTES_MAX
            && self.features.min <= self.features.max
    }
}

impl Lease {
    fn is_valid(self) -> bool {
        (1..=LEASE_MS_MAX).contains(&self.ttl_ms)
    }
}

fn same_store_twice(members: &[Member]) -> bool {
    matches!(members, [one, other] if one.store == other.store)
}

impl fmt::Display for Set {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pair(one, other) => write!(f, "{{{one}, {other}}}"),
            Self::Bucket(one) => write!(f, "{{{one}, bucket}}"),
        }
    }
}
