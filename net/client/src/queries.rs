//! Heads and listings.

use std::collections::VecDeque;
use std::future::{Future, IntoFuture};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use celeriant_schema::limits::LIST_PAGE_MAX;
use celeriant_schema::{
    AggregateKey, HeadInfo, HeadQuery, ListPage, ListQuery, Request, Response, Stamp,
};
use futures_core::Stream;

use crate::client::unexpected;
use crate::event::IntoId;
use crate::resend::Resend;
use crate::{Client, ClientId, Error};

type Answer<T> = Pin<Box<dyn Future<Output = Result<T, Error>> + Send>>;

/// An aggregate's state without its events; await it.
#[derive(Clone, Debug)]
#[must_use = "nothing is asked before it is awaited"]
pub struct Head {
    client: Client,
    query: HeadQuery,
    timeout: Option<Duration>,
}

impl Head {
    pub(crate) fn new(client: Client, key: AggregateKey) -> Self {
        let query = HeadQuery { key, client: None, min_stamp: None, any: false };
        Self { client, query, timeout: None }
    }

    /// Also asks for the last sequence of this client.
    pub fn client(mut self, client_id: impl IntoId<ClientId>) -> Self {
        self.query.client = Some(client_id.into_id());
        self
    }

    /// Wait until the node has everything up to this stamp, as [`crate::Read::min_stamp`].
    pub fn min_stamp(mut self, stamp: impl Into<Stamp>) -> Self {
        self.query.min_stamp = Some(stamp.into());
        self
    }

    /// Any node may answer, also one that is behind, as [`crate::Read::any`]; `read_stamp` tells
    /// what it has.
    pub fn any(mut self) -> Self {
        self.query.any = true;
        self
    }

    /// How long it may take, with everything that is asked again.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    async fn send(self) -> Result<HeadInfo, Error> {
        let timeout = self.timeout.unwrap_or(self.client.timeout());
        match self.client.call(&Request::Head(self.query), Resend::Read, timeout).await? {
            Response::Head(head) => Ok(head),
            other => Err(unexpected(&other)),
        }
    }
}

impl IntoFuture for Head {
    type Output = Result<HeadInfo, Error>;
    type IntoFuture = Answer<HeadInfo>;

    fn into_future(self) -> Answer<HeadInfo> {
        Box::pin(self.send())
    }
}

/// A listing of names, being put together: end it with [`List::stream`], [`List::collect`] or
/// [`List::page`].
#[derive(Clone, Debug)]
#[must_use = "nothing is asked before stream(), collect() or page()"]
pub struct List {
    client: Client,
    query: ListQuery,
}

impl List {
    pub(crate) fn new(client: Client, org: Option<&str>, kind: Option<&str>) -> Self {
        let query = ListQuery {
            org: org.map(str::to_owned),
            kind: kind.map(str::to_owned),
            prefix: String::new(),
            after: None,
            limit: LIST_PAGE_MAX,
        };
        Self { client, query }
    }

    /// Only names that start with this.
    pub fn prefix(mut self, prefix: impl Into<String>) -> Self {
        self.query.prefix = prefix.into();
        self
    }

    /// Only names after this one.
    pub fn after(mut self, name: impl Into<String>) -> Self {
        self.query.after = Some(name.into());
        self
    }

    /// At most this many names a page; 1,000 is the most.
    pub fn page_size(mut self, names: u32) -> Self {
        self.query.limit = names;
        self
    }

    /// One page; `more` tells whether to go on after its last name.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn page(self) -> Result<ListPage, Error> {
        let timeout = self.client.timeout();
        match self.client.call(&Request::List(self.query), Resend::Read, timeout).await? {
            Response::List(page) => Ok(page),
            other => Err(unexpected(&other)),
        }
    }

    /// All names, page by page.
    pub fn stream(self) -> Names {
        Names { list: Some(self), page: None, ready: VecDeque::new() }
    }

    /// All names at once.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn collect(self) -> Result<Vec<String>, Error> {
        let mut stream = self.stream();
        let mut all = Vec::new();
        while let Some(name) = stream.next().await {
            all.push(name?);
        }
        Ok(all)
    }
}

/// Names in order, as a `Stream`, or by [`Names::next`].
#[must_use = "streams do nothing unless polled"]
pub struct Names {
    /// What is still to be asked for; `None` = nothing.
    list: Option<List>,
    page: Option<Answer<ListPage>>,
    ready: VecDeque<String>,
}

impl Names {
    /// The next name; `None` when there are no more, or after an error.
    pub async fn next(&mut self) -> Option<Result<String, Error>> {
        std::future::poll_fn(|cx| self.poll_name(cx)).await
    }

    fn poll_name(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<String, Error>>> {
        loop {
            if let Some(name) = self.ready.pop_front() {
                return Poll::Ready(Some(Ok(name)));
            }
            let Some(list) = &mut self.list else { return Poll::Ready(None) };
            let page = self.page.get_or_insert_with(|| Box::pin(list.clone().page()));
            let answer = ready!(page.as_mut().poll(cx));
            self.page = None;
            match answer {
                Ok(page) => {
                    list.query.after = page.names.last().cloned();
                    // An empty page that promises more would be asked for for ever.
                    if !page.more || page.names.is_empty() {
                        self.list = None;
                    }
                    self.ready.extend(page.names);
                }
                Err(error) => {
                    self.list = None;
                    return Poll::Ready(Some(Err(error)));
                }
            }
        }
    }
}

impl Stream for Names {
    type Item = Result<String, Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.poll_name(cx)
    }
}

impl std::fmt::Debug for Names {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Names").field("list", &self.list).finish_non_exhaustive()
    }
}
