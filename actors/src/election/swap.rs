//! The core's one hand on the register: one request at a time, one change at a time, each of which
//! is known to have happened or not before the next (R15).
//!
//! ```text
//!            begin            Put
//!   no change ───▶ to be put ──────────────────────────────────────▶ won
//!                    ▲   │ conflict, or nobody knows       GET: nonce ▲
//!      GET: as before │   ▼                                           │
//!                    to be asked ─────────────────────────────────────┤
//!                        │ GET: another's                             │
//!                        └──────▶ lost      never sent ──▶ void ◀─────┘ no longer wanted
//! ```
//! A change that is in doubt is put again, byte for byte, under the same condition: whichever of
//! the puts arrives first is the only one that can. A [`Conflict`](celeriant_storage::bucket) is
//! hearsay and never decides; a read does.
//!
//! What was read is believed only after [`Access::examine`] (I14). One that isn't believed decides
//! nothing, so that a change stays in doubt until an operator has acted.
//! Deliberately absent: why something is changed, and what follows.

use bytes::Bytes;
use celeriant_schema::{ClusterId, Epoch};
use celeriant_storage::bucket::{Completion, Done, ETag, Effect as Left, Key, Op, Request, Token};

use super::register::{CONFIG_KEY, Config, Seal};
use super::settings::Settings;
use super::vocabulary::Distrust;
use crate::clock::Micros;

/// The register as it was last read or written.
#[derive(Debug)]
struct Known {
    config: Config,
    etag: ETag,
    /// When the bucket said so. How slow it was doesn't matter: a change is conditional anyway.
    at: Micros,
}

/// What a change is for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Intent {
    /// Make the register.
    Create,
    /// Take the free place among the members.
    Join,
    /// Begin a take-over.
    Claim,
    /// End it.
    Activate,
    /// From the pair to the bucket.
    Eject,
    /// From the bucket to the pair.
    Readmit,
    /// Name the other node leader.
    HandOver,
    /// Renew the lease.
    Renew,
    /// A lost member makes way; the command's id.
    Replace(u64),
    /// Make the register in a bucket that has none, although there was one; the command's id.
    Recover(u64),
    /// Say where this node is found now, and what it can read.
    Refresh,
    /// Write what both members can read.
    Raise,
}

/// A change under way.
#[derive(Debug)]
pub(super) struct Swap {
    pub(super) intent: Intent,
    pub(super) sent: Config,
    /// When it was first sent: it may have been in force since.
    pub(super) since: Micros,
    /// Put it again while it is in doubt. Otherwise only find out.
    pub(super) wanted: bool,
    body: Bytes,
    etag: Option<ETag>,
    /// Some try may have happened, or may yet.
    maybe: bool,
    /// A read comes before the next try.
    ask: bool,
}

/// What a completion says.
#[derive(Debug)]
pub(super) enum News {
    /// Nothing that matters.
    Nothing,
    /// The register was read; or it became known why it is not believed.
    Read,
    /// There is no register and never was one.
    Absent,
    /// The change is in the register, or was.
    Won(Swap),
    /// Another came first: it never will be.
    Lost(Swap),
    /// It was never sent, or nobody wants it any more and it is not there yet.
    Void(Swap),
}

#[derive(Debug)]
struct Flight {
    token: Token,
    /// Nonce of the body that it puts; `None` = it reads.
    puts: Option<u128>,
    sent_at: Micros,
}

/// The register's side of the core.
#[derive(Debug)]
pub(super) struct Access {
    settings: Settings,
    seal: Seal,
    cluster: ClusterId,
    shards: u16,
    known: Option<Known>,
    stale: bool,
    distrust: Option<Distrust>,
    max_epoch_seen: Epoch,
    swap: Option<Swap>,
    flight: Option<Flight>,
    tokens: Token,
    /// How long the last read took.
    round_trip: Option<Micros>,
    /// Nothing is sent before. Off at most: the bucket is asked too often, or late.
    pub(super) retry_at: Micros,
    failures: u32,
}

impl Access {
    pub(super) fn new(
        settings: Settings,
        seal: Seal,
        (cluster, shards): (ClusterId, u16),
        max_epoch_seen: Epoch,
    ) -> Self {
        let (known, distrust, swap, flight) = (None, None, None, None);
        let (tokens, retry_at, failures, stale) = (0, 0, 0, false);
        Self {
            settings,
            seal,
            cluster,
            shards,
            known,
            stale,
            distrust,
            max_epoch_seen,
            swap,
            flight,
            tokens,
            round_trip: None,
            retry_at,
            failures,
        }
    }

    /// How long the last read took.
    pub(super) fn round_trip(&self) -> Option<Micros> {
        self.round_trip
    }

    pub(super) fn config(&self) -> Option<&Config> {
        self.known.as_ref().map(|known| &known.config)
    }

    pub(super) fn distrust(&self) -> Option<&Distrust> {
        self.distrust.as_ref()
    }

    pub(super) fn max_epoch_seen(&self) -> Epoch {
        self.max_epoch_seen
    }

    pub(super) fn swap(&self) -> Option<&Swap> {
        self.swap.as_ref()
    }

    pub(super) fn intent(&self) -> Option<Intent> {
        self.swap.as_ref().map(|swap| swap.intent)
    }

    pub(super) fn is_idle(&self) -> bool {
        self.flight.is_none()
    }

    /// The register was read, believed, and is young enough for a reconfiguration (R15).
    pub(super) fn is_fresh(&self, now: Micros) -> bool {
        let young = |known: &Known| now < known.at.saturating_add(self.settings.fresh_for);
        self.distrust.is_none() && !self.stale && self.known.as_ref().is_some_and(young)
    }

    /// What is known, as it is in the bucket.
    pub(super) fn copy(&self) -> Option<(Bytes, ETag)> {
        self.known.as_ref().map(|known| (known.config.encode(&self.seal), known.etag.clone()))
    }

    /// Somebody who has just written the register says what it is, and it is believed as if it had
    /// been read. Whatever was sent to read it before is out of date, and so may this be: it is
    /// read again before anything else rests on it. Whether it was news.
    pub(super) fn take_copy(&mut self, now: Micros, body: &[u8], etag: ETag) -> bool {
        self.doubt();
        let known = self.config().map_or(0, |config| config.ver);
        let news = self.examine(body).ok().filter(|config| config.ver > known);
        let Some(config) = news.filter(|_| self.swap.is_none() && self.distrust.is_none()) else {
            return false;
        };
        self.flight = None;
        self.learn(Known { config, etag, at: now });
        self.doubt();
        true
    }

    /// What is known may be out of date: read again before anything rests on it.
    pub(super) fn doubt(&mut self) {
        self.stale = true;
    }

    /// Whether it is time to read again, or when it will be, if that is done so often.
    pub(super) fn stale_at(&self, every: Micros) -> Micros {
        match &self.known {
            Some(known) if !self.stale => known.at.saturating_add(every),
            _ => 0,
        }
    }

    /// Nobody asks any more what becomes of the change. It may still happen: then a read finds it.
    pub(super) fn forget(&mut self) -> Option<Swap> {
        self.swap.take()
    }

    /// A change that nobody wants any more is only found out about.
    pub(super) fn give_up(&mut self) {
        if let Some(swap) = &mut self.swap {
            swap.wanted = false;
            swap.ask = true;
        }
    }

    /// Begins a change of what is known.
    ///
    /// # Panics
    /// When one is under way, or the register isn't believed.
    pub(super) fn begin(&mut self, intent: Intent, sent: Config, now: Micros) {
        assert!(self.swap.is_none(), "{intent:?} while {:?} is under way", self.intent());
        let makes = matches!(intent, Intent::Create | Intent::Recover(_));
        assert!(self.distrust.is_none() || makes, "{:?}", self.distrust);
        let etag = self.known.as_ref().map(|known| known.etag.clone());
        let expected = self.config().map_or(1, |config| config.ver + 1);
        assert_eq!(sent.ver, expected, "ver grows by one");
        assert!(self.config().is_none_or(|config| sent.epoch >= config.epoch), "epoch went back");
        let body = sent.encode(&self.seal);
        let (since, wanted, maybe, ask) = (now, true, false, false);
        self.swap = Some(Swap { intent, sent, since, wanted, body, etag, maybe, ask });
    }

    /// The next request: of the change under way, or else a read. Nothing else is in flight.
    pub(super) fn next(&mut self, sent_at: Micros) -> (Token, Request) {
        assert!(self.flight.is_none(), "two requests at a time");
        let key = Key::new(CONFIG_KEY);
        let put = self.swap.as_ref().filter(|swap| !swap.ask).map(|swap| match &swap.etag {
            None => Op::PutIfAbsent { key: key.clone(), body: swap.body.clone() },
            Some(etag) => {
                Op::PutIfMatch { key: key.clone(), etag: etag.clone(), body: swap.body.clone() }
            }
        });
        self.tokens += 1;
        let token = self.tokens;
        let puts = self.swap.as_ref().filter(|_| put.is_some()).map(|swap| swap.sent.nonce);
        self.flight = Some(Flight { token, puts, sent_at });
        let op = put.unwrap_or(Op::Get { key });
        (token, Request::control(op, self.settings.deadline()))
    }

    /// Takes a completion; one that nobody waits for says nothing.
    pub(super) fn complete(&mut self, now: Micros, completion: Completion) -> News {
        let awaited = |flight: &mut Flight| flight.token == completion.token;
        let Some(flight) = self.flight.take_if(awaited) else { return News::Nothing };
        match (completion.outcome, flight.puts) {
            (Ok(Done::Found { etag, body }), None) => {
                self.round_trip = Some(now.saturating_sub(flight.sent_at));
                self.found(now, etag, &body)
            }
            (Ok(Done::Absent), None) => self.absent(now),
            (Ok(Done::Put { etag }), Some(nonce)) => self.put(now, nonce, etag),
            (Ok(Done::Conflict(_)), Some(nonce)) => {
                // Asked at once, so that the loser of a race knows at once.
                self.retry_at = now;
                self.unclear(nonce, Left::Unknown)
            }
            (outcome, puts) => {
                self.fail(now);
                // An answer that fits no question leaves everything open.
                let left = outcome.err().map_or(Left::Unknown, |error| error.effect);
                puts.map_or(News::Nothing, |nonce| self.unclear(nonce, left))
            }
        }
    }

    fn put(&mut self, now: Micros, nonce: u128, etag: ETag) -> News {
        self.failures = 0;
        let Some(swap) = self.swap.take_if(|swap| swap.sent.nonce == nonce) else {
            // Of a change that was forgotten: what is known is out of date.
            self.doubt();
            return News::Nothing;
        };
        self.distrust = None;
        self.learn(Known { config: swap.sent.clone(), etag, at: now });
        News::Won(swap)
    }

    /// A put that did not simply succeed. Only a read can tell, unless no try was ever sent.
    fn unclear(&mut self, nonce: u128, left: Left) -> News {
        let Some(swap) = self.swap.as_mut().filter(|swap| swap.sent.nonce == nonce) else {
            return News::Nothing;
        };
        swap.maybe |= left == Left::Unknown;
        swap.ask = true;
        if swap.maybe { News::Nothing } else { self.swap.take().map_or(News::Nothing, News::Void) }
    }

    fn fail(&mut self, now: Micros) {
        let (least, most) = self.settings.bucket_retry;
        let wait = least.saturating_mul(1 << self.failures.min(16)).min(most);
        self.failures += 1;
        self.retry_at = now.saturating_add(wait);
    }

    fn found(&mut self, now: Micros, etag: ETag, body: &[u8]) -> News {
        self.failures = 0;
        match self.examine(body) {
            Ok(config) => {
                self.distrust = None;
                self.learn(Known { config, etag, at: now });
                self.judge(now)
            }
            Err(distrust) => {
                let lost = self.swap.take_if(|swap| matches!(swap.intent, Intent::Recover(_)));
                let news = self.disbelieve(now, distrust);
                lost.map_or(news, News::Lost)
            }
        }
    }

    fn absent(&mut self, now: Micros) -> News {
        self.failures = 0;
        let never = self.known.is_none() && self.max_epoch_seen.value() == 0;
        if !never && !matches!(self.intent(), Some(Intent::Recover(_))) {
            return self.disbelieve(now, Distrust::Missing { seen: self.max_epoch_seen });
        }
        match &mut self.swap {
            Some(swap) => {
                swap.ask = false;
                self.fail(now);
                News::Read
            }
            None => News::Absent,
        }
    }

    /// Why there is nothing to believe.
    pub(super) fn disbelieve(&mut self, now: Micros, distrust: Distrust) -> News {
        self.distrust = Some(distrust);
        self.retry_at = now.saturating_add(self.settings.bucket_retry.1);
        News::Read
    }

    /// I14: one register, which only grows.
    fn examine(&self, body: &[u8]) -> Result<Config, Distrust> {
        let config = Config::decode(body, &self.seal).map_err(Distrust::Unreadable)?;
        config.belongs_to(self.cluster, self.shards).map_err(Distrust::Unreadable)?;
        let known = self.config();
        let seen_ver = known.map_or(0, |known| known.ver);
        if config.epoch < self.max_epoch_seen || config.ver < seen_ver {
            let (epoch, ver, seen) = (config.epoch, config.ver, self.max_epoch_seen);
            return Err(Distrust::Older { epoch, ver, seen, seen_ver });
        }
        if known.is_some_and(|known| known.ver == config.ver && known.nonce != config.nonce) {
            return Err(Distrust::Rewritten { ver: config.ver });
        }
        Ok(config)
    }

    fn learn(&mut self, known: Known) {
        let before = self.config().map_or(0, |config| config.ver);
        assert!(known.config.ver >= before, "ver went back: {} to {}", before, known.config.ver);
        self.max_epoch_seen = self.max_epoch_seen.max(known.config.epoch);
        self.known = Some(known);
        self.stale = false;
    }

    /// R15: what a read says about the change under way.
    fn judge(&mut self, now: Micros) -> News {
        let (Some(swap), Some(known)) = (&mut self.swap, &self.known) else { return News::Read };
        let open = known.config.ver < swap.sent.ver;
        if open && swap.wanted {
            // A read that was sent before the first try says nothing about it.
            if std::mem::take(&mut swap.ask) {
                self.fail(now);
            }
            return News::Read;
        }
        let won = swap.happened(&known.config);
        let Some(swap) = self.swap.take() else { return News::Read };
        match (won, open) {
            (true, _) => News::Won(swap),
            (false, true) => News::Void(swap),
            (false, false) => News::Lost(swap),
        }
    }
}

impl Swap {
    /// Whether `found` is what it wrote, or came of it: others may have changed lease and members
    /// since.
    fn happened(&self, found: &Config) -> bool {
        if found.nonce == self.sent.nonce {
            return true;
        }
        let sent = &self.sent;
        let later = found.ver > sent.ver && found.rules_as(sent);
        later
            && match self.intent {
                // These change nothing else, so that their effect itself must be there.
                Intent::Renew => found.lease.map(|l| l.seq) >= sent.lease.map(|l| l.seq),
                Intent::Refresh => {
                    sent.members.iter().all(|member| found.member(member.store) == Some(member))
                }
                Intent::Raise => found.feature_level >= sent.feature_level,
                Intent::Join | Intent::Replace(_) => {
                    sent.members.iter().all(|member| found.member(member.store).is_some())
                }
                _ => true,
            }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::election::core::rig::{epoch, me, pair};

    /// One that has just read this register.
    fn having_read(config: &Config) -> Access {
        let seal = Seal::new(None);
        let mut access =
            Access::new(Settings::default(), seal.clone(), (ClusterId::new(7), 1), epoch(0));
        let (token, _) = access.next(0);
        let (etag, body) = (ETag::new("1"), config.encode(&seal));
        let read = Completion { token, outcome: Ok(Done::Found { etag, body }) };
        assert!(matches!(access.complete(0, read), News::Read));
        assert!(access.is_fresh(0));
        access
    }

    #[test]
    fn a_register_that_is_not_believed_is_never_fresh() {
        let mut access = having_read(&pair(me()));
        access.disbelieve(0, Distrust::Rewritten { ver: 5 });
        assert!(!access.is_fresh(0));
    }

    #[test]
    fn a_put_of_a_change_that_was_forgotten_is_not_the_next_ones() {
        let config = pair(me());
        let mut access = having_read(&config);
        let next = |nonce| Config { ver: config.ver + 1, nonce, ..config.clone() };
        access.begin(Intent::Renew, next(1), 0);
        let (token, _) = access.next(0);
        assert!(access.forget().is_some());
        access.begin(Intent::Renew, next(2), 0);
        let put = Completion { token, outcome: Ok(Done::Put { etag: ETag::new("2") }) };
        assert!(matches!(access.complete(0, put), News::Nothing));
        assert!(access.swap().is_some_and(|swap| swap.sent.nonce == 2));
        assert!(!access.is_fresh(0), "what is known is out of date");
    }
}
