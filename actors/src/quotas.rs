//! What one org may take of a node, so that others have their turn: token buckets for its writers
//! and readers, seats for its connections and watchers.
//!
//! ```text
//! quotas = "acme:writes=100,bytes=1MiB,reads=500,read_bytes=8MiB,connections=50,watchers=20
//!           *:writes=1000"
//! ```
//! Writes and reads and the bytes of both per second, connections and watchers at a time, of each
//! org; `*` is for each org that is not named. Whose connection it is says `celeriant_net::rights`;
//! seats are counted by `celeriant_net::rooms`. A bucket (`bucket`) holds what a second brings. It
//! may be overdrawn by one write, which is paid for afterwards: a write larger than a second's
//! worth is slow, not impossible. A write over several orgs takes of all or of none.
//!
//! A read is a page of events, of names or of a feed, or a head; it is an org's whose names or
//! events it asks for, whoever asks; of all orgs, it is nobody's. How many bytes it takes shows
//! when it is answered, and is paid then ([`Bill`]): what is asked for meanwhile may overdraw, too.
//!
//! Settings of each node, counted on each node. Pure but for a lock: time is an argument.
//! Deliberately absent: who asks, and evidence (`audit`), which is bounded by node.

mod bucket;

#[cfg(test)]
mod quotas_test;

use std::collections::{BTreeMap, BTreeSet};
use std::str::FromStr;
use std::sync::Arc;

use celeriant_net::rooms::{Most, Rooms};
use celeriant_schema::key::{NamePart, check_name};
use celeriant_schema::{ReadBatch, Refusal, Request, Response, Selector, Write};

use self::bucket::{Buckets, RATE_MAX, Rates};
use crate::clock::Micros;

/// Stands for every org that is not named.
const ANY: &str = "*";

/// What one org may take: of the first four what each second brings.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Quota {
    /// Writes; `None`: as many as there are.
    pub writes: Option<u64>,
    /// Bytes of events that are written.
    pub bytes: Option<u64>,
    /// Reads.
    pub reads: Option<u64>,
    /// Bytes of events and names that are read.
    pub read_bytes: Option<u64>,
    /// Connections, at a time.
    pub connections: Option<u64>,
    /// Watches and feeds that wait, at a time.
    pub watchers: Option<u64>,
}

/// By org, as it is configured.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Quotas(BTreeMap<String, Quota>);

/// The text is no quotas.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error(
    "must be ORG:writes=N,bytes=SIZE,reads=N,read_bytes=SIZE,connections=N,watchers=N with spaces \
     between, and * for all others: {0:?} is not"
)]
pub struct QuotasError(String);

impl FromStr for Quotas {
    type Err = QuotasError;

    fn from_str(text: &str) -> Result<Self, QuotasError> {
        let mut quotas = BTreeMap::new();
        for part in text.split_whitespace() {
            let wrong = || QuotasError(part.to_owned());
            let (org, limits) = part.split_once(':').ok_or_else(wrong)?;
            if org != ANY {
                check_name(NamePart::Org, org.as_bytes()).map_err(|_| wrong())?;
            }
            let mut quota = Quota::default();
            for limit in limits.split(',') {
                let (of, rate) = match limit.split_once('=').ok_or_else(wrong)? {
                    ("writes", rate) => (&mut quota.writes, rate.parse().ok()),
                    ("bytes", rate) => (&mut quota.bytes, crate::settings::size(rate)),
                    ("reads", rate) => (&mut quota.reads, rate.parse().ok()),
                    ("read_bytes", rate) => (&mut quota.read_bytes, crate::settings::size(rate)),
                    ("connections", most) => (&mut quota.connections, most.parse().ok()),
                    ("watchers", most) => (&mut quota.watchers, most.parse().ok()),
                    _ => return Err(wrong()),
                };
                let rate = rate.filter(|rate| (1..=RATE_MAX).contains(rate));
                *of = Some(rate.ok_or_else(wrong)?);
            }
            if quotas.insert(org.to_owned(), quota).is_some() {
                return Err(wrong());
            }
        }
        Ok(Self(quotas))
    }
}

impl Quota {
    fn writers(&self) -> Rates {
        [self.writes, self.bytes]
    }

    fn readers(&self) -> Rates {
        [self.reads, self.read_bytes]
    }
}

impl Quotas {
    fn of(&self, org: &str) -> Option<&Quota> {
        self.0.get(org).or_else(|| self.0.get(ANY))
    }

    /// Seats as these quotas say. One a node.
    pub fn rooms(&self) -> Rooms {
        let most = |of: fn(&Quota) -> Option<u64>| -> Most {
            let quotas = self.clone();
            Box::new(move |org| quotas.of(org).and_then(of))
        };
        Rooms::new(most(|quota| quota.connections), most(|quota| quota.watchers))
    }
}

/// Counts what was taken. One a node.
#[derive(Debug)]
pub struct Meter {
    quotas: Quotas,
    writers: Buckets,
    readers: Buckets,
    limits_writers: bool,
    limits_readers: bool,
}

/// The bytes that a reader is yet to pay for.
#[derive(Debug)]
pub struct Bill {
    meter: Arc<Meter>,
    orgs: Vec<Box<str>>,
    at: Micros,
}

impl Meter {
    /// Nothing was taken yet.
    pub fn new(quotas: Quotas) -> Self {
        let limits = |rates: fn(&Quota) -> Rates| {
            quotas.0.values().any(|quota| rates(quota).iter().any(Option::is_some))
        };
        let (limits_writers, limits_readers) = (limits(Quota::writers), limits(Quota::readers));
        let (writers, readers) = (Buckets::default(), Buckets::default());
        Self { quotas, writers, readers, limits_writers, limits_readers }
    }

    /// Writes that came too soon, since the start.
    pub fn refused(&self) -> u64 {
        self.writers.refused()
    }

    /// Reads that came too soon, since the start.
    pub fn refused_reads(&self) -> u64 {
        self.readers.refused()
    }

    /// Takes what `request` costs. What is left to pay when it is answered, if anything, comes
    /// back. `now` is asked only where there are quotas for such a request.
    ///
    /// # Errors
    /// `Overloaded`, with when there is something again; then nothing was taken.
    pub fn admit(
        self: &Arc<Self>,
        now: impl FnOnce() -> Micros,
        request: &Request,
    ) -> Result<Option<Box<Bill>>, Refusal> {
        match request {
            Request::Write(write) if self.limits_writers => {
                self.admit_write(now(), write).map(|()| None)
            }
            Request::Read(_) | Request::Head(_) | Request::List(_) | Request::Feed(_)
                if self.limits_readers =>
            {
                self.admit_read(now(), request)
            }
            _ => Ok(None),
        }
    }

    fn admit_write(&self, now: Micros, write: &Write) -> Result<(), Refusal> {
        let mut costs: BTreeMap<&str, u64> = BTreeMap::new();
        // What the store writes down about itself is nobody's.
        for member in write.members.iter().filter(|member| !member.key.is_system()) {
            *costs.entry(member.key.org()).or_default() += member.events.as_bytes().len() as u64;
        }
        let costs = costs.into_iter().filter_map(|(org, bytes)| {
            self.quotas.of(org).map(|quota| (org, quota.writers(), bytes))
        });
        self.writers.take(now, "writes", &costs.collect::<Vec<_>>())
    }

    fn admit_read(
        self: &Arc<Self>,
        now: Micros,
        request: &Request,
    ) -> Result<Option<Box<Bill>>, Refusal> {
        let with_quota = |org| {
            let rates = self.quotas.of(org)?.readers();
            rates.iter().any(Option::is_some).then_some((org, rates, 0))
        };
        let costs: Vec<_> = orgs_of(request).into_iter().filter_map(with_quota).collect();
        if costs.is_empty() {
            return Ok(None);
        }
        self.readers.take(now, "reads", &costs)?;
        let by_bytes = costs.iter().filter(|(_, [_, bytes], _)| bytes.is_some());
        let orgs: Vec<Box<str>> = by_bytes.map(|(org, ..)| (*org).into()).collect();
        let is_due = !orgs.is_empty();
        Ok(is_due.then(|| Box::new(Bill { meter: Arc::clone(self), orgs, at: now })))
    }
}

impl Bill {
    /// Takes the bytes of `response` of those whose they are.
    pub fn pay(&self, response: &Response) {
        let all = |bytes| self.orgs.iter().for_each(|org| self.take(org, bytes));
        match response {
            Response::Page(page) => all(page.batches.iter().map(bytes_of).sum()),
            Response::List(page) => all(page.names.iter().map(|name| name.len() as u64).sum()),
            Response::Feed(page) => {
                for org in &self.orgs {
                    let of_org = page.batches.iter().filter(|batch| batch.key.org() == &**org);
                    self.take(org, of_org.map(|batch| bytes_of(&batch.batch)).sum());
                }
            }
            _ => {}
        }
    }

    fn take(&self, org: &str, bytes: u64) {
        let Some(quota) = self.meter.quotas.of(org).filter(|_| bytes > 0) else { return };
        self.meter.readers.take_bytes(self.at, org, quota.readers(), bytes);
    }
}

/// Whose names or events `request` asks for, each once. What the store keeps about itself is
/// nobody's.
fn orgs_of(request: &Request) -> BTreeSet<&str> {
    let orgs = match request {
        Request::Read(query) => BTreeSet::from([query.key.org()]),
        Request::Head(query) => BTreeSet::from([query.key.org()]),
        Request::List(query) => query.org.as_deref().into_iter().collect(),
        Request::Feed(query) => {
            query.selector.parts().iter().filter_map(Selector::of_org).collect()
        }
        Request::Ping | Request::Write(_) | Request::Admin(_) => BTreeSet::new(),
    };
    orgs.into_iter().filter(|org| !org.starts_with('$')).collect()
}

fn bytes_of(batch: &ReadBatch) -> u64 {
    batch.events.iter().map(|event| event.body.len() as u64).sum()
}
