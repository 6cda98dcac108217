//! The programs that make test files and look into results: `ffmpeg`, `ffprobe`, `mkfifo`.

use std::process::Command;

/// What a program prints. A missing program, and one that fails, fails the test.
pub fn run(program: &str, args: &[&str]) -> Vec<u8> {
    let output = Command::new(program)
        .args(args)
        .output()
        .unwrap_or_else(|error| panic!("this test needs the program `{program}`: {error}"));
    assert!(output.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}
