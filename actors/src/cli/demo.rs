//! `demo`: two nodes and a bucket on this machine, a leader that is killed under load, and the
//! proof that nothing else was lost.
//!
//! ```text
//! stage   directory, certificates, the bucket in this process, two nodes as processes of their own
//! bank    accounts, transfers between them, and what was promised
//! proof   every promise held against what each node has          show   what is printed
//! ```
//! Nothing is staged: the nodes run `celeriant server` with real files, QUIC and certificates, and
//! are killed by the system. Whatever happens, they end with this process.
//!
//! Deliberately absent: anything that an application could not do with the client crate, apart from
//! killing nodes.

mod bank;
mod proof;
mod show;
mod stage;

use std::time::{Duration, Instant};

use celeriant_client::{AggregateKey, Client, Error, Event, Options};
use serde_json::json;

use self::bank::{Bank, Load};
use self::show::Show;
use self::stage::Stage;
use super::args::Demo;
use super::failure::Failure;
use super::output::Output;
use super::serve::Signals;

/// Transfers before, between and after what happens to nodes.
const ENOUGH: usize = 300;
/// Nobody waits longer than this for anything.
const PATIENCE: Duration = Duration::from_secs(60);

/// Plays it, and keeps it running if that is wanted.
pub(super) async fn run(demo: Demo, output: &Output) -> Result<(), Failure> {
    let mut signals = Signals::catch()?;
    let mut stage = Stage::set(demo.dir, demo.keep)?;
    let mut show = Show::new(output);
    let played = tokio::select! {
        biased;
        () = signals.end() => Err(Failure::Demo("interrupted".into())),
        played = play(&mut stage, &mut show) => played,
    };
    if let Err(failure) = played {
        if !failure.is_closed_pipe() {
            stage.keep();
            show.note(&format!("The nodes' logs and data are kept in {}", stage.dir().display()))?;
        }
        return Err(failure);
    }
    if demo.keep {
        show.how_to_go_on(&stage)?;
        signals.end().await;
    }
    Ok(())
}

async fn play(stage: &mut Stage, show: &mut Show<'_>) -> Result<(), Failure> {
    show.title(stage)?;
    start(stage, show).await?;
    let client = connect(&stage.url()).await?;
    race(stage, show).await?;
    let bank = Bank::open(client).await?;
    transfers(&bank, show).await?;
    let load = bank.load();
    kill(stage, &bank, show).await?;
    hand_over(stage, &bank, show).await?;
    load.stop().await?;
    show.begin("Proof", "every receipt is looked up on each node by itself")?;
    let found = proof::prove(stage, &bank).await?;
    show.verdict(&found)
}

/// A client that rides out everything that happens here.
async fn connect(url: &str) -> Result<Client, Failure> {
    Ok(Client::connect_with(url, Options { timeout: PATIENCE, ..Options::default() }).await?)
}

async fn start(stage: &mut Stage, show: &mut Show<'_>) -> Result<(), Failure> {
    show.begin("Start", "certificates, a bucket in this process, two nodes as processes")?;
    stage.start(0).await?;
    let alone = stage.leader().await?;
    let said = format!("{} leads alone: what it promises is also in the bucket", stage.name(alone));
    show.say(&said)?;
    stage.start(1).await?;
    let leader = stage.whole().await?;
    let (leads, follows) = (stage.name(leader), stage.name(1 - leader));
    show.say(&format!("{leads} leads, {follows} follows: what is promised is on both disks"))?;
    show.done(json!({"leader": leads, "follower": follows, "url": stage.url()}))
}

/// Two writers that know nothing of each other, one version.
async fn race(stage: &Stage, show: &mut Show<'_>) -> Result<(), Failure> {
    show.begin("Race", "two writers append to one aggregate, both at the version they read")?;
    let key: AggregateKey = "demo/seat/12a".parse().map_err(|_| failed("a key"))?;
    let (ada, bob) = (connect(&stage.url()).await?, connect(&stage.url()).await?);
    let event = |name: &str| Event::json("Booked", &json!({"by": name}));
    ada.append(&key, [Event::json("Offered", &json!({"row": 12}))?]).await?;
    let book = |client: &Client, name| {
        Ok::<_, Error>(client.append(&key, [event(name)?]).expect(1).timeout(PATIENCE))
    };
    let (first, second) = (book(&ada, "Ada")?, book(&bob, "Bob")?);
    let booked = tokio::join!(first, second);
    let (winner, loser, receipt, conflict) = match booked {
        (Ok(receipt), Err(error)) => ("Ada", "Bob", receipt, error),
        (Err(error), Ok(receipt)) => ("Bob", "Ada", receipt, error),
        (Ok(_), Ok(_)) => {
            return Err(failed("both writers of one version were told that they won"));
        }
        (Err(error), Err(_)) => return Err(error.into()),
    };
    let Error::Conflict { conflicts, .. } = &conflict else { return Err(conflict.into()) };
    let actual = conflicts.first().map_or(0, |conflict| conflict.actual.value());
    let version = receipt.writes.first().map_or(0, |write| write.last_version.value());
    show.say(&format!("{winner} got version {version}"))?;
    show.say(&format!("{loser} got Conflict: expected version 1, it is at {actual}"))?;
    show.done(json!({"won": winner, "version": version, "lost": loser, "error": "Conflict",
        "expected": 1, "actual": actual}))
}

async fn transfers(bank: &Bank, show: &mut Show<'_>) -> Result<(), Failure> {
    let (accounts, shards) = (bank.accounts().len(), bank.shards());
    show.begin(
        "Transfers",
        &format!("{} writers move money between {accounts} accounts", bank::WRITERS),
    )?;
    let began = Instant::now();
    let load = bank.load();
    load.wait_for(ENOUGH).await?;
    load.stop().await?;
    let seconds = began.elapsed().as_secs_f64();
    let (done, sum) = (bank.promised(), bank.sum().await?);
    show.say(&format!(
        "{done} transfers over {shards} shards in {seconds:.1} s, each one atomic write over two \
         accounts"
    ))?;
    if sum != bank.money() {
        return Err(failed(format!("{} were opened with, {sum} are there", bank.money())));
    }
    show.say(&format!("All accounts together hold {sum}, as at first"))?;
    show.done(json!({"transfers": done, "per_second": done as f64 / seconds, "shards": shards,
        "sum": sum}))
}

/// The leader dies in the middle of it, and comes back.
async fn kill(stage: &mut Stage, bank: &Bank, show: &mut Show<'_>) -> Result<(), Failure> {
    let leader = stage.whole().await?;
    let name = stage.name(leader);
    show.begin("Kill", &format!("kill -9 of {name}, which leads, while money moves"))?;
    Load::of(bank).wait_for(ENOUGH).await?;
    let (before, killed) = (bank.promised(), Instant::now());
    stage.kill(leader)?;
    Load::of(bank).wait_for(ENOUGH).await?;
    let pause = bank.pause_since(killed);
    let errors = bank.errors();
    let new = stage.leader().await?;
    show.say(&format!(
        "{} took over: {pause} ms without a receipt, then {} transfers more",
        stage.name(new),
        bank.promised() - before
    ))?;
    none_failed(&errors)?;
    show.say("Calls in flight took longer; none failed")?;
    show.done(json!({"killed": name, "leader": stage.name(new), "pause_ms": pause,
        "errors": errors.len()}))?;

    show.begin("Rejoin", &format!("{name} is started again"))?;
    let began = Instant::now();
    stage.start(leader).await?;
    stage.whole().await?;
    let seconds = began.elapsed().as_secs_f64();
    show.say(&format!("After {seconds:.1} s it has what it missed: both disks again"))?;
    show.done(json!({"node": name, "seconds_until_in_sync": seconds}))
}

/// The leader is asked to stop, as for an upgrade, and comes back.
async fn hand_over(stage: &mut Stage, bank: &Bank, show: &mut Show<'_>) -> Result<(), Failure> {
    let leader = stage.whole().await?;
    let name = stage.name(leader);
    show.begin("Hand-over", &format!("SIGTERM to {name}, which leads, while money moves"))?;
    Load::of(bank).wait_for(ENOUGH).await?;
    let asked = Instant::now();
    let code = stage.terminate(leader).await?;
    Load::of(bank).wait_for(ENOUGH).await?;
    let (pause, errors) = (bank.pause_since(asked), bank.errors());
    let new = stage.leader().await?;
    show.say(&format!(
        "{} took over: {pause} ms without a receipt; {name} ended with exit code {code}",
        stage.name(new)
    ))?;
    none_failed(&errors)?;
    if code != 0 {
        return Err(failed(format!("{name} ended with exit code {code}: see {name}.log")));
    }
    stage.start(leader).await?;
    stage.whole().await?;
    show.say(&format!("{name} is back"))?;
    show.done(json!({"stopped": name, "exit_code": code, "leader": stage.name(new),
        "pause_ms": pause, "errors": errors.len()}))
}

fn none_failed(errors: &[String]) -> Result<(), Failure> {
    match errors.first() {
        None => Ok(()),
        Some(first) => Err(failed(format!("{} calls failed; the first: {first}", errors.len()))),
    }
}

fn failed(what: impl Into<String>) -> Failure {
    Failure::Demo(what.into())
}
