//! What one org may take of a node, so that others have their turn: token buckets for its writers,
//! seats for its connections and watchers.
//!
//! ```text
//! quotas = "acme:writes=100,bytes=1MiB,connections=50,watchers=20 *:writes=1000"
//! ```
//! Writes and bytes per second, connections and watchers at a time, of each org; `*` is for each
//! org that is not named. Whose connection it is says `celeriant_net::rights`; seats are counted by
//! `celeriant_net::rooms`. A bucket holds what a second brings. It may be overdrawn by one write,
//! which is paid for afterwards: a write larger than a second's worth is slow, not impossible. A
//! write over several orgs takes of all or of none.
//! Settings of each node, counted on each node. Pure but for a lock: time is an argument.
//! Deliberately absent: limits on readers, which are bounded by node.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use celeriant_net::rooms::{Most, Rooms};
use celeriant_schema::key::{NamePart, check_name};
use celeriant_schema::{Refusal, Write};

use crate::clock::Micros;

/// Stands for every org that is not named.
const ANY: &str = "*";
/// Orgs whose buckets are remembered; with more, those that are full are forgotten.
const ORGS_MAX: usize = 1 << 14;
/// Highest rate, so that a bucket can be counted in millionths.
const RATE_MAX: u64 = 1 << 40;
const MILLION: i64 = 1_000_000;

/// What one org may take: of the first two what each second brings.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Quota {
    /// Writes; `None`: as many as there are.
    pub writes: Option<u64>,
    /// Bytes of events.
    pub bytes: Option<u64>,
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
    "must be ORG:writes=N,bytes=SIZE,connections=N,watchers=N with spaces between, and * for all \
     others: {0:?} is not"
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
pub struct Meter {
    quotas: Quotas,
    buckets: Mutex<BTreeMap<String, [Bucket; 2]>>,
    refused: AtomicU64,
}

/// How much is left, in millionths, and when that was.
#[derive(Clone, Copy, Debug)]
struct Bucket {
    rate: i64,
    level: i64,
    at: Micros,
}

impl Meter {
    /// Nothing was taken yet.
    pub fn new(quotas: Quotas) -> Self {
        Self { quotas, buckets: Mutex::default(), refused: AtomicU64::new(0) }
    }

    /// Whether there is any quota of writers: else nobody need ask.
    pub fn is_on(&self) -> bool {
        self.quotas.0.values().any(|quota| quota.writes.is_some() || quota.bytes.is_some())
    }

    /// Writes that came too soon, since the start.
    pub fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    /// Takes what `write` costs.
    ///
    /// # Errors
    /// `Overloaded`, with when there is something again; then nothing was taken.
    pub fn admit(&self, now: Micros, write: &Write) -> Result<(), Refusal> {
        let mut costs: BTreeMap<&str, i64> = BTreeMap::new();
        // What the store writes down about itself is nobody's.
        for member in write.members.iter().filter(|member| !member.key.is_system()) {
            *costs.entry(member.key.org()).or_default() += member.events.as_bytes().len() as i64;
        }
        let mut buckets = self.buckets();
        for org in costs.keys() {
            let Some(of_org) = self.of(&mut buckets, org, now) else { continue };
            let wait_ms = of_org.iter_mut().map(|bucket| bucket.wait_ms(now)).max();
            if let Some(retry_after_ms) = wait_ms.filter(|wait| *wait > 0) {
                self.refused.fetch_add(1, Ordering::Relaxed);
                let what = format!("quota of {org}");
                return Err(Refusal::Overloaded { what, retry_after_ms });
            }
        }
        for (org, bytes) in costs {
            let Some([writes, of_bytes]) = self.of(&mut buckets, org, now) else { continue };
            writes.level -= MILLION;
            of_bytes.level -= bytes.saturating_mul(MILLION);
        }
        Ok(())
    }

    /// The buckets of an org that has a quota.
    fn of<'a>(
        &self,
        buckets: &'a mut BTreeMap<String, [Bucket; 2]>,
        org: &str,
        now: Micros,
    ) -> Option<&'a mut [Bucket; 2]> {
        let quota = self.quotas.of(org)?;
        if !buckets.contains_key(org) {
            if buckets.len() >= ORGS_MAX {
                buckets.retain(|_, of_org| of_org.iter_mut().any(|bucket| !bucket.is_full(now)));
            }
            let of_org = [quota.writes, quota.bytes].map(|rate| Bucket::full(rate, now));
            buckets.insert(org.to_owned(), of_org);
        }
        buckets.get_mut(org)
    }

    fn buckets(&self) -> MutexGuard<'_, BTreeMap<String, [Bucket; 2]>> {
        // Poisoned: each bucket is a number, which is whole.
        self.buckets.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Meter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Meter").field("quotas", &self.quotas).finish_non_exhaustive()
    }
}

impl Bucket {
    /// `None`: bottomless.
    fn full(rate: Option<u64>, now: Micros) -> Self {
        let rate = rate.map_or(i64::MAX / MILLION, |rate| rate.min(RATE_MAX) as i64);
        Self { rate, level: rate * MILLION, at: now }
    }

    fn refill(&mut self, now: Micros) {
        let elapsed = i64::try_from(now.saturating_sub(self.at)).unwrap_or(i64::MAX);
        let brought = elapsed.saturating_mul(self.rate);
        self.level = self.level.saturating_add(brought).min(self.rate * MILLION);
        self.at = now.max(self.at);
    }

    fn is_full(&mut self, now: Micros) -> bool {
        self.refill(now);
        self.level == self.rate * MILLION
    }

    /// How long until something can be taken; 0: now.
    fn wait_ms(&mut self, now: Micros) -> u32 {
        self.refill(now);
        if self.level > 0 {
            return 0;
        }
        // A rate per second brings that many millionths in a microsecond.
        let micros = -self.level / self.rate + 1;
        u32::try_from(micros / 1_000 + 1).unwrap_or(u32::MAX)
    }
}

#[cfg(test)]
mod tests {
    use celeriant_schema::{ClientId, Guard, Member};

    use super::*;
    use crate::shard::core::rig::events;

    fn write(orgs: &[&str]) -> Write {
        let member = |org: &&str| Member {
            key: format!("{org}/account/a").parse().expect("a key"),
            guard: Guard::Any,
            sequence: None,
            events: events(1, "payload"),
            retention: None,
        };
        Write { client_id: ClientId::NONE, members: orgs.iter().map(member).collect() }
    }

    fn meter(text: &str) -> Meter {
        Meter::new(text.parse().expect("quotas"))
    }

    fn wait(result: Result<(), Refusal>) -> u32 {
        match result {
            Ok(()) => 0,
            Err(Refusal::Overloaded { retry_after_ms, what }) => {
                assert!(what.starts_with("quota of "), "{what}");
                retry_after_ms
            }
            Err(refusal) => panic!("{refusal}"),
        }
    }

    const SECOND: Micros = 1_000_000;

    #[test]
    fn an_org_has_what_a_second_brings_and_others_are_not_concerned() {
        let meter = meter("acme:writes=2 *:writes=1");
        let takes = |now, orgs: &[&str]| wait(meter.admit(now, &write(orgs)));
        assert_eq!([takes(0, &["acme"]), takes(0, &["acme"])], [0, 0]);
        let early = takes(0, &["acme"]);
        assert!((1..=2).contains(&early), "an empty bucket is open again at once: {early}");
        assert_eq!([takes(0, &["rival"]), takes(0, &["third"])], [0, 0], "each its own");
        assert_eq!(meter.refused(), 1);
        assert_eq!([takes(SECOND, &["acme"]), takes(SECOND, &["acme"])], [0, 0]);
        assert!(takes(SECOND, &["acme"]) > 0, "no more than a second's worth is saved");
        // All or none: the free one is not charged.
        assert!(takes(SECOND, &["acme", "fresh"]) > 0);
        assert_eq!(takes(SECOND, &["fresh"]), 0);
    }

    #[test]
    fn a_write_that_is_larger_than_a_second_s_worth_is_paid_for_afterwards() {
        let bytes = write(&["acme"]).members[0].events.as_bytes().len() as u64;
        let meter = meter("acme:bytes=1");
        assert_eq!(wait(meter.admit(0, &write(&["acme"]))), 0);
        let left = u64::from(wait(meter.admit(SECOND, &write(&["acme"]))));
        assert!(
            ((bytes - 3) * 1_000..bytes * 1_000).contains(&left),
            "{left} ms for {bytes} bytes"
        );
        assert_eq!(wait(meter.admit(bytes * SECOND, &write(&["acme"]))), 0);
        // A clock never goes back, and would do no harm.
        assert!(wait(meter.admit(0, &write(&["acme"]))) > 0);
    }

    #[test]
    fn without_quotas_and_for_the_store_itself_there_is_no_limit() {
        for (text, org) in [("", "acme"), ("rival:writes=1", "acme")] {
            let meter = meter(text);
            assert!((0..100).all(|_| meter.admit(0, &write(&[org])).is_ok()), "{text}");
        }
    }

    #[test]
    fn what_is_no_quota_is_refused() {
        let both: Quotas = "acme:writes=100,bytes=1MiB".parse().expect("quotas");
        let writers = Quota { writes: Some(100), bytes: Some(1 << 20), ..Quota::default() };
        assert_eq!(both.0["acme"], writers);
        let seats: Quotas = "*:connections=7,watchers=2".parse().expect("quotas");
        let both = Quota { connections: Some(7), watchers: Some(2), ..Quota::default() };
        assert_eq!(seats.0[ANY], both);
        assert!(!Meter::new(seats).is_on(), "writers need not ask");
        for bad in ["acme", "acme:writes", "acme:reads=1", "acme:writes=0", "a/b:writes=1"] {
            assert_eq!(bad.parse::<Quotas>(), Err(QuotasError(bad.to_owned())));
        }
        assert!("acme:writes=1 acme:writes=2".parse::<Quotas>().is_err(), "twice");
        assert!("acme:bytes=99999GiB".parse::<Quotas>().is_err(), "too much");
    }
}
