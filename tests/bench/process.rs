//! Servers that are measured: started, stopped, and looked at through `/proc`.

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};

use crate::Failure;

/// A server that ends with this value.
pub(crate) struct Server {
    child: Child,
}

impl Server {
    /// Starts it; what it says on stderr goes to a file. With `ready`, waits for its first line on
    /// stdout and returns it.
    pub(crate) fn start(
        command: &mut Command,
        log: &Path,
        ready: bool,
    ) -> Result<(Self, String), Failure> {
        let stdout = if ready { Stdio::piped() } else { Stdio::null() };
        command.stdin(Stdio::null()).stdout(stdout).stderr(fs::File::create(log)?);
        let mut server = Self { child: command.spawn()? };
        let mut line = String::new();
        if let Some(stdout) = server.child.stdout.take() {
            BufReader::new(stdout).read_line(&mut line)?;
            if line.is_empty() {
                let said = fs::read_to_string(log).unwrap_or_default();
                return Err(format!("the server did not start: {}", said.trim()).into());
            }
        }
        Ok((server, line))
    }

    /// Its process.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended by itself; then there is nothing to stop.
        if let Some(pid) = Pid::from_raw(self.child.id() as i32) {
            let _ = kill_process(pid, Signal::TERM);
        }
        let _ = self.child.wait();
    }
}

/// A port that nobody uses at the moment.
pub(crate) fn free_port() -> Result<u16, Failure> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

/// Runs a command to its end; its stdout.
pub(crate) fn output(command: &mut Command) -> Result<String, Failure> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("{}: {error}", command.get_program().to_string_lossy()))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        let last: Vec<&str> = said.lines().rev().take(3).collect();
        let program = command.get_program().to_string_lossy().into_owned();
        return Err(format!("{program}: {}", last.join(" / ")).into());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// What a process and the children that it has or had used so far.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Usage {
    /// User and system time, in seconds.
    pub(crate) cpu_seconds: f64,
}

impl Usage {
    /// Of a process, its ended children, and the children it has now.
    pub(crate) fn of_tree(pid: u32) -> Result<Self, Failure> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
        let mut ticks: u64 = times(&stat, 4).ok_or("an unknown shape of /proc/PID/stat")?;
        let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"))?;
        for child in children.split_whitespace() {
            // A child may end between the two looks; then its parent has it at the next one.
            let stat = fs::read_to_string(format!("/proc/{child}/stat")).unwrap_or_default();
            ticks += times(&stat, 2).unwrap_or(0);
        }
        let ticks_per_second = rustix::param::clock_ticks_per_second();
        Ok(Self { cpu_seconds: ticks as f64 / ticks_per_second as f64 })
    }
}

/// The first `count` of: own user, own system, ended children's user and system time.
fn times(stat: &str, count: usize) -> Option<u64> {
    let (_, fields) = stat.rsplit_once(')')?;
    let times: Vec<u64> = fields
        .split_whitespace()
        .skip(11)
        .take(count)
        .map(str::parse)
        .collect::<Result<_, _>>()
        .ok()?;
    (times.len() == count).then(|| times.iter().sum())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_of_ended_children_count_when_asked() {
        let stat = "7 (a) b) S 1 7 7 0 -1 4194560 100 0 0 0 250 50 7 3 20 0 4 0 100 1 2";
        assert_eq!((times(stat, 2), times(stat, 4)), (Some(300), Some(310)));
        assert_eq!(times("", 2), None);
    }
}
