//! The program: parse, log to stderr, call the library, print what went wrong, choose the exit code.

mod cli;

use std::process::ExitCode;

fn main() -> ExitCode {
    cli::run()
}
