//! Pages and heads: exactly what was there at a moment between asking and answering.

use celeriant_schema::event::EventBody;
use celeriant_schema::{
    AggregateKey, HeadInfo, HeadQuery, Page, ReadBatch, ReadEvent, ReadQuery, Refusal, Sequence,
    Version,
};

use super::{Evidence, When};
use crate::history::{Batch, Standing};

/// A page holds all that was asked for, up to where it says it goes on, and nothing else.
pub(super) fn check_page(
    evidence: &Evidence,
    query: &ReadQuery,
    page: &Page,
    when: When,
) -> Result<(), String> {
    let (key, history) = (&query.key, &evidence.history);
    evidence.check_stamp(key, page.stamp, when)?;
    if query.min_stamp.is_some_and(|wanted| page.stamp < wanted) {
        return Err(format!("page of stamp {} for {:?}", page.stamp, query.min_stamp));
    }
    let steps = evidence.steps(key, when);
    let mut right = Err(impossible(evidence, "page", page.version, key, when));
    for step in steps {
        let standing = history.standing(key, step);
        if standing.version != page.version || standing.deleted {
            continue;
        }
        right = match step < history.step_at(key, page.stamp) {
            true => Err(format!("page says stamp {} and lacks batches before it", page.stamp)),
            false => check_content(query, page, &history.batches(key)[..step], standing),
        };
        if right.is_ok() {
            break;
        }
    }
    right
}

fn check_content(
    query: &ReadQuery,
    page: &Page,
    batches: &[Batch],
    standing: Standing,
) -> Result<(), String> {
    if is_trimmed(query, standing) {
        return Err(format!("page of what was taken away before: {standing:?}"));
    }
    let covered = covered(query, page, standing)?;
    let parts = batches.iter().filter_map(|batch| part(query, batch, covered));
    let mut expected: Vec<ReadBatch> = parts.collect();
    if query.backwards {
        expected.reverse();
    }
    if expected != page.batches {
        let count = |batches: &[ReadBatch]| batches.iter().map(|b| b.events.len()).sum::<usize>();
        return Err(format!(
            "page of {covered:?}: {} batches, {} events instead of {}, {}",
            page.batches.len(),
            count(&page.batches),
            expected.len(),
            count(&expected),
        ));
    }
    let before_last = page.batches.iter().rev().skip(1).map(|b| b.events.len() as u64).sum::<u64>();
    match query.limit {
        Some(limit) if before_last >= limit.max(1) => Err(format!("limit {limit} was passed")),
        _ => Ok(()),
    }
}

/// Whether the query names a version that was taken away. From the first means from the first that
/// there is.
fn is_trimmed(query: &ReadQuery, Standing { first_available, .. }: Standing) -> bool {
    let is_gone = |version: Version| Version::NONE < version && version < first_available;
    query.from > Version::new(1) && is_gone(query.from) || query.to.is_some_and(is_gone)
}

/// There is nothing to read, or not from there, for the reason that is given.
pub(super) fn check_refused(
    evidence: &Evidence,
    query: &ReadQuery,
    refusal: &Refusal,
    when: When,
) -> Result<(), String> {
    let key = &query.key;
    let right = evidence.possible(key, when, |at| match refusal {
        Refusal::NotFound { key: named } => named == key && at.version == Version::NONE,
        Refusal::Deleted { key: named } => named == key && at.deleted,
        Refusal::Trimmed { key: named, first_available } => {
            let is_first = at.first_available == *first_available;
            named == key && is_first && !at.deleted && is_trimmed(query, *at)
        }
        _ => false,
    });
    right.then_some(()).ok_or_else(|| unexplained(evidence, refusal, key, when))
}

/// There is no head: only of what never was.
pub(super) fn check_unknown(
    evidence: &Evidence,
    key: &AggregateKey,
    refusal: &Refusal,
    when: When,
) -> Result<(), String> {
    let is_right = matches!(refusal, Refusal::NotFound { key: named } if named == key);
    let right = is_right && evidence.possible(key, when, |at| at.version == Version::NONE);
    right.then_some(()).ok_or_else(|| unexplained(evidence, refusal, key, when))
}

fn unexplained(evidence: &Evidence, refusal: &Refusal, key: &AggregateKey, when: When) -> String {
    format!("{refusal:?}, possible are {}", possible(evidence, key, when))
}

/// Lowest and highest version that the page speaks for.
fn covered(
    query: &ReadQuery,
    page: &Page,
    standing: Standing,
) -> Result<(Version, Version), String> {
    let first = query.from.max(standing.first_available);
    let last = query.to.unwrap_or(page.version).min(page.version);
    let (first, last) = match (page.next, query.backwards) {
        (None, _) => return Ok((first, last)),
        (Some(next), false) if first < next && next <= last => {
            (first, Version::new(next.value() - 1))
        }
        (Some(next), true) if first <= next && next < last => (next.next(), last),
        (Some(next), _) => {
            return Err(format!("page goes on at {next}, which is not within {first}..={last}"));
        }
    };
    Ok((first, last))
}

/// What the query wants of a batch.
fn part(query: &ReadQuery, batch: &Batch, (first, last): (Version, Version)) -> Option<ReadBatch> {
    let header = &batch.header;
    let wanted = query.client.is_none_or(|client| client == header.client_id)
        && query.since.is_none_or(|since| header.server_time >= since)
        && query.until.is_none_or(|until| header.server_time < until);
    let matches = |event: &&ReadEvent| {
        let kind = EventBody::new(&event.body).map(|body| body.event_type_bytes().to_vec());
        let typed = query.types.is_empty()
            || kind.is_ok_and(|kind| query.types.iter().any(|wanted| *wanted == kind));
        (first..=last).contains(&event.version) && typed
    };
    let events: Vec<ReadEvent> = batch.events.iter().filter(matches).cloned().collect();
    (wanted && !events.is_empty()).then(|| ReadBatch { header: header.clone(), events })
}

/// A head is that of one version.
pub(super) fn check_head(
    evidence: &Evidence,
    query: &HeadQuery,
    head: &HeadInfo,
    when: When,
) -> Result<(), String> {
    let (key, history) = (&query.key, &evidence.history);
    evidence.check_stamp(key, head.read_stamp, when)?;
    if query.min_stamp.is_some_and(|wanted| head.read_stamp < wanted) {
        return Err(format!("head of stamp {} for {:?}", head.read_stamp, query.min_stamp));
    }
    let step = history.step_at(key, head.stamp);
    if !evidence.steps(key, when).contains(&step) {
        return Err(impossible(evidence, "head", head.version, key, when));
    }
    if step < history.step_at(key, head.read_stamp) {
        return Err(format!("head says stamp {} and lacks batches before it", head.read_stamp));
    }
    let sequence =
        query.client.and_then(|client| history.sequences(key, client, step..=step).next());
    let sequence = sequence.filter(|sequence| *sequence > Sequence::default());
    if head.last_sequence != sequence {
        return Err(format!("head says sequence {:?}, it is {sequence:?}", head.last_sequence));
    }
    let batches = &history.batches(key)[..step];
    let (Some(first), Some(newest)) = (batches.first(), batches.last()) else {
        return Err(format!("head {head:?} of what was not there"));
    };
    let (at, hash) = (newest.after, newest.hash);
    let right = HeadInfo {
        version: at.version,
        hash,
        created: first.header.server_time,
        updated: newest.header.server_time,
        stamp: newest.last_stamp(),
        deleted: at.deleted,
        first_available: at.first_available,
        last_sequence: sequence,
        read_stamp: head.read_stamp,
    };
    match *head == right {
        true => Ok(()),
        false => Err(format!("head {head:?} instead of {right:?}")),
    }
}

fn impossible(
    evidence: &Evidence,
    what: &str,
    version: Version,
    key: &AggregateKey,
    when: When,
) -> String {
    format!("{what} of {key} at version {version}, possible are {}", possible(evidence, key, when))
}

/// For people.
fn possible(evidence: &Evidence, key: &AggregateKey, when: When) -> String {
    let steps = evidence.steps(key, when);
    let at = |step: usize| evidence.history.standing(key, step);
    format!("steps {steps:?}, {:?} to {:?}", at(*steps.start()), at(*steps.end()))
}
