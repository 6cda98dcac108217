//! Every input that fuzzing kept, through the parser that it is for: none panics, none takes long, none takes
//! memory out of proportion. The bugs that fuzzing found have tests of their own beside the code.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

#[path = "fuzz/entries.rs"]
mod entries;
#[path = "fuzz/limits.rs"]
mod limits;

/// For inputs of a few kilobytes, in a slow machine's worst moment.
const TIME: Duration = Duration::from_secs(5);
const MEMORY: usize = 64 << 20;
/// Where the process ends instead of taking the machine with it.
const LIMIT: usize = 1 << 30;

fn corpus(target: &str) -> Vec<PathBuf> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus").join(target);
    let entries = fs::read_dir(&directory).unwrap_or_else(|e| panic!("{}: {e}", directory.display()));
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

/// One test, so that nothing else allocates meanwhile.
#[test]
fn the_corpus_is_parsed_in_little_time_and_memory() {
    for (target, entry) in entries::ENTRIES {
        let files = corpus(target);
        assert!(!files.is_empty(), "{target} has no corpus");
        for file in &files {
            let bytes = fs::read(file).unwrap();
            let begin = Instant::now();
            limits::allow(LIMIT);
            let outcome = std::panic::catch_unwind(|| entry(&bytes));
            let peak = limits::peak();
            limits::allow(usize::MAX);
            assert!(outcome.is_ok(), "{} panics", file.display());
            assert!(peak < MEMORY, "{} takes {peak} bytes", file.display());
            assert!(begin.elapsed() < TIME, "{} takes {:?}", file.display(), begin.elapsed());
        }
        eprintln!("{target}: {} inputs", files.len());
    }
}
