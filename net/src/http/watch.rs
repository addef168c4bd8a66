//! Feeds: one page, or Server-Sent Events for as long as somebody listens.
//!
//! ```text
//! id: 1234          the stamp: a browser that comes back says it as Last-Event-ID
//! event: append     or deleted, or trimmed
//! data: {"key":…}
//!
//! id: 1240          up to here everything was told; caught_up: nothing more was there
//! event: checkpoint
//! data: {"checkpoint":1240,"caught_up":true}
//!
//! event: problem    why it ends; a browser comes back by itself, where it was
//! data: {"error":…}
//! ```
//! A page is asked for when the one before it is taken, so a slow reader holds one page and costs
//! the node nothing. Nothing is kept of whoever is gone.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::fmt::Write;

use axum::body::Body;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::http::{HeaderName, HeaderValue};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use celeriant_schema::limits::FEED_WAIT_MS_MAX;
use celeriant_schema::{
    FeedPage, FeedQuery, Refusal, Request, Response as Answer, Selector, Stamp,
};
use serde_json::json;
use tokio::sync::OwnedSemaphorePermit;

use super::call::Call;
use super::problem::Problem;
use super::read::json_body;
use super::text::{self, PIECE_BYTES, Told};
use super::{Gateway, SMALL, unexpected};
use crate::json::{Begin, parse_begin, refusal};
use crate::rooms::Seat;
use crate::service::Service;

const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");
/// Most events of a page, if nothing is said.
const LIMIT: u64 = 1_000;

/// One page of a feed: what is there now.
pub(super) async fn feed<V: Service>(
    gateway: &Gateway<V>,
    call: Call,
) -> Result<Response, Problem> {
    let limit = call.number("limit")?.unwrap_or(LIMIT);
    if limit == 0 {
        return Err(Problem::invalid("limit", "must be at least 1"));
    }
    let after = call.number("after")?.map_or(Stamp::ZERO, Stamp::new);
    let query = FeedQuery { after: Some(after), ..query(&call)? };
    let raw = call.switch("raw")?;
    let room = gateway.budget.page(gateway.settings.request_timeout).await?;
    let page = ask(gateway, query).await?;
    let (mut upto, head) = (page.upto, page.head);
    let mut events = Told::of_feed(page);
    if events.len() as u64 > limit {
        events.truncate(limit as usize);
        upto = events.last().map_or(upto, Told::stamp);
    }
    let (notices, events): (Vec<_>, Vec<_>) = events.into_iter().partition(Told::is_notice);
    let start = json!({"checkpoint": upto.value(), "caught_up": upto >= head});
    let lists = [("notices", &notices[..]), ("events", &events[..])];
    Ok(json_body(text::with_lists(&start, &lists, raw)?, room))
}

/// What happens, as it happens.
pub(super) async fn watch<V: Service>(
    gateway: &Gateway<V>,
    call: Call,
) -> Result<Response, Problem> {
    let begin = match call.header(&LAST_EVENT_ID)? {
        // A browser says the same address again, and where it was.
        Some(last) => begin(LAST_EVENT_ID.as_str(), last)?,
        None => begin("from", call.parameter("from").unwrap_or("now"))?,
    };
    let after = match begin {
        Begin::Now => None,
        Begin::After(stamp) => Some(stamp),
    };
    let query = FeedQuery { after, ..query(&call)? };
    let raw = call.switch("raw")?;
    let seats = call.rights.sit_to_watch(&query.selector)?;
    let mut watch = Watch {
        gateway: gateway.clone(),
        query,
        raw,
        events: VecDeque::new(),
        checkpoint: None,
        told: None,
        room: None,
        _seats: seats,
    };
    // The first page comes before the answer's head: what is refused is refused with a status.
    let page = watch.page(0).await?;
    watch.take(page);
    let mut response = Body::from_stream(watch.stream()).into_response();
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}

fn begin(field: &str, text: &str) -> Result<Begin, Refusal> {
    parse_begin(text).map_err(|reason| Refusal::invalid(field, reason))
}

fn query(call: &Call) -> Result<FeedQuery, Refusal> {
    let selector =
        call.parameter("selector").ok_or_else(|| Refusal::invalid("selector", "missing"))?;
    let selector: Selector =
        selector.parse().map_err(|error| Refusal::invalid("selector", error))?;
    let headers_only = call.switch("headers_only")?;
    Ok(FeedQuery { selector, types: call.names("types"), headers_only, ..FeedQuery::default() })
}

async fn ask<V: Service>(gateway: &Gateway<V>, query: FeedQuery) -> Result<FeedPage, Refusal> {
    let wait = std::time::Duration::from_millis(query.wait_ms.into());
    let patience = gateway.settings.request_timeout + wait;
    match gateway.asker.ask(Request::Feed(query), SMALL, patience).await? {
        Answer::Feed(page) => Ok(page),
        other => Err(unexpected(&other)),
    }
}

/// One watcher.
struct Watch<V> {
    gateway: Gateway<V>,
    query: FeedQuery,
    raw: bool,
    /// Of the page at hand.
    events: VecDeque<Told>,
    /// What is behind them.
    checkpoint: Option<(Stamp, bool)>,
    /// The checkpoint that was told last.
    told: Option<(Stamp, bool)>,
    room: Option<OwnedSemaphorePermit>,
    /// Of the orgs that it watches, as long as it does.
    _seats: Vec<Seat>,
}

/// Where a stream is.
enum State<V> {
    Begins(Box<Watch<V>>),
    GoesOn(Box<Watch<V>>),
    Over,
}

impl<V: Service> Watch<V> {
    fn stream(self) -> impl futures_util::Stream<Item = Result<Bytes, Infallible>> + Send {
        futures_util::stream::unfold(State::Begins(Box::new(self)), |state| async move {
            match state {
                // Whoever is cut off comes back after a second.
                State::Begins(watch) => {
                    Some((Ok(Bytes::from_static(b"retry: 1000\n\n")), State::GoesOn(watch)))
                }
                State::GoesOn(mut watch) => {
                    let mut stop = watch.gateway.stop.clone();
                    let piece = tokio::select! {
                        biased;
                        () = stop.wait() => return None,
                        piece = watch.next() => piece,
                    };
                    match piece {
                        Ok(piece) => Some((Ok(piece), State::GoesOn(watch))),
                        Err(why) => {
                            let text = format!("event: problem\ndata: {}\n\n", refusal(&why));
                            Some((Ok(text.into()), State::Over))
                        }
                    }
                }
                State::Over => None,
            }
        })
    }

    /// What is told next. Waits for something to be there, or for the time of a heartbeat.
    async fn next(&mut self) -> Result<Bytes, Refusal> {
        if self.events.is_empty() && self.checkpoint.is_none() {
            let heartbeat = self.gateway.settings.heartbeat.as_millis();
            let wait = u32::try_from(heartbeat).unwrap_or(FEED_WAIT_MS_MAX).min(FEED_WAIT_MS_MAX);
            self.room = None;
            let page = self.page(wait).await?;
            self.take(page);
        }
        let mut piece = String::new();
        while piece.len() < PIECE_BYTES
            && let Some(event) = self.events.pop_front()
        {
            let (stamp, name, data) = (event.stamp(), event.name(), event.to_json(self.raw)?);
            // Writing to a text cannot fail.
            let _ = write!(piece, "id: {stamp}\nevent: {name}\ndata: {data}\n\n");
        }
        if self.events.is_empty() {
            self.room = None;
            self.put_checkpoint(&mut piece);
        }
        Ok(piece.into())
    }

    fn put_checkpoint(&mut self, piece: &mut String) {
        let checkpoint = self.checkpoint.take();
        if checkpoint.is_none() || checkpoint == self.told {
            piece.push_str(": nothing new\n\n");
            return;
        }
        self.told = checkpoint;
        if let Some((stamp, caught_up)) = checkpoint {
            let data = json!({"checkpoint": stamp.value(), "caught_up": caught_up});
            let _ = write!(piece, "id: {stamp}\nevent: checkpoint\ndata: {data}\n\n");
        }
    }

    /// A page that may wait for something to be in it. While it waits there is nothing to hold;
    /// when there is and no room for it, it is let go and asked for again in turn.
    async fn page(&mut self, wait_ms: u32) -> Result<FeedPage, Refusal> {
        let page = ask(&self.gateway, FeedQuery { wait_ms, ..self.query.clone() }).await?;
        if page.batches.is_empty() {
            return Ok(page);
        }
        self.room = self.gateway.budget.page_now();
        if self.room.is_some() {
            return Ok(page);
        }
        drop(page);
        self.room = Some(self.gateway.budget.page(self.gateway.settings.stall_timeout).await?);
        ask(&self.gateway, FeedQuery { wait_ms: 0, ..self.query.clone() }).await
    }

    fn take(&mut self, page: FeedPage) {
        self.query.after = Some(page.upto);
        self.checkpoint = Some((page.upto, page.upto >= page.head));
        self.events = Told::of_feed(page).into();
    }
}
