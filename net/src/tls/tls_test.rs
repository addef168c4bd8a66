//! Tests of certificates.

use std::time::{Duration, SystemTime};

use celeriant_schema::{ClusterId, StoreId};

use super::*;

/// Tests may look at the clock.
#[allow(clippy::disallowed_methods)]
fn valid() -> Validity {
    let from = SystemTime::now() - Duration::from_secs(3600);
    Validity { from, lasts: Duration::from_secs(86_400) }
}

fn name() -> Name {
    Name { cluster: ClusterId::new(1), store: StoreId::new(2) }
}

fn issue(authority: &Authority) -> Issued {
    let subject = Subject { name: "a".into(), node: Some(name()), ..Subject::default() };
    authority.issue(&subject, valid()).expect("made")
}

#[test]
fn a_name_is_written_as_a_uri_and_read_back() {
    let text = name().to_string();
    let cluster = "00000000-0000-0000-0000-000000000001";
    assert_eq!(text, format!("celeriant://{cluster}/00000000-0000-0000-0000-000000000002"));
    assert_eq!(text.parse(), Ok(name()));
    for wrong in ["", "celeriant://", "https://a/b", &format!("celeriant://{cluster}")] {
        assert_eq!(wrong.parse::<Name>(), Err(NameError), "{wrong}");
    }
}

#[test]
fn a_certificate_that_was_made_can_be_loaded_and_says_its_name() {
    let authority = Authority::new("test", valid()).expect("made");
    let again = Authority::from_pem(&authority.issued().certificate, &authority.issued().key);
    for authority in [authority, again.expect("read")] {
        let issued = issue(&authority);
        let ca = &authority.issued().certificate;
        let material = Material::from_pem(ca, &issued.certificate, &issued.key).expect("usable");
        assert_eq!(material.name(), Some(name()));
    }
}

#[test]
fn a_key_of_another_certificate_is_refused() {
    let authority = Authority::new("test", valid()).expect("made");
    let (a, b) = (issue(&authority), issue(&authority));
    let mixed = Material::from_pem(&authority.issued().certificate, &a.certificate, &b.key);
    assert!(matches!(mixed, Err(Error::KeyMismatch)), "{mixed:?}");
}

#[test]
fn files_that_are_missing_or_hold_something_else_are_named() {
    let folder = tempfile::tempdir().expect("a directory");
    let path = |name: &str| folder.path().join(name);
    let files = Files {
        authority: path("ca.crt"),
        certificate: path("n.crt"),
        key: path("n.key"),
        revoked: None,
    };
    let missing = Credentials::load(files.clone()).expect_err("missing").to_string();
    assert!(missing.contains("ca.crt"), "{missing}");
    let authority = Authority::new("test", valid()).expect("made");
    let issued = issue(&authority);
    std::fs::write(&files.authority, &authority.issued().certificate).expect("written");
    std::fs::write(&files.certificate, "nonsense").expect("written");
    std::fs::write(&files.key, &issued.key).expect("written");
    let nonsense = Credentials::load(files.clone()).expect_err("nonsense").to_string();
    assert!(nonsense.contains("n.crt") && nonsense.contains("certificate"), "{nonsense}");
    std::fs::write(&files.certificate, &issued.certificate).expect("written");
    let credentials = Credentials::load(files.clone()).expect("right");
    std::fs::write(&files.key, "nonsense").expect("written");
    assert!(credentials.reload().is_err());
    assert_eq!(credentials.current().name(), Some(name()), "what was good stays in use");
}

#[test]
fn a_key_is_never_shown() {
    let authority = Authority::new("test", valid()).expect("made");
    let shown = format!("{authority:?} {:?}", issue(&authority));
    assert!(!shown.contains("PRIVATE KEY"), "{shown}");
}

/// What a peer says of a certificate when the CA's list is this file.
fn judged(authority: &Authority, issued: &Issued, list: &str) -> Result<Name, Untrusted> {
    let folder = tempfile::tempdir().expect("a directory");
    let put = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).expect("written");
        path
    };
    let files = Files {
        authority: put("ca.crt", &authority.issued().certificate),
        certificate: put("n.crt", &issued.certificate),
        key: put("n.key", &issued.key),
        revoked: Some(put("ca.crl", list)),
    };
    Material::load(&files).expect("usable").judge(valid().from + Duration::from_secs(3600))
}

#[test]
fn what_the_authority_has_taken_back_is_worth_nothing_and_a_list_of_another_opens_nothing() {
    let (authority, other) = (Authority::new("a", valid()), Authority::new("b", valid()));
    let (authority, other) = (authority.expect("made"), other.expect("made"));
    let (good, bad) = (issue(&authority), issue(&authority));
    let serial = Serial::of(&bad.certificate).expect("a certificate");
    assert_eq!(serial.to_string().parse::<Serial>().ok(), Some(serial.clone()));
    let list = authority.revoke(&[serial], 1, valid()).expect("signed");
    assert_eq!(judged(&authority, &good, &list), Ok(name()));
    assert_eq!(judged(&authority, &bad, &list), Err(Untrusted::Revoked));
    let foreign = other.revoke(&[], 1, valid()).expect("signed");
    assert!(judged(&authority, &good, &foreign).is_err());
}

#[test]
fn the_end_of_a_certificate_is_found_to_the_minute() {
    let authority = Authority::new("test", valid()).expect("made");
    let issued = issue(&authority);
    let ca = &authority.issued().certificate;
    let material = Material::from_pem(ca, &issued.certificate, &issued.key).expect("usable");
    let valid = valid();
    let from = valid.from + Duration::from_secs(7200);
    let left = material.good_for(from);
    let exact = valid.lasts - Duration::from_secs(7200);
    assert!(left <= exact && exact - left < Duration::from_secs(120), "{left:?} of {exact:?}");
    assert_eq!(material.good_for(from + valid.lasts), Duration::ZERO);
}
