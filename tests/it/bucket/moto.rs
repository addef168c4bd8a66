//! `moto`, an S3 that others wrote: keeps the embedded bucket and its client from agreeing on the
//! same mistake.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;

use celeriant_storage::bucket::s3::S3Bucket;

use super::sites::{Site, client_settings};
use crate::support::skipped;

const PACKAGE: &str = "moto[server]==5.2.5";

/// What `moto_server` does, with the choice of threads, and on a port that the system picks: one
/// that was looked up beforehand may be somebody else's by the time this has started.
const SERVER: &str = "import sys
from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server
application = DomainDispatcherApplication(create_backend_app)
server = make_server('127.0.0.1', 0, application, threaded='threaded' in sys.argv)
print(server.server_port, flush=True)
server.serve_forever()";

/// Name of its bucket.
pub(crate) const BUCKET: &str = "contract";

/// A running server with a bucket.
pub(crate) struct Moto {
    child: Child,
    address: SocketAddr,
}

impl Moto {
    /// `None`, with a word about it, where there is no Python to run it.
    pub(crate) fn start() -> Option<Self> {
        Self::start_with(true)
    }

    /// One request at a time: it looks at a condition and then writes, so that of two racers on two
    /// threads both may win, and a pair rightly refuses such a bucket.
    pub(crate) fn start_serial() -> Option<Self> {
        Self::start_with(false)
    }

    fn start_with(threaded: bool) -> Option<Self> {
        // Once, whichever test comes first: one would clear what another is making.
        static INSTALLED: OnceLock<Result<PathBuf, String>> = OnceLock::new();
        let environment = match INSTALLED.get_or_init(installed) {
            Ok(environment) => environment,
            Err(why) => {
                skipped(&format!("no moto, so no independent S3 was tested: {why}"));
                return None;
            }
        };
        let log = environment.join(if threaded { "threaded.log" } else { "serial.log" });
        let mut child = Command::new(environment.join("bin/python"))
            .args(["-c", SERVER])
            .args(threaded.then_some("threaded"))
            .stdout(Stdio::piped())
            .stderr(fs::File::create(&log).expect("a log"))
            .spawn()
            .expect("moto starts");
        let mut port = String::new();
        let stdout = child.stdout.take().expect("piped");
        BufReader::new(stdout).read_line(&mut port).expect("reads");
        let Ok(port) = port.trim().parse::<u16>() else {
            panic!("moto: {}", fs::read_to_string(log).unwrap_or_default());
        };
        let moto = Self { child, address: SocketAddr::from(([127, 0, 0, 1], port)) };
        moto.make_bucket();
        Some(moto)
    }

    /// Where it is.
    pub(crate) fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// It checks no signature, but wants to see one.
    fn make_bucket(&self) {
        let mut stream = TcpStream::connect(self.address).expect("connects");
        let request = format!(
            "PUT /{BUCKET} HTTP/1.1\r\nhost: {}\r\ncontent-length: 0\r\nconnection: close\r\n\
             authorization: AWS4-HMAC-SHA256 Credential=a/20260101/us-east-1/s3/aws4_request, \
             SignedHeaders=host, Signature=0\r\n\r\n",
            self.address
        );
        stream.write_all(request.as_bytes()).expect("sends");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("answers");
        let status = answer.split_whitespace().nth(1);
        assert_eq!(status, Some("200"), "{answer}");
    }
}

impl Drop for Moto {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Site for Moto {
    type Bucket = S3Bucket;

    fn open(&self) -> S3Bucket {
        S3Bucket::open(client_settings(self.endpoint())).expect("opens")
    }
}

/// The environment that has it; made when it isn't there yet.
fn installed() -> Result<PathBuf, String> {
    let home = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let (environment, mark) = (home.join("moto"), home.join("moto-installed"));
    if fs::read_to_string(&mark).is_ok_and(|package| package == PACKAGE) {
        return Ok(environment);
    }
    let place = environment.to_string_lossy().into_owned();
    call("python3", &["-m", "venv", "--clear", &place])?;
    let pip = environment.join("bin/pip").to_string_lossy().into_owned();
    call(&pip, &["install", "--quiet", "--disable-pip-version-check", PACKAGE])?;
    fs::write(&mark, PACKAGE).map_err(|error| error.to_string())?;
    Ok(environment)
}

fn call(program: &str, arguments: &[&str]) -> Result<(), String> {
    let called = Command::new(program).args(arguments).output();
    let output = called.map_err(|error| format!("{program}: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(format!("{program} {}: {}", arguments.join(" "), said.lines().last().unwrap_or("failed")))
}
