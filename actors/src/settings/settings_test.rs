//! Where values come from, and what is refused with which reason.

use std::collections::BTreeMap;

use super::*;

fn load(file: &str) -> Result<Loaded, ConfigError> {
    Settings::load(Some(file), [], &BTreeMap::new())
}

#[track_caller]
fn refused(file: &str) -> String {
    load(file).expect_err("it cannot be used").to_string()
}

#[test]
fn flags_win_over_variables_over_the_file_over_defaults() {
    let file = "data_dir = \"/file\"\nthreads = 3\nmemory = \"128MiB\"\nlog = \"warn\"";
    let variables = [
        ("CELERIANT_DATA_DIR".to_owned(), "/variable".to_owned()),
        ("CELERIANT_THREADS".to_owned(), "4".to_owned()),
        ("HOME".to_owned(), "/root".to_owned()),
    ];
    let flags = BTreeMap::from([("data_dir".to_owned(), "/flag".to_owned())]);
    let loaded = Settings::load(Some(file), variables, &flags).expect("valid");
    assert_eq!(loaded.settings.data_dir, PathBuf::from("/flag"));
    assert_eq!(loaded.settings.threads, 4);
    assert_eq!(loaded.settings.memory, 128 << 20);
    assert_eq!(loaded.settings.shards, None);
    let source = |key| loaded.shown.iter().find(|shown| shown.key == key).expect("shown").source;
    assert_eq!(source("data_dir"), Source::Flag);
    assert_eq!(source("threads"), Source::Variable);
    assert_eq!(source("log"), Source::File);
    assert_eq!(source("listen"), Source::Default);
}

#[test]
fn an_unknown_key_is_refused_with_the_nearest_known_one() {
    let text = refused("data_dir = \"d\"\nthread = 2");
    assert!(text.contains("thread: no such key; did you mean threads?"), "{text}");
    assert!(refused("data_dir = \"d\"\nlisten_on = \"x\"").contains("did you mean listen?"));
    let text = refused("data_dir = \"d\"\nsomething_entirely_different = 1");
    assert!(text.ends_with("no such key"), "{text}");
}

#[test]
fn variables_that_no_key_has_are_left_alone() {
    let service = ("CELERIANT_SERVICE_HOST".to_owned(), "10.0.0.1".to_owned());
    let loaded = Settings::load(Some("data_dir = \"d\""), [service], &BTreeMap::new());
    assert!(loaded.is_ok());
}

#[test]
fn all_problems_are_named_at_once_with_where_the_value_came_from() {
    let text = refused("threads = 0\nmemory = \"lots\"\nlog_format = \"xml\"\nshards = 5000");
    for part in [
        "data_dir: missing",
        "threads = \"0\" (from file): must be a number from 1 to 1024",
        "memory = \"lots\" (from file): must be a size",
        "log_format = \"xml\" (from file): must be text or json",
        "shards = \"5000\" (from file): must be a number from 1 to 1024",
    ] {
        assert!(text.contains(part), "{part} is not in:\n{text}");
    }
}

#[test]
fn the_gateway_is_where_clients_connect_unless_told_otherwise_or_off() {
    let http = |text: &str| {
        let settings = load(&format!("data_dir = \"d\"\n{text}")).expect("valid").settings;
        settings.http.map(|http| http.to_string())
    };
    assert_eq!(http("").as_deref(), Some("127.0.0.1:7442"));
    assert_eq!(http("listen = \"[::1]:7440\"").as_deref(), Some("[::1]:7442"));
    assert_eq!(http("listen = \"127.0.0.1:0\"").as_deref(), Some("127.0.0.1:0"));
    let open = "listen = \"0.0.0.0:7440\"\ninsecure_plaintext = true";
    assert_eq!(http(open).as_deref(), Some("0.0.0.0:7442"));
    assert_eq!(http("http = \"127.0.0.1:80\"").as_deref(), Some("127.0.0.1:80"));
    assert_eq!(http("http = \"\""), None);
    let text = refused("data_dir = \"d\"\nlisten = \"127.0.0.1:7442\"");
    assert!(text.contains("http") && text.contains("is where clients connect"), "{text}");
    let text = refused("data_dir = \"d\"\nhttp = \"0.0.0.0:7442\"");
    assert!(text.contains("http = \"0.0.0.0:7442\"") && text.contains("not loopback"), "{text}");
}

#[test]
fn origins_are_named_one_by_one() {
    let cors = "data_dir = \"d\"\nhttp_cors = \"https://a.example, http://localhost:3000\"";
    let settings = load(cors).expect("valid").settings;
    assert_eq!(settings.http_cors, ["https://a.example", "http://localhost:3000"]);
    assert!(load("data_dir = \"d\"").expect("valid").settings.http_cors.is_empty());
    for bad in ["*", "https://*.example", "a.example", "https://a.example/", "https://"] {
        let text = refused(&format!("data_dir = \"d\"\nhttp_cors = \"{bad}\""));
        assert!(text.contains("is not an origin"), "{text}");
    }
}

#[test]
fn what_only_a_pair_has_is_noted_without_a_bucket() {
    let off = "data_dir = \"d\"\ntls_client_auth = \"none\"\nheartbeat_ms = 100";
    let loaded = load(off).expect("valid");
    assert_eq!(loaded.notes.len(), 1, "without a bucket: {:?}", loaded.notes);
}

#[test]
fn one_of_a_pair_needs_certificates_and_may_change_times() {
    let text = refused("data_dir = \"d\"\nbucket = \"s3://bucket/p\"");
    assert!(text.contains("tls_ca: missing") && text.contains("tls_key: missing"), "{text}");
    let pair = "data_dir = \"d\"\nbucket = \"s3://bucket/p\"\ntls_ca = \"ca\"\n\
                tls_cert = \"c\"\ntls_key = \"k\"\n";
    let times = |text: &str| {
        let pair = load(&format!("{pair}{text}")).expect("valid").settings.pair.expect("a pair");
        (pair.heartbeat_ms, pair.rejoin_after_ms)
    };
    assert_eq!(times(""), (100, 5_000));
    assert_eq!(times("heartbeat_ms = 50\nrejoin_after_ms = 300"), (50, 300));
}

#[test]
fn listening_beyond_loopback_without_tls_must_be_said_aloud() {
    let text = refused("data_dir = \"d\"\nlisten = \"0.0.0.0:7440\"");
    assert!(text.contains("is not loopback") && text.contains("insecure_plaintext"), "{text}");
    let aloud = "data_dir = \"d\"\nlisten = \"0.0.0.0:7440\"\ninsecure_plaintext = true";
    assert!(load(aloud).is_ok());
    assert!(load("data_dir = \"d\"\nlisten = \"[::1]:7440\"").is_ok());
    assert!(refused("data_dir = \"d\"\nlisten = \"somewhere\"").contains("IP address and a port"));
}

#[test]
fn clients_come_over_tls_as_soon_as_there_are_certificates() {
    let files = "data_dir = \"d\"\ntls_ca = \"ca\"\ntls_cert = \"c\"\ntls_key = \"k\"\n";
    let clients = |text: &str| load(&format!("{files}{text}")).expect("valid").settings.clients;
    assert_eq!(clients(""), Some(ClientAuth::Required));
    assert_eq!(clients("listen = \"0.0.0.0:7440\""), Some(ClientAuth::Required));
    assert_eq!(clients("tls_client_auth = \"optional\""), Some(ClientAuth::Optional));
    assert_eq!(clients("insecure_plaintext = true"), None);
    let loaded = load(&format!("{files}insecure_plaintext = true")).expect("valid");
    assert!(loaded.notes[0].contains("without TLS"), "{:?}", loaded.notes);
    let text = refused(&format!("{files}tls_client_auth = \"maybe\""));
    assert!(text.contains("required, optional or none"), "{text}");
}

#[test]
fn certificates_are_given_whole_and_nobody_shows_one_in_the_clear() {
    let text = refused("data_dir = \"d\"\ntls_ca = \"ca\"");
    assert!(text.contains("tls_cert: missing") && text.contains("tls_key: missing"), "{text}");
    for clear in
        ["", "tls_ca = \"a\"\ntls_cert = \"c\"\ntls_key = \"k\"\ninsecure_plaintext = true"]
    {
        let text = refused(&format!("data_dir = \"d\"\ntls_client_auth = \"required\"\n{clear}"));
        assert!(text.contains("served without TLS"), "{text}");
    }
    assert_eq!(load("data_dir = \"d\"").expect("valid").settings.clients, None);
}

#[test]
fn a_file_that_is_not_toml_says_where() {
    let text = refused("data_dir = ");
    assert!(text.contains("not valid TOML") && text.contains("line 1"), "{text}");
    let text = refused("data_dir = [\"a\"]");
    assert!(text.contains("data_dir: takes a path, got: array"), "{text}");
}
