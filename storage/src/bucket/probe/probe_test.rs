//! The probe passes an honest bucket and finds every way to lie.

use std::collections::{BTreeMap, VecDeque};
use std::task::{Context, Poll};

use super::*;
use crate::bucket::{Completion, Token};

/// How a bucket breaks the contract.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Way {
    Honest,
    IgnoresIfNoneMatch,
    IgnoresIfMatch,
    ChecksThenWrites,
    ForgetsWrites,
    ReadsStale,
    RefusesAll,
    MakesDespiteRefusal,
    KeepsDeleted,
    AnswersConcurrentOnly,
    HidesWins,
    Denies,
}

/// Carries out everything that was started when it is first polled.
struct Fake {
    way: Way,
    objects: BTreeMap<Key, Vec<Bytes>>,
    started: Vec<(Token, Op)>,
    ended: VecDeque<Completion>,
}

impl Fake {
    fn new(way: Way) -> Self {
        Self { way, objects: BTreeMap::new(), started: Vec::new(), ended: VecDeque::new() }
    }

    fn etag(&self, key: &Key) -> Option<ETag> {
        let versions = self.objects.get(key).filter(|versions| !versions.is_empty())?;
        Some(ETag::new(format!("\"{key}-{}\"", versions.len())))
    }

    fn allows(&self, op: &Op) -> Option<Conflict> {
        match op {
            Op::PutIfAbsent { key, .. } => {
                let refused = self.etag(key).is_some() && self.way != Way::IgnoresIfNoneMatch;
                refused.then_some(Conflict::Precondition)
            }
            Op::PutIfMatch { .. } if self.way == Way::IgnoresIfMatch => None,
            Op::PutIfMatch { key, etag, .. } => match self.etag(key) {
                None => Some(Conflict::Missing),
                Some(current) => (current != *etag).then_some(Conflict::Precondition),
            },
            _ => None,
        }
    }

    fn carry_out(&mut self, op: Op, allowed: Option<Conflict>, racing: bool) -> Outcome {
        let way = self.way;
        match &op {
            _ if way == Way::Denies => Err(BucketError::unsent(&op, Cause::Denied)),
            Op::Get { key } => {
                let versions = self.objects.get(key).map_or(&[][..], Vec::as_slice);
                let back = usize::from(way == Way::ReadsStale && versions.len() > 1);
                let found = versions.len().checked_sub(1 + back).map(|at| versions[at].clone());
                let etag = self.etag(key).unwrap_or(ETag::new(""));
                Ok(found.map_or(Done::Absent, |body| Done::Found { etag, body }))
            }
            Op::PutIfAbsent { key, body } | Op::PutIfMatch { key, body, .. } => {
                let refused = match allowed {
                    _ if way == Way::RefusesAll => Some(Conflict::Precondition),
                    _ if way == Way::AnswersConcurrentOnly && racing => Some(Conflict::Concurrent),
                    refused => refused,
                };
                if refused.is_none() && way != Way::ForgetsWrites || way == Way::MakesDespiteRefusal
                {
                    self.objects.entry(key.clone()).or_default().push(body.clone());
                }
                match refused {
                    Some(conflict) => Ok(Done::Conflict(conflict)),
                    None if way == Way::HidesWins && racing => {
                        Ok(Done::Conflict(Conflict::Precondition))
                    }
                    None => Ok(Done::Put { etag: self.etag(key).unwrap_or(ETag::new("")) }),
                }
            }
            Op::Delete { key } => {
                if way != Way::KeepsDeleted {
                    self.objects.remove(key);
                }
                Ok(Done::Deleted)
            }
            Op::List { .. } => Ok(Done::Listed { objects: Vec::new(), more: false }),
        }
    }
}

impl Bucket for Fake {
    fn start(&mut self, token: Token, request: Request) {
        self.started.push((token, request.op));
    }

    fn poll_complete(&mut self, _cx: &mut Context<'_>) -> Poll<Completion> {
        let started = std::mem::take(&mut self.started);
        let racing = started.len() > 1;
        let together: Vec<Option<Conflict>> =
            started.iter().map(|(_, op)| self.allows(op)).collect();
        for ((token, op), early) in started.into_iter().zip(together) {
            let allowed = if self.way == Way::ChecksThenWrites { early } else { self.allows(&op) };
            let outcome = self.carry_out(op, allowed, racing);
            self.ended.push_back(Completion { token, outcome });
        }
        self.ended.pop_front().map_or(Poll::Pending, Poll::Ready)
    }
}

async fn report_of(way: Way) -> (Report, Fake) {
    let mut fake = Fake::new(way);
    let report = probe(&mut fake, BootId::new(7), Settings::default()).await;
    (report, fake)
}

#[tokio::test]
async fn an_honest_bucket_passes_and_is_left_clean() {
    for way in [Way::Honest, Way::AnswersConcurrentOnly, Way::HidesWins] {
        let (report, fake) = report_of(way).await;
        assert!(report.refusal().is_none(), "{way:?}: {report}");
        assert_eq!(report.findings.len(), Check::ALL.len());
        assert!(fake.objects.is_empty(), "{way:?} was left with objects");
    }
}

#[tokio::test]
async fn every_way_to_lie_is_found_and_named() {
    for (way, found) in [
        (Way::IgnoresIfNoneMatch, Check::CreateOnce),
        (Way::IgnoresIfMatch, Check::ReplaceStale),
        (Way::ChecksThenWrites, Check::RacingCreates),
        (Way::ForgetsWrites, Check::ReadAfterWrite),
        (Way::ReadsStale, Check::Replace),
        (Way::RefusesAll, Check::ReadAfterWrite),
        (Way::MakesDespiteRefusal, Check::CreateOnce),
        (Way::KeepsDeleted, Check::Delete),
    ] {
        let (report, _) = report_of(way).await;
        match report.refusal() {
            Some(Refusal::Lies { check, .. }) => assert_eq!(check, found, "{way:?}: {report}"),
            other => panic!("{way:?}: {other:?}"),
        }
    }
}

#[tokio::test]
async fn a_bucket_that_cannot_be_tried_is_no_liar_and_the_operator_is_told_what_to_do() {
    let (report, _) = report_of(Way::Denies).await;
    let Some(refusal) = report.refusal() else { panic!("it was accepted") };
    assert!(matches!(refusal, Refusal::Unproven { check: Check::ReadAfterWrite, .. }));
    assert!(refusal.to_string().contains("Check the credentials"), "{refusal}");
}
