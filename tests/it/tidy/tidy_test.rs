//! Proves that every rule of tidy can fail, and that it lets good code pass.

use super::layers;
use super::rules;
use super::tree::{Source, check_top_level, is_ignored};

fn source(path: &str, text: impl Into<String>) -> Source {
    Source { path: path.into(), text: text.into() }
}

fn problems(check: fn(&Source) -> Vec<String>, path: &str, text: impl Into<String>) -> usize {
    check(&source(path, text)).len()
}

fn manifest(folder: &str, body: &str) -> Vec<String> {
    layers::check(&[(format!("{folder}/Cargo.toml"), body.into())])
}

#[test]
fn a_dependency_against_the_direction_is_found() {
    let up = "[dependencies]\nceleriant-net.workspace = true";
    assert_eq!(manifest("storage", up).len(), 1);
    assert_eq!(manifest("actors", up).len(), 0);
    let hidden = "[target.'cfg(unix)'.build-dependencies]\nx = { package = \"celeriant-actors\" }";
    assert_eq!(manifest("net/client", hidden).len(), 1);
    let in_tests = "[dev-dependencies]\nceleriant-net.workspace = true";
    assert_eq!(manifest("net/client", in_tests).len(), 0);
    assert_eq!(manifest("storage", in_tests).len(), 1);
    assert_eq!(manifest("schema", "[dependencies]\ntokio = \"1\"").len(), 1);
    assert_eq!(manifest("surprise", "[package]\nname = \"x\"").len(), 1);
    assert_eq!(layers::check(&[("Cargo.toml".into(), "[package]\nname = \"x\"".into())]).len(), 1);
    assert_eq!(manifest("schema", "not toml at all").len(), 1);
}

#[test]
fn a_new_or_missing_folder_at_the_top_is_found() {
    let fixed =
        "schema storage net actors simulation tests Cargo.toml Cargo.lock LICENSE README.md";
    let mut names: Vec<String> = fixed.split(' ').map(str::to_owned).collect();
    names.push(".ci".into());
    assert_eq!(check_top_level(&names), Vec::<String>::new());
    names.push("utils".into());
    assert_eq!(check_top_level(&names).len(), 1);
    names.retain(|name| name != "utils" && name != "net");
    assert_eq!(check_top_level(&names), ["net: missing"]);
    assert!(is_ignored("/target\n/scenarios/failed\n", "scenarios"));
    assert!(!is_ignored("/target\n/tests/bench/out\n", "tests"));
}

#[test]
fn a_long_file_is_found_but_its_tests_do_not_count() {
    let long = "x\n".repeat(601);
    assert_eq!(problems(rules::file_length, "net/src/a.rs", long.clone()), 1);
    assert_eq!(problems(rules::file_length, "net/src/a_test.rs", long.clone()), 0);
    let tested = format!("{}#[cfg(test)]\nmod tests {{\n{long}}}\n", "x\n".repeat(600));
    assert_eq!(problems(rules::file_length, "net/src/a.rs", tested), 0);
}

#[test]
fn a_long_function_is_found_wherever_it_stands() {
    let body = |lines| format!("{{\n{}", "        call();\n".repeat(lines));
    let free = format!("pub(crate) async fn long<T>(a: T) {}}}\n", body(69));
    assert_eq!(problems(rules::function_length, "net/src/a.rs", free), 1);
    let fitting = format!("fn fits() {}}}\n", body(68));
    assert_eq!(problems(rules::function_length, "net/src/a.rs", fitting), 0);
    let method = format!("impl A {{\n    pub const fn long(&self) {}    }}\n}}\n", body(69));
    assert_eq!(problems(rules::function_length, "net/src/a.rs", method), 1);
    let wide = format!("impl A {{\n    fn long(\n        a: u8,\n    ) {}    }}\n}}\n", body(67));
    assert_eq!(problems(rules::function_length, "net/src/a.rs", wide), 1);
    let declared = format!("trait A {{\n    fn a(&self);\n}}\n{}", "//\n".repeat(90));
    assert_eq!(problems(rules::function_length, "net/src/a.rs", declared), 0);
}

#[test]
fn a_wide_line_is_found_by_characters_not_bytes() {
    assert_eq!(problems(rules::columns, "a.rs", format!("// {}", "x".repeat(98))), 1);
    assert_eq!(problems(rules::columns, "a.rs", format!("// {}", "µ".repeat(97))), 0);
}

#[test]
fn a_file_without_a_header_is_found() {
    assert_eq!(problems(rules::header, "a.rs", "use std::fs;\n"), 1);
    assert_eq!(problems(rules::header, "a.rs", "//! \nuse std::fs;\n"), 1);
    assert_eq!(problems(rules::header, "a.rs", "//! Copies files from here to there.\n"), 0);
}

#[test]
fn a_mod_rs_is_found() {
    assert_eq!(problems(rules::no_mod_rs, "net/src/connection/mod.rs", ""), 1);
    assert_eq!(problems(rules::no_mod_rs, "net/src/connection.rs", ""), 0);
}

#[test]
fn whatever_is_left_for_later_is_found() {
    let left = [
        concat!("// TO", "DO later"),
        concat!("// FIX", "ME"),
        concat!("todo", "!()"),
        concat!("unimplemented", "!()"),
        concat!("#[ign", "ore]"),
        concat!("#[ign", "ore = \"slow\"]"),
    ];
    for line in left {
        assert_eq!(problems(rules::nothing_left_for_later, "a.rs", line), 1, "{line}");
    }
    assert_eq!(problems(rules::nothing_left_for_later, "a.rs", "let todos = 1;"), 0);
}

#[test]
fn a_sleeping_thread_is_found_outside_the_one_polling_place() {
    let line = concat!("std::thread::", "sleep(a);");
    assert_eq!(problems(rules::no_thread_sleep, "tests/it/kill.rs", line), 1);
    assert_eq!(problems(rules::no_thread_sleep, "tests/it/support/wait.rs", line), 0);
}

#[test]
fn unsafe_code_is_found_outside_its_files() {
    let lines = [
        concat!("let a = uns", "afe { b() };"),
        concat!("uns", "afe impl Send for A {}"),
        concat!("pub uns", "afe fn a() {}"),
        concat!("#[allow(uns", "afe_code)]"),
    ];
    for line in lines {
        assert_eq!(problems(rules::unsafe_is_confined, "net/src/a.rs", line), 1, "{line}");
        assert_eq!(problems(rules::unsafe_is_confined, "storage/src/buffer.rs", line), 0);
    }
    let comment = concat!("// uns", "afe { } would be wrong here");
    assert_eq!(problems(rules::unsafe_is_confined, "net/src/a.rs", comment), 0);
}

#[test]
fn a_branch_for_simulation_is_found_outside_simulation() {
    let line = concat!("#[c", "fg(simulation)]");
    assert_eq!(problems(rules::no_simulation_cfg, "storage/src/log.rs", line), 1);
    assert_eq!(problems(rules::no_simulation_cfg, "simulation/src/world.rs", line), 0);
    let of_tests = "#[cfg(test)]";
    assert_eq!(problems(rules::no_simulation_cfg, "storage/src/log.rs", of_tests), 0);
}

#[test]
fn a_select_without_an_order_is_found() {
    let unbiased = "    tokio::select! {\n        a = b => {}\n    }\n";
    let biased = "    tokio::select! {\n        biased;\n        a = b => {}\n    }\n";
    assert_eq!(problems(rules::select_is_biased, "actors/src/shard.rs", unbiased), 1);
    assert_eq!(problems(rules::select_is_biased, "actors/src/shard.rs", biased), 0);
    assert_eq!(problems(rules::select_is_biased, "net/client/src/a.rs", unbiased), 0);
}

#[test]
fn a_concrete_disk_in_behaviour_is_found() {
    let line = "use celeriant_storage::disk::uring::UringDisk;";
    assert_eq!(problems(rules::seams_are_not_bypassed, "actors/src/shard/core.rs", line), 1);
    assert_eq!(problems(rules::seams_are_not_bypassed, "actors/src/cli/server.rs", line), 0);
}
