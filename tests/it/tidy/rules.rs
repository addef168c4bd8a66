//! What may stand in a source file. Works on the text as rustfmt leaves it.

use super::tree::Source;

const FILE_LINES_MAX: usize = 600;
const FUNCTION_LINES_MAX: usize = 70;
const COLUMNS_MAX: usize = 100;

/// Files that hold `unsafe`, each argued in its header: memory for Direct I/O, and the ring.
const UNSAFE_FILES: &[&str] = &["storage/src/buffer.rs", "storage/src/disk/uring.rs"];

/// Where tests wait for a condition by asking again and again: the only place that may sleep.
const POLLING_FILE: &str = "tests/it/support/wait.rs";

/// At most 600 lines before the tests; files that hold nothing but tests may be longer.
pub(crate) fn file_length(source: &Source) -> Vec<String> {
    let lines = code_lines(&source.text).count();
    if is_test_file(&source.path) || lines <= FILE_LINES_MAX {
        return Vec::new();
    }
    vec![format!("{}: {lines} lines before tests, at most {FILE_LINES_MAX}", source.path)]
}

/// At most 70 lines from `fn` to its closing brace.
pub(crate) fn function_length(source: &Source) -> Vec<String> {
    let lines: Vec<&str> = source.text.lines().collect();
    let mut problems = Vec::new();
    for (start, line) in lines.iter().enumerate() {
        let Some(name) = function_name(line) else { continue };
        let indent = &line[..line.len() - line.trim_start().len()];
        // rustfmt puts the closing brace of a body (and the end of a bodiless signature) at the
        // indentation of the `fn`; anything on one line is short anyway.
        let end = lines[start..].iter().position(|line| {
            line.strip_prefix(indent).is_some_and(|rest| rest == "}" || rest.ends_with(';'))
                && !line[indent.len()..].starts_with(' ')
                || (line.ends_with(';') && *line == lines[start])
        });
        let length = end.map_or(1, |end| end + 1);
        let one_line = line.ends_with('}');
        if length > FUNCTION_LINES_MAX && !one_line {
            problems.push(format!(
                "{}:{}: fn {name} has {length} lines, at most {FUNCTION_LINES_MAX}",
                source.path,
                start + 1,
            ));
        }
    }
    problems
}

/// At most 100 characters a line, comments too, which rustfmt leaves alone.
pub(crate) fn columns(source: &Source) -> Vec<String> {
    let wide = |line: &str| line.chars().count() > COLUMNS_MAX;
    find_lines(source, wide, "more than 100 columns")
}

/// The first line is a `//!` sentence.
pub(crate) fn header(source: &Source) -> Vec<String> {
    let first = source.text.lines().next().unwrap_or("");
    if first.strip_prefix("//! ").is_some_and(|sentence| sentence.len() > 10) {
        return Vec::new();
    }
    vec![format!("{}: does not open with `//!` and what it is for", source.path)]
}

/// `foo.rs` and `foo/`, so that a tab in an editor has a name.
pub(crate) fn no_mod_rs(source: &Source) -> Vec<String> {
    if source.path.ends_with("/mod.rs") {
        return vec![format!("{}: name it after its module", source.path)];
    }
    Vec::new()
}

/// No reminders, no stubs, no tests that are switched off.
pub(crate) fn nothing_left_for_later(source: &Source) -> Vec<String> {
    // Put together here so that this file does not contain them.
    let words = [
        concat!("TO", "DO"),
        concat!("FIX", "ME"),
        concat!("XX", "X:"),
        concat!("todo", "!("),
        concat!("unimplemented", "!("),
        concat!("#[ign", "ore"),
    ];
    let problems = words.iter().flat_map(|word| {
        find_lines(source, |line| line.contains(word), &format!("contains {word}"))
    });
    problems.collect()
}

/// Threads wait for conditions; the polling itself is in one place.
pub(crate) fn no_thread_sleep(source: &Source) -> Vec<String> {
    if source.path == POLLING_FILE {
        return Vec::new();
    }
    let sleep = concat!("thread::", "sleep");
    find_lines(source, |line| line.contains(sleep) && !is_comment(line), "sleeps")
}

/// Unsafe code only in the two files that argue it.
pub(crate) fn unsafe_is_confined(source: &Source) -> Vec<String> {
    if UNSAFE_FILES.contains(&source.path.as_str()) {
        return Vec::new();
    }
    let keyword = concat!("uns", "afe ");
    let permission = concat!("(uns", "afe_code");
    let found = |line: &str| {
        !is_comment(line)
            && (line.contains(permission)
                || line.split(keyword).skip(1).any(|rest| {
                    ["{", "fn ", "impl", "extern", "trait"].iter().any(|k| rest.starts_with(k))
                }))
    };
    find_lines(source, found, "unsafe outside storage's buffer and ring")
}

/// Simulation swaps components; production code has no branch for it.
pub(crate) fn no_simulation_cfg(source: &Source) -> Vec<String> {
    if source.path.starts_with("simulation/") {
        return Vec::new();
    }
    let found = |line: &str| {
        ["[cfg(", "cfg!(", "[cfg_attr("].iter().any(|cfg| line.contains(cfg))
            && (line.contains("simulat") || line.contains("madsim") || line.contains("loom"))
            && !is_comment(line)
    };
    find_lines(source, found, "knows that it is simulated")
}

/// An unbiased `select!` picks a branch by a random number that no seed controls.
pub(crate) fn select_is_biased(source: &Source) -> Vec<String> {
    let on_path = ["actors/src/", "net/src/", "storage/src/", "simulation/src/"];
    if !on_path.iter().any(|prefix| source.path.starts_with(prefix))
        || source.path.starts_with("actors/src/cli/")
    {
        return Vec::new();
    }
    let lines: Vec<&str> = source.text.lines().collect();
    let unbiased = lines.iter().enumerate().filter(|(at, line)| {
        line.contains("select! {")
            && !is_comment(line)
            && lines.get(at + 1).is_none_or(|next| next.trim() != "biased;")
    });
    unbiased.map(|(at, _)| format!("{}:{}: select! without biased;", source.path, at + 1)).collect()
}

/// Concrete disks are chosen where settings and components meet: the command line.
pub(crate) fn seams_are_not_bypassed(source: &Source) -> Vec<String> {
    let inside = source.path.starts_with("actors/src/")
        && !source.path.starts_with("actors/src/cli/")
        && !source.path.starts_with("actors/src/node");
    let named = ["UringDisk", "PoolDisk", "disk::uring", "disk::pool"];
    let found = |line: &str| inside && !is_comment(line) && named.iter().any(|n| line.contains(n));
    find_lines(source, found, "names a concrete disk")
}

/// Lines before `#[cfg(test)]` + `mod tests {`.
fn code_lines(text: &str) -> impl Iterator<Item = &str> {
    let start = text.find("#[cfg(test)]\nmod tests {").unwrap_or(text.len());
    text[..start].lines()
}

fn is_test_file(path: &str) -> bool {
    path.ends_with("_test.rs") || path.starts_with("tests/it/") && !path.contains("/support")
}

fn is_comment(line: &str) -> bool {
    line.trim_start().starts_with("//")
}

fn find_lines(source: &Source, found: impl Fn(&str) -> bool, problem: &str) -> Vec<String> {
    let lines = source.text.lines().enumerate().filter(|(_, line)| found(line));
    lines.map(|(at, _)| format!("{}:{}: {problem}", source.path, at + 1)).collect()
}

/// The name, if a function's definition starts in this line.
fn function_name(line: &str) -> Option<&str> {
    let mut rest = line.trim_start();
    if rest.starts_with("pub(") {
        rest = rest.split_once(") ")?.1;
    }
    loop {
        let qualifiers = ["pub ", "const ", "async ", concat!("uns", "afe "), "extern \"C\" "];
        match qualifiers.iter().find_map(|word| rest.strip_prefix(word)) {
            Some(after) => rest = after,
            None => break,
        }
    }
    let name = rest.strip_prefix("fn ")?;
    name.find(['(', '<']).map(|end| &name[..end])
}
