//! Watching: the events of many aggregates in one order, first those that are there, then those
//! that come.

#[cfg(test)]
mod watch_test;

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use celeriant_schema::{
    AggregateKey, BatchHeader, FeedBatch, FeedPage, FeedQuery, Hash, Notice, Request, Response,
    Retention, Retry, Selector, Stamp, Version,
};
use futures_core::Stream;
use tokio::time::{sleep, timeout};

use crate::client::unexpected;
use crate::link::Pages;
use crate::resend::Resend;
use crate::{Batch, Client, Error, sealing};

/// An answer without events is asked for so often, if nothing else is said.
const CHECKPOINTS: Duration = Duration::from_secs(5);
/// Pages that may follow one that is asked for, without being asked for.
const FOLLOWING: u16 = 255;
/// Before a page is asked for again, at first and at most.
const PAUSES: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(2));

/// A watch, being put together: end it with [`Watch::stream`].
///
/// It begins at the first event ever, unless [`Watch::after`] or [`Watch::now`] says otherwise.
#[derive(Clone, Debug)]
#[must_use = "nothing is watched before stream()"]
pub struct Watch {
    client: Client,
    query: FeedQuery,
    any: bool,
    until_now: bool,
}

/// What a watch tells.
#[derive(Clone, Debug, PartialEq)]
pub enum Watched {
    /// Events of one aggregate that one write appended. Batches come in the order of their stamps,
    /// each exactly once.
    Batch {
        /// Whose events.
        key: AggregateKey,
        /// The events.
        batch: Batch,
    },
    /// An aggregate was deleted: what a reader has of it is to go.
    Deleted {
        /// Which.
        key: AggregateKey,
        /// Its version, with which it may be recreated.
        version: Version,
        /// Of the write that did it.
        stamp: Stamp,
        /// Whether it may be recreated.
        recreate: bool,
        /// Its chain hash there, which the first event behind a deletion goes on from.
        hash: Hash,
    },
    /// An aggregate's first events were taken away.
    Trimmed {
        /// Which.
        key: AggregateKey,
        /// Its version.
        version: Version,
        /// Lowest version that stays.
        first_available: Version,
        /// Its chain hash there: of `version`.
        hash: Hash,
        /// Of the write that did it.
        stamp: Stamp,
    },
    /// Everything up to this stamp has been told: the place to go on after a restart
    /// ([`Watch::after`]).
    Checkpoint {
        /// The cursor.
        stamp: Stamp,
        /// Nothing more was there when the node said so. Later checkpoints may say otherwise.
        caught_up: bool,
    },
}

impl Watched {
    fn of_notice(key: AggregateKey, header: &BatchHeader, Notice { what, hash }: Notice) -> Self {
        let (version, stamp) = (header.last_version, header.stamp);
        match what {
            Retention::Delete { recreate, .. } => {
                Self::Deleted { key, version, stamp, recreate, hash }
            }
            Retention::Trim { .. } => {
                let first_available = what.first_available(version.next());
                Self::Trimmed { key, version, first_available, hash, stamp }
            }
        }
    }
}

/// State that is made of events and kept elsewhere: a table, an index, a cache on disk.
///
/// What makes it exactly once is that `apply` stores its changes and the cursor in one transaction:
/// after a crash both are as they were, or both as they are to be.
pub trait Projection {
    /// What can go wrong, there or in the watch.
    type Error: From<Error>;

    /// The cursor that was stored last; `None`: nothing was ever applied, begin where the watch
    /// says.
    fn cursor(&mut self) -> impl Future<Output = Result<Option<Stamp>, Self::Error>> + Send;

    /// Applies what happened up to `cursor`, which may be nothing, and stores the cursor with it.
    /// No checkpoints are among the changes.
    fn apply(
        &mut self,
        changes: Vec<Watched>,
        cursor: Stamp,
    ) -> impl Future<Output = Result<(), Self::Error>> + Send;
}

impl Watch {
    pub(crate) fn new(client: Client, selector: Selector) -> Self {
        let wait_ms = CHECKPOINTS.as_millis() as u32;
        let after = Some(Stamp::ZERO);
        let query = FeedQuery { selector, after, wait_ms, ..FeedQuery::default() };
        Self { client, query, any: false, until_now: false }
    }

    /// Only events with a greater stamp: where an earlier watch left off.
    pub fn after(mut self, stamp: impl Into<Stamp>) -> Self {
        self.query.after = Some(stamp.into());
        self
    }

    /// Only events that the store accepts from this time on, µs since 1970.
    pub fn since(self, unix_micros: i64) -> Self {
        let first = Stamp::from_unix_micros(unix_micros).value();
        self.after(Stamp::new(first.saturating_sub(1)))
    }

    /// Only events that come from now on. The first thing told is a checkpoint, which says where
    /// that is.
    pub fn now(mut self) -> Self {
        self.query.after = None;
        self
    }

    /// Ends with the checkpoint at which it has caught up with what was there when it began.
    pub fn until_now(mut self) -> Self {
        (self.until_now, self.query.wait_ms) = (true, 0);
        self
    }

    /// Only events of these types.
    pub fn types<T: Into<String>>(mut self, types: impl IntoIterator<Item = T>) -> Self {
        self.query.types = types.into_iter().map(|name| Bytes::from(name.into())).collect();
        self
    }

    /// Events come without their payloads: for whoever only looks at keys, types and metadata.
    /// Hashes are those of the whole events.
    pub fn headers_only(mut self) -> Self {
        self.query.headers_only = true;
        self
    }

    /// Any node may answer: a little later, and without troubling the leader.
    pub fn any(mut self) -> Self {
        self.any = true;
        self
    }

    /// A checkpoint at least so often while nothing happens; to the second, a minute at most.
    pub fn checkpoints(mut self, every: Duration) -> Self {
        let most = celeriant_schema::limits::FEED_WAIT_MS_MAX;
        self.query.wait_ms = u32::try_from(every.as_millis()).unwrap_or(most).min(most);
        self
    }

    /// What happens, as it happens: pages come without being asked for, about 1 MiB of them ahead
    /// of what is taken at most. Goes on by itself whatever becomes of nodes and connections, where
    /// it left off; an error is told only when going on cannot help.
    pub fn stream(mut self) -> Feed {
        self.query.more = FOLLOWING;
        let mut feed = Feed { watch: Some(self), page: None, end: None, ready: VecDeque::new() };
        feed.go_on(None);
        feed
    }

    /// Keeps `projection` up to date: begins where it left off, and ends with the first error, or
    /// with a finite watch. Each event is applied exactly once, however often and wherever this is
    /// called, because the projection keeps its cursor with its state.
    ///
    /// # Errors
    /// Those of the projection, and of the watch when going on cannot help.
    pub async fn project<P: Projection>(mut self, projection: &mut P) -> Result<(), P::Error> {
        if let Some(cursor) = projection.cursor().await? {
            self = self.after(cursor);
        }
        let mut feed = self.stream();
        let mut changes = Vec::new();
        while let Some(told) = feed.next().await {
            match told? {
                Watched::Checkpoint { stamp, .. } => {
                    projection.apply(std::mem::take(&mut changes), stamp).await?;
                }
                change => changes.push(change),
            }
        }
        Ok(())
    }

    /// One page: what is there, and the checkpoint behind it.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn page(self) -> Result<Vec<Watched>, Error> {
        let (page, _) = self.clone().ask_raw().await?;
        Ok(self.tell(page, None).await?.told)
    }

    /// One page as the store gives it, with all that hashes cover, and nothing opened: for whoever
    /// keeps or checks it. Asks until there is an answer, or there will be none.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn raw_page(self) -> Result<FeedPage, Error> {
        self.ask_patiently().await.map(|(page, _)| page)
    }

    async fn ask_patiently(&self) -> Result<(FeedPage, Option<Pages>), Error> {
        let mut pauses = self.client.backoff(PAUSES.0, PAUSES.1);
        loop {
            match self.clone().ask_raw().await {
                Err(error) if error.retry() != Retry::Never => sleep(pauses.wait()).await,
                answer => return answer,
            }
        }
    }

    fn patience(&self) -> Duration {
        self.client.timeout() + Duration::from_millis(self.query.wait_ms.into())
    }

    async fn ask_raw(self) -> Result<(FeedPage, Option<Pages>), Error> {
        let timeout = self.patience();
        let request = Request::Feed(self.query);
        match self.client.call_to(self.any, &request, Resend::Read, timeout).await? {
            (Response::Feed(page), pages) => Ok((page, pages)),
            (other, _) => Err(unexpected(&other)),
        }
    }

    async fn tell(self, page: FeedPage, further: Option<Pages>) -> Result<Told, Error> {
        // Without payloads there is nothing to open.
        let keys = self.client.options().keys.clone().filter(|_| !self.query.headers_only);
        let caught_up = page.upto >= page.head;
        let checkpoint = Watched::Checkpoint { stamp: page.upto, caught_up };
        let mut told = Vec::with_capacity(page.batches.len() + 1);
        for FeedBatch { key, batch, notice } in page.batches {
            if let Some(notice) = notice {
                told.push(Watched::of_notice(key, &batch.header, notice));
                continue;
            }
            let mut batch = Batch::from_read(batch)?;
            if let Some(keys) = &keys {
                sealing::open(&**keys, &key, &mut batch).await?;
            }
            told.push(Watched::Batch { key, batch });
        }
        told.push(checkpoint);
        Ok(Told { told, upto: page.upto, head: page.head, further })
    }

    /// The page that follows, or, behind the last, one that is asked for until there is an answer,
    /// or there will be none.
    async fn next_page(self, further: Option<Pages>) -> Result<Told, Error> {
        if let Some(mut pages) = further
            && let Ok(Some(page)) = timeout(self.patience(), pages.recv()).await
        {
            return self.tell(page, Some(pages)).await;
        }
        let (page, further) = self.ask_patiently().await?;
        self.tell(page, further).await
    }
}

/// One page, taken in.
struct Told {
    told: Vec<Watched>,
    upto: Stamp,
    head: Stamp,
    /// Pages that follow.
    further: Option<Pages>,
}

type Page = Pin<Box<dyn Future<Output = Result<Told, Error>> + Send>>;

/// What a watch tells, as a `Stream`, or by [`Feed::next`].
#[must_use = "streams do nothing unless polled"]
pub struct Feed {
    /// What is asked for next; `None` = nothing.
    watch: Option<Watch>,
    page: Option<Page>,
    /// Where it ends, if it does.
    end: Option<Stamp>,
    ready: VecDeque<Watched>,
}

impl Feed {
    /// What comes next; `None` at the end of a finite watch, or after an error.
    pub async fn next(&mut self) -> Option<Result<Watched, Error>> {
        std::future::poll_fn(|cx| self.poll_told(cx)).await
    }

    fn go_on(&mut self, further: Option<Pages>) {
        let page = |watch: &Watch| Box::pin(watch.clone().next_page(further)) as Page;
        self.page = self.watch.as_ref().map(page);
    }

    fn poll_told(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Watched, Error>>> {
        loop {
            if let Some(told) = self.ready.pop_front() {
                self.prefetch(cx);
                return Poll::Ready(Some(Ok(told)));
            }
            let Some(page) = &mut self.page else { return Poll::Ready(None) };
            let answer = ready!(page.as_mut().poll(cx));
            self.page = None;
            match answer {
                Ok(page) => self.take(page),
                Err(error) => {
                    self.watch = None;
                    return Poll::Ready(Some(Err(error)));
                }
            }
        }
    }

    /// Polling once sends the question; the answer waits until what is at hand is taken.
    fn prefetch(&mut self, cx: &mut Context<'_>) {
        let Some(page) = &mut self.page else { return };
        if let Poll::Ready(answer) = page.as_mut().poll(cx) {
            self.page = Some(Box::pin(std::future::ready(answer)));
        }
    }

    fn take(&mut self, page: Told) {
        self.ready.extend(page.told);
        let Some(watch) = &mut self.watch else { return };
        watch.query.after = Some(page.upto);
        if watch.until_now {
            let end = *self.end.get_or_insert(page.head);
            if page.upto >= end {
                self.watch = None;
                return;
            }
        }
        self.go_on(page.further);
    }
}

impl Stream for Feed {
    type Item = Result<Watched, Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.poll_told(cx)
    }
}

impl std::fmt::Debug for Feed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Feed")
            .field("watch", &self.watch)
            .field("ready", &self.ready.len())
            .finish_non_exhaustive()
    }
}
