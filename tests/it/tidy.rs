//! The rules of the code base that a machine can check, each one a function from files to problems.
//!
//! ```text
//! tree      collects the workspace's files      rules     what may stand in a source file
//! layers    who may depend on whom              tidy_test proves that every rule can fail
//! ```
//! A rule that cannot fail is worth nothing: whoever adds one adds its counterexample to
//! `tidy_test.rs`.
//! What rustfmt and clippy check is absent here.

mod layers;
mod rules;
pub(crate) mod tree;

#[cfg(test)]
mod tidy_test;

use tree::Tree;

/// Fails with every problem at once, one a line, so that one run is enough to fix them all.
fn must_be_empty(rule: &str, problems: Vec<String>) {
    assert!(problems.is_empty(), "{rule}: {} problem(s)\n{}", problems.len(), problems.join("\n"));
}

fn check_sources(rule: &str, check: fn(&tree::Source) -> Vec<String>) {
    let tree = Tree::of_workspace();
    must_be_empty(rule, tree.sources.iter().flat_map(check).collect());
}

#[test]
fn crates_depend_only_downwards() {
    let tree = Tree::of_workspace();
    let fuzzer = 1;
    let manifests = layers::LAYERS.len() + 1 + fuzzer;
    assert_eq!(tree.manifests.len(), manifests, "the root and one per crate");
    must_be_empty("dependency direction", layers::check(&tree.manifests));
}

#[test]
fn the_top_level_holds_exactly_the_fixed_folders() {
    must_be_empty("top level", tree::check_top_level(&Tree::of_workspace().top_level));
}

#[test]
fn files_are_short() {
    check_sources("file length", rules::file_length);
}

#[test]
fn functions_are_short() {
    check_sources("function length", rules::function_length);
}

#[test]
fn lines_are_narrow() {
    check_sources("columns", rules::columns);
}

#[test]
fn every_file_says_what_it_is_for() {
    check_sources("header", rules::header);
}

#[test]
fn modules_are_named_after_their_file() {
    check_sources("mod.rs", rules::no_mod_rs);
}

#[test]
fn nothing_is_left_for_later() {
    check_sources("left for later", rules::nothing_left_for_later);
}

#[test]
fn nothing_waits_for_time_to_pass() {
    check_sources("sleep", rules::no_thread_sleep);
}

#[test]
fn unsafe_code_stays_where_it_is_argued() {
    check_sources("unsafe", rules::unsafe_is_confined);
}

#[test]
fn no_code_knows_that_it_is_simulated() {
    check_sources("cfg(simulation)", rules::no_simulation_cfg);
}

#[test]
fn every_select_on_the_data_path_has_an_order() {
    check_sources("select!", rules::select_is_biased);
}

#[test]
fn behaviour_does_not_name_a_concrete_disk() {
    check_sources("seams", rules::seams_are_not_bypassed);
}
