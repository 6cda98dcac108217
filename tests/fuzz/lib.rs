//! Keeps an input's memory small, whichever target it is for.

pub mod entries;
pub mod limits;

/// Far beyond what any input of a few kilobytes should need.
const MEMORY: usize = 256 << 20;

/// Runs one input. Beyond [`MEMORY`] the process aborts, which libFuzzer reports as a crash.
pub fn run(entry: entries::Entry, bytes: &[u8]) {
    limits::allow(MEMORY);
    entry(bytes);
    limits::allow(usize::MAX);
}
