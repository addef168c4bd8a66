//! The register's bytes: what is written is read, and nothing else is believed.

use celeriant_schema::Hash;
use celeriant_schema::Lsn;

use super::*;

fn member(store: u128) -> Member {
    Member {
        store: StoreId::new(store),
        node: format!("node-{store}"),
        clients: format!("db-{store}.internal:7440"),
        replication: format!("db-{store}.internal:7441"),
        features: Features { min: 1, max: 2 },
    }
}

fn link(epoch: u64, lsn: u64) -> Link {
    let position = Position { lsn: Lsn::new(lsn), hash: Hash([lsn as u8; 32]) };
    Link { epoch: Epoch::new(epoch), base: vec![position, Position::default()] }
}

/// Claimed by store 2 while {1, bucket} rules.
fn sample() -> Config {
    let leader = Process { store: StoreId::new(1), boot: BootId::new(0xb1) };
    Config {
        cluster: ClusterId::new(7),
        shards: 2,
        ver: 9,
        epoch: Epoch::new(6),
        phase: Phase::Claimed,
        leader: Process { store: StoreId::new(2), boot: BootId::new(u64::MAX) },
        active: Active {
            epoch: Epoch::new(5),
            leader,
            set: Set::Bucket(leader.store),
            chain: vec![link(3, 10), link(5, 20)],
        },
        lease: Some(Lease { seq: 4, ttl_ms: 3000 }),
        members: vec![member(1), member(2)],
        feature_level: 1,
        nonce: 0xfeed,
    }
}

fn pair() -> Config {
    let me = sample().active.leader;
    let set = Set::pair(StoreId::new(2), StoreId::new(1));
    Config { lease: None, ..sample().activated(Epoch::new(7), me, set, Vec::new()) }
}

fn plain() -> Seal {
    Seal::new(None)
}

#[test]
fn the_bytes_never_change() {
    let bytes = sample().encode(&plain());
    assert_eq!(std::str::from_utf8(&bytes).expect("text"), GOLDEN);
    let secret = sample().encode(&Seal::new(Some(b"secret")));
    let hash = std::str::from_utf8(&secret[9..73]).expect("text");
    assert_eq!(hash, SECRET_HASH);
}

const SECRET_HASH: &str = "3fa3dbaf77a02554b607020b2358c6166c189b3029886637ec80e361f3b1bbe2";
const GOLDEN: &str = concat!(
    r#"{"hash":"7e8fc6808b961654ca43dc27f42855d1f80a3720497919292e92908d086d57b5","config":{"#,
    r#""format":1,"cluster":"00000000-0000-0000-0000-000000000007","shards":2,"ver":9,"epoch":6,"#,
    r#""phase":"claimed","leader":{"store":"00000000-0000-0000-0000-000000000002","#,
    r#""boot":"ffffffffffffffff"},"active":{"epoch":5,"#,
    r#""leader":{"store":"00000000-0000-0000-0000-000000000001","boot":"00000000000000b1"},"#,
    r#""set":{"bucket":"00000000-0000-0000-0000-000000000001"},"chain":[{"epoch":3,"base":[[10,"#,
    r#""0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a"],[0,"#,
    r#""0000000000000000000000000000000000000000000000000000000000000000"]]},"#,
    r#"{"epoch":5,"base":[[20,"#,
    r#""1414141414141414141414141414141414141414141414141414141414141414"],[0,"#,
    r#""0000000000000000000000000000000000000000000000000000000000000000"]]}]},"#,
    r#""lease":{"seq":4,"ttl_ms":3000},"#,
    r#""members":[{"store":"00000000-0000-0000-0000-000000000001","#,
    r#""node":"node-1","clients":"db-1.internal:7440","replication":"db-1.internal:7441","#,
    r#""features":[1,2]},{"store":"00000000-0000-0000-0000-000000000002","node":"node-2","#,
    r#""clients":"db-2.internal:7440","replication":"db-2.internal:7441","features":[1,2]}],"#,
    r#""feature_level":1,"nonce":"0000000000000000000000000000feed"}}"#,
);

#[test]
fn what_is_written_is_read() {
    for seal in [plain(), Seal::new(Some(b"secret")), Seal::new(Some(b""))] {
        for config in [sample(), pair()] {
            assert_eq!(Config::decode(&config.encode(&seal), &seal), Ok(config));
        }
    }
}

#[test]
fn every_cut_and_every_flipped_bit_is_refused() {
    let bytes = sample().encode(&plain());
    for end in 0..bytes.len() {
        assert!(Config::decode(&bytes[..end], &plain()).is_err(), "cut at {end}");
    }
    for at in 0..bytes.len() {
        for bit in 0..8 {
            let mut other = bytes.to_vec();
            other[at] ^= 1 << bit;
            // The outer form and the hash's digits have more than one spelling; the content none.
            if let Ok(read) = Config::decode(&other, &plain()) {
                assert!(at < 73 && read == sample(), "bit {bit} of byte {at}");
            }
        }
    }
}

#[test]
fn no_bytes_make_it_panic() {
    let sealed = |inner: &str| {
        let hash = plain().hash(inner.as_bytes());
        format!(r#"{{"hash":"{hash}","config":{inner}}}"#)
    };
    let deep = "[".repeat(100_000);
    let cases = [
        String::new(),
        "null".into(),
        "{}".into(),
        deep.clone(),
        r#"{"hash":"x","config":{}}"#.into(),
        r#"{"hash":"\u0000","config":1}"#.into(),
        sealed("1"),
        sealed(r#"{"format":1}"#),
        sealed(r#"{"format":-1}"#),
        sealed(r#"{"format":1,"cluster":"é"}"#),
        sealed(&deep),
    ];
    for case in cases {
        assert!(Config::decode(case.as_bytes(), &plain()).is_err(), "{case:.60}");
    }
    assert!(Config::decode(&[0xff; 64], &plain()).is_err());
}

#[test]
fn a_secret_keeps_others_out_and_the_refusal_says_what_to_do() {
    let (one, other) = (Seal::new(Some(b"one")), Seal::new(Some(b"other")));
    let refusal = |written: &Seal, read: &Seal| Config::decode(&sample().encode(written), read);
    assert_eq!(refusal(&one, &other), Err(RegisterError::Forged));
    assert_eq!(refusal(&one, &plain()), Err(RegisterError::Forged));
    assert_eq!(refusal(&plain(), &one), Err(RegisterError::Unsealed));
    let text = refusal(&plain(), &one).expect_err("refused").to_string();
    assert!(text.contains("cluster_secret_file"), "{text}");
    assert!(!format!("{one:?}").contains("key"), "a seal's key is printed");
}

#[test]
fn another_format_is_told_before_anything_else_is_read() {
    let inner = r#"{"format":2,"new":"field"}"#;
    let text = format!(r#"{{"hash":"{}","config":{inner}}}"#, plain().hash(inner.as_bytes()));
    let read = Config::decode(text.as_bytes(), &plain());
    assert_eq!(read, Err(RegisterError::Format { found: 2 }));
}

#[test]
fn another_cluster_and_another_number_of_shards_are_foreign() {
    let config = sample();
    assert_eq!(config.belongs_to(ClusterId::new(7), 2), Ok(()));
    let foreign = config.belongs_to(ClusterId::new(8), 2);
    assert!(matches!(foreign, Err(RegisterError::Foreign { .. })));
    assert!(matches!(config.belongs_to(ClusterId::new(7), 3), Err(RegisterError::Shards { .. })));
}

#[test]
fn a_register_that_contradicts_itself_is_refused() {
    type Change = fn(&mut Config);
    let broken: [(&str, Change); 14] = [
        ("ver", |c| c.ver = 0),
        ("shards", |c| c.shards = 0),
        ("members", |c| c.members.clear()),
        ("three", |c| c.members.push(member(3))),
        ("twice", |c| c.members[1].store = c.members[0].store),
        ("leader", |c| c.leader.store = StoreId::new(9)),
        ("phase", |c| c.phase = Phase::Active),
        ("epoch", |c| c.active.epoch = Epoch::new(6)),
        ("set", |c| c.active.set = Set::Bucket(StoreId::new(2))),
        ("lease", |c| c.lease = None),
        ("ttl", |c| c.lease = Some(Lease { seq: 1, ttl_ms: 0 })),
        ("chain", |c| c.active.chain.clear()),
        ("order", |c| c.active.chain.swap(0, 1)),
        ("base", |c| c.active.chain[1].base.truncate(1)),
    ];
    for (what, change) in broken {
        let mut config = sample();
        change(&mut config);
        assert!(config.check().is_err(), "{what} was taken");
    }
    let mut unordered = pair();
    unordered.active.set = Set::Pair(StoreId::new(2), StoreId::new(1));
    assert!(unordered.check().is_err());
}

#[test]
fn a_register_that_is_too_large_is_refused_unread() {
    let bytes = vec![b' '; CONFIG_BYTES_MAX + 1];
    let read = Config::decode(&bytes, &plain());
    assert_eq!(read, Err(RegisterError::TooLarge { bytes: CONFIG_BYTES_MAX + 1 }));
}

#[test]
fn the_largest_register_fits() {
    let mut config = sample();
    config.shards = SHARDS_MAX;
    let far = Position { lsn: Lsn::new(u64::MAX), hash: Hash([0xff; 32]) };
    let base = vec![far; SHARDS_MAX.into()];
    let epochs = u64::MAX - CHAIN_LINKS_MAX as u64..u64::MAX;
    let link = |epoch| Link { epoch: Epoch::new(epoch), base: base.clone() };
    config.active.chain = epochs.map(link).collect();
    config.active.epoch = Epoch::new(u64::MAX - 1);
    config.epoch = Epoch::new(u64::MAX);
    for member in &mut config.members {
        // Quotes are written as two characters.
        member.node = "\"".repeat(NAME_BYTES_MAX);
        member.clients = "\"".repeat(ADDRESS_BYTES_MAX);
        member.replication = member.clients.clone();
    }
    let bytes = config.encode(&plain());
    assert!(bytes.len() <= CONFIG_BYTES_MAX, "{}", bytes.len());
    assert_eq!(Config::decode(&bytes, &plain()), Ok(config));
}

#[test]
fn only_lease_and_members_may_differ_in_the_same_configuration() {
    let one = sample();
    let mut other = Config { ver: 10, nonce: 1, lease: None, ..one.clone() };
    other.members.pop();
    assert!(one.rules_as(&other));
    let leader = Process { boot: BootId::new(1), ..one.leader };
    assert!(!one.rules_as(&Config { leader, ..one.clone() }));
    assert!(!one.rules_as(&Config { epoch: Epoch::new(7), ..one.clone() }));
}
