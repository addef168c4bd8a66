//! `bench stream`: long aggregates read from end to end, again and again, one by each connection.
//!
//! A page is asked for when the one before has come and has been decoded, as a client does that
//! folds events into state. What is counted are events; latencies are those of pages.

use std::io::{self, BufReader, Read, Write};
use std::sync::Barrier;
use std::time::{Duration, Instant};

use bytes::Bytes;
use celeriant_client::{Error, Pipe};
use celeriant_schema::limits::RESPONSE_BYTES_MAX;
use celeriant_schema::wire::{Outbound, decode_outbound};
use celeriant_schema::{Page, Response};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::runtime::Runtime;

use super::super::args::{Bench, Work};
use super::super::failure::Failure;
use super::Target;
use super::server::{Usage, park_until};
use super::stats::{self, Reading};
use super::template::Template;
use super::wire::{hello, protocol, welcome};

/// Events of each batch of the aggregates.
const BATCH: usize = 100;

/// Appends and reads; returns the result and what the server used.
pub(super) fn run(bench: &Bench, target: &Target, name: &str) -> Result<(Value, Value), Failure> {
    // Everybody has an aggregate, and this thread has looked at the server.
    let ready = Barrier::new(bench.connections + 1);
    std::thread::scope(|scope| {
        let reader = |number| {
            let ready = &ready;
            move || {
                let prepared = Reader::prepare(bench, target, name, number);
                ready.wait();
                prepared?.read(bench.warmup, bench.duration)
            }
        };
        let readers: Vec<_> =
            (0..bench.connections).map(|number| scope.spawn(reader(number))).collect();
        ready.wait();
        park_until(Instant::now() + bench.warmup);
        let before = bench.server_pid.map(Usage::of).transpose()?;
        let panicked = |_| Failure::Load("a reader panicked".into());
        let readings: Result<Vec<Reading>, Failure> =
            readers.into_iter().map(|reader| reader.join().map_err(panicked)?).collect();
        let readings = readings?;
        let after = bench.server_pid.map(Usage::of).transpose()?;
        let server = before.zip(after).map(|(before, after)| after.since(&before));
        Ok((Reading::result(readings), server.unwrap_or(Value::Null)))
    })
}

/// One connection with its aggregate.
struct Reader {
    stream: BufReader<Waiting>,
    template: Template,
    number: usize,
    output: Vec<u8>,
    events: u64,
}

/// A connection whose thread waits for it.
struct Waiting {
    pipe: Box<dyn Pipe>,
    runtime: Runtime,
}

impl Read for Waiting {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.runtime.block_on(self.pipe.read(buffer))
    }
}

impl Write for Waiting {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.runtime.block_on(self.pipe.write(bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        self.runtime.block_on(self.pipe.flush())
    }
}

impl Reader {
    fn prepare(bench: &Bench, target: &Target, name: &str, number: usize) -> Result<Self, Failure> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let stream = Waiting { pipe: runtime.block_on(target.dial())?, runtime };
        let batch = bench.events.clamp(1, BATCH);
        let appending = Template::appending(name, 1, batch, bench.payload).map_err(Error::from)?;
        let mut reader = Self {
            stream: BufReader::with_capacity(256 << 10, stream),
            template: appending,
            number,
            output: Vec::new(),
            events: 0,
        };
        reader.greet()?;
        while reader.events < bench.events as u64 {
            match reader.ask(reader.events)? {
                Response::Receipt(_) => reader.events += batch as u64,
                other => return Err(Failure::Load(format!("appending: {other:?}"))),
            }
        }
        reader.template = Template::of(Work::Read, name, bench.payload).map_err(Error::from)?;
        Ok(reader)
    }

    fn greet(&mut self) -> Result<(), Failure> {
        self.stream.get_mut().write_all(&hello())?;
        self.stream.get_mut().flush()?;
        welcome(self.frame()?).map(drop)
    }

    fn read(mut self, warmup: Duration, duration: Duration) -> Result<Reading, Failure> {
        let begun = Instant::now();
        let (pages, mut events) = (stats::shared(), 0);
        let (from, end) = (begun + warmup, begun + warmup + duration);
        let (mut version, mut seen) = (0, 0);
        loop {
            let asked = Instant::now();
            let page = self.page(version)?;
            let now = Instant::now();
            let count: usize = page.batches.iter().map(|batch| batch.events.len()).sum();
            seen += count as u64;
            if asked >= from {
                events += count as u64;
                pages.record(now - asked);
            }
            if now >= end {
                let seconds = (now - from).as_secs_f64();
                return Ok(Reading { pages: pages.take(), events, seconds });
            }
            version = page.next.map_or(0, |next| next.value());
            if version == 0 {
                if seen != self.events {
                    let why = format!("read {seen} events of {}", self.events);
                    return Err(Failure::Load(why));
                }
                seen = 0;
            }
        }
    }

    fn page(&mut self, from: u64) -> Result<Page, Failure> {
        match self.ask(from)? {
            Response::Page(page) => Ok(page),
            other => Err(Failure::Load(format!("reading: {other:?}"))),
        }
    }

    fn ask(&mut self, version: u64) -> Result<Response, Failure> {
        self.output.clear();
        self.template.put(1, &[(self.number, version)], &mut self.output);
        self.stream.get_mut().write_all(&self.output)?;
        self.stream.get_mut().flush()?;
        match self.next()? {
            Outbound::Response { response: Response::Refused(refusal), .. } => {
                Err(Error::from(refusal).into())
            }
            Outbound::Response { response, .. } => Ok(response),
            _ => Err(protocol("an answer of another kind")),
        }
    }

    fn next(&mut self) -> Result<Outbound, Failure> {
        decode_outbound(self.frame()?).map_err(|error| protocol(&error.to_string()))
    }

    fn frame(&mut self) -> Result<Bytes, Failure> {
        let mut length = [0; 4];
        self.stream.read_exact(&mut length)?;
        let length = u32::from_le_bytes(length) as usize;
        if length > RESPONSE_BYTES_MAX + 64 {
            return Err(protocol("a frame of an impossible length"));
        }
        let mut frame = vec![0; length];
        self.stream.read_exact(&mut frame)?;
        Ok(Bytes::from(frame))
    }
}
