//! Who may depend on whom: the table of the architecture, checked against the manifests.

use toml::Table;

/// One crate: its folder, what of ours it may use, and what it must not know of others.
pub(crate) struct Layer {
    /// Folder of its manifest.
    pub(crate) folder: &'static str,
    /// Our crates that it may depend on.
    pub(crate) may_use: &'static [&'static str],
    /// Our crates that only its tests may use besides.
    pub(crate) tests_may_use: &'static [&'static str],
    /// Crates of others that would drag in what it must not know.
    pub(crate) must_not_know: &'static [&'static str],
}

const OURS: &[&str] = &[
    "celeriant-schema",
    "celeriant-storage",
    "celeriant-net",
    "celeriant-client",
    "celeriant-actors",
];

/// From the bottom to the top.
pub(crate) const LAYERS: &[Layer] = &[
    Layer {
        folder: "schema",
        may_use: &[],
        // Itself, with all of its features.
        tests_may_use: &["celeriant-schema"],
        must_not_know: &["tokio", "kameo", "io-uring", "rustix", "libc", "socket2", "quinn"],
    },
    Layer {
        folder: "storage",
        may_use: &["celeriant-schema"],
        tests_may_use: &[],
        must_not_know: &["kameo", "socket2", "quinn", "rustls"],
    },
    Layer {
        folder: "net",
        may_use: &["celeriant-schema"],
        tests_may_use: &["celeriant-client"],
        must_not_know: &["kameo", "io-uring", "aws-sdk-s3"],
    },
    Layer {
        folder: "net/client",
        may_use: &["celeriant-schema"],
        tests_may_use: &["celeriant-net"],
        must_not_know: &["kameo", "io-uring", "rustix", "libc", "aws-sdk-s3", "hashbrown"],
    },
    Layer {
        folder: "actors",
        may_use: &["celeriant-schema", "celeriant-storage", "celeriant-net", "celeriant-client"],
        tests_may_use: &[],
        must_not_know: &["io-uring", "quinn", "aws-sdk-s3"],
    },
    Layer { folder: "simulation", may_use: OURS, tests_may_use: &[], must_not_know: &["io-uring"] },
    Layer { folder: "tests", may_use: &[], tests_may_use: &[], must_not_know: &[] },
];

/// Problems of all manifests, given as path and text. `tests` sees everything.
pub(crate) fn check(manifests: &[(String, String)]) -> Vec<String> {
    let mut problems = Vec::new();
    for (path, text) in manifests {
        let Ok(manifest) = text.parse::<Table>() else {
            problems.push(format!("{path}: not valid TOML"));
            continue;
        };
        let folder = path.strip_suffix("/Cargo.toml").unwrap_or("");
        if folder.is_empty() {
            if manifest.contains_key("package") {
                problems.push(format!("{path}: the root manifest is virtual"));
            }
            continue;
        }
        // The fuzzer is a part of the tests with a compiler of its own.
        let folder = if folder == "tests/fuzz" { "tests" } else { folder };
        match LAYERS.iter().find(|layer| layer.folder == folder) {
            Some(layer) if layer.folder != "tests" => problems.extend(violations(layer, &manifest)),
            Some(_) => {}
            None => problems.push(format!("{path}: a crate that the table does not know")),
        }
    }
    problems
}

fn violations(layer: &Layer, manifest: &Table) -> Vec<String> {
    let mut problems = Vec::new();
    for (section, names) in dependency_sections(manifest) {
        for name in names {
            let ours = name.starts_with("celeriant-") || name == "simulation";
            let for_tests = section.ends_with("dev-dependencies");
            let allowed = layer.may_use.contains(&name.as_str())
                || (for_tests && layer.tests_may_use.contains(&name.as_str()));
            if ours && !allowed {
                problems.push(format!("{}: [{section}] must not use {name}", layer.folder));
            }
            if layer.must_not_know.contains(&name.as_str()) {
                problems.push(format!("{}: [{section}] must not know {name}", layer.folder));
            }
        }
    }
    problems
}

/// Dependency tables at the top and under `target.*`, with the names of the packages in them.
fn dependency_sections(manifest: &Table) -> Vec<(String, Vec<String>)> {
    let mut sections = Vec::new();
    collect(manifest, "", &mut sections);
    let targets = manifest.get("target").and_then(|value| value.as_table());
    for (target, value) in targets.into_iter().flatten() {
        if let Some(table) = value.as_table() {
            collect(table, &format!("target.{target}."), &mut sections);
        }
    }
    sections
}

fn collect(table: &Table, prefix: &str, sections: &mut Vec<(String, Vec<String>)>) {
    for section in ["dependencies", "dev-dependencies", "build-dependencies"] {
        let Some(dependencies) = table.get(section).and_then(|value| value.as_table()) else {
            continue;
        };
        // A renamed dependency still is the package that it names.
        let package = |name: &String, value: &toml::Value| {
            let renamed = value.get("package").and_then(|package| package.as_str());
            renamed.map_or_else(|| name.clone(), str::to_owned)
        };
        let names = dependencies.iter().map(|(name, value)| package(name, value));
        sections.push((format!("{prefix}{section}"), names.collect()));
    }
}
