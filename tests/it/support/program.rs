//! The program `celeriant`, built when it is missing, and calls of it.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;

use serde_json::Value;

use crate::tidy::tree::workspace_root;

/// Path of the program, of the same profile as this test. Cargo's variable for it does not reach
/// other packages, so it is found beside the test and built once per run: free when it is up to
/// date.
pub(crate) fn program() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| {
        if let Some(given) = std::env::var_os("CELERIANT_TEST_PROGRAM") {
            return PathBuf::from(given);
        }
        let test = std::env::current_exe().expect("this test has a path");
        let profile = test.ancestors().nth(2).expect("target/PROFILE/deps/test");
        let mut build = Command::new(env!("CARGO"));
        build.current_dir(workspace_root()).args(["build", "--quiet", "-p", "celeriant-actors"]);
        build.args(["--bin", "celeriant", "--target-dir"]);
        build.arg(profile.parent().expect("target/PROFILE"));
        if profile.ends_with("release") {
            build.arg("--release");
        }
        assert!(build.status().expect("cargo runs").success(), "the program cannot be built");
        profile.join("celeriant")
    })
}

/// What a call of the program brought.
pub(crate) struct Called {
    /// Exit code.
    pub(crate) code: i32,
    /// Standard output.
    pub(crate) stdout: String,
    /// Standard error.
    pub(crate) stderr: String,
}

impl Called {
    /// Of a process that ended by itself.
    pub(crate) fn from_output(output: &Output) -> Self {
        Self {
            code: output.status.code().expect("it was not killed"),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// The lines of standard output as JSON, after success.
    #[track_caller]
    pub(crate) fn lines(&self) -> Vec<Value> {
        assert_eq!(self.code, 0, "{}", self.stderr);
        self.stdout.lines().map(|line| serde_json::from_str(line).expect(line)).collect()
    }

    /// The only line of standard output as JSON, after success.
    #[track_caller]
    pub(crate) fn line(&self) -> Value {
        let mut lines = self.lines();
        assert_eq!(lines.len(), 1, "{}", self.stdout);
        lines.remove(0)
    }

    /// The error object on standard error, after `code`.
    #[track_caller]
    pub(crate) fn error(&self, code: i32) -> Value {
        assert_eq!(self.code, code, "{}{}", self.stdout, self.stderr);
        let last = self.stderr.lines().last().expect("something on stderr");
        serde_json::from_str(last).expect(last)
    }
}

/// Runs the program with JSON output until it ends.
pub(crate) fn call(arguments: &[&str], input: &str) -> Called {
    use std::io::Write;
    let mut command = Command::new(program());
    command.args(["--format", "json"]).args(arguments);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("the program runs");
    // A program that does not want its input closes it early.
    let _ = child.stdin.take().expect("piped").write_all(input.as_bytes());
    Called::from_output(&child.wait_with_output().expect("it ends"))
}

/// Says that something was not tested, straight to the terminal: what tests print is kept from it.
pub(crate) fn skipped(what: &str) {
    use std::io::Write;
    let mut terminal = std::io::stderr();
    writeln!(terminal, "\n*** SKIPPED: {what}\n").expect("standard error is open");
}

/// Runs another program to its end; its standard output.
///
/// # Errors
/// That it cannot be run, or what it said when it failed.
pub(crate) fn output_of(command: &mut Command) -> Result<String, String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command.stdin(Stdio::null()).output().map_err(|e| format!("{program}: {e}"))?;
    match output.status.success() {
        true => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
        false => Err(format!("{program}: {}", String::from_utf8_lossy(&output.stderr).trim())),
    }
}
