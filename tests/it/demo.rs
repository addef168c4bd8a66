//! `celeriant demo`: it must work from anywhere with nothing but the program, and leave nothing.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use serde_json::Value;

use crate::support::program::{Called, program};
use crate::support::{call, wait};

/// The demo in an empty directory, with variables around that would mislead its nodes.
fn demo(dir: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(program());
    command.args(["demo", "--format", "json"]).args(arguments);
    command.current_dir(dir).env("TMPDIR", dir).env("CELERIANT_LISTEN", "nowhere");
    command
}

/// Processes whose command line names something in `dir`.
fn running(dir: &Path) -> Vec<String> {
    let dir = dir.to_str().expect("UTF-8");
    let processes = std::fs::read_dir("/proc").expect("Linux").flatten();
    let lines = processes
        .filter_map(|process| std::fs::read_to_string(process.path().join("cmdline")).ok());
    lines.filter(|line| line.contains(dir)).collect()
}

#[test]
fn the_demo_loses_its_leader_and_nothing_else() {
    let dir = tempfile::tempdir().expect("a directory");
    let called = Called::from_output(&demo(dir.path(), &[]).output().expect("it runs"));
    let steps = called.lines();
    let names: Vec<&str> = steps.iter().filter_map(|step| step["name"].as_str()).collect();
    let all = ["start", "race", "transfers", "kill", "rejoin", "hand-over", "proof"];
    assert_eq!(names, all, "{}", called.stdout);
    assert!(steps.iter().all(|step| step["ok"] == true), "{}", called.stdout);
    let [.., kill, _, hand_over, proof] = &steps[..] else { panic!("{}", called.stdout) };
    assert_ne!(kill["killed"], kill["leader"]);
    assert_eq!((&kill["errors"], &hand_over["errors"]), (&0.into(), &0.into()));
    assert_eq!((&hand_over["exit_code"], &proof["verdict"]), (&0.into(), &"PASS".into()));
    let receipts = proof["receipts"].as_u64().expect("a number");
    assert!(receipts >= 1_000, "hardly any load: {receipts}");
    for node in proof["nodes"].as_array().expect("a list") {
        assert_eq!((&node["receipts_kept"], &node["sum"]), (&receipts.into(), &48_000.into()));
    }
    assert_eq!(running(dir.path()), [""; 0]);
    let left = std::fs::read_dir(dir.path()).expect("there").count();
    assert_eq!(left, 0, "files are left");
}

#[test]
fn nodes_of_the_demo_end_with_it_however_it_ends() {
    let dir = tempfile::tempdir().expect("a directory");
    for signal in ["-TERM", "-KILL"] {
        let files = dir.path().join(signal.trim_start_matches('-'));
        let files = files.to_str().expect("UTF-8");
        let arguments = ["--dir", files, "--keep"];
        let mut demo = demo(dir.path(), &arguments).stdout(Stdio::piped()).spawn().expect("runs");
        let first = first_line(&mut demo);
        assert_eq!(first["name"], "start");
        let kill = Command::new("kill").args([signal, &demo.id().to_string()]).status();
        assert!(kill.expect("kill runs").success());
        let ended = demo.wait().expect("it ends");
        assert_eq!(ended.code(), (signal == "-TERM").then_some(1), "told to end half-way");
        wait::until("its nodes to end", || running(Path::new(files)).is_empty().then_some(()));
        assert!(Path::new(files).join("a.log").exists(), "files that were asked for stay");
    }
    let again = call(&["demo", "--dir", dir.path().to_str().expect("UTF-8")], "");
    assert_eq!(again.error(2)["error"], "Usage", "never into a directory that holds something");
}

fn first_line(child: &mut Child) -> Value {
    let stdout = child.stdout.take().expect("piped");
    let mut lines = BufReader::new(stdout).lines();
    let line = lines.next().expect("a line").expect("UTF-8");
    // Whatever else it prints must not fail.
    std::thread::spawn(move || lines.for_each(drop));
    serde_json::from_str(&line).expect("JSON")
}
