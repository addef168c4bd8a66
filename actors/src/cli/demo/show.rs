//! What the demo prints: lines as they come for people, one object a step for scripts.

use std::time::Instant;

use serde_json::{Value, json};

use super::super::failure::Failure;
use super::super::output::Output;
use super::super::serve::shell_word;
use super::failed;
use super::proof::Found;
use super::stage::Stage;

/// The printer, and where in the play it is.
pub(super) struct Show<'a> {
    output: &'a Output,
    step: u32,
    name: String,
    began: Instant,
}

impl<'a> Show<'a> {
    pub(super) fn new(output: &'a Output) -> Self {
        Self { output, step: 0, name: String::new(), began: Instant::now() }
    }

    pub(super) fn title(&self, stage: &Stage) -> Result<(), Failure> {
        let version = env!("CARGO_PKG_VERSION");
        self.say_at(0, &format!("Celeriant {version}: two nodes and a bucket on this machine"))?;
        self.say_at(0, &format!("Files are in {}", stage.dir().display()))
    }

    /// A step begins.
    pub(super) fn begin(&mut self, name: &str, what: &str) -> Result<(), Failure> {
        self.step += 1;
        self.name = name.to_owned();
        self.began = Instant::now();
        self.say_at(0, &format!("\n{}  {name}: {what}", self.step))
    }

    /// What came of it, for people.
    pub(super) fn say(&self, line: &str) -> Result<(), Failure> {
        self.say_at(3, line)
    }

    /// The step is done; what came of it, for scripts.
    pub(super) fn done(&self, fields: Value) -> Result<(), Failure> {
        if !self.output.is_json() {
            return Ok(());
        }
        let seconds = self.began.elapsed().as_secs_f64();
        let name = self.name.to_lowercase();
        let mut step = json!({"step": self.step, "name": name, "ok": true, "seconds": seconds});
        if let (Some(step), Value::Object(fields)) = (step.as_object_mut(), fields) {
            step.extend(fields);
        }
        self.output.json(&step)
    }

    /// The last step: what was found is what was promised, or not.
    pub(super) fn verdict(&self, found: &Found) -> Result<(), Failure> {
        let (receipts, events) = (found.receipts, found.events);
        for node in &found.nodes {
            self.say(&format!(
                "{}: {} of {receipts} receipts at their version and hash; {} events, sum {}",
                node.name, node.kept, node.events, node.sum
            ))?;
        }
        if let Some(first) = found.problems.first() {
            self.say("FAIL")?;
            for problem in &found.problems {
                self.say(problem)?;
            }
            return Err(failed(format!("{} problems; the first: {first}", found.problems.len())));
        }
        self.say("Nothing is there twice, no transfer is half, no money came or went")?;
        self.say_at(0, "\nPASS")?;
        let nodes = found.nodes.iter().map(|node| {
            json!({"node": node.name, "receipts_kept": node.kept, "events": node.events,
                "sum": node.sum})
        });
        let nodes: Vec<Value> = nodes.collect();
        self.done(json!({"verdict": "PASS", "receipts": receipts, "events": events,
            "nodes": nodes}))
    }

    /// Something that people should know, and scripts do not wait for.
    pub(super) fn note(&self, line: &str) -> Result<(), Failure> {
        self.say_at(0, line)
    }

    /// It goes on running: how to reach it, and how to end it.
    pub(super) fn how_to_go_on(&self, stage: &Stage) -> Result<(), Failure> {
        let (dir, url, endpoint) = (stage.dir(), stage.url(), stage.bucket_endpoint());
        if self.output.is_json() {
            return self.output.json(&json!({"running": true, "url": url, "dir": dir,
                "bucket_endpoint": endpoint, "pid": std::process::id()}));
        }
        let program = shell_word(&std::env::current_exe()?);
        let file = |name: &str| shell_word(&dir.join(name));
        let node = |config: &str| {
            let (env, config) = (stage.credentials(), file(config));
            format!("{env} {program} server --allow-buffered --config {config}")
        };
        self.output.line(&format!(
            "\nIt goes on running until Ctrl-C (or kill {pid}). In another terminal:\n\
             \n  export CELERIANT_URL='{url}'\n  {program} cluster status\
             \n  {program} ls demo/account\n  {program} read demo/account/0\
             \n  {program} cluster handover\n\
             \nFiles: {dir}: a.toml, a.log, a/ (data), the same of b; bucket/ and certs/.\n\
             Afterwards it can be started again, each in a terminal of its own:\n\
             \n  {program} bucket --dir {bucket} --listen {listen}\n  {a}\n  {b}",
            pid = std::process::id(),
            dir = dir.display(),
            bucket = file("bucket"),
            listen = endpoint.trim_start_matches("http://"),
            a = node("a.toml"),
            b = node("b.toml"),
        ))
    }

    fn say_at(&self, indent: usize, line: &str) -> Result<(), Failure> {
        if self.output.is_json() {
            return Ok(());
        }
        self.output.line(&format!("{:indent$}{line}", ""))
    }
}
