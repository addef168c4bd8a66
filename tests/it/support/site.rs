//! A node with TLS and a certificate authority of its own.

use std::path::PathBuf;
use std::process::Command;

use celeriant_client::Url;
use serde_json::Value;

use super::node::Node;
use super::program::{call, program};

/// Where the orders of this month are noted, once there is an API key.
pub(crate) fn trail_of(url: &str) -> String {
    let keys = call(&["--url", url, "read", "$system/keys/keys", "--limit", "1"], "").line();
    format!("$system/audit/{}", &keys["server_time"].as_str().expect("a time")[..7])
}

/// A certificate authority with a node of its own, and clients.
pub(crate) struct Site {
    dir: tempfile::TempDir,
}

impl Site {
    /// Makes them. Nothing runs.
    pub(crate) fn new() -> Self {
        let site = Self { dir: tempfile::tempdir().expect("a directory") };
        site.cert("certs", &["ca"]);
        site.node_cert("certs");
        site.cert("certs", &["client", "app", "--grant", "acme:*:read,append"]);
        site
    }

    /// A file of it.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The same as text.
    pub(crate) fn text(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }

    /// What `client` of `certs` needs: authority, certificate, key.
    pub(crate) fn files(&self, client: &str) -> [String; 3] {
        let names = ["ca.crt".into(), format!("{client}.crt"), format!("{client}.key")];
        names.map(|name| self.text(&format!("certs/{name}")))
    }

    /// `celeriant cert`, into the directory `certs`.
    pub(crate) fn cert(&self, certs: &str, arguments: &[&str]) -> Value {
        let out = self.text(certs);
        call(&[&["cert"], arguments, &["--out", &out]].concat(), "").line()
    }

    /// A certificate for the node, in `certs`.
    pub(crate) fn node_cert(&self, certs: &str) {
        self.cert(certs, &["node", "n", "--data-dir", &self.text("data"), "--shards", "1"]);
    }

    /// A server on loopback with the files of `certs`, and further flags.
    pub(crate) fn command(&self, flags: &[&str]) -> Command {
        let mut command = Command::new(program());
        command.args(["server", "--listen", "127.0.0.1:0", "--data-dir"]).arg(self.path("data"));
        for (flag, name) in [("ca", "ca.crt"), ("cert", "n.crt"), ("key", "n.key")] {
            command.arg(format!("--tls-{flag}")).arg(self.path("certs").join(name));
        }
        command.args(flags);
        command
    }

    /// How `client` of `certs` reaches a node.
    pub(crate) fn url(&self, node: &Node, certs: &str, client: Option<&str>) -> String {
        let file = |name: String| Url::escape(&self.path(certs).join(name));
        let url = format!("celeriant://{}?ca={}", node.address(), file("ca.crt".into()));
        match client {
            None => url,
            Some(name) => {
                let (cert, key) = (file(format!("{name}.crt")), file(format!("{name}.key")));
                format!("{url}&cert={cert}&key={key}")
            }
        }
    }
}
