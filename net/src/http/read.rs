//! Events, heads and names.

use std::collections::VecDeque;
use std::fmt;

use axum::body::Body;
use axum::http::header::{CONTENT_TYPE, ETAG, IF_NONE_MATCH};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use celeriant_schema::limits::LIST_PAGE_MAX;
use celeriant_schema::{
    HeadInfo, HeadQuery, ListQuery, Page, ReadQuery, Refusal, Request, Response as Answer, Stamp,
    Version,
};
use serde_json::{Value, json};
use tokio::sync::OwnedSemaphorePermit;

use super::append::etag;
use super::call::Call;
use super::problem::Problem;
use super::text::{self, PIECE_BYTES, Told};
use super::{Gateway, unexpected};
use crate::json;
use crate::service::Service;

const NDJSON: &str = "application/x-ndjson";

/// A page of events, or all of them line by line.
pub(super) async fn events<V: Service>(
    gateway: &Gateway<V>,
    call: Call,
) -> Result<Response, Problem> {
    let query = read_query(&call)?;
    let raw = call.switch("raw")?;
    let room = gateway.budget.page(gateway.settings.request_timeout).await?;
    let page = read(gateway, &query).await?;
    let tag = etag(page.version);
    let mut response = if is_known(&call, &tag)? && is_whole(gateway, &query).await? {
        StatusCode::NOT_MODIFIED.into_response()
    } else if call.accepts(NDJSON) {
        let lines = Lines::new(gateway.clone(), query, raw, page, room);
        let mut response = Body::from_stream(lines.stream()).into_response();
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(NDJSON));
        response
    } else {
        json_body(page_text(&query, raw, page)?, room)
    };
    response.headers_mut().insert(ETAG, tag);
    Ok(response)
}

/// One page, as an object.
fn page_text(query: &ReadQuery, raw: bool, page: Page) -> Result<String, Refusal> {
    let start = json!({
        "key": query.key.as_str(), "version": page.version.value(), "stamp": page.stamp.value(),
        "next": page.next.map(Version::value),
    });
    text::with_events(&start, "events", &Told::of_page(&query.key, page, query.backwards), raw)
}

pub(super) async fn read<V: Service>(
    gateway: &Gateway<V>,
    query: &ReadQuery,
) -> Result<Page, Refusal> {
    match gateway.ask(Request::Read(query.clone())).await? {
        Answer::Page(page) => Ok(page),
        other => Err(unexpected(&other)),
    }
}

fn read_query(call: &Call) -> Result<ReadQuery, Refusal> {
    let (to, limit) = (call.number("to")?, call.number("limit")?);
    let client = call.parameter("client_id").map(str::parse).transpose();
    Ok(ReadQuery {
        from: Version::new(call.number("from")?.unwrap_or(0)),
        to: to.map(Version::new),
        backwards: call.switch("backwards")?,
        limit,
        types: call.names("types"),
        client: client.map_err(|error| Refusal::invalid("client_id", error))?,
        min_stamp: call.number("min_stamp")?.map(Stamp::new),
        any: call.switch("any")?,
        ..ReadQuery::all(call.key()?)
    })
}

/// Whether the caller has what is there already.
fn is_known(call: &Call, tag: &HeaderValue) -> Result<bool, Refusal> {
    // Compared weakly, as RFC 9110 has it: a cache on the way may have weakened a tag.
    let strong = |one: &str| one.strip_prefix("W/").unwrap_or(one).as_bytes() == tag.as_bytes();
    let known = call.header(&IF_NONE_MATCH)?;
    Ok(known
        .is_some_and(|tags| tags.split(',').map(str::trim).any(|one| one == "*" || strong(one))))
}

/// Whether nothing was ever taken away of an aggregate. That moves no version (semantics.md §9), so
/// a version alone does not tell that a caller's copy still holds.
async fn is_whole<V: Service>(gateway: &Gateway<V>, query: &ReadQuery) -> Result<bool, Refusal> {
    let ReadQuery { key, min_stamp, any, .. } = query;
    let query = HeadQuery { key: key.clone(), client: None, min_stamp: *min_stamp, any: *any };
    Ok(starts_at_first(&ask_head(gateway, query).await?))
}

fn starts_at_first(head: &HeadInfo) -> bool {
    head.first_available <= Version::NONE.next()
}

/// All events of a read, page after page, each asked for when the one before is taken.
struct Lines<V> {
    gateway: Gateway<V>,
    /// What is asked for next; `None` = nothing.
    query: Option<ReadQuery>,
    raw: bool,
    events: VecDeque<Told>,
    room: Option<OwnedSemaphorePermit>,
}

impl<V: Service> Lines<V> {
    fn new(
        gateway: Gateway<V>,
        query: ReadQuery,
        raw: bool,
        page: Page,
        room: OwnedSemaphorePermit,
    ) -> Self {
        let (events, room) = (VecDeque::new(), Some(room));
        let mut lines = Self { gateway, query: None, raw, events, room };
        lines.take(query, page);
        lines
    }

    fn stream(self) -> impl futures_util::Stream<Item = Result<Bytes, CutShort>> + Send {
        futures_util::stream::unfold(Ok(self), |state: Result<Self, Option<Refusal>>| async move {
            let mut lines = match state {
                Ok(lines) => lines,
                Err(refusal) => {
                    // The line that says why leaves first, unless its reader is slow; then the body
                    // ends as one that is not whole.
                    tokio::task::yield_now().await;
                    return refusal.map(|why| (Err(CutShort(why)), Err(None)));
                }
            };
            match lines.next().await {
                Ok(None) => None,
                Ok(Some(piece)) => Some((Ok(piece), Ok(lines))),
                Err(refusal) => {
                    let line = format!("{}\n", json::refusal(&refusal));
                    Some((Ok(line.into()), Err(Some(refusal))))
                }
            }
        })
    }

    async fn next(&mut self) -> Result<Option<Bytes>, Refusal> {
        while self.events.is_empty() {
            let Some(query) = self.query.take() else { return Ok(None) };
            // Others may have their page first.
            self.room = None;
            let patience = self.gateway.settings.request_timeout;
            self.room = Some(self.gateway.budget.page(patience).await?);
            let page = read(&self.gateway, &query).await?;
            self.take(query, page);
        }
        let mut piece = String::new();
        while piece.len() < PIECE_BYTES
            && let Some(event) = self.events.pop_front()
        {
            piece.push_str(&event.to_json(self.raw)?);
            piece.push('\n');
        }
        Ok(Some(piece.into()))
    }

    fn take(&mut self, mut query: ReadQuery, page: Page) {
        let (next, stamp) = (page.next, page.stamp);
        self.events = Told::of_page(&query.key, page, query.backwards).into();
        let Some(next) = next else { return };
        match query.backwards {
            true => query.to = Some(next),
            false => query.from = next,
        }
        if query.any {
            // Whoever answers next must not be behind.
            query.min_stamp = query.min_stamp.max(Some(stamp));
        }
        query.limit = query.limit.map(|limit| limit.saturating_sub(self.events.len() as u64));
        self.query = (query.limit != Some(0)).then_some(query);
    }
}

/// A body that ends before its end.
#[derive(Debug)]
pub(super) struct CutShort(pub(super) Refusal);

impl fmt::Display for CutShort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cut short: {}", self.0)
    }
}

impl std::error::Error for CutShort {}

/// An aggregate's state.
pub(super) async fn head<V: Service>(
    gateway: &Gateway<V>,
    call: Call,
) -> Result<Response, Problem> {
    let key = call.key()?;
    let client = call.parameter("client_id").map(str::parse).transpose();
    let query = HeadQuery {
        key: key.clone(),
        client: client.map_err(|error| Refusal::invalid("client_id", error))?,
        min_stamp: call.number("min_stamp")?.map(Stamp::new),
        any: call.switch("any")?,
    };
    let asked = query.client;
    let head = ask_head(gateway, query).await?;
    if head.version == Version::NONE {
        return Err(Refusal::NotFound { key }.into());
    }
    let tag = etag(head.version);
    let mut response = match is_known(&call, &tag)? && starts_at_first(&head) {
        true => StatusCode::NOT_MODIFIED.into_response(),
        false => answer(&json::head(key.as_str(), &head, asked)),
    };
    response.headers_mut().insert(ETAG, tag);
    Ok(response)
}

async fn ask_head<V: Service>(gateway: &Gateway<V>, query: HeadQuery) -> Result<HeadInfo, Refusal> {
    match gateway.ask(Request::Head(query)).await? {
        Answer::Head(head) => Ok(head),
        other => Err(unexpected(&other)),
    }
}

/// Names, page by page.
pub(super) async fn names<V: Service>(
    gateway: &Gateway<V>,
    call: Call,
    what: &'static str,
) -> Result<Response, Problem> {
    match gateway.ask(Request::List(list_query(&call)?)).await? {
        Answer::List(page) => {
            let next = if page.more { page.names.last() } else { None };
            Ok(answer(&json!({what: page.names, "next": next})))
        }
        other => Err(unexpected(&other).into()),
    }
}

fn list_query(call: &Call) -> Result<ListQuery, Refusal> {
    let part = |name| Some(call.path(name).to_owned()).filter(|part| !part.is_empty());
    let limit = call.number("limit")?.unwrap_or(LIST_PAGE_MAX.into());
    Ok(ListQuery {
        org: part("org"),
        kind: part("type"),
        prefix: call.parameter("prefix").unwrap_or_default().to_owned(),
        after: call.parameter("after").map(str::to_owned),
        limit: u32::try_from(limit).unwrap_or(LIST_PAGE_MAX).min(LIST_PAGE_MAX),
    })
}

/// An object, as an answer.
pub(super) fn answer(object: &Value) -> Response {
    let mut response = object.to_string().into_response();
    set_json(&mut response);
    response
}

fn set_json(response: &mut Response) {
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
}

/// A page as an answer: it has room until the client has taken it.
pub(super) fn json_body(text: String, room: OwnedSemaphorePermit) -> Response {
    let held = Bytes::from_owner(Held { text, _room: room });
    let mut response = Body::from(held).into_response();
    set_json(&mut response);
    response
}

/// Gives its room back when the last of its bytes is with the socket.
struct Held {
    text: String,
    _room: OwnedSemaphorePermit,
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        self.text.as_bytes()
    }
}
