//! The corpus of the fuzzer (`tests/fuzz`): nothing that was ever found breaks anything again.

use std::fs;

use crate::tidy::tree::workspace_root;

mod targets;

#[test]
fn nothing_in_the_corpus_breaks_what_reads_it() {
    let corpus = workspace_root().join("tests/fuzz/corpus");
    for (name, target) in targets::TARGETS {
        let folder = corpus.join(name);
        let entries = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{name}: {error}"));
        let mut inputs = 0;
        for entry in entries {
            let path = entry.expect("a file").path();
            let data = fs::read(&path).expect("it can be read");
            // The name of what breaks it is in the output.
            println!("{}", path.display());
            target(&data);
            inputs += 1;
        }
        assert!(inputs > 0, "{name} has no corpus");
    }
    let folders = fs::read_dir(&corpus).expect("the corpus").count();
    assert_eq!(folders, targets::TARGETS.len(), "a corpus without a target");
}
