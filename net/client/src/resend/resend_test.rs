//! What follows from each way in which an attempt can go, for each kind of request.

use celeriant_schema::{Receipt, Stamp};

use super::*;

fn course(resend: Resend) -> Course {
    Course::new(resend, 7)
}

fn refused(refusal: Refusal) -> Attempt {
    Attempt::Answer(Response::Refused(refusal))
}

fn conflict(already_applied: AlreadyApplied) -> Refusal {
    Refusal::Conflict { conflicts: Vec::new(), already_applied }
}

fn not_leader() -> Refusal {
    Refusal::NotLeader { leader: None }
}

const KINDS: [Resend; 3] = [Resend::Read, Resend::Sequenced, Resend::Unsequenced];

#[test]
fn what_was_certainly_not_done_is_sent_again_whatever_it_is() {
    let not_done = || {
        [
            Attempt::Lost { sent: false },
            Attempt::TimedOut { sent: false },
            refused(not_leader()),
            refused(Refusal::NoLeader),
            refused(Refusal::NotYet { wanted: Stamp::new(2), reached: Stamp::new(1) }),
            refused(Refusal::Overloaded { what: String::new(), retry_after_ms: 1 }),
            refused(Refusal::DeadlineExceeded { definite: true }),
        ]
    };
    for kind in KINDS {
        let mut course = course(kind);
        for attempt in not_done() {
            assert!(matches!(course.take(attempt), Next::Again(_)), "{kind:?}");
        }
        assert!(course.out_of_time(None).is_definite());
    }
}

#[test]
fn what_may_have_been_done_is_sent_again_only_if_twice_is_once() {
    let maybe_done = || {
        [
            Attempt::Lost { sent: true },
            Attempt::TimedOut { sent: true },
            refused(Refusal::UnknownOutcome),
            refused(Refusal::DeadlineExceeded { definite: false }),
        ]
    };
    for attempt in maybe_done() {
        let Next::Failed(error) = course(Resend::Unsequenced).take(attempt) else {
            panic!("sent again")
        };
        assert!(!error.is_definite(), "{error:?}");
    }
    for attempt in maybe_done() {
        let (mut read, mut write) = (course(Resend::Read), course(Resend::Sequenced));
        assert!(matches!(write.take(attempt), Next::Again(_)));
        assert!(matches!(write.take(refused(not_leader())), Next::Again(_)));
        assert!(!write.out_of_time(None).is_definite(), "the first attempt is still in doubt");
        assert!(matches!(read.take(Attempt::Lost { sent: true }), Next::Again(_)));
        assert!(read.out_of_time(None).is_definite(), "a read appends nothing");
    }
}

#[test]
fn a_conflict_with_a_receipt_is_a_success() {
    let receipt = Receipt { stamp: Stamp::new(5), already_applied: false, writes: Vec::new() };
    let conflict = conflict(AlreadyApplied::Receipt(Box::new(receipt)));
    let next = course(Resend::Sequenced).take(refused(conflict));
    let Next::Done(Response::Receipt(receipt)) = next else { panic!("{next:?}") };
    assert!(receipt.already_applied);
}

#[test]
fn a_refusal_that_does_not_look_at_sequences_says_nothing_about_an_earlier_attempt() {
    let invalid = || Refusal::InvalidArgument { field: String::new(), reason: String::new() };
    let mut course = course(Resend::Sequenced);
    let Next::Failed(error) = course.take(refused(invalid())) else { panic!("sent again") };
    assert!(error.is_definite());
    course.take(Attempt::Lost { sent: true });
    let Next::Failed(error) = course.take(refused(invalid())) else { panic!("sent again") };
    assert!(matches!(error, Error::UnknownOutcome), "{error:?}");
    let Next::Failed(error) = course.take(refused(conflict(AlreadyApplied::None))) else {
        panic!("sent again")
    };
    assert!(error.is_definite(), "the store looked: {error:?}");
    let too_large = Error::TooLarge { what: String::new(), limit: 1 };
    assert!(!course.not_sent(too_large).is_definite());
}

#[test]
fn the_last_reason_is_told_when_time_is_up() {
    let unreachable = || Error::Connect { address: String::from("a"), reason: String::new() };
    let mut refusing = course(Resend::Unsequenced);
    refusing.take(refused(Refusal::NoLeader));
    assert!(matches!(refusing.out_of_time(Some(unreachable())), Error::NoLeader));
    let mut gone = course(Resend::Unsequenced);
    gone.take(refused(Refusal::NoLeader));
    gone.take(Attempt::Lost { sent: false });
    assert!(matches!(gone.out_of_time(Some(unreachable())), Error::Connect { .. }));
}
