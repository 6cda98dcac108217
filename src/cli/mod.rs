//! The command line: what was typed, turned into the library's types, and the library's answers printed.
//! stdout is for results, everything else goes to stderr.

mod sync;
mod models;
mod doctor;
mod bench;
#[cfg(feature = "demo")]
mod demo;
#[cfg(feature = "server")]
mod serve;
mod estimate;
mod progress;
mod interrupt;
mod logging;
mod failure;
mod hint;
mod text;

use std::process::ExitCode;
use std::str::FromStr;

use clap::{ArgAction, Args, Parser, Subcommand};
use latentsync::Error;
use latentsync::options::InvalidOption;

use interrupt::Interrupts;

/// Makes the mouth in a video follow a voice, on this machine.
#[derive(Debug, Parser)]
#[command(name = "latentsync", version, propagate_version = true, max_term_width = 110)]
#[command(after_help = "Exit codes: 2 usage, 3 input, 4 model, 5 device or memory, 130 interrupted.\n\
                        RUST_LOG chooses what is logged, as for every program that uses `tracing`.")]
struct Cli {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    verbosity: Verbosity,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make the mouth in a video follow a voice
    Sync(Box<sync::SyncArgs>),
    /// Make a drawn face say two sentences with the built-in model: nothing to download
    #[cfg(feature = "demo")]
    Demo(demo::DemoArgs),
    /// List, fetch, check and convert models
    Models(models::ModelsArgs),
    /// Say what this machine has: device, FFmpeg, models, and how long a job would take
    Doctor(doctor::DoctorArgs),
    /// Measure how fast the networks are on this machine, also against PyTorch
    Bench(Box<bench::BenchArgs>),
    /// Answer the hosted APIs' requests on this machine
    #[cfg(feature = "server")]
    Serve(Box<serve::ServeArgs>),
}

/// How much goes to stderr.
#[derive(Debug, Clone, Copy, Args)]
struct Verbosity {
    /// Log more; twice for everything
    #[arg(short, long, action = ArgAction::Count, global = true)]
    verbose: u8,
    /// Say nothing but errors: no progress, no log
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    quiet: bool,
}

/// Parses the arguments and does what they say.
pub fn run() -> ExitCode {
    latentsync::system::allocator::keep_freed();
    let cli = Cli::parse();
    let screen = logging::start(cli.verbosity, cli.command.log_format());
    let json = cli.command.wants_json();
    let interrupts = match Interrupts::install(&screen, json) {
        Ok(interrupts) => interrupts,
        Err(error) => return failure::report(error, &screen, json),
    };
    match cli.command.run(&screen, &interrupts) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            interrupts.before_last_words();
            failure::report(error, &screen, json)
        }
    }
}

impl Command {
    /// For whom the log is written.
    fn log_format(&self) -> logging::LogFormat {
        match self {
            #[cfg(feature = "server")]
            Command::Serve(args) => args.log_format,
            _ => logging::LogFormat::Text,
        }
    }

    /// Whether the caller reads JSON.
    fn wants_json(&self) -> bool {
        match self {
            Command::Sync(args) => args.json,
            #[cfg(feature = "demo")]
            Command::Demo(_) => false,
            Command::Models(_) => false,
            Command::Doctor(args) => args.json,
            Command::Bench(args) => args.json,
            #[cfg(feature = "server")]
            Command::Serve(_) => false,
        }
    }

    fn run(self, screen: &logging::Screen, interrupts: &Interrupts) -> anyhow::Result<()> {
        match self {
            Command::Sync(args) => sync::run(&args, screen, interrupts),
            #[cfg(feature = "demo")]
            Command::Demo(args) => demo::run(&args, screen, interrupts),
            Command::Models(args) => models::run(&args, screen, interrupts),
            Command::Doctor(args) => doctor::run(&args),
            Command::Bench(args) => bench::run(&args, interrupts),
            #[cfg(feature = "server")]
            Command::Serve(args) => serve::run(&args, interrupts),
        }
    }
}

/// A clap value parser for the library's types. clap names the option itself, so only what is expected
/// remains to be said.
fn parse<T: FromStr<Err: Into<Error>>>(text: &str) -> Result<T, String> {
    text.parse().map_err(|error: T::Err| match error.into() {
        Error::Option(InvalidOption::Value { expected, .. }) => format!("expected {expected}"),
        other => other.to_string(),
    })
}
