#![no_main]

use latentsync_fuzz::{entries, run};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| run(entries::pickle, bytes));
