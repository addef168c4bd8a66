//! I20: a watcher sees each matching event exactly once, in stamp order, across fail-over.
//!
//! A page says what is between two stamps. When every page has exactly that, so has every chain of
//! pages, whichever nodes they came from.

use celeriant_schema::event::EventBody;
use celeriant_schema::{AggregateKey, FeedPage, FeedQuery, Stamp};

use crate::history::{Batch, History};

/// The invariant's name.
pub const RULE: &str = "I20";

/// Compares a page with what is in the store in the end.
///
/// # Errors
/// What is missing, or there too much.
pub fn check_page(history: &History, query: &FeedQuery, page: &FeedPage) -> Result<(), String> {
    let Some(after) = query.after else {
        return match page.batches.is_empty() {
            true => Ok(()),
            false => Err("a feed from now on begins with what was before".into()),
        };
    };
    if page.upto < after {
        return Err(format!("it ends at {}, and was to begin behind {after}", page.upto));
    }
    let mut wanted = wanted(history, query, after, page.upto);
    wanted.sort_by_key(|(stamp, ..)| *stamp);
    let told = page.batches.iter().flat_map(|batch| {
        let (first, stamp) = (batch.batch.header.first_version, batch.batch.header.stamp);
        batch.batch.events.iter().map(move |event| {
            let ahead = event.version.value() - first.value();
            (Stamp::new(stamp.value() + ahead), &batch.key, event)
        })
    });
    let mut wanted = wanted.into_iter();
    for (stamp, key, event) in told {
        match wanted.next() {
            Some((due, of, hash)) if due == stamp && of == key && hash == event.hash => {}
            Some((due, of, _)) => {
                return Err(format!(
                    "behind {after}: {of} at {due} is due, told is {key} at {stamp}"
                ));
            }
            None => return Err(format!("behind {after}: {key} at {stamp} is not in the store")),
        }
    }
    match wanted.next() {
        Some((due, of, _)) => {
            Err(format!("between {after} and {}: {of} at {due} is missing", page.upto))
        }
        None => Ok(()),
    }
}

type Event<'h> = (Stamp, &'h AggregateKey, celeriant_schema::Hash);

fn wanted<'h>(
    history: &'h History,
    query: &FeedQuery,
    after: Stamp,
    upto: Stamp,
) -> Vec<Event<'h>> {
    let concerned = history.aggregates.iter().filter(|(key, _)| query.selector.matches(key));
    let batches = concerned.flat_map(|(key, batches)| batches.iter().map(move |it| (key, it)));
    let events = batches.flat_map(|(key, batch): (&AggregateKey, &Batch)| {
        let first = batch.header.stamp.value();
        let stamped = batch.events.iter().enumerate();
        stamped.map(move |(at, event)| (Stamp::new(first + at as u64), key, event))
    });
    let matching = events.filter(|(stamp, _, event)| {
        let kind = EventBody::new(&event.body).map(|body| body.event_type().as_bytes().to_vec());
        let has_type = query.types.is_empty()
            || kind.is_ok_and(|kind| query.types.iter().any(|wanted| wanted[..] == kind[..]));
        *stamp > after && *stamp <= upto && has_type
    });
    matching.map(|(stamp, key, event)| (stamp, key, event.hash)).collect()
}
