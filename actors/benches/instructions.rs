//! The regression guard that no machine disturbs: instructions per operation of codecs, log and
//! core, counted by callgrind, against the committed `instructions.baseline`.
//!
//! ```text
//! cargo bench -p celeriant-actors --bench instructions              compare; exit 1 if worse
//! cargo bench -p celeriant-actors --bench instructions -- --accept  make it the baseline
//! ```
//! The same binary gives the same counts, whatever else the machine does. Another compiler or C
//! library may not, nor a processor without AVX2, for which BLAKE3 takes another way.
//!
//! Each work runs in a process of its own under `valgrind --tool=callgrind`, which counts only
//! inside [`counted`]: [`WARM`] runs before it don't count. More than [`TOLERANCE`] above the
//! baseline fails; as much below asks for a new baseline, so that a gain isn't lost again unseen.
//!
//! Deliberately absent: time, caches and branches of a simulated processor, whatever the kernel
//! does.

#[path = "../../schema/benches/codec/work.rs"]
mod codec;
#[path = "core/work.rs"]
mod core;
#[path = "../../storage/benches/frames/work.rs"]
mod frames;
#[path = "../../schema/benches/shared/measured.rs"]
mod measured;
#[path = "../../storage/benches/frames/nowhere.rs"]
mod nowhere;

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, ExitCode};

/// Change that is not worth a word, as a part of the baseline.
const TOLERANCE: f64 = 0.05;
/// Runs that fill caches and buffers.
const WARM: usize = 128;
/// Runs that are counted.
const COUNTED: usize = 128;
/// Which work to run; set in the process that is counted.
const ONLY: &str = "CELERIANT_COUNTED_WORK";

type Failure = Box<dyn std::error::Error>;

/// One thing to count: its name, operations in a run, the run.
type Work = (String, u64, Box<dyn FnMut()>);

fn main() -> ExitCode {
    let outcome = match std::env::var(ONLY) {
        Ok(name) => run_one(&name).map(|()| true),
        Err(_) => count_all(std::env::args().any(|argument| argument == "--accept")),
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(failure) => {
            eprintln!("instructions: {failure}");
            ExitCode::FAILURE
        }
    }
}

fn works() -> Vec<Work> {
    let named = |group: &str, name: &str| format!("{group}: {name}");
    let codec = codec::all().into_iter().map(|w| (named("codec", w.name), w.units, w.run));
    let frames = frames::all().into_iter().map(|w| (named("frames", w.name), w.units, w.run));
    let core = core::all().into_iter().map(|w| (named("core", w.name), w.units, w.run));
    codec.chain(frames).chain(core).collect()
}

fn run_one(name: &str) -> Result<(), Failure> {
    let mut works = works().into_iter();
    let (_, _, mut run) = works.find(|(known, ..)| known == name).ok_or("no such work")?;
    (0..WARM).for_each(|_| run());
    counted(&mut run);
    Ok(())
}

/// Callgrind finds it by its name.
#[inline(never)]
fn counted(run: &mut dyn FnMut()) {
    for _ in 0..COUNTED {
        run();
    }
    // Something after the loop, or the call may become a jump that never returns here.
    std::hint::black_box(());
}

/// Counts every work and compares; `false`: something got worse, or the baseline lists others.
fn count_all(accept: bool) -> Result<bool, Failure> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/instructions.baseline");
    let text = if path.exists() { std::fs::read_to_string(&path)? } else { String::new() };
    let mut baseline = parse(&text)?;
    let mut counts = Vec::new();
    let (mut worse, mut better) = (0, 0);
    println!("{:<40} {:>10} {:>10}   change", "instructions per operation", "counted", "baseline");
    for (name, units, _) in works() {
        let count = count(&name)? as f64 / (COUNTED as u64 * units) as f64;
        let (known, verdict) = match baseline.remove(&name) {
            None => {
                worse += 1;
                ("-".to_owned(), "not in the baseline".to_owned())
            }
            Some(known) => {
                let change = count / known - 1.0;
                worse += usize::from(change > TOLERANCE);
                better += usize::from(change < -TOLERANCE);
                let mark = if change > TOLERANCE { "  WORSE" } else { "" };
                // Added to zero, a negative zero becomes a positive one.
                let percent = (change * 1e3).round() / 10.0 + 0.0;
                (format!("{known:.1}"), format!("{percent:+.1} %{mark}"))
            }
        };
        println!("{name:<40} {count:>10.1} {known:>10}   {verdict}");
        counts.push((name, count));
    }
    if accept {
        std::fs::write(&path, print(&counts))?;
        println!("taken as the new baseline: {}", path.display());
        return Ok(true);
    }
    for name in baseline.keys() {
        println!("{name}: in the baseline, but not counted any more");
    }
    let ok = worse == 0 && baseline.is_empty();
    if !ok || better > 0 {
        let why = if ok { "better than the baseline; keep the gain" } else { "if it is meant" };
        println!("{why}: cargo bench -p celeriant-actors --bench instructions -- --accept");
    }
    Ok(ok)
}

/// Instructions of the counted runs of one work.
fn count(name: &str) -> Result<u64, Failure> {
    let output = Command::new("valgrind")
        .args([
            "--tool=callgrind",
            "--collect-atstart=no",
            "--toggle-collect=instructions::counted",
        ])
        .args(["--callgrind-out-file=/dev/null", "--error-exitcode=97"])
        .arg(std::env::current_exe()?)
        .env(ONLY, name)
        .output()
        .map_err(|error| format!("valgrind (Debian: valgrind): {error}"))?;
    let text = String::from_utf8_lossy(&output.stderr);
    let collected = text.lines().find_map(|line| line.split_once("Collected :"));
    match collected.map(|(_, number)| number.trim().parse::<u64>()) {
        Some(Ok(number)) if output.status.success() && number > 0 => Ok(number),
        _ => Err(format!("{name}: callgrind said\n{text}").into()),
    }
}

/// The committed file: comments, and lines of a number and a name.
fn parse(text: &str) -> Result<BTreeMap<String, f64>, Failure> {
    let lines = text.lines().filter(|line| !line.starts_with('#') && !line.trim().is_empty());
    let entry = |line: &str| {
        let (number, name) = line.trim().split_once("  ").ok_or("a line without a name")?;
        Ok((name.trim().to_owned(), number.parse::<f64>()?))
    };
    lines.map(entry).collect()
}

fn print(counts: &[(String, f64)]) -> String {
    let mut text =
        String::from("# Instructions per operation, counted by callgrind (instructions.rs).\n");
    for (name, count) in counts {
        text.push_str(&format!("{count:>10.1}  {name}\n"));
    }
    text
}
