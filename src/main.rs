//! The program: parse, log to stderr, call the library, print what went wrong, choose the exit code.

mod cli;

use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: kernels::allocator::Allocator = kernels::allocator::Allocator;

fn main() -> ExitCode {
    cli::run()
}
