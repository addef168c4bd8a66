//! What the server's process uses while a load is measured, as the kernel counts it.
//!
//! For a server on this machine only. Counted from outside, so that it works for any program.

use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Instant;

use serde_json::{Value, json};

use super::Run;

/// Since the process started.
#[derive(Clone, Copy, Debug)]
pub(super) struct Usage {
    cpu_seconds: f64,
    /// Sent to the device, Direct I/O and preparing of files included.
    write_bytes: u64,
    resident_bytes: u64,
}

impl Usage {
    /// Reads it.
    ///
    /// # Errors
    /// There is no such process, or it is somebody else's.
    pub(super) fn of(pid: u32) -> io::Result<Self> {
        let read = |name: &str| {
            let path = format!("/proc/{pid}/{name}");
            std::fs::read_to_string(&path)
                .map_err(|error| io::Error::new(error.kind(), format!("{path}: {error}")))
        };
        let (stat, io, status) = (read("stat")?, read("io")?, read("status")?);
        let unknown = || io::Error::other(format!("/proc/{pid}: not in the known shape"));
        let ticks_per_second = rustix::param::clock_ticks_per_second() as f64;
        Ok(Self {
            cpu_seconds: ticks(&stat).ok_or_else(unknown)? as f64 / ticks_per_second,
            write_bytes: number(&io, "write_bytes:").ok_or_else(unknown)?,
            resident_bytes: number(&status, "VmRSS:").ok_or_else(unknown)? << 10,
        })
    }

    /// What was used since `before`.
    pub(super) fn since(&self, before: &Self) -> Value {
        json!({
            "cpu_seconds": self.cpu_seconds - before.cpu_seconds,
            "write_bytes": self.write_bytes - before.write_bytes,
            "resident_bytes": self.resident_bytes,
        })
    }
}

/// User and system time. The program's name, in brackets, may hold anything.
fn ticks(stat: &str) -> Option<u64> {
    let (_, fields) = stat.rsplit_once(')')?;
    let mut times = fields.split_whitespace().skip(11).map(str::parse::<u64>);
    Some(times.next()?.ok()? + times.next()?.ok()?)
}

fn number(text: &str, field: &str) -> Option<u64> {
    let value = text.lines().find_map(|line| line.strip_prefix(field))?;
    value.split_whitespace().next()?.parse().ok()
}

/// Looks at a process when measuring starts and when it ends.
pub(super) struct Watch {
    run: Arc<Run>,
    thread: JoinHandle<io::Result<Value>>,
}

impl Watch {
    /// Starts to wait for `run` to start.
    pub(super) fn start(pid: u32, run: Arc<Run>) -> io::Result<Self> {
        let watched = Arc::clone(&run);
        let thread = std::thread::Builder::new().name("bench-server".into()).spawn(move || {
            let from = *watched.started.wait() + watched.bench.warmup;
            park_until(from);
            let before = Usage::of(pid)?;
            park_until(from + watched.bench.duration);
            Ok(Usage::of(pid)?.since(&before))
        })?;
        Ok(Self { run, thread })
    }

    /// What was used; to be asked when the load has ended.
    pub(super) fn result(self) -> io::Result<Value> {
        if self.run.started.get().is_none() {
            return Err(io::Error::other("the load did not start"));
        }
        let panicked = |_| io::Error::other("looking at the server panicked");
        self.thread.join().map_err(panicked)?
    }
}

pub(super) fn park_until(due: Instant) {
    loop {
        let left = due.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return;
        }
        std::thread::park_timeout(left);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_found_behind_any_program_name() {
        let stat = "7 (a) b 9) S 1 7 7 0 -1 4194560 100 0 0 0 250 50 0 0 20 0 4 0 100 1 2";
        assert_eq!(ticks(stat), Some(300));
        assert_eq!(ticks("7 (x) S 1"), None);
    }

    #[test]
    fn this_process_can_be_looked_at() {
        let usage = Usage::of(std::process::id()).expect("our own");
        assert!(usage.resident_bytes > 1 << 20, "{usage:?}");
        assert!(Usage::of(u32::MAX).is_err());
    }
}
