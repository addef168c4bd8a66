//! UmaDB: its server from the crate registry, driven by the client in `umadb/`.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use serde_json::Value;

use crate::Failure;
use crate::plan::{Plan, Point};
use crate::process::{Server, Usage, free_port, output};
use crate::summary::Sample;

/// The two programs.
pub(crate) struct Tools {
    server: PathBuf,
    client: PathBuf,
    /// Name and version.
    pub(crate) version: String,
}

impl Tools {
    /// As `run` installed them.
    pub(crate) fn find(plan: &Plan) -> Result<Self, Failure> {
        let bin = plan.tools_dir.join("bin");
        let (server, client) = (bin.join("umadb"), bin.join("umadb-load"));
        let version = output(Command::new(&server).arg("--version"))?.trim().to_owned();
        if !client.exists() {
            return Err(format!("{} is not there", client.display()).into());
        }
        Ok(Self { server, client, version })
    }

    /// One sample.
    pub(crate) fn sample(&self, plan: &Plan, point: &Point) -> Result<Sample, Failure> {
        let data = plan.work_dir.join("umadb");
        fs::create_dir_all(&data)?;
        let address = format!("127.0.0.1:{}", free_port()?);
        let mut command = Command::new(&self.server);
        command.args(["--listen", &address]).arg("--db-path").arg(&data);
        let (server, _) = Server::start(&mut command, &plan.work_dir.join("umadb.log"), false)?;
        let before = Usage::of_tree(server.pid())?;
        let mut client = Command::new(&self.client);
        client.arg(format!("http://{address}")).arg(point.connections.to_string());
        client.args([plan.warmup.to_string(), plan.duration.to_string()]);
        let result = output(&mut client);
        let after = Usage::of_tree(server.pid());
        drop(server);
        fs::remove_dir_all(&data)?;
        let result: Value = serde_json::from_str(&result?)?;
        let number = |name: &str| result[name].as_f64().unwrap_or(0.0);
        if number("operations") == 0.0 {
            let errors = number("errors");
            return Err(format!("nothing was acknowledged, {errors} errors").into());
        }
        let cpu = after?.cpu_seconds - before.cpu_seconds;
        Ok(Sample {
            per_second: number("per_second"),
            p50_ms: number("p50_ms"),
            p99_ms: number("p99_ms"),
            errors: number("errors") as u64,
            server_cpu_us: Some(cpu * 1e6 / number("total_operations")),
            ..Sample::default()
        })
    }
}
