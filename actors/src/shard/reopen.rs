//! A shard whose log is opened anew.
//!
//! ```text
//! core closes ─▶ the disk comes to rest ─▶ another disk, recovery ─▶ a new core ─▶ what was held
//!                    mail meanwhile: a write is refused, everything else is held
//! ```
//! That takes as long as reading what recovery reads. A shard is opened anew when it does not lead,
//! or leads no more: so a write is for another node, and learns that at once. Writes of one
//! connection stay in their order: here all of them are refused, from the first on.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context as Waking, Poll, ready};

use celeriant_schema::{Request, Response};
use celeriant_storage::disk::Disk;
use celeriant_storage::recovery::{Known, Recovered, recover_member};
use celeriant_storage::{Error, Identity, Settings, Uncut};

use super::{Disks, Reopen, Shard};
use crate::replicator::orders::Order;
use crate::route::Route;
use crate::work::{Task, Work};

/// Mail that the next core takes.
pub(super) enum Held {
    Work(Vec<Work<Route>>),
    Orders(Vec<Order>),
}

/// The log is being opened.
pub(super) struct Opening<D> {
    reopen: Reopen,
    opened: Pin<Box<dyn Future<Output = Result<Opened<D>, Error>> + Send>>,
}

struct Opened<D> {
    disk: D,
    recovered: Recovered,
    /// Why the log could not be cut where it was to be.
    refused: Option<Uncut>,
}

impl<D: Disk> Shard<D> {
    /// Lets what is on its way to the disk come to its end, and opens the log.
    pub(super) fn begin_opening(&mut self, reopen: Reopen) {
        let Some(disk) = self.disk.take() else {
            unreachable!("a core that is closed closes only once");
        };
        let known =
            Known { committed: self.core.committed(), cut_after: reopen.cut.map(|(_, _, to)| to) };
        let in_flight = std::mem::take(&mut self.in_flight);
        let (disks, around) = (Disks::clone(&self.disks), &self.surroundings);
        let (identity, settings) = (around.identity, around.settings);
        let opened = async move {
            rest(disk, in_flight).await?;
            open(disks, identity, settings, known).await
        };
        self.opening = Some(Opening { reopen, opened: Box::pin(opened) });
    }

    /// Puts a core in place that knows only what is there now, when it is open. It takes what was
    /// held; if that closes it again, what is left is for the one after it.
    pub(super) fn poll_opened(&mut self, cx: &mut Waking<'_>) -> Poll<Result<(), Error>> {
        let Some(opening) = &mut self.opening else { return Poll::Ready(Ok(())) };
        let reopen = opening.reopen;
        let Opened { disk, recovered, refused } = ready!(opening.opened.as_mut().poll(cx))?;
        (self.opening, self.disk) = (None, Some(disk));
        let (orders, carried) = (self.core.take_orders(), self.core.take_carried());
        let shown = self.core.shown();
        self.core = self.surroundings.core(recovered, &mut self.effects);
        self.core.keep_shown(shown);
        self.core.follow(reopen, refused, &mut self.effects);
        self.held.push_front(Held::Work(carried));
        self.held.push_front(Held::Orders(orders));
        self.deliver();
        while self.reopen.is_none()
            && let Some(held) = self.held.pop_front()
        {
            let now = self.clock.now();
            match held {
                Held::Orders(orders) => self.core.order(now, orders, &mut self.effects)?,
                Held::Work(work) => self.core.handle(now, work, &mut self.effects)?,
            }
            self.deliver();
        }
        Poll::Ready(Ok(()))
    }

    /// Takes work that came while the log is being opened.
    pub(super) fn hold(&mut self, mut work: Vec<Work<Route>>) {
        for route in take_writes(&mut work) {
            self.outbox.push(route, Response::Refused(self.surroundings.standing.refusal()));
        }
        self.outbox.flush();
        if !work.is_empty() {
            self.held.push_back(Held::Work(work));
        }
    }
}

/// Takes the writes of clients out, in their order; what is left stays in its own.
fn take_writes<R>(work: &mut Vec<Work<R>>) -> Vec<R> {
    let is_write =
        |work: &mut Work<R>| matches!(work, Work::Task(Task { request: Request::Write(_), .. }));
    let routes = work.extract_if(.., is_write).filter_map(|work| match work {
        Work::Task(task) => Some(task.route),
        Work::Step(_) => None,
    });
    routes.collect()
}

/// Waits until nothing is in flight.
async fn rest<D: Disk>(mut disk: D, in_flight: usize) -> Result<(), Error> {
    for _ in 0..in_flight {
        let completion = poll_fn(|cx| disk.poll_complete(cx)).await;
        // Nobody knows what a failed write has left: nothing may be read back after it.
        completion.outcome.map_err(Error::Io)?;
    }
    Ok(())
}

async fn open<D: Disk>(
    disks: Disks<D>,
    identity: Identity,
    settings: Settings,
    mut known: Known,
) -> Result<Opened<D>, Error> {
    let mut refused = None;
    loop {
        let mut disk = disks(identity.shard).map_err(Error::Io)?;
        match recover_member(&mut disk, identity, &settings, known).await {
            Err(Error::Uncut { why, .. }) if refused.is_none() => {
                (refused, known.cut_after) = (Some(why), None);
            }
            recovered => return Ok(Opened { disk, recovered: recovered?, refused }),
        }
    }
}

#[cfg(test)]
mod tests {
    use celeriant_schema::{ClientId, Write};

    use super::*;
    use crate::work::Step;

    #[test]
    fn writes_are_taken_out_and_the_rest_stays_in_its_order() {
        let task = |route, request| Work::Task(Task { route, request, deadline: None });
        let write = || Request::Write(Write { client_id: ClientId::NONE, members: Vec::new() });
        let step = || Work::Step(Step::Nudge);
        let mut work = vec![task(1, write()), step(), task(2, Request::Ping), task(3, write())];
        assert_eq!(take_writes(&mut work), [1, 3]);
        let [Work::Step(Step::Nudge), Work::Task(ping)] = &work[..] else { panic!("{work:?}") };
        assert_eq!(ping.route, 2);
    }
}
