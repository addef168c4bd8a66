//! Deleting and trimming (semantics.md §9).

use celeriant_schema::{
    ClientId, EncodedEvents, Guard, HeadInfo, HeadQuery, Member, ReadQuery, Receipt, Refusal,
    Request, Response, Retention, Sequence, Version, Write,
};

use super::rig::{Rig, exact, key, member, sequenced, write};

pub(super) const DELETE: Retention = Retention::Delete { recreate: true, forget_sequences: false };
const NEVER: Retention = Retention::Delete { recreate: false, forget_sequences: false };
const FORGET: Retention = Retention::Delete { recreate: true, forget_sequences: true };

fn trim(keep_from: u64) -> Retention {
    Retention::Trim { keep_from: Version::new(keep_from) }
}

pub(super) fn taking(id: &str, guard: Guard, retention: Retention) -> Member {
    let (key, events) = (key(id), EncodedEvents::default());
    Member { key, guard, sequence: None, events, retention: Some(retention) }
}

fn take(id: &str, retention: Retention) -> Request {
    write(vec![taking(id, Guard::Any, retention)])
}

/// By client 7.
fn take_sequenced(id: &str, retention: Retention, sequence: u64) -> Request {
    let sequence = Some(Sequence::new(sequence));
    let members = vec![Member { sequence, ..taking(id, Guard::Any, retention) }];
    Request::Write(Write { client_id: ClientId::new(7), members })
}

fn append(rig: &mut Rig, id: &str, guard: Guard, count: usize) -> Response {
    rig.ask(write(vec![member(id, guard, count)]))
}

fn receipt(response: Response) -> Receipt {
    match response {
        Response::Receipt(receipt) => receipt,
        other => panic!("a receipt, not {other:?}"),
    }
}

fn head(rig: &mut Rig, id: &str) -> HeadInfo {
    let client = Some(ClientId::new(7));
    match rig.ask(Request::Head(HeadQuery { key: key(id), client, min_stamp: None, any: false })) {
        Response::Head(head) => head,
        other => panic!("a head, not {other:?}"),
    }
}

/// Versions that a read gives.
fn read(rig: &mut Rig, query: ReadQuery) -> Result<Vec<u64>, Refusal> {
    match rig.ask(Request::Read(query)) {
        Response::Page(page) => {
            let events = page.batches.iter().flat_map(|batch| &batch.events);
            Ok(events.map(|event| event.version.value()).collect())
        }
        Response::Refused(refusal) => Err(refusal),
        other => panic!("{other:?}"),
    }
}

fn all(id: &str) -> ReadQuery {
    ReadQuery::all(key(id))
}

#[test]
fn a_deleted_aggregate_reads_as_deleted_and_its_versions_go_on() {
    let mut rig = Rig::new();
    append(&mut rig, "a", Guard::Any, 3);
    let before = head(&mut rig, "a");
    let deleted = receipt(rig.ask(take("a", DELETE)));
    assert_eq!(deleted.writes[0].last_version.value(), 3);
    assert_eq!(deleted.writes[0].hash, before.hash, "the chain stays where it is");
    assert_eq!(read(&mut rig, all("a")), Err(Refusal::Deleted { key: key("a") }));
    let gone = head(&mut rig, "a");
    assert!(gone.deleted && gone.version.value() == 3 && gone.first_available.value() == 4);
    assert!(gone.stamp > before.stamp);
    for (guard, passes) in [(Guard::Exists, false), (exact(2), false), (exact(3), true)] {
        let response = append(&mut rig, "a", guard, 1);
        if passes {
            assert_eq!(receipt(response).writes[0].first_version.value(), 4);
        } else {
            assert!(matches!(response, Response::Refused(_)), "{guard:?}");
        }
    }
    assert_eq!(read(&mut rig, all("a")), Ok(vec![4]), "what was deleted does not show again");
    assert!(!head(&mut rig, "a").deleted);
}

#[test]
fn a_deleted_aggregate_takes_a_new_one_and_one_deleted_for_ever_does_not() {
    let mut rig = Rig::new();
    for (id, retention) in [("a", DELETE), ("b", NEVER)] {
        append(&mut rig, id, Guard::Any, 1);
        receipt(rig.ask(take(id, retention)));
    }
    receipt(append(&mut rig, "a", Guard::NoStream, 1));
    for guard in [Guard::Any, Guard::NoStream, exact(1)] {
        let response = append(&mut rig, "b", guard, 1);
        let refusal = Refusal::Deleted { key: key("b") };
        assert_eq!(response, Response::Refused(refusal), "{guard:?}");
    }
    let conflict = append(&mut rig, "b", Guard::Exists, 1);
    assert!(matches!(conflict, Response::Refused(Refusal::Conflict { .. })), "guards come first");
    receipt(rig.ask(take("b", NEVER)));
}

#[test]
fn a_trim_hides_what_is_before_and_nothing_else() {
    let mut rig = Rig::new();
    append(&mut rig, "a", Guard::Any, 2);
    append(&mut rig, "a", Guard::Any, 3);
    let nothing = ReadQuery { to: Some(Version::NONE), ..all("a") };
    assert_eq!(read(&mut rig, nothing), Ok(vec![]), "of what never was, nothing is trimmed");
    receipt(rig.ask(take("a", trim(4))));
    assert_eq!(head(&mut rig, "a").first_available.value(), 4);
    assert_eq!(read(&mut rig, all("a")), Ok(vec![4, 5]), "also in the middle of a batch");
    let backwards = ReadQuery { backwards: true, ..all("a") };
    assert_eq!(read(&mut rig, backwards), Ok(vec![4, 5]));
    let trimmed = Err(Refusal::Trimmed { key: key("a"), first_available: Version::new(4) });
    assert_eq!(read(&mut rig, ReadQuery { from: Version::new(3), ..all("a") }), trimmed);
    assert_eq!(read(&mut rig, ReadQuery { to: Some(Version::new(3)), ..all("a") }), trimmed);
    receipt(rig.ask(take("a", trim(2))));
    assert_eq!(head(&mut rig, "a").first_available.value(), 4, "it only grows");
    receipt(rig.ask(take("a", trim(100))));
    assert_eq!(head(&mut rig, "a").first_available.value(), 6, "not beyond the end");
    assert_eq!(read(&mut rig, all("a")), Ok(vec![]));
    receipt(append(&mut rig, "a", exact(5), 1));
    assert_eq!(read(&mut rig, all("a")), Ok(vec![6]));
}

#[test]
fn what_is_not_there_cannot_be_taken_away() {
    let mut rig = Rig::new();
    let missing = Response::Refused(Refusal::NotFound { key: key("a") });
    assert_eq!(rig.ask(take("a", DELETE)), missing);
    assert_eq!(rig.ask(take("a", trim(1))), missing);
    append(&mut rig, "a", Guard::Any, 1);
    receipt(rig.ask(take("a", DELETE)));
    assert_eq!(rig.ask(take("a", trim(1))), Response::Refused(Refusal::Deleted { key: key("a") }));
}

#[test]
fn a_delete_is_guarded_and_part_of_its_write() {
    let mut rig = Rig::new();
    append(&mut rig, "a", Guard::Any, 1);
    let members = vec![taking("a", exact(2), DELETE), member("log", Guard::Any, 1)];
    let refused = rig.ask(write(members.clone()));
    assert!(matches!(refused, Response::Refused(Refusal::Conflict { .. })), "{refused:?}");
    assert_eq!(read(&mut rig, all("a")), Ok(vec![1]));
    append(&mut rig, "a", Guard::Any, 1);
    let landed = receipt(rig.ask(write(members)));
    assert_eq!(landed.writes.len(), 2);
    assert!(head(&mut rig, "a").deleted);
    assert_eq!(landed.stamp, head(&mut rig, "log").stamp, "each has stamps of its own");
    assert!(head(&mut rig, "a").stamp < landed.stamp);
}

#[test]
fn a_delete_that_is_sent_again_lands_once_and_sequences_go_on() {
    let mut rig = Rig::new();
    receipt(rig.ask(sequenced("a", Guard::NoStream, 1, "x")));
    let first = receipt(rig.ask(take_sequenced("a", DELETE, 2)));
    let again = receipt(rig.ask(take_sequenced("a", DELETE, 2)));
    assert_eq!((again.stamp, again.already_applied), (first.stamp, true));
    assert_eq!(again.writes, first.writes);
    let reused = rig.ask(take_sequenced("a", NEVER, 2));
    assert!(matches!(reused, Response::Refused(Refusal::SequenceReused { .. })), "{reused:?}");
    let gap = rig.ask(sequenced("a", Guard::Any, 1, "y"));
    assert!(matches!(gap, Response::Refused(Refusal::SequenceReused { .. })), "{gap:?}");
    receipt(rig.ask(sequenced("a", Guard::NoStream, 3, "y")));
    assert_eq!(head(&mut rig, "a").last_sequence, Some(Sequence::new(3)));
}

#[test]
fn sequences_that_are_forgotten_start_at_one_again_at_once() {
    let mut rig = Rig::new();
    receipt(rig.ask(sequenced("a", Guard::NoStream, 1, "x")));
    receipt(rig.ask(sequenced("a", Guard::Any, 2, "x")));
    // Together: nothing is committed when the next one is looked at.
    rig.request(1, take("a", FORGET));
    rig.request(2, sequenced("a", Guard::NoStream, 1, "x"));
    rig.flush();
    let replies = rig.replies();
    assert!(replies.iter().all(|(_, it)| matches!(it, Response::Receipt(_))), "{replies:?}");
    assert_eq!(head(&mut rig, "a").last_sequence, Some(Sequence::new(1)));
    // Of the write that forgets itself, its own stays.
    let first = receipt(rig.ask(take_sequenced("a", FORGET, 2)));
    let again = receipt(rig.ask(take_sequenced("a", FORGET, 2)));
    assert_eq!((again.stamp, again.already_applied), (first.stamp, true));
    receipt(rig.ask(sequenced("a", Guard::NoStream, 3, "z")));
}
