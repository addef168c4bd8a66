//! The register as JSON: one struct per object, in the order in which it is written.
//!
//! Identities, boots, hashes and the nonce are text, so that no reader of JSON rounds them; numbers
//! that count are numbers. A field that is unknown is refused: whoever adds one raises
//! [`super::FORMAT`].
//! Deliberately absent: rules about the values ([`super::Config::check`]).

use std::borrow::Cow;
use std::fmt::Display;
use std::str::FromStr;

use bytes::Bytes;
use celeriant_schema::peer::{Features, Position};
use celeriant_schema::{BootId, Epoch, Hash, Lsn};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::{
    Active, CONFIG_BYTES_MAX, Config, FORMAT, Lease, Link, Member, PLAIN_KEY, Phase, Process,
    RegisterError, Seal, Set,
};

/// The whole object.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Sealed<'a> {
    #[serde(borrow)]
    hash: Cow<'a, str>,
    #[serde(borrow)]
    config: &'a RawValue,
}

/// What is read before anything else: another format may have anything behind it.
#[derive(Deserialize)]
struct Head {
    format: u16,
}

#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct ConfigJson {
    format: u16,
    cluster: String,
    shards: u16,
    ver: u64,
    epoch: u64,
    phase: PhaseJson,
    leader: ProcessJson,
    active: ActiveJson,
    lease: Option<LeaseJson>,
    members: Vec<MemberJson>,
    feature_level: u16,
    nonce: String,
}

#[derive(Clone, Copy, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
enum PhaseJson {
    Claimed,
    Active,
}

#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct ProcessJson {
    store: String,
    boot: String,
}

#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct ActiveJson {
    epoch: u64,
    leader: ProcessJson,
    set: SetJson,
    chain: Vec<LinkJson>,
}

#[derive(Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
enum SetJson {
    Pair(String, String),
    Bucket(String),
}

#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct LinkJson {
    epoch: u64,
    base: Vec<(u64, String)>,
}

#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct LeaseJson {
    seq: u64,
    ttl_ms: u32,
}

#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct MemberJson {
    store: String,
    node: String,
    clients: String,
    replication: String,
    features: (u16, u16),
}

pub(super) fn encode(config: &Config, seal: &Seal) -> Bytes {
    // What would not be read must not be written: no node could go on.
    assert_eq!(config.check(), Ok(()), "{config:?}");
    // Strings and numbers only: nothing in it can fail to be JSON.
    let inner = serde_json::to_string(&ConfigJson::from(config)).unwrap_or_default();
    assert!(!inner.is_empty(), "a register is always JSON");
    let hash = seal.hash(inner.as_bytes());
    Bytes::from(format!(r#"{{"hash":"{hash}","config":{inner}}}"#))
}

pub(super) fn decode(bytes: &[u8], seal: &Seal) -> Result<Config, RegisterError> {
    if bytes.len() > CONFIG_BYTES_MAX {
        return Err(RegisterError::TooLarge { bytes: bytes.len() });
    }
    let not_register = |error: serde_json::Error| RegisterError::NotRegister(error.to_string());
    let sealed: Sealed<'_> = serde_json::from_slice(bytes).map_err(not_register)?;
    let inner = sealed.config.get();
    verify(inner.as_bytes(), &sealed.hash, seal)?;
    let invalid = |error: serde_json::Error| RegisterError::Invalid(error.to_string());
    let head: Head = serde_json::from_str(inner).map_err(invalid)?;
    if head.format != FORMAT {
        return Err(RegisterError::Format { found: head.format });
    }
    let json: ConfigJson = serde_json::from_str(inner).map_err(invalid)?;
    let config = Config::try_from(json).map_err(RegisterError::Invalid)?;
    config.check().map_err(RegisterError::Invalid)?;
    Ok(config)
}

fn verify(inner: &[u8], hash: &str, seal: &Seal) -> Result<(), RegisterError> {
    let told = blake3::Hash::from_hex(hash)
        .map_err(|error| RegisterError::NotRegister(format!("hash: {error}")))?;
    // `blake3::Hash` compares in constant time.
    if seal.hash(inner) == told {
        return Ok(());
    }
    let plain = blake3::keyed_hash(PLAIN_KEY, inner) == told;
    Err(if plain { RegisterError::Unsealed } else { RegisterError::Forged })
}

impl From<&Config> for ConfigJson {
    fn from(config: &Config) -> Self {
        let active = &config.active;
        Self {
            format: FORMAT,
            cluster: config.cluster.to_string(),
            shards: config.shards,
            ver: config.ver,
            epoch: config.epoch.value(),
            phase: match config.phase {
                Phase::Claimed => PhaseJson::Claimed,
                Phase::Active => PhaseJson::Active,
            },
            leader: config.leader.into(),
            active: ActiveJson {
                epoch: active.epoch.value(),
                leader: active.leader.into(),
                set: match active.set {
                    Set::Pair(one, other) => SetJson::Pair(one.to_string(), other.to_string()),
                    Set::Bucket(one) => SetJson::Bucket(one.to_string()),
                },
                chain: active.chain.iter().map(LinkJson::from).collect(),
            },
            lease: config.lease.map(|lease| LeaseJson { seq: lease.seq, ttl_ms: lease.ttl_ms }),
            members: config.members.iter().map(MemberJson::from).collect(),
            feature_level: config.feature_level,
            nonce: format!("{:032x}", config.nonce),
        }
    }
}

impl TryFrom<ConfigJson> for Config {
    type Error = String;

    fn try_from(json: ConfigJson) -> Result<Self, String> {
        let active = json.active;
        Ok(Self {
            cluster: read("cluster", &json.cluster)?,
            shards: json.shards,
            ver: json.ver,
            epoch: Epoch::new(json.epoch),
            phase: match json.phase {
                PhaseJson::Claimed => Phase::Claimed,
                PhaseJson::Active => Phase::Active,
            },
            leader: json.leader.try_into()?,
            active: Active {
                epoch: Epoch::new(active.epoch),
                leader: active.leader.try_into()?,
                set: match active.set {
                    SetJson::Pair(one, other) => {
                        Set::Pair(read("set", &one)?, read("set", &other)?)
                    }
                    SetJson::Bucket(one) => Set::Bucket(read("set", &one)?),
                },
                chain: active.chain.into_iter().map(Link::try_from).collect::<Result<_, _>>()?,
            },
            lease: json.lease.map(|lease| Lease { seq: lease.seq, ttl_ms: lease.ttl_ms }),
            members: json.members.into_iter().map(Member::try_from).collect::<Result<_, _>>()?,
            feature_level: json.feature_level,
            nonce: read_hex("nonce", &json.nonce, 32)?,
        })
    }
}

impl From<Process> for ProcessJson {
    fn from(process: Process) -> Self {
        let boot = format!("{:016x}", process.boot.value());
        Self { store: process.store.to_string(), boot }
    }
}

impl TryFrom<ProcessJson> for Process {
    type Error = String;

    fn try_from(json: ProcessJson) -> Result<Self, String> {
        let boot = read_hex("boot", &json.boot, 16)?;
        Ok(Self { store: read("store", &json.store)?, boot: BootId::new(boot as u64) })
    }
}

impl From<&Link> for LinkJson {
    fn from(link: &Link) -> Self {
        let position = |at: &Position| (at.lsn.value(), at.hash.to_string());
        Self { epoch: link.epoch.value(), base: link.base.iter().map(position).collect() }
    }
}

impl TryFrom<LinkJson> for Link {
    type Error = String;

    fn try_from(json: LinkJson) -> Result<Self, String> {
        let position = |(lsn, hash): (u64, String)| {
            let hash = blake3::Hash::from_hex(&hash).map_err(|error| format!("hash: {error}"))?;
            Ok(Position { lsn: Lsn::new(lsn), hash: Hash::from(hash) })
        };
        let base = json.base.into_iter().map(position).collect::<Result<_, String>>()?;
        Ok(Self { epoch: Epoch::new(json.epoch), base })
    }
}

impl From<&Member> for MemberJson {
    fn from(member: &Member) -> Self {
        Self {
            store: member.store.to_string(),
            node: member.node.clone(),
            clients: member.clients.clone(),
            replication: member.replication.clone(),
            features: (member.features.min, member.features.max),
        }
    }
}

impl TryFrom<MemberJson> for Member {
    type Error = String;

    fn try_from(json: MemberJson) -> Result<Self, String> {
        let (min, max) = json.features;
        let (clients, replication) = (json.clients, json.replication);
        let (store, features) = (read("member", &json.store)?, Features { min, max });
        Ok(Self { store, node: json.node, clients, replication, features })
    }
}

fn read<T: FromStr<Err: Display>>(what: &str, text: &str) -> Result<T, String> {
    text.parse().map_err(|error| format!("{what} {error}"))
}

/// Exactly so many hexadecimal digits.
fn read_hex(what: &str, text: &str, digits: usize) -> Result<u128, String> {
    let plain = text.len() == digits && text.bytes().all(|b| b.is_ascii_hexdigit());
    let value = plain.then(|| u128::from_str_radix(text, 16).ok()).flatten();
    value.ok_or_else(|| format!("{what} is not {digits} hexadecimal digits"))
}
