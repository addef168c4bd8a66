//! I20: a watcher sees each matching event exactly once, in stamp order, across fail-over; and the
//! notice of everything that was deleted or trimmed.
//!
//! A page says what is between two stamps. When every page has exactly that, so has every chain of
//! pages, whichever nodes they came from.
//!
//! ```text
//!   event e ─── … ─── delete of e, at stamp d
//!   a page that says head < d:  e may be on it (a live watcher is told before it is deleted)
//!   a page that says head >= d: e is not on it, however old the reader's cursor
//!   e is left out of a page only when its delete may have been there when it was made
//! ```

use celeriant_schema::event::EventBody;
use celeriant_schema::{AggregateKey, FeedPage, FeedQuery, Hash, Notice, Stamp};

use crate::history::{History, Step};

/// The invariant's name.
pub const RULE: &str = "I20";

/// What a page is to say, or says.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Content {
    Event(Hash),
    Notice(Notice),
}

type Item<'h> = (Stamp, &'h AggregateKey, Content);

/// Compares a page with what is in the logs in the end. `may_be_at` says whether an aggregate may
/// have been at a step when the page was made.
///
/// # Errors
/// What is missing, or there too much.
pub fn check_page(
    history: &History,
    query: &FeedQuery,
    page: &FeedPage,
    may_be_at: impl Fn(&AggregateKey, Step) -> bool,
) -> Result<(), String> {
    let Some(after) = query.after else {
        return match page.batches.is_empty() {
            true => Ok(()),
            false => Err("a feed from now on begins with what was before".into()),
        };
    };
    if page.upto < after {
        return Err(format!("it ends at {}, and was to begin behind {after}", page.upto));
    }
    let mut told = page.batches.iter().flat_map(told).peekable();
    for (item, gone) in due(history, query, after, page.upto) {
        let (stamp, key, _) = item;
        let is_told = told.next_if_eq(&item).is_some();
        let deleted = |step: Step| history.batches(key)[step - 1].header.stamp;
        match gone {
            Some(step) if is_told && deleted(step) <= page.head => {
                let (deleted, head) = (deleted(step), page.head);
                return Err(format!("{key} at {stamp} was gone at {deleted}, told at {head}"));
            }
            Some(step) if !is_told && may_be_at(key, step) => {}
            _ if is_told => {}
            _ => {
                let (upto, next) = (page.upto, told.peek());
                return Err(format!(
                    "between {after} and {upto}: {key} at {stamp} is missing, told is {next:?}"
                ));
            }
        }
    }
    match told.next() {
        Some(item) => Err(format!("behind {after}: {item:?} is not in the store")),
        None => Ok(()),
    }
}

fn told(told: &celeriant_schema::FeedBatch) -> impl Iterator<Item = Item<'_>> {
    let header = &told.batch.header;
    let notice = told.notice.map(|it| (header.stamp, &told.key, Content::Notice(it)));
    let events = told.batch.events.iter().map(|event| {
        let ahead = event.version.value() - header.first_version.value();
        let stamp = Stamp::new(header.stamp.value() + ahead);
        (stamp, &told.key, Content::Event(event.hash))
    });
    notice.into_iter().chain(events)
}

/// What a page from `after` to `upto` is about, in order; each with the step at which it was taken
/// away.
fn due<'h>(
    history: &'h History,
    query: &FeedQuery,
    after: Stamp,
    upto: Stamp,
) -> Vec<(Item<'h>, Option<Step>)> {
    let is_due = |stamp: Stamp| after < stamp && stamp <= upto;
    let concerned = history.aggregates.iter().filter(|(key, _)| query.selector.matches(key));
    let batches = concerned.flat_map(|(key, all)| {
        let first = all.partition_point(|batch| batch.last_stamp() <= after);
        let within = all.iter().enumerate().skip(first);
        within.take_while(|(_, it)| it.header.stamp <= upto).map(move |(at, it)| (key, at, it))
    });
    let mut due = Vec::new();
    for (key, at, batch) in batches {
        let stamp = batch.header.stamp;
        if let Some(retention) = batch.retention {
            let notice = Notice { what: retention, hash: batch.hash };
            due.push(((stamp, key, Content::Notice(notice)), None));
        }
        let events =
            batch.events.iter().zip(stamp.value()..).filter(|(event, stamp)| {
                is_due(Stamp::new(*stamp)) && has_type(query, &event.body)
            });
        due.extend(events.map(|(event, stamp)| {
            let gone = history.gone_at(key, at + 1, event.version);
            ((Stamp::new(stamp), key, Content::Event(event.hash)), gone)
        }));
    }
    due.sort_by_key(|((stamp, ..), _)| *stamp);
    due
}

fn has_type(query: &FeedQuery, body: &[u8]) -> bool {
    let is_wanted = |kind: &[u8]| query.types.iter().any(|wanted| wanted[..] == *kind);
    query.types.is_empty()
        || EventBody::new(body).is_ok_and(|body| is_wanted(body.event_type().as_bytes()))
}
