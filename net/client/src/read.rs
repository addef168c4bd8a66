//! Reading one aggregate's events, page after page, no faster than they are taken.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use celeriant_schema::{AggregateKey, ReadQuery, Request, Response, Stamp, Version};
use futures_core::Stream;

use crate::client::unexpected;
use crate::event::{IntoId, batches};
use crate::resend::Resend;
use crate::{Batch, Client, ClientId, Error, sealing};

/// A read, being put together: end it with [`Read::stream`], [`Read::collect`] or [`Read::page`].
#[derive(Clone, Debug)]
#[must_use = "nothing is read before stream(), collect() or page()"]
pub struct Read {
    pub(crate) client: Client,
    pub(crate) query: ReadQuery,
    timeout: Option<Duration>,
}

/// One page of a read.
#[derive(Clone, Debug)]
pub struct Page {
    /// The aggregate's committed version when the page was made.
    pub version: Version,
    /// Everything committed up to here is in the answer.
    pub stamp: Stamp,
    /// In reading order.
    pub batches: Vec<Batch>,
    /// Where to go on: the next `from`, or `to` when reading backwards. `None`: that was all.
    pub next: Option<Version>,
}

impl Read {
    pub(crate) fn new(client: Client, key: AggregateKey) -> Self {
        let query = ReadQuery::all(key);
        Self { client, query, timeout: None }
    }

    /// Lowest version wanted.
    pub fn from(mut self, version: impl Into<Version>) -> Self {
        self.query.from = version.into();
        self
    }

    /// Highest version wanted.
    pub fn to(mut self, version: impl Into<Version>) -> Self {
        self.query.to = Some(version.into());
        self
    }

    /// Newest first.
    pub fn backwards(mut self) -> Self {
        self.query.backwards = true;
        self
    }

    /// Stop after the batch in which this many events are reached. Batches are never split.
    pub fn limit(mut self, events: u64) -> Self {
        self.query.limit = Some(events);
        self
    }

    /// Only events of these types.
    pub fn types<T: Into<String>>(mut self, types: impl IntoIterator<Item = T>) -> Self {
        self.query.types = types.into_iter().map(|name| Bytes::from(name.into())).collect();
        self
    }

    /// Only events that were written under this client id.
    pub fn client(mut self, client_id: impl IntoId<ClientId>) -> Self {
        self.query.client = Some(client_id.into_id());
        self
    }

    /// Only events that the server accepted at this time or later, µs since 1970.
    pub fn since(mut self, unix_micros: i64) -> Self {
        self.query.since = Some(unix_micros);
        self
    }

    /// Only events that the server accepted before this time, µs since 1970.
    pub fn until(mut self, unix_micros: i64) -> Self {
        self.query.until = Some(unix_micros);
        self
    }

    /// Wait until the node has everything up to this stamp: what a receipt said is then seen. With
    /// [`Read::any`], this is how an application reads its own writes from a follower, and how it
    /// never reads an older state than before: [`Page::stamp`] is the stamp to ask for next time.
    /// `Error::NotYet` when no node gets there in time.
    pub fn min_stamp(mut self, stamp: impl Into<Stamp>) -> Self {
        self.query.min_stamp = Some(stamp.into());
        self
    }

    /// Any node may answer, also one that is behind; only what is committed is seen. Nodes that do
    /// not lead are asked first, in rotation, of those that the URL or another node named; the
    /// leader, if they do not answer soon. The pages of one read never go back in time.
    pub fn any(mut self) -> Self {
        self.query.any = true;
        self
    }

    /// How long each page may take, with everything that is asked again.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// One page.
    ///
    /// # Errors
    /// `Error::NotFound` and others; see [`Error`].
    pub async fn page(self) -> Result<Page, Error> {
        let keys = self.client.options().keys.clone();
        let key = self.query.key.clone();
        let mut page = self.ask().await?;
        let mut batches = batches(&mut page)?;
        if let Some(keys) = keys {
            for batch in &mut batches {
                sealing::open(&*keys, &key, batch).await?;
            }
        }
        let celeriant_schema::Page { version, stamp, next, .. } = page;
        Ok(Page { version, stamp, batches, next })
    }

    /// One page, as it was delivered.
    pub(crate) async fn ask(self) -> Result<celeriant_schema::Page, Error> {
        let timeout = self.timeout.unwrap_or(self.client.timeout());
        match self.client.call(&Request::Read(self.query), Resend::Read, timeout).await? {
            Response::Page(page) => Ok(page),
            other => Err(unexpected(&other)),
        }
    }

    /// All batches one after the other, however many: the next page is asked for when one begins to
    /// be taken, so at most two are held.
    pub fn stream(self) -> Batches {
        let mut stream = Batches {
            read: Some(self),
            page: None,
            prefetched: false,
            ready: VecDeque::new(),
            version: Version::NONE,
            stamp: Stamp::ZERO,
        };
        stream.ask();
        stream
    }

    /// All batches at once.
    ///
    /// # Errors
    /// As [`Read::page`].
    pub async fn collect(self) -> Result<Vec<Batch>, Error> {
        let mut stream = self.stream();
        let mut all = Vec::new();
        while let Some(batch) = stream.next().await {
            all.push(batch?);
        }
        Ok(all)
    }
}

type PageFuture = Pin<Box<dyn Future<Output = Result<Page, Error>> + Send>>;

/// The batches of a read, as a `Stream`, or by [`Batches::next`].
#[must_use = "streams do nothing unless polled"]
pub struct Batches {
    /// What is still to be asked for; `None` = nothing.
    read: Option<Read>,
    page: Option<PageFuture>,
    /// Asked for while earlier batches were still at hand.
    prefetched: bool,
    ready: VecDeque<Batch>,
    version: Version,
    stamp: Stamp,
}

impl Batches {
    /// The next batch; `None` when there are no more, or after an error.
    pub async fn next(&mut self) -> Option<Result<Batch, Error>> {
        std::future::poll_fn(|cx| self.poll_batch(cx)).await
    }

    /// The aggregate's committed version as the newest page saw it.
    pub fn version(&self) -> Version {
        self.version
    }

    /// Everything committed up to here was in the newest page.
    pub fn stamp(&self) -> Stamp {
        self.stamp
    }

    fn ask(&mut self) {
        let page = |read: &Read| Box::pin(read.clone().page()) as PageFuture;
        self.page = self.read.as_ref().map(page);
        self.prefetched = false;
    }

    fn poll_batch(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Batch, Error>>> {
        loop {
            if let Some(batch) = self.ready.pop_front() {
                self.prefetch(cx);
                return Poll::Ready(Some(Ok(batch)));
            }
            let Some(page) = &mut self.page else { return Poll::Ready(None) };
            let answer = ready!(page.as_mut().poll(cx));
            self.page = None;
            match answer {
                Ok(page) => self.take(page),
                // Its time ran while nobody was waiting for it: that must not fail the read.
                Err(_) if self.prefetched => self.ask(),
                Err(error) => {
                    self.read = None;
                    return Poll::Ready(Some(Err(error)));
                }
            }
        }
    }

    /// Polling once sends the question; the answer waits until the batches at hand are taken.
    fn prefetch(&mut self, cx: &mut Context<'_>) {
        let Some(page) = &mut self.page else { return };
        self.prefetched = true;
        if let Poll::Ready(answer) = page.as_mut().poll(cx) {
            self.page = Some(Box::pin(std::future::ready(answer)));
        }
    }

    fn take(&mut self, page: Page) {
        (self.version, self.stamp) = (page.version, page.stamp);
        let taken: u64 = page.batches.iter().map(|batch| batch.events.len() as u64).sum();
        self.ready.extend(page.batches);
        self.go_on(page.next, taken, page.stamp);
        self.ask();
    }

    /// Changes what is to be asked for, to what comes after `taken` events, read at `stamp`.
    fn go_on(&mut self, next: Option<Version>, taken: u64, stamp: Stamp) {
        let (Some(read), Some(next)) = (&mut self.read, next) else {
            self.read = None;
            return;
        };
        match read.query.backwards {
            true => read.query.to = Some(next),
            false => read.query.from = next,
        }
        if read.query.any {
            // Another node may answer next, and be behind this one.
            read.query.min_stamp = read.query.min_stamp.max(Some(stamp));
        }
        if let Some(limit) = &mut read.query.limit {
            *limit = limit.saturating_sub(taken);
            if *limit == 0 {
                self.read = None;
            }
        }
    }
}

impl Stream for Batches {
    type Item = Result<Batch, Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.poll_batch(cx)
    }
}

impl std::fmt::Debug for Batches {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Batches")
            .field("read", &self.read)
            .field("ready", &self.ready.len())
            .finish_non_exhaustive()
    }
}
