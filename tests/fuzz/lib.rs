//! Memory limit of all fuzz targets.

pub mod entries;
pub mod limits;

/// Memory limit of an input in bytes. An input of a few kilobytes needs far less.
const MAX_MEMORY: usize = 256 << 20;

/// Runs one input. Beyond [`MAX_MEMORY`] the process aborts, which libFuzzer reports as a crash.
pub fn run(entry: entries::Entry, bytes: &[u8]) {
    limits::allow(MAX_MEMORY);
    entry(bytes);
    limits::allow(usize::MAX);
}
