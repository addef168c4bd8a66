//! PostgreSQL as it comes, fsync on, driven by pgbench: an append guarded by its version, in a
//! function and as a single INSERT.
//!
//! One server for the whole run; each sample starts from an empty table after a checkpoint. With a
//! standby, which must have every transaction on its disk before it is answered, two servers are
//! made for each sample.

#![allow(clippy::disallowed_methods)] // A benchmark reads the clock.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use crate::Failure;
use crate::plan::{Plan, Point};
use crate::process::{Usage, free_port, output};
use crate::summary::Sample;

const SCHEMA: &str = "
create table events (aggregate bigint, version bigint, kind text, data bytea,
    primary key (aggregate, version));
create function append(a bigint, expected bigint, d bytea) returns void language plpgsql as $$
begin
  if coalesce((select max(version) from events where aggregate = a), 0) <> expected then
    raise exception 'conflict';
  end if;
  insert into events values (a, expected + 1, 'Happened', d);
end $$;
";

/// Each client appends to an aggregate of its own, as Celeriant's bench does. The version is the
/// guard; the unique key makes it safe.
const FUNCTION: &str = r"\set v :v + 1
select append(:client_id, :v - 1, decode(repeat('ab', 100), 'hex'));
";
const INSERT: &str = r"\set v :v + 1
insert into events select :client_id, :v, 'Happened', decode(repeat('ab', 100), 'hex')
where coalesce((select max(version) from events where aggregate = :client_id), 0) = :v - 1;
";

/// How fast pgbench connects at least; what it doesn't need is more warm-up.
const CONNECTS_PER_SECOND: f64 = 100.0;

/// Which way to append.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Script {
    /// One call of a function.
    Function,
    /// One statement.
    Insert,
}

/// What the standby calls itself.
const STANDBY_NAME: &str = "standby";
/// How long it may take to be in sync.
const PATIENCE: Duration = Duration::from_secs(60);

/// One sample of single INSERTs to a server with a synchronous standby.
pub(crate) fn sample_with_standby(plan: &Plan, point: &Point) -> Result<Sample, Failure> {
    let folders = ["primary", "standby"].map(|name| plan.work_dir.join(name));
    let [primary, standby] = folders.clone();
    let primary = Server::start_in(plan, primary)?;
    let standby = primary.stand_by(plan, standby)?;
    let sample = primary.sample(plan, point, Script::Insert);
    // A primary that stops waits until its standby has everything.
    drop(primary);
    drop(standby);
    for folder in folders {
        fs::remove_dir_all(folder)?;
    }
    sample
}

/// A running server.
pub(crate) struct Server {
    folder: PathBuf,
    bin: PathBuf,
    port: u16,
    pid: u32,
    /// Name and version.
    pub(crate) version: String,
}

impl Server {
    /// Makes a cluster and starts it.
    pub(crate) fn start(plan: &Plan) -> Result<Self, Failure> {
        Self::start_in(plan, plan.work_dir.join("postgres"))
    }

    fn start_in(plan: &Plan, folder: PathBuf) -> Result<Self, Failure> {
        let bin = installed()?;
        fs::create_dir_all(&folder)?;
        if rustix::process::getuid().is_root() {
            output(Command::new("chown").arg("nobody").arg(&folder))?;
        }
        let version = output(Command::new(bin.join("postgres")).arg("--version"))?;
        let mut server =
            Self { folder, bin, port: free_port()?, pid: 0, version: version.trim().to_owned() };
        let mut init = server.as_user("initdb");
        output(init.arg("-D").arg(server.data()).args(["-A", "trust", "-U", "bench"]))?;
        server.run(plan)?;
        server.psql(SCHEMA)?;
        fs::write(server.folder.join("function.sql"), FUNCTION)?;
        fs::write(server.folder.join("insert.sql"), INSERT)?;
        Ok(server)
    }

    /// One sample.
    pub(crate) fn sample(
        &self,
        plan: &Plan,
        point: &Point,
        script: Script,
    ) -> Result<Sample, Failure> {
        self.psql("truncate events;")?;
        self.psql("checkpoint;")?;
        let name = match script {
            Script::Function => "function.sql",
            Script::Insert => "insert.sql",
        };
        let logs = plan.work_dir.join("pgbench");
        fs::create_dir_all(&logs)?;
        // pgbench's time starts before it connects, one client after the other.
        let connecting = point.connections as f64 / CONNECTS_PER_SECOND;
        let seconds = (connecting + plan.warmup + plan.duration).ceil();
        let mut pgbench = self.client("pgbench");
        pgbench.args(["-n", "-M", "prepared", "-j", "1", "-D", "v=0", "--log"]);
        pgbench.arg("-f").arg(self.folder.join(name));
        pgbench.args(["-c", &point.connections.to_string(), "-T", &seconds.to_string()]);
        pgbench.arg(format!("--log-prefix={}/log", logs.display())).arg("postgres");
        let before = Usage::of_tree(self.pid)?;
        let ended = output(&mut pgbench);
        let after = Usage::of_tree(self.pid)?;
        let transactions = read_logs(&logs);
        fs::remove_dir_all(&logs)?;
        ended?;
        let transactions = transactions?;
        let cpu = after.cpu_seconds - before.cpu_seconds;
        let server_cpu_us = Some(cpu * 1e6 / transactions.len() as f64);
        Ok(Sample { server_cpu_us, ..last_seconds(&transactions, plan.duration)? })
    }

    /// Starts it on its data.
    fn run(&mut self, plan: &Plan) -> Result<(), Failure> {
        let data = self.data();
        let connections = plan.connections_max() + 20;
        let options = format!(
            "-p {} -k {} -c listen_addresses=127.0.0.1 -c max_connections={connections} \
             -c shared_buffers=1GB -c max_wal_size=8GB",
            self.port,
            self.folder.display(),
        );
        let log = self.folder.join("log");
        let mut start = self.as_user("pg_ctl");
        start.arg("-D").arg(&data).arg("-l").arg(&log).args(["-w", "-o", &options, "start"]);
        output(&mut start)?;
        let pid = fs::read_to_string(data.join("postmaster.pid"))?;
        self.pid = pid.lines().next().ok_or("an empty postmaster.pid")?.trim().parse()?;
        Ok(())
    }

    /// Makes and starts a copy of this server, and answers nobody from now on before the copy has
    /// the transaction on its disk.
    fn stand_by(&self, plan: &Plan, folder: PathBuf) -> Result<Self, Failure> {
        fs::create_dir_all(&folder)?;
        if rustix::process::getuid().is_root() {
            output(Command::new("chown").arg("nobody").arg(&folder))?;
        }
        let (bin, version) = (self.bin.clone(), self.version.clone());
        let mut standby = Self { folder, bin, port: free_port()?, pid: 0, version };
        let from =
            format!("host=127.0.0.1 port={} user=bench application_name={STANDBY_NAME}", self.port);
        let mut copy = self.as_user("pg_basebackup");
        output(
            copy.args(["-R", "-X", "stream", "-c", "fast", "-d", &from, "-D"]).arg(standby.data()),
        )?;
        standby.run(plan)?;
        self.psql(&format!("alter system set synchronous_standby_names = '{STANDBY_NAME}';"))?;
        self.psql("select pg_reload_conf();")?;
        let state = "select sync_state from pg_stat_replication;";
        let mut ask = self.client("psql");
        let began = Instant::now();
        ask.args(["-At", "-d", "postgres", "-c", state]);
        while output(&mut ask)?.trim() != "sync" {
            if began.elapsed() > PATIENCE {
                return Err("the standby did not get in sync".into());
            }
        }
        Ok(standby)
    }

    fn data(&self) -> PathBuf {
        self.folder.join("data")
    }

    /// The server refuses to run as root.
    fn as_user(&self, program: &str) -> Command {
        let program = self.bin.join(program);
        if !rustix::process::getuid().is_root() {
            return Command::new(program);
        }
        let mut command = Command::new("runuser");
        command.args(["-u", "nobody", "--"]).arg(program);
        command
    }

    fn client(&self, program: &str) -> Command {
        let mut command = Command::new(self.bin.join(program));
        command.args(["-h", "127.0.0.1", "-U", "bench", "-p", &self.port.to_string()]);
        command
    }

    fn psql(&self, sql: &str) -> Result<(), Failure> {
        let mut psql = self.client("psql");
        output(psql.args(["-q", "-v", "ON_ERROR_STOP=1", "-d", "postgres", "-c", sql])).map(drop)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let data = self.data();
        if !data.join("postmaster.pid").exists() {
            return;
        }
        let mut stop = self.as_user("pg_ctl");
        if let Err(failure) = output(stop.arg("-D").arg(data).args(["-m", "fast", "-w", "stop"])) {
            eprintln!("bench: PostgreSQL does not stop: {failure}");
        }
    }
}

/// Where Debian keeps the programs of the newest version.
fn installed() -> Result<PathBuf, Failure> {
    let versions = fs::read_dir("/usr/lib/postgresql").map_err(|_| "not installed")?;
    let bins = versions.filter_map(|entry| Some(entry.ok()?.path().join("bin")));
    let usable = bins.filter(|bin| bin.join("initdb").exists());
    let bin = usable.max().ok_or("no server is installed")?;
    if !bin.join("pgbench").exists() {
        return Err(format!("no pgbench in {}", bin.display()).into());
    }
    Ok(bin)
}

/// When each transaction ended, in seconds, and how long it took, in ms.
fn read_logs(folder: &Path) -> Result<Vec<(f64, f64)>, Failure> {
    let mut transactions = Vec::new();
    for entry in fs::read_dir(folder)? {
        let text = fs::read_to_string(entry?.path())?;
        // client, number, µs taken, script, second and µs of the end
        for line in text.lines() {
            let fields: Vec<f64> =
                line.split(' ').map(|field| field.parse().unwrap_or(f64::NAN)).collect();
            let [_, _, taken, _, second, micros] = fields.as_slice() else {
                return Err(format!("pgbench logged {line:?}").into());
            };
            transactions.push((second + micros / 1e6, taken / 1e3));
        }
    }
    Ok(transactions)
}

/// Rate and latencies over the last `duration` seconds.
fn last_seconds(transactions: &[(f64, f64)], duration: f64) -> Result<Sample, Failure> {
    let end = transactions.iter().map(|(end, _)| *end).fold(f64::NEG_INFINITY, f64::max);
    let start = transactions.iter().map(|(end, taken)| end - taken / 1e3);
    if start.fold(f64::INFINITY, f64::min) > end - duration {
        return Err("connecting took so long that less than DURATION was left".into());
    }
    let counted = transactions.iter().filter(|(at, _)| *at > end - duration);
    let mut latencies: Vec<f64> = counted.map(|(_, taken)| *taken).collect();
    latencies.sort_by(f64::total_cmp);
    let at = |part: f64| latencies[((latencies.len() - 1) as f64 * part) as usize];
    Ok(Sample {
        per_second: latencies.len() as f64 / duration,
        p50_ms: at(0.5),
        p99_ms: at(0.99),
        ..Sample::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_last_seconds_count() {
        let slow_start = (0..10).map(|n| (f64::from(n) / 10.0, 50.0));
        let then = (10..=30).map(|n| (f64::from(n) / 10.0, 2.0));
        let transactions: Vec<(f64, f64)> = slow_start.chain(then).collect();
        let sample = last_seconds(&transactions, 2.0).expect("some");
        assert_eq!((sample.per_second, sample.p50_ms, sample.p99_ms), (10.0, 2.0, 2.0));
        assert!(last_seconds(&transactions, 4.0).is_err(), "it did not run so long");
        assert!(last_seconds(&[], 2.0).is_err());
    }
}
