//! Numbers with a meaning, each its own type so that none is taken for another.

use std::fmt;

macro_rules! number {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
        pub struct $name($inner);

        impl $name {
            /// Wraps the bare number.
            pub const fn new(value: $inner) -> Self {
                Self(value)
            }
            /// The bare number.
            pub const fn value(self) -> $inner {
                self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl From<$inner> for $name {
            fn from(value: $inner) -> Self {
                Self(value)
            }
        }
    };
}

macro_rules! identity {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
        pub struct $name(u128);

        impl $name {
            /// Wraps the bare 128 bits.
            pub const fn new(value: u128) -> Self {
                Self(value)
            }
            /// The bare 128 bits.
            pub const fn value(self) -> u128 {
                self.0
            }
        }

        /// Reads a UUID, with or without hyphens.
        impl std::str::FromStr for $name {
            type Err = IdentityError;

            fn from_str(text: &str) -> Result<Self, IdentityError> {
                let digits: String = text.chars().filter(|c| *c != '-').collect();
                let hex = digits.len() == 32 && digits.bytes().all(|b| b.is_ascii_hexdigit());
                if !hex {
                    return Err(IdentityError);
                }
                u128::from_str_radix(&digits, 16).map(Self).map_err(|_| IdentityError)
            }
        }

        /// Written like a UUID.
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                let v = self.0;
                write!(
                    f,
                    "{:08x}-{:04x}-{:04x}-{:04x}-{:012x}",
                    (v >> 96) as u32,
                    (v >> 80) as u16,
                    (v >> 64) as u16,
                    (v >> 48) as u16,
                    v as u64 & 0xffff_ffff_ffff
                )
            }
        }
    };
}

/// The text is not 32 hexadecimal digits, with or without hyphens.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("must be a UUID: 32 hexadecimal digits, with or without hyphens")]
pub struct IdentityError;

number! {
    /// Place of a record in one shard's log. Dense: the next record is always `lsn.next()`.
    /// The first record has lsn 1; 0 is "before everything".
    Lsn(u64)
}
number! {
    /// Number of events ever appended to an aggregate. The first event has version 1; 0 means that
    /// the aggregate never existed. Never reset.
    Version(u64)
}
number! {
    /// Place of an event in the cluster's order, below 2^53: 1/8 µs since 2025-01-01T00:00Z,
    /// unique, increasing along every shard's log. 0 is "before everything".
    Stamp(u64)
}
number! {
    /// Number of a writer's batch for one aggregate, dense from 1.
    Sequence(u64)
}
number! {
    /// Term of one leader over one replica set.
    Epoch(u64)
}
number! {
    /// One process start of a node. Random, so that a restarted process is told from its past self.
    BootId(u64)
}
number! {
    /// One shard of the cluster, from 0.
    ShardId(u16)
}
identity! {
    /// A writer: stable for a service, shared by its replicas. All zero means "no client".
    ClientId
}
identity! {
    /// An event's identity as its writer knows it.
    EventId
}
identity! {
    /// One formatted data directory. A wiped disk is a different store.
    StoreId
}
identity! {
    /// One cluster: written into every frame, so that foreign bytes are never taken for data.
    ClusterId
}

/// The attempt of a write that landed. All events of one write carry it.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct WriteId {
    /// Epoch in which the attempt was accepted.
    pub epoch: Epoch,
    /// Process that accepted it.
    pub boot: BootId,
    /// Counter within that process.
    pub counter: u64,
}

/// A write over several shards. New for every attempt, never derived from client and sequence: a
/// retry must not meet the outcome of an earlier attempt (replication.md §6, F4).
pub type TxnId = WriteId;

impl fmt::Display for WriteId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{:016x}:{}", self.epoch, self.boot.value(), self.counter)
    }
}

impl Lsn {
    /// Before the first record.
    pub const ZERO: Self = Self(0);

    /// The record after this one.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }

    /// `count` records further.
    #[must_use]
    pub const fn plus(self, count: u64) -> Self {
        Self(self.0 + count)
    }
}

impl Version {
    /// Of an aggregate that never existed.
    pub const NONE: Self = Self(0);

    /// The version after this one.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }

    /// `events` versions further.
    #[must_use]
    pub const fn plus(self, events: u64) -> Self {
        Self(self.0 + events)
    }
}

/// `version + 1`: one event further.
impl std::ops::Add<u64> for Version {
    type Output = Self;

    fn add(self, events: u64) -> Self {
        Self(self.0 + events)
    }
}

impl Sequence {
    /// The sequence after this one.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl Stamp {
    /// Before every event.
    pub const ZERO: Self = Self(0);
    /// Wall time of stamp 0: 2025-01-01T00:00:00Z in µs since 1970.
    pub const ORIGIN_UNIX_MICROS: i64 = 1_735_689_600_000_000;

    /// The smallest stamp of a wall time in µs since 1970; 0 for times before the origin.
    pub fn from_unix_micros(micros: i64) -> Self {
        let since = micros.saturating_sub(Self::ORIGIN_UNIX_MICROS).max(0) as u64;
        Self((since.saturating_mul(8)).min(crate::limits::NUMBER_MAX - 1))
    }

    /// The wall time this stamp was derived from, in µs since 1970.
    pub fn unix_micros(self) -> i64 {
        Self::ORIGIN_UNIX_MICROS + (self.0 / 8) as i64
    }
}

impl ClientId {
    /// "No client": writes without exactly-once memory.
    pub const NONE: Self = Self(0);
}
