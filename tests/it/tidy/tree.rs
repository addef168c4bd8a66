//! Collects the workspace's files: sources, manifests, and what lies at the top.

use std::fs;
use std::path::{Path, PathBuf};

/// One Rust file.
pub(crate) struct Source {
    /// From the workspace's root, with `/`.
    pub(crate) path: String,
    /// All of it.
    pub(crate) text: String,
}

/// What the rules look at.
pub(crate) struct Tree {
    /// Every `.rs` file.
    pub(crate) sources: Vec<Source>,
    /// Path and text of every `Cargo.toml`.
    pub(crate) manifests: Vec<(String, String)>,
    /// Names at the top, without what `.gitignore` names.
    pub(crate) top_level: Vec<String>,
}

const FOLDERS: &[&str] = &["schema", "storage", "net", "actors", "simulation", "tests"];
const FILES: &[&str] = &["Cargo.toml", "Cargo.lock", "LICENSE", "README.md"];

impl Tree {
    /// Of the workspace that this test was compiled from.
    pub(crate) fn of_workspace() -> Self {
        let root = workspace_root();
        let mut tree = Self { sources: Vec::new(), manifests: Vec::new(), top_level: Vec::new() };
        let ignored = fs::read_to_string(root.join(".gitignore")).unwrap_or_default();
        for entry in fs::read_dir(&root).expect("the workspace can be listed") {
            let name = entry.expect("an entry").file_name().to_string_lossy().into_owned();
            if name != ".git" && !is_ignored(&ignored, &name) {
                tree.top_level.push(name);
            }
        }
        let manifest = fs::read_to_string(root.join("Cargo.toml")).expect("the root manifest");
        tree.manifests.push(("Cargo.toml".into(), manifest));
        for folder in FOLDERS {
            tree.walk(&root, &root.join(folder));
        }
        assert!(tree.sources.len() > 20, "found only {} sources", tree.sources.len());
        tree
    }

    fn walk(&mut self, root: &Path, folder: &Path) {
        let mut entries: Vec<PathBuf> = fs::read_dir(folder)
            .unwrap_or_else(|error| panic!("list {}: {error}", folder.display()))
            .map(|entry| entry.expect("an entry").path())
            .collect();
        entries.sort();
        for path in entries {
            let relative = path.strip_prefix(root).expect("below the root");
            let relative = relative.to_string_lossy().replace('\\', "/");
            if path.is_dir() {
                // Targets, packages of others, and what tests/bench/run builds.
                let built = ["/target", "/node_modules", "/bench/out"]
                    .iter()
                    .any(|made| relative.ends_with(made));
                if !built {
                    self.walk(root, &path);
                }
            } else if relative.ends_with(".rs") {
                let text = fs::read_to_string(&path).expect("sources are UTF-8");
                self.sources.push(Source { path: relative, text });
            } else if relative.ends_with("/Cargo.toml") {
                let text = fs::read_to_string(&path).expect("manifests are UTF-8");
                self.manifests.push((relative, text));
            }
        }
    }
}

/// Where the workspace lies.
pub(crate) fn workspace_root() -> PathBuf {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    tests.parent().expect("tests/ has a parent").to_path_buf()
}

/// Every name at the top is a fixed folder, a fixed file or a dot-file.
pub(crate) fn check_top_level(names: &[String]) -> Vec<String> {
    let known = |name: &str| {
        FOLDERS.contains(&name) || FILES.contains(&name) || (name.starts_with('.') && name != ".")
    };
    let unknown = names.iter().filter(|name| !known(name));
    let missing = FOLDERS.iter().chain(FILES).filter(|name| !names.iter().any(|n| n == *name));
    unknown
        .map(|name| format!("{name}: not one of the fixed folders and files"))
        .chain(missing.map(|name| format!("{name}: missing")))
        .collect()
}

/// Whether a line of `.gitignore` names this entry of the top level or something in it.
pub(crate) fn is_ignored(gitignore: &str, name: &str) -> bool {
    gitignore
        .lines()
        .filter_map(|line| line.trim().strip_prefix('/'))
        .any(|line| line.split('/').next() == Some(name) && !FOLDERS.contains(&name))
}
