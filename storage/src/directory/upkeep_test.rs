//! Which runs are merged, and how often a row is written for that.

use super::*;

fn sizes(pages: &[u32]) -> Vec<Option<u32>> {
    pages.iter().copied().map(Some).collect()
}

#[test]
fn four_neighbours_of_a_size_are_merged_and_others_are_left_alone() {
    assert_eq!(choose(&[]), None);
    assert_eq!(choose(&sizes(&[100, 100, 100])), None);
    assert_eq!(choose(&sizes(&[100, 100, 100, 100])), Some((0, 4)));
    assert_eq!(choose(&sizes(&[100, 100, 100, 1000])), None);
    assert_eq!(choose(&sizes(&[1, 1000, 1000, 1000, 1000])), Some((1, 5)));
    assert_eq!(choose(&sizes(&[1000, 1, 1000, 1000, 1000, 90_000])), Some((0, 5)));
}

#[test]
fn runs_that_are_being_merged_are_not_merged_twice() {
    let mut runs = sizes(&[100, 100, 100, 100, 100, 100]);
    runs[2] = None;
    assert_eq!(choose(&runs), None);
    runs.extend(sizes(&[100]));
    assert_eq!(choose(&runs), Some((3, 7)));
}

#[test]
fn too_many_runs_of_all_sizes_lose_the_cheapest_four() {
    let mut pages: Vec<u32> = (0..13).map(|at| 16 << (2 * at)).collect();
    assert_eq!(choose(&sizes(&pages)), Some((0, 4)));
    pages.pop();
    assert_eq!(choose(&sizes(&pages)), None);
}

#[test]
fn runs_stay_few_and_rows_are_written_a_few_times() {
    let mut runs: Vec<u32> = Vec::new();
    let (mut flushed, mut written, mut most) = (0u64, 0u64, 0);
    for _ in 0..2000 {
        runs.insert(0, 500);
        flushed += 500;
        written += 500;
        while let Some((from, to)) = choose(&sizes(&runs)) {
            let merged = runs[from..to].iter().sum();
            written += u64::from(merged);
            runs.splice(from..to, [merged]);
        }
        most = most.max(runs.len());
    }
    assert!(most <= RUNS_WANTED, "{most} runs");
    assert!(written < 7 * flushed, "{written} pages written for {flushed}");
}
