//! HTTP/1.1 by hand: what is sent is what a test says, also if it is wrong.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use super::program::output_of;

/// A read that brings nothing for so long is a failure of the test.
const PATIENCE: Duration = Duration::from_secs(20);

/// Where a gateway is.
#[derive(Clone)]
pub(crate) struct Http {
    address: String,
}

/// What it answered.
#[derive(Debug)]
pub(crate) struct Answer {
    /// The status.
    pub(crate) status: u16,
    headers: Vec<(String, String)>,
    /// The body, put together.
    pub(crate) body: Vec<u8>,
    /// The body was there to its end.
    pub(crate) is_whole: bool,
}

/// A body that comes in pieces.
pub(crate) struct Stream {
    /// The head.
    pub(crate) head: Answer,
    reader: BufReader<TcpStream>,
    left: Vec<u8>,
    is_over: bool,
}

/// What is answered to a client with these: authority, certificate and key, as files.
pub(crate) fn curl_with([ca, cert, key]: &[String; 3], url: &str, more: &[&str]) -> Value {
    let mut command = Command::new("curl");
    command.args(["--silent", "--show-error", "--max-time", "20", "--cacert", ca]);
    command.args(["--cert", cert, "--key", key]).args(more).arg(url);
    let text = output_of(&mut command).expect("an answer");
    serde_json::from_str(&text).expect(&text)
}

impl Http {
    /// `host:port`.
    pub(crate) fn at(address: &str) -> Self {
        Self { address: address.to_owned() }
    }

    /// A bare connection.
    pub(crate) fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(&self.address).expect("it listens");
        stream.set_read_timeout(Some(PATIENCE)).expect("a socket");
        stream.set_write_timeout(Some(PATIENCE)).expect("a socket");
        stream
    }

    /// One request on a connection of its own.
    pub(crate) fn request(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Answer {
        let mut text =
            format!("{method} {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n");
        if !body.is_empty() {
            text.push_str(&format!("content-length: {}\r\n", body.len()));
        }
        for (name, value) in headers {
            text.push_str(&format!("{name}: {value}\r\n"));
        }
        text.push_str("\r\n");
        self.send(&[text.as_bytes(), body].concat())
    }

    /// Any bytes on a connection of its own, and what is answered.
    pub(crate) fn send(&self, bytes: &[u8]) -> Answer {
        let mut stream = self.connect();
        // It may refuse before it has read everything.
        let _ = stream.write_all(bytes);
        let mut stream = Stream::of(stream);
        while let Some(piece) = stream.piece() {
            stream.head.body.extend_from_slice(&piece);
        }
        stream.head
    }

    /// What is there.
    pub(crate) fn get(&self, path: &str) -> Answer {
        self.request("GET", path, &[], b"")
    }

    /// JSON to a place.
    pub(crate) fn post(&self, path: &str, headers: &[(&str, &str)], body: &Value) -> Answer {
        let json = [("content-type", "application/json")];
        self.request("POST", path, &[&json[..], headers].concat(), body.to_string().as_bytes())
    }

    /// A request whose answer does not end.
    pub(crate) fn open(&self, path: &str, headers: &[(&str, &str)]) -> Stream {
        let mut stream = self.connect();
        let mut text = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n");
        for (name, value) in headers {
            text.push_str(&format!("{name}: {value}\r\n"));
        }
        stream.write_all(format!("{text}\r\n").as_bytes()).expect("it reads");
        Stream::of(stream)
    }
}

impl Answer {
    /// A header.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let header = self.headers.iter().find(|(known, _)| known == name);
        header.map(|(_, value)| value.as_str())
    }

    /// The body as JSON.
    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        let text = String::from_utf8_lossy(&self.body);
        serde_json::from_str(&text)
            .unwrap_or_else(|error| panic!("{}: {error}: {text}", self.status))
    }

    /// The body as JSON, after `status`.
    #[track_caller]
    pub(crate) fn expect(&self, status: u16) -> Value {
        assert_eq!(self.status, status, "{}", String::from_utf8_lossy(&self.body));
        self.json()
    }

    /// The problem, after `status`.
    #[track_caller]
    pub(crate) fn problem(&self, status: u16) -> Value {
        let problem = self.expect(status);
        assert_eq!(self.header("content-type"), Some("application/problem+json"));
        assert_eq!(problem["status"], status);
        problem
    }
}

impl Stream {
    fn of(stream: TcpStream) -> Self {
        let mut reader = BufReader::new(stream);
        let mut lines = Vec::new();
        loop {
            let mut line = String::new();
            let read = reader.read_line(&mut line).unwrap_or(0);
            let line = line.trim_end().to_owned();
            if read == 0 || line.is_empty() {
                break;
            }
            lines.push(line);
        }
        let status = lines.first().and_then(|line| line.split(' ').nth(1)?.parse().ok());
        let headers = lines.iter().skip(1).filter_map(|line| line.split_once(": "));
        let headers = headers.map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()));
        let head = Answer {
            status: status.unwrap_or(0),
            headers: headers.collect(),
            body: Vec::new(),
            is_whole: false,
        };
        Self { head, reader, left: Vec::new(), is_over: false }
    }

    /// The next piece of the body; `None`: it is over, or cut short.
    fn piece(&mut self) -> Option<Vec<u8>> {
        if self.is_over {
            return None;
        }
        if self.head.header("transfer-encoding") == Some("chunked") {
            return self.chunk();
        }
        self.is_over = true;
        let length = self.head.header("content-length").and_then(|text| text.parse().ok());
        let length: usize = length.unwrap_or(0);
        let mut body = vec![0; length];
        self.head.is_whole = self.reader.read_exact(&mut body).is_ok();
        Some(body)
    }

    fn chunk(&mut self) -> Option<Vec<u8>> {
        let mut line = String::new();
        let read = self.reader.read_line(&mut line).unwrap_or(0);
        let length = usize::from_str_radix(line.trim(), 16).ok().filter(|_| read > 0);
        let mut chunk = vec![0; length.unwrap_or(0) + 2];
        let whole = length.is_some() && self.reader.read_exact(&mut chunk).is_ok();
        self.is_over = !whole || length == Some(0);
        self.head.is_whole = whole && length == Some(0);
        chunk.truncate(length.unwrap_or(0));
        (!self.is_over).then_some(chunk)
    }

    /// The next line of the body; `None`: it is over.
    pub(crate) fn line(&mut self) -> Option<String> {
        loop {
            if let Some(end) = self.left.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.left.drain(..=end).collect();
                return Some(String::from_utf8_lossy(&line[..end]).into_owned());
            }
            let piece = self.piece()?;
            self.left.extend_from_slice(&piece);
        }
    }

    /// The next Server-Sent Event, as `(event, id, data)`; comments are passed over.
    pub(crate) fn event(&mut self) -> Option<(String, String, Value)> {
        let (mut event, mut id, mut data) = (String::new(), String::new(), None);
        loop {
            let line = self.line()?;
            match line.split_once(": ") {
                Some(("event", value)) => event = value.to_owned(),
                Some(("id", value)) => id = value.to_owned(),
                Some(("data", value)) => data = serde_json::from_str(value).ok(),
                _ if line.is_empty() => {
                    if let Some(data) = data.take() {
                        return Some((event, id, data));
                    }
                }
                _ => {}
            }
        }
    }
}
