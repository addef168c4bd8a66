//! The conformance probe: refuses a bucket that lies about conditions, before anything rests on it.
//!
//! ```text
//!   create twice · read after write · stale If-Match · If-Match without an object
//!   20 rounds of 8 racing creates · 20 rounds of 8 racing replacements · delete
//! ```
//! Several stores accept `If-None-Match` and `If-Match` and ignore them, or check and then write,
//! so that several racers win: only a race finds the latter. A check that could not be made is no
//! lie: the report tells the two apart, since one calls for another store, the other for the
//! network or for credentials.
//!
//! All objects are `probe/<boot>/…`, on the data lane, and are removed at the end.

use std::collections::BTreeMap;
use std::fmt;
use std::future::poll_fn;
use std::time::Duration;

use bytes::Bytes;
use celeriant_schema::BootId;

use crate::bucket::{
    Bucket, BucketError, Cause, Conflict, Done, ETag, Key, Op, Outcome, Request, run,
};

/// Racers of a round. A lane must admit as many.
pub const RACERS: u64 = 8;

/// How thorough a probe is.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Rounds of each race.
    pub rounds: u64,
    /// For each operation.
    pub deadline: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self { rounds: 20, deadline: Duration::from_secs(10) }
    }
}

/// What the bucket must do.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Check {
    /// A put is seen by the next read, with body and ETag.
    ReadAfterWrite,
    /// A second create is refused, and changes nothing.
    CreateOnce,
    /// A replacement of the current version happens.
    Replace,
    /// A replacement of an earlier version is refused, and changes nothing.
    ReplaceStale,
    /// A replacement of nothing is refused, and makes nothing.
    ReplaceAbsent,
    /// Of racing creates exactly one wins, and its body is there.
    RacingCreates,
    /// Of racing replacements exactly one wins, and its body is there.
    RacingReplacements,
    /// What was deleted is not there.
    Delete,
}

impl Check {
    /// All, in the order in which they are made.
    pub const ALL: [Self; 8] = [
        Self::ReadAfterWrite,
        Self::CreateOnce,
        Self::Replace,
        Self::ReplaceStale,
        Self::ReplaceAbsent,
        Self::RacingCreates,
        Self::RacingReplacements,
        Self::Delete,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::ReadAfterWrite => "read after write",
            Self::CreateOnce => "create once (If-None-Match: *)",
            Self::Replace => "replace the current version (If-Match)",
            Self::ReplaceStale => "refuse to replace an earlier version (If-Match)",
            Self::ReplaceAbsent => "refuse to replace nothing (If-Match)",
            Self::RacingCreates => "one winner among racing creates",
            Self::RacingReplacements => "one winner among racing replacements",
            Self::Delete => "delete",
        }
    }
}

impl fmt::Display for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What a check found.
#[derive(Clone, Debug)]
pub enum Verdict {
    /// As it must be.
    Held,
    /// The bucket did otherwise: no setting helps, use another store.
    Lied(String),
    /// It could not be found out.
    Failed(BucketError),
}

/// What a probe found, in the order of [`Check::ALL`]. Ends with the first check that failed.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Each check with its verdict.
    pub findings: Vec<(Check, Verdict)>,
}

/// Why a bucket must not be used.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Refusal {
    /// It broke the contract.
    #[error(
        "this bucket does not do what it must: {check}: {what}. \
         Two nodes could both lead: use a store with atomic conditional puts"
    )]
    Lies {
        /// What it should have done.
        check: Check,
        /// What it did.
        what: String,
    },
    /// It could not be tried out.
    #[error("this bucket could not be tried out: {check}: {error}. {}", advice(.error.cause))]
    Unproven {
        /// What could not be tried.
        check: Check,
        /// Why.
        error: BucketError,
    },
}

impl Report {
    /// Why the bucket must not be used, if it must not. A lie outweighs everything.
    pub fn refusal(&self) -> Option<Refusal> {
        let lie = self.findings.iter().find_map(|(check, verdict)| match verdict {
            Verdict::Lied(what) => Some(Refusal::Lies { check: *check, what: what.clone() }),
            _ => None,
        });
        lie.or_else(|| {
            self.findings.iter().find_map(|(check, verdict)| match verdict {
                Verdict::Failed(error) => {
                    Some(Refusal::Unproven { check: *check, error: error.clone() })
                }
                _ => None,
            })
        })
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (check, verdict) in &self.findings {
            match verdict {
                Verdict::Held => writeln!(f, "ok      {check}")?,
                Verdict::Lied(what) => writeln!(f, "LIES    {check}: {what}")?,
                Verdict::Failed(error) => writeln!(f, "failed  {check}: {error}")?,
            }
        }
        Ok(())
    }
}

/// What an operator can do about it.
fn advice(cause: Cause) -> &'static str {
    match cause {
        Cause::Denied => {
            "Check the credentials (the usual AWS chain) and that they may get, put, list and \
             delete objects below the prefix"
        }
        Cause::NoBucket => "Create the bucket, or correct its name in the settings",
        Cause::Unreachable | Cause::Lost | Cause::Deadline => {
            "Check the endpoint, the network and the certificates on the way to it"
        }
        Cause::Refused => "Check region and endpoint; the store may lack conditional puts",
        _ => "Try again later",
    }
}

/// Tries out what the cluster rests on. `boot` keeps probes apart, also two of one node; nothing
/// else may be in flight.
pub async fn probe<B: Bucket>(bucket: &mut B, boot: BootId, settings: Settings) -> Report {
    let mut prober = Prober { bucket, boot, settings, bodies: 0, used: Vec::new() };
    let mut report = Report::default();
    for check in Check::ALL {
        let verdict = match prober.check(check).await {
            Ok(()) => Verdict::Held,
            Err(Flaw::Lie(what)) => Verdict::Lied(what),
            Err(Flaw::Failure(error)) => Verdict::Failed(error),
        };
        let failed = matches!(verdict, Verdict::Failed(_));
        report.findings.push((check, verdict));
        if failed {
            break;
        }
    }
    prober.clean_up().await;
    report
}

enum Flaw {
    Lie(String),
    Failure(BucketError),
}

type Checked<T = ()> = Result<T, Flaw>;

impl From<BucketError> for Flaw {
    fn from(error: BucketError) -> Self {
        Self::Failure(error)
    }
}

fn lie<T>(what: impl Into<String>) -> Checked<T> {
    Err(Flaw::Lie(what.into()))
}

struct Prober<'a, B> {
    bucket: &'a mut B,
    boot: BootId,
    settings: Settings,
    bodies: u64,
    used: Vec<Key>,
}

/// A put of a race, and how it ended.
struct Racer {
    body: Bytes,
    outcome: Outcome,
}

impl<B: Bucket> Prober<'_, B> {
    async fn check(&mut self, check: Check) -> Checked {
        match check {
            Check::ReadAfterWrite => self.read_after_write().await,
            Check::CreateOnce => self.create_once().await,
            Check::Replace => self.replace().await,
            Check::ReplaceStale => self.replace_stale().await,
            Check::ReplaceAbsent => self.replace_absent().await,
            Check::RacingCreates => self.racing_creates().await,
            Check::RacingReplacements => self.racing_replacements().await,
            Check::Delete => self.delete().await,
        }
    }

    async fn read_after_write(&mut self) -> Checked {
        let key = self.key("read");
        let body = self.body();
        let etag = self.create(&key, &body).await?;
        match self.get(&key).await? {
            Some((read, _)) if read != body => lie("a read returned another body"),
            Some((_, read)) if read != etag => {
                lie(format!("the put made version {etag}, the read shows {read}"))
            }
            Some(_) => Ok(()),
            None => lie("a read found nothing"),
        }
    }

    async fn create_once(&mut self) -> Checked {
        let key = self.key("create");
        let (first, second) = (self.body(), self.body());
        self.create(&key, &first).await?;
        match self.put_if_absent(&key, &second).await? {
            Done::Conflict(_) => self.expect_body(&key, &first, "a refused create").await,
            _ => lie("an object was created that existed: If-None-Match is ignored"),
        }
    }

    async fn replace(&mut self) -> Checked {
        let key = self.key("replace");
        let (first, second) = (self.body(), self.body());
        let etag = self.create(&key, &first).await?;
        match self.put_if_match(&key, &etag, &second).await? {
            Done::Put { .. } => self.expect_body(&key, &second, "a replacement").await,
            _ => lie("the current version was refused"),
        }
    }

    async fn replace_stale(&mut self) -> Checked {
        let key = self.key("stale");
        let (first, second, third) = (self.body(), self.body(), self.body());
        let etag = self.create(&key, &first).await?;
        self.put_if_match(&key, &etag, &second).await?;
        match self.put_if_match(&key, &etag, &third).await? {
            Done::Conflict(_) => self.expect_body(&key, &second, "a refused replacement").await,
            _ => lie("an earlier version was replaced: If-Match is ignored"),
        }
    }

    async fn replace_absent(&mut self) -> Checked {
        let (key, other) = (self.key("absent"), self.key("other"));
        let body = self.body();
        let etag = self.create(&other, &body).await?;
        match self.put_if_match(&key, &etag, &body).await? {
            Done::Conflict(_) => match self.get(&key).await? {
                None => Ok(()),
                Some(_) => lie("a refused replacement made an object"),
            },
            _ => lie("an object that did not exist was replaced: If-Match is ignored"),
        }
    }

    async fn racing_creates(&mut self) -> Checked {
        for round in 0..self.settings.rounds {
            let key = self.key(&format!("race-{round}"));
            let racers = self.race(|body| Op::PutIfAbsent { key: key.clone(), body }).await?;
            let found = self.get(&key).await?.map(|(body, _)| body);
            judge(&racers, None, found)?;
        }
        Ok(())
    }

    async fn racing_replacements(&mut self) -> Checked {
        let key = self.key("replacements");
        let first = self.body();
        self.create(&key, &first).await?;
        for _ in 0..self.settings.rounds {
            let Some((before, etag)) = self.get(&key).await? else {
                return lie("the object is gone");
            };
            let op = |body| Op::PutIfMatch { key: key.clone(), etag: etag.clone(), body };
            let racers = self.race(op).await?;
            let found = self.get(&key).await?.map(|(body, _)| body);
            judge(&racers, Some(&before), found)?;
        }
        Ok(())
    }

    async fn delete(&mut self) -> Checked {
        let key = self.key("delete");
        let body = self.body();
        self.create(&key, &body).await?;
        self.run(Op::Delete { key: key.clone() }).await?;
        match self.get(&key).await? {
            None => Ok(()),
            Some(_) => lie("a read found what was deleted"),
        }
    }

    /// Starts all racers, then waits for all of them.
    async fn race(&mut self, op: impl Fn(Bytes) -> Op) -> Checked<Vec<Racer>> {
        let mut bodies = BTreeMap::new();
        for token in 0..RACERS {
            let body = self.body();
            bodies.insert(token, body.clone());
            self.bucket.start(token, Request::data(op(body), self.settings.deadline));
        }
        let mut racers = Vec::new();
        while !bodies.is_empty() {
            let completion = poll_fn(|cx| self.bucket.poll_complete(cx)).await;
            if let Some(body) = bodies.remove(&completion.token) {
                racers.push(Racer { body, outcome: completion.outcome });
            }
        }
        // Without any word from the bucket there is no verdict.
        if let Some(error) = racers.iter().find_map(|racer| racer.outcome.as_ref().err())
            && racers.iter().all(|racer| racer.outcome.is_err())
        {
            return Err(Flaw::Failure(error.clone()));
        }
        Ok(racers)
    }

    async fn create(&mut self, key: &Key, body: &Bytes) -> Checked<ETag> {
        match self.put_if_absent(key, body).await? {
            Done::Put { etag } => Ok(etag),
            _ => lie("an object that did not exist could not be created"),
        }
    }

    async fn put_if_absent(&mut self, key: &Key, body: &Bytes) -> Checked<Done> {
        let op = Op::PutIfAbsent { key: key.clone(), body: body.clone() };
        self.put(op, key, body).await
    }

    async fn put_if_match(&mut self, key: &Key, etag: &ETag, body: &Bytes) -> Checked<Done> {
        let op = Op::PutIfMatch { key: key.clone(), etag: etag.clone(), body: body.clone() };
        self.put(op, key, body).await
    }

    /// A conflict is hearsay: a request that was sent again may meet its own success. No two bodies
    /// are alike, so a read tells (R15).
    async fn put(&mut self, op: Op, key: &Key, body: &Bytes) -> Checked<Done> {
        let done = self.run(op).await?;
        if !matches!(done, Done::Conflict(_)) {
            return Ok(done);
        }
        match self.get(key).await? {
            Some((found, etag)) if found == *body => Ok(Done::Put { etag }),
            _ => Ok(done),
        }
    }

    async fn get(&mut self, key: &Key) -> Checked<Option<(Bytes, ETag)>> {
        match self.run(Op::Get { key: key.clone() }).await? {
            Done::Found { etag, body } => Ok(Some((body, etag))),
            _ => Ok(None),
        }
    }

    async fn expect_body(&mut self, key: &Key, body: &Bytes, after: &str) -> Checked {
        match self.get(key).await? {
            Some((found, _)) if found == *body => Ok(()),
            Some(_) => lie(format!("after {after} a read returned another body")),
            None => lie(format!("after {after} a read found nothing")),
        }
    }

    async fn run(&mut self, op: Op) -> Outcome {
        run(self.bucket, Request::data(op, self.settings.deadline)).await
    }

    fn key(&mut self, name: &str) -> Key {
        let key = Key::new(format!("probe/{:016x}/{name}", self.boot.value()));
        self.used.push(key.clone());
        key
    }

    /// Never the same twice.
    fn body(&mut self) -> Bytes {
        self.bodies += 1;
        format!("{:016x} {}", self.boot.value(), self.bodies).into()
    }

    /// What stays after an error is small and bears the boot's name.
    async fn clean_up(&mut self) {
        for key in std::mem::take(&mut self.used) {
            if self.run(Op::Delete { key }).await.is_err() {
                return;
            }
        }
    }
}

/// Exactly one wins. A racer that was refused or got no answer may have won all the same, if
/// nobody was told so: then its body must be there.
fn judge(racers: &[Racer], before: Option<&Bytes>, found: Option<Bytes>) -> Checked {
    let won: Vec<&Racer> =
        racers.iter().filter(|racer| matches!(racer.outcome, Ok(Done::Put { .. }))).collect();
    match (won.as_slice(), &found) {
        ([_, _, ..], _) => lie(format!("{} of {} racers won", won.len(), racers.len())),
        ([_], None) => lie("one racer won, and a read finds nothing"),
        ([winner], Some(body)) if winner.body == *body => Ok(()),
        ([_], Some(_)) => lie("one racer won, and a read finds another's body"),
        ([], Some(body)) if racers.iter().any(|racer| racer.body == *body) => Ok(()),
        ([], found) if found.as_ref() == before => {
            let decided =
                |racer: &Racer| matches!(racer.outcome, Ok(Done::Conflict(Conflict::Precondition)));
            if racers.iter().all(decided) {
                return lie("every racer was told that another one won, and none did");
            }
            // All of them met each other (409): nobody has to win.
            Ok(())
        }
        ([], _) => lie("nobody won, and a read finds a body that nobody put"),
    }
}

#[cfg(test)]
mod probe_test;
