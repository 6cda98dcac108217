//! The fuzzing corpus: no input makes its parser panic, run long, or use much memory. The bugs that fuzzing found
//! have tests beside the code.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

#[path = "fuzz/entries.rs"]
mod entries;
#[path = "fuzz/limits.rs"]
mod limits;

/// Time limit of an input of a few kilobytes, for a slow and busy machine.
const MAX_TIME: Duration = Duration::from_secs(5);
/// Memory limit of an input, in bytes.
const MAX_MEMORY: usize = 64 << 20;
/// Memory at which the allocator fails, which ends the process.
const ABORT_MEMORY: usize = 1 << 30;

fn corpus(target: &str) -> Vec<PathBuf> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus").join(target);
    let entries = fs::read_dir(&directory).unwrap_or_else(|e| panic!("{}: {e}", directory.display()));
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

/// A single test, so that no other test allocates at the same time.
#[test]
fn the_corpus_is_parsed_within_the_limits() {
    for (target, entry) in entries::ENTRIES {
        let files = corpus(target);
        assert!(!files.is_empty(), "{target} has no corpus");
        for file in &files {
            let bytes = fs::read(file).unwrap();
            let begin = Instant::now();
            limits::allow(ABORT_MEMORY);
            let outcome = std::panic::catch_unwind(|| entry(&bytes));
            let peak = limits::peak();
            limits::allow(usize::MAX);
            assert!(outcome.is_ok(), "{} panics", file.display());
            assert!(peak < MAX_MEMORY, "{} uses {peak} bytes", file.display());
            assert!(begin.elapsed() < MAX_TIME, "{} takes {:?}", file.display(), begin.elapsed());
        }
        eprintln!("{target}: {} inputs", files.len());
    }
}
