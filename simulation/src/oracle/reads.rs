//! Pages and heads: exactly what was there at a moment between asking and answering.

use celeriant_schema::event::EventBody;
use celeriant_schema::{
    HeadInfo, HeadQuery, Page, ReadBatch, ReadEvent, ReadQuery, Sequence, Version,
};

use super::{Evidence, When};
use crate::history::Batch;

/// A page holds all that was asked for, up to where it says it goes on, and nothing else.
pub(super) fn check_page(
    evidence: &Evidence,
    query: &ReadQuery,
    page: &Page,
    when: When,
) -> Result<(), String> {
    let key = &query.key;
    if !evidence.possible(key, page.version, when) {
        return Err(impossible(evidence, "page", query.key.as_str(), page.version, key, when));
    }
    evidence.check_stamp(key, page.stamp, when)?;
    if page.version < evidence.history.version_at(key, page.stamp) {
        return Err(format!("page says stamp {} and lacks events before it", page.stamp));
    }
    if query.min_stamp.is_some_and(|wanted| page.stamp < wanted) {
        return Err(format!("page of stamp {} for {:?}", page.stamp, query.min_stamp));
    }
    let covered = covered(query, page)?;
    let mut expected: Vec<ReadBatch> = evidence
        .history
        .batches(key)
        .iter()
        .filter_map(|batch| part(query, batch, covered))
        .collect();
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

/// Lowest and highest version that the page speaks for.
fn covered(query: &ReadQuery, page: &Page) -> Result<(Version, Version), String> {
    let first = query.from.max(Version::new(1));
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
    let key = &query.key;
    if !evidence.possible(key, head.version, when) {
        return Err(impossible(evidence, "head", key.as_str(), head.version, key, when));
    }
    evidence.check_stamp(key, head.read_stamp, when)?;
    if head.version < evidence.history.version_at(key, head.read_stamp) {
        return Err(format!("head says stamp {} and lacks events before it", head.read_stamp));
    }
    if query.min_stamp.is_some_and(|wanted| head.read_stamp < wanted) {
        return Err(format!("head of stamp {} for {:?}", head.read_stamp, query.min_stamp));
    }
    let sequence = query
        .client
        .map(|client| evidence.history.highest_sequence(key, client, head.version))
        .filter(|sequence| *sequence > Sequence::default());
    if head.last_sequence != sequence {
        return Err(format!("head says sequence {:?}, it is {sequence:?}", head.last_sequence));
    }
    let batches = evidence.history.batches(key);
    let (Some(first), Some(newest)) =
        (batches.first(), evidence.history.ending_at(key, head.version))
    else {
        return Ok(());
    };
    let same = head.hash == newest.hash()
        && head.stamp == newest.last_stamp()
        && head.created == first.header.server_time
        && head.updated == newest.header.server_time
        && !head.deleted;
    match same {
        true => Ok(()),
        false => Err(format!("head {head:?} is not that of {:?}", newest.header)),
    }
}

fn impossible(
    evidence: &Evidence,
    what: &str,
    name: &str,
    version: Version,
    key: &celeriant_schema::AggregateKey,
    when: When,
) -> String {
    let (lowest, highest) = (evidence.lowest(key, when), evidence.highest(key, when.answered));
    format!("{what} of {name} at version {version}, possible are {lowest}..={highest}")
}
