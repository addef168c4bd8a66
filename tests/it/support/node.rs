//! A node as a process of its own, on a free port.

use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use serde_json::Value;

use super::http::Http;
use super::program::{Called, call, program};
use super::wait;

/// A running node; killed when it is dropped.
pub(crate) struct Node {
    child: Child,
    /// `celeriant://…`.
    pub(crate) url: String,
    /// `http://…`, if it serves that.
    pub(crate) http: Option<String>,
}

impl Node {
    /// `celeriant dev` on a directory, with further flags, ready to serve.
    pub(crate) fn dev(data_dir: &Path, flags: &[&str]) -> Self {
        let mut arguments = vec!["dev", "--listen", "127.0.0.1:0"];
        arguments.extend(flags);
        Self::start(&arguments, data_dir)
    }

    /// Any command that serves, on a directory.
    pub(crate) fn start(arguments: &[&str], data_dir: &Path) -> Self {
        let mut command = Command::new(program());
        command.args(arguments).arg("--data-dir").arg(data_dir);
        Self::run(command)
    }

    /// A command that serves.
    pub(crate) fn run(mut command: Command) -> Self {
        command.args(["--format", "json"]);
        command.stdout(Stdio::piped()).stdin(Stdio::null());
        let mut child = command.spawn().expect("the program runs");
        let stdout = child.stdout.take().expect("piped");
        let (sender, first) = mpsc::channel();
        std::thread::spawn(move || {
            let mut stdout = BufReader::new(stdout);
            let mut line = String::new();
            let _ = stdout.read_line(&mut line);
            let _ = sender.send(line);
            // Whatever else it prints must not fill the pipe.
            let _ = stdout.read_to_end(&mut Vec::new());
        });
        let line = first.recv_timeout(Duration::from_secs(60)).expect("it gets ready");
        let ready: Value = serde_json::from_str(&line)
            .unwrap_or_else(|_| panic!("not ready: {line:?}, {:?}", child.try_wait()));
        let url = ready["url"].as_str().expect("a URL").to_owned();
        let http = ready["http"].as_str().map(str::to_owned);
        Self { child, url, http }
    }

    /// `127.0.0.1:port`.
    pub(crate) fn address(&self) -> &str {
        let rest = self.url.trim_start_matches("celeriant://");
        rest.split_once('?').map_or(rest, |(address, _)| address)
    }

    /// HTTP to this node, in the clear.
    pub(crate) fn http(&self) -> Http {
        let url = self.http.as_deref().expect("it serves HTTP");
        Http::at(url.strip_prefix("http://").expect("in the clear"))
    }

    /// Runs the program against this node.
    pub(crate) fn call(&self, arguments: &[&str]) -> Called {
        self.call_with(arguments, "")
    }

    /// The same, with something on standard input.
    pub(crate) fn call_with(&self, arguments: &[&str], input: &str) -> Called {
        let mut all = vec!["--url", self.url.as_str()];
        all.extend(arguments);
        call(&all, input)
    }

    /// Ends the process in the middle of anything.
    pub(crate) fn kill(mut self) {
        self.child.kill().expect("it can be killed");
        self.child.wait().expect("it ends");
    }

    /// Sends a signal, like `-STOP`.
    pub(crate) fn signal(&self, signal: &str) {
        let kill = Command::new("kill").args([signal, &self.child.id().to_string()]).status();
        assert!(kill.expect("kill runs").success());
    }

    /// SIGTERM, and the exit code.
    pub(crate) fn terminate(mut self) -> Option<i32> {
        self.signal("-TERM");
        self.child.wait().expect("it ends").code()
    }

    /// Waits until it ends by itself; the exit code.
    pub(crate) fn ended(mut self) -> Option<i32> {
        wait::until("it to end by itself", || self.child.try_wait().expect("a child")).code()
    }

    /// Resident memory, in bytes.
    pub(crate) fn resident_bytes(&self) -> usize {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()));
        let status = status.expect("the process lives");
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("VmRSS");
        let digits: String = line.chars().filter(char::is_ascii_digit).collect();
        digits.parse::<usize>().expect("a number") << 10
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
