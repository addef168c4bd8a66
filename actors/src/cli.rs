//! The command line: what can be asked, and the way from words to the function that does it.
//!
//! ```text
//! args      words → values (clap)          failure   what went wrong → exit code and error object
//! output    table or JSON                  shapes    receipts and events as JSON
//! append · write · query · inspect         one request each, through the client
//! schema                                 what payloads must conform to
//! export · verify                        histories in a file; their hashes computed anew
//! cluster · cert                         the nodes of a pair, and their certificates
//! key · token                            API keys, and what is made of them
//! serve     dev, server, server check      bench     load and numbers
//! ```
//! Exit codes: 0 done, 1 the store refused, 2 wrong usage or configuration, 3 not reached or
//! outcome unknown. Data goes to stdout, everything else to stderr.
//!
//! Deliberately absent: logic of the store. What a command does must be possible with the client
//! crate.

mod append;
mod args;
mod audit;
mod bench;
mod cert;
mod cluster;
mod compact;
mod demo;
mod export;
mod failure;
mod inspect;
mod key;
mod output;
mod query;
mod schema;
mod serve;
mod shapes;
mod token;
mod verify;
mod watch;
mod write;

use std::process::ExitCode;

use celeriant_client::{Client, Options};
use clap::{CommandFactory, Parser};

use self::args::{Args, Command, Global};
use self::failure::Failure;
use self::output::Output;

/// Runs the program; the exit code is as documented above.
pub(crate) fn main() -> ExitCode {
    let args = match Args::try_parse() {
        Ok(args) => args,
        Err(error) => {
            // Help and version are answers, not errors. A closed pipe is nobody's fault.
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { 2 } else { 0 });
        }
    };
    let output = Output::new(args.global.format);
    match run(args, &output) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) if failure.is_closed_pipe() => ExitCode::SUCCESS,
        Err(failure) => {
            output.failure(&failure);
            ExitCode::from(failure.exit_code())
        }
    }
}

fn run(args: Args, output: &Output) -> Result<(), Failure> {
    let Args { global, command } = args;
    match command {
        Command::Completions { shell } => {
            let mut command = Args::command();
            clap_complete::generate(shell, &mut command, "celeriant", &mut std::io::stdout());
            Ok(())
        }
        Command::Audit { action } => block_on(audit::run(action, &global, output)),
        Command::Export(export) => block_on(export::run(export, &global, output)),
        Command::Inspect(inspect) => inspect::run(&inspect, output),
        Command::Dev(dev) => block_on(serve::dev(dev, output)),
        Command::Demo(demo) => block_on(demo::run(demo, output)),
        Command::Server(server) => block_on(serve::server(server, output)),
        Command::Bucket(bucket) => block_on(serve::bucket(bucket, output)),
        Command::Compact(compact) => block_on(compact::run(compact, &global, output)),
        Command::Cluster { action } => block_on(cluster::run(action, &global, output)),
        Command::Schema { action } => block_on(schema::run(action, &global, output)),
        Command::Key { action } => block_on(key::run(action, &global, output)),
        Command::Token { action } => token::run(action, &global, output),
        Command::Cert { action } => cert::run(action, output),
        Command::Bench(bench) => bench::run(bench, &global, output),
        Command::Append(append) => block_on(append::run(append, &global, output)),
        Command::Delete(delete) => block_on(append::delete(delete, &global, output)),
        Command::Trim(trim) => block_on(append::trim(trim, &global, output)),
        Command::Write(write) => block_on(write::run(write, &global, output)),
        Command::Read(read) => block_on(query::read(read, &global, output)),
        Command::Head(head) => block_on(query::head(head, &global, output)),
        Command::Watch(watch) => block_on(watch::run(watch, &global, output)),
        Command::Verify(verify) => block_on(verify::run(verify, &global, output)),
        Command::Ls(ls) => block_on(query::ls(ls, &global, output)),
    }
}

fn block_on<F: Future<Output = Result<(), Failure>>>(work: F) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(work)
}

/// A client as the global flags describe it.
async fn connect(global: &Global) -> Result<Client, Failure> {
    Ok(Client::connect_with(&global.url, options(global)?).await?)
}

/// How clients behave, by the global flags.
fn options(global: &Global) -> Result<Options, Failure> {
    let defaults = Options::default();
    let timeout = global.timeout.map_or(defaults.timeout, |timeout| timeout.0);
    Ok(Options {
        timeout,
        connect_timeout: defaults.connect_timeout.min(timeout),
        tls: global.tls()?,
        api_key: global.credential()?,
        name: concat!("celeriant ", env!("CARGO_PKG_VERSION")).to_owned(),
        ..defaults
    })
}
